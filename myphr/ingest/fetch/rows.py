"""The rows of fetches: finding an owner's, stopping, failing, and the sweep over those that nobody ends. A move of a
row and its line in the trail are one commit. Called by the `fetches` of each way, by `runs`, and by whoever ends what
a fetch rests on."""

import dataclasses
import datetime as dt
import logging
from collections.abc import Collection, Sequence
from typing import Any

import redis
from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM, Actor
from myphr.database import now
from myphr.errors import NotFound
from myphr.ingest.archives import IngestParts
from myphr.ingest.fetch.ways import AnyRow, Way
from myphr.people.login_sessions import Login
from myphr.records.items import RecordParts
from myphr.state_tables import StateConflict

STUCK = dt.timedelta(minutes=2)  # longer than a run that is alive leaves its row untouched

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchView:
    """What the owner sees of every fetch. `reason` completes "... could not be fetched: ..."."""

    id: str
    state: str
    is_live: bool
    is_working: bool
    items_count: int
    bytes_count: int
    reason: str
    created_at: dt.datetime
    changed_at: dt.datetime


def seen(way: Way[AnyRow, Any], row: AnyRow) -> dict[str, Any]:
    """The fields of FetchView."""
    return {
        "id": row.id, "state": row.state, "is_live": row.state in way.live, "is_working": row.state in way.working,
        "items_count": row.items_count, "bytes_count": row.bytes_count, "reason": way.reason(row),
        "created_at": row.created_at, "changed_at": row.changed_at,
    }  # fmt: skip


def enqueue(parts: IngestParts, way: Way, fetch_id: str, job: str) -> None:
    """Tell the worker. If the queue is away, the sweep tells it later: the row is the truth."""
    try:
        parts.queue.enqueue(job, fetch_id, seconds_max=way.seconds_max(parts.settings) + 300)
    except redis.RedisError:
        log.warning("the queue is away; fetch %s waits for the sweep", fetch_id)


# -- the owner ------------------------------------------------------------------------------------
def owner_of(row: Any) -> Actor:
    return Actor("patient", row.account_id)


def one_of_mine(db: Session, way: Way[AnyRow, Any], login: Login, fetch_id: str) -> AnyRow:
    """Raises NotFound, also for somebody else's."""
    row = db.get(way.model, fetch_id)
    if row is None or row.account_id != login.account.id:
        raise NotFound(way.table.name)
    return row


def latest(
    db: Session, way: Way[AnyRow, Any], login: Login, most: int, *, without: Collection[str]
) -> Sequence[AnyRow]:
    """The newest first, without those in these states."""
    model = way.model
    return db.exec(
        select(model)
        .where(model.account_id == login.account.id, col(model.state).not_in(without))
        .order_by(col(model.created_at).desc())
        .limit(most)
    ).all()


def withdraw(parts: RecordParts, way: Way, login: Login, fetch_id: str) -> None:
    """Stop: what the worker knew is erased, what came stays. One that is over stays as it is. Raises NotFound."""
    with parts.database.write() as db:
        row = one_of_mine(db, way, login, fetch_id)
        withdraw_in(db, way, row, owner_of(row))


def withdraw_in(db: Session, way: Way[AnyRow, Any], row: AnyRow, actor: Actor) -> None:
    """The same in the caller's commit."""
    try:
        way.table.move(db, row, "withdraw", **way.erased)
    except StateConflict:
        return  # over already, or this very moment
    trail.record(
        db, f"{way.trail_word}-withdrawn", account_id=row.account_id, actor=actor, fetch=row.id, items=row.items_count
    )


# -- ends that nobody asked for -------------------------------------------------------------------
def fail(parts: RecordParts, way: Way, fetch_id: str, code: str) -> None:
    """What the worker knew is erased, what came stays. One that is over stays as it is."""
    with parts.database.write() as db:
        row = db.get(way.model, fetch_id)
        if row is None:
            return
        try:
            way.table.move(db, row, "fail", error_code=code, **way.erased)
        except StateConflict:
            return
        trail.record(
            db, f"{way.trail_word}-failed", account_id=row.account_id, actor=SYSTEM, fetch=row.id,
            items=row.items_count, reason=code,
        )  # fmt: skip


def sweep(parts: IngestParts, way: Way) -> int:
    """Forget what waited too long for somebody, end what takes far too long, put back what nobody works on. Safe to run
    twice. Returns how many were changed or put back."""
    with parts.database.read() as db:
        rows = db.exec(select(way.model).where(col(way.model.state).in_(way.live))).all()
    return sum(_sweep_one(parts, way, row) for row in rows)


def _sweep_one(parts: IngestParts, way: Way[AnyRow, Any], row: AnyRow) -> bool:
    idle = now() - row.changed_at
    if row.state in way.patience:
        if idle <= way.patience[row.state]:
            return False
        with parts.database.write() as db:
            _lapse(db, way, row)
    elif now() - row.created_at > way.longest(parts.settings):
        fail(parts, way, row.id, "cut-off")
    elif idle > STUCK:
        enqueue(parts, way, row.id, way.again[row.state])
    else:
        return False
    return True


def _lapse(db: Session, way: Way[AnyRow, Any], row: AnyRow) -> None:
    try:
        way.table.move(db, row, "lapse", **way.erased)
    except StateConflict:
        pass  # somebody came back this very moment
