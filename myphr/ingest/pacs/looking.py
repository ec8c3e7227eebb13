"""What a PACS has of a patient: one C-FIND, and the list sealed to her. An answer about somebody else is dropped, and
counted. Called by `fetching` and its questions about one study."""

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from myphr.crypto import envelope
from myphr.ingest import dicom
from myphr.ingest.dimse import asking
from myphr.ingest.fetch.runs import Taken
from myphr.ingest.pacs import plan as plans
from myphr.ingest.pacs import servers
from myphr.ingest.pacs.models import PacsFetch
from myphr.ingest.pacs.plan import BIRTH_DATE, ISSUER, PATIENT_ID, Plan
from myphr.ingest.pacs.requestor import Requestor

LOOK_SECONDS_MAX = 120
STUDIES_MAX = 1_000
LEVEL, STUDY = 0x00080052, 0x0020000D
_DATE, _MODALITIES, _DESCRIPTION, _IMAGES = 0x00080020, 0x00080061, 0x00081030, 0x00201208
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

Fetch = Taken[PacsFetch, Plan]


def line_to(
    taken: Fetch, services: Sequence[str], classes: Sequence[str] = (), *, ends_at: float, tick: Callable[[], None]
) -> Requestor:
    """To the PACS of this fetch. Raises PacsRefused, NotFound."""
    settings = taken.parts.settings
    peer = servers.peer_of(settings, servers.one(taken.parts, taken.plan.pacs))
    return Requestor(
        peer, services, classes, ends_at=ends_at, tick=tick, silence_seconds=settings.pacs_silence_seconds
    )


def look(taken: Fetch) -> None:
    patient = taken.plan.patient
    asked = {
        LEVEL: "STUDY", PATIENT_ID: patient.number, ISSUER: patient.issuer, BIRTH_DATE: "", STUDY: "", _DATE: "",
        _MODALITIES: "", _DESCRIPTION: "", _IMAGES: "",
    }  # fmt: skip
    ends_at = time.monotonic() + LOOK_SECONDS_MAX
    with line_to(taken, [asking.STUDY_ROOT_FIND], ends_at=ends_at, tick=taken.tick) as line:
        answers = line.find(asked, STUDIES_MAX)
    hers = [one for one in answers if patient.is_meant_by(one) and uid_in(one, STUDY)]
    listed = {uid_in(one, STUDY): _listed(one) for one in hers}
    newest = sorted(listed.values(), key=lambda one: one["date"], reverse=True)
    sealed = envelope.seal_to(
        taken.owner_public_key, json.dumps(newest).encode(), context=plans.list_context(taken.row.id)
    )
    with taken.parts.database.write() as db:
        taken.move(
            db, "list", sealed_list=sealed, sealed_for_worker=None, studies_count=len(newest),
            refused_count=len(answers) - len(hers),
        )  # fmt: skip


def uid_in(answer: dict[int, bytes], tag: int) -> str:
    """"" for what is none: it goes into questions and contexts."""
    text = answer.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace")
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def _listed(answer: dict[int, bytes]) -> dict[str, Any]:
    """One study as the list keeps it."""
    images = dicom.text_in(answer, _IMAGES)
    return {
        "uid": uid_in(answer, STUDY),
        "date": dicom.text_in(answer, _DATE)[:8],
        "modalities": [one.strip()[:16] for one in dicom.text_in(answer, _MODALITIES).split("\\")[:8] if one.strip()],
        "description": dicom.text_in(answer, _DESCRIPTION),
        "images": int(images) if images.isascii() and images.isdecimal() and len(images) < 8 else 0,
    }
