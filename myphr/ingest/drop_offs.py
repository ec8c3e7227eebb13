"""Drop-offs: a patient lets one provider send files into her record, for a time and up to a number.

A provider holds a token (STOW-RS) and an AE title (C-STORE); neither opens, lists or changes anything. What arrives is
sealed to the owner's public key while it streams. The row is asked before a file and again in the commit that files it,
so that a revoked drop-off takes nothing that is still on its way. Called by the pages, `web/dicom_web.py`, the receiver
and the sweep; knows no protocol.
"""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
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
    PortalError,
    RecordFull,
    StoreFull,
    UploadTooLarge,
)
from myphr.ingest import identify
from myphr.ingest.models import DropOff
from myphr.ingest.states import DROP_OFF
from myphr.ingest.upload_filing import FREE_BYTES_MIN
from myphr.ingest.uploads import abandon_of
from myphr.people.accounts import normal_name
from myphr.people.login_sessions import Login
from myphr.people.models import Account, StoredKeyRing
from myphr.records.filing import Filed, SealedFile, ask_to_read, check_room, file_sealed, remove_unfiled
from myphr.records.items import Facts, ItemWriter, RecordParts
from myphr.state_tables import StateConflict

SOURCE = "drop-off"  # of an item
ASK_SECONDS = 2.0
FILED_TOGETHER_MAX = 50  # in one commit: others wait that long for the database
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
    _count(db, drop_off_id, filed, size)
    check_room(db, parts.settings, filed.item.account_id, 0)


_TABLE = DropOff.__table__  # type: ignore[attr-defined]
_COUNTED = _TABLE.select().where(_TABLE.c.id == bindparam("drop_off")).with_for_update()  # asked with every image


def _count(db: Session, drop_off_id: str, filed: Filed, size: int) -> None:
    """Raises DropOffClosed, DropOffFull."""
    row = db.connection().execute(_COUNTED, {"drop_off": drop_off_id}).first()
    if row is None or row.state not in LIVE or row.expires_at <= now():
        raise DropOffClosed()
    if row.state == "full":
        raise DropOffFull()
    if filed.duplicate and (filed.item.source, filed.item.source_id) == (SOURCE, row.id):
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
        db, "drop-off-received", account_id=row.account_id, actor=sender, drop_off=row.id, item=filed.item.id,
        bytes=size,
    )  # fmt: skip
    if last:
        trail.record(db, "drop-off-full", account_id=row.account_id, actor=sender, drop_off=row.id)


class Delivery:
    """One file of a provider on its way in. `write`, then `finish`, or `abort`; nothing half-stored stays."""

    def __init__(self, parts: RecordParts, grant: Grant, filing: "FilingTogether | None" = None) -> None:
        """Raises StoreFull."""
        if shutil.disk_usage(parts.store.partial_dir).free < FREE_BYTES_MIN:
            raise StoreFull()
        self._parts, self._grant, self._filing = parts, grant, filing or FilingTogether(parts)
        self._object_bytes_max = parts.settings.drop_off_object_bytes_max
        self._writer = ItemWriter(
            parts, grant.account_id, owner_public_key=grant.owner_public_key, source=SOURCE,
            source_id=grant.drop_off_id, describe=identify.describe,
            bytes_max=min(self._object_bytes_max, grant.bytes_left),
        )  # fmt: skip

    def write(self, plaintext: bytes | bytearray | memoryview) -> None:
        """Append. Raises UploadTooLarge, DropOffFull, StoreFull; the delivery is then aborted."""
        try:
            self._writer.write(plaintext)
        except RecordFull:
            raise (UploadTooLarge if self._writer.plain_bytes > self._object_bytes_max else DropOffFull)() from None

    def close_up(self, check: Callable[[Facts], None] | None = None) -> SealedFile:
        """Ends the container, which is not durable before `commit` and then in no record yet. `check` may refuse what
        the first bytes say it is, by a PortalError; nothing of it is left then."""
        sealed = self._writer.close_up("")
        try:
            if check is not None:
                check(sealed.facts)
        except PortalError:
            self.abort()
            raise
        return dataclasses.replace(sealed, name=name_of(sealed.facts))

    def commit(self) -> None:
        """Raises StoreFull; nothing of it is left then."""
        self._writer.commit()

    def finish(self, check: Callable[[Facts], None] | None = None) -> Filed:
        """The item, durable, in its study, counted and noted. `check` as in `close_up`.

        Raises DropOffClosed, DropOffFull, RecordFull, StoreFull."""
        sealed = self.close_up(check)
        self.commit()
        return self._filing.file(self._grant, sealed)

    def abort(self) -> None:
        """Leaves nothing behind. Harmless after finish."""
        self._writer.abort()


