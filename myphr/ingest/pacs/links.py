"""That an account is a patient of a PACS: the owner asks and gets a code, the person who saw her at the practice gives
code and number to the operator, who confirms. Nobody else can say which number an account is.

docs/decisions/0217-fetching-from-pacs.md. What is confirmed is vouched for: see
`vouching`. Called by the pages, by `servers` and the sweep.
"""

import dataclasses
import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, func, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM, Actor
from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.errors import EnvelopeError, FormRefused, NotFound
from myphr.ingest.fetch import rows
from myphr.ingest.pacs import vouching
from myphr.ingest.pacs.models import Pacs, PacsFetch, PacsLink
from myphr.ingest.pacs.plan import Patient, checked_patient
from myphr.ingest.pacs.states import PACS_LINK
from myphr.ingest.pacs.way import WAY
from myphr.people.login_sessions import Login
from myphr.people.models import Account, StoredKeyRing
from myphr.records.items import RecordParts

CODE_WITHIN = dt.timedelta(days=14)  # until the next appointment
HELD_MAX = 20  # links of one patient, asked for or confirmed
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # read out at a desk: no I and 1, no O and 0
_CODE_LETTERS = 12  # 60 bits
HELD = ("asked", "confirmed")


@dataclasses.dataclass(frozen=True)
class LinkView:
    """One link as its owner sees it. `code` while it is asked, `patient` once it is confirmed."""

    id: str
    pacs_id: str
    pacs_name: str = dataclasses.field(repr=False)
    state: str
    code: str = dataclasses.field(repr=False)
    patient: Patient | None
    code_until: dt.datetime
    changed_at: dt.datetime

    @property
    def born(self) -> dt.date | None:
        return dt.datetime.strptime(self.patient.birth_date, "%Y%m%d").date() if self.patient else None


@dataclasses.dataclass(frozen=True)
class Asked:
    """Whose code it is: for the operator, to compare with what the practice says."""

    link_id: str
    pacs_name: str
    account_name: str = dataclasses.field(repr=False)
    account_email: str = dataclasses.field(repr=False)


# -- the owner ------------------------------------------------------------------------------------
def ask(parts: RecordParts, login: Login, pacs_id: str) -> str:
    """A new code for this PACS, or the one that there is. Returns the link's id. Raises NotFound, FormRefused."""
    code = "".join(secrets.choice(_LETTERS) for _ in range(_CODE_LETTERS))
    row = PacsLink(
        id=new_id(), account_id=login.account.id, pacs_id=pacs_id, code_sha256=_hash_of(code), sealed_for_owner=b""
    )
    row.sealed_for_owner = _seal(login.ring().public_key, row.id, {"code": code})
    with parts.database.write() as db:
        pacs = db.get(Pacs, pacs_id, with_for_update=True)  # one at a time: who presses twice gets one code
        if pacs is None or pacs.closed_at is not None:
            raise NotFound("PACS")
        mine = select(PacsLink).where(PacsLink.account_id == row.account_id, col(PacsLink.state).in_(HELD))
        held = db.exec(mine).all()
        same = next((other for other in held if other.pacs_id == pacs_id), None)
        if same is not None:
            return same.id
        if len(held) >= HELD_MAX:
            raise FormRefused(reason=f"there are {HELD_MAX} already; end one of them first")
        db.add(row)
        db.flush()
        _note(db, row, "pacs-link-asked", _owner(row))
        return row.id


def list_mine(parts: RecordParts, login: Login) -> Sequence[LinkView]:
    """By name of the PACS."""
    with parts.database.read() as db:
        found = db.exec(
            select(PacsLink, Pacs)
            .join(Pacs, col(Pacs.id) == col(PacsLink.pacs_id))
            .where(PacsLink.account_id == login.account.id, col(PacsLink.state).in_(HELD))
            .order_by(Pacs.name)
        ).all()
    return [_view(login, row, pacs) for row, pacs in found]


def one_of_mine(parts: RecordParts, login: Login, link_id: str) -> LinkView:
    """Raises NotFound, also for somebody else's and for one that is over."""
    with parts.database.read() as db:
        row = _mine(db, login, link_id)
        pacs = db.get(Pacs, row.pacs_id)
    assert pacs is not None
    return _view(login, row, pacs)


def end(parts: RecordParts, login: Login, link_id: str) -> None:
    """From this commit on nothing is asked or fetched by it; what came stays. Raises NotFound."""
    with parts.database.write() as db:
        row = _mine(db, login, link_id)
        _end(db, row, _owner(row))


# -- the operator ---------------------------------------------------------------------------------
def by_code(parts: RecordParts, code: str) -> Asked:
    """Raises FormRefused."""
    with parts.database.read() as db:
        row = _asked(db, code)
        pacs, account = db.get(Pacs, row.pacs_id), db.get(Account, row.account_id)
    assert pacs is not None and account is not None
    return Asked(row.id, pacs.name, account.name, account.email)


