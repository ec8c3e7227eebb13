"""SCP-ECG (EN 1064:2020, clauses 5.3 to 5.9): header and rhythm leads, with the Huffman and difference packing. Pure.

Bimodal compression is not unpacked (5.9.4): such a file tells its header and has a note. Every offset and length is the
file's claim and is checked before use.
"""

import dataclasses
import struct

import numpy
from numpy.typing import NDArray

from myphr.ingest.reading.content import NotRead

_LEADS = {1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6", 61: "III", 62: "aVR", 63: "aVL",
          64: "aVF"}  # fmt: skip
_DEFAULT_TABLE = 19999
_LEADS_MAX = 64
_SAMPLES_MAX = 2_000_000


@dataclasses.dataclass
class Record:
    patient: str = ""
    born: str = ""
    date: str = ""
    place: str = ""
    author: str = ""
    rate: float = 500.0
    note: str = ""
    leads: dict[str, NDArray] = dataclasses.field(default_factory=dict)  # millivolts


def read(data: bytes) -> Record:
    """Raises NotRead when the file has no pointers to sections."""
    sections = _sections(data)
    record = Record()
    _header(sections.get(1, b""), record)
    names = _names(sections.get(3, b""))
    rhythm = sections.get(6, b"")
    if not names or len(rhythm) < 6 + 2 * len(names):
        record.note = "It holds no rhythm to draw"
        return record
    unit, microseconds, differences, bimodal = struct.unpack_from("<HHBB", rhythm)
    record.rate = 1_000_000 / (microseconds or 2000)
    if bimodal:
        record.note = "Its way of packing curves is not known here, so there is no preview"
        return record
    table = _table_of(sections.get(2))
    if table is None:
        record.note = "Its way of packing curves is not known here, so there is no preview"
        return record
    lengths = struct.unpack_from(f"<{len(names)}H", rhythm, 6)
    at = 6 + 2 * len(names)
    reference = _reference(sections, names, table)
    for number, (name, length) in enumerate(zip(names, lengths, strict=True)):
        packed = rhythm[at : at + length]
        at += length
        values = _unpacked(packed, table, differences) * (unit * 1e-6)
        if reference is not None:
            _add_reference(values, sections[4], reference[number])
        record.leads[name] = values
    return record


def _sections(data: bytes) -> dict[int, bytes]:
    """Section 0 points to the others (5.3): number, length, place counted from 1. Headers of 16 bytes are left out."""
    if len(data) < 32 or data[16:22] != b"SCPECG":
        raise NotRead
    [length] = struct.unpack_from("<I", data, 10)
    found = {}
    for at in range(22, min(6 + length, len(data) - 9), 10):
        number, size, index = struct.unpack_from("<HII", data, at)
        if number and size > 16 and index and index - 1 + size <= len(data) and number not in found:
            found[number] = data[index - 1 + 16 : index - 1 + size]
    return found


def _header(section: bytes, record: Record) -> None:
    """Fields by tag (5.4): 0 last name, 1 first name, 5 born, 16 to 18 institution, 20 physician, 25 date, 26 time."""
    fields: dict[int, bytes] = {}
    at = 0
    while at + 3 <= len(section) and section[at] != 255:
        tag, length = struct.unpack_from("<BH", section, at)
        fields.setdefault(tag, section[at + 3 : at + 3 + length])
        at += 3 + length
    record.patient = " ".join(filter(None, (_text(fields.get(1)), _text(fields.get(0)))))
    record.place = _text(fields.get(16)) or _text(fields.get(17)) or _text(fields.get(18))
    record.author = _text(fields.get(20)) or _text(fields.get(22))
    for tag, name in ((5, "born"), (25, "date")):
        raw = fields.get(tag, b"")
        if len(raw) >= 4:
            year, month, day = struct.unpack_from("<HBB", raw)
            setattr(record, name, f"{year:04}{month:02}{day:02}" if year else "")
    time = fields.get(26, b"")
    if len(time) >= 2 and record.date:
        record.date += f"{time[0]:02}{time[1]:02}"


def _text(raw: bytes | None) -> str:
    return (raw or b"").split(b"\0")[0].decode("utf-8", "replace").strip()


