"""Uploads without HTTP: what is acknowledged is durable, sealed once, and in the record exactly once."""

import datetime as dt
import hashlib
import itertools
import random

import pytest
from sqlmodel import select

from myphr.audit.models import AuditEvent
from myphr.database import now
from myphr.errors import NotFound, RecordFull, StoreFull, UploadConflict, UploadRefused, UploadTooLarge
from myphr.ingest import upload_filing
from myphr.ingest import uploads as uploads_module
from myphr.ingest.uploads import TRANSITIONS, Uploads, Wish
from myphr.records import items
from myphr.records.models import ArchiveTask, Item, Upload
from tests.unit.ingest.bodies import Crash, Pieces

KIB = 1024
CHUNK = 64 * KIB


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def taking(portal):
    return Uploads(portal)


def all_items(portal):
    with portal.database.read() as db:
        return db.exec(select(Item)).all()


def row_of(portal, upload_id):
    with portal.database.read() as db:
        return db.get(Upload, upload_id)


def bytes_of(portal, signed_in, item) -> bytes:
    opened = items.open_item(portal.store, item, items.dek_of(signed_in.login.ring(), item))
    try:
        return opened.read_at(0, opened.plain_bytes)
    finally:
        opened.close()


def send_all(taking, account_id, data, piece, name="scan.bin"):
    """As a client does it: go on where the server says, until it is complete."""
    progress, token = taking.create(account_id, Wish(len(data), name))
    while progress.offset < len(data):
        part = data[progress.offset : progress.offset + piece]
        progress = taking.append(account_id, progress.upload_id, token, progress.offset, Pieces(part))
    return progress, token


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 16 * CHUNK, 16 * CHUNK + 1, 80 * CHUNK + 17])
@pytest.mark.parametrize("piece", [100 * KIB, 10**9])
def test_a_file_arrives_byte_exact_whatever_the_pieces(portal, patient, taking, size, piece):
    data = content(size)
    progress, _ = send_all(taking, patient.account.id, data, piece)
    [item] = all_items(portal)
    assert progress.item_id == item.id and not progress.duplicate
    assert bytes_of(portal, patient, item) == data
    assert items.details_of(patient.login.ring(), item)["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_hash_is_right_when_another_process_finishes_the_upload(portal, patient, taking):
    data = content(5 * CHUNK + 3)
    progress, token = taking.create(patient.account.id, Wish(len(data), "x"))
    progress = taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(data[: 3 * CHUNK]))
    other = Uploads(portal)
    other.append(patient.account.id, progress.upload_id, token, progress.offset, Pieces(data[progress.offset :]))
    [item] = all_items(portal)
    assert items.details_of(patient.login.ring(), item)["sha256"] == hashlib.sha256(data).hexdigest()


def test_only_whole_chunks_are_acknowledged_and_a_clean_break_goes_on_under_the_same_salt(
    portal, patient, taking, seals
):
    data = content(10 * CHUNK)
    progress, token = taking.create(patient.account.id, Wish(len(data), "x"))
    progress = taking.append(
        patient.account.id, progress.upload_id, token, 0, Pieces(data[: 3 * CHUNK + 5000], length=len(data))
    )
    salt = row_of(portal, progress.upload_id).salt
    assert progress.offset == 3 * CHUNK
    progress = taking.append(
        patient.account.id, progress.upload_id, token, progress.offset, Pieces(data[progress.offset :])
    )
    assert row_of(portal, progress.upload_id).salt == salt
    assert seals.reused() == []
    assert bytes_of(portal, patient, all_items(portal)[0]) == data


