"""Office documents: OOXML (ECMA-376) and OpenDocument inside a zip, RTF, PostScript, and what Office wrote before it
had compound files, which are in `compound`."""

import re
import zlib

from myphr.ingest.formats import Identified, Rule, compound, magic
from myphr.ingest.formats.elsewhere import Elsewhere

_LOCAL_HEADER = re.compile(rb"PK\x03\x04.{22}(..)(..)", re.DOTALL)  # APPNOTE 4.3.7: name length, extra length
_LISTED = re.compile(rb"PK\x01\x02.{24}(..).{12}(....)", re.DOTALL)  # 4.3.12: name length, place
_OOXML = "application/vnd.openxmlformats-officedocument."
_OOXML_FOLDERS = {
    b"word/": ("docx", _OOXML + "wordprocessingml.document"),
    b"xl/": ("xlsx", _OOXML + "spreadsheetml.sheet"),
    b"ppt/": ("pptx", _OOXML + "presentationml.presentation"),
}
_OPEN_DOCUMENT = {
    b"application/vnd.oasis.opendocument.text": "odt",
    b"application/vnd.oasis.opendocument.text-template": "odt",
    b"application/vnd.oasis.opendocument.text-master": "odt",
    b"application/vnd.oasis.opendocument.spreadsheet": "ods",
    b"application/vnd.oasis.opendocument.spreadsheet-template": "ods",
    b"application/vnd.oasis.opendocument.presentation": "odp",
    b"application/vnd.oasis.opendocument.presentation-template": "odp",
}
_PACKAGE_MEMBERS = (b"META-INF/", b"meta.xml", b"content.xml", b"styles.xml", b"settings.xml", b"manifest.rdf")
_MIMETYPE = re.compile(rb"PK\x03\x04.{4}\0\0.{16}\x08\0\0\0mimetype", re.DOTALL)  # stored, no extra field
_PUIDS = {"docx": "fmt/412", "xlsx": "fmt/214", "pptx": "fmt/215"}
_ZIP = Identified("zip", "application/zip", "zip", puid="x-fmt/263")
_CONTENT_TYPES = b"[content_types].xml"  # ECMA-376 part 2, 7.2.3: every package has it; names are compared without case
_END_BYTES = 1024  # the end record is 22 bytes and a comment, which packages have not
_LISTED_BYTES_MAX = 16 * 1024
_TYPES_BYTES_MAX = 8 * 1024


def member_names(head: bytes, most: int = 200) -> list[bytes]:
    """The names in a zip's local headers within `head`, in order. Some may only look like a header."""
    names = []
    for found in _LOCAL_HEADER.finditer(head):
        start = found.end()
        names.append(head[start : start + int.from_bytes(found[1], "little")])
        if len(names) == most:
            break
    return names


def _ooxml(head: bytes) -> Identified | None:
    """By the members in the head. One that does not name its content types there may be a zip of somebody's own."""
    if head[:4] != b"PK\x03\x04":
        return None
    names = [_plain(name) for name in member_names(head)]
    if not names:
        return None
    if _CONTENT_TYPES in names:
        return _kind_of(names, "ooxml")
    parts = sum(name.endswith((b".xml", b".rels")) for name in names)
    if not names[0].startswith((b"_rels/", b"docprops/")) and parts < 3:
        return None
    return _kind_of(names, "ooxml-members", "likely")


def _plain(name: bytes) -> bytes:
    return name.lower().replace(b"\\", b"/")


def _kind_of(names: list[bytes], rule: str, confidence: str = "certain") -> Identified | None:
    for name in names:
        for folder, (format_code, media_type) in _OOXML_FOLDERS.items():
            if name.startswith(folder):
                return Identified(format_code, media_type, rule, confidence, _PUIDS[format_code])
    return None


def _by_its_list(found: Identified, elsewhere: Elsewhere) -> Identified | None:
    """A zip whose head does not tell: by the list of members at its end (APPNOTE 4.3.12, 4.3.16), if it can be read."""
    if elsewhere.size is None:
        return found
    end = elsewhere.at(max(0, elsewhere.size - _END_BYTES), min(elsewhere.size, _END_BYTES))
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or len(end) < at + 22:
        return found
    length, place = (int.from_bytes(end[at + 12 + 4 * n : at + 16 + 4 * n], "little") for n in range(2))
    listed = elsewhere.at(place, min(length, _LISTED_BYTES_MAX))
    names = {}
    for entry in _LISTED.finditer(listed):
        name = _plain(listed[entry.end() : entry.end() + int.from_bytes(entry[1], "little")])
        names[name] = int.from_bytes(entry[2], "little")
    if not names:
        return found
    if _CONTENT_TYPES not in names:
        return _ZIP
    return _kind_of([*names], "ooxml-list") or _by_content_types(elsewhere, names[_CONTENT_TYPES]) or _ZIP


