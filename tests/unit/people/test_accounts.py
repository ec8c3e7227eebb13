"""Accounts end to end on a real database and Redis: getting in, staying in, getting back in, and nobody else."""

import base64
import dataclasses
import datetime as dt
import hashlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select

from myphr.audit import trail
from myphr.crypto import passwords
from myphr.crypto.envelope import context_for, seal_to
from myphr.database import now
from myphr.errors import (
    EmailTaken,
    EnvelopeError,
    FormRefused,
    NotFound,
    PasswordRefused,
    RecoveryFailed,
    SignInFailed,
    TooManyAttempts,
)
from myphr.people import accounts, login_sessions
from myphr.people.attempts import account_subject
from myphr.people.keyring import KeyRing
from myphr.people.login_sessions import IDLE_SECONDS_MAX, LIFE_SECONDS_MAX, TOUCH_SECONDS
from myphr.people.models import Account, LoginSession, StoredKeyRing
from myphr.portal import Portal
from tests.cast import PATIENT, STRANGER, SignedIn, new_portal

NEW_PASSWORD = "a lighthouse keeps no secrets"


@dataclasses.dataclass
class Sealed:
    """Something sealed to an owner, as an item and as a study."""

    id: str
    sealed_dek: bytes = b""
    sealed_summary: bytes = b""


def sealed_for(person: SignedIn) -> Sealed:
    public = person.login.ring().public_key
    return Sealed("item-1", seal_to(public, b"dek", context=context_for("item-dek", "item-1")),
                  seal_to(public, b"summary", context=context_for("study", "item-1")))


def later(seconds: float) -> dt.datetime:
    return now() + dt.timedelta(seconds=seconds)


def events_of(portal: Portal, account_id: str) -> list[str]:
    trail.verify(portal.database)
    return [row.event for row in reversed(trail.for_account(portal.database, account_id))]


def sign_in_again(portal: Portal, password: str = PATIENT.password, device: str = "Safari on iPad") -> accounts.Login:
    _, cookie_value = accounts.sign_in(portal, PATIENT.email, password, device)
    login = accounts.resolve(portal.database, cookie_value)
    assert login is not None
    return login


# -- registering ----------------------------------------------------------------------------------
def test_who_registers_can_sign_in_and_open_what_is_sealed_to_them(portal: Portal, patient: SignedIn) -> None:
    sealed = sealed_for(patient)
    ring = sign_in_again(portal).ring()
    assert ring.open_dek(sealed) == b"dek" and ring.open_study(sealed) == b"summary"
    assert events_of(portal, patient.account.id) == ["account-registered", "signed-in", "signed-in"]


def test_nobody_else_opens_it(patient: SignedIn, stranger: SignedIn) -> None:
    sealed = sealed_for(patient)
    with pytest.raises(EnvelopeError):
        stranger.login.ring().open_dek(sealed)
    sealed.id = "item-2"  # the owner's own, moved to another row
    with pytest.raises(EnvelopeError):
        patient.login.ring().open_dek(sealed)
    with pytest.raises(EnvelopeError):
        patient.login.ring().open_study(sealed)


@pytest.mark.parametrize("email", [PATIENT.email, f"  {PATIENT.email.upper()} "])
def test_an_address_has_one_account(portal: Portal, patient: SignedIn, email: str) -> None:
    with pytest.raises(EmailTaken):
        accounts.register(portal, email, "Another", NEW_PASSWORD)
    assert events_of(portal, patient.account.id).count("account-registered") == 1


def test_two_who_register_one_address_at_once_become_one_account(portal: Portal) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        try:
            accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
            outcomes.append("registered")
        except EmailTaken:
            outcomes.append("taken")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["registered", "taken", "taken", "taken"]
    with portal.database.read() as db:
        assert len(db.exec(select(Account)).all()) == len(db.exec(select(StoredKeyRing)).all()) == 1


