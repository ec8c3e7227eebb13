"""What a browser shows of a machine's screen, read from its pixels: the probe's picture. For journeys in a browser."""

import base64
import io
import time
from collections.abc import Callable

from PIL import Image
from playwright.sync_api import Page

from myphr.viewers import probe_picture
from myphr.viewers.probe_picture import ProbePicture

START_MS = 180_000  # software emulation on two shared cores
SECONDS_MAX = 60


def picture(page: Page) -> ProbePicture | None:
    """What this browser shows of the machine's screen, read from its pixels; None while it is not the probe's."""
    shown = page.evaluate(
        """() => { const c = document.querySelector("#screen canvas");
                   return c && c.width > 32 ? c.toDataURL("image/png") : null; }"""
    )
    if shown is None:
        return None
    image = Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).convert("RGB")
    return probe_picture.read(lambda x, y: image.getpixel((x, y)), image.width, image.height)  # type: ignore[arg-type,return-value]


def until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def ready(page: Page) -> ProbePicture:
    """The probe's picture, once it says that the files are open."""
    until(lambda: (seen := picture(page)) and seen.state == "ready", "the machine's picture does not show the files")
    seen = picture(page)
    assert seen
    return seen


def open_with_probe(page: Page) -> None:
    """Opens what the page shows. The probe is offered to no patient and no other viewer is installed here, so the page
    has no form for it: one is put there, with the page's own token."""
    page.get_by_role("heading", name="Open", exact=True).wait_for()
    page.evaluate("""() => {
        const form = document.createElement("form");
        const token = JSON.parse(document.body.dataset.hxHeaders || document.body.getAttribute("data-hx-headers"));
        form.method = "post";
        form.action = location.pathname + "/open";
        for (const [name, value] of [["csrf", token["X-CSRF-Token"]], ["viewer", "probe"]])
            form.append(Object.assign(document.createElement("input"), {type: "hidden", name, value}));
        document.body.append(form);
        form.submit();
    }""")
