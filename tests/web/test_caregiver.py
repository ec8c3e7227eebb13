"""The way of a caregiver: a link, a passcode, a screen, goodbye."""

import re
from collections.abc import Iterator

import pytest
from flask import Flask

from myphr.database import now
from myphr.portal import Portal
from myphr.sharing import shares, tickets
from myphr.sharing.models import Share
from tests.cast import CAREGIVER, PATIENT, SignedIn
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_vm_session


class Shared:
    """A fresh share of the patient's live screen, and what its mail and the phone call told."""

    def __init__(self, portal: Portal, patient: SignedIn, access: str = "view", with_passcode: bool = True) -> None:
        self.vm_session_id = put_vm_session(portal, patient.account.id)
        self.share, link, self.passcode = shares.create(
            portal, patient.login, self.vm_session_id, CAREGIVER.email, access, 3600, with_passcode
        )
        self.address, _, self.secret = link.removeprefix(portal.settings.public_url).partition("#")

    def form(self, **change: str) -> dict[str, str]:
        return {"secret": self.secret, "passcode": self.passcode or ""} | change


@pytest.fixture
def shared(portal: Portal, patient: SignedIn) -> Iterator[Shared]:
    yield Shared(portal, patient)


@pytest.fixture
def visitor(browser: PageClient, shared: Shared) -> PageClient:
    """A caregiver's browser that has opened the link."""
    assert browser.post(f"{shared.address}/open", shared.form()).status_code == 303
    return browser


def share_row(portal: Portal, shared: Shared) -> Share:
    with portal.database.read() as db:
        row = db.get(Share, shared.share.id)
    assert row
    return row


# -- the link -------------------------------------------------------------------------------------
def test_following_the_link_changes_nothing(browser: PageClient, portal: Portal, shared: Shared) -> None:
    before = share_row(portal, shared).model_dump()
    for method in ("GET", "HEAD"):
        assert browser.request(method, shared.address).status_code == 200
    assert share_row(portal, shared).model_dump() == before


def test_the_landing_page_is_the_same_for_a_link_that_never_was(app: Flask, shared: Shared) -> None:
    def landing(address: str) -> str:
        page = PageClient(app).get(address)
        assert page.status_code == 200
        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}", "", page.text)

    assert landing(shared.address) == landing("/s/6a1b0000-0000-4000-8000-000000000000")


def test_the_landing_page_is_not_kept_and_tells_no_other_site(browser: PageClient, shared: Shared) -> None:
    answer = browser.get(shared.address)
    assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Referrer-Policy"] == "no-referrer"


def test_the_landing_page_names_nobody(browser: PageClient, shared: Shared) -> None:
    text = browser.get(shared.address).text
    assert PATIENT.name not in text and PATIENT.email not in text and CAREGIVER.email not in text


def test_secret_and_passcode_open_the_screen(visitor: PageClient, shared: Shared) -> None:
    words = text_of(visitor.get(f"{shared.address}/screen"))
    assert f"You are watching {PATIENT.name}'s screen, view only" in words


def test_a_passcode_typed_with_a_space_is_right(browser: PageClient, shared: Shared) -> None:
    assert shared.passcode
    typed = f" {shared.passcode[:3]} {shared.passcode[3:]} "
    assert browser.post(f"{shared.address}/open", shared.form(passcode=typed)).status_code == 303


def test_a_wrong_passcode_says_how_many_tries_are_left_and_keeps_the_link(browser: PageClient, shared: Shared) -> None:
    wrong = "000000" if shared.passcode != "000000" else "111111"
    answer = browser.post(f"{shared.address}/open", shared.form(passcode=wrong))
    assert answer.status_code == 403
    assert "4 tries are left" in text_of(answer) and f'value="{shared.secret}"' in answer.text
    assert browser.post(f"{shared.address}/open", shared.form()).status_code == 303