def _by_content_types(elsewhere: Elsewhere, at: int) -> Identified | None:
    """Parts may lie in any folder; what the main one is, the content types say (ECMA-376 part 2, 7.2.3)."""
    member = elsewhere.at(at, _TYPES_BYTES_MAX)
    header = _LOCAL_HEADER.match(member)
    if header is None:
        return None
    types = member[header.end() + sum(int.from_bytes(header[n], "little") for n in (1, 2)) :]
    if member[8:10] == b"\x08\0":
        try:
            types = zlib.decompressobj(-zlib.MAX_WBITS).decompress(types, 4 * _TYPES_BYTES_MAX)
        except zlib.error:
            return None
    for folder, (_format, media_type) in _OOXML_FOLDERS.items():
        if media_type.encode() + b".main+xml" in types:
            return _kind_of([folder], "ooxml-content-types")
    return None


def _open_document(head: bytes) -> Identified | None:
    """OpenDocument 1.2 part 3, 3.3: the first member is `mimetype`, stored, without extra field. Some writers put other
    members of the package (part 3, 3.2) before it; before a whole package in somebody's zip stands another name."""
    first = _LOCAL_HEADER.match(head)
    if first is None:
        return None
    at = 0 if head[30:38] == b"mimetype" else -1
    if at and head.startswith(_PACKAGE_MEMBERS, 30):
        found = _MIMETYPE.search(head)
        at = found.start() if found else -1
    if at < 0:
        return None
    for media_type, format_code in _OPEN_DOCUMENT.items():
        if head.startswith(media_type + b"PK", at + 38):  # the next header at once: "text" is not "text-template"
            confidence = "likely" if at else "certain"
            return Identified(format_code, media_type.decode(), "opendocument", confidence)
    return None


def _epub(head: bytes) -> Identified | None:
    """EPUB 3, OCF 4.3: `mimetype` first and stored, as in OpenDocument."""
    fits = head[30:38] == b"mimetype" and head.startswith(b"application/epub+zip", 38)
    return (
        Identified("epub", "application/epub+zip", "epub", puid="fmt/483")
        if fits and head[:4] == b"PK\x03\x04"
        else None
    )


def _early(head: bytes) -> Identified | None:
    """Before compound files: Excel 2 to 4 begin with BOF (MS-XLS, 2.4.21: number, length, version, kind), Word 1 and 2
    with their ident."""
    starts = (b"\x09\0\x04\0", b"\x09\x02\x06\0", b"\x09\x04\x06\0")
    if head[:4] in starts and head[6:8] in (b"\x10\0", b"\x20\0", b"\0\1"):  # a sheet, a chart, a workbook
        puid = {0: "fmt/55", 2: "fmt/56", 4: "fmt/57"}[head[1]]
        return Identified("xls", "application/vnd.ms-excel", "excel-early", puid=puid)
    if head[:4] in (b"\xdb\xa5\x2d\0", b"\x9b\xa5\x21\0"):
        return Identified("doc", "application/msword", "word-early")
    return None


def _rtf(head: bytes) -> Identified | None:
    """RTF 1.9.1: the first group opens with the control word rtf; some writers put a byte order mark before it."""
    start = head[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    return Identified("rtf", "application/rtf", "rtf") if start.startswith(b"{\\rtf") else None


RULES = (
    Rule("epub", _epub),
    Rule("opendocument", _open_document),
    Rule("ooxml", _ooxml),
    *compound.RULES,
    Rule("early-office", _early),
    Rule("rtf", _rtf),
    magic("postscript", "ps", "application/postscript", b"%!PS-Adobe", b"\x04%!PS-Adobe", puid="x-fmt/91"),
    magic("postscript-dos", "ps", "application/postscript", b"\xc5\xd0\xd3\xc6"),  # EPSF 3.0, 5.2: with a picture
)
CLOSER = {**compound.CLOSER, "zip": _by_its_list, "ooxml-members": _by_its_list}
