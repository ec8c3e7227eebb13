"""Structured reports (PS3.3, C.17.3; PS3.16): the content tree as headings and lines, with who said it and when.

Bounded in depth and number; what refers to pictures or places in them is named, not followed.
"""

import dataclasses
from collections.abc import Iterator

from pydicom.dataset import Dataset

from myphr.ingest.reading import safe_html
from myphr.ingest.reading.dates import compact
from myphr.ingest.reading.dicom_values import person, sequence, text
from myphr.records.reading import FullReading, Reading

DEPTH_MAX = 24
ITEMS_MAX = 5000
_NO_WORDS = {"SCOORD", "SCOORD3D", "TCOORD", "UIDREF"}
_REFERS = {"IMAGE": "a picture", "WAVEFORM": "a recording", "COMPOSITE": "another object", "TABLE": "a table"}
_SILENT_CONCEPTS = {"121049", "121058"}  # language of the content; procedure reported is kept by its words


def read(dataset: Dataset, words: Reading) -> FullReading:
    title = _meaning(dataset, "ConceptNameCodeSequence") or words.title
    observer = next(iter(sequence(dataset, "VerifyingObserverSequence")), None)
    author = person(observer, "VerifyingObserverName") if observer is not None else ""
    place = text(observer, "VerifyingOrganization") if observer is not None else ""
    for one in sequence(dataset, "AuthorObserverSequence")[:1]:
        author = author or person(one, "PersonName")
        place = place or text(one, "InstitutionName")
    facts = list(words.facts)
    state = {"COMPLETE": "complete", "PARTIAL": "not complete"}.get(text(dataset, "CompletionFlag"), "")
    checked = {"VERIFIED": "signed", "UNVERIFIED": "not signed"}.get(text(dataset, "VerificationFlag"), "")
    if state or checked:
        facts.append(("State", ", ".join(filter(None, (state, checked)))))
    budget = [ITEMS_MAX]
    markup = f"<h1>{safe_html.escape(title)}</h1>" + "".join(_children(dataset, 2, budget))
    narrative = safe_html.clean(markup)
    return FullReading(
        dataclasses.replace(
            words, title=title, author=author or words.author or _observer_in(dataset), place=words.place or place,
            facts=tuple(facts), text=safe_html.text_of(narrative), kind_words="Report",
        ),
        None, narrative,
    )  # fmt: skip


def _children(dataset: Dataset, level: int, budget: list[int]) -> Iterator[str]:
    for item in sequence(dataset, "ContentSequence"):
        budget[0] -= 1
        if budget[0] < 0 or level > DEPTH_MAX:
            return
        kind = text(item, "ValueType")
        if kind in _NO_WORDS or _code(item, "ConceptNameCodeSequence") in _SILENT_CONCEPTS:
            continue
        name = safe_html.escape(_meaning(item, "ConceptNameCodeSequence"))
        inner = "".join(_children(item, level + 1, budget))
        if kind == "CONTAINER" or (not kind and inner):
            heading = f"<h{min(level, 5)}>{name}</h{min(level, 5)}>" if name else ""
            yield f"{heading}{inner}" if level <= 5 else f"<div>{heading}{inner}</div>"
            continue
        value = "<br>".join(safe_html.escape(part) for part in _value(item, kind).splitlines())
        if not value and not name and not inner:
            continue
        said = f"<p>{f'<b>{name}:</b> ' if name else ''}{value}</p>"
        yield f"{said}<ul><li>{inner}</li></ul>" if inner else said


def _value(item: Dataset, kind: str) -> str:
    if kind == "TEXT":
        try:
            return str(item.get("TextValue") or "")
        except Exception:  # pydicom decodes late
            return ""
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        for measured in sequence(item, "MeasuredValueSequence")[:1]:
            unit = _meaning(measured, "MeasurementUnitsCodeSequence")
            unit = "" if unit.lower() in ("no units", "1") else unit
            return f"{text(measured, 'NumericValue')} {unit}".strip()
        return _meaning(item, "NumericValueQualifierCodeSequence")
    if kind in ("DATE", "DATETIME"):
        raw = text(item, "Date" if kind == "DATE" else "DateTime")
        moment = compact(raw)
        return ", ".join(filter(None, (moment.words, moment.time_words))) if moment else raw
    if kind == "TIME":
        raw = text(item, "Time")
        return f"{raw[:2]}:{raw[2:4]}" if raw[:4].isdigit() and len(raw) >= 4 else raw
    if kind == "PNAME":
        return person(item, "PersonName")
    return _REFERS.get(kind, "")


def _meaning(dataset: Dataset, keyword: str) -> str:
    for code in sequence(dataset, keyword)[:1]:
        return text(code, "CodeMeaning") or text(code, "CodeValue")
    return ""


def _code(dataset: Dataset, keyword: str) -> str:
    return next((text(code, "CodeValue") for code in sequence(dataset, keyword)[:1]), "")


def _observer_in(dataset: Dataset) -> str:
    """The person observer of the content tree (PS3.16, TID 1003), where the module above says none."""
    for item in sequence(dataset, "ContentSequence")[:100]:
        if text(item, "ValueType") == "PNAME" and _code(item, "ConceptNameCodeSequence") == "121008":
            return person(item, "PersonName")
    return ""
