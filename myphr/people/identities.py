"""Identities: the GID of each account, its keys, its certificate, and the signed statement of its public keys.

At sign-in `admit` makes what is missing and asks the CA for a fresh certificate. With the keyholder away people still
get at their own record; what needs a certificate says so. Called by `accounts` and the account pages; `sharing` takes
`proof_for`, `keys_of` and `verified_statement`.
"""

import dataclasses
import datetime as dt
import logging
from collections.abc import Sequence
from typing import Protocol

from sqlmodel import Session, col, delete, select, update

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.crypto import certificates, statements
from myphr.crypto.certificates import check_gid
from myphr.crypto.statements import KeyStatement as SignedKeys
from myphr.database import Database, now
from myphr.errors import (
    CertificateMissing,
    CertificateRefused,
    CurveUnavailable,
    EnvelopeError,
    IdentityRevoked,
    KeyholderFull,
    KeyholderProtocolError,
    KeyholderUnavailable,
    NotFound,
    OperatorUnknown,
    SignInRevoked,
    SignInUnconfirmed,
)
from myphr.people import login_sessions, pending_sign_ins
from myphr.people.identity_keys import IdentityKeys, new_keys, unwrap_keys, wrap_keys
from myphr.people.keyholder import Keyholder, Speaker
from myphr.people.keyring import KeyRing
from myphr.people.login_sessions import Login
from myphr.people.models import Account, Certificate, Identity, KeyStatement, LoginSession

log = logging.getLogger(__name__)
KEPT = dt.timedelta(days=7)  # rows of certificates that ran out
# With one of these people sign in without a certificate: their own record needs none.
AWAY = (KeyholderUnavailable, KeyholderFull, KeyholderProtocolError, CurveUnavailable)


class Parts(Protocol):
    """What identities need of the portal."""

    @property
    def database(self) -> Database: ...
    @property
    def keyholder(self) -> Keyholder: ...


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody as the sharing screens show them."""

    gid: str
    account_id: str
    name: str


@dataclasses.dataclass(frozen=True)
class VerifiedPerson(Person):
    """A person with public keys that a changed database could not have put in place."""

    statement: SignedKeys
    signing_public: bytes  # 65 bytes: checks what this person signed


# -- who is who -------------------------------------------------------------------------------------
def give(db: Session, account: Account) -> Identity:
    """A GID for this account, inside the caller's unit of work. Never given again."""
    identity = Identity(gid=certificates.new_gid(), kind="person", account_id=account.id)
    db.add(identity)
    return identity


def of_account(db: Session, account_id: str) -> Identity | None:
    """The account's identity: the newest, as an operator may have given a new one after a revocation."""
    return db.exec(
        select(Identity)
        .where(Identity.account_id == account_id, Identity.kind == "person")
        .order_by(col(Identity.created_at).desc())
    ).first()


def active_person(db: Session, gid: str) -> Person:
    """The person of this GID. Raises NotFound for one that is not, is revoked, or whose account is closed."""
    identity = db.get(Identity, gid)
    if identity is None or identity.kind != "person" or identity.state != "active" or identity.account_id is None:
        raise NotFound("no active person")
    account = db.get(Account, identity.account_id)
    if account is None or account.closed_at is not None:
        raise NotFound("account closed")
    return Person(gid, account.id, account.name)


def current_certificate(db: Session, gid: str) -> Certificate | None:
    """The newest that this GID got, whether or not it is still good."""
    return db.exec(
        select(Certificate).where(Certificate.gid == gid).order_by(col(Certificate.issued_at).desc())
    ).first()


def is_good(certificate: Certificate | None, at: dt.datetime | None = None) -> bool:
    """Not cancelled and not run out, as the portal's own row says; the keyholder checks for itself."""
    return certificate is not None and certificate.revoked_at is None and (at or now()) < certificate.expires_at


# -- at sign-in -------------------------------------------------------------------------------------
def admit(parts: Parts, account: Account, ring: KeyRing) -> None:
    """Called when password (and second step) were right, before there is a login session. Gives a GID and keys to whom
    has none, and a certificate of 24 hours. Raises SignInRevoked for a revoked identity, SignInUnconfirmed where our
    rows and the CA's do not fit; a keyholder that is away or faulty keeps nobody out. Safe to run twice."""
    identity = _ensure_identity(parts, account)
    if identity.state != "active":
        raise SignInRevoked(identity.gid)
    try:
        keys = _ensure_keys(parts, identity, ring)
        _renew(parts, identity, keys, ring)
    except IdentityRevoked:  # the keyholder knows it, whatever our row says
        raise SignInRevoked(identity.gid) from None
    except (CertificateRefused, EnvelopeError) as error:
        raise SignInUnconfirmed(identity.gid) from error
    except AWAY as error:
        log.warning("identity %s got no certificate: %s", identity.gid, error.code)


