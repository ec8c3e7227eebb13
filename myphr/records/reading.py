"""What one file says, in plain words, and the limits of it. Pure: no keys, no tables, no formats.

Made by the capped reader (`ingest.reading`), sealed and looked up by `readings`, shown by pages, found by the search.
All of it are a stranger's words: escaped wherever they are shown.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

WORDS_CHARACTERS_MAX = 300  # a title, a name, a place: longer is no such thing
FACT_NAME_CHARACTERS_MAX = 80
FACTS_MAX = 40
TEXT_BYTES_MAX = 64 * 1024  # for the search; the file itself has it all
NARRATIVE_BYTES_MAX = 512 * 1024  # the largest C-CDA seen makes 300 KiB
PREVIEW_BYTES_MAX = 100 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """`date` is ISO 8601, as exact as the file is: 2021, 2021-02 or 2021-02-03. `place`: hospital, practice or
    laboratory. `author`: a person. `facts`: (name, value). `text`: for the search. `note`: why something is missing."""

    kind_words: str = ""
    title: str = ""
    date: str = ""
    date_words: str = ""
    place: str = ""
    author: str = ""
    patient: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    text: str = ""
    note: str = ""
    has_preview: bool = False
    has_narrative: bool = False


@dataclasses.dataclass(frozen=True)
class FullReading:
    """A reading with its picture (JPEG or PNG) and its narrative (HTML that only a sandboxed document may show)."""

    reading: Reading
    preview: bytes | None = None
    narrative: str | None = None


_WORDS = ("kind_words", "title", "date", "date_words", "place", "author", "patient", "note")


def within_limits(full: FullReading) -> FullReading:
    """Cut to what a row may hold, without characters that control or turn a line, whatever its maker said."""
    one = full.reading
    preview = full.preview if full.preview and len(full.preview) <= PREVIEW_BYTES_MAX else None
    if preview is not None and not media_type_of(preview):
        preview = None
    narrative = full.narrative or None
    if narrative and len(narrative.encode("utf-8", "replace")) > NARRATIVE_BYTES_MAX:
        narrative = None  # never cut: half an element could swallow what follows
    reading = Reading(
        **{name: line(getattr(one, name)) for name in _WORDS},
        facts=tuple(
            (line(name, FACT_NAME_CHARACTERS_MAX), line(value)) for name, value in one.facts[:FACTS_MAX] if line(value)
        ),
        text=_text(one.text),
        has_preview=preview is not None,
        has_narrative=narrative is not None,
    )
    return FullReading(reading, preview, narrative)


def line(text: object, most: int = WORDS_CHARACTERS_MAX) -> str:
    """One line fit to be shown: spaces collapsed, no control or direction-changing characters, limited."""
    kept = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: most * 4]).split())
    return kept if len(kept) <= most else kept[: most - 1].rstrip() + "…"


def _text(text: str) -> str:
    kept = "".join(c if c.isprintable() or c == "\n" else " " for c in text[:TEXT_BYTES_MAX])
    return kept.encode("utf-8", "replace")[:TEXT_BYTES_MAX].decode("utf-8", "ignore")


def media_type_of(preview: bytes) -> str:
    """By its first bytes, whatever its maker said; empty for anything that is no picture of ours."""
    if preview.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/png" if preview.startswith(b"\x89PNG\r\n\x1a\n") else ""


def as_fields(reading: Reading) -> dict[str, Any]:
    """For JSON; what is empty is left out."""
    return {name: value for name, value in dataclasses.asdict(reading).items() if value}


def from_fields(fields: Any) -> Reading:
    """Fields that are not known are left out: a later version may have added them. Raises ValueError."""
    if not isinstance(fields, Mapping):
        raise ValueError("a reading is an object")
    known: dict[str, Any] = {}
    for field in dataclasses.fields(Reading):
        value = fields.get(field.name)
        if value is None:
            continue
        if field.name == "facts":
            if not isinstance(value, list | tuple) or not all(
                isinstance(pair, list | tuple) and len(pair) == 2 for pair in value
            ):
                raise ValueError("facts are pairs")
            known["facts"] = tuple((str(name), str(words)) for name, words in value)
        elif not isinstance(value, bool if field.name.startswith("has_") else str):
            raise ValueError("a field of another kind")
        else:
            known[field.name] = value
    return Reading(**known)
