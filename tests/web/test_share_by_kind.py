"""Sharing by kind on the page: what a file is, which kinds with whom, opening, stopping. Real keyholder."""

import datetime as dt
import re

import pytest
from flask import Flask
from sqlmodel import select

from myphr.machines.models import VmSession
from myphr.records.models import Item
from myphr.sharing import delegations, viewing
from myphr.sharing.record_models import Compartment, VmSessionShare
from tests.integration.sharing.conftest import Clinic, clinic, gid_of
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_study

__all__ = ["clinic"]


@pytest.fixture
def enter_page(app: Flask):
    """A browser of somebody who is known already."""
    return lambda who: sign_in(PageClient(app), who.person)


@pytest.fixture
def letter(clinic: Clinic) -> str:
    return clinic.add_item()


@pytest.fixture
def vera(letter: str, clinic: Clinic, enter_page) -> PageClient:
    return enter_page(clinic.patient)


def lab(day: str = "2024-05-06", **more: str) -> dict[str, str]:
    return {"type": "laboratory", "day": day, **more}


def labs_of_2024(clinic: Clinic, **more: str) -> dict[str, str]:
    return {"type": "laboratory", "first": "2024-01-01", "last": "2024-12-31",
            "person": clinic.caregiver.person.email, **more}  # fmt: skip


def share(vera: PageClient, form: dict[str, str]) -> str:
    """The id of the share, from the page that lists it."""
    assert vera.post("/share-record/by-kind", form | {"sure": "yes"}).status_code == 303
    found = re.search(r"/sharing/([0-9a-f-]{36})/stop", vera.get("/sharing").text)
    assert found
    return found[1]


def test_the_owner_says_what_a_file_is(vera: PageClient, letter: str) -> None:
    assert f"/item/{letter}/kind" in vera.get(f"/item/{letter}").text
    page = vera.get(f"/item/{letter}/kind")
    assert 'value="document" selected' in page.text
    answer = vera.post(f"/item/{letter}/kind", lab(sensitive="yes"))
    assert answer.status_code == 303 and answer.location.endswith(f"/item/{letter}")
    page = vera.get(f"/item/{letter}/kind")
    assert 'value="laboratory" selected' in page.text and 'value="2024-05-06"' in page.text
    assert re.search(r'name="sensitive" value="yes" checked', page.text)


def test_the_page_says_who_and_how_many_before_it_shares(vera: PageClient, letter: str, clinic: Clinic) -> None:
    assert "/share-record/by-kind" in vera.get("/sharing").text
    assert vera.get("/share-record/by-kind").status_code == 200
    vera.post(f"/item/{letter}/kind", lab())
    words = text_of(vera.post("/share-record/by-kind", labs_of_2024(clinic)))
    assert f"{clinic.caregiver.person.name} could open this" in words and "Lab results from 2024" in words
    assert "1 lab result" in words and "none that you call sensitive" in words
    assert "Nobody but you" in text_of(vera.get("/sharing"))  # nothing is shared yet


def test_only_chosen_scans_and_x_rays_of_both_codes(vera: PageClient, clinic: Clinic) -> None:
    put_study(clinic.portal, clinic.patient.account.id, images=2, Modality="DX")
    put_study(clinic.portal, clinic.patient.account.id, images=1, Modality="MR")
    form = {"type": "imaging", "modality": "x-ray", "person": clinic.caregiver.person.email}
    words = text_of(vera.post("/share-record/by-kind", form))
    assert "X-rays" in words and "2 scans and pictures of the body" in words


def test_a_study_marked_as_sensitive_leaves_who_may_not_open_such_and_comes_back(
    vera: PageClient, clinic: Clinic, enter_page
) -> None:
    study_id = put_study(clinic.portal, clinic.patient.account.id, images=2)
    share_id = share(vera, {"type": "imaging", "person": clinic.caregiver.person.email})
    daughter, address = enter_page(clinic.caregiver), f"/study/{study_id}/sensitive"
    assert "2 images" in text_of(daughter.get(f"/shared-with-me/{share_id}"))
    assert address in vera.get(f"/study/{study_id}").text and "2 files" in text_of(vera.get(address))
    assert daughter.get(address).status_code == daughter.post(address).status_code == 404
    assert vera.post(address, {"sensitive": "yes"}).status_code == 303
    assert re.search(r'name="sensitive" value="yes" checked', vera.get(address).text)
    assert "2 images" not in text_of(daughter.get(f"/shared-with-me/{share_id}"))
    assert vera.post(address).status_code == 303
    assert "2 images" in text_of(daughter.get(f"/shared-with-me/{share_id}"))


