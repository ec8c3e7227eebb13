"""Accounts: register, sign in, change the password, recover. The password opens the owner's key ring or nothing does.

No password hash is kept; unknown addresses cost the same slow hash and get the same answer as wrong passwords.
Called by the entrance and account pages and the command line; `Portal` is what they hand in as `parts`.
"""

import dataclasses
import datetime as dt
import re
import secrets
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.crypto import envelope, passwords
from myphr.database import now
from myphr.errors import (
    EmailTaken,
    EnvelopeError,
    FormRefused,
    NotFound,
    PasswordRefused,
    RecoveryFailed,
    SecondStepRefused,
    SecondStepRequired,
    SignInFailed,
    SignInRevoked,
)
from myphr.people import identities, login_sessions, password_rules, pending_sign_ins, second_factor
from myphr.people.attempts import Attempts, account_subject, address_subject, recovery_subject, second_step_subject
from myphr.people.keyholder import Keyholder
from myphr.people.keyring import KeyRing
from myphr.people.login_sessions import Login, is_live, resolve
from myphr.people.models import Account, LoginSession, StoredKeyRing
from myphr.people.parts import CommonParts

NAME_CHARACTERS_MAX = 100
EMAIL_CHARACTERS_MAX = 254  # RFC 5321, 4.5.3.1.3 less the brackets
_EMAIL = re.compile(r"[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f]{1,64}@[^\W_](?:[\w-]*[^\W_])?(?:\.[^\W_](?:[\w-]*[^\W_])?)*")

# Each run takes 64 MiB and a core: 64 web threads must not take 4 GiB at once. Of the process, therefore here.
_ARGON2_AT_ONCE = threading.BoundedSemaphore(4)


class Parts(CommonParts, Protocol):
    """What accounts need of the portal."""

    @property
    def keyholder(self) -> Keyholder: ...


@dataclasses.dataclass(frozen=True)
class SignIn:
    """What a right password led to: a login session, or a second step still to come. `cookie_value` is that of the
    one or the other."""

    login_session: LoginSession | None
    cookie_value: str = dataclasses.field(repr=False)


def register(
    parts: Parts, email: str, name: str, password: str, *, address: str = "", is_operator: bool = False
) -> tuple[Account, str]:
    """A new account with its key ring; returns it with the recovery code, which is shown once and kept nowhere.

    Raises FormRefused, PasswordRefused, EmailTaken, and TooManyAttempts if `address` registers too fast."""
    email, name = normal_email(email), normal_name(name)
    password_rules.check(password, personal=(email, name))
    if address:
        _attempts(parts).begin(address_subject(address))
    _refuse_taken(parts, email)
    _attempts(parts).succeeded(account_subject(email))  # tries at the address before it had an account
    account = Account(email=email, name=name, is_operator=is_operator)
    ring, code = KeyRing(envelope.new_key_pair()), passwords.new_recovery_code()
    stored = StoredKeyRing(
        account_id=account.id, suite=ring.suite, public_key=ring.public_key,
        wrapped_by_password=_wrap(parts, password, ring, account.id),
        wrapped_by_recovery=passwords.wrap_by_recovery(code, ring.to_bytes(), context=account.id.encode()),
    )
    try:
        with parts.database.write() as db:
            db.add(account)
            db.flush()
            db.add(stored)
            identities.give(db, account)
            _note(db, "account-registered", account)
    except IntegrityError:  # somebody registered the same address just now
        raise EmailTaken() from None
    return account, code


def sign_in(
    parts: Parts, email: str, password: str, device: str, *, address: str = ""
) -> tuple[LoginSession, str]:
    """A new login session and the value of its cookie, for who needs no second step. Raises as `begin_sign_in`, and
    SecondStepRequired for the others."""
    begun = begin_sign_in(parts, email, password, device, address=address)
    if begun.login_session is None:
        raise SecondStepRequired()
    return begun.login_session, begun.cookie_value


