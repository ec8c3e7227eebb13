"""Exports: the whole record as one zip, made by the worker and kept for a day, sealed to its owner like every file.

While the owner is signed in, `ask` and then `go_on`, a step a request, write an order (facts and keys of the files of
that moment: `export_orders`), sealed under a key that the owner and, from the last step until the zip is there, the
worker can open. `run` is the job: takes an id, runs twice without harm, begins anew after a crash. The zip exists under
its key only when it is whole. Called by web, jobs and the sweep; formats are told by a function that is passed in.
"""

import contextlib
import dataclasses
import datetime as dt
import functools
import hashlib
import io
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import redis
from sqlmodel import col, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM, Actor
from myphr.crypto import container, envelope
from myphr.database import Database, new_id, now
from myphr.errors import ContainerError, EnvelopeError, FormRefused, NotFound, StoreFull
from myphr.people.login_sessions import Login
from myphr.people.models import Account
from myphr.queue import JobQueue
from myphr.records import export_contents, export_orders, zip_stream
from myphr.records.export_orders import BLOCK_BYTES, Sealed
from myphr.records.filing import RecordParts
from myphr.records.models import Export
from myphr.records.opening import ItemPlace, OpenItem, open_item
from myphr.records.states import EXPORT
from myphr.records.store import ObjectStore
from myphr.state_tables import StateConflict

JOB, JOB_AGAIN = "jobs.exports.make_export", "jobs.exports.make_export_again"
JOB_SECONDS_MAX = 6 * 3600  # 250 GB at 12 MB/s, a slow disk
KEPT = dt.timedelta(hours=24)  # enough for a tablet's night, and for a second try
STUCK = dt.timedelta(seconds=60)  # a run notes its progress every 2 s
NOTE_SECONDS = 2.0
FREE_BYTES_MIN = 256 * 1024**2  # left for the database, which must still be able to say what is there
ABOUT_BYTES_PER_ITEM = 3000  # manifest, Bundle, README, checksums and the zip's own two headers
STEP_SECONDS = 0.3  # of opening, in a request
LIVE = ("preparing", "waiting", "running", "ready")

log = logging.getLogger(__name__)


class Parts(RecordParts, Protocol):
    @property
    def queue(self) -> JobQueue: ...


@dataclasses.dataclass(frozen=True)
class ExportView:
    """What the owner's page says of the export there is."""

    id: str
    state: str
    items_total: int
    items_missing: int
    items_opened: int
    bytes_total: int
    bytes_done: int
    zip_bytes: int
    created_at: dt.datetime
    expires_at: dt.datetime | None
    error_code: str | None

    @property
    def is_under_way(self) -> bool:
        return self.state in ("preparing", "waiting", "running")


class _Overtaken(Exception):
    """Another run went further, or the export was removed: this run must not go on."""


# -- the owner ------------------------------------------------------------------------------------
def ask(parts: Parts, login: Login) -> str:
    """Order an export of all files there are at this moment; its id, or that of the one there is already. A small
    record is ordered when this returns; a large one wants `go_on`.

    Raises FormRefused for an empty record, StoreFull, EnvelopeError."""
    account = login.account
    export = Export(id=new_id(), account_id=account.id, key_for_worker=None, sealed_key=b"", created_at=now())
    export.items_total, export.bytes_total = export_orders.totals(parts.database, export)
    if not export.items_total:
        raise FormRefused("empty record", reason="there is nothing in your record yet")
    need = export.bytes_total + export.items_total * ABOUT_BYTES_PER_ITEM + FREE_BYTES_MIN
    if shutil.disk_usage(parts.store.partial_dir).free < need:
        raise StoreFull()
    export.sealed_key = envelope.seal_to(
        login.ring().public_key, container.new_dek(), context=_key_context(export.id)
    )
    with parts.database.write() as db:
        # One at a time per account: PostgreSQL has many writers.
        query = select(Account.id).where(Account.id == account.id, col(Account.closed_at).is_(None))
        if db.exec(query.with_for_update()).first() is None:
            raise NotFound("account")
        there = db.exec(select(Export).where(Export.account_id == account.id, _is_live())).first()
        if there is not None:
            return there.id
        db.add(export)
        trail.record(
            db, "export-asked", account_id=account.id, actor=_owner(account.id), export=export.id,
            items=export.items_total, bytes=export.bytes_total,
        )  # fmt: skip
    go_on(parts, login)
    return export.id


