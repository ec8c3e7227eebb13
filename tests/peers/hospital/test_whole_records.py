"""Whole records against real peers: thousands of results over a hundred pages with a token that lives for seconds, and
what we write ourselves under the eyes of a second implementation (Medplum's validator). `make test-peers`."""

import base64
import datetime as dt
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.ingest.fetch.runs import Taken
from myphr.ingest.fhir import fetching, servers
from myphr.portal import Portal
from myphr.records.fhir_bundle import ItemInBundle, SeriesInBundle, StudyInBundle, bundle
from tests import cast as cast_module
from tests.cast import OPERATOR, PATIENT
from tests.hospital import CLIENT_ID, Hospital, Medplum, open_hospital
from tests.integration.hospitals.conftest import BACK, Visit, as_json, observation, person_with

pytestmark = pytest.mark.peers
RESULTS = 5_000
LETTERS = 200


@pytest.fixture(scope="module")
def hospital() -> Iterator[Hospital]:
    with open_hospital(BACK) as hospital:
        yield hospital


@pytest.fixture
def visit(tmp_path: Path, redis_url: str, hospital: Hospital) -> Iterator[Visit]:
    portal = cast_module.new_portal(tmp_path / "home", redis_url, fhir_loopback=1)
    operator, patient = (cast_module.enter(portal, person) for person in (OPERATOR, PATIENT))
    server = servers.add(portal, operator.login, "Harbour Hospital", hospital.base, CLIENT_ID).server
    yield Visit(portal, patient, hospital, server.id)
    portal.database.dispose()
    portal.redis.close()


def admit(hospital: Hospital) -> None:
    whole = person_with(RESULTS)
    her = whole["entry"][0]["fullUrl"]
    for number in range(LETTERS):
        content = base64.b64encode(b"%%PDF-1.7 letter %d " % number + uuid.uuid4().bytes).decode()
        binary = f"urn:uuid:{uuid.uuid4()}"
        attachment = {"contentType": "application/pdf", "url": binary, "title": f"Letter {number}"}
        for url, resource in (
            (binary, {"resourceType": "Binary", "contentType": "application/pdf", "data": content}),
            (f"urn:uuid:{uuid.uuid4()}", {"resourceType": "DocumentReference", "status": "current",
                                          "subject": {"reference": her}, "content": [{"attachment": attachment}]}),
        ):  # fmt: skip
            whole["entry"].append({"fullUrl": url, "resource": resource,
                                   "request": {"method": "POST", "url": resource["resourceType"]}})  # fmt: skip
    hospital.patient = hospital.medplum.admit(as_json(whole))


def test_a_record_of_thousands_comes_whole_and_again_brings_nothing_new(visit: Visit, hospital: Hospital) -> None:
    admit(hospital)
    hospital.token_seconds = 33  # renewed every three seconds
    began = time.monotonic()
    seen = visit.fetch()
    first = time.monotonic() - began
    assert seen.state == "done" and not (seen.not_given or seen.cut_short or seen.elsewhere)
    assert seen.entries_new == RESULTS + LETTERS + 3  # and the patient, a diagnosis, the letter of discharge
    pages = RESULTS // 50 + (LETTERS + 1 + 49) // 50 + 2
    assert seen.items_count == pages + LETTERS + 1
    assert len(hospital.tokens) > 1
    began = time.monotonic()
    again = visit.fetch()
    assert again.nothing_new and again.entries_known == seen.entries_new
    second = time.monotonic() - began
    print(f"{seen.items_count} files, {seen.entries_new} entries: {first:.1f} s; again: {second:.1f} s")


def test_a_worker_stopped_after_each_answer_brings_the_same(visit: Visit, hospital: Hospital) -> None:
    """One answer a run, as if the worker died after every commit."""
    hospital.token_seconds = 600
    hospital.patient = hospital.medplum.admit(as_json(person_with(400)))
    fetch_id = visit.come_back()

    class Died(BaseException):
        pass

    keep = Taken.file
    runs = 0

    def keep_and_die(taken: Taken, *rest) -> None:
        keep(taken, *rest)
        raise Died

    Taken.file = keep_and_die  # type: ignore[method-assign]
    try:
        while visit.view(fetch_id).is_working and runs < 100:
            runs += 1
            try:
                fetching.run(visit.portal, fetch_id)
            except Died:
                continue
    finally:
        Taken.file = keep  # type: ignore[method-assign]
    seen = visit.view(fetch_id)
    assert (seen.state, seen.entries_new) == ("done", 403) and runs > 10


@pytest.fixture(scope="module")
def medplum() -> Iterator[Medplum]:
    medplum = Medplum()
    yield medplum
    medplum.close()


def test_a_second_implementation_has_nothing_against_our_bundle(medplum: Medplum, portal: Portal) -> None:
    made = dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.timezone.utc)
    studies = [
        StudyInBundle(
            study_id=str(uuid.uuid4()), study_uid=f"1.2.840.{number}", title="CT scan, head", date=dt.date(2020, 2, 3),
            modalities=["CT", "SR"], instances=300,
            series=[SeriesInBundle(uid=f"1.2.840.{number}.1", modality="CT", instances=300, number=1)],
        )
        for number in range(20)
    ]  # fmt: skip
    items = [
        ItemInBundle(
            item_id=str(uuid.uuid4()), path=f"Ünïcode {number}/a b.pdf", title=f"Letter {number}", size=number,
            media_type="application/pdf", sha256=hashlib.sha256(b"%d" % number).digest(),
            sha1=hashlib.sha1(b"%d" % number).digest(), added_at=made, dated=dt.date(2019, 1, 1), kind="PDF",
            brought_in="by the owner of the record", study_id=studies[number % 20].study_id,
        )
        for number in range(500)
    ]  # fmt: skip
    raw = bundle("Vera Lindqvist", items, studies, made)
    # A reference by the entry's full address (urn:uuid) is R4's way inside a Bundle; the validator warns of every one.
    problems = [one for one in medplum.problems(raw) if "Invalid reference" not in str(one.get("details"))]
    assert problems == []


def test_that_validator_can_find_fault(medplum: Medplum) -> None:
    wrong = {"resourceType": "Bundle", "type": "collection", "entry": [
        {"resource": {"resourceType": "DocumentReference", "status": "lost"}}]}  # fmt: skip
    assert medplum.problems(json.dumps(wrong).encode())
    assert medplum.problems(as_json(observation(1, "x") | {"status": 7}))
