"""Tar archives (POSIX.1-2001 ustar and pax), plain or in one gzip. Links and devices are counted and left out.

`tarfile` reads headers only here, through a file that hands out little at a time: it would otherwise read a name or a
pax header as long as it claims to be. A gzip is inflated twice, once for the table of contents, within the limits."""

import collections
import contextlib
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator

from myphr.errors import ArchiveRefused
from myphr.ingest.packing import (
    DIRECTORY_BYTES_PER_MEMBER,
    RATIO_FREE_BYTES,
    RATIO_MAX,
    Contents,
    Limits,
    Member,
    MemberDamaged,
    Stream,
    check_total,
    damaged,
    is_leftover,
    too_many,
)

_HEADER_BYTES_MAX = 1024**2  # of one name or pax header
_INFLATE_BYTES = 256 * 1024


class _TooMuch(Exception):
    """A header larger than any real one, or more inflated bytes than the archive may hold."""


class _Bounded(io.RawIOBase):
    """What `tarfile` reads from."""

    def __init__(self, file: io.BufferedIOBase, bytes_max: int) -> None:
        self._file = file
        self._bytes_max = bytes_max

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset > self._bytes_max:
            raise _TooMuch
        return self._file.seek(offset, whence)

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _HEADER_BYTES_MAX or self._file.tell() > self._bytes_max:
            raise _TooMuch
        return self._file.read(size)


def contents_of(file: io.BufferedIOBase, size: int, limits: Limits, *, packed: bool) -> Contents:
    """The members in their order. Raises ArchiveRefused."""
    bytes_max = min(limits.bytes_max, RATIO_FREE_BYTES + RATIO_MAX * size) if packed else size
    inner = io.BufferedReader(gzip.GzipFile(fileobj=file), _INFLATE_BYTES) if packed else file  # type: ignore[type-var]
    found: list[Member] = []
    left_out: collections.Counter[str] = collections.Counter()
    total = seen = header_bytes = 0
    try:
        with tarfile.open(fileobj=_Bounded(inner, bytes_max), mode="r:", errors="replace") as archive:  # type: ignore[arg-type]
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined] # tarfile would keep all of them, with their pax headers
                seen += 1
                header_bytes += len(entry.name)
                path = entry.name.removeprefix("./")
                if seen > limits.members_max or header_bytes > limits.members_max * DIRECTORY_BYTES_PER_MEMBER:
                    raise too_many(limits)
                why = _left_out(entry, path)
                if why is None:
                    found.append(Member(path, entry.size, entry.offset_data))
                    total += entry.size
                elif why:
                    left_out[why] += 1
    except _TooMuch:
        raise ArchiveRefused("bomb", reason="its files would be far larger than any real record") from None
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OSError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged() from None
    check_total(total, size, limits)
    if not packed and total > size:
        raise ArchiveRefused("overlap", reason="its files overlap each other, as no real archive does")
    return Contents(found, left_out, lambda member: _open(inner, member))


def _left_out(entry: tarfile.TarInfo, path: str) -> str | None:
    """None for what becomes an item; else why it does not, empty for a folder."""
    if entry.isdir():
        return ""
    if entry.islnk() or entry.issym():
        return "link"
    if not entry.isreg() or entry.issparse():
        return "device"
    if is_leftover(path):
        return "leftover"
    return "empty" if entry.size == 0 else None


class _Part:
    """One member: so many bytes of the file from here on."""

    def __init__(self, file: io.BufferedIOBase, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int, /) -> bytes:
        block = self._file.read(min(size, self._left))
        if not block and self._left:
            raise EOFError
        self._left -= len(block)
        return block


@contextlib.contextmanager
def _open(file: io.BufferedIOBase, member: Member) -> Iterator[Stream]:
    assert isinstance(member.where, int)
    try:
        file.seek(member.where)
        yield _Part(file, member.plain_bytes)
    except (zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise MemberDamaged from None