def go_on(parts: Parts, login: Login) -> bool:
    """One step of the order that is being written; whether there is more to do. Two windows at once take no harm: the
    slower one's step is thrown away. Raises StoreFull."""
    with parts.database.read() as db:
        row = db.exec(select(Export).where(Export.account_id == login.account.id, Export.state == "preparing")).first()
    if row is None:
        return False
    ring = login.ring()
    key = ring.open(row.sealed_key, context=_key_context(row.id))
    dek = envelope.derive(key, "myphr/export-order/1")
    done = export_orders.step(parts.database, parts.store, ring, row, dek, STEP_SECONDS)
    values: dict[str, Any] = {
        "order_pieces": done.pieces, "opened_to": done.opened_to, "items_opened": row.items_opened + done.opened,
    }  # fmt: skip
    if done.is_done:
        values["key_for_worker"] = envelope.seal_to(
            parts.keys.worker.public, key, context=_worker_context(row.id)
        )
    try:
        with parts.database.write() as db:
            EXPORT.move(db, row, "order" if done.is_done else "open",
                        only_if=[col(Export.order_pieces) == row.order_pieces], **values)  # fmt: skip
    except BaseException as error:
        parts.store.delete(done.object_key)
        if isinstance(error, StateConflict):
            return True  # another window, or it was removed: the next look tells
        raise
    if done.is_done:
        _enqueue(parts, row.id)
    return not done.is_done


def latest(parts: RecordParts, login: Login) -> ExportView | None:
    """The newest export of this owner, whatever became of it."""
    query = select(Export).where(Export.account_id == login.account.id).order_by(col(Export.created_at).desc())
    with parts.database.read() as db:
        row = db.exec(query).first()
    if row is None:
        return None
    state = "expired" if row.state == "ready" and row.expires_at and row.expires_at <= now() else row.state
    return ExportView(
        row.id, state, row.items_total, row.items_missing, row.items_opened, row.bytes_total, row.bytes_done,
        row.zip_bytes, row.created_at, row.expires_at, row.error_code,
    )  # fmt: skip


def open_zip(parts: RecordParts, login: Login, export_id: str) -> OpenItem:
    """The finished zip, open for reading from any place. Raises NotFound."""
    with parts.database.read() as db:
        row = db.get(Export, export_id)
    if (
        row is None or row.account_id != login.account.id or row.state != "ready" or row.object_key is None
        or row.expires_at is None or row.expires_at <= now()
    ):  # fmt: skip
        raise NotFound("export")
    key = login.ring().open(row.sealed_key, context=_key_context(row.id))
    place = ItemPlace(row.id, row.account_id, row.object_key, row.zip_bytes)
    return open_item(parts.store, place, envelope.derive(key, "myphr/export-zip/1"))


def note_download(parts: RecordParts, login: Login, export_id: str) -> None:
    with parts.database.write() as db:
        trail.record(
            db, "export-downloaded", account_id=login.account.id, actor=_owner(login.account.id), export=export_id
        )


def remove(parts: RecordParts, login: Login, export_id: str) -> None:
    """Gone at once, also while it is made. Raises NotFound."""
    with parts.database.read() as db:
        row = db.get(Export, export_id)
    if row is None or row.account_id != login.account.id or row.state not in LIVE:
        raise NotFound("export")
    remove_all(parts.database, parts.store, login.account.id, _owner(login.account.id))


def remove_all(database: Database, store: ObjectStore, account_id: str, actor: Actor) -> None:
    """What was deleted from the record must not live on in a copy of it. Safe to run twice."""
    with database.read() as db:
        rows = db.exec(select(Export).where(Export.account_id == account_id, _is_live())).all()
    for row in rows:
        _end(database, store, row, "remove", actor)


# -- the worker -----------------------------------------------------------------------------------
def run(parts: RecordParts, export_id: str, pronom_of: Callable[[bytes, str], str]) -> None:
    """Make the zip of this export, or note why not. `pronom_of(first bytes, format)`. Runs twice without harm: each run
    has its own number, and who finds another's in the row stops."""
    with parts.database.write() as db:
        row = db.get(Export, export_id)
        if row is None or row.state not in ("waiting", "running") or row.key_for_worker is None:
            return
        if row.state == "running" and row.changed_at > now() - STUCK:
            return  # somebody is at it
        before = row.run_id
        EXPORT.move(db, row, "begin", run_id=secrets.token_hex(8), bytes_done=0)
    if before is not None:
        parts.store.delete(_zip_object(row.id, before))
    assert row.run_id is not None
    try:
        _make(parts, row, pronom_of)
    except _Overtaken:
        parts.store.delete(_zip_object(row.id, row.run_id))
        log.info("export %s is no longer this run's", row.id)
    except StoreFull:
        _fail(parts, row, "store-full")
    except (EnvelopeError, ContainerError, NotFound):
        _fail(parts, row, "order-lost")


