"""Guess limiting in a real Redis: counted before the work, growing waits, fails closed."""

import threading
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from myphr.errors import SignInUnavailable, TooManyAttempts
from myphr.people.attempts import (
    FORGET_FREE_SECONDS,
    FORGET_SECONDS,
    WAIT_SECONDS_FIRST,
    WAIT_SECONDS_MAX,
    Attempts,
    account_subject,
    address_subject,
)

VERA, NILS = account_subject("vera@patient.example"), account_subject("nils@elsewhere.example")
CLINIC = address_subject("192.0.2.7")


class Clock:
    """A clock that stands still until told."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as connection:
        yield connection


@pytest.fixture
def attempts(connection: redis.Redis, clock: Clock) -> Attempts:
    return Attempts(connection, bytes(32), clock)


def wait_after(attempts: Attempts, *subjects: object) -> int:
    with pytest.raises(TooManyAttempts) as error:
        attempts.begin(*subjects)  # type: ignore[arg-type]
    return int(error.value.facts["seconds"])  # type: ignore[call-overload]


def test_five_tries_are_free_and_the_sixth_waits(attempts: Attempts) -> None:
    for _ in range(VERA.free_tries):
        attempts.begin(VERA)
    assert wait_after(attempts, VERA) == WAIT_SECONDS_FIRST
    attempts.begin(NILS)


def test_waits_double_up_to_the_longest(attempts: Attempts, clock: Clock) -> None:
    for _ in range(VERA.free_tries):
        attempts.begin(VERA)
    waits = []
    for _ in range(9):
        waits.append(wait_after(attempts, VERA))
        clock.now += waits[-1]
        attempts.begin(VERA)
    assert waits == [15, 30, 60, 120, 240, 480, WAIT_SECONDS_MAX, WAIT_SECONDS_MAX, WAIT_SECONDS_MAX]


def test_a_try_while_waiting_does_not_lengthen_the_wait(attempts: Attempts, clock: Clock) -> None:
    for _ in range(VERA.free_tries):
        attempts.begin(VERA)
    for _ in range(20):
        wait_after(attempts, VERA)
    clock.now += WAIT_SECONDS_FIRST - 1
    assert wait_after(attempts, VERA) == 1
    clock.now += 1
    attempts.begin(VERA)


def test_success_forgets_the_account(attempts: Attempts) -> None:
    for _ in range(VERA.free_tries - 1):
        attempts.begin(VERA)
    attempts.succeeded(VERA)
    for _ in range(VERA.free_tries):
        attempts.begin(VERA)


def test_one_address_that_guesses_at_many_accounts_waits(attempts: Attempts) -> None:
    for number in range(CLINIC.free_tries):
        attempts.begin(account_subject(f"{number}@patient.example"), CLINIC)
    assert wait_after(attempts, VERA, CLINIC) == WAIT_SECONDS_FIRST
    attempts.begin(VERA, address_subject("192.0.2.8"))


def test_a_refused_try_counts_for_nobody(attempts: Attempts) -> None:
    for _ in range(VERA.free_tries):
        attempts.begin(VERA)
    for _ in range(CLINIC.free_tries * 2):
        wait_after(attempts, VERA, CLINIC)
    attempts.begin(NILS, CLINIC)


def test_ones_own_success_does_not_hide_the_addresss_failures(attempts: Attempts) -> None:
    """Else whoever owns one account could guess at others without end by signing in now and then."""
    for number in range(CLINIC.free_tries - 1):
        attempts.begin(account_subject(f"{number}@patient.example"), CLINIC)
        if number % 3 == 0:
            attempts.begin(NILS, CLINIC)
            attempts.succeeded(NILS, CLINIC)
    attempts.begin(NILS, CLINIC)
    assert wait_after(attempts, VERA, CLINIC) == WAIT_SECONDS_FIRST


def test_people_of_one_hospital_sign_in_without_end(attempts: Attempts) -> None:
    for number in range(5 * CLINIC.free_tries):
        person = account_subject(f"{number}@patient.example")
        attempts.begin(person, CLINIC)
        attempts.succeeded(person, CLINIC)


def test_parallel_guesses_get_no_more_free_tries(redis_url: str, clock: Clock) -> None:
    granted, start = [], threading.Barrier(20)

    def guess() -> None:
        with redis.Redis.from_url(redis_url) as connection:
            start.wait()
            try:
                Attempts(connection, bytes(32), clock).begin(VERA)
                granted.append(1)
            except TooManyAttempts:
                pass

    threads = [threading.Thread(target=guess) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == VERA.free_tries


def test_redis_holds_no_address_and_forgets(attempts: Attempts, connection: redis.Redis) -> None:
    attempts.begin(VERA, CLINIC)
    assert all(connection.ttl(key) <= FORGET_FREE_SECONDS for key in connection.keys("*"))  # type: ignore[operator]
    for _ in range(VERA.free_tries - 1):
        attempts.begin(VERA)
    assert max(connection.ttl(key) for key in connection.keys("*")) > FORGET_FREE_SECONDS  # type: ignore[type-var]
    for key in connection.keys("*"):
        assert b"vera" not in key and b"192.0.2" not in key
        assert b"vera" not in repr(connection.hgetall(key)).encode()
        assert 0 < connection.ttl(key) <= FORGET_SECONDS  # type: ignore[operator]


def test_without_redis_nobody_may_try(tmp_path: object) -> None:
    nowhere = redis.Redis(unix_socket_path=f"{tmp_path}/nothing.sock", retry=Retry(NoBackoff(), 0))
    attempts = Attempts(nowhere, bytes(32))
    with pytest.raises(SignInUnavailable):
        attempts.begin(VERA)
    with pytest.raises(SignInUnavailable):
        attempts.succeeded(VERA)
