"""The page on which the owner says what a file is."""

import pytest
from sqlmodel import select

from myphr.portal import Portal
from myphr.records.formats import FORMATS
from myphr.records.models import ItemReading
from tests.cast import SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in


@pytest.fixture
def vera(browser: PageClient, patient: SignedIn) -> PageClient:
    return sign_in(browser, patient.person)


def test_the_owner_corrects_what_a_file_is_and_takes_it_back(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    letter = put_in(portal, patient.account.id, b"MSH-ish but not quite", "result.txt").id
    page = vera.page(f"/item/{letter}")
    assert page.select_one(f'a[href="/item/{letter}/format"]') and page.select_one(f'a[href="/item/{letter}/kind"]')
    offered = {str(box["value"]) for box in vera.page(f"/item/{letter}/format").select("input[name=format]")}
    assert offered == set(FORMATS)
    assert vera.post(f"/item/{letter}/format", {"format": "hl7v2"}).status_code == 303
    with portal.database.read() as db:  # the worker is to read it as what it is
        [order] = db.exec(select(ItemReading).where(ItemReading.item_id == letter)).all()
    assert order.state == "waiting" and order.dek_for_worker and order.sealed_reading is None
    words = text_of(vera.get(f"/item/{letter}"))
    assert FORMATS["hl7v2"].words in words and "lab result" in words
    assert "because you said so" in text_of(vera.get(f"/item/{letter}/format"))
    assert vera.post(f"/item/{letter}/format", {"format": "as-told"}).status_code == 303
    assert FORMATS["hl7v2"].words not in text_of(vera.get(f"/item/{letter}"))
    assert "You corrected what 2 files are." in text_of(vera.get("/who-looked"))


def test_a_kind_that_is_none_is_refused_on_the_page(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"a letter", "letter.txt").id
    answer = vera.post(f"/item/{letter}/format", {"format": "poem"})
    assert answer.status_code == 422 and "choose what the file is" in answer.text


def test_a_viewer_follows_what_the_owner_says(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"\x00\x01\x02 nothing known", "scan").id
    before = text_of(vera.page(f"/item/{letter}").select_one("#open"))
    vera.post(f"/item/{letter}/format", {"format": "dicom"})
    assert text_of(vera.page(f"/item/{letter}").select_one("#open")) != before
