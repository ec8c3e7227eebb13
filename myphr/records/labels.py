"""What kind of thing each file is: type, modality, day, and whether its owner calls it sensitive.

Guessed from the format, the headers and the day read out of it, corrected by the owner on the file's page. Kept in
the item's row under a key that only the owner's ring gives, so that the database does not tell which file is a
laboratory result. Spec: docs/formats/compartment.md, "Labels". Called by `sharing` and the pages.
"""

import dataclasses
import datetime as dt
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, update
from sqlmodel import col, select

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.crypto import envelope
from myphr.crypto.abe.dates import FIRST_DAY, LAST_DAY
from myphr.database import Database
from myphr.errors import EnvelopeError, FormRefused
from myphr.people.keyring import KeyRing
from myphr.records import formats, readings, summaries
from myphr.records.models import Item, ItemReading
from myphr.records.opening import dek_of, open_details
from myphr.records.views import load_item, load_study

# code: (one, several)
TYPES: Mapping[str, tuple[str, str]] = {
    "imaging": ("scan or picture of the body", "scans and pictures of the body"),
    "laboratory": ("lab result", "lab results"),
    "document": ("letter or document", "letters and documents"),
    "ecg": ("ECG or heart recording", "ECGs and heart recordings"),
    "genome": ("genome file", "genome files"),
    "wearable": ("recording of a watch or sensor", "recordings of a watch or sensor"),
    "photo": ("photo", "photos"),
    "other": ("other file", "other files"),
}
NO_MODALITY = "none"
_GUESS_VERSION = 1  # a higher one makes every guess anew; what an owner said stays
_LABEL = "myphr/item-labels/1"
_BATCH = 500
_OF_MODALITY = {"ECG": "ecg", "EPS": "ecg", "HD": "ecg", "SR": "document", "DOC": "document", "XC": "photo"}

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, order=True)
class Labels:
    """`modality` is a DICOM code in small letters, or "none". `day`: when the pictures were taken or the letter was
    written, else when the file came."""

    type: str
    modality: str
    sensitive: bool
    day: dt.date

    def __post_init__(self) -> None:
        if self.type not in TYPES or not re.fullmatch(r"[a-z0-9]{1,16}", self.modality):
            raise ValueError("not the labels of a file")
        if not FIRST_DAY <= self.day <= LAST_DAY:
            raise ValueError("a day that labels do not know")


def guess(format: str, headers: Mapping[str, Any] | None, added: dt.date, read: str = "") -> Labels:
    """What the file says about itself; `read`: the date read out of it, which counts where it is known to the day.
    Nothing is sensitive until its owner says so."""
    if format != "dicom" or headers is None:
        return Labels(formats.of(format).type, NO_MODALITY, False, _day_read(read) or added)
    code = re.sub("[^A-Z0-9]", "", str(headers.get("modality") or "").upper())[:16]
    day = summaries.date_of(str(headers.get("study_date") or ""))
    known = day is not None and FIRST_DAY <= day <= LAST_DAY
    type = _OF_MODALITY.get(code, "imaging")
    return Labels(type, code.lower() or NO_MODALITY, False, day if known and day else added)


def _day_read(date: str) -> dt.date | None:
    try:
        day = dt.date.fromisoformat(date[:10])
    except ValueError:
        return None
    return day if FIRST_DAY <= day <= LAST_DAY else None


def of_item(ring: KeyRing, item: Item, reading: ItemReading | None = None) -> Labels:
    """`reading`: what was read out of it, if that is done. Raises EnvelopeError for a damaged row."""
    kept = kept_of(ring, item.id, item.wrapped_labels)
    if kept is not None and (reading is None or not _to_guess_anew(kept, item.study_id)):
        return kept.labels
    return _guessed(ring, item, kept, reading)


def of_file(database: Database, ring: KeyRing, item: Item) -> Labels:
    """The same with what was read out of it. Raises EnvelopeError."""
    return of_item(ring, item, readings.rows_of(database, [item.id]).get(item.id))


def _to_guess_anew(kept: "Kept", study_id: str | None) -> bool:
    """Once something was read out of a file that no headers describe."""
    return not (kept.said or kept.after_reading or study_id is not None)


