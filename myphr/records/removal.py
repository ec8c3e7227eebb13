"""Taking items out of a record: first out of sight, then for good; and sweeping what belongs to no record.

Out of sight can be undone for a while. For good means: the sealed bytes are deleted and the item's key is erased, so
that a copy of the bytes in an old backup opens with nothing. Called by web and the scheduler's sweep.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence

from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.database import Database, now
from myphr.errors import NotFound
from myphr.records import duplicates, exports, readings
from myphr.records.models import ArchiveTask, Export, Item, RecordIndex, Study, Upload
from myphr.records.store import ObjectStore

# Empties what an upper layer keeps of these items' keys; returns how many of them there were.
Forget = Callable[[Session, Sequence[str]], int]
_CLOCKS = dt.timedelta(minutes=1)  # by which the clocks of two computers may differ
ORPHAN_SECONDS = 2 * 86_400  # longer than any upload lives, so that no step still on its way is taken for lost


def remove_item(database: Database, account_id: str, item_id: str, actor: Actor) -> None:
    """Out of sight at once. Raises NotFound."""
    with database.write() as db:
        item = db.get(Item, item_id)
        if item is None or item.account_id != account_id or item.deleted_at is not None:
            raise NotFound("item")
        hide(db, [item])
        trail.record(db, "item-deleted", account_id=account_id, actor=actor, item=item_id)


def remove_study(database: Database, account_id: str, study_id: str, actor: Actor) -> int:
    """The study with all its items, out of sight at once; the number of items. Raises NotFound."""
    with database.write() as db:
        study = db.get(Study, study_id)
        if study is None or study.account_id != account_id or study.deleted_at is not None:
            raise NotFound("study")
        items = db.exec(select(Item).where(Item.study_id == study_id, col(Item.deleted_at).is_(None))).all()
        hide(db, items)
        trail.record(db, "study-deleted", account_id=account_id, actor=actor, study=study_id, items=len(items))
    return len(items)


def hide(db: Session, items: Iterable[Item]) -> None:
    for item in items:
        item.deleted_at = now()
        db.add(item)
        if item.study_id is not None and (study := db.get(Study, item.study_id)) is not None:
            study.items_count -= 1
            study.bytes_total -= item.plain_bytes
            study.changed_at = now()
            if study.items_count == 0:
                study.deleted_at = now()
            db.add(study)


def erase_removed(
    database: Database, store: ObjectStore, older_than: dt.timedelta = dt.timedelta(0), account_id: str | None = None,
    forget: Iterable[Forget] = (),
) -> int:  # fmt: skip
    """Deletes for good what was taken out of sight `older_than` ago (by machines: owners delete with `deletions`, at
    once); the number of items. Safe to run twice and after
    a crash at any point: the bytes go first, then the key, and an item whose key is left is done again."""
    with database.read() as db:
        query = select(Item).where(col(Item.deleted_at) <= now() - older_than, Item.sealed_dek != b"")
        if account_id is not None:
            query = query.where(Item.account_id == account_id)
        items = db.exec(query).all()
    last: dict[str, dt.datetime] = {}
    for item in items:
        assert item.deleted_at is not None  # as the query says
        last[item.account_id] = max(item.deleted_at, last.get(item.account_id, item.deleted_at))
    for owner_id, deleted_at in last.items():
        forget_index(database, store, owner_id, deleted_at)
        exports.remove_all(database, store, owner_id, trail.SYSTEM)
    for item in items:
        store.delete(item.object_key)
        with database.write() as db:
            row = db.get(Item, item.id)
            if row is not None:
                row.sealed_dek = row.sealed_details = b""
                row.content_key = ""
                row.wrapped_labels = None
                db.add(row)
            for task in db.exec(select(ArchiveTask).where(ArchiveTask.item_id == item.id)):
                task.dek_for_worker = task.sealed_note = None
                db.add(task)
            for one in forget:
                one(db, [item.id])
            readings.forget(db, item.id)
            duplicates.forget(db, item.id)
    return len(items)


def forget_index(database: Database, store: ObjectStore, account_id: str, deleted_at: dt.datetime) -> None:
    """Drops an index that may hold words of what was deleted then: nobody but the owner could take them out of it.
    Before the items' own keys go, so that a crash in between does it again."""
    with database.write() as db:
        object_key = destroy_index_key(db, account_id, deleted_at)
    if object_key is not None:
        store.delete(object_key)


def destroy_index_key(db: Session, account_id: str, deleted_at: dt.datetime) -> str | None:
    """The same within a commit of the caller, who removes that object afterwards: its key is gone with the row."""
    index = db.get(RecordIndex, account_id)
    if index is None or index.as_of > deleted_at + _CLOCKS:
        return None
    db.delete(index)
    return index.object_key


def sweep_orphans(database: Database, store: ObjectStore, older_than_seconds: float = ORPHAN_SECONDS) -> int:
    """Deletes objects that no item and no unfinished upload knows: left by a crash between the store and the
    database. Returns how many."""
    swept = 0
    with database.read() as db:
        known = set(db.exec(select(Item.object_key).where(Item.sealed_dek != b"")))
        known.update(db.exec(select(RecordIndex.object_key)))
        coming = set(db.exec(select(Upload.id).where(col(Upload.state).in_(("receiving", "writing", "finishing")))))
        kept = set(db.exec(select(Export.id).where(col(Export.state).in_(exports.LIVE))))
    for stored in store.listing():
        if (
            stored.age_seconds >= older_than_seconds
            and stored.key not in known
            and stored.key.split(".")[0] not in coming | kept
        ):
            with database.read() as db:  # filed since the list was made?
                if db.exec(select(Item.id).where(Item.object_key == stored.key)).first() is not None:
                    continue
                if db.exec(select(RecordIndex.index_id).where(RecordIndex.object_key == stored.key)).first():
                    continue
            store.delete(stored.key)
            swept += 1
    return swept
