"""A patient and a practice's PACS, in a real browser: the code, confirmed by the operator, what there is, fetched,
in the record; with a finger on a tablet too. Orthanc stands for the practice."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from myphr import settings as settings_module
from myphr.people import accounts
from myphr.portal import Portal
from tests import accessibility
from tests.cast import OPERATOR
from tests.e2e.conftest import Desk, Screen, register
from tests.pacs import BORN, Orthanc, study_of

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Desk, Orthanc]]:
    with (
        tempfile.TemporaryDirectory(prefix="myphr-") as folder,
        Desk(Path(folder)) as desk,
        Orthanc(Path(folder) / "archive") as archive,
    ):
        portal = Portal(settings_module.load(desk.environ))
        accounts.register(portal, OPERATOR.email, OPERATOR.name, OPERATOR.password, is_operator=True)
        portal.database.dispose()
        yield desk, archive


def as_operator(page: Page, url: str) -> None:
    page.goto(f"{url}/sign-in")
    page.get_by_label("E-mail address").fill(OPERATOR.email)
    page.get_by_label("Password", exact=True).fill(OPERATOR.password)
    page.get_by_role("button", name="Sign in").click()
    page.goto(f"{url}/operator")
    page.get_by_role("link", name="Image archives that patients get images from").click()


@pytest.mark.parametrize("tablet", [False, True], ids=["desktop", "tablet"])
def test_a_patient_is_connected_looks_and_fetches(
    place: tuple[Desk, Orthanc], new_screen: Callable[..., Screen], tablet: bool
) -> None:
    desk, archive = place
    look = "tablet" if tablet else "desktop"
    number, clinic = f"77-{look}", f"Knee Clinic ({look})"
    BORN[number] = "19780412"
    archive.put(study_of(number, 12))
    archive.put(study_of(number, 3, StudyDescription="Head", StudyDate="20210203", Modality="CT"))
    archive.put(study_of("78", 2))

    operators = new_screen(tablet_sized=tablet).page
    as_operator(operators, desk.url)
    for label, text in (("Name of the practice", clinic), ("Its computer", "localhost" if tablet else "127.0.0.1"),
                        ("Port", str(archive.port)), ("Its AE title", "WRONG")):  # fmt: skip
        operators.get_by_label(label).fill(text)
    operators.get_by_label("TLS").uncheck()
    operators.get_by_role("button", name="Ask it and add it").click()
    expect(operators.locator("#problem")).to_contain_text("does not let this portal in")
    operators.get_by_label("Its AE title").fill("ARCHIVE")
    operators.get_by_role("button", name="Ask it and add it").click()
    expect(operators.locator("#notice")).to_contain_text(f"{clinic} answered, and is on the list")

    page = new_screen(tablet_sized=tablet).page
    register(page, desk.url, email=f"vera-{look}@patient.example")
    page.get_by_role("link", name="Get my images from a practice").click()
    accessibility.seen(page, f"pacs-connect-{look}")
    page.get_by_role("button", name=f"Connect with {clinic}").click()
    code = page.locator(".code").inner_text()
    accessibility.seen(page, f"pacs-code-{look}")

    operators.get_by_label("The patient's code").fill(code)
    operators.get_by_role("button", name="Whose code is it?").click()
    expect(operators.locator("main")).to_contain_text(f"vera-{look}@patient.example")
    operators.get_by_label("Her number there").fill(number)
    operators.get_by_label("Her date of birth").fill("1978-04-12")
    operators.get_by_label("The practice saw the patient").check()
    accessibility.seen(operators, f"pacs-operator-confirm-{look}")
    operators.get_by_role("button", name="Connect", exact=True).click()
    expect(operators.locator("#notice")).to_contain_text(f"is connected with {clinic}")
    operators.get_by_role("button", name=f"Ask whether {clinic} answers").click()
    expect(operators.locator("#notice")).to_contain_text("lets this portal in")
    accessibility.seen(operators, f"pacs-operator-{look}")

    page.reload()
    accessibility.seen(page, f"pacs-connected-{look}")
    page.get_by_role("button", name=f"Look for new images at {clinic}").click()
    expect(page.get_by_label("MR scan: Knee left")).to_be_checked()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    accessibility.seen(page, f"pacs-list-{look}")
    page.get_by_label("CT scan: Head").uncheck()
    page.get_by_role("button", name="Fetch them").click()
    expect(page.locator("#news")).to_contain_text("Your images have come")
    expect(page.locator("#news")).to_contain_text("12 images")
    accessibility.seen(page, f"pacs-came-{look}")

    page.get_by_role("link", name="Look again").click()
    accessibility.seen(page, f"pacs-earlier-{look}")
    page.get_by_role("button", name=f"Look for new images at {clinic}").click()
    expect(page.get_by_label("MR scan: Knee left")).not_to_be_checked()
    expect(page.locator("form")).to_contain_text(["You have it already"])
    accessibility.seen(page, f"pacs-again-{look}")
    page.goto(f"{desk.url}/record")
    expect(page.locator("#record-list")).to_contain_text("12 files")
    page.goto(f"{desk.url}/image-archives")
    page.get_by_role("link", name=f"End the connection with {clinic}").click()
    accessibility.seen(page, f"pacs-end-{look}")
    page.get_by_role("button", name="End it").click()
    expect(page.locator("#notice")).to_contain_text("is not connected any more")
