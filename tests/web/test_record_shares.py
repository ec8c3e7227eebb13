"""Sharing the record on the page: who it would be, sharing, opening by the other, taking back. Real keyholder."""

import base64
import datetime as dt
import re

import pytest
from flask import Flask
from sqlmodel import select

from myphr.machines.models import VmSession
from myphr.people import accounts
from myphr.records.reading import FullReading, Reading
from myphr.sharing import record_shares, shared_with_me, viewing
from myphr.sharing.models import Share
from myphr.sharing.record_models import Compartment, EmergencyOpening, VmSessionShare
from tests.cast import OPERATOR
from tests.integration.sharing.conftest import Clinic, clinic, gid_of
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in, put_reading, put_study, put_vm_session

__all__ = ["clinic"]


@pytest.fixture
def enter_page(app: Flask):
    """A browser of somebody who is known already."""
    return lambda who: sign_in(PageClient(app), who.person)


@pytest.fixture
def letter(clinic: Clinic) -> str:
    clinic.grant(clinic.caregiver, "role", "cardiologist")
    clinic.grant(clinic.nurse, "role", "nurse")
    return clinic.add_item()


@pytest.fixture
def vera(letter: str, clinic: Clinic, enter_page) -> PageClient:
    return enter_page(clinic.patient)


def care_team(clinic: Clinic) -> dict[str, str]:
    return {"who": "care-team", "role": f"{clinic.hospital.gid} role:cardiologist"}


def share(vera: PageClient, letter: str, form: dict[str, str]) -> str:
    """The id of the share, from the page that lists it."""
    assert vera.post(f"/share-record/item/{letter}", form | {"sure": "yes"}).status_code == 303
    found = re.search(r"/sharing/([0-9a-f-]{36})/stop", vera.get("/sharing").text)
    assert found
    return found[1]


def test_the_page_says_who_could_open_it_before_it_shares(vera: PageClient, letter: str, clinic: Clinic) -> None:
    page = vera.get(f"/share-record/item/{letter}")
    assert "Cardiologist at St Mary" in page.text and "Share" in text_of(vera.get(f"/item/{letter}"))
    words = text_of(vera.post(f"/share-record/item/{letter}", care_team(clinic)))
    assert "1 person can open it today" in words and clinic.caregiver.person.name in words
    assert "only those you agree to" in words
    assert "Nobody but you" in text_of(vera.get("/sharing"))  # nothing is shared yet


def test_a_cardiologist_opens_what_is_shared_and_a_nurse_sees_nothing(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    share_id = share(vera, letter, care_team(clinic))
    doctor, nurse = enter_page(clinic.caregiver), enter_page(clinic.nurse)
    listed = text_of(doctor.get("/shared-with-me"))
    assert f"{clinic.patient.person.name}: letter.txt" in listed and "Cardiologist at St Mary's, since" in listed
    assert "you agree to" not in listed and "only those you agree to" in text_of(vera.get("/sharing"))
    words = text_of(doctor.get(f"/shared-with-me/{share_id}"))
    assert "letter.txt" in words and f"Shared by {clinic.patient.person.name}" in words
    assert "Nobody shares anything" in text_of(nurse.get("/shared-with-me"))
    assert nurse.get(f"/shared-with-me/{share_id}").status_code == 404
    assert vera.get(f"/shared-with-me/{share_id}").status_code == 404


def test_a_reader_sees_the_preview_of_what_is_shared(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    picture = b"\xff\xd8\xff a picture"
    reading = Reading(title="Discharge letter", date_words="26 August 2024")
    put_reading(clinic.portal, clinic.patient, letter, FullReading(reading, picture))
    page = enter_page(clinic.caregiver).get(f"/shared-with-me/{share(vera, letter, care_team(clinic))}")
    assert f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" in page.text
    assert "Discharge letter, 26 August 2024" in page.text and "not for diagnosis" in page.text


def test_a_reader_gets_a_machine_over_the_shared_files_and_loses_it_when_removed(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    share_id = share(vera, letter, care_team(clinic))
    doctor = enter_page(clinic.caregiver)
    viewer = re.search(r'name="viewer" value="([^"]+)"', doctor.get(f"/shared-with-me/{share_id}").text)
    assert viewer
    answer = doctor.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]})
    assert answer.status_code == 303 and "/machine/" in answer.location
    with clinic.portal.database.read() as db:
        [vm_session] = db.exec(select(VmSession)).all()
        assert db.get(VmSessionShare, (vm_session.id, share_id)) is not None
    assert vm_session.account_id == clinic.caregiver.account.id and vm_session.items_count == 1
    gone = f"/sharing/{share_id}/remove/{gid_of(clinic.caregiver)}"
    assert "cannot be undone" in text_of(vera.get(gone))
    assert vera.post(gone).status_code == 303
    assert re.search(r"Access of .* ended \d\d:\d\d:\d\d", text_of(vera.get("/sharing")))
    with clinic.portal.database.read() as db:
        ended = db.get(VmSession, vm_session.id)
    assert ended is not None and ended.state in ("ending", "ended") and ended.end_reason == "withdrawn"
    assert doctor.get(f"/shared-with-me/{share_id}").status_code == 404
    assert doctor.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]}).status_code == 404


