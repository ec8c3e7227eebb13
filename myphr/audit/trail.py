"""The audit trail: append-only, every row chained to the one before by SHA-256, safe with many writers at once.

Spec: docs/formats/audit.md. Called by every package above inside its own unit of work, so that what happened and the
note of it commit together or not at all. Knows ids only.
"""

import dataclasses
import datetime as dt
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import insert, text
from sqlalchemy.orm import SessionTransaction
from sqlmodel import Session, col, select

from myphr.audit.events import EVENTS, sentence_of_run
from myphr.audit.events import sentence as event_sentence
from myphr.audit.models import AuditEvent
from myphr.database import Database, now
from myphr.errors import AuditBroken
from myphr.prepared import Prepared

ActorKind = Literal["patient", "caregiver", "machine", "system", "operator", "provider", "app"]
ACTOR_KINDS = ("patient", "caregiver", "machine", "system", "operator", "provider", "app")
FIRST_PREVIOUS_HASH = "0" * 64
READ_MAX = 500  # rows read at a time
RUN_GAP = dt.timedelta(minutes=10)  # a slow line sends a big file in less
_WAITING = "myphr.audit.waiting"
_NEWEST = Prepared(select(AuditEvent.number, AuditEvent.hash).order_by(col(AuditEvent.number).desc()).limit(1))
_ADD = Prepared(insert(AuditEvent.__table__))  # type: ignore[attr-defined]
_HASHED = ("number", "event", "account_id", "actor_kind", "actor_id", "details", "previous_hash")  # and when
_POSTGRESQL_LOCK = 0x6D79706872_61  # "myphra": one writer of the chain at a time, in all processes


@dataclasses.dataclass(frozen=True)
class Actor:
    """Who did it. `id` is an account id, share id, machine id or drop-off id; the portal itself has none."""

    kind: ActorKind
    id: str | None = None


SYSTEM = Actor("system")


@dataclasses.dataclass(frozen=True)
class Head:
    """The newest row that was known at some time. Kept outside the database, it shows when the tail was cut off."""

    number: int
    hash: str


def record(db: Session, event: str, *, account_id: str | None, actor: Actor, **details: object) -> None:
    """Notes one event; it gets its number and place in the chain when this unit of work commits, and vanishes with it
    on rollback. Raises ValueError for an undeclared event or a missing, extra or unfit field.

    The row is written at the very end so that the lock on the chain is held for the commit only and is always the
    last lock taken: two units of work cannot wait for each other through it."""
    declared = EVENTS.get(event)
    if declared is None:
        raise ValueError(f"undeclared audit event {event}")
    declared.check(details)
    if actor.kind not in ACTOR_KINDS:
        raise ValueError("unknown kind of actor")
    if db.in_nested_transaction():
        raise ValueError("not inside a savepoint: it could be rolled back alone")
    if not db.in_transaction():
        db.begin()  # so that there is something whose rollback we hear of
    db.info.setdefault(_WAITING, []).append((now(), event, account_id, actor, canonical(details)))


def canonical(details: object) -> str:
    """JSON with sorted keys, no spaces, ASCII only: one text for one value."""
    return json.dumps(details, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def row_hash(row: AuditEvent) -> str:
    """Hex SHA-256 over the canonical row, which includes the hash of the row before."""
    return _hash_of({name: getattr(row, name) for name in _HASHED} | {"at": row.at})


def _hash_of(row: Mapping[str, Any]) -> str:
    at = row["at"].astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = [row["number"], at, *(row[name] for name in _HASHED[1:])]
    return hashlib.sha256(b"myphr/audit/1\n" + canonical(fields).encode()).hexdigest()


@sqlalchemy_event.listens_for(Session, "before_commit")
def _write_waiting(db: Session) -> None:
    if _WAITING not in db.info or db.in_nested_transaction():
        return
    waiting = db.info.pop(_WAITING)
    db.flush()  # take all other locks first
    if db.get_bind().dialect.name == "postgresql":
        db.connection().execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRESQL_LOCK})
    head, rows = _head(db), []
    for at, event, account_id, actor, details in waiting:
        row = {
            "number": head.number + 1, "at": at, "event": event, "account_id": account_id, "actor_kind": actor.kind,
            "actor_id": actor.id, "details": details, "previous_hash": head.hash,
        }  # fmt: skip
        head = Head(head.number + 1, _hash_of(row))
        rows.append(row | {"hash": head.hash})
    _ADD.run_each(db.connection(), rows)


@sqlalchemy_event.listens_for(Session, "after_soft_rollback")
def _forget_waiting(db: Session, previous_transaction: SessionTransaction) -> None:
    db.info.pop(_WAITING, None)


def _head(db: Session) -> Head:
    newest = _NEWEST.first(db.connection(), {})
    return Head(*newest) if newest else Head(0, FIRST_PREVIOUS_HASH)


