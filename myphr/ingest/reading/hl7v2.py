"""Messages of laboratories and hospitals (HL7 v2.x, chapter 2): who sent what when, results as a table, attachments.

Own splitting instead of a library's: a message here is a stranger's, often with wrong line ends, and what is needed of
it are a dozen fields. Bounded in segments and in the length of a field.
"""

import base64
import binascii
import re
from collections.abc import Iterator

from myphr.ingest.reading import safe_html
from myphr.ingest.reading.clinical import inside
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import Moment, compact
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"hl7v2"})
SEGMENTS_MAX = 5000
ROWS_MAX = 500
FIELD_CHARACTERS_MAX = 20_000
_TYPES = {
    "ORU": "Test results", "OUL": "Laboratory results", "MDM": "Document of a hospital", "VXU": "Vaccinations",
    "ADT": "Visit to a hospital", "ORM": "Order for a test", "OML": "Order for a laboratory test", "SIU": "Appointment",
    "RDE": "Prescription", "RDS": "Medicine handed out", "REF": "Referral", "DFT": "Bill", "ORL": "Laboratory order",
    "PPR": "Problem list", "BAR": "Bill",
}  # fmt: skip
_FLAGS = {"H": "high", "HH": "very high", "L": "low", "LL": "very low", "A": "not normal", "AA": "far from normal",
          "N": "", "<": "below what can be measured", ">": "above what can be measured", "POS": "positive",
          "NEG": "negative", "ABN": "not normal"}  # fmt: skip
_STATES = {"P": "preliminary", "C": "corrected", "X": "not done", "I": "not ready", "D": "withdrawn", "W": "wrong"}
_ESCAPE = re.compile(r"\\([^\\]{0,40})\\")


class Message:
    """Segments as lists of fields, numbered as in the standard: `get("PID", 5, 1)` is PID-5.1."""

    def __init__(self, text: str) -> None:
        lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
        start = next((at for at, line in enumerate(lines) if line[:3] == "MSH" and len(line) > 8), None)
        if start is None:
            raise NotRead
        head = lines[start]
        self.field, marks = head[3], head[4:].split(head[3], 1)[0]
        self.component, self.repeat, self.escape, self.part = list((marks + "^~\\&"[len(marks) :])[:4])
        self.segments: list[list[str]] = []
        for line in lines[start : start + SEGMENTS_MAX]:
            fields = line.split(self.field)
            if not re.fullmatch(r"[A-Z][A-Z0-9]{2}", fields[0]):
                if self.segments:  # a line end inside a field
                    self.segments[-1][-1] += f"\n{line}"
                continue
            self.segments.append([fields[0], self.field, *fields[1:]] if fields[0] == "MSH" else fields)

    def all(self, name: str) -> list[list[str]]:
        return [segment for segment in self.segments if segment[0] == name]

    def get(self, name: str, field: int, component: int = 1) -> str:
        for segment in self.all(name):
            if found := self.of(segment, field, component):
                return found
        return ""

    def of(self, segment: list[str], field: int, component: int = 1) -> str:
        """One component of the first repetition, escapes resolved."""
        if field >= len(segment):
            return ""
        first = segment[field].split(self.repeat)[0][:FIELD_CHARACTERS_MAX]
        parts = first.split(self.component)
        return self.plain(parts[component - 1].split(self.part)[0]) if component <= len(parts) else ""

    def whole(self, segment: list[str], field: int) -> str:
        """A field of free text with all its repetitions."""
        raw = segment[field][:FIELD_CHARACTERS_MAX] if field < len(segment) else ""
        return self.plain(raw.replace(self.repeat, "\n").replace(self.component, " ").replace(self.part, " "))

    def plain(self, text: str) -> str:
        """Chapter 2.7: separators by name, line breaks, characters by number."""
        names = {"F": self.field, "S": self.component, "T": self.part, "R": self.repeat, "E": self.escape}

        def one(match: re.Match[str]) -> str:
            code = match.group(1)
            if code in names:
                return names[code]
            if code.startswith("X"):
                try:
                    return bytes.fromhex(code[1:]).decode("utf-8", "replace")
                except ValueError:
                    return ""
            return "\n" if code.startswith((".br", ".sp", ".ce")) else ""

        pattern = _ESCAPE if self.escape == "\\" else re.compile(
            re.escape(self.escape) + "([^" + re.escape(self.escape) + "]{0,40})" + re.escape(self.escape)
        )  # fmt: skip
        return pattern.sub(one, text).strip()

    def name(self, segment: list[str] | None, field: int, first: int = 1) -> str:
        """XPN and XCN: family, given, middle, suffix, prefix; `first` is 2 where a number stands before."""
        if segment is None:
            return ""
        family, given, middle, suffix, prefix = (self.of(segment, field, first + at) for at in range(5))
        return " ".join(filter(None, (prefix, given, middle, family, suffix)))


def warm_up() -> None:
    list(read(Content("hl7v2", b"MSH|^~\\&|||||20200101||ORU^R01|1|P|2.5\rOBX|1|NM|1^x||1", 1)))