def confirm(
    parts: RecordParts, operator: Login, code: str, number: str, issuer: str, birth_date: str
) -> Asked:  # fmt: skip
    """Who the owner of this code is at that PACS. Raises FormRefused, also for a number that another account has: one
    of the two is wrong, and somebody has to look before either fetches."""
    patient = checked_patient(number, issuer, birth_date)
    asked = by_code(parts, code)
    with parts.database.write() as db:
        row = _asked(db, code)
        if row.account_id == operator.account.id:
            raise FormRefused(reason="your own code has to be confirmed by another operator")
        pacs = db.get(Pacs, row.pacs_id, with_for_update=True)  # one at a time: two for one number
        if pacs is None or pacs.closed_at is not None:
            raise FormRefused(reason="this archive is not on the list any more")
        key = vouching.patient_key(parts.keys.index_key, row.pacs_id, patient)
        if db.exec(select(PacsLink.id).where(PacsLink.patient_key == key)).first() is not None:
            raise FormRefused(reason="this number is linked to another account already. Find out which is right")
        ring = db.get(StoredKeyRing, row.account_id)
        account = db.get(Account, row.account_id)
        if ring is None or account is None or account.closed_at is not None:
            raise FormRefused(reason="this account is closed")
        facts = dataclasses.asdict(patient)
        PACS_LINK.move(
            db, row, "confirm", sealed_for_owner=_seal(ring.public_key, row.id, facts), patient_key=key,
            vouched=vouching.vouched(parts.keys.index_key, row, patient), code_sha256=_hash_of(new_id()),
        )  # fmt: skip
        _note(db, row, "pacs-link-confirmed", Actor("operator", operator.account.id))
    return asked


def of_pacs(parts: RecordParts, pacs_id: str) -> Sequence[tuple[PacsLink, Account]]:
    """The confirmed ones, with whose they are."""
    with parts.database.read() as db:
        return [
            (row, account)
            for row, account in db.exec(
                select(PacsLink, Account)
                .join(Account, col(Account.id) == col(PacsLink.account_id))
                .where(PacsLink.pacs_id == pacs_id, PacsLink.state == "confirmed")
                .order_by(Account.name)
            )
        ]


def end_by_operator(parts: RecordParts, operator: Login, link_id: str) -> None:
    """A link that should not be. Raises NotFound."""
    with parts.database.write() as db:
        row = db.get(PacsLink, link_id)
        if row is None or row.state not in HELD:
            raise NotFound("link to a PACS")
        _end(db, row, Actor("operator", operator.account.id))


def end_all(db: Session, pacs_id: str, actor: Actor) -> None:
    """Of a PACS that is taken off the list, in its commit."""
    for row in db.exec(select(PacsLink).where(PacsLink.pacs_id == pacs_id, col(PacsLink.state).in_(HELD))).all():
        _end(db, row, actor)


def sweep(parts: RecordParts) -> int:
    """Forget codes that nobody confirmed. Safe to run twice. Returns how many."""
    old = now() - CODE_WITHIN
    count = 0
    with parts.database.write() as db:
        for row in db.exec(select(PacsLink).where(PacsLink.state == "asked", PacsLink.created_at < old)).all():
            PACS_LINK.move(db, row, "expire", sealed_for_owner=b"")
            _note(db, row, "pacs-link-expired", SYSTEM)
            count += 1
    return count


def confirmed_count(parts: RecordParts, pacs_id: str) -> int:
    with parts.database.read() as db:
        return db.exec(
            select(func.count()).where(PacsLink.pacs_id == pacs_id, PacsLink.state == "confirmed")
        ).one()


# -- one link -----------------------------------------------------------------------------------------
def _end(db: Session, row: PacsLink, actor: Actor) -> None:
    PACS_LINK.move(db, row, "end", sealed_for_owner=b"", patient_key=None, vouched=None)
    _note(db, row, "pacs-link-ended", actor)
    mine = select(PacsFetch).where(PacsFetch.link_id == row.id, col(PacsFetch.state).in_(WAY.live))
    for fetch in db.exec(mine).all():
        rows.withdraw_in(db, WAY, fetch, actor)


def _asked(db: Session, code: str) -> PacsLink:
    plain = "".join(letter for letter in code.upper()[:100] if letter.isalnum())
    row = db.exec(select(PacsLink).where(PacsLink.code_sha256 == _hash_of(plain))).first()
    if row is None or row.state != "asked" or row.created_at < now() - CODE_WITHIN:
        raise FormRefused(reason="there is no such code, or it is over. The patient finds a new one on her page")
    return row


def _mine(db: Session, login: Login, link_id: str) -> PacsLink:
    row = db.get(PacsLink, link_id)
    if row is None or row.account_id != login.account.id or row.state not in HELD:
        raise NotFound("link to a PACS")
    return row


def _view(login: Login, row: PacsLink, pacs: Pacs) -> LinkView:
    try:
        facts: dict[str, Any] = json.loads(login.ring().open(row.sealed_for_owner, context=_context(row.id)))
    except (EnvelopeError, ValueError):
        facts = {}  # a damaged row must not hide the others; nothing can be fetched by it
    code = str(facts.get("code", ""))
    patient = Patient(**facts) if row.state == "confirmed" and "number" in facts else None
    grouped = "-".join(code[at : at + 4] for at in range(0, len(code), 4))
    return LinkView(
        row.id, row.pacs_id, pacs.name, row.state, grouped, patient, row.created_at + CODE_WITHIN, row.changed_at
    )


def _seal(owner_public_key: bytes, link_id: str, facts: dict[str, Any]) -> bytes:
    return envelope.seal_to(owner_public_key, json.dumps(facts).encode(), context=_context(link_id))


def _context(link_id: str) -> bytes:
    return envelope.context_for("pacs-link", link_id)


def _owner(row: PacsLink) -> Actor:
    return Actor("patient", row.account_id)


def _note(db: Session, row: PacsLink, event: str, actor: Actor) -> None:
    trail.record(db, event, account_id=row.account_id, actor=actor, link=row.id)


def _hash_of(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()
