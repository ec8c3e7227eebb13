"""The second step: codes of an app and passkeys, taken once, from the right account, within five minutes."""

import base64
import datetime as dt
import hashlib
import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import cbor2
import pyotp
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from myphr.audit import trail
from myphr.database import now
from myphr.errors import (
    EnvelopeError,
    FormRefused,
    NotFound,
    RecoveryFailed,
    SecondStepOver,
    SecondStepRefused,
    SecondStepRequired,
    SignInFailed,
    TooManyAttempts,
)
from myphr.people import accounts, login_sessions, pending_sign_ins, second_factor
from myphr.people.models import PendingSignIn, Totp
from myphr.people.pending_sign_ins import LIFE_SECONDS
from myphr.portal import Portal
from tests.cast import PATIENT, STRANGER, SignedIn, cheap_settings

NEW_PASSWORD = "a lighthouse keeps no secrets"


def set_up_app(portal: Portal, person: SignedIn, at: dt.datetime | None = None) -> pyotp.TOTP:
    second_factor.begin_app(portal, person.login)
    app = pyotp.TOTP(second_factor.app_setup(portal, person.login).secret)
    at = at or now() - dt.timedelta(minutes=5)
    second_factor.confirm_app(portal, person.login, app.at(at), at=at)
    return app


def begin(portal: Portal, password: str = PATIENT.password) -> str:
    begun = accounts.begin_sign_in(portal, PATIENT.email, password, "Safari on iPad")
    assert begun.login_session is None
    return begun.cookie_value


def events_of(portal: Portal, account_id: str) -> list[str]:
    return [row.event for row in reversed(trail.for_account(portal.database, account_id))]


# -- between password and second step -----------------------------------------------------------------
def test_a_right_password_alone_makes_no_login_session(portal: Portal, patient: SignedIn) -> None:
    set_up_app(portal, patient)
    cookie = begin(portal)
    assert login_sessions.live_of(portal.database, patient.account.id) == [patient.login.login_session]
    assert accounts.resolve(portal.database, cookie) is None
    with pytest.raises(SecondStepRequired):
        accounts.sign_in(portal, PATIENT.email, PATIENT.password, "")


def test_password_and_code_let_in_with_the_same_keys(portal: Portal, patient: SignedIn) -> None:
    app = set_up_app(portal, patient)
    begun = accounts.finish_by_code(portal, begin(portal), app.now())
    login = accounts.resolve(portal.database, begun.cookie_value)
    assert login is not None and login.ring().public_key == patient.login.ring().public_key
    assert login.login_session.device == "Safari on iPad"
    assert events_of(portal, patient.account.id)[-1] == "signed-in"


def test_an_account_without_a_second_step_is_signed_in_by_its_password(portal: Portal, patient: SignedIn) -> None:
    second_factor.begin_app(portal, patient.login)  # not confirmed: does not count
    assert accounts.begin_sign_in(portal, PATIENT.email, PATIENT.password, "").login_session is not None


def test_what_waits_opens_with_the_cookie_only(portal: Portal, patient: SignedIn) -> None:
    set_up_app(portal, patient)
    cookie = begin(portal)
    row_id, token, ring_key = cookie.split(".")
    with portal.database.read() as db:
        row = db.get(PendingSignIn, row_id)
    assert row is not None
    assert patient.login.ring().private_key not in row.sealed_ring and token not in str(row)
    other = cookie[:-2] + ("A" if cookie[-2] != "A" else "B") + cookie[-1]
    assert other.split(".")[2] != ring_key
    with pytest.raises(EnvelopeError):
        pending_sign_ins.resolve(portal.database, other).ring()


@pytest.mark.parametrize("change", ["nothing", "token", "id", "login cookie"])
def test_a_forged_cookie_is_not_taken(portal: Portal, patient: SignedIn, change: str) -> None:
    app = set_up_app(portal, patient)
    row_id, token, ring_key = begin(portal).split(".")
    forged = {
        "nothing": "", "token": f"{row_id}.{token[::-1]}.{ring_key}", "login cookie": patient.cookie_value,
        "id": f"00000000-0000-4000-8000-000000000000.{token}.{ring_key}",
    }[change]  # fmt: skip
    with pytest.raises(SecondStepOver):
        accounts.finish_by_code(portal, forged, app.now())


