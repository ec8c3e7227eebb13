"""Where each frame of a DICOM image stands in its file (PS3.5, 8 and A.4): native, or encapsulated with an extended
offset table, a basic one or none. Nothing is decoded or converted. Called by `web/dicom_web_parts`."""

import struct
from collections.abc import Iterator

from myphr.ingest.dicom import ITEM, SEQUENCE_END, UNDEFINED
from myphr.ingest.dicom_file import DicomFile

FRAGMENTS_MAX = 50_000  # that are looked at for one frame, or for all where no table tells
EXPLICIT_LE = "1.2.840.10008.1.2.1"
_NATIVE = {"1.2.840.10008.1.2", EXPLICIT_LE, "1.2.840.10008.1.2.2", ""}
_TABLE, _TABLE_LENGTHS = 0x7FE00001, 0x7FE00002
PIXELS = {0x7FE00008: 32, 0x7FE00009: 64, 0x7FE00010: 0}  # tag -> bits, where the tag says them
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _BITS = (
    0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100
)  # fmt: skip
_WANTED = {_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _BITS}

# PS3.18, 8.7.3.3; of a syntax that is not here the octets go out under its own name
_MEDIA_TYPES = {
    "image/jpeg": (50, 51, 57, 70), "image/jls": (80, 81), "image/jp2": (90, 91), "image/jpx": (92, 93),
    "video/mpeg2": (100, 101), "video/mp4": (102, 103, 104, 105, 106), "image/jxl": (110, 111, 112),
    "image/jphc": (201, 202, 203),
}  # fmt: skip
OCTETS = "application/octet-stream"
MEDIA_TYPES = {f"1.2.840.10008.1.2.4.{one}": kind for kind, those in _MEDIA_TYPES.items() for one in those} | {
    "1.2.840.10008.1.2.5": "image/dicom-rle"
}


Part = bytes | tuple[int, int]  # octets, or the (start, length) of some in the file


class NoSuchFrame(Exception):
    """The image has no such frame, or the file ends before it."""


class NotByFrames(Exception):
    """The frames cannot be told apart without decoding, or not given out as they are stored."""


