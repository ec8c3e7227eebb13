"""The time capsule of a disc: images become items, programs stay in the image, and a note says what there was."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlmodel import select

from myphr.errors import EnvelopeError, StoreFull
from myphr.ingest import archives, dicomdir, discs, identify, known_viewers
from myphr.ingest.packing import Contents, Member
from myphr.records import discs as disc_notes
from myphr.records import duplicates, items
from myphr.records.discs import DiscNote, Program
from myphr.records.filing import file_sealed
from myphr.records.item_writer import ItemWriter
from myphr.records.models import ArchiveTask, Item, ItemRepeat
from tests import discs as made
from tests import hostile

ROOT = Path(__file__).parents[3]


def put(portal, signed_in, content, name="cd.iso"):
    """The archive as an item with its task, as an upload leaves it. Returns (item, task's id, None for a duplicate)."""
    ring = signed_in.login.ring()
    task_ids = []
    writer = ItemWriter(
        portal, signed_in.account.id, owner_public_key=ring.public_key, source="upload", source_id=None,
        describe=identify.describe,
    )  # fmt: skip
    writer.write(content)
    sealed = writer.seal_up(name)

    def also(db, filed):
        if not filed[0].duplicate:
            task_ids.append(archives.ask(db, portal.keys.worker.public, filed[0].item, sealed.dek))

    [filed] = file_sealed(portal, [sealed], owner_public_key=ring.public_key, also=also)
    return filed.item, task_ids[0] if task_ids else None


def put_disc(portal, signed_in, content, name="cd.iso"):
    """Unpacked; (task, note)."""
    item, task_id = put(portal, signed_in, content, name)
    archives.expand(portal, task_id)
    return disc_notes.of_item(portal.database, signed_in.login.ring(), item.id)


def paths(portal, signed_in):
    with portal.database.read() as db:
        unpacked = db.exec(select(Item).where(Item.source == "archive")).all()
    return sorted(items.details_of(signed_in.login.ring(), item)["path"] for item in unpacked)


@pytest.mark.parametrize("kind", ["iso", "zip", "zip in a folder"])
def test_a_disc_brings_its_images_and_keeps_its_programs(portal, patient, kind):
    files = made.patient_cd()
    inside = {f"Disc of May/{path}": content for path, content in files.items()} if "folder" in kind else files
    content = made.iso_of(files) if kind == "iso" else hostile.zip_of(*inside.items())
    task, note = put_disc(portal, patient, content)
    images = [path for path in inside if "/IM" in path]
    letters = [path for path in inside if path.endswith(("LETTER.PDF", "DICOMDIR"))]
    assert paths(portal, patient) == sorted(images + letters)
    assert (task.members_total, task.members_done, task.members_left) == (14, 14, 12)
    assert note.is_disc and note.is_image == (kind == "iso") and note.programs_count == 12
    assert (note.listed, note.listed_images, note.found, note.missing_count) == (15, 15, 12, 3)
    assert sorted(path[-5:] for path in note.missing) == ["GONE1", "GONE2", "GONE3"]
    assert note.starts.system == "windows" and note.starts.path.endswith("EFILMLITE/EFILMLT.EXE")
    assert [(one.name, one.system) for one in note.viewers] == [("eFilm Lite", "windows")]
    assert note.autorun == {
        "open": "eFilmLite\\eFilmLT.exe -autoplay", "icon": "efilm.ico,0", "label": "Harbour Hospital"
    }  # fmt: skip
    assert note.label == ("PATIENT_CD" if kind == "iso" else "")
    with portal.database.read() as db:
        disc = db.get(Item, task.item_id)
    opened = items.open_item(portal.store, disc, items.dek_of(patient.login.ring(), disc))
    assert opened.read_at(0, opened.plain_bytes) == content  # kept whole, for the day its own viewer is wanted


def test_a_zip_that_is_no_disc_gives_all_its_files(portal, patient):
    task, note = put_disc(portal, patient, hostile.zip_of(("a/setup.exe", made.PE), ("a/readme.txt", b"words")))
    assert paths(portal, patient) == ["a/readme.txt", "a/setup.exe"] and task.members_left == 0 and not note.is_disc


def test_an_image_beside_its_viewer_in_one_folder_is_never_taken_for_a_program(portal, patient):
    """Flat discs, and those whose images bear the suffix of a program."""
    put_disc(portal, patient, made.iso_of({
        "VIEWER.EXE": made.PE, "IM1": made.image(1), "IM2.COM": made.image(2), "X/RUN.EXE": made.PE,
        "X/IM3.DLL": made.image(3), "X/HELP.HTM": b"<!doctype html><html></html>", "X/REPORT.PDF": b"%PDF-1.4 x",
    }))  # fmt: skip
    assert paths(portal, patient) == ["IM1", "IM2.COM", "X/HELP.HTM", "X/IM3.DLL", "X/REPORT.PDF"]


def test_a_recorders_disc_of_unknown_data_gives_all_but_its_programs(portal, patient):
    task, _ = put_disc(portal, patient, made.iso_of({
        "HOLTER/PLAYER.EXE": made.PE, "HOLTER/PATIENT.DAT": os.urandom(5000), "HOLTER/PATIENT.IDX": os.urandom(50),
    }))  # fmt: skip
    assert paths(portal, patient) == ["HOLTER/PATIENT.DAT", "HOLTER/PATIENT.IDX"] and task.members_left == 1


def test_letters_of_a_viewers_folder_are_items_and_its_manual_is_not(portal, patient):
    put_disc(portal, patient, made.iso_of({
        "IM1": made.image(1), "V/RUN.EXE": made.PE, "V/LETTER.PDF": b"%PDF-1.4 dear", "V/DOC/MANUAL.PDF": b"%PDF-1.4 m",
        "V/PICTURE.PNG": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }))  # fmt: skip
    assert paths(portal, patient) == ["IM1", "V/LETTER.PDF"]


# -- autorun.inf, DICOMDIR and names ------------------------------------------------------------------------
def survey(**files):
    named = {path.replace("__", "/").replace("_DOT_", "."): content for path, content in files.items()}
    members = [Member(path, len(content), content) for path, content in named.items()]
    found = discs.survey(Contents(members, {}, None), lambda member, most: member.where[:most])
    return found.note


@pytest.mark.parametrize(
    "text, starts",
    [
        (b"[autorun]\nopen=VIEW\\START.EXE /cd /auto", "VIEW/START.EXE"),
        (b"[AUTORUN]\r\nOpen = \"view\\start\"", "VIEW/START.EXE"),
        ("[autorun]\r\nshellexecute=.\\View\\Start.exe".encode("utf-16"), "VIEW/START.EXE"),
        (b"[autorun.amd64]\nopen=nothing.exe here", "NOTHING.EXE"),
        (b"open=VIEW\\START.EXE", None),
        (b"[autorun]\nopen=", None),
        (b"\xff\xfe", None),
        (os.urandom(3000), None),
    ],
)  # fmt: skip
def test_autorun_is_read_as_makers_write_it(text, starts):
    note = survey(AUTORUN_DOT_INF=text, VIEW__START_DOT_EXE=made.PE)
    assert (note.starts.path if note.starts else None) == starts


def test_a_dicomdir_that_points_outside_is_only_compared():
    note = survey(DICOMDIR=made.dicomdir({"../../../etc/passwd".upper(): "1.2"}))
    assert (note.listed, note.found, note.missing) == (1, 0, ("../../../ETC/PASSWD",))
    assert survey(DICOMDIR=b"no table").listed == 0


def test_names_with_versions_and_dots_are_what_a_dicomdir_means():
    assert survey(**{"DICOMDIR;1": made.dicomdir({"A/IM1": "1.2"}), "a__im1.;1": b"x"}).found == 1


@pytest.mark.parametrize("cut", range(0, 700, 23))
def test_a_dicomdir_cut_anywhere_lists_what_it_can(cut):
    whole = made.dicomdir({f"A/IM{number}": f"1.2.{number}" for number in range(3)})
    assert len(dicomdir.read(whole)) == 3
    assert len(dicomdir.read(whole[:cut])) <= 3


@pytest.mark.parametrize(
    "path, name",
    [
        ("eFilmLite/eFilmLT.exe", "eFilm Lite"), ("OsiriX Lite.app/Contents/MacOS/OsiriX Lite", "OsiriX Lite"),
        ("weasis/viewer-win32.exe", "Weasis"), ("MicroDicom/mDicom.exe", "MicroDicom"),
        ("RadiAntViewer64bit/RadiAntViewer.exe", "RadiAnt"), ("PMSDVIEW/PmsDView.exe", "Philips DICOM Viewer"),
        ("Centricity/bin/x.dll", "GE Centricity DICOM Viewer"), ("SECTRA/run.exe", "Sectra viewer"),
        ("DICOM/IM00001", None), ("REPORT/PHILIPS_REPORT.PDF", None),
    ],
)  # fmt: skip
def test_viewers_are_known_by_their_files(path, name):
    assert known_viewers.name_of(path) == name


def test_a_note_opens_for_its_owner_only_and_holds_its_names_sealed(portal, patient, stranger):
    note = DiscNote(is_disc=True, label="MUELLER", starts=Program("", "A.EXE", "windows"), missing=("X",), listed=3)
    sealed = disc_notes.seal(patient.login.ring().public_key, "a", note)
    assert disc_notes.open_note(patient.login.ring(), "a", sealed) == note and b"MUELLER" not in sealed
    for ring, task_id in ((stranger.login.ring(), "a"), (patient.login.ring(), "b")):
        with pytest.raises(EnvelopeError):
            disc_notes.open_note(ring, task_id, sealed)


# -- faults -------------------------------------------------------------------------------------------------
def test_the_same_disc_twice_adds_nothing_and_says_so(portal, patient):
    content = made.iso_of(made.patient_cd())
    disc, _ = put(portal, patient, content)
    before = set(portal.store.keys())
    again, task_id = put(portal, patient, content, "again.iso")
    assert again.id == disc.id and task_id is None and set(portal.store.keys()) == before
    found = duplicates.again(portal.database, patient.login.ring(), disc)
    assert [one.name for one in found.repeats] == ["again.iso"]


def test_a_disc_and_a_zip_of_it_share_their_files_and_each_says_so(portal, patient):
    files = made.patient_cd()
    put_disc(portal, patient, made.iso_of(files))
    kept = set(portal.store.keys())
    task, _ = put_disc(portal, patient, hostile.zip_of(*files.items()), "cd.zip")
    assert (task.members_total, task.members_duplicate) == (14, 14)
    assert len(set(portal.store.keys()) - kept) == 1  # the zip itself
    with portal.database.read() as db:
        assert {row.source_id for row in db.exec(select(ItemRepeat))} == {task.item_id}


def test_two_discs_at_once_with_the_same_files_file_each_once(portal, patient):
    files = made.patient_cd(images=90, missing=0)
    tasks = [put(portal, patient, made.iso_of(files))[1], put(portal, patient, hostile.zip_of(*files.items()))[1]]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(archives.expand, portal, task_id) for task_id in tasks]:
            one.result()
    with portal.database.read() as db:
        rows = [db.get(ArchiveTask, task_id) for task_id in tasks]
    assert [(row.state, row.members_done) for row in rows] == [("done", 92)] * 2
    assert sum(row.members_duplicate for row in rows) == 92
    assert len(paths(portal, patient)) == 92 and len(list(portal.store.keys())) == 94


