"""The check whether viewers still open their formats, with the viewers that every portal has: those of hospital images
and of documents, on a running portal, by the operator's command and up to the words on a patient's page. `make
test-viewers` runs this.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from myphr import still_opens
from myphr.machines import viewer_checks
from myphr.machines.models import ViewerCheck
from myphr.portal import Portal
from myphr.viewers import samples
from tests.person import Person
from tests.running import ROOT, RunningPortal

pytestmark = [pytest.mark.viewers, pytest.mark.qemu, pytest.mark.timeout(2400)]
OPENED, NOT_OPENED = "We tried it with such a file on", "it did not open."


@pytest.fixture(scope="module")
def running() -> Iterator[RunningPortal]:
    folder = Path(tempfile.mkdtemp(prefix="myphr-opens-"))
    folder.chmod(0o711)
    try:
        with RunningPortal(folder, templates=("radiology", "documents"), warm_pool="") as portal:
            yield portal
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Words:
    """What a page says now."""

    def __init__(self, person: Person, path: str) -> None:
        self.person, self.path = person, path

    def count(self, words: str) -> int:
        return " ".join(self.person.get(self.path).get_text(" ").split()).count(words)


@pytest.fixture(scope="module")
def pages(running: RunningPortal) -> Mapping[str, Words]:
    """By template the page of an item of a patient's own: an MR image, a letter."""
    person = Person(running.url)
    person.register("vera@example.org")
    for sample in ("dicom MR", "pdf"):
        for name, content in samples.of(sample).items():
            person.upload(name, content)
    deadline = time.monotonic() + 60
    while not (person.studies() and person.documents()):
        assert time.monotonic() < deadline, "the files did not come into the record"
        time.sleep(0.3)
    return {"radiology": Words(person, person.studies()[0]), "documents": Words(person, person.documents()[0])}


@pytest.mark.parametrize("template", ["radiology", "documents"])
def test_every_viewer_opens_every_sample_and_its_card_says_so(
    running: RunningPortal, pages: Mapping[str, Words], template: str
) -> None:
    assert pages[template].count(OPENED) == 0
    done = subprocess.run(
        [sys.executable, "-m", "myphr", "template", "check", template],
        cwd=ROOT, env=running.environ, text=True, capture_output=True, timeout=2000,
    )  # fmt: skip
    print(f"\n{done.stdout}{done.stderr[-2000:]}")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == len(still_opens.tries(template)) > 20 and all(": opened (" in line for line in lines)
    assert pages[template].count(OPENED) == 2 and pages[template].count(NOT_OPENED) == 0  # both viewers of each


@pytest.mark.parametrize(
    ("template", "viewer", "sample"),
    [("radiology", "simple-images", "dicom MR"), ("radiology", "aeskulap", "dicom MR"),
     ("documents", "simple-documents", "pdf"), ("documents", "qpdfview", "pdf")],
)  # fmt: skip
def test_a_viewer_that_does_not_show_a_file_as_before_is_told_of_on_its_card(
    parts: Portal, pages: Mapping[str, Words], monkeypatch, template: str, viewer: str, sample: str
) -> None:
    """The file is cut in the middle: for the portal the same as a viewer that cannot read it any more."""
    monkeypatch.setattr(still_opens, "LOOK_SECONDS_MAX", 5)
    whole = samples.of(sample)
    cut = {name: content[: len(content) // 2] for name, content in whole.items()}
    monkeypatch.setattr(samples, "of", lambda name: cut)
    before = pages[template].count(NOT_OPENED)
    vmid = parts.hypervisor.find_template(template).vmid
    outcome = still_opens.noted(parts, viewer, sample, vmid)
    print(f"\n  {viewer}, cut in the middle: {outcome.reason}, {outcome.likeness:.3f}")
    assert not outcome.worked
    assert pages[template].count(NOT_OPENED) == before + 1


def test_another_picture_than_before_is_told(parts: Portal, monkeypatch) -> None:
    """The viewer opens what it is given, and it is something else: an X-ray where a mammogram was expected."""
    monkeypatch.setattr(still_opens, "LOOK_SECONDS_MAX", 5)
    monkeypatch.setattr(samples, "of", lambda _name, of=samples.of: of("dicom DX"))
    for viewer in ("simple-images", "aeskulap"):
        outcome = still_opens.check(parts, viewer, "dicom MG")
        print(f"\n  {viewer}, another picture: {outcome.likeness:.3f}")
        assert outcome.reason == "not-like-before"


def test_the_job_of_the_sweep_tries_the_one_that_is_due(parts: Portal, pages: Mapping[str, Words]) -> None:
    """All others were looked at just now. A worker of the portal does it."""
    due = ("simple-images", "dicom MR")
    for template in pages:
        vmid = parts.hypervisor.find_template(template).vmid
        for viewer, sample in still_opens.tries(template):
            viewer_checks.note(parts.database, viewer, sample, vmid, None)
    with parts.database.write() as db:
        db.delete(db.get_one(ViewerCheck, due))
    assert pages["radiology"].count(OPENED) == 1
    deadline, again_at = time.monotonic() + still_opens.TRY_SECONDS_MAX, 0.0
    while pages["radiology"].count(OPENED) < 2:
        assert time.monotonic() < deadline, "the job did not look, or it did not open"
        if time.monotonic() > again_at:  # while the machine of the test before this one still ends, it tries nothing
            parts.queue.enqueue("jobs.machines.try_a_viewer", seconds_max=still_opens.TRY_SECONDS_MAX)
            again_at = time.monotonic() + 20
        time.sleep(1)
