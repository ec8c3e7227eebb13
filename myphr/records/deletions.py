"""Deleting with proof: in one commit the files are out of sight and all keys to them destroyed; then their bytes go.

What was deleted (names, checksums) is noted sealed to the owner; what was destroyed, and when, in clear, by ids. The
audit trail's chain holds a checksum of each, so that neither can be changed later. Says what it cannot prove:
docs/decisions/0227-deletion-with-proof.md. Called by web and the sweep; tables of upper layers are emptied by functions
that are passed in.
"""

import dataclasses
import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import update
from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.models import AuditEvent
from myphr.audit.trail import SYSTEM, Actor, canonical
from myphr.crypto import envelope
from myphr.database import Database, new_id, now
from myphr.errors import CertificateWrong, EnvelopeError, NotFound
from myphr.people.login_sessions import Login
from myphr.people.models import Account
from myphr.records import exports, removal
from myphr.records.filing import RecordParts
from myphr.records.models import (
    ArchiveTask,
    Deletion,
    Item,
    ItemIdentifier,
    ItemPreview,
    ItemReading,
    ItemRepeat,
    Study,
)
from myphr.records.opening import dek_of, open_details
from myphr.records.removal import Forget
from myphr.records.states import DELETION
from myphr.state_tables import StateConflict

VERSION = 1
EVENTS = ("keys-destroyed", "bytes-removed")
_BATCH = 500


@dataclasses.dataclass(frozen=True)
class DeletionView:
    """One act of deleting, as its owner sees it."""

    id: str
    what: str
    items_count: int
    names: Sequence[str] = dataclasses.field(repr=False)
    asked_at: dt.datetime
    keys_at: dt.datetime
    bytes_at: dt.datetime | None


# -- deleting -------------------------------------------------------------------------------------
def delete_item(parts: RecordParts, login: Login, item_id: str, forget: Iterable[Forget] = ()) -> str:
    """One file, for good; the id of the deletion. Raises NotFound."""
    with parts.database.read() as db:
        item = db.get(Item, item_id)
    if item is None or item.account_id != login.account.id or item.deleted_at is not None:
        raise NotFound("item")
    return _delete(parts, login, "file", [item], forget, ("item-deleted", {"item": item_id}))


def delete_study(parts: RecordParts, login: Login, study_id: str, forget: Iterable[Forget] = ()) -> str:
    """The study with all its files, for good; the id of the deletion. Raises NotFound."""
    with parts.database.read() as db:
        study = db.get(Study, study_id)
        if study is None or study.account_id != login.account.id or study.deleted_at is not None:
            raise NotFound("study")
        items = db.exec(select(Item).where(Item.study_id == study_id, col(Item.deleted_at).is_(None))).all()
    event = ("study-deleted", {"study": study_id, "items": len(items)})
    return _delete(parts, login, "study", items, forget, event)


def _delete(
    parts: RecordParts, login: Login, what: str, items: Sequence[Item], forget: Iterable[Forget],
    event: tuple[str, dict[str, Any]],
) -> str:  # fmt: skip
    account_id = login.account.id
    row = Deletion(id=new_id(), account_id=account_id, what=what, items_count=len(items), item_ids="", sealed_note=b"")
    note = canonical(_note(login, what, items))
    row.sealed_note = envelope.seal_to(login.ring().public_key, note.encode(), context=_note_context(row.id))
    ids = [item.id for item in items]
    row.item_ids = json.dumps(ids)
    owner = Actor("patient", account_id)
    with parts.database.write() as db:
        # One at a time per record: PostgreSQL would let two delete the same file, and count it twice.
        db.exec(select(Account.id).where(Account.id == account_id).with_for_update()).first()
        current = [db.get(Item, item_id) for item_id in ids]
        if any(item is None or item.deleted_at is not None for item in current):
            raise NotFound("item")  # somebody was faster
        removal.hide(db, [item for item in current if item is not None])
        db.flush()
        destroyed = destroy_keys(db, ids, forget)
        index_object = removal.destroy_index_key(db, account_id, row.created_at)  # it may hold words of what goes
        trail.record(db, event[0], account_id=account_id, actor=owner, **event[1])
        _prove(db, row, note, destroyed)
    purge(parts.database)
    if index_object is not None:
        parts.store.delete(index_object)
    remove_bytes(parts, row, forget)
    return row.id


def _note(login: Login, what: str, items: Sequence[Item]) -> dict[str, Any]:
    """What only the owner may know. The salt keeps others from guessing names by the checksum in the trail."""
    ring = login.ring()
    noted = []
    for item in items:
        try:
            details = open_details(dek_of(ring, item), item.id, item.sealed_details)
        except EnvelopeError:
            details = {}
        noted.append({
            "item": item.id, "name": details.get("name", "a file whose description was damaged"),
            "sha256": details.get("sha256", ""), "size": item.plain_bytes, "added_at": _iso(item.created_at),
        })  # fmt: skip
    return {"version": VERSION, "salt": secrets.token_hex(16), "what": what, "files": noted}


