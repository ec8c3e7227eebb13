"""Sharing by kind, end to end: real keyholder, real database, real keys. Who opens which kinds, and who no longer."""

import dataclasses
import datetime as dt
import itertools
import types

import pytest
from sqlmodel import select

from myphr.audit.trail import Actor
from myphr.crypto.abe import key_policy
from myphr.crypto.abe.key_policy import KpKey
from myphr.errors import (
    AbeError,
    AbeNotSatisfied,
    AccessWithheld,
    EnvelopeError,
    FormRefused,
    KeyholderUnavailable,
    NotFound,
)
from myphr.machines.models import Machine, VmSession
from myphr.people import identities
from myphr.people.keyholder import Keyholder, Sealed
from myphr.records import removal
from myphr.records.labels import Labels
from myphr.records.models import Item
from myphr.records.reading import FullReading, Reading
from myphr.sharing import compartments, delegated_to_me, delegations, kinds, record_shares, shared_with_me, withdrawal
from myphr.sharing.kinds import Filter
from myphr.sharing.record_models import (
    Compartment,
    Delegation,
    DelegationKey,
    ItemWrap,
    LabelClass,
    LabelClassKey,
    RewrapTask,
    VmSessionShare,
)
from tests.cast import SignedIn
from tests.integration.sharing.conftest import Clinic, gid_of
from tests.integration.sharing.test_record_shares import events, opened, rows, run_jobs, titles
from tests.web.stage import put_reading

LABS_OF_2024 = Filter(("laboratory",), first=dt.date(2024, 1, 1), last=dt.date(2024, 12, 31))
PHOTOS = Filter(("photo",))


def say(clinic: Clinic, item_id: str, type: str, day: dt.date, sensitive: bool = False) -> None:
    delegations.relabel(clinic.portal, clinic.patient.login, item_id, Labels(type, "none", sensitive, day))


def put(clinic: Clinic, name: str, type: str, day: dt.date, sensitive: bool = False) -> str:
    item_id = clinic.add_item(name, f"Dear {name}\n".encode())
    say(clinic, item_id, type, day, sensitive)
    return item_id


def delegate(clinic: Clinic, who: SignedIn, wanted: Filter = LABS_OF_2024) -> str:
    return delegations.delegate(clinic.portal, clinic.patient.login, gid_of(who), wanted)


def stop(clinic: Clinic, delegation_id: str) -> record_shares.WithdrawalReport:
    return delegations.stop(clinic.portal, clinic.patient.login, delegation_id)


def catch_up(clinic: Clinic) -> None:
    delegations.catch_up(clinic.portal, clinic.patient.login)


def key_of(clinic: Clinic, who: SignedIn, delegation_id: str) -> KpKey:
    """What a dishonest delegate keeps."""
    row = max((one for one in rows(clinic, DelegationKey) if one.delegation_id == delegation_id),
              key=lambda one: one.epoch)  # fmt: skip
    ring = who.login.ring()
    secret = compartments.open_delegation(ring, delegation_id, row.epoch, gid_of(who), row.sealed)
    return KpKey.from_bytes(secret.key)


@pytest.fixture(autouse=True)
def all_headers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the computer is; one test says otherwise."""
    monkeypatch.setattr(delegations, "ROLL_SECONDS", 3600)


@pytest.fixture
def record(clinic: Clinic) -> dict[str, str]:
    """Files by name: two lab results of 2024, on the first and the last day, and what is none."""
    return {
        name: put(clinic, name, type, day, sensitive)
        for name, type, day, sensitive in (
            ("first", "laboratory", dt.date(2024, 1, 1), False), ("last", "laboratory", dt.date(2024, 12, 31), False),
            ("before", "laboratory", dt.date(2023, 12, 31), False), ("after", "laboratory", dt.date(2025, 1, 1), False),
            ("secret", "laboratory", dt.date(2024, 6, 1), True), ("photo", "photo", dt.date(2024, 6, 1), False),
        )
    }  # fmt: skip


@pytest.fixture
def labs(clinic: Clinic, record: dict[str, str]) -> str:
    """The caregiver's share."""
    return delegate(clinic, clinic.caregiver)


