"""kill -9 of localpve in the middle of its work: nothing half-made stays, nothing running is lost."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.localpve.rig import Hypervisor, wait_for

SLOW_QEMU_IMG = """#!/bin/sh
# The real program, held up at the moment that the test kills localpve.
case "$*" in *vm-{vmid}-*) touch {mark}; /usr/bin/qemu-img "$@"; result=$?; sleep 3; exit $result;; esac
exec /usr/bin/qemu-img "$@"
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Hypervisor]:
    """A localpve whose disk work for machine 102 takes three seconds after the file is there."""
    program = tmp_path / "qemu-img"
    program.write_text(SLOW_QEMU_IMG.format(vmid=102, mark=tmp_path / "reached"))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    with Hypervisor("--no-sealing", environ={"PATH": f"{tmp_path}:{os.environ['PATH']}"}) as hypervisor:
        hypervisor.plain_machine(100)
        assert hypervisor.task("POST", "/nodes/pve/qemu/100/template") == "OK"
        yield hypervisor


def test_clone_cut_off_by_kill_leaves_no_machine_and_no_disk(slow, tmp_path):
    upid = slow.call("POST", "/nodes/pve/qemu/100/clone", newid=102, pool="phr-sessions")
    wait_for(lambda: (tmp_path / "reached").exists(), "the clone's disk is being made")
    slow.kill()
    slow.start()
    assert slow.call("GET", f"/nodes/pve/tasks/{upid}/status")["exitstatus"] == "unexpected status"
    assert slow.machines() == {100}
    assert not any(name.startswith("102/") for name in slow.disks())
    assert slow.call("GET", "/pools/phr-sessions")["members"] == []
    (tmp_path / "qemu-img").unlink()
    assert slow.task("POST", "/nodes/pve/qemu/100/clone", newid=102) == "OK"
    assert slow.machines() == {100, 102}


def test_create_cut_off_by_kill_frees_the_id(slow, tmp_path):
    upid = slow.call("POST", "/nodes/pve/qemu", vmid=102, virtio0="local:1")
    wait_for(lambda: (tmp_path / "reached").exists(), "the disk is being made")
    slow.kill()
    slow.start()
    assert slow.call("GET", f"/nodes/pve/tasks/{upid}/status")["exitstatus"] == "unexpected status"
    assert slow.machines() == {100}
    assert not any(name.startswith("102/") for name in slow.disks())


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_start_cut_off_by_kill_leaves_a_machine_that_runs_or_can_be_started(delay):
    with Hypervisor("--no-sealing") as hypervisor:
        hypervisor.plain_machine(101)
        hypervisor.call("POST", "/nodes/pve/qemu/101/status/start")
        time.sleep(delay)
        hypervisor.kill()
        hypervisor.start()
        status = hypervisor.call("GET", "/nodes/pve/qemu/101/status/current")
        pids = hypervisor.qemu_pids()
        if status["status"] == "running":
            assert pids == [status["pid"]]
        else:
            wait_for(lambda: hypervisor.qemu_pids() == [], "no process without an owner is left")
            hypervisor.start_machine(101)
            assert len(hypervisor.qemu_pids()) == 1


def test_running_machine_outlives_kill_and_is_found_again():
    with Hypervisor("--no-sealing") as hypervisor:
        hypervisor.plain_machine(101)
        hypervisor.start_machine(101)
        before = hypervisor.call("GET", "/nodes/pve/qemu/101/status/current")
        hypervisor.kill()
        hypervisor.start()
        after = hypervisor.call("GET", "/nodes/pve/qemu/101/status/current")
        assert (after["status"], after["pid"]) == ("running", before["pid"])
        assert hypervisor.task("POST", "/nodes/pve/qemu/101/status/stop") == "OK"
        assert hypervisor.qemu_pids() == []
        assert hypervisor.task("DELETE", "/nodes/pve/qemu/101", purge=1) == "OK"