@pytest.mark.parametrize("killed_after", [0, 1, CHUNK, 16 * CHUNK, 40 * CHUNK + 7])
def test_other_bytes_after_a_crash_never_meet_a_used_key_and_nonce(portal, patient, taking, seals, killed_after):
    first, second = content(50 * CHUNK, 1), content(50 * CHUNK, 2)
    committed = 2 * CHUNK
    progress, token = taking.create(patient.account.id, Wish(len(first), "x"))
    upload_id = progress.upload_id
    taking.append(patient.account.id, upload_id, token, 0, Pieces(first[:committed]))
    with pytest.raises(Crash):
        sent = Pieces(first[committed : committed + killed_after], length=48 * CHUNK, crash=True)
        taking.append(patient.account.id, upload_id, token, committed, sent)
    restarted = Uploads(portal)
    progress = restarted.progress(patient.account.id, upload_id, token)
    assert progress.offset == committed
    restarted.append(patient.account.id, upload_id, token, committed, Pieces(second[committed:]))
    assert seals.reused() == []
    assert bytes_of(portal, patient, all_items(portal)[0]) == first[:committed] + second[committed:]


def test_the_check_for_reuse_can_fail(portal, patient, taking, seals, monkeypatch):
    """Without the mark in the row, the same crash does reuse a key and nonce: the test above is no formality."""
    monkeypatch.setitem(TRANSITIONS, ("receiving", "claim"), "receiving")
    monkeypatch.setitem(TRANSITIONS, ("receiving", "release"), "receiving")
    monkeypatch.setitem(TRANSITIONS, ("receiving", "complete"), "finishing")
    monkeypatch.setattr(uploads_module, "_size", lambda path: 128 + 2 * (CHUNK + 16))
    first, second = content(50 * CHUNK, 1), content(50 * CHUNK, 2)
    progress, token = taking.create(patient.account.id, Wish(len(first), "x"))
    taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(first[: 2 * CHUNK]))
    with pytest.raises(Crash):
        taking.append(
            patient.account.id, progress.upload_id, token, 2 * CHUNK, Pieces(first[2 * CHUNK : 30 * CHUNK], crash=True)
        )
    taking.append(patient.account.id, progress.upload_id, token, 2 * CHUNK, Pieces(second[2 * CHUNK : 30 * CHUNK]))
    assert seals.reused() != []


def test_a_torn_file_after_a_power_cut_starts_over_instead_of_storing_a_hole(portal, patient, taking, seals):
    data = content(20 * CHUNK)
    progress, token = taking.create(patient.account.id, Wish(len(data), "x"))
    taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(data[: 10 * CHUNK]))
    [partial] = [
        p for p in portal.store.partial_dir.iterdir() if p.name.startswith(progress.upload_id) and p.suffix != ".lock"
    ]
    with partial.open("r+b") as file:
        file.seek(5 * CHUNK)
        file.write(b"\0" * 100)
        file.truncate(9 * CHUNK)
    with pytest.raises(UploadConflict):
        taking.append(patient.account.id, progress.upload_id, token, 10 * CHUNK, Pieces(data[10 * CHUNK :]))
    now_at = taking.progress(patient.account.id, progress.upload_id, token).offset
    taking.append(patient.account.id, progress.upload_id, token, now_at, Pieces(data[now_at:]))
    assert bytes_of(portal, patient, all_items(portal)[0]) == data
    assert seals.reused() == []


@pytest.mark.parametrize("step", ["adopt", "file"])
def test_a_crash_while_finishing_loses_nothing_and_files_once(portal, patient, taking, monkeypatch, step):
    data = content(3 * CHUNK)
    progress, token = taking.create(patient.account.id, Wish(len(data), "x"))
    with monkeypatch.context() as patch:
        if step == "adopt":
            adopt = portal.store.adopt

            def die_after(path, key):
                adopt(path, key)
                raise Crash

            patch.setattr(portal.store, "adopt", die_after)
        else:
            patch.setattr(upload_filing, "file_sealed", lambda *args, **kwargs: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(data))
    assert all_items(portal) == []
    for _ in range(2):
        progress = Uploads(portal).progress(patient.account.id, progress.upload_id, token)
        assert progress.offset == len(data)
    [item] = all_items(portal)
    assert progress.item_id == item.id and not progress.duplicate
    assert bytes_of(portal, patient, item) == data