# -- who opens what -----------------------------------------------------------------------------------
def test_a_delegate_opens_exactly_the_files_that_match_and_nobody_else_opens_any(clinic: Clinic, labs: str) -> None:
    assert sorted(opened(clinic, clinic.caregiver, labs)) == ["first", "last"]
    assert titles(clinic, clinic.caregiver) == ["Lab results from 2024"]
    for who in (clinic.nurse, clinic.patient):
        assert titles(clinic, who) == []
        with pytest.raises(NotFound):
            opened(clinic, who, labs)


def test_sensitive_files_are_for_who_was_given_them_too(clinic: Clinic, record: dict[str, str]) -> None:
    wanted = Filter(("laboratory",), first=LABS_OF_2024.first, last=LABS_OF_2024.last, also_sensitive=True)
    assert sorted(opened(clinic, clinic.nurse, delegate(clinic, clinic.nurse, wanted))) == ["first", "last", "secret"]


def test_the_preview_counts_todays_files_by_type(clinic: Clinic, record: dict[str, str]) -> None:
    found = delegations.preview(clinic.portal, clinic.patient.login, gid_of(clinic.nurse), LABS_OF_2024)
    assert (found.lines, found.files, found.person.name) == (["2 lab results"], 2, clinic.nurse.person.name)
    for gid in (gid_of(clinic.patient), identities.gid_of(clinic.patient.login)[:-4] + "0000"):
        with pytest.raises(FormRefused):
            delegations.preview(clinic.portal, clinic.patient.login, gid, LABS_OF_2024)


def test_the_same_share_again_is_the_same_share(clinic: Clinic, labs: str) -> None:
    assert delegate(clinic, clinic.caregiver) == labs
    assert [one.id for one in delegations.list_mine(clinic.portal, clinic.patient.login)] == [labs]


def test_a_new_lab_result_comes_at_the_owners_next_unlock(clinic: Clinic, labs: str) -> None:
    item_id = clinic.add_item("next week", b"Dear week\n")
    clinic.portal.__dict__["keyholder"], there = Keyholder("unix:/nobody-listens"), clinic.portal.keyholder
    say(clinic, item_id, "laboratory", dt.date(2024, 3, 3))  # a new class has to wait for the keyholder
    clinic.portal.__dict__["keyholder"] = there
    assert sorted(opened(clinic, clinic.caregiver, labs)) == ["first", "last"]
    catch_up(clinic)
    catch_up(clinic)
    assert sorted(opened(clinic, clinic.caregiver, labs)) == ["first", "last", "next week"]


def test_a_file_just_added_is_filed_by_what_it_says_about_itself(clinic: Clinic) -> None:
    share_id = delegate(clinic, clinic.nurse, Filter(("document",)))
    assert opened(clinic, clinic.nurse, share_id) == []
    clinic.add_item()
    catch_up(clinic)
    assert opened(clinic, clinic.nurse, share_id) == ["letter.txt"]


def test_a_file_whose_labels_are_corrected_moves_at_once(clinic: Clinic, record: dict[str, str], labs: str) -> None:
    say(clinic, record["first"], "laboratory", dt.date(2024, 1, 1), sensitive=True)
    assert opened(clinic, clinic.caregiver, labs) == ["last"]
    say(clinic, record["photo"], "laboratory", dt.date(2024, 12, 31))
    assert sorted(opened(clinic, clinic.caregiver, labs)) == ["last", "photo"]
    assert {one.item_id for one in rows(clinic, ItemWrap)} == {record["last"], record["photo"]}


def test_files_that_nobody_may_open_have_no_class(clinic: Clinic, record: dict[str, str], labs: str) -> None:
    assert {one.item_id for one in rows(clinic, ItemWrap)} == {record["first"], record["last"]}
    assert len(rows(clinic, LabelClass)) == 2


def test_many_people_share_one_half_and_one_epoch(clinic: Clinic, labs: str) -> None:
    photos = delegate(clinic, clinic.nurse, PHOTOS)
    both = delegate(clinic, clinic.stranger, Filter(("photo", "laboratory")))
    assert opened(clinic, clinic.nurse, photos) == ["photo"]
    assert sorted(opened(clinic, clinic.stranger, both)) == ["after", "before", "first", "last", "photo"]
    [group] = rows(clinic, Compartment)
    vaults = {
        compartments.open_delegation(who.login.ring(), one.delegation_id, 0, gid_of(who), one.sealed).vault_id
        for who in (clinic.caregiver, clinic.nurse, clinic.stranger) for one in rows(clinic, DelegationKey)
        if one.delegation_id in [row.id for row in rows(clinic, Delegation) if row.gid == gid_of(who)]
    }  # fmt: skip
    assert len(vaults) == 1 and group.id not in vaults


