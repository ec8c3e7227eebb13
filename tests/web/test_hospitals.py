"""The pages of records from a hospital: the list, its policy, coming back, what came, stopping; the operator's list."""

import re

import pytest

from myphr.database import now
from myphr.ingest.fhir import fetches
from myphr.ingest.fhir.models import FhirFetch, FhirServer
from myphr.portal import Portal
from tests.cast import SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_fetch


@pytest.fixture
def hospital(portal: Portal) -> str:
    with portal.database.write() as db:
        row = FhirServer(name="Harbour Hospital", base="https://fhir.harbour.example/r4", client_id="portal",
                         authorization_origin="https://sign-in.harbour.example:8443",
                         token_origin="https://sign-in.harbour.example:8443")  # fmt: skip
        db.add(row)
        return row.id


@pytest.fixture
def her(browser: PageClient, patient: SignedIn) -> PageClient:
    """The patient's browser, signed in."""
    return sign_in(browser, patient.person)


def test_the_record_leads_there_when_there_is_a_hospital(her: PageClient, portal: Portal) -> None:
    assert not her.page("/record").select('a[href="/hospitals"]')
    assert "connected to no hospital yet" in text_of(her.get("/hospitals"))


def test_the_record_leads_to_the_list(her: PageClient, hospital: str) -> None:
    assert her.page("/record").select('a[href="/hospitals"]')
    page = her.get("/hospitals")
    assert "Harbour Hospital" in page.text and "sign-in.harbour.example:8443" in page.text


def test_only_this_page_may_lead_elsewhere_and_only_to_the_hospitals_sign_in(her: PageClient, hospital: str) -> None:
    policy = her.get("/hospitals").headers["Content-Security-Policy"]
    assert "form-action 'self' https://sign-in.harbour.example:8443;" in policy
    assert "form-action 'self';" in her.get("/record").headers["Content-Security-Policy"]


@pytest.mark.parametrize("form", [{}, {"hospital": "x"}, {"hospital": "6a1b0000-0000-4000-8000-000000000000"}])
def test_a_hospital_that_is_not_on_the_list_is_404(her: PageClient, hospital: str, form: dict[str, str]) -> None:
    assert her.post("/hospitals", form).status_code == 404


def test_a_hospital_that_does_not_answer_is_told_on_the_page(her: PageClient, hospital: str) -> None:
    answer = her.post("/hospitals", {"hospital": hospital})  # no such name
    assert answer.status_code == 502
    assert "does not answer" in text_of(answer) and "Harbour Hospital" in answer.text


@pytest.mark.parametrize("query", ["", "?state=", "?state=x&code=y", "?state=%00&code=%ff", "?error=access_denied",
                                   "?state=" + "x" * 9000])  # fmt: skip
def test_a_way_back_that_nobody_asked_for_is_404(her: PageClient, query: str) -> None:
    assert her.get(f"/hospitals/back{query}").status_code == 404


