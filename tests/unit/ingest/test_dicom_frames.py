"""Frames found in files without decoding: against pydicom's own reading of its samples, with each kind of table, and
with tables and counts that lie."""

import io
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import MPEG2MPML, ExplicitVRBigEndian, JPEGBaseline8Bit

from myphr.ingest.dicom_file import BLOCK_BYTES, DicomFile, NotDicom
from myphr.ingest.dicom_frames import Frames, NoSuchFrame, NotByFrames
from tests.web.stage import dicom_bytes

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
NATIVE = [f"{name}.dcm" for name in (
    "MR_small", "MR_small_implicit", "CT_small", "SC_rgb_small_odd", "SC_ybr_full_422_uncompressed", "liver_1frame"
)]  # fmt: skip
ENCAPSULATED = [f"{name}.dcm" for name in (
    "JPEG2000", "MR_small_RLE", "SC_rgb_rle_2frame", "SC_rgb_jpeg_dcmtk", "MR_small_jpeg_ls_lossless"
)]  # fmt: skip
FRAMES = [b"\xff\xd8first!", b"\xff\xd8the second", b"\xff\xd8third-"]


def opened(content: bytes) -> Frames:
    return Frames(DicomFile(lambda at, length: content[at : at + length], len(content)))


def frame(content: bytes, number: int) -> bytes:
    return b"".join(content[at : at + length] for at, length in opened(content).pieces(number))


def encapsulated(pixels: bytes, frames: int = 3, syntax: str = JPEGBaseline8Bit, **values: bytes) -> bytes:
    image = pydicom.dcmread(io.BytesIO(dicom_bytes("2.25.1", NumberOfFrames=frames, **values)))
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = pixels
    image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("name", NATIVE)
def test_native_frames_are_those_that_pydicom_sees(name: str) -> None:
    content = (SAMPLES / name).read_bytes()
    image = pydicom.dcmread(io.BytesIO(content))
    values = next(image[tag].value for tag in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if tag in image)
    found = opened(content)
    assert found.media_type == "application/octet-stream" and found.syntax == "1.2.840.10008.1.2.1"
    whole = b"".join(frame(content, one) for one in range(1, found.count + 1))
    assert whole and values[: len(whole)] == whole and len(values) - len(whole) < 2
    with pytest.raises(NoSuchFrame):
        found.pieces(found.count + 1)


@pytest.mark.parametrize("name", ENCAPSULATED)
def test_encapsulated_frames_are_those_that_pydicom_sees(name: str) -> None:
    content = (SAMPLES / name).read_bytes()
    image = pydicom.dcmread(io.BytesIO(content))
    count = int(image.get("NumberOfFrames", 1))
    assert [frame(content, one + 1) for one in range(count)] == list(
        generate_frames(image.PixelData, number_of_frames=count)
    )
    assert opened(content).syntax == image.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("fragments", [1, 2])
def test_a_basic_table_leads_to_each_frame(fragments: int) -> None:
    content = encapsulated(encapsulate(FRAMES, fragments_per_frame=fragments, has_bot=True))
    assert [frame(content, one).rstrip(b"\0") for one in (3, 1, 2)] == [FRAMES[2], FRAMES[0], FRAMES[1]]


def test_an_extended_table_leads_to_each_frame_without_its_padding() -> None:
    pixels, table, lengths = encapsulate_extended(FRAMES)
    content = encapsulated(pixels, ExtendedOffsetTable=table, ExtendedOffsetTableLengths=lengths)
    assert [frame(content, one) for one in (1, 2, 3)] == FRAMES


def test_without_a_table_one_fragment_is_one_frame_and_one_frame_is_all_fragments() -> None:
    content = encapsulated(encapsulate(FRAMES, has_bot=False))
    assert [frame(content, one).rstrip(b"\0") for one in (1, 2, 3)] == FRAMES
    alone = encapsulated(encapsulate(FRAMES, has_bot=False), frames=1)
    assert frame(alone, 1).replace(b"\0", b"") == b"".join(FRAMES)


def test_what_cannot_be_told_apart_is_not_guessed() -> None:
    for frames in (2, 4):
        with pytest.raises(NotByFrames):
            opened(encapsulated(encapsulate(FRAMES, has_bot=False), frames=frames)).pieces(1)
    with pytest.raises(NotByFrames):
        opened(encapsulated(encapsulate([b"film"], has_bot=False), frames=250, syntax=MPEG2MPML)).pieces(1)
    for name in ("image_dfl.dcm", "MR_small_bigendian.dcm"):
        with pytest.raises(NotByFrames):
            opened((SAMPLES / name).read_bytes())
    assert ExplicitVRBigEndian == pydicom.dcmread(SAMPLES / "MR_small_bigendian.dcm").file_meta.TransferSyntaxUID


@pytest.mark.parametrize("offset", [3, 10**6, 2**32 - 8])
def test_a_table_that_lies_leads_to_no_frame(offset: int) -> None:
    content = bytearray(encapsulated(encapsulate(FRAMES, has_bot=True)))
    table = content.index(struct.pack("<HHI", 0xFFFE, 0xE000, 12)) + 8
    content[table + 4 : table + 8] = struct.pack("<I", offset)
    with pytest.raises(NoSuchFrame):
        opened(bytes(content)).pieces(2)


def test_a_file_cut_off_gives_only_the_frames_that_are_whole() -> None:
    content = dicom_bytes("2.25.1", NumberOfFrames=3, PixelData=bytes(range(48)))
    cut = content[:-4]
    assert frame(cut, 2) == bytes(range(16, 32))
    with pytest.raises(NoSuchFrame):
        opened(cut).pieces(3)
    for end in range(0, len(content), 7):  # whatever is cut, only these errors
        with pytest.raises((NoSuchFrame, NotByFrames, NotDicom)):
            opened(content[:end]).pieces(3)


def test_counts_that_lie_lead_to_no_frame() -> None:
    for count in (10**11, -5, 0):
        with pytest.raises(NoSuchFrame):
            opened(dicom_bytes("2.25.1", NumberOfFrames=count)).pieces(2)


def test_only_the_head_and_the_frame_are_read() -> None:
    content = dicom_bytes("2.25.1", NumberOfFrames=2**20, PixelData=bytes(16 * 2**20))
    read: list[int] = []

    def read_at(at: int, length: int) -> bytes:
        read.append(length)
        return content[at : at + length]

    [(at, length)] = Frames(DicomFile(read_at, len(content))).pieces(2**20)
    assert (at + length, length) == (len(content), 16) and sum(read) <= 2 * BLOCK_BYTES