def test_what_is_deleted_while_its_disc_comes_again_is_stored_again(portal, patient, monkeypatch):
    """Left out of the store as known, and gone from the record before the commit."""
    from myphr.audit.trail import Actor

    put_disc(portal, patient, made.iso_of({"IM1": made.image(1)}))
    _, task_id = put(portal, patient, hostile.zip_of(("IM1", made.image(1))), "cd.zip")
    held = archives.held

    def deleting(parts, sealed):
        known = held(parts, sealed)
        with portal.database.read() as db:
            there = db.exec(select(Item).where(Item.format == "dicom", Item.deleted_at.is_(None))).all()
        for item in there:
            items.remove_item(portal.database, patient.account.id, item.id, Actor("patient", patient.account.id))
        return known

    monkeypatch.setattr(archives, "held", deleting)
    archives.expand(portal, task_id)
    with portal.database.read() as db:
        [item] = db.exec(select(Item).where(Item.format == "dicom", Item.deleted_at.is_(None))).all()
    opened = items.open_item(portal.store, item, items.dek_of(patient.login.ring(), item))
    assert opened.read_at(0, opened.plain_bytes) == made.image(1)


@pytest.mark.parametrize("name", ["zip_bomb.zip", "zip_garbage.zip"])
def test_a_refused_archive_has_no_note(portal, patient, name):
    task, note = put_disc(portal, patient, hostile.FILES[name][0](), name)
    assert task.state == "refused" and note is None


