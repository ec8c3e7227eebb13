"""Storing what a STOW-RS request carries (DICOM PS3.18, 10.5): the parts of its body become items, one answer says
which did and why the others did not. Small parts are made durable side by side and filed in one commit.

Knows no HTTP server; called by `web/dicom_web.py`."""

import dataclasses
import functools
import time
from collections.abc import Iterable
from typing import Any

from myphr.errors import (
    DropOffClosed,
    DropOffFull,
    NotDicom,
    OtherStudy,
    PortalError,
    RecordFull,
    StoreFull,
    UploadTooLarge,
)
from myphr.ingest import drop_offs
from myphr.ingest.deliveries import Delivery, FilingTogether
from myphr.ingest.drop_offs import Grant
from myphr.ingest.multipart import Event, PartData, PartEnd, PartStart
from myphr.records.filing import SealedFile
from myphr.records.items import Facts, RecordParts
from myphr.records.store import COMMITS_AT_ONCE, commit_all

MEDIA_TYPE = "application/dicom"
# Failure reasons: PS3.18 table I.2-2, PS3.7 annex C. Out of resources, not authorized, mismatch, cannot understand.
REASONS: dict[type[PortalError], int] = {
    UploadTooLarge: 0xA700, DropOffFull: 0xA700, RecordFull: 0xA700, StoreFull: 0xA700, DropOffClosed: 0x0124,
    OtherStudy: 0xA900, NotDicom: 0xC000,
}  # fmt: skip
# What came whole waits for company up to one of these; each has an open file, in S3 its bytes in memory.
TOGETHER_MAX = COMMITS_AT_ONCE
TOGETHER_BYTES_MAX = 8 * 1024**2
TOGETHER_SECONDS_MAX = 1.0  # what a slow line brings is in the record while the rest still comes
_STATUS_OF_NONE = (507, 413, 401)  # worth saying when nothing was stored; else 409
_TAGS = {"class": "00081150", "instance": "00081155", "reason": "00081197"}


@dataclasses.dataclass(frozen=True)
class Names:
    """SOP class and instance, as the file says; empty if it does not."""

    sop_class: str = ""
    instance: str = ""


def names_in(facts: Facts) -> Names:
    headers = facts.headers or {}
    return Names(str(headers.get("sop_class") or ""), str(headers.get("instance_uid") or ""))


def check_image(facts: Facts, study_uid: str | None = None) -> None:
    """Raises NotDicom for what does not say which image it is, OtherStudy."""
    names, found_uid = names_in(facts), (facts.headers or {}).get("study_uid")
    if facts.format != "dicom" or not (names.sop_class and names.instance and found_uid):
        raise NotDicom()
    if study_uid is not None and found_uid != study_uid:
        raise OtherStudy()


@dataclasses.dataclass
class _Whole:
    """A part that came whole and is an image; in no record yet."""

    names: Names
    delivery: Delivery
    sealed: SealedFile
    error: PortalError | None = None


