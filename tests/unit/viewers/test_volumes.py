"""What "Simple volumes" shows, tried without a screen: each side of the body lies where it belongs, and what is marked
lies on what it marks. nibabel comes with the guest; here the tests need it installed."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

from myphr.viewers import samples
from myphr.viewers.samples import made
from tests.unit.viewers.guest_modules import guest_module

pytest.importorskip("nibabel")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def guest() -> Iterator[SimpleNamespace]:
    with guest_module("dicom_pictures") as dicom, guest_module("volumes") as volumes:
        yield SimpleNamespace(dicom=dicom, volumes=volumes)


def written(folder: Path, name: str) -> list[str]:
    paths = []
    for file, body in samples.of(name).items():
        (folder / file.removesuffix(".packed")).write_bytes(body)
        paths.append(str(folder / file))
    return paths


def scan(guest: SimpleNamespace, folder: Path):
    collection = guest.dicom.Collection()
    for path in written(folder, "dicom CT"):
        collection.add_file(path)
    return guest.volumes.from_series(collection.series[0])


def test_a_series_lies_in_space_as_its_headers_say(guest, tmp_path: Path) -> None:
    volume = scan(guest, tmp_path)
    assert volume.values.shape == (made.SIZE, made.SIZE, made.SLICES)
    assert volume.spacing == pytest.approx([made.SPACING, made.SPACING, made.STEP])
    left, back, head = made.BALL
    at = np.linalg.inv(volume.affine) @ [-left, -back, head, 1]
    assert volume.values[tuple(np.rint(at).astype(int)[:3])] == 120


def test_the_patients_right_is_on_the_left_and_the_front_on_top(guest, tmp_path: Path) -> None:
    volume = scan(guest, tmp_path)
    picture = guest.volumes.picture(volume, [], "axial", 6).mean(2)
    half = made.SIZE // 2
    lung = picture[half - 5 : half + 5, half - 25 : half - 15].mean()  # the phantom's only lung is its right one
    assert lung < 40 < picture[half - 5 : half + 5, half + 15 : half + 25].mean()
    spine, front = picture[half + 22, half], picture[half - 22, half]
    assert spine == 255 and 80 < front < 255
    side = guest.volumes.picture(volume, [], "sagittal", half).mean(2)
    assert side.shape == (made.SLICES, made.SIZE) and side[6, half + 22] == 255  # face to the left, back to the right


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_contours_lie_on_what_they_mark_in_every_plane(guest, tmp_path: Path, plane: str) -> None:
    volume = scan(guest, tmp_path)
    plan = tmp_path / "plan.dcm"
    plan.write_bytes(samples.of("dicom RTSTRUCT")["plan.dcm"])
    overlay = guest.volumes.read_overlay(str(plan))
    assert [(r.name, r.colour) for r in overlay.regions] == [("Ball", (255, 40, 40)), ("Spine", (60, 220, 90))]
    assert overlay.frame == volume.frame
    left, back, head = made.BALL
    at = np.rint(np.linalg.inv(volume.affine) @ [-left, -back, head, 1]).astype(int)
    axis = guest.volumes.PLANES[plane]
    marks = guest.volumes.sampled(volume, overlay, axis, int(at[axis]))
    ball = np.take(volume.values, int(at[axis]), axis) == 120
    marked = marks.astype(int) & 1 == 1
    agree = (marked & ball).sum() / (marked | ball).sum()
    assert agree > 0.85
    overlay.regions[0].shown = False
    hidden = guest.volumes.picture(volume, [overlay], plane, int(at[axis]))
    overlay.regions[0].shown = True
    shown = guest.volumes.picture(volume, [overlay], plane, int(at[axis]))
    assert (hidden != shown).any(2).sum() >= 0.8 * ball.sum()


def test_a_segmentation_has_its_name_its_colour_and_its_place(guest, tmp_path: Path) -> None:
    [path] = written(tmp_path, "dicom SEG")
    overlay = guest.volumes.read_overlay(path)
    dataset = pydicom.dcmread(path)
    assert overlay.regions[0].name == "Liver" and overlay.regions[0].colour == (221, 130, 101)
    assert int((overlay.values > 0).sum()) == int(dataset.pixel_array.sum())
    corner = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert overlay.affine[:3, 3] == pytest.approx([-corner[0], -corner[1], corner[2]])


def test_a_dose_has_the_values_that_its_header_scales(guest, tmp_path: Path) -> None:
    [path] = written(tmp_path, "dicom RTDOSE")
    dataset = pydicom.dcmread(path)
    overlay = guest.volumes.read_overlay(path)
    wanted = dataset.pixel_array * float(dataset.DoseGridScaling)
    assert overlay.kind == "dose" and overlay.values.max() == pytest.approx(wanted.max())
    assert overlay.values.shape == (dataset.Columns, dataset.Rows, dataset.NumberOfFrames)


@pytest.mark.parametrize("name", ["nifti", "nifti-gz", "analyze", "mgh"])
def test_research_formats_show_the_same_brain(guest, tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)[0]
    assert guest.volumes.is_research(path)
    volume = guest.volumes.read_research(path)
    assert volume.values.shape == (53, 61, 33) and volume.spacing == pytest.approx([3, 3, 3])
    raw = np.frombuffer(samples.of("nifti")["brain.nii"][352:], np.uint8).reshape((53, 61, 33), order="F")
    found = np.corrcoef(volume.values.ravel(), raw.ravel().astype(float))[0, 1]
    turned = np.corrcoef(volume.values[::-1].ravel(), raw.ravel().astype(float))[0, 1]
    assert max(found, turned) > 0.999


def test_damaged_and_foreign_files_end_in_a_sentence(guest, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name in ("nifti", "mgh", "analyze", "dicom SEG", "dicom RTDOSE", "dicom RTSTRUCT"):
        path = Path(written(tmp_path, name)[0])
        whole = path.read_bytes()
        for trial in range(10):
            body = bytearray(whole[: int(len(whole) * rng.random())] if trial % 2 else whole)
            for at in rng.integers(0, max(1, min(len(body), 2000)), 6 if body else 0):
                body[at] = rng.integers(0, 256)
            path.write_bytes(body)
            try:
                if name.startswith("dicom"):
                    guest.volumes.read_overlay(str(path))
                else:
                    guest.volumes.read_research(str(path))
            except guest.volumes.CannotShow as sentence:
                assert str(sentence).endswith(".")
        path.write_bytes(whole)


@pytest.mark.parametrize("headers", [{"ImageOrientationPatient": [1, 0, 0, 0, 1]}, {"Rows": 900}])
def test_a_series_with_a_damaged_picture_ends_in_a_sentence(guest, tmp_path: Path, headers: dict) -> None:
    collection = guest.dicom.Collection()
    for path in written(tmp_path, "dicom CT"):
        collection.add_file(path)
    series = collection.series[0]
    dataset = pydicom.dcmread(series.instances[3].path)
    for name, value in headers.items():
        setattr(dataset, name, value)
    dataset.save_as(series.instances[3].path)
    with pytest.raises(guest.volumes.CannotShow):
        guest.volumes.from_series(series)


def test_a_header_that_claims_more_than_a_machine_is_refused(guest, tmp_path: Path) -> None:
    path = Path(written(tmp_path, "nifti")[0])
    body = bytearray(path.read_bytes())
    body[42:48] = (30_000).to_bytes(2, "little") * 3
    path.write_bytes(body)
    with pytest.raises(guest.volumes.CannotShow, match="larger"):
        guest.volumes.read_research(str(path))