def test_the_same_file_again_is_told_and_not_stored_twice(portal, patient, taking):
    data = content(CHUNK)
    first, _ = send_all(taking, patient.account.id, data, 10**9)
    second, token = send_all(taking, patient.account.id, data, 10**9, name="copy.bin")
    assert second.duplicate and second.item_id == first.item_id
    assert taking.progress(patient.account.id, second.upload_id, token).duplicate
    assert len(list(portal.store.keys())) == len(all_items(portal)) == 1


def test_the_same_file_of_another_person_is_not_a_duplicate(portal, patient, stranger, taking):
    data = content(CHUNK)
    send_all(taking, patient.account.id, data, 10**9)
    progress, _ = send_all(taking, stranger.account.id, data, 10**9)
    assert not progress.duplicate
    assert len({item.content_key for item in all_items(portal)}) == 2


def test_wrong_token_other_account_and_unknown_upload_look_the_same(portal, patient, stranger, taking):
    progress, token = taking.create(patient.account.id, Wish(10, "x"))
    wrong = "A" * 43
    for account_id, upload_id, guess in (
        (patient.account.id, progress.upload_id, wrong),
        (stranger.account.id, progress.upload_id, token),
        (patient.account.id, "00000000-0000-4000-8000-000000000000", token),
    ):
        for call in (
            lambda a=account_id, u=upload_id, t=guess: taking.progress(a, u, t),
            lambda a=account_id, u=upload_id, t=guess: taking.append(a, u, t, 0, Pieces(b"0123456789")),
            lambda a=account_id, u=upload_id, t=guess: taking.terminate(a, u, t),
        ):
            with pytest.raises(NotFound):
                call()
    assert not list(portal.store.partial_dir.iterdir())  # a stranger does not even make a lock file


def test_another_offset_is_a_conflict_and_changes_nothing(portal, patient, taking):
    progress, token = taking.create(patient.account.id, Wish(3 * CHUNK, "x"))
    with pytest.raises(UploadConflict):
        taking.append(patient.account.id, progress.upload_id, token, CHUNK, Pieces(content(CHUNK)))
    assert row_of(portal, progress.upload_id).state == "receiving"


def test_more_than_announced_is_refused(patient, taking):
    progress, token = taking.create(patient.account.id, Wish(10, "x"))
    with pytest.raises(UploadTooLarge):
        taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(b"x" * 11))


def test_an_empty_file_is_refused_with_a_reason(patient, taking):
    with pytest.raises(UploadRefused) as refused:
        taking.create(patient.account.id, Wish(0, "x"))
    assert "the file is empty" in refused.value.message


def test_pieces_below_a_chunk_are_refused_instead_of_going_round_for_ever(patient, taking):
    progress, token = taking.create(patient.account.id, Wish(10 * CHUNK, "x"))
    with pytest.raises(UploadRefused) as refused:
        taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(b"x" * 1000))
    assert "too small" in refused.value.message


def test_limits_of_file_and_record(tmp_path, redis_url):
    from tests.cast import PATIENT, enter, new_portal

    portal = new_portal(tmp_path / "small", redis_url, upload_bytes_max=1000, record_bytes_max=1500)
    patient = enter(portal, PATIENT)
    taking = Uploads(portal)
    with pytest.raises(UploadTooLarge):
        taking.create(patient.account.id, Wish(1001, "x"))
    taking.create(patient.account.id, Wish(1000, "x"))
    with pytest.raises(RecordFull):  # an unfinished upload counts: a hundred at once must not pass the limit together
        taking.create(patient.account.id, Wish(501, "x"))
    taking.create(patient.account.id, Wish(500, "x"))
    portal.database.dispose()