def of_record(database: Database, ring: KeyRing, account_id: str) -> dict[str, Labels]:
    """The labels of all files of the record by item id; what was guessed now is kept. A damaged row is left out. What
    comes late to a study with a sensitive file is sensitive too."""
    with database.read() as db:
        rows = db.exec(
            select(Item.id, Item.study_id, Item.wrapped_labels, ItemReading.id)
            .outerjoin(ItemReading, and_(col(ItemReading.item_id) == col(Item.id), col(ItemReading.state) == "done"))
            .where(Item.account_id == account_id, col(Item.deleted_at).is_(None))
        ).all()  # fmt: skip
    found: dict[str, Labels] = {}
    missing = []
    sensitive: set[str] = set()
    for item_id, study_id, wrapped, reading in rows:
        try:
            kept = kept_of(ring, item_id, wrapped)
        except EnvelopeError:  # changed: guessing anew could make an ordinary file of a sensitive one
            log.warning("the labels of item %s are damaged", item_id)
            continue
        if kept is None or (reading is not None and _to_guess_anew(kept, study_id)):
            missing.append(item_id)
        else:
            found[item_id] = kept.labels
            if kept.labels.sensitive and study_id is not None:
                sensitive.add(study_id)
    for start in range(0, len(missing), _BATCH):
        found |= _guess_some(database, ring, missing[start : start + _BATCH], sensitive)
    return found


def _guess_some(
    database: Database, ring: KeyRing, item_ids: Sequence[str], sensitive_studies: set[str]
) -> dict[str, Labels]:
    with database.read() as db:
        items = db.exec(select(Item).where(col(Item.id).in_(item_ids))).all()
    read = readings.rows_of(database, item_ids)
    found, kept = {}, []
    for item in items:
        try:
            before = kept_of(ring, item.id, item.wrapped_labels)
            labels = _guessed(ring, item, before, read.get(item.id))
            if item.study_id in sensitive_studies:
                labels = dataclasses.replace(labels, sensitive=True)
            found[item.id] = labels
        except EnvelopeError:
            log.warning("item %s is damaged and has no labels", item.id)
            continue
        kept.append((item, _wrap(ring, item.id, labels, said=False, after_reading=item.id in read)))
    with database.write() as db:
        for item, wrapped in kept:  # unless the owner said something in this moment
            db.execute(
                update(Item).where(col(Item.id) == item.id, col(Item.wrapped_labels).is_not_distinct_from(
                    item.wrapped_labels)).values(wrapped_labels=wrapped)
            )  # fmt: skip
    return found


def say(database: Database, ring: KeyRing, account_id: str, item_id: str, labels: Labels) -> None:
    """What the owner says this file is. Raises NotFound for what is not theirs, FormRefused for what cannot be."""
    load_item(database, account_id, item_id)
    with database.write() as db:
        db.execute(update(Item).where(col(Item.id) == item_id, col(Item.account_id) == account_id)
                   .values(wrapped_labels=_wrap(ring, item_id, labels, said=True)))  # fmt: skip
        trail.record(db, "item-labelled", account_id=account_id, actor=Actor("patient", account_id), item=item_id)


def mark_study(
    database: Database, ring: KeyRing, account_id: str, study_id: str, *, sensitive: bool
) -> dict[str, Labels]:
    """All files of a study at once; returns what they are now. Raises NotFound for what is not the owner's. A damaged
    file is left out: it is shared with nobody."""
    study, items = load_study(database, account_id, study_id)
    found: dict[str, Labels] = {}
    for item in items:
        try:
            found[item.id] = dataclasses.replace(of_item(ring, item), sensitive=sensitive)
        except EnvelopeError:
            log.warning("item %s is damaged and was not marked", item.id)
    with database.write() as db:
        for item_id, labels in found.items():
            db.execute(update(Item).where(col(Item.id) == item_id)
                       .values(wrapped_labels=_wrap(ring, item_id, labels, said=True)))  # fmt: skip
        trail.record(db, "study-marked", account_id=account_id, actor=Actor("patient", account_id), study=study.id,
                     items=len(found), sensitive=sensitive)  # fmt: skip
    return found


