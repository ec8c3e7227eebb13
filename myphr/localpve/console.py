"""Screens: what vncproxy hands out (port, ticket, password) and the websocket that uses it up.

Times are those of a real node: 10 s to connect, a ticket of 40 s, a VNC password of 30 s from the connect, one
connection per port. There is no TCP listener behind the ports: they are names of waiting screens. Called by `api`.
"""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from myphr.localpve.machines import Machines
from myphr.localpve.qmp import QmpError
from myphr.localpve.replies import TaskFailed, failure
from myphr.localpve.tasks import Task
from myphr.localpve.websocket import relay

FIRST_PORT, LAST_PORT = 5900, 5999
CONNECT_SECONDS = 10.0
PASSWORD_SECONDS = 30
PASSWORD_LETTERS = "".join(chr(c) for c in range(ord("!"), ord("`") + 1))


@dataclass
class Waiting:
    """One screen handed out and not yet connected."""

    vmid: int
    password: str
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)


def new_password() -> str:
    return "".join(secrets.choice(PASSWORD_LETTERS) for _ in range(8))


class Consoles:
    """All waiting screens, by port."""

    def __init__(self, machines: Machines, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._machines = machines
        self._waiting: dict[int, Waiting] = {}
        self._connect_seconds = connect_seconds

    def reserve(self, vmid: int, password: str) -> int:
        """A free port. Raises ApiError 500 when a hundred screens are waiting at once."""
        for port in range(FIRST_PORT, LAST_PORT + 1):
            if port not in self._waiting:
                self._waiting[port] = Waiting(vmid, password)
                return port
        raise failure("unable to find free port (5900-5999)")

    async def work(self, task: Task, port: int) -> None:
        """The vncproxy task: waits for the connection, then for its end."""
        waiting = self._waiting[port]
        try:
            await asyncio.wait_for(waiting.connected.wait(), self._connect_seconds)
        except TimeoutError:
            raise TaskFailed("connection timed out") from None
        finally:
            if self._waiting.get(port) is waiting:
                del self._waiting[port]
        await waiting.finished.wait()

    async def connect(self, port: int, vmid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries the websocket until it ends. A port that nobody waits on ends it at once."""
        waiting = self._waiting.get(port)
        if waiting is None or waiting.vmid != vmid:
            writer.close()
            return
        del self._waiting[port]
        waiting.connected.set()
        try:
            screen = await self._open_screen(vmid, waiting.password)
            if screen is None:
                writer.close()
            else:
                await relay(reader, writer, *screen)
        finally:
            waiting.finished.set()
            with contextlib.suppress(Exception):
                writer.close()

    async def _open_screen(self, vmid: int, password: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        path: Path = self._machines.run_dir / str(vmid) / "vnc.sock"
        try:
            control = await self._machines.control(vmid)
            await control.execute("set_password", {"protocol": "vnc", "password": password})
            await control.execute("expire_password", {"protocol": "vnc", "time": f"+{PASSWORD_SECONDS}"})
            return await asyncio.open_unix_connection(str(path), limit=64 * 1024)
        except (QmpError, OSError):
            return None
