"""The pages of drop-offs: giving one, the key shown once, the list, stopping."""

import re

import pytest

from myphr.ingest import drop_offs
from myphr.ingest.deliveries import Delivery
from myphr.portal import Portal
from tests.web.page_client import PageClient, text_of

FORM = {"name": "Dr Berger", "days": "7", "files": "50"}


def stop_address(page: PageClient) -> str:
    found = re.search(r"/drop-offs/[0-9a-f-]{36}/stop", page.get("/drop-offs").text)
    assert found
    return found[0]


def token_on(page) -> str:
    return re.search(r'id="drop-off-key">([^<]+)<', page.text)[1]


def test_the_record_leads_to_the_page(vera: PageClient) -> None:
    assert vera.page("/record").select_one('a[href="/drop-offs"]')


def test_a_drop_off_is_given_with_a_key_that_works(vera: PageClient, portal: Portal) -> None:
    answer = vera.post("/drop-offs", FORM)
    assert answer.status_code == 200
    assert drop_offs.by_token(portal, token_on(answer))
    ae_title = re.search(r'id="drop-off-ae-title">([^<]+)<', answer.text)
    assert ae_title and drop_offs.by_ae_title(portal, ae_title[1])
    assert "127.0.0.1" in answer.text and "11112" in answer.text and "/dicom-web" in answer.text


def test_the_key_is_shown_once(vera: PageClient) -> None:
    token = token_on(vera.post("/drop-offs", FORM))
    page = vera.get("/drop-offs").text
    assert "Dr Berger" in page and "0 files so far, of 50 at most" in page
    assert token not in page and token not in vera.get(stop_address(vera)).text


def test_only_a_post_stops_it_and_at_once(vera: PageClient, portal: Portal) -> None:
    token = token_on(vera.post("/drop-offs", FORM))
    address = stop_address(vera)
    assert "Stop Dr Berger from sending?" in text_of(vera.get(address))
    assert drop_offs.by_token(portal, token)
    assert vera.post(address, {}).status_code == 303
    with pytest.raises(drop_offs.DropOffClosed):
        drop_offs.by_token(portal, token)
    words = text_of(vera.get("/drop-offs"))
    assert "Dr Berger can send you nothing any more" in words and "You stopped it" in words


def test_a_stopped_one_cannot_be_stopped_again(vera: PageClient) -> None:
    vera.post("/drop-offs", FORM)
    address = stop_address(vera)
    vera.post(address, {})
    assert vera.post(address, {}).status_code == 404


@pytest.mark.parametrize("wrong", [{"name": ""}, {"name": "x" * 300}, {"days": "3650"}, {"days": ""}, {"files": "0"},
                                   {"files": "many"}])  # fmt: skip
def test_a_form_that_makes_no_sense_is_shown_again(vera: PageClient, wrong: dict[str, str]) -> None:
    answer = vera.post("/drop-offs", FORM | wrong)
    assert answer.status_code == 422
    assert "Please check the form" in text_of(answer)
    assert "so far" not in text_of(vera.get("/drop-offs"))


def test_a_stranger_sees_nothing_of_it_and_stops_nothing(vera: PageClient, nils: PageClient, portal: Portal) -> None:
    token = token_on(vera.post("/drop-offs", FORM))
    address = stop_address(vera)
    assert "Dr Berger" not in nils.get("/drop-offs").text
    assert nils.get(address).status_code == nils.post(address, {}).status_code == 404
    assert drop_offs.by_token(portal, token)


def test_who_looked_names_the_practice(vera: PageClient, portal: Portal) -> None:
    grant = drop_offs.by_token(portal, token_on(vera.post("/drop-offs", FORM)))
    for number in range(2):
        delivery = Delivery(portal, grant)
        delivery.write(b"file %d" % number)
        delivery.finish()
    words = text_of(vera.get("/who-looked"))
    assert "Dr Berger sent 2 files." in words and "You let a practice send 50 files at most." in words
    assert "sent by a practice on" in text_of(vera.get("/record"))
