"""Everything a DICOM file says but its pixels, as the JSON model of PS3.18, annex F, for apps that ask for metadata.

Private elements and sequences too. What is longer than `INLINE_BYTES_MAX` is told as an address. A file that nests or
counts without end costs `STEPS_MAX` elements, `DEPTH_MAX` levels and `NESTED_BYTES_MAX` of long values at most: what is
beyond them is told without its value. Called by `web/dicom_web_out`; knows no item, key or HTTP.
"""

import base64
import math
import struct
from collections.abc import Callable
from typing import Any

from myphr.ingest.dicom import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Stop, decode, encodings_of
from myphr.ingest.dicom_file import DicomFile, FileWalk
from myphr.ingest.dicom_frames import PIXELS

STEPS_MAX = 50_000  # elements in sequences: 0.5 s; an enhanced image of 800 frames stays below
DEPTH_MAX = 16
INLINE_BYTES_MAX = 1024
NESTED_BYTES_MAX = 256 * 1024  # long values in sequences have no address: they stand there, up to this in all
TEXT_BYTES_MAX = 64 * 1024

_CHARACTER_SET, _PIXEL_REPRESENTATION = 0x00080005, 0x00280103
_TEXTS = frozenset({"LT", "ST", "UT", "UR"})
_LISTS = frozenset({"AE", "AS", "CS", "DA", "DT", "TM", "UI", "LO", "SH", "UC"})
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "SV": "q", "UV": "Q"}
_NAMES = ("Alphabetic", "Ideographic", "Phonetic")
# PS3.18, F.2.2: these may be told by an address
_BULK = frozenset({"DS", "IS", "LT", "ST", "UC", "UT", "OB", "OD", "OF", "OL", "OV", "OW", "UN"}) | frozenset(_NUMBERS)

Json = dict[str, Any]


def whole_header(file: DicomFile, address_of: Callable[[str], str]) -> Json:
    """The elements by tag. `address_of` makes the address of a long value from its tag."""
    return _Header(file, address_of).top()


def bulk_of(file: DicomFile, tag: int) -> tuple[int, int] | None:
    """The (start, length) of one top-level value of defined length that is no sequence, or None."""
    for found, vr, start, length in file.elements():
        if found == tag:
            fits = 0 < length < UNDEFINED and start + length <= file.size
            return (start, length) if fits and vr != b"SQ" else None
        if found > tag or found in PIXELS:
            return None
    return None


