"""The owner says what a file is: the word holds, can be taken back, and moves what is guessed from it."""

import datetime as dt
import threading

import pytest
from sqlmodel import select

from myphr.audit.models import AuditEvent
from myphr.errors import FormRefused, NotFound
from myphr.portal import Portal
from myphr.records import correction, labels
from myphr.records.labels import Labels
from myphr.records.models import Item
from tests.cast import SignedIn
from tests.web.stage import put_in


@pytest.fixture
def letter(portal: Portal, patient: SignedIn) -> str:
    return put_in(portal, patient.account.id, b"%PDF-1.7\n", "letter.pdf").id


def row(portal: Portal, item_id: str) -> Item:
    with portal.database.read() as db:
        return db.exec(select(Item).where(Item.id == item_id)).one()


def say(portal: Portal, who: SignedIn, item_id: str, code: str | None) -> Labels | None:
    return correction.correct(portal.database, who.login.ring(), who.account.id, item_id, code)


def kind(portal: Portal, who: SignedIn, item_id: str) -> correction.Kind:
    return correction.kind_of(portal.database, who.login.ring(), who.account.id, item_id)


def test_what_the_owner_says_holds_and_what_we_told_is_kept_sealed(
    portal: Portal, patient: SignedIn, letter: str
) -> None:
    before = row(portal, letter)
    assert kind(portal, patient, letter) == correction.Kind("pdf", None)
    say(portal, patient, letter, "hl7v2")
    say(portal, patient, letter, "scp-ecg")
    assert kind(portal, patient, letter) == correction.Kind("scp-ecg", "pdf")
    after = row(portal, letter)
    assert (after.object_key, after.plain_bytes, after.sealed_dek) == (
        before.object_key, before.plain_bytes, before.sealed_dek
    )  # fmt: skip
    assert b"pdf" not in after.sealed_details
    with portal.database.read() as db:
        told = [event for event in db.exec(select(AuditEvent)) if event.event == "item-kind-corrected"]
    assert len(told) == 2 and "scp" not in str(told)


@pytest.mark.parametrize("code", [None, "pdf"])
def test_it_can_be_taken_back(portal: Portal, patient: SignedIn, letter: str, code: str | None) -> None:
    say(portal, patient, letter, "hl7v2")
    say(portal, patient, letter, code)
    assert kind(portal, patient, letter) == correction.Kind("pdf", None)
    assert say(portal, patient, letter, code) is None  # nothing to do


def test_labels_that_were_guessed_follow_and_stay_sensitive(portal: Portal, patient: SignedIn, letter: str) -> None:
    ring = patient.login.ring()
    kept = Labels("document", "none", True, row(portal, letter).created_at.date())
    with portal.database.write() as db:
        item = db.get(Item, letter)
        assert item
        item.wrapped_labels = labels.wrap_guess(ring, letter, kept)
        db.add(item)
    assert say(portal, patient, letter, "hl7v2") == Labels("laboratory", "none", True, kept.day)
    assert labels.of_item(ring, row(portal, letter)).type == "laboratory"


def test_labels_that_the_owner_said_stay(portal: Portal, patient: SignedIn, letter: str) -> None:
    said = Labels("photo", "none", False, dt.date(2020, 1, 2))
    labels.say(portal.database, patient.login.ring(), patient.account.id, letter, said)
    assert say(portal, patient, letter, "hl7v2") is None
    assert labels.of_item(patient.login.ring(), row(portal, letter)) == said


@pytest.mark.parametrize("code", ["", "poem", "PDF", "../x", "pdf\0"])
def test_only_kinds_that_we_know(portal: Portal, patient: SignedIn, letter: str, code: str) -> None:
    with pytest.raises(FormRefused):
        say(portal, patient, letter, code)
    assert kind(portal, patient, letter) == correction.Kind("pdf", None)


def test_nobody_corrects_the_file_of_somebody_else(
    portal: Portal, patient: SignedIn, stranger: SignedIn, letter: str
) -> None:
    with pytest.raises(NotFound):
        say(portal, stranger, letter, "hl7v2")
    assert row(portal, letter).format == "pdf"


def test_two_at_once_leave_one_of_both_and_what_we_told(portal: Portal, patient: SignedIn, letter: str) -> None:
    ring, refused = patient.login.ring(), []

    def one(code: str) -> None:
        try:
            correction.correct(portal.database, ring, patient.account.id, letter, code)
        except FormRefused as error:
            refused.append(error)

    threads = [threading.Thread(target=one, args=(code,)) for code in ("hl7v2", "scp-ecg", "jpeg", "vcf")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = kind(portal, patient, letter)
    assert left.format in ("hl7v2", "scp-ecg", "jpeg", "vcf") and left.identified == "pdf"
    assert len(refused) < 4
