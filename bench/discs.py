"""A CD of 2,000 images, from drop to the record's page knowing them all and to the search finding them all, against the
bare reading of the same files.

As the image of the disc, as a zip, and as a folder of single files, sent as a browser does, to running
processes (web, one worker, Redis, keyholder), fresh ones for each. The bare reading, in the same run: libarchive walks
the image (zipfile the zip, the folder itself) and pydicom reads each header: nothing is sealed, nothing kept. What is
read for the search and the pictures goes on meanwhile and afterwards; that is waited for and told, too, unless the
second argument is 0. `python -m bench.discs [images] [readings]`.
"""

import concurrent.futures
import io
import os
import random
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import libarchive
import numpy
import pydicom
from bs4 import BeautifulSoup
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from tests import discs
from tests.e2e.conftest import Desk
from tests.person import Person

IMAGES = 2_000
ROOT_UID = "1.2.826.0.1.3680043.8.498"
TAGS = [
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "StudyDate", "StudyDescription",
    "SeriesDescription", "PatientName", "PatientID", "InstitutionName", "BodyPartExamined", "SeriesNumber",
    "InstanceNumber",
]  # fmt: skip
WAIT_SECONDS = 900
AT_ONCE, TOGETHER_FILES = 4, 100  # as in static/upload.js


def slices(count: int, study: int) -> dict[str, bytes]:
    """An MR of so many slices, 26 KB each, in ten series: 112 pixels square of something like a head, with noise."""
    lottery = numpy.random.default_rng(study)
    y, x = numpy.mgrid[-1:1:112j, -1:1:112j]
    head = numpy.clip(1.2 - numpy.hypot(x, y), 0, 1) * 900
    made = {}
    for number in range(count):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = f"{ROOT_UID}.{study}.1.{number}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT_UID}.{study}", f"{ROOT_UID}.{study}.2.{number % 10}"
        image.StudyDate, image.Modality, image.BodyPartExamined = "20240503", "MR", "HEAD"
        image.PatientName, image.PatientID, image.InstitutionName = "Doe^Jane", "77", "Harbour Hospital"
        image.StudyDescription, image.SeriesDescription = "Head", f"T{number % 10}"
        image.SeriesNumber, image.InstanceNumber = number % 10, number // 10
        image.Rows = image.Columns = 112
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.PixelData = (head + lottery.integers(0, 80, head.shape)).astype("<u2").tobytes()
        out = io.BytesIO()
        image.save_as(out, enforce_file_format=True)
        made[f"DICOM/IM{number:05}"] = out.getvalue()
    return made


def _header(content: bytes) -> None:
    pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=TAGS).StudyInstanceUID  # noqa: B018


def bare_iso(image: bytes) -> int:
    count = 0
    with libarchive.memory_reader(image) as archive:
        for entry in archive:
            if entry.isfile:
                _header(b"".join(entry.get_blocks()))
                count += 1
    return count


def bare_zip(packed: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for member in archive.infolist():
            _header(archive.read(member))
        return len(archive.infolist())


def bare_folder(folder: Path) -> int:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        _header(path.read_bytes())
    return len(files)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Owner:
    """One signed-in person with an empty record."""

    def __init__(self, portal: Desk, name: str) -> None:
        self._url = portal.url
        self.person = Person(portal.url)
        self.person.register(f"{name}@example.org", "Bench Person")

    def put(self, name: str, content: bytes, path: str = "") -> None:
        self.person.upload(name, content, path)

    def wait_for_images(self, count: int) -> None:
        words = f"{count:,} images"
        deadline = time.monotonic() + WAIT_SECONDS
        while words not in self.person.http.get(self._url + "/record").text:
            if time.monotonic() > deadline:
                raise TimeoutError("the record's page does not know all images")
            time.sleep(0.1)


    def wait_until_found(self) -> None:
        """Until the search finds the study by a word of its headers and says that nothing is left to be read."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self._found("Harbour") != "1 found":
            if time.monotonic() > deadline:
                raise TimeoutError("the search does not find all images")
            time.sleep(0.1)

    def _found(self, words: str) -> str:
        form = {"csrf": self.person.get("/record/find").find("input", attrs={"name": "csrf"})["value"], "words": words}
        answer = self.person.http.post(self._url + "/record/find", data=form, timeout=60)
        answer.raise_for_status()
        found = BeautifulSoup(answer.text, "html.parser").find(id="found-count")
        return found.get_text(" ", strip=True) if found else ""


def main(images: int = IMAGES, readings: int = 1) -> None:
    sets = [slices(images, study) for study in (1, 2, 3)]
    size = sum(map(len, sets[0].values()))
    random.seed(1)
    with tempfile.TemporaryDirectory(prefix="myphr-bench-discs-") as name:
        folder = Path(name)
        image = discs.iso_of(sets[0])
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in sets[1].items():
                archive.writestr(path, content)
        tree = discs.write_tree(sets[2], folder / "cd")
        bare = {
            "image (ISO)": _timed(lambda: bare_iso(image)),
            "zip": _timed(lambda: bare_zip(packed.getvalue())),
            "folder": _timed(lambda: bare_folder(tree)),
        }
        print(f"{images:,} images, {size / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}")
        print(f"{'':14} {'bare s':>8} {'sent s':>8} {'known s':>8} {'ratio':>7} {'found s':>8} {'ratio':>7}")
        for what, send in (
            ("image (ISO)", lambda owner: owner.put("disc.iso", image)),
            ("zip", lambda owner: owner.put("disc.zip", packed.getvalue())),
            ("folder", lambda owner: _send_folder(owner, sets[2])),
        ):
            home = folder / what.split()[0]
            home.mkdir()
            with Desk(home) as portal:
                owner = Owner(portal, what.split()[0])
                started = time.perf_counter()
                send(owner)
                sent = time.perf_counter() - started
                owner.wait_for_images(images)
                known = time.perf_counter() - started
                owner.wait_until_found()
                found = time.perf_counter() - started
                print(f"{what:14} {bare[what]:8.2f} {sent:8.2f} {known:8.2f} {known / bare[what]:7.1f}"
                      f" {found:8.2f} {found / bare[what]:7.1f}", flush=True)  # fmt: skip
                if readings:
                    _wait_for_readings(portal, started)


def _send_folder(owner: Owner, files: dict[str, bytes]) -> None:
    """As static/upload.js does it: small files together, so many requests at once."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        left = list(files.items())
        batches = [dict(left[at : at + TOGETHER_FILES]) for at in range(0, len(left), TOGETHER_FILES)]
        for answer in pool.map(owner.person.upload_together, batches):
            if not all(one["stored"] for one in answer):
                raise RuntimeError("a file was not stored")


def _wait_for_readings(portal: Desk, started: float) -> None:
    """Until the worker has read every file for the search: so that it does not slow down the next one measured."""
    import sqlite3

    deadline = time.monotonic() + WAIT_SECONDS
    with sqlite3.connect(f"file:{portal.home / 'db' / 'myphr.sqlite'}?mode=ro", uri=True) as db:
        while db.execute("SELECT count(*) FROM item_reading WHERE state IN ('waiting', 'running')").fetchone()[0]:
            if time.monotonic() > deadline:
                print("  not all were read for the search in 15 minutes")
                return
            time.sleep(0.5)
    print(f"  read for the search and pictured: {time.perf_counter() - started:.1f} s after the drop", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
