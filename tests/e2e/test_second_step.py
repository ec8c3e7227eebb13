"""A second step in a real browser: a passkey (Chromium's virtual authenticator), an app's code, the paper."""

import re
from collections.abc import Callable

import pyotp
import pytest
from playwright.sync_api import CDPSession, Page, expect

from tests.accessibility import seen
from tests.cast import PATIENT
from tests.e2e.conftest import Desk, Screen, register
from tests.e2e.test_accessibility import too_small, violations

pytestmark = pytest.mark.browser
AUTHENTICATOR = {
    "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
    "isUserVerified": True, "automaticPresenceSimulation": True,
}  # fmt: skip


def virtual_authenticator(page: Page) -> tuple[CDPSession, str]:
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    return devtools, devtools.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})["authenticatorId"]


def give_password(page: Page, url: str, email: str) -> None:
    page.get_by_role("button", name="Sign out").first.click()
    page.goto(f"{url}/sign-in")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill(PATIENT.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("One more step")


@pytest.mark.parametrize("tablet", [False, True])
def test_a_passkey_then_without_it_the_recovery_code(
    new_screen: Callable[..., Screen], desk: Desk, tablet: bool
) -> None:
    url, email = desk.url.replace("127.0.0.1", "localhost"), f"passkey-{tablet}@patient.example".lower()
    page = new_screen(tablet_sized=tablet).page
    devtools, authenticator = virtual_authenticator(page)
    code = register(page, url, email=email)

    page.goto(f"{url}/account")
    page.get_by_role("link", name="Set up a passkey").click()
    found = violations(page) + too_small(page)
    page.get_by_role("button", name="Make my passkey").click()
    expect(page.locator("#notice")).to_contain_text("Your passkey is set up")
    assert len(devtools.send("WebAuthn.getCredentials", {"authenticatorId": authenticator})["credentials"]) == 1
    found += violations(page) + too_small(page)

    give_password(page, url, email)
    page.goto(f"{url}/record")  # the password alone opens nothing
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto(f"{url}/sign-in/second-step")
    found += violations(page) + too_small(page)
    page.get_by_role("button", name="Use my passkey").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("My record")

    give_password(page, url, email)
    devtools.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": False})
    devtools.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": authenticator})
    other = dict(AUTHENTICATOR, transport="usb")
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": other})  # another key, without this passkey
    page.get_by_role("button", name="Use my passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("The passkey was not used")
    page.get_by_text("I do not have it with me").click()
    found += violations(page) + too_small(page)
    page.get_by_label("Recovery code").fill(code)
    page.get_by_role("button", name="Sign in with the recovery code").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("My account")
    assert found == []


def test_at_a_number_the_pages_say_where_passkeys_work_and_offer_something_else(
    new_screen: Callable[..., Screen], desk: Desk
) -> None:
    by_name, email = desk.url.replace("127.0.0.1", "localhost"), "number@patient.example"
    page = new_screen(tablet_sized=True).page
    virtual_authenticator(page)
    code = register(page, desk.url, email=email)
    page.goto(f"{desk.url}/account/passkeys/new")
    # What the browser itself says to a portal of this name.
    assert "SecurityError" in page.evaluate(
        """() => navigator.credentials.create({publicKey: {rp: {id: "localhost", name: "x"},
            user: {id: new Uint8Array(8), name: "x", displayName: "x"}, challenge: new Uint8Array(16),
            pubKeyCredParams: [{type: "public-key", alg: -7}]}}).then(() => "made", (error) => error.name)"""
    )
    expect(page.locator("main")).to_contain_text(f"Open the portal as {by_name}")
    expect(page.get_by_role("button", name="Make my passkey")).to_be_hidden()
    found = violations(page) + too_small(page)
    seen(page, "passkey-elsewhere")
    page.get_by_role("link", name=by_name).click()
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill(PATIENT.password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Make my passkey").click()
    expect(page.locator("#notice")).to_contain_text("Your passkey is set up")

    page.goto(f"{desk.url}/account")
    give_password(page, desk.url, email)
    expect(page.get_by_role("button", name="Use my passkey")).to_be_hidden()
    words = f"Your passkey does not work at this address. To use it, sign in at {by_name}"
    expect(page.locator("main")).to_contain_text(words)
    found += violations(page) + too_small(page)
    seen(page, "passkey-second-step-elsewhere")
    page.get_by_role("link", name=by_name).click()
    expect(page).to_have_url(re.compile("localhost"))
    page.goto(f"{desk.url}/sign-in/second-step")
    page.get_by_text("I do not have it with me").click()
    page.get_by_label("Recovery code").fill(code)
    page.get_by_role("button", name="Sign in with the recovery code").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("My account")
    assert found == []


def test_an_authenticator_app_set_up_and_used(new_screen: Callable[..., Screen], desk: Desk) -> None:
    page = new_screen(tablet_sized=True).page
    email = "app@patient.example"
    register(page, desk.url, email=email)
    page.goto(f"{desk.url}/account")
    page.get_by_role("button", name="Set up an authenticator app").click()
    page.get_by_text("I cannot read the picture").click()
    app = pyotp.TOTP(page.locator("#app-secret").inner_text().replace(" ", ""))
    found = violations(page) + too_small(page)
    box = page.locator(".qr-box svg").bounding_box()
    assert box and box["width"] >= 250
    first = app.now()
    page.get_by_label("Code that the app shows now").fill(first)
    page.get_by_role("button", name="Switch it on").click()
    expect(page.locator("#notice")).to_contain_text("authenticator app is set up")
    found += violations(page) + too_small(page)

    give_password(page, desk.url, email)
    page.get_by_label("Code from your authenticator app").fill(first)
    page.get_by_role("button", name="Sign in with the code").click()
    expect(page.get_by_role("alert").first).to_contain_text("used already")
    page.get_by_label("Code from your authenticator app").fill(app.at(int(page.evaluate("Date.now() / 1000")) + 30))
    page.get_by_role("button", name="Sign in with the code").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("My record")
    assert found == []
