"""The journey with real viewers and real studies: what is on the machine's screen is the study, pixel by pixel.

The slice that should be shown is computed here from the file (window of PS3.3 C.11.2.1.2) and searched for in the
picture that the browser holds, over all places and sizes. Other slices and other studies are searched for in the same
way and must not be found: what they score says how much "found" is. `make test-viewers` runs this.
"""

import base64
import dataclasses
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from pydicom.data import get_testdata_file
from sqlmodel import select

from myphr.ingest import demo
from myphr.machines.models import Machine
from myphr.portal import Portal
from myphr.settings import load
from tests.cast import CAREGIVER
from tests.e2e.conftest import Screen, register
from tests.e2e.test_journey import mailed_link, until
from tests.running import RunningPortal

pytestmark = [pytest.mark.viewers, pytest.mark.browser, pytest.mark.qemu, pytest.mark.timeout(1200)]
START_MS = 240_000
SHOWN_SECONDS_MAX = 120
COARSE = 4  # the first search is in a picture of a quarter of the size
CLOSED = re.compile("no longer shared with you|This link is closed")
Grey = np.ndarray


# -- finding a slice on a screen ------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Place:
    """Where a slice was found: its upper left corner and size in screen pixels, and how alike (1 is the same)."""

    score: float
    left: int
    top: int
    width: int
    height: int
    at: float = 0.0  # seconds of time.monotonic, when the picture was taken


