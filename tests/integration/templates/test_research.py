"""Research images and radiotherapy in the machine of the research template: the slice on its screen is the file's, and
what is marked lies on what it marks. Other slices are searched for in the same way. `make test-viewers` runs this.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from myphr.viewers import samples
from myphr.viewers.samples import made
from tests.e2e.kept import keep
from tests.e2e.test_viewers import find
from tests.integration.templates.conftest import TEMPLATES
from tests.integration.templates.opened import Sealed, screen

pytestmark = [pytest.mark.viewers, pytest.mark.qemu, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def research() -> Iterator[Sealed]:
    sealed = Sealed("research", TEMPLATES)
    yield sealed
    sealed.close()


def brain_slice(number: int) -> Image.Image:
    """From below, the patient's right on the left; the file counts its voxels towards right, front and head."""
    voxels = np.frombuffer(samples.of("nifti")["brain.nii"][352:], np.uint8).reshape((53, 61, 33), order="F")
    low, high = np.percentile(voxels, (1, 99))
    grey = np.clip((voxels[::-1, ::-1, number].T - low) * (255.0 / (high - low)), 0, 255)
    return Image.fromarray(grey.astype(np.uint8)).resize((530, 610), Image.Resampling.NEAREST)


def check_brain(image: Image.Image) -> None:
    shown = image.crop((292, 60, 292 + 632, 60 + 576))  # the large plane alone
    right = find(shown, brain_slice(16)).score
    wrong = max(find(shown, brain_slice(n)).score for n in (6, 26))
    print(f"\n  slice 17: {right:.3f}, slices 7 and 27: {wrong:.3f}")
    assert right > 0.95 and right > wrong + 0.1


@pytest.mark.parametrize("name", ["nifti", "nifti-gz", "mgh"])
def test_the_middle_slice_of_a_brain_is_on_the_screen(research: Sealed, name: str) -> None:
    with research.opened("simple-volumes", samples.of(name)) as machine:
        image = screen(machine)
        keep(image, f"simple-volumes {name}")
    check_brain(image)


def places(image: Image.Image, red: int, green: int, blue: int) -> np.ndarray:
    """(column, row) of the pixels of this colour in the large plane."""
    pixels = np.asarray(image.convert("RGB"), int)[60:636, 292:924]
    return np.argwhere(np.abs(pixels - (red, green, blue)).max(2) < 30)[:, ::-1]


def check_plan(image: Image.Image) -> None:
    """The red ring lies around the ball in front, the green one around the spine behind, both in the middle."""
    ball, spine = places(image, 255, 40, 40), places(image, 60, 220, 90)
    assert len(ball) > 100 and len(spine) > 50
    wide, high = np.ptp(ball, axis=0)
    assert abs(wide - high) < 0.15 * wide  # a ball is round
    pixel = wide / (2 * made.BALL_MM)  # of a millimetre, about
    apart = spine.mean(0) - ball.mean(0)
    assert apart[1] == pytest.approx((55 - made.BALL[1]) * pixel, rel=0.15) and abs(apart[0]) < 5 * pixel


def test_contours_of_a_plan_lie_on_what_they_mark(research: Sealed) -> None:
    with research.opened("simple-volumes", samples.of("dicom RTSTRUCT")) as machine:
        image = screen(machine)
        keep(image, "simple-volumes rtstruct")
    check_plan(image)


def test_marked_regions_and_doses_are_drawn_without_their_scan_too(research: Sealed) -> None:
    with research.opened("simple-volumes", samples.of("dicom SEG")) as machine:
        image = screen(machine)
        keep(image, "simple-volumes seg")
    edge = places(image, 221, 130, 101)
    assert len(edge) > 100 and np.ptp(edge, axis=0).min() > 150
    with research.opened("simple-volumes", samples.of("dicom RTDOSE")) as machine:
        image = screen(machine)
        keep(image, "simple-volumes rtdose")
    wash = np.asarray(image.convert("RGB"), int)[100:600, 350:860]
    assert (wash.max(2) - wash.min(2) > 30).mean() > 0.5


@pytest.mark.parametrize("name", ["nifti-gz", "analyze"])
def test_mricron_shows_the_brain(research: Sealed, name: str) -> None:
    with research.opened("mricron", samples.of(name)) as machine:
        image = screen(machine)
        keep(image, f"mricron {name}")
    check_mricron(image)


def check_mricron(image: Image.Image) -> None:
    """Its cross hides some of each slice, and it shows the left on the left or the right: the better of both counts."""
    right = max(find(image, one).score for n in (13, 15, 16) for one in (brain_slice(n), mirrored(brain_slice(n))))
    noise = np.random.default_rng(1).integers(0, 255, (61, 53), np.uint8)
    wrong = find(image, Image.fromarray(noise).resize((530, 610))).score
    print(f"\n  a middle slice: {right:.3f}, noise {wrong:.3f}")
    assert right > 0.75 > wrong + 0.3


def mirrored(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
