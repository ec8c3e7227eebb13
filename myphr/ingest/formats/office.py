"""Office documents: OOXML (ECMA-376) and OpenDocument inside a zip, the older OLE2 files, RTF."""

import re

from myphr.ingest.formats import Identified, Rule, magic

_LOCAL_HEADER = re.compile(rb"PK\x03\x04.{22}(..)(..)", re.DOTALL)  # APPNOTE 4.3.7: name length, extra length
_OOXML = "application/vnd.openxmlformats-officedocument."
_OOXML_FOLDERS = {
    b"word/": ("docx", _OOXML + "wordprocessingml.document"),
    b"xl/": ("xlsx", _OOXML + "spreadsheetml.sheet"),
    b"ppt/": ("pptx", _OOXML + "presentationml.presentation"),
}
_OPEN_DOCUMENT = {
    b"application/vnd.oasis.opendocument.text": "odt",
    b"application/vnd.oasis.opendocument.spreadsheet": "ods",
    b"application/vnd.oasis.opendocument.presentation": "odp",
}
_PUIDS = {
    "docx": "fmt/412", "xlsx": "fmt/214", "pptx": "fmt/215", "doc": "fmt/40", "xls": "fmt/61", "ppt": "fmt/126",
    "msg": "x-fmt/430",
}  # fmt: skip
_OLE2_STREAMS = {
    "WordDocument": ("doc", "application/msword"),
    "Workbook": ("xls", "application/vnd.ms-excel"),
    "Book": ("xls", "application/vnd.ms-excel"),
    "PowerPoint Document": ("ppt", "application/vnd.ms-powerpoint"),
    "__nameid_version1.0": ("msg", "application/vnd.ms-outlook"),
    "__properties_version1.0": ("msg", "application/vnd.ms-outlook"),
}


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
    if head[:4] != b"PK\x03\x04":
        return None
    names = member_names(head)
    if not names:
        return None
    parts = sum(name.endswith((b".xml", b".rels")) for name in names)
    if b"[Content_Types].xml" not in names and not names[0].startswith((b"_rels/", b"docProps/")) and parts < 3:
        return None
    for name in names:
        for folder, (format_code, media_type) in _OOXML_FOLDERS.items():
            if name.startswith(folder):
                return Identified(format_code, media_type, "ooxml", puid=_PUIDS[format_code])
    return None


def _open_document(head: bytes) -> Identified | None:
    """OpenDocument 1.2 part 3, 3.3: the first member is `mimetype`, stored, without extra field."""
    if head[:4] != b"PK\x03\x04" or head[30:38] != b"mimetype":
        return None
    for media_type, format_code in _OPEN_DOCUMENT.items():
        if head.startswith(media_type + b"PK", 38):  # the next header follows at once: "text" is not "text-template"
            return Identified(format_code, media_type.decode(), "opendocument")
    return None


def _ole2(head: bytes) -> Identified | None:
    """MS-CFB: the stream names stand in UTF-16 in the directory, whose sector number is at offset 48."""
    if head[:8] != b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" or len(head) < 512:
        return None
    sector_bytes = 1 << min(int.from_bytes(head[30:32], "little"), 12)
    at = (int.from_bytes(head[48:52], "little") + 1) * sector_bytes
    directory = head[at : at + 4096]
    for stream, (format_code, media_type) in _OLE2_STREAMS.items():
        if stream.encode("utf-16-le") in (directory or head):
            return Identified(format_code, media_type, "ole2", puid=_PUIDS[format_code])
    return Identified("ole2", "application/x-ole-storage", "ole2-unread", "likely", "fmt/111")


def _epub(head: bytes) -> Identified | None:
    """EPUB 3, OCF 4.3: `mimetype` first and stored, as in OpenDocument."""
    fits = head[30:38] == b"mimetype" and head.startswith(b"application/epub+zip", 38)
    return (
        Identified("epub", "application/epub+zip", "epub", puid="fmt/483")
        if fits and head[:4] == b"PK\x03\x04"
        else None
    )


RULES = (
    Rule("epub", _epub),
    Rule("opendocument", _open_document),
    Rule("ooxml", _ooxml),
    Rule("ole2", _ole2),
    magic("rtf", "rtf", "application/rtf", b"{\\rtf"),
    magic("postscript", "ps", "application/postscript", b"%!PS-Adobe", puid="x-fmt/91"),
)
