"""What others share is found while it is shared, marked as theirs, by nobody else; so is the name of who sent it."""

import contextlib
import datetime as dt

import pytest
from sqlmodel import select

from myphr.audit import trail
from myphr.crypto import envelope
from myphr.database import new_id
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.models import DropOff
from myphr.people.keyholder import Keyholder
from myphr.records import labels, search
from myphr.records.models import Item, RecordIndex
from myphr.records.reading import FullReading, Reading
from myphr.records.search_index import Found, Question
from myphr.sharing import delegations, drop_off_links, record_shares, rewrapping
from myphr.sharing.kinds import Filter
from myphr.sharing.record_shares import Audience, Scope
from myphr.sharing.search_around import Around
from tests.cast import PATIENT, SignedIn
from tests.integration.sharing.conftest import Clinic, gid_of
from tests.web.stage import dicom_bytes, put_in, put_reading

EVERYTHING = Scope("everything", "all")
MARKER = "Zyxwmarker77c0de"


def find(clinic: Clinic, who: SignedIn, words: str = MARKER, **chosen: str) -> Found:
    """Once what is new has been read, as the page does by asking again."""
    for _ in range(3):
        around = Around(clinic.portal, who.login)
        answer = clinic.portal.search.find(who.login.ring(), who.account.id, Question(words, chosen), 50, around)
        for thread in list(clinic.portal.search._reading.values()):
            thread.join(60)
        if not answer.unread:
            return answer.found
    raise AssertionError("it is never done reading")


def kept_words(clinic: Clinic, who: SignedIn) -> bool:
    """Whether the marker is in the bytes of this person's index, as they lie in the store."""
    with contextlib.closing(search.load(clinic.portal, who.login.ring(), who.account.id)) as index:
        return MARKER.lower().encode() in index.to_bytes().lower()


@pytest.fixture
def letter(clinic: Clinic) -> Item:
    item = put_in(clinic.portal, clinic.patient.account.id, b"Dear patient", "letter.txt")
    reading = Reading(title="Discharge letter", date="2021-02-03", text=f"words about {MARKER} here")
    put_reading(clinic.portal, clinic.patient, item.id, FullReading(reading))
    return item


def share(clinic: Clinic, *who: SignedIn, scope: Scope = EVERYTHING) -> str:
    audience = Audience("named", gids=tuple(gid_of(one) for one in who))
    return record_shares.share(clinic.portal, clinic.patient.login, scope, audience)


# -- found ----------------------------------------------------------------------------------------
def test_found_by_whom_it_is_shared_with_and_by_nobody_else(clinic: Clinic, letter: Item) -> None:
    share_id = share(clinic, clinic.caregiver)
    [hit] = find(clinic, clinic.caregiver).hits
    assert hit.entry.share_id == share_id and hit.entry.patient == PATIENT.name and hit.entry.day == "2021-02-03"
    assert ("", True) not in hit.excerpt and any(is_found for _, is_found in hit.excerpt)
    for other in (clinic.nurse, clinic.stranger, clinic.operator):
        assert find(clinic, other).total == 0
    [own] = find(clinic, clinic.patient).hits
    assert own.entry.share_id is None


def test_its_owner_reads_in_the_trail_that_it_was_read_once(clinic: Clinic, letter: Item) -> None:
    share(clinic, clinic.caregiver)
    find(clinic, clinic.caregiver), find(clinic, clinic.caregiver)
    rows = trail.for_account(clinic.portal.database, clinic.patient.account.id)
    [told] = [row for row in rows if row.event == "shared-record-indexed"]
    assert told.actor_id == clinic.caregiver.account.id and '"items":1' in told.details
    assert "1 file that you share" in trail.sentence(told)


def test_it_is_found_by_kind_and_the_owner_s_name_and_narrowed_to(clinic: Clinic, letter: Item) -> None:
    share(clinic, clinic.caregiver)
    put_in(clinic.portal, clinic.caregiver.account.id, b"own " + MARKER.encode(), f"{MARKER}.txt")
    found = find(clinic, clinic.caregiver)
    assert found.total == 2 and dict(found.counts["source"]) == {"upload": 1, "shared": 1}
    assert find(clinic, clinic.caregiver, source="shared").total == 1
    assert find(clinic, clinic.caregiver, PATIENT.name).total == 1


def test_images_of_one_shared_study_are_one_row(clinic: Clinic) -> None:
    for number in (1, 2, 3):
        image = dicom_bytes("1.2.3.4", number, StudyDescription=MARKER, StudyDate="20200102")
        put_in(clinic.portal, clinic.patient.account.id, image, f"{number}.dcm")
    share(clinic, clinic.caregiver)
    [hit] = find(clinic, clinic.caregiver).hits
    assert hit.entry.day == "2020-01-02" and hit.entry.kind == "Study"


