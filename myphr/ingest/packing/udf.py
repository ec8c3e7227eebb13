"""UDF 1.02 to 2.01 (ECMA-167 and OSTA's UDF) on a plain or sparable partition: what DVDs of hospitals bear (PS3.12, J).

Pure: reads through a function, allocates nothing by a length that the disc claims, follows no loop. Packet-written
discs (virtual partition) and UDF 2.50 (metadata partition) are not read: Unsupported. Called by `images`.
"""

import dataclasses
import struct
from collections.abc import Iterator

from myphr.ingest.packing.iso9660 import (
    DEPTH_MAX,
    EXTENTS_MAX,
    FOLDER_BYTES_MAX,
    FOLDERS_MAX,
    PATH_CHARACTERS_MAX,
    SECTOR_BYTES,
    Damaged,
    Disc,
    DiscFile,
    Read,
    TooMany,
)

_ANCHOR, _PRIMARY, _PARTITION, _LOGICAL, _END = 2, 1, 5, 6, 8  # tag identifiers, ECMA-167 3/7.2.1
_FILE_SET, _NAME, _EXTENT, _ENTRY, _EXTENDED_ENTRY = 256, 257, 258, 261, 266  # 4/7.2.1
_ANCHOR_SECTOR = 256
_DESCRIPTORS_MAX = 64
_FOLDER, _REGULAR, _LINK = 4, 5, 12  # file types, 4/14.6.6


class Unsupported(Exception):
    """A kind of UDF that is not read here."""


@dataclasses.dataclass(frozen=True)
class _Volume:
    block_bytes: int
    starts: tuple[int, ...]  # offset of each partition that the logical volume names
    file_set: tuple[int, int, int]  # length, block, partition
    label: str
    made_on: str


@dataclasses.dataclass(frozen=True)
class _Entry:
    file_type: int
    size: int
    extents: tuple[tuple[int, int], ...]  # offset (-1: nothing recorded there), bytes


def read_disc(read: Read, files_max: int) -> Disc:
    """All files. Raises Damaged, TooMany, Unsupported."""
    volume = _volume(read)
    walk = _Walk(read, volume, files_max)
    return Disc(volume.label, volume.made_on, list(walk.files()), walk.damaged_folders)


def _tag(data: bytes) -> int:
    """The identifier of a descriptor, or 0 if its tag does not fit (3/7.2)."""
    if len(data) < 16 or (sum(data[:4]) + sum(data[5:16])) & 0xFF != data[4]:
        return 0
    return struct.unpack_from("<H", data)[0]


