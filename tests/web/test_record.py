"""My record, a study, a file: what is shown, downloaded, deleted; and that a file's own words are never code."""

import io
import zipfile
from collections.abc import Callable

import pytest
from pydicom.uid import generate_uid
from sqlmodel import select
from werkzeug.test import TestResponse

from myphr.database import new_id
from myphr.portal import Portal
from myphr.records import items as records
from myphr.records.models import ArchiveTask
from myphr.records.opening import OpenItem
from myphr.web.record import DOCUMENTS_SHOWN, STUDIES_SHOWN
from tests.cast import PATIENT, Person, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import dicom_bytes, put_in, put_many, put_study

HOSTILE = "<img src=x onerror=alert(1)><script>alert('x')</script>"


@pytest.fixture
def vera(browser: PageClient, patient: SignedIn) -> PageClient:
    return sign_in(browser, PATIENT)


def test_an_empty_record_explains_itself(vera: PageClient) -> None:
    assert "Your record is empty" in text_of(vera.get("/record"))


def test_a_study_is_shown_in_plain_words_and_never_by_its_uid(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    put_study(portal, patient.account.id, images=3)
    words = text_of(vera.get("/record"))
    assert (
        "MR scan, head" in words and "26 August 2024" in words and "Harbour Hospital" in words and "3 images" in words
    )
    assert "1.2.826" not in words


def test_a_document_is_listed_with_its_kind_and_size(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    put_in(portal, patient.account.id, b"%PDF-1.7\n" + bytes(2000), "Discharge letter.pdf")
    words = text_of(vera.get("/record"))
    assert "Discharge letter.pdf" in words and "PDF" in words and "2.0 KB" in words


def test_another_patient_sees_nothing_of_it(portal: Portal, patient: SignedIn, nils: PageClient) -> None:
    put_study(portal, patient.account.id)
    assert "Your record is empty" in text_of(nils.get("/record"))


def test_the_study_page_tells_series_sizes_and_sums(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id, SeriesDescription="T1 axial")
    page = vera.page(f"/study/{study_id}")
    words = text_of(page)
    assert "T1 axial" in words and "2 images" in words
    assert page.select_one("details table") and len(page.select("details tbody tr")) == 2
    assert len(page.select("details tbody tr")[0].select("code")[0].get_text()) == 64


def test_hostile_names_in_a_study_are_only_text(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(
        portal, patient.account.id, InstitutionName=HOSTILE, StudyDescription=HOSTILE, SeriesDescription=HOSTILE[:60],
        PatientName=f"{HOSTILE[:50]}^X", BodyPartExamined="<B>HEAD",
    )  # fmt: skip
    for address in ("/record", f"/study/{study_id}", f"/study/{study_id}/delete"):
        page = vera.get(address)
        assert page.status_code == 200
        assert "<img src=x" not in page.text and "<script>alert" not in page.text
    assert "&lt;img src=x" in vera.get(f"/study/{study_id}").text


def test_hostile_file_names_are_only_text(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    item = put_in(portal, patient.account.id, b"plain words", HOSTILE, f"a/{HOSTILE}")
    for address in ("/record", f"/item/{item.id}", f"/item/{item.id}/delete"):
        assert "<script>alert" not in vera.get(address).text
    header = vera.get(f"/item/{item.id}/download").headers["Content-Disposition"]
    assert "<" not in header and header.startswith("attachment;")


@pytest.mark.parametrize(
    "name", ['a"; filename="b.exe', "a\r\nSet-Cookie: x=y", "ärztlicher Brief 日本.pdf", "..", "con\u202excod.exe"]
)
def test_any_name_makes_one_safe_download_header(
    vera: PageClient, portal: Portal, patient: SignedIn, name: str
) -> None:
    item = put_in(portal, patient.account.id, b"bytes of " + name.encode(), name)
    answer = vera.get(f"/item/{item.id}/download")
    assert answer.status_code == 200
    header = answer.headers["Content-Disposition"]
    assert header.count('"') == 2 and "\n" not in header and header.isascii()


def test_a_download_is_the_file_byte_by_byte(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    content = bytes(range(256)) * 9000  # 2.3 MB: several blocks
    item = put_in(portal, patient.account.id, content, "raw.bin")
    answer = vera.get(f"/item/{item.id}/download")
    assert answer.data == content
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.mimetype == "application/octet-stream"


def test_a_page_in_the_record_is_never_shown_as_a_page(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    item = put_in(portal, patient.account.id, b"<!doctype html><script>alert(1)</script>", "page.html")
    answer = vera.get(f"/item/{item.id}/download")
    assert answer.mimetype == "application/octet-stream"
    assert (
        "sandbox" in answer.headers["Content-Security-Policy"] and answer.headers["X-Content-Type-Options"] == "nosniff"
    )


def test_a_download_stands_in_who_looked(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    item = put_in(portal, patient.account.id, b"words", "letter.txt")
    vera.get(f"/item/{item.id}/download")
    assert "You downloaded a file." in text_of(vera.get("/who-looked"))


def test_deleting_asks_first_and_get_changes_nothing(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    assert "Delete this study?" in text_of(vera.get(f"/study/{study_id}/delete"))
    assert vera.get(f"/study/{study_id}").status_code == 200


def test_a_deleted_study_is_gone(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    assert vera.post(f"/study/{study_id}/delete").headers["Location"] == "/record"
    words = text_of(vera.get("/record"))
    assert "The study is deleted." in words and "Your record is empty" in words
    assert vera.get(f"/study/{study_id}").status_code == 404


def test_a_deleted_file_is_gone(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    item = put_in(portal, patient.account.id, b"words", "letter.txt")
    vera.post(f"/item/{item.id}/delete")
    assert vera.get(f"/item/{item.id}/download").status_code == 404


def test_a_stranger_deletes_nothing(
    browser_of: Callable[[Person], PageClient], vera: PageClient, nils: PageClient, portal: Portal, patient: SignedIn
) -> None:
    study_id = put_study(portal, patient.account.id)
    assert nils.post(f"/study/{study_id}/delete").status_code == 404
    assert vera.get(f"/study/{study_id}").status_code == 200


# -- the list as a fragment -----------------------------------------------------------------------
def put_task(portal: Portal, patient: SignedIn, state: str, **values: object) -> str:
    item = put_in(portal, patient.account.id, b"PK\x05\x06" + bytes(18), "disc.zip")
    with portal.database.write() as db:
        task = ArchiveTask(
            id=new_id(), account_id=patient.account.id, item_id=item.id, state=state, dek_for_worker=None, **values
        )
        db.add(task)
        return task.id


def test_the_list_alone_is_the_same_as_on_the_page(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    put_study(portal, patient.account.id)
    whole, part = vera.get("/record"), vera.get("/record/items", htmx=True)
    assert "<html" not in part.text and part.text.strip() in whole.text


def test_a_long_record_is_shown_in_parts_and_each_part_leads_on(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    put_many(portal, patient.account.id, DOCUMENTS_SHOWN + 1)
    for number in range(STUDIES_SHOWN + 2):
        put_study(portal, patient.account.id, images=1, StudyDate=f"2001{number % 12 + 1:02}01")
    page, seen = vera.page("/record"), {"studies": [], "documents": []}
    assert len(page.select("#studies > li")) == STUDIES_SHOWN and len(page.select("#documents > li")) == DOCUMENTS_SHOWN
    assert f"1 to {STUDIES_SHOWN} of {STUDIES_SHOWN + 2}" in text_of(page)
    for kind, words, heading in (
        ("studies", "Older scans", "scans-heading"), ("documents", "Older files", "documents-heading"),
    ):  # fmt: skip
        page = vera.page("/record")
        while True:
            seen[kind] += [str(link["href"]) for link in page.select(f"#{kind} h3 a")]
            [onward] = page.find_all("a", string=words) or [None]
            if onward is None:
                break
            assert onward["href"].endswith(f"#{heading}") and page.select_one(f"#{heading}")
            page = vera.page(onward["href"].partition("#")[0])
        assert page.find("a", string=words.replace("Older", "Newer"))
    assert len(seen["studies"]) == len(set(seen["studies"])) == STUDIES_SHOWN + 2
    assert len(seen["documents"]) == len(set(seen["documents"])) == DOCUMENTS_SHOWN + 1


def test_what_no_viewer_is_made_for_is_not_pressed_upon_anybody(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    strange = put_in(portal, patient.account.id, bytes(range(1, 200)), "x.bin")
    letter = put_in(portal, patient.account.id, b"%PDF-1.7 words", "letter.pdf")
    page = vera.page(f"/item/{strange.id}")
    assert page.select_one("#open")["class"] == ["second"] and "open it on your own computer" in text_of(page)
    page = vera.page(f"/item/{letter.id}")
    assert page.select_one("#open")["class"] == ["big"] and "on your own computer" not in text_of(page)


@pytest.mark.parametrize("query", ["scans_from=9999&from=9999", "scans_from=-1", "scans_from=x&from=%00"])
def test_a_place_behind_the_end_of_the_record_leads_back(
    vera: PageClient, portal: Portal, patient: SignedIn, query: str
) -> None:
    put_study(portal, patient.account.id, images=1)
    page = vera.page(f"/record?{query}")
    assert len(page.select("#studies > li")) == (0 if "9999" in query else 1)
    assert bool(page.find("a", string="Newer scans")) is ("9999" in query)


def test_the_list_as_a_plain_address_is_a_whole_page(vera: PageClient) -> None:
    assert "<h1>My record</h1>" in vera.get("/record/items").text


def test_going_back_in_history_gets_a_whole_page(vera: PageClient) -> None:
    answer = vera.get("/record/items", htmx=True, headers={"HX-History-Restore-Request": "true"})
    assert "<h1>My record</h1>" in answer.text


def test_the_list_polls_only_while_an_archive_is_being_unpacked(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    assert "every" not in vera.page("/record").select_one("#record-list")["data-hx-trigger"]  # type: ignore[index]
    task_id = put_task(portal, patient, "running", members_total=40, members_done=12)
    page = vera.page("/record")
    assert "every 2s" in page.select_one("#record-list")["data-hx-trigger"]  # type: ignore[index]
    assert "12 of 40 files" in text_of(page)
    with portal.database.write() as db:
        task = db.exec(select(ArchiveTask).where(ArchiveTask.id == task_id)).one()
        task.state, task.members_done = "done", 40
        db.add(task)
    answer = vera.get("/record/items", htmx=True)
    assert "every 2s" not in answer.text and "40 new files" in answer.text


def test_a_refused_archive_says_why(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    put_task(portal, patient, "refused", error_reason="it holds too many files")
    assert "not unpacked: it holds too many files" in text_of(vera.get("/record"))


def test_sample_studies_are_not_offered_by_a_get(vera: PageClient) -> None:
    assert vera.get("/record/samples").status_code == 405


# -- a whole study as a zip -----------------------------------------------------------------------
def zip_of(answer: TestResponse) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(answer.data))


def test_a_study_comes_as_one_zip_with_its_files_as_they_were(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    uid = generate_uid()
    images = [dicom_bytes(uid, number, SeriesNumber=3, SeriesDescription="T1 axial") for number in (2, 1)]
    images += [dicom_bytes(uid, 1, SeriesNumber=4, SeriesDescription="T2", SeriesInstanceUID="1.2.3", Modality="MR")]
    items = [put_in(portal, patient.account.id, image, "IM1") for image in images]
    study_id = items[0].study_id
    answer = vera.get(f"/study/{study_id}/download")
    assert answer.mimetype == "application/zip"
    assert answer.headers["Content-Length"] == str(len(answer.data))
    with zip_of(answer) as archive:
        assert archive.testzip() is None
        names = [name.partition("/")[2] for name in archive.namelist()]
        assert names == ["3 - T1 axial/0001.dcm", "3 - T1 axial/0002.dcm", "4 - T2/0001.dcm"]
        assert [archive.read(name) for name in archive.namelist()] == [images[1], images[0], images[2]]


def test_the_zip_and_its_folder_are_named_in_plain_words(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    answer = vera.get(f"/study/{study_id}/download")
    assert 'filename="2024-08-26 - MR scan_ head - MRI Head.zip"' in answer.headers["Content-Disposition"]
    assert {name.split("/")[0] for name in zip_of(answer).namelist()} == {"2024-08-26 - MR scan, head - MRI Head"}


def test_no_word_of_a_study_leads_out_of_the_folder_it_is_unpacked_in(
    vera: PageClient, portal: Portal, patient: SignedIn
) -> None:
    study_id = put_study(portal, patient.account.id, StudyDescription="../../etc", SeriesDescription="..\\..\\x")
    for name in zip_of(vera.get(f"/study/{study_id}/download")).namelist():
        assert not {"..", ".", ""} & set(name.split("/")) and "\\" not in name


def test_the_study_page_offers_the_zip(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    assert vera.page(f"/study/{study_id}").select_one(f'a[href="/study/{study_id}/download"]')


def test_a_downloaded_study_stands_in_who_looked(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id, images=3)
    vera.get(f"/study/{study_id}/download")
    assert "You downloaded a study of 3 files." in text_of(vera.get("/who-looked"))


def test_a_stranger_downloads_no_study(vera: PageClient, nils: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    assert nils.get(f"/study/{study_id}/download").status_code == 404
    assert vera.post(f"/study/{study_id}/download").status_code == 405


def test_a_deleted_study_cannot_be_downloaded(vera: PageClient, portal: Portal, patient: SignedIn) -> None:
    study_id = put_study(portal, patient.account.id)
    vera.post(f"/study/{study_id}/delete")
    assert vera.get(f"/study/{study_id}/download").status_code == 404


def test_who_leaves_in_the_middle_of_a_zip_leaves_no_file_open(
    vera: PageClient, portal: Portal, patient: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[OpenItem] = []
    closed: list[OpenItem] = []
    was_open, was_close = records.open_item, OpenItem.close
    monkeypatch.setattr(records, "open_item", lambda *a: opened.append(was_open(*a)) or opened[-1])
    monkeypatch.setattr(OpenItem, "close", lambda self: closed.append(self) or was_close(self))
    study_id = put_study(portal, patient.account.id, images=5)
    answer = vera.get(f"/study/{study_id}/download", buffered=False)
    pieces = answer.iter_encoded()
    next(pieces)
    next(pieces)
    answer.close()
    assert len(opened) == 2 and closed[-1] is opened[-1]