def decoded(data: bytes) -> str:
    data = data.strip(b"\x0b\x1c\r\n ")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def read(content: Content) -> Iterator[FullReading]:
    message = Message(decoded(content.data))
    kind = _TYPES.get(message.get("MSH", 9, 1), "Message of a laboratory or hospital")
    observed = next((moment for segment in message.all("OBR") if (moment := compact(message.of(segment, 7)))), None)
    document = next(iter(message.all("TXA")), None)
    vaccinated = next((moment for one in message.all("RXA") if (moment := compact(message.of(one, 3)))), None)
    written = compact(message.of(document, 4)) if document else None
    moment = observed or written or vaccinated or compact(message.get("MSH", 7))
    tests = list(dict.fromkeys(filter(None, (
        message.of(one, 4, 2) or message.of(one, 4, 1) for one in message.all("OBR")
    ))))  # fmt: skip
    patient = next(iter(message.all("PID")), None)
    order = next(iter(message.all("OBR")), None)
    title = tests[0] if len(tests) == 1 else (message.of(document, 2, 2) if document else "") or kind
    born = compact(message.get("PID", 7))
    facts = [("Tests", ", ".join(tests[:20]) if len(tests) > 1 else ""), ("Born", born.words if born else ""),
             ("Asked for by", message.name(order, 16, 2) or message.name(_first(message, "PV1"), 8, 2)),
             ("Sent by", " ".join(filter(None, (message.get("MSH", 3), message.get("MSH", 4)))))]  # fmt: skip
    rows = list(_results(message))
    if rows:
        facts.insert(0, ("Results", f"{len(rows):,}"))
    words = Reading(
        kind_words=kind, title=title, date=moment.iso if moment else "", date_words=moment.words if moment else "",
        place=message.get("MSH", 4) or message.get("MSH", 3),
        author=(message.name(document, 5, 2) or message.name(document, 9, 2)) if document
        else message.name(order, 32, 1) or message.name(_first(message, "OBX"), 16, 2),
        patient=message.name(patient, 5), facts=tuple((name, value) for name, value in facts if value),
    )  # fmt: skip
    narrative = safe_html.clean(_markup(message, title, rows))
    text = safe_html.text_of(narrative)
    full = FullReading(Reading(**{**vars(words), "text": text}), None, narrative if text != title else None)
    yield full
    yield from _attached(message, full)


def _first(message: Message, name: str) -> list[str] | None:
    return next(iter(message.all(name)), None)


def _results(message: Message) -> Iterator[tuple[str, str, str, str, str]]:
    """(what, value with unit, flag and state, usual, when) of OBX, and vaccinations of RXA."""
    count = 0
    for segment in message.segments:
        if segment[0] == "OBX" and message.of(segment, 2) not in ("ED", "RP") and not _is_text(message, segment):
            unit = message.of(segment, 6, 2) or message.of(segment, 6, 1)
            kind = message.of(segment, 2)
            value = message.of(segment, 5, 2) or message.of(segment, 5) if kind in ("CE", "CWE", "CNE") else ""
            value = value or message.whole(segment, 5)
            flag = ", ".join(filter(None, (_FLAGS.get(message.of(segment, 8).upper(), message.of(segment, 8)),
                                           _STATES.get(message.of(segment, 11), ""))))  # fmt: skip
            moment = compact(message.of(segment, 14))
            name = message.of(segment, 3, 2) or message.of(segment, 3, 1)
            yield (name, f"{value} {unit}".strip() if value else "", flag, message.of(segment, 7), _said(moment))
        elif segment[0] == "RXA":
            vaccine = message.of(segment, 5, 2) or message.of(segment, 5)
            yield (vaccine, "given", "", "", _said(compact(message.of(segment, 3))))
        else:
            continue
        count += 1
        if count >= ROWS_MAX:
            return


def _is_text(message: Message, segment: list[str]) -> bool:
    return message.of(segment, 2) in ("TX", "FT") and len(message.whole(segment, 5)) > 40


def _said(moment: Moment | None) -> str:
    return moment.words if moment else ""


def _markup(message: Message, title: str, rows: list[tuple[str, str, str, str, str]]) -> str:
    parts = [f"<h1>{safe_html.escape(title)}</h1>"]
    parts.append(safe_html.table(("What", "Result", "Note", "Usual", "When"), rows))
    for segment in message.segments:
        if segment[0] == "OBX" and _is_text(message, segment):
            parts.append(f"<p>{safe_html.escape(message.whole(segment, 5)).replace(chr(10), '<br>')}</p>")
        elif segment[0] == "NTE" and message.whole(segment, 3):
            parts.append(f"<p>{safe_html.escape(message.whole(segment, 3)).replace(chr(10), '<br>')}</p>")
    return "".join(parts)


def _attached(message: Message, full: FullReading) -> Iterator[FullReading]:
    """A document in the message itself (ED: chapter 2.A.24): its first page, beside what the message says."""
    from myphr.ingest import identify
    from myphr.ingest.reading import kinds

    for segment in message.all("OBX"):
        if message.of(segment, 2) != "ED" or len(segment) < 6:
            continue
        parts = segment[5].split(message.component)
        if len(parts) < 5 or parts[3].lower() != "base64":
            continue
        try:
            inner = base64.b64decode("".join(parts[4].split()))
        except (binascii.Error, ValueError):
            continue
        found = identify.identify(inner[: identify.HEAD_BYTES])
        if found.format in kinds.READERS and found.format not in FORMATS:
            for one in kinds.READERS[found.format](Content(found.format, inner, len(inner))):
                held = inside(full.reading, one)
                yield FullReading(held.reading, held.preview, full.narrative or held.narrative)
            return
