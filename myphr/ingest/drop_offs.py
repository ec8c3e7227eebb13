"""Drop-offs: a patient lets one provider send files into her record, for a time and up to a number.

A provider holds a token (STOW-RS) and an AE title (C-STORE); neither opens, lists or changes anything. The row is asked
before a file and again in the commit that files it (`deliveries`). Called by the pages, `web/dicom_web.py`, the
receiver and the sweep; knows no protocol.
"""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, bindparam
from sqlmodel import Session, col, func, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM, Actor
from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.errors import (
    DropOffClosed,
    DropOffFull,
    DropOffLinkClosed,
    FormRefused,
    NotFound,
)
from myphr.ingest.models import DropOff
from myphr.ingest.states import DROP_OFF
from myphr.ingest.uploads import abandon_of
from myphr.people.accounts import normal_name
from myphr.people.login_sessions import Login
from myphr.people.models import Account, StoredKeyRing
from myphr.prepared import Prepared
from myphr.records.filing import Filed, check_room
from myphr.records.items import RecordParts
from myphr.state_tables import StateConflict

SOURCE = "drop-off"  # of an item
OPEN_MAX = 20  # drop-offs of one patient at a time
CLOSED_SHOWN_MAX = 20
LATELY = dt.timedelta(days=7)
LATELY_SHOWN_MAX = 5
OPENING_GAP = dt.timedelta(minutes=10)
LIVE = ("open", "full")
AE_TITLE_PREFIX = "PHR"
_AE_TITLE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # read out on the telephone: no I and 1, no O and 0
_AE_TITLE_RANDOM = 12  # with the prefix 15 of the 16 characters that PS3.5 6.2 allows; 60 bits


@dataclasses.dataclass(frozen=True)
class Created:
    """What the practice is given. The token is told here and kept nowhere."""

    drop_off_id: str
    name: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)
    ae_title: str = dataclasses.field(repr=False)
    files_max: int
    expires_at: dt.datetime


@dataclasses.dataclass(frozen=True)
class DropOffView:
    """One drop-off as its owner sees it."""

    id: str
    name: str = dataclasses.field(repr=False)
    state: str
    ae_title: str = dataclasses.field(repr=False)
    files_count: int
    files_max: int
    bytes_count: int
    expires_at: dt.datetime
    last_file_at: dt.datetime | None
    address: str | None = dataclasses.field(default=None, repr=False)  # where its link was sent
    mail_id: str | None = None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


@dataclasses.dataclass(frozen=True)
class Grant:
    """A drop-off that takes files at the moment."""

    drop_off_id: str
    account_id: str
    owner_public_key: bytes
    bytes_left: int


@dataclasses.dataclass(frozen=True)
class LinkPage:
    """What whoever holds the link may know: nothing of the record. `grant` is None when all agreed files have come."""

    drop_off_id: str
    for_name: str = dataclasses.field(repr=False)
    practice: str = dataclasses.field(repr=False)
    files_max: int
    files_left: int
    expires_at: dt.datetime
    grant: Grant | None


# -- the owner ------------------------------------------------------------------------------------
def create(
    parts: RecordParts, login: Login, name: str, seconds: int, files_max: int, *, for_name: str | None = None,
    also: Callable[[Session, DropOff, str], None] | None = None,
) -> Created:  # fmt: skip
    """A new drop-off for this provider, whose page names the patient `for_name`. `also` gets the row and its token in
    the same commit. Raises FormRefused."""
    settings = parts.settings
    name = normal_name(name)
    for_name = normal_name(for_name or login.account.name)
    if not 0 < seconds <= settings.drop_off_seconds_max:
        raise FormRefused(reason="choose for how long")
    if not 0 < files_max <= settings.drop_off_files_max:
        raise FormRefused(reason=f"choose how many files, at most {settings.drop_off_files_max:,}")
    token = secrets.token_urlsafe(32)
    row = DropOff(
        id=new_id(), account_id=login.account.id, sealed_name=b"", token_sha256=_hash_of(token),
        ae_title=AE_TITLE_PREFIX + "".join(secrets.choice(_AE_TITLE_LETTERS) for _ in range(_AE_TITLE_RANDOM)),
        files_max=files_max, bytes_max=settings.drop_off_bytes_max, expires_at=now() + dt.timedelta(seconds=seconds),
    )  # fmt: skip
    row.sealed_name = envelope.seal_to(login.ring().public_key, name.encode(), context=_name_context(row.id))
    row.wrapped_page = envelope.wrap(
        _page_key(token, row.id), json.dumps({"for": for_name, "practice": name}).encode(), context=row.id.encode()
    )
    with parts.database.write() as db:
        held = select(func.count()).where(DropOff.account_id == row.account_id, _is_live())
        if db.exec(held).one() >= OPEN_MAX:
            raise FormRefused(reason=f"there are {OPEN_MAX} already; stop one of them first")
        db.add(row)
        _note(db, row, "drop-off-opened", _owner(row), files=files_max, seconds=seconds)
        if also is not None:
            also(db, row, token)
    return Created(row.id, name, token, row.ae_title, files_max, row.expires_at)


