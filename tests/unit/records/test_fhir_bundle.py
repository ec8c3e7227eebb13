"""What a record holds as a FHIR Bundle: a strict R4B model reads it, references resolve, odd values do no harm."""

import base64
import datetime as dt
import hashlib
import json
import uuid

import pytest
from fhir.resources.R4B.bundle import Bundle

from myphr.records.fhir_bundle import ItemInBundle, SeriesInBundle, StudyInBundle, bundle

MADE = dt.datetime(2026, 11, 26, 12, 30, tzinfo=dt.timezone.utc)
CONTENT = b"%PDF-1.7 a letter"
STUDY = StudyInBundle(
    study_id=str(uuid.UUID(int=1)), study_uid="1.2.840.1.99", title="MR scan, head", date=dt.date(2021, 2, 3),
    modalities=["MR"], instances=41,
    series=[SeriesInBundle(uid="1.2.840.1.99.1", modality="MR", instances=40, number=1, description="T1"),
            SeriesInBundle(uid="", modality="MR", instances=1)],
)  # fmt: skip


def item(number: int = 2, **values) -> ItemInBundle:
    return ItemInBundle(**({
        "item_id": str(uuid.UUID(int=number)), "path": "Documents/Brief von Dr. Müller #1.pdf",
        "title": "Brief von Dr. Müller",
        "media_type": "application/pdf", "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).digest(),
        "sha1": hashlib.sha1(CONTENT).digest(), "added_at": MADE, "dated": dt.date(2020, 1, 2), "kind": "PDF",
        "brought_in": "by the owner of the record",
    } | values))  # fmt: skip


def read(*items: ItemInBundle, studies=(STUDY,), name: str = "Vera Lindqvist") -> dict:
    """The Bundle, after a strict reader had it."""
    raw = bundle(name, items, studies, MADE)
    Bundle.model_validate_json(raw)
    return json.loads(raw)


def resources(found: dict, kind: str) -> list[dict]:
    return [e["resource"] for e in found["entry"] if e["resource"]["resourceType"] == kind]


def test_a_strict_reader_takes_the_whole_of_it() -> None:
    found = read(item(2), item(3, study_id=STUDY.study_id, media_type="application/dicom"))
    assert found["type"] == "collection" and found["timestamp"] == "2026-11-26T12:30:00Z"
    assert [p["name"] for p in resources(found, "Patient")] == [[{"text": "Vera Lindqvist"}]]
    assert len(resources(found, "DocumentReference")) == 2


def test_a_file_says_where_it_lies_how_large_it_is_and_what_its_sums_are() -> None:
    [reference] = resources(read(item()), "DocumentReference")
    attachment = reference["content"][0]["attachment"]
    assert attachment["url"] == "Documents/Brief%20von%20Dr.%20M%C3%BCller%20%231.pdf"
    said = (attachment["size"], attachment["contentType"], attachment["creation"])
    assert said == (17, "application/pdf", "2020-01-02")
    assert base64.b64decode(attachment["hash"]) == hashlib.sha1(CONTENT).digest()
    sha256 = reference["masterIdentifier"]["value"].removeprefix("ni:///sha-256;")
    assert base64.urlsafe_b64decode(sha256 + "=") == hashlib.sha256(CONTENT).digest()


def test_a_study_counts_all_its_series_and_lists_those_with_a_uid() -> None:
    [study] = resources(read(), "ImagingStudy")
    assert (study["numberOfSeries"], study["numberOfInstances"], study["started"]) == (2, 41, "2021-02-03")
    assert [series["uid"] for series in study["series"]] == ["1.2.840.1.99.1"]
    assert study["identifier"][0] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.1.99"}


def test_every_reference_resolves_inside() -> None:
    found = read(item(2), item(3, study_id=STUDY.study_id), item(4, study_id=str(uuid.UUID(int=77))))
    urls = [entry["fullUrl"] for entry in found["entry"]]
    assert len(set(urls)) == len(urls)
    text = json.dumps(found)
    named = {part.split('"')[0] for part in text.split('"reference": "')[1:]}
    assert named and named <= set(urls)


def test_where_things_came_from_is_said_once_for_each_way() -> None:
    found = read(item(2), item(3, brought_in="sent by a practice"), item(4))
    by_words = {p["activity"]["text"]: len(p["target"]) for p in resources(found, "Provenance")}
    assert by_words == {"Brought in: by the owner of the record": 2, "Brought in: sent by a practice": 1}


def test_an_empty_record_is_a_bundle_with_the_patient() -> None:
    assert [e["resource"]["resourceType"] for e in read(studies=())["entry"]] == ["Patient"]


def test_the_same_record_gives_the_same_bytes() -> None:
    assert bundle("V", [item()], [STUDY], MADE) == bundle("V", [item()], [STUDY], MADE)


@pytest.mark.parametrize("values", [
    {"title": "\x00\x1b[31m\u202e", "kind": " "}, {"title": "", "path": "a b/\ud800.bin"}, {"media_type": "text html"},
    {"media_type": ""}, {"size": 2**31}, {"size": 0}, {"sha1": None}, {"dated": None}, {"brought_in": ""},
    {"added_at": dt.datetime(2026, 1, 1)}, {"path": "../javascript:alert(1)?x=1#y"}, {"title": "x" * 5000},
    {"media_type": "text/plain; charset=utf-8"},
])  # fmt: skip
def test_odd_values_of_a_file_do_no_harm(values: dict) -> None:
    [reference] = resources(read(item(**values)), "DocumentReference")
    assert reference["content"][0]["attachment"]["url"]


@pytest.mark.parametrize("values", [
    {"study_uid": ""}, {"study_uid": "1.2.0x"}, {"study_uid": "1." + "2" * 80}, {"date": None},
    {"modalities": ["", "M R"]},
    {"series": [SeriesInBundle(uid="1.2.3", modality="", instances=0, number=-1)]}, {"series_count": 900},
])  # fmt: skip
def test_odd_values_of_a_study_do_no_harm(values: dict) -> None:
    study = StudyInBundle(**{"study_id": str(uuid.UUID(int=5)), "instances": 3} | values)
    assert len(resources(read(studies=[study]), "ImagingStudy")) == 1


def test_a_name_of_control_characters_is_left_out() -> None:
    assert "name" not in resources(read(name="\x07 \n"), "Patient")[0]
