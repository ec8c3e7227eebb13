"""Find: what others share is marked as theirs and leads to the share; a stranger finds nothing."""

from collections.abc import Callable

import pytest
from sqlmodel import select

from myphr.portal import Portal
from myphr.sharing import record_shares
from myphr.sharing.record_models import Compartment
from myphr.sharing.record_shares import Audience, Scope
from tests.cast import CAREGIVER, PATIENT, STRANGER
from tests.integration.sharing.conftest import gid_of
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in


@pytest.fixture
def tomas(portal: Portal, keyholder, enter: Callable[..., object], app) -> PageClient:
    """The caregiver's browser; the patient shares one letter with him."""
    patient, caregiver = enter(PATIENT), enter(CAREGIVER)
    enter(STRANGER)
    put_in(portal, patient.account.id, b"Dear Vera", "Letter about marmalade.txt")
    put_in(portal, caregiver.account.id, b"Dear Tomas", "My own marmalade.txt")
    audience = Audience("named", gids=(gid_of(caregiver),))
    record_shares.share(portal, patient.login, Scope("everything", "all"), audience)
    browser = sign_in(PageClient(app), CAREGIVER)
    wait(portal)
    return browser


def wait(portal: Portal) -> None:
    for thread in list(portal.search._reading.values()):
        thread.join(60)


def ask(browser: PageClient, words: str) -> str:
    return text_of(browser.get(browser.post("/record/find", {"words": words}).headers["Location"]))


def test_it_is_told_apart_from_one_s_own_and_leads_to_the_share(tomas: PageClient, portal: Portal) -> None:
    page = tomas.page(tomas.post("/record/find", {"words": "marmalade"}).headers["Location"])
    rows = {row.select_one("h2 a").text: row for row in page.select("#results li.row")}
    theirs, own = rows["Letter about marmalade.txt"], rows["My own marmalade.txt"]
    assert "Not yours" in theirs.text and "Vera Lindqvist shares this with you" in " ".join(theirs.text.split())
    assert "Not yours" not in own.text
    assert tomas.get(theirs.select_one("h2 a")["href"]).status_code == 200
    assert "Shared with me" in page.text  # to narrow it down to


def test_its_owner_sees_it_in_who_looked(tomas: PageClient, app) -> None:
    words = text_of(sign_in(PageClient(app), PATIENT).get("/who-looked"))
    assert "can find words of 1 file that you share" in words


def test_taken_back_the_next_look_finds_only_one_s_own(tomas: PageClient, portal: Portal, app) -> None:
    with portal.database.read() as db:
        share_id = db.exec(select(Compartment.id)).one()
    assert sign_in(PageClient(app), PATIENT).post(f"/sharing/{share_id}/stop", {}).status_code in (200, 303)
    text = ask(tomas, "marmalade")
    assert "My own" in text and "Letter about" not in text


def test_a_stranger_finds_nothing(tomas: PageClient, app) -> None:
    assert "Nothing found" in ask(sign_in(PageClient(app), STRANGER), "marmalade")


def test_the_timeline_shows_one_s_own_alone(tomas: PageClient) -> None:
    text = tomas.get("/record/timeline?undated=1").text
    assert "My own" in text and "Letter about" not in text


def test_the_timeline_page_reads_names_of_senders_too(tomas: PageClient, portal: Portal, monkeypatch) -> None:
    given = []
    timeline = portal.search.timeline
    monkeypatch.setattr(
        portal.search, "timeline", lambda *values, **named: given.append(named["around"]) or timeline(*values, **named)
    )
    assert tomas.get("/record/timeline").status_code == 200
    assert given[0].is_any()
