"""Compound files (MS-CFB): what Office 97 to 2003 and Outlook write. Their streams are named in a directory that may
stand anywhere; the header says where it begins, the allocation table how it goes on.

The root storage's own entries decide, not those of what is embedded in it: a letter with a table in it is a letter.
Where the directory cannot be reached, the first bytes of the streams, which begin where sectors do, make it likely.
"""

import struct

from myphr.ingest.formats import Identified, Rule
from myphr.ingest.formats.elsewhere import Elsewhere

MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_UNREAD = Identified("ole2", "application/x-ole-storage", "ole2-unread", "likely", "fmt/111")
_SECTORS_MAX = 0xFFFFFFFA  # MAXREGSECT: above are marks, not sectors
_DIRECTORY_BYTES_MAX = 24 * 1024
_ENTRY_BYTES = 128
_STREAM, _ROOT = 2, 5

# Stream or storage of the root -> format, media type, PRONOM id. Names are compared without case (2.6.4).
_STREAMS = {
    "worddocument": ("doc", "application/msword", "fmt/40"),
    "powerpoint document": ("ppt", "application/vnd.ms-powerpoint", "fmt/126"),
    "pp40": ("ppt", "application/vnd.ms-powerpoint", ""),  # PowerPoint 4
    "workbook": ("xls", "application/vnd.ms-excel", "fmt/61"),
    "book": ("xls", "application/vnd.ms-excel", "fmt/59"),  # Excel 5 and 95
    "__properties_version1.0": ("msg", "application/vnd.ms-outlook", "x-fmt/430"),  # MS-OXMSG, 2.4
    "__nameid_version1.0": ("msg", "application/vnd.ms-outlook", "x-fmt/430"),
}
# What messages keep beside their properties (MS-OXMSG, 2.2): many of them fill the directory before those are reached.
_MESSAGE_PARTS = ("__substg1.0_", "__recip_version1.0_", "__attach_version1.0_")
_NAMED = "__nameid_version1.0"
_ENCRYPTED = "encryptedpackage"  # MS-OFFCRYPTO, 2.3.4: a newer office document behind a password; which kind, it hides

# How the streams begin: FibBase (MS-DOC, 2.5.2), BOF of the workbook (MS-XLS, 2.4.21), RT_Document (MS-PPT, 2.4.1)
_WORD_IDENTS = (b"\xec\xa5", b"\xdc\xa5")
_EXCEL_STARTS = (b"\x09\x08\x10\0\0\x06\x05\0", b"\x09\x08\x08\0\0\x05\x05\0")
_SLIDES_START = b"\x0f\0\xe8\x03"
# The stream of a presentation's pictures (MS-PPT, 2.1.3) begins with one: type of the record -> its instances
# (MS-ODRAW, 2.2.23). Large pictures fill all of a head. Those of Word and Excel stand inside other records.
_PICTURES = {
    0xF01A: (0x3D4, 0x3D5), 0xF01B: (0x216, 0x217), 0xF01C: (0x542, 0x543), 0xF01D: (0x46A, 0x46B, 0x6E2, 0x6E3),
    0xF01E: (0x6E0, 0x6E1), 0xF01F: (0x7A8, 0x7A9), 0xF029: (0x6E4, 0x6E5), 0xF02A: (0x46A, 0x46B, 0x6E2, 0x6E3),
}  # fmt: skip
_PUBLISHER_STARTS = (b"CHNKINK ", b"\xe8\xac\x2c\0", b"\xe8\xac\x22\0")  # keeps its pictures in such a stream, too


def is_one(head: bytes) -> bool:
    return head[:8] == MAGIC and len(head) >= 512


def look(found: Identified, elsewhere: Elsewhere) -> Identified | None:
    """By the names in the directory; by the streams' first bytes where it is out of reach."""
    head = elsewhere.head
    names = _root_names(elsewhere)
    if _ENCRYPTED in names:
        return Identified("ole2", "application/x-ole-storage", "ole2-encrypted", puid="fmt/494")
    for stream, (format_code, media_type, puid) in _STREAMS.items():
        if stream in names:
            return Identified(format_code, media_type, "ole2", puid=puid)
    if any(name.startswith(_MESSAGE_PARTS) for name in names):
        format_code, media_type, puid = _STREAMS["__properties_version1.0"]
        return Identified(format_code, media_type, "ole2", puid=puid)
    if names:
        return Identified("ole2", "application/x-ole-storage", "ole2-other", "likely", "fmt/111")
    return _by_streams(head, _sector_bytes(head)) or found


