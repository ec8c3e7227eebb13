"""What was read out of a file, on pages: the picture and the narrative are the owner's alone and can do nothing."""

import io

import pytest
from PIL import Image
from sqlmodel import select

from myphr.portal import Portal
from myphr.records import items as records
from myphr.records.models import ItemReading
from myphr.records.reading import FullReading, Reading
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in, put_reading, put_study

READING = Reading(
    kind_words="Discharge letter", title="Letter <b>", date="2024-08-26", date_words="26 August 2024",
    place="Harbour Hospital", author="Dr Berger", patient="Vera L.", facts=(("Pages", "3"),), note="Only page one",
)  # fmt: skip


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("L", (20, 20)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def vera(browser: PageClient, patient: SignedIn) -> PageClient:
    return sign_in(browser, PATIENT)


@pytest.fixture
def letter(portal: Portal, patient: SignedIn) -> str:
    item_id = put_in(portal, patient.account.id, b"Dear doctor", "letter.txt").id
    put_reading(portal, patient, item_id, FullReading(READING, jpeg(), "<h2>Findings</h2><p>Fine</p>"))
    return item_id


def test_a_files_page_tells_what_was_read_and_shows_the_picture(vera: PageClient, letter: str) -> None:
    page = vera.page(f"/item/{letter}")
    words = text_of(page)
    for told in ("Letter <b>", "26 August 2024", "Harbour Hospital", "Dr Berger", "Pages 3", "Only page one"):
        assert told in words
    assert "Preview, not for diagnosis" in words
    [picture] = page.select("figure img")
    assert picture["alt"] == "Preview of letter.txt"
    answer = vera.get(str(picture["src"]))
    assert answer.data == jpeg() and answer.mimetype == "image/jpeg"
    assert answer.headers["Cache-Control"] == "no-store" and "sandbox" in answer.headers["Content-Security-Policy"]


def test_a_file_that_was_not_read_has_a_page_as_before(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    item_id = put_in(portal, patient.account.id, b"\0\1\2 nothing known", "thing.bin").id
    assert "not for diagnosis" not in text_of(vera.page(f"/item/{item_id}"))
    assert vera.get(f"/item/{item_id}/preview").status_code == 404
    assert vera.get(f"/item/{item_id}/narrative").status_code == 404


def test_the_record_shows_the_picture_in_the_row(vera: PageClient, letter: str) -> None:
    [picture] = vera.page("/record").select("#documents img")
    assert picture["src"] == f"/item/{letter}/preview" and picture["loading"] == "lazy" and picture["alt"] == ""
    assert "Letter <b>, 26 August 2024, Harbour Hospital" in text_of(vera.page("/record"))


def test_a_study_shows_the_picture_next_to_the_middle_of_each_series(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    study_id = put_study(portal, patient.account.id, images=5, SeriesInstanceUID="1.2.3.4")
    _, items = records.load_study(portal.database, patient.account.id, study_id)
    by_number = {
        records.details_of(patient.login.ring(), item)["headers"]["instance_number"]: item.id for item in items
    }
    for number in (1, 4, 5):
        put_reading(portal, patient, by_number[number], FullReading(Reading(), jpeg()))
    [picture] = vera.page(f"/study/{study_id}").select("main img")
    assert picture["src"] == f"/item/{by_number[4]}/preview"
    [picture] = vera.page("/record").select("#studies img")
    assert str(picture["src"]).split("/")[2] in [by_number[number] for number in (1, 4, 5)]


def test_a_narrative_stands_in_a_document_that_can_do_nothing(vera: PageClient, letter: str) -> None:
    [frame] = vera.page(f"/item/{letter}").select("iframe")
    assert "".join(frame["sandbox"]) == "" and frame["title"]
    answer = vera.get(str(frame["src"]))
    assert "<h2>Findings</h2>" in answer.text and answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "; sandbox; frame-ancestors 'self'" in policy


def test_a_stranger_gets_neither_picture_nor_narrative(nils: PageClient, letter: str) -> None:
    assert nils.get(f"/item/{letter}/preview").status_code == 404
    assert nils.get(f"/item/{letter}/narrative").status_code == 404


def test_a_deleted_file_shows_no_picture_any_more(vera: PageClient, letter: str) -> None:
    vera.post(f"/item/{letter}/delete")
    assert vera.get(f"/item/{letter}/preview").status_code == 404


def test_words_of_a_file_are_only_text(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    item_id = put_in(portal, patient.account.id, b"Dear doctor 2", "letter.txt").id
    reading = Reading(title=hostile, place=hostile, facts=((hostile, hostile),), note=hostile)
    put_reading(portal, patient, item_id, FullReading(reading))
    assert text_of(vera.page(f"/item/{item_id}")).count(hostile) == 5


def test_a_damaged_reading_hides_nothing_else(vera: PageClient, portal: Portal, letter: str) -> None:
    with portal.database.write() as db:
        row = db.exec(select(ItemReading).where(ItemReading.item_id == letter)).one()
        row.sealed_reading = b"x" + (row.sealed_reading or b"")[1:]
        db.add(row)
    assert "letter.txt" in text_of(vera.page(f"/item/{letter}"))
