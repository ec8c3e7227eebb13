"""The head of a DICOM file (PS3.10, 7.1) before a data set that came without one. Values in, bytes out.

Nothing of the sender and nothing of the moment stands in it: the same image sent twice makes the same file, and is
found to be there already.
"""

import re
import struct

from myphr.errors import NotDicom

# Of a UUID (PS3.5, B.2), made once for this program.
IMPLEMENTATION_UID = "2.25.301468573926154308972601842795513060477"
IMPLEMENTATION_NAME = "MYPHRMACHINES"
_UID = re.compile(r"[0-9.]{1,64}")


def head_of_file(sop_class: str, instance: str, transfer_syntax: str) -> bytes:
    """Preamble, "DICM" and group 2. Raises NotDicom for a UID that is none."""
    if not all(_UID.fullmatch(uid) for uid in (sop_class, instance, transfer_syntax)):
        raise NotDicom()
    meta = (
        struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
        + _text(0x0002, b"UI", sop_class) + _text(0x0003, b"UI", instance) + _text(0x0010, b"UI", transfer_syntax)
        + _text(0x0012, b"UI", IMPLEMENTATION_UID) + _text(0x0013, b"SH", IMPLEMENTATION_NAME)
    )  # fmt: skip
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode()
    if len(value) & 1:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
