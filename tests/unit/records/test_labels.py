"""Labels of files: what a file says about itself, what its owner says, and that nobody else reads either."""

import datetime as dt

import pytest
from sqlmodel import select

from myphr.crypto import envelope
from myphr.errors import EnvelopeError, FormRefused, NotFound
from myphr.people.keyring import KeyRing
from myphr.portal import Portal
from myphr.records import labels
from myphr.records.labels import Labels
from myphr.records.models import Item, ItemReading
from myphr.records.reading import FullReading, Reading
from tests.cast import SignedIn
from tests.web.stage import dicom_bytes, put_in, put_reading, put_study

DAY = dt.date(2024, 8, 26)
SAID = Labels("laboratory", "none", True, DAY)


@pytest.mark.parametrize(("format", "headers", "found"), [
    ("dicom", {"modality": "MR", "study_date": "20040826"}, Labels("imaging", "mr", False, dt.date(2004, 8, 26))),
    ("dicom", {"modality": "ECG", "study_date": "20040826"}, Labels("ecg", "ecg", False, dt.date(2004, 8, 26))),
    ("dicom", {"modality": "SR"}, Labels("document", "sr", False, DAY)),
    ("dicom", {"modality": "M R/", "study_date": "18991231"}, Labels("imaging", "mr", False, DAY)),
    ("dicom", {}, Labels("imaging", "none", False, DAY)), ("dicom", None, Labels("imaging", "none", False, DAY)),
    ("pdf", None, Labels("document", "none", False, DAY)), ("heif", None, Labels("photo", "none", False, DAY)),
    ("zip", None, Labels("other", "none", False, DAY)), ("from-the-future", None, Labels("other", "none", False, DAY)),
])  # fmt: skip
def test_a_file_is_guessed_from_its_format_and_headers(format: str, headers: dict | None, found: Labels) -> None:
    assert labels.guess(format, headers, DAY) == found


@pytest.mark.parametrize(("read", "day"), [
    ("2014-03-05", dt.date(2014, 3, 5)), ("2014-03-05T10:20", dt.date(2014, 3, 5)), ("2014-03", DAY), ("2014", DAY),
    ("", DAY), ("0000-00-00", DAY), ("1803-01-01", DAY), ("2190-01-01", DAY), ("no date", DAY),
])  # fmt: skip
def test_the_day_read_out_of_a_file_counts_where_it_is_one(read: str, day: dt.date) -> None:
    assert labels.guess("pdf", None, DAY, read).day == day
    assert labels.guess("dicom", {"study_date": "20040826"}, DAY, read).day == dt.date(2004, 8, 26)


def ring_of(who: SignedIn) -> KeyRing:
    return who.login.ring()


def item_of(portal: Portal, item_id: str) -> Item:
    with portal.database.read() as db:
        return db.exec(select(Item).where(Item.id == item_id)).one()


