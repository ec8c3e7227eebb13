"""Deleting with proof: afterwards nothing that is left opens the old bytes, and the proof of it can be checked."""

import contextlib
import copy
import itertools
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from sqlalchemy import MetaData
from sqlmodel import select

from myphr.audit import trail
from myphr.audit.models import AuditEvent
from myphr.cli import main
from myphr.database import now
from myphr.errors import CertificateWrong, ContainerError, EnvelopeError, NotFound
from myphr.ingest import identify
from myphr.records import deletions, exports
from myphr.records.models import Deletion, Item, ItemPreview, ItemReading, RecordIndex
from myphr.records.opening import dek_context, open_item
from myphr.records.store import open_store
from myphr.sharing import forgetting
from myphr.sharing.record_models import ItemWrap
from tests.cast import SignedIn, new_portal
from tests.web.stage import dicom_bytes, put_in

CONTENT = b"the letter that has to go " * 4000


@pytest.fixture
def letter(portal, patient: SignedIn) -> Item:
    put_in(portal, patient.account.id, b"stays", "stays.txt")
    return put_in(portal, patient.account.id, CONTENT, "Letter of Dr Berger.txt")


def delete(portal, patient: SignedIn, item_id: str) -> str:
    return deletions.delete_item(portal, patient.login, item_id, (forgetting.forget_items,))


def blobs_of(portal) -> set[bytes]:
    """Everything of some length in every column of every table."""
    found: set[bytes] = set()
    metadata = MetaData()
    metadata.reflect(portal.database.engine)
    with portal.database.engine.connect() as connection:
        for table in metadata.tables.values():
            for row in connection.execute(table.select()):
                found |= {bytes(value) for value in row if isinstance(value, bytes | bytearray) and len(value) >= 32}
    return found


def opens(portal, ring, store, item: Item, secrets: set[bytes]) -> bool:
    """Whether the owner's ring with anything that lies in this database opens these bytes."""
    for secret in secrets:
        keys = [secret] if len(secret) == 32 else []
        try:
            keys.append(ring.open(secret, context=dek_context(item.id)))
        except EnvelopeError:
            pass
        for dek in keys:
            try:
                opened = open_item(store, item, dek)
                assert opened.read_at(0, 100) == CONTENT[:100]
                return True
            except (ContainerError, EnvelopeError):
                continue
    return False


# -- the keys are gone ----------------------------------------------------------------------------
def test_after_it_neither_database_nor_ring_opens_a_copy_of_the_old_bytes(
    portal, patient, letter, tmp_path: Path
) -> None:
    portal.database.dispose()
    shutil.copytree(portal.settings.home, tmp_path / "before")
    before = new_portal(tmp_path / "before", portal.settings.redis_url)
    old_bytes = open_store(f"file://{tmp_path}/before/store")
    ring = patient.login.ring()
    assert opens(before, ring, old_bytes, letter, blobs_of(before))  # the control: a copy of before opens
    before.database.dispose()
    delete(portal, patient, letter.id)
    assert not opens(portal, ring, old_bytes, letter, blobs_of(portal))
    assert not portal.store.exists(letter.object_key)
    with pytest.raises(NotFound):
        portal.store.open(letter.object_key)


def test_no_page_of_the_databases_files_holds_the_old_key(portal, patient, letter) -> None:
    def stored() -> bytes:
        return b"".join(path.read_bytes() for path in (portal.settings.home / "db").iterdir())

    needles = [bytes(letter.sealed_dek)[100:160], bytes(letter.sealed_details)[-60:]]
    assert all(needle in stored() for needle in needles)  # the search finds what is there
    delete(portal, patient, letter.id)
    assert not any(needle in stored() for needle in needles)


def test_everything_that_was_sealed_under_the_key_goes_with_it(portal, patient, letter) -> None:
    with portal.database.write() as db:
        assert db.exec(select(ItemReading).where(ItemReading.item_id == letter.id)).one().dek_for_worker
        db.add(ItemPreview(item_id=letter.id, account_id=patient.account.id, sealed_preview=b"picture"))
    deletion_id = delete(portal, patient, letter.id)
    with portal.database.read() as db:
        assert db.exec(select(ItemReading).where(ItemReading.item_id == letter.id)).all() == []
        assert db.exec(select(ItemPreview).where(ItemPreview.item_id == letter.id)).all() == []
        row = db.get(Item, letter.id)
        assert (row.sealed_dek, row.sealed_details, row.content_key, row.wrapped_labels) == (b"", b"", "", None)
        facts = json.loads(db.get(Deletion, deletion_id).facts)
    assert facts["destroyed"]["keys"] == 1 and facts["destroyed"]["previews"] == 1


