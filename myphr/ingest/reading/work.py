"""Carrying out the orders to read: claims waiting rows of one account, has each file read, seals what was read.

The worker gets each file's key from its row and loses it when the file was read or could not be. A job reads for a few
seconds and then, if others wait, goes to the end of the queue, because machines are started by the same workers.
Called by `jobs.ingest` and the sweep. Safe to run twice and beside itself: rows are claimed one by one.
"""

import collections
import datetime as dt
import logging
import threading
import time
from collections.abc import Sequence

from sqlmodel import Session, col, select

from myphr.crypto import envelope
from myphr.database import now
from myphr.errors import ContainerError, EnvelopeError, NotFound, StoreFull
from myphr.ingest.fhir import known_again
from myphr.ingest.fhir.entries import Page
from myphr.ingest.reading import FORMATS
from myphr.ingest.reading.capped import Begun, Reader, ReaderGone
from myphr.ingest.states import READING
from myphr.records import readings
from myphr.records.filing import RecordParts
from myphr.records.models import Item, ItemPreview, ItemReading
from myphr.records.opening import Ring, dek_of, open_item
from myphr.records.reading import FullReading
from myphr.records.views import load_item
from myphr.state_tables import StateConflict

log = logging.getLogger(__name__)

JOB = readings.JOB
JOB_FURTHER = "jobs.ingest.read_items_further"  # another name: RQ refuses a second job of one that is still running
JOB_SECONDS_MAX = 600
AT_ONCE = 2
BATCH = 8  # claimed and kept in one commit each
TURN_SECONDS = 4  # then somebody else's machine is started, if one waits: a new turn loads all decoders anew
TURN_SECONDS_MAX = 120  # all the same: a newer version of this program takes over at a turn's end
ATTEMPTS_MAX = 3
LOST = dt.timedelta(minutes=3)  # a batch of files that all run into their limit takes 2 min
ORDERED_AT_ONCE = 200
WAITING = dt.timedelta(seconds=20)


def run(parts: RecordParts, account_id: str, *, again: str = JOB_FURTHER) -> None:
    """Read what waits in this account's record; what is left after our turn is queued anew."""
    batch = _claim(parts, account_id)
    if not batch:
        return
    begun = time.monotonic()
    with Reader() as reader:
        while batch:
            _read_batch(parts, reader, batch)
            seconds = time.monotonic() - begun
            if seconds > TURN_SECONDS_MAX or (seconds > TURN_SECONDS and parts.queue.has_waiting()):
                parts.queue.enqueue(again, account_id, seconds_max=JOB_SECONDS_MAX)
                return
            batch = _claim(parts, account_id)


def sweep(parts: RecordParts) -> int:
    """Rows that somebody took and nobody finished wait again, or are given up; accounts with waiting rows are queued.
    Returns how many accounts."""
    with parts.database.write() as db:
        lost = db.exec(
            select(ItemReading).where(ItemReading.state == "running", ItemReading.changed_at < now() - LOST)
        ).all()
        for row in lost:
            _put_back(db, row)
    with parts.database.read() as db:
        accounts = db.exec(
            select(ItemReading.account_id)
            .where(ItemReading.state == "waiting", ItemReading.changed_at < now() - WAITING)
            .distinct()
        ).all()
    for account_id in accounts:
        parts.queue.enqueue(JOB, account_id, seconds_max=JOB_SECONDS_MAX)
    return len(accounts)


# -- with the owner there -----------------------------------------------------------------------------
def catch_up(parts: RecordParts, account_id: str, ring: Ring) -> threading.Thread | None:
    """At sign-in: orders for files that have none, because they are older than readings are, or than we could read
    their format. Never raises; what does not get done is done at the next sign-in."""
    if not _without_order(parts, account_id, 1):
        return None
    thread = threading.Thread(target=_order_missing, args=(parts, account_id, ring), name="readings", daemon=True)
    thread.start()
    return thread


def _order_missing(parts: RecordParts, account_id: str, ring: Ring) -> None:
    try:
        while items := _without_order(parts, account_id, ORDERED_AT_ONCE):
            rows = []
            for item in items:
                try:
                    rows.append(readings.order(parts.keys.worker.public, account_id, item.id, dek_of(ring, item)))
                except EnvelopeError:  # a damaged row: noted as failed, or it would be tried for ever
                    failed = ItemReading(item_id=item.id, account_id=account_id, dek_for_worker=None, state="failed")
                    rows.append(failed)
            with parts.database.write() as db:
                there = db.exec(
                    select(ItemReading.item_id).where(col(ItemReading.item_id).in_([item.id for item in items]))
                ).all()
                db.add_all(row for row in rows if row.item_id not in set(there))
            parts.queue.enqueue(JOB, account_id, seconds_max=JOB_SECONDS_MAX)
    except Exception as error:  # a thread of its own: nobody else would hear of it
        log.error("orders to read: %s", type(error).__name__)


def _without_order(parts: RecordParts, account_id: str, most: int) -> Sequence[Item]:
    with parts.database.read() as db:
        return db.exec(
            select(Item)
            .outerjoin(ItemReading, col(ItemReading.item_id) == Item.id)
            .where(
                Item.account_id == account_id, col(Item.deleted_at).is_(None), Item.sealed_dek != b"",
                col(Item.format).in_(FORMATS), col(ItemReading.id).is_(None),
            )
            .limit(most)
        ).all()  # fmt: skip


