"""Office documents (OOXML: ECMA-376; OpenDocument 1.3; EPUB): title, author, date and words, out of their zip.

Member by member with limits; nothing in them is run, no picture and no macro is looked at.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator

from lxml import etree

from myphr.ingest.reading import safe_html, sheets, xml_tree
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import iso
from myphr.ingest.reading.text import first_line, told
from myphr.records.reading import TEXT_BYTES_MAX, FullReading

FORMATS = frozenset({"docx", "xlsx", "pptx", "odt", "ods", "odp"})
MEMBER_BYTES_MAX = 32 * 1024**2
MEMBERS_MAX = 10_000
SLIDES_MAX = 100
_KINDS = {"docx": "Text document", "odt": "Text document", "xlsx": "Spreadsheet", "ods": "Spreadsheet",
          "pptx": "Slides", "odp": "Slides"}  # fmt: skip
_BLOCKS = frozenset({"p", "h", "row", "table-row", "br", "si", "list-item"})
# What libraries write where nobody said who
_NOBODY = {"python-docx", "openpyxl", "pptxgenjs", "pyexcelerate", "un-named", "unknown", "unknown creator"}


def warm_up() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", '<w:p xmlns:w="x">x</w:p>')
    list(read(Content("docx", out.getvalue(), out.tell())))


def read(content: Content) -> Iterator[FullReading]:
    if not content.whole:
        raise NotRead("The document is too large for a preview")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content.data))
        names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise NotRead("The document is damaged") from None
    if len(names) > MEMBERS_MAX:
        raise NotRead("The document is too large for a preview")
    core = _xml(archive, "docProps/core.xml")
    meta = xml_tree.find(_xml(archive, "meta.xml"), "meta")
    about = core if core is not None else meta
    title = xml_tree.words(xml_tree.find(about, "title"))
    author = xml_tree.words(xml_tree.find(about, "creator")) or xml_tree.words(xml_tree.find(about, "initial-creator"))
    author = "" if author.lower() in _NOBODY else author
    made = xml_tree.words(xml_tree.find(about, "created")) or xml_tree.words(xml_tree.find(about, "creation-date"))
    changed = xml_tree.words(xml_tree.find(about, "modified")) or xml_tree.words(xml_tree.find(about, "date"))
    moment = iso(made) or iso(changed)
    later = iso(changed)
    text = _words(archive, content.format, names)
    shown = None
    if content.format == "xlsx" and (rows := sheets.rows_of(archive, _xml)):
        shown = _table(rows)
        text = text or "\n".join("\t".join(row) for row in rows)
    facts = (
        ("Changed", later.words if later and moment and later.iso != moment.iso else ""),
        ("Text", "" if "xl/workbook.bin" not in names else "None that can be searched"),  # MS-XLSB: no XML in it
    )
    yield told(_KINDS[content.format], text, title or first_line(text), moment, author=author, facts=facts,
               shown=shown)  # fmt: skip


def _table(rows: list[list[str]]) -> str:
    width = max(map(len, rows))
    padded = [row + [""] * (width - len(row)) for row in rows]
    more = f"<p>The first {sheets.ROWS_MAX} rows of the first sheet.</p>" if len(rows) == sheets.ROWS_MAX else ""
    return safe_html.table(padded[0], padded[1:]) + more if len(rows) > 1 else safe_html.table([""] * width, padded)


def _words(archive: zipfile.ZipFile, format_: str, names: list[str]) -> str:
    if format_ == "docx":
        return _flat(_xml(archive, "word/document.xml"))
    if format_ in ("odt", "ods", "odp"):
        return _flat(_xml(archive, "content.xml"))
    if format_ == "xlsx":
        return _flat(_xml(archive, "xl/sharedStrings.xml"))  # the texts of all cells; the rows are in `sheets`
    slides = sorted(name for name in names if name.startswith("ppt/slides/slide"))[:SLIDES_MAX]
    return "\n\n".join(filter(None, (_flat(_xml(archive, name)) for name in slides)))


def _xml(archive: zipfile.ZipFile, name: str) -> xml_tree.Element | None:
    try:
        with archive.open(name) as member:
            data = member.read(MEMBER_BYTES_MAX + 1)
        return xml_tree.parse(data) if len(data) <= MEMBER_BYTES_MAX else None
    except (KeyError, NotRead, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError):
        return None


def _flat(root: xml_tree.Element | None) -> str:
    """The words of a document, a line a paragraph."""
    if root is None:
        return ""
    out: list[str] = []
    size = 0
    for event, element in _walk(root):
        if event == "end":
            out.append("\n")
            continue
        out.append(element)
        size += len(element)
        if size > TEXT_BYTES_MAX:
            break
    lines = (" ".join(line.split()) for line in "".join(out).splitlines())
    return "\n".join(line for line in lines if line)


def _walk(root: xml_tree.Element) -> Iterator[tuple[str, str]]:
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if not isinstance(element.tag, str):
            continue
        name = xml_tree.name_of(element)
        if event == "start":
            if element.text and name not in ("instrText", "delText"):
                yield "text", element.text
        else:
            if name in _BLOCKS:
                yield "end", ""
            elif name in ("tc", "table-cell", "tab"):
                yield "text", "\t"
            if element.tail:
                yield "text", element.tail
