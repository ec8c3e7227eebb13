"""My account: number, certificate, authenticator app, passkeys, roles."""

import dataclasses
import re

import pyotp
import pytest
from flask import Flask

from myphr.people import accounts, identities, second_factor
from myphr.people.keyholder import Keyholder
from myphr.portal import Portal
from tests.cast import OPERATOR, PATIENT, STRANGER, Person, SignedIn
from tests.running_keyholder import RunningKeyholder
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_authority, put_passkey


def login_of(client: PageClient, portal: Portal) -> accounts.Login:
    login = accounts.resolve(portal.database, client.cookies()["myphr-key"])
    assert login is not None
    return login


# -- number and certificate -------------------------------------------------------------------------
def test_the_page_shows_number_and_certificate(
    keyholder: RunningKeyholder, portal: Portal, vera: PageClient
) -> None:
    words = text_of(vera.get("/account"))
    assert identities.gid_of(login_of(vera, portal)) in words
    assert "valid until" in words and "serial number" in words


def test_without_the_keyholder_the_page_says_so_in_plain_words(vera: PageClient) -> None:
    words = text_of(vera.get("/account"))
    assert "did not answer when you signed in" in words
    assert vera.get("/record").status_code == 200
    answer = vera.post("/account/certificate/renew")
    assert answer.status_code == 503 and "does not answer" in text_of(answer)


def test_cancelled_and_renewed(keyholder: RunningKeyholder, portal: Portal, vera: PageClient) -> None:
    assert vera.post("/account/certificate/revoke").status_code == 303
    words = text_of(vera.get("/account"))
    assert "is cancelled" in words and "Cancel my certificate" not in words
    assert vera.post("/account/certificate/revoke").status_code == 303  # twice is no harm
    assert vera.post("/account/certificate/renew").status_code == 303
    assert "You have a new certificate" in text_of(vera.get("/account"))
    assert identities.proof_for(login_of(vera, portal)).certificate


def test_signing_in_after_cancelling_gives_a_new_one(
    app: Flask, keyholder: RunningKeyholder, portal: Portal, vera: PageClient
) -> None:
    vera.post("/account/certificate/revoke")
    again = sign_in(PageClient(app), PATIENT)
    assert "valid until" in text_of(again.get("/account"))


def test_a_stopped_account_is_refused_with_a_sentence_that_helps(
    app: Flask, keyholder: RunningKeyholder, portal: Portal, patient: SignedIn, operator: SignedIn
) -> None:
    identities.revoke_identity(portal, operator.login, patient.account)
    answer = PageClient(app).post("/sign-in", {"email": PATIENT.email, "password": PATIENT.password})
    assert answer.status_code == 403
    assert "Write to the operator" in text_of(answer) and "Your files are kept" in text_of(answer)


def test_cancelling_with_the_keyholder_away_is_told(
    keyholder: RunningKeyholder, portal: Portal, vera: PageClient
) -> None:
    portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/s")
    answer = vera.post("/account/certificate/revoke")
    assert answer.status_code == 503
    assert "valid until" in text_of(answer)


# -- authenticator app ------------------------------------------------------------------------------
def set_up(vera: PageClient) -> pyotp.TOTP:
    assert vera.post("/account/authenticator-app").headers["Location"] == "/account/authenticator-app"
    shown = re.search(r'id="app-secret">([A-Z2-7 ]+)<', vera.get("/account/authenticator-app").text)
    assert shown
    return pyotp.TOTP(shown[1].replace(" ", ""))


def test_an_app_is_set_up_with_its_first_code(portal: Portal, vera: PageClient) -> None:
    page = vera.get("/account/authenticator-app")
    assert page.status_code == 303  # nothing waits yet
    totp = set_up(vera)
    picture = vera.page("/account/authenticator-app").select_one("svg[viewBox]")
    assert picture is not None and picture.select("path")
    wrong = vera.post("/account/authenticator-app/confirm", {"code": "12345"})
    assert wrong.status_code == 403 and "has 6 digits" in text_of(wrong)
    assert vera.post("/account/authenticator-app/confirm", {"code": totp.now()}).status_code == 303
    assert "Authenticator app" in text_of(vera.get("/account"))
    assert totp.secret not in vera.get("/account").text
    assert vera.get("/account/authenticator-app").status_code == 303