def _names(section: bytes) -> list[str]:
    """Lead definition (5.6): count, flags, then first sample, last sample and code of each."""
    if len(section) < 2:
        return []
    count = min(section[0], (len(section) - 2) // 9, _LEADS_MAX)
    codes = [section[2 + 9 * at + 8] for at in range(count)]
    names: list[str] = []
    for at, code in enumerate(codes):
        name = _LEADS.get(code, f"Lead {at + 1}")
        names.append(name if name not in names else f"{name} ({at + 1})")
    return names


def _table_of(section: bytes | None) -> str | None:
    """ "plain" without Huffman packing, "default" with the table of annex C.3, None for tables of the file's own."""
    if section is None or len(section) < 2:
        return "plain"
    return "default" if struct.unpack_from("<H", section)[0] == _DEFAULT_TABLE else None


def _unpacked(packed: bytes, table: str, differences: int) -> NDArray:
    values = numpy.frombuffer(packed[: len(packed) // 2 * 2], "<i2").astype("float64") if table == "plain" else (
        numpy.array(_huffman(packed), dtype="float64")
    )  # fmt: skip
    # First differences: the first value is itself; second differences: the first two are (5.9, annex C.2).
    if differences == 1:
        return numpy.cumsum(values)
    if differences == 2 and len(values) > 2:
        second = values.copy()
        second[1] = values[1] - values[0]
        return numpy.cumsum(numpy.concatenate((second[:1], numpy.cumsum(second[1:]))))
    return values


def _huffman(packed: bytes) -> list[int]:
    """The default table: n ones, a zero and a sign are n; nine ones and a zero, 8 bits; ten ones, 16 bits."""
    bits = numpy.unpackbits(numpy.frombuffer(packed, "uint8")).tolist()
    out: list[int] = []
    at, end = 0, len(bits)
    while at < end and len(out) < _SAMPLES_MAX:
        ones = 0
        while ones < 10 and at < end and bits[at]:
            ones += 1
            at += 1
        if ones < 10:
            at += 1  # the zero
        width = {9: 8, 10: 16}.get(ones, 0)
        if width:
            if at + width > end:
                break
            value = int("".join(map(str, bits[at : at + width])), 2)
            out.append(value - (1 << width) if value >> (width - 1) else value)
            at += width
        elif ones == 0:
            if at > end:
                break
            out.append(0)
        else:
            if at >= end:
                break
            out.append(-ones if bits[at] else ones)
            at += 1
    return out


def _reference(sections: dict[int, bytes], names: list[str], table: str) -> list[NDArray] | None:
    """The reference beat that was taken off the rhythm (5.7, 5.8), in millivolts a lead; None if none was."""
    locations, beat = sections.get(4, b""), sections.get(5, b"")
    if len(locations) < 6 or len(beat) < 6 + 2 * len(names) or not _is_subtracted(sections):
        return None
    unit, _interval, differences = struct.unpack_from("<HHB", beat)
    lengths = struct.unpack_from(f"<{len(names)}H", beat, 6)
    at, found = 6 + 2 * len(names), []
    for length in lengths:
        found.append(_unpacked(beat[at : at + length], table, differences) * (unit * 1e-6))
        at += length
    return found


def _is_subtracted(sections: dict[int, bytes]) -> bool:
    """Bit 0 of the flags of section 3 says so (5.6.3)."""
    return bool(len(sections.get(3, b"")) > 1 and sections[3][1] & 1)


def _add_reference(values: NDArray, locations: bytes, beat: NDArray) -> None:
    """Put the beat back at each QRS complex of its kind: type, start, fiducial point, end, in samples from 1 (5.7)."""
    _milliseconds, fiducial, count = struct.unpack_from("<HHH", locations)
    for at in range(min(count, 2000)):
        if 6 + 14 * at + 14 > len(locations):
            return
        kind, start, middle, end = struct.unpack_from("<HIII", locations, 6 + 14 * at)
        if kind != 0:
            continue
        first, last = max(start, 1), min(end, len(values))
        offset = fiducial - middle  # sample n of the rhythm is sample n + offset of the beat
        first, last = max(first, 1 - offset), min(last, len(beat) - offset)
        if last >= first:
            values[first - 1 : last] += beat[first - 1 + offset : last + offset]
