"""VM sessions on real machines, driven by real worker processes: cold, warm, the end, kill -9 at every step."""

import concurrent.futures
import json
import time

import pytest
from sqlmodel import select

from myphr.audit import trail
from myphr.errors import AllMachinesInUse
from myphr.machines import pool, reaper, vm_sessions
from myphr.machines.models import Machine, VmSession
from tests.integration.machines.rig import SECONDS_MAX, Room, wait_for
from tests.unit.machines.conftest import add_item

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def item_id(room, owner) -> str:
    return add_item(room.portal, owner, "letter.txt", b"Dear patient, this is your letter.\n" * 50)


@pytest.fixture
def viewer():
    from myphr.viewers import catalogue

    return catalogue.load()["probe"]


@pytest.fixture
def ask(room: Room, owner, item_id, viewer):
    """Request a session; whatever is left of it is ended afterwards."""
    asked: list[str] = []

    def request() -> VmSession:
        vm_session = vm_sessions.request(room.portal, owner.login, viewer, item_ids=[item_id])
        asked.append(vm_session.id)
        return vm_session

    yield request
    for name in [name for name in room.processes if name.startswith("worker")]:
        room.kill(name)
    room.portal.redis.flushall()
    for vm_session_id in asked:
        if room.vm_session(vm_session_id).state in ("failed", "ended"):
            continue
        vm_sessions.end(room.portal, vm_session_id, "owner")
        vm_sessions.run_end(room.portal, vm_session_id)
    with room.portal.database.read() as db:
        left = db.exec(select(Machine.id).where(Machine.state != "destroyed")).all()
    for machine_id in left:
        pool.give_up(room.portal, machine_id)
        pool.run_destroy(room.portal, machine_id)
    room.portal.redis.flushall()
    assert not room.portal.hypervisor.list_machines()


def reaches(room: Room, vm_session: VmSession, state: str) -> VmSession:
    def look() -> VmSession | None:
        for name, process in room.processes.items():
            assert process.poll() is None or name == "worker-dying", (name, room.log(name))
        found = room.vm_session(vm_session.id)
        assert found.state != "failed" or state == "failed", (found.failure, room.log("worker"))
        return found if found.state == state else None

    return wait_for(look, f"{state}; now {room.vm_session(vm_session.id).state}")


def machines_left(room: Room) -> int:
    return len(room.portal.hypervisor.list_machines())


def test_a_cold_start_shows_the_folder_on_a_real_machine_and_the_end_leaves_nothing(room, ask) -> None:
    room.worker()
    vm_session = reaches(room, ask(), "live")
    assert machines_left(room) == 1 and len(room.qemus()) == 1 and vm_session.secret_for_worker is None
    isolation = wait_for(lambda: room.vm_session(vm_session.id).isolation, "the isolation report")
    report = json.loads(isolation)
    assert report and all(entry["blocked"] for entry in report), report
    vm_sessions.end(room.portal, vm_session.id, "owner")
    over = reaches(room, vm_session, "ended")
    assert (over.sealed_manifest, over.secret_for_worker) == (None, None)
    assert machines_left(room) == 0
    wait_for(lambda: not room.qemus(), "the end of all QEMU processes", 20)
    trail.verify(room.portal.database)


def test_a_warm_machine_is_claimed_and_the_pool_filled_again(room, ask, monkeypatch) -> None:
    monkeypatch.setitem(room._settings, "warm_pool", "probe=1")
    room.worker()

    def warm() -> list[Machine]:
        with room.portal.database.read() as db:
            return list(db.exec(select(Machine).where(Machine.state == "warm")).all())

    [machine] = wait_for(warm, "a warm machine")
    vm_session = reaches(room, ask(), "live")
    assert vm_session.machine_id == machine.id
    [other] = wait_for(warm, "the next warm machine")
    assert other.id != machine.id


def test_an_outer_look_at_a_warm_machine_finds_no_data(room, ask) -> None:
    from myphr.machines import placement

    with room.portal.database.write() as db:
        machine = placement.order(db, room.portal.settings, room.portal.hypervisor.find_template("probe"))
    machine = pool.bring_up(room.portal, machine.id, lambda: None, time.monotonic() + SECONDS_MAX)
    assert room.portal.hypervisor.read_file(machine.vmid, vm_sessions.CLAIM_FILE) is None
    assert pool.read_status(room.portal, machine)["isolation"] == []


