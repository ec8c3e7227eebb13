"""Closing an account in a real browser: download first, asked twice, gone; the mail with the proof arrives."""

import email
import email.policy
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.accessibility import seen
from tests.cast import PATIENT
from tests.e2e.conftest import Desk, Screen, register
from tests.e2e.test_accessibility import too_small, violations
from tests.e2e.test_second_step import virtual_authenticator

pytestmark = pytest.mark.browser


def mail_to(desk: Desk, address: str) -> email.message.EmailMessage:
    """The worker's sweep sends it."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        for path in (desk.home / "outbox").glob("*.eml"):
            message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            if message["To"] == address:
                return message
        time.sleep(0.5)
    raise TimeoutError("no mail")


@pytest.mark.parametrize("tablet", [False, True])
def test_download_first_then_close_with_the_password(
    new_screen: Callable[..., Screen], desk: Desk, disc: Path, tablet: bool
) -> None:
    address, size = f"leaving-{tablet}@patient.example".lower(), "tablet" if tablet else "desktop"
    page, other = new_screen(tablet_sized=tablet).page, new_screen().page
    register(page, desk.url, email=address)
    page.locator("#upload-pick-folder").set_input_files(disc)
    expect(page.locator("#upload-heading")).to_have_text("Done", timeout=60_000)
    other.goto(f"{desk.url}/sign-in")
    other.get_by_label("E-mail address").fill(address)
    other.get_by_label("Password", exact=True).fill(PATIENT.password)
    other.get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("My record")

    page.goto(f"{desk.url}/account")
    page.get_by_role("link", name="Close my account").click()
    expect(page.locator("main")).to_contain_text("You have not downloaded a copy of your record yet")
    found = violations(page) + too_small(page)
    seen(page, f"close-account-{size}")
    page.get_by_role("link", name="Download everything").click()
    page.get_by_role("button", name="Make my copy").click()
    with page.expect_download() as downloaded:
        page.get_by_role("link", name="Download (").click(timeout=60_000)
    assert downloaded.value.path().stat().st_size > 1000

    page.goto(f"{desk.url}/account/close")
    expect(page.locator("main")).to_contain_text("You downloaded everything")
    page.get_by_role("link", name="Go on").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Close it for ever?")
    found += violations(page) + too_small(page)
    seen(page, f"close-account-sure-{size}")
    page.get_by_label("Your password", exact=True).fill("this is not my password")
    page.get_by_role("button", name="Close my account for ever").click()
    expect(page.get_by_role("alert")).to_contain_text("the present password is not right")
    page.get_by_label("Your password", exact=True).fill(PATIENT.password)
    page.get_by_role("button", name="Close my account for ever").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your account is closed")
    found += violations(page) + too_small(page)
    seen(page, f"account-closed-{size}")

    other.reload()
    expect(other.get_by_role("heading", level=1)).to_have_text("Sign in")
    proof = json.loads(next(mail_to(desk, address).iter_attachments()).get_content())
    assert len(proof["note"]["files"]) == 12 and proof["events"][-1]["event"] == "bytes-removed"
    page.goto(f"{desk.url}/")
    register(page, desk.url, email=address)  # the address is free
    assert found == []


def test_close_with_a_passkey(new_screen: Callable[..., Screen], desk: Desk) -> None:
    url = desk.url.replace("127.0.0.1", "localhost")
    page = new_screen(tablet_sized=True).page
    virtual_authenticator(page)
    register(page, url, email="leaving-passkey@patient.example")
    page.goto(f"{url}/account/passkeys/new")
    page.get_by_role("button", name="Make my passkey").click()
    expect(page.locator("#notice")).to_contain_text("Your passkey is set up")
    page.goto(f"{url}/account/close/sure")
    found = violations(page) + too_small(page)
    seen(page, "close-account-passkey")
    page.get_by_label("Your password", exact=True).first.fill(PATIENT.password)
    page.get_by_role("button", name="Use my passkey and close my account").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your account is closed")
    assert found == []
