"""Every hostile file is told for what it is and costs little memory: nothing crashes, nothing grows."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from myphr.ingest import dicom, identify
from tests import hostile

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_hostile_file_is_told_for_what_it_is(name):
    make, expected = hostile.FILES[name]
    head = make()[: 256 * 1024]
    assert identify.identify(head).format == expected
    facts = identify.describe(head)
    for value in (facts.headers or {}).values():
        assert isinstance(value, int) or (value.isprintable() and len(value) <= 256)


def test_headers_survive_what_surrounds_them():
    for name in ("dicom_pe_preamble.dcm", "dicom_tiff_preamble.dcm", "dicom_bad_length.dcm", "dicom_deflate_bomb.dcm"):
        headers = dicom.read_headers(hostile.FILES[name][0]()[: 256 * 1024])
        assert (headers["study_uid"], headers["patient_name"], headers["modality"]) == ("1.2.3.4", "Doe^Jane", "CT"), (
            name
        )


def test_control_characters_of_a_header_are_not_kept():
    headers = dicom.read_headers(hostile.dicom_script())
    assert "\x1b" not in headers["study_description"] and "\x07" not in headers["study_description"]


def test_every_prefix_of_a_header_is_harmless():
    whole = hostile.dicom(*hostile._STUDY, hostile.element(0x00080005, b"CS", b"ISO 2022 IR 87\\nonsense"))
    for size in range(len(whole)):
        identify.describe(whole[:size])
        dicom.read_headers(whole[:size])


def test_any_flipped_byte_of_a_header_is_harmless():
    whole = bytearray(hostile.dicom_deep_sequences(20))
    for at in range(128, len(whole)):
        for flip in (0xFF, 0x01, 0x80):
            whole[at] ^= flip
            identify.describe(bytes(whole))
            whole[at] ^= flip


def test_all_of_it_stays_below_a_memory_limit(tmp_path):
    """In a process that may have 600 MiB of addresses: bombs of 200 and 300 MiB must never be unpacked."""
    hostile.write_all(tmp_path / "hostile")
    program = f"""
import resource, sys, io, pathlib
from myphr.ingest import identify, packing
from myphr.ingest.packing import zips
from myphr.errors import ArchiveRefused
limit = 600 * 1024**2
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
refused = 0
for path in sorted(pathlib.Path({str(tmp_path / "hostile")!r}).iterdir()):
    with path.open("rb") as file:
        facts = identify.describe(file.read(256 * 1024))
        if facts.format == "zip":
            try:
                zips.contents_of(file, path.stat().st_size, packing.Limits(20_000, 2**36))
            except ArchiveRefused:
                refused += 1
# Not ru_maxrss: that starts from the memory of the test runner which this was forked from.
status = pathlib.Path("/proc/self/status").read_text()
print(refused, int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    refused, most_mib = map(int, answer.stdout.split())
    assert refused >= 7
    assert most_mib < 250


def test_the_memory_limit_is_a_real_one():
    program = "import resource; resource.setrlimit(resource.RLIMIT_AS, (600 * 2**20,) * 2); bytearray(700 * 2**20)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MemoryError" in answer.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
