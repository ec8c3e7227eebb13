"""The way from a guest's one address to the unix socket behind it.

Where QEMU's user may dial that socket, QEMU does so itself. Where only localpve may (it runs as root, the portal's
folder is closed), localpve listens beside the machine and passes bytes on, with back-pressure. Called by `machines`.
"""

import asyncio
import contextlib
import os
import stat
from pathlib import Path

CHUNK_BYTES = 64 * 1024
WRITE_BUFFER_BYTES = 256 * 1024


def reachable_by(path: Path, uid: int | None, gid: int | None) -> bool:
    """Whether that user may dial a socket at `path`, now or once it is there. `uid` None is ourselves."""
    if uid is None:
        return True

    def allowed(status: os.stat_result, bit: int) -> bool:
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        return bool(status.st_mode >> shift & bit)

    try:
        if not allowed(path.stat(), 2) or not stat.S_ISSOCK(path.stat().st_mode):
            return False
        return all(allowed(parent.stat(), 1) for parent in path.resolve().parents)
    except OSError:
        return False


class ForwardRelay:
    """Listens at `near`, dials `far` for each connection. While `far` is away the connection ends at once and QEMU
    tries again a second later."""

    def __init__(self, near: Path, far: Path, uid: int | None) -> None:
        self._near = near
        self._far = far
        self._uid = uid
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._near.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._near), limit=CHUNK_BYTES)
        if self._uid is not None:
            os.chown(self._near, self._uid, -1)
        self._near.chmod(0o600)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        self._open.add(current)
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._far), limit=CHUNK_BYTES)
        except OSError:
            writer.close()
            self._open.discard(current)
            return
        try:
            both = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        finally:
            for end in (writer, far_writer):
                with contextlib.suppress(Exception):
                    end.close()
            self._open.discard(current)

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for connection in list(self._open):
            connection.cancel()
        self._near.unlink(missing_ok=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
