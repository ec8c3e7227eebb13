"""axe-core on every page and state, desktop and tablet, light and dark: no violation of WCAG 2.2 A and AA.

Also what axe cannot see: targets of 44 px, a way with the keyboard, nothing that moves when motion is not wanted.
"""

import datetime as dt
import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from sqlmodel import select

from myphr import settings as settings_module
from myphr.database import now
from myphr.ingest import drop_offs
from myphr.people import accounts
from myphr.people.models import Account
from myphr.portal import Portal
from myphr.records.reading import FullReading, Reading
from myphr.sharing import shares
from tests import accessibility
from tests.e2e.conftest import Desk, Screen, register
from tests.web.stage import isolation, put_in, put_reading, put_study, put_vm_session

pytestmark = pytest.mark.browser
LOOKS = {
    "desktop": {}, "tablet": {"tablet_sized": True}, "desktop, dark": {"color_scheme": "dark"},
    "tablet, dark": {"tablet_sized": True, "color_scheme": "dark"},
}  # fmt: skip
TARGET_PIXELS_MIN = 44


@pytest.fixture
def portal(desk: Desk) -> Iterator[Portal]:
    """The parts behind the running desk, to set the stage with."""
    portal = Portal(settings_module.load(desk.environ))
    yield portal
    portal.database.dispose()


class Stage:
    """One patient with something on every page."""

    def __init__(self, page: Page, desk: Desk, portal: Portal, email: str) -> None:
        register(page, desk.url, email=email)
        with portal.database.read() as db:
            self.account_id = db.exec(select(Account.id).where(Account.email == email)).one()
        self.study_id = put_study(portal, self.account_id, images=3)
        self.item_id = put_in(portal, self.account_id, b"%PDF-1.7\n words", "letter.pdf").id
        long_name = put_in(portal, self.account_id, b"%PDF-1.7\n more words", "DISCHARGE_" * 20 + ".pdf")
        sessions = {
            state: put_vm_session(portal, self.account_id, state, study_id=self.study_id, **values)
            for state, values in {
                "opening": {}, "ending": {}, "ended": {"end_reason": "owner"}, "failed": {"failure": "machine-failed"},
                "live": {"isolation": isolation(True, True, True), "ends_at": now() + dt.timedelta(seconds=100)},
            }.items()
        }  # fmt: skip
        cookie = next(c["value"] for c in page.context.cookies() if c["name"] == "myphr-key")
        login = accounts.resolve(portal.database, cookie)
        assert login
        picture = io.BytesIO()
        Image.new("L", (300, 200), 90).save(picture, "JPEG")
        reading = Reading(title="Letter", date_words="26 August 2024", facts=(("Pages", "3"),), note="Only one page")
        owner: Any = SimpleNamespace(login=login, account=login.account)
        full = FullReading(reading, picture.getvalue(), "<h1>Letter</h1><p>Dear doctor</p>")
        put_reading(portal, owner, self.item_id, full)
        self.share, self.link, self.passcode = shares.create(
            portal, login, sessions["live"], "tomas@family.example", "view", 3600
        )
        drop_off = drop_offs.create(portal, login, "X-ray in Mill Street", 3600, 50)
        self.addresses = {
            "record": "/record", "study": f"/study/{self.study_id}", "delete": f"/study/{self.study_id}/delete",
            "file": f"/item/{self.item_id}", "long name": f"/item/{long_name.id}", "account": "/account",
            "who looked": "/who-looked",
            "find": "/record/find", "timeline": "/record/timeline", "no date": "/record/timeline?undated=1",
            "what a file is": f"/item/{self.item_id}/format",
            "practices": "/drop-offs", "stop a practice": f"/drop-offs/{drop_off.drop_off_id}/stop",
            "help": "/help", "missing": "/nothing-here",
            **{f"machine {state}": f"/machine/{its_id}" for state, its_id in sessions.items()},
        }  # fmt: skip


