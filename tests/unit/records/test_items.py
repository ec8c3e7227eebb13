"""Items: byte-exact, grouped into studies in plain words, told as duplicates, and gone for good when erased."""

import dataclasses
import datetime as dt
import hashlib
import random
import threading

import pytest
from sqlmodel import select

from myphr.audit.trail import SYSTEM, Actor
from myphr.crypto import container
from myphr.errors import ContainerError, EnvelopeError, NotFound, RecordFull
from myphr.ingest import identify
from myphr.records import filing, items, manifest, removal, summaries, views
from myphr.records.item_writer import BLOCK_BYTES, ItemWriter
from myphr.records.models import Item, Study
from tests import hostile

CHUNK = container.CHUNK_BYTES


def put(portal, signed_in, content, name="file.bin", path="", step=100_000):
    writer = ItemWriter(
        portal,
        signed_in.account.id,
        owner_public_key=signed_in.login.ring().public_key,
        source="upload",
        source_id=None,
        describe=identify.describe,
    )
    for at in range(0, len(content), step):
        writer.write(content[at : at + step])
    return writer.finish(name, path)


def image(study=1, series=1, number=1, modality=b"MR", **more):
    values = {
        0x00080020: (b"DA", b"20030505"),
        0x00080060: (b"CS", modality),
        0x00080080: (b"LO", b"Hospital at the Bridge"),
        0x00081030: (b"LO", b"Brain"),
        0x0008103E: (b"LO", b"T1 axial"),
        0x00100010: (b"PN", b"Doe^Jane^^Dr"),
        0x00180015: (b"CS", b"HEAD"),
        0x0020000D: (b"UI", b"1.2.%d" % study),
        0x0020000E: (b"UI", b"1.2.%d.%d" % (study, series)),
        0x00200011: (b"IS", b"%d" % series),
        0x00200013: (b"IS", b"%d" % number),
    }
    values |= more.get("values", {})
    return hostile.dicom(*(hostile.element(tag, vr, value) for tag, (vr, value) in sorted(values.items())))


@pytest.fixture(autouse=True)
def summed_up_at_once(monkeypatch):
    monkeypatch.setattr(views, "SETTLE", views.SETTLE * 0)


def record(portal, signed_in):
    return items.my_record(portal.database, signed_in.login.ring(), signed_in.account.id)


def opened(portal, signed_in, item):
    return items.open_item(portal.store, item, items.dek_of(signed_in.login.ring(), item))


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + CHUNK]
)
@pytest.mark.parametrize("step", [100_000, BLOCK_BYTES, 10**9])
def test_an_item_is_byte_exact_with_its_hash(portal, patient, size, step):
    content = random.Random(size).randbytes(size)
    item = put(portal, patient, content, step=step)
    assert opened(portal, patient, item).read_at(0, size + 10) == content
    assert items.details_of(patient.login.ring(), item)["sha256"] == hashlib.sha256(content).hexdigest()


def test_any_range_reads_the_same_bytes_from_several_threads(portal, patient):
    content = random.Random(4).randbytes(10 * CHUNK + 77)
    one = opened(portal, patient, put(portal, patient, content))
    wrong = []

    def read(seed):
        lottery = random.Random(seed)
        for _ in range(150):
            at, size = lottery.randrange(len(content) + 10), lottery.randrange(3 * CHUNK)
            buffer = memoryview(bytearray(size))
            got = one.read_into(at, buffer)
            if one.read_at(at, size) != content[at : at + size] or bytes(buffer[:got]) != content[at : at + size]:
                wrong.append((at, size))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []


def test_a_container_cut_at_a_chunk_is_not_a_shorter_file(portal, patient):
    item = put(portal, patient, bytes(4 * CHUNK))
    with portal.store.path_of(item.object_key).open("r+b") as file:
        file.truncate(container.chunk_offset(2))
    with pytest.raises(ContainerError):
        opened(portal, patient, item)


def test_the_wrong_key_or_another_items_bytes_open_nothing(portal, patient):
    first, second = put(portal, patient, b"one"), put(portal, patient, b"two")
    with pytest.raises(ContainerError):
        items.open_item(portal.store, first, bytes(32))
    second.object_key = first.object_key
    with pytest.raises(ContainerError):
        opened(portal, patient, second)


