"""Zip archives (APPNOTE.TXT): everything that can be judged before unpacking is, from the directory alone."""

import collections
import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from myphr.errors import ArchiveRefused
from myphr.ingest.packing import (
    DIRECTORY_BYTES_PER_MEMBER,
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
from myphr.records import export_contents

_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2})  # LZMA may ask for 4 GiB
_END = struct.Struct("<4s4H2IH")  # end of central directory, 4.3.16
_END_64_LOCATOR = struct.Struct("<4sIQI")  # 4.3.15
_END_64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_ENTRY_BYTES = 46  # fixed part of a central directory header, 4.3.12
_SYMLINK = 0o120000


def contents_of(file: io.BufferedIOBase, size: int, limits: Limits) -> Contents:
    """The members in the order of the zip's directory. Reads the directory only.

    Raises ArchiveRefused: too many members, too large, a bomb, overlapping members, a password, an unknown packing,
    or a directory that cannot be read."""
    _check_directory(file, size, limits)
    try:
        archive = zipfile.ZipFile(file)  # type: ignore[arg-type]
        members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError, EOFError):
        raise damaged() from None
    if len(members) > limits.members_max:
        raise too_many(limits)
    if any(member.flag_bits & 0x41 for member in members):
        raise ArchiveRefused("encrypted", reason="it is protected with a password; unpack it and upload its files")
    check_total(sum(member.file_size for member in members), size, limits)
    _check_overlap(members, size)
    found: list[Member] = []
    left_out: collections.Counter[str] = collections.Counter()
    is_export = archive.comment == export_contents.COMMENT  # what we wrote about the files is no file of the record
    for member in members:
        path = member.filename.replace("\\", "/")
        why = "" if is_export and not path.startswith(f"{export_contents.FILES}/") else _left_out(member, path)
        if why is None:
            found.append(Member(path, member.file_size, member))
        elif why:
            left_out[why] += 1
    if any(_info(member).compress_type not in _METHODS for member in found):
        raise ArchiveRefused("packing", reason="it is packed in a way we cannot read; unpack it and upload its files")
    return Contents(found, left_out, lambda member: _open(archive, member))


def _info(member: Member) -> zipfile.ZipInfo:
    assert isinstance(member.where, zipfile.ZipInfo)
    return member.where


def _left_out(member: zipfile.ZipInfo, path: str) -> str | None:
    """None for what becomes an item; else why it does not, empty for a folder. The content of a link is a path of
    another computer."""
    if member.is_dir():
        return ""
    if (member.external_attr >> 16) & 0o170000 == _SYMLINK:
        return "link"
    if is_leftover(path):
        return "leftover"
    return "empty" if member.file_size == 0 else None


@contextlib.contextmanager
def _open(archive: zipfile.ZipFile, member: Member) -> Iterator[Stream]:
    try:
        with archive.open(_info(member)) as content:
            yield content
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's trouble, not the member's
        raise MemberDamaged from None


def _check_directory(file: io.BufferedIOBase, size: int, limits: Limits) -> None:
    """Size and length of the central directory before `zipfile` reads all of it into memory and makes an object of
    each entry: neither is bounded there, and the count in the end record may lie."""
    tail_bytes = min(size, _END.size + 0xFFFF)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise damaged()
    _sig, _disk, _first, _here, count, directory_bytes, _offset, _comment = _END.unpack_from(tail, at)
    end = size - tail_bytes + at
    if end >= _END_64_LOCATOR.size:
        file.seek(end - _END_64_LOCATOR.size)
        signature, _disk, end_64, _disks = _END_64_LOCATOR.unpack(file.read(_END_64_LOCATOR.size))
        if signature == b"PK\x06\x07":
            # zipfile expects the record right before the locator and does not look where the locator points
            end_64 = end - _END_64_LOCATOR.size - _END_64.size
            if end_64 < 0:
                raise damaged()
            file.seek(end_64)
            record = _END_64.unpack(file.read(_END_64.size))
            if record[0] != b"PK\x06\x06":
                raise damaged()
            count, directory_bytes, end = record[7], record[8], end_64
    if count > limits.members_max:
        raise too_many(limits)
    if directory_bytes > end:
        raise damaged()
    if directory_bytes > limits.members_max * DIRECTORY_BYTES_PER_MEMBER:
        raise too_many(limits)
    file.seek(end - directory_bytes)
    directory = file.read(directory_bytes)
    found = at = 0
    while at + _ENTRY_BYTES <= len(directory) and directory[at : at + 4] == b"PK\x01\x02":
        at += _ENTRY_BYTES + sum(struct.unpack_from("<3H", directory, at + 28))
        found += 1
        if found > limits.members_max:
            raise too_many(limits)
    file.seek(0)


def _check_overlap(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Members that share bytes are how 10 MB become terabytes; real archives never do."""
    end_of_last = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end_of_last:
            raise ArchiveRefused("overlap", reason="its files overlap each other, as no real archive does")
        end_of_last = member.header_offset + 30 + member.compress_size
    if end_of_last > size:
        raise ArchiveRefused("damaged", reason="it ends too early; parts of it are missing")
