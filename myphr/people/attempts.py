"""Counts tries at a password or code in Redis and makes the next one wait, longer each time.

A try is counted before the work is done, so parallel guesses cannot slip past. Without Redis nobody may try: fails
closed. Knows keyed hashes of subjects only. Called by `accounts`, and by `sharing` for passcodes if it likes.
"""

import dataclasses
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import redis

from myphr.errors import SignInUnavailable, TooManyAttempts

WAIT_SECONDS_FIRST = 15
WAIT_SECONDS_MAX = 900  # a stranger who guesses on purpose keeps the owner out for at most this long after the last try
FORGET_SECONDS = 86_400
FORGET_FREE_SECONDS = 3_600  # made-up addresses, five tries each, must not fill Redis for a day

# KEYS: one hash per subject. ARGV: now, first wait, longest wait, forget after (when waiting, when not), then the free
# tries of each subject.
_BEGIN = """
local now, first, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wait = 0
for _, key in ipairs(KEYS) do
  wait = math.max(wait, tonumber(redis.call('HGET', key, 'free_at') or '0') - now)
end
if wait > 0 then return math.ceil(wait) end
for i, key in ipairs(KEYS) do
  local over = redis.call('HINCRBY', key, 'count', 1) - tonumber(ARGV[5 + i])
  if over >= 0 then
    redis.call('HSET', key, 'free_at', tostring(now + math.min(longest, first * 2 ^ math.min(over, 20))))
  end
  redis.call('EXPIRE', key, over >= 0 and ARGV[4] or ARGV[5])
end
return 0
"""
# KEYS[1] is forgotten; the others get this one try back, so that a success hides no failures of the same address.
_SUCCEEDED = """
redis.call('DEL', KEYS[1])
for i = 2, #KEYS do
  if tonumber(redis.call('HGET', KEYS[i], 'count') or '0') > 0 then
    redis.call('HINCRBY', KEYS[i], 'count', -1)
    redis.call('HDEL', KEYS[i], 'free_at')
  end
end
"""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is counted: `kind` "account", "address" ..., its text, and how many tries are free of waiting."""

    kind: str
    text: str
    free_tries: int


def account_subject(email: str) -> Subject:
    return Subject("account", email, 5)


def recovery_subject(email: str) -> Subject:
    return Subject("recovery", email, 5)


def second_step_subject(account_id: str) -> Subject:
    return Subject("second-step", account_id, 5)


def address_subject(address: str) -> Subject:
    """An IP address: many people of one hospital may share it, so it has more free tries."""
    return Subject("address", address, 30)


class Attempts:
    """`begin` before the work, `succeeded` after a success; a failure needs no call."""

    def __init__(self, connection: redis.Redis, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._redis = connection
        self._key = key
        self._clock = clock

    def begin(self, *subjects: Subject) -> None:
        """Counts one try for each subject. Raises TooManyAttempts (fact `seconds`) while one of them has to wait, and
        then counts nothing; SignInUnavailable without Redis."""
        limits = [self._clock(), WAIT_SECONDS_FIRST, WAIT_SECONDS_MAX, FORGET_SECONDS, FORGET_FREE_SECONDS]
        wait = self._run(_BEGIN, subjects, *limits, *(subject.free_tries for subject in subjects))
        if wait:
            raise TooManyAttempts(seconds=int(wait))

    def succeeded(self, proved: Subject, *others: Subject) -> None:
        """Forgets the tries at `proved`; gives `others` this one try back. Raises SignInUnavailable without Redis."""
        self._run(_SUCCEEDED, (proved, *others))

    def _run(self, script: str, subjects: tuple[Subject, ...], *values: float) -> Any:
        keys = [self._name(subject) for subject in subjects]
        try:
            return self._redis.eval(script, len(keys), *keys, *(repr(value) for value in values))
        except redis.RedisError as error:
            raise SignInUnavailable("attempt counter does not answer") from error

    def _name(self, subject: Subject) -> str:
        text = f"myphr/attempts/1|{subject.kind}|{subject.text}"
        return f"myphr:attempts:{hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]}"