def test_a_readers_machine_says_whose_files_it_shows_and_lets_the_reader_share_its_screen_with_nobody(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    share_id = share(vera, letter, care_team(clinic))
    doctor = enter_page(clinic.caregiver)
    vm_session_id = put_vm_session(clinic.portal, clinic.caregiver.account.id, items_count=1)
    own = doctor.get(f"/machine/{vm_session_id}")
    assert "Share this screen" in text_of(own) and "holds 1 file of your record" in text_of(own)
    with clinic.portal.database.write() as db:
        db.add(VmSessionShare(vm_session_id=vm_session_id, compartment_id=share_id))
    page = doctor.get(f"/machine/{vm_session_id}")
    owner = clinic.patient.person.name
    assert f"1 file of {owner}" in text_of(page) and f"holds 1 file that {owner} shares with you" in text_of(page)
    assert "Share this screen" not in text_of(page) and f"Only {owner} can share it" in text_of(page)
    form = {"email": "else@elsewhere.example", "access": "view", "seconds": "3600"}
    refused = doctor.post(f"/machine/{vm_session_id}/share", form)
    assert refused.status_code == 422
    with clinic.portal.database.read() as db:
        assert db.exec(select(Share)).all() == []


def test_the_time_an_access_ended_is_told_by_the_readers_clock(
    vera: PageClient, letter: str, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_shares, "now", lambda: dt.datetime(2026, 7, 1, 12, 2, 11, tzinfo=dt.UTC))
    told = []
    for zone in ("", "Europe/Stockholm"):
        share_id = share(vera, letter, care_team(clinic))
        vera.browser.set_cookie("myphr-zone", zone)
        vera.post(f"/sharing/{share_id}/stop")
        told.append(text_of(vera.get("/sharing")))
    assert "ended 12:02:11 UTC; " in told[0] and "ended 14:02:11; " in told[1]


def test_a_share_taken_back_while_a_machine_is_asked_for_gets_none(
    vera: PageClient, letter: str, clinic: Clinic, enter_page, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_id = share(vera, letter, care_team(clinic))
    doctor = enter_page(clinic.caregiver)
    viewer = re.search(r'name="viewer" value="([^"]+)"', doctor.get(f"/shared-with-me/{share_id}").text)
    assert viewer
    real = viewing.shared_with_me.open_shared

    def then_taken_back(*arguments, **named):
        opened = real(*arguments, **named)
        record_shares.withdraw(clinic.portal, clinic.patient.login, share_id)
        return opened

    monkeypatch.setattr(viewing.shared_with_me, "open_shared", then_taken_back)
    assert doctor.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]}).status_code == 404
    with clinic.portal.database.read() as db:
        assert db.exec(select(VmSession)).all() == []


