"""Welcome, register, recovery code, sign in and out, recover."""

import re

import pytest
from flask import Flask

from myphr.people import accounts
from myphr.portal import Portal
from tests.cast import CAREGIVER, PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of

FORM = {"name": PATIENT.name, "email": PATIENT.email, "password": PATIENT.password}
NEW_PASSWORD = "nine grey pebbles under a bridge"


def code_on(text: str) -> str:
    found = re.search(r"(?:[0-9A-Z]{4}-){7}[0-9A-Z]{4}", text)
    assert found
    return found[0]


def test_the_welcome_page_is_for_everybody(browser: PageClient) -> None:
    assert "Make my record" in text_of(browser.get("/"))


def test_who_is_signed_in_goes_straight_to_the_record(vera: PageClient) -> None:
    assert vera.get("/").headers["Location"] == "/record"
    assert vera.get("/sign-in").headers["Location"] == "/record"


def test_registering_signs_in_and_shows_the_recovery_code(browser: PageClient) -> None:
    answer = browser.post("/register", FORM)
    assert answer.status_code == 200
    code_on(answer.text)
    assert browser.get("/record").status_code == 200


def test_the_recovery_code_is_shown_once(browser: PageClient) -> None:
    code = code_on(browser.post("/register", FORM).text)
    for address in ("/recovery-code", "/record", "/account"):
        assert code[-4:] not in browser.get(address).text
    assert code[-4:] not in "".join(browser.cookies().values())


def test_the_right_last_group_confirms_the_code(browser: PageClient) -> None:
    code = code_on(browser.post("/register", FORM).text)
    assert "recovery code?" in text_of(browser.get("/record"))
    answer = browser.post("/recovery-code", {"last_group": f" {code[-4:].lower()} "})
    assert answer.headers["Location"] == "/record"
    assert "recovery code?" not in text_of(browser.get("/record"))


def test_the_whole_code_confirms_it_too(browser: PageClient) -> None:
    code = code_on(browser.post("/register", FORM).text)
    assert browser.post("/recovery-code", {"last_group": code}).status_code == 303


@pytest.mark.parametrize("wrong", ["", "XXXX", "0000-0000"])
def test_a_wrong_last_group_is_told_and_may_be_tried_again(browser: PageClient, wrong: str) -> None:
    code = code_on(browser.post("/register", FORM).text)
    answer = browser.post("/recovery-code", {"last_group": wrong})
    assert answer.status_code == 422
    assert "not the last letters" in text_of(answer)
    assert browser.post("/recovery-code", {"last_group": code[-4:]}).status_code == 303


def test_confirming_by_htmx_swaps_only_the_form(browser: PageClient) -> None:
    browser.post("/register", FORM)
    answer = browser.post("/recovery-code", {"last_group": "XXXX"}, htmx=True)
    assert answer.text.lstrip().startswith("<form")
    assert "not the last letters" in answer.text


def test_confirming_right_by_htmx_leads_to_the_record(browser: PageClient) -> None:
    code = code_on(browser.post("/register", FORM).text)
    answer = browser.post("/recovery-code", {"last_group": code[-4:]}, htmx=True)
    assert answer.headers["HX-Redirect"] == "/record"


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"password": "short"}, 422, "at least 15 characters"),
        ({"password": ""}, 422, "choose another password"),
        ({"email": "not an address"}, 422, "e-mail address"),
        ({"email": ""}, 422, "e-mail address"),
        ({"name": " "}, 422, "name is missing"),
    ],
)
def test_a_refused_registration_says_what_to_change(
    browser: PageClient, change: dict[str, str], status: int, words: str
) -> None:
    answer = browser.post("/register", FORM | change)
    assert answer.status_code == status
    assert words in text_of(answer)


def test_a_refused_form_keeps_what_was_typed_but_never_the_password(browser: PageClient) -> None:
    answer = browser.post("/register", FORM | {"password": "tooshort-Zebra9"[:12]})
    assert PATIENT.email in answer.text and PATIENT.name in answer.text
    assert "tooshort" not in answer.text


def test_an_address_registers_once(browser: PageClient, patient: SignedIn) -> None:
    answer = browser.post("/register", FORM)
    assert answer.status_code == 409
    assert "already an account" in text_of(answer)


