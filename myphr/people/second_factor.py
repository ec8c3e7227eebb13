"""The second step of signing in: a code of an authenticator app (TOTP, RFC 6238) or a passkey (WebAuthn level 2).

Says yes or raises; who may try how often is `accounts`' affair. The app's secret is wrapped under a service key, so
that a stolen database alone makes no codes. Called by `accounts` and the account pages.
"""

import dataclasses
import datetime as dt
import hmac
import ipaddress
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import pyotp
import webauthn
from sqlmodel import Session, col, or_, select, update
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.crypto.envelope import context_for, derive, unwrap, wrap
from myphr.database import Database, now
from myphr.errors import EnvelopeError, FormRefused, NotFound, SecondStepRefused
from myphr.people.login_sessions import Login
from myphr.people.models import Account, Passkey, Totp
from myphr.people.service_keys import ServiceKeys
from myphr.settings import Settings

STEP_SECONDS = 30
STEPS_AROUND = 1  # RFC 6238, 5.2: one step to either side, for clocks that differ and people who type slowly
CODE_DIGITS = 6
PASSKEYS_MAX = 10
CREDENTIAL_CHARACTERS_MAX = 16_384
ISSUER = "MyPHRMachines"
APP, PASSKEY = "authenticator-app", "passkey"


class Parts(Protocol):
    """What second steps need of the portal."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def keys(self) -> ServiceKeys: ...


@dataclasses.dataclass(frozen=True)
class Steps:
    """What an account has beside its password."""

    app: Totp | None
    passkeys: Sequence[Passkey]

    def __bool__(self) -> bool:
        return self.app is not None or bool(self.passkeys)


def of_account(db: Session, account_id: str) -> Steps:
    app = db.get(Totp, account_id)
    passkeys = db.exec(select(Passkey).where(Passkey.account_id == account_id).order_by(col(Passkey.created_at))).all()
    return Steps(app if app and app.confirmed_at else None, passkeys)


# -- authenticator app ------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class AppSetup:
    """What to show once: `secret` to type, `address` (otpauth://) for the QR code."""

    secret: str = dataclasses.field(repr=False)
    address: str = dataclasses.field(repr=False)


def begin_app(parts: Parts, login: Login) -> None:
    """A fresh secret that waits for its first code. Raises FormRefused where an app is set up already."""
    secret = pyotp.random_base32()  # 160 bits, RFC 4226, 4
    with parts.database.write() as db:
        row = db.get(Totp, login.account.id)
        if row is not None and row.confirmed_at is not None:
            raise FormRefused(reason="an authenticator app is set up already; remove it first")
        row = row or Totp(account_id=login.account.id, sealed_secret=b"")
        row.sealed_secret = wrap(_totp_key(parts), secret.encode(), context=_totp_context(login.account.id))
        row.created_at, row.last_step = now(), 0
        db.add(row)


def app_setup(parts: Parts, login: Login) -> AppSetup:
    """The secret that waits for its first code. Raises NotFound where none waits: a confirmed one is never shown."""
    with parts.database.read() as db:
        row = db.get(Totp, login.account.id)
    if row is None or row.confirmed_at is not None:
        raise NotFound("no app waits")
    secret = _secret_of(parts, row)
    return AppSetup(secret, pyotp.TOTP(secret).provisioning_uri(name=login.account.email, issuer_name=ISSUER))


def confirm_app(parts: Parts, login: Login, code: str, *, at: dt.datetime | None = None) -> None:
    """The first code of the app: from now on signing in asks for one. Raises SecondStepRefused, NotFound."""
    with parts.database.read() as db:
        row = db.get(Totp, login.account.id)
    if row is None or row.confirmed_at is not None:
        raise NotFound("no app waits")
    _take_code(parts, row, code, at or now())
    with parts.database.write() as db:
        done = db.execute(
            update(Totp)
            .where(col(Totp.account_id) == login.account.id, col(Totp.confirmed_at).is_(None),
                   col(Totp.sealed_secret) == row.sealed_secret)
            .values(confirmed_at=at or now())
        )  # fmt: skip
        if done.rowcount != 1:  # type: ignore[attr-defined]
            raise NotFound("changed in another window")
        _note(db, "second-step-added", login.account, kind=APP)


def remove_app(parts: Parts, login: Login) -> None:
    """Takes the app away. The caller has asked for the password. Safe to run twice."""
    with parts.database.write() as db:
        row = db.get(Totp, login.account.id)
        if row is not None:
            db.delete(row)
            if row.confirmed_at is not None:
                _note(db, "second-step-removed", login.account, kind=APP)


def check_code(parts: Parts, account_id: str, code: str, *, at: dt.datetime | None = None) -> None:
    """Takes a code of the account's app, once. Raises SecondStepRefused."""
    with parts.database.read() as db:
        row = db.get(Totp, account_id)
    if row is None or row.confirmed_at is None:
        raise SecondStepRefused("no app", reason="this account has no authenticator app")
    _take_code(parts, row, code, at or now())


def _take_code(parts: Parts, row: Totp, code: str, at: dt.datetime) -> None:
    """One conditional UPDATE takes the code's step: the same code, sent twice or by two at once, counts once."""
    digits = re.sub(r"\s", "", code[:64])
    if not re.fullmatch(r"[0-9]{6}", digits):
        raise SecondStepRefused("form", reason=f"the code has {CODE_DIGITS} digits")
    totp = pyotp.TOTP(_secret_of(parts, row))
    today = int(at.timestamp()) // STEP_SECONDS
    fitting = [
        step for step in range(today - STEPS_AROUND, today + STEPS_AROUND + 1)
        if hmac.compare_digest(totp.at(step * STEP_SECONDS), digits)
    ]  # fmt: skip
    if not fitting:
        raise SecondStepRefused("wrong code", reason="this is not the code that the app shows now")
    with parts.database.write() as db:
        taken = db.execute(
            update(Totp)
            .where(col(Totp.account_id) == row.account_id, col(Totp.last_step) < fitting[-1],
                   col(Totp.sealed_secret) == row.sealed_secret)
            .values(last_step=fitting[-1])
        )  # fmt: skip
    if taken.rowcount != 1:  # type: ignore[attr-defined]
        raise SecondStepRefused("replay", reason="this code was used already; wait for the next one")


def _totp_key(parts: Parts) -> bytes:
    return derive(parts.keys.passcode_key, "myphr/totp-secret/1")


def _totp_context(account_id: str) -> bytes:
    return context_for("totp", account_id)


def _secret_of(parts: Parts, row: Totp) -> str:
    try:
        return unwrap(_totp_key(parts), row.sealed_secret, context=_totp_context(row.account_id)).decode()
    except EnvelopeError as error:  # moved from another row, or other service keys
        raise SecondStepRefused("secret does not open", reason="the app has to be set up again") from error


# -- passkeys ---------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class PasskeyPlace:
    """Where passkeys of this portal live: the name they are bound to (RP ID) and the one page address they answer."""

    name: str
    origin: str


def passkey_place(settings: Settings) -> PasskeyPlace | None:
    """None where no passkey can work: browsers bind them to a name, not to a number, and want https.

    A portal on this very computer (127.0.0.1) is taken as "localhost", which browsers allow without https."""
    parts = urlsplit(settings.public_url)
    host = parts.hostname or ""
    try:
        address: Any = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None:
        if not address.is_loopback:
            return None
        port = f":{parts.port}" if parts.port else ""
        return PasskeyPlace("localhost", f"{parts.scheme}://localhost{port}")
    if parts.scheme != "https" and host != "localhost":
        return None
    return PasskeyPlace(host, f"{parts.scheme}://{parts.netloc}")


def new_passkey_options(parts: Parts, login: Login, challenge: bytes) -> str:
    """JSON for `navigator.credentials.create`. Raises FormRefused where passkeys cannot work or there are enough."""
    place = _place(parts)
    with parts.database.read() as db:
        existing = of_account(db, login.account.id).passkeys
    _refuse_too_many(existing)
    options = webauthn.generate_registration_options(
        rp_id=place.name, rp_name=ISSUER, user_name=login.account.email, user_display_name=login.account.name,
        user_id=derive(parts.keys.index_key, "myphr/passkey-user/1", login.account.id.encode()),
        challenge=challenge, exclude_credentials=_descriptors(existing),
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED, user_verification=UserVerificationRequirement.PREFERRED
        ),
    )  # fmt: skip
    return webauthn.options_to_json(options)


