"""The operator's list of places that patients fetch from: which are on it. A place is a row with `id`, `name` and
`closed_at`, which is set once it was taken off. Called by the `servers` of each way."""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlmodel import Session, SQLModel, col, select

from myphr.errors import NotFound
from myphr.records.items import RecordParts

AnyPlace = TypeVar("AnyPlace", bound=SQLModel)


def on_the_list(db: Session, model: type[AnyPlace]) -> Sequence[AnyPlace]:
    """By name."""
    place: Any = model
    return db.exec(select(model).where(col(place.closed_at).is_(None)).order_by(place.name)).all()


def offered(parts: RecordParts, model: type[AnyPlace]) -> Sequence[AnyPlace]:
    """The same, as patients may choose."""
    with parts.database.read() as db:
        return on_the_list(db, model)


def are_offered(parts: RecordParts, model: type[AnyPlace]) -> bool:
    place: Any = model
    with parts.database.read() as db:
        return db.exec(select(place.id).where(col(place.closed_at).is_(None)).limit(1)).first() is not None


def one(parts: RecordParts, model: type[AnyPlace], place_id: str, what: str) -> AnyPlace:
    """Raises NotFound, of `what`, also for one that was taken off the list."""
    with parts.database.read() as db:
        place: Any = db.get(model, place_id)
    if place is None or place.closed_at is not None:
        raise NotFound(what)
    return place
