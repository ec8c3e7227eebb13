"""Exports: foreign programs take the zip, it holds what there was at the asking, and no fault makes a broken one."""

import contextlib
import datetime as dt
import hashlib
import io
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from fhir.resources.R4B.bundle import Bundle
from pydicom.uid import generate_uid
from sqlmodel import select

from myphr.audit import trail
from myphr.audit.models import AuditEvent
from myphr.crypto import container
from myphr.database import now
from myphr.errors import EnvelopeError, FormRefused, NotFound, StoreFull
from myphr.ingest import archives, identify
from myphr.records import deletions, export_orders, exports, removal
from myphr.records.items import details_of
from myphr.records.models import ArchiveTask, Export, Item
from tests.cast import SignedIn
from tests.web.stage import dicom_bytes, put_in

HOSTILE = ("../../etc/passwd", "a\nb.txt", "back\\slash.txt", "Brief von Dr. Müller.pdf", "CON", "\u202etxt.exe", "-rf")


@pytest.fixture
def record(portal, patient: SignedIn) -> dict[str, bytes]:
    """A study of two series, letters with odd names, a file larger than a block: content by SHA-256."""
    uid = generate_uid()
    contents = [dicom_bytes(uid, number, SeriesNumber=1, StudyDate="20210203") for number in (1, 2, 3)]
    contents += [b"%PDF-1.4 letter", bytes(range(256)) * 8192 + b"large", *(name.encode() for name in HOSTILE)]
    names = ["a", "b", "c", "letter.pdf", "large.bin", *HOSTILE]
    for name, content in zip(names, contents, strict=True):
        put_in(portal, patient.account.id, content, name, path=f"disc/{name}")
    return {hashlib.sha256(content).hexdigest(): content for content in contents}


def row_of(portal, export_id: str) -> Export:
    with portal.database.read() as db:
        return db.get(Export, export_id)


def change(portal, export_id: str, **values) -> None:
    with portal.database.write() as db:
        row = db.get(Export, export_id)
        for key, value in values.items():
            setattr(row, key, value)
        db.add(row)


def order_of(portal, export_id: str) -> set[str]:
    """The objects of its order's pieces."""
    return {key for key in objects(portal) if key.startswith(f"{export_id}.order-")}


def make(portal, export_id: str) -> None:
    exports.run(portal, export_id, identify.pronom_of)


def zip_of(portal, owner: SignedIn, export_id: str) -> bytes:
    with contextlib.closing(exports.open_zip(portal, owner.login, export_id)) as opened:
        return opened.read_at(0, opened.plain_bytes)


def made(portal, owner: SignedIn) -> zipfile.ZipFile:
    export_id = exports.ask(portal, owner.login)
    make(portal, export_id)
    assert row_of(portal, export_id).state == "ready"
    return zipfile.ZipFile(io.BytesIO(zip_of(portal, owner, export_id)))


def objects(portal) -> set[str]:
    return {*portal.store.keys(), *(path.name for path in portal.store.partial_dir.iterdir())}


def events(portal) -> list[str]:
    with portal.database.read() as db:
        return [event for event in db.exec(select(AuditEvent.event).order_by(AuditEvent.number)) if "export" in event]


# -- what is in it --------------------------------------------------------------------------------
def test_unzip_and_sha256sum_take_it_and_every_original_is_in_it(portal, patient, record, tmp_path: Path) -> None:
    archive = made(portal, patient)
    file = tmp_path / "everything.zip"
    file.write_bytes(archive.fp.getvalue())
    assert subprocess.run(["unzip", "-t", file], capture_output=True).returncode == 0
    assert subprocess.run(["unzip", "-q", file, "-d", tmp_path / "out"], capture_output=True).returncode == 0
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    out = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    originals = [path for path in out if path.relative_to(tmp_path / "out").parts[0] == "files"]
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in originals} == record.keys()
    assert len(out) == len(record) + 4


