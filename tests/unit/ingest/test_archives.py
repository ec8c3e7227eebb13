"""Unpacking zips: what is unpacked, what is refused and why, and that a killed run neither loses nor doubles."""

import io
import os
import struct
import zipfile

import pytest
from sqlmodel import select

from myphr.ingest import archives, identify
from myphr.records import items
from myphr.records.filing import file_sealed
from myphr.records.item_writer import ItemWriter
from myphr.records.models import ArchiveTask, Item
from tests import hostile


def put_zip(portal, signed_in, content: bytes) -> str:
    """The archive as an item with its task, as an upload leaves it. Returns the task's id."""
    task_ids = []
    writer = ItemWriter(
        portal,
        signed_in.account.id,
        owner_public_key=signed_in.login.ring().public_key,
        source="upload",
        source_id=None,
        describe=identify.describe,
    )
    writer.write(content)
    sealed = writer.seal_up("cd.zip")

    def also(db, filed):
        task_ids.append(archives.ask(db, portal.keys.worker.public, filed[0].item, sealed.dek))

    file_sealed(portal, [sealed], owner_public_key=signed_in.login.ring().public_key, also=also)
    return task_ids[0]


def task_of(portal, task_id):
    with portal.database.read() as db:
        return db.get(ArchiveTask, task_id)


def unpacked(portal):
    with portal.database.read() as db:
        return db.exec(select(Item).where(Item.source == "archive")).all()


def names(portal, signed_in):
    return sorted(items.details_of(signed_in.login.ring(), item)["path"] for item in unpacked(portal))


def content_of(portal, signed_in, item):
    opened = items.open_item(portal.store, item, items.dek_of(signed_in.login.ring(), item))
    return opened.read_at(0, opened.plain_bytes)


def test_a_patient_cd_is_unpacked_member_by_member(portal, patient):
    cd = hostile.zip_of(
        ("DICOMDIR", hostile.dicom(*hostile._STUDY)),
        ("IMAGES/1.dcm", hostile.dicom(*hostile._STUDY, b"")),
        ("IMAGES/2.dcm", hostile.dicom(*hostile._STUDY, hostile.element(0x00200013, b"IS", b"2"))),
        ("VIEWER/AUTORUN.EXE", b"MZ" + bytes(100)),
        ("AUTORUN.INF", b"[autorun]\r\nopen=VIEWER\\AUTORUN.EXE\r\n"),
        ("__MACOSX/._1.dcm", b"junk"),
        ("IMAGES/.DS_Store", b"junk"),
        ("EMPTY", b""),
        ("IMAGES/", b""),
    )
    task_id = put_zip(portal, patient, cd)
    archives.expand(portal, task_id)
    task = task_of(portal, task_id)
    assert (task.state, task.members_total, task.members_done, task.dek_for_worker) == ("done", 3, 3, None)
    assert task.members_duplicate == 1  # the same bytes under two names are kept once
    assert task.members_left == 2  # what the disc runs stays in the zip
    assert names(portal, patient) == ["DICOMDIR", "IMAGES/2.dcm"]
    assert {item.format for item in unpacked(portal)} == {"dicom"}
    with portal.database.read() as db:
        assert db.get(Item, task.item_id).deleted_at is None  # the zip itself stays


@pytest.mark.parametrize(
    "name, code",
    [
        ("zip_bomb.zip", "bomb"),
        ("zip_overlap.zip", "overlap"),
        ("zip_count_lies.zip", "too-many"),
        ("zip_many.zip", "too-many"),
        ("zip_encrypted.zip", "encrypted"),
        ("zip_truncated.zip", "damaged"),
        ("zip_garbage.zip", "damaged"),
    ],
)
def test_a_hostile_zip_is_kept_and_not_unpacked_with_a_reason(portal, patient, name, code):
    content = hostile.FILES[name][0]()
    task_id = put_zip(portal, patient, content)
    archives.expand(portal, task_id)
    task = task_of(portal, task_id)
    assert (task.state, task.error_code) == ("refused", code)
    assert task.error_reason and task.dek_for_worker is None
    assert unpacked(portal) == []
    with portal.database.read() as db:
        assert content_of(portal, patient, db.get(Item, task.item_id)) == content


def test_archives_inside_an_archive_stay_archives(portal, patient):
    task_id = put_zip(portal, patient, hostile.zip_nested())
    archives.expand(portal, task_id)
    assert task_of(portal, task_id).state == "done"
    assert {item.format for item in unpacked(portal)} == {"zip"}
    with portal.database.read() as db:
        assert len(db.exec(select(ArchiveTask)).all()) == 1


