"""An account that closes: every key of its record is destroyed, and everything that was sealed to its owner.

The rows that stay (ids, sizes, times) are what the proof names. Called by `sharing.closing` in its one commit; the
bytes go afterwards, as with every deletion (`deletions.sweep`).
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

from sqlalchemy import delete, update
from sqlmodel import Session, col, func, select

from myphr.database import now
from myphr.records import deletions
from myphr.records.models import (
    ArchiveTask,
    Deletion,
    Export,
    Item,
    ItemIdentifier,
    ItemPreview,
    ItemReading,
    ItemRepeat,
    RecordIndex,
    Study,
    Upload,
)
from myphr.records.removal import Forget
from myphr.records.states import EXPORT
from myphr.state_tables import StateConflict


@dataclasses.dataclass(frozen=True)
class Destroyed:
    """`index_object`: the search index's file, whose key went with its row."""

    item_ids: Sequence[str]
    counts: dict[str, int]
    index_object: str | None


def destroy(db: Session, account_id: str, forget: Iterable[Forget]) -> Destroyed:
    """Inside the caller's unit of work, whose lock is the account's row. Safe to repeat."""
    ids = db.exec(
        select(Item.id).where(Item.account_id == account_id, Item.sealed_dek != b"")
        .order_by(col(Item.created_at), col(Item.id))
    ).all()  # fmt: skip
    counts = deletions.destroy_keys(db, ids, forget)
    at = now()
    db.execute(update(Item).where(col(Item.account_id) == account_id).values(
        deleted_at=func.coalesce(Item.deleted_at, at), format="unknown", media_type="application/octet-stream",
        source="upload", source_id=None,
    ))  # fmt: skip
    counts["studies"] = db.connection().execute(
        update(Study).where(col(Study.account_id) == account_id, col(Study.sealed_summary) != b"")
        .values(sealed_summary=b"", group_key=Study.id, items_count=0, bytes_total=0, deleted_at=at)
    ).rowcount  # fmt: skip
    for model in (ItemReading, ItemPreview, ItemRepeat, ItemIdentifier):
        db.execute(delete(model).where(col(model.account_id) == account_id))
    db.execute(update(ArchiveTask).where(col(ArchiveTask.account_id) == account_id)
               .values(dek_for_worker=None, sealed_note=None))  # fmt: skip
    db.execute(update(Upload).where(col(Upload.account_id) == account_id).values(wrapped_dek=None, sealed_metadata=b""))
    db.execute(update(Deletion).where(col(Deletion.account_id) == account_id).values(sealed_note=b""))
    counts["exports"] = _end_exports(db, account_id)
    index = db.get(RecordIndex, account_id)
    if index is not None:
        db.delete(index)
    return Destroyed(ids, counts, index.object_key if index else None)


def _end_exports(db: Session, account_id: str) -> int:
    rows = db.exec(select(Export).where(Export.account_id == account_id, Export.sealed_key != b"")).all()
    for row in rows:
        object_key = row.object_key or f"{row.id}.order"  # what is still there: the sweep takes it away by this
        with contextlib.suppress(StateConflict):  # over, but its key was left
            EXPORT.move(db, row, "remove", object_key=object_key)
        row.sealed_key, row.key_for_worker = b"", None
        db.add(row)
    return len(rows)