def add_passkey(parts: Parts, login: Login, challenge: bytes, credential: str, device: str) -> Passkey:
    """What the browser made. Raises SecondStepRefused."""
    place = _place(parts)
    try:
        verified = webauthn.verify_registration_response(
            credential=_json(credential), expected_challenge=challenge, expected_rp_id=place.name,
            expected_origin=place.origin,
        )  # fmt: skip
    except _WRONG as error:
        raise SecondStepRefused(type(error).__name__, reason="the passkey could not be confirmed") from error
    row = Passkey(
        account_id=login.account.id, credential_id=verified.credential_id, device=device[:60],
        public_key=verified.credential_public_key, sign_count=verified.sign_count,
    )  # fmt: skip
    with parts.database.write() as db:
        _refuse_too_many(of_account(db, login.account.id).passkeys)
        if db.exec(select(Passkey.id).where(Passkey.credential_id == row.credential_id)).first():
            raise SecondStepRefused("known", reason="this passkey is set up already")
        db.add(row)
        _note(db, "second-step-added", login.account, kind=PASSKEY)
    return row


def remove_passkey(parts: Parts, login: Login, passkey_id: str) -> None:
    """The caller has asked for the password. Raises NotFound for one that is not this account's."""
    with parts.database.write() as db:
        row = db.get(Passkey, passkey_id)
        if row is None or row.account_id != login.account.id:
            raise NotFound()
        db.delete(row)
        _note(db, "second-step-removed", login.account, kind=PASSKEY)