def test_after_five_minutes_one_starts_again(portal: Portal, patient: SignedIn) -> None:
    set_up_app(portal, patient)
    cookie = begin(portal)
    late = now() + dt.timedelta(seconds=LIFE_SECONDS + 1)
    assert pending_sign_ins.resolve(portal.database, cookie)
    with pytest.raises(SecondStepOver):
        pending_sign_ins.resolve(portal.database, cookie, at=late)


def test_what_waited_is_used_once_also_by_two_at_once(portal: Portal, patient: SignedIn) -> None:
    app = set_up_app(portal, patient)
    cookie, code = begin(portal), app.now()
    results: list[str] = []

    def finish() -> None:
        try:
            accounts.finish_by_code(portal, cookie, code)
            results.append("in")
        except (SecondStepOver, SecondStepRefused) as error:
            results.append(error.code)

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("in") == 1
    with pytest.raises(SecondStepOver):
        accounts.finish_by_code(portal, cookie, app.at(now() + dt.timedelta(seconds=30)))


def test_a_password_changed_meanwhile_ends_what_waited(portal: Portal, patient: SignedIn) -> None:
    app = set_up_app(portal, patient)
    cookie = begin(portal)
    accounts.change_password(portal, patient.login, PATIENT.password, NEW_PASSWORD)
    with pytest.raises(SecondStepOver):
        accounts.finish_by_code(portal, cookie, app.now())


def test_rows_that_ran_out_are_swept_by_the_next_sign_in(portal: Portal, patient: SignedIn) -> None:
    set_up_app(portal, patient)
    old = begin(portal).split(".")[0]
    with portal.database.write() as db:
        row = db.get(PendingSignIn, old)
        assert row is not None
        row.expires_at = now() - dt.timedelta(seconds=1)
        db.add(row)
    begin(portal)
    with portal.database.read() as db:
        assert db.get(PendingSignIn, old) is None


# -- codes --------------------------------------------------------------------------------------------
def test_the_address_in_the_picture_is_one_that_every_app_reads(portal: Portal, patient: SignedIn) -> None:
    second_factor.begin_app(portal, patient.login)
    setup = second_factor.app_setup(portal, patient.login)
    read = pyotp.parse_uri(setup.address)
    assert (read.name, read.issuer, read.secret) == (PATIENT.email, "MyPHRMachines", setup.secret)
    assert len(base64.b32decode(setup.secret)) == 20


def test_codes_are_those_of_rfc_6238(portal: Portal, patient: SignedIn) -> None:
    """RFC 6238, appendix B, SHA-1: at 59 s the eight digits are 94287082, of which six are asked for."""
    assert pyotp.TOTP(base64.b32encode(b"12345678901234567890").decode()).at(59) == "287082"


def test_a_confirmed_secret_is_never_shown_again(portal: Portal, patient: SignedIn) -> None:
    set_up_app(portal, patient)
    with pytest.raises(NotFound):
        second_factor.app_setup(portal, patient.login)
    with pytest.raises(FormRefused):
        second_factor.begin_app(portal, patient.login)


def test_the_secret_is_not_in_the_database(portal: Portal, patient: SignedIn) -> None:
    app = set_up_app(portal, patient)
    with portal.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    stored = b"".join(path.read_bytes() for path in (portal.settings.home / "db").iterdir())
    assert app.secret.encode() not in stored and base64.b32decode(app.secret) not in stored
    assert patient.account.id.encode() in stored


def test_a_secret_moved_to_another_account_does_not_open(
    portal: Portal, patient: SignedIn, stranger: SignedIn
) -> None:
    app = set_up_app(portal, patient)
    set_up_app(portal, stranger)
    with portal.database.write() as db:
        mine, theirs = db.get(Totp, patient.account.id), db.get(Totp, stranger.account.id)
        assert mine and theirs
        theirs.sealed_secret = mine.sealed_secret
        db.add(theirs)
    with pytest.raises(SecondStepRefused):
        second_factor.check_code(portal, stranger.account.id, app.now())


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_a_code_of_the_neighbouring_half_minutes_is_taken(portal: Portal, patient: SignedIn, steps: int) -> None:
    app, at = set_up_app(portal, patient), now()
    second_factor.check_code(portal, patient.account.id, app.at(at + dt.timedelta(seconds=30 * steps)), at=at)


