"""What "Simple images" shows, tried without a screen on the test files that pydicom carries."""

import io
import shutil
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from tests.unit.viewers.guest_modules import guest_module

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def dicom():
    """The guest's module; it is no part of the portal, so it is loaded by its path."""
    with guest_module("dicom_pictures") as module:
        yield module


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


# -- files without a preamble, deflated files -------------------------------------------------------------------------
IMPLICIT, EXPLICIT, BIG = ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian


def bare(name: str, syntax: UID) -> bytes:
    """The data set of a sample and nothing before it, as old devices write it."""
    dataset = pydicom.dcmread(sample(name))
    if not syntax.is_little_endian:
        dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
    out, plain = io.BytesIO(), pydicom.Dataset()
    plain.update(dataset)
    pydicom.dcmwrite(out, plain, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return out.getvalue()


def deflated(name: str) -> bytes:
    """The sample with its data set deflated (PS3.5, A.5)."""
    dataset = pydicom.dcmread(sample(name))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def frame_deflated(frames: np.ndarray, path: Path) -> None:
    """A file whose frames are deflated one by one: bits for a mask, else as they are (PS3.5, A.4)."""
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    if frames.dtype == bool:
        dataset.BitsAllocated = dataset.BitsStored = 1
        dataset.HighBit = dataset.PixelRepresentation = 0
        raw = [np.packbits(frame, bitorder="little").tobytes() for frame in frames]
    else:
        raw = [frame.tobytes() for frame in frames]
    pieces = []
    for one in raw:
        squeeze = zlib.compressobj(wbits=-15)
        pieces.append(squeeze.compress(one) + squeeze.flush())
    dataset.PixelData = encapsulate(pieces)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless  # pydicom writes no file of a syntax that it does not know
    dataset.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.8.1\0", 1))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG], ids=lambda syntax: syntax.keyword)
def test_a_file_without_a_preamble_is_listed_and_shown(dicom, tmp_path: Path, syntax):
    (tmp_path / "x").write_bytes(bare("CT_small.dcm", syntax))
    collection = dicom.Collection()
    assert collection.add_file(str(tmp_path / "x")) and collection.series[0].has_pictures
    shown = dicom.Decoder().picture(str(tmp_path / "x"), 0)
    assert np.array_equal(shown.values, dicom.Decoder().picture(sample("CT_small.dcm"), 0).values)


def test_a_file_with_meta_and_no_preamble_is_listed_and_shown(dicom, tmp_path: Path):
    (tmp_path / "x").write_bytes(Path(sample("CT_small.dcm")).read_bytes()[132:])
    assert dicom.Collection().add_file(str(tmp_path / "x"))
    shown = dicom.Decoder().picture(str(tmp_path / "x"), 0)
    assert np.array_equal(shown.values, dicom.Decoder().picture(sample("CT_small.dcm"), 0).values)


def test_a_file_without_a_preamble_may_begin_with_a_group_length(dicom, tmp_path: Path):
    body = bare("CT_small.dcm", IMPLICIT)
    (tmp_path / "x").write_bytes(b"\x08\0\0\0\x04\0\0\0" + len(body).to_bytes(4, "little") + body)
    assert dicom.Collection().add_file(str(tmp_path / "x"))
    assert dicom.Decoder().picture(str(tmp_path / "x"), 0).values.shape == (128, 128)


@pytest.mark.parametrize(
    "body",
    [b"\x08\0" * 600, b"\x02\0\0\0" * 300, b"\x08\0\x05\0CS\x0a\0short", b"\0\x08\0\x05" + b"\xff" * 2000],
    ids=["repeated", "repeated meta", "one element", "noise"],
)
def test_what_only_begins_like_a_bare_data_set_is_passed_over(dicom, tmp_path: Path, body):
    (tmp_path / "x").write_bytes(body)
    assert dicom.Collection().add_file(str(tmp_path / "x")) is None


def test_a_deflated_file_is_listed_and_shown(dicom, tmp_path: Path):
    (tmp_path / "x").write_bytes(deflated("CT_small.dcm"))
    assert dicom.Collection().add_file(str(tmp_path / "x"))
    shown = dicom.Decoder().picture(str(tmp_path / "x"), 0)
    assert np.array_equal(shown.values, dicom.Decoder().picture(sample("CT_small.dcm"), 0).values)


def test_a_deflated_file_that_somebody_else_made_is_shown(dicom):
    assert dicom.Collection().add_file(sample("image_dfl.dcm"))
    assert dicom.Decoder().picture(sample("image_dfl.dcm"), 0).values.shape == (512, 512)


@pytest.mark.parametrize("cut", [-1, 400, 2000])
def test_a_damaged_deflated_file_gives_a_sentence_and_never_a_crash(dicom, tmp_path: Path, cut):
    whole = deflated("CT_small.dcm")
    broken = whole[:cut] if cut > 0 else whole[:600] + b"\xff" * 400 + whole[1000:]
    (tmp_path / "x").write_bytes(broken)
    dicom.Collection().add_file(str(tmp_path / "x"))
    with pytest.raises(dicom.CannotShow, match=r"^[A-Z].*\.$"):
        dicom.Decoder().picture(str(tmp_path / "x"), 0)


def test_a_deflated_file_that_grows_without_end_is_refused(dicom, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(dicom, "INFLATED_BYTES_MAX", 20_000)
    (tmp_path / "x").write_bytes(deflated("CT_small.dcm"))
    with pytest.raises(dicom.CannotShow, match="larger than this machine"):
        dicom.Decoder().picture(str(tmp_path / "x"), 0)


def test_only_the_beginning_of_a_deflated_file_is_inflated_for_the_list(dicom, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(dicom, "INFLATED_HEADER_BYTES_MAX", 5000)
    (tmp_path / "x").write_bytes(deflated("CT_small.dcm"))
    collection = dicom.Collection()
    assert collection.add_file(str(tmp_path / "x")) and collection.study.patient == "CT1 CompressedSamples"


@pytest.mark.parametrize("kind", [bool, np.int16])
def test_frames_deflated_one_by_one_are_shown(dicom, tmp_path: Path, kind):
    frames = np.random.default_rng(4).integers(0, 2, (3, 5, 7)).astype(kind)  # 35 bits: no whole number of bytes
    frame_deflated(frames, tmp_path / "x")
    for number, frame in enumerate(frames):
        shown = dicom.Decoder().picture(str(tmp_path / "x"), number)
        assert np.array_equal(shown.values > shown.values.min(), frame > 0)


def test_deflated_frames_that_are_cut_give_a_sentence(dicom, tmp_path: Path):
    frame_deflated(np.zeros((2, 5, 7), np.int16), tmp_path / "x")
    rows = b"\x28\0\x10\0US\2\0"
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes().replace(rows + b"\5", rows + b"\x32", 1))
    with pytest.raises(dicom.CannotShow, match="damaged"):
        dicom.Decoder().picture(str(tmp_path / "x"), 0)


def test_a_series_is_first_seen_at_its_middle(dicom, tmp_path: Path):
    collection = dicom.Collection()
    for at in range(5):
        dataset = pydicom.dcmread(sample("CT_small.dcm"))
        dataset.InstanceNumber, dataset.SOPInstanceUID = at, f"1.2.{at}"
        dataset.save_as(tmp_path / f"{at}")
        collection.add_file(str(tmp_path / f"{at}"))
    series = collection.series[0]
    assert Path(series.at(series.middle)[0].path).name == "2"
