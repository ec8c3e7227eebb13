"""App keys: the patient lets an app of hers read the pictures of chosen studies, by QIDO-RS and WADO-RS, for a time.

The portal has no standing power to open a record, so the token itself must carry the key: from its 32 random bytes,
shown once, comes a key that wraps the DEKs of the files in scope (`app_key_wraps`). Only the token's hash, those wraps
and, sealed to the owner, the key are stored. Revoked or run out, wraps and key are deleted in that commit. Called by
the pages and `web/dicom_web_out.py`; knows no HTTP.
"""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import secrets
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlmodel import Session, col, delete, func, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM, Actor
from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.errors import AppKeyClosed, EnvelopeError, FormRefused, NotFound
from myphr.people.accounts import normal_name
from myphr.people.login_sessions import Login
from myphr.people.models import Account
from myphr.records.filing import RecordParts
from myphr.records.models import Item, Study
from myphr.records.opening import open_details
from myphr.sharing import app_key_wraps
from myphr.sharing.app_key_models import AppKey, AppKeyStudy
from myphr.sharing.app_key_wraps import Ring, Wrapping
from myphr.state_tables import StateConflict, StateTable

OPEN_MAX = 20  # app keys of one patient at a time
OVER_SHOWN_MAX = 20
SECONDS_MAX = 366 * 86_400
USED_SECONDS = 60  # `last_used_at` is exact to a minute: reading must not write each time

APP_KEY = StateTable(
    "app key", AppKey, "open",
    {
        ("open", "revoke"): ("delete the keys it opens", "revoked"),
        ("open", "expire"): ("delete the keys it opens", "expired"),
    },
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Created:
    """The token is told here and kept nowhere."""

    app_key_id: str
    name: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)
    studies: int
    covers_all: bool
    expires_at: dt.datetime


@dataclasses.dataclass(frozen=True)
class AppKeyView:
    """One app key as its owner sees it."""

    id: str
    name: str = dataclasses.field(repr=False)
    state: str
    studies: int
    covers_all: bool  # also examinations that come later
    follows: bool  # what comes later is added at the owner's next sign-in
    expires_at: dt.datetime
    last_used_at: dt.datetime | None

    @property
    def is_open(self) -> bool:
        return self.state == "open"


@dataclasses.dataclass(frozen=True)
class Instance:
    """One image that an app may read, with its key for the length of a request."""

    item: Item
    dek: bytes = dataclasses.field(repr=False)
    headers: dict[str, Any] = dataclasses.field(repr=False)


class Reader:
    """What one request of an app may see. Opens only what the token opens."""

    def __init__(self, parts: RecordParts, row: AppKey, key: bytes) -> None:
        self.app_key_id, self.account_id = row.id, row.account_id
        self._parts, self._wrapping = parts, Wrapping(row.id, row.account_id, key)

    def studies(self) -> list[str]:
        """Ids of the studies in scope that are still there."""
        with self._parts.database.read() as db:
            return list(db.exec(
                select(AppKeyStudy.study_id).join(Study, col(Study.id) == col(AppKeyStudy.study_id))
                .where(AppKeyStudy.app_key_id == self.app_key_id, col(Study.deleted_at).is_(None))
                .order_by(col(Study.created_at).desc(), Study.id)
            ))  # fmt: skip

    def instances(self, study_id: str, only: str = "") -> list[Instance]:
        """The images of one study, in no order, or the one with this item id. Raises NotFound once the key is over."""
        with self._parts.database.read() as db:
            row = db.get(AppKeyStudy, (self.app_key_id, study_id))
            items = db.exec(select(Item).where(
                Item.study_id == study_id, Item.account_id == self.account_id, col(Item.deleted_at).is_(None),
                Item.format == "dicom", *([Item.id == only] if only else []),
            )).all()  # fmt: skip
        if row is None:
            raise NotFound("study")
        deks = self._wrapping.open(row)
        found = []
        for item in items:
            dek = deks.get(item.id, b"")
            with contextlib.suppress(EnvelopeError):  # one damaged row must not hide the others
                if dek:
                    found.append(Instance(item, dek, open_details(dek, item.id, item.sealed_details)["headers"] or {}))
        return found

    def still(self) -> None:
        """Raises AppKeyClosed once the key is over: asked before each image of a long answer."""
        with self._parts.database.read() as db:
            row = db.get(AppKey, self.app_key_id)
            if row is None or row.state != "open" or row.expires_at <= now():
                raise AppKeyClosed()

    def note(self, event: str, **details: object) -> None:
        """Into "Who looked", before anything is given out. Raises AppKeyClosed."""
        with self._parts.database.write() as db:
            row = db.get(AppKey, self.app_key_id, with_for_update=True)
            if row is None or row.state != "open" or row.expires_at <= now():
                raise AppKeyClosed()
            if row.last_used_at is None or (now() - row.last_used_at).total_seconds() > USED_SECONDS:
                row.last_used_at = now()
                db.add(row)
            trail.record(db, event, account_id=row.account_id, actor=Actor("app", row.id), app_key=row.id, **details)


