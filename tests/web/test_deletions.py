""" "What I deleted": the proof on the page and as a file, and for its owner only."""

import json
import re

import pytest

from myphr.portal import Portal
from myphr.records import deletions
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in


@pytest.fixture
def proof(vera: PageClient, portal: Portal) -> str:
    """The address of the proof of a file that Vera deleted on the page."""
    from sqlmodel import select

    from myphr.people.models import Account

    with portal.database.read() as db:
        account_id = db.exec(select(Account.id)).one()
    item = put_in(portal, account_id, b"soon gone", "<b>old</b> letter.txt")
    assert vera.post(f"/item/{item.id}/delete", {}).headers["Location"] == "/record"
    return re.search(r"/deleted/[0-9a-f-]{36}", vera.get("/deleted").text)[0]


def test_nothing_deleted_is_said_so(vera: PageClient) -> None:
    assert "You have deleted nothing yet" in text_of(vera.get("/deleted"))


def test_the_record_leads_to_the_proofs(vera: PageClient, proof: str) -> None:
    assert vera.page("/record").select_one('a[href="/deleted"]')


def test_the_page_says_what_it_was_when_and_what_is_not_proved(vera: PageClient, proof: str) -> None:
    words = text_of(vera.get(proof))
    assert "<b>old</b> letter.txt" in words and "1 key of yours" in words and "What this does not prove" in words
    assert "Bytes removed" in text_of(vera.get("/deleted"))
    assert "The keys of 1 file were destroyed for ever." in text_of(vera.get("/who-looked"))


def test_the_proof_can_be_kept_and_checked(vera: PageClient, proof: str, portal: Portal) -> None:
    answer = vera.get(proof + "/certificate")
    assert answer.mimetype == "application/json" and "attachment" in answer.headers["Content-Disposition"]
    assert deletions.check_in(portal.database, json.loads(answer.data)) == 2


def test_a_stranger_gets_neither(proof: str, nils: PageClient) -> None:
    assert nils.get(proof).status_code == nils.get(proof + "/certificate").status_code == 404
    assert "letter" not in nils.get("/deleted").text


