"""A lease: who is driving a VM session, a machine or a sweep at the moment. Lives in Redis and runs out by itself,
so a worker killed with -9 blocks its work for `LEASE_SECONDS` at most.

Not what keeps the state right - that is the conditional UPDATE in `states` - but what keeps two workers from doing
the same slow thing twice, and what tells the sweep that somebody is at it.
"""

import contextlib
import time
from collections.abc import Iterator

import redis

from myphr.machines.states import StateConflict

LEASE_SECONDS = 15
RENEW_SECONDS = 4


class LeaseTaken(StateConflict):
    """Somebody else drives this row."""


class LeaseLost(StateConflict):
    """This worker was silent for too long and somebody else has taken over: stop at once."""


class Lease:
    """Call it often: it renews itself every `RENEW_SECONDS`. Raises LeaseLost."""

    def __init__(self, lock: "redis.lock.Lock") -> None:
        self._lock = lock
        self._renewed = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        try:
            self._lock.reacquire()
        except redis.exceptions.LockError:
            raise LeaseLost("the lease ran out") from None
        except redis.exceptions.RedisError:
            return  # Redis is being restarted: the states still guard every step
        self._renewed = time.monotonic()


def _name(kind: str, row_id: str) -> str:
    return f"myphr:lease:{kind}:{row_id}"


@contextlib.contextmanager
def hold(connection: redis.Redis, kind: str, row_id: str, *, wait_seconds: float = 0) -> Iterator[Lease]:
    """Drive this row. Raises LeaseTaken when somebody else does, after waiting for `wait_seconds`."""
    lock = connection.lock(_name(kind, row_id), timeout=LEASE_SECONDS, sleep=0.1)
    if not lock.acquire(blocking=wait_seconds > 0, blocking_timeout=wait_seconds or None):
        raise LeaseTaken(f"{kind} {row_id} is being worked on")
    try:
        yield Lease(lock)
    finally:
        # Lost or Redis away: it runs out by itself.
        with contextlib.suppress(redis.exceptions.LockError, redis.exceptions.RedisError):
            lock.release()


def is_held(connection: redis.Redis, kind: str, row_id: str) -> bool:
    return bool(connection.exists(_name(kind, row_id)))
