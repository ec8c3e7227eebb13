"""VM sessions on the fake hypervisor: the whole way, every cut, every failure, the last machine, the secrets."""

import base64
import datetime as dt
import threading
import time

import pytest
from sqlmodel import select

from myphr.audit import trail
from myphr.database import now
from myphr.errors import (
    AllMachinesInUse,
    FormRefused,
    HypervisorUnreachable,
    MachineFailed,
    NotFound,
    ViewerNotInstalled,
)
from myphr.machines import lease, placement, pool, reaper, vm_sessions
from myphr.machines.models import Machine, VmSession
from myphr.machines.proxmox import MachineStopped, Template
from myphr.records import manifest
from tests.unit.machines.conftest import ProbeViewer, add_item, machines, queued, row


def start(portal, vm_session) -> VmSession:
    vm_sessions.run_start(portal, vm_session.id)
    return row(portal, VmSession, vm_session.id)


def with_settings(portal, **changes):
    import dataclasses

    portal.settings = dataclasses.replace(portal.settings, **changes)


def events(portal) -> list[str]:
    with portal.database.read() as db:
        return list(db.exec(select(trail.AuditEvent.event).order_by(trail.AuditEvent.number)).all())


# -- which viewer
@pytest.mark.parametrize("change", [{"name": "nonesuch"}, {"template": "radiology"}])
def test_a_viewer_that_is_not_in_the_catalogue_is_refused(fake_portal, patient, item_id, viewer, change) -> None:
    import dataclasses

    with pytest.raises(ViewerNotInstalled):
        vm_sessions.request(fake_portal, patient.login, dataclasses.replace(viewer, **change), item_ids=[item_id])
    assert queued(fake_portal) == [] and "vm-session-requested" not in events(fake_portal)


@pytest.mark.parametrize("published", [True, False])
def test_an_internal_viewer_is_refused_unless_it_is_published(
    fake_portal, patient, item_id, hypervisor, monkeypatch, published
) -> None:
    from myphr.viewers import catalogue

    probe = ProbeViewer(internal=True)
    monkeypatch.setattr(catalogue, "load", lambda: {"probe": probe})
    if not published:
        hypervisor.known_templates = []
        with pytest.raises(ViewerNotInstalled):
            vm_sessions.request(fake_portal, patient.login, probe, item_ids=[item_id])
    else:
        assert vm_sessions.request(fake_portal, patient.login, probe, item_ids=[item_id]).state == "requested"


def test_a_start_whose_template_is_missing_says_so(fake_portal, request_one, patient, hypervisor) -> None:
    hypervisor.known_templates = []
    failed = start(fake_portal, request_one())
    assert failed.state == "failed"
    assert "not installed" in vm_sessions.view(fake_portal, patient.account.id, failed.id).message


# -- the whole way
def test_a_cold_start_goes_live_with_the_folder_and_erases_the_workers_secret(
    fake_portal, request_one, hypervisor
) -> None:
    asked = request_one()
    vm_session = start(fake_portal, asked)
    assert (vm_session.state, vm_session.secret_for_worker) == ("live", None)
    [machine] = machines(fake_portal)
    assert (machine.state, machine.id) == ("claimed", vm_session.machine_id)
    [claim] = hypervisor.machines[machine.vmid].claims
    assert claim["vm_session"] == vm_session.id
    secret = claim["files"]["secret"].encode()
    assert len(secret) == 43 and vm_sessions.secret_sha256(secret) == vm_session.secret_sha256
    [entry] = manifest.open_(secret, vm_session.id, vm_session.sealed_manifest)
    assert entry.path.endswith("letter.txt")
    assert len(base64.b64decode(claim["entropy"])) == 64 and abs(claim["clock"] - time.time()) < 60


def test_the_trail_tells_the_whole_story(fake_portal, request_one) -> None:
    vm_session = start(fake_portal, request_one())
    fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
    vm_sessions.end(fake_portal, vm_session.id, "owner")
    vm_sessions.run_end(fake_portal, vm_session.id)
    told = [event for event in events(fake_portal) if event.startswith(("vm-", "machine-", "isolation-"))]
    assert told == [
        "vm-session-requested", "vm-session-started", "vm-session-live", "isolation-checked", "machine-destroyed",
        "vm-session-ended",
    ]  # fmt: skip
    trail.verify(fake_portal.database)


