"""The check whether viewers still open their formats, on a running portal with real machines: the whole way of a
patient's file, without a patient. The probe draws a picture of the folder it was given, so it can be told apart."""

import pytest
import requests
from PIL import Image
from sqlmodel import select

from myphr import still_opens
from myphr.machines import templates
from myphr.machines.models import Machine, ViewerCheck, VmSession
from myphr.people.models import Account
from myphr.portal import Portal
from myphr.records.models import Item
from tests.person import Person
from tests.running import RunningPortal

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]


def test_what_was_opened_is_recognised_and_what_was_not_is_told(parts: Portal, monkeypatch) -> None:
    monkeypatch.setattr(still_opens, "LOOK_SECONDS_MAX", 5)  # a wrong picture is looked at for so long
    before = {one.key for one in parts.store.listing()}
    nothing_known = Image.new("LA", still_opens.SIZE)
    first = still_opens.check(parts, "probe", "edf", nothing_known)
    assert first.reason == "not-like-before" and first.screen is not None

    desk = Image.new("RGB", first.screen.size)
    reference = still_opens.reference_of(desk, first.screen)
    again = still_opens.check(parts, "probe", "edf", reference)
    other = still_opens.check(parts, "probe", "scp-ecg", reference)
    print(f"\n  the same sample {again.likeness:.3f}, another one {other.likeness:.3f}")
    assert again.worked and other.reason == "not-like-before"

    with parts.database.read() as db:
        account = db.exec(select(Account).where(Account.email == still_opens.ACCOUNT_EMAIL)).one()
        sessions = db.exec(select(VmSession).where(VmSession.account_id == account.id)).all()
        machines = {s.machine_id for s in sessions}
        assert len(sessions) == 3 and len(machines) == 3  # a machine of its own for each
        assert {s.state for s in sessions} <= {"ending", "ended"}
        assert db.exec(select(Item).where(Item.account_id == account.id)).all() == []
    assert {one.key for one in parts.store.listing()} == before  # nothing is left in the store


def test_nobody_signs_in_as_the_check(parts: Portal, running: RunningPortal) -> None:
    person = Person(running.url)
    with pytest.raises(requests.HTTPError, match=r"40\d|422"):
        person.sign_in(still_opens.ACCOUNT_EMAIL)


def test_the_sweep_knows_what_is_installed_and_waits_for_its_turn(parts: Portal) -> None:
    templates.note_installed(parts)
    assert templates.installed(parts.redis) == {"probe"}
    parts.redis.delete("myphr:viewer-check:next")
    assert [still_opens.is_turn(parts) for _ in range(2)] == [False, False]
    parts.redis.set("myphr:viewer-check:next", 1)
    assert [still_opens.is_turn(parts) for _ in range(2)] == [True, False]
    assert still_opens.next_try(parts, parts.hypervisor.templates()) is None  # no viewer of the probe's claims anything


def test_a_viewer_that_is_not_installed_is_noted_as_such(parts: Portal) -> None:
    outcome = still_opens.noted(parts, "edfbrowser", "edf", 0)
    assert not outcome.worked
    with parts.database.read() as db:
        row = db.get(ViewerCheck, ("edfbrowser", "edf"))
        assert row is not None and row.worked_at is None and row.failed_at is not None and row.reason == outcome.reason
        assert db.exec(select(Machine).where(Machine.template == "signals")).all() == []
