"""The words of 9P2000.L: messages as bytes, to and from values. Pure; knows no files, fids or sockets.

Facts from the protocol description of diod (chaos/diod, protocol.md), the Plan 9 manual, section 5, and the Linux
client (net/9p, fs/9p), which is the only peer we promise to serve. All integers are little-endian; a string is
length[2] and UTF-8 bytes; a message is size[4] type[1] tag[2] body. Used by `gateway.ninep` and the tests' client.
"""

import errno
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

HEADER = struct.Struct("<IBH")  # size, including itself; type; tag
HEADER_BYTES = HEADER.size
READ_HEADER_BYTES = HEADER_BYTES + 4  # Rread and Rreaddir: count[4] before the data
PAYLOAD_BYTES_MAX = 512 * 1024
MSIZE_MAX = PAYLOAD_BYTES_MAX + 24  # 24: what the Linux client reserves for the header of a read or write
MSIZE_MIN = 4096  # the Linux client's own minimum
WALK_NAMES_MAX = 16
NAME_BYTES_MAX = 255
NO_TAG = 0xFFFF
NO_FID = 0xFFFFFFFF
VERSION = "9P2000.L"

RLERROR = 7
TSTATFS, TLOPEN, TLCREATE, TSYMLINK, TMKNOD, TRENAME, TREADLINK = 8, 12, 14, 16, 18, 20, 22
TGETATTR, TSETATTR, TXATTRWALK, TXATTRCREATE, TREADDIR = 24, 26, 30, 32, 40
TFSYNC, TLOCK, TGETLOCK, TLINK, TMKDIR, TRENAMEAT, TUNLINKAT = 50, 52, 54, 70, 72, 74, 76
TVERSION, TAUTH, TATTACH, TFLUSH, TWALK, TREAD, TWRITE, TCLUNK, TREMOVE = 100, 102, 104, 108, 110, 116, 118, 120, 122

QTDIR, QTFILE = 0x80, 0x00
GETATTR_BASIC = 0x7FF
SETATTR_MODE, SETATTR_UID, SETATTR_GID, SETATTR_SIZE = 0x1, 0x2, 0x4, 0x8
SETATTR_ATIME, SETATTR_MTIME, SETATTR_ATIME_SET, SETATTR_MTIME_SET = 0x10, 0x20, 0x80, 0x100
LOCK_SUCCESS, LOCK_UNLOCKED = 0, 2
UNLINK_DIRECTORY = 0x200  # AT_REMOVEDIR
FS_MAGIC = 0x01021997  # V9FS_MAGIC

O_ACCMODE, O_RDONLY, O_WRONLY, O_RDWR = 0o3, 0o0, 0o1, 0o2
O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_DIRECTORY = 0o100, 0o200, 0o1000, 0o2000, 0o200000

QID = struct.Struct("<BIQ")
_ATTRIBUTES = struct.Struct("<Q13sIIIQQQQQQQQQQQQQQQ")
_STATFS = struct.Struct("<IIQQQQQQI")
_DIRENT = struct.Struct("<13sQBH")
_READ_REPLY = struct.Struct("<IBHI")


class ProtocolError(Exception):
    """Bytes that no 9P2000.L client sends. The connection cannot be trusted any more and is closed."""


class Version(NamedTuple):
    msize: int
    version: str


class Auth(NamedTuple):
    afid: int
    uname: str
    aname: str
    n_uname: int


class Attach(NamedTuple):
    fid: int
    afid: int
    uname: str
    aname: str
    n_uname: int


class Flush(NamedTuple):
    oldtag: int


class Walk(NamedTuple):
    fid: int
    newfid: int
    names: tuple[str, ...]


class Fid(NamedTuple):
    """The body of Tclunk, Tremove, Tstatfs, Treadlink."""

    fid: int


class Fsync(NamedTuple):
    fid: int
    datasync: int = 0


class Open(NamedTuple):
    fid: int
    flags: int


class Create(NamedTuple):
    fid: int
    name: str
    flags: int
    mode: int
    gid: int


class Symlink(NamedTuple):
    fid: int
    name: str
    target: str
    gid: int


class Mknod(NamedTuple):
    fid: int
    name: str
    mode: int
    major: int
    minor: int
    gid: int


class Rename(NamedTuple):
    fid: int
    directory_fid: int
    name: str


class Getattr(NamedTuple):
    fid: int
    mask: int


class Setattr(NamedTuple):
    fid: int
    valid: int
    mode: int
    uid: int
    gid: int
    size: int
    atime_sec: int
    atime_nsec: int
    mtime_sec: int
    mtime_nsec: int


class Xattrwalk(NamedTuple):
    fid: int
    newfid: int
    name: str


class Xattrcreate(NamedTuple):
    fid: int
    name: str
    size: int
    flags: int


class Read(NamedTuple):
    """The body of Tread and Treaddir."""

    fid: int
    offset: int
    length: int