def test_a_worker_that_is_killed_in_a_disc_loses_and_doubles_nothing(portal, patient, tmp_path):
    """A process of its own, killed twice while it seals; then one that may finish."""
    files = made.patient_cd(images=120, missing=0)
    item, task_id = put(portal, patient, made.iso_of(files))
    program = f"""
import pathlib, sys
from tests.cast import cheap_settings
from myphr.portal import Portal
from myphr.ingest import archives
portal = Portal(cheap_settings(pathlib.Path({str(portal.settings.home)!r}), {portal.settings.redis_url!r}))
archives.BATCH_MEMBERS = 16
archives.expand(portal, {task_id!r})
"""
    seen = -1
    for _ in range(2):
        worker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)})
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with portal.database.read() as db:
                done = db.get(ArchiveTask, task_id).members_done
            if done > max(seen, 0) and done > 0:
                break
            time.sleep(0.005)
        seen = done
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    with portal.database.read() as db:
        assert db.get(ArchiveTask, task_id).state == "running"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    task, note = disc_notes.of_item(portal.database, patient.login.ring(), item.id)
    assert (task.state, task.members_done, task.members_duplicate, task.dek_for_worker) == ("done", 122, 0, None)
    assert note.listed == note.found == 120
    assert len(paths(portal, patient)) == 122
    assert not any(files["DICOM/IM00001"][300:] in path.read_bytes() for path in _files(portal, tmp_path))
    items.sweep_orphans(portal.database, portal.store, older_than_seconds=0)  # what was sealed and not yet filed
    assert len(list(portal.store.keys())) == 123