def _prove(db: Session, row: Deletion, note: str, destroyed: Mapping[str, int]) -> None:
    """The facts of what was destroyed, into the row and, by their checksum, into the trail; in the caller's commit."""
    row.facts = canonical({
        "version": VERSION, "deletion": row.id, "what": row.what, "items": json.loads(row.item_ids),
        "note_sha256": _sha256(note), "keys_destroyed_at": _iso(row.created_at), "destroyed": dict(destroyed),
    })  # fmt: skip
    db.add(row)
    trail.record(
        db, "keys-destroyed", account_id=row.account_id, actor=Actor("patient", row.account_id), deletion=row.id,
        items=row.items_count, proof=_sha256(row.facts),
    )  # fmt: skip


def of_account(db: Session, account_id: str, item_ids: Sequence[str], destroyed: Mapping[str, int]) -> Deletion:
    """The proof that all keys of an account were destroyed, in the commit that does it. Its note holds no names: nobody
    is left who could open it, and a copy of everything tells by the same numbers which file was which."""
    row = Deletion(id=new_id(), account_id=account_id, what="account", items_count=len(item_ids),
                   item_ids=json.dumps(list(item_ids)), sealed_note=b"")  # fmt: skip
    _prove(db, row, canonical(_accounts_note(db, row)), destroyed)
    return row


def _accounts_note(db: Session, row: Deletion) -> dict[str, Any]:
    """From rows that stay: the same each time it is made."""
    ids = json.loads(row.item_ids)
    found = {
        item_id: (size, added_at) for some in _batches(ids)
        for item_id, size, added_at in db.exec(
            select(Item.id, Item.plain_bytes, Item.created_at).where(col(Item.id).in_(some))
        )
    }  # fmt: skip
    files = [{"item": item_id, "size": found[item_id][0], "added_at": _iso(found[item_id][1])} for item_id in ids]
    return {"version": VERSION, "what": row.what, "files": files}


def certificate_of_account(database: Database, deletion_id: str) -> dict[str, Any]:
    """The proof that an account's owner gets by mail. Raises NotFound for any other deletion."""
    with database.read() as db:
        row = db.get(Deletion, deletion_id)
        if row is None or row.what != "account":
            raise NotFound("deletion")
        note = _accounts_note(db, row)
    return _certificate(database, row, note)


def destroy_keys(db: Session, ids: Sequence[str], forget: Iterable[Forget]) -> dict[str, int]:
    """Every copy of these items' keys, and everything that was sealed under them, out of the database."""
    counts = dict.fromkeys(("keys", "worker_keys", "readings", "previews", "repeats", "identifiers", "share_keys"), 0)
    for some in _batches(ids):
        counts["keys"] += _rows(
            db,
            update(Item).where(col(Item.id).in_(some)).values(
                sealed_dek=b"", sealed_details=b"", content_key="", wrapped_labels=None
            ),
        )  # fmt: skip
        counts["worker_keys"] += _rows(
            db, update(ArchiveTask).where(col(ArchiveTask.item_id).in_(some)).values(
                dek_for_worker=None, sealed_note=None
            )
        )  # fmt: skip
        for name, model in (
            ("readings", ItemReading), ("previews", ItemPreview), ("repeats", ItemRepeat),
            ("identifiers", ItemIdentifier),
        ):  # fmt: skip
            counts[name] += _rows(db, sql_delete(model).where(col(model.item_id).in_(some)))  # type: ignore[attr-defined]
        for one in forget:
            counts["share_keys"] += one(db, some)
    return counts


def purge(database: Database) -> None:
    """On SQLite: no old page of the destroyed keys stays in the write-ahead file (`secure_delete` empties the others).
    Readers may hold it up; the sweep's next deletion, or any later one, does it then."""
    if database.is_sqlite:
        with database.engine.connect() as connection:
            connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]


def remove_bytes(parts: RecordParts, row: Deletion, forget: Iterable[Forget]) -> None:
    """The second half; may be done twice."""
    ids = json.loads(row.item_ids)
    removal.forget_index(parts.database, parts.store, row.account_id, row.created_at)
    exports.remove_all(parts.database, parts.store, row.account_id, SYSTEM)
    with parts.database.write() as db:  # a job that wrapped keys anew at that moment may have put some back
        for some in _batches(ids):
            for one in forget:
                one(db, some)
    with parts.database.read() as db:
        keys = [key for some in _batches(ids) for key in db.exec(select(Item.object_key).where(col(Item.id).in_(some)))]
    for object_key in keys:
        parts.store.delete(object_key)
    left = sum(parts.store.exists(object_key) for object_key in keys)
    if left:
        return  # the sweep comes again
    with parts.database.write() as db:
        current = db.get(Deletion, row.id)
        if current is None or current.state != "keyless":
            return
        try:
            DELETION.move(db, current, "remove_bytes", bytes_at=now())
        except StateConflict:
            return
        trail.record(
            db, "bytes-removed", account_id=row.account_id, actor=SYSTEM, deletion=row.id, objects=len(keys)
        )


