"""ISO 9660 (ECMA-119) with Joliet and Rock Ridge (SUSP and RRIP, IEEE P1281 and P1282): the files of a disc's image.

Pure: reads through a function, allocates nothing by a length that the disc claims, follows no loop. Every tree on the
disc is walked (Rock Ridge names before Joliet's before plain ones), and a file that only one of them knows is found.
Called by `images`.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterator

SECTOR_BYTES = 2048
DESCRIPTORS_FROM = 16  # 6.2.1
DESCRIPTORS_MAX = 64
DEPTH_MAX = 64
FOLDERS_MAX = 20_000
FOLDER_BYTES_MAX = 8 * 1024**2  # of one; 30,000 files of long names
PATH_CHARACTERS_MAX = 4096
EXTENTS_MAX = 512  # of one file: each holds up to 4 GiB
CONTINUATIONS_MAX = 16  # of one record's system use area

Read = Callable[[int, int], bytes]  # offset, length -> at most so many bytes; fewer only at the end of the image
_ROOT = slice(156, 190)  # of a volume descriptor, 8.4.18
_DIRECTORY, _ASSOCIATED, _MORE = 0x02, 0x04, 0x80  # flags of a record, 9.1.6
_JOLIET = (b"%/@", b"%/C", b"%/E")
_KIND, _LINK, _FOLDER, _REGULAR = 0o170000, 0o120000, 0o040000, 0o100000


class Damaged(Exception):
    """No volume, or one that cannot be read."""


class TooMany(Exception):
    """More files or folders than agreed."""


@dataclasses.dataclass(frozen=True)
class DiscFile:
    """`extents`: (offset, bytes) in the image, in order. `kind`: "file", "link" or "device"."""

    path: str
    extents: tuple[tuple[int, int], ...]
    kind: str = "file"

    @property
    def plain_bytes(self) -> int:
        return sum(size for _, size in self.extents)


@dataclasses.dataclass(frozen=True)
class Disc:
    label: str
    made_on: str  # ISO 8601 date, or ""
    files: list[DiscFile]
    damaged_folders: int


@dataclasses.dataclass(frozen=True)
class _Volume:
    descriptor: bytes
    block_bytes: int
    joliet: bool


@dataclasses.dataclass
class _Record:
    name: bytes
    extents: list[tuple[int, int]]
    flags: int
    system_use: bytes


def read_disc(read: Read, files_max: int) -> Disc:
    """All files of all trees. Raises Damaged, TooMany."""
    volumes = list(_volumes(read))
    if not volumes:
        raise Damaged
    primary = next((volume for volume in volumes if not volume.joliet), volumes[0])
    walks = []
    for volume in volumes:
        if not volume.joliet and (skip := _susp_skip(read, volume)) is not None:
            walks.append(_Walk(read, volume, files_max, rock_ridge_skip=skip))
    walks += [_Walk(read, volume, files_max) for volume in volumes if volume.joliet]
    walks += [_Walk(read, volume, files_max) for volume in volumes if not volume.joliet]
    files: list[DiscFile] = []
    seen: set[int] = set()  # where files of the trees before begin
    damaged = 0
    for walk in walks:
        found = list(walk.files())
        if files:  # another tree: only what has bytes that no tree before it knows
            found = [file for file in found if file.kind == "file" and file.extents and file.extents[0][0] not in seen]
        files += found
        seen |= {file.extents[0][0] for file in found if file.extents}
        damaged = max(damaged, walk.damaged_folders)
        if len(files) > files_max:
            raise TooMany
    return Disc(_text(primary.descriptor[40:72]), _date(primary.descriptor[813:830]), files, damaged)


def _volumes(read: Read) -> Iterator[_Volume]:
    for number in range(DESCRIPTORS_MAX):
        sector = read((DESCRIPTORS_FROM + number) * SECTOR_BYTES, SECTOR_BYTES)
        if len(sector) < SECTOR_BYTES or sector[1:6] != b"CD001" or sector[0] == 255:
            return
        block_bytes = struct.unpack_from("<H", sector, 128)[0]
        if sector[0] in (1, 2) and block_bytes in (512, 1024, 2048):
            escapes = sector[88:120]
            joliet = sector[0] == 2 and escapes[:3] in _JOLIET
            if sector[0] == 1 or joliet:
                yield _Volume(sector, block_bytes, joliet)


def _susp_skip(read: Read, volume: _Volume) -> int | None:
    """How many bytes of each system use area are not ours (SUSP 5.3), or None if there is no Rock Ridge."""
    root = _root(volume)
    for record in _records(read(root[0], SECTOR_BYTES), volume):
        area = record.system_use
        if area[:2] == b"SP" and area[2:3] == b"\x07" and area[4:6] == b"\xbe\xef":
            return area[6]
        return None
    return None


def _root(volume: _Volume) -> tuple[int, int]:
    block, size = struct.unpack_from("<I4xI", volume.descriptor[_ROOT], 2)
    return block * volume.block_bytes, size


def _records(folder: bytes, volume: _Volume) -> Iterator[_Record]:
    """The records of one directory (9.1). None crosses a sector; a length of zero ends its sector."""
    at = 0
    while at + 33 < len(folder):
        length = folder[at]
        if length == 0:
            at += SECTOR_BYTES - at % SECTOR_BYTES
            continue
        if length < 34 or at + length > len(folder):
            at += SECTOR_BYTES - at % SECTOR_BYTES
            continue
        record = folder[at : at + length]
        at += length
        ear, block, size = struct.unpack_from("<BI4xI", record, 1)
        flags, unit, name_bytes = record[25], record[26], record[32]
        if 33 + name_bytes > length:
            continue
        begin = 33 + name_bytes + (1 - name_bytes % 2)
        extents = [((block + ear) * volume.block_bytes, size)]
        if unit:
            extents = [(-1, size)]  # interleaved (6.4.3): no disc of a patient is; told as damaged
        yield _Record(record[33 : 33 + name_bytes], extents, flags, record[begin:])


class _Walk:
    """One tree of one volume."""

    def __init__(self, read: Read, volume: _Volume, files_max: int, rock_ridge_skip: int | None = None) -> None:
        self._read = read
        self._volume = volume
        self._files_max = files_max
        self._skip = rock_ridge_skip
        self.damaged_folders = 0

    def files(self) -> Iterator[DiscFile]:
        offset, size = _root(self._volume)
        waiting = [(offset, size, "", 0)]
        seen = {offset}
        count = 0
        while waiting:
            offset, size, path, depth = waiting.pop()
            for record, name, kind, child in self._entries(offset, size):
                full = f"{path}{name}"[:PATH_CHARACTERS_MAX]
                if kind == "folder":
                    at, folder_bytes = child
                    if at in seen or depth >= DEPTH_MAX:
                        continue
                    seen.add(at)
                    if len(seen) > FOLDERS_MAX:
                        raise TooMany
                    waiting.append((at, folder_bytes, full + "/", depth + 1))
                    continue
                count += 1
                if count > self._files_max:
                    raise TooMany
                yield DiscFile(full, tuple(one for one in record.extents if one[1]), kind)

    def _entries(self, offset: int, size: int) -> Iterator[tuple[_Record, str, str, tuple[int, int]]]:
        folder = self._read(offset, min(size, FOLDER_BYTES_MAX))
        if len(folder) < size:
            self.damaged_folders += 1
        open_: _Record | None = None  # a file in several extents comes as several records
        for record in _records(folder, self._volume):
            if record.name in (b"\0", b"\1") or record.flags & _ASSOCIATED:
                continue
            if open_ is not None:
                if len(open_.extents) < EXTENTS_MAX:
                    open_.extents += record.extents
                if record.flags & _MORE:
                    continue
                record, open_ = open_, None
            elif record.flags & _MORE and not record.flags & _DIRECTORY:
                open_ = record
                continue
            entry = self._entry(record)
            if entry is not None:
                yield entry

    def _entry(self, record: _Record) -> tuple[_Record, str, str, tuple[int, int]] | None:
        kind = "folder" if record.flags & _DIRECTORY else "file"
        child = record.extents[0]
        if self._skip is None:
            name = _text(record.name, utf16=self._volume.joliet).split(";")[0]
            return record, _component(name if self._volume.joliet else name.rstrip(".")), kind, child
        name = ""
        for signature, payload in self._system_use(record.system_use[self._skip :]):
            if signature == b"NM" and len(payload) >= 1 and not payload[0] & 0x06:
                name += payload[1:].decode("utf-8", "replace")
            elif signature == b"PX" and len(payload) >= 4:
                mode = struct.unpack_from("<I", payload)[0] & _KIND
                if mode not in (_REGULAR, _FOLDER, 0):
                    kind = "link" if mode == _LINK else "device"
            elif signature == b"SL":
                kind = "link"
            elif signature == b"RE":
                return None  # moved here for depth; its own place names it by CL
            elif signature == b"CL" and len(payload) >= 4:
                at = struct.unpack_from("<I", payload)[0] * self._volume.block_bytes
                own = next(_records(self._read(at, SECTOR_BYTES), self._volume), None)
                kind, child = "folder", (at, own.extents[0][1] if own is not None else SECTOR_BYTES)
        return record, _component(name or _text(record.name).split(";")[0].rstrip(".")), kind, child

    def _system_use(self, area: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Signature and payload of each entry, over its continuations (SUSP 5.1)."""
        for _ in range(CONTINUATIONS_MAX):
            following: tuple[int, int] | None = None
            at = 0
            while at + 4 <= len(area):
                signature, length = area[at : at + 2], area[at + 2]
                if length < 4 or at + length > len(area) or signature == b"ST":
                    break
                payload = area[at + 4 : at + length]
                if signature == b"CE" and len(payload) >= 24:
                    block, offset, size = struct.unpack("<I4xI4xI4x", payload[:24])
                    following = (block * self._volume.block_bytes + offset, min(size, SECTOR_BYTES))
                else:
                    yield signature, payload
                at += length
            if following is None:
                return
            area = self._read(*following)


def _component(name: str) -> str:
    """One name is one name, whatever is written in it."""
    return name.replace("/", "_").replace("\0", "") or "_"


def _text(raw: bytes, utf16: bool = False) -> str:
    if utf16:
        return raw.decode("utf-16-be", "replace").strip(" \0")
    return raw.decode("utf-8", "replace").strip(" \0")


def _date(raw: bytes) -> str:
    """The day of a 17-byte date (8.4.26.1)."""
    digits = raw[:8]
    if not digits.isdigit() or digits[:4] == b"0000":
        return ""
    return f"{digits[:4].decode()}-{digits[4:6].decode()}-{digits[6:8].decode()}"
