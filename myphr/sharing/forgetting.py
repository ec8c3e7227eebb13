"""What sharing keeps of items' keys, for `records.deletions`: those of deleted files stay in nobody's reach."""

from collections.abc import Sequence

from sqlalchemy import delete
from sqlmodel import Session, col

from myphr.sharing.record_models import ItemWrap


def forget_items(db: Session, item_ids: Sequence[str]) -> int:
    """Every share's wrapped keys of these items, of all epochs; how many there were."""
    return db.connection().execute(delete(ItemWrap).where(col(ItemWrap.item_id).in_(item_ids))).rowcount
