"""The second step on the page: asked for after the password, by code or recovery code (passkeys: tests/e2e)."""

import datetime as dt

import pyotp
import pytest
from bs4 import BeautifulSoup
from flask import Flask

from myphr.database import now
from myphr.people import second_factor
from myphr.portal import Portal
from tests.cast import PATIENT, SignedIn, cheap_settings
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_passkey
from tests.web.test_entrance import NEW_PASSWORD, code_on


@pytest.fixture
def app_of_vera(portal: Portal, patient: SignedIn) -> pyotp.TOTP:
    second_factor.begin_app(portal, patient.login)
    totp = pyotp.TOTP(second_factor.app_setup(portal, patient.login).secret)
    before = now() - dt.timedelta(minutes=5)
    second_factor.confirm_app(portal, patient.login, totp.at(before), at=before)
    return totp


def give_password(client: PageClient, where: str = "") -> str:
    answer = client.post("/sign-in", {"email": PATIENT.email, "password": PATIENT.password, "next": where})
    assert answer.status_code == 303
    return answer.headers["Location"]


def test_after_the_password_the_code_is_asked_for_and_lets_in(app: Flask, app_of_vera: pyotp.TOTP) -> None:
    client = PageClient(app)
    assert give_password(client) == "/sign-in/second-step"
    assert client.get("/record").status_code == 303
    assert "myphr-key" not in client.cookies()
    assert "Six digits" in text_of(client.get("/sign-in/second-step"))
    answer = client.post("/sign-in/second-step/code", {"code": app_of_vera.now()})
    assert answer.headers["Location"] == "/record"
    assert client.get("/record").status_code == 200
    assert "myphr-step" not in client.cookies()


def test_the_page_one_wanted_is_shown_in_the_end(app: Flask, app_of_vera: pyotp.TOTP) -> None:
    client = PageClient(app)
    where = give_password(client, "/account")
    form = client.page(where).select_one("form:has(#code)")
    assert form is not None
    wanted = form.select_one("input[name=next]")["value"]  # type: ignore[index]
    answer = client.post("/sign-in/second-step/code", {"code": app_of_vera.now(), "next": str(wanted)})
    assert answer.headers["Location"] == "/account"


def test_a_foreign_page_is_never_where_one_ends(app: Flask, app_of_vera: pyotp.TOTP) -> None:
    client = PageClient(app)
    give_password(client)
    form = {"code": app_of_vera.now(), "next": "https://evil.example/"}
    assert client.post("/sign-in/second-step/code", form).headers["Location"] == "/record"


def test_a_wrong_code_may_be_tried_again(app: Flask, app_of_vera: pyotp.TOTP) -> None:
    client = PageClient(app)
    give_password(client)
    for wrong in ("", "12", "abcdef"):
        answer = client.post("/sign-in/second-step/code", {"code": wrong})
        assert answer.status_code == 403 and "six digits" in text_of(answer).lower()
    assert client.post("/sign-in/second-step/code", {"code": app_of_vera.now()}).status_code == 303


def test_a_code_that_was_used_is_refused_with_what_to_do(app: Flask, app_of_vera: pyotp.TOTP) -> None:
    first, second = PageClient(app), PageClient(app)
    code = app_of_vera.now()
    give_password(first)
    assert first.post("/sign-in/second-step/code", {"code": code}).status_code == 303
    give_password(second)
    assert "wait for the next one" in text_of(second.post("/sign-in/second-step/code", {"code": code}))


def test_the_cookie_of_another_browser_is_needed(app: Flask, app_of_vera: pyotp.TOTP) -> None:
    give_password(PageClient(app))
    other = PageClient(app)
    answer = other.post("/sign-in/second-step/code", {"code": app_of_vera.now()})
    assert answer.status_code == 403
    assert "begin with your password again" in text_of(answer)
    assert other.get("/sign-in/second-step").status_code == 403


def test_the_cookie_of_the_step_is_no_cookie_of_a_login(app: Flask, app_of_vera: pyotp.TOTP) -> None:
    client = PageClient(app)
    give_password(client)
    client.browser.set_cookie("myphr-key", client.cookies()["myphr-step"])
    assert client.get("/record").status_code == 303


def test_the_recovery_code_lets_in_and_leads_to_what_was_lost(
    app: Flask, app_of_vera: pyotp.TOTP, patient: SignedIn
) -> None:
    client = PageClient(app)
    give_password(client)
    wrong = client.post("/sign-in/second-step/recovery-code", {"recovery_code": "AAAA"})
    assert wrong.status_code == 403
    answer = client.post("/sign-in/second-step/recovery-code", {"recovery_code": patient.recovery_code})
    assert answer.headers["Location"] == "/account"
    assert "remove them below" in text_of(client.get("/account"))


def test_password_and_phone_lost_the_recovery_code_shows_the_next_one(
    app: Flask, app_of_vera: pyotp.TOTP, patient: SignedIn
) -> None:
    client = PageClient(app)
    form = {"email": PATIENT.email, "recovery_code": patient.recovery_code, "password": NEW_PASSWORD}
    answer = client.post("/recover", form)
    assert answer.status_code == 200 and code_on(answer.text) != patient.recovery_code
    assert client.get("/record").status_code == 200


def test_the_passkey_question_is_on_the_page(app: Flask, portal: Portal, patient: SignedIn) -> None:
    put_passkey(portal, patient.account.id)
    portal.settings = cheap_settings(portal.settings.home, portal.settings.redis_url, public_url="http://localhost")
    client = PageClient(app)
    give_password(client)
    page = BeautifulSoup(client.get("/sign-in/second-step").text, "html5lib")
    form = page.select_one("form[data-passkey=get]")
    assert form is not None and '"rpId": "localhost"' in str(form["data-options"])
    assert page.select_one("#code") is None
    answer = client.post("/sign-in/second-step/passkey", {"credential": "{}"})
    assert answer.status_code == 403 and "passkey could not be confirmed" in text_of(answer)