def test_a_delegate_opens_what_is_shared_by_kind_and_others_see_nothing(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    vera.post(f"/item/{letter}/kind", lab())
    share_id = share(vera, labs_of_2024(clinic))
    listed = text_of(vera.get("/sharing"))
    assert "Lab results from 2024" in listed and clinic.caregiver.person.name in listed
    daughter, other = enter_page(clinic.caregiver), enter_page(clinic.nurse)
    assert f"{clinic.patient.person.name}: Lab results from 2024" in text_of(daughter.get("/shared-with-me"))
    assert "letter.txt" in text_of(daughter.get(f"/shared-with-me/{share_id}"))
    assert "Nobody shares anything" in text_of(other.get("/shared-with-me"))
    for address in (f"/shared-with-me/{share_id}", f"/sharing/{share_id}/stop", f"/sharing/{share_id}/progress",
                    f"/item/{letter}/kind"):  # fmt: skip
        assert other.get(address).status_code == 404
    for address in (f"/sharing/{share_id}/stop", f"/item/{letter}/kind"):
        assert other.post(address, lab()).status_code == 404
    assert vera.get(f"/shared-with-me/{share_id}").status_code == 404


def test_a_delegate_gets_a_machine_and_loses_it_when_it_is_stopped(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    vera.post(f"/item/{letter}/kind", lab())
    share_id = share(vera, labs_of_2024(clinic))
    daughter = enter_page(clinic.caregiver)
    viewer = re.search(r'name="viewer" value="([^"]+)"', daughter.get(f"/shared-with-me/{share_id}").text)
    assert viewer
    answer = daughter.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]})
    assert answer.status_code == 303 and "/machine/" in answer.location
    with clinic.portal.database.read() as db:
        [vm_session], [group] = db.exec(select(VmSession)).all(), db.exec(select(Compartment)).all()
        assert db.get(VmSessionShare, (vm_session.id, group.id)) is not None
    assert vm_session.account_id == clinic.caregiver.account.id and vm_session.items_count == 1
    assert vera.get(f"/sharing/{share_id}/remove/{gid_of(clinic.caregiver)}").status_code == 404
    assert f"Stop sharing with {clinic.caregiver.person.name}" in text_of(vera.get(f"/sharing/{share_id}/stop"))
    assert vera.post(f"/sharing/{share_id}/stop").status_code == 303
    assert re.search(r"Access of .* ended \d\d:\d\d:\d\d", text_of(vera.get("/sharing")))
    with clinic.portal.database.read() as db:
        ended = db.get(VmSession, vm_session.id)
    assert ended is not None and ended.state in ("ending", "ended") and ended.end_reason == "withdrawn"
    assert daughter.get(f"/shared-with-me/{share_id}").status_code == 404
    assert daughter.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]}).status_code == 404
    assert vera.post(f"/sharing/{share_id}/stop").status_code == 404


def test_a_share_stopped_while_a_machine_is_asked_for_gets_none(
    vera: PageClient, letter: str, clinic: Clinic, enter_page, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(vera, labs_of_2024(clinic, person=clinic.nurse.person.email))  # so that the compartment goes on
    vera.post(f"/item/{letter}/kind", lab())
    share_id = delegations.delegate(
        clinic.portal, clinic.patient.login, gid_of(clinic.caregiver), delegations.Filter(("laboratory",))
    )
    daughter = enter_page(clinic.caregiver)
    viewer = re.search(r'name="viewer" value="([^"]+)"', daughter.get(f"/shared-with-me/{share_id}").text)
    assert viewer
    real = viewing.shared_with_me.open_shared

    def then_stopped(*arguments, **named):
        opened = real(*arguments, **named)
        delegations.stop(clinic.portal, clinic.patient.login, share_id)
        return opened

    monkeypatch.setattr(viewing.shared_with_me, "open_shared", then_stopped)
    assert daughter.post(f"/shared-with-me/{share_id}/open", {"viewer": viewer[1]}).status_code == 404
    with clinic.portal.database.read() as db:
        assert db.exec(select(VmSession)).all() == []


def test_a_new_lab_result_is_shared_when_its_owner_signs_in_again(
    vera: PageClient, letter: str, clinic: Clinic, enter_page
) -> None:
    share_id = share(vera, {"type": "document", "person": clinic.caregiver.person.email})
    clinic.add_item("next week.txt", b"Dear week\n")
    daughter = enter_page(clinic.caregiver)
    assert "next week.txt" not in text_of(daughter.get(f"/shared-with-me/{share_id}"))
    enter_page(clinic.patient)
    assert "next week.txt" in text_of(daughter.get(f"/shared-with-me/{share_id}"))


def test_forms_that_cannot_be_are_refused_in_words(vera: PageClient, letter: str, clinic: Clinic) -> None:
    for change, words in (
        ({"type": ""}, "choose at least one kind"), ({"type": "poems"}, "choose at least one kind"),
        ({"modality": "brain"}, "choose at least one kind"), ({"first": "2025-01-01"}, "first day is after the last"),
        ({"last": "tomorrow"}, "write the day"), ({"person": ""}, "nobody here"),
        ({"person": clinic.patient.person.email}, "this is you"),
    ):  # fmt: skip
        answer = vera.post("/share-record/by-kind", labs_of_2024(clinic) | change | {"sure": "yes"})
        assert answer.status_code == 422 and words in text_of(answer).lower(), change
    for form, words in ((lab("yesterday"), "write the day"), (lab() | {"type": "poem"}, "choose what it is")):
        answer = vera.post(f"/item/{letter}/kind", form)
        assert answer.status_code == 422 and words in text_of(answer).lower()
    assert "Nobody but you" in text_of(vera.get("/sharing"))


def test_a_file_whose_labels_are_damaged_can_be_named_anew(vera: PageClient, letter: str, clinic: Clinic) -> None:
    vera.post(f"/item/{letter}/kind", lab())
    with clinic.portal.database.write() as db:
        row = db.get(Item, letter)
        assert row is not None
        row.wrapped_labels = b"damaged"
        db.add(row)
    assert 'value="document" selected' in vera.get(f"/item/{letter}/kind").text
    assert vera.post(f"/item/{letter}/kind", lab()).status_code == 303
    assert 'value="laboratory" selected' in vera.get(f"/item/{letter}/kind").text
    assert dt.date(2024, 5, 6).isoformat() in vera.get(f"/item/{letter}/kind").text
