"""Shares of the record, end to end: real keyholder, real database, real keys. Who gets in, and who no longer."""

import contextlib
import datetime as dt
from collections.abc import Callable

import pytest
from sqlmodel import select

from myphr.audit import trail
from myphr.crypto import envelope
from myphr.crypto.abe.multi_authority import issue
from myphr.crypto.abe.policy import Attribute
from myphr.database import now
from myphr.errors import AbeError, AccessWithheld, FormRefused, KeyholderUnavailable, NotFound, ReasonRequired
from myphr.machines.models import Machine, VmSession
from myphr.people import identities
from myphr.people.keyholder import Keyholder, Sealed
from myphr.records import removal
from myphr.records.opening import open_item
from myphr.sharing import compartments, record_shares, rewrapping, shared_with_me
from myphr.sharing.models import Mail
from myphr.sharing.record_models import (
    Compartment,
    CompartmentKey,
    CompartmentReader,
    EmergencyOpening,
    ItemWrap,
    RewrapTask,
    VmSessionShare,
)
from myphr.sharing.record_shares import Audience, Scope
from tests.cast import SignedIn
from tests.integration.sharing.conftest import Clinic, gid_of
from tests.running_keyholder import RunningKeyholder

EVERYTHING = Scope("everything", "all")


def opened(clinic: Clinic, who: SignedIn, share_id: str, reason: str = "") -> list[str]:
    """Names of the files that really open, bytes and all."""
    found = shared_with_me.open_shared(clinic.portal, who.login, share_id, reason)
    for one in found.items:
        item = open_item(clinic.portal.store, one.item, one.dek)
        assert item.read_at(0, 5) == b"Dear "
        item.close()
    return [one.details["name"] for one in found.items]


def titles(clinic: Clinic, who: SignedIn) -> list[str]:
    return [view.title for view in shared_with_me.list_shared(clinic.portal, who.login)]


def rows(clinic: Clinic, table: type) -> list:
    with clinic.portal.database.read() as db:
        return list(db.exec(select(table)).all())


def events(clinic: Clinic) -> list[str]:
    with clinic.portal.database.read() as db:
        return list(db.exec(select(trail.AuditEvent.event).order_by(trail.AuditEvent.number)).all())


def run_jobs(clinic: Clinic) -> None:
    for task in rows(clinic, RewrapTask):
        rewrapping.run(clinic.portal, task.id)


def share(clinic: Clinic, audience: Audience, scope: Scope = EVERYTHING) -> str:
    return record_shares.share(clinic.portal, clinic.patient.login, scope, audience)


@pytest.fixture
def family(clinic: Clinic) -> tuple[str, str]:
    """(item id, share id) with the caregiver and the nurse by name."""
    item_id = clinic.add_item()
    return item_id, share(clinic, Audience("family", gids=(gid_of(clinic.caregiver), gid_of(clinic.nurse))))


@pytest.fixture
def team(clinic: Clinic) -> str:
    """With the cardiologists: the caregiver and the nurse are ones."""
    clinic.add_item()
    clinic.grant(clinic.caregiver, "role", "cardiologist")
    clinic.grant(clinic.nurse, "role", "cardiologist")
    return share(clinic, clinic.cardiologists)


@pytest.fixture
def away(clinic: Clinic, tmp_path) -> Callable[[], None]:
    def go() -> None:
        clinic.portal.__dict__["keyholder"] = Keyholder(f"unix:{tmp_path}/nobody-listens")

    return go


# -- people by name -----------------------------------------------------------------------------------
def test_people_by_name_open_the_file_and_nobody_else(clinic: Clinic, family: tuple[str, str]) -> None:
    assert opened(clinic, clinic.caregiver, family[1]) == opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]
    assert titles(clinic, clinic.caregiver) == ["The whole record"]
    assert titles(clinic, clinic.stranger) == []
    with pytest.raises(NotFound):
        opened(clinic, clinic.stranger, family[1])


