"""A zip of the owner's files, made while it is sent: block by block, stored and not compressed, nothing on a disk.

Pictures of hospitals hardly shrink, and what comes out of the zip is then the original bit by bit. At most one block of
one file and the list of names are in memory. Called by web; knows no page. Format: APPNOTE.TXT 6.3 (sizes stand behind
each file, 4.3.9; zip64 where 32 bits do not do, 4.5.3).
"""

import contextlib
import dataclasses
import datetime as dt
import io
import zipfile
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Protocol

BLOCK_BYTES = 1024 * 1024
# Below both, no field of a zip needs more than 32 (16) bits, whatever the names.
PLAIN_ZIP_BYTES_MAX = 2_000_000_000
PLAIN_ZIP_FILES_MAX = 65_000


class Content(Protocol):
    """An open item, or bytes of our own that read like one."""

    plain_bytes: int

    def read_at(self, offset: int, length: int) -> bytes: ...
    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class ZipMember:
    """One file to be. `path` is safe to create anywhere (`manifest.lay_out`)."""

    path: str
    plain_bytes: int
    changed_at: dt.datetime
    open: Callable[[], Content]


class _Outgoing(io.RawIOBase):
    """What zipfile writes and nobody has taken yet. It cannot seek: zipfile then never looks back."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.written_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self.pieces.append(bytes(piece))
        self.written_bytes += len(self.pieces[-1])
        return len(self.pieces[-1])

    def taken(self) -> bytes:
        pieces, self.pieces = self.pieces, []
        return b"".join(pieces)


def stream(members: Iterable[ZipMember], comment: bytes = b"") -> Generator[bytes, None, None]:
    """The zip, piece by piece, with `comment` at its end. Closing the iterator closes the file that is open; no more
    is read then.

    Raises NotFound or ContainerError in the middle if a file cannot be opened: the zip then lacks its end, and no
    program takes it for a whole one."""
    out = _Outgoing()
    archive = zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True)  # type: ignore[arg-type]
    for member in members:
        with contextlib.closing(member.open()) as opened, archive.open(_header(member), "w") as entry:
            for offset in range(0, opened.plain_bytes, BLOCK_BYTES):
                entry.write(opened.read_at(offset, BLOCK_BYTES))
                yield out.taken()
    archive.comment = comment
    archive.close()
    yield out.taken()


def size_of(members: Sequence[ZipMember]) -> int | None:
    """How many bytes `stream` will make of these; None where that depends on more than names and sizes."""
    plain_bytes = sum(member.plain_bytes for member in members)
    if plain_bytes > PLAIN_ZIP_BYTES_MAX or len(members) > PLAIN_ZIP_FILES_MAX:
        return None
    out = _Outgoing()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for member in members:
            header = _header(member)
            header.file_size = 0
            with archive.open(header, "w"):
                pass
    return out.written_bytes + plain_bytes


def _header(member: ZipMember) -> zipfile.ZipInfo:
    moment = member.changed_at
    header = zipfile.ZipInfo(member.path, (max(moment.year, 1980), *moment.timetuple()[1:6]))
    header.file_size = member.plain_bytes  # announces zip64 where it is needed
    header.external_attr = 0o600 << 16
    return header
