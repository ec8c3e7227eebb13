"""PDF (ISO 32000): the first page as a picture, title, author, date, number of pages, text. By pdfium, no scripts.

Nothing in the document is run: pdfium is built without JavaScript, and no form or action is opened. A password makes it
a file without a preview.
"""

import ctypes
import re
from collections.abc import Iterator

import pypdfium2
from PIL import Image
from pypdfium2 import raw

from myphr.ingest.reading import pictures
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import compact
from myphr.records.reading import TEXT_BYTES_MAX, FullReading, Reading

FORMATS = frozenset({"pdf"})
PAGES_READ_MAX = 40  # for the search
POINTS_MAX = 20_000  # of a page's side: a poster has 3,400
_NAMES = re.compile(r"^(?:untitled|microsoft word - |document\d*$)", re.IGNORECASE)
_BLANK = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 50 50]>>endobj\ntrailer<</Root 1 0 R>>"
)


def warm_up() -> None:
    list(read(Content("pdf", _BLANK, len(_BLANK))))


def read(content: Content) -> Iterator[FullReading]:
    if not content.whole:
        raise NotRead("The document is too large for a preview")
    try:
        document = pypdfium2.PdfDocument(content.data)
    except pypdfium2.PdfiumError:
        code = raw.FPDF_GetLastError()
        raise NotRead(
            "It is protected with a password" if code == raw.FPDF_ERR_PASSWORD else "The document is damaged"
        ) from None
    pages = len(document)
    told = {name: value for name, value in document.get_metadata_dict(skip_empty=True).items()}
    made = compact(told.get("CreationDate", "").removeprefix("D:"))
    title = "" if _NAMES.match(told.get("Title", "")) else told.get("Title", "")
    facts = [("Pages", f"{pages:,}")]
    if told.get("Subject", "unspecified") != "unspecified":  # what ReportLab writes where nobody said one
        facts.append(("Subject", told["Subject"]))
    words = Reading(
        kind_words="PDF document", title=title, date=made.iso if made else "", date_words=made.words if made else "",
        author=told.get("Author", ""), facts=tuple(facts), text=title,
    )  # fmt: skip
    yield FullReading(words)
    text = _text(document, pages)
    if not text:
        facts.append(("Text", "None that can be searched"))
    words = Reading(
        kind_words=words.kind_words, title=title or _first_line(text), date=words.date, date_words=words.date_words,
        author=words.author, facts=tuple(facts), text="\n".join(filter(None, (title, told.get("Keywords", ""), text))),
    )  # fmt: skip
    yield FullReading(words)
    if pages:
        yield FullReading(words, pictures.jpeg_of(_picture(document[0])))


def _picture(page: pypdfium2.PdfPage) -> Image.Image:
    width, height = page.get_size()
    if not (0 < width < POINTS_MAX and 0 < height < POINTS_MAX):
        raise NotRead("Its first page has a size that no paper has")
    bitmap = page.render(scale=2 * pictures.SIDE_PIXELS_MAX / max(width, height), may_draw_forms=False)
    return bitmap.to_pil().convert("RGB")


def _text(document: pypdfium2.PdfDocument, pages: int) -> str:
    parts: list[str] = []
    left = TEXT_BYTES_MAX
    for number in range(min(pages, PAGES_READ_MAX)):
        try:
            page = document[number].get_textpage()
            part = page.get_text_range(0, min(page.count_chars(), left))
        except (pypdfium2.PdfiumError, ctypes.ArgumentError, UnicodeDecodeError):
            continue
        parts.append("\n".join(filter(None, (" ".join(line.split()) for line in part.splitlines()))))
        left -= len(part)
        if left <= 0:
            break
    return "\n".join(filter(None, parts))


def _first_line(text: str) -> str:
    """What a letter without a title is called: its first line with words in it."""
    for line in text.splitlines()[:10]:
        parts = line.split()
        letters = sum(character.isalpha() for character in line)
        if letters >= 4 and sum(len(part) > 1 for part in parts) * 2 > len(parts):
            return line if len(line) <= 80 else f"{line[:79]}…"
    return ""