def test_a_flipped_bit_is_found_by_the_checksums(portal, patient, record, tmp_path: Path) -> None:
    made(portal, patient).extractall(tmp_path)
    victim = next(path for path in (tmp_path / "files").rglob("*") if path.is_file())
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True).returncode == 1


def test_the_manifest_names_each_file_with_its_size_sum_format_and_origin(portal, patient, record) -> None:
    archive = made(portal, patient)
    manifest = json.loads(archive.read("manifest.json"))
    files = {one["sha256"]: one for one in manifest["files"]}
    assert files.keys() == record.keys() and manifest["name"] == patient.person.name
    for digest, one in files.items():
        assert archive.read(one["path"]) == record[digest] and one["size"] == len(record[digest])
    letter = files[hashlib.sha256(b"%PDF-1.4 letter").hexdigest()]
    assert (letter["format"], letter["media_type"], letter["name"]) == ("pdf", "application/pdf", "letter.pdf")
    assert letter["pronom"] and letter["source"] == "upload" and letter["original_path"] == "disc/letter.pdf"
    images = [one for one in files.values() if one["format"] == "dicom"]
    assert all(one["labels"]["day"] == "2021-02-03" and one["study"] for one in images)
    [study] = manifest["studies"]
    assert (study["instances"], study["modalities"]) == (3, ["MR"])


def test_the_bundle_is_read_by_a_strict_reader_and_points_at_the_files(portal, patient, record) -> None:
    archive = made(portal, patient)
    raw = archive.read("fhir-bundle.json")
    Bundle.model_validate_json(raw)
    kinds = [entry["resource"]["resourceType"] for entry in json.loads(raw)["entry"]]
    assert kinds.count("DocumentReference") == len(record) and kinds.count("ImagingStudy") == 1


def test_the_readme_says_it_in_plain_words(portal, patient, record) -> None:
    text = made(portal, patient).read("README.txt").decode()
    assert patient.person.name in text and "sha256sum -c SHA256SUMS" in text and "NOT sealed" in text
    assert "3 images" in text and "letter.pdf: PDF" in text


def test_no_name_leads_out_of_the_folder(portal, patient, record) -> None:
    for name in made(portal, patient).namelist():
        assert not name.startswith("/") and ".." not in name.split("/") and "\\" not in name and "\n" not in name


def test_put_into_an_empty_record_it_gives_the_same_files(portal, patient, stranger, record) -> None:
    content = made(portal, patient).fp.getvalue()
    item = put_in(portal, stranger.account.id, content, "everything.zip")
    from myphr.records.items import dek_of

    with portal.database.write() as db:
        task_id = archives.ask(db, portal.keys.worker.public, item, dek_of(stranger.login.ring(), item))
    archives.expand(portal, task_id)
    with portal.database.read() as db:
        assert db.get(ArchiveTask, task_id).state == "done"
        mine = db.exec(select(Item).where(Item.account_id == stranger.account.id, Item.source == "archive")).all()
        before = db.exec(select(Item).where(Item.account_id == patient.account.id)).all()
    assert {details_of(stranger.login.ring(), one)["sha256"] for one in mine} == record.keys()
    assert sorted(one.format for one in mine) == sorted(one.format for one in before)


