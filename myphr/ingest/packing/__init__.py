"""What is inside an archive or a disc image: its members, in a fixed order, and the bytes of each.

Reads an item through its sealed container; nothing is unpacked to a disk, and no name in it is ever a path of ours. All
of it is Python: what a stranger wrote meets no parser in C here (docs/decisions/0210). Raises ArchiveRefused for what
asks too much, before it is unpacked. Called by `ingest.archives`.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from myphr.errors import ArchiveRefused

# A whole archive that grows more than this is a bomb; deflate alone reaches 1,032. 16-bit images shrink to a tenth.
RATIO_MAX = 100
RATIO_FREE_BYTES = 64 * 1024**2
DIRECTORY_BYTES_PER_MEMBER = 1024  # what one entry of a table of contents may take on average
READ_BYTES = 1024**2
_JUNK_NAMES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})


@dataclasses.dataclass(frozen=True)
class Limits:
    members_max: int
    bytes_max: int


class MemberDamaged(Exception):
    """This member's bytes cannot be had; the others may be fine."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One file in an archive. `path` is as it stands there, with "/" between folders."""

    path: str
    plain_bytes: int
    where: object = dataclasses.field(compare=False, repr=False)  # of the reader that found it


@dataclasses.dataclass(frozen=True)
class Contents:
    """`left_out` counts what is never an item, by reason: "empty", "link", "device", "leftover". `open_member` gives a
    stream of at most the member's size; it raises MemberDamaged, as reading from it does. `label` and `made_on` (ISO
    8601) are the disc's own, of which only images have any."""

    members: Sequence[Member]
    left_out: Mapping[str, int]
    open_member: Callable[[Member], contextlib.AbstractContextManager["Stream"]]
    label: str = ""
    made_on: str = ""
    is_image: bool = False


class Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Opened(Protocol):
    """An open item (`records.opening.OpenItem`)."""

    @property
    def plain_bytes(self) -> int: ...
    def read_into(self, offset: int, buffer: memoryview) -> int: ...
    def read_at(self, offset: int, length: int) -> bytes: ...


class ItemFile(io.RawIOBase):
    """An open item as a file that can be read and sought in."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._opened.plain_bytes}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        view = memoryview(buffer).cast("B")
        got = self._opened.read_into(self._at, view) if self._at < self._opened.plain_bytes else 0
        self._at += got
        return got


def contents_of(format_code: str, opened: Opened, limits: Limits) -> Contents:
    """What is inside this archive. Raises ArchiveRefused."""
    from myphr.ingest.packing import images, tars, zips

    file = io.BufferedReader(ItemFile(opened), READ_BYTES)
    match format_code:
        case "zip":
            return zips.contents_of(file, opened.plain_bytes, limits)
        case "iso9660":
            return images.contents_of(opened, limits)
        case "tar" | "tar-gz":
            return tars.contents_of(file, opened.plain_bytes, limits, packed=format_code == "tar-gz")
    raise ArchiveRefused("packing", reason="it is packed in a way we cannot read; unpack it and upload its files")


FORMATS = frozenset({"zip", "iso9660", "tar", "tar-gz"})


# -- what the readers have in common ----------------------------------------------------------------
def damaged() -> ArchiveRefused:
    return ArchiveRefused("damaged", reason="its table of contents is damaged")


def too_many(limits: Limits) -> ArchiveRefused:
    return ArchiveRefused("too-many", reason=f"it holds more than {limits.members_max:,} files")


def check_total(total_bytes: int, archive_bytes: int, limits: Limits) -> None:
    """Raises ArchiveRefused if the members are together larger than allowed, or than any real archive's."""
    if total_bytes > limits.bytes_max:
        raise ArchiveRefused("too-large", reason="its files are larger than this portal accepts")
    if total_bytes > RATIO_FREE_BYTES + RATIO_MAX * archive_bytes:
        raise ArchiveRefused("bomb", reason="its files would be far larger than any real record")


def is_leftover(path: str) -> bool:
    """What operating systems leave behind in folders."""
    names = path.split("/")
    return "__MACOSX" in names or names[-1].lower() in _JUNK_NAMES or names[-1] == ""
