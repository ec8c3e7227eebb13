"""What a record holds, as a FHIR R4 Bundle: the table of contents of a download that another system can read.

Pure: facts in, JSON out. Knows no keys, tables or files. A `collection`, not a `document`: we list what is there and
say where it came from, but state nothing about the patient's health ourselves (docs/decisions/0220-fhir-out.md). The
clinical resources of the patient's hospitals stay what they are: files, named here like all others. FHIR R4 (4.0.1):
Bundle, Patient, DocumentReference, ImagingStudy, Provenance. Called by the download of everything.
"""

import base64
import dataclasses
import datetime as dt
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

UNSIGNED_INT_MAX = 2**31 - 1  # of R4, "unsignedInt": the size of a larger file cannot be said in it
URI_SYSTEM = "urn:ietf:rfc:3986"  # "the identifier is itself a URI"
DICOM_UID_SYSTEM = "urn:dicom:uid"
DICOM_ONTOLOGY = "http://dicom.nema.org/resources/ontology/DCM"
_OURS = uuid.UUID("6a0e3a52-4f0b-5e0e-9d3f-0c8f3f6d1b7e")  # namespace of ids that we derive
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?[A-Za-z0-9-]+=[^\s;]+)*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemInBundle:
    """One file. `path` is its place in the download, relative to the Bundle; `sha1` is what R4's Attachment.hash wants
    (None: not said); `brought_in` completes "Brought in: ..." (see `SOURCES`)."""

    item_id: str
    path: str = dataclasses.field(repr=False)
    title: str = dataclasses.field(repr=False)
    media_type: str
    size: int
    sha256: bytes
    sha1: bytes | None = None
    added_at: dt.datetime
    dated: dt.date | None = None  # of what is in it, if known
    kind: str = ""  # in plain words: "PDF", "Lab report"
    brought_in: str = ""
    study_id: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesInBundle:
    """One series of a study. Without a UID it is counted but not listed: R4 cannot list it."""

    uid: str
    modality: str
    instances: int
    number: int | None = None
    description: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyInBundle:
    study_id: str
    study_uid: str = ""
    title: str = dataclasses.field(default="", repr=False)
    date: dt.date | None = None
    modalities: Sequence[str] = ()
    instances: int = 0
    series: Sequence[SeriesInBundle] = ()
    series_count: int | None = None  # if more than are listed


SOURCES = {
    "upload": "by the owner of the record",
    "archive": "by the owner of the record, in an archive",
    "result": "made in a viewer by the owner of the record",
    "drop-off": "sent by a practice that the owner of the record had asked",
    "fhir": "fetched from a hospital's server at the request of the owner of the record",
    "pacs": "fetched from a practice's image archive at the request of the owner of the record",
}


def bundle(
    account_name: str, items: Sequence[ItemInBundle], studies: Sequence[StudyInBundle], made_at: dt.datetime
) -> bytes:
    """The Bundle as UTF-8 JSON. The same values give the same bytes."""
    return b"".join(pieces(account_name, items, studies, made_at))


def pieces(
    account_name: str, items: Sequence[ItemInBundle], studies: Sequence[StudyInBundle], made_at: dt.datetime
) -> Iterator[bytes]:
    """The same, one entry at a time: some 700 bytes a file, and a record may hold 100,000."""
    stamp = _instant(made_at)
    bundle_id = str(uuid.uuid5(_OURS, f"bundle|{account_name}|{stamp}"))
    patient_id = str(uuid.uuid5(_OURS, f"patient|{account_name}|{stamp}"))
    head = {
        "resourceType": "Bundle", "id": bundle_id, "identifier": _uuid_identifier(bundle_id), "type": "collection",
        "timestamp": stamp,
    }  # fmt: skip
    yield json.dumps(head, ensure_ascii=False)[:-1].encode() + b', "entry": [\n'
    yield _entry(patient_id, _patient(patient_id, account_name))
    here = {study.study_id for study in studies}
    for study in studies:
        yield b",\n" + _entry(study.study_id, _imaging_study(study, patient_id))
    for item in items:
        yield b",\n" + _entry(item.item_id, _document_reference(item, patient_id, here))
    for words in dict.fromkeys(item.brought_in for item in items if item.brought_in):
        provenance_id = str(uuid.uuid5(_OURS, f"provenance|{bundle_id}|{words}"))
        targets = [_reference(item.item_id) for item in items if item.brought_in == words]
        yield b",\n" + _entry(provenance_id, _provenance(provenance_id, words, targets, stamp, patient_id))
    yield b"\n]}\n"


