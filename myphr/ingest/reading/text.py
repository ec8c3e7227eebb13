"""Plain texts, tables, web pages, RTF, mails, appointments, address cards, Blue Button: their words, as text.

Markup in them is never kept as markup. Of a table the first rows are shown.
"""

import csv
import email.policy
import email.utils
import io
import re
from collections.abc import Iterator
from email.parser import BytesParser

from myphr.ingest.reading import safe_html
from myphr.ingest.reading.content import Content
from myphr.ingest.reading.dates import Moment, compact, iso, moment_of
from myphr.records.reading import TEXT_BYTES_MAX, FullReading, Reading

FORMATS = frozenset({"text", "text-bluebutton", "csv", "tsv", "html", "rtf", "eml", "ics", "vcard"})
CHARACTERS_MAX = 1_000_000
ROWS_MAX = 40
COLUMNS_MAX = 30
SHOWN_CHARACTERS_MAX = 20_000
_AMERICAN = re.compile(r"\b(\d\d)/(\d\d)/(\d{4})\b")
_VETERANS = re.compile(r"\b(\d{1,2}) ([A-Z][a-z]{2})[a-z]* (\d{4})\b(?: @ (\d{4})\b)?")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TITLE_IN_A_LINE = re.compile(r"^-{5,} ?([A-Z][^-\n]{2,60}?) ?-{5,} *$", re.MULTILINE)
_TITLE_BETWEEN_LINES = re.compile(r"^-{5,}\s*\n+([^\n-][^\n]{2,60})\n+\s*-{5,}", re.MULTILINE)
_RTF_TOKEN = re.compile(r"([{}])|\\'([0-9a-fA-F]{2})|\\([a-z]{1,32})(-?\d{1,10})? ?|\\([^a-z])|([^\\{}]+)")
_RTF_SILENT = frozenset({"fonttbl", "colortbl", "stylesheet", "info", "pict", "header", "footer", "sp", "mmathPr"})
_RTF_BREAKS = {"par": "\n", "line": "\n", "tab": "\t", "cell": "\t", "row": "\n", "sect": "\n", "page": "\n"}
_NUMBER = re.compile(r"-?\d{1,18}(?:[.,]\d{1,18})?")


def warm_up() -> None:
    for format_, body in (("eml", b"Subject: x\r\nDate: Thu, 1 Jan 2026 10:00:00 +0000\r\n\r\nx"), ("csv", b"a,b\n1,2"),
                          ("text", b"x"), ("html", b"<p>x"), ("rtf", b"{\\rtf1 x}")):  # fmt: skip
        list(read(Content(format_, body, len(body))))


def read(content: Content) -> Iterator[FullReading]:
    readers = {"csv": _table, "tsv": _table, "html": _html, "rtf": _rtf, "eml": _mail, "ics": _calendar,
               "vcard": _card, "text-bluebutton": _blue_button}  # fmt: skip
    yield readers.get(content.format, _plain)(content)


