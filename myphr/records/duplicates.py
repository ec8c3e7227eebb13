"""What came again: the same bytes, or another version of the same image or entry. Found blindly, shown, never dropped.

Bytes are compared by keyed hash (`opening.content_key`); what a file calls itself (SOP instance UID, PS3.3 C.12.1;
identifiers of FHIR) by keyed hashes too, so neither the database nor a worker learns them. Called by `filing` in the
commit that files, by the importers of messages, and by the owner's pages.
"""

import dataclasses
import datetime as dt
import hmac
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from myphr.crypto import envelope
from myphr.database import Database, now
from myphr.errors import EnvelopeError
from myphr.records.models import Item, ItemIdentifier, ItemRepeat
from myphr.records.opening import Ring, details_of

DICOM_INSTANCE = "dicom-instance"
FHIR_IDENTIFIER = "fhir-identifier"
FHIR_CONTENT = "fhir-content"
KINDS = frozenset({DICOM_INSTANCE, FHIR_IDENTIFIER, FHIR_CONTENT})

REPEATS_MAX = 100  # places noted for one item: an archive may hold one file under 20,000 names
VALUE_BYTES_MAX = 4096  # of an identifier; longer ones are cut, and still find each other
SHOWN_MAX = 20


@dataclasses.dataclass(frozen=True)
class RepeatView:
    """One place that an item came from again. `source` and `source_id` as in Item."""

    name: str
    path: str
    source: str
    source_id: str | None
    times: int
    first_at: dt.datetime
    last_at: dt.datetime


@dataclasses.dataclass(frozen=True)
class Again:
    """What is known of one item: `repeats` came byte for byte, `versions` are other items of the same identity."""

    repeats: tuple[RepeatView, ...]
    repeats_count: int
    versions: tuple[tuple[str, str, dt.datetime], ...]  # item id, name, since when


# -- in the commit that files ---------------------------------------------------------------------
def identifier_key(index_key: bytes, account_id: str, kind: str, value: str) -> str:
    """Finds an identifier of this owner's without being able to read it. `kind` is one of KINDS; a FHIR identifier is
    "system|value", a FHIR content the hex of its hash."""
    if kind not in KINDS:
        raise ValueError("unknown kind of identifier")
    text = value.encode("utf-8", "surrogatepass")[:VALUE_BYTES_MAX]
    return hmac.digest(index_key, b"|".join((b"identifier", kind.encode(), account_id.encode(), text)), "sha256").hex()


def identifier(index_key: bytes, account_id: str, item_id: str, kind: str, value: str) -> dict[str, str]:
    """The columns of `ItemIdentifier` for one identifier of an item that is just being filed."""
    key = identifier_key(index_key, account_id, kind, value)
    return {"item_id": item_id, "account_id": account_id, "kind": kind, "key": key}


def note_identifiers(db: Session, item: Item, index_key: bytes, kind: str, values: Iterable[str]) -> None:
    """Keep what the item calls itself, or the entries in it. Noting the same again changes nothing."""
    found = (identifier(index_key, item.account_id, item.id, kind, value) for value in values)
    rows = {row["key"]: row for row in found}
    if not rows:
        return
    known = set(
        db.exec(select(ItemIdentifier.key).where(ItemIdentifier.item_id == item.id, ItemIdentifier.kind == kind))
    )
    db.add_all([ItemIdentifier(**rows[key]) for key in sorted(set(rows) - known)])


def holders(db: Session, account_id: str, kind: str, keys: Collection[str]) -> dict[str, list[str]]:
    """Key -> ids of the owner's items that bear it, the oldest first; keys that nobody bears are left out."""
    found: dict[str, list[str]] = {}
    wanted = sorted(keys)
    for at in range(0, len(wanted), 500):  # SQLite takes a limited number of values
        rows = db.exec(
            select(ItemIdentifier.key, Item.id)
            .join(Item, col(Item.id) == col(ItemIdentifier.item_id))
            .where(
                ItemIdentifier.account_id == account_id, ItemIdentifier.kind == kind,
                col(ItemIdentifier.key).in_(wanted[at : at + 500]), col(Item.deleted_at).is_(None),
            )
            .order_by(col(Item.created_at), Item.id)
        )  # fmt: skip
        for key, item_id in rows:
            found.setdefault(key, []).append(item_id)
    return found


@dataclasses.dataclass(frozen=True)
class Arrival:
    """One file that came: for the note that it was here already, sealed ahead of the write lock where possible."""

    account_id: str
    source: str
    source_id: str | None
    place_key: str
    row_id: str
    sealed_note: bytes


def arrival(
    index_key: bytes, public_key: bytes, row_id: str, account_id: str, *, source: str, source_id: str | None,
    name: str, path: str,
) -> Arrival:  # fmt: skip
    """What a note of a repeat needs. The place is hashed without the id of an upload or a machine: a CD that is put in
    three times is three times the same place, and one row."""
    place = json.dumps([source, source_id if source in ("archive", "drop-off") else "", path, name])
    note = json.dumps({"name": name, "path": path}, ensure_ascii=False).encode()
    return Arrival(
        account_id, source, source_id,
        hmac.digest(index_key, b"place|" + account_id.encode() + b"|" + place.encode(), "sha256").hex(),
        row_id, envelope.seal_to(public_key, note, context=_note_context(row_id)),
    )  # fmt: skip


