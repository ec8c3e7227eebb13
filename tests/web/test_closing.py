"""Closing one's account on the page: told plainly, a copy offered first, asked twice, then nobody is signed in."""

import re
import time

import pyotp
import pytest
from sqlmodel import select

from myphr.ingest import identify
from myphr.people.models import Account, LoginSession
from myphr.portal import Portal
from myphr.records import exports
from tests.cast import OPERATOR, PATIENT
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_authority, put_in


def account_of(portal: Portal) -> str:
    with portal.database.read() as db:
        return db.exec(select(Account.id).where(Account.email == PATIENT.email)).one()


def is_there(portal: Portal) -> bool:
    with portal.database.read() as db:
        return db.exec(select(Account).where(Account.email == PATIENT.email)).first() is not None


def test_the_account_page_leads_to_it(vera: PageClient) -> None:
    assert vera.page("/account").select_one('a[href="/account/close"]')
    assert vera.page("/account/close").select_one('a[href="/account/close/sure"]')


def test_looking_at_both_pages_changes_nothing(vera: PageClient, portal: Portal) -> None:
    vera.get("/account/close"), vera.get("/account/close/sure")
    assert is_there(portal) and vera.get("/record").status_code == 200


def test_it_says_what_happens_and_whether_there_is_a_copy(vera: PageClient, portal: Portal) -> None:
    words = text_of(vera.get("/account/close"))
    assert "You cannot change your mind" in words and "your record is empty" in words.lower()
    put_in(portal, account_of(portal), b"letter", "letter.txt")
    page = vera.page("/account/close")
    assert "not downloaded a copy" in page.text and page.select_one('a[href="/everything"]')
    assert "You have no copy of it" in text_of(vera.get("/account/close/sure"))
    vera.post("/everything", {})
    with portal.database.read() as db:
        export_id = db.exec(select(exports.Export.id)).one()
    exports.run(portal, export_id, identify.pronom_of)
    assert vera.get(f"/everything/{export_id}/zip").data
    assert "You downloaded everything" in text_of(vera.get("/account/close"))
    assert "no copy" not in text_of(vera.get("/account/close/sure"))
    put_in(portal, account_of(portal), b"another", "another.txt")
    assert "1 file came, and is not in that copy" in text_of(vera.get("/account/close"))


def test_a_wrong_password_closes_nothing(vera: PageClient, portal: Portal) -> None:
    for fields in ({}, {"password": "not my password at all"}):
        answer = vera.post("/account/close/sure", fields)
        assert answer.status_code >= 400 and "the present password is not right" in text_of(answer)
    assert is_there(portal) and vera.get("/record").status_code == 200


def test_with_the_password_it_is_gone_and_this_browser_is_signed_out(vera: PageClient, portal: Portal) -> None:
    put_in(portal, account_of(portal), b"letter", "letter.txt")
    answer = vera.post("/account/close/sure", {"password": PATIENT.password})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/account/closed")
    assert "Your account is closed" in text_of(vera.get("/account/closed"))
    assert not is_there(portal)
    assert vera.get("/record").headers["Location"].startswith("/sign-in")
    with portal.database.read() as db:
        assert db.exec(select(LoginSession)).all() == []
    refused = vera.post("/sign-in", {"email": PATIENT.email, "password": PATIENT.password})
    unknown = vera.post("/sign-in", {"email": "nobody@nowhere.example", "password": PATIENT.password})
    assert refused.status_code == unknown.status_code == 403

    def alert(answer) -> str:
        return re.search(r'role="alert".*?</p>', answer.text, re.S)[0]

    assert alert(refused) == alert(unknown)


def test_another_device_is_out_in_the_same_moment(vera: PageClient, app, portal: Portal) -> None:
    tablet = sign_in(PageClient(app), PATIENT)
    assert tablet.get("/record").status_code == 200
    vera.post("/account/close/sure", {"password": PATIENT.password})
    assert tablet.get("/record").headers["Location"].startswith("/sign-in")


def test_with_a_second_step_it_is_asked_for_too(vera: PageClient, portal: Portal) -> None:
    vera.post("/account/authenticator-app", {})
    secret = re.sub(r"\s", "", vera.page("/account/authenticator-app").select_one("#app-secret").text)
    vera.post("/account/authenticator-app/confirm", {"code": pyotp.TOTP(secret).at(time.time() - 30)})
    page = vera.page("/account/close/sure")
    assert page.select_one('input[name="code"]') and page.select_one('input[name="recovery_code"]')
    answer = vera.post("/account/close/sure", {"password": PATIENT.password})
    assert answer.status_code == 403 and is_there(portal)
    answer = vera.post("/account/close/sure", {"password": PATIENT.password, "code": pyotp.TOTP(secret).now()})
    assert answer.status_code == 303 and not is_there(portal)


def test_an_officer_is_told_what_to_do_first(vera: PageClient, portal: Portal) -> None:
    put_authority(portal, account_of(portal))
    page = vera.page("/account/close")
    assert "you look after Harbour Hospital" in page.text and not page.select_one('a[href="/account/close/sure"]')
    answer = vera.post("/account/close/sure", {"password": PATIENT.password})
    assert answer.status_code == 409 and is_there(portal)


def test_the_only_operator_is_told_too(oda: PageClient, portal: Portal) -> None:
    assert "only one who runs this portal" in text_of(oda.get("/account/close"))
    assert oda.post("/account/close/sure", {"password": OPERATOR.password}).status_code == 409


@pytest.mark.parametrize("address", ["/account/close", "/account/close/sure", "/account/closed"])
def test_a_wrong_method_is_refused(vera: PageClient, address: str, portal: Portal) -> None:
    for method in {"POST", "PUT", "DELETE"} - ({"POST"} if address.endswith("sure") else set()):
        assert vera.request(method, address, headers={"X-CSRF-Token": vera.token()}).status_code == 405
    assert is_there(portal)


def test_a_stranger_closes_her_own_account_only(vera: PageClient, nils: PageClient, portal: Portal) -> None:
    answer = nils.post("/account/close/sure", {"password": PATIENT.password, "email": PATIENT.email})
    assert answer.status_code >= 400 and is_there(portal)
    assert vera.get("/record").status_code == 200
