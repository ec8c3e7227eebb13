"""DICOM objects as their owner sees them: pictures as dcmtk draws them, reports, strips, documents inside, words."""

import io
import subprocess
from pathlib import Path

import numpy
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
pytestmark = pytest.mark.filterwarnings("ignore")


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def grey_of(picture: bytes) -> numpy.ndarray:
    return numpy.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype="float64")


def object_of(pixels: numpy.ndarray, *, syntax=ExplicitVRLittleEndian, **words) -> bytes:
    """A small image of one or more frames with these header values."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "CT"
    frames = pixels if pixels.ndim == 3 else pixels[None]
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    for name, value in words.items():
        setattr(dataset, name, value)
    dataset.PixelData = frames.tobytes()
    dataset["PixelData"].VR = "OW"
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


RAMP = numpy.tile(numpy.arange(64, dtype="uint16") * 16, (64, 1))


# -- against a peer -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "MR_small_padded.dcm", "image_dfl.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_small_odd.dcm", "ExplVR_BigEnd.dcm", "examples_palette.dcm", "JPGExtended.dcm", "examples_overlay.dcm",
])  # fmt: skip
def test_a_picture_is_that_of_dcmtk(read, name, tmp_path):
    whole = sample(name)
    (tmp_path / "in.dcm").write_bytes(whole)
    header = pydicom.dcmread(tmp_path / "in.dcm", stop_before_pixels=True)
    window = ["+Wi", "1"] if "WindowWidth" in header else ["+Wm"]
    frame = str(int(header.get("NumberOfFrames") or 1) // 2 + 1)
    subprocess.run(["dcmj2pnm", "+F", frame, *window, "+on", tmp_path / "in.dcm", tmp_path / "out.png"], check=True,
                   capture_output=True)  # fmt: skip
    ours = grey_of(read(whole).preview)
    theirs = Image.open(tmp_path / "out.png").convert("L").resize(ours.shape[::-1], Image.Resampling.LANCZOS)
    assert numpy.corrcoef(ours.ravel(), numpy.asarray(theirs, dtype="float64").ravel())[0, 1] > 0.97


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "693_J2KI.dcm", "GDCMJ2K_TextGBR.dcm", "JPEGLSNearLossless_16.dcm",
                                  "SC_rgb_rle_16bit_2frame.dcm", "liver_1frame.dcm", "rtdose_rle.dcm",
                                  "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jpeg.dcm"])  # fmt: skip
def test_a_picture_in_another_packing_is_made(read, name):
    assert read(sample(name)).preview


# -- windows --------------------------------------------------------------------------------------
def test_a_window_decides_what_is_black_and_white(read):
    """C.11.2.1.2: centre 512, width 256 is from 384 to 639."""
    grey = grey_of(read(object_of(RAMP, WindowCenter=512, WindowWidth=256)).preview)
    row = grey[32]
    assert row[20] < 12 and row[44] > 243 and 90 < row[32] < 160


def test_monochrome1_is_shown_inverted(read):
    plain, turned = (
        grey_of(read(object_of(RAMP, PhotometricInterpretation=one)).preview) for one in ("MONOCHROME2", "MONOCHROME1")
    )
    assert numpy.abs(255 - plain - turned).max() < 20


def test_rescaling_comes_before_the_window(read):
    """Stored 0..1008 are -1024..992 with slope 2: a window around 0 is in the middle of the stored values."""
    words = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "WindowCenter": "0", "WindowWidth": "200"}
    row = grey_of(read(object_of(RAMP, **words)).preview)[32]
    assert row[24] < 12 and row[40] > 243


def test_without_a_window_what_sticks_out_does_not_make_the_rest_black(read):
    pixels = RAMP.copy()
    pixels[0, 0] = 65535
    assert 90 < grey_of(read(object_of(pixels)).preview)[32, 32] < 165


@pytest.mark.parametrize("words", [
    {"WindowCenter": "1", "WindowWidth": "0"}, {"WindowCenter": "1", "WindowWidth": "-5"},
    {"WindowCenter": "0", "WindowWidth": "0.5", "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": "512", "WindowWidth": "100", "VOILUTFunction": "SIGMOID"},
])  # fmt: skip
def test_a_strange_window_still_gives_a_picture(read, words):
    assert read(object_of(RAMP, **words)).preview


def test_the_middle_frame_is_shown(read):
    frames = numpy.zeros((5, 64, 64), dtype="uint16")
    frames[2, 20:40, 20:40] = 1000
    grey = grey_of(read(object_of(frames, WindowCenter=500, WindowWidth=1000)).preview)
    assert grey[30, 30] > 200 and grey[5, 5] < 30


def test_the_middle_of_a_film_that_is_larger_than_we_read_falls_back_to_its_first_frame(read, reader):
    frames = numpy.full((4, 64, 64), 1000, dtype="uint16")
    whole = object_of(frames, WindowCenter=500, WindowWidth=1000)
    cut = whole[: len(whole) // 2]
    full = reader.read("dicom", len(cut), lambda offset, length: cut[offset : offset + length])
    assert grey_of(full.preview)[30, 30] > 200


def test_a_packed_film_that_was_cut_falls_back_to_its_first_frame(read):
    frames = numpy.zeros((6, 64, 64), dtype="uint16")
    frames[0], frames[3] = 1000, RAMP
    dataset = pydicom.dcmread(io.BytesIO(object_of(frames, WindowCenter=500, WindowWidth=1000)))
    dataset.compress(RLELossless)
    out = io.BytesIO()
    dataset.save_as(out)
    whole = out.getvalue()
    assert grey_of(read(whole).preview)[30, 5] < 60
    cut = whole[: whole.rindex(b"\xfe\xff\x00\xe0", 0, len(whole) - 500)]  # in front of a frame after the middle
    assert grey_of(read(cut).preview)[30, 5] < 60
    assert grey_of(read(whole[: len(whole) - len(whole) // 2]).preview)[30, 5] > 200


def test_the_middle_frame_of_a_deflated_film_is_shown_though_not_all_of_it_is_inflated(read):
    frames = numpy.zeros((400, 512, 512), dtype="uint16")  # 210 MB: half of it is past the limit, frame 100 is not
    frames[100, :, :256] = 1000
    for count, bright in ((200, True), (400, False)):  # of 400 the middle is too far: the first one, which is black
        whole = object_of(frames[:count], syntax=DeflatedExplicitVRLittleEndian, WindowCenter=500, WindowWidth=1000)
        assert len(whole) < 1024**2 and (grey_of(read(whole).preview)[100, 100] > 200) == bright


# -- words ----------------------------------------------------------------------------------------
def test_words_say_what_when_where_by_whom(read):
    reading = read(object_of(
        RAMP, Modality="MR", BodyPartExamined="HEAD", StudyDate="20240826", StudyTime="101500",
        InstitutionName="Harbour Hospital", PatientName="Lindqvist^Vera", PerformingPhysicianName="Berger^Nils^^Dr",
        ReferringPhysicianName="Bridge^Anna", StudyDescription="Skull", ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PatientBirthDate="19700131", Manufacturer="Siemens",
    )).reading  # fmt: skip
    assert (reading.title, reading.date, reading.date_words) == ("MR scan, head", "2024-08-26", "26 August 2024")
    assert (reading.place, reading.author, reading.patient) == ("Harbour Hospital", "Dr Nils Berger", "Vera Lindqvist")
    facts = dict(reading.facts)
    assert facts["Time"] == "10:15" and facts["Seen"] == "across the body" and facts["Asked for by"] == "Anna Bridge"
    assert facts["Born"] == "31 January 1970" and facts["Machine"] == "Siemens" and "Skull" in reading.text


def test_a_structured_report_is_a_narrative(read):
    full = read(sample("test-SR.dcm"))
    assert full.reading.kind_words == "Report" and full.reading.author == "Jörg Riesmeier"
    assert "<b>" in full.narrative and "<script" not in full.narrative and full.reading.text
    assert "A mass of" in full.reading.text


def test_an_ecg_in_dicom_is_a_strip(read):
    full = read(sample("waveform_ecg.dcm"))
    assert full.preview.startswith(b"\x89PNG") and "aVR" in dict(full.reading.facts)["Leads"]


def test_a_radiotherapy_plan_has_words_only(read):
    full = read(sample("rtplan.dcm"))
    facts = dict(full.reading.facts)
    assert full.preview is None and facts["Sessions planned"] == "30" and facts["Plan"] == "Plan1"


def test_a_document_inside_is_taken_out_and_read(read):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.MIMETypeOfEncapsulatedDocument = "DOC", "text/XML"
    dataset.EncapsulatedDocument = (
        b'<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3"><typeId root="2.16.840.1.113883.1.3"/>'
        b"<title>Letter inside</title><component><structuredBody><component><section><title>Findings</title>"
        b"<text>Nothing new</text></section></component></structuredBody></component></ClinicalDocument>"
    )
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    full = read(out.getvalue())
    assert full.reading.title == "Letter inside" and "Nothing new" in full.narrative


# -- damage and attacks ---------------------------------------------------------------------------
def test_a_cut_image_keeps_its_words_and_what_there_is_of_it(read):
    assert read(sample("MR_truncated.dcm")).preview
    full = read(sample("CT_small.dcm")[:2000])
    assert full.reading.patient == "CT1 CompressedSamples" and full.preview is None


def test_a_picture_that_claims_too_many_pixels_is_told_and_not_decoded(read):
    full = read(object_of(RAMP, Rows=65535, Columns=65535))
    assert full.preview is None and full.reading.note == "The picture is too large for a preview"


def test_a_deflate_bomb_costs_only_its_own_preview(read):
    whole = object_of(numpy.zeros((1, 64, 64), dtype="uint16"), syntax=DeflatedExplicitVRLittleEndian)
    assert read(whole).preview
    import zlib

    at = whole.index(b"\x02\x00\x12\x00") if b"\x02\x00\x12\x00" in whole else None
    assert at is not None
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    meta_end = 132 + 12 + int.from_bytes(whole[140:144], "little")
    head = b"\x08\x00\x60\x00CS\x02\x00CT" + b"\x09\x00\x10\x10OB\0\0\xff\xff\xff\x1f"
    body = packer.compress(head) + packer.compress(bytes(300 * 1024**2)) + packer.flush()
    full = read(whole[:meta_end] + body)
    assert full is not None and full.preview is None and full.reading.kind_words == "CT scan"


@pytest.mark.parametrize("name", ["UN_sequence.dcm", "badVR.dcm", "priv_SQ.dcm", "nested_priv_SQ.dcm",
                                  "meta_missing_tsyntax.dcm", "JPEG2000-embedded-sequence-delimiter.dcm",
                                  "rtplan_truncated.dcm", "reportsi_with_empty_number_tags.dcm"])  # fmt: skip
def test_a_strange_file_of_the_field_has_words(read, name):
    assert read(sample(name), "dicom").reading.title


def test_any_byte_flipped_gives_an_answer_or_none_and_the_next_file_is_read(read):
    whole = bytearray(sample("MR_small_RLE.dcm"))
    for at in range(140, len(whole), max(1, len(whole) // 25)):
        whole[at] ^= 0xFF
        read(bytes(whole), "dicom")
        whole[at] ^= 0xFF
    assert read(bytes(whole)).preview