def test_links_are_never_followed_nor_kept(portal, patient):
    archives.expand(portal, put_zip(portal, patient, hostile.zip_symlinks()))
    assert names(portal, patient) == ["link/inside.txt"]


def test_names_from_an_archive_are_only_names(portal, patient):
    before = set(os.listdir("/tmp"))
    archives.expand(portal, put_zip(portal, patient, hostile.zip_names()))
    assert len(unpacked(portal)) == 12
    assert all(name.isprintable() and len(name) <= 1024 for name in names(portal, patient))
    assert not {name for name in set(os.listdir("/tmp")) - before if "outside" in name}


def test_a_damaged_member_does_not_take_the_others_with_it(portal, patient):
    whole = bytearray(
        hostile.zip_of(("good.txt", b"good" * 100), ("bad.txt", os.urandom(5000)), method=zipfile.ZIP_STORED)
    )
    whole[whole.find(b"bad.txt") + 200] ^= 1
    task_id = put_zip(portal, patient, bytes(whole))
    archives.expand(portal, task_id)
    task = task_of(portal, task_id)
    assert (task.state, task.members_done, task.members_damaged) == ("done", 2, 1)
    assert names(portal, patient) == ["good.txt"]
    assert len(list(portal.store.keys())) == 2


def test_a_member_that_declares_less_than_it_is_gives_no_more_than_it_declares(portal, patient):
    archives.expand(portal, put_zip(portal, patient, hostile.zip_size_lies()))
    assert all(item.plain_bytes <= 1000 for item in unpacked(portal))


def many_members(count):
    return hostile.zip_of(*((f"{number:03d}.txt", b"%d" % number * 40) for number in range(count)))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("die_at", [0, 5, 70, 149])
def test_a_killed_run_is_taken_up_without_loss_or_duplicates(portal, patient, monkeypatch, die_at):
    task_id = put_zip(portal, patient, many_members(150))
    seal_member, calls = archives._Unpacking._seal_member, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == die_at + 1:
            raise Killed
        return seal_member(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(archives._Unpacking, "_seal_member", dying)
        with pytest.raises(Killed):
            archives.expand(portal, task_id)
    assert task_of(portal, task_id).state == "running"
    archives.expand(portal, task_id)
    archives.expand(portal, task_id)  # and once more: nothing happens
    task = task_of(portal, task_id)
    assert (task.state, task.members_done, task.members_duplicate) == ("done", 150, 0)
    assert names(portal, patient) == [f"{number:03d}.txt" for number in range(150)]
    assert len(list(portal.store.keys())) == 151


def test_two_runs_at_once_file_everything_once(portal, patient, monkeypatch):
    """The second run starts and ends while the first is inside its first batch: the first must give way."""
    task_id = put_zip(portal, patient, many_members(100))
    seal_member, started = archives._Unpacking._seal_member, []

    def interrupted(*args, **kwargs):
        if not started:
            started.append(1)
            archives.expand(portal, task_id)
        return seal_member(*args, **kwargs)

    monkeypatch.setattr(archives._Unpacking, "_seal_member", interrupted)
    archives.expand(portal, task_id)
    assert task_of(portal, task_id).state == "done"
    assert len(names(portal, patient)) == 100 and len(list(portal.store.keys())) == 101


def test_a_zip64_archive_is_read(portal, patient):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("a.bin", "w", force_zip64=True) as member:
        member.write(b"sixty-four" * 100)
    whole = bytearray(out.getvalue())
    at = whole.rfind(b"PK\5\6")
    _, _, _, _, count, size, offset, _ = struct.unpack_from("<4s4H2IH", whole, at)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    archives.expand(portal, put_zip(portal, patient, bytes(whole[:at]) + end64 + locator + end))
    [item] = unpacked(portal)
    assert content_of(portal, patient, item) == b"sixty-four" * 100


def test_a_full_record_refuses_the_archive_before_unpacking(tmp_path, redis_url):
    from tests.cast import PATIENT, enter, new_portal

    portal = new_portal(tmp_path / "small", redis_url, record_bytes_max=60_000)
    patient = enter(portal, PATIENT)
    task_id = put_zip(portal, patient, hostile.zip_of(("a.txt", b"x" * 100_000)))
    archives.expand(portal, task_id)
    assert task_of(portal, task_id).error_code == "record-full" and unpacked(portal) == []
    portal.database.dispose()


def test_a_stuck_task_is_put_back(portal, patient):
    task_id = put_zip(portal, patient, many_members(1))
    assert archives.enqueue_stuck(portal) == 0
    with portal.database.write() as db:
        task = db.get(ArchiveTask, task_id)
        task.changed_at -= 2 * archives.STUCK
        db.add(task)
    assert archives.enqueue_stuck(portal) == 1
    assert len(portal.queue.rq.job_ids) == 1
