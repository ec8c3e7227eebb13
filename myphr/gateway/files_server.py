"""The files gateway as a process: `python -m myphr.gateway files`.

Opens the doors that guests knock at - a Unix socket per machine, or one TCP port where the source address tells the
machine - and listens to the news. Never writes a core dump: its memory holds patients' files.
"""

import asyncio
import base64
import ctypes
import grp
import json
import logging
import os
import resource
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import redis.asyncio
import uvloop

from myphr.errors import ConfigurationError
from myphr.gateway.files import Connection
from myphr.gateway.files_access import Access
from myphr.gateway.files_hub import Hub
from myphr.machines import addresses, left_over
from myphr.portal import Portal
from myphr.settings import Settings, load

log = logging.getLogger("myphr.files")

VM_GROUP = "myphr-vm"  # the unprivileged users that QEMU runs as
CHANNELS = ("myphr:machines", "myphr:revoked")
_PR_SET_DUMPABLE = 4


class UnixDoors:
    """One socket per machine, `pattern` with its vmid. QEMU connects to it for its guest, and only it can."""

    def __init__(self, pattern: str) -> None:
        if "{vmid}" not in pattern:
            raise ConfigurationError("MYPHR_FILES_LISTEN must hold {vmid}: the socket tells which machine calls")
        self._pattern = pattern
        self._servers: dict[int, asyncio.Server] = {}
        self._group = _group_id() if os.geteuid() == 0 else None
        directory = Path(pattern).parent
        directory.mkdir(parents=True, exist_ok=True)
        # QEMU's user may pass through and connect by name, but not list; others stop at 0660 of each socket.
        directory.chmod(0o711)
        before, after = Path(pattern).name.split("{vmid}")
        for old in directory.iterdir():  # of a gateway that was killed: its machines find the new one within a second
            if old.is_socket() and old.name.startswith(before) and old.name.endswith(after):
                old.unlink()

    def path(self, vmid: int) -> Path:
        return Path(self._pattern.format(vmid=vmid))

    async def open(self, vmid: int, connect: Callable[[], Connection]) -> None:
        path = self.path(vmid)
        before = os.umask(0o117)
        try:
            self._servers[vmid] = await asyncio.get_running_loop().create_unix_server(connect, str(path), backlog=16)
        finally:
            os.umask(before)
        if self._group is not None:
            os.chown(path, -1, self._group)
        path.chmod(0o660)

    async def close(self, vmid: int) -> None:
        server = self._servers.pop(vmid, None)
        if server is not None:
            server.close()
        self.path(vmid).unlink(missing_ok=True)

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        for vmid in list(self._servers):
            await self.close(vmid)


class TcpDoors:
    """One port on the isolated bridge of a real node; the hypervisor's firewall pins each machine to its address."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        if not settings.guest_network:
            raise ConfigurationError("MYPHR_FILES_LISTEN=tcp needs MYPHR_GUEST_NETWORK: the address tells the machine")
        self._settings = settings
        self._address = (host, port)
        self._doors: dict[int, Callable[[], Connection]] = {}
        self._server: asyncio.Server | None = None

    async def open(self, vmid: int, connect: Callable[[], Connection]) -> None:
        self._doors[vmid] = connect

    async def close(self, vmid: int) -> None:
        self._doors.pop(vmid, None)

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Doorman(self._door_of), *self._address, backlog=64
        )

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def _door_of(self, address: str) -> Callable[[], Connection] | None:
        vmid = addresses.vmid_of(self._settings, address, self._doors)
        return None if vmid is None else self._doors[vmid]


class _Doorman(asyncio.Protocol):
    """Looks who is there, then hands the connection on, or hangs up without a word."""

    def __init__(self, door_of: Callable[[str], Callable[[], Connection] | None]) -> None:
        self._door_of = door_of
        self._inner: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        door = self._door_of(peer[0]) if peer else None
        if door is None:
            transport.close()
            return
        self._inner = door()
        transport.set_protocol(self._inner)
        self._inner.connection_made(transport)

    def data_received(self, received: bytes) -> None:
        if self._inner is not None:  # what had arrived before the hand-over
            self._inner.data_received(received)

    def connection_lost(self, error: Exception | None) -> None:
        if self._inner is not None:
            self._inner.connection_lost(error)


def _group_id() -> int | None:
    try:
        return grp.getgrnam(VM_GROUP).gr_gid
    except KeyError:
        return None


def open_doors(settings: Settings) -> UnixDoors | TcpDoors:
    """What `MYPHR_FILES_LISTEN` asks for. Raises ConfigurationError."""
    kind, _, where = settings.files_listen.partition(":")
    if kind == "unix":
        return UnixDoors(where)
    host, _, port = where.rpartition(":")
    if kind == "tcp" and host and port.isdecimal():
        return TcpDoors(settings, host, int(port))
    raise ConfigurationError("MYPHR_FILES_LISTEN is unix:PATH/{vmid}.sock or tcp:ADDRESS:PORT")


async def open_left_over_door(settings: Settings, hub: Hub) -> asyncio.Server:
    """Where web hands over the keys of left-over results while their owner is signed in (docs/formats/folder.md)."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(await asyncio.wait_for(reader.readline(), 10))
            reply = await hub.left_over(str(uuid.UUID(asked["vm_session"])), base64.b64decode(asked["key"]))
        except (TimeoutError, ValueError, KeyError, TypeError):
            reply = {"error": "not-understood"}
        try:
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        except OSError:
            pass  # it was saved all the same
        writer.close()

    path = settings.run_dir / left_over.DOOR
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer, str(path), limit=4096)
    finally:
        os.umask(before)


async def listen_to_news(url: str, hub: Hub) -> None:
    """Wakes the hub. Redis may be away: the hub looks each second anyway."""
    while True:
        try:
            client = redis.asyncio.from_url(url)
            try:
                async with client.pubsub() as channel:
                    await channel.subscribe(*CHANNELS)
                    hub.news()
                    async for _ in channel.listen():
                        hub.news()
            finally:
                await client.aclose()
        except (redis.RedisError, OSError) as error:
            log.warning("no news from Redis: %s", type(error).__name__)
        await asyncio.sleep(1)


async def serve(portal: Portal, stopped: asyncio.Event) -> None:
    """Until `stopped`."""
    doors = open_doors(portal.settings)
    await doors.start()
    hub = Hub(Access(portal), doors, portal.redis)
    tasks = [
        asyncio.create_task(hub.run()),
        asyncio.create_task(listen_to_news(portal.settings.redis_url, hub)),
    ]
    left_over_door = await open_left_over_door(portal.settings, hub)
    try:
        await stopped.wait()
    finally:
        left_over_door.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await hub.stop()
        await doors.stop()


def keep_memory_private() -> None:
    """No core dump, and no other process of this user may read our memory (prctl(2))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Serve until SIGTERM or SIGINT, as the environment says. Raises ConfigurationError."""
    settings = load()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    keep_memory_private()

    async def run() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await serve(Portal(settings), stopped)

    uvloop.run(run())