def test_a_writer_that_fails_leaves_nothing(portal, patient):
    with pytest.raises(RuntimeError), ItemWriter(
        portal, patient.account.id, owner_public_key=patient.login.ring().public_key, source="upload", source_id=None,
        describe=identify.describe,
    ) as writer:  # fmt: skip
        writer.write(bytes(BLOCK_BYTES * 2))
        raise RuntimeError
    assert list(portal.store.keys()) == [] and list(portal.store.partial_dir.iterdir()) == []


def test_images_of_one_study_stand_together_in_plain_words(portal, patient):
    for series in (1, 2):
        for number in (2, 1, 3):
            put(portal, patient, image(series=series, number=number))
    put(portal, patient, image(study=2, modality=b"CT", values={0x00080020: (b"DA", b"20240101")}))
    put(portal, patient, b"%PDF-1.4 letter", "letter.pdf")
    view = record(portal, patient)
    newest, mr = view.studies
    assert (newest.title, newest.date_words) == ("CT scan, head", "1 January 2024")
    assert (mr.title, mr.date_words, mr.hospital, mr.patient) == (
        "MR scan, head",
        "5 May 2003",
        "Hospital at the Bridge",
        "Dr Jane Doe",
    )
    assert (mr.items_count, mr.modalities, [series.count for series in mr.series]) == (6, {"MR": 6}, [3, 3])
    assert [(one.name, one.format_words) for one in view.documents] == [("letter.pdf", "PDF")]
    page = items.study_page(portal.database, patient.login.ring(), patient.account.id, mr.id)
    order = [(one.headers["series_number"], one.headers["instance_number"]) for one in page.items]
    assert order == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


def study_page(portal, signed_in, study_id):
    return items.study_page(portal.database, signed_in.login.ring(), signed_in.account.id, study_id)


def test_the_page_of_a_study_counts_every_image_that_is_there_at_once(portal, patient, monkeypatch):
    """While slices pour in, the record's list may lag behind; the study's own page never."""
    monkeypatch.setattr(views, "SETTLE", dt.timedelta(hours=1))
    study_id = put(portal, patient, image()).study_id
    for number in (2, 3):
        put(portal, patient, image(number=number))
        put(portal, patient, image(series=2, number=number))
    page = study_page(portal, patient, study_id)
    assert [series.count for series in page.study.series] == [3, 2]
    assert page.study.modalities == {"MR": 5} and page.study.items_count == len(page.items) == 5
    [listed] = record(portal, patient).studies
    assert [series.count for series in listed.series] == [3, 2], "what the page summed up is kept"


def test_an_image_exchanged_for_another_does_not_leave_the_old_series_on_the_page(portal, patient):
    """The number of images is the same as before: that alone does not make the stored summary true."""
    kept, gone = put(portal, patient, image()), put(portal, patient, image(series=2))
    assert [series.number for series in study_page(portal, patient, kept.study_id).study.series] == [1, 2]
    items.remove_item(portal.database, patient.account.id, gone.id, SYSTEM)
    put(portal, patient, image(series=3))
    assert [series.number for series in study_page(portal, patient, kept.study_id).study.series] == [1, 3]


def test_the_same_study_of_two_people_is_two_studies_that_do_not_match(portal, patient, stranger):
    put(portal, patient, image())
    put(portal, stranger, image())
    with portal.database.read() as db:
        assert len({study.group_key for study in db.exec(select(Study))}) == 2


def test_nothing_of_a_study_stands_in_the_database_in_clear(portal, patient):
    put(portal, patient, image(), "Jane Doe MRI.dcm", "CD of Jane/IMAGE1")
    record(portal, patient)
    files = [path.read_bytes() for path in (portal.settings.home / "db").iterdir()]
    assert sum(map(len, files)) > 10_000
    for needle in (b"Doe", b"Jane", b"Bridge", b"T1 axial", b"20030505", b"1.2.1", b"IMAGE1"):
        assert not any(needle in file for file in files), needle


def test_an_identical_file_is_told_and_kept_once(portal, patient):
    first = put(portal, patient, b"the same")
    writer = ItemWriter(
        portal,
        patient.account.id,
        owner_public_key=patient.login.ring().public_key,
        source="upload",
        source_id=None,
        describe=identify.describe,
    )
    writer.write(b"the same")
    assert writer.finish("again").id == first.id and writer.duplicate
    assert len(list(portal.store.keys())) == 1


