"""What was read out of an item: title, date, place, author, facts, text, a picture, a narrative. Opened with its key.

The order to read is a row, put in the commit that files the item; `ingest.reading` carries it out in the worker, where
the formats are known. Everything read is sealed under keys derived from the item's own, so that whoever opens the item
opens its reading, and nobody else. Format of the sealed parts: docs/formats/reading.md.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import PydanticUndefined
from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from myphr.crypto import envelope
from myphr.database import Database, new_id, now
from myphr.errors import EnvelopeError
from myphr.records.models import Item, ItemPreview, ItemReading
from myphr.records.opening import Ring, dek_of
from myphr.records.reading import Reading, as_fields, from_fields

JOB = "jobs.ingest.read_items"
_FRESH = {
    name: field.default for name, field in ItemReading.model_fields.items() if field.default is not PydanticUndefined
}  # fmt: skip
VERSION = 1
_QUERY_ROWS = 500  # ids in one query: SQLite takes 32,766 parameters, older ones 999


def dek_context(reading_id: str) -> bytes:
    return envelope.context_for("reading-dek", reading_id)


def order(worker_public_key: bytes, account_id: str, item_id: str, dek: bytes) -> ItemReading:
    """The row that asks the worker to read an item that is just being filed."""
    return ItemReading(**order_columns(worker_public_key, account_id, item_id, dek))


def order_columns(worker_public_key: bytes, account_id: str, item_id: str, dek: bytes) -> dict[str, Any]:
    """The same as columns: making an object of each row would cost as much as SQLite's insert."""
    reading_id, at = new_id(), now()
    sealed = envelope.seal_to(worker_public_key, dek, context=dek_context(reading_id))
    return _FRESH | {
        "id": reading_id, "item_id": item_id, "account_id": account_id, "dek_for_worker": sealed, "created_at": at,
        "changed_at": at,
    }  # fmt: skip


def forget(db: Session, item_id: str) -> None:
    """With the item's key goes what was read with it."""
    db.execute(delete(ItemPreview).where(col(ItemPreview.item_id) == item_id))
    db.execute(delete(ItemReading).where(col(ItemReading.item_id) == item_id))


# -- sealing --------------------------------------------------------------------------------------
def seal(dek: bytes, item_id: str, reading: Reading) -> bytes:
    plain = json.dumps({"version": VERSION} | as_fields(reading), ensure_ascii=False, separators=(",", ":")).encode()
    return envelope.wrap(envelope.derive(dek, "myphr/reading/1"), plain, context=item_id.encode())


def open_reading(dek: bytes, item_id: str, sealed: bytes) -> Reading:
    """Raises EnvelopeError."""
    plain = envelope.unwrap(envelope.derive(dek, "myphr/reading/1"), sealed, context=item_id.encode())
    try:
        return from_fields(json.loads(plain))
    except ValueError:
        raise EnvelopeError("a reading is not what was sealed") from None


def seal_preview(dek: bytes, item_id: str, preview: bytes) -> bytes:
    return envelope.wrap(envelope.derive(dek, "myphr/preview/1"), preview, context=item_id.encode())


def seal_narrative(dek: bytes, item_id: str, narrative: str) -> bytes:
    plain = narrative.encode("utf-8", "replace")
    return envelope.wrap(envelope.derive(dek, "myphr/narrative/1"), plain, context=item_id.encode())


# -- looking --------------------------------------------------------------------------------------
def rows_of(database: Database, item_ids: Iterable[str]) -> dict[str, ItemReading]:
    """The readings there are of these items, unopened, by item."""
    wanted = list(item_ids)
    found: dict[str, ItemReading] = {}
    with database.read() as db:
        for start in range(0, len(wanted), _QUERY_ROWS):
            some = wanted[start : start + _QUERY_ROWS]
            query = select(ItemReading).where(col(ItemReading.item_id).in_(some), ItemReading.state == "done")
            found |= {row.item_id: row for row in db.exec(query)}
    return found


def with_preview(database: Database, item_ids: Iterable[str]) -> set[str]:
    """Which of these items have a picture. Opens and loads nothing."""
    wanted = list(item_ids)
    found: set[str] = set()
    with database.read() as db:
        for start in range(0, len(wanted), _QUERY_ROWS):
            some = wanted[start : start + _QUERY_ROWS]
            found.update(db.exec(select(ItemReading.item_id).where(
                col(ItemReading.item_id).in_(some), ItemReading.state == "done", col(ItemReading.has_preview)
            )))  # fmt: skip
    return found


def middle_previews(database: Database, account_id: str, study_ids: Iterable[str]) -> dict[str, str]:
    """For each of these studies that has pictures, an item with one, from the middle of the order they came in."""
    wanted = list(study_ids)
    found: dict[str, str] = {}
    with database.read() as db:
        for start in range(0, len(wanted), _QUERY_ROWS):
            place = func.row_number().over(partition_by=col(Item.study_id), order_by=(col(Item.created_at), Item.id))
            ranked = (
                select(Item.study_id, Item.id, place.label("place"),
                       func.count().over(partition_by=col(Item.study_id)).label("pictures"))
                .join(ItemReading, col(ItemReading.item_id) == Item.id)
                .where(Item.account_id == account_id, col(Item.deleted_at).is_(None), ItemReading.state == "done",
                       col(ItemReading.has_preview), col(Item.study_id).in_(wanted[start : start + _QUERY_ROWS]))
                .subquery()
            )  # fmt: skip
            query = select(ranked.c.study_id, ranked.c.id).where(ranked.c.place == ranked.c.pictures // 2 + 1)
            found |= {study_id: item_id for study_id, item_id in db.execute(query)}
    return found


def readings_of(database: Database, ring: Ring, items: Sequence[Item]) -> dict[str, Reading]:
    """What was read out of the owner's items, by item id; items without a reading, or with a damaged one, are left
    out. Opens one small envelope and one wrap an item."""
    rows = rows_of(database, [item.id for item in items])
    found = {}
    for item in items:
        row = rows.get(item.id)
        if row is None:
            continue
        try:
            reading = reading_in(row, dek_of(ring, item))
        except EnvelopeError:
            continue  # one damaged row must not hide the others
        if reading is not None:
            found[item.id] = reading
    return found


def reading_in(row: ItemReading, dek: bytes) -> Reading | None:
    """Raises EnvelopeError."""
    return open_reading(dek, row.item_id, row.sealed_reading) if row.sealed_reading else None


def preview_of(database: Database, item_id: str, dek: bytes) -> bytes | None:
    """The picture, or None. Raises EnvelopeError."""
    with database.read() as db:
        sealed = db.exec(select(ItemPreview.sealed_preview).where(ItemPreview.item_id == item_id)).first()
    if not sealed:
        return None
    return envelope.unwrap(envelope.derive(dek, "myphr/preview/1"), sealed, context=item_id.encode())


def narrative_of(database: Database, item_id: str, dek: bytes) -> str | None:
    """The narrative as HTML for a sandboxed document, or None. Raises EnvelopeError."""
    with database.read() as db:
        sealed = db.exec(select(ItemPreview.sealed_narrative).where(ItemPreview.item_id == item_id)).first()
    if not sealed:
        return None
    key = envelope.derive(dek, "myphr/narrative/1")
    return envelope.unwrap(key, sealed, context=item_id.encode()).decode("utf-8", "replace")