def test_a_warm_machine_is_claimed_without_asking_for_a_clone_and_the_pool_is_refilled(
    fake_portal, request_one, hypervisor
) -> None:
    with_settings(fake_portal, warm_pool="probe=1")
    pool.refill(fake_portal)
    [warm] = machines(fake_portal)
    pool.run_warm(fake_portal, warm.id)
    assert row(fake_portal, Machine, warm.id).state == "warm"
    assert not hypervisor.machines[warm.vmid].claims, "a warm machine holds no data"
    before = len(hypervisor.calls)
    vm_session = start(fake_portal, request_one())
    assert vm_session.machine_id == warm.id and vm_session.state == "live"
    assert {"clone", "start", "templates"}.isdisjoint(hypervisor.calls[before:])
    assert ("jobs.machines.refill_pool", ()) in queued(fake_portal)
    pool.refill(fake_portal)
    assert [m.state for m in machines(fake_portal)] == ["claimed", "ordered"]


def test_a_pool_machine_that_is_still_coming_up_is_taken_rather_than_a_second_one(fake_portal, request_one) -> None:
    with_settings(fake_portal, warm_pool="probe=1")
    pool.refill(fake_portal)
    vm_session = start(fake_portal, request_one())
    assert vm_session.state == "live"
    assert [m.id for m in machines(fake_portal)] == [vm_session.machine_id]


def test_the_end_destroys_the_machine_and_erases_secret_and_manifest(fake_portal, request_one, hypervisor) -> None:
    vm_session = start(fake_portal, request_one())
    listener = fake_portal.redis.pubsub()
    listener.subscribe("myphr:revoked")
    listener.get_message(timeout=2)
    vm_sessions.end(fake_portal, vm_session.id, "owner")
    assert listener.get_message(timeout=2)["data"] == f"vm:{vm_session.id}".encode()
    fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
    vm_sessions.run_end(fake_portal, vm_session.id)
    over = row(fake_portal, VmSession, vm_session.id)
    assert (over.state, over.end_reason, over.sealed_manifest, over.secret_for_worker) == ("ended", "owner", None, None)
    assert over.ended_at is not None
    assert not hypervisor.machines
    assert row(fake_portal, Machine, vm_session.machine_id).state == "destroyed"


def test_ending_twice_and_running_the_end_twice_changes_nothing_more(fake_portal, request_one, hypervisor) -> None:
    vm_session = start(fake_portal, request_one())
    fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
    for reason in ("owner", "idle"):
        vm_sessions.end(fake_portal, vm_session.id, reason)
        vm_sessions.run_end(fake_portal, vm_session.id)
    assert row(fake_portal, VmSession, vm_session.id).end_reason == "owner"
    assert events(fake_portal).count("vm-session-ended") == 1
    assert hypervisor.calls.count("destroy") == 1


def test_the_end_waits_for_the_files_gateways_word_on_results(fake_portal, request_one, hypervisor) -> None:
    vm_session = start(fake_portal, request_one())
    vm_sessions.end(fake_portal, vm_session.id, "owner")
    ending = threading.Thread(target=vm_sessions.run_end, args=(fake_portal, vm_session.id))
    ending.start()
    time.sleep(0.4)
    assert hypervisor.machines, "destroyed before the results were safe"
    assert row(fake_portal, VmSession, vm_session.id).sealed_manifest is not None
    fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
    ending.join(10)
    assert not hypervisor.machines and row(fake_portal, VmSession, vm_session.id).state == "ended"


def test_the_end_does_not_wait_for_ever_for_results(fake_portal, request_one, hypervisor, monkeypatch) -> None:
    monkeypatch.setattr(vm_sessions, "RESULTS_SECONDS_MAX", 0.2)
    vm_session = start(fake_portal, request_one())
    vm_sessions.end(fake_portal, vm_session.id, "owner")
    vm_sessions.run_end(fake_portal, vm_session.id)
    assert row(fake_portal, VmSession, vm_session.id).state == "ended" and not hypervisor.machines


def test_an_end_in_the_middle_of_the_start_stops_it(fake_portal, request_one, hypervisor) -> None:
    hypervisor.guest_progress = ("claimed",)  # never mounts
    asked = request_one()
    starting = threading.Thread(target=vm_sessions.run_start, args=(fake_portal, asked.id))
    starting.start()
    while row(fake_portal, VmSession, asked.id).state != "connecting":
        time.sleep(0.01)
    vm_sessions.end(fake_portal, asked.id, "owner")
    starting.join(10)
    assert not starting.is_alive()
    fake_portal.redis.set(f"myphr:results:{asked.id}", "drained")
    vm_sessions.run_end(fake_portal, asked.id)
    over = row(fake_portal, VmSession, asked.id)
    assert (over.state, over.secret_for_worker, over.sealed_manifest) == ("ended", None, None)
    assert not hypervisor.machines