class Write(NamedTuple):
    fid: int
    offset: int
    payload: bytes


class Lock(NamedTuple):
    fid: int
    type: int
    flags: int
    start: int
    length: int
    proc_id: int
    client_id: str


class Getlock(NamedTuple):
    fid: int
    type: int
    start: int
    length: int
    proc_id: int
    client_id: str


class Link(NamedTuple):
    directory_fid: int
    fid: int
    name: str


class Mkdir(NamedTuple):
    fid: int
    name: str
    mode: int
    gid: int


class Renameat(NamedTuple):
    old_fid: int
    old_name: str
    new_fid: int
    new_name: str


class Unlinkat(NamedTuple):
    fid: int
    name: str
    flags: int


# type -> (value, its fields on the wire: struct codes, and `s` for a string)
_LAYOUTS: dict[int, tuple[Callable[..., Any], str]] = {
    TVERSION: (Version, "I s"), TAUTH: (Auth, "I s s I"), TATTACH: (Attach, "II s s I"), TFLUSH: (Flush, "H"),
    TLOPEN: (Open, "II"), TLCREATE: (Create, "I s III"), TSYMLINK: (Symlink, "I s s I"), TMKNOD: (Mknod, "I s IIII"),
    TRENAME: (Rename, "II s"), TREADLINK: (Fid, "I"), TGETATTR: (Getattr, "IQ"), TSETATTR: (Setattr, "IIIIIQQQQQ"),
    TXATTRWALK: (Xattrwalk, "II s"), TXATTRCREATE: (Xattrcreate, "I s QI"), TREADDIR: (Read, "IQI"),
    TREAD: (Read, "IQI"), TLOCK: (Lock, "IBIQQI s"), TGETLOCK: (Getlock, "IBQQI s"), TLINK: (Link, "II s"),
    TMKDIR: (Mkdir, "I s II"), TRENAMEAT: (Renameat, "I s I s"), TUNLINKAT: (Unlinkat, "I s I"), TSTATFS: (Fid, "I"),
    TCLUNK: (Fid, "I"), TREMOVE: (Fid, "I"),
}  # fmt: skip
_COMPILED = {
    code: (value, tuple(None if part == "s" else struct.Struct("<" + part) for part in layout.split()))
    for code, (value, layout) in _LAYOUTS.items()
}
KNOWN_TYPES = frozenset(_LAYOUTS) | {TWALK, TWRITE, TFSYNC}
_WALK = struct.Struct("<IIH")
_WRITE = struct.Struct("<IQI")
_SHORT = struct.Struct("<H")
_WORD = struct.Struct("<I")


class TextRefused(OSError):
    """A string that is not UTF-8: the message is whole, only its request is refused."""

    def __init__(self) -> None:
        super().__init__(errno.EILSEQ, "not UTF-8")


def _text(body: memoryview, at: int) -> tuple[str, int]:
    if at + 2 > len(body):
        raise ProtocolError("string length missing")
    end = at + 2 + _SHORT.unpack_from(body, at)[0]
    if end > len(body):
        raise ProtocolError("string longer than its message")
    try:
        return str(body[at + 2 : end], "utf-8"), end
    except UnicodeDecodeError:
        raise TextRefused from None


def decode(kind: int, body: memoryview) -> Any:
    """The request in `body` (a whole message behind its header).

    Raises ProtocolError unless every byte is accounted for; TextRefused for text that is not UTF-8; KeyError for a
    type that 9P2000.L does not know."""
    if kind == TWALK:
        return _decode_walk(body)
    if kind == TWRITE:
        if len(body) < _WRITE.size:
            raise ProtocolError("short write")
        fid, offset, count = _WRITE.unpack_from(body)
        if count != len(body) - _WRITE.size:
            raise ProtocolError("write count differs from its bytes")
        return Write(fid, offset, bytes(body[_WRITE.size :]))
    if kind == TFSYNC:  # clients before Linux 3.x send no datasync
        if len(body) not in (4, 8):
            raise ProtocolError("fsync length")
        return Fsync(*(_WORD.unpack_from(body, at)[0] for at in range(0, len(body), 4)))
    value, parts = _COMPILED[kind]
    fields: list[Any] = []
    at = 0
    for part in parts:
        if part is None:
            text, at = _text(body, at)
            fields.append(text)
        else:
            if at + part.size > len(body):
                raise ProtocolError("message too short")
            fields += part.unpack_from(body, at)
            at += part.size
    if at != len(body):
        raise ProtocolError("message too long")
    return value(*fields)


def _decode_walk(body: memoryview) -> Walk:
    if len(body) < _WALK.size:
        raise ProtocolError("short walk")
    fid, newfid, count = _WALK.unpack_from(body)
    if count > WALK_NAMES_MAX:
        raise ProtocolError("too many names in a walk")
    at = _WALK.size
    names = []
    for _ in range(count):
        name, at = _text(body, at)
        names.append(name)
    if at != len(body):
        raise ProtocolError("message too long")
    return Walk(fid, newfid, tuple(names))