def developed(content: bytes) -> Image.Image:
    """The slice as its file asks to be seen: 8 bits of grey, square pixels."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    values = dataset.pixel_array.astype(float) * slope + intercept
    centre, width = (
        float(np.ravel(one)[0]) for one in (dataset.WindowCenter, dataset.WindowWidth)
    )  # of several the first
    grey = ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
    image = Image.fromarray(grey.astype(np.uint8))
    down, across = (float(one) for one in dataset.PixelSpacing)
    return image.resize((image.width, round(image.height * down / across)), Image.Resampling.BILINEAR)


def alike(screen: Grey, sought: Grey) -> np.ndarray:
    """Normalised cross-correlation at every place where `sought` fits wholly into `screen`."""
    height, width = sought.shape
    zero_mean = sought - sought.mean()
    norm = np.sqrt((zero_mean**2).sum())
    product = np.fft.irfft2(np.fft.rfft2(screen) * np.conj(np.fft.rfft2(zero_mean, screen.shape)), screen.shape)
    fits = (screen.shape[0] - height + 1, screen.shape[1] - width + 1)

    def sums(values: np.ndarray) -> np.ndarray:
        table = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        return table[height:, width:] - table[:-height, width:] - table[height:, :-width] + table[:-height, :-width]

    total, squares = sums(screen), sums(screen**2)
    spread = np.sqrt(np.maximum(squares - total**2 / (height * width), 0))
    # A plain stretch of screen is like nothing; without this it would be like everything.
    return np.where(spread > norm * 0.1, product[: fits[0], : fits[1]] / np.maximum(spread * norm, 1e-9), 0)


def best(screen: Image.Image, slice_: Image.Image, shrunk: int, heights: range) -> Place:
    small = np.asarray(screen.resize((screen.width // shrunk, screen.height // shrunk), Image.Resampling.BOX), float)
    found = Place(-1, 0, 0, 0, 0)
    for height in heights:
        width = round(slice_.width * height / slice_.height)
        if not (8 <= width <= small.shape[1] and height <= small.shape[0]):
            continue
        sought = np.asarray(slice_.resize((width, height), Image.Resampling.BILINEAR), float)
        scores = alike(small, sought)
        top, left = np.unravel_index(scores.argmax(), scores.shape)
        if scores[top, left] > found.score:
            found = Place(
                float(scores[top, left]), int(left) * shrunk, int(top) * shrunk, width * shrunk, height * shrunk
            )
    return found


def find(screen: Image.Image, slice_: Image.Image, *, fine: bool = True) -> Place:
    """The place most alike, from a quarter of the screen's height to all of it."""
    grey = screen.convert("L")
    coarse = best(grey, slice_, COARSE, range(screen.height // COARSE // 4, screen.height // COARSE + 1, 2))
    if not fine:
        return coarse
    middle = coarse.height // 2
    return max(coarse, best(grey, slice_, 2, range(max(8, middle - 5), middle + 6)), key=lambda place: place.score)


def nearest(screen: Image.Image, place: Place, slices: list[Image.Image]) -> int:
    """Which of these slices is the most alike to what stands at this place: neighbours differ by little."""
    box = (place.left, place.top, place.left + place.width, place.top + place.height)
    shown = np.asarray(screen.convert("L").crop(box).resize((place.width // 2, place.height // 2)), float)
    size = (shown.shape[1], shown.shape[0])
    resized = [np.asarray(one.resize(size, Image.Resampling.BILINEAR), float) for one in slices]
    scores = [float(alike(shown, one)[0, 0]) for one in resized]
    return int(np.argmax(scores))


# -- studies and screens ----------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Study:
    title: str  # as the record calls it
    slices: list[Image.Image]


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    files = dict(demo.files())
    abdomen = Path(get_testdata_file("examples_overlay.dcm", download=False)).read_bytes()
    return {
        "sample CT": Study("CT scan, head", [developed(c) for path, c in files.items() if path.startswith("CT head/")]),
        "real MR": Study("MR scan, abdomen", [developed(abdomen)]),
    }


@pytest.fixture(scope="module")
def portal() -> Iterator[RunningPortal]:
    # A short path that the machines' account may pass: a socket's name has room for 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="myphr-view-"))
    folder.chmod(0o711)
    try:
        with RunningPortal(folder, templates=("radiology",)) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def on_screen(page: Page) -> Image.Image | None:
    """The machine's whole screen as this browser holds it; None while there is none."""
    shown = page.evaluate(
        """() => { const c = document.querySelector("#screen canvas");
                   return c && c.width >= 640 ? c.toDataURL("image/png") : null; }"""
    )
    return Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).convert("RGB") if shown else None


def others(studies: dict[str, Study], study: Study, number: int) -> list[Image.Image]:
    """What must not be on the screen: slices of the same study far from this one, and another study."""
    far = [study.slices[at] for at in {0, len(study.slices) // 2, len(study.slices) - 1} if abs(at - number) >= 6]
    return far + [one.slices[len(one.slices) // 2] for one in studies.values() if one is not study]


def wait_for_slice(page: Page, studies: dict[str, Study], study: Study, number: int) -> Place:
    """Until this slice is on the screen and no other. Between the most similar other slice and 1 lies the threshold."""
    deadline = time.monotonic() + SHOWN_SECONDS_MAX
    seen: tuple[float, float] = (0, 0)
    while time.monotonic() < deadline:
        screen, taken = on_screen(page), time.monotonic()
        if screen is not None and find(screen, study.slices[number], fine=False).score > 0.7:
            place = find(screen, study.slices[number])
            control = max(find(screen, other).score for other in others(studies, study, number))
            seen = (place.score, control)
            if place.score > (1 + control) / 2 and nearest(screen, place, study.slices) == number:
                print(f"\n  {study.title}, slice {number + 1}: {place}, most similar other {control:.3f}")
                return dataclasses.replace(place, at=taken)
        page.wait_for_timeout(100)
    keep(screen, "missing")
    raise AssertionError(f"slice {number + 1} is not on the screen: {seen[0]:.3f}, another one scores {seen[1]:.3f}")


def keep(picture: Image.Image | None, name: str) -> None:
    """For people's eyes, where KEEP_PICTURES names a folder."""
    folder = os.environ.get("KEEP_PICTURES")
    if folder and picture is not None:
        picture.quantize(128, dither=Image.Dither.NONE).save(Path(folder) / f"{name}.png", optimize=True)


def window_of(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def wait_until_warm(portal: RunningPortal) -> None:
    parts = Portal(load({k: v for k, v in portal.environ.items() if k.startswith("MYPHR_")}))

    def warm() -> bool:
        with parts.database.read() as db:
            return db.exec(select(Machine).where(Machine.state == "warm")).first() is not None

    try:
        deadline = time.monotonic() + START_MS / 1000
        while not warm():
            assert time.monotonic() < deadline, "no machine became warm"
            time.sleep(0.5)
    finally:
        parts.database.dispose()


def open_with(page: Page, portal: RunningPortal, study: Study, viewer: str) -> float:
    """From the record to the live page. Returns when the button was pressed."""
    page.goto(f"{portal.url}/record")
    page.locator("#studies li", has_text=study.title).get_by_role("link", name="Open").click()
    wait_until_warm(portal)
    pressed = time.monotonic()
    page.get_by_role("button", name=f"Open with {viewer}").click()
    page.locator("#screen").wait_for(timeout=START_MS)
    print(f"\n  {viewer}: live page after {time.monotonic() - pressed:.1f} s", end="")
    return pressed


def end(page: Page) -> None:
    page.get_by_role("button", name="End", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The session has ended", timeout=START_MS)


@pytest.fixture(scope="module")
def signed_in(portal: RunningPortal, chromium: tuple) -> Iterator[Page]:
    """The patient, with the sample studies and a real study in her record."""
    context = chromium[0].new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(30_000)
    register(page, portal.url)
    page.get_by_role("button", name="Load sample studies").click()
    expect(page.locator("#studies li").first).to_be_visible(timeout=60_000)
    page.locator("#upload-pick-files").set_input_files(get_testdata_file("examples_overlay.dcm", download=False))
    expect(page.locator("#studies li", has_text="MR scan, abdomen")).to_be_visible(timeout=60_000)
    yield page
    context.close()


# -- the tests ------------------------------------------------------------------------------------------------
def test_search_finds_a_slice_wherever_it_is_and_no_other(studies: dict[str, Study]) -> None:
    """The search itself can fail and can succeed, without any machine."""
    study = studies["sample CT"]
    screen = Image.new("RGB", (1280, 800), (30, 34, 40))
    screen.paste(study.slices[12].resize((530, 530)), (411, 93))
    place = find(screen, study.slices[12])
    assert place.score > 0.98 and abs(place.left - 411) < 6 and abs(place.top - 93) < 6 and abs(place.width - 530) < 12
    control = max(find(screen, other).score for other in others(studies, study, 12))
    assert control < place.score - 0.05
    assert nearest(screen, place, study.slices) == 12
    assert find(Image.new("RGB", (1280, 800), (30, 34, 40)), study.slices[12]).score < 0.5


def test_a_study_is_on_the_screen_of_the_patient_and_of_whom_she_shares_it_with(
    portal: RunningPortal, signed_in: Page, studies: dict[str, Study], new_screen: Callable[..., Screen]
) -> None:
    study, page = studies["sample CT"], signed_in
    pressed = open_with(page, portal, study, "Simple images")
    middle = len(study.slices) // 2
    shown = wait_for_slice(page, studies, study, middle)
    print(f"  on the screen after {shown.at - pressed:.1f} s")
    page.locator("#screen canvas").click()
    page.keyboard.press("PageUp")
    wait_for_slice(page, studies, study, middle - 10)
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    mine = wait_for_slice(page, studies, study, middle - 4)
    page.evaluate("() => scrollTo(0, 0)")
    keep(window_of(page), "screen")
    keep(on_screen(page), "simple-images-desktop")

    page.get_by_role("link", name="Share").click()
    page.get_by_label("Their e-mail address").fill(CAREGIVER.email)
    page.get_by_role("button", name="Send the link").click()
    passcode = page.locator("#passcode-to-tell").inner_text().strip()
    caregiver = new_screen(tablet_sized=True).page
    caregiver.goto(mailed_link(portal, CAREGIVER.email))
    caregiver.get_by_label("Passcode").fill(passcode)
    caregiver.get_by_role("button", name="Show me the screen").tap()
    expect(caregiver.get_by_role("heading", level=1)).to_contain_text("view only")
    theirs = wait_for_slice(caregiver, studies, study, middle - 4)
    assert abs(theirs.left - mine.left) <= 4 and abs(theirs.top - mine.top) <= 4 and abs(theirs.width - mine.width) <= 8
    keep(window_of(caregiver), "caregiver")

    page.get_by_role("button", name=f"Stop sharing with {CAREGIVER.email}").click()
    expect(caregiver.locator("main")).to_contain_text(CLOSED, timeout=10_000)
    assert on_screen(caregiver) is None  # the last picture does not stay behind
    until(lambda: on_screen(page), "the patient's own screen went away too")
    end(page)
    assert on_screen(page) is None


@pytest.mark.parametrize(
    ("viewer", "which"), [("Simple images", "real MR"), ("Aeskulap", "real MR"), ("Aeskulap", "sample CT")]
)
def test_a_real_viewer_shows_the_pixels_of_the_study(
    portal: RunningPortal, signed_in: Page, studies: dict[str, Study], viewer: str, which: str
) -> None:
    study, page = studies[which], signed_in
    pressed = open_with(page, portal, study, viewer)
    try:
        shown = wait_for_slice(page, studies, study, 0)
        print(f"  on the screen after {shown.at - pressed:.1f} s")
        keep(on_screen(page), f"{viewer} {which}".replace(" ", "-").lower())
    finally:
        end(page)
