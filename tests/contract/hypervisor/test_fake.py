"""The contract against the fake: what the unit tests of state logic stand on."""

from collections.abc import Callable

import pytest

from tests.contract.hypervisor.contract import HypervisorContract
from tests.contract.hypervisor.fake import FakeHypervisor


class TestFake(HypervisorContract):
    @pytest.fixture
    def hypervisor(self) -> FakeHypervisor:
        return FakeHypervisor()

    @pytest.fixture
    def free_vmid(self) -> int:
        return 100_900

    @pytest.fixture
    def make(self, hypervisor: FakeHypervisor) -> Callable[[], int]:
        def clone() -> int:
            vmid = 100_000 + len(hypervisor.machines)
            hypervisor.wait_task(hypervisor.clone(9000, vmid, f"phr-test-{vmid}"), 1)
            return vmid

        return clone
