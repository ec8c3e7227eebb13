"""The contract against the embedded hypervisor with real QEMU, and, when asked, against a real Proxmox node.

For a real node set MYPHR_TEST_PROXMOX to a file of `MYPHR_*=value` lines (url, token, node, pools ...): machines are
made and destroyed in its pool, with numbers of the configured range.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from myphr import settings as settings_module
from myphr.machines.proxmox import Hypervisor
from tests.contract.hypervisor.contract import HypervisorContract

pytestmark = pytest.mark.qemu
_NUMBERS = itertools.count(0)


class _Real(HypervisorContract):
    @pytest.fixture
    def free_vmid(self, hypervisor: Hypervisor) -> int:
        return hypervisor._settings.vmid_last - 10 - 3 * next(_NUMBERS)

    @pytest.fixture
    def make(self, hypervisor: Hypervisor) -> Iterator[Callable[[], int]]:
        made: list[int] = []

        def clone() -> int:
            vmid = hypervisor._settings.vmid_last - 1000 - next(_NUMBERS)
            made.append(vmid)
            with hypervisor.clone_turn() as renew:
                task = hypervisor.clone(hypervisor.find_template("probe").vmid, vmid, f"phr-test-{vmid}")
                hypervisor.wait_task(task, 60, renew)
            return vmid

        yield clone
        for vmid in made:
            hypervisor.destroy(vmid)


class TestLocalpve(_Real):
    @pytest.fixture
    def hypervisor(self, room) -> Hypervisor:
        return room.portal.hypervisor


@pytest.mark.skipif("MYPHR_TEST_PROXMOX" not in os.environ, reason="names no real Proxmox node")
class TestProxmox(_Real):
    @pytest.fixture
    def hypervisor(self) -> Hypervisor:
        lines = Path(os.environ["MYPHR_TEST_PROXMOX"]).read_text().splitlines()
        return Hypervisor(settings_module.load(dict(line.split("=", 1) for line in lines if "=" in line)))
