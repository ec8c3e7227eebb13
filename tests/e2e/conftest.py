"""Fixtures for tests in a real browser: Debian's Chromium, desktop and tablet, against the portal's real processes."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from pydicom.uid import generate_uid

from myphr.people import accounts
from myphr.people.login_sessions import Login
from myphr.portal import Portal
from tests.cast import PATIENT, Person
from tests.running import ROOT, RunningPortal, free_port
from tests.web.stage import dicom_bytes

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)  # its own five seconds are short where two tests and their machines share two cores


@pytest.fixture(scope="module")
def chromium() -> Iterator[tuple[Browser, dict[str, Any]]]:
    """The browser, and what a tablet is."""
    with sync_playwright() as playwright:
        tablet = {k: v for k, v in playwright.devices["iPad (gen 7)"].items() if k != "default_browser_type"}
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser, tablet
        browser.close()


class Screen:
    """One person's browser window. Collects what a page complains about: it must complain about nothing."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", self._heard)

    def _heard(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "violates" in message.text:
            self.complaints.append(message.text)


@pytest.fixture
def new_screen(chromium: tuple[Browser, dict[str, Any]]) -> Iterator[Callable[..., Screen]]:
    """`new_screen()` or `new_screen(tablet=True, color_scheme="dark")`: a fresh browser profile."""
    browser, tablet = chromium
    opened: list[Screen] = []

    def open_one(*, tablet_sized: bool = False, **options: Any) -> Screen:
        size = tablet if tablet_sized else {"viewport": {"width": 1280, "height": 800}}
        opened.append(Screen(browser.new_context(**(size | {"accept_downloads": True} | options))))
        return opened[-1]

    yield open_one
    complaints = [complaint for screen in opened for complaint in screen.complaints]
    for screen in opened:
        screen.context.close()
    assert complaints == []


class Desk:
    """The portal without machines: Redis, keyholder, web and one worker, as the supervisor starts them."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.home = folder / "home"
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("MYPHR_")} | {
            "MYPHR_HOME": str(self.home), "MYPHR_PUBLIC_URL": self.url, "MYPHR_WEB_BIND": f"127.0.0.1:{port}",
            "MYPHR_ARGON2_MEMORY_KIB": "8192", "MYPHR_ARGON2_PASSES": "1", "MYPHR_WARM_POOL": "",
        }  # fmt: skip
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Desk":
        from myphr import settings as settings_module
        from myphr.supervisor import keyholder_command, redis_command, web_command

        self._run([sys.executable, "-m", "myphr", "init"]).wait(60)
        settings = settings_module.load(self.environ)
        self._run(redis_command(settings, settings.run_dir / "redis.sock"))
        while not (settings.run_dir / "redis.sock").exists():
            time.sleep(0.05)
        self._run(keyholder_command(settings))
        self._run([sys.executable, "-m", "myphr", "worker"])
        self._run(web_command(settings))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/healthz", timeout=5).ok:
                    return self
            time.sleep(0.1)
        raise TimeoutError((self.home.parent / "desk.log").read_text()[-3000:])

    def _run(self, command: list[str]) -> subprocess.Popen:
        with (self.home.parent / "desk.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=log, stderr=log))
        return self.processes[-1]

    def __exit__(self, *_error: object) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


Running = TypeVar("Running", Desk, RunningPortal)


class Shared(Generic[Running]):
    """One installation for many tests. A failed test's second try gets a new one: in the old one its people exist."""

    def __init__(self, make: Callable[[Path], Running]) -> None:
        self.make = make
        self.opened = contextlib.ExitStack()
        self.running: Running | None = None

    def for_try(self, test: pytest.Item) -> Running:
        """What this try of the test runs on (`execution_count` is pytest-rerunfailures')."""
        if self.running is None or getattr(test, "execution_count", 1) > 1:
            self.close()
            # A short path: a Unix socket's name has room for 107 bytes.
            folder = self.opened.enter_context(tempfile.TemporaryDirectory(prefix="myphr-"))
            self.running = self.opened.enter_context(self.make(Path(folder)))
        return self.running

    def close(self) -> None:
        self.running = None
        self.opened.close()


@pytest.fixture(scope="session")
def desks() -> Iterator[Shared[Desk]]:
    with contextlib.closing(Shared(Desk)) as shared:
        yield shared


@pytest.fixture
def desk(desks: Shared[Desk], request: pytest.FixtureRequest) -> Desk:
    return desks.for_try(request.node)


@pytest.fixture(scope="session")
def running_portals() -> Iterator[Shared[RunningPortal]]:
    with contextlib.closing(Shared(RunningPortal)) as shared:
        yield shared


@pytest.fixture
def running_portal(running_portals: Shared[RunningPortal], request: pytest.FixtureRequest) -> RunningPortal:
    """Everything, machines included, with the probe template."""
    return running_portals.for_try(request.node)


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    uid = generate_uid()
    folder = tmp_path / "DISC"
    folder.mkdir()
    for number in range(1, 13):
        words = {"StudyDate": "20240826", "InstitutionName": "Harbour Hospital", "BodyPartExamined": "HEAD"}
        (folder / f"IM{number:05}.dcm").write_bytes(dicom_bytes(uid, number, **words))
    return folder


def register(page: Page, url: str, person: Person = PATIENT, email: str = "") -> str:
    """Through the pages, as a newcomer does; returns the recovery code. Ends on "My record"."""
    page.goto(f"{url}/")
    page.get_by_role("link", name="Make my record").click()
    page.get_by_label("Your name").fill(person.name)
    page.get_by_label("E-mail address").fill(email or person.email)
    page.get_by_label("Password", exact=True).fill(person.password)
    page.get_by_role("button", name="Make my record").click()
    code = page.locator("#recovery-code").inner_text().strip()
    page.get_by_label("Type the last group").fill(code[-4:])
    page.get_by_role("button", name="I have it").click()
    page.get_by_role("heading", name="My record").wait_for()
    return code


def login_of(portal: Portal, page: Page) -> Login:
    """The very login of this browser."""
    cookie = next(one["value"] for one in page.context.cookies() if one["name"] == "myphr-key")
    login = accounts.resolve(portal.database, cookie)
    assert login
    return login
