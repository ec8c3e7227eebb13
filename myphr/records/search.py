"""Finding something in one's record, and the timeline of it.

The index lies in the object store, sealed under a key of the owner's ring (docs/formats/record-index.md). Each search
opens it, brings it up to date with the record, asks, and lets it go: between two requests nothing of it is in memory,
and on disk it is never in clear. It is a cache: whatever is wrong with it, it is made anew from the record. Called by
web.
"""

import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy import func
from sqlmodel import col, select

from myphr.crypto import container, envelope
from myphr.database import now
from myphr.errors import ContainerError, EnvelopeError, NotFound
from myphr.people.keyring import KeyRing
from myphr.records import entries, labels, readings, views
from myphr.records.filing import RecordParts
from myphr.records.models import Item, ItemReading, RecordIndex, Study
from myphr.records.opening import ItemPlace, dek_of, id_bytes, open_details, open_item
from myphr.records.search_index import DamagedIndex, Doc, Entry, Found, Question, SearchIndex, Years

AT_ONCE_SECONDS = 0.06  # what a search reads by itself; more is read beside it, and the page says how much is left
WORTH_KEEPING = 25  # so few changes are read again by the next search: cheaper than writing the whole index
KEPT_EVERY = 4_000  # files: a reading of hours that is killed goes on from there
_BATCH = 50
SENT = ("drop-off", "fhir")  # sources whose names are in the index
_BLOCK_BYTES = 16 * container.CHUNK_BYTES
_KEY = "myphr/record-index/1"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answer:
    """`unread`: files of the record that are not in the index yet."""

    found: Found
    unread: int


@dataclasses.dataclass(frozen=True)
class Timeline:
    """A stretch of the record by day, the newest first; `total` entries from where it starts."""

    years: Years
    entries: tuple[Entry, ...]
    total: int
    unread: int


class Around(Protocol):
    """What upper layers know: who sent files, and what others share (`sharing.search_around`)."""

    def is_any(self) -> bool: ...
    def senders(self, items: Iterable[Item]) -> Mapping[str, str]: ...
    def stamps(self) -> dict[str, bytes] | None: ...
    def read(self, keys: Sequence[str], stamps: Mapping[str, bytes]) -> Iterator[tuple[Entry, Doc]]: ...