def sweep(parts: RecordParts, forget: Iterable[Forget] = ()) -> int:
    """Ends deletions whose bytes are still there after a crash or while the store was away. Safe to run twice."""
    with parts.database.read() as db:
        rows = db.exec(select(Deletion).where(Deletion.state == "keyless")).all()
    for row in rows:
        remove_bytes(parts, row, forget)
    return len(rows)


# -- the proof ------------------------------------------------------------------------------------
def list_mine(parts: RecordParts, login: Login, most: int = 100) -> list[DeletionView]:
    """The newest first."""
    query = select(Deletion).where(Deletion.account_id == login.account.id)
    with parts.database.read() as db:
        rows = db.exec(query.order_by(col(Deletion.created_at).desc()).limit(most)).all()
    return [_view(row, login) for row in rows]


def one_of_mine(parts: RecordParts, login: Login, deletion_id: str) -> DeletionView:
    """Raises NotFound."""
    return _view(_mine(parts, login, deletion_id), login)


def certificate(parts: RecordParts, login: Login, deletion_id: str) -> dict[str, Any]:
    """The proof as its owner may keep it. Raises NotFound."""
    row = _mine(parts, login, deletion_id)
    note = login.ring().open(row.sealed_note, context=_note_context(row.id)).decode()
    return _certificate(parts.database, row, json.loads(note))


def _certificate(database: Database, row: Deletion, note: dict[str, Any]) -> dict[str, Any]:
    with database.read() as db:
        events = db.exec(
            select(AuditEvent)
            .where(
                AuditEvent.account_id == row.account_id, col(AuditEvent.event).in_(EVENTS),
                col(AuditEvent.details).contains(f'"deletion":"{row.id}"'),
            )
            .order_by(col(AuditEvent.number))
        ).all()  # fmt: skip
    head = trail.head(database)
    return {
        "myphr_deletion": VERSION, "note": note, "facts": json.loads(row.facts),
        "events": [_event(one) for one in events], "chain_head": {"number": head.number, "hash": head.hash},
    }  # fmt: skip


def check(content: Any) -> list[tuple[int, str]]:
    """What a certificate says, checked against itself: (number, hash) of its rows of the trail, which the chain must
    hold. Raises CertificateWrong."""
    try:
        facts, events = content["facts"], [_row(one) for one in content["events"]]
        details = [json.loads(one.details) for one in events]
        kinds = [one.event for one in events]
        good = (
            content["myphr_deletion"] == VERSION
            and facts["note_sha256"] == _sha256(canonical(content["note"]))
            and kinds[:1] == ["keys-destroyed"] and kinds in (["keys-destroyed"], list(EVENTS))
            and details[0]["proof"] == _sha256(canonical(facts))
            and {one["deletion"] for one in details} == {facts["deletion"]}
            and [one["item"] for one in content["note"]["files"]] == facts["items"]
            and all(one.hash == trail.row_hash(one) for one in events)
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        good = False
    if not good:
        raise CertificateWrong()
    return [(one.number, one.hash) for one in events]


def check_in(database: Database, content: Any) -> int:
    """Checks a certificate and that this portal's trail holds its rows; how many. Raises CertificateWrong."""
    rows = check(content)
    with database.read() as db:
        for number, digest in rows:
            row = db.get(AuditEvent, number)
            if row is None or row.hash != digest:
                raise CertificateWrong()
    return len(rows)


def _event(row: AuditEvent) -> dict[str, Any]:
    return {
        "number": row.number, "at": _iso(row.at), "event": row.event, "account_id": row.account_id,
        "actor_kind": row.actor_kind, "actor_id": row.actor_id, "details": row.details,
        "previous_hash": row.previous_hash, "hash": row.hash,
    }  # fmt: skip


def _row(said: dict[str, Any]) -> AuditEvent:
    return AuditEvent(**(said | {"at": dt.datetime.fromisoformat(said["at"])}))


def _mine(parts: RecordParts, login: Login, deletion_id: str) -> Deletion:
    with parts.database.read() as db:
        row = db.get(Deletion, deletion_id)
    if row is None or row.account_id != login.account.id:
        raise NotFound("deletion")
    return row


def _view(row: Deletion, login: Login) -> DeletionView:
    note = json.loads(login.ring().open(row.sealed_note, context=_note_context(row.id)))
    names = [one["name"] for one in note["files"]]
    return DeletionView(row.id, row.what, row.items_count, names, row.created_at, row.created_at, row.bytes_at)


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]


def _rows(db: Session, statement: Any) -> int:
    return db.connection().execute(statement).rowcount


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _note_context(deletion_id: str) -> bytes:
    return envelope.context_for("deletion-note", deletion_id)


def _iso(moment: dt.datetime) -> str:
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat()
