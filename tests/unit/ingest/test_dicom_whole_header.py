"""The whole header as JSON: as pydicom tells its own samples, and within bounds for files that nest or count."""

import io
import json
import resource
import struct
import time
from pathlib import Path

import pydicom
import pytest

from myphr.ingest.dicom_file import DicomFile, NotDicom
from myphr.ingest.dicom_whole_header import whole_header
from tests.web.stage import dicom_bytes

SAMPLES = Path(pydicom.__file__).parent / "data"
NAMES = [f"test_files/{name}.dcm" for name in (
    "CT_small", "MR_small", "MR_small_implicit", "MR_small_bigendian", "JPEG2000", "rtplan", "rtdose", "reportsi",
    "image_dfl", "nested_priv_SQ", "priv_SQ", "liver_1frame", "ExplVR_BigEnd", "SC_rgb_rle_2frame", "UN_sequence",
)]  # fmt: skip
NAMES += [f"charset_files/{name}.dcm" for name in ("chrGerm", "chrH31", "chrKoreanMulti", "chrX1", "chrSQEncoding1")]


def header_of(content: bytes) -> dict:
    return whole_header(DicomFile(lambda at, length: content[at : at + length], len(content)), lambda tag: f"/{tag}")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_pydicom_says(name: str) -> None:
    content = (SAMPLES / name).read_bytes()
    found, image = header_of(content), pydicom.dcmread(io.BytesIO(content), force=True)
    theirs = json.loads(image.to_json(bulk_data_threshold=1025, bulk_data_element_handler=lambda one: "/x"))
    for tag, one in theirs.items():
        if tag[4:] == "0000" or tag > "7FE00010":
            continue
        assert same(found[tag], one), (tag, found[tag], one)
    assert len(found) >= len([tag for tag in theirs if tag[4:] != "0000" and tag <= "7FE00010"]) > 0


def same(ours: dict, theirs: dict) -> bool:
    """Equal but for what the two may tell differently: long values, octets."""
    if "BulkDataURI" in ours or "BulkDataURI" in theirs or ours["vr"] in ("OB", "OW", "UN"):
        return True
    if ours["vr"] != theirs["vr"]:
        return False
    if ours["vr"] == "SQ":
        mine, other = ours.get("Value", []), theirs.get("Value", [])
        return len(mine) == len(other) and all(
            same(one[tag], two[tag])
            for one, two in zip(mine, other, strict=True)
            for tag in two if tag[4:] != "0000"
        )  # fmt: skip
    return str(values(ours)) == str(values(theirs))


def values(one: dict) -> list:
    found = []
    for value in one.get("Value", []):
        if isinstance(value, dict):
            found.append({key: text.strip() for key, text in value.items() if text})
        elif isinstance(value, str):
            found.append(value.strip() or None)
        else:
            found.append(float(value) if value is not None else None)
    return [] if all(value is None for value in found) else found


def test_the_address_of_pixels_is_told_and_nothing_behind_them() -> None:
    assert header_of(dicom_bytes("2.25.1"))["7FE00010"] == {"vr": "OB", "BulkDataURI": "/7FE00010"}


# -- files that mean harm -------------------------------------------------------------------------
def with_sequence(value: bytes) -> bytes:
    whole = dicom_bytes("2.25.1")
    head, pixels = whole[:-28], whole[-28:]
    assert pixels[:4] == b"\xe0\x7f\x10\x00"
    return head + struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, len(value)) + value + pixels


def nested(depth: int, *, defined: bool) -> bytes:
    value = b""
    for _ in range(depth):
        if defined:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
            value = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, len(item)) + item
        else:
            value = struct.pack("<HH2sHIHHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) + value
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("depth", [17, 60, 2000])
def test_nesting_without_end_loses_its_own_sequence_only(defined: bool, depth: int) -> None:
    found = header_of(with_sequence(nested(depth, defined=defined)))
    assert found["00400275"] == {"vr": "SQ"} and "7FE00010" in found and found["0020000D"]["Value"] == ["2.25.1"]


def test_nesting_that_is_allowed_is_told() -> None:
    found = header_of(with_sequence(nested(10, defined=True)))
    for _ in range(10):
        found = found["00400275"]["Value"][0]


@pytest.mark.parametrize("what", ["items", "elements", "long values"])
def test_a_million_of_anything_costs_a_second_and_little_memory(what: str) -> None:
    element = struct.pack("<HH2sH", 0x0040, 0x0009, b"SH", 0)
    long = struct.pack("<HH2sHI", 0x0040, 0x0009, b"UT", 0, 5000) + b"x" * 5000
    item = {"items": b"", "elements": element, "long values": long}[what]
    one = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    content = with_sequence(one * (16 * 2**20 // len(one)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    found = header_of(content)
    assert time.process_time() - started < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024
    assert len(json.dumps(found)) < 2**20 and "7FE00010" in found


def test_a_file_cut_anywhere_tells_what_is_whole_or_nothing() -> None:
    content = with_sequence(nested(3, defined=True))
    for end in range(len(content)):
        try:
            json.dumps(header_of(content[:end]), allow_nan=False)
        except NotDicom:
            pass


def test_octets_turned_at_random_make_no_other_error() -> None:
    import random

    dice = random.Random(7)
    for name in NAMES[:8]:
        original = (SAMPLES / name).read_bytes()[:6000]
        for _ in range(150):
            content = bytearray(original)
            for _ in range(dice.randrange(1, 20)):
                content[dice.randrange(132, len(content))] = dice.randrange(256)
            try:
                json.dumps(header_of(bytes(content)), allow_nan=False)
            except NotDicom:
                pass