# -- what may be asked for
def test_a_strangers_item_is_not_found(fake_portal, patient, stranger, viewer) -> None:
    foreign = add_item(fake_portal, stranger)
    with pytest.raises(NotFound):
        vm_sessions.request(fake_portal, patient.login, viewer, item_ids=[foreign])
    with pytest.raises(NotFound):
        vm_sessions.request(fake_portal, patient.login, viewer, study_id="0" * 36)


def test_nothing_or_both_kinds_of_things_is_refused(fake_portal, patient, viewer, item_id) -> None:
    for wrong in ({"item_ids": []}, {}, {"item_ids": [item_id], "study_id": "x"}):
        with pytest.raises(FormRefused):
            vm_sessions.request(fake_portal, patient.login, viewer, **wrong)


def test_a_stranger_does_not_see_the_session(fake_portal, request_one, stranger) -> None:
    asked = request_one()
    with pytest.raises(NotFound):
        vm_sessions.view(fake_portal, stranger.account.id, asked.id)
    with pytest.raises(NotFound):
        vm_sessions.stay(fake_portal, stranger.account.id, asked.id)


def test_nothing_in_the_rows_or_in_redis_opens_the_manifest(fake_portal, request_one, hypervisor) -> None:
    vm_session = start(fake_portal, request_one())
    [claim] = hypervisor.machines[machines(fake_portal)[0].vmid].claims
    secret = claim["files"]["secret"].encode()
    stored = (fake_portal.settings.home / "db" / "myphr.sqlite").read_bytes()
    for suffix in ("-wal",):
        path = fake_portal.settings.home / "db" / f"myphr.sqlite{suffix}"
        stored += path.read_bytes() if path.exists() else b""
    assert vm_session.id.encode() in stored
    assert secret not in stored
    for key in fake_portal.redis.scan_iter():
        kind = fake_portal.redis.type(key)
        value = fake_portal.redis.get(key) if kind == b"string" else b""
        value = str(fake_portal.redis.hgetall(key)).encode() if kind == b"hash" else value
        assert secret not in (value or b"")


# -- room
def test_the_last_machine_goes_to_one_of_two(fake_portal, request_one) -> None:
    with_settings(fake_portal, machines_max=1)
    got, refused = [], []
    together = threading.Barrier(2)

    def ask() -> None:
        together.wait()
        try:
            got.append(request_one())
        except AllMachinesInUse:
            refused.append(1)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 1)


def test_all_machines_in_use_ends_when_one_ends(fake_portal, request_one) -> None:
    with_settings(fake_portal, machines_max=1)
    first = start(fake_portal, request_one())
    with pytest.raises(AllMachinesInUse):
        request_one()
    vm_sessions.end(fake_portal, first.id, "owner")
    fake_portal.redis.set(f"myphr:results:{first.id}", "drained")
    vm_sessions.run_end(fake_portal, first.id)
    assert start(fake_portal, request_one()).state == "live"


def test_a_pool_machine_of_another_template_makes_room(fake_portal, request_one, hypervisor) -> None:
    hypervisor.known_templates.append(Template("radiology", 9001, "pve", "aa"))
    with_settings(fake_portal, machines_max=1, warm_pool="radiology=1")
    pool.refill(fake_portal)
    [other] = machines(fake_portal)
    pool.run_warm(fake_portal, other.id)
    vm_session = start(fake_portal, request_one())
    assert vm_session.state == "live"
    assert row(fake_portal, Machine, other.id).state == "destroyed"
    assert hypervisor.most_at_once == 1, "the limit counts every machine at every moment"


def test_the_pool_never_fills_beyond_the_limit(fake_portal, request_one) -> None:
    with_settings(fake_portal, machines_max=2, warm_pool="probe=5")
    pool.refill(fake_portal)
    pool.refill(fake_portal)
    assert len(machines(fake_portal)) == 2


