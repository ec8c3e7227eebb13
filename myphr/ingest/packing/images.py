"""Images of CDs and DVDs: ISO 9660 and UDF, also both on one disc, and raw images with their 2,352-byte sectors.

Puts together what `iso9660` and `udf` find, and reads the bytes of a file from where they lie: no member is ever
unpacked, so any of them can be had again after a crash."""

import collections
import contextlib
from collections.abc import Iterator

from myphr.errors import ArchiveRefused
from myphr.ingest.packing import (
    Contents,
    Limits,
    Member,
    MemberDamaged,
    Opened,
    Stream,
    damaged,
    is_leftover,
    iso9660,
    too_many,
    udf,
)
from myphr.ingest.packing.iso9660 import SECTOR_BYTES, Disc, DiscFile, Read

RAW_SECTOR_BYTES = 2352  # ECMA-130, 14
_MARKS = (b"CD001", b"BEA01", b"NSR02", b"NSR03")
_SYNC = b"\0" + b"\xff" * 10 + b"\0"
# Nothing on a disc is packed: files larger than the disc together share their bytes. Some makers do that on purpose
# (one manual under three names), nobody a hundred times.
SHARED_MAX = 4


def contents_of(opened: Opened, limits: Limits) -> Contents:
    """The files of the disc, in the order they lie on it. Raises ArchiveRefused."""
    read = _reader(opened)
    try:
        disc = _both(read, limits)
    except iso9660.TooMany:
        raise too_many(limits) from None
    except udf.Unsupported:
        raise ArchiveRefused("packing", reason="its disc is written in a way we cannot read yet") from None
    except iso9660.Damaged:
        raise damaged() from None
    found: list[Member] = []
    left_out: collections.Counter[str] = collections.Counter()
    for file in sorted(disc.files, key=lambda file: file.extents[:1]):
        if file.kind != "file":
            left_out[file.kind] += 1
        elif is_leftover(file.path):
            left_out["leftover"] += 1
        elif file.plain_bytes == 0:
            left_out["empty"] += 1
        else:
            found.append(Member(file.path, file.plain_bytes, file.extents))
    total = sum(member.plain_bytes for member in found if not _beyond(member, opened.plain_bytes))
    if total > limits.bytes_max:
        raise ArchiveRefused("too-large", reason="its files are larger than this portal accepts")
    if total > SHARED_MAX * opened.plain_bytes:
        raise ArchiveRefused("overlap", reason="its files overlap each other, as no real disc's do")
    if disc.damaged_folders:
        left_out["folder-damaged"] = disc.damaged_folders
    return Contents(
        found, left_out, lambda member: _open(read, member), label=disc.label, made_on=disc.made_on, is_image=True
    )


def _both(read: Read, limits: Limits) -> Disc:
    """ISO 9660 first: its names are what a DICOMDIR speaks of (PS3.10, 8.2). What only the UDF part knows is added."""
    iso: Disc | None = None
    try:
        iso = iso9660.read_disc(read, limits.members_max)
    except iso9660.Damaged:
        pass  # a DVD may have UDF alone
    if not _has_udf(read):
        if iso is None:
            raise iso9660.Damaged
        return iso
    try:
        other = udf.read_disc(read, limits.members_max)
    except (iso9660.Damaged, udf.Unsupported):
        if iso is None:
            raise
        return iso
    if iso is None:
        return other
    known = {file.extents[0][0] for file in iso.files if file.extents}
    more = [file for file in other.files if file.kind == "file" and file.extents and file.extents[0][0] not in known]
    files: list[DiscFile] = iso.files + more
    if len(files) > limits.members_max:
        raise iso9660.TooMany
    return Disc(iso.label or other.label, iso.made_on or other.made_on, files, iso.damaged_folders)


def _has_udf(read: Read) -> bool:
    sectors = range(iso9660.DESCRIPTORS_FROM, iso9660.DESCRIPTORS_FROM + iso9660.DESCRIPTORS_MAX)
    for sector in sectors:
        mark = read(sector * SECTOR_BYTES + 1, 5)
        if mark in (b"NSR02", b"NSR03"):
            return True
        if mark not in (b"CD001", b"BEA01", b"BOOT2", b"CDW02"):
            return False
    return False


def _reader(opened: Opened) -> Read:
    """How the disc's own bytes are read from the image."""
    size = opened.plain_bytes

    def plain(offset: int, length: int) -> bytes:
        return opened.read_at(offset, length) if 0 <= offset < size else b""

    at = iso9660.DESCRIPTORS_FROM * RAW_SECTOR_BYTES
    if plain(iso9660.DESCRIPTORS_FROM * SECTOR_BYTES + 1, 5) in _MARKS or plain(0, 12) != _SYNC:
        return plain
    for skip in (16, 24):  # mode 1; mode 2 form 1
        if plain(at + skip + 1, 5) in _MARKS:
            return lambda offset, length: _from_raw(plain, skip, offset, length)
    return plain


def _from_raw(plain: Read, skip: int, offset: int, length: int) -> bytes:
    if offset < 0:
        return b""
    first, begin = divmod(offset, SECTOR_BYTES)
    sectors = -(-(begin + length) // SECTOR_BYTES)
    raw = plain(first * RAW_SECTOR_BYTES, sectors * RAW_SECTOR_BYTES)
    joined = b"".join(
        raw[at + skip : at + skip + SECTOR_BYTES] for at in range(0, len(raw), RAW_SECTOR_BYTES)
    )  # fmt: skip
    return joined[begin : begin + length]


def _extents(member: Member) -> tuple[tuple[int, int], ...]:
    assert isinstance(member.where, tuple)
    return member.where


def _beyond(member: Member, image_bytes: int) -> bool:
    """A file that the image ends before, or whose place is not told: damaged, and not part of any sum."""
    return any(offset < 0 or offset + size > image_bytes for offset, size in _extents(member))


class _Extents:
    """The bytes of one file, extent by extent."""

    def __init__(self, read: Read, extents: tuple[tuple[int, int], ...]) -> None:
        self._read = read
        self._left = list(reversed(extents))

    def read(self, size: int, /) -> bytes:
        if not self._left:
            return b""
        offset, length = self._left.pop()
        block = self._read(offset, min(size, length))
        if not block:
            raise MemberDamaged
        if len(block) < length:
            self._left.append((offset + len(block), length - len(block)))
        return block


@contextlib.contextmanager
def _open(read: Read, member: Member) -> Iterator[Stream]:
    yield _Extents(read, _extents(member))