def begin_sign_in(parts: Parts, email: str, password: str, device: str, *, address: str = "") -> SignIn:
    """A new login session; or, for an account with a passkey or an authenticator app, a pending sign-in that waits five
    minutes for `finish_by_...`. `device` is in plain words ("Chrome on Android").

    Raises SignInFailed alike for an unknown address and a wrong password, TooManyAttempts, SignInUnavailable; and only
    to who knows the password SignInRevoked, SignInUnconfirmed."""
    email = _loose_email(email)
    proved, others = account_subject(email), [address_subject(address)] if address else []
    attempts = _attempts(parts)
    attempts.begin(proved, *others)
    found = _find(parts, email)
    if found is None:
        _work_in_vain(parts, password)  # not noted: made-up addresses must not fill the trail, and concern nobody
        raise SignInFailed()
    account, stored = found
    ring = _open_by_password(parts, password, stored)
    if ring is None:
        _note_failure(parts, "sign-in-failed", account)
        raise SignInFailed()
    attempts.succeeded(proved, *others)
    wanted = (parts.settings.argon2_memory_kib, parts.settings.argon2_passes)
    rewrapped = None
    if passwords.parameters(stored.wrapped_by_password) != wanted:  # the operator raised them: follow at sign-in
        rewrapped = _wrap(parts, password, ring, account.id)
    with parts.database.write() as db:
        row = db.get(StoredKeyRing, account.id, populate_existing=True, with_for_update=True)
        if row is None or row.changed_at != stored.changed_at:
            raise SignInFailed("password changed meanwhile")
        if rewrapped:
            row.wrapped_by_password = rewrapped
            db.add(row)
        if second_factor.of_account(db, account.id):
            return SignIn(None, pending_sign_ins.start(db, account, row, ring, device))
    identities.admit(parts, account, ring)
    return _enter(parts, account, ring, device, stored.changed_at)


def finish_by_code(parts: Parts, cookie_value: str, code: str, *, address: str = "") -> SignIn:
    """The second step by a code of the authenticator app. Raises SecondStepOver, SecondStepRefused, TooManyAttempts,
    SignInUnavailable, SignInRevoked, SignInUnconfirmed."""
    return _finish(parts, cookie_value, address,
                   lambda pending: second_factor.check_code(parts, pending.account.id, code))  # fmt: skip


def finish_by_passkey(parts: Parts, cookie_value: str, credential: str, *, address: str = "") -> SignIn:
    """The second step by a passkey: `credential` is the browser's JSON. Raises as `finish_by_code`."""
    return _finish(
        parts, cookie_value, address,
        lambda pending: second_factor.check_passkey(parts, pending.account.id, pending.row.challenge, credential),
    )  # fmt: skip


def finish_by_recovery_code(parts: Parts, cookie_value: str, recovery_code: str, *, address: str = "") -> SignIn:
    """The second step for who lost phone or key: the recovery code, which stays as it is. Raises as `finish_by_code`;
    RecoveryFailed for a wrong one."""
    code = passwords.normal_recovery_code(recovery_code)  # a typing mistake costs no try

    def check(pending: pending_sign_ins.Pending) -> None:
        with parts.database.read() as db:
            stored = db.get(StoredKeyRing, pending.account.id)
        assert stored is not None
        _check_recovery_code(stored, code)

    return _finish(parts, cookie_value, address, check, by_recovery_code=True)


def _finish(
    parts: Parts, cookie_value: str, address: str, check: Callable[[pending_sign_ins.Pending], None], *,
    by_recovery_code: bool = False,
) -> SignIn:  # fmt: skip
    pending = pending_sign_ins.resolve(parts.database, cookie_value)
    account = pending.account
    proved, others = second_step_subject(account.id), [address_subject(address)] if address else []
    attempts = _attempts(parts)
    attempts.begin(proved, *others)
    try:
        check(pending)
    except (SecondStepRefused, RecoveryFailed):
        _note_failure(parts, "second-step-failed", account)
        raise
    ring = pending.ring()
    attempts.succeeded(proved, *others)
    identities.admit(parts, account, ring)
    with parts.database.write() as db:
        pending_sign_ins.use(db, pending)
        if by_recovery_code:
            _note(db, "second-step-replaced", account)
    return _enter(parts, account, ring, pending.row.device, pending.row.ring_changed_at)


def _enter(parts: Parts, account: Account, ring: KeyRing, device: str, ring_changed_at: dt.datetime) -> SignIn:
    with parts.database.write() as db:
        row = db.get(StoredKeyRing, account.id, populate_existing=True, with_for_update=True)
        identity = identities.of_account(db, account.id)
        if row is None or row.changed_at != ring_changed_at:
            raise SignInFailed("password changed meanwhile")
        if identity is None or identity.state != "active":  # revoked since it was admitted
            raise SignInRevoked(account.id)
        login_session, cookie_value = login_sessions.start(db, account, ring, device)
        _note(db, "signed-in", account, login_session=login_session.id)
    return SignIn(login_session, cookie_value)