# -- taking back --------------------------------------------------------------------------------------
def test_a_removed_delegate_is_out_at_once_and_the_others_stay_in(clinic: Clinic, labs: str) -> None:
    other = delegate(clinic, clinic.nurse)
    report = stop(clinic, labs)
    assert report.who == clinic.caregiver.person.name and report.keys_replaced == 3 and report.items_left == 2
    assert titles(clinic, clinic.caregiver) == []
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]  # still under the old keys
    assert delegations.one(clinic.portal, clinic.patient.login, other).state == "changing"
    run_jobs(clinic)
    run_jobs(clinic)
    assert {one.epoch for one in rows(clinic, ItemWrap)} == {1}
    assert [one.keys_for_worker for one in rows(clinic, RewrapTask)] == [None]
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]
    catch_up(clinic)
    assert {one.epoch for one in (*rows(clinic, LabelClassKey), *rows(clinic, DelegationKey))} == {1}
    assert delegations.one(clinic.portal, clinic.patient.login, other).state == "active"
    with pytest.raises(NotFound):
        stop(clinic, labs)


def test_before_the_roll_the_vault_alone_keeps_a_removed_delegate_out(clinic: Clinic, labs: str) -> None:
    class GoesAway(Keyholder):
        def vault_create(self, *_: object) -> Sealed:
            raise KeyholderUnavailable("gone")

    other = delegate(clinic, clinic.nurse)
    kept = key_of(clinic, clinic.caregiver, labs)
    kept_row = next(one for one in rows(clinic, DelegationKey) if one.delegation_id == labs)
    there = clinic.portal.keyholder
    clinic.portal.__dict__["keyholder"] = GoesAway(f"unix:{there._path}")
    assert stop(clinic, labs).keys_replaced == 0
    clinic.portal.__dict__["keyholder"] = there
    header = rows(clinic, LabelClassKey)[0]
    public = identities.keys_of(clinic.patient.login).patient_secret().public
    bound = compartments.binding(header.label_class_id, gid_of(clinic.patient), 0)
    assert key_policy.decapsulate(header.header, kept, public, binding=bound)  # the scheme alone would let them in
    with clinic.portal.database.write() as db:  # the attacker puts the rows back
        row = db.get(Delegation, labs)
        assert row is not None
        row.state = "active"
        db.add(row)
        db.add(DelegationKey(**kept_row.model_dump()))
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)
    catch_up(clinic)  # the put-back row has no plan of the owner: it gets no new key
    run_jobs(clinic)
    assert {one.epoch for one in rows(clinic, DelegationKey) if one.delegation_id == labs} == {0}
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)


def test_after_the_roll_an_old_key_opens_no_new_header_not_even_with_another_delegates_key(
    clinic: Clinic, labs: str
) -> None:
    photos = delegate(clinic, clinic.nurse, PHOTOS)
    everything = delegate(clinic, clinic.stranger, Filter(also_sensitive=True))
    old = key_of(clinic, clinic.caregiver, labs)
    stop(clinic, labs)
    helper = key_of(clinic, clinic.nurse, photos)  # of the new epoch
    assert sorted(opened(clinic, clinic.stranger, everything))[0] == "after"
    public = identities.keys_of(clinic.patient.login).patient_secret().public
    new = [one for one in rows(clinic, LabelClassKey) if one.epoch == 1]
    opened_by_helper = 0
    for row in new:
        bound = compartments.binding(row.label_class_id, gid_of(clinic.patient), 1)
        with pytest.raises(AbeNotSatisfied):
            key_policy.decapsulate(row.header, old, public, binding=bound)
        try:
            key_policy.decapsulate(row.header, helper, public, binding=bound)
            opened_by_helper += 1
            continue
        except AbeNotSatisfied:
            pass
        parsed = key_policy._parse(row.header)
        picks = [key_policy._Pick(x, factor, key, parsed.labels[at % len(parsed.labels)])
                 for key in (old, helper) for at, (x, factor) in enumerate(_all_rows(key))]  # fmt: skip
        with pytest.raises(AbeError):
            key_policy._opened(row.header, picks, public, binding=bound)
    assert (opened_by_helper, len(new)) == (1, 6)


