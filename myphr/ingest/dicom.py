"""DICOM headers from the first bytes of a file (PS3.5 chapter 7, PS3.10 chapter 7): a flat walk, bounded in every way.

Reads about twenty elements that group and name a file; never the pixels, never the whole file. No recursion, no
allocation by a length the file claims, at most `STEPS_MAX` elements and `INFLATED_BYTES_MAX` of a deflated data set.
Whatever cannot be read is left out: a damaged file is still an item. Called by `identify` while bytes stream in.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator

STEPS_MAX = 20_000
DEPTH_MAX = 64
VALUE_BYTES_MAX = 1024
TEXT_CHARACTERS_MAX = 256
INFLATED_BYTES_MAX = 256 * 1024

_EXPLICIT_LE = "1.2.840.10008.1.2.1"
_IMPLICIT_LE = "1.2.840.10008.1.2"
_EXPLICIT_BE = "1.2.840.10008.1.2.2"
_DEFLATED_LE = "1.2.840.10008.1.2.1.99"

# tag -> (key in the dict, kind). Ascending, as the walk meets them.
_WANTED = {
    0x00080016: ("sop_class", "uid"),
    0x00080018: ("instance_uid", "uid"),
    0x00080020: ("study_date", "ascii"),
    0x00080030: ("study_time", "ascii"),
    0x00080050: ("accession", "text"),
    0x00080060: ("modality", "ascii"),
    0x00080080: ("hospital", "text"),
    0x00081030: ("study_description", "text"),
    0x0008103E: ("series_description", "text"),
    0x00100010: ("patient_name", "text"),
    0x00100020: ("patient_id", "text"),
    0x00100030: ("patient_birth_date", "ascii"),
    0x00100040: ("patient_sex", "ascii"),
    0x00180015: ("body_part", "ascii"),
    0x0020000D: ("study_uid", "uid"),
    0x0020000E: ("series_uid", "uid"),
    0x00200011: ("series_number", "number"),
    0x00200013: ("instance_number", "number"),
    0x00280008: ("frames", "number"),
    0x00280010: ("rows", "binary"),
    0x00280011: ("columns", "binary"),
}
_LAST_WANTED = max(_WANTED)
_CHARACTER_SET = 0x00080005
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {
        b"AE",
        b"AS",
        b"AT",
        b"CS",
        b"DA",
        b"DS",
        b"DT",
        b"FL",
        b"FD",
        b"IS",
        b"LO",
        b"LT",
        b"PN",
        b"SH",
        b"SL",
        b"SS",
        b"ST",
        b"TM",
        b"UI",
        b"UL",
        b"US",
    }
)
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class Stop(Exception):
    """The head ends here, or what follows is not worth believing."""


class Walk:
    """One data set as (tag, VR, value start, length) without looking into sequences."""

    steps_max = STEPS_MAX

    def __init__(self, data: bytes, at: int, *, explicit: bool, little: bool) -> None:
        self.data = data
        self.at = at
        self.steps = 0
        self.explicit = explicit
        order = "<" if little else ">"
        self._explicit = struct.Struct(order + "HH2sH")
        self._implicit = struct.Struct(order + "HHI")
        self._u32 = struct.Struct(order + "I")

    def header(self, explicit: bool) -> tuple[int, bytes, int]:
        """Tag, VR (empty if implicit) and length at the cursor, which then stands on the value. Raises Stop."""
        self.steps += 1
        data, at = self.data, self.at
        if self.steps > self.steps_max or at + 8 > len(data):
            raise Stop
        if explicit:
            group, element, vr, length = self._explicit.unpack_from(data, at)
            if group != 0xFFFE:
                value = at + 8
                if vr in _LONG_VRS:
                    value = at + 12
                    if value > len(data):
                        raise Stop
                    length = self._u32.unpack_from(data, at + 8)[0]
                elif vr not in _SHORT_VRS:
                    raise Stop
                self.at = value
                return group << 16 | element, vr, length
        group, element, length = self._implicit.unpack_from(data, at)
        self.at = at + 8
        return group << 16 | element, b"", length

    def elements(self):
        """Top-level elements in order. Ends at the end of the head, at disorder or at a limit."""
        previous = -1
        try:
            while True:
                tag, vr, length = self.header(self.explicit)
                if tag <= previous:
                    return
                previous = tag
                start = self.at
                yield tag, vr, start, length
                if length == UNDEFINED:
                    # UN of undefined length holds implicit VR little endian, whatever surrounds it (PS3.5, 6.2.2).
                    self.skip_undefined(explicit=self.explicit and vr != b"UN")
                else:
                    self.at = start + length
        except Stop:
            return

    def skip_undefined(self, explicit: bool) -> None:
        """Move behind a sequence of undefined length. `open_` holds what is open: sequences and items in turn."""
        open_ = [SEQUENCE_END]
        while open_:
            if len(open_) > DEPTH_MAX:
                raise Stop
            in_item = open_[-1] == ITEM_END
            tag, vr, length = self.header(explicit and in_item)
            if tag == open_[-1]:
                open_.pop()
            elif in_item:
                if length != UNDEFINED:
                    self.at += length
                elif vr in (b"SQ", b"UN", b"") or vr in _LONG_VRS:
                    open_.append(SEQUENCE_END)
            elif tag == ITEM:
                if length != UNDEFINED:
                    self.at += length
                else:
                    open_.append(ITEM_END)
            else:
                raise Stop


def start_of(head: bytes) -> tuple[bytes, int, bool, bool, str]:
    """(data, offset, explicit, little, transfer syntax) of the data set. Raises Stop if this is no DICOM."""
    at = 132 if head[128:132] == b"DICM" else 0
    syntax = ""
    if head[at : at + 2] == b"\x02\x00":  # file meta information: always explicit VR little endian
        walk = Walk(head, at, explicit=True, little=True)
        end = at
        for tag, _vr, start, length in walk.elements():
            if tag >> 16 != 2:
                break
            if length == UNDEFINED or start + length > len(head):
                raise Stop
            if tag == 0x00020010:
                syntax = head[start : start + min(length, 64)].rstrip(b"\0 ").decode("ascii", "replace")
            end = start + length
        at = end
    if syntax == _DEFLATED_LE:
        inflate = zlib.decompressobj(-15)
        try:
            return inflate.decompress(head[at:], INFLATED_BYTES_MAX), 0, True, True, syntax
        except zlib.error:
            raise Stop from None
    if syntax == _EXPLICIT_BE:
        return head, at, True, False, syntax
    if syntax == _IMPLICIT_LE:
        return head, at, False, True, syntax
    # No or another syntax: look. Compressed syntaxes are explicit little endian; some writers lie.
    explicit = head[at + 4 : at + 6] in _SHORT_VRS or head[at + 4 : at + 6] in _LONG_VRS
    little = not (head[at] == 0 and head[at + 1 : at + 2] in (b"\x02", b"\x08", b"\x10"))
    return head, at, explicit, little, syntax


def items_of(data: bytes, sequence: int, items_max: int) -> Iterator[dict[int, bytes]]:
    """The items of one top-level sequence, each as its own elements' values; sequences inside them are left out. Ends
    where the data set does, or stops making sense. `data` is the whole file."""
    try:
        data, at, explicit, little, _syntax = start_of(data)
        walk = Walk(data, at, explicit=explicit, little=little)
        found = next(((start, length) for tag, _vr, start, length in walk.elements() if tag == sequence), None)
        if found is None:
            return
        start, length = found
        inner = Walk(data, start, explicit=explicit, little=little)
        end = len(data) if length == UNDEFINED else min(len(data), start + length)
        for _ in range(items_max):
            tag, _vr, length = inner.header(explicit)
            if tag != ITEM or inner.at > end:
                return
            stop = end if length == UNDEFINED else min(end, inner.at + length)
            yield _item(inner, explicit, stop)
            if length != UNDEFINED:
                inner.at = stop
            inner.steps = 0
    except (Stop, IndexError, struct.error):
        return


def _item(walk: Walk, explicit: bool, stop: int) -> dict[int, bytes]:
    """The elements of the item at the cursor, which then stands behind it. Raises Stop."""
    found: dict[int, bytes] = {}
    while walk.at < stop:
        tag, vr, length = walk.header(explicit)
        if tag == ITEM_END:
            break
        if length == UNDEFINED:
            walk.skip_undefined(explicit and vr != b"UN")
            continue
        if length <= VALUE_BYTES_MAX and vr != b"SQ":
            found[tag] = walk.data[walk.at : walk.at + length]
        walk.at += length
    return found


def values_of(data: bytes) -> dict[int, bytes]:
    """The top-level values of an implicit VR little endian data set, as an answer to a question of ours is; sequences
    and what is longer than VALUE_BYTES_MAX are left out. Ends where the data set stops making sense."""
    found: dict[int, bytes] = {}
    for tag, _vr, start, length in Walk(data, 0, explicit=False, little=True).elements():
        if length <= VALUE_BYTES_MAX and start + length <= len(data):
            found[tag] = data[start : start + length]
    return found


def text_in(values: dict[int, bytes], tag: int) -> str:
    """One of these values, fit to be shown; "" if it is not there."""
    raw = values.get(tag, b"")
    return clean(decode(raw, encodings_of(values.get(_CHARACTER_SET, b""))))


def looks_like_elements(head: bytes) -> bool:
    """True if the bytes start with a DICOM data set without preamble: an own group first, then at least three
    well-formed elements in ascending order, among them one of those we know; three of those we know, if another group
    is first and no VR tells what is what."""
    explicit = head[4:6] in _SHORT_VRS
    usual = head[:2] in (b"\x02\x00", b"\x08\x00") or (head[:2] in (b"\x00\x02", b"\x00\x08") and explicit)
    if not usual and not (len(head) > 8 and 4 <= head[0] <= 0x20 and head[1] == 0):
        return False
    if head[:2] == b"\x02\x00" and explicit:
        return True
    known = count = 0
    needed = 1 if usual or explicit else 3
    try:
        data, at, explicit, little, _syntax = start_of(head)
        for tag, _vr, start, length in Walk(data, at, explicit=explicit, little=little).elements():
            if length != UNDEFINED and (length > 1 << 20 or start + length > len(data)):
                break
            count += 1
            known += tag in _WANTED or tag in (_CHARACTER_SET, 0x00080008) or tag >> 16 == 4
            if count >= 3 and known >= needed:
                return True
    except (Stop, IndexError):
        pass
    return False


def read_headers(head: bytes) -> dict[str, str | int] | None:
    """What the data set says about itself, as plain words and numbers (keys as in `_WANTED`, values at most 256
    characters, no control characters), or None if it is no DICOM. `head`: the first 256 KiB are plenty."""
    try:
        data, at, explicit, little, syntax = start_of(bytes(head))
    except (Stop, IndexError):
        return None
    found: dict[str, str | int] = {}
    encodings: list[str] = ["iso8859"]
    order = "little" if little else "big"
    walk = Walk(data, at, explicit=explicit, little=little)
    for tag, _vr, start, length in walk.elements():
        if tag > _LAST_WANTED:
            break
        if length == 0 or length > VALUE_BYTES_MAX or start + length > len(data):
            continue
        if tag == _CHARACTER_SET:
            encodings = encodings_of(data[start : start + length])
        elif tag in _WANTED:
            name, kind = _WANTED[tag]
            value = _value(data[start : start + length], kind, encodings, order)
            if value not in (None, ""):
                found[name] = value  # type: ignore[assignment]
    if not found:
        return None
    if syntax:
        found["transfer_syntax"] = clean(syntax)
    return found


def _value(raw: bytes, kind: str, encodings: list[str], order: str) -> str | int | None:
    if kind == "binary":
        return int.from_bytes(raw[:2], order) if len(raw) == 2 else None  # type: ignore[arg-type]
    if kind == "text":
        return clean(decode(raw, encodings))
    text = clean(raw.decode("ascii", "replace"))
    if kind == "number":
        try:
            return int(text.split("\\")[0][:12])
        except ValueError:
            return None
    return text.split("\\")[0].strip() if kind == "uid" else text


def clean(text: str) -> str:
    """Without control and direction-changing characters, spaces collapsed, at most 256 characters: fit to be shown."""
    kept = text[: TEXT_CHARACTERS_MAX * 2]
    if not kept.isprintable():
        kept = "".join(c if c.isprintable() else " " for c in kept)
    return " ".join(kept.split())[:TEXT_CHARACTERS_MAX]


def encodings_of(raw: bytes) -> list[str]:
    import pydicom.charset

    names = [part.strip() for part in raw.decode("ascii", "replace").strip("\0 ").split("\\")][:8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.charset.convert_encodings(names) or ["iso8859"]
        except (LookupError, ValueError, TypeError):
            return ["iso8859"]


def decode(raw: bytes, encodings: list[str]) -> str:
    raw = raw.rstrip(b"\0 ")
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    import pydicom.charset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.charset.decode_bytes(raw, encodings, {0x5C, 0x5E, 0x3D, 10, 12, 13, 9})
        except Exception:  # a foreign decoder on hostile bytes: any failure means "not readable this way"
            return raw.decode("utf-8", "replace")
