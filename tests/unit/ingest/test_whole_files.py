"""Small files that come whole, alone or many together: all or nothing of what broke off, each with its own outcome."""

import json
import threading

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from myphr.audit.models import AuditEvent
from myphr.errors import PortalError, StoreFull, UploadConflict, UploadRefused
from myphr.ingest import drop_offs, whole_files
from myphr.ingest.handing_over import PageSender
from myphr.ingest.upload_filing import UploadFiling, Wish
from myphr.ingest.uploads import Uploads
from myphr.records.filing import Filed
from myphr.records.models import Item
from tests.unit.ingest.test_receiving_uploads import Pieces, all_items, content

FILES = {"CD/1": b"first", "CD/2": content(70_000), "CD/3": b"third"}


@pytest.fixture
def filing(portal) -> UploadFiling:
    return Uploads(portal).filing


def told(files: dict[str, bytes]) -> bytes:
    """The description of these files, with its length in front."""
    text = json.dumps(
        [{"name": path.rsplit("/")[-1], "path": path, "size": len(one)} for path, one in files.items()]
    ).encode()
    return len(text).to_bytes(4, "big") + text


def together(filing: UploadFiling, account_id: str, files: dict[str, bytes]) -> list[Filed | PortalError]:
    return whole_files.receive_together(filing, account_id, Pieces(told(files) + b"".join(files.values())))


def kept(portal) -> list[str]:
    return list(portal.store.keys()) + [path.name for path in portal.store.partial_dir.iterdir()]


def test_one_that_comes_with_its_creation_is_filed_at_once(portal, patient, filing):
    data = content(100_000)
    filed = whole_files.receive_one(filing, patient.account.id, Wish(len(data), "letter.bin"), Pieces(data))
    assert [filed.item.id] == [item.id for item in all_items(portal)] and not filed.duplicate
    again = whole_files.receive_one(filing, patient.account.id, Wish(len(data), "letter.bin"), Pieces(data))
    assert again.duplicate and len(kept(portal)) == 1


def test_one_that_breaks_off_leaves_nothing(portal, patient, filing):
    with pytest.raises(UploadConflict):
        whole_files.receive_one(filing, patient.account.id, Wish(100, "x"), Pieces(b"abc", length=100))
    assert all_items(portal) == [] and kept(portal) == []


def test_many_are_filed_in_one_commit_and_each_is_noted(portal, patient, filing):
    outcomes = together(filing, patient.account.id, FILES)
    assert [isinstance(one, Filed) and one.duplicate for one in outcomes] == [False] * 3
    assert sorted(item.plain_bytes for item in all_items(portal)) == [5, 5, 70_000]
    with portal.database.read() as db:
        events = db.exec(select(AuditEvent).where(AuditEvent.event == "item-uploaded")).all()
    assert len(events) == 3 and len(kept(portal)) == 3


def test_those_that_are_here_already_are_told_and_not_stored_again(portal, patient, filing):
    together(filing, patient.account.id, FILES)
    outcomes = together(filing, patient.account.id, FILES | {"CD/4": b"fourth", "CD/4 again": b"fourth"})
    assert [one.duplicate for one in outcomes] == [True, True, True, False, True]
    assert len(kept(portal)) == len(all_items(portal)) == 4


def test_what_is_deleted_in_that_very_moment_is_stored_after_all(portal, patient, filing, monkeypatch):
    together(filing, patient.account.id, FILES)
    real = whole_files.held

    def gone_meanwhile(parts, files):
        found = real(parts, files)
        with portal.database.write() as db:
            for item in db.exec(select(Item)):
                item.deleted_at = item.created_at
                db.add(item)
        return found

    monkeypatch.setattr(whole_files, "held", gone_meanwhile)
    outcomes = together(filing, patient.account.id, FILES | {"CD/4": b"fourth"})
    assert [one.duplicate for one in outcomes] == [False] * 4
    assert all(portal.store.exists(one.item.object_key) for one in outcomes)


def test_an_empty_one_is_refused_and_the_others_stay(portal, patient, filing):
    outcomes = together(filing, patient.account.id, {"a": b"", **FILES, "z": b""})
    assert [isinstance(one, UploadRefused) for one in outcomes] == [True, False, False, False, True]
    assert len(all_items(portal)) == 3


def test_only_empty_ones_are_no_error_of_ours(portal, patient, filing):
    assert [one.code for one in together(filing, patient.account.id, {"a": b"", "b": b""})] == ["upload-refused"] * 2