def _volume(read: Read) -> _Volume:
    anchor = read(_ANCHOR_SECTOR * SECTOR_BYTES, SECTOR_BYTES)
    if _tag(anchor) != _ANCHOR or len(anchor) < 32:
        raise Damaged
    for at in (16, 24):  # the main sequence, then its copy
        size, sector = struct.unpack_from("<II", anchor, at)
        found = _sequence(read, sector, size // SECTOR_BYTES)
        if found is not None:
            return found
    raise Damaged


def _sequence(read: Read, sector: int, sectors: int) -> _Volume | None:
    partitions: dict[int, int] = {}
    logical: bytes | None = None
    made_on = ""
    for number in range(min(sectors, _DESCRIPTORS_MAX)):
        descriptor = read((sector + number) * SECTOR_BYTES, SECTOR_BYTES)
        if len(descriptor) < SECTOR_BYTES:
            break
        match _tag(descriptor):
            case 1:
                made_on = _day(descriptor[376:388])
            case 5:
                partitions[struct.unpack_from("<H", descriptor, 22)[0]] = struct.unpack_from("<I", descriptor, 188)[0]
            case 6:
                logical = descriptor
            case 8:
                break
    if logical is None or not partitions:
        return None
    block_bytes, count = struct.unpack_from("<I", logical, 212)[0], struct.unpack_from("<I", logical, 268)[0]
    if block_bytes not in (512, 1024, 2048, 4096):
        return None
    starts = tuple(partitions.get(number, -1) * SECTOR_BYTES for number in _maps(logical[440:], min(count, 8)))
    if not starts or any(start < 0 for start in starts):
        return None
    length, block, partition = struct.unpack_from("<IIH", logical, 248)
    return _Volume(block_bytes, starts, (length, block, partition), _dstring(logical[84:212]), made_on)


def _maps(data: bytes, count: int) -> Iterator[int]:
    """The number of the partition behind each map (3/10.7)."""
    at = 0
    for _ in range(count):
        kind, length = data[at : at + 1], data[at + 1] if at + 1 < len(data) else 0
        if kind == b"\1" and length == 6:
            yield struct.unpack_from("<H", data, at + 4)[0]
        elif kind == b"\2" and length == 64 and at + 64 <= len(data):
            if not data[at + 5 : at + 28].startswith(b"*UDF Sparable"):
                raise Unsupported
            yield struct.unpack_from("<H", data, at + 38)[0]
        else:
            raise Damaged
        at += length


class _Walk:
    def __init__(self, read: Read, volume: _Volume, files_max: int) -> None:
        self._read = read
        self._volume = volume
        self._files_max = files_max
        self.damaged_folders = 0

    def files(self) -> Iterator[DiscFile]:
        _, block, partition = self._volume.file_set
        file_set = self._read(self._at(block, partition), self._volume.block_bytes)
        if _tag(file_set) != _FILE_SET or len(file_set) < 416:
            raise Damaged
        _, block, partition = struct.unpack_from("<IIH", file_set, 400)
        root = self._entry(block, partition)
        if root is None or root.file_type != _FOLDER:
            raise Damaged
        waiting = [(root, "", 0)]
        seen = {(partition, block)}
        count = 0
        while waiting:
            folder, path, depth = waiting.pop()
            for name, icb in self._names(folder):
                count += 1
                if count > self._files_max + FOLDERS_MAX:
                    raise TooMany
                entry = self._entry(*icb)
                full = (path + (name.replace("/", "_").replace("\0", "") or "_"))[:PATH_CHARACTERS_MAX]
                if entry is None:
                    yield DiscFile(full, ((-1, 1),))  # told as damaged
                elif entry.file_type == _FOLDER:
                    if (icb[1], icb[0]) not in seen and depth < DEPTH_MAX:
                        seen.add((icb[1], icb[0]))
                        if len(seen) > FOLDERS_MAX:
                            raise TooMany
                        waiting.append((entry, full + "/", depth + 1))
                else:
                    kind = {_REGULAR: "file", _LINK: "link"}.get(entry.file_type, "device")
                    yield DiscFile(full, entry.extents, kind)

    def _at(self, block: int, partition: int) -> int:
        if partition >= len(self._volume.starts):
            return -1
        return self._volume.starts[partition] + block * self._volume.block_bytes

    def _entry(self, block: int, partition: int) -> _Entry | None:
        """A file entry (4/14.9, 4/14.17) with where its bytes are."""
        at = self._at(block, partition)
        data = self._read(at, self._volume.block_bytes)
        kind = _tag(data)
        if kind not in (_ENTRY, _EXTENDED_ENTRY) or len(data) < 216:
            return None
        begin = 176 if kind == _ENTRY else 216
        attributes, descriptors = struct.unpack_from("<II", data, begin - 8)
        begin += attributes
        if begin + descriptors > len(data):
            return None
        size = struct.unpack_from("<Q", data, 56)[0]
        layout = struct.unpack_from("<H", data, 34)[0] & 7
        if layout == 3:  # so small that it lies in the entry itself
            return _Entry(data[27], size, ((at + begin, min(size, descriptors)),))
        if layout not in (0, 1):
            return None
        extents: list[tuple[int, int]] = []
        left = size
        for offset, length in self._extents(data[begin : begin + descriptors], layout, partition):
            length = min(length, left)
            left -= length
            if length:
                extents.append((offset, length))
        if left:  # the entry tells of more bytes than it says where to find
            extents.append((-1, left))
        return _Entry(data[27], size, tuple(extents))

    def _extents(self, data: bytes, layout: int, partition: int) -> Iterator[tuple[int, int]]:
        """Offset and bytes of each allocation descriptor (4/14.14), over what continues elsewhere."""
        step = struct.Struct("<II") if layout == 0 else struct.Struct("<IIH6x")
        following: bytes | None = data
        for _ in range(EXTENTS_MAX):
            if following is None:
                return
            data, following = following, None
            for at in range(0, len(data) - step.size + 1, step.size):
                length, block, *other = step.unpack_from(data, at)
                kind, length = length >> 30, length & 0x3FFFFFFF
                offset = self._at(block, other[0] if other else partition)
                if length == 0:
                    return
                if kind == 3:
                    sector = self._read(offset, self._volume.block_bytes)
                    if _tag(sector) != _EXTENT or len(sector) < 24:
                        return
                    following = sector[24 : 24 + struct.unpack_from("<I", sector, 20)[0]]
                    break
                yield offset if kind == 0 else -1, length

    def _names(self, folder: _Entry) -> Iterator[tuple[str, tuple[int, int]]]:
        """Name and place of each file identifier (4/14.4)."""
        size = min(folder.size, FOLDER_BYTES_MAX)
        parts: list[bytes] = []
        for offset, length in folder.extents:
            if size > 0 and offset >= 0:
                parts.append(self._read(offset, min(length, size)))
                size -= len(parts[-1])
        data = b"".join(parts)
        if len(data) < folder.size:
            self.damaged_folders += 1
        at = 0
        while at + 38 <= len(data):
            if struct.unpack_from("<H", data, at)[0] != _NAME:
                self.damaged_folders += 1
                return
            characteristics, name_bytes, _, block, partition = struct.unpack_from("<BBIIH", data, at + 18)
            use_bytes = struct.unpack_from("<H", data, at + 36)[0]
            begin = at + 38 + use_bytes
            if not characteristics & 0x0C:  # neither deleted nor the parent
                yield _characters(data[begin : begin + name_bytes]), (block, partition)
            at = begin + name_bytes
            at += -at % 4


def _characters(raw: bytes) -> str:
    """OSTA compressed unicode (UDF 2.1.1)."""
    if raw[:1] == b"\x10":
        return raw[1:].decode("utf-16-be", "replace")
    return raw[1:].decode("latin-1")


def _dstring(raw: bytes) -> str:
    used = raw[-1]
    return _characters(raw[: min(used, len(raw) - 1)]).strip(" \0") if used else ""


def _day(raw: bytes) -> str:
    """The day of a timestamp (1/7.3)."""
    year, month, day = struct.unpack_from("<HBB", raw, 2)
    return f"{year:04}-{month:02}-{day:02}" if 1980 <= year <= 2200 and 1 <= month <= 12 and 1 <= day <= 31 else ""
