"""Sharing by attributes on the whole running product: organisations, roles, a reader's machine, and its end.

Everybody comes through the pages: an operator, the officers of a hospital and of a registrar, a patient, a
cardiologist, a nurse, a doctor in an emergency. The readers' machines are real; what they show is read from the pixels.
"""

import dataclasses
import email
import hashlib
import re
from collections.abc import Callable
from email import policy as email_policy
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.accessibility import seen
from tests.cast import Person
from tests.e2e.conftest import Screen, register
from tests.e2e.probe_screen import START_MS, open_with_probe, ready, until
from tests.running import RunningPortal

pytestmark = [pytest.mark.browser, pytest.mark.qemu, pytest.mark.timeout(900)]

PATIENT, DOCTOR, NURSE = "Vera Lindqvist", "Tomas Berg", "Nora Holm"
HOSPITAL, REGISTRAR = "St Mary's", "Office for Emergencies"
REASON = "Unconscious after a fall, old pictures needed"


@dataclasses.dataclass(frozen=True)
class Town:
    """Two organisations, registered through the pages, with their officers' browsers; newcomers come with `enter`."""

    portal: RunningPortal
    look: str
    new_page: Callable[[], Page]
    officers: dict[str, Page] = dataclasses.field(default_factory=dict)

    @property
    def url(self) -> str:
        """The tablets type the computer's name, the others its number: the portal answers to both."""
        return self.portal.url.replace("127.0.0.1", "localhost") if "tablet" in self.look else self.portal.url

    def email(self, name: str) -> str:
        return f"{name.lower().replace(' ', '.')}.{self.look}@town.example"

    def enter(self, name: str) -> Page:
        page = self.new_page()
        register(page, self.url, Person(self.email(name), name, f"{name} walks over the quiet bridge"))
        return page

    def named(self, organisation: str) -> str:
        return f"{organisation} ({self.look})"

    def give(self, organisation: str, who: str, words: str) -> None:
        officer = self.officers[organisation]
        officer.goto(f"{self.url}/account")
        officer.get_by_role("link", name=f"Members of {self.named(organisation)}").click()
        officer.get_by_label("Who", exact=True).fill(self.email(who))
        officer.get_by_label("What they are").select_option(label=words)
        officer.get_by_role("button", name="Give this role").click()
        expect(officer.locator("#notice")).to_contain_text(f"{who}: {words}. Noted.")

    def seen(self, page: Page, name: str) -> None:
        seen(page, f"journey-{self.look}-{name}")


@pytest.fixture
def town(request: pytest.FixtureRequest, running_portal: RunningPortal, new_screen: Callable[..., Screen]) -> Town:
    """`request.param`: the size of everybody's browser."""
    town = Town(running_portal, request.param, lambda: new_screen(tablet_sized="tablet" in request.param).page)
    operator = town.enter("Oda Perator")
    running_portal.command("operator", town.email("Oda Perator"))
    for organisation, kind, officer in (
        (HOSPITAL, "hospital", "Henri Officer"), (REGISTRAR, "registrar", "Rosa Officer")
    ):  # fmt: skip
        town.officers[organisation] = town.enter(officer)
        operator.goto(f"{town.url}/operator")
        operator.get_by_label("Its name, as patients know it").fill(town.named(organisation))
        operator.locator(f'input[name="kind"][value="{kind}"]').check()
        operator.get_by_label("E-mail address of its officer").fill(town.email(officer))
        operator.get_by_role("button", name="Register it").click()
        expect(operator.locator("#notice")).to_contain_text(f"{town.named(organisation)} is registered")
    town.seen(operator, "1-operator")
    return town


def upload(patient: Page, disc: Path) -> None:
    patient.locator("#upload-pick-folder").set_input_files(disc)
    expect(patient.locator("#studies li")).to_contain_text("12 images", timeout=60_000)
    patient.locator("#studies li").get_by_role("link", name="Open").click()
    patient.get_by_role("link", name="Share", exact=True).click()


def screen_of(reader: Page, disc: Path) -> None:
    """In a machine of their own the reader sees the patient's very files on the screen."""
    open_with_probe(reader)
    reader.locator("#screen").wait_for(timeout=START_MS)
    shown = ready(reader)
    first = sorted(disc.iterdir())[0]
    assert shown.files == 12 and shown.sha256 == hashlib.sha256(first.read_bytes()).hexdigest()