def _all_rows(key: KpKey) -> list[tuple[int, int]]:
    return [(x, 1) for x in range(len(key.rows))]


def test_a_removed_delegate_gets_no_half_of_any_epoch(clinic: Clinic, labs: str) -> None:
    delegate(clinic, clinic.nurse)
    keys, [group] = identities.keys_of(clinic.patient.login), rows(clinic, Compartment)
    speaker = identities.proof_for(clinic.caregiver.login)
    stop(clinic, labs)
    for epoch in (0, 1):
        with pytest.raises(AccessWithheld):
            clinic.portal.keyholder.vault_release(speaker, kinds.vault_id(keys.labels, group.id, epoch), epoch)
    run_jobs(clinic)
    catch_up(clinic)
    with pytest.raises(NotFound):  # the old half is gone for everybody
        clinic.portal.keyholder.vault_release(identities.proof_for(clinic.nurse.login),
                                              kinds.vault_id(keys.labels, group.id, 0), 0)  # fmt: skip


def test_the_last_delegate_leaves_no_key_behind(clinic: Clinic, labs: str) -> None:
    report = stop(clinic, labs)
    assert (report.keys_replaced, report.items_left) == (1, 0)
    for table in (ItemWrap, LabelClass, LabelClassKey, DelegationKey):
        assert rows(clinic, table) == []
    assert [one.wrapped_plan for one in rows(clinic, Delegation)] == [b""]
    assert delegations.list_mine(clinic.portal, clinic.patient.login) == []
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)
    again = delegate(clinic, clinic.caregiver)  # another compartment, other hashes
    assert again != labs and sorted(opened(clinic, clinic.caregiver, again)) == ["first", "last"]
    assert len(rows(clinic, Compartment)) == 2


def test_who_keeps_another_kind_loses_one_at_once_and_has_the_other_again_with_the_new_keys(
    clinic: Clinic, labs: str
) -> None:
    photos = delegate(clinic, clinic.caregiver, PHOTOS)
    delegate(clinic, clinic.nurse)
    stop(clinic, labs)
    assert opened(clinic, clinic.caregiver, photos) == []  # until the worker comes
    run_jobs(clinic)
    assert opened(clinic, clinic.caregiver, photos) == ["photo"]
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)


def test_somebody_removed_and_invited_again_opens_what_they_are_given_now_and_nothing_else(
    clinic: Clinic, labs: str
) -> None:
    delegate(clinic, clinic.nurse)
    stop(clinic, labs)
    photos = delegate(clinic, clinic.caregiver, PHOTOS)
    assert opened(clinic, clinic.caregiver, photos) == ["photo"]
    run_jobs(clinic)
    assert opened(clinic, clinic.caregiver, photos) == ["photo"]
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)


def test_headers_that_do_not_fit_into_the_request_follow_at_the_next_unlock(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = delegate(clinic, clinic.nurse)
    monkeypatch.setattr(delegations, "ROLL_SECONDS", -1)
    report = stop(clinic, labs)
    assert (report.keys_replaced, report.items_left) == (1, 0)
    assert {row.epoch for row in rows(clinic, LabelClassKey)} == {0}
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)
    assert delegations.one(clinic.portal, clinic.patient.login, other).state == "changing"
    catch_up(clinic)
    run_jobs(clinic)
    catch_up(clinic)
    assert {row.epoch for row in (*rows(clinic, LabelClassKey), *rows(clinic, ItemWrap))} == {1}
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]


def test_while_one_class_has_a_new_header_and_another_not_yet_both_open(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = delegate(clinic, clinic.nurse)
    monkeypatch.setattr(delegations, "ROLL_SECONDS", 1.5)  # by this clock: time for one header
    monkeypatch.setattr(delegations, "time", types.SimpleNamespace(monotonic=itertools.count().__next__))
    assert stop(clinic, labs).items_left == 1
    for _ in range(2):
        assert sorted(row.epoch for row in rows(clinic, LabelClass)) == [0, 1]
        assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]
        run_jobs(clinic)
    assert sorted(wrap.epoch for wrap in rows(clinic, ItemWrap)) == [0, 1]
    catch_up(clinic)
    run_jobs(clinic)
    assert sorted(wrap.epoch for wrap in rows(clinic, ItemWrap)) == [1, 1]
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]


