"""The doctor: finds what is wrong, says what to do, and never crashes."""

import dataclasses
import datetime as dt
import time

import pytest

from myphr import doctor
from myphr.errors import HypervisorRefused, HypervisorUnreachable
from myphr.machines import placement, pool, reaper
from myphr.machines.models import Machine

POOL_8 = frozenset({*doctor.MACHINE_PRIVILEGES, "VM.Monitor"})
HELD = {
    "/pool/phr-sessions": POOL_8,
    "/pool/phr-templates": frozenset(doctor.TEMPLATE_PRIVILEGES),
    "/storage/local": frozenset(doctor.STORAGE_PRIVILEGES),
    "/sdn/zones/localnetwork/vmbr1": frozenset({"SDN.Use"}),
}


def found(portal, **options) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.run(portal, **options)}


@pytest.fixture
def held(hypervisor):
    hypervisor.permissions = lambda: held_now
    hypervisor.server_time = lambda: None
    held_now = dict(HELD)
    return held_now


def test_a_token_with_exactly_the_documented_rights_is_fine(fake_portal, held) -> None:
    assert found(fake_portal, probe=False)["privileges"].ok


@pytest.mark.parametrize("path", HELD)
def test_a_missing_privilege_is_named_with_its_path(fake_portal, held, path) -> None:
    lost = sorted(held[path])[0]
    held[path] = held[path] - {lost}
    check = found(fake_portal, probe=False)["privileges"]
    assert not check.ok and f"{lost} on" in check.sentence and check.remedy


def test_the_agents_privilege_has_another_name_on_version_9(fake_portal, held, hypervisor) -> None:
    hypervisor.version = lambda: (9, 1)
    assert "VM.GuestAgent.FileRead" in found(fake_portal, probe=False)["privileges"].sentence
    agent = {"VM.GuestAgent.Audit", "VM.GuestAgent.FileRead", "VM.GuestAgent.FileWrite"}
    held["/pool/phr-sessions"] = frozenset({*doctor.MACHINE_PRIVILEGES, *agent})
    assert found(fake_portal, probe=False)["privileges"].ok
    held["/pool/phr-sessions"] = frozenset({*doctor.MACHINE_PRIVILEGES, "VM.GuestAgent.Unrestricted"})
    assert found(fake_portal, probe=False)["privileges"].ok


def test_on_a_real_node_too_much_power_and_a_firewall_that_is_off_are_findings(fake_portal, held, hypervisor) -> None:
    fake_portal.settings = dataclasses.replace(
        fake_portal.settings, proxmox_url="https://pve.example:8006", guest_network="10.20.0.0/16",
        guest_files_address="10.20.0.1:564",
    )  # fmt: skip
    held["/"] = frozenset({"Sys.Modify", "SDN.Use"})
    for state, expected in ((True, True), (False, False), (None, False)):
        hypervisor.cluster_firewall = lambda state=state: state
        assert found(fake_portal, probe=False)["cluster firewall"].ok is expected
    checks = found(fake_portal, probe=False)
    assert not checks["least privilege"].ok and "Sys.Modify" in checks["least privilege"].sentence
    assert not checks["template network"].ok, "the fake's template has no firewall=1"


@pytest.mark.parametrize("trouble", [HypervisorUnreachable("ConnectTimeout"), HypervisorRefused("401 invalid token")])
def test_a_hypervisor_that_does_not_answer_is_a_finding_and_the_rest_is_still_checked(
    fake_portal, held, hypervisor, trouble
) -> None:
    hypervisor.trouble["version"] = [trouble]
    checks = found(fake_portal)
    assert not checks["hypervisor"].ok and checks["hypervisor"].remedy
    assert checks["store"].ok and checks["keys"].ok and "isolation" not in checks


def test_redis_away_is_a_finding(fake_portal, held) -> None:
    import redis

    fake_portal.__dict__["redis"] = redis.Redis(unix_socket_path="/nonexistent.sock", retry=None)
    assert not found(fake_portal, probe=False)["redis"].ok


def test_tables_of_another_version_are_a_finding(fake_portal, held) -> None:
    check = found(fake_portal, probe=False)["database"]  # the tests make tables without migrations
    assert not check.ok and "myphr init" in check.remedy


def test_a_missing_template_is_named(fake_portal, held) -> None:
    fake_portal.settings = dataclasses.replace(fake_portal.settings, warm_pool="radiology=1")
    check = found(fake_portal, probe=False)["templates"]
    assert not check.ok and "radiology" in check.sentence


def test_the_probe_machine_is_asked_and_destroyed(fake_portal, held, hypervisor) -> None:
    hypervisor.guest_progress = ("failed",)  # a made-up secret opens nothing
    real = hypervisor.read_file

    def with_report(vmid, path, node=None):
        text = real(vmid, path, node=node)
        return text.replace(b'"isolation": []', b'"isolation": [{"check": "dns", "blocked": true}]') if text else text

    hypervisor.read_file = with_report
    checks = found(fake_portal)
    assert checks["isolation"].ok and checks["files gateway"].ok, checks
    assert not hypervisor.machines, "the probe machine was left over"


def test_the_probe_machine_is_no_patients_and_no_surplus_of_the_pool(fake_portal, held, hypervisor) -> None:
    offered = []
    real = hypervisor.read_file

    def meanwhile(vmid, path, node=None):
        reaper.sweep(fake_portal)
        with fake_portal.database.read() as db:
            offered.extend(placement.free_machines(db))
        return real(vmid, path, node=node)

    hypervisor.read_file = meanwhile
    hypervisor.isolation = [{"check": "dns", "blocked": True}]
    assert found(fake_portal)["isolation"].ok
    assert offered == []


def test_the_machine_of_a_doctor_that_died_goes_after_a_while(fake_portal, hypervisor) -> None:
    with fake_portal.database.write() as db:
        machine = placement.order(db, fake_portal.settings, hypervisor.templates()[0], purpose="check")
    pool.bring_up(fake_portal, machine.id, lambda: None, time.monotonic() + 60)
    reaper.sweep(fake_portal)
    assert hypervisor.machines
    with fake_portal.database.write() as db:
        row = db.get(Machine, machine.id)
        row.created_at -= dt.timedelta(seconds=reaper.CHECK_SECONDS_MAX + 1)
        db.add(row)
    reaper.sweep(fake_portal)
    pool.run_destroy(fake_portal, machine.id)
    assert not hypervisor.machines


def test_a_machine_that_gets_out_or_a_wrong_secret_that_opens_is_said_loudly(fake_portal, held, hypervisor) -> None:
    hypervisor.isolation = [{"check": "dns", "blocked": False}]  # and the guest goes on to ready
    checks = found(fake_portal)
    assert not checks["isolation"].ok and "dns" in checks["isolation"].sentence
    assert not checks["files gateway"].ok
    assert not hypervisor.machines


def test_rights_hold_below_the_path_where_they_are_listed() -> None:
    held = {"/": frozenset({"a"}), "/storage": frozenset({"b"})}
    assert doctor.privileges_at(held, "/storage/local") == {"b"}
    assert doctor.privileges_at(held, "/pool/x") == {"a"}
    assert doctor.privileges_at({}, "/pool/x") == frozenset()
