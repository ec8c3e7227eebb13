"""What a file or a study says of itself in a search and on the timeline: one row to show, and the words it is found by.

Pure: opened details, labels, readings and summaries in; entries and documents of the index out. Called by `search`.
"""

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

from myphr.records import formats, labels, summaries
from myphr.records.labels import NO_MODALITY, Kept
from myphr.records.models import Item, Study
from myphr.records.reading import Reading
from myphr.records.search_index import Doc, Entry
from myphr.records.views import StudyView

# code of `item.source`: (how a group of such files is called, how one came)
SOURCES: Mapping[str, tuple[str, str]] = {
    "upload": ("Put in by me", "put in by you"),
    "archive": ("Unpacked from an archive or disc", "unpacked from an archive or disc"),
    "result": ("Saved from a viewer", "saved from a viewer"),
    "drop-off": ("Sent by a practice", "sent by a practice"),
    "fhir": ("From a hospital", "came from a hospital"),
    "pacs": ("Fetched from a practice", "fetched from a practice's image archive"),
    "shared": ("Shared with me", "shared with you"),
}
SHARED = "shared"  # the source of what somebody else shares: never on the owner's own timeline
DAMAGED = "A file whose description is damaged"
_FIRST_YEAR = 1800
_DAY = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")


def study_key(study_id: str) -> str:
    return f"study:{study_id}"


def item_key(item_id: str) -> str:
    return f"item:{item_id}"


def shared_key(item_id: str) -> str:
    return f"{SHARED}:{item_id}"


def is_shared_key(key: str) -> bool:
    return key.startswith(f"{SHARED}:")


def item_of_shared(key: str) -> str:
    return key.partition(":")[2]


def of_study(view: StudyView, stamp: bytes) -> tuple[Entry, Doc]:
    """A study as one row; its files add their own words and kinds."""
    day = view.date.isoformat() if view.date else ""
    entry = Entry(
        study_key(view.id), view.title, "Study", view.description, day, view.hospital, "", view.patient,
        f"{view.items_words}, {view.size_words}", "scan", "", view.added_at.isoformat(),
    )  # fmt: skip
    series = " ".join(dict.fromkeys(one.description for one in view.series if one.description))
    about = _joined(view.description, view.hospital, _searched_day(day), view.patient, view.modality_words, series)
    return entry, Doc(view.id, entry.key, stamp, view.title, about)


def of_damaged_study(study: Study, stamp: bytes) -> tuple[Entry, Doc]:
    entry = Entry(study_key(study.id), "A study whose description is damaged", icon="scan",
                  added=study.created_at.isoformat())  # fmt: skip
    return entry, Doc(study.id, entry.key, stamp, entry.title)


def of_item(
    item: Item, details: Mapping[str, Any], kept: Kept | None, reading: Reading | None, stamp: bytes, sender: str = ""
) -> tuple[Entry | None, Doc]:
    """A file; its row only where it belongs to no study. `kept`: its labels as they stand in the row; `sender`: the
    practice or hospital that it came from."""
    headers, said = details.get("headers") or {}, reading or Reading()
    added = item.created_at.date()
    its = kept.labels if kept else labels.guess(item.format, details.get("headers"), added)
    name, path = str(details.get("name") or DAMAGED), str(details.get("path") or "")
    format = formats.of(item.format)
    kinds = {
        "type": its.type, "modality": None if its.modality == NO_MODALITY else its.modality, "source": item.source,
        "format": item.format,
    }  # fmt: skip
    title, facts = said.title or name, " ".join(f"{fact} {value}" for fact, value in said.facts)
    if item.study_id is not None:  # what its headers say stands in the study's summary
        alone = _joined(sender, path, said.kind_words if said.text else "", facts if said.text else "")
        return None, Doc(item.id, study_key(item.study_id), stamp, title, alone, said.text, **kinds)
    day = _said_day(kept, added) or known_day(said.date)
    if not day and (taken := summaries.date_of(str(headers.get("study_date") or ""))):
        day = taken.isoformat()
    place = said.place or str(headers.get("hospital") or "")
    patient = said.patient or summaries.person_words(str(headers.get("patient_name") or ""))
    about = _joined(
        path if name in path else _joined("" if title == name else name, path), said.kind_words, format.words,
        labels.TYPES[its.type][0], place, said.author, sender, _searched_day(day), patient, facts,
    )  # fmt: skip
    kind = said.kind_words or format.words
    if kind.casefold() == title.casefold():  # its name tells such files apart
        kind = name
    entry = Entry(
        item_key(item.id), title, kind, name if name not in (title, kind) else "", day, place, said.author, patient,
        summaries.size_words(item.plain_bytes), format.icon, item.source, item.created_at.isoformat(),
    )  # fmt: skip
    return entry, Doc(item.id, entry.key, stamp, title, about, said.text, **kinds)


def of_shared(
    share_id: str, owner_name: str, item: Item, details: Mapping[str, Any], reading: Reading | None, stamp: bytes
) -> tuple[Entry, Doc]:
    """A file that somebody else shares. Its row leads to the share; `Entry.patient` is whose it is. Labels are guessed:
    what its owner said of it is sealed to them. Images of one study have one row."""
    entry, doc = of_item(item, details, None, reading, stamp)
    thing, words = item.id, ""
    if entry is None:
        summary = summaries.merge([details.get("headers") or {}])
        date = summaries.date_of(str(summary.get("study_date") or ""))
        day, thing = date.isoformat() if date else "", item.study_id or item.id
        title, place = summaries.title(summary), str(summary.get("hospital") or "")
        patient = summaries.person_words(str(summary.get("patient_name") or ""))
        words = _joined(title, str(summary.get("study_description") or ""), place, _searched_day(day), patient)
        entry = Entry("", title, "Study", "", day, place, icon="scan", added=item.created_at.isoformat())
    key = f"{shared_key(share_id)}:{thing}"
    return (
        dataclasses.replace(entry, key=key, source=SHARED, patient=owner_name, about=""),
        dataclasses.replace(doc, key=shared_key(item.id), entry=key, source=SHARED,
                            about=_joined(doc.about, words, owner_name)),
    )  # fmt: skip


def _said_day(kept: Kept | None, added: dt.date) -> str:
    """The day of the content, if its owner said one. The form proposes the day it came: leaving that says nothing."""
    return kept.labels.day.isoformat() if kept and kept.said and kept.labels.day != added else ""


def known_day(text: str) -> str:
    """A date as exact as it is known, or empty for anything that is none."""
    match = _DAY.match(text)
    if match is None:
        return ""
    year, month, day = match.groups()
    try:
        dt.date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return ""
    return match[0] if int(year) >= _FIRST_YEAR else ""


def day_words(day: str) -> str:
    """ "2021-02-03" is "3 February 2021", "2021-02" is "February 2021"."""
    if len(day) == 10:
        return summaries.date_words(dt.date.fromisoformat(day))
    return f"{dt.date.fromisoformat(day + '-01'):%B %Y}" if len(day) == 7 else day


def _searched_day(day: str) -> str:
    """Both ways people write it."""
    return f"{day_words(day)} {day}" if len(day) > 4 else day


def _joined(*texts: str) -> str:
    return " \N{MIDDLE DOT} ".join(text for text in texts if text)