def test_somebody_else_s_files_are_on_nobody_s_own_timeline(clinic: Clinic, letter: Item) -> None:
    share(clinic, clinic.caregiver)
    assert find(clinic, clinic.caregiver).total == 1
    who = clinic.caregiver
    view = clinic.portal.search.timeline(who.login.ring(), who.account.id, most=50)
    assert (view.entries, view.total, view.years.counts, view.years.unknown) == ((), 0, (), 0)
    assert clinic.portal.search.timeline(who.login.ring(), who.account.id, dated=False, most=50).total == 0
    assert find(clinic, clinic.caregiver).total == 1  # the look at the timeline threw nothing away


def test_what_is_shared_by_kind_is_found_and_nothing_of_other_kinds(clinic: Clinic, letter: Item) -> None:
    secret = put_in(clinic.portal, clinic.patient.account.id, b"x", f"{MARKER}-secret.txt")
    ring = clinic.patient.login.ring()
    said = labels.of_record(clinic.portal.database, ring, clinic.patient.account.id)[secret.id]
    labels.say(clinic.portal.database, ring, clinic.patient.account.id, secret.id,
               labels.Labels(said.type, said.modality, True, said.day))  # fmt: skip
    by_kind = delegations.delegate(clinic.portal, clinic.patient.login, gid_of(clinic.nurse), Filter())
    all_of_it = Filter(also_sensitive=True)  # so that the other file is wrapped, for somebody else
    delegations.delegate(clinic.portal, clinic.patient.login, gid_of(clinic.caregiver), all_of_it)
    for words in (MARKER, ""):
        [hit] = find(clinic, clinic.nurse, words).hits
        assert hit.entry.share_id == by_kind and hit.entry.title == "Discharge letter"
    assert find(clinic, clinic.caregiver).total == 2


def test_emergency_shares_are_never_read_for_a_search(clinic: Clinic, letter: Item) -> None:
    clinic.grant(clinic.nurse, "emergency")
    clinic.grant(clinic.nurse, "break-glass", authority=clinic.registrar)
    record_shares.share(clinic.portal, clinic.patient.login, EVERYTHING, clinic.emergency)
    assert find(clinic, clinic.nurse).total == 0


# -- and no longer --------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["withdrawn", "removed", "file deleted", "by kind stopped"])
def test_taken_back_it_is_found_no_more_and_its_words_leave_the_index(
    clinic: Clinic, letter: Item, how: str
) -> None:
    portal, owner = clinic.portal, clinic.patient.login
    if how == "by kind stopped":
        share_id = delegations.delegate(portal, owner, gid_of(clinic.caregiver), Filter())
    else:
        share_id = share(clinic, clinic.caregiver, clinic.nurse)
    assert find(clinic, clinic.caregiver).total == 1 and kept_words(clinic, clinic.caregiver)
    if how == "withdrawn":
        record_shares.withdraw(portal, owner, share_id)
    elif how == "removed":
        record_shares.remove_person(portal, owner, share_id, gid_of(clinic.caregiver))
    elif how == "by kind stopped":
        delegations.stop(portal, owner, share_id)
    else:
        with portal.database.write() as db:
            db.get(Item, letter.id).deleted_at = dt.datetime.now(dt.UTC)
    around = Around(portal, clinic.caregiver.login)
    first = portal.search.find(
        clinic.caregiver.login.ring(), clinic.caregiver.account.id, Question(MARKER), 50, around
    )
    assert first.found.total == 0  # the very next look
    for thread in list(portal.search._reading.values()):
        thread.join(60)
    assert not kept_words(clinic, clinic.caregiver)  # and with the next write
    if how == "removed":
        assert find(clinic, clinic.nurse).total == 1


def test_a_role_that_was_taken_takes_what_was_found_by_it(clinic: Clinic, letter: Item) -> None:
    clinic.grant(clinic.nurse, "role", "cardiologist")
    record_shares.share(clinic.portal, clinic.patient.login, EVERYTHING, clinic.cardiologists)
    assert find(clinic, clinic.nurse).total == 1
    clinic.take(clinic.nurse, "role", "cardiologist")
    assert find(clinic, clinic.nurse).total == 0  # the keyholder says no, before its owner comes by
    assert not kept_words(clinic, clinic.nurse)


def test_after_a_roll_it_is_still_found_and_not_read_again(clinic: Clinic, letter: Item) -> None:
    share_id = share(clinic, clinic.caregiver, clinic.nurse)
    assert find(clinic, clinic.nurse).total == 1
    record_shares.remove_person(clinic.portal, clinic.patient.login, share_id, gid_of(clinic.caregiver))
    rewrapping.enqueue_stuck(clinic.portal)
    with clinic.portal.database.read() as db:
        for task_id in db.exec(select(rewrapping.RewrapTask.id)):
            rewrapping.run(clinic.portal, task_id)
    assert find(clinic, clinic.nurse).total == 1
    rows = trail.for_account(clinic.portal.database, clinic.patient.account.id)
    assert len([row for row in rows if row.event == "shared-record-indexed"]) == 1