def _ensure_identity(parts: Parts, account: Account) -> Identity:
    with parts.database.read() as db:
        identity = of_account(db, account.id)
    if identity is None:  # registered before there were identities
        with parts.database.write() as db:
            db.get(Account, account.id, with_for_update=True)  # two sign-ins at once: one GID
            identity = of_account(db, account.id) or give(db, account)
    return identity


def _ensure_keys(parts: Parts, identity: Identity, ring: KeyRing) -> IdentityKeys:
    """Two sign-ins at once make two sets of keys; the one whose UPDATE comes first is kept."""
    if not identity.wrapped_keys:
        wrapped = wrap_keys(ring, new_keys(identity.gid))
        with parts.database.write() as db:
            db.execute(
                update(Identity)
                .where(col(Identity.gid) == identity.gid, col(Identity.wrapped_keys) == b"")
                .values(wrapped_keys=wrapped)
            )
        with parts.database.read() as db:
            found = db.get(Identity, identity.gid)
        assert found is not None
        identity.wrapped_keys = found.wrapped_keys
    return unwrap_keys(ring, identity.gid, identity.wrapped_keys)


def _renew(parts: Parts, identity: Identity, keys: IdentityKeys, ring: KeyRing) -> Certificate:
    """A fresh certificate, checked before it is believed, and the key statement signed under it. Raises
    CertificateRefused for what the CA refuses, KeyholderProtocolError for what it should not have given."""
    signing = keys.signing_key()
    der = parts.keyholder.ca_issue(certificates.new_request(signing, identity.gid))
    at = now()
    own = certificates.public_key_bytes(signing.public_key())
    try:
        facts = certificates.validate(der, parts.keyholder.chain(), at)
    except CertificateRefused as error:
        raise KeyholderProtocolError(f"the CA gave what does not validate: {error.detail}") from error
    if facts.gid != identity.gid or certificates.public_key_bytes(facts.public_key) != own:
        raise KeyholderProtocolError("the CA gave a certificate for somebody else")
    row = Certificate(serial=facts.serial_hex, gid=identity.gid, der=der, issued_at=at, expires_at=facts.not_after)
    signed = SignedKeys(
        identity.gid, int(at.timestamp()), ring.public_key, keys.authority_secret().public.to_bytes(),
        keys.patient_secret().public.to_bytes(),
    ).sign(signing)  # fmt: skip
    with parts.database.write() as db:
        db.execute(delete(Certificate).where(col(Certificate.gid) == identity.gid,
                                             col(Certificate.expires_at) < at - KEPT))  # fmt: skip
        db.add(row)
        statement = db.get(KeyStatement, identity.gid, with_for_update=True) or KeyStatement(
            gid=identity.gid, statement=b"", certificate=b""
        )
        statement.statement, statement.certificate, statement.signed_at = signed, der, at
        db.add(statement)
    return row


# -- while signed in --------------------------------------------------------------------------------
def gid_of(login: Login) -> str:
    """The GID of who is signed in."""
    return _identity_of(login).gid


def keys_of(login: Login) -> IdentityKeys:
    """The person's keys under their GID, opened with their ring. Raises CertificateMissing where there are none yet
    (the curve library was missing at sign-in), EnvelopeError for a row that was changed."""
    identity = _identity_of(login)
    if not identity.wrapped_keys:
        raise CertificateMissing("no keys yet")
    return unwrap_keys(login.ring(), identity.gid, identity.wrapped_keys)


def proof_for(login: Login, parts: Parts | None = None) -> Speaker:
    """What the keyholder's client needs to speak for this person: signing key, certificate, key statement. With `parts`
    a certificate that is missing or ran out is renewed first, but not one that its owner cancelled.

    Raises CertificateMissing, IdentityRevoked; with `parts` also what `Keyholder.ca_issue` raises."""
    identity = _identity_of(login)
    if identity.state != "active":
        raise IdentityRevoked(identity.gid)
    with login.database.read() as db:
        certificate = current_certificate(db, identity.gid)
    if not is_good(certificate) and parts is not None and (certificate is None or certificate.revoked_at is None):
        keys = _ensure_keys(parts, identity, login.ring())
        certificate = _renew(parts, identity, keys, login.ring())
    if certificate is None or not is_good(certificate):
        raise CertificateMissing(identity.gid)
    with login.database.read() as db:
        statement = db.get(KeyStatement, identity.gid)
    return Speaker(keys_of(login).signing_key(), certificate.der, statement.statement if statement else b"")


def renew_certificate(parts: Parts, login: Login) -> Certificate:
    """A new certificate now, also after the old one was cancelled. Raises IdentityRevoked, KeyholderUnavailable ..."""
    identity = _identity_of(login)
    if identity.state != "active":
        raise IdentityRevoked(identity.gid)
    row = _renew(parts, identity, _ensure_keys(parts, identity, login.ring()), login.ring())
    with parts.database.write() as db:
        _note(db, "certificate-renewed", login.account)
    return row