@pytest.mark.parametrize("email", ["", "vera", "@patient.example", "vera@", "vera@@patient.example", "a b@c.example",
                                   "vera@patient.example\nBcc: x@y.example", "<vera@patient.example>", "a,b@c.example",
                                   "v" * 65 + "@patient.example", "vera@" + "a." * 130 + "example", "vera@-x.example",
                                   "vera@x..example", "vera\u202e@patient.example", "vera@patient.example\ud800"])
def test_what_is_no_address_is_refused(portal: Portal, email: str) -> None:
    with pytest.raises(FormRefused):
        accounts.register(portal, email, "Vera", NEW_PASSWORD)


@pytest.mark.parametrize("email", ["vera@localhost", "vera.l+phr@mail.patient.example", "Vera@Patient.Example",
                                   "\u0432\u0435\u0440\u0430@\u043f\u043e\u0447\u0442\u0430.example"])
def test_usual_and_unusual_addresses_are_taken(portal: Portal, email: str) -> None:
    account, _ = accounts.register(portal, email, "Vera", NEW_PASSWORD)
    assert account.email == email.casefold()


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "Vera\x00", "Vera\u202eL"])
def test_what_is_no_name_is_refused(portal: Portal, name: str) -> None:
    with pytest.raises(FormRefused):
        accounts.register(portal, PATIENT.email, name, NEW_PASSWORD)


def test_a_weak_password_makes_no_account(portal: Portal) -> None:
    with pytest.raises(PasswordRefused):
        accounts.register(portal, PATIENT.email, PATIENT.name, "Vera Lindqvist 12")
    with portal.database.read() as db:
        assert db.exec(select(Account)).all() == []


# -- signing in -----------------------------------------------------------------------------------
def test_unknown_address_and_wrong_password_get_the_same_answer(portal: Portal, patient: SignedIn) -> None:
    answers = []
    for email in (PATIENT.email, "nobody@patient.example", "", "\ud800", "x" * 5000):
        with pytest.raises(SignInFailed) as error:
            accounts.sign_in(portal, email, NEW_PASSWORD, "")
        answers.append((error.value.message, error.value.status, error.value.detail))
    assert len(set(answers)) == 1


def test_made_up_addresses_do_not_fill_the_trail(portal: Portal) -> None:
    for number in range(3):
        with pytest.raises(SignInFailed):
            accounts.sign_in(portal, f"{number}@patient.example", NEW_PASSWORD, "")
        with pytest.raises(RecoveryFailed):
            accounts.recover(portal, f"{number}@patient.example", passwords.new_recovery_code(), NEW_PASSWORD)
    assert trail.verify(portal.database) == 0