def guessed_anew(
    ring: KeyRing, item: Item, format: str, headers: Mapping[str, Any] | None
) -> Labels | None:
    """What is guessed of a file now that its owner says it is of this format; None where the owner said the labels
    themselves. What was sensitive stays so. Raises EnvelopeError for a damaged row."""
    kept = kept_of(ring, item.id, item.wrapped_labels)
    if kept is not None and kept.said:
        return None
    found = guess(format, headers, item.created_at.date())
    return dataclasses.replace(found, sensitive=kept is not None and kept.labels.sensitive)


def wrap_guess(ring: KeyRing, item_id: str, labels: Labels) -> bytes:
    return _wrap(ring, item_id, labels, said=False)


def is_sensitive(ring: KeyRing, items: Sequence[Item]) -> bool:
    """Whether any of them is, as far as can be read."""
    for item in items:
        try:
            if item.wrapped_labels is not None and of_item(ring, item).sensitive:
                return True
        except EnvelopeError:
            continue
    return False


def read_form(type: str, day: str, sensitive: bool, modality: str) -> Labels:
    """Raises FormRefused."""
    try:
        return Labels(type, modality if type == "imaging" else NO_MODALITY, sensitive, read_day(day))
    except ValueError:
        raise FormRefused("type", reason="choose what it is") from None


def read_day(text: str) -> dt.date:
    """Raises FormRefused."""
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        day = dt.date.min
    if not FIRST_DAY <= day <= LAST_DAY:
        raise FormRefused("day", reason="write the day as day, month and year, from 1900 on")
    return day


def _guessed(ring: KeyRing, item: Item, before: "Kept | None", reading: ItemReading | None) -> Labels:
    """What was sensitive stays so."""
    dek = dek_of(ring, item)
    details = open_details(dek, item.id, item.sealed_details)
    date = ""
    try:
        told = readings.reading_in(reading, dek) if reading is not None else None
        date = told.date if told else ""
    except EnvelopeError:  # changed: it is only a help
        log.warning("what was read out of item %s is damaged", item.id)
    found = guess(item.format, details.get("headers"), item.created_at.date(), date)
    return dataclasses.replace(found, sensitive=before is not None and before.labels.sensitive)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Labels as they stand in a row; `said`: by the owner, not guessed; `after_reading`: guessed when it had been
    read what is in the file."""

    labels: Labels
    said: bool
    after_reading: bool = False


def kept_of(ring: KeyRing, item_id: str, wrapped: bytes | None) -> Kept | None:
    """None where nothing is kept, or a guess of an older version. Raises EnvelopeError."""
    if wrapped is None:
        return None
    plain = envelope.unwrap(ring.derive(_LABEL), wrapped, context=_context(item_id))
    try:
        kept = json.loads(plain)
        if not kept["said"] and kept["version"] != _GUESS_VERSION:
            return None
        return Kept(from_json(kept["labels"]), bool(kept["said"]), kept.get("read") is True)
    except (ValueError, KeyError, TypeError):
        raise EnvelopeError("not labels") from None


def _wrap(ring: KeyRing, item_id: str, labels: Labels, *, said: bool, after_reading: bool = False) -> bytes:
    content: dict[str, Any] = {"version": _GUESS_VERSION, "said": said, "labels": to_json(labels)}
    if after_reading:
        content["read"] = True
    plain = json.dumps(content, separators=(",", ":")).encode()
    return envelope.wrap(ring.derive(_LABEL), plain, context=_context(item_id))


def _context(item_id: str) -> bytes:
    return envelope.context_for("item-labels", item_id)


def to_json(labels: Labels) -> dict[str, Any]:
    return {"type": labels.type, "modality": labels.modality, "sensitive": labels.sensitive,
            "day": labels.day.isoformat()}  # fmt: skip


def from_json(kept: Mapping[str, Any]) -> Labels:
    """Raises ValueError, KeyError."""
    if type(kept["sensitive"]) is not bool:
        raise ValueError("not labels")
    return Labels(kept["type"], kept["modality"], kept["sensitive"], dt.date.fromisoformat(kept["day"]))