def list_mine(parts: RecordParts, login: Login) -> list[DropOffView]:
    """Those that take files, newest first, then the latest that are over."""
    mine = select(DropOff).where(DropOff.account_id == login.account.id).order_by(col(DropOff.created_at).desc())
    with parts.database.read() as db:
        live = db.exec(mine.where(_is_live())).all()
        over = db.exec(mine.where(~_is_live()).limit(CLOSED_SHOWN_MAX)).all()
    return [_view(row, login) for row in (*live, *over)]


def one_of_mine(parts: RecordParts, login: Login, drop_off_id: str) -> DropOffView:
    """Raises NotFound, also for somebody else's and for one that is over."""
    with parts.database.read() as db:
        return _view(_mine(db, login, drop_off_id), login)


def revoke(parts: RecordParts, login: Login, drop_off_id: str) -> None:
    """From this commit on nothing comes in by it. Raises NotFound."""
    with parts.database.write() as db:
        row = _mine(db, login, drop_off_id)
        with contextlib.suppress(StateConflict):  # it ran out a moment ago: over all the same
            DROP_OFF.move(db, row, "revoke")
            abandon_of(db, row.id)
            _note(db, row, "drop-off-revoked", _owner(row))


def names(db: Session, login: Login, drop_off_ids: Iterable[str]) -> dict[str, str]:
    """The owner's words for these drop-offs, for the trail's page."""
    ids = set(drop_off_ids)
    if not ids:
        return {}
    rows = db.exec(select(DropOff).where(DropOff.account_id == login.account.id, col(DropOff.id).in_(ids)))
    return {row.id: _name_of(row, login) for row in rows}


def sent_lately(parts: RecordParts, login: Login) -> list[DropOffView]:
    """Those by which something came in the last days, the newest first."""
    since = now() - LATELY
    with parts.database.read() as db:
        rows = db.exec(
            select(DropOff)
            .where(DropOff.account_id == login.account.id, col(DropOff.last_file_at) >= since)
            .order_by(col(DropOff.last_file_at).desc())
            .limit(LATELY_SHOWN_MAX)
        ).all()
    return [_view(row, login) for row in rows]


def address_context(drop_off_id: str) -> bytes:
    return envelope.context_for("drop-off-address", drop_off_id)


def sweep(parts: RecordParts) -> int:
    """Close what ran out. Safe to run twice. Returns how many."""
    closed = 0
    with parts.database.write() as db:
        for row in db.exec(select(DropOff).where(_is_live(), col(DropOff.expires_at) <= now())).all():
            DROP_OFF.move(db, row, "expire")
            abandon_of(db, row.id)
            _note(db, row, "drop-off-expired", SYSTEM)
            closed += 1
    return closed


# -- the provider ---------------------------------------------------------------------------------
def by_token(parts: RecordParts, token: str) -> Grant:
    """Raises DropOffClosed alike for a wrong, a revoked and an expired token, DropOffFull."""
    return _grant(parts, DropOff.token_sha256 == _hash_of(token))  # type: ignore[arg-type]


def by_ae_title(parts: RecordParts, ae_title: str) -> Grant:
    """Raises as `by_token`."""
    return _grant(parts, DropOff.ae_title == ae_title)  # type: ignore[arg-type]


def by_link(parts: RecordParts, drop_off_id: str, token: str) -> LinkPage:
    """What the page behind the link says. Raises NotFound for a wrong link, DropOffLinkClosed for one that is over."""
    with parts.database.read() as db:
        row = db.get(DropOff, drop_off_id)
    wanted = row.token_sha256 if row else "0" * 64
    if not hmac.compare_digest(_hash_of(token), wanted) or row is None or row.wrapped_page is None:
        raise NotFound("drop-off link")
    grant: Grant | None = None
    try:
        grant = _grant(parts, DropOff.id == row.id)  # type: ignore[arg-type]
    except DropOffClosed:
        raise DropOffLinkClosed() from None
    except DropOffFull:
        pass
    said = json.loads(envelope.unwrap(_page_key(token, row.id), row.wrapped_page, context=row.id.encode()))
    return LinkPage(
        row.id, said["for"], said["practice"], row.files_max, max(0, row.files_max - row.files_count), row.expires_at,
        grant,
    )  # fmt: skip


def note_opening(parts: RecordParts, drop_off_id: str) -> None:
    """The owner sees that the link was opened; somebody who presses it again and again makes no more lines."""
    with parts.database.write() as db:
        row = db.get(DropOff, drop_off_id)
        if row is None or row.state not in LIVE or (row.opened_at and row.opened_at > now() - OPENING_GAP):
            return
        row.opened_at = now()
        db.add(row)
        _note(db, row, "drop-off-link-opened", Actor("provider", row.id))


