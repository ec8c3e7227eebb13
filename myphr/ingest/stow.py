"""Storing what a STOW-RS request carries (DICOM PS3.18, 10.5): the parts of its body become items, one answer says
which did and why the others did not. Knows no HTTP server; called by `web/dicom_web.py`."""

import dataclasses
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
from myphr.ingest.drop_offs import Delivery, Grant
from myphr.ingest.multipart import Event, PartData, PartEnd, PartStart
from myphr.records.items import Facts, RecordParts

MEDIA_TYPE = "application/dicom"
# Failure reasons: PS3.18 table I.2-2, PS3.7 annex C. Out of resources, not authorized, mismatch, cannot understand.
REASONS: dict[type[PortalError], int] = {
    UploadTooLarge: 0xA700, DropOffFull: 0xA700, RecordFull: 0xA700, StoreFull: 0xA700, DropOffClosed: 0x0124,
    OtherStudy: 0xA900, NotDicom: 0xC000,
}  # fmt: skip
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


class Store:
    """One request. Give it the events of its body, then ask for `status` and `answer`; `close` in any case."""

    def __init__(self, parts: RecordParts, grant: Grant, study_uid: str | None = None) -> None:
        self._parts, self._grant, self._study_uid = parts, grant, study_uid
        self._delivery: Delivery | None = None
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
                self._fail(Names(), error)

    def close(self) -> None:
        """Whatever did not come whole leaves nothing."""
        if self._delivery is not None:
            self._delivery.abort()
            self._delivery = None

    @property
    def is_over(self) -> bool:
        """Whether the rest of the body can only fail: the drop-off takes no more."""
        return bool(self.failed) and isinstance(self.failed[-1][1], DropOffClosed | DropOffFull)

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
        self._delivery = Delivery(self._parts, drop_offs.still(self._parts, self._grant))

    def _end(self, delivery: Delivery) -> None:
        found: list[Names] = []

        def check(facts: Facts) -> None:
            found.append(names_in(facts))
            check_image(facts, self._study_uid)

        try:
            delivery.finish(check)
        except PortalError as error:
            self._fail(found[0] if found else Names(), error)
        else:
            self.stored.append(found[0])
        self._delivery = None

    def _fail(self, names: Names, error: PortalError) -> None:
        if type(error) not in REASONS:
            raise error
        self.close()
        self.failed.append((names, error))


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
