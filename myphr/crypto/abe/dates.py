"""Days as attributes: a record carries the prefixes of its day, a range of days is an OR of few prefixes.

Spec: docs/formats/policy.md, "Dates". Takes days from the caller; knows no clock. Called by `sharing`, for keys over
the labels of records."""

import datetime

from myphr.crypto.abe.policy import Attribute, Policy, any_of
from myphr.errors import PolicyError

FIRST_DAY = datetime.date(1900, 1, 1)
LEVELS = 16  # 2^16 days are 179 years; each level more would be an attribute more on every record
LAST_DAY = FIRST_DAY + datetime.timedelta(days=2**LEVELS - 1)
NAME = "date"


def _number(day: datetime.date) -> int:
    if not isinstance(day, datetime.date) or isinstance(day, datetime.datetime) or not FIRST_DAY <= day <= LAST_DAY:
        raise PolicyError(reason=f"a day has to be from {FIRST_DAY.isoformat()} to {LAST_DAY.isoformat()}")
    return (day - FIRST_DAY).days


def _prefix(number: int, level: int) -> str:
    """Value of the prefix of `level` digits of day `number`."""
    return "p" + format(number, f"0{LEVELS}b")[:level]


def date_attributes(day: datetime.date, *, authority: str, epoch: int = 0, name: str = NAME) -> tuple[Attribute, ...]:
    """The 17 attributes of a record of that day, from "any day" to the day itself. Raises PolicyError."""
    number = _number(day)
    return tuple(Attribute(authority, name, _prefix(number, level), epoch) for level in range(LEVELS + 1))


def date_range(first: datetime.date, last: datetime.date, *, authority: str, epoch: int = 0,
               name: str = NAME) -> Policy:
    """A policy that holds for exactly the days `first` to `last`, both included: at most 30 leaves.

    Raises PolicyError for days out of range or in the wrong order."""
    start, end = _number(first), _number(last)
    if start > end:
        raise PolicyError(reason="the first day is after the last")
    parts = []
    while start <= end:
        # The largest aligned block that begins at `start` and does not reach beyond `end`.
        size = min(start & -start or 2**LEVELS, 1 << (end - start + 1).bit_length() - 1)
        parts.append(Attribute(authority, name, _prefix(start, LEVELS - size.bit_length() + 1), epoch))
        start += size
    return any_of(*parts)