def still(parts: RecordParts, grant: Grant) -> Grant:
    """The same drop-off as it is now. Raises as `by_token`."""
    return _grant(parts, DropOff.id == grant.drop_off_id)  # type: ignore[arg-type]


def count(parts: RecordParts, drop_off_id: str, db: Session, filed: Filed, size: int) -> None:
    """Count and note one more file, in the commit that files it.

    A file that this drop-off sent before counts once; one that the record had from elsewhere counts, else the sender
    could learn from the count that it was there. Raises DropOffClosed, DropOffFull, RecordFull."""
    count_one(db, drop_off_id, filed, size)
    check_room(db, parts.settings, filed.columns["account_id"], 0)


_TABLE = DropOff.__table__  # type: ignore[attr-defined]
_COUNTS = ("id", "account_id", "state", "expires_at", "files_count", "files_max", "bytes_count", "bytes_max")
_COUNTED = Prepared(
    _TABLE.select()
    .with_only_columns(*(_TABLE.c[name] for name in _COUNTS))
    .where(_TABLE.c.id == bindparam("drop_off"))
    .with_for_update()
)


def count_one(db: Session, drop_off_id: str, filed: Filed, size: int) -> None:
    """As `count`, without a look at the record's room: who files many looks once. Raises DropOffClosed, DropOffFull."""
    row = _COUNTED.first(db.connection(), {"drop_off": drop_off_id})
    if row is None or row.state not in LIVE or row.expires_at <= now():
        raise DropOffClosed()
    if row.state == "full":
        raise DropOffFull()
    if filed.duplicate and (filed.columns["source"], filed.columns["source_id"]) == (SOURCE, row.id):
        return
    if row.bytes_count + size > row.bytes_max:
        raise DropOffFull()
    last = row.files_count + 1 >= row.files_max
    DROP_OFF.step(
        db, row.id, row.state, "fill" if last else "take", files_count=row.files_count + 1,
        bytes_count=row.bytes_count + size, last_file_at=now(),
    )  # fmt: skip
    sender = Actor("provider", row.id)
    trail.record(
        db, "drop-off-received", account_id=row.account_id, actor=sender, drop_off=row.id, item=filed.item_id,
        bytes=size,
    )  # fmt: skip
    if last:
        trail.record(db, "drop-off-full", account_id=row.account_id, actor=sender, drop_off=row.id)


# -- rows -----------------------------------------------------------------------------------------
def _grant(parts: RecordParts, which: ColumnElement[bool]) -> Grant:
    with parts.database.read() as db:
        row = db.exec(select(DropOff).where(which)).first()
        if row is None or row.state not in LIVE or row.expires_at <= now():
            raise DropOffClosed()
        account, ring = db.get(Account, row.account_id), db.get(StoredKeyRing, row.account_id)
    if account is None or account.closed_at is not None or ring is None:
        raise DropOffClosed()
    if row.state == "full" or row.bytes_count >= row.bytes_max:
        raise DropOffFull()
    return Grant(row.id, row.account_id, ring.public_key, row.bytes_max - row.bytes_count)


def _mine(db: Session, login: Login, drop_off_id: str) -> DropOff:
    row = db.get(DropOff, drop_off_id)
    if row is None or row.account_id != login.account.id or row.state not in LIVE:
        raise NotFound("drop-off")
    return row


def _view(row: DropOff, login: Login) -> DropOffView:
    state = "expired" if row.state in LIVE and row.expires_at <= now() else row.state
    return DropOffView(
        row.id, _name_of(row, login), state, row.ae_title, row.files_count, row.files_max, row.bytes_count,
        row.expires_at, row.last_file_at, _address_of(row, login), row.mail_id,
    )  # fmt: skip


def _name_of(row: DropOff, login: Login) -> str:
    return login.ring().open(row.sealed_name, context=_name_context(row.id)).decode()


def _address_of(row: DropOff, login: Login) -> str | None:
    if row.sealed_address is None:
        return None
    return login.ring().open(row.sealed_address, context=address_context(row.id)).decode()


def _page_key(token: str, drop_off_id: str) -> bytes:
    return envelope.derive(token.encode(), "myphr/drop-off-page/1", drop_off_id.encode())


def _is_live() -> Any:
    return col(DropOff.state).in_(LIVE)


def _owner(row: DropOff) -> Actor:
    return Actor("patient", row.account_id)


def _note(db: Session, row: DropOff, event: str, actor: Actor, **details: object) -> None:
    trail.record(db, event, account_id=row.account_id, actor=actor, drop_off=row.id, **details)


def _name_context(drop_off_id: str) -> bytes:
    return envelope.context_for("drop-off-name", drop_off_id)


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