@pytest.mark.parametrize("steps", [-2, 2, 100])
def test_a_code_of_another_time_is_refused(portal: Portal, patient: SignedIn, steps: int) -> None:
    app, at = set_up_app(portal, patient), now()
    other = app.at(at + dt.timedelta(seconds=30 * steps))
    near = {app.at(at + dt.timedelta(seconds=30 * around)) for around in (-1, 0, 1)}
    if other not in near:
        with pytest.raises(SecondStepRefused):
            second_factor.check_code(portal, patient.account.id, other, at=at)


def test_a_code_is_taken_once_and_so_is_every_earlier_one(portal: Portal, patient: SignedIn) -> None:
    app, at = set_up_app(portal, patient), now()
    second_factor.check_code(portal, patient.account.id, app.at(at), at=at)
    for code in (app.at(at), app.at(at - dt.timedelta(seconds=30))):
        with pytest.raises(SecondStepRefused):
            second_factor.check_code(portal, patient.account.id, code, at=at)


def test_the_code_that_confirmed_the_app_is_used_up(portal: Portal, patient: SignedIn) -> None:
    at = now()
    app = set_up_app(portal, patient, at)
    with pytest.raises(SecondStepRefused, match="replay"):
        second_factor.check_code(portal, patient.account.id, app.at(at), at=at)


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "１２３４５６", "-12345", "0" * 10_000])
def test_what_is_no_code_is_refused(portal: Portal, patient: SignedIn, code: str) -> None:
    set_up_app(portal, patient)
    with pytest.raises(SecondStepRefused):
        second_factor.check_code(portal, patient.account.id, code)


def test_a_code_may_be_typed_with_a_space(portal: Portal, patient: SignedIn) -> None:
    code = set_up_app(portal, patient).now()
    second_factor.check_code(portal, patient.account.id, f" {code[:3]} {code[3:]} ")


def test_guessing_codes_has_to_wait_and_is_told_to_the_owner(portal: Portal, patient: SignedIn) -> None:
    app = set_up_app(portal, patient)
    cookie = begin(portal)
    good = {app.at(now() + dt.timedelta(seconds=30 * around)) for around in (-2, -1, 0, 1, 2)}
    wrong = next(code for code in ("000000", "111111", "222222", "333333", "444444", "555555") if code not in good)
    with pytest.raises(TooManyAttempts):
        for _ in range(10):
            with pytest.raises(SecondStepRefused):
                accounts.finish_by_code(portal, cookie, wrong)
    with pytest.raises(TooManyAttempts):  # a fresh password does not start the count again
        accounts.finish_by_code(portal, begin(portal), app.now())
    assert "second-step-failed" in events_of(portal, patient.account.id)


def test_removing_the_app_makes_the_password_enough_again(portal: Portal, patient: SignedIn) -> None:
    set_up_app(portal, patient)
    second_factor.remove_app(portal, patient.login)
    second_factor.remove_app(portal, patient.login)
    assert accounts.begin_sign_in(portal, PATIENT.email, PATIENT.password, "").login_session is not None
    assert events_of(portal, patient.account.id).count("second-step-removed") == 1


# -- recovery code ------------------------------------------------------------------------------------
def test_the_recovery_code_stands_in_for_what_was_lost(portal: Portal, patient: SignedIn) -> None:
    set_up_app(portal, patient)
    begun = accounts.finish_by_recovery_code(portal, begin(portal), patient.recovery_code.lower())
    assert accounts.resolve(portal.database, begun.cookie_value) is not None
    assert events_of(portal, patient.account.id)[-2:] == ["second-step-replaced", "signed-in"]
    accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)  # it still works


