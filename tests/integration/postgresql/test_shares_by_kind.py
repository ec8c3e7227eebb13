"""Shares by kind on PostgreSQL: the ordinary tests, and two browsers of the owner at once."""

import dataclasses
import datetime as dt
import threading
from collections.abc import Callable

import pytest

from myphr.errors import AccessWithheld, FormRefused, NotFound, PortalError
from myphr.people import identities
from myphr.sharing import delegations, kinds, rewrapping
from myphr.sharing.record_models import (
    Compartment,
    Delegation,
    DelegationKey,
    ItemWrap,
    LabelClass,
    LabelClassKey,
    RewrapTask,
)
from tests.cast import SignedIn
from tests.integration.postgresql.test_shares_of_the_record import at_once
from tests.integration.sharing.conftest import Clinic, clinic, gid_of  # noqa: F401 - `clinic` is a fixture
from tests.integration.sharing.test_delegations import *  # noqa: F403 - all of them, and their fixtures
from tests.integration.sharing.test_delegations import PHOTOS, catch_up, delegate, put, stop
from tests.integration.sharing.test_record_shares import opened, rows, run_jobs

del test_no_label_and_no_key_rests_in_the_open  # noqa: F821 - it reads SQLite's files
LABS_2024 = ["first", "last"]


def meet(monkeypatch: pytest.MonkeyPatch, name: str, parties: int = 2) -> None:
    """The first `parties` calls of this function of `delegations` wait for each other: all have read, none has
    written."""
    real, barrier, left = getattr(delegations, name), threading.Barrier(parties), list(range(parties))

    def waits(*arguments: object, **named: object) -> object:
        found = real(*arguments, **named)
        try:
            left.pop()
        except IndexError:
            return found
        barrier.wait(30)
        return found

    monkeypatch.setattr(delegations, name, waits)


def until_done(work: Callable[[], object]) -> object:
    """As somebody does who reads "try again"."""
    for _ in range(3):
        try:
            return work()
        except FormRefused as refused:
            assert "try again" in str(refused.details)
    raise AssertionError("never done")


def in_the_vault(clinic: Clinic, who: SignedIn) -> bool:  # noqa: F811
    """Whether the half of today's epoch is released to them, whatever the rows say."""
    group = next(one for one in rows(clinic, Compartment) if one.state == "active")
    vault = kinds.vault_id(identities.keys_of(clinic.patient.login).labels, group.id, group.epoch)
    try:
        clinic.portal.keyholder.vault_release(identities.proof_for(who.login), vault, group.epoch)
    except AccessWithheld:
        return False
    return True