def test_two_sessions_never_share_a_machine(fake_portal, request_one, hypervisor) -> None:
    with_settings(fake_portal, warm_pool="probe=1")
    pool.refill(fake_portal)
    pool.run_warm(fake_portal, machines(fake_portal)[0].id)
    asked = [request_one() for _ in range(2)]
    threads = [threading.Thread(target=vm_sessions.run_start, args=(fake_portal, one.id)) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = [row(fake_portal, VmSession, one.id) for one in asked]
    assert [one.state for one in found] == ["live", "live"]
    assert len({one.machine_id for one in found}) == 2
    assert all(len(machine.claims) <= 1 for machine in hypervisor.machines.values())


def test_numbers_of_machines_are_never_used_again(fake_portal, request_one) -> None:
    numbers = []
    for _ in range(2):
        vm_session = start(fake_portal, request_one())
        numbers.append(row(fake_portal, Machine, vm_session.machine_id).vmid)
        vm_sessions.end(fake_portal, vm_session.id, "owner")
        fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
        vm_sessions.run_end(fake_portal, vm_session.id)
    assert numbers == [100_000, 100_001]


# -- failures
def test_a_failed_machine_is_destroyed_and_replaced_once(fake_portal, request_one, hypervisor) -> None:
    hypervisor.trouble["read_file"] = [MachineStopped("500 VM 1 is not running")]
    vm_session = start(fake_portal, request_one())
    assert (vm_session.state, vm_session.tries) == ("live", 1)
    first, second = machines(fake_portal)
    assert (first.state, first.failure, second.state) == ("destroying", "machine-failed", "claimed")
    assert ("jobs.machines.destroy_machine", (first.id,)) in queued(fake_portal)


def test_a_second_failure_is_final_helpful_and_leaves_no_secret(fake_portal, request_one, hypervisor) -> None:
    hypervisor.guest_progress = ("claimed", "failed")
    vm_session = start(fake_portal, request_one())
    assert (vm_session.state, vm_session.failure, vm_session.tries) == ("failed", "machine-failed", 1)
    assert (vm_session.secret_for_worker, vm_session.sealed_manifest) == (None, None)
    shown = vm_sessions.view_of(fake_portal, vm_session)
    assert shown.message == MachineFailed.sentence and shown.is_over and not shown.is_starting
    assert {machine.state for machine in machines(fake_portal)} == {"destroying"}


def test_after_the_secret_was_delivered_there_is_no_second_try(fake_portal, request_one, hypervisor) -> None:
    hypervisor.guest_progress = ("claimed", "mounted", "failed")
    vm_session = start(fake_portal, request_one())
    assert (vm_session.state, vm_session.tries) == ("failed", 0)


def test_a_hypervisor_that_comes_back_in_time_costs_no_machine(fake_portal, request_one, hypervisor) -> None:
    hypervisor.trouble["start"] = [HypervisorUnreachable("ConnectionError")] * 2
    hypervisor.trouble["write_file"] = [HypervisorUnreachable("ConnectTimeout")]
    vm_session = start(fake_portal, request_one())
    assert (vm_session.state, vm_session.tries, len(machines(fake_portal))) == ("live", 0, 1)


def test_a_hypervisor_that_stays_away_is_named(fake_portal, request_one, hypervisor) -> None:
    with_settings(fake_portal, start_seconds_max=1)
    hypervisor.trouble["templates"] = [HypervisorUnreachable("ConnectionError")] * 50
    vm_session = start(fake_portal, request_one())
    assert (vm_session.state, vm_session.failure) == ("failed", "hypervisor-unreachable")


def test_a_guest_that_never_answers_fails_in_time(fake_portal, request_one, hypervisor) -> None:
    with_settings(fake_portal, start_seconds_max=1)
    hypervisor.guest_progress = ()
    vm_session = start(fake_portal, request_one())
    assert (vm_session.state, vm_session.failure) == ("failed", "machine-failed")


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b"[]", b'{"state": "owned"}', b'{"state": ["ready"]}', b"\xff" * 100, b"[" * 10_000, b"x" * 60_000],
)
def test_what_a_hostile_guest_says_never_breaks_the_worker(fake_portal, request_one, hypervisor, said) -> None:
    with_settings(fake_portal, start_seconds_max=1)
    hypervisor.read_file = lambda vmid, path, node=None: said
    vm_session = start(fake_portal, request_one())
    assert vm_session.state == "failed"


