"""The main job, end to end, on a real virtual machine: two people, two browsers, one screen.

The patient's desktop browser and the caregiver's tablet against the processes that `myphr up` starts, with the probe
template, whose picture says what it was given and what reaches it.
"""

import email
import hashlib
import re
from collections.abc import Callable
from email import policy as email_policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.cast import CAREGIVER, PATIENT
from tests.e2e.conftest import Screen, register
from tests.e2e.probe_screen import START_MS, open_with_probe, picture, ready, until
from tests.e2e.test_accessibility import violations
from tests.running import RunningPortal

pytestmark = [pytest.mark.browser, pytest.mark.qemu]


def mailed_link(portal: RunningPortal, to: str) -> str:
    """The link out of the mail to this address. Other tests' mails lie in the same outbox."""

    def mails() -> list[EmailMessage]:
        found = [
            email.message_from_bytes(path.read_bytes(), policy=email_policy.default)
            for path in (portal.home / "outbox").rglob("*")
            if path.is_file() and not path.name.startswith(".")
        ]
        return [mail for mail in found if mail["To"] == to]

    until(mails, "no mail went out")
    body = mails()[0].get_body(("plain",))
    assert body
    found = re.search(rf"{portal.url}/s/\S+", body.get_content())
    assert found
    return found[0]


def test_a_patient_opens_a_study_shares_it_takes_it_back_and_nothing_is_left(
    running_portal: RunningPortal, new_screen: Callable[..., Screen], disc: Path
) -> None:
    patient = new_screen().page
    register(patient, running_portal.url)

    # A disc goes in and comes out as a study in plain words.
    patient.locator("#upload-pick-folder").set_input_files(disc)
    study = patient.locator("#studies li")
    expect(study).to_contain_text("MR scan, head", timeout=60_000)
    expect(study).to_contain_text("12 images", timeout=60_000)
    study.get_by_role("link", name="Open").click()

    open_with_probe(patient)
    # A warm machine may be there before the browser has looked at the page of the stages.
    expect(patient.get_by_role("heading", level=1)).to_have_text(re.compile("Getting your viewer ready|MR scan, head"))
    expect(patient.get_by_role("heading", level=1)).to_have_text("MR scan, head", timeout=START_MS)

    # The very files are open on the screen, without a file dialog.
    seen = ready(patient)
    first = sorted(disc.iterdir())[0]
    assert seen.files == 12 and seen.sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    expect(patient.locator("#watch")).to_contain_text("Only you are watching")
    expect(patient.get_by_text("This machine could reach nothing but your files")).to_be_visible(timeout=START_MS)
    assert violations(patient) == []

    # Keys reach the machine.
    before = ready(patient).keys
    patient.evaluate("() => scrollTo(0, 0)")
    patient.locator("#screen canvas").click()
    assert patient.evaluate("() => scrollY") == 0  # nothing moves under the finger
    patient.keyboard.press("a")
    until(lambda: (now := picture(patient)) and now.keys > before, "the key did not reach the machine")

    # Share, look only, with a passcode told apart.
    patient.get_by_role("link", name="Share").click()
    patient.get_by_label("Their e-mail address").fill(CAREGIVER.email)
    patient.get_by_role("button", name="Send the link").click()
    passcode = patient.locator("#passcode-to-tell").inner_text().strip()
    link = mailed_link(running_portal, CAREGIVER.email)
    assert passcode not in "".join(
        path.read_text(errors="replace") for path in (running_portal.home / "outbox").rglob("*") if path.is_file()
    )

    # The caregiver, on a tablet, without an account.
    caregiver = new_screen(tablet_sized=True).page
    caregiver.goto(link)
    assert violations(caregiver) == []
    caregiver.get_by_label("Passcode").fill(passcode)
    caregiver.get_by_role("button", name="Show me the screen").tap()
    expect(caregiver.get_by_role("heading", level=1)).to_have_text(
        f"You are watching {PATIENT.name}'s screen, view only"
    )
    theirs = ready(caregiver)
    assert theirs.sha256 == seen.sha256
    assert violations(caregiver) == []
    expect(patient.locator("#watch")).to_contain_text(f"you and {CAREGIVER.email}", timeout=30_000)

    # Looking is looking: no key and no touch of theirs arrives.
    held = ready(patient)
    caregiver.locator("#screen canvas").tap()
    caregiver.keyboard.type("zzz")
    caregiver.wait_for_timeout(1500)
    assert (now := ready(patient)).keys == held.keys and now.buttons == held.buttons

    # They stop watching, which the patient sees, and come back by the same link.
    expect(patient.locator("#shared")).to_contain_text("Watching now.")
    caregiver.get_by_role("button", name="Stop watching").tap()
    expect(caregiver.get_by_role("heading", level=1)).to_have_text("You have left the screen")
    expect(patient.locator("#shared")).to_contain_text("not watching now")
    expect(patient.locator("#watch")).to_contain_text("Only you are watching")
    caregiver.goto(link)
    caregiver.get_by_label("Passcode").fill(passcode)
    caregiver.get_by_role("button", name="Show me the screen").tap()
    expect(patient.locator("#shared")).to_contain_text("Watching now.")

    # Stop sharing closes their screen.
    patient.get_by_role("button", name=f"Stop sharing with {CAREGIVER.email}").click()
    expect(caregiver.locator("main")).to_contain_text(
        re.compile("no longer shared with you|This link is closed"), timeout=10_000
    )
    expect(patient.locator("#watch")).to_contain_text("Only you are watching", timeout=40_000)
    caregiver.goto(link)
    caregiver.get_by_label("Passcode").fill(passcode)
    caregiver.get_by_role("button", name="Show me the screen").tap()
    expect(caregiver.get_by_role("heading", level=1)).to_have_text("This link is closed")

    # End destroys the machine.
    patient.get_by_role("button", name="End", exact=True).click()
    expect(patient.get_by_role("heading", level=1)).to_have_text("The session has ended", timeout=START_MS)
    expect(patient.locator("main")).to_contain_text("The machine is destroyed")
    assert violations(patient) == []

    # Who looked.
    patient.get_by_role("navigation").get_by_role("link", name="Who looked").click()
    trail = patient.locator("main").inner_text()
    for sentence in (
        f"{CAREGIVER.email} opened the shared link.", f"{CAREGIVER.email} looked at your screen.",
        "You shared the screen.", "You stopped sharing the screen.",
        "The machine was destroyed with everything on its disk.",
    ):  # fmt: skip
        assert sentence in trail
    assert "every link of the chain holds" in running_portal.command("audit", "verify")


def test_what_a_viewer_saves_comes_back_into_the_record(
    running_portal: RunningPortal, new_screen: Callable[..., Screen], tmp_path: Path
) -> None:
    page = new_screen().page
    register(page, running_portal.url, email="second@patient.example")
    order = tmp_path / "write-result"  # a file of this name makes the probe save something, as a viewer does
    order.write_bytes(b"\x00\x01 of no known kind")
    page.locator("#upload-pick-files").set_input_files(order)
    page.locator("#documents li").get_by_role("link", name="Open write-result").click()
    open_with_probe(page)
    page.locator("#screen").wait_for(timeout=START_MS)
    assert ready(page).files == 1
    page.get_by_role("button", name="End", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The session has ended", timeout=START_MS)
    expect(page.locator("main")).to_contain_text("You saved 1 file")
    page.get_by_role("link", name="probe-result.txt").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    saved = Path(download.value.path()).read_text()
    assert f"first {hashlib.sha256(order.read_bytes()).hexdigest()}" in saved
