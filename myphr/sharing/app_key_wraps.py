"""What an app key opens: the DEKs of the images in its scope, in one sealed row a study (docs/formats/app-key.md).

Images that come later need the owner, who alone can open their DEKs: the key that wraps is kept sealed to her, and when
she is there the rows are brought up to date. Called by `app_keys` and at sign-in; knows no token.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Collection, Iterable
from typing import Protocol

from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.crypto import envelope
from myphr.database import now
from myphr.errors import EnvelopeError
from myphr.people.login_sessions import Login
from myphr.people.models import Account
from myphr.records.filing import RecordParts
from myphr.records.models import Item, Study
from myphr.records.opening import dek_of
from myphr.sharing.app_key_models import AppKey, AppKeyStudy

log = logging.getLogger(__name__)


class Ring(Protocol):
    @property
    def public_key(self) -> bytes: ...
    def open(self, sealed: bytes, *, context: bytes) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Wrapping:
    """An app key's id and the key that its token carries."""

    app_key_id: str
    account_id: str
    key: bytes = dataclasses.field(repr=False)

    def open(self, row: AppKeyStudy) -> dict[str, bytes]:
        """DEKs by item id; none where they were destroyed with a file of the study. Raises EnvelopeError."""
        if not row.wrapped_deks:
            return {}
        plain = envelope.unwrap(self.key, row.wrapped_deks, context=_context(self.app_key_id, row.study_id))
        return {item_id: bytes.fromhex(dek) for item_id, dek in json.loads(plain)["deks"].items()}

    def seal(self, study_id: str, deks: dict[str, bytes]) -> bytes:
        plain = json.dumps({"version": 1, "deks": {one: dek.hex() for one, dek in deks.items()}}, separators=(",", ":"))
        return envelope.wrap(self.key, plain.encode(), context=_context(self.app_key_id, study_id))


def seal_for_owner(ring: Ring, wrapping: Wrapping) -> bytes:
    return envelope.seal_to(ring.public_key, wrapping.key, context=_key_context(wrapping.app_key_id))


def studies_of(db: Session, account_id: str) -> dict[str, Study]:
    """Those that have pictures today."""
    return {row.id: row for row in db.exec(select(Study).where(
        Study.account_id == account_id, col(Study.deleted_at).is_(None), Study.items_count > 0
    ))}  # fmt: skip


def opened(parts: RecordParts, ring: Ring, study_ids: Iterable[str], known: dict[str, bytes]) -> dict[str, bytes]:
    """DEKs of the images of these studies, by item id; those that are `known` cost nothing."""
    with parts.database.read() as db:
        items = [item for study_id in study_ids for item in _images(db, study_id)]
    found = {}
    for item in items:
        with contextlib.suppress(EnvelopeError):  # one damaged row must not hide the others
            found[item.id] = known.get(item.id) or dek_of(ring, item)
    return found


def hold_record(db: Session, account_id: str) -> None:
    """Nothing is filed or deleted in this record before the transaction ends (PostgreSQL has many writers)."""
    db.exec(select(Account.id).where(Account.id == account_id).with_for_update()).first()


def put(db: Session, wrapping: Wrapping, study_ids: Iterable[str], deks: dict[str, bytes]) -> int:
    """Writes the rows of these studies: how many images are new in them. The caller holds the record: a file that was
    deleted meanwhile is left out, one that came meanwhile is fetched the next time."""
    came = 0
    for study_id in study_ids:
        ids = {item.id for item in _images(db, study_id)}
        row = db.get(AppKeyStudy, (wrapping.app_key_id, study_id))
        if row is None:
            row = AppKeyStudy(app_key_id=wrapping.app_key_id, study_id=study_id, wrapped_deks=b"")
        with contextlib.suppress(EnvelopeError):
            came -= len(ids & wrapping.open(row).keys())
        kept = {item_id: dek for item_id, dek in deks.items() if item_id in ids}
        came += len(kept)
        row.wrapped_deks = wrapping.seal(study_id, kept)
        row.wrapped_at = now() if kept.keys() == ids else None
        db.add(row)
    return came


def catch_up(parts: RecordParts, login: Login) -> None:
    """At the owner's unlock: what came into the scope of her open app keys since. Safe to run twice; what fails is done
    the next time."""
    with parts.database.read() as db:
        rows = db.exec(select(AppKey).where(
            AppKey.account_id == login.account.id, AppKey.state == "open", col(AppKey.expires_at) > now(),
            col(AppKey.sealed_key).is_not(None),
        )).all()  # fmt: skip
    for row in rows:
        try:
            _catch_up(parts, login, row)
        except EnvelopeError:
            log.warning("app key %s stays as it was", row.id)


def _catch_up(parts: RecordParts, login: Login, row: AppKey) -> None:
    ring = login.ring()
    assert row.sealed_key is not None
    key = ring.open(row.sealed_key, context=_key_context(row.id))
    wrapping = Wrapping(row.id, row.account_id, key)
    with parts.database.read() as db:
        behind = _behind(db, row)
        held = [db.get(AppKeyStudy, (row.id, study_id)) for study_id in behind]
    if not behind:
        return
    known: dict[str, bytes] = {}
    for one in held:
        with contextlib.suppress(EnvelopeError):
            known |= wrapping.open(one) if one is not None else {}
    deks = opened(parts, ring, behind, known)
    with parts.database.write() as db:
        hold_record(db, row.account_id)
        fresh = db.get(AppKey, row.id, with_for_update=True)
        if fresh is None or fresh.state != "open":
            return
        if came := put(db, wrapping, behind, deks):
            trail.record(
                db, "app-key-widened", account_id=row.account_id, actor=Actor("patient", row.account_id),
                app_key=row.id, items=came,
            )  # fmt: skip


def _behind(db: Session, row: AppKey) -> Collection[str]:
    """Ids of studies in scope that grew since their row was written, lost their row's keys, or have no row yet."""
    here = studies_of(db, row.account_id)
    rows = {one.study_id: one for one in db.exec(select(AppKeyStudy).where(AppKeyStudy.app_key_id == row.id))}
    scope = here.keys() if row.covers_all else here.keys() & rows.keys()
    return sorted(study_id for study_id in scope if not _is_whole(rows.get(study_id), here[study_id]))


def _is_whole(row: AppKeyStudy | None, study: Study) -> bool:
    return bool(row and row.wrapped_deks and row.wrapped_at and study.changed_at < row.wrapped_at)


def _images(db: Session, study_id: str) -> list[Item]:
    return list(db.exec(select(Item).where(
        Item.study_id == study_id, col(Item.deleted_at).is_(None), Item.sealed_dek != b"", Item.format == "dicom"
    )))  # fmt: skip


def _context(app_key_id: str, study_id: str) -> bytes:
    return envelope.context_for("app-key-deks", app_key_id, study_id)


def _key_context(app_key_id: str) -> bytes:
    return envelope.context_for("app-key-key", app_key_id)
