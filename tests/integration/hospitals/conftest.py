"""A portal that may fetch from a hospital on loopback, and that hospital: Authlib and Medplum, once for all tests."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from myphr.ingest.fhir import fetches, fetching, line, servers
from myphr.ingest.fhir.fetches import FetchView
from myphr.portal import Portal
from tests import cast as cast_module
from tests.cast import SignedIn
from tests.hospital import CLIENT_ID, Hospital, give_consent, open_hospital

BACK = "http://localhost:8000/hospitals/back"
LETTER = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def observation(number: int, patient: str, **more) -> dict:
    return {
        "resourceType": "Observation", "status": "final", "code": {"text": f"Sodium {number}"},
        "identifier": [{"system": "https://lab.example/results", "value": f"{patient}-{number}"}],
        "subject": {"reference": f"Patient/{patient}"}, "valueQuantity": {"value": 130 + number, "unit": "mmol/l"},
    } | more  # fmt: skip


def person_with(results: int) -> dict:
    """A transaction that makes her known at the hospital; references are to the id that her entry gets there."""
    her, key = "urn:uuid:" + str(uuid.uuid4()), uuid.uuid4().hex[:8]
    binary = "urn:uuid:" + str(uuid.uuid4())
    letter = {"contentType": "application/pdf", "url": binary, "title": "Letter of discharge"}
    resources = [
        (her, {"resourceType": "Patient", "name": [{"family": "Lindqvist", "given": ["Vera"]}]}),
        *((None, observation(number, key, subject={"reference": her})) for number in range(results)),
        (None, {"resourceType": "Condition", "code": {"text": f"Migraine {key}"}, "subject": {"reference": her}}),
        (binary, {"resourceType": "Binary", "contentType": "application/pdf",
                  "data": base64.b64encode(LETTER + key.encode()).decode()}),
        (None, {"resourceType": "DocumentReference", "status": "current", "subject": {"reference": her},
                "description": key, "content": [{"attachment": letter}]}),
    ]  # fmt: skip
    return {"resourceType": "Bundle", "type": "transaction", "entry": [
        {"fullUrl": url or "urn:uuid:" + str(uuid.uuid4()), "resource": resource,
         "request": {"method": "POST", "url": resource["resourceType"]}} for url, resource in resources
    ]}  # fmt: skip


@pytest.fixture(scope="session")
def the_hospital() -> Iterator[Hospital]:
    with open_hospital(BACK) as hospital:
        yield hospital


@pytest.fixture
def results() -> int:
    """How many results the patient has at the hospital: 120 are three pages."""
    return 120


@pytest.fixture
def hospital(the_hospital: Hospital, results: int) -> Hospital:
    """The hospital with a patient who is new there: results, a diagnosis, a letter."""
    the_hospital.faults.clear()
    the_hospital.asked.clear()
    the_hospital.codes.clear()
    the_hospital.tokens.clear()
    the_hospital.token_seconds = 600
    the_hospital.before_answer = lambda path: None
    the_hospital.patient = the_hospital.medplum.admit(as_json(person_with(results)))
    return the_hospital


@pytest.fixture
def portal(tmp_path: Path, redis_url: str) -> Iterator[Portal]:
    portal = cast_module.new_portal(tmp_path / "home", redis_url, fhir_loopback=1)
    yield portal
    portal.database.dispose()
    portal.redis.close()


@pytest.fixture
def server_id(portal: Portal, operator: SignedIn, hospital: Hospital) -> str:
    """The hospital on the operator's list."""
    return servers.add(portal, operator.login, "Harbour Hospital", hospital.base, CLIENT_ID).server.id


class Visit:
    """A patient on the way to the hospital's page and back."""

    def __init__(self, portal: Portal, person: SignedIn, hospital: Hospital, server_id: str) -> None:
        self.portal, self.person, self.hospital, self.server_id = portal, person, hospital, server_id

    def go(self) -> str:
        """The address of the hospital's page."""
        return fetches.start(self.portal, self.person.login, self.server_id, BACK)

    def come_back(self, answer: str = "yes", change: Callable[[dict], None] | None = None) -> str:
        """There, and back with the hospital's answer; the id of the fetch."""
        from urllib.parse import parse_qsl, urlsplit

        query = dict(parse_qsl(urlsplit(give_consent(self.go(), answer)).query))
        if change:
            change(query)
        return fetches.answer(self.portal, self.person.login, query)

    def fetch(self) -> FetchView:
        """The whole of it, worker included."""
        fetch_id = self.come_back()
        fetching.run(self.portal, fetch_id)
        return self.view(fetch_id)

    def view(self, fetch_id: str) -> FetchView:
        return fetches.view(self.portal, self.person.login, fetch_id)


@pytest.fixture
def visit(portal: Portal, patient: SignedIn, hospital: Hospital, server_id: str) -> Visit:
    return Visit(portal, patient, hospital, server_id)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSES_SECONDS", (0.01, 0.01))


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()