def test_a_disk_without_room_says_so_before_the_first_byte(portal, patient, taking, monkeypatch):
    monkeypatch.setattr(upload_filing, "FREE_BYTES_MIN", 1 << 62)
    with pytest.raises(StoreFull):
        taking.create(patient.account.id, Wish(10, "x"))


def test_terminate_forgets_bytes_and_key(portal, patient, taking):
    progress, token = taking.create(patient.account.id, Wish(3 * CHUNK, "x"))
    taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(content(2 * CHUNK)))
    taking.terminate(patient.account.id, progress.upload_id, token)
    assert not list(portal.store.partial_dir.iterdir())
    row = row_of(portal, progress.upload_id)
    assert row.state == "abandoned" and row.wrapped_dek is None and row.sealed_metadata == b""
    with pytest.raises(NotFound):
        taking.progress(patient.account.id, progress.upload_id, token)


def test_an_upload_that_ran_out_is_swept(portal, patient, taking):
    progress, token = taking.create(patient.account.id, Wish(3 * CHUNK, "x"))
    taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(content(2 * CHUNK)))
    assert taking.sweep() == 0
    with portal.database.write() as db:
        row = db.get(Upload, progress.upload_id)
        row.expires_at = now() - dt.timedelta(seconds=1)
        db.add(row)
    with pytest.raises(NotFound):
        taking.progress(patient.account.id, progress.upload_id, token)
    assert uploads_module.sweep(portal) == 1
    assert not list(portal.store.partial_dir.iterdir())


def test_every_pair_of_state_and_event_is_legal_or_refused():
    states = {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    events = {event for _, event in TRANSITIONS}
    for state, event in itertools.product(states, events):
        row = Upload(
            account_id="a",
            token_sha256="",
            wrapped_dek=None,
            sealed_metadata=b"",
            total_bytes=1,
            expires_at=now(),
            state=state,
        )
        if (state, event) in TRANSITIONS:
            uploads_module._move(row, event)
            assert row.state == TRANSITIONS[state, event]
        else:
            with pytest.raises(UploadConflict):
                uploads_module._move(row, event)
            assert row.state == state


def test_neither_name_nor_content_nor_token_is_on_disk_in_clear(portal, patient, taking):
    marker = b"MARKER-OF-PLAINTEXT-7761"
    data = marker * 10_000
    progress, token = taking.create(
        patient.account.id, Wish(len(data), "Biopsy of Vera.txt", "letters/Biopsy of Vera.txt")
    )
    taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(data[: 2 * CHUNK]))
    needles = [marker, b"Biopsy", token.encode()]
    assert_absent(portal, needles)
    taking.append(patient.account.id, progress.upload_id, token, 2 * CHUNK, Pieces(data[2 * CHUNK :]))
    assert_absent(portal, needles)
    assert items.details_of(patient.login.ring(), all_items(portal)[0])["name"] == "Biopsy of Vera.txt"


def assert_absent(portal, needles):
    looked_at = 0
    for path in portal.settings.home.rglob("*"):
        if path.is_file():
            found = path.read_bytes()
            looked_at += len(found)
            assert not [needle for needle in needles if needle in found], path.name
    assert looked_at > 2 * CHUNK


def test_a_zip_gets_a_task_with_its_key_for_the_worker_only(portal, patient, taking):
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "hello")
    send_all(taking, patient.account.id, packed.getvalue(), 10**9, name="cd.zip")
    with portal.database.read() as db:
        [task] = db.exec(select(ArchiveTask)).all()
    assert task.state == "waiting" and task.dek_for_worker
    assert len(portal.queue.rq.job_ids) == 1


def test_an_upload_is_noted_in_the_trail_once(portal, patient, taking):
    send_all(taking, patient.account.id, content(CHUNK), 10**9)
    send_all(taking, patient.account.id, content(CHUNK), 10**9)
    with portal.database.read() as db:
        assert len(db.exec(select(AuditEvent).where(AuditEvent.event == "item-uploaded")).all()) == 1