class _Header:
    def __init__(self, file: DicomFile, address_of: Callable[[str], str]) -> None:
        self._file, self._address_of = file, address_of
        self._steps_left, self._bytes_left = STEPS_MAX, NESTED_BYTES_MAX
        self._signed = False
        self._order = "<" if file.little else ">"
        # Octets of a deflated file have no place in it, those of big-endian words would have to be turned.
        self._bulk = file.little and not file.deflated

    def top(self) -> Json:
        found: Json = {}
        encodings = ["iso8859"]
        for tag, vr_bytes, start, length in self._file.elements():
            if tag & 0xFFFF == 0:
                continue  # lengths of groups, retired
            vr = self._vr(tag, vr_bytes, length)
            if tag == _CHARACTER_SET and length <= INLINE_BYTES_MAX:
                encodings = encodings_of(self._file.take(start, length))
            if tag in PIXELS:
                vr = {0x7FE00008: "OF", 0x7FE00009: "OD"}.get(tag, "OB" if length == UNDEFINED else vr)
                found[f"{tag:08X}"] = self._at_address(tag, vr)
                break
            if vr == "SQ":
                found[f"{tag:08X}"] = self._sequence(vr_bytes, start, length, encodings)
            elif length > self._file.size - start:
                break
            elif length > INLINE_BYTES_MAX and vr in _BULK:
                found[f"{tag:08X}"] = self._at_address(tag, vr)
            else:
                found[f"{tag:08X}"] = self._element(vr, start, length, encodings, TEXT_BYTES_MAX)
                if tag == _PIXEL_REPRESENTATION:
                    self._signed = found[f"{tag:08X}"].get("Value") == [1]
        return found

    def _at_address(self, tag: int, vr: str) -> Json:
        return {"vr": vr, "BulkDataURI": self._address_of(f"{tag:08X}")} if self._bulk else {"vr": vr}

    def _sequence(self, vr: bytes, start: int, length: int, encodings: list[str]) -> Json:
        walk = FileWalk(self._file, start)
        walk.steps_max = self._steps_left
        try:
            items = self._items(walk, length, self._file.explicit and vr != b"UN", encodings, 1)
        except Stop:
            items = []  # half a sequence might say something else than the whole
        self._steps_left -= walk.steps
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}

    def _items(self, walk: FileWalk, length: int, explicit: bool, encodings: list[str], depth: int) -> list[Json]:
        """The items of the sequence at the cursor, which then stands behind it. Raises Stop."""
        if depth > DEPTH_MAX:
            raise Stop
        end = None if length == UNDEFINED else walk.at + length
        items = []
        while end is None or walk.at < end:
            tag, _vr, size = walk.header(explicit)
            if tag == SEQUENCE_END:
                break
            if tag != ITEM:
                raise Stop
            items.append(self._item(walk, None if size == UNDEFINED else walk.at + size, explicit, encodings, depth))
        return items

    def _item(self, walk: FileWalk, end: int | None, explicit: bool, encodings: list[str], depth: int) -> Json:
        found: Json = {}
        while end is None or walk.at < end:
            tag, vr_bytes, length = walk.header(explicit)
            if tag == ITEM_END:
                break
            start, vr = walk.at, self._vr(tag, vr_bytes, length)
            if length != UNDEFINED and start + length > self._file.size:
                raise Stop
            if tag == _CHARACTER_SET and length <= INLINE_BYTES_MAX:
                encodings = encodings_of(self._file.take(start, length))
            if vr == "SQ":
                items = self._items(walk, length, explicit and vr_bytes != b"UN", encodings, depth + 1)
                found[f"{tag:08X}"] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
                continue
            if length == UNDEFINED:  # encapsulated pixels of an icon
                walk.skip_undefined(explicit)
                found[f"{tag:08X}"] = {"vr": vr}
                continue
            if length > INLINE_BYTES_MAX:
                self._bytes_left -= length
            room = INLINE_BYTES_MAX if self._bytes_left < 0 else NESTED_BYTES_MAX
            found[f"{tag:08X}"] = self._element(vr, start, length, encodings, room)
            walk.at = start + length
        return found

    def _vr(self, tag: int, vr: bytes, length: int) -> str:
        if length == UNDEFINED and vr in (b"", b"UN") and tag not in PIXELS:
            return "SQ"
        if vr:
            return vr.decode("ascii")
        if tag >> 16 & 1:
            return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
        from pydicom.datadict import dictionary_VR

        try:
            found = str(dictionary_VR(tag))
        except KeyError:
            return "UN"
        if found.startswith("US or SS"):
            return "SS" if self._signed else "US"
        return {"OB or OW": "OW", "US or OW": "OW"}.get(found, found)

    def _element(self, vr: str, start: int, length: int, encodings: list[str], most: int) -> Json:
        if not 0 < length <= most:
            return {"vr": vr}
        raw = self._file.take(start, length)
        if vr in ("OB", "OW", "OD", "OF", "OL", "OV", "UN"):
            turned = self._order == ">" and vr not in ("OB", "UN")
            return {"vr": vr} if turned else {"vr": vr, "InlineBinary": base64.b64encode(raw).decode()}
        values = self._values(vr, raw, encodings)
        return {"vr": vr} if all(one is None for one in values) else {"vr": vr, "Value": values}

    def _values(self, vr: str, raw: bytes, encodings: list[str]) -> list[Any]:
        if vr in _NUMBERS:
            width = struct.calcsize("<" + _NUMBERS[vr])
            numbers = struct.unpack(f"{self._order}{len(raw) // width}{_NUMBERS[vr]}", raw[: len(raw) // width * width])
            return [one if math.isfinite(one) else None for one in numbers]
        if vr == "AT":
            words = struct.unpack(f"{self._order}{len(raw) // 4 * 2}H", raw[: len(raw) // 4 * 4])
            return [f"{group:04X}{element:04X}" for group, element in zip(words[::2], words[1::2], strict=True)]
        text = decode(raw, encodings)
        if vr in _TEXTS:
            return [text or None]
        parts = [one.strip(" \0") for one in text.split("\\")]
        if vr == "PN":
            return [_name(one) for one in parts]
        if vr in ("IS", "DS"):
            return [_number(one) for one in parts]
        return [one or None for one in parts]


def _name(text: str) -> Json | None:
    return {key: one for key, one in zip(_NAMES, text.split("="), strict=False) if one} or None


def _number(text: str) -> Any:
    """As a number, or as it stands where it is none (PS3.18, F.2.3 allows both)."""
    if not text:
        return None
    try:
        found: int | float = int(text) if len(text) <= 12 and text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return text
    return found if math.isfinite(found) else text
