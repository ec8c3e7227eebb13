"""Organisations that say what people are: hospitals, practices, registrars. Their keys are with the keyholder.

An operator registers one and names its officer; the officer grants attributes to members and takes them away. The rows
here are the portal's copy, for names and counts; the keyholder's list decides. Called by the pages and by `sharing`.
"""

import dataclasses
import datetime as dt
import re
import unicodedata
from collections.abc import Sequence

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.crypto import certificates
from myphr.crypto.abe.policy import Attribute
from myphr.database import now
from myphr.errors import CertificateRefused, FormRefused, NotFound, OperatorUnknown, PolicyError
from myphr.people import accounts, identities
from myphr.people.accounts import Login, Parts
from myphr.people.identities import Person
from myphr.people.models import Account, AttributeGrant, Authority, Identity

NAME_CHARACTERS_MAX = 80
GRANT_DAYS_MAX = 399  # the keyholder takes 400 days at most
KINDS = {"hospital": "Hospital", "practice": "Practice", "registrar": "Registrar"}
# What officers choose from; anything else can be typed. (name, value): plain words.
COMMON = {
    ("role", "cardiologist"): "Cardiologist",
    ("role", "radiologist"): "Radiologist",
    ("role", "oncologist"): "Oncologist",
    ("role", "surgeon"): "Surgeon",
    ("role", "family-doctor"): "Family doctor",
    ("role", "nurse"): "Nurse",
    ("department", "cardiology"): "Works in cardiology",
    ("department", "radiology"): "Works in radiology",
    ("department", "emergency"): "Works in the emergency department",
    ("emergency", ""): "May give emergency care",
    ("break-glass", ""): "May open records in an emergency, with a reason",
}
_GROUPS = {"role": "", "department": "Works in "}


@dataclasses.dataclass(frozen=True)
class Holding:
    """One line of an officer's list, or of what organisations say of a person."""

    id: str
    member: Person
    email: str
    authority: Authority
    name: str
    value: str
    ends_at: dt.datetime

    @property
    def words(self) -> str:
        return attribute_words(self.name, self.value)


def attribute_words(name: str, value: str) -> str:
    """An attribute for people: "Cardiologist", "Works in radiology", "Emergency"."""
    if (name, value) in COMMON:
        return COMMON[name, value]
    if name in _GROUPS:
        text = _GROUPS[name] + value.replace("-", " ")
    else:
        text = name.replace("-", " ") + (f": {value.replace('-', ' ')}" if value else "")
    return text[:1].upper() + text[1:]


def attribute_of(name: str, value: str) -> tuple[str, str]:
    """What somebody typed ("Role", "Head of Ward 3") as an attribute ("role", "head-of-ward-3"). Raises FormRefused for
    what does not fit: nothing is left out in silence."""
    name, value = (re.sub(r"[\s-]+", "-", text.strip().lower()) for text in (name, value))
    try:
        Attribute("00000000-0000-4000-8000-000000000000", name, value)
    except PolicyError:
        raise FormRefused(reason="a role is written with letters a to z, digits and dashes, at most 64") from None
    return name, value


# -- lists ------------------------------------------------------------------------------------------
def all_of(db: Session) -> Sequence[Authority]:
    """All authorities, open ones first, by name."""
    return db.exec(
        select(Authority).order_by(col(Authority.closed_at).is_not(None), col(Authority.name))
    ).all()


def open_ones(db: Session) -> Sequence[Authority]:
    """The authorities that a sharing screen may offer, by name."""
    return db.exec(select(Authority).where(col(Authority.closed_at).is_(None)).order_by(col(Authority.name))).all()


def of_officer(db: Session, account_id: str) -> Sequence[Authority]:
    """The open authorities this account is the officer of."""
    return db.exec(
        select(Authority)
        .where(Authority.officer_account_id == account_id, col(Authority.closed_at).is_(None))
        .order_by(col(Authority.name))
    ).all()


def for_officer(db: Session, account_id: str, gid: str) -> Authority:
    """One open authority of this officer. Raises NotFound for any other."""
    authority = db.get(Authority, gid)
    if authority is None or authority.closed_at is not None or authority.officer_account_id != account_id:
        raise NotFound()
    return authority


def holders(db: Session, authority_gid: str, name: str, value: str = "") -> list[Person]:
    """Who holds name:value at this authority today, by name: active people with open accounts."""
    of_it = (AttributeGrant.authority_gid == authority_gid, AttributeGrant.name == name, AttributeGrant.value == value)
    return [entry.member for entry in _holdings(db, *of_it)]


def offered(db: Session, authority_gid: str) -> list[tuple[str, str]]:
    """The attributes (name, value) that somebody holds at this authority today."""
    return sorted({(entry.name, entry.value) for entry in _holdings(db, AttributeGrant.authority_gid == authority_gid)})