def _files(portal, *folders):
    return [path for folder in (portal.settings.home, *folders) for path in folder.rglob("*") if path.is_file()]


def test_a_full_disk_leaves_nothing_half_stored_and_is_taken_up(portal, patient, monkeypatch):
    files = made.patient_cd(images=150, missing=0)
    item, task_id = put(portal, patient, made.iso_of(files))
    create, calls = type(portal.store).create, []

    def full(self, key):
        calls.append(key)
        if len(calls) > 100:
            raise StoreFull()
        return create(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(portal.store), "create", full)
        with pytest.raises(StoreFull):  # the queue tries again later
            archives.expand(portal, task_id)
    with portal.database.read() as db:
        assert db.get(ArchiveTask, task_id).members_done == 64
    assert len(list(portal.store.keys())) == 65
    archives.expand(portal, task_id)
    task, _ = disc_notes.of_item(portal.database, patient.login.ring(), item.id)
    assert (task.state, task.members_done, task.members_duplicate) == ("done", 152, 0)


def test_an_erased_disc_takes_its_note_along(portal, patient):
    from myphr.audit.trail import Actor

    task, note = put_disc(portal, patient, made.iso_of(made.patient_cd()))
    assert note is not None
    items.remove_item(portal.database, patient.account.id, task.item_id, Actor("patient", patient.account.id))
    items.erase_removed(portal.database, portal.store)
    with portal.database.read() as db:
        assert db.get(ArchiveTask, task.id).sealed_note is None
    assert len(paths(portal, patient)) == 14  # what came of it stays