class Frames:
    """The frames of one image. Raises NoSuchFrame where there are no pixels at all."""

    def __init__(self, file: DicomFile) -> None:
        self._file = file
        self._values: dict[int, bytes] = {}
        self._tables: dict[int, tuple[int, int]] = {}
        self._count_at = 0, 0
        self._fragments_of_all: list[tuple[int, int]] | None = None
        for tag, _vr, start, length in file.elements():
            if tag == _FRAMES:
                self._count_at = start, length
            if tag in _WANTED and length <= 64:
                self._values[tag] = file.take(start, length)
            elif tag in (_TABLE, _TABLE_LENGTHS):
                self._tables[tag] = start, length
            elif tag in PIXELS:
                self.tag = tag
                self._start, self._length, self._bits = start, length, PIXELS[tag] or self._number(_BITS, 0)
                break
        else:
            raise NoSuchFrame
        try:
            text = self._values.get(_FRAMES, b"").decode("ascii").split("\\")[0].strip("\0 ")
            self.count = int(text[:12] or 1)
        except ValueError:
            self.count = 1
        self.encapsulated = self._length == UNDEFINED
        native = file.syntax in _NATIVE
        # Octets of explicit and implicit little endian are the same; those of a big-endian word are not.
        self.syntax = EXPLICIT_LE if native else file.syntax
        self.media_type = OCTETS if native else MEDIA_TYPES.get(file.syntax, OCTETS)
        if file.deflated or self.encapsulated == native or (not file.little and self._bits > 8):
            raise NotByFrames

    def pieces(self, number: int) -> list[tuple[int, int]]:
        """The (start, length) of each piece of this frame, which counts from 1. Raises NoSuchFrame, NotByFrames."""
        if not 1 <= number <= self.count:
            raise NoSuchFrame
        found = self._fragments(number) if self.encapsulated else [self._native(number)]
        if not found or any(start + length > self._file.size for start, length in found):
            raise NoSuchFrame
        return found

    def alone(self, number: int) -> "Alone":
        """A file of this image with this frame only, for whoever draws it. Raises NoSuchFrame, NotByFrames."""
        pieces = self.pieces(number)
        if self._tables:
            raise NotByFrames  # an extended table would lie about what is left
        at, length = self._count_at
        parts: list[Part] = [(0, at), b"1".ljust(length)[:length], (at + length, self._start - at - length)]
        if self.encapsulated:
            parts.append(_item_head(ITEM, 0))
            for start, size in pieces:
                parts += [_item_head(ITEM, size), (start, size)]
            parts.append(_item_head(SEQUENCE_END, 0))
        else:
            head = self._start - 4
            parts[2:] = [(at + length, head - at - length), struct.pack("<I", pieces[0][1]), *pieces]
        return Alone(self._file, parts)

    def _native(self, number: int) -> tuple[int, int]:
        samples = self._number(_SAMPLES, 1)
        if self._values.get(_PHOTOMETRIC, b"").strip(b"\0 ") == b"YBR_FULL_422":
            samples = 2
        bits = self._number(_ROWS, 0) * self._number(_COLUMNS, 0) * samples * self._bits
        if bits % 8 and self.count > 1:
            raise NotByFrames  # frames of single bits begin in the midst of an octet
        size = (bits + 7) // 8
        if not size or number * size > self._length:
            raise NoSuchFrame
        return self._start + (number - 1) * size, size

    def _fragments(self, number: int) -> list[tuple[int, int]]:
        tag, length = self._item(self._start)
        if tag != ITEM:
            raise NoSuchFrame
        table, first = self._start + 8, self._start + 8 + length
        if self._holds(_TABLE, 8):
            found = list(self._walk(first + self._entry("<Q", self._tables[_TABLE][0], number), None, 1))
            if self._holds(_TABLE_LENGTHS, 8) and found:  # without the octet that makes a fragment even
                start, length = found[0]
                found = [(start, min(length, self._entry("<Q", self._tables[_TABLE_LENGTHS][0], number)))]
            return found
        if length == 4 * self.count:
            end = first + self._entry("<I", table, number + 1) if number < self.count else None
            return list(self._walk(first + self._entry("<I", table, number), end))
        if self._fragments_of_all is None:
            self._fragments_of_all = list(self._walk(first, None))
        if self.count == 1:
            return self._fragments_of_all
        if len(self._fragments_of_all) != self.count:
            raise NotByFrames
        return [self._fragments_of_all[number - 1]]

    def _walk(self, at: int, end: int | None, most: int = FRAGMENTS_MAX) -> Iterator[tuple[int, int]]:
        """Fragments from here to `end`, the sequence's or the file's end. Raises NotByFrames for more than there may
        be."""
        for _ in range(most):
            tag, length = self._item(at)
            if tag != ITEM or (end is not None and at >= end):
                return
            yield at + 8, length
            at += 8 + length
        if most > 1:
            raise NotByFrames

    def _item(self, at: int) -> tuple[int, int]:
        head = self._file.take(at, 8)
        if len(head) < 8:
            return 0, 0
        group, element, length = struct.unpack("<HHI", head)
        return group << 16 | element, length

    def _holds(self, tag: int, width: int) -> bool:
        return tag in self._tables and self._tables[tag][1] == width * self.count

    def _entry(self, form: str, table: int, number: int) -> int:
        width = struct.calcsize(form)
        raw = self._file.take(table + (number - 1) * width, width)
        if len(raw) < width:
            raise NoSuchFrame
        return struct.unpack(form, raw)[0]

    def _number(self, tag: int, default: int) -> int:
        raw = self._values.get(tag, b"")
        return int.from_bytes(raw, "little" if self._file.little else "big") if len(raw) == 2 else default


class Alone:
    """A file put together from parts of another, read like that one."""

    def __init__(self, file: DicomFile, parts: list[Part]) -> None:
        self._file, self._parts = file, parts
        self.size = sum(len(one) if isinstance(one, bytes) else one[1] for one in parts)

    def read_at(self, at: int, length: int) -> bytes:
        found = b""
        for one in self._parts:
            size = len(one) if isinstance(one, bytes) else one[1]
            if at < size and len(found) < length:
                wanted = min(size - at, length - len(found))
                found += one[at : at + wanted] if isinstance(one, bytes) else self._file.take(one[0] + at, wanted)
            at = max(0, at - size)
        return found


def _item_head(tag: int, length: int) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)