class RecordSearch:
    """One per process. Safe for several threads and for several processes at once: the later writer wins, and what
    it does not know the next search reads."""

    def __init__(self, parts: RecordParts) -> None:
        self._parts = parts
        self._guard = threading.Lock()
        self._reading: dict[str, threading.Thread] = {}

    def find(
        self, ring: KeyRing, account_id: str, question: Question, most: int, around: Around | None = None
    ) -> Answer:
        """Never raises for what somebody typed, nor for a damaged index or file. What others share is found only with
        `around`, and where it can tell now that it is still shared."""
        with self._up_to_date(ring, account_id, around, of_others=True) as (index, unread):
            return Answer(index.find(question, most), unread)

    def timeline(
        self, ring: KeyRing, account_id: str, *, year: int | None = None, dated: bool = True, start: int = 0, most: int,
        around: Around | None = None,
    ) -> Timeline:  # fmt: skip
        """From the end of this year back, or what has no known day. Of one's own alone; `around` because what is read
        now is kept, and is to be found by who sent it."""
        with self._up_to_date(ring, account_id, around) as (index, unread):
            if dated:
                shown, total = index.by_day(before_year=year, start=start, most=most)
            else:
                shown, total = index.without_day(start=start, most=most)
            return Timeline(index.years(), tuple(shown), total, unread)

    def catch_up(
        self, ring: KeyRing, account_id: str, around: Around | None = None
    ) -> threading.Thread | None:
        """Reads what is new beside the request, so that the first search is quick; the thread that does, or None where
        the record is empty. Never raises: signing in must not fail for it. Asking twice is harmless."""
        try:
            with self._parts.database.read() as db:
                some = db.exec(select(Item.id).where(Item.account_id == account_id).limit(1)).first()
            if some is None and (around is None or not around.is_any()):
                return None
            return self._read_beside(ring, account_id, around)
        except Exception as error:
            log.error("the record's index was not looked at: %s", type(error).__name__)
            return None

    # -- keeping up ---------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _up_to_date(
        self, ring: KeyRing, account_id: str, around: Around | None = None, *, of_others: bool = False
    ) -> Iterator[tuple[SearchIndex, int]]:
        with load(self._parts, ring, account_id) as index:
            behind = Behind(self._parts, account_id, index, around)
            behind.take_out()
            if of_others:  # the timeline shows none of them
                behind.hide()
            unread = behind.read(self._parts, ring, seconds_max=AT_ONCE_SECONDS) + behind.shared_left
            if behind.removed or behind.changed >= WORTH_KEEPING or behind.shared_left:
                self._read_beside(ring, account_id, around)
            yield index, unread

    def _read_beside(self, ring: KeyRing, account_id: str, around: Around | None) -> threading.Thread:
        with self._guard:
            thread = self._reading.get(account_id)
            if thread is None or not thread.is_alive():
                thread = threading.Thread(
                    target=self._run, args=(ring, account_id, around), name="record-index", daemon=True
                )
                self._reading[account_id] = thread
                thread.start()
            return thread

    def _run(self, ring: KeyRing, account_id: str, around: Around | None) -> None:
        """Holds the ring for as long as it reads: seconds, for tens of thousands of files."""
        try:
            bring_up_to_date(self._parts, ring, account_id, around)
        except Exception as error:  # a cache: the next search tries again
            log.warning("the index of a record was not kept: %s", type(error).__name__)
        finally:
            with self._guard:
                if self._reading.get(account_id) is threading.current_thread():
                    del self._reading[account_id]


def bring_up_to_date(parts: RecordParts, ring: KeyRing, account_id: str, around: Around | None = None) -> None:
    """Reads all that is new or changed and keeps the index. Safe to run twice, at once, and to be killed anywhere.
    Without `around` what others share stays in it as it is."""
    with load(parts, ring, account_id) as index:
        behind = Behind(parts, account_id, index, around)
        behind.take_out()
        while behind.read(parts, ring, docs_max=KEPT_EVERY):
            keep(parts, ring, account_id, index, behind.as_of)
        shared = behind.read_shared()
        if behind.removed or behind.changed or shared:
            keep(parts, ring, account_id, index, behind.as_of)