class _Waiting:
    """One sealed file that waits to be filed. `outcome` stands once `turn` is set, unless it is `to_lead`."""

    def __init__(self, grant: Grant, sealed: SealedFile) -> None:
        self.grant, self.sealed = grant, sealed
        self.turn = threading.Event()
        self.to_lead = False
        self.outcome: Filed | BaseException | None = None


class FilingTogether:
    """Files what several threads of this process have ready in one commit: a sync of the database costs the same for
    one file as for ten. Who comes while nobody files leads: takes all that wait for one record, files them, and hands
    on to the next. Nobody waits for company, and nobody's `file` returns before the commit that holds its file."""

    def __init__(self, parts: RecordParts) -> None:
        self._parts = parts
        self._guard = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._led = False
        self._asked_at: dict[str, float] = {}  # when the worker was last asked to read, by account
        self._unread: set[str] = set()

    def file(self, grant: Grant, sealed: SealedFile) -> Filed:
        """Raises as `Delivery.finish`."""
        mine = _Waiting(grant, sealed)
        with self._guard:
            self._waiting.append(mine)
            leads, self._led = not self._led, True
        if not leads:
            mine.turn.wait()
        if leads or mine.to_lead:
            self._lead(mine)
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        assert mine.outcome is not None
        return mine.outcome

    def file_all(self, grant: Grant, files: Sequence[SealedFile]) -> list[Filed | PortalError]:
        """What one sender has ready at once: in one commit, unless one of them is refused. Raises what befell all of
        them, an absent database say."""
        group = [_Waiting(grant, sealed) for sealed in files]
        self._file_group(group)
        outcomes: list[Filed | PortalError] = []
        for one in group:
            if not isinstance(one.outcome, Filed | PortalError):
                raise one.outcome or RuntimeError("not filed")
            outcomes.append(one.outcome)
        return outcomes

    def ask_to_read(self, account_id: str, *, at_once: bool = True) -> None:
        """Has the worker read what was filed and it was not asked to yet. A job an image would cost more than filing
        it, so while images come it is asked now and then; the sender's end is the time to ask for the rest."""
        moment = time.monotonic()
        with self._guard:
            recent = moment - self._asked_at.get(account_id, -ASK_SECONDS) < ASK_SECONDS
            if account_id not in self._unread or (recent and not at_once):
                return
            self._unread.discard(account_id)
            self._asked_at = {one: at for one, at in self._asked_at.items() if moment - at < ASK_SECONDS}
            self._asked_at[account_id] = moment
        ask_to_read(self._parts, account_id)

    def _lead(self, mine: _Waiting) -> None:
        with self._guard:
            group = [one for one in self._waiting if one.grant.account_id == mine.grant.account_id]
            group = group[:FILED_TOGETHER_MAX] if mine in group[:FILED_TOGETHER_MAX] else [mine]
            self._waiting = [one for one in self._waiting if one not in group]
        try:
            self._file_group(group)
        finally:
            with self._guard:
                following = self._waiting[0] if self._waiting else None
                self._led = following is not None
            for one in group:
                if one.outcome is None:
                    one.outcome = RuntimeError("not filed")
                if one is not mine:
                    one.turn.set()
            if following is not None:
                following.to_lead = True
                following.turn.set()

    def _file_group(self, group: list[_Waiting]) -> None:
        try:
            filed = self._file(group)
        except PortalError as error:  # of one of them: whose it is shows when each is filed alone
            if len(group) == 1:
                group[0].outcome = error
                remove_unfiled(self._parts, [group[0].sealed], error)
                return
            for one in group:
                self._file_group([one])
        except Exception as error:  # the database is away, say: of all of them
            for one in group:
                one.outcome = error
            remove_unfiled(self._parts, [one.sealed for one in group], error)
        else:
            for one, outcome in zip(group, filed, strict=True):
                one.outcome = outcome

    def _file(self, group: list[_Waiting]) -> list[Filed]:
        def count_all(db: Session, filed: list[Filed]) -> None:
            for one, result in zip(group, filed, strict=True):
                _count(db, one.grant.drop_off_id, result, one.sealed.plain_bytes)
            check_room(db, self._parts.settings, group[0].grant.account_id, 0)

        grant = group[0].grant
        filed = file_sealed(
            self._parts, [one.sealed for one in group], owner_public_key=grant.owner_public_key, also=count_all,
            read_soon=False,
        )  # fmt: skip
        if any(one.sealed.facts.readable for one in group):
            with self._guard:
                self._unread.add(grant.account_id)
            self.ask_to_read(grant.account_id, at_once=False)
        return filed


def name_of(facts: Facts) -> str:
    """What a file without a name is called: "MR-3-12.dcm", by series and image."""
    headers = facts.headers or {}
    words = [str(headers.get(key) or "") for key in ("modality", "series_number", "instance_number")]
    stem = "-".join("".join(c for c in word if c.isalnum() and c.isascii())[:16] for word in words if word)
    ending = {"dicom": ".dcm"}.get(facts.format, "")
    return (stem or "file") + ending


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