def test_a_reader_misses_no_file_that_is_wrapped_anew_while_they_look(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, real = delegate(clinic, clinic.nurse), delegated_to_me._files_of
    stop(clinic, labs)

    def then_the_worker(*arguments):
        found = real(*arguments)
        run_jobs(clinic)
        return found

    monkeypatch.setattr(delegated_to_me, "_files_of", then_the_worker)
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]


def test_a_second_roll_overtakes_the_first_and_loses_no_file(clinic: Clinic, labs: str) -> None:
    other, third = delegate(clinic, clinic.nurse), delegate(clinic, clinic.stranger)
    stop(clinic, labs)
    stop(clinic, third)
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]
    run_jobs(clinic)
    assert {wrap.epoch for wrap in rows(clinic, ItemWrap)} == {2}
    assert sorted(task.state for task in rows(clinic, RewrapTask)) == ["done", "stopped"]
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]


def test_with_the_keyholder_away_nothing_ends_and_it_says_so(clinic: Clinic, labs: str, tmp_path) -> None:
    there = clinic.portal.keyholder
    clinic.portal.__dict__["keyholder"] = Keyholder(f"unix:{tmp_path}/nobody-listens")
    with pytest.raises(KeyholderUnavailable):
        stop(clinic, labs)
    clinic.portal.__dict__["keyholder"] = there
    assert sorted(opened(clinic, clinic.caregiver, labs)) == ["first", "last"]


def session_of(clinic: Clinic, who: SignedIn, vmid: int) -> str:
    with clinic.portal.database.write() as db:
        [group] = db.exec(select(Compartment)).all()
        machine = Machine(vmid=vmid, node="pve", template="probe", state="claimed")
        db.add(machine)
        db.flush()
        found = VmSession(account_id=who.account.id, viewer="probe", template="probe", state="live",
                          machine_id=machine.id, ends_at=dt.datetime.now(dt.UTC) + dt.timedelta(hours=4))  # fmt: skip
        db.add(found)
        db.flush()
        db.add(VmSessionShare(vm_session_id=found.id, compartment_id=group.id))
        return found.id


def ending(clinic: Clinic) -> set[str]:
    return {one.id for one in rows(clinic, VmSession) if one.state == "ending"}


def test_taking_back_ends_the_sessions_of_who_is_meant(clinic: Clinic, labs: str) -> None:
    delegate(clinic, clinic.nurse)
    mine, _ = session_of(clinic, clinic.caregiver, 100_000), session_of(clinic, clinic.nurse, 100_001)
    assert stop(clinic, labs).sessions_ended == 1
    assert ending(clinic) == {mine}


def test_a_file_that_becomes_sensitive_ends_the_sessions_that_may_show_it(
    clinic: Clinic, record: dict[str, str], labs: str
) -> None:
    mine = session_of(clinic, clinic.caregiver, 100_000)
    say(clinic, record["photo"], "photo", dt.date(2024, 6, 1), sensitive=True)
    assert ending(clinic) == set()  # nobody had it
    say(clinic, record["last"], "laboratory", dt.date(2024, 12, 31), sensitive=True)
    assert ending(clinic) == {mine}


def test_a_file_moves_once_its_day_was_read_out_of_it_and_sessions_that_may_show_it_end(clinic: Clinic) -> None:
    today = dt.datetime.now(dt.UTC).date()
    letters_of_2014 = Filter(("document",), first=dt.date(2014, 1, 1), last=dt.date(2014, 12, 31))
    new_letters = Filter(("document",), first=today - dt.timedelta(days=1), last=today + dt.timedelta(days=1))
    item_id = clinic.add_item()
    new, old = delegate(clinic, clinic.caregiver, new_letters), delegate(clinic, clinic.nurse, letters_of_2014)
    assert (opened(clinic, clinic.caregiver, new), opened(clinic, clinic.nurse, old)) == (["letter.txt"], [])
    mine = session_of(clinic, clinic.caregiver, 100_000)
    catch_up(clinic)
    assert ending(clinic) == set()
    put_reading(clinic.portal, clinic.patient, item_id, FullReading(Reading(date="2014-03-05")))
    catch_up(clinic)
    assert (opened(clinic, clinic.caregiver, new), opened(clinic, clinic.nurse, old)) == ([], ["letter.txt"])
    assert ending(clinic) == {mine}
    other = session_of(clinic, clinic.nurse, 100_001)
    catch_up(clinic)
    assert other not in ending(clinic)


