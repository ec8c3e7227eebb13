"""Orders to read: put with the item, carried out by the worker, gone with the item; keys that do not stay."""

import datetime as dt
import io

import pytest
from PIL import Image
from sqlmodel import select

from myphr.database import now
from myphr.errors import EnvelopeError, NotFound
from myphr.ingest import identify
from myphr.ingest.reading import work
from myphr.ingest.states import READING
from myphr.records import items, readings, removal
from myphr.records.models import Item, ItemPreview, ItemReading
from tests.cast import STRANGER


def png(side: int = 30) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), "navy").save(out, "PNG")
    return out.getvalue()


def put(portal, signed_in, content: bytes, name: str = "a.png") -> Item:
    writer = items.ItemWriter(
        portal, signed_in.account.id, owner_public_key=signed_in.login.ring().public_key, source="upload",
        source_id=None, describe=identify.describe,
    )  # fmt: skip
    writer.write(content)
    return writer.finish(name)


def rows(portal) -> list[ItemReading]:
    with portal.database.read() as db:
        return list(db.exec(select(ItemReading).order_by(ItemReading.created_at)).all())


def queued(portal) -> list[str]:
    return [job.func_name for job in portal.queue.rq.jobs]


def test_a_file_is_read_after_it_was_filed_and_its_owner_sees_it(portal, patient):
    item = put(portal, patient, png())
    assert queued(portal) == ["jobs.ingest.read_items"]
    work.run(portal, patient.account.id)
    [row] = rows(portal)
    assert (row.state, row.dek_for_worker, row.has_preview, row.attempts) == ("done", None, True, 1)
    ring = patient.login.ring()
    reading = readings.readings_of(portal.database, ring, [item])[item.id]
    assert ("Size", "30 × 30 pixels") in reading.facts
    preview = readings.preview_of(portal.database, item.id, items.dek_of(ring, item))
    assert Image.open(io.BytesIO(preview)).size == (30, 30)
    assert readings.with_preview(portal.database, [item.id, "other"]) == {item.id}


def test_a_format_that_nobody_reads_gets_no_order(portal, patient):
    put(portal, patient, b"\x7fELF" + bytes(100), "program")
    assert rows(portal) == [] and queued(portal) == []


def test_the_same_file_twice_is_read_once(portal, patient):
    assert put(portal, patient, png()).id == put(portal, patient, png(), "again.png").id
    assert len(rows(portal)) == 1


def test_nothing_that_was_read_stands_in_clear_in_the_database(portal, patient):
    out = io.BytesIO()
    exif = Image.Exif()
    exif[270] = "marker-Klinikum-Testberg"
    Image.new("RGB", (20, 20)).save(out, "JPEG", exif=exif)
    item = put(portal, patient, out.getvalue(), "photo.jpg")
    work.run(portal, patient.account.id)
    found = readings.readings_of(portal.database, patient.login.ring(), [item])
    assert found[item.id].title == "marker-Klinikum-Testberg"
    raw = b"".join(path.read_bytes() for path in portal.settings.home.rglob("*") if path.is_file())
    assert b"Klinikum" not in raw and b"\xff\xd8\xff" not in raw


def test_a_reading_opens_with_its_own_items_key_only(portal, patient, enter):
    item, other = put(portal, patient, png()), put(portal, patient, png(31), "b.png")
    work.run(portal, patient.account.id)
    dek = items.dek_of(patient.login.ring(), other)
    with pytest.raises(EnvelopeError):
        readings.preview_of(portal.database, item.id, dek)
    [row] = [row for row in rows(portal) if row.item_id == item.id]
    with pytest.raises(EnvelopeError):
        readings.reading_in(row, dek)
    stranger = enter(STRANGER)
    assert readings.readings_of(portal.database, stranger.login.ring(), [item]) == {}


def test_a_reading_goes_with_its_item(portal, patient):
    item = put(portal, patient, png())
    work.run(portal, patient.account.id)
    removal.remove_item(portal.database, patient.account.id, item.id, removal.Actor("patient", patient.account.id))
    removal.erase_removed(portal.database, portal.store)
    assert rows(portal) == []
    with portal.database.read() as db:
        assert db.exec(select(ItemPreview)).all() == []


def test_an_item_removed_before_it_was_read_is_not_read(portal, patient):
    item = put(portal, patient, png())
    removal.remove_item(portal.database, patient.account.id, item.id, removal.Actor("patient", patient.account.id))
    work.run(portal, patient.account.id)
    [row] = rows(portal)
    assert (row.state, row.dek_for_worker, row.sealed_reading) == ("failed", None, None)


