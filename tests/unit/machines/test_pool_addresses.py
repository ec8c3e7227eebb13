"""Addresses of guests, and jobs that can be put back."""

import dataclasses

import pytest
from rq.job import JobStatus

from myphr import settings as settings_module
from myphr.errors import ConfigurationError
from myphr.machines import addresses


def settings(**changes):
    return dataclasses.replace(settings_module.load({}), **changes)


def test_in_localpves_own_network_the_guest_has_no_address_of_ours() -> None:
    assert addresses.guest_address(settings(), 100_000) is None
    assert addresses.files_address(settings()) == ("10.0.2.100", 564)


def test_on_a_bridge_every_machine_has_an_address_and_is_found_by_it() -> None:
    real = settings(guest_network="10.20.0.0/24", guest_files_address="10.20.0.1:564")
    vmids = range(100_000, 100_200)
    found = {vmid: addresses.guest_address(real, vmid) for vmid in vmids}
    assert len({str(address.ip) for address in found.values()}) == 200
    assert str(found[100_000]) == "10.20.0.16/24"
    for vmid, address in found.items():
        assert addresses.vmid_of(real, str(address.ip), vmids) == vmid
    assert addresses.vmid_of(real, "10.20.0.1", vmids) is None
    assert addresses.vmid_of(settings(), "10.0.2.15", vmids) is None


def test_no_guest_ever_gets_the_network_the_broadcast_or_the_gateways_address() -> None:
    real = settings(guest_network="10.20.0.0/26", guest_files_address="10.20.0.1:564")
    found = {str(addresses.guest_address(real, vmid).ip) for vmid in range(100_000, 100_200)}
    assert found.isdisjoint({"10.20.0.0", "10.20.0.1", "10.20.0.63"})


@pytest.mark.parametrize("network", ["10.20.0.0/28", "10.20.0.1/16", "fd00::/64", "nonsense"])
def test_a_network_that_cannot_work_is_refused(network) -> None:
    with pytest.raises(ConfigurationError):
        addresses.guest_address(settings(guest_network=network), 100_000)


def test_a_files_address_among_the_guests_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        addresses.guest_address(settings(guest_network="10.20.0.0/24", guest_files_address="10.20.0.16:564"), 100_000)


def test_a_job_that_failed_for_good_can_be_put_back_and_a_waiting_one_is_not_doubled(portal) -> None:
    portal.queue.enqueue("jobs.machines.refill_pool")
    portal.queue.enqueue("jobs.machines.refill_pool")
    [job] = portal.queue.rq.get_jobs()
    portal.queue.rq.empty()
    portal.queue.enqueue("jobs.machines.refill_pool")
    [job] = portal.queue.rq.get_jobs()
    portal.queue.rq.remove(job)
    job.set_status(JobStatus.FAILED)
    portal.queue.enqueue("jobs.machines.refill_pool")
    assert len(portal.queue.rq.get_jobs()) == 1


def test_jobs_take_ids_only(portal) -> None:
    for wrong in ("Vera Lindqvist", "../x", "", "a" * 65, "key=secret"):
        with pytest.raises(ValueError, match="ids only"):
            portal.queue.enqueue("jobs.machines.destroy_machine", wrong)