def test_the_same_share_again_is_the_same_share(clinic: Clinic, family: tuple[str, str]) -> None:
    audience = Audience("family", gids=(gid_of(clinic.caregiver), gid_of(clinic.nurse)))
    assert share(clinic, audience) == family[1]


def test_sharing_with_nobody_or_only_oneself_is_refused(clinic: Clinic) -> None:
    for gids in ((), (gid_of(clinic.patient),)):
        with pytest.raises(FormRefused):
            record_shares.preview(clinic.portal, clinic.patient.login, Audience("family", gids=gids))


def test_a_stranger_shares_sees_and_withdraws_nothing_of_the_patient(clinic: Clinic, family: tuple[str, str]) -> None:
    portal, stranger = clinic.portal, clinic.stranger.login
    with pytest.raises(NotFound):
        record_shares.share(portal, stranger, Scope("item", family[0]),
                            Audience("family", gids=(gid_of(clinic.nurse),)))  # fmt: skip
    for call in (record_shares.one, record_shares.withdraw):
        with pytest.raises(NotFound):
            call(portal, stranger, family[1])
    with pytest.raises(NotFound):
        record_shares.remove_person(portal, stranger, family[1], gid_of(clinic.nurse))
    assert record_shares.list_mine(portal, stranger) == []


def test_a_withdrawn_share_opens_for_nobody_and_leaves_no_key(clinic: Clinic, family: tuple[str, str]) -> None:
    report = record_shares.withdraw(clinic.portal, clinic.patient.login, family[1])
    assert report.sentence().startswith("access of everybody ended ") and report.items_left == 0
    for who in (clinic.caregiver, clinic.nurse):
        assert titles(clinic, who) == []
        with pytest.raises(NotFound):
            opened(clinic, who, family[1])
    assert rows(clinic, ItemWrap) == rows(clinic, CompartmentKey) == rows(clinic, CompartmentReader) == []
    assert record_shares.one(clinic.portal, clinic.patient.login, family[1]).state == "withdrawn"
    record_shares.withdraw(clinic.portal, clinic.patient.login, family[1])
    assert events(clinic).count("record-share-withdrawn") == 1


def test_a_removed_person_is_out_at_once_and_the_others_stay_in(clinic: Clinic, family: tuple[str, str]) -> None:
    portal, patient = clinic.portal, clinic.patient.login
    report = record_shares.remove_person(portal, patient, family[1], gid_of(clinic.caregiver))
    assert report.who == clinic.caregiver.person.name and report.keys_replaced == 2 and report.items_left == 1
    [read] = shared_with_me.list_shared(portal, clinic.nurse.login)
    assert record_shares.one(portal, patient, family[1]).words == read.words == clinic.nurse.person.name
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, family[1])
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]  # still under the old key
    assert record_shares.one(portal, patient, family[1]).state == "changing"
    run_jobs(clinic)
    run_jobs(clinic)
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]
    assert [(wrap.epoch) for wrap in rows(clinic, ItemWrap)] == [1]
    assert [task.keys_for_worker for task in rows(clinic, RewrapTask)] == [None]
    record_shares.catch_up(portal, patient)
    assert [key.epoch for key in rows(clinic, CompartmentKey)] == [1]
    view = record_shares.one(portal, patient, family[1])
    assert view.state == "active" and [person.name for person in view.people] == [clinic.nurse.person.name]


def test_an_old_header_and_an_old_envelope_get_no_half_after_removal(clinic: Clinic, family: tuple[str, str]) -> None:
    kept = next(one for one in rows(clinic, CompartmentReader) if one.gid == gid_of(clinic.caregiver))
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], kept.gid)
    with clinic.portal.database.write() as db:
        db.add(CompartmentReader(**kept.model_dump()))  # the attacker puts the row back
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, family[1])
    for epoch in (0, 1):
        with pytest.raises(AccessWithheld):
            clinic.portal.keyholder.vault_release(identities.proof_for(clinic.caregiver.login), family[1], epoch)


