"""QEMU's control protocol QMP over a unix socket: one connection per machine, commands answered in order.

Knows the protocol (docs/interop/qmp-spec of QEMU) and nothing of machines. Called by `machines` and `sealing`.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

LINE_BYTES_MAX = 1024 * 1024
COMMAND_SECONDS = 5.0


class QmpError(Exception):
    """QEMU refused a command, or its socket is gone."""


class Qmp:
    """One open connection. `closed` is set when QEMU hangs up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=16)
        self._events: list[tuple[str, asyncio.Future[dict[str, Any]]]] = []
        self.closed = asyncio.Event()
        self._pump = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: Path, seconds: float = COMMAND_SECONDS) -> "Qmp":
        """Raises QmpError when nothing answers in time."""
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(str(path), limit=LINE_BYTES_MAX)
                await reader.readline()  # the greeting
                qmp = cls(reader, writer)
                await qmp.execute("qmp_capabilities", seconds=seconds)
                return qmp
        except (OSError, TimeoutError, ValueError) as problem:
            raise QmpError(f"no QMP connection: {type(problem).__name__}") from problem

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "event" in message:
                    for name, waiting in list(self._events):
                        if name == message["event"] and not waiting.done():
                            waiting.set_result(message)
                else:
                    await self._answers.put(message)
        except (OSError, ValueError):
            pass
        finally:
            self.closed.set()
            for _name, waiting in self._events:
                if not waiting.done():
                    waiting.set_exception(QmpError("QEMU ended"))
            with contextlib.suppress(asyncio.QueueFull):
                self._answers.put_nowait({"error": {"desc": "QEMU ended"}})

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, seconds: float = COMMAND_SECONDS
    ) -> Any:
        """The command's return value. Raises QmpError."""
        async with self._lock:
            if self.closed.is_set():
                raise QmpError("QEMU ended")
            request: dict[str, Any] = {"execute": command}
            if arguments:
                request["arguments"] = arguments
            try:
                self._writer.write(json.dumps(request).encode() + b"\n")
                await self._writer.drain()
                answer = await asyncio.wait_for(self._answers.get(), seconds)
            except (OSError, TimeoutError) as problem:
                self.close()  # the next answer would belong to this command: never use this connection again
                raise QmpError(f"got timeout in {command}") from problem
            if "error" in answer:
                raise QmpError(answer["error"].get("desc", "unknown error"))
            return answer.get("return")

    async def event(self, name: str, seconds: float) -> dict[str, Any]:
        """Waits for the next event of this name. Raises QmpError, TimeoutError."""
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        entry = (name, waiting)
        self._events.append(entry)
        try:
            return await asyncio.wait_for(waiting, seconds)
        finally:
            self._events.remove(entry)

    def close(self) -> None:
        self.closed.set()
        self._pump.cancel()
        with contextlib.suppress(Exception):
            self._writer.close()