def test_the_keys_of_people_it_was_shared_with_go_too(portal, patient, letter) -> None:
    with contextlib.closing(sqlite3.connect(portal.database.url.removeprefix("sqlite:///"))) as raw, raw:
        for item_id, epoch in ((letter.id, 1), (letter.id, 2), ("another", 1)):  # no whole share is needed for it
            raw.execute(
                "INSERT INTO item_wrap (compartment_id, item_id, epoch, wrapped_dek) VALUES ('share', ?, ?, x'00')",
                (item_id, epoch),
            )
    deletion_id = delete(portal, patient, letter.id)
    with portal.database.read() as db:
        assert [row.item_id for row in db.exec(select(ItemWrap))] == ["another"]
        assert json.loads(db.get(Deletion, deletion_id).facts)["destroyed"]["share_keys"] == 2


def test_a_study_goes_whole_and_the_rest_stays(portal, patient, letter) -> None:
    uid = generate_uid()
    images = [put_in(portal, patient.account.id, dicom_bytes(uid, number), f"{number}.dcm") for number in (1, 2, 3)]
    deletion_id = deletions.delete_study(portal, patient.login, images[0].study_id)
    view = deletions.one_of_mine(portal, patient.login, deletion_id)
    assert view.items_count == 3 and sorted(view.names) == ["1.dcm", "2.dcm", "3.dcm"] and view.bytes_at
    assert not any(portal.store.exists(image.object_key) for image in images)
    assert portal.store.exists(letter.object_key)


def test_the_copy_of_everything_goes_with_it(portal, patient, letter) -> None:
    export_id = exports.ask(portal, patient.login)
    exports.run(portal, export_id, identify.pronom_of)
    delete(portal, patient, letter.id)
    with pytest.raises(NotFound):
        exports.open_zip(portal, patient.login, export_id)
    assert not any(key.startswith(export_id) for key in portal.store.keys())  # noqa: SIM118 - a store is no dict