def test_a_stranger_can_load_and_open_nothing(portal, patient, stranger):
    item = put(portal, patient, image())
    with pytest.raises(NotFound):
        items.load_item(portal.database, stranger.account.id, item.id)
    with pytest.raises(NotFound):
        items.study_page(portal.database, stranger.login.ring(), stranger.account.id, item.study_id)
    with pytest.raises(NotFound):
        manifest.build(portal.database, stranger.login.ring(), stranger.account.id, [item.id], bytes(32), "vm")
    with pytest.raises(EnvelopeError):
        items.dek_of(stranger.login.ring(), item)


def test_removed_is_out_of_sight_and_erased_is_gone(portal, patient):
    me, actor = patient.account.id, Actor("patient", patient.account.id)
    keep, gone = put(portal, patient, image(number=1)), put(portal, patient, image(number=2))
    letter = put(portal, patient, b"%PDF-1.4")
    items.remove_item(portal.database, me, gone.id, actor)
    items.remove_item(portal.database, me, letter.id, actor)
    view = record(portal, patient)
    assert view.studies[0].items_count == 1 and view.documents == () and view.studies[0].series[0].count == 1
    with pytest.raises(NotFound):
        items.remove_item(portal.database, me, gone.id, actor)
    assert portal.store.exists(gone.object_key)
    assert items.erase_removed(portal.database, portal.store) == 2
    assert items.erase_removed(portal.database, portal.store) == 0
    assert list(portal.store.keys()) == [keep.object_key]
    with portal.database.read() as db:
        row = db.get(Item, gone.id)
        assert row.sealed_dek == row.sealed_details == b""


def test_a_removed_study_disappears_and_comes_back_with_a_new_upload(portal, patient):
    put(portal, patient, image())
    study_id = record(portal, patient).studies[0].id
    actor = Actor("patient", patient.account.id)
    assert items.remove_study(portal.database, patient.account.id, study_id, actor) == 1
    assert record(portal, patient).is_empty
    put(portal, patient, image())
    assert record(portal, patient).studies[0].items_count == 1


def test_only_objects_that_nobody_knows_are_swept(portal, patient):
    item = put(portal, patient, b"kept")
    writer = portal.store.create("aaaaaaaa-orphan.1")
    writer.write(b"left by a crash")
    writer.commit()
    assert removal.sweep_orphans(portal.database, portal.store) == 0  # too young: its commit may be on the way
    assert removal.sweep_orphans(portal.database, portal.store, older_than_seconds=0) == 1
    assert list(portal.store.keys()) == [item.object_key]


def plan_of(portal, query, **values) -> str:
    """What SQLite will do. It reads the indexes from the file, as a process that starts does."""
    portal.database.dispose()
    with portal.database.read() as db:
        text = query._made_for(db.connection(), values)._text
        rows = db.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ("x",) * text.count("?")).all()
    return "\n".join(row.detail for row in rows)


def test_what_is_asked_with_every_file_reads_no_rows_of_the_others(portal, patient):
    """It would take longer with every file that is there."""
    put(portal, patient, b"k" * 700)
    held = plan_of(portal, filing._ITEMS, account="x", keys=["ab"])
    assert "ix_item_content (account_id=? AND content_key=?)" in held
    assert "(account_id=? AND group_key=?)" in plan_of(portal, filing._STUDIES, account="x", keys=["ab"])
    assert "ix_item_room (account_id=? AND plain_bytes>?)" in plan_of(portal, filing._BYTES, account="x")


def test_room_counts_what_has_its_key(portal, patient):
    kept, gone = put(portal, patient, b"k" * 700), put(portal, patient, b"g" * 400)
    items.remove_item(portal.database, kept.account_id, gone.id, Actor("patient", kept.account_id))
    items.erase_removed(portal.database, portal.store)
    settings = dataclasses.replace(portal.settings, record_bytes_max=1000)
    with portal.database.write() as db:
        filing.check_room(db, settings, kept.account_id, 300)
        with pytest.raises(RecordFull):
            filing.check_room(db, settings, kept.account_id, 301)


def test_a_damaged_row_does_not_hide_the_record(portal, patient):
    item = put(portal, patient, b"%PDF-1.4", "a.pdf")
    put(portal, patient, b"%PDF-1.5", "b.pdf")
    with portal.database.write() as db:
        row = db.get(Item, item.id)
        row.sealed_details = row.sealed_details[:-1] + bytes([row.sealed_details[-1] ^ 1])
        db.add(row)
    assert {one.name for one in record(portal, patient).documents} == {"b.pdf", "A file whose description is damaged"}


# -- manifest -------------------------------------------------------------------------------------
def entries_of(portal, signed_in, item_ids, secret=b"s" * 32):
    blob = manifest.build(portal.database, signed_in.login.ring(), signed_in.account.id, item_ids, secret, "vm-1")
    return blob, manifest.open_(secret, "vm-1", blob)


