"""Signals: ECG, EEG and their like, and the recordings of watches. SCP-ECG (EN 1064), EDF and BDF (edfplus.info),
GDF, WFDB headers (physionet.org), ISHNE Holter, MFER (ISO 22077-1), MATLAB files, FIT. XML kinds are in `markup`.

A raw WFDB `.dat` has no signature of its own and stays unknown; its `.hea` names it.
"""

import re

from myphr.ingest.formats import Identified, Rule, magic

_WFDB_RECORD = re.compile(
    rb"[A-Za-z0-9_-]{1,64}(?:/\d{1,5})? (\d{1,4})(?: \d+(?:\.\d+)?(?:/\S+)?(?:\(\S+\))?(?: \d+(?: \S+){0,2})?)?\s*"
)
_WFDB_SIGNAL = re.compile(
    rb"\S{1,255} (?:0|8|16|24|32|61|80|160|212|310|311|508|516|524)(?:x\d+)?(?::\d+)?(?:\+\d+)?(?: .*)?"
)
_WFDB_BYTES_MAX = 16 * 1024
_WFDB_SEGMENT = re.compile(rb"(?:~|[A-Za-z0-9_-]{1,64}) \d+\s*")


def _scp_ecg(head: bytes) -> Identified | None:
    """CRC, length, then section 0, whose reserved bytes say SCPECG. Versions before 1.3 left them empty: there, the
    pointers of section 0 (10 bytes each: number, length, index) have to be sound."""
    if len(head) < 32 or head[8:10] != b"\0\0":  # section number 0 behind CRC (2) and length (4), and its own CRC (2)
        return None
    if head[16:22] == b"SCPECG":
        return Identified("scp-ecg", "application/x-scp-ecg", "scp-ecg")
    length = int.from_bytes(head[10:14], "little")
    first, second = (int.from_bytes(head[at : at + 2], "little") for at in (22, 32))
    sound = 136 <= length <= 512 and length % 2 == 0 and head[14] in (10, 11, 12, 13, 20) and (first, second) == (0, 1)
    index = int.from_bytes(head[28:32], "little")
    return Identified("scp-ecg", "application/x-scp-ecg", "scp-ecg-old", "likely") if sound and index == 7 else None


def _edf(head: bytes) -> Identified | None:
    """Both have the same header of 256 bytes a signal and 256 more; only the first byte differs."""
    head = head[:256].replace(b"\0", b" ")  # what should be blank is zero with some writers
    edf, bdf = head[:8] == b"0       ", head[:8] == b"\xffBIOSEMI"
    if not (edf or bdf) or len(head) < 256:
        return None
    try:
        header_bytes, signals = int(head[184:192]), int(head[252:256])
    except ValueError:
        return None
    if signals < 0 or header_bytes != 256 * (signals + 1):
        return None
    if bdf:
        return Identified("bdf", "application/x-bdf", "bdf", puid="fmt/2102")
    return Identified("edf", "application/x-edf", "edf")


def _wfdb_header(head: bytes) -> Identified | None:
    """A record line, and as many signal (or segment) lines as it says."""
    if not head[:1].isalnum() and head[:1] not in (b"#", b"_", b"-"):
        return None
    # Fields are parted by blanks or tabs (header(5)).
    lines = [b" ".join(line.split()) for line in head[:_WFDB_BYTES_MAX].split(b"\n")]
    lines = [line for line in lines if line.strip() and not line.startswith(b"#")]
    record = _WFDB_RECORD.fullmatch(lines[0]) if lines else None
    if record is None or len(lines) < 2:
        return None
    if len(lines) - 1 < int(record[1]) and len(head) < _WFDB_BYTES_MAX:
        return None
    following = _WFDB_SEGMENT if b"/" in lines[0].split(b" ")[0] else _WFDB_SIGNAL
    expected = min(int(record[1]), 8, len(lines) - 1)
    if expected == 0 or not all(following.fullmatch(line) for line in lines[1 : 1 + expected]):
        return None
    return Identified("wfdb-hea", "text/plain", "wfdb-header", "likely")


def _mfer(head: bytes) -> Identified | None:
    """ISO 22077-1, the preamble: tag 64, 32 bytes, in them the name of the standard; some writers put blanks first."""
    fits = head[:2] == b"\x40\x20" and head[2:34].lstrip(b" ").startswith((b"MFR ", b"MFER "))
    return Identified("mfer", "application/x-mfer", "mfer") if fits else None


def _matlab_5(head: bytes) -> Identified | None:
    """Level 5 MAT-file: 116 bytes of words, which not all writers end with blanks, and at their end the version and
    the order of its bytes."""
    version = head[124:128] in (b"\0\1IM", b"\1\0MI")
    fits = head.startswith(b"MATLAB 5.0 MAT-file") or (head.startswith(b"MATLAB 5.0") and version)
    return Identified("mat", "application/x-matlab-data", "matlab-5", puid="fmt/806") if fits else None


def _matlab_4(head: bytes) -> Identified | None:
    """A level 4 MAT-file: type (MOPT), rows, columns, imaginary flag, length of the name, the name."""
    kind, rows, columns, imaginary, name_bytes = (int.from_bytes(head[at : at + 4], "little") for at in range(0, 20, 4))
    if (
        kind > 52
        or kind % 10 > 2
        or kind // 10 > 5
        or imaginary > 1
        or not 1 < name_bytes <= 64
        or not rows * columns > 0
    ):
        return None
    name = head[20 : 20 + name_bytes]
    if (
        len(name) == name_bytes
        and name[-1:] == b"\0"
        and name[:-1].replace(b"_", b"a").isalnum()
        and not name[:1].isdigit()
    ):
        return Identified("mat", "application/x-matlab-data", "matlab-4", "likely", "fmt/1550")
    return None


def _fit(head: bytes) -> Identified | None:
    """Flexible and Interoperable Data Transfer: a header of 12 or 14 bytes with the type in it."""
    fits = head[:1] in (b"\x0c", b"\x0e") and head[8:12] == b".FIT"
    return Identified("fit", "application/vnd.ant.fit", "fit", puid="fmt/1651") if fits else None


def _fiff(head: bytes) -> Identified | None:
    """Functional Image File Format of MEG systems: the first tag is the file's id: 100, kind 31, 20 bytes."""
    fits = head[:12] == b"\0\0\0\x64\0\0\0\x1f\0\0\0\x14"
    return Identified("fiff", "application/x-fiff", "fiff") if fits else None


TEXT_RULES = (
    magic(
        "brainvision",
        "brainvision",
        "text/plain",
        b"Brain Vision Data Exchange Header File",
        b"BrainVision Data Exchange Header File",
    ),
)
RULES = (
    Rule("scp-ecg", _scp_ecg),
    Rule("fiff", _fiff),
    Rule("edf", _edf),
    magic("gdf", "gdf", "application/x-gdf", b"GDF 1.", b"GDF 2."),
    magic("ishne", "ishne-ecg", "application/x-ishne-ecg", b"ISHNE1.0", b"ANN  1.0"),
    Rule("mfer", _mfer),
    *TEXT_RULES,
    Rule("fit", _fit),
    Rule("matlab-5", _matlab_5),
    magic("matlab-7", "mat", "application/x-matlab-data", b"MATLAB 7.3 MAT-file", puid="fmt/828"),
)
LATE_TEXT_RULES = (Rule("wfdb-header", _wfdb_header),)
LATE_RULES = (*LATE_TEXT_RULES, Rule("matlab-4", _matlab_4))
