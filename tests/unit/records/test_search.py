"""Searching a record: what it finds follows the record at once, the kept index is sealed and only a cache."""

import datetime as dt
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from sqlmodel import select

from myphr.audit.trail import Actor
from myphr.crypto import envelope
from myphr.errors import StoreFull
from myphr.people.keyring import KeyRing
from myphr.portal import Portal
from myphr.records import labels, readings, removal, search
from myphr.records.items import remove_item
from myphr.records.labels import Labels
from myphr.records.models import Item, ItemReading, RecordIndex, Study
from myphr.records.opening import dek_of
from myphr.records.reading import Reading
from myphr.records.search_index import Question
from tests.cast import SignedIn
from tests.web.stage import dicom_bytes, put_in, put_many, put_study

ROOT = Path(__file__).parents[3]
MARKER = "Zyxwmarker7f3a91"


@pytest.fixture(autouse=True)
def as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a search reads less at once than these tests put in."""
    monkeypatch.setattr("myphr.records.search.AT_ONCE_SECONDS", 60)


def found(portal: Portal, who: SignedIn, words: str = "", **chosen: str) -> list[str]:
    answer = portal.search.find(who.login.ring(), who.account.id, Question(words, chosen), 500)
    return [hit.entry.thing_id for hit in answer.found.hits]


def bring_up(portal: Portal, who: SignedIn) -> None:
    search.bring_up_to_date(portal, who.login.ring(), who.account.id)


def settle(portal: Portal) -> None:
    """What is read beside a search is done."""
    for thread in list(portal.search._reading.values()):
        thread.join(60)


def index_row(portal: Portal) -> RecordIndex | None:
    with portal.database.read() as db:
        return db.exec(select(RecordIndex)).first()


def kept_keys(portal: Portal) -> set[str]:
    return {stored.key for stored in portal.store.listing() if stored.key.endswith(".index")}


def put_reading(portal: Portal, who: SignedIn, item_id: str, reading: Reading) -> None:
    """As the worker leaves it."""
    with portal.database.write() as db:
        item = db.exec(select(Item).where(Item.id == item_id)).one()
        row = db.exec(select(ItemReading).where(ItemReading.item_id == item_id)).first()
        row = row or ItemReading(item_id=item_id, account_id=item.account_id, dek_for_worker=None)
        row.sealed_reading = readings.seal(dek_of(who.login.ring(), item), item_id, reading)
        row.state = "done"
        db.add(row)


LETTER = Reading(
    title="Letter about your knee", kind_words="Letter", date="2019-05", place="Lake Clinic", author="Dr Anna Weiß",
    patient="Vera Lindqvist", facts=(("Diagnosis", "gonarthrosis"),), text=f"Dear colleague, {MARKER} of the knee",
)  # fmt: skip


def test_what_comes_is_found_at_once(portal: Portal, patient: SignedIn) -> None:
    assert found(portal, patient) == []
    letter = put_in(portal, patient.account.id, b"a letter", "Knee letter.txt", "from mother/Knee letter.txt")
    assert found(portal, patient, "knee") == found(portal, patient, "mother") == [letter.id]
    study = put_study(portal, patient.account.id, images=3)
    for words in ("harbour", "mri head", "26 august 2024", "2024-08-26", "MR scan", "IM00002", "harbour im00003"):
        assert found(portal, patient, words) == [study], words
    assert len(found(portal, patient)) == 2 and found(portal, patient, "2004") == []


def test_what_was_read_out_of_a_file_is_found_and_shown(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "scan0001.pdf")
    assert found(portal, patient, MARKER) == []
    put_reading(portal, patient, letter.id, LETTER)
    for words in (MARKER, "weiss", "weiß", "lake clinic", "may 2019", "gonarthrosis", "scan0001", "knee lindqvist"):
        assert (found(portal, patient, words) == [letter.id]) is (words != "weiss"), words  # ß is a letter of its own
    answer = portal.search.find(patient.login.ring(), patient.account.id, Question(MARKER), 5)
    [hit] = answer.found.hits
    assert (hit.entry.title, hit.entry.day, hit.entry.place, hit.entry.author) == (
        "Letter about your knee", "2019-05", "Lake Clinic", "Dr Anna Weiß"
    )  # fmt: skip
    assert (MARKER, True) in hit.excerpt
    assert answer.found.counts["year"] == (("2019", 1),)


def test_what_was_read_out_of_a_file_of_a_study_leads_to_the_study(portal: Portal, patient: SignedIn) -> None:
    uid = "1.2.840.99999.7"
    report = put_in(portal, patient.account.id, dicom_bytes(uid, 1, Modality="SR"), "SR0001")
    assert report.study_id
    put_reading(portal, patient, report.id, LETTER)
    assert found(portal, patient, MARKER) == [report.study_id]


def test_what_the_owner_says_is_found_at_once(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    assert found(portal, patient, type="document") == [letter.id]
    said = Labels("laboratory", "none", False, dt.date(2011, 11, 30))
    labels.say(portal.database, patient.login.ring(), patient.account.id, letter.id, said)
    assert found(portal, patient, type="document") == []
    assert found(portal, patient, type="laboratory", year="2011") == [letter.id]
    assert found(portal, patient, "november 2011") == [letter.id]


def test_the_day_that_the_form_proposes_is_no_day_that_somebody_said(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    added = Labels("laboratory", "none", False, letter.created_at.date())
    labels.say(portal.database, patient.login.ring(), patient.account.id, letter.id, added)
    assert found(portal, patient, year="none", type="laboratory") == [letter.id]


def test_what_is_deleted_is_found_no_more_and_leaves_the_kept_index(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    other = put_in(portal, patient.account.id, b"%PDF-1.7\n1", "other.pdf")
    put_reading(portal, patient, letter.id, LETTER)
    bring_up(portal, patient)

    def kept_bytes() -> bytes:
        with search.load(portal, patient.login.ring(), patient.account.id) as index:
            return index.to_bytes()

    assert MARKER.encode() in kept_bytes()
    remove_item(portal.database, patient.account.id, letter.id, Actor("patient", patient.account.id))
    assert found(portal, patient, "knee") == [] and found(portal, patient) == [other.id]
    settle(portal)
    bring_up(portal, patient)
    assert MARKER.lower().encode() not in kept_bytes().lower() and b"gonarthrosis" not in kept_bytes()
    assert len(kept_keys(portal)) == 1


def test_erasing_for_good_drops_an_index_that_may_hold_it(portal: Portal, patient: SignedIn) -> None:
    """Nobody but the owner can take words out of it, and she may never search again."""
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    other = put_in(portal, patient.account.id, b"%PDF-1.7\n1", "other.pdf")
    bring_up(portal, patient)
    remove_item(portal.database, patient.account.id, letter.id, Actor("patient", patient.account.id))
    removal.erase_removed(portal.database, portal.store)
    assert index_row(portal) is None and kept_keys(portal) == set()
    assert found(portal, patient) == [other.id]


def test_an_index_read_before_a_deletion_is_not_kept_after_it(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    ring = patient.login.ring()
    with search.load(portal, ring, patient.account.id) as index:
        behind = search.Behind(portal, patient.account.id, index)
        behind.read(portal, ring)
        remove_item(portal.database, patient.account.id, letter.id, Actor("patient", patient.account.id))
        assert search.keep(portal, ring, patient.account.id, index, behind.as_of) is False
    assert index_row(portal) is None and kept_keys(portal) == set()


def test_the_sweep_of_orphans_spares_the_kept_index(portal: Portal, patient: SignedIn) -> None:
    put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    bring_up(portal, patient)
    assert removal.sweep_orphans(portal.database, portal.store, older_than_seconds=-1) == 0
    assert len(kept_keys(portal)) == 1


def test_nobody_finds_anything_of_somebody_else(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    bring_up(portal, patient)
    assert found(portal, stranger) == [] == found(portal, stranger, "letter")
    # Not even with the right account and the wrong keys.
    answer = portal.search.find(stranger.login.ring(), patient.account.id, Question("letter"), 5)
    assert not answer.found.hits or "damaged" in answer.found.hits[0].entry.title


@pytest.mark.parametrize("harm", ["gone", "cut", "changed", "swapped", "another ring", "another account's", "forged"])
def test_an_index_that_does_not_open_is_made_anew(
    portal: Portal, patient: SignedIn, stranger: SignedIn, harm: str
) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    bring_up(portal, patient)
    row = index_row(portal)
    assert row is not None
    [path] = [path for path in portal.settings.home.rglob("*") if path.name == row.object_key]
    if harm == "gone":
        portal.store.delete(row.object_key)
    elif harm in ("cut", "changed"):
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(content[:-70] if harm == "cut" else content[:900] + bytes([content[900] ^ 1]) + content[901:])
    else:
        with portal.database.write() as db:
            changed = db.get(RecordIndex, patient.account.id)
            assert changed is not None
            if harm == "swapped":
                changed.wrapped_dek = changed.wrapped_dek[::-1]
            elif harm == "another account's":
                changed.index_id = stranger.account.id
            else:  # whoever can write to the database knows the public key, but not a key of the ring
                foreign = KeyRing(envelope.new_key_pair())
                context = search._context(patient.account.id, changed.index_id)
                sealed = envelope.wrap(foreign.derive(search._KEY), bytes(32), context=context)
                forged = envelope.seal_to(patient.login.ring().public_key, bytes(32), context=context)
                changed.wrapped_dek = forged if harm == "forged" else sealed
            db.add(changed)
    assert found(portal, patient, "letter") == [letter.id]
    bring_up(portal, patient)
    assert found(portal, patient, "letter") == [letter.id] and index_row(portal).index_id != row.index_id  # type: ignore[union-attr]


def test_a_damaged_file_or_study_hides_no_other(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    broken = put_in(portal, patient.account.id, b"%PDF-1.7\n1", "broken.pdf")
    study = put_study(portal, patient.account.id)
    with portal.database.write() as db:
        item, row = db.get(Item, broken.id), db.get(Study, study)
        assert item and row
        item.sealed_details = item.sealed_details[:-1] + b"x"
        row.sealed_summary = row.sealed_summary[:-1] + b"x"
        db.add(item)
        db.add(row)
    assert found(portal, patient, "letter.pdf") == [letter.id]
    assert set(found(portal, patient, "damaged")) == {broken.id, study}
    assert set(found(portal, patient)) == {letter.id, broken.id, study}


def test_a_study_that_still_grows_is_read_again_when_it_has_settled(portal: Portal, patient: SignedIn) -> None:
    uid = "1.2.840.99999.8"
    first = put_in(portal, patient.account.id, dicom_bytes(uid, 1, InstitutionName="Lake Clinic"), "1")
    assert found(portal, patient, "lake") == [first.study_id]
    bring_up(portal, patient)
    for number in (2, 3):
        put_in(portal, patient.account.id, dicom_bytes(uid, number, InstitutionName="Harbour Hospital"), str(number))
    with portal.database.write() as db:
        study = db.get(Study, first.study_id)
        assert study
        study.changed_at -= dt.timedelta(seconds=10)
        db.add(study)
    assert found(portal, patient, "harbour") == [first.study_id] and found(portal, patient, "lake") == []


def test_more_than_a_moments_work_is_read_beside_and_kept(portal: Portal, patient: SignedIn, monkeypatch) -> None:
    put_many(portal, patient.account.id, 200)
    monkeypatch.setattr(search, "AT_ONCE_SECONDS", 0)
    answer = portal.search.find(patient.login.ring(), patient.account.id, Question(), 5)
    assert answer.unread == 150 and answer.found.total == 50
    settle(portal)
    assert index_row(portal) is not None
    answer = portal.search.find(patient.login.ring(), patient.account.id, Question(), 5)
    assert answer.unread == 0 and answer.found.total == 200
    assert portal.search._reading == {}


def test_a_few_changes_are_not_worth_writing_the_whole_index(portal: Portal, patient: SignedIn) -> None:
    put_many(portal, patient.account.id, 30)
    bring_up(portal, patient)
    before = index_row(portal)
    put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    assert len(found(portal, patient)) == 31
    assert portal.search._reading == {} and index_row(portal).index_id == before.index_id  # type: ignore[union-attr]


def test_two_at_once_leave_one_index_and_no_rest(portal: Portal, patient: SignedIn) -> None:
    put_many(portal, patient.account.id, 60)
    ring, failed = patient.login.ring(), []

    def one() -> None:
        try:
            search.bring_up_to_date(portal, ring, patient.account.id)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = index_row(portal)
    assert failed == [] and row is not None and kept_keys(portal) == {row.object_key}
    assert len(found(portal, patient)) == 60


def test_a_full_disk_costs_the_kept_index_and_no_answer(portal: Portal, patient: SignedIn, monkeypatch) -> None:
    put_many(portal, patient.account.id, 40)

    def full(key: str) -> None:
        raise StoreFull()

    monkeypatch.setattr(portal.store, "create", full)
    assert len(found(portal, patient, "letter")) == 40
    settle(portal)
    assert index_row(portal) is None and len(found(portal, patient)) == 40


_DYING = """
    import os, sys
    from pathlib import Path
    from myphr.people import accounts
    from myphr.portal import Portal
    from myphr.records import search
    from tests.cast import PATIENT, cheap_settings
    portal = Portal(cheap_settings(Path(sys.argv[1]), sys.argv[2]))
    login = accounts.resolve(portal.database, sys.argv[3])
    die = lambda *a: os.kill(os.getpid(), 9)
    where = sys.argv[4]
    if where == "before the object":
        portal.store.create = die
    elif where == "between object and row":
        real = portal.database.write
        portal.database.write = die
    elif where == "before the old one goes":
        portal.store.delete = die
    search.bring_up_to_date(portal, login.ring(), login.account.id)