# -- the owner ------------------------------------------------------------------------------------
def create(
    parts: RecordParts, login: Login, name: str, seconds: int, study_ids: Collection[str] | None
) -> Created:
    """A key for these studies, or for all there are. Raises FormRefused; NotFound for a study of somebody else."""
    name = normal_name(name)
    if not 0 < seconds <= SECONDS_MAX:
        raise FormRefused(reason="choose for how long")
    account_id, ring = login.account.id, login.ring()
    with parts.database.read() as db:
        mine = app_key_wraps.studies_of(db, account_id).keys()
    chosen = sorted(mine if study_ids is None else set(study_ids))
    if set(chosen) - mine:
        raise NotFound("study")
    if not chosen:
        raise FormRefused(reason="choose what the app may read" if mine else "there are no pictures yet")
    token, app_key_id = secrets.token_urlsafe(32), new_id()
    wrapping = Wrapping(app_key_id, account_id, _key_of(token, app_key_id))
    deks = app_key_wraps.opened(parts, ring, chosen, {})
    row = AppKey(
        id=app_key_id, account_id=account_id, token_sha256=_hash_of(token),
        sealed_name=envelope.seal_to(ring.public_key, name.encode(), context=_name_context(app_key_id)),
        sealed_key=app_key_wraps.seal_for_owner(ring, wrapping), covers_all=study_ids is None,
        expires_at=now() + dt.timedelta(seconds=seconds),
    )  # fmt: skip
    with parts.database.write() as db:
        app_key_wraps.hold_record(db, account_id)
        held = select(func.count()).select_from(AppKey).where(AppKey.account_id == account_id, AppKey.state == "open")
        if db.exec(held).one() >= OPEN_MAX:
            raise FormRefused(reason=f"there are {OPEN_MAX} already; stop one of them first")
        db.add(row)
        db.flush()
        app_key_wraps.put(db, wrapping, chosen, deks)
        trail.record(
            db, "app-key-made", account_id=account_id, actor=Actor("patient", account_id), app_key=app_key_id,
            studies=len(chosen), seconds=seconds,
        )  # fmt: skip
    return Created(app_key_id, name, token, len(chosen), row.covers_all, row.expires_at)


def list_mine(parts: RecordParts, login: Login) -> list[AppKeyView]:
    """Open ones, newest first, then the latest that are over."""
    with parts.database.read() as db:
        rows = db.exec(
            select(AppKey).where(AppKey.account_id == login.account.id).order_by(col(AppKey.created_at).desc())
        ).all()
        views = [_view(db, row, login.ring()) for row in rows]
    return [one for one in views if one.is_open] + [one for one in views if not one.is_open][:OVER_SHOWN_MAX]


def one_of_mine(parts: RecordParts, login: Login, app_key_id: str) -> AppKeyView:
    """Raises NotFound, also for somebody else's and for one that is over."""
    with parts.database.read() as db:
        return _view(db, _mine(db, login, app_key_id), login.ring())


def revoke(parts: RecordParts, login: Login, app_key_id: str) -> None:
    """From this commit on the token opens nothing. Raises NotFound."""
    with parts.database.write() as db:
        row = _mine(db, login, app_key_id)
        with contextlib.suppress(StateConflict):  # it ran out a moment ago: over all the same
            _end(db, row, "revoke", "app-key-revoked", Actor("patient", row.account_id))


def names(db: Session, login: Login, app_key_ids: Iterable[str]) -> dict[str, str]:
    """The owner's words for these keys, for the trail's page."""
    ids = set(app_key_ids)
    rows = db.exec(select(AppKey).where(AppKey.account_id == login.account.id, col(AppKey.id).in_(ids))) if ids else ()
    return {row.id: _name_of(row, login.ring()) for row in rows}


def sweep(parts: RecordParts) -> int:
    """Close what ran out. Safe to run twice. Returns how many."""
    with parts.database.write() as db:
        over: Sequence[AppKey] = db.exec(
            select(AppKey).where(AppKey.state == "open", col(AppKey.expires_at) <= now())
        ).all()
        for row in over:
            _end(db, row, "expire", "app-key-expired", SYSTEM)
    return len(over)


# -- the app --------------------------------------------------------------------------------------
def by_token(parts: RecordParts, token: str) -> Reader:
    """Raises AppKeyClosed alike for a wrong, a revoked and an expired token."""
    with parts.database.read() as db:
        row = db.exec(select(AppKey).where(AppKey.token_sha256 == _hash_of(token))).first()
        account = db.get(Account, row.account_id) if row else None
    if row is None or row.state != "open" or row.expires_at <= now() or account is None or account.closed_at:
        raise AppKeyClosed()
    return Reader(parts, row, _key_of(token, row.id))


# -- rows -----------------------------------------------------------------------------------------
def _end(db: Session, row: AppKey, how: str, event: str, actor: Actor) -> None:
    APP_KEY.move(db, row, how)
    row.sealed_key = None
    db.add(row)
    db.execute(delete(AppKeyStudy).where(col(AppKeyStudy.app_key_id) == row.id))
    trail.record(db, event, account_id=row.account_id, actor=actor, app_key=row.id)


def _mine(db: Session, login: Login, app_key_id: str) -> AppKey:
    row = db.get(AppKey, app_key_id)
    if row is None or row.account_id != login.account.id or row.state != "open":
        raise NotFound("app key")
    return row


def _view(db: Session, row: AppKey, ring: Ring) -> AppKeyView:
    state = "expired" if row.state == "open" and row.expires_at <= now() else row.state
    studies = db.exec(
        select(func.count()).select_from(AppKeyStudy)
        .where(AppKeyStudy.app_key_id == row.id, AppKeyStudy.wrapped_deks != b"")
    ).one()  # fmt: skip
    return AppKeyView(
        row.id, _name_of(row, ring), state, studies, row.covers_all, row.sealed_key is not None, row.expires_at,
        row.last_used_at,
    )  # fmt: skip


def _name_of(row: AppKey, ring: Ring) -> str:
    return ring.open(row.sealed_name, context=_name_context(row.id)).decode()


def _name_context(app_key_id: str) -> bytes:
    return envelope.context_for("app-key-name", app_key_id)


def _key_of(token: str, app_key_id: str) -> bytes:
    return envelope.derive(token.encode(), "myphr/app-key/1", app_key_id.encode())


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
