"""The QEMU guest agent's protocol (qga/qapi-schema.json of QEMU) over the machine's virtio-serial socket.

Every call opens the channel, synchronises with guest-sync-delimited (after a resume or a crash old bytes may lie in
it), sends one command and closes. What the guest answers is untrusted and bounded. Called by `api`, `machines`,
`sealing`.
"""

import asyncio
import base64
import contextlib
import json
import secrets
from pathlib import Path
from typing import Any

from myphr.localpve.replies import ApiError, failure

ANSWER_BYTES_MAX = 24 * 1024 * 1024  # a 16 MiB file-read in base64
SYNC_SECONDS = 3.0
COMMAND_SECONDS = 10.0
FILE_READ_BYTES_MAX = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class AgentAway(Exception):
    """No agent answers on the channel."""


class AgentRefused(Exception):
    """The agent answered an error; its text."""


class GuestAgent:
    """One machine's agent channel. Calls wait for each other: the channel carries one conversation at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()

    async def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        seconds: float = COMMAND_SECONDS,
        *,
        answers: bool = True,
    ) -> Any:
        """The command's return value. Raises AgentAway, AgentRefused."""
        async with self._lock, self._open() as (reader, writer):
            return await self._ask(reader, writer, command, arguments, seconds, answers)

    @contextlib.asynccontextmanager
    async def _open(self):  # type: ignore[no-untyped-def]
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path), limit=ANSWER_BYTES_MAX)
        except OSError as problem:
            raise AgentAway from problem
        try:
            await self._synchronise(reader, writer)
            yield reader, writer
        finally:
            with contextlib.suppress(Exception):
                writer.close()
                await writer.wait_closed()

    async def _synchronise(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = secrets.randbelow(1 << 31)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                # The 0xFF makes the agent's parser forget half a message that may still be in the channel.
                writer.write(b"\xff" + json.dumps(request).encode() + b"\n")
                await writer.drain()
                while True:
                    await reader.readuntil(b"\xff")
                    line = await reader.readuntil(b"\n")
                    with contextlib.suppress(ValueError):
                        if json.loads(line).get("return") == number:
                            return
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as problem:
            raise AgentAway from problem

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str,
        arguments: dict[str, Any] | None, seconds: float, answers: bool,
    ) -> Any:  # fmt: skip
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        try:
            async with asyncio.timeout(seconds):
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                if not answers:
                    return None
                line = await reader.readuntil(b"\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as problem:
            raise AgentAway from problem
        try:
            answer = json.loads(line.lstrip(b"\xff"))
        except ValueError as problem:
            raise AgentAway from problem
        if not isinstance(answer, dict) or "error" in answer:
            error = answer.get("error", {}) if isinstance(answer, dict) else {}
            raise AgentRefused(str(error.get("desc", "unknown error")))
        return answer.get("return")

    async def write_file(self, path: str, content: bytes) -> None:
        async with self._lock, self._open() as (reader, writer):
            arguments: dict[str, Any] = {"path": path, "mode": "wb"}
            handle = await self._ask(reader, writer, "guest-file-open", arguments, COMMAND_SECONDS, True)
            try:
                sent = {"handle": handle, "buf-b64": base64.b64encode(content).decode()}
                await self._ask(reader, writer, "guest-file-write", sent, COMMAND_SECONDS, True)
            finally:
                await self._ask(reader, writer, "guest-file-close", {"handle": handle}, COMMAND_SECONDS, True)

    async def read_file(self, path: str, bytes_max: int = FILE_READ_BYTES_MAX) -> tuple[bytes, bool]:
        """Content, and whether it was cut at the limit."""
        async with self._lock, self._open() as (reader, writer):
            handle = await self._ask(
                reader, writer, "guest-file-open", {"path": path, "mode": "r"}, COMMAND_SECONDS, True
            )
            content = bytearray()
            ended = False
            try:
                while not ended and len(content) < bytes_max:
                    count = min(_CHUNK_BYTES, bytes_max - len(content))
                    asked = {"handle": handle, "count": count}
                    part = await self._ask(reader, writer, "guest-file-read", asked, COMMAND_SECONDS, True)
                    content += base64.b64decode(part.get("buf-b64", ""))
                    ended = bool(part.get("eof")) or not part.get("count")
            finally:
                await self._ask(reader, writer, "guest-file-close", {"handle": handle}, COMMAND_SECONDS, True)
            return bytes(content[:bytes_max]), not ended


@contextlib.asynccontextmanager
async def agent_errors():  # type: ignore[no-untyped-def]
    """Turns agent trouble into the texts of a real node."""
    try:
        yield
    except AgentAway:
        raise failure("QEMU guest agent is not running") from None
    except AgentRefused as refused:
        if any(ord(letter) > 255 for letter in str(refused)):
            # A real node's worker breaks on wide characters in an error; its proxy then says this and nothing else.
            raise ApiError(596, "Broken pipe", body=False) from None
        raise failure(f"Agent error: {refused}") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise failure("Agent error: malformed answer") from None
