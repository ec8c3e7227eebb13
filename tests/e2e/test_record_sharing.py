"""Sharing the record in a real browser: a patient shares a letter with the cardiologists of a hospital; one of them
sees it, a nurse does not; the patient takes it back. Desktop and tablet, every page without a violation."""

import datetime as dt
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect
from sqlmodel import select

from myphr import settings as settings_module
from myphr.database import now
from myphr.people import authorities, identities
from myphr.people.models import Account
from myphr.portal import Portal
from tests.accessibility import seen
from tests.e2e.conftest import Desk, Screen, login_of, register
from tests.web.stage import put_in, put_study

pytestmark = pytest.mark.browser


@pytest.fixture
def portal(desk: Desk) -> Iterator[Portal]:
    portal = Portal(settings_module.load(desk.environ))
    yield portal
    portal.database.dispose()


@pytest.mark.parametrize("tablet", [False, True], ids=["desktop", "tablet"])
def test_shared_with_a_role_and_taken_back(
    new_screen: Callable[..., Screen], desk: Desk, portal: Portal, tablet: bool
) -> None:
    look = "tablet" if tablet else "desktop"

    def person(name: str) -> Page:
        page = new_screen(tablet_sized=tablet).page
        register(page, desk.url, email=f"{name}-{look}@sharing.example")
        return page

    patient, doctor, nurse, officer = map(person, ("patient", "doctor", "nurse", "officer"))
    operator = login_of(portal, officer)  # one person runs this small practice
    portal.keyholder.operator_appoint(identities.gid_of(operator))
    hospital = authorities.create(portal, operator, f"St Mary's {look}", "hospital", operator.account.email)
    day = (now() + dt.timedelta(days=30)).date()
    for page, role in ((doctor, "cardiologist"), (nurse, "nurse")):
        email = login_of(portal, page).account.email
        authorities.grant(portal, operator, hospital.gid, email, "role", role, day)
    with portal.database.read() as db:
        account_id = db.exec(select(Account.id).where(Account.email == f"patient-{look}@sharing.example")).one()
    put_in(portal, account_id, b"%PDF-1.7\n words", "letter.pdf")
    put_study(portal, account_id, images=3)

    patient.goto(f"{desk.url}/record")
    patient.locator("#documents").get_by_role("link", name="letter.pdf", exact=True).click()
    patient.get_by_role("link", name="Share", exact=True).click()
    seen(patient, f"{look}-1-choose")
    patient.get_by_label("For my care team: which role").select_option(label=f"Cardiologist at St Mary's {look}")
    patient.get_by_role("button", name="Show me who that is today").click()
    expect(patient.get_by_role("heading", name="1 person can open it today")).to_be_visible()
    seen(patient, f"{look}-2-preview")
    patient.get_by_role("button", name="Share", exact=True).click()
    expect(patient.get_by_role("heading", level=1)).to_have_text("Who may open my record")
    expect(patient.locator("main")).to_contain_text("letter.pdf")
    seen(patient, f"{look}-3-shared")

    doctor.goto(f"{desk.url}/record")
    doctor.get_by_role("link", name="Shared with me").click()
    seen(doctor, f"{look}-4-with-me")
    doctor.get_by_role("link", name="Open letter.pdf").click()
    expect(doctor.get_by_role("heading", level=1)).to_have_text("letter.pdf")
    expect(doctor.get_by_role("button", name="Open with Simple documents")).to_be_visible()
    seen(doctor, f"{look}-5-inside")
    nurse.goto(f"{desk.url}/shared-with-me")
    expect(nurse.locator("main")).to_contain_text("Nobody shares anything with you now")
    nurse.goto(doctor.url)
    expect(nurse.get_by_role("heading", level=1)).not_to_contain_text("letter.pdf")

    patient.get_by_role("link", name="Remove", exact=False).first.click()
    seen(patient, f"{look}-6-sure")
    patient.get_by_role("button", name="Stop sharing").click()
    expect(patient.locator("#notice")).to_contain_text("Access of")
    expect(patient.locator("#notice")).not_to_contain_text("0 keys")
    seen(patient, f"{look}-7-taken-back")
    doctor.reload()
    expect(doctor.locator("main")).not_to_contain_text("letter.pdf")
    doctor.goto(f"{desk.url}/shared-with-me")
    expect(doctor.locator("main")).to_contain_text("Nobody shares anything with you now")


