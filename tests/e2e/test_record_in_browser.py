"""A newcomer registers and puts a disc into the record, in a real browser against the real processes."""

import hashlib
import io
import itertools
import os
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import FileChooser, Page, Route, expect
from pydicom.uid import generate_uid

from tests import discs
from tests.cast import PATIENT
from tests.e2e.conftest import Desk, Screen, register
from tests.web.stage import dicom_bytes

pytestmark = pytest.mark.browser
_NUMBERS = itertools.count(1)
MEGABYTE = 1_000_000


@pytest.fixture
def screen(new_screen: Callable[..., Screen], desk: Desk) -> Screen:
    """A newcomer's window on their empty record."""
    screen = new_screen()
    register(screen.page, desk.url, email=f"newcomer{next(_NUMBERS)}@patient.example")
    return screen


@pytest.fixture
def page(screen: Screen) -> Page:
    return screen.page


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A folder as hospitals burn it: a study without file endings, a table of contents, litter of the computer."""
    uid = generate_uid()
    folder = tmp_path / "DISC"
    (folder / "IMAGES").mkdir(parents=True)
    for number in range(1, 13):
        content = dicom_bytes(
            uid, number, StudyDate="20240826", InstitutionName="Harbour Hospital", BodyPartExamined="HEAD"
        )
        (folder / "IMAGES" / f"IM{number:05}").write_bytes(content)
    (folder / "README.TXT").write_text("Insert this disc and start the viewer.")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return folder


def done(page: Page, words: str) -> None:
    expect(page.locator("#upload-heading")).to_have_text("Done", timeout=60_000)
    expect(page.locator("#upload-count")).to_contain_text(words)


def test_a_chosen_folder_becomes_a_study_in_plain_words(page: Page, disc: Path) -> None:
    page.locator("#upload-pick-folder").set_input_files(disc)
    done(page, "All stored: 13 files")  # twelve images and the text, without the computer's litter
    study = page.locator("#studies li")
    expect(study).to_have_count(1)
    expect(study).to_contain_text("MR scan, head")
    expect(study).to_contain_text("26 August 2024")
    expect(study).to_contain_text("12 images")
    expect(page.locator("#documents li")).to_contain_text("README.TXT")


def test_the_field_to_find_something_comes_with_the_first_file_and_keeps_what_is_typed(page: Page, disc: Path) -> None:
    field = page.get_by_label("Find in my record")
    expect(field).to_be_hidden()
    page.locator("#upload-pick-files").set_input_files(disc / "README.TXT")
    done(page, "All stored: 1 file")
    expect(page.get_by_text("Keep this page open until it is done")).to_be_hidden()
    field.fill("harb")
    page.locator("#upload-pick-folder").set_input_files(disc)
    expect(page.locator("#studies li")).to_have_count(1)
    expect(field).to_have_value("harb")


def test_a_row_can_be_pressed_anywhere(page: Page, disc: Path) -> None:
    page.locator("#upload-pick-files").set_input_files(disc / "README.TXT")
    row = page.locator("#documents li")
    box = row.bounding_box()
    assert box
    row.click(position={"x": box["width"] / 2, "y": box["height"] - 6})
    expect(page.get_by_role("heading", level=1)).to_have_text("README.TXT")


def test_dropped_files_are_stored_too(page: Page) -> None:
    transfer = page.evaluate_handle(
        """() => { const t = new DataTransfer();
                   t.items.add(new File(["a letter"], "letter one.txt"));
                   t.items.add(new File(["another"], "letter two.txt")); return t; }"""
    )
    page.locator("#drop").dispatch_event("drop", {"dataTransfer": transfer})
    done(page, "2 files")
    expect(page.locator("#documents li")).to_have_count(2)


def test_the_same_folder_again_says_that_it_is_here(page: Page, disc: Path) -> None:
    page.locator("#upload-pick-folder").set_input_files(disc)
    done(page, "All stored: 13 files")
    (disc / "NEW.TXT").write_text("new on the disc")
    page.locator("#upload-pick-folder").set_input_files(disc)
    done(page, "1 file stored, 13 you had already")


def test_after_a_reload_the_same_folder_goes_on_where_it_was(page: Page, disc: Path) -> None:
    for number in range(230):
        (disc / f"NOTE{number:03}.TXT").write_text(f"note {number}")
    sent: list[str] = []

    def one(route: Route) -> None:
        sent.append(route.request.url)
        if len(sent) == 1:
            route.continue_()  # the others hang, as on a bad line

    page.route("**/uploads/together", one)
    page.locator("#upload-pick-folder").set_input_files(disc)
    expect(page.locator("#upload-count")).to_contain_text(re.compile("^(100|43) of 243 files stored"))
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.unroute("**/uploads/together")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "/uploads" in request.url else None)
    page.locator("#upload-pick-folder").set_input_files(disc)
    done(page, "All stored: 243 files")
    assert len(requests) == 2  # what was stored is not sent again
    expect(page.locator("#studies li")).to_contain_text("12 images")


def test_a_line_that_breaks_off_costs_no_file(page: Page, disc: Path) -> None:
    """The portal takes the files and its answer is lost; then the line is gone for a while."""
    tries: list[int] = []

    def bad(route: Route) -> None:
        tries.append(1)
        if len(tries) == 1:
            route.fetch()
        if len(tries) <= 3:
            route.abort()
        else:
            route.continue_()

    page.route("**/uploads/together", bad)
    page.locator("#upload-pick-folder").set_input_files(disc)
    done(page, "All stored: 13 files")
    assert len(tries) == 4
    expect(page.locator("#studies li")).to_contain_text("12 images")
    expect(page.locator("#documents li")).to_have_count(1)


def test_a_file_that_cannot_be_read_goes_by_itself_and_its_neighbours_together(page: Page, disc: Path) -> None:
    """A scratched disc: the browser finds out only while it sends. (Later it can be read, as a disc now and then.)"""
    page.route("**/uploads/together", lambda route: route.abort(), times=1)
    page.evaluate(
        """() => { const real = Blob.prototype.arrayBuffer, slice = Blob.prototype.slice;
                   File.prototype.slice = function (...where) {
                     const part = slice.apply(this, where); part.whose = this.name; return part; };
                   Blob.prototype.arrayBuffer = function () {
                     return this.whose === "README.TXT" ? Promise.reject(new DOMException("", "NotReadableError"))
                                                        : real.apply(this); }; }"""
    )
    sent: list[str] = []
    page.on("request", lambda request: sent.append(urlsplit(request.url).path) if request.method == "POST" else None)
    page.locator("#upload-pick-folder").set_input_files(disc)
    done(page, "All stored: 13 files")
    deadline = time.monotonic() + 10
    while len(sent) < 3 and time.monotonic() < deadline:
        page.wait_for_timeout(100)  # what the browser did is told a moment later
    assert sorted(one for one in sent if "/uploads" in one) == ["/uploads", "/uploads/together", "/uploads/together"]
    expect(page.locator("#studies li")).to_contain_text("12 images")


def test_one_empty_file_is_named_and_the_others_are_stored(page: Page, disc: Path) -> None:
    (disc / "EMPTY.TXT").write_text("")
    page.locator("#upload-pick-folder").set_input_files(disc)
    expect(page.locator("#upload-heading")).to_have_text("Not everything is stored", timeout=60_000)
    expect(page.locator("#upload-count")).to_have_text("13 files stored, 1 could not be stored")
    expect(page.locator("#upload-list .failed")).to_contain_text("EMPTY.TXT")
    expect(page.locator("#upload-list .failed")).to_contain_text("the file is empty")


def test_the_image_of_a_disc_is_taken_apart_and_its_page_tells_of_it(page: Page, tmp_path: Path) -> None:
    (tmp_path / "disc.iso").write_bytes(discs.iso_of(discs.patient_cd()))
    page.locator("#upload-pick-files").set_input_files(tmp_path / "disc.iso")
    expect(page.locator("#studies li")).to_contain_text("12 images", timeout=60_000)
    page.locator("#documents").get_by_role("link", name="disc.iso", exact=True).click()
    expect(page.locator("body")).to_contain_text("The disc lists 15 images, we found 12.")
    expect(page.locator("body")).to_contain_text("This disc brought its own viewer: eFilm Lite (Windows program).")


def test_files_can_be_chosen_with_the_keyboard_alone(page: Page, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear patient")
    expect(page.locator("#upload-choose-files")).to_be_enabled()
    opened: list[FileChooser] = []
    page.on("filechooser", lambda chooser: opened.append(chooser))
    # A person whose key met a page that was still busy presses it again; so does this one, a few times.
    for _ in range(5):
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "upload-choose-files":
                break
        page.keyboard.press("Enter")
        page.wait_for_timeout(2000)
        if opened:
            break
    assert opened, "the keyboard opened no file chooser"
    opened[0].set_files(letter)
    done(page, "1 file")


def test_a_lost_connection_is_survived_and_the_file_is_the_same(screen: Screen, desk: Desk, tmp_path: Path) -> None:
    page = screen.page
    content = os.urandom(24 * MEGABYTE)
    (tmp_path / "large.bin").write_bytes(content)
    broken: list[str] = []

    def break_twice(route: Route) -> None:
        # The line is cut in the middle of sending, twice; from then on it holds.
        if route.request.method == "PATCH" and len(broken) < 2:
            broken.append(route.request.url)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/uploads/**", break_twice)
    page.locator("#upload-pick-files").set_input_files(tmp_path / "large.bin")
    done(page, "1 file")
    assert len(broken) == 2
    page.get_by_role("link", name="large.bin", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    stored = Path(download.value.path()).read_bytes()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(content).digest()


def test_going_offline_and_back_ends_with_everything_stored(screen: Screen, tmp_path: Path) -> None:
    page = screen.page
    for number in range(8):
        (tmp_path / f"file{number}.bin").write_bytes(os.urandom(3 * MEGABYTE))
    screen.context.set_offline(True)
    page.locator("#upload-pick-files").set_input_files(sorted(tmp_path.glob("file*.bin")))
    expect(page.locator("#upload-heading")).to_have_text("Storing your files")
    expect(page.locator("#upload-list li")).to_have_count(4)  # four at a time
    expect(page.locator("#upload-hint")).to_have_text("You are offline. It goes on when you are back.")
    screen.context.set_offline(False)
    expect(page.locator("#upload-hint")).to_contain_text("Keep this page open")
    done(page, "8 files")


def test_who_is_signed_out_while_files_come_in_is_told_so(screen: Screen, tmp_path: Path) -> None:
    page = screen.page
    (tmp_path / "letter.txt").write_text("Dear patient")
    screen.context.clear_cookies()
    page.locator("#upload-pick-files").set_input_files(tmp_path / "letter.txt")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(page.locator("main")).to_contain_text("You are not signed in, or not any more")


def test_a_file_that_is_refused_says_why_and_offers_to_try_again(page: Page, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "good.txt").write_bytes(b"words")
    page.locator("#upload-pick-files").set_input_files([tmp_path / "empty.txt", tmp_path / "good.txt"])
    expect(page.locator("#upload-heading")).to_have_text("Not everything is stored")
    expect(page.locator("#upload-list .failed")).to_contain_text("empty.txt")
    expect(page.get_by_role("button", name="Try again: empty.txt")).to_be_visible()
    expect(page.locator("#documents li")).to_have_count(1)


def test_a_zip_is_unpacked_while_the_page_looks_on(page: Page, tmp_path: Path) -> None:
    uid = generate_uid()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(1, 6):
            archive.writestr(f"CD/IM{number}", dicom_bytes(uid, number, StudyDate="20230102", BodyPartExamined="KNEE"))
    (tmp_path / "disc.zip").write_bytes(packed.getvalue())
    page.locator("#upload-pick-files").set_input_files(tmp_path / "disc.zip")
    expect(page.locator("#studies li")).to_contain_text("MR scan, knee", timeout=60_000)
    expect(page.locator("#studies li")).to_contain_text("5 images", timeout=60_000)
    expect(page.locator("#record-list")).to_have_attribute("data-hx-trigger", "none")  # polling has ended by itself


def test_hostile_names_stay_text_in_a_real_browser(page: Page, tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='owned'>.txt"
    (tmp_path / name.replace("/", "_")).write_bytes(b"words")
    page.locator("#upload-pick-files").set_input_files(tmp_path / name)
    done(page, "1 file")
    expect(page.locator("#documents li h3")).to_have_text(name)
    assert page.title().startswith("My record")
    page.locator("#documents h3 a").click()
    expect(page.locator("h1")).to_have_text(name)
    assert "owned" not in page.title().replace(name, "")


def test_signing_out_leaves_nothing_in_the_browser(screen: Screen, page: Page, disc: Path) -> None:
    page.locator("#upload-pick-folder").set_input_files(disc)
    done(page, "13 files")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Your own pictures and papers").wait_for()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    # htmx notes the address of the page that is shown, and nothing else.
    assert kept == '[{},{"htmx-current-path-for-history":"/"}]'
    page.go_back()
    assert "Harbour Hospital" not in page.content()


def test_the_password_can_be_looked_at_while_typing(new_screen: Callable[..., Screen], desk: Desk) -> None:
    page = new_screen().page
    page.goto(f"{desk.url}/sign-in")
    page.get_by_label("Password", exact=True).fill(PATIENT.password)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_label("Password", exact=True)).to_have_attribute("type", "text")


def test_without_javascript_one_can_still_sign_in_and_read(new_screen: Callable[..., Screen], desk: Desk) -> None:
    with_script = new_screen().page
    register(with_script, desk.url, email="plain@patient.example")
    page = new_screen(java_script_enabled=False).page
    page.goto(f"{desk.url}/who-looked")
    page.get_by_label("E-mail address").fill("plain@patient.example")
    page.get_by_label("Password", exact=True).fill(PATIENT.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Who looked")).to_be_visible()