HOOKS = ["clone:before", "clone:after", "start:before", "start:after", "read_file:before", "write_file:before",
         "write_file:after"]  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_a_worker_killed_in_a_start_is_followed_by_one_that_finishes_it(room, ask, hook) -> None:
    dying = room.worker("worker-dying", die=hook)
    asked = ask()
    dying.wait(SECONDS_MAX)
    assert dying.returncode == -9, room.log("worker-dying")
    room.worker()
    vm_session = reaches(room, asked, "live")
    # What the first one left over is found by the sweep.
    wait_for(lambda: machines_left(room) == 1, "the orphan to vanish")
    [machine] = room.portal.hypervisor.list_machines()
    assert machine.vmid == room.machine(vm_session.machine_id).vmid


@pytest.mark.parametrize("hook", ["stop:before", "delete:before", "delete:after"])
def test_a_worker_killed_in_an_end_is_followed_by_one_that_finishes_it(room, ask, hook) -> None:
    room.worker("worker-first")
    vm_session = reaches(room, ask(), "live")
    room.kill("worker-first")
    dying = room.worker("worker-dying", die=hook)
    vm_sessions.end(room.portal, vm_session.id, "owner")
    dying.wait(SECONDS_MAX)
    assert dying.returncode == -9, room.log("worker-dying")
    assert room.vm_session(vm_session.id).sealed_manifest is None
    room.worker()
    reaches(room, vm_session, "ended")
    wait_for(lambda: machines_left(room) == 0 and not room.qemus(), "all machines gone")


def test_the_hypervisor_killed_in_a_start_costs_the_patient_only_time(room, ask) -> None:
    room.worker()
    asked = ask()
    wait_for(lambda: room.vm_session(asked.id).machine_id, "a machine")
    room.kill("localpve")
    room.start_localpve()
    vm_session = reaches(room, asked, "live")
    assert vm_session.tries <= 1
    wait_for(lambda: machines_left(room) == 1, "one machine")


def test_redis_killed_in_a_start_loses_nothing(room, ask) -> None:
    from myphr.supervisor import redis_command

    room.worker()
    asked = ask()
    wait_for(lambda: room.vm_session(asked.id).machine_id, "a machine")
    room.kill("redis")
    settings = room.portal.settings
    room.launch("redis", redis_command(settings, settings.run_dir / "redis.sock"))
    # RQ's worker ends when it loses Redis in the middle of a job; the supervisor starts it again, as here.
    wait_for(lambda: room.processes["worker"].poll() is not None or room.vm_session(asked.id).state == "live", "an end")
    if room.processes["worker"].poll() is not None:
        room.kill("worker")
        wait_for(room._redis_answers, "redis", 20)
        room.worker()
    reaches(room, asked, "live")


def test_two_patients_at_once_for_the_last_machine(room, ask, monkeypatch) -> None:
    import dataclasses

    monkeypatch.setattr(room.portal, "settings", dataclasses.replace(room.portal.settings, machines_max=1))
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        outcomes = [threads.submit(ask) for _ in range(2)]
    errors = [outcome.exception() for outcome in outcomes]
    assert sum(error is None for error in errors) == 1
    assert sum(isinstance(error, AllMachinesInUse) for error in errors) == 1


def test_the_same_job_given_to_two_workers_starts_one_machine(room, ask) -> None:
    asked = ask()
    vm_sessions.enqueue_start(room.portal, asked.id, "jobs.machines.resume_vm_session")
    room.worker("worker-1")
    room.worker("worker-2", scheduler=False)
    reaches(room, asked, "live")
    assert machines_left(room) == 1


def test_a_machine_made_by_somebody_else_in_our_pool_and_range_is_removed(room, ask) -> None:
    hypervisor = room.portal.hypervisor
    vmid = room.portal.settings.vmid_last - 5
    hypervisor.wait_task(hypervisor.clone(hypervisor.find_template("probe").vmid, vmid, "phr-orphan"), 60)
    reaper.sweep(room.portal)
    assert machines_left(room) == 0


def test_a_machine_whose_plug_was_pulled_ends_its_session_with_a_reason(room, ask) -> None:
    room.worker()
    vm_session = reaches(room, ask(), "live")
    machine = room.machine(vm_session.machine_id)
    room.portal.hypervisor.wait_task(room.portal.hypervisor.stop(machine.vmid), 60)
    over = reaches(room, vm_session, "ended")
    assert over.end_reason == "failure"


def test_the_doctor_finds_this_portal_healthy_and_its_machines_isolated(room, ask) -> None:
    from myphr import doctor

    checks = {check.name: check for check in doctor.run(room.portal)}
    expected = {"redis", "store", "keys", "mail", "hypervisor", "privileges", "storage", "templates", "isolation"}
    assert expected <= set(checks)
    bad = {name: check.sentence for name, check in checks.items() if not check.ok}
    # The rig makes its tables without migrations, and sets up neither web nor keyholder.
    assert set(bad) <= {"database", "keyholder"}, bad
    assert checks["files gateway"].ok