def test_withdrawal_with_the_keyholder_away_says_so_and_ends_nothing(
    clinic: Clinic, family: tuple[str, str], away: Callable[[], None]
) -> None:
    there = clinic.portal.keyholder
    away()
    for call in (
        lambda: record_shares.withdraw(clinic.portal, clinic.patient.login, family[1]),
        lambda: record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.nurse)),
    ):
        with pytest.raises(KeyholderUnavailable):
            call()
    clinic.portal.__dict__["keyholder"] = there
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]
    assert record_shares.one(clinic.portal, clinic.patient.login, family[1]).state == "active"


def test_new_files_of_an_everything_share_come_at_the_owners_next_unlock(
    clinic: Clinic, family: tuple[str, str]
) -> None:
    clinic.add_item("second.txt", b"Dear doctor\n")
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    assert sorted(opened(clinic, clinic.nurse, family[1])) == ["letter.txt", "second.txt"]


def test_with_the_keyholder_gone_after_the_block_the_person_is_out_and_the_keys_roll_later(
    clinic: Clinic, family: tuple[str, str]
) -> None:
    class GoesAway(Keyholder):
        def vault_create(self, *_: object) -> Sealed:
            raise KeyholderUnavailable("gone")

    there = clinic.portal.keyholder
    clinic.portal.__dict__["keyholder"] = GoesAway(f"unix:{there._path}")
    patient = clinic.patient.login
    report = record_shares.remove_person(clinic.portal, patient, family[1], gid_of(clinic.caregiver))
    assert report.keys_replaced == 0
    clinic.portal.__dict__["keyholder"] = there
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, family[1])
    assert record_shares.one(clinic.portal, patient, family[1]).state == "changing"
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]
    record_shares.catch_up(clinic.portal, patient)
    run_jobs(clinic)
    assert [wrap.epoch for wrap in rows(clinic, ItemWrap)] == [1]
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]


def test_a_worker_killed_in_the_middle_of_wrapping_anew_loses_no_file(
    clinic: Clinic, family: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        clinic.add_item(f"{number}.txt", b"Dear %d\n" % number)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    task = rows(clinic, RewrapTask)[0]
    monkeypatch.setattr(rewrapping, "BATCH", 1)
    keys = rewrapping._keys(clinic.portal, task)
    assert rewrapping._batch(clinic.portal, task.id, keys)  # and then it was killed
    assert sorted(wrap.epoch for wrap in rows(clinic, ItemWrap)) == [0, 0, 0, 1]
    assert len(opened(clinic, clinic.nurse, family[1])) == 4
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.stranger))  # rolls again
    run_jobs(clinic)
    assert [wrap.epoch for wrap in rows(clinic, ItemWrap)] == [2] * 4
    assert sorted(task.state for task in rows(clinic, RewrapTask)) == ["closed", "stopped"]
    assert len(opened(clinic, clinic.nurse, family[1])) == 4


def halves(clinic: Clinic, share_id: str) -> list[int]:
    """The epochs of which the vault still gives its owner a half."""
    found, speaker = [], identities.proof_for(clinic.patient.login)
    for epoch in range(5):
        with contextlib.suppress(NotFound):
            clinic.portal.keyholder.vault_release(speaker, share_id, epoch)
            found.append(epoch)
    return found


def test_old_halves_go_when_the_last_key_is_wrapped_anew_without_their_owner(
    clinic: Clinic, family: tuple[str, str]
) -> None:
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    assert halves(clinic, family[1]) == [0, 1]
    run_jobs(clinic)
    assert halves(clinic, family[1]) == [1]
    assert [key.epoch for key in rows(clinic, CompartmentKey)] == [1]
    assert {reader.epoch for reader in rows(clinic, CompartmentReader)} == {1}
    [task] = rows(clinic, RewrapTask)
    assert (task.state, task.destroy_order) == ("closed", None)
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]