def test_a_page_that_polls_ends_polling_when_it_is_over(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    for state, polls in (("waiting", True), ("running", True), ("done", False), ("failed", False), ("lapsed", False)):
        page = her.page(f"/hospitals/{put_fetch(patient, portal, state)}")
        assert bool(page.select("[data-hx-get]")) is polls, state


def test_the_fragment_is_the_page_without_its_frame(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    fetch_id = put_fetch(patient, portal, "running", items_count=3, entries_new=61, steps_left=4, step=2)
    part = her.get(f"/hospitals/{fetch_id}/progress", htmx=True)
    assert "3 files so far, 61 new entries" in text_of(part) and "<html" not in part.text
    assert her.page(f"/hospitals/{fetch_id}/progress").h1


@pytest.mark.parametrize(("values", "words"), [
    ({"entries_known": 61}, "Nothing new: 61 entries you had already"),
    ({"items_count": 7, "entries_new": 120, "entries_changed": 2, "entries_known": 1}, "7 files, kept exactly"),
    ({}, "The hospital had nothing to give"),
    ({"state": "failed", "error_code": "denied"}, "you or the hospital said no"),
    ({"state": "failed", "error_code": "unreachable", "items_count": 4}, "could not be fetched to the end"),
    ({"state": "withdrawn", "items_count": 1}, "You stopped it."),
    ({"state": "lapsed"}, "It took too long on the hospital's page"),
    ({"state": "asked"}, "You have not come back"),
])  # fmt: skip
def test_what_came_of_it_is_told_in_plain_words(
    her: PageClient, patient: SignedIn, portal: Portal, values: dict, words: str
) -> None:
    fetch_id = put_fetch(patient, portal, **{"state": "done"} | values)
    assert words in text_of(her.get(f"/hospitals/{fetch_id}"))


def test_stopping_is_a_post_and_final(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    fetch_id = put_fetch(patient, portal, "running")
    assert her.post(f"/hospitals/{fetch_id}/stop").status_code == 303
    assert "You stopped it" in text_of(her.get(f"/hospitals/{fetch_id}"))
    assert her.post(f"/hospitals/{fetch_id}/stop").status_code == 303
    assert "You stopped getting" not in text_of(her.get("/who-looked"))
    assert "You stopped fetching records from a hospital" in text_of(her.get("/who-looked"))


def test_a_damaged_row_does_not_hide_the_page(her: PageClient, patient: SignedIn, portal: Portal) -> None:
    fetch_id = put_fetch(patient, portal, "done", sealed_notes=b"damaged", entries_known=3)
    assert "3 entries you had already" in text_of(her.get(f"/hospitals/{fetch_id}"))


def test_questions_that_nobody_answered_are_forgotten(patient: SignedIn, portal: Portal) -> None:
    old = now() - 2 * fetches.ANSWER_WITHIN
    ids = [put_fetch(patient, portal, state, changed_at=old) for state in ("asked", "exchanging")]
    fresh = put_fetch(patient, portal, "asked")
    fetches.sweep(portal)
    with portal.database.read() as db:
        states = [row.state for fetch_id in (*ids, fresh) if (row := db.get(FhirFetch, fetch_id))]
    assert states == ["lapsed", "lapsed", "asked"]


def test_a_fetch_that_is_far_too_old_is_ended_and_its_permission_erased(patient: SignedIn, portal: Portal) -> None:
    old = now() - 10 * fetches.ANSWER_WITHIN
    fetch_id = put_fetch(patient, portal, "running", created_at=old, changed_at=old, sealed_for_worker=b"sealed")
    fetches.sweep(portal)
    with portal.database.read() as db:
        row = db.get(FhirFetch, fetch_id)
    assert row is not None and (row.state, row.error_code, row.sealed_for_worker) == ("failed", "cut-off", None)


# -- the operator ---------------------------------------------------------------------------------
FORM = {"name": "Harbour Hospital", "base": "https://fhir.harbour.example/r4", "client_id": "portal"}


@pytest.mark.parametrize("wrong", [
    {"name": ""}, {"client_id": ""}, {"base": "http://fhir.harbour.example/r4"}, {"base": "https://10.0.0.7/fhir"},
    {"base": "https://localhost/fhir"}, {"base": "https://intranet/fhir"}, {"base": "https://a:b@x.example/fhir"},
    {"base": "https://x.example/fhir?a=b"}, {"base": "file:///etc/passwd"}, {"base": "https://[::1]/fhir"},
    {"base": "https://x.example/\u202efhir"}, {"base": "https://x.example:99999/"}, {"base": ""},
])  # fmt: skip
def test_an_address_that_makes_no_sense_is_not_asked(oda: PageClient, wrong: dict[str, str]) -> None:
    answer = oda.post("/operator/hospitals", FORM | wrong)
    assert answer.status_code == 422 and "Please check the form" in text_of(answer)


def test_a_server_that_does_not_answer_is_not_put_on_the_list(oda: PageClient) -> None:
    answer = oda.post("/operator/hospitals", FORM)
    assert answer.status_code == 502 and FORM["base"] in answer.text
    assert "Take it off the list" not in oda.get("/operator/hospitals").text


def test_the_way_back_to_register_is_on_the_page(oda: PageClient, portal: Portal) -> None:
    assert f"{portal.settings.public_url}/hospitals/back" in oda.get("/operator/hospitals").text
    assert oda.page("/operator").select('a[href="/operator/hospitals"]')


def test_a_hospital_is_taken_off_the_list(oda: PageClient, hospital: str) -> None:
    page = oda.get("/operator/hospitals").text
    address = re.search(r"/operator/hospitals/[0-9a-f-]{36}/close", page)
    assert address and oda.post(address[0]).status_code == 303
    assert "Harbour Hospital is off the list" in text_of(oda.get("/operator/hospitals"))
    assert oda.post(address[0]).status_code == 404