def test_a_manifest_opens_each_item_for_its_session_and_secret_only(portal, patient):
    ids = [put(portal, patient, image(number=number)).id for number in (3, 1, 2)] + [
        put(portal, patient, b"%PDF-1.4 x", "a.pdf").id
    ]
    blob, entries = entries_of(portal, patient, ids)
    assert [entry.path for entry in entries] == [
        f"2003-05-05 - MR scan, head - Brain/1 - T1 axial/{number:04d}.dcm" for number in (1, 2, 3)
    ] + ["a.pdf"]
    for number, entry in enumerate(entries[:3], 1):
        assert items.open_item(portal.store, entry, entry.dek).read_at(0, 10_000) == image(number=number)
    for secret, vm_session, bad in (
        (b"t" * 32, "vm-1", blob),
        (b"s" * 32, "vm-2", blob),
        (b"s" * 32, "vm-1", blob[:-1] + b"\0"),
    ):
        with pytest.raises(EnvelopeError):
            manifest.open_(secret, vm_session, bad)
    assert b"T1 axial" not in blob and ids[0].encode() not in blob


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..",
        ".",
        "",
        "/",
        "a/b",
        "a\\b",
        "\0",
        "x" * 400,
        "CON",
        "con.txt",
        "-rf",
        ".bashrc",
        "ä" * 300,
        "photo\u202egpj.exe",
        "line\nbreak",
        "trailing. ",
        "results",
    ],
)
def test_no_name_leaves_the_folder_or_surprises_a_guest(portal, patient, name):
    first = put(portal, patient, b"\x01\x02 one" + name.encode(), name)
    second = put(portal, patient, b"\x01\x02 two" + name.encode(), name.upper())
    _, entries = entries_of(portal, patient, [first.id, second.id])
    for entry in entries:
        assert entry.path and "/" not in entry.path and "\\" not in entry.path and entry.path.isprintable()
        assert not entry.path.startswith((".", "-")) and not entry.path.endswith((".", " "))
        assert len(entry.path.encode()) <= 255
    folded = {entry.path.casefold() for entry in entries}
    assert len(folded) == 2 and "results" not in folded and "con" not in folded


def test_hostile_headers_make_harmless_folders(portal, patient):
    nasty = {0x00081030: (b"LO", b"../../../etc"), 0x0008103E: (b"LO", b"/root/..\\..")}
    item = put(portal, patient, image(values=nasty))
    _, [entry] = entries_of(portal, patient, [item.id])
    assert entry.path.count("/") == 2 and all(part.strip(". ") == part and part for part in entry.path.split("/"))


def test_a_file_without_ending_gets_the_one_its_content_has(portal, patient):
    ids = [
        put(portal, patient, b"%PDF-1.4", "report").id,
        put(portal, patient, b"\xff\xd8\xff\xe0x", "photo.JPEG").id,
        put(portal, patient, b"%PDF-1.5", "scan.dcm").id,
        put(portal, patient, b"a,b\n1,2\n", "table.csv").id,
    ]
    _, entries = entries_of(portal, patient, ids)
    assert [entry.path for entry in entries] == ["photo.JPEG", "report.pdf", "scan.dcm.pdf", "table.csv"]


# -- words ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "raw, words",
    [
        ("Doe^Jane^^Dr", "Dr Jane Doe"),
        ("Wang^XiaoDong=王^小东=", "XiaoDong Wang"),
        ("=王^小东", "小东 王"),
        ("", ""),
        ("^^^^", ""),
        ("Smith", "Smith"),
        ("a^b^c^d^e^f^g", "d b c a e"),
    ],
)
def test_names_are_written_as_people_write_them(raw, words):
    assert summaries.person_words(raw) == words


@pytest.mark.parametrize("raw", ["", "20031305", "2003", "0000", "99999999", "today", "00010101"])
def test_a_date_that_is_none_is_said_to_be_unknown(raw):
    assert summaries.date_words(summaries.date_of(raw)) == "Date not known"


def test_sizes_are_said_as_people_say_them():
    assert [summaries.size_words(n) for n in (0, 1, 999, 1000, 999_400, 999_600, 5_200_000, 7 * 10**9)] == [
        "0 bytes",
        "1 byte",
        "999 bytes",
        "1.0 KB",
        "999 KB",
        "1.0 MB",
        "5.2 MB",
        "7.0 GB",
    ]
