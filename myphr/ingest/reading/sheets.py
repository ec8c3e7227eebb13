"""The first sheet of a workbook (SpreadsheetML: ECMA-376 part 1, 18) as rows of what its cells show: texts, numbers,
and days, which are numbers that only the cell's style makes days (18.17.4, 18.8.30).

Formulas are not worked out: what they gave when the file was saved stands in it. Used by `office`.
"""

import datetime as dt
import re
import zipfile
from collections.abc import Callable, Mapping

from myphr.ingest.reading import xml_tree

ROWS_MAX = 40
COLUMNS_MAX = 30
CELL_CHARACTERS_MAX = 200
_CELLS_READ_MAX = 20_000
_DAY_FORMATS = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
_PERCENT_FORMATS = frozenset({9, 10})
_NOT_SIGNS = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?![hms]+\])[^\]]*\]', re.IGNORECASE)  # literals, colours, locales
_REFERENCE = re.compile(r"([A-Z]{1,3})\d+")

Xml = Callable[[zipfile.ZipFile, str], xml_tree.Element | None]


def rows_of(archive: zipfile.ZipFile, xml: Xml) -> list[list[str]]:
    """At most 40 rows of at most 30 cells, empty rows left out. `xml` gives a member's root, or None."""
    workbook = xml(archive, "xl/workbook.xml")
    sheet = xml(archive, _first_sheet(archive, workbook, xml))
    if sheet is None:
        return []
    shared = [_text(one) for one in xml_tree.each(xml(archive, "xl/sharedStrings.xml"), "si")]
    kinds = _kinds(xml(archive, "xl/styles.xml"))
    since_1904 = xml_tree.value(workbook, "workbookPr", "date1904") in ("1", "true")
    rows: list[list[str]] = []
    read = 0
    for row in xml_tree.each(sheet, "sheetData/row"):
        cells: dict[int, str] = {}
        for at, cell in enumerate(xml_tree.each(row, "c")):
            read += 1
            column = _column(cell.get("r"), at)
            if column < COLUMNS_MAX:
                cells[column] = _shown(cell, shared, kinds, since_1904)[:CELL_CHARACTERS_MAX]
        if any(cells.values()):
            rows.append([cells.get(at, "") for at in range(max(cells) + 1)])
        if len(rows) == ROWS_MAX or read > _CELLS_READ_MAX:
            break
    return rows


def _first_sheet(archive: zipfile.ZipFile, workbook: xml_tree.Element | None, xml: Xml) -> str:
    """The member of the sheet that is listed first; workbook and relations know each other by ids."""
    first = xml_tree.find(workbook, "sheets/sheet")
    attributes = first.attrib.items() if first is not None else ()
    wanted = next((value for name, value in attributes if str(name).endswith("}id")), "")
    for one in xml_tree.each(xml(archive, "xl/_rels/workbook.xml.rels"), "Relationship"):
        if wanted and one.get("Id") == wanted:
            target = str(one.get("Target") or "")
            return target[1:] if target.startswith("/") else f"xl/{target}"
    return "xl/worksheets/sheet1.xml"


def _text(item: xml_tree.Element) -> str:
    """A text with its runs (18.4.8); what is only how it is spoken (rPh) is left out."""
    parts = [*xml_tree.each(item, "t"), *xml_tree.each(item, "r/t")]
    return "".join(part.text or "" for part in parts)


def _kinds(styles: xml_tree.Element | None) -> list[str]:
    """For each cell style: "day", "percent" or ""."""
    own: Mapping[int, str] = {
        int(one.get("numFmtId") or -1): str(one.get("formatCode") or "")
        for one in xml_tree.each(styles, "numFmts/numFmt")
        if str(one.get("numFmtId")).isdigit()
    }
    return [_kind(str(one.get("numFmtId") or ""), own) for one in xml_tree.each(styles, "cellXfs/xf")]


def _kind(number: str, own: Mapping[int, str]) -> str:
    if not number.isdigit():
        return ""
    code = own.get(int(number))
    if code is None:
        return "day" if int(number) in _DAY_FORMATS else "percent" if int(number) in _PERCENT_FORMATS else ""
    signs = _NOT_SIGNS.sub("", code.split(";")[0]).lower()
    if signs in ("general", "standard", "@"):
        return ""
    return "day" if re.search(r"[ydhs]|mm", signs) else "percent" if "%" in signs else ""


def _column(reference: str | None, at: int) -> int:
    found = _REFERENCE.fullmatch(reference or "")
    if found is None:
        return at
    column = 0
    for letter in found[1]:
        column = column * 26 + ord(letter) - 64
    return column - 1


def _shown(cell: xml_tree.Element, shared: list[str], kinds: list[str], since_1904: bool) -> str:
    kind = cell.get("t") or "n"
    if kind == "inlineStr":
        inline = xml_tree.find(cell, "is")
        return " ".join(_text(inline).split()) if inline is not None else ""
    value = xml_tree.words(xml_tree.find(cell, "v"))
    if kind == "s":
        return " ".join(shared[int(value)].split()) if value.isdigit() and int(value) < len(shared) else ""
    if kind == "b":
        return {"1": "true", "0": "false"}.get(value, "")
    if kind != "n":
        return value  # a formula's text, an error, a day as ISO 8601
    try:
        number = float(value)
        style = int(cell.get("s") or 0)
    except ValueError:
        return value
    how = kinds[style] if 0 <= style < len(kinds) else ""
    if how == "day":
        return _day(number, since_1904)
    return f"{number * 100:.10g} %" if how == "percent" else f"{number:.15g}"


def _day(number: float, since_1904: bool) -> str:
    """Days since the end of 1899, in which 1900 has a 29 February that never was (18.17.4.1), or since 1904."""
    start = dt.datetime(1904, 1, 1) if since_1904 else dt.datetime(1899, 12, 30 if number >= 61 else 31)
    try:
        moment = start + dt.timedelta(seconds=round(number * 86_400))
    except (OverflowError, ValueError):
        return f"{number:.15g}"
    if 0 <= number < 1:
        return f"{moment:%H:%M}"
    return f"{moment:%Y-%m-%d %H:%M}" if moment.hour or moment.minute else f"{moment:%Y-%m-%d}"
