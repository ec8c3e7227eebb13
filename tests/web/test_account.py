"""My account: devices, password, recovery code."""

from flask import Flask

from myphr.people import accounts
from myphr.portal import Portal
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.test_entrance import NEW_PASSWORD, code_on

IPAD = (
    "Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Safari/604.1"
)


def test_every_signed_in_device_is_listed_in_plain_words(app: Flask, patient: SignedIn) -> None:
    tablet = PageClient(app)
    tablet.post("/sign-in", {"email": PATIENT.email, "password": PATIENT.password}, headers={"User-Agent": IPAD})
    words = text_of(tablet.get("/account"))
    assert "Safari on iPad" in words and "Firefox on Linux" in words
    assert words.count("this device") == 1


def test_another_device_is_signed_out_from_here(app: Flask, patient: SignedIn) -> None:
    here, there = sign_in(PageClient(app), PATIENT), sign_in(PageClient(app), PATIENT)
    address = there.page("/account").select_one("h3:has(.tag)").find_parent("li").select_one("form")["action"]  # type: ignore[union-attr]
    assert here.post(str(address)).status_code == 303
    assert there.get("/record").status_code == 303
    assert here.get("/record").status_code == 200


def test_signing_out_this_device_from_the_list_leads_to_the_start_page(vera: PageClient) -> None:
    address = vera.page("/account").select_one("h3:has(.tag)").find_parent("li").select_one("form")["action"]  # type: ignore[union-attr]
    assert vera.post(str(address)).headers["Location"] == "/"
    assert vera.get("/record").status_code == 303


def test_signing_out_a_device_closes_its_screens(vera: PageClient, portal: Portal) -> None:
    login = accounts.resolve(portal.database, vera.cookies()["myphr-key"])
    assert login
    news = portal.redis.pubsub(ignore_subscribe_messages=True)
    news.subscribe("myphr:revoked")
    news.get_message(timeout=1)
    vera.post("/sign-out")
    message = news.get_message(timeout=5)
    assert message and message["data"].decode() == f"owner:{login.login_session.id}"
    news.close()


def test_changing_the_password_keeps_this_device_and_signs_out_the_others(app: Flask, patient: SignedIn) -> None:
    here, there = sign_in(PageClient(app), PATIENT), sign_in(PageClient(app), PATIENT)
    assert (
        here.post("/account/password", {"old_password": PATIENT.password, "new_password": NEW_PASSWORD}).status_code
        == 303
    )
    assert "password is changed" in text_of(here.get("/account"))
    assert there.get("/record").status_code == 303
    assert PageClient(app).post("/sign-in", {"email": PATIENT.email, "password": NEW_PASSWORD}).status_code == 303


def test_a_wrong_present_password_changes_nothing(app: Flask, vera: PageClient) -> None:
    answer = vera.post("/account/password", {"old_password": "wrong wrong wrong", "new_password": NEW_PASSWORD})
    assert answer.status_code == 422
    assert "present password is not right" in text_of(answer)
    sign_in(PageClient(app), PATIENT)


def test_a_new_recovery_code_needs_the_password(vera: PageClient) -> None:
    assert vera.post("/account/recovery-code", {"password": "wrong wrong wrong"}).status_code == 422
    answer = vera.post("/account/recovery-code", {"password": PATIENT.password})
    code_on(answer.text)
    assert "no longer works" in text_of(answer)