def test_an_isolation_report_is_kept_only_as_far_as_it_makes_sense() -> None:
    report = [{"check": "dns", "blocked": True}, {"check": "<b>", "blocked": True}, {"check": "a", "blocked": "no"}, 7]
    found = vm_sessions.parse_isolation({"isolation": report * 100})
    assert {entry.check for entry in found} == {"dns"} and len(found) <= 64
    assert vm_sessions.parse_isolation({"isolation": {"check": "dns"}}) == []


def test_a_machine_that_is_not_isolated_is_ended_at_once(fake_portal, request_one, hypervisor) -> None:
    hypervisor.isolation = [{"check": "dns", "blocked": True}, {"check": "public-address", "blocked": False}]
    vm_session = start(fake_portal, request_one())
    assert (vm_session.state, vm_session.end_reason) == ("ending", "failure")
    assert ("jobs.machines.end_vm_session", (vm_session.id,)) in queued(fake_portal)


# -- cut off
class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


CUTS = [
    (name, moment)
    for name in ("templates", "clone", "wait_task", "start", "read_file", "write_file")
    for moment in ("before", "after")
]


@pytest.mark.parametrize(("name", "moment"), CUTS, ids=lambda part: str(part))
def test_a_start_cut_off_at_any_call_is_finished_by_the_next_worker(
    fake_portal, request_one, hypervisor, monkeypatch, name, moment
) -> None:
    asked = request_one()
    real = getattr(hypervisor, name)

    def cut(*arguments, **options):
        if moment == "after":
            real(*arguments, **options)
        raise Killed

    monkeypatch.setattr(hypervisor, name, cut)
    with pytest.raises(Killed):
        vm_sessions.run_start(fake_portal, asked.id)
    monkeypatch.setattr(hypervisor, name, real)
    # A killed process gives no lease back.
    fake_portal.redis.delete(f"myphr:lease:vm-session:{asked.id}", *fake_portal.redis.keys("myphr:lease:machine:*"))
    vm_session = start(fake_portal, asked)
    assert vm_session.state == "live"
    assert sum(bool(machine.claims) for machine in hypervisor.machines.values()) == 1
    sweep_until_quiet(fake_portal)
    assert len(hypervisor.machines) == 1, "a machine was left over"