def test_with_the_keyholder_away_the_sweep_shows_the_order_again(
    clinic: Clinic, keyholder: RunningKeyholder, family: tuple[str, str], away: Callable[[], None]
) -> None:
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    away()
    run_jobs(clinic)
    [task] = rows(clinic, RewrapTask)
    assert task.state == "done" and task.destroy_order
    clinic.portal.__dict__["keyholder"] = keyholder.client
    with clinic.portal.database.write() as db:
        task.changed_at -= rewrapping.STUCK * 2
        db.add(task)
    clinic.portal.queue.rq.empty()
    rewrapping.enqueue_stuck(clinic.portal)
    assert [job.func_name for job in clinic.portal.queue.rq.get_jobs()] == [rewrapping.JOB_AGAIN]
    run_jobs(clinic)
    assert halves(clinic, family[1]) == [1]
    clinic.portal.queue.rq.empty()
    rewrapping.enqueue_stuck(clinic.portal)
    assert clinic.portal.queue.rq.get_jobs() == []


def test_the_owner_does_what_a_changed_order_does_not(clinic: Clinic, family: tuple[str, str]) -> None:
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    [task] = rows(clinic, RewrapTask)
    with clinic.portal.database.write() as db:
        task.destroy_order = task.destroy_order[:-1] + b"x"
        db.add(task)
    run_jobs(clinic)
    [task] = rows(clinic, RewrapTask)
    assert (task.state, task.destroy_order) == ("done", None)
    assert halves(clinic, family[1]) == [0, 1] and len(rows(clinic, CompartmentKey)) == 2
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    assert halves(clinic, family[1]) == [1]


def test_an_order_is_not_shown_while_a_files_key_needs_the_old_half(clinic: Clinic, family: tuple[str, str]) -> None:
    """As if somebody who writes to the database had called the task done."""
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    [task] = rows(clinic, RewrapTask)
    with clinic.portal.database.write() as db:
        task.state = "done"
        db.add(task)
    run_jobs(clinic)
    assert halves(clinic, family[1]) == [0, 1]
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]


