"""A disk that is full and a database that fails under real senders: each object that is not kept is answered so, none
that was answered for is lost, nothing half-stored or in clear stays, and the next one after it goes in.

A full disk is a small file system of the receiver's own, in a namespace of its own; the test looks at it through /proc.
A failing database is the kernel's limit on the size of files, put on the running process and taken off again.
"""

import contextlib
import os
import re
import resource
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from pydicom.uid import generate_uid

from myphr.audit import trail
from myphr.ingest.drop_offs import Created
from myphr.ingest.upload_filing import FREE_BYTES_MIN
from myphr.portal import Portal
from myphr.records.items import dek_of, details_of, open_item
from myphr.records.store import LocalStore
from tests.cast import SignedIn
from tests.integration.providers.conftest import MARKER, Process, count_of, items_of, where_marker_is
from tests.integration.providers.test_receiver import dcmread_uid, run, settled
from tests.web.stage import dicom_bytes

BIG_BYTES = FREE_BYTES_MIN + 48 * 1024**2  # an object that no disk here has room for
OUT_OF_RESOURCES, FAILURE = "OutOfResources", "0x110"  # A700 and 0110 (processing failure) in dcmtk's words


@contextlib.contextmanager
def limited(receiver: Process, file_bytes_max: int) -> Iterator[None]:
    """Whatever this process writes beyond that place in a file fails, and not for want of room."""
    before = resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (file_bytes_max, before[1]))
    try:
        yield
    finally:
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, before)


def failing(receiver: Process, portal: Portal) -> contextlib.AbstractContextManager[None]:
    """No page goes into the database any more; files of the store, which are smaller, still can be written."""
    return limited(receiver, (portal.settings.home / "db" / "myphr.sqlite-wal").stat().st_size)


def send(program: str, port: int, ae_title: str, *files: Path) -> list[str]:
    """What was answered to each file, in dcmtk's words, in their order."""
    options = ["-nh"] if program == "storescu" else []
    done = run(program, "-v", *options, "-aec", ae_title, "127.0.0.1", port, *files)
    return re.findall(r"Received (?:Store Response|C-STORE Response) \((.*)\)", done.stdout + done.stderr)


def big_file(path: Path) -> Path:
    """An image of BIG_BYTES, nearly all of it a hole."""
    content = bytearray(dicom_bytes(generate_uid(), PatientName=f"{MARKER}^Vera"))
    content[-20:-16] = BIG_BYTES.to_bytes(4, "little")
    path.write_bytes(content)
    os.truncate(path, len(content) - 16 + BIG_BYTES)
    return path


def all_open(portal: Portal, patient: SignedIn, store: LocalStore) -> set[str]:
    """The images of the record, each of which must be there whole."""
    ring, found = patient.login.ring(), set()
    for item in items_of(portal):
        content = open_item(store, item, dek_of(ring, item)).read_at(0, item.plain_bytes)
        assert len(content) == item.plain_bytes and content[128:132] == b"DICM"
        found.add(details_of(ring, item)["headers"]["instance_uid"])
    return found


def uids(paths: list[Path]) -> set[str]:
    return {dcmread_uid(path.read_bytes()) for path in paths}


# -- the disk -------------------------------------------------------------------------------------
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_an_object_that_fills_the_disk_is_refused_and_the_next_one_goes_in(
    portal: Portal, patient: SignedIn, created: Created, on_a_disk, images: Path, tmp_path: Path, program: str
) -> None:
    receiver, disk = on_a_disk(8 * 1024**2)
    first, second, *_ = sorted(images.iterdir())
    answers = send(program, receiver.port, created.ae_title, first, big_file(tmp_path / "big.dcm"), second)
    assert [OUT_OF_RESOURCES in answer for answer in answers] == [False, True, False]
    assert answers[0] == answers[2] == "Success"
    assert all_open(portal, patient, disk.store) == uids([first, second])
    assert disk.left(portal) == (2, 0) and count_of(portal, created) == 2