def message(kind: int, tag: int, body: bytes = b"") -> bytes:
    """A whole message."""
    return HEADER.pack(HEADER_BYTES + len(body), kind, tag) + body


def encode(kind: int, tag: int, *fields: Any) -> bytes:
    """A request as a client sends it (tests and benchmarks; the server never calls it)."""
    if kind == TWALK:
        fid, newfid, names = fields
        return message(kind, tag, _WALK.pack(fid, newfid, len(names)) + b"".join(map(text, names)))
    if kind == TWRITE:
        fid, offset, payload = fields
        return message(kind, tag, _WRITE.pack(fid, offset, len(payload)) + payload)
    if kind == TFSYNC:
        return message(kind, tag, b"".join(map(_WORD.pack, fields)))
    left = list(fields)
    body = b""
    for part in _COMPILED[kind][1]:
        if part is None:
            body += text(left.pop(0))
        else:
            count = len(part.format) - 1
            body += part.pack(*left[:count])
            del left[:count]
    return message(kind, tag, body)


def text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return _SHORT.pack(len(raw)) + raw


def error(tag: int, number: int) -> bytes:
    """Rlerror: `number` is a Linux errno."""
    return HEADER.pack(11, RLERROR, tag) + _WORD.pack(number)


def version(tag: int, msize: int, name: str) -> bytes:
    return message(TVERSION + 1, tag, _WORD.pack(msize) + text(name))


def qids(tag: int, found: list[bytes]) -> bytes:
    return message(TWALK + 1, tag, _SHORT.pack(len(found)) + b"".join(found))


def opened(kind: int, tag: int, qid: bytes) -> bytes:
    """Rlopen or Rlcreate; iounit 0 lets the client use its msize."""
    return message(kind, tag, qid + b"\0\0\0\0")


def read_header(kind: int, tag: int, count: int) -> bytes:
    """The first 11 bytes of Rread or Rreaddir; the data follow, uncopied."""
    return _READ_REPLY.pack(READ_HEADER_BYTES + count, kind, tag, count)


def wrote(tag: int, count: int) -> bytes:
    return HEADER.pack(11, TWRITE + 1, tag) + _WORD.pack(count)


def attributes(
    tag: int, qid: bytes, *, mode: int, links: int, size: int, atime_ns: int, mtime_ns: int, ctime_ns: int
) -> bytes:
    times = (*divmod(atime_ns, 10**9), *divmod(mtime_ns, 10**9), *divmod(ctime_ns, 10**9))
    body = _ATTRIBUTES.pack(
        GETATTR_BASIC, qid, mode, 0, 0, links, 0, size, 4096, (size + 511) // 512, *times, 0, 0, 0, 0
    )
    return HEADER.pack(HEADER_BYTES + len(body), TGETATTR + 1, tag) + body


def statfs(tag: int, *, blocks: int, blocks_free: int, files: int, files_free: int, fsid: int) -> bytes:
    """Rstatfs in blocks of 4 KiB."""
    body = _STATFS.pack(FS_MAGIC, 4096, blocks, blocks_free, blocks_free, files, files_free, fsid, NAME_BYTES_MAX)
    return message(TSTATFS + 1, tag, body)


def directory_entry(qid: bytes, cookie: int, name: str) -> bytes:
    raw = name.encode("utf-8")
    return _DIRENT.pack(qid, cookie, 4 if qid[0] & QTDIR else 8, len(raw)) + raw  # DT_DIR, DT_REG


def getlock(tag: int, asked: Getlock) -> bytes:
    body = struct.pack("<BQQI", LOCK_UNLOCKED, asked.start, asked.length, asked.proc_id) + text(asked.client_id)
    return message(TGETLOCK + 1, tag, body)


class Frames:
    """Cuts a stream of bytes into messages. Holds at most one incomplete message and what came with it."""

    def __init__(self) -> None:
        self.msize = 8192  # until a version is agreed; the first message is a Tversion of 21 bytes
        self._buffer = bytearray()
        self._at = 0

    def receive(self, received: bytes | bytearray | memoryview) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += received

    @property
    def waiting_bytes(self) -> int:
        return len(self._buffer) - self._at

    def next(self) -> tuple[int, int, memoryview] | None:
        """(type, tag, body) of the next whole message, or None. The body is valid until the next call.

        Raises ProtocolError for a size below a header or above what was agreed, before any of it is kept."""
        left = len(self._buffer) - self._at
        if left < 4:
            return None
        size = _WORD.unpack_from(self._buffer, self._at)[0]
        if not HEADER_BYTES <= size <= self.msize:
            raise ProtocolError("message size out of bounds")
        if left < size:
            return None
        _, kind, tag = HEADER.unpack_from(self._buffer, self._at)
        start = self._at + HEADER_BYTES
        self._at += size
        return kind, tag, memoryview(self._buffer)[start : self._at]