def verify(database: Database, anchor: Head | None = None) -> int:
    """Reads the whole chain and returns the number of rows. With an `anchor` (see `read_anchor`) the chain must also
    still hold that row. Raises AuditBroken with the first number that is missing, changed or out of place."""
    expected = Head(0, FIRST_PREVIOUS_HASH)
    with database.read() as db:
        rows = db.exec(select(AuditEvent).order_by(col(AuditEvent.number)).execution_options(yield_per=1000))
        for row in rows:
            if row.number != expected.number + 1:
                raise AuditBroken("a row is missing", number=expected.number + 1)
            if row.previous_hash != expected.hash or row.hash != row_hash(row):
                raise AuditBroken("a row was changed", number=row.number)
            expected = Head(row.number, row.hash)
            if anchor and anchor.number == row.number and anchor.hash != row.hash:
                raise AuditBroken("a row differs from the anchor", number=row.number)
            db.expunge(row)
    if anchor and anchor.number > expected.number:
        raise AuditBroken("rows at the end are missing", number=expected.number + 1)
    return expected.number


def head(database: Database) -> Head:
    """The newest row now; number 0 for an empty trail."""
    with database.read() as db:
        return _head(db)


def read_anchor(path: Path) -> Head | None:
    """The anchored head, or None if there is none yet. Raises AuditBroken if the file is not an anchor."""
    try:
        words = path.read_text("ascii").split()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        words = []
    if len(words) != 3 or words[0] != "myphr-audit-head/1" or not words[1].isdecimal() or len(words[2]) != 64:
        raise AuditBroken("the anchor file is damaged", number=0)
    return Head(int(words[1]), words[2])


def anchor(database: Database, path: Path) -> Head:
    """Writes the newest row's number and hash to `path`, outside the database: called by the sweep every minute.

    Raises AuditBroken, and leaves the file alone, if the row anchored before is gone or differs."""
    before = read_anchor(path)
    with database.read() as db:
        newest = _head(db)
        if before and before.number:
            row = db.get(AuditEvent, before.number)
            if row is None or row.hash != before.hash:
                raise AuditBroken("the anchored row is gone or was changed", number=before.number)
    if newest != before:
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="ascii") as file:
            file.write(f"myphr-audit-head/1 {newest.number} {newest.hash}\n")
            file.flush()
            os.fsync(handle)
        draft.replace(path)
    return newest


def for_account(database: Database, account_id: str, limit: int = 50,
                before: int | None = None) -> Sequence[AuditEvent]:
    """Events of one record, newest first; `before` a number, for the next page. `limit` is at most `READ_MAX`."""
    query = select(AuditEvent).where(AuditEvent.account_id == account_id)
    if before is not None:
        query = query.where(AuditEvent.number < before)
    with database.read() as db:
        return db.exec(query.order_by(col(AuditEvent.number).desc()).limit(max(1, min(limit, READ_MAX)))).all()


_WHO = {
    "patient": "You", "caregiver": "A caregiver", "machine": "The machine", "system": "The portal",
    "operator": "The operator", "provider": "A practice", "app": "An app",
}  # fmt: skip


@dataclasses.dataclass
class Run:
    """Events of one kind by one actor, close together: one line for the owner. `newest` is the first that was read
    (pages go back in time); `first_number` and `first_at` are of the oldest."""

    newest: AuditEvent
    first_number: int
    first_at: dt.datetime
    times: int = 1


def runs(events: Iterable[AuditEvent]) -> Iterator[Run]:
    """Gathers events, newest first, into runs: neighbours of a kind that may be told together, by the same actor, at
    most `RUN_GAP` apart. A CD sent as 2,000 single files is one line; nothing is left out."""
    run: Run | None = None
    for event in events:
        declared = EVENTS.get(event.event)
        if (
            run is not None and declared is not None and declared.together
            and (event.event, event.actor_kind, event.actor_id)
            == (run.newest.event, run.newest.actor_kind, run.newest.actor_id)
            and run.first_at - event.at <= RUN_GAP
        ):  # fmt: skip
            run.first_number, run.first_at, run.times = event.number, event.at, run.times + 1
            continue
        if run is not None:
            yield run
        run = Run(event, event.number, event.at)
    if run is not None:
        yield run


def newest_first(database: Database, account_id: str, before: int | None, most: int) -> Iterator[AuditEvent]:
    """Up to `most` events of one record, read as far as they are asked for; `before` a number."""
    while most > 0:
        events = for_account(database, account_id, limit=min(most, READ_MAX), before=before)
        yield from events
        if len(events) < min(most, READ_MAX):
            return
        most, before = most - len(events), events[-1].number


def sentence(row: AuditEvent, who: str | None = None, times: int = 1) -> str:
    """The plain sentence of one row for the owner's page, or of a run of `times`. `who` replaces the default word for
    the actor, for example by the e-mail address of the share whose id the row holds."""
    named = who or _WHO.get(row.actor_kind, "Somebody")
    if times > 1:
        return sentence_of_run(row.event, times, named)
    return event_sentence(row.event, json.loads(row.details), named)