def sign_out(parts: Parts, login: Login) -> None:
    """Ends this browser's login session. Safe to run twice."""
    with parts.database.write() as db:
        try:
            login_sessions.revoke_one(db, login.account.id, login.login_session.id)
        except NotFound:
            return
        _note(db, "signed-out", login.account, login_session=login.login_session.id)


def list_login_sessions(parts: Parts, login: Login) -> Sequence[LoginSession]:
    """The browsers signed in to this account, last used first."""
    return login_sessions.live_of(parts.database, login.account.id)


def revoke(parts: Parts, login: Login, login_session_id: str) -> None:
    """Signs out one browser of this account. Raises NotFound for any other. The caller also closes its live screens
    (`sharing.live.revoke` of "owner:<id>")."""
    with parts.database.write() as db:
        login_sessions.revoke_one(db, login.account.id, login_session_id)
        _note(db, "login-session-revoked", login.account, login_session=login_session_id)


def change_password(parts: Parts, login: Login, old: str, new: str) -> int:
    """Wraps the same key ring under a new password and signs out all other browsers; returns how many that were.

    Raises PasswordRefused (also if `old` is wrong), TooManyAttempts, SignInUnavailable."""
    account = login.account
    password_rules.check(new, personal=(account.email, account.name))
    ring, stored = _prove(parts, account, old)
    wrapped = _wrap(parts, new, ring, account.id)
    with parts.database.write() as db:
        row = _still(db, stored)
        row.wrapped_by_password, row.changed_at = wrapped, now()
        db.add(row)
        ended = login_sessions.revoke_all(db, account.id, but=login.login_session.id)
        pending_sign_ins.end_all(db, account.id)
        _note(db, "password-changed", account, login_sessions_ended=ended)
    return ended


def new_recovery_code(parts: Parts, login: Login, password: str) -> str:
    """A new recovery code; the old one opens nothing from then on. Raises as `change_password`."""
    ring, stored = _prove(parts, login.account, password)
    code = passwords.new_recovery_code()
    wrapped = passwords.wrap_by_recovery(code, ring.to_bytes(), context=login.account.id.encode())
    with parts.database.write() as db:
        row = _still(db, stored)
        row.wrapped_by_recovery, row.changed_at = wrapped, now()
        db.add(row)
        _note(db, "recovery-code-renewed", login.account)
    return code


def recover(parts: Parts, email: str, recovery_code: str, new_password: str, *, address: str = "") -> str:
    """Sets a new password with the recovery code, signs out every browser, and returns the next recovery code (the
    used one no longer works). The record stays: it is the same key ring.

    Raises RecoveryFailed alike for an unknown address and a wrong code, PasswordRefused, TooManyAttempts; to who has
    the code SignInRevoked and SignInUnconfirmed, and nothing is changed then."""
    return _recover(parts, email, recovery_code, new_password, address)[-1]


def recover_and_sign_in(
    parts: Parts, email: str, recovery_code: str, new_password: str, device: str, *, address: str = ""
) -> tuple[SignIn, str]:
    """As `recover`, and this browser is signed in. No second step is asked for: the code stands in for it, as phone or
    key may be what was lost."""
    account, ring, changed_at, next_code = _recover(parts, email, recovery_code, new_password, address)
    return _enter(parts, account, ring, device, changed_at), next_code


