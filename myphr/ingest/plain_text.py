"""Text as UTF-8 with LF, whatever a program saved it as: as "Unicode" (UTF-16, UTF-32; RFC 2781, 4), behind a byte
order mark (RFC 3629, 6), or with the line ends of old Macs. Bytes to bytes; knows no format. Asked by `identify` and by
`reading`.
"""

import codecs

_SAMPLE_BYTES = 8192
_CONTROL = frozenset(range(32)) - {9, 10, 11, 12, 13, 27, 28}  # 11 and 28 frame messages of HL7 version 2
_MARKS = (  # the longer first: FF FE begins both
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip


def wide_codec(data: bytes) -> str:
    """The codec of UTF-16 or UTF-32 text, by its mark, of UTF-16 also by the zeros beside ASCII; "" for all else. The
    mark alone proves nothing: samples of a recording begin with it, too."""
    codec = next((codec for mark, codec in _MARKS if data.startswith(mark)), "")
    marked = bool(codec)
    if not codec and len(data) >= 16 and 0 in data[:2]:
        high = data[0] != 0
        sample = data[: _SAMPLE_BYTES & ~1]
        zeros = sample[high::2]
        if zeros.count(0) >= 0.9 * len(zeros):
            codec = "utf-16-le" if high else "utf-16-be"
    if not codec:
        return ""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(data[:_SAMPLE_BYTES])
    except UnicodeDecodeError:
        return ""
    text = text.removeprefix("\ufeff")
    if any(ord(sign) in _CONTROL or ord(sign) & 0xFFFE == 0xFFFE for sign in set(text)):
        return ""
    return codec if marked or "\n" in text or "\r" in text else ""  # a flat line of samples has no lines


def plain(data: bytes, *, ends: bool = True) -> bytes:
    """The same object where there is nothing to change. `ends`: also lone CRs (HL7 version 2 parts segments by them).
    Text in other encodings keeps its bytes."""
    if codec := wide_codec(data):
        whole = len(data) & (~3 if codec.startswith("utf-32") else ~1)  # the last character may be cut
        data = data[:whole].decode(codec, "replace").removeprefix("\ufeff").encode()
    elif data.startswith(codecs.BOM_UTF8):
        data = data[3:]
    if ends and b"\r" in data[:_SAMPLE_BYTES] and b"\n" not in data[:_SAMPLE_BYTES]:
        data = data.replace(b"\r", b"\n")
    return data
