"""The page of a file says that it came again, from where, and that another version is here."""

from pydicom.uid import generate_uid

from myphr.portal import Portal
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import dicom_bytes, put_in


def test_a_file_that_came_again_says_so_with_its_place(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    vera = sign_in(browser, PATIENT)
    disc = put_in(portal, patient.account.id, b"PK\5\6" + bytes(18), "Disc <b>of May</b>.zip")
    first = put_in(portal, patient.account.id, b"a letter", "letter.txt")
    assert "came again" not in text_of(vera.page(f"/item/{first.id}"))
    put_in(portal, patient.account.id, b"a letter", "copy.txt", "A/<i>copy</i>.txt", "archive", disc.id)
    put_in(portal, patient.account.id, b"a letter", "letter.txt", "", "archive", "11111111-2222-4333-8444-555555555555")
    page = vera.page(f"/item/{first.id}")
    words = text_of(page)
    assert "This file came again" in words and "A/<i>copy</i>.txt" in words and "deleted by now" in words
    assert page.select_one(f'a[href="/item/{disc.id}"]').get_text() == "Disc <b>of May</b>.zip"


def test_another_version_of_an_image_is_linked_both_ways(
    browser: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vera = sign_in(browser, PATIENT)
    study, uid = generate_uid(), generate_uid()
    one, two = (
        put_in(portal, patient.account.id, dicom_bytes(study, SOPInstanceUID=uid, ImageComments=text), f"{text}.dcm")
        for text in ("before", "after")
    )
    for this, other in ((one, two), (two, one)):
        page = vera.page(f"/item/{this.id}")
        assert "Another version of this image is in your record" in text_of(page)
        assert page.select_one(f'a[href="/item/{other.id}"]')
    assert "2 images are here in more than one version" in text_of(vera.page(f"/study/{one.study_id}"))