def decoded(data: bytes) -> str:
    """By its byte order mark, as UTF-8, or as Windows wrote it."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data[: CHARACTERS_MAX * 2].decode("utf-16", "replace")
    try:
        return data[:CHARACTERS_MAX].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start > len(data[:CHARACTERS_MAX]) - 4:  # cut in the middle of a character
            return data[: error.start].decode("utf-8-sig")
        return data[:CHARACTERS_MAX].decode("cp1252", "replace")


def told(kind: str, text: str, title: str = "", moment: Moment | None = None, *, shown: str | None = None,
         facts: tuple[tuple[str, str], ...] = (), author: str = "", place: str = "", patient: str = "",
         note: str = "") -> FullReading:  # fmt: skip
    """A text with what is known of it; `shown` is markup to show instead of the text."""
    if shown is None and text.strip():
        cut = text[:SHOWN_CHARACTERS_MAX] + ("\n…" if len(text) > SHOWN_CHARACTERS_MAX else "")
        shown = f"<pre>{safe_html.escape(cut)}</pre>"
    return FullReading(
        Reading(
            kind_words=kind, title=title, date=moment.iso if moment else "", date_words=moment.words if moment else "",
            author=author, place=place, patient=patient, facts=tuple((n, v) for n, v in facts if v),
            text=f"{title}\n{text}"[:TEXT_BYTES_MAX], note=note,
        ),
        None, safe_html.clean(shown) if shown else None,
    )  # fmt: skip


def first_line(text: str) -> str:
    """The first line that says something, as a title."""
    for line in text.splitlines()[:40]:
        words = line.strip(" \t#*-_=>|")
        if sum(character.isalpha() for character in words) >= 3:
            return words if len(words) <= 80 else f"{words[:79]}…"
    return ""


def _plain(content: Content) -> FullReading:
    text = decoded(content.data)
    return told("Text", text, first_line(text))


def _blue_button(content: Content) -> FullReading:
    """What American insurers and the VA hand out as text: names, sections between lines, dates month first."""
    text = decoded(content.data)
    moment = _handed_out(text[:4000])
    name = re.search(r"^\s*Name:\s*(.+)$", text[:20_000], re.MULTILINE | re.IGNORECASE)
    source = re.search(r"^\s*Source:\s*(.+)$", text[:20_000], re.MULTILINE | re.IGNORECASE)
    plain = text.replace("\r", "")
    sections = (_TITLE_IN_A_LINE.findall(plain) or _TITLE_BETWEEN_LINES.findall(plain))[:30]
    patient = re.split(r"\s{3,}|Date of Birth", name.group(1))[0] if name else ""
    facts = (("Sections", ", ".join(map(str.strip, sections))),)
    return told("Health record (Blue Button)", text, first_line(text), moment, patient=patient, facts=facts,
                place=source.group(1) if source else "")  # fmt: skip


def _handed_out(top: str) -> Moment | None:
    """The first date: "03/16/2013" of insurers, "09 Sep 2013 @ 0602" of the VA."""
    american, veterans = _AMERICAN.search(top), _VETERANS.search(top)
    if veterans and veterans[2] in _MONTHS and (american is None or veterans.start() < american.start()):
        month = _MONTHS.index(veterans[2]) + 1
        return compact(f"{veterans[3]}{month:02}{int(veterans[1]):02}{veterans[4] or ''}")
    return compact(f"{american[3]}{american[1]}{american[2]}") if american else None


def _table(content: Content) -> FullReading:
    text = decoded(content.data)
    first = text.split("\n", 1)[0]
    delimiter = "\t" if content.format == "tsv" else max(",;\t", key=first.count)
    rows: list[list[str]] = []
    count = 0
    try:
        for row in csv.reader(io.StringIO(text), delimiter=delimiter):
            count += 1
            if len(rows) <= ROWS_MAX:
                rows.append([cell[:200] for cell in row[:COLUMNS_MAX]])
    except csv.Error:
        pass
    if not rows:
        return told("Table", text)
    width = max(map(len, rows))
    padded = [row + [""] * (width - len(row)) for row in rows]
    shown = safe_html.table(padded[0], padded[1:])
    all_of_it = content.whole and len(content.data) <= CHARACTERS_MAX
    lines = f"{max(0, count - 1):,}" if all_of_it else f"more than {count:,}"
    if count - 1 > ROWS_MAX:
        shown += f"<p>The first {ROWS_MAX} rows.</p>"
    named = not any(_NUMBER.fullmatch(cell.strip()) for cell in rows[0])  # else the first row is a row like the others
    columns = ", ".join(filter(None, rows[0])) if named else ""
    return told("Table", text, facts=(("Rows", lines), ("Columns", columns)), shown=shown)


def _html(content: Content) -> FullReading:
    markup = decoded(content.data)
    title = re.search(r"<title[^>]*>([^<]{1,300})", markup[:20_000], re.IGNORECASE)
    cleaned = safe_html.clean(markup)
    text = safe_html.text_of(cleaned)
    return told("Web page", text, safe_html.text_of(title.group(1)) if title else first_line(text))


def _rtf(content: Content) -> FullReading:
    raw = content.data[:CHARACTERS_MAX].decode("latin-1")
    title = re.search(r"\{\\title ([^{}\\]{1,200})\}", raw[:100_000])
    author = re.search(r"\{\\author ([^{}\\]{1,200})\}", raw[:100_000])
    made = re.search(r"\{\\creatim\\yr(\d{4})\\mo(\d{1,2})\\dy(\d{1,2})", raw[:100_000])
    moment = compact(f"{made.group(1)}{int(made.group(2)):02}{int(made.group(3)):02}") if made else None
    text = _rtf_text(raw)
    return told("Text document", text, title.group(1) if title else first_line(text), moment,
                author=author.group(1) if author else "")  # fmt: skip


def _rtf_text(raw: str) -> str:
    """The words of RTF 1.9: groups that are no text are left out, characters by number put in."""
    out: list[str] = []
    silent, skip = [False], 0
    for brace, by_hex, word, number, symbol, plain in _RTF_TOKEN.findall(raw):
        if brace:
            silent = [*silent, silent[-1]] if brace == "{" else silent[:-1] or [False]
            if len(silent) > 200:
                break
        elif symbol == "*" or word in _RTF_SILENT:
            silent[-1] = True
        elif silent[-1]:
            continue
        elif word == "u" and number:
            out.append(chr(int(number) % 0x10000))
            skip = 1  # the character for readers without Unicode
        elif by_hex:
            out.append("" if skip else bytes.fromhex(by_hex).decode("cp1252", "replace"))
            skip = 0
        elif word:
            out.append(_RTF_BREAKS.get(word, ""))
        elif symbol:
            out.append({"~": " ", "\\": "\\", "{": "{", "}": "}"}.get(symbol, ""))
        elif plain:
            plain = plain.replace("\r", "").replace("\n", "")
            out.append(plain[skip:] if plain else "")
            skip = 0 if plain else skip
    return re.sub(r"\n{3,}", "\n\n", "".join(out)).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def _mail(content: Content) -> FullReading:
    message = BytesParser(policy=email.policy.default).parsebytes(content.data)

    def head(name: str) -> str:
        try:
            return str(message.get(name) or "")
        except Exception:  # a header that breaks its own grammar
            return ""

    try:
        moment = moment_of(email.utils.parsedate_to_datetime(head("Date")))
    except (ValueError, TypeError):
        moment = None
    names, body = [], ""
    for part in message.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        if name := part.get_filename():
            names.append(str(name))
        elif kind in ("text/plain", "text/html") and not body:
            raw = part.get_payload(decode=True)
            words = decoded(raw if isinstance(raw, bytes) else b"")
            body = safe_html.text_of(safe_html.clean(words)) if kind == "text/html" else words
    facts = (("From", head("From")), ("To", head("To")), ("Attached", ", ".join(names[:20])))
    return told("E-mail", body, head("Subject"), moment, author=head("From"), facts=facts)


def _calendar(content: Content) -> FullReading:
    fields = _lines(decoded(content.data))
    moment = compact(fields.get("DTSTART", "").replace("T", ""))
    return told("Appointment", fields.get("DESCRIPTION", "").replace("\\n", "\n"), fields.get("SUMMARY", ""), moment,
                place=fields.get("LOCATION", "").replace("\\,", ","), author=fields.get("ORGANIZER", ""),
                facts=(("Time", moment.time_words if moment else ""),))  # fmt: skip


def _card(content: Content) -> FullReading:
    fields = _lines(decoded(content.data))
    facts = (("Telephone", fields.get("TEL", "")), ("E-mail", fields.get("EMAIL", "")))
    return told("Address card", "\n".join(value for _, value in facts), fields.get("FN", ""), iso(fields.get("REV")),
                place=fields.get("ORG", "").replace(";", " ").strip(), facts=facts)  # fmt: skip


def _lines(text: str) -> dict[str, str]:
    """The first value of each property (RFC 5545 and 6350: lines folded with a space)."""
    found: dict[str, str] = {}
    for line in re.sub(r"\r?\n[ \t]", "", text).splitlines()[:5000]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.split(";")[0].upper(), value.strip())
    return found