@pytest.mark.parametrize("name", ["destroy", "stop", "delete"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_end_cut_off_at_any_call_is_finished_by_the_next_worker(
    fake_portal, request_one, hypervisor, monkeypatch, name, moment
) -> None:
    vm_session = start(fake_portal, request_one())
    fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
    vm_sessions.end(fake_portal, vm_session.id, "owner")
    real = getattr(hypervisor, name)

    def cut(*arguments, **options):
        if moment == "after":
            real(*arguments, **options)
        raise Killed

    monkeypatch.setattr(hypervisor, name, cut)
    with pytest.raises(Killed):
        vm_sessions.run_end(fake_portal, vm_session.id)
    assert row(fake_portal, VmSession, vm_session.id).sealed_manifest is None, "the folder could still be opened"
    monkeypatch.setattr(hypervisor, name, real)
    vm_sessions.run_end(fake_portal, vm_session.id)
    assert row(fake_portal, VmSession, vm_session.id).state == "ended"
    assert not hypervisor.machines


def test_the_same_job_twice_at_once_starts_one_machine(fake_portal, request_one, hypervisor) -> None:
    asked = request_one()
    threads = [threading.Thread(target=vm_sessions.run_start, args=(fake_portal, asked.id)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert row(fake_portal, VmSession, asked.id).state == "live"
    assert hypervisor.calls.count("clone") == 1
    assert [len(machine.claims) for machine in hypervisor.machines.values()] == [1]


def test_a_worker_that_lost_its_lease_stops(fake_portal) -> None:
    with lease.hold(fake_portal.redis, "vm-session", "x") as mine:
        mine._renewed -= lease.RENEW_SECONDS
        fake_portal.redis.delete("myphr:lease:vm-session:x")
        with pytest.raises(lease.LeaseLost):
            mine()


def test_a_row_is_driven_by_one_at_a_time(fake_portal) -> None:
    with lease.hold(fake_portal.redis, "machine", "x"):
        assert lease.is_held(fake_portal.redis, "machine", "x")
        with pytest.raises(lease.LeaseTaken), lease.hold(fake_portal.redis, "machine", "x"):
            pass
    assert not lease.is_held(fake_portal.redis, "machine", "x")


# -- the reaper
def sweep_until_quiet(portal, rounds: int = 4) -> None:
    """Sweep and run what it puts on the queue, as the workers would."""
    age_rows(portal)
    for _ in range(rounds):
        reaper.sweep(portal)
        run_queue(portal)


def age_rows(portal, seconds: int = 60) -> None:
    with portal.database.write() as db:
        for table in (Machine, VmSession):
            for one in db.exec(select(table)).all():
                one.changed_at -= dt.timedelta(seconds=seconds)
                db.add(one)


def run_queue(portal) -> None:
    services = {
        "start_vm_session": vm_sessions.run_start, "resume_vm_session": vm_sessions.run_start,
        "end_vm_session": vm_sessions.run_end, "resume_vm_session_end": vm_sessions.run_end,
        "warm_machine": pool.run_warm, "rewarm_machine": pool.run_warm, "destroy_machine": pool.run_destroy,
        "redestroy_machine": pool.run_destroy, "refill_pool": pool.refill,
    }  # fmt: skip
    for job in portal.queue.rq.get_jobs():
        services[job.func_name.rpartition(".")[2]](portal, *job.args)
        job.delete()


def test_a_machine_without_a_row_is_destroyed_and_others_are_left_alone(fake_portal, hypervisor) -> None:
    hypervisor.clone(9000, 100_500, "phr-orphan")
    hypervisor.clone(9000, 200, "somebody-elses")
    reaper.sweep(fake_portal)
    assert set(hypervisor.machines) == {200}


def test_a_warm_machine_that_vanished_is_replaced(fake_portal, hypervisor) -> None:
    with_settings(fake_portal, warm_pool="probe=1")
    pool.refill(fake_portal)
    run_queue(fake_portal)
    hypervisor.machines.clear()
    sweep_until_quiet(fake_portal)
    assert [m.state for m in machines(fake_portal)] == ["destroyed", "warm"]


def test_a_live_machine_that_vanished_ends_its_session_with_a_reason(fake_portal, request_one, hypervisor) -> None:
    vm_session = start(fake_portal, request_one())
    fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
    hypervisor.machines.clear()
    sweep_until_quiet(fake_portal)
    over = row(fake_portal, VmSession, vm_session.id)
    assert (over.state, over.end_reason) == ("ended", "failure")


def test_a_session_whose_job_was_lost_is_started_by_the_sweep(fake_portal, request_one) -> None:
    asked = request_one()
    fake_portal.redis.flushall()  # Redis lost everything
    sweep_until_quiet(fake_portal)
    assert row(fake_portal, VmSession, asked.id).state == "live"


def test_an_end_whose_job_was_lost_is_finished_by_the_sweep(fake_portal, request_one, hypervisor) -> None:
    vm_session = start(fake_portal, request_one())
    vm_sessions.end(fake_portal, vm_session.id, "owner")
    fake_portal.redis.flushall()
    fake_portal.redis.set(f"myphr:results:{vm_session.id}", "drained")
    sweep_until_quiet(fake_portal)
    assert row(fake_portal, VmSession, vm_session.id).state == "ended" and not hypervisor.machines


def test_a_machine_that_outlived_its_session_is_destroyed(fake_portal, request_one, hypervisor) -> None:
    vm_session = start(fake_portal, request_one())
    with fake_portal.database.write() as db:  # as when the worker dies between the session's row and its machine's
        db.get(VmSession, vm_session.id).state = "failed"
    sweep_until_quiet(fake_portal)
    assert row(fake_portal, Machine, vm_session.machine_id).state == "destroyed" and not hypervisor.machines


def test_a_session_without_input_is_ended_as_idle_and_input_news_prevents_it(fake_portal, request_one) -> None:
    vm_session = start(fake_portal, request_one())
    long_ago = now() - dt.timedelta(seconds=fake_portal.settings.idle_seconds_max + 1)
    with fake_portal.database.write() as db:
        stored = db.get(VmSession, vm_session.id)
        stored.last_input_at = long_ago
        db.add(stored)
    fake_portal.redis.set(f"myphr:input:{vm_session.id}", int(time.time()))
    reaper.sweep(fake_portal)
    kept = row(fake_portal, VmSession, vm_session.id)
    assert kept.state == "live" and kept.last_input_at > long_ago, "the news was not copied"
    fake_portal.redis.delete(f"myphr:input:{vm_session.id}")
    with fake_portal.database.write() as db:
        stored = db.get(VmSession, vm_session.id)
        stored.last_input_at = long_ago
        db.add(stored)
    reaper.sweep(fake_portal)
    over = row(fake_portal, VmSession, vm_session.id)
    assert (over.state, over.end_reason) == ("ending", "idle")


def test_the_hard_limit_ends_a_session(fake_portal, request_one) -> None:
    vm_session = start(fake_portal, request_one())
    with fake_portal.database.write() as db:
        stored = db.get(VmSession, vm_session.id)
        stored.ends_at = now() - dt.timedelta(seconds=1)
        db.add(stored)
    reaper.sweep(fake_portal)
    assert row(fake_portal, VmSession, vm_session.id).end_reason == "time"


def test_input_news_from_the_future_is_not_believed(fake_portal, request_one) -> None:
    vm_session = start(fake_portal, request_one())
    for text in (str(int(time.time()) + 10**6), "nonsense", "1e400", "nan"):
        fake_portal.redis.set(f"myphr:input:{vm_session.id}", text)
        assert vm_sessions.last_input_at(fake_portal, vm_session) <= now()


def test_machines_of_an_older_template_are_replaced_once_a_fresh_one_is_warm(fake_portal, hypervisor) -> None:
    with_settings(fake_portal, warm_pool="probe=1")
    pool.refill(fake_portal)
    run_queue(fake_portal)
    [old] = machines(fake_portal)
    hypervisor.known_templates.append(Template("probe", 9005, "pve", "000000000002"))
    pool.refill(fake_portal)
    assert row(fake_portal, Machine, old.id).state == "warm", "given up before the new one was ready"
    run_queue(fake_portal)
    pool.refill(fake_portal)
    run_queue(fake_portal)
    old_state, new = row(fake_portal, Machine, old.id).state, machines(fake_portal)[-1]
    assert (old_state, new.state, new.template_vmid) == ("destroyed", "warm", 9005)


def test_a_machine_that_cannot_be_destroyed_keeps_its_place_and_is_tried_again(fake_portal, hypervisor) -> None:
    with_settings(fake_portal, warm_pool="probe=1")
    pool.refill(fake_portal)
    run_queue(fake_portal)
    [machine] = machines(fake_portal)
    pool.give_up(fake_portal, machine.id)
    hypervisor.trouble["destroy"] = [HypervisorUnreachable("ConnectionError")]
    with pytest.raises(HypervisorUnreachable):
        pool.run_destroy(fake_portal, machine.id)
    with fake_portal.database.read() as db:
        assert placement.alive(db) == 1
    sweep_until_quiet(fake_portal)
    assert row(fake_portal, Machine, machine.id).state == "destroyed"


# -- what the page shows
def test_the_stages_are_in_plain_words_and_in_order(fake_portal, request_one) -> None:
    asked = request_one()
    shown = vm_sessions.view(fake_portal, asked.account_id, asked.id)
    assert [stage.progress for stage in shown.stages] == ["now", "later", "later", "later"]
    assert shown.stage == "Waiting for a machine" and shown.is_starting
    live = vm_sessions.view(fake_portal, asked.account_id, start(fake_portal, asked).id)
    assert {stage.progress for stage in live.stages} == {"done"} and not live.is_starting
    assert [entry.check for entry in live.isolation] == ["dns", "neighbours"]
    assert 0 < live.ends_in_seconds <= fake_portal.settings.session_seconds_max and live.warning is None


def test_a_warning_comes_before_the_idle_end_and_staying_takes_it_away(fake_portal, request_one) -> None:
    vm_session = start(fake_portal, request_one())
    settings = fake_portal.settings
    almost = now() - dt.timedelta(seconds=settings.idle_seconds_max - settings.idle_warning_seconds + 5)
    with fake_portal.database.write() as db:
        stored = db.get(VmSession, vm_session.id)
        stored.last_input_at = almost
        db.add(stored)
    assert vm_sessions.view(fake_portal, vm_session.account_id, vm_session.id).warning == "idle"
    vm_sessions.stay(fake_portal, vm_session.account_id, vm_session.id)
    assert vm_sessions.view(fake_portal, vm_session.account_id, vm_session.id).warning is None


def test_looking_changes_nothing(fake_portal, request_one) -> None:
    asked = request_one()
    before = row(fake_portal, VmSession, asked.id).model_dump()
    vm_sessions.view(fake_portal, asked.account_id, asked.id)
    assert row(fake_portal, VmSession, asked.id).model_dump() == before
