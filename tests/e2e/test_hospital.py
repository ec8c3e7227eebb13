"""A patient at a hospital, in a real browser: chosen from the list, signed in on its own page (another site), allowed,
back, the files in the record; and with a finger on a tablet. Authlib and Medplum stand for the hospital."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from myphr import settings as settings_module
from myphr.ingest.fhir import servers
from myphr.people import accounts
from myphr.portal import Portal
from tests import accessibility
from tests.cast import OPERATOR
from tests.e2e.conftest import Desk, Screen, register
from tests.hospital import CLIENT_ID, PATIENT_PASSWORD, Hospital, open_hospital
from tests.integration.hospitals.conftest import as_json, observation, person_with

pytestmark = pytest.mark.browser


class ConnectedDesk(Desk):
    """A portal under the name localhost: for the browser the hospital at 127.0.0.1 is another site, as in life."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = self.url.replace("127.0.0.1", "localhost")
        self.environ |= {"MYPHR_FHIR_LOOPBACK": "1", "MYPHR_PUBLIC_URL": self.url}


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[ConnectedDesk, Hospital]]:
    with (
        tempfile.TemporaryDirectory(prefix="myphr-") as folder,
        ConnectedDesk(Path(folder)) as desk,
        open_hospital(f"{desk.url}/hospitals/back") as hospital,
    ):
        portal = Portal(settings_module.load(desk.environ))
        accounts.register(portal, OPERATOR.email, OPERATOR.name, OPERATOR.password, is_operator=True)
        _row, cookie = accounts.sign_in(portal, OPERATOR.email, OPERATOR.password, "test")
        operator = accounts.resolve(portal.database, cookie)
        assert operator
        servers.add(portal, operator, "Harbour Hospital", hospital.base, CLIENT_ID)
        portal.database.dispose()
        yield desk, hospital


def at_the_hospital(page: Page, answer: str) -> None:
    page.get_by_role("heading", name="Harbour Hospital").wait_for()
    page.get_by_label("Your password here").fill(PATIENT_PASSWORD)
    page.get_by_role("button", name=answer, exact=True).click()


@pytest.mark.parametrize("tablet", [False, True], ids=["desktop", "tablet"])
def test_a_patient_gets_her_records_and_gets_them_again(
    place: tuple[ConnectedDesk, Hospital], new_screen: Callable[..., Screen], tablet: bool
) -> None:
    desk, hospital = place
    hospital.patient = hospital.medplum.admit(as_json(person_with(120)))
    page = new_screen(tablet_sized=tablet).page
    look = "tablet" if tablet else "desktop"
    register(page, desk.url, email=f"vera-{look}@patient.example")
    page.get_by_role("link", name="Get my records from a hospital").click()
    accessibility.seen(page, f"hospital-choose-{look}")

    page.get_by_role("button", name="Get my records from Harbour Hospital").click()
    at_the_hospital(page, "Allow")
    page.get_by_role("heading", name="Records from Harbour Hospital").wait_for()
    assert "code=" not in page.url and "state=" not in page.url
    expect(page.locator("#news")).to_contain_text("Your records have come")
    expect(page.locator("#news")).to_contain_text("7 files, kept exactly as the hospital sent them")
    accessibility.seen(page, f"hospital-came-{look}")

    page.get_by_role("link", name="To my record").click()
    expect(page.get_by_role("link", name="Letter of discharge.pdf", exact=True)).to_be_visible()
    accessibility.seen(page, f"hospital-record-{look}")

    page.goto(f"{desk.url}/hospitals")
    page.get_by_role("button", name="Get my records from Harbour Hospital").click()
    at_the_hospital(page, "Allow")
    expect(page.locator("#news")).to_contain_text("Nothing new: 123 entries you had already")
    accessibility.seen(page, f"hospital-again-{look}")

    hospital.medplum.put(observation(900, hospital.patient))
    page.goto(f"{desk.url}/hospitals")
    accessibility.seen(page, f"hospital-earlier-{look}")
    page.get_by_role("button", name="Get my records from Harbour Hospital").click()
    at_the_hospital(page, "Do not allow")
    expect(page.locator("#news")).to_contain_text("you or the hospital said no")
    accessibility.seen(page, f"hospital-no-{look}")


def test_the_operator_puts_a_hospital_on_the_list(
    place: tuple[ConnectedDesk, Hospital], new_screen: Callable[..., Screen]
) -> None:
    desk, hospital = place
    page = new_screen().page
    page.goto(f"{desk.url}/sign-in")
    page.get_by_label("E-mail address").fill(OPERATOR.email)
    page.get_by_label("Password", exact=True).fill(OPERATOR.password)
    page.get_by_role("button", name="Sign in").click()
    page.goto(f"{desk.url}/operator")
    page.get_by_role("link", name="Hospitals that patients get records from").click()
    page.get_by_label("Its name, as patients know it").fill("Harbour Hospital, children's ward")
    page.get_by_label("Address of its FHIR server").fill(hospital.base.replace("127.0.0.1", "localhost"))
    page.get_by_label("Client id").fill(CLIENT_ID)
    page.get_by_role("button", name="Ask its server and add it").click()
    expect(page.locator("#notice")).to_contain_text("is on the list. Its patients sign in at http://127.0.0.1")
    accessibility.seen(page, "hospital-operator")
    page.get_by_role("button", name="Take Harbour Hospital, children's ward off the list").click()
    expect(page.locator("#notice")).to_contain_text("off the list")