def members(db: Session, authority_gid: str) -> list[Holding]:
    """Who holds what at this authority today, by name."""
    return _holdings(db, AttributeGrant.authority_gid == authority_gid)


def held_by(db: Session, gid: str) -> list[Holding]:
    """What organisations say of this person today."""
    return _holdings(db, AttributeGrant.member_gid == gid)


def _holdings(db: Session, *conditions: ColumnElement[bool] | bool) -> list[Holding]:
    rows = db.exec(
        select(AttributeGrant, Account, Authority)
        .join(Identity, col(Identity.gid) == AttributeGrant.member_gid)
        .join(Account, col(Account.id) == Identity.account_id)
        .join(Authority, col(Authority.gid) == AttributeGrant.authority_gid)
        .where(col(AttributeGrant.taken_at).is_(None), col(AttributeGrant.ends_at) > now(),
               Identity.state == "active", col(Account.closed_at).is_(None), col(Authority.closed_at).is_(None),
               *conditions)
        .order_by(col(Account.name), col(Account.id), col(AttributeGrant.name), col(AttributeGrant.value))
    ).all()  # fmt: skip
    return [
        Holding(grant.id, Person(grant.member_gid, account.id, account.name), account.email, authority,
                grant.name, grant.value, grant.ends_at)
        for grant, account, authority in rows
    ]  # fmt: skip


# -- the operator's ---------------------------------------------------------------------------------
def create(parts: Parts, operator: Login, name: str, kind: str, officer_email: str) -> Authority:
    """Registers an organisation with the CA and names its officer, who must have signed in once.

    Raises FormRefused, OperatorUnknown, KeyholderUnavailable; nothing is kept then."""
    name = _normal_name(name)
    if kind not in KINDS:
        raise FormRefused(reason="choose what kind of organisation it is")
    officer = accounts.find_by_email(parts, officer_email)
    officer_gid = _registered_gid(parts, officer)
    with parts.database.read() as db:
        if any(one.name.casefold() == name.casefold() for one in open_ones(db)):
            raise FormRefused(reason="there is an organisation of this name already")
    gid = certificates.new_gid()
    try:
        parts.keyholder.authority_create(identities.proof_for(operator, parts), gid, [officer_gid])
    except NotFound:
        raise OperatorUnknown() from None
    except CertificateRefused as error:
        raise FormRefused(error.detail, reason="the officer has to sign in once before") from error
    row = Authority(gid=gid, name=name, kind=kind, officer_account_id=officer.id)
    with parts.database.write() as db:
        db.add(Identity(gid=gid, kind="authority"))
        db.flush()
        db.add(row)
        _note(db, "authority-created", operator, "operator", operator.account.id, authority=gid)
    return row


def change_officer(parts: Parts, operator: Login, gid: str, officer_email: str) -> Authority:
    """Another officer, at once. Raises NotFound for a closed authority, otherwise as `create`."""
    officer = accounts.find_by_email(parts, officer_email)
    officer_gid = _registered_gid(parts, officer)
    _open_authority(parts, gid)
    try:
        parts.keyholder.authority_officers(identities.proof_for(operator, parts), gid, [officer_gid])
    except NotFound:
        raise OperatorUnknown() from None
    with parts.database.write() as db:
        row = db.get(Authority, gid)
        assert row is not None
        row.officer_account_id = officer.id
        db.add(row)
        _note(db, "authority-officer-changed", operator, "operator", operator.account.id, authority=gid)
    return row


def close(parts: Parts, operator: Login, gid: str) -> None:
    """No key of this organisation any more, for good. Raises NotFound for one that is closed, OperatorUnknown."""
    _open_authority(parts, gid)
    try:
        parts.keyholder.authority_close(identities.proof_for(operator, parts), gid)
    except NotFound:
        raise OperatorUnknown() from None
    with parts.database.write() as db:
        row, identity = db.get(Authority, gid), db.get(Identity, gid)
        assert row is not None and identity is not None
        row.closed_at = identity.revoked_at = now()
        identity.state = "revoked"
        db.add(row)
        db.add(identity)
        _note(db, "authority-closed", operator, "operator", operator.account.id, authority=gid)