@pytest.fixture
def stage(
    new_screen: Callable[..., Screen], desk: Desk, portal: Portal, request: pytest.FixtureRequest
) -> tuple[Page, Stage]:
    look = getattr(request, "param", "desktop")
    page = new_screen(**LOOKS[look]).page
    return page, Stage(
        page, desk, portal, f"{look.replace(', ', '-')}-{request.node.originalname[:20]}@patient.example"
    )


def violations(page: Page) -> list[str]:
    # Excluded: a field of 2 px without words in it, which only makes a tablet bring up its keyboard.
    return accessibility.violations(page, exclude=(".screen-typing",))


def too_small(page: Page) -> list[str]:
    """Things to press that are lower than 44 px; links inside a sentence are exempt (WCAG 2.5.8)."""
    return page.evaluate(
        """(least) => [...document.querySelectorAll(
              "button, a.button, select, summary, nav a, main > #notice + p a, input:not([type=hidden]), .choice")]
            .filter((e) => e.checkVisibility() && !(e.matches(".choice input")))
            .map((e) => [e, e.getBoundingClientRect()])
            .filter(([e, box]) => box.height > 0 && box.height < least - 0.5)
            .map(([e, box]) => `${e.outerHTML.slice(0, 80)} ${Math.round(box.height)}px`)""",
        TARGET_PIXELS_MIN,
    )


@pytest.mark.parametrize("look", LOOKS)
def test_pages_before_signing_in_have_no_violation(new_screen: Callable[..., Screen], desk: Desk, look: str) -> None:
    page = new_screen(**LOOKS[look]).page
    closed = "/s/6a1b0000-0000-4000-8000-000000000000"
    found = {}
    for address in ("/", "/register", "/sign-in", "/recover", "/help", "/nothing", f"{closed}#abc", f"{closed}/screen"):
        page.goto(desk.url + address)
        found[address] = violations(page) + too_small(page)
    assert {address: what for address, what in found.items() if what} == {}


@pytest.mark.parametrize("stage", LOOKS, indirect=True)
def test_pages_of_a_patient_have_no_violation(stage: tuple[Page, Stage], desk: Desk) -> None:
    page, staged = stage
    found = {}
    for name, address in staged.addresses.items():
        page.goto(desk.url + address)
        for summary in page.locator("summary").all():
            summary.click()
        found[name] = violations(page) + too_small(page)
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize("stage", ["desktop", "tablet"], indirect=True)
def test_the_page_for_a_practice_has_no_violation(stage: tuple[Page, Stage], desk: Desk) -> None:
    page, _ = stage
    page.goto(f"{desk.url}/record")
    page.get_by_role("link", name="Let a practice send me files").click()
    page.get_by_label("Who is it?").fill("Hospital at the Harbour")
    page.get_by_label("A month").check()
    page.get_by_role("button", name="Let them send").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Give this to Hospital at the Harbour")
    expect(page.get_by_role("button", name="Copy the key")).to_be_visible()
    assert violations(page) + too_small(page) == []
    page.goto(page.locator("#drop-off-link").inner_text())
    go_on = page.get_by_role("button", name="Go on")
    expect(go_on).to_be_visible()
    assert violations(page) + too_small(page) == []
    go_on.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Hand over files for")
    letter = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a letter"}
    page.locator("#upload-pick-files").set_input_files(letter)
    expect(page.locator("#upload-done")).to_contain_text("a.txt")
    assert violations(page) + too_small(page) == []
    page.get_by_role("button", name="I am done").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Thank you")
    assert violations(page) + too_small(page) == []


@pytest.mark.parametrize("stage", ["desktop", "tablet"], indirect=True)
def test_a_copy_of_everything_and_the_proofs_have_no_violation(stage: tuple[Page, Stage], desk: Desk) -> None:
    page, _ = stage
    for address in ("/everything", "/deleted"):
        page.goto(desk.url + address)
        assert violations(page) + too_small(page) == [], address