def test_another_persons_recovery_code_does_not(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    set_up_app(portal, patient)
    with pytest.raises(RecoveryFailed):
        accounts.finish_by_recovery_code(portal, begin(portal), stranger.recovery_code)


def test_the_recovery_code_alone_sets_a_password_and_signs_in(portal: Portal, patient: SignedIn) -> None:
    """Phone and password lost at once: the paper is what is left."""
    set_up_app(portal, patient)
    begun, _ = accounts.recover_and_sign_in(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD, "")
    assert accounts.resolve(portal.database, begun.cookie_value) is not None
    with pytest.raises(SecondStepRequired):  # the second step is still asked for next time
        accounts.sign_in(portal, PATIENT.email, NEW_PASSWORD, "")
    with pytest.raises(SignInFailed):
        begin(portal)


# -- passkeys -----------------------------------------------------------------------------------------
@pytest.fixture
def named(portal: Portal) -> Portal:
    """The portal under a name with https: passkeys work there."""
    settings = cheap_settings(portal.settings.home, portal.settings.redis_url, public_url="https://phr.example")
    portal.settings = settings
    return portal


class SoftKey:
    """An authenticator in software: enough of CTAP 2 to answer with "none" attestation (WebAuthn level 2, 6.5)."""

    def __init__(self, origin: str = "https://phr.example", rp_id: str = "phr.example") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.credential_id = hashlib.sha256(str(id(self)).encode() + str(now()).encode()).digest()
        self.origin, self.rp_id, self.count = origin, rp_id, 0

    def _client_data(self, kind: str, challenge: bytes) -> bytes:
        return json.dumps({"type": kind, "challenge": _text(challenge), "origin": self.origin}).encode()

    def _authenticator_data(self, flags: int) -> bytes:
        return hashlib.sha256(self.rp_id.encode()).digest() + struct.pack(">BI", flags, self.count)

    def create(self, options: str) -> str:
        challenge = _bytes(json.loads(options)["challenge"])
        public = self.key.public_key().public_numbers()
        cose = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: public.x.to_bytes(32, "big"), -3: public.y.to_bytes(32, "big")})
        attested = bytes(16) + struct.pack(">H", len(self.credential_id)) + self.credential_id + cose
        data = self._authenticator_data(0x45) + attested
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return self._credential({
            "clientDataJSON": _text(self._client_data("webauthn.create", challenge)),
            "attestationObject": _text(attestation),
        })  # fmt: skip

    def get(self, challenge: bytes) -> str:
        self.count += 1
        client, data = self._client_data("webauthn.get", challenge), self._authenticator_data(0x05)
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._credential(
            {"clientDataJSON": _text(client), "authenticatorData": _text(data), "signature": _text(signature)}
        )

    def _credential(self, response: dict[str, str]) -> str:
        name = _text(self.credential_id)
        return json.dumps({"id": name, "rawId": name, "type": "public-key", "response": response})


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def set_up_passkey(portal: Portal, person: SignedIn, key: SoftKey | None = None) -> SoftKey:
    key, challenge = key or SoftKey(), b"c" * 32
    options = second_factor.new_passkey_options(portal, person.login, challenge)
    second_factor.add_passkey(portal, person.login, challenge, key.create(options), "Safari on iPad")
    return key


def challenge_of(portal: Portal, cookie: str) -> bytes:
    return pending_sign_ins.resolve(portal.database, cookie).row.challenge


def test_password_and_passkey_let_in(named: Portal, patient: SignedIn) -> None:
    key = set_up_passkey(named, patient)
    cookie = begin(named)
    options = second_factor.passkey_options(named, patient.account.id, challenge_of(named, cookie))
    assert options and _text(key.credential_id) in options and json.loads(options)["rpId"] == "phr.example"
    begun = accounts.finish_by_passkey(named, cookie, key.get(challenge_of(named, cookie)))
    assert accounts.resolve(named.database, begun.cookie_value) is not None


def test_an_answer_to_another_question_is_refused(named: Portal, patient: SignedIn) -> None:
    key = set_up_passkey(named, patient)
    cookie = begin(named)
    earlier = key.get(challenge_of(named, begin(named)))
    with pytest.raises(SecondStepRefused):
        accounts.finish_by_passkey(named, cookie, earlier)