def came_again(db: Session, arrived: Sequence[tuple[str, Arrival]]) -> None:
    """Note, in the commit that did not add them, that the bytes of these items (by id) came once more."""
    wanted = sorted({item_id for item_id, _ in arrived})
    noted: dict[str, list[ItemRepeat]] = {item_id: [] for item_id in wanted}
    for at in range(0, len(wanted), 500):
        query = select(ItemRepeat).where(col(ItemRepeat.item_id).in_(wanted[at : at + 500]))
        for known in db.exec(query.order_by(col(ItemRepeat.created_at), ItemRepeat.id)):
            noted[known.item_id].append(known)
    for item_id, one in arrived:
        rows = noted[item_id]
        row = next((row for row in rows if row.place_key == one.place_key), None)
        if row is None and len(rows) >= REPEATS_MAX:
            row = rows[-1]
        if row is None:
            row = ItemRepeat(
                id=one.row_id, item_id=item_id, account_id=one.account_id, place_key=one.place_key,
                sealed_note=one.sealed_note, source=one.source, source_id=one.source_id,
            )  # fmt: skip
            rows.append(row)
        else:
            row.times += 1
            row.last_at, row.source_id = now(), one.source_id
        db.add(row)


def forget(db: Session, item_id: str) -> None:
    """For an item that goes for good: its notes name it."""
    for row in db.exec(select(ItemRepeat).where(ItemRepeat.item_id == item_id)):
        db.delete(row)
    for identifier in db.exec(select(ItemIdentifier).where(ItemIdentifier.item_id == item_id)):
        db.delete(identifier)


# -- for the owner's pages --------------------------------------------------------------------------
def again(database: Database, ring: Ring, item: Item) -> Again:
    """What came again of this item, the newest first."""
    with database.read() as db:
        count = db.exec(select(func.count()).select_from(ItemRepeat).where(ItemRepeat.item_id == item.id)).one()
        rows = db.exec(
            select(ItemRepeat).where(ItemRepeat.item_id == item.id)
            .order_by(col(ItemRepeat.last_at).desc(), ItemRepeat.id).limit(SHOWN_MAX)
        ).all()  # fmt: skip
        others = _versions_of(db, item)
    return Again(
        tuple(_repeat_view(ring, row) for row in rows), count,
        tuple((other.id, _name_of(ring, other), other.created_at) for other in others),
    )  # fmt: skip


def versions_count(database: Database, item_ids: Sequence[str]) -> int:
    """How many of these images have another version in the record: for the page of a study."""
    with database.read() as db:
        found: set[str] = set()
        for at in range(0, len(item_ids), 500):
            mine, other = ItemIdentifier.__table__.alias("mine"), ItemIdentifier.__table__.alias("other")  # type: ignore[attr-defined]
            query = (
                select(mine.c.item_id)
                .distinct()
                .join(
                    other,
                    (other.c.account_id == mine.c.account_id) & (other.c.kind == mine.c.kind)
                    & (other.c.key == mine.c.key) & (other.c.item_id != mine.c.item_id),
                )
                .join(Item, col(Item.id) == other.c.item_id)
                .where(
                    mine.c.item_id.in_(item_ids[at : at + 500]), mine.c.kind == DICOM_INSTANCE,
                    col(Item.deleted_at).is_(None),
                )
            )  # fmt: skip
            found.update(db.exec(query))
    return len(found)


def _versions_of(db: Session, item: Item) -> Sequence[Item]:
    """Other images that bear this image's own UID. Not for messages: two records that mention one entry are no
    versions of each other."""
    keys = db.exec(
        select(ItemIdentifier.key).where(ItemIdentifier.item_id == item.id, ItemIdentifier.kind == DICOM_INSTANCE)
    ).all()
    ids = holders(db, item.account_id, DICOM_INSTANCE, keys)
    wanted = [other for group in ids.values() for other in group if other != item.id][:SHOWN_MAX]
    return db.exec(select(Item).where(col(Item.id).in_(wanted)).order_by(col(Item.created_at))).all()


def _repeat_view(ring: Ring, row: ItemRepeat) -> RepeatView:
    note: dict[str, Any] = {}
    try:
        note = json.loads(ring.open(row.sealed_note, context=_note_context(row.id)))
    except (EnvelopeError, ValueError):
        pass  # a damaged note must not hide that the file came again
    return RepeatView(
        str(note.get("name", "")), str(note.get("path", "")), row.source, row.source_id, row.times, row.created_at,
        row.last_at,
    )  # fmt: skip


def _name_of(ring: Ring, item: Item) -> str:
    try:
        details = details_of(ring, item)
    except (EnvelopeError, ValueError):
        return "A file whose description is damaged"
    return str(details.get("path") or details.get("name") or "")


def _note_context(row_id: str) -> bytes:
    return envelope.context_for("came-again", row_id)