def enqueue_stuck(parts: Parts) -> int:
    """Exports that nobody works on, for the sweep; one in work takes no harm."""
    query = select(Export.id).where(
        col(Export.state).in_(("waiting", "running")), Export.changed_at < now() - STUCK
    )
    with parts.database.read() as db:
        waiting = db.exec(query).all()
    for export_id in waiting:
        _enqueue(parts, export_id, JOB_AGAIN)
    return len(waiting)


def sweep(parts: Parts) -> None:
    """What has been kept for its day goes, with files left of those that are over; what lost its worker is put back.
    Safe to run twice."""
    with parts.database.read() as db:
        old = db.exec(select(Export).where(Export.state == "ready", col(Export.expires_at) <= now())).all()
        left = db.exec(select(Export).where(~_is_live(), col(Export.object_key).is_not(None))).all()
        left_alone = db.exec(select(Export).where(Export.state == "preparing", Export.changed_at < now() - KEPT)).all()
    for row in (*old, *left_alone):
        _end(parts.database, parts.store, row, "expire", SYSTEM)
    for row in left:
        _delete_objects(parts.database, parts.store, row)
    enqueue_stuck(parts)


def _make(parts: RecordParts, row: Export, pronom_of: Callable[[bytes, str], str]) -> None:
    assert row.key_for_worker is not None and row.run_id is not None
    key = envelope.open_with(parts.keys.worker.private, row.key_for_worker, context=_worker_context(row.id))
    with parts.database.read() as db:
        owner = db.get(Account, row.account_id)
    if owner is None or owner.closed_at is not None:
        raise NotFound("account")
    order = export_orders.read(parts.store, row, envelope.derive(key, "myphr/export-order/1"), owner.name)
    progress = _Progress(parts.database, row)
    damaged, pronom = _look(parts.store, order["entries"], pronom_of, progress)
    object_key = _zip_object(row.id, row.run_id)
    for thorough in (False, True):
        entries = [entry for entry in order["entries"] if entry["item"] not in damaged]
        missing = [*order["unreadable"], *(entry for entry in order["entries"] if entry["item"] in damaged)]
        progress.bytes_done = 0
        try:
            with Sealed(parts.store, object_key, envelope.derive(key, "myphr/export-zip/1"), row) as out:
                for piece in zip_stream.stream(
                    _members(parts.store, order, entries, missing, pronom), export_contents.COMMENT
                ):
                    out.write(piece)
                    progress.add(len(piece))
                progress.note()
                out.commit()
            break
        except (ContainerError, NotFound):
            # A file damaged behind its beginning: rare, so that reading all of them is cheaper than doing so always.
            if thorough:
                raise
            damaged |= _read_all(parts.store, entries, progress)
    with parts.database.write() as db:
        current = db.get(Export, row.id)
        if current is None or current.state != "running" or current.run_id != row.run_id:
            raise _Overtaken
        EXPORT.move(
            db, current, "finish", object_key=object_key, zip_bytes=out.plain_bytes, items_missing=len(missing),
            key_for_worker=None, expires_at=now() + KEPT,
        )  # fmt: skip
        trail.record(
            db, "export-ready", account_id=row.account_id, actor=SYSTEM, export=row.id, items=len(entries),
            missing=len(missing),
        )  # fmt: skip
    _delete_order(parts.store, row)


def _members(
    store: ObjectStore, order: Mapping[str, Any], entries: Sequence[Mapping[str, Any]],
    missing: Sequence[Mapping[str, Any]], pronom: Mapping[str, str],
) -> Iterator[zip_stream.ZipMember]:  # fmt: skip
    made_at = dt.datetime.fromisoformat(order["made_at"])
    about = export_contents.about(order, entries, missing, pronom)
    rows = [(path, hashlib.sha256(content).hexdigest()) for path, content in about]
    rows += [(entry["path"], entry["sha256"]) for entry in entries]
    about.append((export_contents.SUMS, export_contents.sums(rows)))
    for path, content in about:
        yield zip_stream.ZipMember(path, len(content), made_at, functools.partial(_Held, content))
    for entry in entries:
        yield zip_stream.ZipMember(
            entry["path"], entry["bytes"], dt.datetime.fromisoformat(entry["added_at"]),
            functools.partial(_open, store, entry),
        )  # fmt: skip