def test_machine_that_ended_while_localpve_was_away_is_stopped():
    with Hypervisor("--no-sealing") as hypervisor:
        hypervisor.plain_machine(101)
        hypervisor.start_machine(101)
        (pid,) = hypervisor.qemu_pids()
        hypervisor.kill()
        os.kill(pid, 9)
        hypervisor.start()
        assert hypervisor.call("GET", "/nodes/pve/qemu/101/status/current")["status"] == "stopped"


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.03])
def test_destroy_cut_off_by_kill_can_be_finished(delay):
    with Hypervisor("--no-sealing") as hypervisor:
        hypervisor.plain_machine(101, pool="phr-sessions")
        hypervisor.call("DELETE", "/nodes/pve/qemu/101", purge=1)
        time.sleep(delay)
        hypervisor.kill()
        hypervisor.start()
        if 101 in hypervisor.machines():
            assert hypervisor.task("DELETE", "/nodes/pve/qemu/101", purge=1) == "OK"
        assert hypervisor.machines() == set()
        assert hypervisor.disks() == set()
        assert hypervisor.call("GET", "/pools/phr-sessions")["members"] == []


def test_machine_killed_from_outside_is_seen_as_stopped_and_starts_again():
    with Hypervisor("--no-sealing") as hypervisor:
        hypervisor.plain_machine(101)
        hypervisor.start_machine(101)
        os.kill(hypervisor.qemu_pids()[0], 9)
        current = "/nodes/pve/qemu/101/status/current"
        wait_for(lambda: hypervisor.call("GET", current)["status"] == "stopped", "the end is noticed")
        hypervisor.start_machine(101)


def test_second_localpve_on_the_same_home_is_refused():
    with Hypervisor("--no-sealing") as hypervisor:
        other = Hypervisor("--no-sealing")
        other.home = hypervisor.home
        with pytest.raises(AssertionError, match="another localpve uses this home"):
            other.start()


# -- a host that lacks something ----------------------------------------------------------------------
def test_full_disk_ends_the_task_with_an_error_and_leaves_nothing():
    # No file may grow beyond 8 MiB: what a full disk looks like to qemu-img.
    with Hypervisor("--no-sealing", prefix=("prlimit", "--fsize=8388608")) as hypervisor:
        outcome = hypervisor.task("POST", "/nodes/pve/qemu", vmid=101, virtio0="local:64,format=qcow2")
        assert outcome != "OK"
        assert "unable to create" in outcome
        assert hypervisor.machines() == set()
        assert hypervisor.disks() == set()


def test_missing_qemu_is_a_task_error():
    with Hypervisor("--no-sealing", environ={"PATH": "/nonexistent"}) as hypervisor:
        outcome = hypervisor.task("POST", "/nodes/pve/qemu", vmid=101, virtio0="local:1")
        assert "qemu-img" in outcome
        assert hypervisor.task("POST", "/nodes/pve/qemu", vmid=102) == "OK"
        outcome = hypervisor.task("POST", "/nodes/pve/qemu/102/status/start")
        assert outcome.startswith("start failed: ")
        assert "No such file or directory" in outcome


# -- an orderly end -----------------------------------------------------------------------------------
def test_orderly_end_leaves_no_machine_running():
    with Hypervisor("--no-sealing") as hypervisor:
        hypervisor.plain_machine(101)
        hypervisor.start_machine(101)
        hypervisor.process.terminate()
        assert hypervisor.process.wait(30) == 0
        assert hypervisor.qemu_pids() == []
        hypervisor.start()
        assert hypervisor.call("GET", "/nodes/pve/qemu/101/status/current")["status"] == "stopped"


def test_orderly_end_keeps_machines_when_told_to():
    with Hypervisor("--no-sealing", "--keep-machines") as hypervisor:
        hypervisor.plain_machine(101)
        hypervisor.start_machine(101)
        pids = hypervisor.qemu_pids()
        hypervisor.process.terminate()
        assert hypervisor.process.wait(30) == 0
        hypervisor.start()
        assert hypervisor.qemu_pids() == pids
        assert hypervisor.call("GET", "/nodes/pve/qemu/101/status/current")["pid"] == pids[0]