def _recover(
    parts: Parts, email: str, recovery_code: str, new_password: str, address: str
) -> tuple[Account, KeyRing, dt.datetime, str]:
    email = _loose_email(email)
    code = passwords.normal_recovery_code(recovery_code)  # a typing mistake costs no try
    password_rules.check(new_password, personal=(email,))
    proved, others = recovery_subject(email), [address_subject(address)] if address else []
    attempts = _attempts(parts)
    attempts.begin(proved, *others)
    found = _find(parts, email)
    if found is None:
        raise RecoveryFailed("no such account")
    account, stored = found
    try:
        opened = passwords.unwrap_by_recovery(code, stored.wrapped_by_recovery, context=account.id.encode())
    except EnvelopeError:
        _note_failure(parts, "recovery-failed", account)
        raise RecoveryFailed("code of another ring") from None
    password_rules.check(new_password, personal=(account.email, account.name))
    ring, next_code = KeyRing.from_bytes(opened), passwords.new_recovery_code()
    identities.admit(parts, account, ring)  # first: who is refused must not lose the code that still works
    wrapped = _wrap(parts, new_password, ring, account.id)
    # Before the write: if Redis fails now, the person still holds a code that works.
    attempts.succeeded(proved, *others)
    attempts.succeeded(account_subject(email))
    with parts.database.write() as db:
        row = _still(db, stored)
        row.wrapped_by_password, row.changed_at = wrapped, now()
        row.wrapped_by_recovery = passwords.wrap_by_recovery(next_code, opened, context=account.id.encode())
        db.add(row)
        ended = login_sessions.revoke_all(db, account.id)
        pending_sign_ins.end_all(db, account.id)
        _note(db, "recovered", account, login_sessions_ended=ended)
        changed_at = row.changed_at
    return account, ring, changed_at, next_code


def make_operator(parts: Parts, email: str) -> None:
    """Lets this account see the operator's pages, and has the keyholder take its word. It still opens no record but its
    own. To be run on the server: the keyholder takes this from nobody else. Safe to run again.

    Raises NotFound, KeyholderUnavailable (after the first half)."""
    found = _find(parts, _loose_email(email))
    if found is None:
        raise NotFound("no such account")
    with parts.database.write() as db:
        account = db.get(Account, found[0].id)
        assert account is not None
        account.is_operator = True
        db.add(account)
        gid = (identities.of_account(db, account.id) or identities.give(db, account)).gid
    parts.keyholder.operator_appoint(gid)


def check_password(parts: Parts, login: Login, password: str) -> None:
    """For what somebody at an unlocked tablet must not do. Raises PasswordRefused, TooManyAttempts."""
    _prove(parts, login.account, password)


def check_owner(
    parts: Parts, login: Login, password: str, *, code: str = "", credential: str = "", challenge: bytes = b"",
    recovery_code: str = "",
) -> None:  # fmt: skip
    """For what cannot be undone: the password and, where there is one, the second step (code of the app, passkey with
    its challenge, or the recovery code). Raises PasswordRefused, SecondStepRefused, RecoveryFailed, TooManyAttempts."""
    _, stored = _prove(parts, login.account, password)
    with parts.database.read() as db:
        steps = second_factor.of_account(db, login.account.id)
    if not steps:
        return
    if recovery_code:
        recovery_code = passwords.normal_recovery_code(recovery_code)  # a typing mistake costs no try
    attempts = _attempts(parts)
    attempts.begin(second_step_subject(login.account.id))
    try:
        if credential:
            second_factor.check_passkey(parts, login.account.id, challenge, credential)
        elif recovery_code:
            _check_recovery_code(stored, recovery_code)
        else:
            second_factor.check_code(parts, login.account.id, code)
    except (SecondStepRefused, RecoveryFailed):
        _note_failure(parts, "second-step-failed", login.account)
        raise
    attempts.succeeded(second_step_subject(login.account.id))


def _check_recovery_code(stored: StoredKeyRing, code: str) -> None:
    try:
        passwords.unwrap_by_recovery(code, stored.wrapped_by_recovery, context=stored.account_id.encode())
    except EnvelopeError:
        raise RecoveryFailed("code of another ring") from None


def find_by_email(parts: Parts, email: str) -> Account:
    """An open account. For officers and operators only: it tells who has one. Raises FormRefused for nobody."""
    found = _find(parts, _loose_email(email))
    if found is None:
        raise FormRefused(reason="nobody has an account with this e-mail address")
    return found[0]


def normal_email(email: str) -> str:
    """The address as stored: trimmed, NFKC, case-folded. Raises FormRefused if it is none."""
    address = _loose_email(email)
    if len(address) > EMAIL_CHARACTERS_MAX or not _EMAIL.fullmatch(address) or not address.isprintable():
        raise FormRefused(reason="this does not look like an e-mail address")
    return address