def test_removing_the_app_needs_the_password(app: Flask, vera: PageClient) -> None:
    totp = set_up(vera)
    vera.post("/account/authenticator-app/confirm", {"code": totp.now()})
    refused = vera.post("/account/authenticator-app/remove", {"password": "wrong wrong wrong"})
    assert refused.status_code == 422 and "present password is not right" in text_of(refused)
    assert vera.post("/account/authenticator-app/remove", {"password": PATIENT.password}).status_code == 303
    sign_in(PageClient(app), PATIENT)
    assert vera.get("/record").status_code == 200


def test_a_second_app_is_not_set_up_over_the_first(vera: PageClient) -> None:
    vera.post("/account/authenticator-app/confirm", {"code": set_up(vera).now()})
    assert vera.post("/account/authenticator-app").status_code == 422


def test_the_secret_of_one_is_not_shown_to_another(vera: PageClient, nils: PageClient) -> None:
    set_up(vera)
    assert nils.get("/account/authenticator-app").status_code == 303
    assert nils.post("/account/authenticator-app/confirm", {"code": "123456"}).status_code == 404


# -- passkeys ---------------------------------------------------------------------------------------
def test_a_portal_with_a_number_for_a_name_says_where_passkeys_work(portal: Portal, vera: PageClient) -> None:
    portal.__dict__["settings"] = dataclasses.replace(portal.settings, public_url="http://127.0.0.1:8000")
    words = text_of(vera.get("/account/passkeys/new"))
    assert "http://localhost:8000" in words and "authenticator app works here too" in words


def test_a_portal_where_no_passkey_works_says_why_and_offers_the_app(portal: Portal, vera: PageClient) -> None:
    assert "Passkeys are not offered" not in text_of(vera.get("/account"))
    portal.__dict__["settings"] = dataclasses.replace(portal.settings, public_url="http://192.0.2.7:8000")
    words = text_of(vera.get("/account"))
    assert "Passkeys are not offered at this address" in words and "Set up a passkey" not in words
    assert "Set up an authenticator app" in words


def test_an_answer_without_a_question_is_refused(vera: PageClient) -> None:
    assert vera.post("/account/passkeys", {"credential": "{}"}).status_code == 400


def test_a_question_is_good_for_one_answer(vera: PageClient) -> None:
    vera.get("/account/passkeys/new")
    refused = vera.post("/account/passkeys", {"credential": "{}"})  # and a fresh question comes with it
    assert refused.status_code == 403 and "could not be confirmed" in text_of(refused)


def test_a_passkey_is_listed_and_removed_with_the_password(portal: Portal, vera: PageClient) -> None:
    passkey_id = put_passkey(portal, login_of(vera, portal).account.id)
    assert "Passkey, made with Safari on iPad" in text_of(vera.get("/account"))
    address = f"/account/passkeys/{passkey_id}/remove"
    assert vera.post(address, {"password": "wrong wrong wrong"}).status_code == 422
    assert vera.post(address, {"password": PATIENT.password}).status_code == 303
    with portal.database.read() as db:
        assert not second_factor.of_account(db, login_of(vera, portal).account.id)


def test_a_stranger_removes_no_passkey_even_with_their_password(
    portal: Portal, patient: SignedIn, nils: PageClient
) -> None:
    passkey_id = put_passkey(portal, patient.account.id)
    answer = nils.post(f"/account/passkeys/{passkey_id}/remove", {"password": STRANGER.password})
    assert answer.status_code == 404


# -- roles and duties -------------------------------------------------------------------------------
def test_what_an_organisation_says_is_shown_to_the_person(portal: Portal, vera: PageClient) -> None:
    put_authority(portal, login_of(vera, portal).account.id)
    words = text_of(vera.get("/account"))
    assert "Nurse" in words and "Members of Harbour Hospital" in words


@pytest.mark.parametrize(("person", "sees"), [(OPERATOR, True), (PATIENT, False)])
def test_only_the_operator_is_led_to_the_operators_page(browser_of, person: Person, sees: bool) -> None:
    assert ("/operator" in browser_of(person).get("/account").text) is sees
