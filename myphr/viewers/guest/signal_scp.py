"""SCP-ECG (EN 1064) for "Simple signals": the rhythm of section 6, plain or packed with the standard's own Huffman
table (section 2 says 19999), as values, first or second differences. Not: tables of a maker's own, and rhythms of
which a reference beat was taken away or that keep only every fourth sample between the beats. Runs in the guest and
in the unit tests.
"""

import struct

import numpy as np
import signal_records as records

DEFAULT_TABLE = 19_999
LEADS = {
    1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6", 9: "V7", 11: "V3R", 12: "V4R", 61: "III",
    62: "aVR", 63: "aVL", 64: "aVF",
}  # fmt: skip
UNKNOWN_PACKING = "This ECG is packed in a way this viewer does not know."


def read(path: str) -> records.Recording:
    body = records.whole(path)
    sections = sections_of(body)
    if 3 not in sections or 6 not in sections:
        raise records.CannotShow("There is no recording in this file.")
    leads = sections[3]
    count, flags = leads[0], leads[1]
    spans = [struct.unpack_from("<IIB", leads, 2 + 9 * number) for number in range(count)]
    rhythm = sections[6]
    unit_nv, step_us, differences, reduced = struct.unpack_from("<HHBB", rhythm)
    if flags & 1 or reduced or step_us == 0 or differences > 2:
        raise records.CannotShow(UNKNOWN_PACKING)
    lengths = struct.unpack_from(f"<{count}H", rhythm, 6)
    packed = 2 in sections
    if packed and struct.unpack_from("<H", sections[2])[0] != DEFAULT_TABLE:
        raise records.CannotShow(UNKNOWN_PACKING)
    channels, at = [], 6 + 2 * count
    for (first, last, code), length in zip(spans, lengths, strict=True):
        piece, at = rhythm[at : at + length], at + length
        samples = last - first + 1
        if not 0 < samples <= records.SAMPLES_MAX:
            raise records.CannotShow("This file is damaged and cannot be read.")
        values = unpack(piece, samples) if packed else np.frombuffer(piece[: len(piece) // 2 * 2], "<i2")[:samples]
        if differences:
            values = sums(values, differences)
        name = LEADS.get(code, f"Lead {code}")
        micro = values.astype(np.float32) * (unit_nv / 1000)
        channels.append(records.Channel(name, "uV", 1e6 / step_us, len(micro), records.held(micro)))
    patient, date = who_and_when(sections.get(1, b""))
    return records.Recording("scp", channels, patient, date)


def sections_of(body: bytes) -> dict[int, bytes]:
    """Number and content (without the 16 bytes of its header) of each section that is not empty."""
    length = struct.unpack_from("<I", body, 10)[0]
    found = {}
    for at in range(22, 6 + min(length, len(body) - 6) - 9, 10):
        number, size, index = struct.unpack_from("<HII", body, at)
        if size > 16 and 0 < index <= len(body):
            found[number] = body[index - 1 + 16 : index - 1 + size]
    return found


def unpack(piece: bytes, samples: int) -> np.ndarray:
    """The default table: 0 is `0`; ±n (to 8) is n+1 ones, a zero and the sign; then 8 and 16 bits as they are."""
    bits = np.unpackbits(np.frombuffer(piece, np.uint8)).tobytes()  # one byte a bit, so that find() does the counting
    out = np.zeros(samples, np.int64)
    at, end = 0, len(bits)
    for number in range(samples):
        zero = bits.find(b"\0", at, at + 10)
        ones = (zero if zero >= 0 else min(at + 10, end)) - at
        if at >= end:
            return out[:number]
        if ones == 0:
            at += 1
        elif ones == 1:
            # "10s" is 1; its second bit is the zero that ended the ones
            out[number] = -1 if bits[at + 2 : at + 3] == b"\1" else 1
            at += 3
        elif ones <= 8:
            out[number] = -ones if bits[at + ones + 1 : at + ones + 2] == b"\1" else ones
            at += ones + 2
        else:
            wide = 8 if ones == 9 else 16
            if at + 10 + wide > end:
                return out[:number]
            value = int(bits[at + 10 : at + 10 + wide].translate(_DIGITS), 2)
            out[number] = value - (1 << wide) if value >> (wide - 1) else value
            at += 10 + wide
    return out


_DIGITS = bytes([48, 49, *range(2, 256)])


def sums(values: np.ndarray, order: int) -> np.ndarray:
    """Undoes first or second differences; the first one or two values stand as they are."""
    if order == 1:
        return np.cumsum(values)
    out = np.empty_like(values)
    if len(values) < 2:
        return values
    steps = np.cumsum(np.concatenate(([values[1] - values[0]], values[2:])))
    out[0] = values[0]
    out[1:] = values[0] + np.cumsum(steps)
    return out


def who_and_when(section: bytes) -> tuple[str, str]:
    fields: dict[int, bytes] = {}
    at = 0
    while at + 3 <= len(section) and section[at] != 255:
        tag, length = struct.unpack_from("<BH", section, at)
        fields.setdefault(tag, section[at + 3 : at + 3 + length])
        at += 3 + length
    family, given = (fields.get(tag, b"").split(b"\0")[0].decode("latin-1").strip() for tag in (0, 1))
    date = ""
    if len(fields.get(25, b"")) == 4:
        year, month, day = struct.unpack("<HBB", fields[25])
        date = records.plain_date(f"{year:04}{month:02}{day:02}")
    return f"{given} {family}".strip(), date