def read_anew(parts: RecordParts, account_id: str, ring: Ring, item_id: str) -> None:
    """After its owner said what a file is: what was read of it as something else is gone, and it is read as that.
    Raises NotFound, EnvelopeError."""
    item = load_item(parts.database, account_id, item_id)
    row = readings.order(parts.keys.worker.public, account_id, item.id, dek_of(ring, item))
    with parts.database.write() as db:
        readings.forget(db, item.id)
        if item.format in FORMATS:
            db.add(row)
    if item.format in FORMATS:
        parts.queue.enqueue(JOB, account_id, seconds_max=JOB_SECONDS_MAX)


def _put_back(db: Session, row: ItemReading) -> None:
    try:
        if row.attempts >= ATTEMPTS_MAX:
            READING.move(db, row, "give_up", dek_for_worker=None)
        else:
            READING.move(db, row, "put_back")
    except StateConflict:
        pass  # finished in this very moment


def _claim(parts: RecordParts, account_id: str) -> list[tuple[ItemReading, Item]]:
    """The next rows. One that was tried before goes alone: it may be what ended the others' run."""
    with parts.database.write() as db:
        rows = db.exec(
            select(ItemReading)
            .where(ItemReading.account_id == account_id, ItemReading.state == "waiting")
            .order_by(col(ItemReading.attempts), col(ItemReading.created_at), ItemReading.id)
            .limit(BATCH)
        ).all()
        claimed: list[tuple[ItemReading, Item]] = []
        for row in rows:
            if claimed and row.attempts:
                break
            item = db.get(Item, row.item_id)
            try:
                if item is None or item.deleted_at is not None or row.dek_for_worker is None:
                    READING.move(db, row, "give_up", dek_for_worker=None)
                else:
                    READING.move(db, row, "take", attempts=row.attempts + 1)
                    claimed.append((row, item))
            except StateConflict:
                continue
            if row.attempts > 1:
                break
    return claimed


def _read_batch(parts: RecordParts, reader: Reader, batch: Sequence[tuple[ItemReading, Item]]) -> None:
    """Two files are on their way at a time: while one is read, the next is opened and handed over."""
    done: list[tuple[ItemReading, bytes, FullReading | None]] = []
    under_way: collections.deque[tuple[ItemReading, bytes, Begun | None]] = collections.deque()
    entries: list[tuple[Item, Page]] = []
    try:
        for row, item in batch:
            under_way.append((row, *_begin(parts, reader, row, item, entries)))
            if len(under_way) >= AT_ONCE:
                done.append(_ended(*under_way.popleft()))
    except ReaderGone:
        log.warning("the reader ended; %d files are read later", len(batch) - len(done) - len(under_way))
        raise
    finally:
        done += [_ended(*one) for one in under_way]
        with parts.database.write() as db:
            for row, dek, full in done:
                _keep(db, row, dek, full)
            for item, page in entries:
                known_again.note(db, item, parts.keys.index_key, page)


def _begin(
    parts: RecordParts, reader: Reader, row: ItemReading, item: Item, entries: list[tuple[Item, Page]]
) -> tuple[bytes, Begun | None]:  # fmt: skip
    """Its key, and the file on its way into the reader process; None if it cannot be opened."""
    try:
        context = readings.dek_context(row.id)
        dek = envelope.open_with(parts.keys.worker.private, row.dek_for_worker or b"", context=context)
        opened = open_item(parts.store, item, dek)
    except (EnvelopeError, ContainerError, NotFound) as error:
        log.warning("item %s is not read: %s", item.id, error.code)
        return b"", None
    try:
        begun = reader.begin(item.format, opened.plain_bytes, opened.read_at)
        page = known_again.page_of_item(item, opened.read_at)
        if page is not None:
            entries.append((item, page))
        return dek, begun
    except (ContainerError, StoreFull, OSError) as error:
        log.warning("item %s is not read: %s", item.id, type(error).__name__)
        return dek, None
    finally:
        opened.close()


def _ended(row: ItemReading, dek: bytes, begun: Begun | None) -> tuple[ItemReading, bytes, FullReading | None]:
    return row, dek, begun.result() if begun is not None else None


def _keep(db: Session, row: ItemReading, dek: bytes, full: FullReading | None) -> None:
    try:
        if full is None:
            READING.move(db, row, "give_up", dek_for_worker=None)
            return
        READING.move(
            db, row, "keep", dek_for_worker=None, sealed_reading=readings.seal(dek, row.item_id, full.reading),
            has_preview=full.reading.has_preview, has_narrative=full.reading.has_narrative,
        )  # fmt: skip
    except StateConflict:
        return  # the item is gone, or somebody else was first
    if full.preview or full.narrative:
        db.add(ItemPreview(
            item_id=row.item_id, account_id=row.account_id,
            sealed_preview=readings.seal_preview(dek, row.item_id, full.preview) if full.preview else None,
            sealed_narrative=readings.seal_narrative(dek, row.item_id, full.narrative) if full.narrative else None,
        ))  # fmt: skip
