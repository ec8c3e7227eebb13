"""Organisations on the page: registered by the operator, members kept by the officer, nothing for anybody else."""

import datetime as dt
import re
from collections.abc import Callable

import pytest

from myphr.database import now
from myphr.people import accounts, authorities, identities
from myphr.people.keyholder import Keyholder
from myphr.portal import Portal
from tests.cast import CAREGIVER, OPERATOR, PATIENT, PRACTICE, STRANGER, Person, SignedIn
from tests.running_keyholder import RunningKeyholder
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_authority

FORM = {"name": "St Mary's Hospital", "kind": "hospital", "officer": PRACTICE.email}
SOON = (now() + dt.timedelta(days=20)).date().isoformat()
ROLE = {"member": CAREGIVER.email, "attribute": "role:cardiologist", "other": "", "last_day": SOON}


@pytest.fixture
def oda(keyholder: RunningKeyholder, portal: Portal, browser_of: Callable[[Person], PageClient]) -> PageClient:
    browser = browser_of(OPERATOR)
    accounts.make_operator(portal, OPERATOR.email)
    return browser


@pytest.fixture
def desk(keyholder: RunningKeyholder, browser_of: Callable[[Person], PageClient]) -> PageClient:
    """The officer's browser."""
    return browser_of(PRACTICE)


@pytest.fixture
def address(oda: PageClient, desk: PageClient, portal: Portal) -> str:
    """Of the officer's page."""
    assert oda.post("/operator/organisations", FORM).status_code == 303
    with portal.database.read() as db:
        return f"/organisations/{authorities.open_ones(db)[0].gid}"


@pytest.fixture
def tomas(enter: Callable[..., SignedIn], keyholder: RunningKeyholder) -> SignedIn:
    return enter(CAREGIVER)


def holders(portal: Portal, address: str, value: str = "cardiologist") -> list[str]:
    with portal.database.read() as db:
        return [p.name for p in authorities.holders(db, address.rpartition("/")[2], "role", value)]


# -- the operator -----------------------------------------------------------------------------------
def test_the_operator_registers_an_organisation_and_its_officer_finds_it(
    oda: PageClient, desk: PageClient, address: str
) -> None:
    words = text_of(oda.get("/operator"))
    assert "St Mary's Hospital is registered" in words and "0 members, officer desk@practice.example" in words
    assert "Members of St Mary's Hospital" in text_of(desk.get("/account"))
    assert desk.get(address).status_code == 200


def test_a_refused_form_keeps_what_was_typed(oda: PageClient, desk: PageClient) -> None:
    answer = oda.post("/operator/organisations", FORM | {"officer": "nobody@nowhere.example"})
    assert answer.status_code == 422
    assert "nobody has an account" in text_of(answer) and "St Mary&#39;s Hospital" in answer.text


def test_an_operator_whom_the_keyholder_does_not_know_is_told_what_to_do(
    keyholder: RunningKeyholder, browser_of: Callable[[Person], PageClient], desk: PageClient
) -> None:
    answer = browser_of(OPERATOR).post("/operator/organisations", FORM)
    assert answer.status_code == 403 and "myphr operator" in text_of(answer)


def test_with_the_keyholder_away_nothing_is_registered_and_the_page_says_so(
    oda: PageClient, desk: PageClient, portal: Portal
) -> None:
    portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/s")
    answer = oda.post("/operator/organisations", FORM)
    assert answer.status_code == 503 and "does not answer" in text_of(answer)
    with portal.database.read() as db:
        assert authorities.all_of(db) == []


def test_closing_needs_to_be_sure(oda: PageClient, desk: PageClient, address: str) -> None:
    its = f"/operator{address}"
    assert "This cannot be undone" in text_of(oda.get(its))
    assert oda.post(f"{its}/close").status_code == 422
    assert oda.post(f"{its}/close", {"sure": "yes"}).status_code == 303
    assert "Closed" in text_of(oda.get("/operator"))
    assert desk.get(address).status_code == 404
    assert oda.get(its).status_code == 404
    assert oda.post(f"{its}/close", {"sure": "yes"}).status_code == 404


def test_another_officer(oda: PageClient, desk: PageClient, address: str, nils: PageClient) -> None:
    assert nils.get(address).status_code == 404
    assert oda.post(f"/operator{address}/officer", {"officer": "nobody@nowhere.example"}).status_code == 422
    assert oda.post(f"/operator{address}/officer", {"officer": STRANGER.email}).status_code == 303
    assert nils.get(address).status_code == 200
    assert desk.get(address).status_code == 404


def test_stopping_a_person_signs_them_out_and_closes_their_screens(
    oda: PageClient, portal: Portal, vera: PageClient
) -> None:
    login = accounts.resolve(portal.database, vera.cookies()["myphr-key"])
    assert login
    news = portal.redis.pubsub(ignore_subscribe_messages=True)
    news.subscribe("myphr:revoked")
    news.get_message(timeout=1)
    assert oda.post("/operator/people/stop", {"email": PATIENT.email}).status_code == 422  # not sure
    assert vera.get("/record").status_code == 200
    assert oda.post("/operator/people/stop", {"email": PATIENT.email, "sure": "yes"}).status_code == 303
    assert vera.get("/record").status_code == 303
    told = set()
    while message := news.get_message(timeout=2):
        told.add(message["data"].decode())
    assert f"owner:{login.login_session.id}" in told
    news.close()