def test_five_wrong_passcodes_close_the_link_for_good(browser: PageClient, shared: Shared) -> None:
    wrong = "000000" if shared.passcode != "000000" else "111111"
    answers = [browser.post(f"{shared.address}/open", shared.form(passcode=wrong)) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [403, 403, 403, 403, 410]
    assert "2 tries are left" in text_of(answers[2]) and "One try is left" in text_of(answers[3])
    assert browser.post(f"{shared.address}/open", shared.form()).status_code == 410


@pytest.mark.parametrize("secret", ["", "x" * 43])
def test_a_wrong_link_says_whom_to_ask(browser: PageClient, shared: Shared, secret: str) -> None:
    answer = browser.post(f"{shared.address}/open", shared.form(secret=secret))
    assert answer.status_code == 404 and "Ask the person who sent it" in text_of(answer)


def test_a_withdrawn_link_says_the_same(browser: PageClient, portal: Portal, patient: SignedIn, shared: Shared) -> None:
    shares.withdraw(portal, patient.login, shared.share.id)
    answer = browser.post(f"{shared.address}/open", shared.form())
    assert answer.status_code == 410 and "Ask the person who sent it" in text_of(answer)


def test_without_a_passcode_the_page_asks_for_none(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    open_share = Shared(portal, patient, with_passcode=False)
    assert "passcode" not in browser.get(open_share.address).text.lower()
    assert browser.post(f"{open_share.address}/open", {"secret": open_share.secret}).status_code == 303


def test_a_hostile_link_secret_is_only_text(browser: PageClient, shared: Shared) -> None:
    answer = browser.post(f"{shared.address}/open", shared.form(secret='"><script>alert(1)</script>', passcode="1"))
    assert "<script>alert" not in answer.text


# -- the visit ------------------------------------------------------------------------------------
def test_the_visit_cookie_is_good_for_this_share_only(browser: PageClient, shared: Shared) -> None:
    cookie = browser.post(f"{shared.address}/open", shared.form()).headers["Set-Cookie"]
    assert cookie.startswith("myphr-visit=") and f"Path={shared.address}" in cookie
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and shared.secret not in cookie


def test_a_visit_opens_no_other_share(app: Flask, portal: Portal, patient: SignedIn, visitor: PageClient) -> None:
    other = Shared(portal, patient)
    cookie = next(c for c in visitor.browser._cookies.values() if c.key == "myphr-visit")
    thief = PageClient(app)
    thief.browser.set_cookie("myphr-visit", cookie.value, path=other.address)
    assert thief.get(f"{other.address}/screen").status_code == 410


def test_a_visit_opens_no_page_of_the_owner(visitor: PageClient, shared: Shared) -> None:
    assert visitor.get(f"/machine/{shared.vm_session_id}").headers["Location"].startswith("/sign-in")
    assert visitor.get("/record").headers["Location"].startswith("/sign-in")


@pytest.mark.parametrize("access", ["view", "control"])
def test_a_visitors_ticket_carries_the_access_of_the_share(
    browser: PageClient, portal: Portal, patient: SignedIn, access: str
) -> None:
    shared = Shared(portal, patient, access)
    browser.post(f"{shared.address}/open", shared.form())
    answer = browser.post(f"{shared.address}/ticket")
    assert answer.json
    ticket = tickets.verify(portal.keys.ticket_key, answer.json["ticket"], now())
    assert (ticket.access, ticket.grant, ticket.vm_session_id) == (
        access,
        f"share:{shared.share.id}",
        shared.vm_session_id,
    )
    assert ticket.visit


def test_there_is_no_ticket_without_a_visit(browser: PageClient, shared: Shared) -> None:
    answer = browser.post(f"{shared.address}/ticket")
    assert answer.status_code == 410 and answer.json and answer.json["code"] == "share-closed"


def test_stop_sharing_ends_the_visit(visitor: PageClient, portal: Portal, patient: SignedIn, shared: Shared) -> None:
    assert visitor.get(f"{shared.address}/state", htmx=True).status_code == 204
    shares.withdraw(portal, patient.login, shared.share.id)
    answer = visitor.get(f"{shared.address}/state", htmx=True)
    assert answer.status_code == 410 and "This link is closed" in answer.text and "every" not in answer.text
    assert visitor.get(f"{shared.address}/screen").status_code == 410
    assert visitor.post(f"{shared.address}/ticket").status_code == 410


def test_leaving_takes_the_cookie_and_the_link_still_works(visitor: PageClient, shared: Shared) -> None:
    answer = visitor.post(f"{shared.address}/leave")
    assert "You have left" in text_of(answer)
    assert visitor.get(f"{shared.address}/screen").status_code == 410
    assert visitor.post(f"{shared.address}/open", shared.form()).status_code == 303


def test_after_leaving_a_kept_cookie_is_worth_nothing(
    app: Flask, visitor: PageClient, portal: Portal, patient: SignedIn, shared: Shared
) -> None:
    kept = next(c for c in visitor.browser._cookies.values() if c.key == "myphr-visit").value
    visitor.post(f"{shared.address}/leave")
    thief = PageClient(app)
    thief.browser.set_cookie("myphr-visit", kept, path=shared.address)
    assert thief.get(f"{shared.address}/screen").status_code == 410
    assert thief.post(f"{shared.address}/ticket").status_code == 410
    (line,) = shares.list_for(portal, patient.login, shared.vm_session_id)
    assert line.visits == [] and line.is_open


def test_leaving_ends_the_own_visit_only(app: Flask, visitor: PageClient, shared: Shared) -> None:
    other = PageClient(app)
    other.post(f"{shared.address}/open", shared.form())
    visitor.post(f"{shared.address}/leave")
    assert other.get(f"{shared.address}/screen").status_code == 200


def test_the_visit_stands_in_who_looked_by_its_address(
    app: Flask, portal: Portal, patient: SignedIn, visitor: PageClient
) -> None:
    from tests.web.conftest import sign_in

    words = text_of(sign_in(PageClient(app), PATIENT).get("/who-looked"))
    assert f"{CAREGIVER.email} opened the shared link." in words and "You shared the screen." in words


def test_a_hostile_owner_name_is_only_text(app: Flask, portal: Portal) -> None:
    from tests import cast

    name = "<script>alert(1)</script>"
    hostile = cast.enter(portal, cast.Person("eve@patient.example", name, PATIENT.password))
    shared = Shared(portal, hostile)
    client = PageClient(app)
    client.post(f"{shared.address}/open", shared.form())
    assert "<script>alert" not in client.get(f"{shared.address}/screen").text
