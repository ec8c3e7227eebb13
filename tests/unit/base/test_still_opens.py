"""The look at a screen can succeed and can fail, and what is known of a viewer is said only when it is known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from myphr import still_opens
from myphr.database import Database, now
from myphr.ingest import identify
from myphr.machines import viewer_checks
from myphr.migrations import upgrade
from myphr.viewers import catalogue, samples
from myphr.viewers.suggest import Check

DESK = Image.new("RGB", (1280, 800), (13, 16, 20))


def drawn(seed: int, words: str = "a line") -> Image.Image:
    """A screen with buttons that are always there and a line that is not."""
    image = DESK.copy()
    pen = ImageDraw.Draw(image)
    for left in range(300, 1200, 110):
        pen.rectangle((left, 710, left + 100, 780), fill=(43, 53, 64))
    steps = np.random.default_rng(seed).normal(0, 25, 90).cumsum()
    pen.line([(300 + 10 * n, 360 + int(v)) for n, v in enumerate(steps)], fill=(127, 209, 255), width=9)
    pen.text((20, 20), words, fill=(242, 245, 248))
    return image


def test_the_same_line_is_recognised_and_others_are_not() -> None:
    empty = DESK.copy()
    ImageDraw.Draw(empty).rectangle((300, 710, 1200, 780), fill=(43, 53, 64))
    reference = still_opens.reference_of(empty, drawn(1))
    assert still_opens.likeness(reference, drawn(1, "another date")) > 0.97
    plain = (Image.new("RGB", (1280, 800), "white"), Image.new("RGB", (640, 400)))
    for wrong in (drawn(2), drawn(3), empty, DESK, *plain):
        assert still_opens.likeness(reference, wrong) < still_opens.LIKENESS_MIN - 0.2


def test_a_reference_that_shows_nothing_recognises_nothing() -> None:
    assert still_opens.likeness(still_opens.reference_of(DESK, DESK), DESK) == 0


def test_a_screen_has_come_to_rest_when_nothing_but_a_caret_changes() -> None:
    caret = drawn(1)
    ImageDraw.Draw(caret).rectangle((640, 300, 644, 330), fill=(255, 255, 255))
    rest = still_opens.Rest(3)
    looks = [(0, drawn(1)), (2, drawn(1)), (3, drawn(2)), (5, drawn(2)), (6, drawn(2))]
    assert [rest.reached(screen, moment) for moment, screen in looks] == [False, False, False, False, True]
    rest = still_opens.Rest(3)
    assert [rest.reached((drawn(1), caret)[moment % 2], moment) for moment in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("name", samples.names())
def test_every_sample_is_what_it_says(name: str) -> None:
    """Its first file, by content, with the rules that files of patients are told by."""
    code, _, modality = name.partition(" ")
    bundle = samples.of(name)
    found = identify.identify(next(iter(bundle.values()))[: identify.HEAD_BYTES])
    assert found.format == code
    assert sum(map(len, bundle.values())) < 3_000_000
    if modality:
        facts = identify.describe(next(iter(bundle.values()))[: identify.HEAD_BYTES])
        assert facts.headers is not None and facts.headers["modality"] == modality


def test_every_picture_to_compare_with_belongs_to_a_claim_of_a_viewer() -> None:
    wanted = {
        still_opens.reference_path(viewer.name, sample).name
        for viewer in catalogue.load().values()
        for sample in still_opens.claims(viewer)
    }
    there = {path.name for path in still_opens.SCREENS.glob("*.png")}
    assert there and there <= wanted
    for viewer, sample in still_opens.tries():
        reference = Image.open(still_opens.reference_path(viewer, sample))
        assert reference.mode == "LA" and reference.size == still_opens.SIZE
        assert still_opens.likeness(reference, DESK) < 0.2


# Where these viewers show what they opened, in points of a picture to compare with.
SHOWN = {
    "aeskulap": (0, 38, 312, 188), "simple-images": (74, 16, 320, 158),
    "igv": (43, 48, 313, 156),
    "office": (0, 46, 300, 192), "qpdfview": (0, 24, 318, 200), "simple-documents": (74, 16, 320, 158),
}  # fmt: skip


@pytest.mark.parametrize("viewer", SHOWN)
def test_a_viewer_that_shows_its_buttons_and_nothing_of_the_file_is_not_recognised(viewer: str) -> None:
    left, top, right, bottom = SHOWN[viewer]
    tried = [sample for name, sample in still_opens.tries(catalogue.load()[viewer].template) if name == viewer]
    assert tried
    for sample in tried:
        reference = Image.open(still_opens.reference_path(viewer, sample))
        grey, mask = (np.array(band) for band in reference.split())
        whole = np.where(mask > 0, grey, 16)
        assert still_opens.likeness(reference, Image.fromarray(whole.astype(np.uint8))) > still_opens.LIKENESS_MIN
        shown = whole[top:bottom, left:right]
        for plain in (shown.min(), np.median(shown), shown.max()):  # black, or a page without words
            empty = whole.copy()
            empty[top:bottom, left:right] = plain
            found = still_opens.likeness(reference, Image.fromarray(empty.astype(np.uint8)))
            assert found < still_opens.LIKENESS_MIN - 0.05, f"{sample}: {found:.3f}"


@pytest.fixture
def database(tmp_path: Path) -> Database:
    url = f"sqlite:///{tmp_path}/db.sqlite"
    upgrade(url)
    return Database(url)


def test_of_what_was_never_tried_nothing_is_said(database: Database) -> None:
    assert viewer_checks.checks(database, ["CT"]) == {}
    viewer_checks.note(database, "simple-volumes", "dicom CT", 7, None)
    viewer_checks.note(database, "simple-signals", "edf", 7, None)
    today = f"{now().day} {now():%B}"
    assert viewer_checks.checks(database) == {("simple-signals", "edf"): Check(True, today)}
    assert ("simple-volumes", "dicom") in viewer_checks.checks(database, ["CT"])
    assert ("simple-volumes", "dicom") not in viewer_checks.checks(database, ["CT", "SEG"])  # one of two was tried


def test_a_failure_is_said_until_it_works_again(database: Database) -> None:
    viewer_checks.note(database, "edfbrowser", "edf", 7, None)
    viewer_checks.note(database, "edfbrowser", "edf", 7, "not-like-before")
    assert not viewer_checks.checks(database)["edfbrowser", "edf"].worked
    viewer_checks.note(database, "edfbrowser", "edf", 8, None)
    assert viewer_checks.checks(database)["edfbrowser", "edf"].worked
    viewer_checks.note(database, "simple-volumes", "dicom SEG", 7, "machine-failed")
    failed = viewer_checks.checks(database, ["SEG", "MR"])["simple-volumes", "dicom"]
    assert not failed.worked  # one kind that does not open is enough