class Behind:
    """How far an index is behind the record, and reading it up."""

    def __init__(
        self, parts: RecordParts, account_id: str, index: SearchIndex, around: Around | None = None
    ) -> None:
        self._index, self._around = index, around
        self.as_of = now()
        studies, stamps = _stamps(parts, account_id)
        every = index.stamps()
        of_others = {key: stamp for key, stamp in every.items() if entries.is_shared_key(key)}
        there = {key: stamp for key, stamp in every.items() if key not in of_others} if of_others else every
        shared = around.stamps() if around is not None else None
        self._shared = shared or {}
        # Nobody can tell whether it is still shared: not found this time, and not thrown away.
        self._hidden = set(of_others) if shared is None else set()
        self._todo_shared = [key for key, stamp in self._shared.items() if of_others.get(key) != stamp]
        self._gone = there.keys() - stamps.keys()
        if shared is not None:  # what changed may have come by a share that is no more: read again, and found then
            self._gone |= {key for key, stamp in of_others.items() if shared.get(key) != stamp}
        self._todo = [key for key, stamp in stamps.items() if there.get(key) != stamp]  # studies first
        self._stamps = stamps
        self._studies = studies
        self.removed, self.changed = len(self._gone), len(self._todo)

    def take_out(self) -> None:
        """What is no longer in the record, before anything is asked."""
        with self._index.changing():
            self._index.settle(self._index.remove(self._gone))

    def hide(self) -> None:
        """From this look alone."""
        if self._hidden:
            with self._index.changing():
                self._index.settle(self._index.remove(self._hidden))

    @property
    def shared_left(self) -> int:
        """Files of others that are not in it yet. Read beside a request, never in it: it takes whole shares."""
        return len(self._todo_shared)

    def read_shared(self) -> int:
        """Reads them all; how many there were."""
        read = 0
        if self._todo_shared and self._around is not None:
            found = self._around.read(self._todo_shared, self._shared)
            while some := list(itertools.islice(found, _BATCH)):
                with self._index.changing():
                    for entry, _ in some:
                        self._index.put_entry(entry)
                    self._index.settle(self._index.put(doc for _, doc in some))
                read += len(some)
        self._todo_shared = []
        return read

    def read(
        self, parts: RecordParts, ring: KeyRing, *, seconds_max: float | None = None, docs_max: int | None = None
    ) -> int:
        """Reads until done or a limit is met; how many files are left."""
        started, done = time.monotonic(), 0
        while self._todo:
            batch, self._todo = self._todo[:_BATCH], self._todo[_BATCH:]
            self._take(parts, ring, batch)
            done += len(batch)
            if seconds_max is not None and time.monotonic() - started > seconds_max:
                break
            if docs_max is not None and done >= docs_max:
                break
        return sum(key not in self._studies for key in self._todo)

    def _take(self, parts: RecordParts, ring: KeyRing, keys: Sequence[str]) -> None:
        with parts.database.read() as db:
            studies = db.exec(select(Study).where(col(Study.id).in_(keys))).all()
            items = db.exec(select(Item).where(col(Item.id).in_(keys))).all()
        read: list[tuple[Entry | None, Doc]] = [
            _read_study(parts, ring, study, self._stamps[study.id]) for study in studies
        ]
        rows = readings.rows_of(parts.database, [item.id for item in items])
        senders = self._around.senders(items) if self._around is not None else {}
        read += [
            _read_item(ring, item, rows.get(item.id), self._stamps[item.id], senders.get(item.id, ""))
            for item in items if item.deleted_at is None
        ]  # fmt: skip
        with self._index.changing():
            for entry, _ in read:
                if entry is not None:
                    self._index.put_entry(entry)
            touched = self._index.put(doc for _, doc in read)
            self._index.settle(touched)


def _stamps(parts: RecordParts, account_id: str) -> tuple[set[str], dict[str, bytes]]:
    """The ids of the record's studies; and for each study, then each file, something that changes with what the index
    holds of it, without opening anything: what is sealed anew begins with fresh random bytes."""
    of_studies = sa.select(
        col(Study.id), col(Study.items_count), col(Study.changed_at), func.substr(Study.sealed_summary, 2, 12)
    ).where(col(Study.account_id) == account_id, col(Study.deleted_at).is_(None), col(Study.items_count) > 0)
    of_items = (
        sa.select(
            col(Item.id), col(Item.study_id), col(Item.format), func.substr(Item.sealed_details, 2, 12),
            func.substr(Item.wrapped_labels, 2, 12), func.substr(ItemReading.sealed_reading, 2, 12), col(Item.source),
        )
        .outerjoin(ItemReading, col(ItemReading.item_id) == Item.id)
        .where(col(Item.account_id) == account_id, col(Item.deleted_at).is_(None))
    )  # fmt: skip
    with parts.database.read() as db:  # rows as they come: the session's own way takes twice as long for 10,000
        studies = db.connection().execute(of_studies).all()
        items = db.connection().execute(of_items).all()
    settled = now() - views.SETTLE
    found = {
        study_id: b"%d %d %b" % (count, changed_at > settled, summary)
        for study_id, count, changed_at, summary in studies
    }
    for item_id, study_id, format, details, wrapped, reading, source in items:
        found[item_id] = b"|".join(
            ((study_id or "").encode(), format.encode(), details, wrapped or b"", reading or b"")
        ) + (b"|sender" if source in SENT else b"")  # fmt: skip
    return {study_id for study_id, *_ in studies}, found