def _entry(resource_id: str, resource: dict[str, Any]) -> bytes:
    entry = {"fullUrl": f"urn:uuid:{resource_id}", "resource": resource}
    # json writes a lone surrogate (a name in no encoding) as it is; no UTF-8 has one.
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace")


def _patient(patient_id: str, account_name: str) -> dict[str, Any]:
    patient: dict[str, Any] = {"resourceType": "Patient", "id": patient_id}
    name = _text(account_name)
    return patient | ({"name": [{"text": name}]} if name else {})


def _document_reference(item: ItemInBundle, patient_id: str, studies: set[str]) -> dict[str, Any]:
    attachment: dict[str, Any] = {"url": quote(item.path, safe="/", errors="replace")}
    if _MEDIA_TYPE.fullmatch(item.media_type):
        attachment["contentType"] = item.media_type
    if item.size <= UNSIGNED_INT_MAX:
        attachment["size"] = item.size
    if item.sha1 is not None:
        attachment["hash"] = base64.b64encode(item.sha1).decode()
    if title := _text(item.title):
        attachment["title"] = title
    if item.dated is not None:
        attachment["creation"] = item.dated.isoformat()
    resource: dict[str, Any] = {
        "resourceType": "DocumentReference", "id": item.item_id,
        # RFC 6920: the SHA-256 as a URI, so that the file can be checked and found again under any name.
        "masterIdentifier": {"system": URI_SYSTEM, "value": f"ni:///sha-256;{_base64url(item.sha256)}"},
        "identifier": [_uuid_identifier(item.item_id)],
        "status": "current",
        "subject": _reference(patient_id),
        "date": _instant(item.added_at),
        "content": [{"attachment": attachment}],
    }  # fmt: skip
    if kind := _text(item.kind):
        resource["type"] = {"text": kind}
    if item.study_id in studies and item.study_id is not None:
        resource["context"] = {"related": [_reference(item.study_id)]}
    return resource


def _imaging_study(study: StudyInBundle, patient_id: str) -> dict[str, Any]:
    uids = [_uid_identifier(study.study_uid)] if _is_uid(study.study_uid) else []
    resource: dict[str, Any] = {
        "resourceType": "ImagingStudy", "id": study.study_id,
        "identifier": [*uids, _uuid_identifier(study.study_id)],
        "status": "available", "subject": _reference(patient_id),
    }  # fmt: skip
    if study.date is not None:
        resource["started"] = study.date.isoformat()
    if modalities := [_modality(code) for code in study.modalities if _text(code)]:
        resource["modality"] = modalities
    listed = [series for series in study.series if _is_uid(series.uid)]
    resource["numberOfSeries"] = len(study.series) if study.series_count is None else study.series_count
    resource["numberOfInstances"] = study.instances
    if title := _text(study.title):
        resource["description"] = title
    if listed:
        resource["series"] = [_series(series) for series in listed]
    return resource


def _series(series: SeriesInBundle) -> dict[str, Any]:
    one: dict[str, Any] = {"uid": series.uid, "modality": _modality(series.modality)}
    one["numberOfInstances"] = series.instances
    if series.number is not None and 0 <= series.number <= UNSIGNED_INT_MAX:
        one["number"] = series.number
    if words := _text(series.description):
        one["description"] = words
    return one


def _provenance(
    provenance_id: str, words: str, targets: list[dict[str, str]], stamp: str, patient_id: str
) -> dict[str, Any]:
    return {
        "resourceType": "Provenance", "id": provenance_id, "target": targets, "recorded": stamp,
        "activity": {"text": _text(f"Brought in: {words}")},
        "agent": [{"who": {"display": "MyPHRMachines"}, "onBehalfOf": _reference(patient_id)}],
    }  # fmt: skip


def _modality(code: str) -> dict[str, str]:
    return {"system": DICOM_ONTOLOGY, "code": "-".join(_text(code).split()) or "OT"}


def _reference(resource_id: str) -> dict[str, str]:
    return {"reference": f"urn:uuid:{resource_id}"}


def _uuid_identifier(resource_id: str) -> dict[str, str]:
    return {"system": URI_SYSTEM, "value": f"urn:uuid:{resource_id}"}


def _uid_identifier(uid: str) -> dict[str, str]:
    return {"system": DICOM_UID_SYSTEM, "value": f"urn:oid:{uid}"}


def _is_uid(text: str) -> bool:
    """PS3.5, 9.1; R4 wants an OID where DICOM says UID."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _instant(moment: dt.datetime) -> str:
    """R4 "instant": to the second at least, with a zone. A moment without one is UTC, as the database keeps them."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.timezone.utc)
    return aware.astimezone(dt.timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(text: str) -> str:
    """R4 "string": no control characters, not empty (then it is left out), no blanks around."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(kept.split())[:1024]


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