def passkey_options(parts: Parts, account_id: str, challenge: bytes) -> str | None:
    """JSON for `navigator.credentials.get`, or None where this account has no passkey or none can work."""
    place = passkey_place(parts.settings)
    with parts.database.read() as db:
        passkeys = of_account(db, account_id).passkeys
    if place is None or not passkeys:
        return None
    options = webauthn.generate_authentication_options(
        rp_id=place.name, challenge=challenge, allow_credentials=_descriptors(passkeys),
        user_verification=UserVerificationRequirement.PREFERRED,
    )  # fmt: skip
    return webauthn.options_to_json(options)


def check_passkey(parts: Parts, account_id: str, challenge: bytes, credential: str) -> None:
    """The browser's answer to `challenge`. Raises SecondStepRefused, also for a passkey of another account, and for a
    counter that goes back, which a copied passkey shows (WebAuthn level 2, 6.1.1)."""
    place = _place(parts)
    try:
        answer = _json(credential)
        credential_id = webauthn.base64url_to_bytes(answer["rawId"])
        with parts.database.read() as db:
            row = db.exec(select(Passkey).where(Passkey.credential_id == credential_id)).first()
        if row is None or row.account_id != account_id:
            raise SecondStepRefused("of another account", reason="this passkey does not belong to this account")
        verified = webauthn.verify_authentication_response(
            credential=answer, expected_challenge=challenge, expected_rp_id=place.name, expected_origin=place.origin,
            credential_public_key=row.public_key, credential_current_sign_count=row.sign_count,
        )  # fmt: skip
    except _WRONG as error:
        raise SecondStepRefused(type(error).__name__, reason="the passkey could not be confirmed") from error
    count = verified.new_sign_count
    with parts.database.write() as db:
        taken = db.execute(
            update(Passkey)
            .where(col(Passkey.id) == row.id,
                   or_(col(Passkey.sign_count) < count, (col(Passkey.sign_count) == 0) if count == 0 else False))
            .values(sign_count=count, last_used_at=now())
        )  # fmt: skip
    if taken.rowcount != 1:  # type: ignore[attr-defined]
        raise SecondStepRefused("counter", reason="the passkey could not be confirmed")


_WRONG = (WebAuthnException, ValueError, KeyError, TypeError, AttributeError)


def _json(credential: str) -> dict[str, Any]:
    """Raises ValueError for anything but a JSON object of a sane size."""
    if len(credential) > CREDENTIAL_CHARACTERS_MAX:
        raise ValueError("too long")
    try:
        content = json.loads(credential)
    except RecursionError:
        raise ValueError("nested") from None
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content


def _place(parts: Parts) -> PasskeyPlace:
    place = passkey_place(parts.settings)
    if place is None:
        raise FormRefused(reason="passkeys need a portal with a name and https")
    return place


def _refuse_too_many(passkeys: Sequence[Passkey]) -> None:
    if len(passkeys) >= PASSKEYS_MAX:
        raise FormRefused(reason=f"an account can have {PASSKEYS_MAX} passkeys; remove one first")


def _descriptors(passkeys: Sequence[Passkey]) -> list[PublicKeyCredentialDescriptor]:
    return [PublicKeyCredentialDescriptor(id=passkey.credential_id) for passkey in passkeys]


def _note(db: Session, event: str, account: Account, **details: object) -> None:
    trail.record(db, event, account_id=account.id, actor=Actor("patient", account.id), **details)