@pytest.mark.parametrize("tablet", [False, True], ids=["desktop", "tablet"])
def test_shared_by_kind_and_taken_back(
    new_screen: Callable[..., Screen], desk: Desk, portal: Portal, tablet: bool
) -> None:
    look = f"kind-{'tablet' if tablet else 'desktop'}"

    def person(name: str) -> Page:
        page = new_screen(tablet_sized=tablet).page
        register(page, desk.url, email=f"{name}-{look}@sharing.example")
        return page

    patient, daughter = person("patient"), person("daughter")
    account_id = login_of(portal, patient).account.id
    for name in ("report.pdf", "invoice.pdf"):
        put_in(portal, account_id, f"%PDF-1.7\n {name}".encode(), name)

    patient.goto(f"{desk.url}/record")
    patient.locator("#documents").get_by_role("link", name="report.pdf", exact=True).click()
    seen(patient, f"{look}-1-file")
    patient.get_by_role("link", name="For sharing by kind").click()
    seen(patient, f"{look}-2-what-is-this")
    patient.get_by_label("This is a").select_option(label="lab result")
    patient.get_by_label("From this day").fill("2024-05-06")
    patient.get_by_role("button", name="Save").click()
    expect(patient.locator("#notice")).to_contain_text("Noted what this file is")

    patient.goto(f"{desk.url}/sharing")
    patient.get_by_role("link", name="Share by kind and date").click()
    patient.get_by_text("Only certain scans").click()
    seen(patient, f"{look}-3-choose")
    patient.get_by_label("Lab results").check()
    patient.get_by_label("First day").fill("2024-01-01")
    patient.get_by_label("Last day").fill("2024-12-31")
    patient.get_by_label("With whom").fill(f"daughter-{look}@sharing.example")
    patient.get_by_role("button", name="Show me what that is today").click()
    expect(patient.locator("main")).to_contain_text("Lab results from 2024")
    expect(patient.locator("main")).to_contain_text("1 lab result")
    seen(patient, f"{look}-4-preview")
    patient.get_by_role("button", name="Share", exact=True).click()
    expect(patient.get_by_role("heading", level=1)).to_have_text("Who may open my record")
    seen(patient, f"{look}-5-shared")

    daughter.goto(f"{desk.url}/shared-with-me")
    daughter.get_by_role("link", name="Open Lab results from 2024").click()
    expect(daughter.locator("main")).to_contain_text("report.pdf")
    expect(daughter.locator("main")).not_to_contain_text("invoice.pdf")
    expect(daughter.get_by_role("button", name="Open with Simple documents")).to_be_visible()
    seen(daughter, f"{look}-6-inside")

    patient.get_by_role("link", name="Stop sharing Lab results from 2024").click()
    seen(patient, f"{look}-7-sure")
    patient.get_by_role("button", name="Stop sharing").click()
    expect(patient.locator("#notice")).to_contain_text("ended")
    daughter.reload()
    expect(daughter.locator("main")).not_to_contain_text("report.pdf")
    daughter.goto(f"{desk.url}/shared-with-me")
    expect(daughter.locator("main")).to_contain_text("Nobody shares anything with you now")


@pytest.mark.parametrize("tablet", [False, True], ids=["desktop", "tablet"])
def test_several_are_ticked_and_shared_together(
    new_screen: Callable[..., Screen], desk: Desk, portal: Portal, tablet: bool
) -> None:
    look = f"several-{'tablet' if tablet else 'desktop'}"

    def person(name: str) -> Page:
        page = new_screen(tablet_sized=tablet).page
        register(page, desk.url, email=f"{name}-{look}@sharing.example")
        return page

    patient, daughter = person("patient"), person("daughter")
    account_id = login_of(portal, patient).account.id
    put_study(portal, account_id)
    for name in ("report.pdf", "invoice.pdf"):
        put_in(portal, account_id, f"%PDF-1.7\n {name}".encode(), name)

    patient.goto(f"{desk.url}/sharing")
    patient.get_by_role("link", name="Choose several to share").click()
    patient.get_by_label("report.pdf").check()
    patient.get_by_label("Harbour Hospital").check()
    seen(patient, f"{look}-1-choose")
    patient.get_by_role("button", name="Who may open them?").click()
    expect(patient.locator("main")).to_contain_text("and 1 more")
    patient.get_by_label("Family, or a person").check()
    patient.get_by_label("their e-mail addresses").fill(f"daughter-{look}@sharing.example")
    patient.get_by_role("button", name="Show me who that is today").click()
    seen(patient, f"{look}-2-preview")
    patient.get_by_role("button", name="Share", exact=True).click()
    expect(patient.get_by_role("heading", level=1)).to_have_text("Who may open my record")

    daughter.goto(f"{desk.url}/shared-with-me")
    daughter.get_by_role("link", name="Open report.pdf, and 1 more").click()
    expect(daughter.locator("main")).to_contain_text("26 August 2024, 2 images")
    expect(daughter.locator("main")).not_to_contain_text("invoice.pdf")
    seen(daughter, f"{look}-3-inside")