def _sector_bytes(head: bytes) -> int:
    return 4096 if head[30:32] == b"\x0c\0" else 512  # version 4 or 3 (2.2)


def _root_names(elsewhere: Elsewhere) -> set[str]:
    """The names of the root storage's children, in lower case, as far as the directory can be reached."""
    directory = _directory(elsewhere)
    count = len(directory) // _ENTRY_BYTES
    if not count or directory[66] != _ROOT:
        return set()
    names: set[str] = set()
    seen: set[int] = set()
    to_see = [int.from_bytes(directory[76:80], "little")]
    if count <= to_see[0] < _SECTORS_MAX and _NAMED.encode("utf-16-le") in directory:
        return {_NAMED}  # a large message: its first entry lies out of reach, this one stands nowhere but in the root
    while to_see:  # a binary tree of siblings (2.6.4); what a damaged one repeats is seen once
        number = to_see.pop()
        if number >= count or number in seen:
            continue
        seen.add(number)
        entry = directory[number * _ENTRY_BYTES : (number + 1) * _ENTRY_BYTES]
        name_bytes, kind, left, right = struct.unpack_from("<HBxII", entry, 64)
        if kind in (1, _STREAM) and 2 <= name_bytes <= 64:
            names.add(entry[: name_bytes - 2].decode("utf-16-le", "replace").lower())
        to_see += [left, right]
    return names


def _directory(elsewhere: Elsewhere) -> bytes:
    """The directory's sectors along their chain, at most 24 KiB; without the allocation table only the first."""
    head = elsewhere.head
    sector_bytes = _sector_bytes(head)
    tables = struct.unpack_from("<109I", head, 76)  # DIFAT: where the first 109 sectors of the table stand
    sector = int.from_bytes(head[48:52], "little")
    found = b""
    seen: set[int] = set()
    while sector < _SECTORS_MAX and sector not in seen and len(found) < _DIRECTORY_BYTES_MAX:
        seen.add(sector)
        part = elsewhere.at((sector + 1) * sector_bytes, sector_bytes)
        found += part
        table, place = divmod(sector, sector_bytes // 4)
        if len(part) < sector_bytes or table >= len(tables) or tables[table] >= _SECTORS_MAX:
            break
        following = elsewhere.at((tables[table] + 1) * sector_bytes + place * 4, 4)
        if len(following) < 4:
            break
        sector = int.from_bytes(following, "little")
    return found


def _by_streams(head: bytes, sector_bytes: int) -> Identified | None:
    """What starts in the sectors at hand, if it is of one kind only."""
    kinds = set()
    for at in range(sector_bytes, len(head) - 8, sector_bytes):
        start = head[at : at + 8]
        if start[:2] in _WORD_IDENTS and start[3] == 0 and (start[2] in (0xC0, 0xC1, 0xC2) or 0x65 <= start[2] < 0x6A):
            kinds.add("worddocument")
        elif start in _EXCEL_STARTS:
            kinds.add("workbook")
        elif start[:4] == _SLIDES_START or _is_picture(start):
            kinds.add("powerpoint document")
        elif start.startswith(_PUBLISHER_STARTS):
            return None
    if len(kinds) != 1:
        return None
    format_code, media_type, puid = _STREAMS[kinds.pop()]
    return Identified(format_code, media_type, "ole2-stream", "likely", puid)


def _is_picture(start: bytes) -> bool:
    """OfficeArtRecordHeader (MS-ODRAW, 2.2.1): version 0 and instance, type, length, of which a checksum takes 16."""
    version, kind, length = struct.unpack_from("<HHI", start)
    return version & 15 == 0 and version >> 4 in _PICTURES.get(kind, ()) and 16 < length < 1 << 28


def _compound(head: bytes) -> Identified | None:
    return _UNREAD if is_one(head) else None


RULES = (Rule("ole2", _compound),)
CLOSER = {"ole2-unread": look}