def test_a_reader_misses_no_file_while_the_worker_wraps_between_any_two_looks(
    clinic: Clinic, family: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        clinic.add_item(f"{number}.txt", b"Dear %d\n" % number)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    task = rows(clinic, RewrapTask)[0]
    keys = rewrapping._keys(clinic.portal, task)
    monkeypatch.setattr(rewrapping, "BATCH", 1)
    look, working = clinic.portal.database.read, []

    @contextlib.contextmanager
    def look_and_work():
        with look() as db:
            yield db
        if not working:
            working.append(True)
            rewrapping._batch(clinic.portal, task.id, keys)
            working.clear()

    monkeypatch.setattr(clinic.portal.database, "read", look_and_work)
    found = shared_with_me.open_shared(clinic.portal, clinic.nurse.login, family[1])
    monkeypatch.undo()
    assert {0, 1} == {wrap.epoch for wrap in rows(clinic, ItemWrap)}, "it shall be under way"
    assert len(found.items) == 41


def test_a_reader_misses_no_file_when_the_share_gets_new_keys_in_that_moment(
    clinic: Clinic, family: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shared_with_me.open_epochs

    def then_rolled(*arguments):
        epochs = real(*arguments)
        if epochs[0].epoch == 0:
            record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
            run_jobs(clinic)
        return epochs

    monkeypatch.setattr(shared_with_me, "open_epochs", then_rolled)
    assert opened(clinic, clinic.nurse, family[1]) == ["letter.txt"]


def test_withdrawal_stops_the_wrapping_anew_and_takes_its_keys(clinic: Clinic, family: tuple[str, str]) -> None:
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    record_shares.withdraw(clinic.portal, clinic.patient.login, family[1])
    run_jobs(clinic)
    assert [(task.state, task.keys_for_worker) for task in rows(clinic, RewrapTask)] == [("stopped", None)]
    assert rows(clinic, ItemWrap) == []


def test_nothing_of_a_revoked_owner_opens(clinic: Clinic, family: tuple[str, str]) -> None:
    gid = gid_of(clinic.patient)
    clinic.portal.keyholder.identity_revoke(identities.proof_for(clinic.patient.login), gid)
    with pytest.raises(NotFound):
        opened(clinic, clinic.nurse, family[1])


def test_a_deleted_file_is_not_shared_any_more(clinic: Clinic, family: tuple[str, str]) -> None:
    removal.remove_item(clinic.portal.database, clinic.patient.account.id, family[0],
                        trail.Actor("patient", clinic.patient.account.id))  # fmt: skip
    assert opened(clinic, clinic.nurse, family[1]) == []


def test_taking_back_ends_the_sessions_of_who_is_meant(clinic: Clinic, family: tuple[str, str]) -> None:
    sessions = {}
    with clinic.portal.database.write() as db:
        for vmid, who in enumerate((clinic.caregiver, clinic.nurse), start=100_000):
            machine = Machine(vmid=vmid, node="pve", template="probe", state="claimed")
            db.add(machine)
            db.flush()
            found = VmSession(account_id=who.account.id, viewer="probe", template="probe", state="live",
                              machine_id=machine.id, live_at=now(), ends_at=now() + dt.timedelta(hours=4))  # fmt: skip
            db.add(found)
            db.flush()
            db.add(VmSessionShare(vm_session_id=found.id, compartment_id=family[1]))
            sessions[who.person.email] = found.id
    portal, patient = clinic.portal, clinic.patient.login
    assert record_shares.remove_person(portal, patient, family[1], gid_of(clinic.caregiver)).sessions_ended == 1
    ended = {one.id: one.end_reason for one in rows(clinic, VmSession) if one.state == "ending"}
    assert ended == {sessions[clinic.caregiver.person.email]: "withdrawn"}
    assert record_shares.withdraw(portal, patient, family[1]).sessions_ended == 1


# -- a care team --------------------------------------------------------------------------------------
def test_a_role_and_the_owners_consent_open_and_another_role_does_not(clinic: Clinic, team: str) -> None:
    clinic.grant(clinic.stranger, "role", "nurse")
    assert opened(clinic, clinic.caregiver, team) == ["letter.txt"]
    assert titles(clinic, clinic.stranger) == []
    with pytest.raises(NotFound):
        opened(clinic, clinic.stranger, team)


def test_who_gets_the_role_later_comes_in_at_the_owners_next_unlock_and_not_before(clinic: Clinic, team: str) -> None:
    clinic.grant(clinic.stranger, "role", "cardiologist")
    with pytest.raises(NotFound):
        opened(clinic, clinic.stranger, team)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    assert opened(clinic, clinic.stranger, team) == ["letter.txt"]


def test_who_loses_the_role_is_out_at_once_and_the_keys_roll_at_the_next_unlock(clinic: Clinic, team: str) -> None:
    clinic.take(clinic.caregiver, "role", "cardiologist")
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, team)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    run_jobs(clinic)
    assert [wrap.epoch for wrap in rows(clinic, ItemWrap)] == [1]
    assert opened(clinic, clinic.nurse, team) == ["letter.txt"]
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, team)


def test_a_removed_person_stays_out_though_they_hold_the_role(clinic: Clinic, team: str) -> None:
    record_shares.remove_person(clinic.portal, clinic.patient.login, team, gid_of(clinic.caregiver))
    run_jobs(clinic)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, team)
    assert opened(clinic, clinic.nurse, team) == ["letter.txt"]


def test_a_removed_cardiologist_who_kept_header_and_consent_gets_no_half(clinic: Clinic, team: str) -> None:
    kept = next(one for one in rows(clinic, CompartmentReader) if one.gid == gid_of(clinic.caregiver))
    record_shares.remove_person(clinic.portal, clinic.patient.login, team, kept.gid)
    with clinic.portal.database.write() as db:
        db.add(CompartmentReader(**kept.model_dump()))
    for epoch in (0, 1):
        with pytest.raises(AccessWithheld):
            clinic.portal.keyholder.vault_release(identities.proof_for(clinic.caregiver.login), team, epoch)
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, team)