class Store:
    """One request. Give it the events of its body, then `finish`, then ask for `status` and `answer`; `close` in any
    case."""

    def __init__(self, parts: RecordParts, grant: Grant, study_uid: str | None = None) -> None:
        self._parts, self._grant, self._study_uid = parts, grant, study_uid
        self._filing = FilingTogether(parts)
        self._delivery: Delivery | None = None
        self._whole: list[_Whole] = []
        self._waits_since = 0.0
        self.stored: list[Names] = []
        self.failed: list[tuple[Names, PortalError]] = []

    def take(self, events: Iterable[Event]) -> None:
        """Raises PortalError only for what has no reason in REASONS; all else becomes a line of the answer."""
        for event in events:
            delivery = self._delivery
            try:
                if isinstance(event, PartStart):
                    self._begin(event)
                elif delivery is not None and isinstance(event, PartData):
                    delivery.write(event.data)
                elif delivery is not None and isinstance(event, PartEnd):
                    self._end(delivery)
            except PortalError as error:
                self._drop()
                self._fail(Names(), error)
            if self._whole and time.monotonic() - self._waits_since > TOGETHER_SECONDS_MAX:
                self._file()

    def finish(self) -> None:
        """Files what came whole, also of a body that broke off. Raises as `take`."""
        self._file()
        self._filing.ask_to_read(self._grant.account_id)

    def close(self) -> None:
        """Whatever did not come whole leaves nothing."""
        for one in self._whole:
            one.delivery.abort()
        self._drop()

    @property
    def is_over(self) -> bool:
        """Whether the rest of the body can only fail: the drop-off takes no more."""
        return any(isinstance(error, DropOffClosed | DropOffFull) for _, error in self.failed)

    def status(self) -> int:
        """200 all, 202 some, 409 none; 413, 507 or 401 if that is why there is none."""
        if not self.failed:
            return 200 if self.stored else 400
        if self.stored:
            return 202
        found = {error.status for _, error in self.failed}
        return next((status for status in _STATUS_OF_NONE if status in found), 409)

    def answer(self) -> dict[str, Any]:
        """The data set of PS3.18 table 10.5.3-1 as DICOM JSON."""
        found: dict[str, Any] = {}
        if self.stored:
            found["00081199"] = {"vr": "SQ", "Value": [_item(names) for names in self.stored]}
        failed = [_item(names, error) for names, error in self.failed if names.instance]
        if failed:
            found["00081198"] = {"vr": "SQ", "Value": failed}
        others = [{_TAGS["reason"]: _number(error)} for names, error in self.failed if not names.instance]
        if others:
            found["0008119A"] = {"vr": "SQ", "Value": others}
        return found

    def _begin(self, start: PartStart) -> None:
        kind = start.headers.get("content-type", MEDIA_TYPE).split(";")[0].strip().lower()
        if kind != MEDIA_TYPE:
            raise NotDicom()
        if not self._whole:  # once for those that are filed together: the commit looks again in any case
            self._grant = drop_offs.still(self._parts, self._grant)
        self._delivery = Delivery(self._parts, self._grant, self._filing)

    def _end(self, delivery: Delivery) -> None:
        names = Names()

        def check(facts: Facts) -> None:
            nonlocal names
            names = names_in(facts)
            check_image(facts, self._study_uid)

        try:
            sealed = delivery.close_up(check)
        except PortalError as error:
            self._drop()
            self._fail(names, error)
            return
        self._delivery = None
        if not self._whole:
            self._waits_since = time.monotonic()
        self._whole.append(_Whole(names, delivery, sealed))
        size = sum(one.sealed.plain_bytes for one in self._whole)
        if len(self._whole) >= TOGETHER_MAX or size >= TOGETHER_BYTES_MAX:
            self._file()

    def _file(self) -> None:
        """Makes durable what waits, and files it."""
        commit_all([functools.partial(_commit, one) for one in self._whole])
        durable = [one for one in self._whole if one.error is None]
        outcomes = self._filing.file_all(self._grant, [one.sealed for one in durable]) if durable else []
        for one, outcome in zip(durable, outcomes, strict=True):
            one.error = outcome if isinstance(outcome, PortalError) else None
        whole, self._whole = self._whole, []
        self.stored += [one.names for one in whole if one.error is None]
        for one in whole:
            if one.error is not None:
                self._fail(one.names, one.error)

    def _fail(self, names: Names, error: PortalError) -> None:
        if type(error) not in REASONS:
            raise error
        self.failed.append((names, error))

    def _drop(self) -> None:
        if self._delivery is not None:
            self._delivery.abort()
            self._delivery = None


def _commit(one: _Whole) -> None:
    try:
        one.delivery.commit()
    except PortalError as error:
        one.error = error


def _item(names: Names, error: PortalError | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        _TAGS["class"]: {"vr": "UI", "Value": [names.sop_class] if names.sop_class else []},
        _TAGS["instance"]: {"vr": "UI", "Value": [names.instance]},
    }
    if error is not None:
        found[_TAGS["reason"]] = _number(error)
    return found


def _number(error: PortalError) -> dict[str, Any]:
    return {"vr": "US", "Value": [REASONS[type(error)]]}
