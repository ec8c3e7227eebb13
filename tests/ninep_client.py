"""A small blocking 9P2000.L client on a socket: the peer of the files gateway in tests and benches.

It keeps to what the Linux client does (walk, lopen, read in pieces of its msize, clunk); raises OSError for Rlerror.
"""

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from myphr.gateway import ninep_wire as wire


class Client:
    """One connection. Not thread-safe."""

    def __init__(
        self, where: Path | str | tuple[str, int], *, msize: int = wire.MSIZE_MAX, seconds: float = 30,
        source: str = "",
    ) -> None:  # fmt: skip
        if isinstance(where, tuple):
            self.socket = socket.create_connection(where, timeout=seconds, source_address=(source, 0))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(seconds)
            self.socket.connect(str(where))
        self.msize = msize
        self._fids = itertools.count(1)
        self._free: list[int] = []
        self._buffer = bytearray(msize + 64)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    # -- messages -----------------------------------------------------------------------------------
    def send(self, kind: int, *fields: object, tag: int = 1) -> None:
        self.socket.sendall(wire.encode(kind, tag, *fields))

    def receive(self) -> tuple[int, int, memoryview]:
        """(type, tag, body); the body is valid until the next call. Raises ConnectionError at the end."""
        self._fill(0, 7)
        size, kind, tag = wire.HEADER.unpack_from(self._buffer)
        self._fill(7, size)
        return kind, tag, memoryview(self._buffer)[7:size]

    def _fill(self, have: int, want: int) -> None:
        view = memoryview(self._buffer)
        while have < want:
            got = self.socket.recv_into(view[have:want])
            if not got:
                raise ConnectionError("the gateway hung up")
            have += got

    def call(self, kind: int, *fields: object, tag: int = 1) -> memoryview:
        self.send(kind, *fields, tag=tag)
        got, got_tag, body = self.receive()
        if got_tag != tag:
            raise AssertionError(f"reply to {got_tag} instead of {tag}")
        if got == wire.RLERROR:
            raise OSError(struct.unpack("<I", body)[0], "refused by the gateway")
        if got != kind + 1:
            raise AssertionError(f"reply {got} to {kind}")
        return body

    # -- the folder -----------------------------------------------------------------------------------
    def mount(self, uname: str, aname: str) -> "Client":
        body = self.call(wire.TVERSION, self.msize, wire.VERSION, tag=wire.NO_TAG)
        self.msize = struct.unpack_from("<I", body)[0]
        self.call(wire.TATTACH, 0, wire.NO_FID, uname, aname, wire.NO_FID)
        return self

    @contextlib.contextmanager
    def fid(self, path: str) -> Iterator[int]:
        number = self.walk(path)
        try:
            yield number
        finally:
            self.clunk(number)

    def walk(self, path: str, start: int = 0) -> int:
        parts = [part for part in path.split("/") if part]
        number = self._free.pop() if self._free else next(self._fids)
        first = True
        while first or parts:
            here, parts = parts[: wire.WALK_NAMES_MAX], parts[wire.WALK_NAMES_MAX :]
            try:
                body = self.call(wire.TWALK, start if first else number, number, tuple(here))
            except OSError:
                self._free.append(number)
                raise
            if struct.unpack_from("<H", body)[0] != len(here):
                raise FileNotFoundError(path)
            first = False
        return number

    def clunk(self, number: int) -> None:
        self.call(wire.TCLUNK, number)
        self._free.append(number)

    def open(self, path: str, flags: int = wire.O_RDONLY) -> int:
        number = self.walk(path)
        try:
            self.call(wire.TLOPEN, number, flags)
        except OSError:
            self.clunk(number)
            raise
        return number

    def create(self, path: str, flags: int = wire.O_RDWR) -> int:
        folder, _, name = path.rpartition("/")
        number = self.walk(folder)
        try:
            self.call(wire.TLCREATE, number, name, flags, 0o644, 0)
        except OSError:
            self.clunk(number)
            raise
        return number

    def pread(self, number: int, offset: int, count: int) -> bytes:
        body = self.call(wire.TREAD, number, offset, min(count, self.msize - wire.READ_HEADER_BYTES))
        return bytes(body[4:])

    def pwrite(self, number: int, offset: int, payload: bytes) -> int:
        return struct.unpack("<I", self.call(wire.TWRITE, number, offset, payload))[0]

    def read(self, path: str, piece: int = wire.PAYLOAD_BYTES_MAX) -> bytes:
        number = self.open(path)
        out = bytearray()
        while got := self.pread(number, len(out), piece):
            out += got
        self.clunk(number)
        return bytes(out)

    def write(self, path: str, content: bytes, piece: int = wire.PAYLOAD_BYTES_MAX) -> None:
        number = self.create(path)
        for at in range(0, len(content), piece):
            self.pwrite(number, at, content[at : at + piece])
        self.clunk(number)

    def list(self, path: str = "", piece: int = wire.PAYLOAD_BYTES_MAX) -> list[tuple[str, bool]]:
        """(name, is a directory), without the dot entries."""
        number = self.open(path, wire.O_DIRECTORY)
        found = []
        offset = 0
        while True:
            body = self.call(wire.TREADDIR, number, offset, min(piece, self.msize - wire.READ_HEADER_BYTES))
            at, end = 4, len(body)
            if at == end:
                break
            while at < end:
                kind = body[at]
                offset, _, length = struct.unpack_from("<QBH", body, at + 13)
                name = str(body[at + 24 : at + 24 + length], "utf-8")
                if name not in (".", ".."):
                    found.append((name, bool(kind & wire.QTDIR)))
                at += 24 + length
        self.clunk(number)
        return found

    def size(self, number: int) -> int:
        return struct.unpack_from("<Q", self.call(wire.TGETATTR, number, wire.GETATTR_BASIC), 8 + 13 + 4 * 3 + 8 * 2)[0]

    def truncate(self, path: str, size: int) -> None:
        with self.fid(path) as number:
            self.call(wire.TSETATTR, number, wire.SETATTR_SIZE, 0, 0, 0, size, 0, 0, 0, 0)

    def unlink(self, path: str, *, directory: bool = False) -> None:
        folder, _, name = path.rpartition("/")
        with self.fid(folder) as number:
            self.call(wire.TUNLINKAT, number, name, wire.UNLINK_DIRECTORY if directory else 0)

    def mkdir(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        with self.fid(folder) as number:
            self.call(wire.TMKDIR, number, name, 0o755, 0)

    def rename(self, old: str, new: str) -> None:
        with self.fid(old.rpartition("/")[0]) as source, self.fid(new.rpartition("/")[0]) as target:
            self.call(wire.TRENAMEAT, source, old.rpartition("/")[2], target, new.rpartition("/")[2])

    def fsync(self, number: int) -> None:
        self.call(wire.TFSYNC, number, 0)
