"""HTML, tables and plain text. All are served as download only, so a wrong guess cannot run anything."""

import codecs
import csv
import io
import re

from myphr.ingest import plain_text
from myphr.ingest.formats import Identified, Rule

# The atomic group: a comment that was read is not read another way, or a row of them takes for ever.
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?>(?:<!--.{0,2000}?-->\s*)*)<(?:!doctype\s+html|html|head|body|script|iframe|title)\b",
    re.IGNORECASE | re.DOTALL,
)
PUID = "x-fmt/111"
_CONTROL = frozenset(range(32)) - {9, 10, 12, 13, 27}


def _html(head: bytes) -> Identified | None:
    return Identified("html", "text/html", "html", puid="fmt/96") if _HTML.match(head[:4096]) else None


_TABLE_SAMPLE_BYTES = 8192
_SAMPLE = re.compile(r"-?\d{1,12}(?:[.,]\d{1,12})?")
_ABOVE_MAX = 8  # lines that some exports put above their table


def _table(head: bytes) -> Identified | None:
    """RFC 4180 and its relatives: the same sign parts nearly every line into as many cells, at least two."""
    text = head.removeprefix(b"\xef\xbb\xbf")[:_TABLE_SAMPLE_BYTES].decode("latin-1")
    whole = text if len(head) <= _TABLE_SAMPLE_BYTES else text[: text.rfind("\n") + 1]
    if any(ord(sign) in _CONTROL for sign in whole):
        return None
    for delimiter in ",;\t":
        try:
            lines = list(csv.reader(io.StringIO(whole), delimiter=delimiter))
        except csv.Error:
            continue
        rows = [row for row in lines if row][:60]
        if _is_table(rows, tabs=delimiter == "\t") or _are_tables(lines, tabs=delimiter == "\t"):
            if delimiter == "\t":
                return Identified("tsv", "text/tab-separated-values", "table", "likely", "x-fmt/13")
            return Identified("csv", "text/csv", "table", "likely", "x-fmt/18")
    return None


def _is_table(rows: list[list[str]], *, tabs: bool) -> bool:
    if len(rows) < 2:
        return False
    cells = len(rows[-1])
    above = next((at for at, row in enumerate(rows[: _ABOVE_MAX + 1]) if len(row) == cells), len(rows))
    table = rows[above:]
    even = sum(len(row) == cells for row in table)
    # Prose has commas, too: two columns, or few lines, have to be without exception.
    enough = len(table) >= 2 if above == 0 else len(table) >= 3 and cells >= 3
    sure = even == len(table) if len(table) < 10 or cells < 3 else even >= 0.9 * len(table)
    if not (enough and sure and cells >= 2 and (tabs or cells > 2 or len(table) > 3)):
        return False
    if _is_code(table) or (cells == 2 and not any(row[1].strip() for row in table)):  # lines of code that end in a sign
        return False
    if cells > 3:  # no prose has so many commas in every line: heads may be questions, and cells hold what people wrote
        return all(len(cell) < 4000 for row in table for cell in row)
    named = all(len(cell) < 80 and not cell.rstrip().endswith((".", "!", "?")) for cell in table[0])
    return named and all(len(cell) < 400 for row in table for cell in row)


def _is_code(rows: list[list[str]]) -> bool:
    return any(row[-1].rstrip().endswith((";", "{", "}", "(")) for row in rows)


def _are_tables(lines: list[list[str]], *, tabs: bool) -> bool:
    """Several tables, empty lines between them, each perhaps below its name: what watches and glucose meters export.
    Below them may stand a column of samples."""
    blocks: list[list[list[str]]] = [[]]
    for line in lines:
        if any(cell.strip() for cell in line):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    blocks = [block for block in blocks if block]
    sure = rows = 0
    for block in blocks:
        table = block[1:] if len(block[0]) == 1 and len(block) > 1 and len(block[1]) > 1 else block
        rows += len(table)
        if _is_code(table):
            return False
        if _is_table(table, tabs=tabs) or all(len(row) == 1 and _SAMPLE.fullmatch(row[0].strip()) for row in table):
            sure += len(table)
        elif len({len(row) for row in table}) > 1 or len(table[0]) == 1:
            return False
    return len(blocks) > 1 and sure * 2 >= rows and any(len(row) > 1 for block in blocks for row in block)


def _text(head: bytes) -> Identified | None:
    if not head:
        return None
    if plain_text.wide_codec(head):
        return Identified("text", "text/plain", "text-utf16", "likely", PUID)
    sample = head[:8192]
    if any(byte in _CONTROL for byte in sample):
        return None
    try:  # a character may be cut at the end of the sample: the incremental decoder waits for its rest
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return Identified("text", "text/plain", "text-utf8", "likely", PUID)
    except UnicodeDecodeError:
        return Identified("text", "text/plain", "text-8bit", "guess", PUID) if sample.count(b"\n") >= 2 else None


HTML_RULES = (Rule("html", _html),)
RULES = (Rule("table", _table), Rule("text", _text))