def _read_study(parts: RecordParts, ring: KeyRing, study: Study, stamp: bytes) -> tuple[Entry, Doc]:
    try:
        return entries.of_study(views.study_in(parts.database, ring, study), stamp)
    except (EnvelopeError, json.JSONDecodeError):
        log.warning("the description of study %s is damaged", study.id)
        return entries.of_damaged_study(study, stamp)


def _read_item(
    ring: KeyRing, item: Item, row: ItemReading | None, stamp: bytes, sender: str
) -> tuple[Entry | None, Doc]:
    details, kept, reading = {}, None, None
    try:
        dek = dek_of(ring, item)
        details = open_details(dek, item.id, item.sealed_details)
        kept = labels.kept_of(ring, item.id, item.wrapped_labels)
        reading = readings.reading_in(row, dek) if row is not None else None
    except (EnvelopeError, json.JSONDecodeError):
        log.warning("the description of item %s is damaged", item.id)
    return entries.of_item(item, details, kept, reading, stamp, sender)


# -- keeping the index ------------------------------------------------------------------------------------
def load(parts: RecordParts, ring: KeyRing, account_id: str) -> SearchIndex:
    """The kept index, or an empty one where there is none or it does not open."""
    with parts.database.read() as db:
        row = db.get(RecordIndex, account_id)
    if row is None:
        return SearchIndex()
    try:
        dek = envelope.unwrap(ring.derive(_KEY), row.wrapped_dek, context=_context(account_id, row.index_id))
        place = ItemPlace(row.index_id, account_id, row.object_key, row.plain_bytes)
        opened = open_item(parts.store, place, dek)
        with contextlib.closing(opened):
            plain = bytearray(opened.plain_bytes)
            with memoryview(plain) as room:
                for at in range(0, len(plain), _BLOCK_BYTES):
                    opened.read_into(at, room[at : at + _BLOCK_BYTES])
        return SearchIndex(plain)
    except (EnvelopeError, ContainerError, DamagedIndex) as error:
        log.warning("the index of account %s is made anew: %s", account_id, type(error).__name__)
    except NotFound:
        pass  # another one took its place just now
    return SearchIndex()


def keep(parts: RecordParts, ring: KeyRing, account_id: str, index: SearchIndex, as_of: dt.datetime) -> bool:
    """Seals the index and puts it in the place of the one before. False, and nothing is kept, where a file was deleted
    since `as_of`: its words would come back. Raises StoreFull."""
    plain = index.to_bytes()
    row = RecordIndex(
        account_id=account_id, index_id=str(uuid.uuid4()), object_key="", wrapped_dek=b"", plain_bytes=len(plain),
        as_of=as_of,
    )  # fmt: skip
    dek = container.new_dek()
    row.object_key = f"{row.index_id}.index"
    row.wrapped_dek = envelope.wrap(ring.derive(_KEY), dek, context=_context(account_id, row.index_id))
    sealer = container.ChunkSealer(dek, id_bytes(account_id), id_bytes(row.index_id))
    out = parts.store.create(row.object_key)
    try:
        out.write(sealer.header)
        with memoryview(plain) as view:
            for at in range(0, len(plain), _BLOCK_BYTES):
                out.write(sealer.seal_chunks(view[at : at + _BLOCK_BYTES], at + _BLOCK_BYTES >= len(plain)))
        out.commit()
    except BaseException:
        out.abort()
        raise
    old = None
    with parts.database.write() as db:
        deleted = db.exec(
            select(Item.id).where(Item.account_id == account_id, col(Item.deleted_at) >= as_of).limit(1)
        ).first()
        if deleted is None:
            old = db.get(RecordIndex, account_id)
            if old is not None:
                db.delete(old)
                db.flush()
            db.add(row)
    parts.store.delete(row.object_key if deleted else old.object_key if old else "none.none")
    return deleted is None


def _context(account_id: str, index_id: str) -> bytes:
    return envelope.context_for("record-index", account_id, index_id)