# -- faults ---------------------------------------------------------------------------------------
class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill -9."""


def test_killed_after_the_commit_the_keys_are_gone_and_the_sweep_removes_the_bytes(
    portal, patient, letter, monkeypatch
) -> None:
    monkeypatch.setattr(deletions, "remove_bytes", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        delete(portal, patient, letter.id)
    monkeypatch.undo()
    [one] = deletions.list_mine(portal, patient.login)
    assert one.bytes_at is None and portal.store.exists(letter.object_key)
    with portal.database.read() as db:
        assert db.get(Item, letter.id).sealed_dek == b""
    assert deletions.sweep(portal) == 1 and deletions.sweep(portal) == 0
    assert deletions.list_mine(portal, patient.login)[0].bytes_at and not portal.store.exists(letter.object_key)


def test_killed_after_the_commit_the_key_of_the_search_index_is_gone_too(portal, patient, letter, monkeypatch) -> None:
    """The index may hold words of what was deleted: its key must not wait for the sweep."""
    account_id = patient.account.id
    with portal.database.write() as db:
        db.add(RecordIndex(account_id=account_id, index_id="i", object_key="index-1", wrapped_dek=b"its key",
                           plain_bytes=1, as_of=now()))  # fmt: skip

    monkeypatch.setattr(deletions, "purge", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        delete(portal, patient, letter.id)
    with portal.database.read() as db:
        assert db.get(RecordIndex, account_id) is None


def test_bytes_that_do_not_go_are_never_said_to_be_gone(portal, patient, letter, monkeypatch) -> None:
    monkeypatch.setattr(portal.store, "delete", lambda key: None)
    deletion_id = delete(portal, patient, letter.id)
    assert deletions.one_of_mine(portal, patient.login, deletion_id).bytes_at is None
    kinds = [one["event"] for one in deletions.certificate(portal, patient.login, deletion_id)["events"]]
    assert kinds == ["keys-destroyed"]


def test_it_cannot_be_deleted_twice_or_by_somebody_else(portal, patient, stranger, letter) -> None:
    with pytest.raises(NotFound):
        deletions.delete_item(portal, stranger.login, letter.id)
    deletion_id = delete(portal, patient, letter.id)
    with pytest.raises(NotFound):
        delete(portal, patient, letter.id)
    for ask in (deletions.one_of_mine, deletions.certificate):
        with pytest.raises(NotFound):
            ask(portal, stranger.login, deletion_id)


def test_what_it_was_stands_in_clear_nowhere(portal, patient, letter) -> None:
    delete(portal, patient, letter.id)
    portal.database.dispose()
    stored = b"".join(path.read_bytes() for path in (portal.settings.home / "db").iterdir())
    assert b"Letter of Dr Berger" not in stored


# -- the proof ------------------------------------------------------------------------------------
@pytest.fixture
def certificate(portal, patient, letter) -> dict:
    return deletions.certificate(portal, patient.login, delete(portal, patient, letter.id))


def test_the_proof_names_the_file_and_fits_the_trail(portal, certificate, letter) -> None:
    import hashlib

    [file] = certificate["note"]["files"]
    assert file["name"] == "Letter of Dr Berger.txt" and file["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert [one["event"] for one in certificate["events"]] == ["keys-destroyed", "bytes-removed"]
    assert deletions.check_in(portal.database, certificate) == 2
    assert trail.verify(portal.database) > 0


def test_the_proof_survives_being_written_and_read(portal, certificate) -> None:
    assert deletions.check_in(portal.database, json.loads(json.dumps(certificate, indent=1, ensure_ascii=False))) == 2


def changes(certificate: dict):
    def changed(*path, value):
        other = copy.deepcopy(certificate)
        at = other
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        return other

    yield "name", changed("note", "files", 0, "name", value="another.txt")
    yield "sum", changed("note", "files", 0, "sha256", value="0" * 64)
    yield "salt", changed("note", "salt", value="0" * 32)
    yield "time", changed("facts", "keys_destroyed_at", value="2020-01-01T00:00:00+00:00")
    yield "count", changed("facts", "destroyed", "keys", value=2)
    yield "event time", changed("events", 0, "at", value="2020-01-01T00:00:00+00:00")
    yield "event number", changed("events", 0, "number", value=1)
    yield "no events", changed("events", value=[])
    yield "other order", changed("events", value=certificate["events"][::-1])
    yield "version", changed("myphr_deletion", value=2)
    yield "list", []
    yield "none", None


def test_every_change_of_the_proof_is_found(portal, certificate) -> None:
    for name, other in changes(certificate):
        with pytest.raises(CertificateWrong):
            deletions.check(other)
            pytest.fail(name)


def test_the_proof_of_another_portal_is_refused(portal, certificate, tmp_path: Path) -> None:
    other = new_portal(tmp_path / "other", portal.settings.redis_url)
    with pytest.raises(CertificateWrong):
        deletions.check_in(other.database, certificate)
    other.database.dispose()


def test_a_trail_that_was_rewritten_no_longer_fits_the_proof(portal, certificate) -> None:
    number = certificate["events"][0]["number"]
    with portal.database.write() as db:
        rows = db.exec(select(AuditEvent).where(AuditEvent.number >= number).order_by(AuditEvent.number)).all()
        previous = rows[0].previous_hash
        for row, details in itertools.zip_longest(rows, [rows[0].details.replace('"items":1', '"items":0')]):
            row.details = details or row.details
            row.previous_hash = previous
            row.hash = previous = trail.row_hash(row)
            db.add(row)
    assert trail.verify(portal.database) > 0  # the forger made a whole chain
    with pytest.raises(CertificateWrong):
        deletions.check_in(portal.database, certificate)


def test_the_operators_command_checks_a_proof(portal, certificate, tmp_path: Path, monkeypatch, capsys) -> None:
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(certificate))
    monkeypatch.setenv("MYPHR_HOME", str(portal.settings.home))
    assert main(["audit", "verify", "--certificate", str(file)]) == 0
    assert "the trail holds its 2 lines" in capsys.readouterr().out
    file.write_text(json.dumps(certificate).replace("Berger", "Burger"))
    assert main(["audit", "verify", "--certificate", str(file)]) != 0


def test_the_salt_keeps_names_from_being_guessed(portal, patient, letter) -> None:
    """The same file deleted twice leaves two checksums in the trail."""
    first = deletions.certificate(portal, patient.login, delete(portal, patient, letter.id))
    again = put_in(portal, patient.account.id, CONTENT, "Letter of Dr Berger.txt")
    second = deletions.certificate(portal, patient.login, delete(portal, patient, again.id))
    assert first["facts"]["note_sha256"] != second["facts"]["note_sha256"]