def test_by_name_everything_and_taken_back_from_everybody(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    form = {"who": "named", "people": clinic.stranger.person.email, "everything": "documents", "sure": "yes"}
    assert vera.post("/share-record/everything", form).status_code == 303
    other = enter_page(clinic.stranger)
    assert "All documents" in text_of(other.get("/shared-with-me"))
    page = vera.get("/sharing")
    found = re.search(r"/sharing/([0-9a-f-]{36})/stop", page.text)
    assert found and clinic.stranger.person.name in text_of(page)
    assert vera.post(f"/sharing/{found[1]}/stop").status_code == 303
    assert "Nobody shares anything" in text_of(other.get("/shared-with-me"))
    assert "Nobody but you" in text_of(vera.get("/sharing"))


def test_an_emergency_wants_a_reason_and_is_told(vera: PageClient, letter: str, clinic: Clinic, enter_page) -> None:
    clinic.grant(clinic.caregiver, "emergency")
    clinic.grant(clinic.caregiver, "break-glass", authority=clinic.registrar)
    form = {"who": "emergency", "hospital": clinic.hospital.gid, "registrar": clinic.registrar.gid}
    share_id = share(vera, letter, form)
    doctor = enter_page(clinic.caregiver)
    assert "Is this an emergency?" in text_of(doctor.get(f"/shared-with-me/{share_id}"))
    assert doctor.post(f"/shared-with-me/{share_id}", {"reason": "  "}).status_code == 403
    page = doctor.post(f"/shared-with-me/{share_id}", {"reason": "Unconscious, chest pain"})
    assert page.status_code == 200 and "letter.txt" in text_of(page) and "It closes at" in text_of(page)
    assert "Unconscious, chest pain" in text_of(vera.get("/sharing"))
    looked = text_of(vera.get("/who-looked"))
    assert re.search(r"opened your record in an emergency, for 60 minutes\. Reason: Unconscious, chest pain", looked)
    assert "Unconscious" not in text_of(doctor.get("/who-looked"))
    viewer = re.search(r'name="viewer" value="([^"]+)"', page.text)
    assert viewer
    assert doctor.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]}).status_code == 303
    assert viewing.end_emergencies(clinic.portal) == 0
    with clinic.portal.database.write() as db:
        opening = db.exec(select(EmergencyOpening)).one()
        opening.until = opening.opened_at
        db.add(opening)
    assert viewing.end_emergencies(clinic.portal) == 1
    assert viewing.end_emergencies(clinic.portal) == 0


@pytest.mark.parametrize("by", ["role", "organisation", "person"])
def test_who_loses_a_role_its_organisation_or_the_account_loses_the_machine_too(
    vera: PageClient, letter: str, clinic: Clinic, enter_page, by: str
) -> None:
    share_id = share(vera, letter, care_team(clinic))
    doctor, officer = enter_page(clinic.caregiver), enter_page(clinic.practice)
    viewer = re.search(r'name="viewer" value="([^"]+)"', doctor.get(f"/shared-with-me/{share_id}").text)
    assert viewer and doctor.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]}).status_code == 303
    if by == "role":
        its = f"/organisations/{clinic.hospital.gid}"
        rows = officer.get(its).text.split('<li class="row">')
        row = next(one for one in rows if "Cardiologist, until" in one)
        taking = re.search(r'action="([^"]+/take)"', row)
        assert taking and officer.post(taking[1]).status_code == 303
    else:
        accounts.make_operator(clinic.portal, OPERATOR.email)
        operator = sign_in(PageClient(doctor.app), OPERATOR)
        address = f"/operator/organisations/{clinic.hospital.gid}/close"
        if by == "person":
            address = "/operator/people/stop"
        form = {"sure": "yes", "email": clinic.caregiver.person.email}
        assert operator.post(address, form).status_code == 303
    with clinic.portal.database.read() as db:
        [vm_session] = db.exec(select(VmSession)).all()
        share_row = db.get(Compartment, share_id)
    assert vm_session.state in ("ending", "ended") and vm_session.end_reason == "withdrawn"
    assert share_row is not None and share_row.stale  # new keys at the owner's next sign-in