def test_a_delegate_whose_identity_ends_loses_session_and_keys(clinic: Clinic, labs: str) -> None:
    other, mine = delegate(clinic, clinic.nurse), session_of(clinic, clinic.caregiver, 100_000)
    identities.revoke_identity(clinic.portal, clinic.practice.login, clinic.caregiver.account)
    assert withdrawal.person_revoked(clinic.portal, gid_of(clinic.caregiver)) == 1
    assert ending(clinic) == {mine}
    assert rows(clinic, Compartment)[0].stale
    catch_up(clinic)
    run_jobs(clinic)
    assert [one.state for one in rows(clinic, Delegation) if one.id == labs] == ["ended"]
    assert {one.epoch for one in rows(clinic, ItemWrap)} == {1}
    assert sorted(opened(clinic, clinic.nurse, other)) == ["first", "last"]


def test_nothing_of_a_revoked_owner_opens(clinic: Clinic, labs: str) -> None:
    mine = session_of(clinic, clinic.caregiver, 100_000)
    clinic.portal.keyholder.identity_revoke(identities.proof_for(clinic.patient.login), gid_of(clinic.patient))
    assert withdrawal.person_revoked(clinic.portal, gid_of(clinic.patient)) == 1 and ending(clinic) == {mine}
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)


def test_a_stranger_sees_and_stops_nothing_of_the_patient(clinic: Clinic, record: dict[str, str], labs: str) -> None:
    portal, stranger = clinic.portal, clinic.stranger.login
    assert delegations.list_mine(portal, stranger) == []
    for call in (delegations.one, delegations.stop):
        with pytest.raises(NotFound):
            call(portal, stranger, labs)
    with pytest.raises(NotFound):
        delegations.relabel(portal, stranger, record["photo"], Labels("laboratory", "none", False, dt.date(2024, 5, 5)))
    assert sorted(opened(clinic, clinic.caregiver, labs)) == ["first", "last"]


def test_shares_by_kind_and_other_shares_do_not_meet(clinic: Clinic, record: dict[str, str], labs: str) -> None:
    named = record_shares.share(clinic.portal, clinic.patient.login, record_shares.Scope("item", record["photo"]),
                                record_shares.Audience("named", gids=(gid_of(clinic.caregiver),)))  # fmt: skip
    assert [one.id for one in record_shares.list_mine(clinic.portal, clinic.patient.login)] == [named]
    assert sorted(titles(clinic, clinic.caregiver)) == ["Lab results from 2024", "photo"]
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    assert opened(clinic, clinic.caregiver, named) == ["photo"]
    assert sorted(opened(clinic, clinic.caregiver, labs)) == ["first", "last"]


# -- who reads or changes the database ----------------------------------------------------------------
def test_no_label_and_no_key_rests_in_the_open(clinic: Clinic, labs: str, tmp_path) -> None:
    delegate(clinic, clinic.nurse)
    found = shared_with_me.open_shared(clinic.portal, clinic.caregiver.login, labs).items[0].dek
    keys = identities.keys_of(clinic.patient.login)
    kept_key = key_of(clinic, clinic.caregiver, labs)
    stop(clinic, labs)
    kept = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    kept += b"".join(clinic.portal.redis.dump(name) or b"" for name in clinic.portal.redis.keys("*"))
    assert rows(clinic, LabelClass)[0].id.encode() in kept  # it looks in the right place
    for word in (b"laborator", b"Lab results", b"sensitive", b"2024-", b"20240101"):
        assert word not in kept.replace(b"wrapped_labels", b""), word
    for secret in (found, keys.labels, kept_key.rows[0].to_bytes(), kept_key.randomisers[0].to_bytes()):
        assert secret not in kept and secret.hex().encode() not in kept


def test_a_key_sealed_by_somebody_else_is_refused(clinic: Clinic, labs: str) -> None:
    """Everything in it is right but its title: only the owner's signature tells."""
    reader, gid = identities.verified_statement(clinic.portal, gid_of(clinic.caregiver)), gid_of(clinic.caregiver)
    [row] = rows(clinic, DelegationKey)
    secret = compartments.open_delegation(clinic.caregiver.login.ring(), labs, 0, gid, row.sealed)
    forged = dataclasses.replace(secret, title="Everything")
    with clinic.portal.database.write() as db:
        row.sealed = compartments.seal_delegation(reader.statement.hpke, labs, 0, gid, forged)
        db.add(row)
    assert titles(clinic, clinic.caregiver) == []
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)