def test_the_role_opens_no_header_without_a_consent_of_the_owners_own_authority(clinic: Clinic, team: str) -> None:
    clinic.grant(clinic.stranger, "role", "cardiologist")
    stranger, row, key = clinic.stranger.login, rows(clinic, Compartment)[0], rows(clinic, CompartmentKey)[0]
    owner = identities.verified_statement(clinic.portal, gid_of(clinic.patient))
    own = identities.keys_of(stranger).authority_secret()
    forged = issue(own, gid_of(clinic.stranger), Attribute(gid_of(clinic.stranger), "consent", team, 0)).to_bytes()
    sealed = next(one for one in rows(clinic, CompartmentReader) if one.gid == gid_of(clinic.nurse))
    context = compartments.reader_context(team, 0, sealed.gid)
    lent = clinic.nurse.login.ring().open(sealed.sealed, context=context)  # somebody else's, handed over
    for consent in (b"", forged, lent):
        with pytest.raises(AbeError):
            shared_with_me._by_policy(
                clinic.portal, stranger, row, key, identities.proof_for(stranger), owner, consent
            )


def test_the_preview_names_who_could_open_it_today(clinic: Clinic, team: str) -> None:
    found = record_shares.preview(clinic.portal, clinic.patient.login, clinic.cardiologists)
    assert found.count == 2 and "Cardiologist at St Mary's" in found.words
    with pytest.raises(FormRefused):
        record_shares.preview(clinic.portal, clinic.patient.login,
                              Audience("care-team", clinic.hospital.gid, (("role", "surgeon"),)))  # fmt: skip


# -- an emergency -------------------------------------------------------------------------------------
@pytest.fixture
def emergency(clinic: Clinic) -> str:
    clinic.add_item()
    clinic.grant(clinic.caregiver, "emergency")
    clinic.grant(clinic.caregiver, "break-glass", authority=clinic.registrar)
    clinic.grant(clinic.nurse, "emergency")
    return share(clinic, clinic.emergency)


def test_an_emergency_needs_both_organisations_and_a_reason_and_tells_the_owner(
    clinic: Clinic, emergency: str
) -> None:
    with pytest.raises(ReasonRequired):
        opened(clinic, clinic.caregiver, emergency)
    with pytest.raises(NotFound):
        opened(clinic, clinic.nurse, emergency, "she fainted")
    assert [view.needs_reason for view in shared_with_me.list_shared(clinic.portal, clinic.caregiver.login)] == [True]
    assert opened(clinic, clinic.caregiver, emergency, "she fainted") == ["letter.txt"]
    assert opened(clinic, clinic.caregiver, emergency) == ["letter.txt"]  # the hour runs
    view = record_shares.one(clinic.portal, clinic.patient.login, emergency)
    assert [(one.who, one.reason) for one in view.openings] == [(clinic.caregiver.person.name, "she fainted")]
    assert [mail.template for mail in rows(clinic, Mail)] == ["emergency-opened"]
    assert events(clinic).count("emergency-opened") == 1


def test_an_opening_that_a_killed_process_did_not_note_is_told_at_the_owners_next_unlock(
    clinic: Clinic, emergency: str
) -> None:
    opened(clinic, clinic.caregiver, emergency, "she fainted")
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    assert len(rows(clinic, EmergencyOpening)) == 1
    with clinic.portal.database.write() as db:
        db.delete(rows(clinic, EmergencyOpening)[0])
    for _ in range(2):
        record_shares.catch_up(clinic.portal, clinic.patient.login)
    view = record_shares.one(clinic.portal, clinic.patient.login, emergency)
    assert [(one.who, one.reason) for one in view.openings] == [
        (clinic.caregiver.person.name, "what they wrote was lost")
    ]