def test_a_disk_that_is_full_refuses_each_object_until_there_is_room(
    portal: Portal, patient: SignedIn, created: Created, on_a_disk, images: Path
) -> None:
    receiver, disk = on_a_disk(8 * 1024**2)
    first, *others = sorted(images.iterdir())
    assert send("storescu", receiver.port, created.ae_title, first) == ["Success"]
    with disk.full():
        answers = send("storescu", receiver.port, created.ae_title, *others)
        assert len(answers) == 3 and all(OUT_OF_RESOURCES in answer for answer in answers)
        assert disk.left(portal) == (1, 0) and len(items_of(portal)) == count_of(portal, created) == 1
        assert run("echoscu", "-aec", created.ae_title, "127.0.0.1", receiver.port).returncode == 0
    assert send("storescu", receiver.port, created.ae_title, *others) == ["Success"] * 3
    assert all_open(portal, patient, disk.store) == uids([first, *others])


def test_a_disk_that_cannot_keep_what_it_took_refuses_it(
    portal: Portal, patient: SignedIn, created: Created, on_a_disk, images: Path
) -> None:
    """Every byte was written; there is no room for the name that makes it an object."""
    receiver, disk = on_a_disk(8 * 1024**2, inodes=1 + 2 + 256 + 3)  # the folders, and three files or names
    answers = send("storescu", receiver.port, created.ae_title, *sorted(images.iterdir()))
    assert answers[:2] == ["Success"] * 2 and len(answers) == 4
    assert all(OUT_OF_RESOURCES in answer for answer in answers[2:])
    assert len(all_open(portal, patient, disk.store)) == 2 and disk.left(portal) == (2, 0)
    [one] = [item for item in items_of(portal) if item.created_at == max(each.created_at for each in items_of(portal))]
    disk.store.delete(one.object_key)  # room for one
    assert send("storescu", receiver.port, created.ae_title, sorted(images.iterdir())[3]) == ["Success"]


def test_a_part_of_a_stow_request_that_fills_the_disk_does_not_cost_the_others(
    portal: Portal, patient: SignedIn, created: Created, on_a_disk, images: Path, tmp_path: Path
) -> None:
    web, disk = on_a_disk(8 * 1024**2, web=True)
    first, second, *_ = sorted(images.iterdir())
    address = f"http://127.0.0.1:{web.port}/dicom-web/studies"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b',
               "Authorization": f"Bearer {created.token}"}  # fmt: skip

    def body(*paths: Path) -> Iterator[bytes]:
        for path in paths:
            yield b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n"
            with path.open("rb") as content:
                while piece := content.read(1024**2):
                    yield piece
        yield b"\r\n--b--"

    answer = requests.post(address, body(first, big_file(tmp_path / "big"), second), headers=headers, timeout=120)
    assert answer.status_code == 202 and len(answer.json()["00081199"]["Value"]) == 2
    assert [one["00081197"]["Value"] for one in answer.json()["0008119A"]["Value"]] == [[0xA700]]
    assert all_open(portal, patient, disk.store) == uids([first, second]) and disk.left(portal) == (2, 0)
    others = sorted(images.iterdir())[2:]
    with disk.full():
        assert requests.post(address, b"".join(body(*others)), headers=headers, timeout=60).status_code == 507
        assert disk.left(portal) == (2, 0) and len(items_of(portal)) == 2
    assert requests.post(address, b"".join(body(*others)), headers=headers, timeout=60).status_code == 200
    assert len(all_open(portal, patient, disk.store)) == count_of(portal, created) == 4


@pytest.mark.parametrize("at_bytes", [0, 64 * 1024])
def test_a_disk_that_fails_in_another_way_refuses_each_object_and_keeps_the_association(
    portal: Portal, receiver: Process, created: Created, images: Path, at_bytes: int
) -> None:
    """At the beginning of an object and within it."""
    for path in images.iterdir():
        path.write_bytes(dicom_bytes(generate_uid(), PatientName=MARKER, PixelData=bytes(400_000)))
    with limited(receiver, at_bytes):
        answers = send("storescu", receiver.port, created.ae_title, *sorted(images.iterdir()))
        assert len(answers) == 4 and all(FAILURE in answer for answer in answers), answers
    assert MARKER not in receiver.log.read_text()
    assert items_of(portal) == [] and list(portal.store.keys()) == list(portal.store.partial_dir.iterdir()) == []
    assert send("storescu", receiver.port, created.ae_title, *images.iterdir()) == ["Success"] * 4