def revoke_certificates(parts: Parts, login: Login) -> int:
    """Cancels every certificate of this person that has not run out, at the CA and here; returns how many. The next
    sign-in gets a new one. Twice is no harm. Raises KeyholderUnavailable, and has then cancelled those before."""
    gid, count = gid_of(login), 0
    with parts.database.read() as db:
        rows = db.exec(
            select(Certificate).where(Certificate.gid == gid, col(Certificate.revoked_at).is_(None),
                                      col(Certificate.expires_at) > now())
        ).all()  # fmt: skip
    for row in rows:
        try:
            parts.keyholder.ca_revoke(row.serial)
        except NotFound:  # of another CA, which a keyholder made anew has never given
            log.warning("the CA does not know certificate %s", row.serial)
        with parts.database.write() as db:
            db.execute(update(Certificate).where(col(Certificate.serial) == row.serial).values(revoked_at=now()))
        count += 1
    if count:
        with parts.database.write() as db:
            _note(db, "certificate-revoked", login.account, certificates=count)
    return count


# -- somebody else's keys ---------------------------------------------------------------------------
def verified_statement(parts: Parts, gid: str) -> VerifiedPerson:
    """The public keys of a person, checked: the CA gave this GID the certificate, its key signed the statement, the
    certificate was good at that moment and stands on no CRL, the GID is active and the account open.

    Raises NotFound for nobody or nobody active, CertificateRefused where something does not hold, KeyholderUnavailable.
    The public values' proofs of possession are the caller's to check (`abe.*.check_public`)."""
    with parts.database.read() as db:
        person = active_person(db, check_gid(gid))
        row = db.get(KeyStatement, gid)
    if row is None:
        raise NotFound("never signed in since there are key statements")
    chain = parts.keyholder.chain()
    unverified = certificates.read_certificate(row.certificate)
    statement = statements.read_key_statement(row.statement, unverified.public_key, gid)
    signed_at = dt.datetime.fromtimestamp(statement.made_at, dt.UTC)
    facts = certificates.validate_then(row.certificate, chain, signed_at)
    if facts.gid != gid:
        raise CertificateRefused("key statement under another GID's certificate")
    return VerifiedPerson(
        gid, person.account_id, person.name, statement, certificates.public_key_bytes(facts.public_key)
    )


# -- the operator's ---------------------------------------------------------------------------------
def revoke_identity(parts: Parts, operator: Login, account: Account) -> Sequence[str]:
    """Ends an identity for good: no sign-in, no certificate, no key, no half. All sign-ins end at once;
    `tell_keyholder_revoked` comes next, and again if the keyholder did not answer. Twice is no harm. Returns the ids of
    the login sessions that ended, for the caller to close their screens (`sharing.live.revoke`)."""
    with parts.database.write() as db:
        identity = of_account(db, account.id) or give(db, account)
        ended = db.exec(
            select(LoginSession.id).where(
                LoginSession.account_id == account.id, col(LoginSession.revoked_at).is_(None)
            )
        ).all()
        if identity.state == "active":
            identity.state, identity.revoked_at = "revoked", now()
            db.add(identity)
            _note(db, "identity-revoked", account, by=operator.account)
        login_sessions.revoke_all(db, account.id)
        pending_sign_ins.end_all(db, account.id)
        db.execute(
            update(Certificate)
            .where(col(Certificate.gid) == identity.gid, col(Certificate.revoked_at).is_(None))
            .values(revoked_at=now())
        )
    return ended


def tell_keyholder_revoked(parts: Parts, operator: Login, account: Account) -> None:
    """The second half of `revoke_identity`. Raises KeyholderUnavailable, OperatorUnknown."""
    with parts.database.read() as db:
        identity = of_account(db, account.id)
    assert identity is not None
    try:
        parts.keyholder.identity_revoke(proof_for(operator, parts), identity.gid)
    except NotFound:
        raise OperatorUnknown() from None


def give_new(parts: Parts, operator: Login, account: Account) -> Identity:
    """A new GID for an account whose old one was revoked; the same password opens the same record. Raises NotFound
    while the old one is active."""
    with parts.database.write() as db:
        db.get(Account, account.id, with_for_update=True)
        old = of_account(db, account.id)
        if old is None or old.state == "active":
            raise NotFound("nothing to replace")
        identity = give(db, account)
        _note(db, "identity-given", account, by=operator.account)
    return identity


def _identity_of(login: Login) -> Identity:
    with login.database.read() as db:
        identity = of_account(db, login.account.id)
    if identity is None:
        raise CertificateMissing("no identity yet")
    return identity


def _note(db: Session, event: str, account: Account, *, by: Account | None = None, **details: object) -> None:
    actor = Actor("operator", by.id) if by else Actor("patient", account.id)
    trail.record(db, event, account_id=account.id, actor=actor, **details)
