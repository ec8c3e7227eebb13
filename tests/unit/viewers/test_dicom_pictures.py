"""What "Simple images" shows, tried without a screen on the test files that pydicom carries."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from myphr.viewers import builder

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def dicom():
    """The guest's module; it is no part of the portal, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("dicom_pictures", builder.GUEST / "dicom_pictures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dicom_pictures"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["dicom_pictures"]


def sample(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return str(path)


def test_stored_values_become_grey_in_the_window_the_file_asks_for(dicom, tmp_path: Path):
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.save_as(tmp_path / "ct.dcm")
    picture = dicom.Decoder().picture(str(tmp_path / "ct.dcm"), 0)
    grey = dicom.shown(picture)
    units = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    assert (grey[units <= -160] == 0).all() and (grey[units >= 240] == 255).all()
    inside = (units > -160) & (units < 240)
    assert np.abs(grey[inside] - (units[inside] + 160) * 255 / 400).max() < 1


def test_lighter_is_lighter_also_when_white_means_little(dicom, tmp_path: Path):
    for kind in ("MONOCHROME2", "MONOCHROME1"):
        dataset = pydicom.dcmread(sample("CT_small.dcm"))
        dataset.PhotometricInterpretation = kind
        dataset.save_as(tmp_path / "ct.dcm")
        picture = dicom.Decoder().picture(str(tmp_path / "ct.dcm"), 0)
        assert dicom.shown(picture, lighter=0.2).mean() > dicom.shown(picture).mean()


def test_slices_stand_in_the_order_of_their_numbers_whatever_their_names(dicom, tmp_path: Path):
    collection = dicom.Collection()
    for name, at in (("a", 3), ("b", 1), ("c", 2)):
        dataset = pydicom.dcmread(sample("CT_small.dcm"))
        dataset.InstanceNumber, dataset.SOPInstanceUID = at, f"1.2.{at}"
        dataset.save_as(tmp_path / name)
        collection.add_file(str(tmp_path / name))
    assert [Path(i.path).name for i in collection.series[0].instances] == ["b", "c", "a"]


def test_the_same_picture_twice_is_shown_once(dicom, tmp_path: Path):
    for name in "ab":
        shutil.copy(sample("CT_small.dcm"), tmp_path / name)
    collection = dicom.Collection()
    for name in "ab":
        collection.add_file(str(tmp_path / name))
    assert collection.series[0].pictures == 1


def test_a_folder_of_two_people_is_noticed(dicom):
    collection = dicom.Collection()
    collection.add_file(sample("CT_small.dcm"))
    collection.add_file(sample("MR_small.dcm"))
    assert len(collection.patients) == 2
    assert {series.study.patient for series in collection.series} == {"CT1 CompressedSamples", "MR1 CompressedSamples"}


@pytest.mark.parametrize("body", [b"", b"\0" * 128 + b"DICM", b"hello", b"\0" * 128 + b"DICM" + b"\xff" * 500])
def test_files_that_are_no_pictures_are_counted_and_passed_over(dicom, tmp_path: Path, body):
    (tmp_path / "x").write_bytes(body)
    collection = dicom.Collection()
    assert collection.add_file(str(tmp_path / "x")) is None
    assert collection.other_files == 1


@pytest.mark.parametrize("cut", [200, 1000, 5000, 30_000])
def test_a_cut_file_gives_a_sentence_and_never_a_crash(dicom, tmp_path: Path, cut):
    (tmp_path / "x").write_bytes(Path(sample("CT_small.dcm")).read_bytes()[:cut])
    with pytest.raises(dicom.CannotShow, match=r"^[A-Z].*\.$"):
        dicom.Decoder().picture(str(tmp_path / "x"), 0)


def test_a_header_that_claims_a_giant_picture_is_refused_before_memory_is_taken(dicom, tmp_path: Path):
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(tmp_path / "x")
    with pytest.raises(dicom.CannotShow, match="larger than this machine"):
        dicom.Decoder().picture(str(tmp_path / "x"), 0)


def test_a_decoder_that_crashes_costs_one_picture(dicom, monkeypatch):
    import os
    import signal

    class Crashing(pydicom.Dataset):
        @property
        def pixel_array(self):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ValueError, match="crashed"):
        dicom.decode_apart(Crashing())


def test_compressed_pictures_are_the_same_as_plain_ones(dicom):
    picture = dicom.Decoder().picture(sample("MR_small_RLE.dcm"), 0)
    plain = dicom.Decoder().picture(sample("MR_small.dcm"), 0)
    assert np.array_equal(picture.values, plain.values)


@pytest.mark.parametrize(
    ("axes", "right", "bottom"),
    [
        ((1, 0, 0, 0, 1, 0), "L", "Back"),
        ((0, 1, 0, 0, 0, -1), "Back", "Feet"),
        ((1, 0, 0, 0, 0, -1), "L", "Feet"),
        ((-1, 0, 0, 0, -1, 0), "R", "Front"),
        ((), "", ""),
        ((0, 0, 0, 0, 0, 0), "", ""),
    ],
    ids=["lying on the back", "from the side", "from the front", "lying on the belly", "not said", "nonsense"],
)
def test_sides_of_the_body_are_named_or_left_out(dicom, axes, right, bottom):
    assert dicom.sides(axes) == (right, bottom)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("Doe^Jane", "Jane Doe"),
        ("Doe^Jane^A^Dr", "Dr Jane A Doe"),
        ("Yamada^Tarou=山田^太郎", "Tarou Yamada"),
        ("", ""),
    ],
)
def test_names_read_as_people_write_them(dicom, stored, shown):
    assert dicom.plain_name(stored) == shown


@pytest.mark.parametrize(
    ("stored", "shown"), [("20190305", "5 March 2019"), ("2019", ""), ("20191305", ""), (None, "")]
)
def test_dates_are_plain_or_left_out(dicom, stored, shown):
    assert dicom.plain_date(stored) == shown