def test_shared_twice_it_is_one_row_and_stays_by_the_other(clinic: Clinic, letter: Item) -> None:
    first = share(clinic, clinic.caregiver)
    second = share(clinic, clinic.caregiver, scope=Scope("item", letter.id))
    assert find(clinic, clinic.caregiver).total == 1
    for gone, left in ((second, first), (first, None)):
        record_shares.withdraw(clinic.portal, clinic.patient.login, gone)
        hits = find(clinic, clinic.caregiver).hits
        assert [hit.entry.share_id for hit in hits] == ([left] if left else [])


def test_with_the_keyholder_away_nothing_of_others_is_found_and_nothing_is_lost(clinic: Clinic, letter: Item) -> None:
    share(clinic, clinic.caregiver)
    put_in(clinic.portal, clinic.caregiver.account.id, b"own", f"own {MARKER}.txt")
    assert find(clinic, clinic.caregiver).total == 2
    real = clinic.portal.__dict__["keyholder"]
    clinic.portal.__dict__["keyholder"] = Keyholder("unix:/nowhere/keyholder.sock")
    assert [hit.entry.share_id for hit in find(clinic, clinic.caregiver).hits] == [None]
    clinic.portal.__dict__["keyholder"] = real
    assert find(clinic, clinic.caregiver).total == 2


def test_a_file_that_was_changed_is_not_waited_for_for_ever(clinic: Clinic, letter: Item) -> None:
    share_id = share(clinic, clinic.caregiver)
    with clinic.portal.database.write() as db:
        wrap = db.get(rewrapping.ItemWrap, (share_id, letter.id, 0))
        wrap.wrapped_dek = wrap.wrapped_dek[:-1] + b"x"
    assert find(clinic, clinic.caregiver).total == 0


def test_the_index_lies_sealed_and_nowhere_in_clear(clinic: Clinic, letter: Item) -> None:
    share(clinic, clinic.caregiver)
    assert find(clinic, clinic.caregiver).total == 1
    with clinic.portal.database.read() as db:
        assert db.get(RecordIndex, clinic.caregiver.account.id)
    home = clinic.portal.settings.home
    for path in (*(home / "store").rglob("*"), *(home / "db").iterdir()):
        assert not path.is_file() or MARKER.lower().encode() not in path.read_bytes().lower()


# -- who sent it ------------------------------------------------------------------------------------
def test_the_name_of_who_sent_it_finds_it(clinic: Clinic) -> None:
    portal, login = clinic.portal, clinic.patient.login
    made = drop_off_links.invite(portal, login, "Radiology at the Harbour", "", "", 3600, 10).created
    put_in(portal, clinic.patient.account.id, b"sent", "sent.txt", source="drop-off", source_id=made.drop_off_id)
    put_in(portal, clinic.patient.account.id, b"own", "own.txt")
    assert [hit.entry.title for hit in find(clinic, clinic.patient, "radiology harbour").hits] == ["sent.txt"]
    assert find(clinic, clinic.stranger, "radiology").total == 0


def test_a_name_that_was_changed_hides_no_file(clinic: Clinic) -> None:
    portal, login = clinic.portal, clinic.patient.login
    made = drop_off_links.invite(portal, login, "Radiology at the Harbour", "", "", 3600, 10).created
    with portal.database.write() as db:
        db.get(DropOff, made.drop_off_id).sealed_name = b"x" * 1300
    put_in(portal, clinic.patient.account.id, b"sent", "sent.txt", source="drop-off", source_id=made.drop_off_id)
    assert [hit.entry.title for hit in find(clinic, clinic.patient, "sent").hits] == ["sent.txt"]


def test_the_hospital_s_name_finds_what_came_from_it(clinic: Clinic) -> None:
    portal, who = clinic.portal, clinic.patient
    fetch_id = new_id()
    sealed = envelope.seal_to(who.login.ring().public_key, b'{"hospital": "Harbour General"}',
                              context=envelope.context_for("fhir-owner", fetch_id))  # fmt: skip
    with portal.database.write() as db:
        db.add(FhirFetch(id=fetch_id, account_id=who.account.id, state="done", state_sha256="x",
                         sealed_for_owner=sealed))  # fmt: skip
    put_in(portal, who.account.id, b"{}", "answer.json", source="fhir", source_id=fetch_id)
    assert [hit.entry.title for hit in find(clinic, who, "harbour general").hits] == ["answer.json"]


def test_read_first_by_the_timeline_it_is_found_by_who_sent_it_all_the_same(clinic: Clinic) -> None:
    portal, who = clinic.portal, clinic.patient
    made = drop_off_links.invite(portal, who.login, "Radiology at the Harbour", "", "", 3600, 10).created
    for number in range(search.WORTH_KEEPING):
        content = b"sent %d" % number
        put_in(portal, who.account.id, content, f"{number}.txt", source="drop-off", source_id=made.drop_off_id)
    around = Around(portal, who.login)
    portal.search.timeline(who.login.ring(), who.account.id, dated=False, most=50, around=around)
    for thread in list(portal.search._reading.values()):
        thread.join(60)
    assert find(clinic, who, "radiology").total == search.WORTH_KEEPING