def test_a_file_that_cannot_be_read_is_kept_and_the_others_are_read(portal, patient):
    broken = put(portal, patient, png()[:40], "broken.png")
    fine = put(portal, patient, png(), "fine.png")
    work.run(portal, patient.account.id)
    states = {row.item_id: (row.state, row.dek_for_worker) for row in rows(portal)}
    assert states[fine.id] == ("done", None) and states[broken.id][1] is None
    opened = items.open_item(portal.store, broken, items.dek_of(patient.login.ring(), broken))
    assert opened.read_at(0, 100) == png()[:40]


def age(portal, **than) -> None:
    with portal.database.write() as db:
        for row in db.exec(select(ItemReading)):
            row.changed_at = now() - dt.timedelta(**than)
            db.add(row)


def test_a_killed_run_is_done_again_by_the_sweep_three_times_at_most(portal, patient):
    put(portal, patient, png())
    for attempt in (1, 2, 3):
        assert [row.attempts for row, _ in work._claim(portal, patient.account.id)] == [attempt]
        assert work._claim(portal, patient.account.id) == []  # taken
        age(portal, minutes=5)
        work.sweep(portal)
    [row] = rows(portal)
    assert (row.state, row.dek_for_worker) == ("failed", None)


def test_the_sweep_queues_what_the_queue_lost(portal, patient):
    put(portal, patient, png())
    portal.queue.rq.empty()
    assert work.sweep(portal) == 0  # just put in: its own job may be on its way
    age(portal, minutes=1)
    assert work.sweep(portal) == 1
    assert queued(portal) == ["jobs.ingest.read_items"]


def test_a_file_that_was_tried_before_is_taken_alone(portal, patient):
    for side in (20, 21, 22):
        put(portal, patient, png(side), f"{side}.png")
    with portal.database.write() as db:
        for row in db.exec(select(ItemReading)).all()[:2]:
            row.attempts = 1
            db.add(row)
    taken = [[row.attempts for row, _ in work._claim(portal, patient.account.id)] for _ in range(4)]
    assert taken == [[1], [2], [2], []]


def test_what_comes_too_late_is_not_kept(portal, patient):
    put(portal, patient, png())
    batch = work._claim(portal, patient.account.id)
    with portal.database.write() as db:
        READING.move(db, db.get(ItemReading, batch[0][0].id), "give_up", dek_for_worker=None)
    with work.Reader() as reader:
        work._read_batch(portal, reader, batch)
    with portal.database.read() as db:
        assert db.exec(select(ItemPreview)).all() == []
    assert rows(portal)[0].state == "failed"


def test_a_job_gives_way_after_its_turn_if_somebody_waits(portal, patient, monkeypatch):
    monkeypatch.setattr(work, "BATCH", 1)
    monkeypatch.setattr(work, "TURN_SECONDS", 0)
    for side in (20, 21):
        put(portal, patient, png(side), f"{side}.png")
    portal.queue.rq.empty()
    portal.queue.enqueue("jobs.machines.start_vm_session", "somebody-elses")
    work.run(portal, patient.account.id)
    assert sorted(row.state for row in rows(portal)) == ["done", "waiting"]
    assert queued(portal) == ["jobs.machines.start_vm_session", "jobs.ingest.read_items_further"]

    portal.queue.rq.empty()
    work.run(portal, patient.account.id)  # nobody waits: it goes on
    assert sorted(row.state for row in rows(portal)) == ["done", "done"]
    assert queued(portal) == []


def test_a_file_that_has_no_order_yet_gets_one_when_its_owner_signs_in(portal, patient):
    item = put(portal, patient, png())
    with portal.database.write() as db:
        readings.forget(db, item.id)
    ring = patient.login.ring()
    thread = work.catch_up(portal, patient.account.id, ring)
    assert thread is not None
    thread.join(10)
    work.run(portal, patient.account.id)
    assert [row.state for row in rows(portal)] == ["done"]
    assert work.catch_up(portal, patient.account.id, ring) is None


def test_a_file_whose_owner_says_what_it_is_is_read_as_that(portal, patient):
    item = put(portal, patient, png())
    work.run(portal, patient.account.id)
    for format_, left in (("program", []), ("text", ["waiting"])):
        with portal.database.write() as db:
            db.get(Item, item.id).format = format_
        work.read_anew(portal, patient.account.id, patient.login.ring(), item.id)
        assert [row.state for row in rows(portal)] == left
        assert readings.preview_of(portal.database, item.id, items.dek_of(patient.login.ring(), item)) is None
    work.run(portal, patient.account.id)
    assert [(row.state, row.has_preview) for row in rows(portal)] == [("done", False)]


def test_nobody_else_has_a_file_read_anew(portal, patient, enter):
    item = put(portal, patient, png())
    stranger = enter(STRANGER)
    with pytest.raises(NotFound):
        work.read_anew(portal, stranger.account.id, stranger.login.ring(), item.id)
    assert work.catch_up(portal, stranger.account.id, stranger.login.ring()) is None