@pytest.mark.parametrize("missing", [1, 3, 70_000, 70_004])
def test_what_breaks_off_leaves_nothing_and_comes_again(portal, patient, filing, missing):
    body = told(FILES) + b"".join(FILES.values())
    with pytest.raises(UploadConflict):
        whole_files.receive_together(filing, patient.account.id, Pieces(body[:-missing], length=len(body)))
    assert all_items(portal) == [] and kept(portal) == []
    assert not any(one.duplicate for one in together(filing, patient.account.id, FILES))


BROKEN = {
    "nothing": b"",
    "half a length": b"\0\0",
    "a length without end": b"\xff\xff\xff\xff" + b"x" * 100,
    "no JSON": b"\0\0\0\3abc",
    "deep JSON": (50_000).to_bytes(4, "big") + b"[" * 50_000,
    "a number": b"\0\0\0\0017",
    "an object": b"\0\0\0\2{}",
    "no files": b"\0\0\0\2[]",
    "names of another type": told({"x": b""}).replace(b'"x"', b"123"),
    "a size below zero": told({"x": b"y"}).replace(b" 1}", b"-1}"),
    "a size that is true": told({"x": b"y"})[:3] + b"\x2c" + told({"x": b"y"})[4:].replace(b" 1}", b"true}") + b"y",
    "more than was told": told({"x": b"y"}) + b"yz",
    "too many": told({str(number): b"" for number in range(whole_files.TOGETHER_FILES_MAX + 1)}),
    "one too large": told({"x": b""}).replace(b": 0}", b": %d}" % (whole_files.WHOLE_BYTES_MAX + 1)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_description_is_refused_and_leaves_nothing(portal, patient, filing, what):
    with pytest.raises((UploadRefused, UploadConflict)):
        whole_files.receive_together(filing, patient.account.id, Pieces(BROKEN[what]))
    assert all_items(portal) == [] and kept(portal) == []


def test_as_many_as_are_allowed_are_taken(portal, patient, filing):
    files = {str(number): b"%d" % number for number in range(whole_files.TOGETHER_FILES_MAX)}
    assert sum(isinstance(one, Filed) for one in together(filing, patient.account.id, files)) == len(files)


def test_a_full_disk_is_said_and_leaves_nothing(portal, patient, filing, monkeypatch):
    def full(*_arguments):
        raise StoreFull()

    monkeypatch.setattr(whole_files, "commit_all", full)
    with pytest.raises(StoreFull):
        together(filing, patient.account.id, FILES)
    assert all_items(portal) == [] and kept(portal) == []


def test_a_database_that_fails_leaves_no_container(portal, patient, filing, monkeypatch):
    def fails(*_arguments, **_named):
        raise RuntimeError("the database is away")

    monkeypatch.setattr(filing, "file", fails)
    with pytest.raises(RuntimeError):
        together(filing, patient.account.id, FILES)
    assert kept(portal) == []


@pytest.mark.parametrize("count", [1, 3])
def test_a_commit_cut_off_on_its_way_may_yet_be_carried_out_so_its_containers_stay(
    portal, patient, filing, monkeypatch, count
):
    """Were they removed, the row that lands later would have no bytes, and the next try be told "you had this"."""

    def cut_off(*_arguments, **_named):
        raise OperationalError("COMMIT", {}, ConnectionError(), connection_invalidated=True)

    monkeypatch.setattr(filing, "file", cut_off)
    files = dict(list(FILES.items())[:count])
    with pytest.raises(OperationalError):
        if count > 1:
            together(filing, patient.account.id, files)
        else:
            whole_files.receive_one(filing, patient.account.id, Wish(5, "1"), Pieces(b"first"))
    assert len(list(portal.store.keys())) == count


def test_a_practice_with_two_files_left_hands_over_two(portal, patient):
    created = drop_offs.create(portal, patient.login, "Harbour Hospital", 3600, 2)
    sender = PageSender(portal, drop_offs.by_token(portal, created.token))
    outcomes = together(UploadFiling(portal, sender), patient.account.id, FILES)
    assert [getattr(one, "code", "stored") for one in outcomes] == ["stored", "stored", "drop-off-full"]
    assert {item.source for item in all_items(portal)} == {"drop-off"} and len(kept(portal)) == 2


def test_the_same_folder_from_two_browsers_is_stored_once(portal, patient, filing):
    files = {f"CD/{number}": content(3000 + number) for number in range(40)}
    answers: list[list] = []
    threads = [
        threading.Thread(target=lambda: answers.append(together(filing, patient.account.id, files))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3 and sum(not one.duplicate for answer in answers for one in answer) == len(files)
    assert len(all_items(portal)) == len(kept(portal)) == len(files)