def test_forms_that_cannot_be_are_refused_in_words(vera: PageClient, letter: str, clinic: Clinic) -> None:
    address = f"/share-record/item/{letter}"
    for form, words in (
        ({}, "choose who may open it"), ({"who": "named", "people": ""}, "name at least one person"),
        ({"who": "named", "people": "nobody@nowhere.example"}, "nobody"),
        ({"who": "care-team", "role": ""}, "choose an organisation"),
        ({"who": "emergency", "hospital": clinic.hospital.gid, "registrar": clinic.hospital.gid}, "two different"),
    ):  # fmt: skip
        answer = vera.post(address, form)
        assert answer.status_code in (404, 422) and words in text_of(answer).lower(), form


def test_nobody_shares_or_takes_back_what_is_not_theirs(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    share_id = share(vera, letter, care_team(clinic))
    other = enter_page(clinic.stranger)
    assert other.get(f"/share-record/item/{letter}").status_code == 404
    assert other.post(f"/share-record/item/{letter}", care_team(clinic) | {"sure": "yes"}).status_code == 404
    for address in (f"/sharing/{share_id}/stop", f"/sharing/{share_id}/remove/{gid_of(clinic.caregiver)}"):
        assert other.post(address).status_code == 404
    assert other.get(f"/sharing/{share_id}/progress").status_code == 404
    assert "1 person" not in text_of(other.get("/sharing"))


def test_several_studies_and_files_are_chosen_and_shared_together(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    study = put_study(clinic.portal, clinic.patient.account.id)
    left = clinic.add_item("not-this.txt", b"stays with me\n")
    page = vera.get("/share-record/choose")
    assert f"study:{study}" in page.text and f"item:{left}" in page.text
    assert "at least one" in text_of(vera.post("/share-record/collection", {}))
    chosen = {"thing": [f"study:{study}", f"item:{letter}"]}
    asked = vera.post("/share-record/collection", chosen)
    assert "and 1 more" in text_of(asked) and asked.text.count(f"item:{letter}") == 1
    form = chosen | {"who": "named", "people": clinic.stranger.person.email}
    assert "1 person can open it today" in text_of(vera.post("/share-record/collection", form))
    assert vera.post("/share-record/collection", form | {"sure": "yes"}).status_code == 303
    found = re.search(r"/sharing/([0-9a-f-]{36})/stop", vera.get("/sharing").text)
    assert found
    other = enter_page(clinic.stranger)
    assert "letter.txt, and 1 more" in text_of(other.get(f"/shared-with-me/{found[1]}"))
    opened = shared_with_me.open_shared(clinic.portal, clinic.stranger.login, found[1])
    assert sorted(one.details["name"] for one in opened.items) == ["IM00001", "IM00002", "letter.txt"]


def test_what_is_not_ones_own_or_nothing_is_not_shared_in_a_collection(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    stranger = enter_page(clinic.stranger)
    own = put_in(clinic.portal, clinic.stranger.account.id, b"of the stranger\n", "own.txt").id
    form = {"who": "named", "people": clinic.nurse.person.email, "sure": "yes"}
    mixed = form | {"thing": [f"item:{own}", f"item:{letter}"]}
    assert stranger.post("/share-record/collection", mixed).status_code == 404
    for thing in ("account:1", "item:", "", "item"):
        assert stranger.post("/share-record/collection", form | {"thing": [f"item:{own}", thing]}).status_code == 422
    with clinic.portal.database.read() as db:
        assert db.exec(select(Compartment)).all() == []