# -- the database ---------------------------------------------------------------------------------
def test_a_database_that_fails_refuses_each_object_and_keeps_no_container(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created, images: Path
) -> None:
    first, *others = sorted(images.iterdir())
    assert send("storescu", receiver.port, created.ae_title, first) == ["Success"]
    with failing(receiver, portal):
        for program in ("storescu", "dcmsend"):
            answers = send(program, receiver.port, created.ae_title, *others)
            assert len(answers) == 3 and all(FAILURE in answer for answer in answers), answers
        assert len(items_of(portal)) == len(list(portal.store.keys())) == count_of(portal, created) == 1
        assert list(portal.store.partial_dir.iterdir()) == []
    assert send("storescu", receiver.port, created.ae_title, *others) == ["Success"] * 3
    assert all_open(portal, patient, portal.store) == uids([first, *others])  # type: ignore[arg-type]
    assert trail.verify(portal.database) > 0 and MARKER not in receiver.log.read_text()
    assert where_marker_is(portal.settings.home, receiver.temporary) == []


def test_several_senders_through_a_database_that_fails_now_and_then_lose_nothing_that_was_answered_for(
    portal: Portal, patient: SignedIn, receiver: Process, created: Created, tmp_path: Path
) -> None:
    """Also what is filed together with others."""
    study, answered, refused, guard = generate_uid(), set[str](), set[str](), threading.Lock()

    def sender(number: int) -> None:
        folder = tmp_path / f"sender-{number}"
        folder.mkdir()
        for at in range(40):
            (folder / f"{at:02}.dcm").write_bytes(dicom_bytes(study, at, PatientName=MARKER))
        files = sorted(folder.iterdir())
        answers = send("storescu", receiver.port, created.ae_title, *files)
        assert len(answers) == len(files)
        with guard:
            for path, answer in zip(files, answers, strict=True):
                (answered if answer == "Success" else refused).add(dcmread_uid(path.read_bytes()))

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    settled(lambda: len(items_of(portal)) >= 5)
    while any(thread.is_alive() for thread in threads):
        with failing(receiver, portal):
            time.sleep(0.05)
        time.sleep(0.1)
    assert len(answered) + len(refused) == 160 and answered and refused
    assert all_open(portal, patient, portal.store) == answered  # type: ignore[arg-type]
    assert len(list(portal.store.keys())) == count_of(portal, created) == len(answered)
    assert trail.verify(portal.database) > 0 and where_marker_is(portal.settings.home, receiver.temporary) == []


@pytest.mark.parametrize(("locked_seconds", "expected"), [(3, "Success"), (33, FAILURE)])
def test_a_database_that_somebody_else_holds_is_waited_for_and_not_for_ever(
    portal: Portal, receiver: Process, created: Created, images: Path, locked_seconds: float, expected: str
) -> None:
    first, second, *_ = sorted(images.iterdir())
    answers: list[str] = []
    other = sqlite3.connect(portal.settings.home / "db" / "myphr.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    sender = threading.Thread(
        target=lambda: answers.extend(send("storescu", receiver.port, created.ae_title, first)), daemon=True
    )
    sender.start()
    sender.join(locked_seconds)
    held = len(items_of(portal))
    other.execute("ROLLBACK")
    other.close()
    sender.join(60)
    assert held == 0 and len(answers) == 1 and expected in answers[0]
    stored = 1 if expected == "Success" else 0
    assert len(items_of(portal)) == len(list(portal.store.keys())) == count_of(portal, created) == stored
    assert list(portal.store.partial_dir.iterdir()) == []
    assert send("storescu", receiver.port, created.ae_title, second) == ["Success"]
    assert len(items_of(portal)) == stored + 1


def test_the_senders_tell_which_answer_they_got(receiver: Process, created: Created, images: Path) -> None:
    """The answers that the tests above read are dcmtk's, and not none."""
    assert shutil.which("storescu") and shutil.which("dcmsend")
    for program in ("storescu", "dcmsend"):
        assert send(program, receiver.port, created.ae_title, *images.iterdir()) == ["Success"] * 4