def closes_by_itself(reader: Page) -> None:
    """Nobody touches the reader's page: the screen goes, and a sentence says why."""
    expect(reader.get_by_role("heading", level=1)).to_have_text("The session has ended", timeout=START_MS)
    expect(reader.locator("main")).to_contain_text("no longer shared with you")
    expect(reader.locator("#screen")).to_have_count(0)


def is_gone(reader: Page, address: str) -> None:
    answer = reader.goto(address)
    assert answer and answer.status == 404
    reader.goto(address.rpartition("/")[0])
    expect(reader.locator("main")).to_contain_text("Nobody shares anything with you now")


def verified(portal: RunningPortal) -> None:
    assert "every link of the chain holds" in portal.command("audit", "verify")


@pytest.mark.parametrize("town, ends", [("desktop", "role"), ("tablet", "person")], indirect=["town"])
def test_a_cardiologist_sees_the_study_in_a_machine_of_their_own_until_it_is_taken_back(
    town: Town, disc: Path, ends: str
) -> None:
    patient, doctor, nurse = town.enter(PATIENT), town.enter(DOCTOR), town.enter(NURSE)
    town.give(HOSPITAL, DOCTOR, "Cardiologist")
    town.give(HOSPITAL, NURSE, "Nurse")
    town.seen(town.officers[HOSPITAL], "2-members")
    doctor.goto(f"{town.url}/account")
    town.seen(doctor, "3-roles")

    upload(patient, disc)
    town.seen(patient, "4-choose")
    patient.get_by_label("For my care team: which role").select_option(label=f"Cardiologist at {town.named(HOSPITAL)}")
    patient.get_by_role("button", name="Show me who that is today").click()
    expect(patient.get_by_role("heading", name="1 person can open it today")).to_be_visible()
    expect(patient.locator("main")).to_contain_text(DOCTOR)
    expect(patient.locator("main")).to_contain_text("only those you agree to")
    town.seen(patient, "5-preview")
    patient.get_by_role("button", name="Share", exact=True).click()
    expect(patient.get_by_role("heading", level=1)).to_have_text("Who may open my record")
    town.seen(patient, "6-shared")

    doctor.goto(f"{town.url}/record")
    doctor.get_by_role("link", name="Shared with me").click()
    town.seen(doctor, "7-shared-with-me")
    doctor.get_by_role("link", name=f"of {PATIENT}").click()
    share = doctor.url
    expect(doctor.get_by_role("heading", level=1)).to_contain_text("MR scan, head")
    town.seen(doctor, "8-inside")
    screen_of(doctor, disc)
    expect(doctor.locator("main")).to_contain_text(f"12 files that {PATIENT} shares with you")
    expect(doctor.get_by_text("This machine could reach nothing but your files")).to_be_visible(timeout=START_MS)
    town.seen(doctor, "9-machine")

    nurse.goto(f"{town.url}/shared-with-me")
    expect(nurse.locator("main")).to_contain_text("Nobody shares anything with you now")
    town.seen(nurse, "10-nurse")
    is_gone(nurse, share)

    if ends == "role":
        officer = town.officers[HOSPITAL]
        officer.get_by_role("button", name=f"Take away from {DOCTOR}: Cardiologist").click()
        expect(officer.locator("#notice")).to_contain_text(f"{DOCTOR} no longer has this")
    else:
        patient.get_by_role("link", name=f"Remove {DOCTOR}").click()
        town.seen(patient, "11-remove")
        patient.get_by_role("button", name="Stop sharing").click()
        expect(patient.locator("#notice")).to_contain_text(f"ccess of {DOCTOR} ended")
        town.seen(patient, "12-removed")
    closes_by_itself(doctor)
    town.seen(doctor, "13-ended")
    is_gone(doctor, share)

    patient.goto(f"{town.url}/who-looked")
    expect(patient.locator("main")).to_contain_text(f"{DOCTOR} looked at 12 files that you share.")
    town.seen(patient, "14-who-looked")
    verified(town.portal)