def test_a_passkey_of_somebody_else_is_refused(named: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    set_up_passkey(named, patient)
    theirs = set_up_passkey(named, stranger)
    cookie = begin(named)
    with pytest.raises(SecondStepRefused, match="of another account"):
        accounts.finish_by_passkey(named, cookie, theirs.get(challenge_of(named, cookie)))


def test_a_page_of_another_name_gets_nothing_out_of_a_passkey(named: Portal, patient: SignedIn) -> None:
    key = set_up_passkey(named, patient)
    cookie = begin(named)
    key.origin = "https://phr.example.evil"
    with pytest.raises(SecondStepRefused):
        accounts.finish_by_passkey(named, cookie, key.get(challenge_of(named, cookie)))


def test_a_copied_passkey_is_noticed_by_its_counter(named: Portal, patient: SignedIn) -> None:
    key = set_up_passkey(named, patient)
    cookie = begin(named)
    accounts.finish_by_passkey(named, cookie, key.get(challenge_of(named, cookie)))
    key.count = 0  # the copy counts from before
    cookie = begin(named)
    with pytest.raises(SecondStepRefused):
        accounts.finish_by_passkey(named, cookie, key.get(challenge_of(named, cookie)))


def test_a_passkey_without_a_counter_works_every_time(named: Portal, patient: SignedIn) -> None:
    key = set_up_passkey(named, patient)
    for _ in range(2):
        key.count = -1
        cookie = begin(named)
        accounts.finish_by_passkey(named, cookie, key.get(challenge_of(named, cookie)))


def test_a_passkey_is_set_up_for_one_account_only(named: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    key = set_up_passkey(named, patient)
    with pytest.raises(SecondStepRefused, match="known"):
        set_up_passkey(named, stranger, key)


@pytest.mark.parametrize(
    "credential", ["", "[]", "null", "{}", '{"rawId": 7}', '{"rawId": "AAAA"}', "[" * 100_000, "[" * 10_000, "{" * 300]
)
def test_what_is_no_answer_of_a_passkey_is_refused(named: Portal, patient: SignedIn, credential: str) -> None:
    set_up_passkey(named, patient)
    with pytest.raises(SecondStepRefused):
        second_factor.check_passkey(named, patient.account.id, b"c" * 32, credential)
    with pytest.raises(SecondStepRefused):
        second_factor.add_passkey(named, patient.login, b"c" * 32, credential, "")


def test_a_removed_passkey_lets_nobody_in(named: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    key = set_up_passkey(named, patient)
    set_up_app(named, patient)
    with named.database.read() as db:
        passkey = second_factor.of_account(db, patient.account.id).passkeys[0]
    with pytest.raises(NotFound):
        second_factor.remove_passkey(named, stranger.login, passkey.id)
    second_factor.remove_passkey(named, patient.login, passkey.id)
    cookie = begin(named)
    with pytest.raises(SecondStepRefused):
        accounts.finish_by_passkey(named, cookie, key.get(challenge_of(named, cookie)))


def test_ten_passkeys_are_enough(named: Portal, patient: SignedIn) -> None:
    for _ in range(second_factor.PASSKEYS_MAX):
        set_up_passkey(named, patient)
    with pytest.raises(FormRefused):
        set_up_passkey(named, patient)


@pytest.mark.parametrize(
    ("url", "name", "origin"),
    [
        ("https://phr.example", "phr.example", "https://phr.example"),
        ("https://phr.example:8443", "phr.example", "https://phr.example:8443"),
        ("http://localhost:8000", "localhost", "http://localhost:8000"),
        ("http://127.0.0.1:8000", "localhost", "http://localhost:8000"),
        ("http://phr.example", None, None), ("https://192.0.2.7", None, None), ("http://10.0.0.1:8000", None, None),
    ],
)  # fmt: skip
def test_passkeys_need_a_name_and_https(tmp_path: Path, url: str, name: str | None, origin: str | None) -> None:
    place = second_factor.passkey_place(cheap_settings(tmp_path, public_url=url))
    assert (place and place.name, place and place.origin) == (name, origin)


def test_the_stranger_has_steps_of_their_own(
    portal: Portal, patient: SignedIn, enter: Callable[..., SignedIn]
) -> None:
    set_up_app(portal, patient)
    stranger = enter(STRANGER)
    with portal.database.read() as db:
        assert not second_factor.of_account(db, stranger.account.id)
        assert second_factor.of_account(db, patient.account.id)
