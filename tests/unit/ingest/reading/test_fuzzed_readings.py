"""Damaged copies of files, hundreds in one go through one reader process: none hangs, none takes more than a fork may,
and the process is there for the next. With MYPHR_SAMPLES naming a folder of samples also copies of those.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.ingest import identify
from myphr.ingest.reading import FORMATS
from myphr.ingest.reading.capped import Reader
from tests import discs, hostile
from tests.hostile_desk import Cost, note_readers, readers_that_tell

COPIES = 200
SAMPLE_BYTES_MAX = 200_000
SAMPLE_FORMATS = ("dicom", "cda-xml", "aecg-xml", "fhir-json", "fhir-xml", "hl7v2", "text", "csv", "html", "rtf",
                  "email", "text-bluebutton", "edf", "scp-ecg", "vcf", "apple-health-xml", "pdf", "tiff",
                  "nifti")  # fmt: skip
NUMBERS = (b"0", b"-1", b"65535", b"4294967295", b"99999999999999999999", b"1e999", b"NaN")
BYTES = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\x7f", b"<", b"&", b'"', b"[", b"{", b"|", b"\r\n", b"\xf0\x9f")

OWN = {
    "dicom": (hostile.image(), discs.image(1, text=b"words"), hostile.dicom_deflate_bomb(2)),
    "cda-xml": (hostile.cda_script(),),
    "fhir-json": (hostile.fhir_script(),),
    "hl7v2": (hostile.hl7_script()[:400] + b"\rOBX|2|NM|1^HDL||5.1|mmol/l|1-2|H|||F\r",),
    "csv": (hostile.FILES["formula.csv"][0](),),
    "text": (b"Dear Vera,\r\non 26 August 2024 we saw you.\r\n",),
    "vcf": (hostile.FILES["script.vcf"][0](),),
}


def samples() -> dict[str, tuple[bytes, ...]]:
    folder = os.environ.get("MYPHR_SAMPLES")
    found: dict[str, list[bytes]] = {}
    for path in sorted(Path(folder).rglob("*")) if folder else ():
        if path.is_file() and 0 < path.stat().st_size < SAMPLE_BYTES_MAX:
            content = path.read_bytes()
            format_ = identify.identify(content).format
            if format_ in SAMPLE_FORMATS and format_ in FORMATS:
                found.setdefault(format_, []).append(content)
    return {format_: tuple(contents) for format_, contents in found.items()}


def damaged(chance: random.Random, content: bytes) -> bytes:
    copy = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(copy) + 1)
        length = chance.randint(1, 40)
        match chance.randrange(6):
            case 0:
                copy[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                copy[at : at + length] = b""
            case 2:
                copy[at:at] = copy[at : at + length] * chance.randint(1, 200)
            case 3:
                copy[at:at] = chance.choice(BYTES)
            case 4:
                copy[at : at + chance.randint(0, 4)] = chance.choice(NUMBERS)
            case 5 if chance.random() < 0.3:
                del copy[at:]
    return bytes(copy)


def copies(bases: tuple[bytes, ...], seed: str) -> Iterator[bytes]:
    chance = random.Random(seed)
    for number in range(COPIES):
        yield damaged(chance, bases[number % len(bases)])


CASES = [("own", *case) for case in OWN.items()] + [("given", *case) for case in samples().items()]


@pytest.mark.parametrize(("which", "format_", "bases"), CASES, ids=[f"{which}-{name}" for which, name, _ in CASES])
def test_damaged_copies_cost_only_themselves(
    tmp_path: Path, which: str, format_: str, bases: tuple[bytes, ...]
) -> None:
    cost = Cost()
    with readers_that_tell(tmp_path) as told:
        with Reader() as reader:
            for content in copies(bases, format_):
                reader.read(format_, len(content), lambda at, length, all_=content: all_[at : at + length])
            after = reader.read("text", 9, lambda at, length: b"Dear Vera"[at : at + length])
        forks = note_readers(told, cost)
    assert after is not None and "Dear Vera" in after.reading.text + (after.narrative or "")
    assert forks == COPIES + 1 and cost.fork_mib < 300 and cost.cpu_seconds < COPIES * 0.5
