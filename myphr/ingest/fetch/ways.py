"""What tells one way of fetching from another. Values and functions only: `ingest.fhir.way` and `ingest.pacs.way` fill
one in each, `rows` and `runs` go by it."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from sqlmodel import Session

from myphr.errors import PortalError
from myphr.ingest.fetch.models import FetchRow
from myphr.records.items import RecordParts
from myphr.settings import Settings
from myphr.state_tables import StateTable


class Plan(Protocol):
    """What a worker knows of a fetch."""

    @property
    def whom(self) -> str:
        """The place that is asked, as patients know it."""


# Why a fetch ended, of whatever kind of place, by code.
OUR_REASONS: Mapping[str, str] = {
    "cut-off": "it was cut off on our side for too long. Try again",
    "record-full": "your record has no room left",
    "store-full": "the computer that keeps your record is full. What has come is kept. Please tell who runs this "
    "portal, and fetch the rest once there is room",
}

AnyRow = TypeVar("AnyRow", bound=FetchRow)
AnyPlan = TypeVar("AnyPlan", bound=Plan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way(Generic[AnyRow, AnyPlan]):
    """One kind of place that patients fetch from.

    The table's events are `fail`, `withdraw`, `lapse`, `step` and `finish`, and those by which a run takes a fetch:
    they lead from the state they lead to into itself, so that a run can take over from one that was cut off."""

    source: str  # of the items
    trail_word: str  # its events in the trail: <word>-failed, <word>-withdrawn, <word>-fetched
    table: StateTable
    working: tuple[str, ...]  # states in which it goes on by itself
    patience: Mapping[str, dt.timedelta]  # states that wait for somebody: how long, until the fetch lapses
    again: Mapping[str, str]  # states in which a worker is due: the sweep's job
    erased: Mapping[str, Any]  # columns that are emptied at every end
    takes_over: bool  # a run overtakes an earlier one when it begins, not only with the first that it files
    reasons: Mapping[str, str]  # why it failed, by code; OUR_REASONS among them
    ended: str  # the reason when nothing may be fetched this way any more
    refusal: type[PortalError]  # what it raises, with one of the reasons as `detail`
    seconds_max: Callable[[Settings], int]  # of one fetch
    open_plan: Callable[[bytes, str, bytes], AnyPlan]  # worker's private key, fetch id, envelope; raises EnvelopeError
    seal_plan: Callable[[bytes, str, AnyPlan], bytes]  # worker's public key, fetch id, plan
    may: Callable[[RecordParts, Session, AnyRow, AnyPlan], bool]  # (still) be fetched? Every commit asks

    @property
    def model(self) -> type[AnyRow]:
        return self.table.model

    @property
    def live(self) -> list[str]:
        """States of a fetch that is not over."""
        return [state for state in self.table.states if state not in self.table.final]

    def refused(self, code: str) -> PortalError:
        return self.refusal(code, reason=self.reasons[code])

    def reason(self, row: AnyRow) -> str:
        """Completes a sentence on the page; "" for a fetch that did not fail."""
        return self.reasons.get(row.error_code or "", "")

    def longest(self, settings: Settings) -> dt.timedelta:
        """After so long a fetch that a worker is due for is given up, however often it was put back."""
        waits = max(self.patience[state] for state in self.patience)
        return waits + dt.timedelta(seconds=2 * self.seconds_max(settings))