def normal_name(name: str) -> str:
    """The name as stored: NFC, single spaces. Raises FormRefused if empty, too long or not printable."""
    text = " ".join(unicodedata.normalize("NFC", name[: 8 * NAME_CHARACTERS_MAX]).split())
    if not text:
        raise FormRefused(reason="a name is missing")
    if len(text) > NAME_CHARACTERS_MAX or not text.isprintable():
        raise FormRefused(reason=f"the name may have at most {NAME_CHARACTERS_MAX} letters")
    return text


def _loose_email(email: str) -> str:
    # Cut, not refused: whoever signs in with nonsense gets the same answer as everybody else.
    return unicodedata.normalize("NFKC", email[:1024]).strip().casefold().encode(errors="replace").decode()


def _attempts(parts: Parts) -> Attempts:
    return Attempts(parts.redis, parts.keys.index_key)


def _find(parts: Parts, email: str) -> tuple[Account, StoredKeyRing] | None:
    with parts.database.read() as db:
        account = db.exec(select(Account).where(Account.email == email)).first()
        stored = db.get(StoredKeyRing, account.id) if account else None
    return (account, stored) if account and stored and account.closed_at is None else None


def _refuse_taken(parts: Parts, email: str) -> None:
    with parts.database.read() as db:
        if db.exec(select(Account.id).where(Account.email == email)).first():
            raise EmailTaken()


def _wrap(parts: Parts, password: str, ring: KeyRing, account_id: str) -> bytes:
    settings = parts.settings
    with _ARGON2_AT_ONCE:
        return passwords.wrap_ring(password, ring.to_bytes(), memory_kib=settings.argon2_memory_kib,
                                   passes=settings.argon2_passes, context=account_id.encode())


def _open_by_password(parts: Parts, password: str, stored: StoredKeyRing) -> KeyRing | None:
    """The ring, or None for a wrong password."""
    try:
        with _ARGON2_AT_ONCE:
            opened = passwords.unwrap_ring(password, stored.wrapped_by_password, context=stored.account_id.encode())
    except EnvelopeError:
        return None
    return KeyRing.from_bytes(opened)


def _work_in_vain(parts: Parts, password: str) -> None:
    """What a wrong password costs, for an address that has no account: the answer's time tells nothing."""
    settings = parts.settings
    try:
        with _ARGON2_AT_ONCE:
            passwords.wrap_ring(password, secrets.token_bytes(32), memory_kib=settings.argon2_memory_kib,
                                passes=settings.argon2_passes)
    except ValueError:  # a password that nobody can have set: refused as fast for known addresses
        return


def _prove(parts: Parts, account: Account, password: str) -> tuple[KeyRing, StoredKeyRing]:
    """The ring opened once more by the password of somebody who is signed in already."""
    attempts = _attempts(parts)
    attempts.begin(account_subject(account.email))
    found = _find(parts, account.email)
    ring = _open_by_password(parts, password, found[1]) if found else None
    if found is None or ring is None:
        _note_failure(parts, "sign-in-failed", account)
        raise PasswordRefused(reason="the present password is not right")
    attempts.succeeded(account_subject(account.email))
    return ring, found[1]


def _still(db: Session, stored: StoredKeyRing) -> StoredKeyRing:
    """The row to change, if it is still the one that was opened: two changes at once must not undo each other."""
    row = db.get(StoredKeyRing, stored.account_id, populate_existing=True, with_for_update=True)
    if (
        row is None
        or row.wrapped_by_password != stored.wrapped_by_password
        or row.wrapped_by_recovery != stored.wrapped_by_recovery
    ):
        raise PasswordRefused(reason="it was changed in another window just now")
    return row


def _note(db: Session, event: str, account: Account, **details: object) -> None:
    trail.record(db, event, account_id=account.id, actor=Actor("patient", account.id), **details)


def _note_failure(parts: Parts, event: str, account: Account) -> None:
    with parts.database.write() as db:
        trail.record(db, event, account_id=account.id, actor=trail.SYSTEM)


__all__ = [
    "Login", "Parts", "SignIn", "begin_sign_in", "change_password", "check_owner", "check_password", "find_by_email",
    "finish_by_code", "finish_by_passkey", "finish_by_recovery_code", "is_live", "list_login_sessions", "make_operator",
    "new_recovery_code", "normal_email", "normal_name", "recover", "recover_and_sign_in", "register", "resolve",
    "revoke", "sign_in", "sign_out",
]  # fmt: skip