def test_a_header_signed_by_somebody_else_is_refused(clinic: Clinic, labs: str) -> None:
    key = rows(clinic, LabelClassKey)[0]
    forged = compartments.sign_header(identities.keys_of(clinic.stranger.login).signing_key(), "labels",
                                      key.label_class_id, gid_of(clinic.patient), 0, key.header)  # fmt: skip
    with clinic.portal.database.write() as db:
        key.signature = forged
        db.add(key)
    assert len(opened(clinic, clinic.caregiver, labs)) == 1


def test_headers_and_wraps_of_another_class_open_nothing(clinic: Clinic, record: dict[str, str], labs: str) -> None:
    delegate(clinic, clinic.nurse, Filter(("photo",)))
    wrap = {one.item_id: one for one in rows(clinic, ItemWrap)}
    with clinic.portal.database.write() as db:
        mine = db.get(ItemWrap, (wrap[record["first"]].compartment_id, record["photo"], 0))
        header = db.get(LabelClassKey, (wrap[record["last"]].label_class_id, 0))
        other = db.get(LabelClassKey, (wrap[record["first"]].label_class_id, 0))
        assert mine is not None and header is not None and other is not None
        mine.label_class_id = wrap[record["first"]].label_class_id  # a photo among the lab results
        header.header, header.signature = other.header, other.signature
        db.add(mine)
        db.add(header)
    assert opened(clinic, clinic.caregiver, labs) == ["first"]


def test_a_delegation_that_the_owner_did_not_write_gets_no_key(clinic: Clinic, labs: str) -> None:
    with clinic.portal.database.write() as db:
        mine = db.get(Delegation, labs)
        assert mine is not None
        db.add(Delegation(id=record_shares.new_id(), compartment_id=mine.compartment_id, gid=gid_of(clinic.stranger),
                          wrapped_plan=mine.wrapped_plan))  # fmt: skip
        mine.gid = gid_of(clinic.stranger)
        db.add(mine)
    assert delegations.list_mine(clinic.portal, clinic.patient.login) == []
    catch_up(clinic)
    assert len(rows(clinic, DelegationKey)) == 1
    with pytest.raises(NotFound):
        opened(clinic, clinic.stranger, labs)


def test_a_classs_labels_of_somebody_else_are_never_used(clinic: Clinic, record: dict[str, str], labs: str) -> None:
    with clinic.portal.database.write() as db:
        one, other = db.exec(select(LabelClass)).all()
        one.wrapped_labels = other.wrapped_labels
        db.add(one)
    catch_up(clinic)
    assert delegations._classes(clinic.portal, clinic.patient.login, identities.keys_of(clinic.patient.login),
                                one.compartment_id).keys() == {other.id}  # fmt: skip
    with clinic.portal.database.write() as db:
        photo = {"type": "photo", "modality": "none", "sensitive": False, "day": "2024-06-01"}
        one.wrapped_labels = compartments.wrap_labels(clinic.patient.login.ring(), one.id, photo)
        db.add(one)
    assert one.id not in delegations._classes(clinic.portal, clinic.patient.login,
                                              identities.keys_of(clinic.patient.login), one.compartment_id)  # fmt: skip
    with pytest.raises(EnvelopeError):
        compartments.unwrap_labels(clinic.patient.login.ring(), one.id, other.wrapped_labels)


def test_the_trail_says_that_it_was_shared_and_ended_and_looked_at(clinic: Clinic, labs: str) -> None:
    opened(clinic, clinic.caregiver, labs)
    stop(clinic, labs)
    told = events(clinic)
    for event in ("record-shared-by-kind", "shared-record-opened", "record-share-by-kind-ended"):
        assert told.count(event) == 1
    assert told.count("item-labelled") == 6


def test_erasing_a_file_erases_what_it_was_called(clinic: Clinic, record: dict[str, str]) -> None:
    account_id = clinic.patient.account.id
    removal.remove_item(clinic.portal.database, account_id, record["first"], Actor("patient", account_id))
    removal.erase_removed(clinic.portal.database, clinic.portal.store)
    assert [one.wrapped_labels for one in rows(clinic, Item) if one.id == record["first"]] == [None]