def _look(
    store: ObjectStore, entries: Sequence[Mapping[str, Any]], pronom_of: Callable[[bytes, str], str],
    progress: "_Progress",
) -> tuple[set[str], dict[str, str]]:  # fmt: skip
    """Each file's beginning, before the first is written: those that cannot be opened, and the PRONOM ids."""
    damaged: set[str] = set()
    pronom: dict[str, str] = {}
    for entry in entries:
        try:
            with contextlib.closing(_open(store, entry)) as opened:
                pronom[entry["item"]] = pronom_of(opened.read_at(0, container.CHUNK_BYTES), entry["format"])
        except (ContainerError, NotFound):
            damaged.add(entry["item"])
        progress.add(0)
    return damaged, pronom


def _read_all(store: ObjectStore, entries: Sequence[Mapping[str, Any]], progress: "_Progress") -> set[str]:
    damaged: set[str] = set()
    for entry in entries:
        try:
            with contextlib.closing(_open(store, entry)) as opened:
                for offset in range(0, opened.plain_bytes, BLOCK_BYTES):
                    opened.read_at(offset, BLOCK_BYTES)
                    progress.add(0)
        except (ContainerError, NotFound):
            damaged.add(entry["item"])
    return damaged


def _open(store: ObjectStore, entry: Mapping[str, Any]) -> OpenItem:
    place = ItemPlace(entry["item"], entry["account"], entry["object"], entry["bytes"], entry["version"])
    return open_item(store, place, bytes.fromhex(entry["dek"]))


def _fail(parts: RecordParts, row: Export, code: str) -> None:
    assert row.run_id is not None
    parts.store.delete(_zip_object(row.id, row.run_id))
    with parts.database.write() as db:
        current = db.get(Export, row.id)
        if current is None or current.state != "running" or current.run_id != row.run_id:
            return
        EXPORT.move(db, current, "fail", error_code=code, key_for_worker=None, sealed_key=b"")
        trail.record(db, "export-failed", account_id=row.account_id, actor=SYSTEM, export=row.id, reason=code)
    _delete_order(parts.store, row)


def _end(database: Database, store: ObjectStore, row: Export, event: str, actor: Actor) -> None:
    for _ in range(5):
        with database.write() as db:
            current = db.get(Export, row.id)
            if current is None or current.state not in LIVE:
                return
            try:
                EXPORT.move(
                    db, current, event, sealed_key=b"", key_for_worker=None,
                    object_key=current.object_key or f"{row.id}.order",
                )  # fmt: skip
            except StateConflict:
                continue
            trail.record(
                db, "export-removed" if event == "remove" else "export-expired", account_id=row.account_id, actor=actor,
                export=row.id,
            )  # fmt: skip
        _delete_objects(database, store, current)
        return


def _delete_objects(database: Database, store: ObjectStore, row: Export) -> None:
    """After the key is gone. `object_key` stays until the files are: the sweep comes back for them."""
    for object_key in (row.object_key, row.run_id and _zip_object(row.id, row.run_id)):
        if object_key:
            store.delete(object_key)
    _delete_order(store, row)
    with database.write() as db:
        current = db.get(Export, row.id)
        if current is not None:
            current.object_key = None
            db.add(current)


def _delete_order(store: ObjectStore, row: Export) -> None:
    for object_key in export_orders.objects_of(row):
        store.delete(object_key)


# -- small parts ----------------------------------------------------------------------------------
class _Held(io.BytesIO):
    """Bytes of ours as a file of the zip (`zip_stream.ZipMember`)."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.plain_bytes = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.getvalue()[offset : offset + length]


class _Progress:
    """Tells the row how far a run is, now and then; stops the run when the row is no longer its own."""

    def __init__(self, database: Database, row: Export) -> None:
        self.bytes_done = 0
        self._database, self._row, self._noted = database, row, time.monotonic()

    def add(self, size: int) -> None:
        self.bytes_done += size
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """Raises _Overtaken."""
        self._noted = time.monotonic()
        with self._database.write() as db:
            current = db.get(Export, self._row.id)
            if current is None or current.state != "running" or current.run_id != self._row.run_id:
                raise _Overtaken
            current.bytes_done = min(self.bytes_done, current.bytes_total)
            current.changed_at = now()
            db.add(current)


def _enqueue(parts: Parts, export_id: str, job: str = JOB) -> None:
    try:
        parts.queue.enqueue(job, export_id, seconds_max=JOB_SECONDS_MAX)
    except redis.RedisError:
        log.warning("the queue is away; export %s waits for the sweep", export_id)


def _zip_object(export_id: str, run_id: str) -> str:
    return f"{export_id}.{run_id}"


def _key_context(export_id: str) -> bytes:
    return envelope.context_for("export-key", export_id)


def _worker_context(export_id: str) -> bytes:
    return envelope.context_for("export-key-worker", export_id)


def _owner(account_id: str) -> Actor:
    return Actor("patient", account_id)


def _is_live() -> Any:
    return col(Export.state).in_(LIVE)