def test_two_first_shares_at_once_make_one_compartment(
    clinic: Clinic, record: dict[str, str], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    meet(monkeypatch, "_issue")
    ended = at_once(lambda: delegate(clinic, clinic.caregiver), lambda: delegate(clinic, clinic.nurse))
    assert [type(one) for one in ended if not isinstance(one, str)] == [FormRefused]
    assert len(rows(clinic, Compartment)) == len(rows(clinic, Delegation)) == len(rows(clinic, DelegationKey)) == 1
    for who in (clinic.caregiver, clinic.nurse):
        assert sorted(opened(clinic, who, delegate(clinic, who))) == LABS_2024
    assert len(rows(clinic, Compartment)) == 1 and len(rows(clinic, Delegation)) == 2


def test_two_more_shares_at_once_let_both_in(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    meet(monkeypatch, "_issue")
    at_once(lambda: delegate(clinic, clinic.nurse), lambda: delegate(clinic, clinic.stranger))
    assert sorted(opened(clinic, clinic.caregiver, labs)) == LABS_2024
    for who in (clinic.nurse, clinic.stranger):
        share_id = until_done(lambda who=who: delegate(clinic, who))  # type: ignore[misc]
        assert sorted(opened(clinic, who, str(share_id))) == LABS_2024
    assert len(rows(clinic, Delegation)) == 3


def test_a_share_made_while_keys_roll_lets_in_who_it_is_for(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    other = delegate(clinic, clinic.nurse)
    real = delegations._issue_all

    def meanwhile(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(delegations, "_issue_all", real)
        group = delegations._group(clinic.portal, clinic.patient.login)
        assert group is not None
        monkeypatch.setattr(delegations, "_up_to_date", lambda *_: group)  # that browser looked before the stop
        with_new.append(delegate(clinic, clinic.stranger, PHOTOS))
        monkeypatch.undo()
        return found

    with_new: list[str] = []
    monkeypatch.setattr(delegations, "_issue_all", meanwhile)
    stop(clinic, labs)
    monkeypatch.setattr(delegations, "ROLL_SECONDS", 3600)
    catch_up(clinic)
    run_jobs(clinic)
    catch_up(clinic)
    assert opened(clinic, clinic.stranger, with_new[0]) == ["photo"]
    assert sorted(opened(clinic, clinic.nurse, other)) == LABS_2024
    assert not in_the_vault(clinic, clinic.caregiver)


def test_two_people_removed_at_once_are_both_out_of_every_vault(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    second, other = delegate(clinic, clinic.stranger), delegate(clinic, clinic.nurse)
    meet(monkeypatch, "_living_epochs")  # neither knows of the other's removal
    ended = at_once(lambda: stop(clinic, labs), lambda: stop(clinic, second))
    assert [one for one in ended if isinstance(one, PortalError)] == []
    for who in (clinic.caregiver, clinic.stranger):
        assert not in_the_vault(clinic, who)
    catch_up(clinic)
    run_jobs(clinic)
    catch_up(clinic)
    [group] = rows(clinic, Compartment)
    assert group.epoch >= 1 and not group.stale
    for who, share_id in ((clinic.caregiver, labs), (clinic.stranger, second)):
        assert not in_the_vault(clinic, who)
        with pytest.raises(NotFound):
            opened(clinic, who, share_id)
    assert {one.delegation_id for one in rows(clinic, DelegationKey)} == {other}
    assert {one.epoch for one in (*rows(clinic, ItemWrap), *rows(clinic, LabelClassKey))} == {group.epoch}
    assert sorted(opened(clinic, clinic.nurse, other)) == LABS_2024


def test_a_removal_that_finds_the_keys_rolled_meanwhile_withholds_the_new_half_too(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    second, other = delegate(clinic, clinic.stranger), delegate(clinic, clinic.nurse)
    real = delegations._living_epochs

    def then_the_other_browser(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(delegations, "_living_epochs", real)
        stop(clinic, second)  # rolls, with new keys for who is being removed
        assert in_the_vault(clinic, clinic.caregiver)
        return found

    monkeypatch.setattr(delegations, "_living_epochs", then_the_other_browser)
    monkeypatch.setattr(delegations, "ROLL_SECONDS", -1)
    stop(clinic, labs)
    group = rows(clinic, Compartment)[0]
    keys = identities.keys_of(clinic.patient.login)
    for epoch in range(group.epoch + 1):
        with pytest.raises(AccessWithheld):
            clinic.portal.keyholder.vault_release(identities.proof_for(clinic.caregiver.login),
                                                  kinds.vault_id(keys.labels, group.id, epoch), epoch)  # fmt: skip
    assert group.epoch == 2 and not in_the_vault(clinic, clinic.stranger)
    assert sorted(opened(clinic, clinic.nurse, other)) == LABS_2024


def test_the_last_one_removed_while_somebody_else_is_given_some_leaves_them_theirs(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    real, given = delegations._living_epochs, []

    def then_the_other_browser(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(delegations, "_living_epochs", real)
        given.append(delegate(clinic, clinic.nurse))
        return found

    monkeypatch.setattr(delegations, "_living_epochs", then_the_other_browser)
    stop(clinic, labs)
    run_jobs(clinic)
    assert sorted(opened(clinic, clinic.nurse, given[0])) == LABS_2024
    with pytest.raises(NotFound):
        opened(clinic, clinic.caregiver, labs)


@pytest.fixture
def rolled(clinic: Clinic, labs: str) -> tuple[str, str]:  # noqa: F811
    """(nurse's share, stranger's), with two classes whose files wait to be wrapped anew."""
    kept = delegate(clinic, clinic.nurse), delegate(clinic, clinic.stranger)
    for number in range(6):
        put(clinic, f"{number}", "laboratory", dt.date(2024, 1 + number, 2))
    stop(clinic, labs)
    assert {wrap.epoch for wrap in rows(clinic, ItemWrap)} == {0}
    return kept


def test_two_workers_wrap_every_file_of_every_class_once(
    clinic: Clinic, rolled: tuple[str, str], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(rewrapping, "BATCH", 2)
    [task] = rows(clinic, RewrapTask)
    again = lambda: rewrapping.run(clinic.portal, task.id)  # noqa: E731
    assert at_once(again, again, again) == [None] * 3
    assert [wrap.epoch for wrap in rows(clinic, ItemWrap)] == [1] * 8
    assert len(opened(clinic, clinic.nurse, rolled[0])) == 8


def test_a_removal_in_the_middle_of_wrapping_anew_keeps_out_who_was_removed_and_loses_no_file(
    clinic: Clinic, rolled: tuple[str, str], monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(rewrapping, "BATCH", 1)
    [task] = rows(clinic, RewrapTask)
    ended = at_once(lambda: rewrapping.run(clinic.portal, task.id), lambda: stop(clinic, rolled[1]))
    assert [one for one in ended if isinstance(one, PortalError)] == []
    assert len(opened(clinic, clinic.nurse, rolled[0])) == 8
    assert not in_the_vault(clinic, clinic.stranger)
    run_jobs(clinic)
    catch_up(clinic)
    assert {wrap.epoch for wrap in rows(clinic, ItemWrap)} == {2} and len(rows(clinic, ItemWrap)) == 8
    assert {one.keys_for_worker for one in rows(clinic, RewrapTask)} == {None}
    assert len(opened(clinic, clinic.nurse, rolled[0])) == 8


def test_two_unlocks_at_once_file_new_files_once_and_roll_once(
    clinic: Clinic, labs: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    other = delegate(clinic, clinic.nurse)
    monkeypatch.setattr(delegations, "ROLL_SECONDS", -1)
    stop(clinic, labs)  # headers are left for the unlock
    monkeypatch.setattr(delegations, "_file", lambda *_: None)
    for number in range(6):
        put(clinic, f"{number}", "laboratory", dt.date(2024, 1 + number, 2))
    monkeypatch.undo()
    meet(monkeypatch, "_classes")
    unlock = lambda: delegations._catch_up(clinic.portal, clinic.patient.login)  # noqa: E731 - so that errors show
    ended = at_once(unlock, unlock)
    assert ended == [None, None]
    run_jobs(clinic)
    catch_up(clinic)
    assert [wrap.epoch for wrap in rows(clinic, ItemWrap)] == [1] * 8
    assert [one.epoch for one in rows(clinic, LabelClassKey)] == [1] * 8 and len(rows(clinic, LabelClass)) == 8
    assert len(opened(clinic, clinic.nurse, other)) == 8


def test_headers_keys_and_labels_come_back_as_they_were(clinic: Clinic, labs: str) -> None:  # noqa: F811
    """Bytes with zeros among them, kept and read."""
    assert all(type(one.header) is bytes and b"\0" in one.header for one in rows(clinic, LabelClassKey))
    login, [group] = clinic.patient.login, rows(clinic, Compartment)
    found = delegations._classes(clinic.portal, login, identities.keys_of(login), group.id)
    assert sorted(labels.day for _, labels in found.values()) == [dt.date(2024, 1, 1), dt.date(2024, 12, 31)]
    [plan] = [plan for _, plan in delegations._active(clinic.portal, login, group)]
    assert (plan.gid, plan.wanted) == (gid_of(clinic.caregiver), dataclasses.replace(LABS_OF_2024))  # noqa: F405
