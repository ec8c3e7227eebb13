"""Who a patient is at a PACS, and what a worker still has to fetch of her there. Pure: values and envelopes.

What an answer or an image says is held against `Patient` here and nowhere else. Called by the rest of this package."""

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from myphr.crypto import envelope
from myphr.errors import FormRefused
from myphr.ingest import dicom

PATIENT_ID_CHARACTERS_MAX = 64  # of LO (PS3.5, table 6.2-1)
PATIENT_ID, ISSUER, BIRTH_DATE = 0x00100020, 0x00100021, 0x00100030


@dataclasses.dataclass(frozen=True)
class Patient:
    """`issuer` is "" at a PACS that knows one kind of numbers only. `birth_date`: YYYYMMDD."""

    number: str = dataclasses.field(repr=False)
    issuer: str = dataclasses.field(repr=False)
    birth_date: str = dataclasses.field(repr=False)

    def is_meant_by(self, answer: dict[int, bytes]) -> bool:
        """Whether an answer to a C-FIND is about her: the very number; the issuer, where one was given; and no other
        date of birth. A PACS that ignores what it was asked, or matches loosely, gets no further than here."""
        number, issuer, born = (dicom.text_in(answer, tag) for tag in (PATIENT_ID, ISSUER, BIRTH_DATE))
        return number == self.number and self._fits(issuer, born)

    def is_in(self, headers: Mapping[str, Any]) -> bool:
        """Whether an image says that it is of her. Of the issuer the answer about its study has spoken."""
        born = str(headers.get("patient_birth_date") or "")
        return str(headers.get("patient_id") or "") == self.number and self._fits(self.issuer, born)

    def _fits(self, issuer: str, born: str) -> bool:
        return (not self.issuer or issuer == self.issuer) and (not born or born == self.birth_date)


def checked_patient(number: str, issuer: str, birth_date: str) -> Patient:
    """As somebody typed it, `birth_date` as YYYY-MM-DD. Raises FormRefused.

    Nothing that a PACS takes for a wildcard or a list (PS3.4, C.2.2.2) gets in, so that none is ever asked."""
    number, issuer = number.strip(), issuer.strip()
    for text, words in ((number, "the patient's number there"), (issuer, "the issuer of the number")):
        plain = text.isascii() and text.isprintable() and not set(text) & set("*?\\") and text == dicom.clean(text)
        if len(text) > PATIENT_ID_CHARACTERS_MAX or not plain:
            raise FormRefused(reason=f"{words} may have 64 letters and digits at most, and none of * ? \\")
    if not number:
        raise FormRefused(reason="the patient's number there is missing")
    try:
        born = dt.date.fromisoformat(birth_date.strip())
    except ValueError:
        raise FormRefused(reason="enter the date of birth") from None
    return Patient(number, issuer, born.strftime("%Y%m%d"))


@dataclasses.dataclass
class Plan:
    """What the worker knows of a fetch; sealed to it, gone at the end. `todo`: study UIDs, with how many images are
    expected in each (0: not known). `series_asked`: those of the study under way that a PACS has sent as far as it
    could, and `accounted` the images of them that a C-MOVE brought and that are no items of this fetch: here already,
    or refused. `seconds_used`: of the time that a fetch may take, waiting for its turn not counted."""

    pacs: str
    pacs_name: str = dataclasses.field(repr=False)
    patient: Patient
    todo: dict[str, int] = dataclasses.field(default_factory=dict, repr=False)
    series_asked: list[str] = dataclasses.field(default_factory=list, repr=False)
    accounted: int = 0
    seconds_used: float = 0.0

    @property
    def whom(self) -> str:
        return self.pacs_name


def seal(worker_public_key: bytes, fetch_id: str, plan: Plan) -> bytes:
    text = json.dumps(dataclasses.asdict(plan), separators=(",", ":"))
    return envelope.seal_to(worker_public_key, text.encode(), context=_context(fetch_id))


def open_with(worker_private_key: bytes, fetch_id: str, sealed: bytes) -> Plan:
    """Raises EnvelopeError."""
    facts: dict[str, Any] = json.loads(envelope.open_with(worker_private_key, sealed, context=_context(fetch_id)))
    facts["patient"] = Patient(**facts["patient"])
    return Plan(**facts)


def _context(fetch_id: str) -> bytes:
    return envelope.context_for("pacs-worker", fetch_id)


def list_context(fetch_id: str) -> bytes:
    return envelope.context_for("pacs-list", fetch_id)