def test_a_stopped_person_gets_back_in_with_a_new_number(
    oda: PageClient, portal: Portal, vera: PageClient, app
) -> None:
    assert oda.post("/operator/people/new-identity", {"email": PATIENT.email}).status_code == 422
    oda.post("/operator/people/stop", {"email": PATIENT.email, "sure": "yes"})
    assert oda.post("/operator/people/new-identity", {"email": PATIENT.email}).status_code == 303
    assert sign_in(PageClient(app), PATIENT).get("/record").status_code == 200


def test_operators_do_not_stop_themselves(oda: PageClient) -> None:
    answer = oda.post("/operator/people/stop", {"email": OPERATOR.email, "sure": "yes"})
    assert answer.status_code == 422 and oda.get("/operator").status_code == 200


def test_a_stop_the_keyholder_did_not_hear_of_is_told_and_done_again(
    oda: PageClient, portal: Portal, vera: PageClient, keyholder: RunningKeyholder
) -> None:
    login = accounts.resolve(portal.database, vera.cookies()["myphr-key"])
    assert login
    gid = identities.gid_of(login)
    portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/s")
    assert oda.post("/operator/people/stop", {"email": PATIENT.email, "sure": "yes"}).status_code == 503
    assert vera.get("/record").status_code == 303
    portal.__dict__["keyholder"] = keyholder.client
    assert oda.post("/operator/people/stop", {"email": PATIENT.email, "sure": "yes"}).status_code == 303
    assert keyholder.client.identities_revoked([gid]) == {gid}


# -- the officer ------------------------------------------------------------------------------------
def test_the_officer_gives_a_role_and_takes_it_away(
    desk: PageClient, portal: Portal, address: str, tomas: SignedIn
) -> None:
    assert desk.post(f"{address}/grant", ROLE).status_code == 303
    page = desk.get(address)
    assert "Cardiologist, until" in text_of(page) and CAREGIVER.name in text_of(page)
    assert holders(portal, address) == [CAREGIVER.name]
    take = re.search(rf'action="({address}/members/[0-9a-f-]+/take)"', page.text)
    assert take
    assert desk.post(take[1]).status_code == 303
    assert "no longer has this: Cardiologist" in text_of(desk.get(address))
    assert holders(portal, address) == []
    assert desk.post(take[1]).status_code == 404


def test_a_role_that_is_not_in_the_list_is_typed(
    desk: PageClient, portal: Portal, address: str, tomas: SignedIn
) -> None:
    form = ROLE | {"attribute": "", "other": "Ward 3", "other_kind": "department"}
    assert desk.post(f"{address}/grant", form).status_code == 303
    assert "Works in ward 3" in text_of(desk.get(address))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"member": "nobody@nowhere.example"}, "nobody has an account"), ({"member": ""}, "nobody here"),
        ({"attribute": ""}, "choose a role"), ({"other": "nurse"}, "choose a role"), ({"attribute": "x:y"}, "choose"),
        ({"attribute": "", "other": "Ärztin"}, "letters a to z"), ({"last_day": ""}, "until which day"),
        ({"last_day": "2020-01-01"}, "last day lies"), ({"last_day": "never"}, "until which day"),
    ],
)  # fmt: skip
def test_a_refused_role_says_what_to_change(
    desk: PageClient, portal: Portal, address: str, tomas: SignedIn, change: dict[str, str], words: str
) -> None:
    answer = desk.post(f"{address}/grant", ROLE | change)
    assert answer.status_code == 422 and words in text_of(answer)
    assert holders(portal, address) == []


def test_the_member_sees_it_in_their_account_and_who_looked(
    desk: PageClient, address: str, tomas: SignedIn, app
) -> None:
    desk.post(f"{address}/grant", ROLE)
    browser = sign_in(PageClient(app), CAREGIVER)
    assert "Cardiologist" in text_of(browser.get("/account"))
    assert "An organisation gave you a role" in text_of(browser.get("/who-looked"))


def test_neither_the_operator_nor_a_member_keeps_the_list(
    oda: PageClient, desk: PageClient, address: str, tomas: SignedIn, app
) -> None:
    desk.post(f"{address}/grant", ROLE)
    for client in (oda, sign_in(PageClient(app), CAREGIVER)):
        assert client.get(address).status_code == 404
        assert client.post(f"{address}/grant", ROLE).status_code == 404


def test_with_the_keyholder_away_the_list_says_that_it_may_be_old(
    desk: PageClient, portal: Portal, address: str, tomas: SignedIn
) -> None:
    desk.post(f"{address}/grant", ROLE)
    portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/s")
    page = desk.get(address)
    assert "may be out of date" in text_of(page) and CAREGIVER.name in text_of(page)
    assert desk.post(f"{address}/grant", ROLE | {"attribute": "role:nurse"}).status_code == 503
    take = re.search(rf'action="({address}/members/[0-9a-f-]+/take)"', page.text)
    assert take and desk.post(take[1]).status_code == 503
    assert holders(portal, address) == [CAREGIVER.name]


def test_an_officer_by_the_database_alone_gets_nothing_from_the_keyholder(
    keyholder: RunningKeyholder, portal: Portal, vera: PageClient
) -> None:
    login = accounts.resolve(portal.database, vera.cookies()["myphr-key"])
    assert login
    gid = put_authority(portal, login.account.id)["authority_gid"]
    assert vera.get(f"/organisations/{gid}").status_code == 404
