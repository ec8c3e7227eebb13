"""What every hypervisor must do for us, whoever it is. Subclasses give `hypervisor` and `make`.

A method of this class is one promise of `myphr.machines.proxmox.Hypervisor`; "not implemented" fails.
"""

import time
from collections.abc import Callable

import pytest

from myphr.errors import HypervisorRefused, ViewerNotInstalled
from myphr.machines.proxmox import AgentAway, Hypervisor, MachineExists, MachineGone, MachineStopped, TaskFailed

STATUS = "/run/myphr/status.json"
SECONDS_MAX = 120


class HypervisorContract:
    """`make()` clones a machine of the probe template and returns its number; it is destroyed after the test."""

    def booted(self, hypervisor: Hypervisor, vmid: int) -> int:
        hypervisor.wait_task(hypervisor.start(vmid), SECONDS_MAX)
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            try:
                if b'"waiting"' in (hypervisor.read_file(vmid, STATUS) or b""):
                    return vmid
            except AgentAway:
                pass
            time.sleep(0.1)
        raise AssertionError("the guest did not come up")

    def test_it_tells_its_version(self, hypervisor: Hypervisor) -> None:
        assert hypervisor.version() >= (8, 0)

    def test_the_newest_template_of_a_name_is_found_and_can_be_cloned(self, hypervisor: Hypervisor) -> None:
        template = hypervisor.find_template("probe")
        assert template.vmid == max(t.vmid for t in hypervisor.templates() if t.name == "probe")
        assert hypervisor.can_clone(template.vmid)

    def test_a_template_that_is_not_there_is_refused(self, hypervisor: Hypervisor) -> None:
        with pytest.raises(ViewerNotInstalled):
            hypervisor.find_template("nonesuch")

    def test_the_storage_is_active(self, hypervisor: Hypervisor) -> None:
        assert hypervisor.storage().active

    def test_a_clone_is_listed_in_our_pool_and_does_not_run(
        self, hypervisor: Hypervisor, make: Callable[[], int]
    ) -> None:
        vmid = make()
        assert vmid in {machine.vmid for machine in hypervisor.list_machines()}
        assert hypervisor.status(vmid) == "stopped"
        assert hypervisor.config(vmid)["name"] == f"phr-test-{vmid}"

    def test_a_number_that_is_taken_is_refused_as_such(self, hypervisor: Hypervisor, make: Callable[[], int]) -> None:
        vmid = make()
        with pytest.raises(MachineExists):
            task = hypervisor.clone(hypervisor.find_template("probe").vmid, vmid, "phr-again")
            hypervisor.wait_task(task, SECONDS_MAX)

    def test_a_template_that_is_gone_is_recognised(self, hypervisor: Hypervisor, free_vmid: int) -> None:
        with pytest.raises(HypervisorRefused):
            hypervisor.wait_task(hypervisor.clone(free_vmid + 1, free_vmid, "phr-nothing"), SECONDS_MAX)

    def test_a_machine_that_never_was_is_gone(self, hypervisor: Hypervisor, free_vmid: int) -> None:
        with pytest.raises(MachineGone):
            hypervisor.status(free_vmid)
        assert not hypervisor.exists(free_vmid)

    def test_destroying_what_never_was_is_no_error(self, hypervisor: Hypervisor, free_vmid: int) -> None:
        hypervisor.destroy(free_vmid)

    def test_a_running_machine_is_destroyed_with_one_call_and_twice_without_harm(
        self, hypervisor: Hypervisor, make: Callable[[], int]
    ) -> None:
        vmid = make()
        hypervisor.wait_task(hypervisor.start(vmid), SECONDS_MAX)
        assert hypervisor.status(vmid) == "running"
        hypervisor.destroy(vmid)
        assert not hypervisor.exists(vmid)
        assert vmid not in {machine.vmid for machine in hypervisor.list_machines()}
        hypervisor.destroy(vmid)

    def test_a_running_machine_is_not_deleted(self, hypervisor: Hypervisor, make: Callable[[], int]) -> None:
        vmid = make()
        hypervisor.wait_task(hypervisor.start(vmid), SECONDS_MAX)
        with pytest.raises(HypervisorRefused):
            hypervisor.wait_task(hypervisor.delete(vmid), SECONDS_MAX)
        assert hypervisor.status(vmid) == "running"

    def test_a_second_start_fails_in_its_task_and_leaves_the_machine_running(
        self, hypervisor: Hypervisor, make: Callable[[], int]
    ) -> None:
        vmid = make()
        hypervisor.wait_task(hypervisor.start(vmid), SECONDS_MAX)
        with pytest.raises(TaskFailed):
            hypervisor.wait_task(hypervisor.start(vmid), SECONDS_MAX)
        assert hypervisor.status(vmid) == "running"

    def test_stopping_a_stopped_machine_is_no_error(self, hypervisor: Hypervisor, make: Callable[[], int]) -> None:
        vmid = make()
        hypervisor.wait_task(hypervisor.stop(vmid), SECONDS_MAX)
        assert hypervisor.status(vmid) == "stopped"

    def test_the_agent_of_a_stopped_machine_does_not_answer(
        self, hypervisor: Hypervisor, make: Callable[[], int]
    ) -> None:
        vmid = make()
        with pytest.raises((MachineStopped, AgentAway)):
            hypervisor.read_file(vmid, STATUS)

    def test_files_go_in_and_out_of_a_guest_byte_by_byte(
        self, hypervisor: Hypervisor, make: Callable[[], int]
    ) -> None:
        vmid = self.booted(hypervisor, make())
        content = bytes(range(256)) + "grüße ✓".encode()
        hypervisor.write_file(vmid, "/run/myphr/contract", content)
        assert hypervisor.read_file(vmid, "/run/myphr/contract") == content
        assert hypervisor.read_file(vmid, "/run/myphr/nothing-here") is None
        with pytest.raises(ValueError, match="too large"):
            hypervisor.write_file(vmid, "/run/myphr/contract", b"x" * 50_000)
        assert hypervisor.agent_ping(vmid)

    def test_a_console_is_a_secure_websocket_with_a_password_of_its_own(
        self, hypervisor: Hypervisor, make: Callable[[], int]
    ) -> None:
        vmid = make()
        hypervisor.wait_task(hypervisor.start(vmid), SECONDS_MAX)
        console = hypervisor.console(vmid)
        assert console.url.startswith("wss://") and f"/qemu/{vmid}/vncwebsocket?port=" in console.url
        assert console.password and console.password not in repr(console)
        assert "Authorization" in console.headers and "Authorization" not in repr(console)