@pytest.mark.parametrize("look", LOOKS)
def test_forms_that_were_refused_have_no_violation(new_screen: Callable[..., Screen], desk: Desk, look: str) -> None:
    page = new_screen(**LOOKS[look]).page
    page.goto(f"{desk.url}/register")
    page.get_by_label("Your name").fill("A")
    page.get_by_label("E-mail address").fill("a@b.example")
    page.get_by_label("Password", exact=True).fill("too short")
    page.get_by_role("button", name="Make my record").click()
    expect(page.get_by_role("alert")).to_contain_text("at least 15 characters")
    assert violations(page) + too_small(page) == []


@pytest.mark.parametrize("stage", ["desktop", "tablet"], indirect=True)
def test_the_way_of_a_caregiver_has_no_violation(
    stage: tuple[Page, Stage], new_screen: Callable[..., Screen], portal: Portal
) -> None:
    _, staged = stage
    page = new_screen(tablet_sized=True).page
    page.goto(staged.link)
    assert "#" not in page.url  # the secret has left the address bar
    found = violations(page) + too_small(page)
    page.get_by_label("Passcode").fill("000000" if staged.passcode != "000000" else "111111")
    page.get_by_role("button", name="Show me the screen").click()
    expect(page.get_by_role("alert").first).to_contain_text("4 tries are left")
    found += violations(page) + too_small(page)
    page.get_by_label("Passcode").fill(staged.passcode or "")
    page.get_by_role("button", name="Show me the screen").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("You are watching Vera Lindqvist's screen, view only")
    found += violations(page) + too_small(page)
    page.get_by_role("button", name="Stop watching").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("You have left the screen")
    assert found + violations(page) + too_small(page) == []


def test_the_check_sees_a_violation(new_screen: Callable[..., Screen], desk: Desk) -> None:
    page = new_screen().page
    page.goto(f"{desk.url}/sign-in")
    page.evaluate("document.querySelector('label').remove()")
    page.evaluate("document.querySelector('main button').classList.add('tiny')")
    assert any("label" in what for what in violations(page))


def test_sharing_is_announced_and_the_passcode_is_large(stage: tuple[Page, Stage], desk: Desk) -> None:
    page, staged = stage
    page.goto(desk.url + staged.addresses["machine live"])
    page.get_by_label("Their e-mail address").fill("tomas@family.example")
    page.get_by_role("button", name="Send the link").click()
    expect(page.locator("#sharing [role=status]")).to_contain_text("on its way to tomas@family.example")
    passcode = page.locator("#passcode-to-tell")
    assert len(passcode.inner_text().strip()) == 6
    assert float(passcode.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")) >= 32
    assert violations(page) + too_small(page) == []


def test_nothing_moves_for_those_who_do_not_want_it(
    new_screen: Callable[..., Screen], desk: Desk, portal: Portal
) -> None:
    page = new_screen(reduced_motion="reduce").page
    staged = Stage(page, desk, portal, "still@patient.example")
    page.goto(desk.url + staged.addresses["machine opening"])
    moving = page.evaluate("document.getAnimations().filter((a) => a.playState === 'running').length")
    assert moving == 0
    page = new_screen().page
    staged = Stage(page, desk, portal, "moving@patient.example")
    page.goto(desk.url + staged.addresses["machine opening"])
    assert page.evaluate("document.getAnimations().filter((a) => a.playState === 'running').length") > 0


def test_text_can_be_twice_as_large_without_scrolling_sideways(new_screen: Callable[..., Screen], desk: Desk) -> None:
    page = new_screen(viewport={"width": 640, "height": 800}).page  # 1280 at 200 %
    for address in ("/", "/register", "/help", "/s/6a1b0000-0000-4000-8000-000000000000#x"):
        page.goto(desk.url + address)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(
    new_screen: Callable[..., Screen], desk: Desk, portal: Portal, width: int
) -> None:
    page = new_screen(viewport={"width": width, "height": 700}).page
    staged = Stage(page, desk, portal, f"narrow{width}@patient.example")
    wide = []
    for name, address in staged.addresses.items():
        page.goto(desk.url + address)
        if not page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
            wide.append(name)
    assert wide == []