def mailed(portal: RunningPortal, to: str) -> str:
    """The text of the one mail that went to this address."""
    found: list[str] = []

    def arrived() -> bool:
        for path in (portal.home / "outbox").glob("*.eml"):
            message = email.message_from_bytes(path.read_bytes(), policy=email_policy.default)
            body = message.get_body(("plain",))
            if message["To"] == to and body:
                found.append(" ".join(body.get_content().split()))
        return bool(found)

    until(arrived, "no mail went out")
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("town", ["emergency-desktop", "emergency-tablet"], indirect=True)
def test_in_an_emergency_a_reason_opens_it_and_the_patient_is_told_at_once(town: Town, disc: Path) -> None:
    patient, doctor = town.enter(PATIENT), town.enter(DOCTOR)
    town.give(HOSPITAL, DOCTOR, "May give emergency care")
    town.give(REGISTRAR, DOCTOR, "May open records in an emergency, with a reason")
    upload(patient, disc)
    patient.get_by_label("Emergency", exact=False).first.check()
    patient.get_by_label("For an emergency: the hospital").select_option(label=town.named(HOSPITAL))
    patient.get_by_label("And who names its emergency staff").select_option(label=town.named(REGISTRAR))
    patient.get_by_role("button", name="Show me who that is today").click()
    expect(patient.get_by_role("heading", name="1 person can open it today")).to_be_visible()
    town.seen(patient, "1-preview")
    patient.get_by_role("button", name="Share", exact=True).click()
    expect(patient.locator("main")).to_contain_text("emergency staff of")

    doctor.goto(f"{town.url}/shared-with-me")
    expect(doctor.locator("main")).to_contain_text(f"{PATIENT}: In an emergency")
    town.seen(doctor, "2-shared-with-me")
    doctor.get_by_role("link", name=f"of {PATIENT}").click()
    share = doctor.url
    town.seen(doctor, "3-reason")
    doctor.get_by_label("Why do you need it?").fill("   ")
    doctor.get_by_role("button", name="Open it, and tell them").click()
    expect(doctor.get_by_role("alert")).to_contain_text("why")
    town.seen(doctor, "4-no-reason")
    doctor.get_by_label("Why do you need it?").fill(REASON)
    doctor.get_by_role("button", name="Open it, and tell them").click()
    expect(doctor.get_by_role("status").filter(has_text="It closes at")).to_be_visible()
    town.seen(doctor, "5-inside")
    screen_of(doctor, disc)
    town.seen(doctor, "6-machine")

    told = mailed(town.portal, town.email(PATIENT))
    assert DOCTOR in told and "for an hour, until" in told and REASON not in told
    patient.goto(f"{town.url}/sharing")
    expect(patient.locator("main")).to_contain_text(REASON)
    town.seen(patient, "7-who-may")
    patient.goto(f"{town.url}/who-looked")
    looked = re.compile(f"{DOCTOR} opened your record in an emergency.*{REASON}")
    expect(patient.locator("main")).to_contain_text(looked)
    town.seen(patient, "8-who-looked")

    patient.goto(f"{town.url}/sharing")
    patient.get_by_role("link", name="Stop sharing").click()
    patient.get_by_role("button", name="Stop sharing").click()
    expect(patient.locator("#notice")).to_contain_text("ccess of everybody ended")
    closes_by_itself(doctor)
    is_gone(doctor, share)
    verified(town.portal)


@pytest.mark.parametrize("town", ["again"], indirect=True)
def test_another_doctor_without_a_reason_of_their_own_is_refused(town: Town, disc: Path) -> None:
    """The open hour of one is not the open hour of the other."""
    other = "Bodil Strand"
    patient, first, second = town.enter(PATIENT), town.enter(DOCTOR), town.enter(other)
    for who in (DOCTOR, other):
        town.give(HOSPITAL, who, "May give emergency care")
        town.give(REGISTRAR, who, "May open records in an emergency, with a reason")
    upload(patient, disc)
    patient.get_by_label("Emergency", exact=False).first.check()
    patient.get_by_label("For an emergency: the hospital").select_option(label=town.named(HOSPITAL))
    patient.get_by_label("And who names its emergency staff").select_option(label=town.named(REGISTRAR))
    patient.get_by_role("button", name="Show me who that is today").click()
    patient.get_by_role("button", name="Share", exact=True).click()
    first.goto(f"{town.url}/shared-with-me")
    first.get_by_role("link", name=f"of {PATIENT}").click()
    first.get_by_label("Why do you need it?").fill(REASON)
    first.get_by_role("button", name="Open it, and tell them").click()
    expect(first.get_by_role("heading", level=1)).to_contain_text("MR scan, head")

    second.goto(first.url)
    expect(second.get_by_role("heading", level=1)).to_have_text("Is this an emergency?")
    second.get_by_label("Why do you need it?").fill("  ")
    with second.expect_response(first.url) as answer:
        second.get_by_role("button", name="Open it, and tell them").click()
    assert answer.value.status == 403
    expect(second.locator("main")).not_to_contain_text("MR scan, head")
    patient.goto(f"{town.url}/sharing")
    expect(patient.locator("main")).to_contain_text(DOCTOR)
    expect(patient.locator("main").get_by_role("status").filter(has_text=other)).to_have_count(0)