def test_a_hostile_name_is_text_on_every_page(browser: PageClient) -> None:
    name = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    assert browser.post("/register", FORM | {"name": name}).status_code == 200
    assert "<script>alert" not in browser.get("/account").text  # the page client refuses any inline script as well


def test_signing_in_with_the_right_password(browser: PageClient, patient: SignedIn) -> None:
    sign_in(browser, PATIENT)
    assert PATIENT.name in text_of(browser.get("/account"))


def test_unknown_address_and_wrong_password_get_the_same_answer(app: Flask, patient: SignedIn) -> None:
    def answer_to(email: str, password: str) -> tuple[int, str]:
        answer = PageClient(app).post("/sign-in", {"email": email, "password": password})
        return answer.status_code, text_of(answer).replace(email, "")

    assert answer_to(PATIENT.email, "wrong wrong wrong wrong") == answer_to(CAREGIVER.email, "wrong wrong wrong wrong")
    assert answer_to(PATIENT.email, "")[0] == 403


def test_too_many_tries_have_to_wait(browser: PageClient, patient: SignedIn) -> None:
    statuses = [
        browser.post("/sign-in", {"email": PATIENT.email, "password": "wrong wrong wrong"}).status_code
        for _ in range(15)
    ]
    assert statuses[0] == 403 and statuses[-1] == 429


def test_signing_out_ends_the_login_session_on_the_server(app: Flask, vera: PageClient) -> None:
    thief = PageClient(app)
    for name, value in vera.cookies().items():
        thief.browser.set_cookie(name, value)
    assert thief.get("/record").status_code == 200
    assert vera.post("/sign-out").status_code == 303
    assert vera.cookies().keys() <= {"myphr"}
    assert thief.get("/record").status_code == 303


def test_recovering_sets_a_new_password_and_shows_a_new_code(
    app: Flask, browser: PageClient, patient: SignedIn
) -> None:
    answer = browser.post(
        "/recover", {"email": PATIENT.email, "recovery_code": patient.recovery_code.lower(), "password": NEW_PASSWORD}
    )
    assert answer.status_code == 200
    assert code_on(answer.text) != patient.recovery_code
    again = PageClient(app)
    assert again.post("/sign-in", {"email": PATIENT.email, "password": NEW_PASSWORD}).status_code == 303
    assert PageClient(app).post("/sign-in", {"email": PATIENT.email, "password": PATIENT.password}).status_code == 403


def test_recovering_signs_out_every_browser(app: Flask, patient: SignedIn) -> None:
    old = sign_in(PageClient(app), PATIENT)
    PageClient(app).post(
        "/recover", {"email": PATIENT.email, "recovery_code": patient.recovery_code, "password": NEW_PASSWORD}
    )
    assert old.get("/record").status_code == 303


def test_a_wrong_recovery_code_is_refused(browser: PageClient, patient: SignedIn) -> None:
    answer = browser.post("/recover", {"email": PATIENT.email, "recovery_code": "AAAA-BBBB", "password": NEW_PASSWORD})
    assert answer.status_code == 403
    assert "recovery code" in text_of(answer)


def test_a_revoked_login_session_ends_at_the_next_click(vera: PageClient, portal: Portal) -> None:
    login = accounts.resolve(portal.database, vera.cookies()["myphr-key"])
    assert login
    accounts.revoke(portal, login, login.login_session.id)
    assert vera.get("/record").headers["Location"].startswith("/sign-in")


@pytest.mark.parametrize(
    ("page", "address"),
    [("http://x/record?from=50", "/sign-in?next=%2Frecord%3Ffrom%3D50"), ("http://[", "/sign-in"), ("", "/sign-in")],
)
def test_who_is_signed_out_while_a_page_refreshes_itself_comes_back_to_it(
    browser: PageClient, page: str, address: str
) -> None:
    answer = browser.get("/record/items", htmx=True, headers={"HX-Current-URL": page})
    assert answer.status_code == 401 and answer.headers["HX-Redirect"] == address
    told = "You are not signed in, or not any more"
    assert (told in text_of(browser.get(address))) is ("next" in address)
