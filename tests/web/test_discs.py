"""What the pages say of a disc: what it lists and what was found, its own viewer, what stays on it."""

from myphr.ingest import archives
from myphr.portal import Portal
from myphr.records import items as records
from tests import discs, hostile
from tests.cast import PATIENT, SignedIn
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of
from tests.web.stage import put_in


def put_disc(portal: Portal, patient: SignedIn, content: bytes, name: str, unpack: bool = True) -> str:
    item = put_in(portal, patient.account.id, content, name)
    dek = records.dek_of(patient.login.ring(), item)
    with portal.database.write() as db:
        task_id = archives.ask(db, portal.keys.worker.public, item, dek)
    if unpack:
        archives.expand(portal, task_id)
    return item.id


def test_the_page_of_a_disc_tells_what_was_on_it(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    vera = sign_in(browser, PATIENT)
    disc_id = put_disc(portal, patient, discs.iso_of(discs.patient_cd()), "disc.iso")
    page = vera.page(f"/item/{disc_id}")
    words = text_of(page)
    assert "What is on this disc" in words and "14 files of it went into your record" in words
    assert "The disc lists 15 images, we found 12." in words
    assert "This disc brought its own viewer: eFilm Lite (Windows program). It is kept with the disc" in words
    assert "12 program files stay on the disc, which is kept whole." in words
    technical = text_of(page.select_one("details"))
    assert "DICOM/GONE1" in technical and "PATIENT_CD" in technical and "eFilmLite\\eFilmLT.exe -autoplay" in technical
    assert "Unpacked: 14 new files, 12 program files left inside." in text_of(vera.get("/record"))


def test_a_file_says_on_which_disc_it_came(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    vera = sign_in(browser, PATIENT)
    disc_id = put_disc(portal, patient, discs.iso_of(discs.patient_cd()), "disc.iso")
    page = vera.page("/record")
    letter = page.find("a", string="LETTER.PDF")
    assert vera.page(letter["href"]).select_one(f'a[href="/item/{disc_id}"]').get_text() == "disc.iso"


def test_a_disc_under_way_and_one_refused_say_so(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    vera = sign_in(browser, PATIENT)
    disc_id = put_disc(portal, patient, discs.iso_of({"IM1": discs.image(1)}), "disc.iso", unpack=False)
    assert "Its files are being taken out" in text_of(vera.get(f"/item/{disc_id}"))
    refused_id = put_disc(portal, patient, hostile.zip_encrypted(), "secret.zip")
    assert "Kept as it is, but not unpacked: it is protected with a password" in text_of(
        vera.get(f"/item/{refused_id}")
    )


def test_a_disc_full_of_hostile_names_is_only_text(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    vera = sign_in(browser, PATIENT)
    script = "<script>alert(1)</script>"
    disc_id = put_disc(portal, patient, hostile.zip_of(
        ("AUTORUN.INF", f"[autorun]\nopen={script}\nlabel={script}\nicon=<img src=x>".encode()),
        ("DICOMDIR", discs.dicomdir({"<IMG SRC=X>": "1.2"})), (f"{script}.exe", discs.PE), ("IM1", discs.image(1)),
    ), f"{script}.zip")  # fmt: skip
    page = vera.get(f"/item/{disc_id}")
    assert page.status_code == 200 and "<script>alert" not in page.text and "<img src" not in page.text.lower()


def test_a_table_of_contents_tells_what_of_it_is_here_however_it_came(
    browser: PageClient, portal: Portal, patient: SignedIn
) -> None:
    vera = sign_in(browser, PATIENT)
    files = discs.patient_cd(images=4, missing=2)
    table = put_in(portal, patient.account.id, files["DICOMDIR"], "DICOMDIR", "Disc/DICOMDIR")
    for path, content in files.items():
        if path.startswith("DICOM/"):
            put_in(portal, patient.account.id, content, path[6:], f"Disc/{path}")
    page = vera.page(f"/item/{table.id}")
    assert "This table of contents of a disc lists 6 images, in your record are 4." in text_of(page)
    assert "DICOM/GONE2" in text_of(page)
    for number in (5, 6):
        put_in(portal, patient.account.id, discs.image(number), f"late{number}")
    assert "lists 6 images, and all of them are here" in text_of(vera.page(f"/item/{table.id}"))


def test_a_stranger_learns_nothing_of_a_disc(portal: Portal, patient: SignedIn, nils: PageClient) -> None:
    disc_id = put_disc(portal, patient, discs.iso_of(discs.patient_cd()), "disc.iso")
    assert nils.get(f"/item/{disc_id}").status_code == 404


def test_a_disc_of_which_everything_was_here_says_so(browser: PageClient, portal: Portal, patient: SignedIn) -> None:
    vera, image = sign_in(browser, PATIENT), discs.image(1)
    put_disc(portal, patient, hostile.zip_of(("IM1", image)), "first.zip")
    again_id = put_disc(portal, patient, discs.iso_of({"IM1": image}), "again.iso")
    words = text_of(vera.get(f"/item/{again_id}"))
    assert "Nothing in it was new: you had 1 file of it already." in words and "0 files" not in words