def test_all_files_of_a_record_have_labels_and_keep_them(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    put_study(portal, patient.account.id, images=2)
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    put_in(portal, stranger.account.id, b"%PDF-1.7\n", "other.pdf")
    found = labels.of_record(portal.database, ring_of(patient), patient.account.id)
    assert sorted(one.type for one in found.values()) == ["document", "imaging", "imaging"]
    assert found[letter.id].day == letter.created_at.date()
    kept = item_of(portal, letter.id).wrapped_labels
    assert kept and b"document" not in kept
    assert labels.of_record(portal.database, ring_of(patient), patient.account.id) == found
    assert item_of(portal, letter.id).wrapped_labels == kept


def read_out(portal: Portal, patient: SignedIn, item: Item, date: str) -> None:
    put_reading(portal, patient, item.id, FullReading(Reading(kind_words="PDF document", date=date)))


def test_a_guess_from_before_the_file_was_read_is_made_anew_once(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")

    def day() -> dt.date:
        every = labels.of_record(portal.database, ring_of(patient), patient.account.id)
        assert every == {letter.id: labels.of_file(portal.database, ring_of(patient), item_of(portal, letter.id))}
        return every[letter.id].day

    assert day() == letter.created_at.date()
    early = item_of(portal, letter.id).wrapped_labels
    read_out(portal, patient, letter, "2014-03-05")
    assert labels.of_item(ring_of(patient), item_of(portal, letter.id)).day == letter.created_at.date()
    assert labels.of_file(portal.database, ring_of(patient), item_of(portal, letter.id)).day == dt.date(2014, 3, 5)
    assert day() == dt.date(2014, 3, 5)
    kept = item_of(portal, letter.id).wrapped_labels
    assert kept != early
    assert day() == dt.date(2014, 3, 5)
    assert item_of(portal, letter.id).wrapped_labels == kept


def test_what_was_read_changes_nothing_that_the_owner_said(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    labels.say(portal.database, ring_of(patient), patient.account.id, letter.id, SAID)
    read_out(portal, patient, letter, "2014-03-05")
    assert labels.of_record(portal.database, ring_of(patient), patient.account.id) == {letter.id: SAID}
    assert labels.of_file(portal.database, ring_of(patient), item_of(portal, letter.id)) == SAID


def test_what_was_sensitive_stays_so_when_the_day_becomes_known(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    with portal.database.write() as db:
        row = db.get_one(Item, letter.id)
        row.wrapped_labels = labels.wrap_guess(ring_of(patient), letter.id, SAID)
        db.add(row)
    read_out(portal, patient, letter, "2014-03-05")
    [found] = labels.of_record(portal.database, ring_of(patient), patient.account.id).values()
    assert (found.sensitive, found.day) == (True, dt.date(2014, 3, 5))


def test_a_reading_that_was_changed_leaves_the_file_its_day(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    read_out(portal, patient, letter, "2014-03-05")
    with portal.database.write() as db:
        row = db.exec(select(ItemReading).where(ItemReading.item_id == letter.id)).one()
        row.sealed_reading = b"x" + (row.sealed_reading or b"")[1:]
        db.add(row)
    [found] = labels.of_record(portal.database, ring_of(patient), patient.account.id).values()
    assert found.day == letter.created_at.date()


def test_what_the_owner_says_goes_before_what_was_guessed(portal: Portal, patient: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    labels.say(portal.database, ring_of(patient), patient.account.id, letter.id, SAID)
    assert labels.of_item(ring_of(patient), item_of(portal, letter.id)) == SAID
    assert labels.of_record(portal.database, ring_of(patient), patient.account.id) == {letter.id: SAID}


def test_what_comes_late_to_a_study_marked_as_sensitive_is_sensitive(portal: Portal, patient: SignedIn) -> None:
    uid = "1.2.840.99999.1"
    first = put_in(portal, patient.account.id, dicom_bytes(uid, 1), "1")
    assert first.study_id
    labels.mark_study(portal.database, ring_of(patient), patient.account.id, first.study_id, sensitive=True)
    late = put_in(portal, patient.account.id, dicom_bytes(uid, 2), "2")
    other = put_in(portal, patient.account.id, dicom_bytes(uid + "1", 1), "3")
    found = labels.of_record(portal.database, ring_of(patient), patient.account.id)
    assert [found[one.id].sensitive for one in (first, late, other)] == [True, True, False]


def test_nobody_says_what_the_file_of_somebody_else_is(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    letter = put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf")
    with pytest.raises(NotFound):
        labels.say(portal.database, ring_of(stranger), stranger.account.id, letter.id, SAID)
    assert item_of(portal, letter.id).wrapped_labels is None
    study_id = put_study(portal, patient.account.id)
    with pytest.raises(NotFound):
        labels.mark_study(portal.database, ring_of(stranger), stranger.account.id, study_id, sensitive=True)


def test_labels_that_somebody_else_wrapped_or_moved_are_refused_and_not_guessed_anew(
    portal: Portal, patient: SignedIn
) -> None:
    one, other = (put_in(portal, patient.account.id, b"%PDF-1.7\n" + name, "letter.pdf") for name in (b"1", b"2"))
    labels.say(portal.database, ring_of(patient), patient.account.id, other.id, SAID)
    foreign = KeyRing(envelope.new_key_pair())
    for wrapped in (labels._wrap(foreign, one.id, SAID, said=True), item_of(portal, other.id).wrapped_labels):
        with portal.database.write() as db:
            row = db.get(Item, one.id)
            assert row is not None
            row.wrapped_labels = wrapped
            db.add(row)
        with pytest.raises(EnvelopeError):
            labels.of_item(ring_of(patient), item_of(portal, one.id))
        assert set(labels.of_record(portal.database, ring_of(patient), patient.account.id)) == {other.id}


@pytest.mark.parametrize("form", [
    {"type": "poem"}, {"type": ""}, {"day": "26.8.2024"}, {"day": "1899-12-31"}, {"day": "2079-06-07"}, {"day": ""},
])  # fmt: skip
def test_a_form_that_cannot_be_is_refused(form: dict) -> None:
    with pytest.raises(FormRefused):
        labels.read_form(**({"type": "photo", "day": "2024-08-26", "sensitive": False, "modality": "none"} | form))


def test_only_imaging_keeps_its_modality() -> None:
    assert labels.read_form("imaging", "2024-08-26", False, "mr").modality == "mr"
    assert labels.read_form("laboratory", "2024-08-26", True, "mr") == SAID