def test_a_person_removed_from_an_emergency_share_stays_out_with_both_roles_and_an_open_window(
    clinic: Clinic, emergency: str
) -> None:
    opened(clinic, clinic.caregiver, emergency, "she fainted")
    record_shares.remove_person(clinic.portal, clinic.patient.login, emergency, gid_of(clinic.caregiver))
    for reason in ("", "again"):
        with pytest.raises(NotFound):
            opened(clinic, clinic.caregiver, emergency, reason)


def test_one_organisation_alone_is_refused_for_an_emergency(clinic: Clinic) -> None:
    alone = Audience("emergency", authority_gid=clinic.hospital.gid, registrar_gid=clinic.hospital.gid)
    with pytest.raises(FormRefused) as refused:
        record_shares.preview(clinic.portal, clinic.patient.login, alone)
    assert "two different organisations" in refused.value.message


# -- who changes the database -------------------------------------------------------------------------
def test_a_header_or_a_wrap_of_another_share_opens_nothing(clinic: Clinic, family: tuple[str, str]) -> None:
    other = share(clinic, Audience("named", gids=(gid_of(clinic.stranger),)), Scope("item", family[0]))
    with clinic.portal.database.write() as db:
        mine, theirs = db.get(CompartmentKey, (family[1], 0)), db.get(CompartmentKey, (other, 0))
        assert mine is not None and theirs is not None
        mine.header, mine.signature, mine.wrapped_words = theirs.header, theirs.signature, theirs.wrapped_words
        db.add(mine)
        wrap = db.get(ItemWrap, (other, family[0], 0))
        swapped = db.get(ItemWrap, (family[1], family[0], 0))
        assert wrap is not None and swapped is not None
        wrap.wrapped_dek = swapped.wrapped_dek
        db.add(wrap)
    with pytest.raises(NotFound):
        opened(clinic, clinic.nurse, family[1])
    assert opened(clinic, clinic.stranger, other) == []


def test_a_header_signed_by_somebody_else_is_refused(clinic: Clinic, family: tuple[str, str]) -> None:
    key = rows(clinic, CompartmentKey)[0]
    forged = compartments.sign_header(identities.keys_of(clinic.stranger.login).signing_key(), "named", family[1],
                                      gid_of(clinic.patient), 0, key.header)  # fmt: skip
    with clinic.portal.database.write() as db:
        key.signature = forged
        db.add(key)
    with pytest.raises(NotFound):
        opened(clinic, clinic.nurse, family[1])


def test_a_plan_that_was_changed_is_nobodys_share(clinic: Clinic, family: tuple[str, str]) -> None:
    with clinic.portal.database.write() as db:
        row = db.get(Compartment, family[1])
        assert row is not None
        plan = {"scope": {"kind": "everything", "id": "all"}, "audience": {}, "title": "", "words": "", "removed": []}
        row.wrapped_plan = compartments.wrap_plan(clinic.stranger.login.ring(), row.id, plan)
        db.add(row)
    assert record_shares.list_mine(clinic.portal, clinic.patient.login) == []


def test_no_key_rests_in_the_open(clinic: Clinic, family: tuple[str, str], tmp_path) -> None:
    ring = clinic.patient.login.ring()
    key = rows(clinic, CompartmentKey)[0]
    ck = compartments.unwrap_ck(ring, family[1], 0, key.wrapped_ck)
    dek = shared_with_me.open_shared(clinic.portal, clinic.nurse.login, family[1]).items[0].dek
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    kept = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    kept += b"".join(clinic.portal.redis.dump(name) or b"" for name in clinic.portal.redis.keys("*"))
    assert family[1].encode() in kept  # it looks in the right place
    for secret in (ck, dek, ring.private_key[1:]):
        assert secret not in kept and secret.hex().encode() not in kept
    task = rows(clinic, RewrapTask)[0]
    with pytest.raises(envelope.EnvelopeError):
        envelope.open_with(envelope.new_key_pair().private, task.keys_for_worker, context=b"")