def test_unknown_address_costs_the_same_slow_hash(portal: Portal, patient: SignedIn,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[tuple[int, int]] = []
    real = passwords.hash_secret_raw

    def counted(*arguments: Any, **options: Any) -> bytes:
        work.append((options["memory_cost"], options["time_cost"]))
        return real(*arguments, **options)

    monkeypatch.setattr(passwords, "hash_secret_raw", counted)
    for email in (PATIENT.email, "nobody@patient.example"):
        with pytest.raises(SignInFailed):
            accounts.sign_in(portal, email, NEW_PASSWORD, "")
    assert len(work) == 2 and work[0] == work[1]


@pytest.mark.parametrize("password", ["", PATIENT.password.upper(), PATIENT.password + " ", "\ud800", "x" * 10_000])
def test_a_wrong_password_opens_nothing_and_is_noted(portal: Portal, patient: SignedIn, password: str) -> None:
    with pytest.raises(SignInFailed):
        accounts.sign_in(portal, PATIENT.email, password, "")
    assert events_of(portal, patient.account.id)[-1] == "sign-in-failed"
    assert len(accounts.list_login_sessions(portal, patient.login)) == 1


def test_guessing_makes_even_the_right_password_wait(portal: Portal, patient: SignedIn) -> None:
    for _ in range(account_subject("").free_tries):
        with pytest.raises(SignInFailed):
            accounts.sign_in(portal, PATIENT.email, NEW_PASSWORD, "")
    with pytest.raises(TooManyAttempts):
        accounts.sign_in(portal, PATIENT.email.upper(), PATIENT.password, "")


def test_guessing_from_one_address_makes_it_wait_at_every_account(portal: Portal, patient: SignedIn) -> None:
    for number in range(30):
        with pytest.raises(SignInFailed):
            accounts.sign_in(portal, f"{number}@patient.example", NEW_PASSWORD, "", address="192.0.2.7")
    with pytest.raises(TooManyAttempts):
        accounts.sign_in(portal, PATIENT.email, PATIENT.password, "", address="192.0.2.7")
    accounts.sign_in(portal, PATIENT.email, PATIENT.password, "", address="192.0.2.8")


def test_raised_argon2_parameters_are_taken_on_at_the_next_sign_in(portal: Portal, patient: SignedIn) -> None:
    stronger = new_portal(portal.settings.home, portal.settings.redis_url, argon2_memory_kib=16, argon2_passes=2)
    try:
        sign_in_again(stronger)
        with portal.database.read() as db:
            stored = db.get(StoredKeyRing, patient.account.id)
        assert stored is not None and passwords.parameters(stored.wrapped_by_password) == (16, 2)
        sign_in_again(stronger)
    finally:
        stronger.database.dispose()
        stronger.redis.close()


def test_a_closed_account_lets_nobody_in_or_stay(portal: Portal, patient: SignedIn) -> None:
    with portal.database.write() as db:
        account = db.get(Account, patient.account.id)
        assert account is not None
        account.closed_at = now()
        db.add(account)
    assert accounts.resolve(portal.database, patient.cookie_value) is None
    with pytest.raises(SignInFailed):
        accounts.sign_in(portal, PATIENT.email, PATIENT.password, "")


# -- staying signed in ----------------------------------------------------------------------------
def test_cookie_of_another_shape_or_content_is_nobody(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    row, token, key = patient.cookie_value.split(".")
    other_row, other_token, _ = stranger.cookie_value.split(".")
    hostile = ["", "x", "..", f"{row}.{token}", f"{row}.{token}.{key}.", f"{row}.{other_token}.{key}",
               f"{other_row}.{token}.{key}", f"{row}.{token[:-1]}.{key}", f"{row.upper()}.{token}.{key}",
               f"{row}.{token}.{key}\n", f"{row}\x00.{token}.{key}", "\ud800", "." * 10_000]
    for value in hostile:
        assert accounts.resolve(portal.database, value) is None, value


def test_a_cookie_with_another_ring_key_opens_no_ring(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    row, token, _ = patient.cookie_value.split(".")
    login = accounts.resolve(portal.database, f"{row}.{token}.{stranger.cookie_value.split('.')[2]}")
    assert login is not None
    with pytest.raises(EnvelopeError):
        login.ring()


def test_idle_browsers_are_signed_out(portal: Portal, patient: SignedIn) -> None:
    resolve = accounts.resolve
    assert resolve(portal.database, patient.cookie_value, touch=False, at=later(IDLE_SECONDS_MAX - 5)) is not None
    assert resolve(portal.database, patient.cookie_value, touch=False, at=later(IDLE_SECONDS_MAX + 1)) is None


def test_a_click_prolongs_and_a_poll_does_not(portal: Portal, patient: SignedIn) -> None:
    step = IDLE_SECONDS_MAX - 60
    for _ in range(3):  # polls, all within the limit of the sign-in itself
        assert accounts.resolve(portal.database, patient.cookie_value, touch=False, at=later(step)) is not None
    assert accounts.resolve(portal.database, patient.cookie_value, touch=False, at=later(2 * step)) is None
    assert accounts.resolve(portal.database, patient.cookie_value, touch=True, at=later(step)) is not None
    assert accounts.resolve(portal.database, patient.cookie_value, touch=False, at=later(2 * step)) is not None


def test_clicks_within_a_minute_write_once(portal: Portal, patient: SignedIn) -> None:
    def seen() -> dt.datetime:
        with portal.database.read() as db:
            row = db.get(LoginSession, patient.login.login_session.id)
            assert row is not None
            return row.last_seen_at

    first = seen()
    accounts.resolve(portal.database, patient.cookie_value, at=first + dt.timedelta(seconds=TOUCH_SECONDS - 1))
    assert seen() == first
    accounts.resolve(portal.database, patient.cookie_value, at=first + dt.timedelta(seconds=TOUCH_SECONDS))
    assert seen() == first + dt.timedelta(seconds=TOUCH_SECONDS)


def test_no_clicking_lasts_longer_than_twelve_hours(portal: Portal, patient: SignedIn) -> None:
    begun = patient.login.login_session.created_at
    for seconds in range(600, LIFE_SECONDS_MAX, 600):
        assert accounts.resolve(portal.database, patient.cookie_value, at=begun + dt.timedelta(seconds=seconds))
    end = begun + dt.timedelta(seconds=LIFE_SECONDS_MAX)
    assert accounts.resolve(portal.database, patient.cookie_value, at=end) is None


def test_signed_out_is_out_and_its_ring_is_gone(portal: Portal, patient: SignedIn) -> None:
    accounts.sign_out(portal, patient.login)
    accounts.sign_out(portal, patient.login)
    assert accounts.resolve(portal.database, patient.cookie_value) is None
    assert not accounts.is_live(portal.database, patient.login.login_session.id)
    with portal.database.read() as db:
        row = db.get(LoginSession, patient.login.login_session.id)
        assert row is not None and row.sealed_ring == b""
    assert events_of(portal, patient.account.id).count("signed-out") == 1


def test_one_browser_signs_out_another(portal: Portal, patient: SignedIn) -> None:
    other = sign_in_again(portal)
    listed = accounts.list_login_sessions(portal, patient.login)
    assert [row.device for row in listed] == ["Safari on iPad", "Firefox on Linux"]
    accounts.revoke(portal, patient.login, other.login_session.id)
    assert not accounts.is_live(portal.database, other.login_session.id)
    assert accounts.is_live(portal.database, patient.login.login_session.id)
    with pytest.raises(NotFound):
        accounts.revoke(portal, patient.login, other.login_session.id)


def test_a_stranger_signs_nobody_else_out(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    with pytest.raises(NotFound):
        accounts.revoke(portal, stranger.login, patient.login.login_session.id)
    with pytest.raises(NotFound):
        accounts.revoke(portal, stranger.login, "no-such-session")
    assert accounts.is_live(portal.database, patient.login.login_session.id)
    assert [row.account_id for row in accounts.list_login_sessions(portal, stranger.login)] == [stranger.account.id]


def test_ended_login_sessions_are_swept_and_live_ones_stay(portal: Portal, patient: SignedIn) -> None:
    other = sign_in_again(portal)
    accounts.sign_out(portal, other)
    assert login_sessions.sweep(portal.database) == 0
    assert login_sessions.sweep(portal.database, at=later(login_sessions.KEPT_SECONDS + 60)) == 1
    assert accounts.is_live(portal.database, patient.login.login_session.id)
    assert login_sessions.sweep(portal.database, at=later(10 * login_sessions.KEPT_SECONDS)) == 1


def test_device_words_are_kept_short_and_printable(portal: Portal, patient: SignedIn) -> None:
    login = sign_in_again(portal, device="Chrome\x00\u202e on " + "x" * 500)
    assert login.login_session.device.startswith("Chrome on x") and len(login.login_session.device) == 60


# -- changing the password ------------------------------------------------------------------------
def test_a_new_password_keeps_the_record_and_signs_out_the_others(portal: Portal, patient: SignedIn) -> None:
    sealed, other = sealed_for(patient), sign_in_again(portal)
    assert accounts.change_password(portal, patient.login, PATIENT.password, NEW_PASSWORD) == 1
    assert not accounts.is_live(portal.database, other.login_session.id)
    assert accounts.is_live(portal.database, patient.login.login_session.id)
    with pytest.raises(SignInFailed):
        accounts.sign_in(portal, PATIENT.email, PATIENT.password, "")
    assert sign_in_again(portal, NEW_PASSWORD).ring().open_dek(sealed) == b"dek"
    assert "password-changed" in events_of(portal, patient.account.id)


def test_the_recovery_code_outlives_a_new_password(portal: Portal, patient: SignedIn) -> None:
    accounts.change_password(portal, patient.login, PATIENT.password, NEW_PASSWORD)
    accounts.recover(portal, PATIENT.email, patient.recovery_code, "porcelain geese march slowly")


@pytest.mark.parametrize(("old", "new"), [(NEW_PASSWORD, "porcelain geese march slowly"),
                                          (PATIENT.password, "short"), (PATIENT.password, "Vera Lindqvist 12")])
def test_a_refused_change_changes_nothing(portal: Portal, patient: SignedIn, old: str, new: str) -> None:
    with pytest.raises(PasswordRefused):
        accounts.change_password(portal, patient.login, old, new)
    assert sign_in_again(portal)


def test_guessing_the_old_password_waits_too(portal: Portal, patient: SignedIn) -> None:
    for _ in range(account_subject("").free_tries):
        with pytest.raises(PasswordRefused):
            accounts.change_password(portal, patient.login, NEW_PASSWORD, "porcelain geese march slowly")
    with pytest.raises(TooManyAttempts):
        accounts.change_password(portal, patient.login, PATIENT.password, "porcelain geese march slowly")


# -- recovering -----------------------------------------------------------------------------------
def test_recovery_keeps_the_record_and_issues_the_next_code(portal: Portal, patient: SignedIn) -> None:
    sealed = sealed_for(patient)
    code = accounts.recover(portal, PATIENT.email, patient.recovery_code.lower(), NEW_PASSWORD)
    assert code != patient.recovery_code
    assert accounts.resolve(portal.database, patient.cookie_value) is None  # every browser is out
    assert sign_in_again(portal, NEW_PASSWORD).ring().open_dek(sealed) == b"dek"
    with pytest.raises(SignInFailed):
        accounts.sign_in(portal, PATIENT.email, PATIENT.password, "")
    with pytest.raises(RecoveryFailed):
        accounts.recover(portal, PATIENT.email, patient.recovery_code, "porcelain geese march slowly")
    accounts.recover(portal, PATIENT.email, code, "porcelain geese march slowly")
    assert events_of(portal, patient.account.id).count("recovered") == 2


def test_recovery_ends_the_wait_of_forgotten_passwords(portal: Portal, patient: SignedIn) -> None:
    for _ in range(account_subject("").free_tries):
        with pytest.raises(SignInFailed):
            accounts.sign_in(portal, PATIENT.email, NEW_PASSWORD, "")
    accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)
    assert sign_in_again(portal, NEW_PASSWORD)


def test_wrong_code_and_unknown_address_get_the_same_answer(portal: Portal, patient: SignedIn,
                                                            stranger: SignedIn) -> None:
    answers = set()
    for email in (PATIENT.email, "nobody@patient.example"):
        with pytest.raises(RecoveryFailed) as error:
            accounts.recover(portal, email, stranger.recovery_code, NEW_PASSWORD)
        answers.add((error.value.message, error.value.status))
    assert len(answers) == 1
    assert sign_in_again(portal)
    assert "recovery-failed" in events_of(portal, patient.account.id)


def test_a_mistyped_code_costs_no_try(portal: Portal, patient: SignedIn) -> None:
    for _ in range(20):
        with pytest.raises(RecoveryFailed):
            accounts.recover(portal, PATIENT.email, patient.recovery_code[:-1], NEW_PASSWORD)
    accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)


def test_guessing_codes_waits(portal: Portal, patient: SignedIn) -> None:
    for _ in range(5):
        with pytest.raises(RecoveryFailed):
            accounts.recover(portal, PATIENT.email, passwords.new_recovery_code(), NEW_PASSWORD)
    with pytest.raises(TooManyAttempts):
        accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)


def test_recovery_refuses_a_weak_password_and_keeps_the_code(portal: Portal, patient: SignedIn) -> None:
    for weak in ("short", "Lindqvist-Vera-1"):
        with pytest.raises(PasswordRefused):
            accounts.recover(portal, PATIENT.email, patient.recovery_code, weak)
    accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)