# -- the officer's ----------------------------------------------------------------------------------
def grant(parts: Parts, officer: Login, gid: str, member: str, name: str, value: str, last_day: dt.date) -> Person:
    """The person with this e-mail address or GID holds name:value up to and including `last_day` (UTC). Again: the new
    day counts. Raises NotFound for an authority of somebody else, FormRefused, KeyholderUnavailable."""
    with parts.database.read() as db:
        for_officer(db, officer.account.id, gid)
    name, value = attribute_of(name, value)
    ends_at = dt.datetime.combine(last_day, dt.time(23, 59, 59), dt.UTC)
    if not now() < ends_at <= now() + dt.timedelta(days=GRANT_DAYS_MAX + 1):
        raise FormRefused(reason=f"the last day lies between today and {GRANT_DAYS_MAX} days from now")
    person = find_person(parts, member)
    speaker = identities.proof_for(officer, parts)
    try:
        parts.keyholder.attribute_grant(speaker, gid, person.gid, name, value, int(ends_at.timestamp()))
    except CertificateRefused as error:
        raise FormRefused(error.detail, reason="this person has to sign in once before") from error
    with parts.database.write() as db:
        row = _row(db, gid, person.gid, name, value)
        row.ends_at, row.taken_at = ends_at, None
        db.add(row)
        _note(db, "attribute-granted", officer, "patient", person.account_id, authority=gid, grant=row.id)
    return person


def take(parts: Parts, officer: Login, gid: str, grant_id: str) -> Holding:
    """Takes one line of the officer's list away, at once. Raises NotFound for any other line, KeyholderUnavailable."""
    with parts.database.read() as db:
        for_officer(db, officer.account.id, gid)
        line = next((entry for entry in members(db, gid) if entry.id == grant_id), None)
    if line is None:
        raise NotFound()
    parts.keyholder.attribute_take(identities.proof_for(officer, parts), gid, line.member.gid, line.name, line.value)
    with parts.database.write() as db:
        row = db.get(AttributeGrant, grant_id)
        assert row is not None
        row.taken_at = now()
        db.add(row)
        _note(db, "attribute-taken", officer, "patient", line.member.account_id, authority=gid, grant=grant_id)
    return line


def refresh(parts: Parts, officer: Login, gid: str) -> None:
    """Makes the portal's copy equal to the keyholder's list: after a crash between the two, or a grant made elsewhere.
    Raises NotFound, KeyholderUnavailable. Safe to run twice."""
    with parts.database.read() as db:
        for_officer(db, officer.account.id, gid)
        known = {row.gid for row in db.exec(select(Identity).where(Identity.kind == "person"))}
    there = {
        (m.member, m.name, m.value): dt.datetime.fromtimestamp(m.until, dt.UTC)
        for m in parts.keyholder.attribute_members(identities.proof_for(officer, parts), gid)
        if m.member in known
    }
    with parts.database.read() as db:
        rows = db.exec(select(AttributeGrant).where(AttributeGrant.authority_gid == gid)).all()
    here = {(r.member_gid, r.name, r.value): r.ends_at for r in rows if r.taken_at is None and r.ends_at > now()}
    if here == there:
        return
    with parts.database.write() as db:
        for (member, name, value), ends_at in there.items():
            row = _row(db, gid, member, name, value)
            row.ends_at, row.taken_at = ends_at, None
            db.add(row)
        for member, name, value in here.keys() - there.keys():
            row = _row(db, gid, member, name, value)
            row.taken_at = now()
            db.add(row)


def _row(db: Session, gid: str, member: str, name: str, value: str) -> AttributeGrant:
    found = db.exec(
        select(AttributeGrant).where(AttributeGrant.authority_gid == gid, AttributeGrant.member_gid == member,
                                     AttributeGrant.name == name, AttributeGrant.value == value)
    ).first()  # fmt: skip
    return found or AttributeGrant(authority_gid=gid, member_gid=member, name=name, value=value, ends_at=now())


def find_person(parts: Parts, text: str) -> Person:
    """By e-mail address or GID, as people tell it. Raises FormRefused."""
    text = text.strip()
    with parts.database.read() as db:
        try:
            if "@" in text:
                identity = identities.of_account(db, accounts.find_by_email(parts, text).id)
                gid = identity.gid if identity else ""
            else:
                gid = text.lower()
            return identities.active_person(db, gid)
        except NotFound:
            raise FormRefused(reason="nobody here has this number, or their account was stopped") from None


def _registered_gid(parts: Parts, account: Account) -> str:
    with parts.database.read() as db:
        identity = identities.of_account(db, account.id)
        certificate = identities.current_certificate(db, identity.gid) if identity else None
    if identity is None or identity.state != "active" or certificate is None:
        raise FormRefused(reason="the officer has to sign in once before")
    return identity.gid


def _open_authority(parts: Parts, gid: str) -> None:
    with parts.database.read() as db:
        row = db.get(Authority, gid)
    if row is None or row.closed_at is not None:
        raise NotFound()


def _normal_name(text: str) -> str:
    name = " ".join(unicodedata.normalize("NFC", text[:1000]).split())
    if not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise FormRefused(reason=f"the organisation needs a name of at most {NAME_CHARACTERS_MAX} letters")
    return name


def _note(db: Session, event: str, by: Login, kind: trail.ActorKind, account_id: str, **details: object) -> None:
    trail.record(db, event, account_id=account_id, actor=Actor(kind, by.account.id), **details)
