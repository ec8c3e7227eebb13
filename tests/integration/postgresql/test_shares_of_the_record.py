"""Shares of the record on PostgreSQL: the ordinary tests, and many at once where SQLite lets in one at a time."""

import base64
import concurrent.futures
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlmodel import SQLModel, select

from myphr.errors import PortalError
from myphr.sharing import compartments, record_shares, rewrapping
from myphr.sharing.record_models import Compartment, CompartmentKey, CompartmentReader, ItemWrap, RewrapTask
from tests.integration.sharing.conftest import Clinic, clinic, gid_of  # noqa: F401 - `clinic` is a fixture
from tests.integration.sharing.test_record_shares import *  # noqa: F403 - all of them, and their fixtures
from tests.integration.sharing.test_record_shares import opened, rows, run_jobs

del test_no_key_rests_in_the_open  # noqa: F821 - it reads SQLite's files; the same for rows stands below
FILES = 12


def at_once(*work: Callable[[], object]) -> list[object]:
    """Each in a thread of its own; what it gave, or the error of ours that it ended in."""

    def run(one: Callable[[], object]) -> object:
        try:
            return one()
        except PortalError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def epochs(clinic: Clinic) -> list[int]:  # noqa: F811
    return [wrap.epoch for wrap in rows(clinic, ItemWrap)]


@pytest.fixture
def rolled(clinic: Clinic, family: tuple[str, str]) -> str:  # noqa: F811
    """The share, with a dozen files whose keys wait to be wrapped anew."""
    for number in range(FILES - 1):
        clinic.add_item(f"{number}.txt", b"Dear %d\n" % number)
    record_shares.catch_up(clinic.portal, clinic.patient.login)
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    assert epochs(clinic) == [0] * FILES
    return family[1]


def test_two_workers_at_one_task_wrap_every_file_once(
    clinic: Clinic, rolled: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(rewrapping, "BATCH", 2)
    [task] = rows(clinic, RewrapTask)
    again = lambda: rewrapping.run(clinic.portal, task.id)  # noqa: E731
    assert at_once(again, again, again, again) == [None] * 4
    assert epochs(clinic) == [1] * FILES and len(opened(clinic, clinic.nurse, rolled)) == FILES
    [task] = rows(clinic, RewrapTask)
    assert (task.done, task.keys_for_worker) == (FILES, None)


def test_two_rolls_at_once_make_one_new_epoch_that_opens(clinic: Clinic, family: tuple[str, str]) -> None:  # noqa: F811
    """Two browsers of the owner: each made a header of its own over the same half."""
    portal, owner = clinic.portal, clinic.patient.login
    row, plan = record_shares._own(portal, owner, family[1])
    roll = lambda: record_shares._roll(portal, owner, row, plan)  # noqa: E731
    ended = at_once(roll, roll, roll)
    assert sorted(ended, key=str) == [(0, 0), (0, 0), (3, 1)]
    assert sorted(key.epoch for key in rows(clinic, CompartmentKey)) == [0, 1]
    run_jobs(clinic)
    assert opened(clinic, clinic.nurse, family[1]) == opened(clinic, clinic.caregiver, family[1]) == ["letter.txt"]


def test_a_withdrawal_in_the_middle_of_wrapping_anew_leaves_no_key(
    clinic: Clinic, rolled: str, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(rewrapping, "BATCH", 1)
    [task] = rows(clinic, RewrapTask)
    ended = at_once(
        lambda: rewrapping.run(clinic.portal, task.id),
        lambda: record_shares.withdraw(clinic.portal, clinic.patient.login, rolled),
    )
    assert [one for one in ended if isinstance(one, PortalError)] == []
    assert rows(clinic, ItemWrap) == rows(clinic, CompartmentKey) == rows(clinic, CompartmentReader) == []
    [task] = rows(clinic, RewrapTask)
    assert task.keys_for_worker is None and task.state in ("done", "stopped", "closed")


def somebody_waits(clinic: Clinic) -> bool:  # noqa: F811
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with clinic.portal.database.read() as db:
        return bool(db.execute(text(asked)).scalar_one())  # type: ignore[call-overload]


def test_a_withdrawal_and_a_batch_do_not_wait_for_each_other(clinic: Clinic, rolled: str) -> None:  # noqa: F811
    """A withdrawal has the share, the worker comes, then the withdrawal wants the task."""
    [task] = rows(clinic, RewrapTask)
    keys = rewrapping._keys(clinic.portal, task)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with clinic.portal.database.write() as db:
            db.get(Compartment, rolled, with_for_update=True)
            batch = pool.submit(rewrapping._batch, clinic.portal, task.id, keys)
            while not somebody_waits(clinic):
                assert not batch.done()
                time.sleep(0.01)
            rewrapping.stop(db, rolled)
        assert batch.result() is False
    assert epochs(clinic) == [0] * FILES


def test_two_unlocks_at_once_wrap_new_files_and_consent_once(clinic: Clinic, team: str) -> None:  # noqa: F811
    clinic.grant(clinic.stranger, "role", "cardiologist")
    for number in range(FILES - 1):
        clinic.add_item(f"{number}.txt", b"Dear %d\n" % number)
    unlock = lambda: record_shares.catch_up(clinic.portal, clinic.patient.login)  # noqa: E731
    assert at_once(unlock, unlock, unlock) == [None] * 3
    assert len(rows(clinic, ItemWrap)) == FILES and len(rows(clinic, CompartmentReader)) == 3
    assert len(opened(clinic, clinic.stranger, team)) == FILES


def test_no_key_rests_in_any_row(clinic: Clinic, family: tuple[str, str]) -> None:  # noqa: F811
    [key] = rows(clinic, CompartmentKey)
    ck = compartments.unwrap_ck(clinic.patient.login.ring(), family[1], 0, key.wrapped_ck)
    record_shares.remove_person(clinic.portal, clinic.patient.login, family[1], gid_of(clinic.caregiver))
    kept = b""
    with clinic.portal.database.read() as db:
        for table in SQLModel.metadata.sorted_tables:
            for row in db.execute(select(table)):  # type: ignore[call-overload]
                kept += b"|".join(one if isinstance(one, bytes) else str(one).encode() for one in row)
    assert family[1].encode() in kept and key.wrapped_ck in kept  # it looks in the right place
    for form in (ck, ck.hex().encode(), base64.b64encode(ck), base64.urlsafe_b64encode(ck).rstrip(b"=")):
        assert form not in kept


def test_bytes_come_back_as_they_were(clinic: Clinic, team: str) -> None:  # noqa: F811
    """A header of kilobytes with zero bytes in it, and what the owner keeps."""
    [key], [row] = rows(clinic, CompartmentKey), rows(clinic, Compartment)
    assert b"\0" in key.header and type(key.header) is bytes
    ring = clinic.patient.login.ring()
    assert compartments.unwrap_plan(ring, team, row.wrapped_plan)["audience"]["preset"] == "care-team"
    assert len(compartments.unwrap_ck(ring, team, 0, key.wrapped_ck)) == 32