"""


@pytest.mark.parametrize("where", ["before the object", "between object and row", "before the old one goes"])
def test_killed_anywhere_nothing_is_lost(portal: Portal, patient: SignedIn, redis_url: str, where: str) -> None:
    put_many(portal, patient.account.id, 30)
    bring_up(portal, patient)
    for number in range(3):
        put_in(portal, patient.account.id, b"%d" % number, f"more-{number}.txt")
    program = textwrap.dedent(_DYING)
    command = [sys.executable, "-c", program, str(portal.settings.home), redis_url, patient.cookie_value, where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert len(found(portal, patient)) == 33 and len(found(portal, patient, "more")) == 3
    bring_up(portal, patient)
    removal.sweep_orphans(portal.database, portal.store, older_than_seconds=-1)
    row = index_row(portal)
    assert row is not None and kept_keys(portal) == {row.object_key}
    assert len(found(portal, patient)) == 33


def test_after_searching_neither_words_nor_names_stand_anywhere_in_clear(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "secret-diagnosis-9b1c.pdf")
    put_reading(portal, patient, letter.id, LETTER)
    for word in (MARKER, "gonarthrosis"):
        assert found(portal, patient, word) == [letter.id]
    bring_up(portal, patient)
    portal.search.timeline(patient.login.ring(), patient.account.id, most=10)
    with portal.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(FULL)")
    words = (MARKER, MARKER.lower(), "gonarthrosis", "secret-diagnosis-9b1c", "Lake Clinic")
    needles = [text.encode() for text in words]

    def places() -> list[str]:
        return [path.name for path in portal.settings.home.rglob("*")
                if path.is_file() and any(needle in path.read_bytes() for needle in needles)]  # fmt: skip

    assert len(kept_keys(portal)) == 1 and places() == []
    with search.load(portal, patient.login.ring(), patient.account.id) as index:  # the search for them can find them
        (portal.settings.home / "control").write_bytes(index.to_bytes())
    assert places() == ["control"]