def test_zip64_is_read_by_unzip_too(portal, patient, record, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    content = made(portal, patient).fp.getvalue()
    assert b"PK\x06\x06" in content  # the end record of zip64
    (tmp_path / "e.zip").write_bytes(content)
    assert subprocess.run(["unzip", "-t", tmp_path / "e.zip"], capture_output=True).returncode == 0


def test_what_comes_after_the_asking_is_not_in_it(portal, patient, record) -> None:
    export_id = exports.ask(portal, patient.login)
    put_in(portal, patient.account.id, b"came later", "later.txt")
    make(portal, export_id)
    archive = zipfile.ZipFile(io.BytesIO(zip_of(portal, patient, export_id)))
    assert not any("later" in name for name in archive.namelist()) and len(archive.namelist()) == len(record) + 4


# -- who opens it ---------------------------------------------------------------------------------
def test_nothing_of_it_stands_in_clear_and_a_strangers_ring_opens_nothing(portal, patient, stranger, record) -> None:
    export_id = exports.ask(portal, patient.login)
    everywhere = [p for p in portal.settings.home.rglob("*") if p.is_file() and "key" not in p.parts]
    assert not any(b"letter.pdf" in p.read_bytes() for p in everywhere)
    make(portal, export_id)
    row = row_of(portal, export_id)
    assert row.key_for_worker is None and order_of(portal, export_id) == set()
    portal.database.dispose()
    for path in portal.settings.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"letter.pdf" not in content and b"%PDF-1.4 letter" not in content, path
    with pytest.raises(NotFound):
        exports.open_zip(portal, stranger.login, export_id)
    with pytest.raises(EnvelopeError):
        stranger.login.ring().open(row.sealed_key, context=exports._key_context(export_id))


def test_every_step_is_in_the_trail(portal, patient, record) -> None:
    made(portal, patient)
    export_id = exports.latest(portal, patient.login).id
    exports.note_download(portal, patient.login, export_id)
    exports.remove(portal, patient.login, export_id)
    assert events(portal) == ["export-asked", "export-ready", "export-downloaded", "export-removed"]
    assert trail.verify(portal.database) > 0


# -- its life -------------------------------------------------------------------------------------
def test_an_empty_record_makes_none(portal, patient) -> None:
    with pytest.raises(FormRefused):
        exports.ask(portal, patient.login)


def test_there_is_one_at_a_time(portal, patient, record) -> None:
    first = exports.ask(portal, patient.login)
    assert exports.ask(portal, patient.login) == first
    make(portal, first)
    assert exports.ask(portal, patient.login) == first
    exports.remove(portal, patient.login, first)
    assert exports.ask(portal, patient.login) != first
    assert len([key for key in objects(portal) if ".order-" in key]) == 1


def test_no_room_is_told_before_anything_is_written(portal, patient, record, monkeypatch) -> None:
    import collections

    before = objects(portal)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(exports.shutil, "disk_usage", lambda path: usage(1, 1, exports.FREE_BYTES_MIN + 1))
    with pytest.raises(StoreFull):
        exports.ask(portal, patient.login)
    assert objects(portal) == before and exports.latest(portal, patient.login) is None


def test_a_disk_that_fills_up_is_told_and_nothing_is_left(portal, patient, record, monkeypatch) -> None:
    export_id = exports.ask(portal, patient.login)
    before = objects(portal) - order_of(portal, export_id)
    monkeypatch.setattr(container.ChunkSealer, "seal_chunks", lambda *_: (_ for _ in ()).throw(StoreFull()))
    make(portal, export_id)
    row = row_of(portal, export_id)
    assert (row.state, row.error_code, row.sealed_key, row.key_for_worker) == ("failed", "store-full", b"", None)
    assert objects(portal) == before and events(portal)[-1] == "export-failed"
    monkeypatch.undo()
    made(portal, patient)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill -9."""


def test_a_worker_killed_in_the_middle_leaves_no_zip_and_the_next_run_begins_anew(
    portal, patient, record, monkeypatch
) -> None:
    export_id = exports.ask(portal, patient.login)
    whole, seen = container.ChunkSealer.seal_chunks, []

    def dies(self, plaintext, last):
        seen.append(self.header)
        raise Killed

    monkeypatch.setattr(container.ChunkSealer, "seal_chunks", dies)
    with pytest.raises(Killed):
        make(portal, export_id)
    monkeypatch.setattr(container.ChunkSealer, "seal_chunks", whole)
    assert row_of(portal, export_id).state == "running"
    with pytest.raises(NotFound):
        exports.open_zip(portal, patient.login, export_id)
    make(portal, export_id)  # too early: somebody may be at it
    assert row_of(portal, export_id).state == "running"
    change(portal, export_id, changed_at=now() - 2 * exports.STUCK)
    assert exports.enqueue_stuck(portal) == 1
    make(portal, export_id)
    assert zipfile.ZipFile(io.BytesIO(zip_of(portal, patient, export_id))).testzip() is None
    with contextlib.closing(portal.store.open(row_of(portal, export_id).object_key)) as reader:
        assert reader.read_at(0, container.HEADER_BYTES) not in seen  # another salt: no key and nonce twice


def test_killed_between_the_file_and_the_row_it_begins_anew_and_leaves_one_file(
    portal, patient, record, monkeypatch
) -> None:
    export_id = exports.ask(portal, patient.login)
    note, before = exports.trail.record, objects(portal) - order_of(portal, export_id)

    def dies(db, event, **rest):
        if event == "export-ready":
            raise Killed
        return note(db, event, **rest)

    monkeypatch.setattr(exports.trail, "record", dies)
    with pytest.raises(Killed):
        make(portal, export_id)
    monkeypatch.setattr(exports.trail, "record", note)
    change(portal, export_id, changed_at=now() - 2 * exports.STUCK)
    make(portal, export_id)
    assert row_of(portal, export_id).state == "ready"
    assert objects(portal) - before == {row_of(portal, export_id).object_key}


def test_a_run_that_was_overtaken_files_nothing(portal, patient, record, monkeypatch) -> None:
    export_id = exports.ask(portal, patient.login)
    look = exports._look

    def overtaken(*args):
        found = look(*args)
        change(portal, export_id, run_id="another")
        return found

    before = objects(portal)
    monkeypatch.setattr(exports, "_look", overtaken)
    make(portal, export_id)
    assert row_of(portal, export_id).state == "running" and objects(portal) == before


def test_a_finished_one_is_not_made_twice(portal, patient, record) -> None:
    export_id = exports.ask(portal, patient.login)
    make(portal, export_id)
    before = objects(portal)
    make(portal, export_id)
    assert objects(portal) == before


@pytest.mark.parametrize("how", ["remove", "expire", "delete"])
def test_when_it_is_over_its_key_and_file_are_gone(portal, patient, record, how: str) -> None:
    export_id = exports.ask(portal, patient.login)
    make(portal, export_id)
    key = row_of(portal, export_id).object_key
    if how == "remove":
        exports.remove(portal, patient.login, export_id)
    elif how == "expire":
        change(portal, export_id, expires_at=now() - dt.timedelta(seconds=1))
        with pytest.raises(NotFound):
            exports.open_zip(portal, patient.login, export_id)
        exports.sweep(portal)
    else:
        with portal.database.read() as db:
            item_id = db.exec(select(Item.id)).first()
        removal.remove_item(portal.database, patient.account.id, item_id, trail.Actor("patient", patient.account.id))
        removal.erase_removed(portal.database, portal.store)
    row = row_of(portal, export_id)
    assert (row.sealed_key, row.object_key) == (b"", None) and key not in objects(portal)
    assert row.state == ("expired" if how == "expire" else "removed")


def test_removed_while_it_is_made_it_is_never_finished(portal, patient, record, monkeypatch) -> None:
    export_id = exports.ask(portal, patient.login)
    look = exports._look
    monkeypatch.setattr(exports, "_look", lambda *a: (look(*a), exports.remove(portal, patient.login, export_id))[0])
    make(portal, export_id)
    row = row_of(portal, export_id)
    assert (row.state, row.sealed_key, row.key_for_worker) == ("removed", b"", None)
    assert not any(key.startswith(export_id) for key in objects(portal))


def test_a_file_left_after_a_crash_in_the_removal_is_swept(portal, patient, record, monkeypatch) -> None:
    export_id = exports.ask(portal, patient.login)
    make(portal, export_id)
    monkeypatch.setattr(exports, "_delete_objects", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        exports.remove(portal, patient.login, export_id)
    monkeypatch.undo()
    assert row_of(portal, export_id).sealed_key == b""
    exports.sweep(portal)
    assert not any(key.startswith(export_id) for key in objects(portal))


# -- damage ---------------------------------------------------------------------------------------
def damage(portal, name: str, patient: SignedIn, at: int) -> str:
    with portal.database.read() as db:
        items = db.exec(select(Item)).all()
    item = next(one for one in items if details_of(patient.login.ring(), one)["name"] == name)
    path = portal.store.path_of(item.object_key)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    return item.id


@pytest.mark.parametrize(("name", "at"), [("letter.pdf", 140), ("large.bin", -1)])
def test_a_damaged_file_is_left_out_and_named_and_all_others_are_there(
    portal, patient, record, tmp_path: Path, name: str, at: int
) -> None:
    item_id = damage(portal, name, patient, at)
    archive = made(portal, patient)
    assert archive.testzip() is None
    manifest = json.loads(archive.read("manifest.json"))
    assert [one["item"] for one in manifest["missing"]] == [item_id] and len(manifest["files"]) == len(record) - 1
    assert "NOT in this copy" in archive.read("README.txt").decode()
    archive.extractall(tmp_path)
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True).returncode == 0
    assert exports.latest(portal, patient.login).items_missing == 1


def test_a_damaged_row_does_not_keep_the_rest_from_its_owner(portal, patient, record) -> None:
    with portal.database.write() as db:
        item = db.exec(select(Item)).first()
        item.sealed_details = b"damaged"
        db.add(item)
    manifest = json.loads(made(portal, patient).read("manifest.json"))
    assert [one["item"] for one in manifest["missing"]] == [item.id] and len(manifest["files"]) == len(record) - 1


def test_no_sum_stands_for_another_file(portal, patient, record) -> None:
    """Control of the tests above: the sums are those of the bytes, not merely lines."""
    archive = made(portal, patient)
    lines = archive.read("SHA256SUMS").decode().splitlines()
    for line in lines:
        digest, _, path = line.partition("  ")
        assert hashlib.sha256(archive.read(path)).hexdigest() == digest
    assert {line.partition("  ")[2] for line in lines} == set(archive.namelist()) - {"SHA256SUMS"}


# -- the order, step by step ----------------------------------------------------------------------
@pytest.fixture
def small_steps(monkeypatch) -> None:
    """Two files a step, as if opening were slow."""
    monkeypatch.setattr(export_orders, "BATCH", 2)
    monkeypatch.setattr(exports, "STEP_SECONDS", 0)


@pytest.fixture
def seven(portal, patient) -> list[str]:
    return [put_in(portal, patient.account.id, b"letter %d" % number, f"{number}.txt").id for number in range(7)]


def test_a_large_record_is_opened_step_by_step_and_the_worker_gets_the_key_with_the_last(
    portal, patient, seven, small_steps
) -> None:
    export_id = exports.ask(portal, patient.login)
    for opened in (2, 4, 6):
        row = row_of(portal, export_id)
        assert (row.state, row.items_opened, row.key_for_worker) == ("preparing", opened, None)
        assert exports.latest(portal, patient.login).is_under_way
        make(portal, export_id)  # the job, too early: nothing happens
        assert exports.ask(portal, patient.login) == export_id  # nor is there a second one
        assert len(order_of(portal, export_id)) == opened // 2
        assert exports.go_on(portal, patient.login) is (opened < 6)
    row = row_of(portal, export_id)
    assert (row.state, row.items_opened) == ("waiting", 7) and row.key_for_worker
    assert exports.go_on(portal, patient.login) is False
    make(portal, export_id)
    with contextlib.closing(exports.open_zip(portal, patient.login, export_id)) as opened:
        zipped = zipfile.ZipFile(io.BytesIO(opened.read_at(0, opened.plain_bytes)))
    assert zipped.testzip() is None
    files = {name: zipped.read(name) for name in zipped.namelist() if name.startswith("files/")}
    assert files == {f"files/{number}.txt": b"letter %d" % number for number in range(7)}
    assert order_of(portal, export_id) == set()


def test_what_comes_while_files_are_opened_is_not_in_it(portal, patient, seven, small_steps) -> None:
    export_id = exports.ask(portal, patient.login)
    put_in(portal, patient.account.id, b"later", "later.txt")
    while exports.go_on(portal, patient.login):
        pass
    assert row_of(portal, export_id).items_opened == 7


def test_two_windows_at_once_keep_one_step_and_throw_the_other_away(
    portal, patient, seven, small_steps, monkeypatch
) -> None:
    export_id = exports.ask(portal, patient.login)
    step = export_orders.step

    def overtaken(*given):
        found = step(*given)
        monkeypatch.setattr(export_orders, "step", step)
        assert exports.go_on(portal, patient.login)  # the other window
        return found

    monkeypatch.setattr(export_orders, "step", overtaken)
    assert exports.go_on(portal, patient.login)
    assert row_of(portal, export_id).items_opened == 4 and len(order_of(portal, export_id)) == 2


def test_somebody_else_does_not_push_it_on(portal, patient, stranger, seven, small_steps) -> None:
    export_id = exports.ask(portal, patient.login)
    assert exports.go_on(portal, stranger.login) is False
    assert row_of(portal, export_id).items_opened == 2


@pytest.mark.parametrize("how", ["removed", "deleted", "left alone"])
def test_an_order_that_is_given_up_leaves_nothing(portal, patient, seven, small_steps, how: str) -> None:
    export_id = exports.ask(portal, patient.login)
    exports.go_on(portal, patient.login)
    if how == "removed":
        exports.remove(portal, patient.login, export_id)
    elif how == "deleted":
        deletions.delete_item(portal, patient.login, seven[0])
    else:
        exports.sweep(portal)
        assert row_of(portal, export_id).state == "preparing"
        change(portal, export_id, changed_at=now() - exports.KEPT - dt.timedelta(seconds=1))
        exports.sweep(portal)
    row = row_of(portal, export_id)
    assert row.state == ("expired" if how == "left alone" else "removed")
    assert row.sealed_key == b"" and order_of(portal, export_id) == set()
    assert exports.go_on(portal, patient.login) is False


@pytest.mark.parametrize("change_it", ["swapped", "cut", "twice"])
def test_pieces_that_were_exchanged_make_no_zip(portal, patient, seven, small_steps, change_it: str) -> None:
    export_id = exports.ask(portal, patient.login)
    while exports.go_on(portal, patient.login):
        pass
    pieces = json.loads(row_of(portal, export_id).order_pieces)
    pieces = {"swapped": pieces[::-1], "cut": pieces[1:], "twice": [*pieces[:1], *pieces]}[change_it]
    change(portal, export_id, order_pieces=json.dumps(pieces))
    make(portal, export_id)
    assert (row_of(portal, export_id).state, row_of(portal, export_id).error_code) == ("failed", "order-lost")


def test_no_name_or_key_of_a_file_stands_in_the_row_or_the_pieces(portal, patient, seven, small_steps) -> None:
    export_id = exports.ask(portal, patient.login)
    with portal.database.read() as db:
        dek = patient.login.ring().open_dek(db.get(Item, seven[0]))
    stored = b"".join(path.read_bytes() for path in (portal.settings.home / "store").rglob("*.order-*"))
    stored += b"".join(path.read_bytes() for path in (portal.settings.home / "db").iterdir())
    assert len(order_of(portal, export_id)) == 1 and b"0.txt" not in stored and dek.hex().encode() not in stored