def test_a_new_recovery_code_replaces_the_old_one(portal: Portal, patient: SignedIn) -> None:
    code = accounts.new_recovery_code(portal, patient.login, PATIENT.password)
    with pytest.raises(RecoveryFailed):
        accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)
    accounts.recover(portal, PATIENT.email, code, NEW_PASSWORD)
    with pytest.raises(PasswordRefused):
        accounts.new_recovery_code(portal, patient.login, PATIENT.password)


def test_two_recoveries_at_once_leave_one_working_code(portal: Portal, patient: SignedIn) -> None:
    codes: list[str] = []
    start = threading.Barrier(2)

    def work() -> None:
        start.wait()
        try:
            codes.append(accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD))
        except (PasswordRefused, RecoveryFailed):
            pass

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(codes) == 1
    accounts.recover(portal, PATIENT.email, codes[0], "porcelain geese march slowly")


def test_a_new_code_made_during_a_recovery_is_not_undone_by_it(portal: Portal, patient: SignedIn,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[str] = []
    real = accounts._wrap

    def wrap_meanwhile(*arguments: Any) -> bytes:
        if not codes:
            codes.append(accounts.new_recovery_code(portal, patient.login, PATIENT.password))
        return real(*arguments)

    monkeypatch.setattr(accounts, "_wrap", wrap_meanwhile)
    with pytest.raises(PasswordRefused):
        accounts.recover(portal, PATIENT.email, patient.recovery_code, NEW_PASSWORD)
    assert sign_in_again(portal)
    accounts.recover(portal, PATIENT.email, codes[0], NEW_PASSWORD)


# -- what is stored -------------------------------------------------------------------------------
def test_the_database_alone_holds_nothing_that_opens_a_ring(
    portal: Portal, enter: Callable[..., SignedIn]
) -> None:
    patient = enter(PATIENT)
    accounts.change_password(portal, patient.login, PATIENT.password, NEW_PASSWORD)
    code = accounts.recover(portal, PATIENT.email, patient.recovery_code, STRANGER.password)
    signed_in = sign_in_again(portal, STRANGER.password)
    _, cookie_value = accounts.sign_in(portal, PATIENT.email, STRANGER.password, "")
    ring: KeyRing = signed_in.ring()
    secrets = [PATIENT.password, NEW_PASSWORD, STRANGER.password, patient.recovery_code, code,
               code.replace("-", ""), *cookie_value.split(".")[1:], *patient.cookie_value.split(".")[1:]]
    needles = [secret.encode() for secret in secrets] + [ring.private_key[1:], ring.to_bytes(), signed_in.ring_key]
    needles += [base64.urlsafe_b64decode(value + "=") for value in cookie_value.split(".")[1:]]
    needles += [needle.hex().upper().encode() for needle in needles]
    portal.database.dispose()
    stored = b"".join(path.read_bytes() for path in portal.settings.home.rglob("*") if path.is_file())
    stored += "\n".join(sqlite3.connect(portal.settings.home / "db" / "myphr.sqlite").iterdump()).encode()
    for key in portal.redis.keys("*"):  # type: ignore[union-attr]
        stored += key + repr(portal.redis.hgetall(key)).encode()
    for needle in needles:
        assert needle not in stored
    token_hash = hashlib.sha256(b"control").hexdigest()
    assert token_hash.encode() not in stored and PATIENT.email.encode() in stored  # the search itself works


def test_printing_a_login_shows_no_key(patient: SignedIn) -> None:
    patient.login.ring()
    text = repr(patient.login) + repr(patient)
    assert repr(patient.login.ring_key)[2:-1] not in text
    assert patient.cookie_value.split(".")[1] not in text and patient.recovery_code not in text


@pytest.mark.parametrize("ring", [b"", b"[]", b"null", b'{"version":2,"private":""}', b'{"version":1}',
                                  b'{"version":1,"private":"!!"}', b'{"version":1,"private":"AAAA"}', b"\xff"])
def test_a_damaged_ring_is_refused(ring: bytes) -> None:
    with pytest.raises(EnvelopeError):
        KeyRing.from_bytes(ring)
