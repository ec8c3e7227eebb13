"""What sharing keeps of items' keys, for `records.deletions`: those of deleted files stay in nobody's reach."""

from collections.abc import Sequence

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from myphr.records.models import Item
from myphr.sharing.app_key_models import AppKeyStudy
from myphr.sharing.record_models import ItemWrap


def forget_items(db: Session, item_ids: Sequence[str]) -> int:
    """Every share's wrapped keys of these items, of all epochs, and what app keys hold of their studies: one sealed
    row a study, so that an app loses the whole study until `app_key_wraps.catch_up`. How many rows there were."""
    studies = select(col(Item.study_id)).where(col(Item.id).in_(item_ids), col(Item.study_id).is_not(None))
    apps = db.connection().execute(
        update(AppKeyStudy).where(col(AppKeyStudy.study_id).in_(studies), col(AppKeyStudy.wrapped_deks) != b"")
        .values(wrapped_deks=b"")
    ).rowcount  # fmt: skip
    return apps + db.connection().execute(delete(ItemWrap).where(col(ItemWrap.item_id).in_(item_ids))).rowcount
