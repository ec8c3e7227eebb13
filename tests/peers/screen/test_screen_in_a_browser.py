"""The real page part in a real browser (Chromium, strict policy, no internet) with the real gateway and a real QEMU."""

import http.server
import json
import mimetypes
import threading
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from myphr.sharing import live
from tests import accessibility
from tests.integration.screen import conftest as stage_fixtures
from tests.integration.screen.conftest import Stage
from tests.integration.screen.machines import Qemu, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.qemu]

ROOT = Path(__file__).resolve().parents[3]
mimetypes.add_type("text/javascript", ".js")

folder = stage_fixtures.folder
make_stage = stage_fixtures.make_stage
qemu = stage_fixtures.qemu
qemu_stage = stage_fixtures.qemu_stage

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Live screen</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/static/app.css">
<link rel="icon" href="/static/icons/portal.svg"></head><body class="machine"><main><h1>Your machine</h1>
{% with ticket_url="/ticket", access=access %}{% include "_screen.html" %}{% endwith %}
<p><a href="#below">After the screen</a></p></main></body></html>"""


class PageServer:
    """Serves the fragment on a page of its own under the policy of myphr.web.security, and tickets."""

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self.share: tuple | None = None  # (share, visit): the page is the caregiver's then
        self.tickets_given = 0
        self.status = 200
        environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader([
                jinja2.DictLoader({"page.html": PAGE}), jinja2.FileSystemLoader(ROOT / "templates"),
            ]), autoescape=True,
        )  # fmt: skip
        environment.globals.update(static_url=lambda name: f"/static/{name}", csrf_token=lambda: "the-csrf-token")
        self._template = environment.get_template("page.html")
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                if path.startswith("/static/"):
                    file = (ROOT / path[1:]).resolve()
                    assert file.is_relative_to(ROOT / "static")
                    self._answer(file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")
                else:
                    access = outer.share[0].access if outer.share else "control"
                    self._answer(outer._template.render(access=access).encode(), "text/html; charset=utf-8")

            def do_POST(self) -> None:
                assert outer.stage is not None
                assert self.headers["X-CSRF-Token"] == "the-csrf-token"
                outer.tickets_given += 1
                ticket = outer.stage.share_ticket(*outer.share) if outer.share else outer.stage.owner_ticket()
                body = {"url": f"ws://{outer.stage.gateway.address}/", "ticket": ticket}
                self._answer(json.dumps(body).encode(), "application/json", outer.status)

            def _answer(self, body: bytes, media_type: str, status: int = 200) -> None:
                assert outer.stage is not None
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header(
                    "Content-Security-Policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
                    f"connect-src 'self' ws://{outer.stage.gateway.address}; base-uri 'none'; form-action 'self'",
                )
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking",
                  "--disable-component-update", "--disable-sync"],
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture
def site(qemu_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[PageServer]:
    server = PageServer()
    monkeypatch.setattr(stage_fixtures, "PUBLIC_URL", server.url)
    server.stage = qemu_stage
    yield server
    server.close()


def open_page(context: BrowserContext, site: PageServer) -> tuple[Page, list[str]]:
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(site.url)
    return page, complaints


def live_page(context: BrowserContext, site: PageServer) -> tuple[Page, list[str]]:
    page, complaints = open_page(context, site)
    page.wait_for_selector('#screen[data-state="live"]', timeout=60_000)
    return page, complaints


def shown(page: Page) -> tuple[int, int, bytes]:
    """The pixels on the canvas: width, height, RGB."""
    width, height, values = page.evaluate(
        """() => { const c = document.querySelector("#screen canvas");
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let s = "";
        for (let i = 0; i < d.length; i += 4) s += String.fromCharCode(d[i], d[i+1], d[i+2]);
        return [c.width, c.height, btoa(s)]; }"""
    )
    import base64

    return width, height, base64.b64decode(values)


def test_the_page_shows_what_the_machine_shows_and_breaks_no_policy(browser, site, qemu: Qemu):
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page, complaints = live_page(context, site)
        wait_for("the same picture", lambda: shown(page) == qemu.picture())
        assert complaints == []
        assert page.get_by_role("status").inner_text() == "Connected"


def test_a_key_goes_to_the_machine_and_the_picture_follows(browser, site, qemu: Qemu):
    with browser.new_context() as context:
        page, _ = live_page(context, site)
        before = qemu.picture()
        page.locator("#screen canvas").click()
        page.keyboard.press("a")
        wait_for("another picture", lambda: qemu.picture() != before)
        wait_for("the page to follow", lambda: shown(page) == qemu.picture())


def test_the_keyboard_is_not_trapped(browser, site, qemu: Qemu):
    with browser.new_context() as context:
        page, _ = live_page(context, site)
        page.locator("#screen canvas").click()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "CANVAS"
        for key in ("Control", "Alt", "Shift"):
            page.keyboard.down(key)
        assert page.evaluate("document.activeElement.dataset.screen") == "leave"
        for key in ("Control", "Alt", "Shift"):
            page.keyboard.up(key)
        before = qemu.picture()
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.dataset.screen") == "full"
        assert qemu.picture() == before


def test_a_tablet_types_through_its_own_keyboard(browser, site, qemu: Qemu):
    with browser.new_context(viewport={"width": 810, "height": 1080}, has_touch=True) as context:
        page, _ = live_page(context, site)
        page.get_by_role("button", name="Keyboard").tap()
        assert page.evaluate("document.activeElement.dataset.screen") == "typing"
        before = qemu.picture()
        page.evaluate(  # what an on-screen keyboard does: no key events, the text is there
            """() => { const t = document.querySelector('[data-screen="typing"]'); t.value += "x";
            t.dispatchEvent(new InputEvent("input", {inputType: "insertText", data: "x"})); }"""
        )
        wait_for("another picture", lambda: qemu.picture() != before)
        before = qemu.picture()
        page.get_by_role("button", name="Escape").tap()
        wait_for("another picture", lambda: qemu.picture() != before)
        assert page.evaluate("document.activeElement.dataset.screen") == "typing"


def test_zoom_and_fit_enlarge_the_picture_and_never_the_machine(browser, site, qemu: Qemu):
    with browser.new_context(viewport={"width": 810, "height": 1080}) as context:
        page, _ = live_page(context, site)
        size = qemu.picture()[:2]
        small = page.locator("#screen canvas").bounding_box()["width"]
        page.get_by_role("button", name="Zoom in").click()
        page.get_by_role("button", name="Zoom in").click()
        wait_for("a larger picture", lambda: page.locator("#screen canvas").bounding_box()["width"] > small * 1.3)
        assert page.get_by_role("button", name="Move picture").is_visible()
        page.get_by_role("button", name="Zoom out").click()
        page.get_by_role("button", name="Zoom out").click()
        wait_for("the small one", lambda: abs(page.locator("#screen canvas").bounding_box()["width"] - small) < 2)
        assert qemu.picture()[:2] == size


def test_a_caregiver_sees_the_same_and_withdrawal_closes_their_page(browser, site, qemu: Qemu):
    stage = site.stage
    with browser.new_context() as owner, browser.new_context() as caregiver:
        owner_page, _ = live_page(owner, site)
        site.share = stage.share("view")
        page, complaints = live_page(caregiver, site)
        wait_for("the same picture", lambda: shown(page) == shown(owner_page) == qemu.picture())
        assert page.get_by_role("button", name="Keyboard").count() == 0
        before = qemu.picture()
        page.locator("#screen canvas").click()
        page.keyboard.press("a")
        live.revoke(stage.portal.redis, f"share:{site.share[0].id}")
        page.get_by_text("no longer shared").first.wait_for()
        assert page.locator("#screen canvas").count() == 0
        assert qemu.picture() == before
        owner_page.locator("#screen canvas").click()
        owner_page.keyboard.press("a")
        wait_for("another picture", lambda: qemu.picture() != before)
        assert complaints == []


def test_the_end_of_the_session_is_said(browser, site):
    with browser.new_context() as context:
        page, _ = live_page(context, site)
        live.end_screens(site.stage.portal.redis, site.stage.vm_session_id)
        page.get_by_text("This session has ended").first.wait_for()
        given = site.tickets_given
        page.wait_for_timeout(1500)
        assert site.tickets_given == given  # and nothing tries again


def test_a_lost_connection_comes_back_by_itself_with_a_new_ticket(browser, site, qemu: Qemu):
    with browser.new_context() as context:
        page, _ = live_page(context, site)
        given = site.tickets_given
        site.stage.pve.cut_all()
        page.wait_for_selector('#screen[data-state="waiting"]')
        page.wait_for_selector('#screen[data-state="live"]', timeout=60_000)
        assert site.tickets_given > given
        wait_for("the same picture", lambda: shown(page) == qemu.picture())


def test_a_ticket_that_is_refused_for_good_stops_with_a_sentence(browser, site):
    with browser.new_context() as context:
        site.status = 410
        page, _ = open_page(context, site)
        page.get_by_text("This session has ended").first.wait_for()


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, {"width": 810, "height": 1080}])
@pytest.mark.parametrize("access", ["control", "view"])
def test_the_screen_is_accessible_and_its_targets_are_large(browser, site, viewport, access):
    if access == "view":
        site.share = site.stage.share("view")
    with browser.new_context(viewport=viewport) as context:
        page, _ = live_page(context, site)
        if access == "control":
            page.get_by_role("button", name="Keyboard").click()
        assert accessibility.violations(page, exclude=(".screen-typing",)) == []
        for button in page.locator("#screen button:visible").all():
            box = button.bounding_box()
            assert box["width"] >= 44 and box["height"] >= 44
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
