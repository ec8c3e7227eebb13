"""The client against recorded answers of a real node: what it sends, and what it makes of every kind of answer."""

import dataclasses
import logging
import threading

import pytest

from myphr import settings as settings_module
from myphr.errors import HypervisorRefused, HypervisorUnreachable
from myphr.machines import proxmox
from myphr.machines.proxmox import (
    Hypervisor,
    MachineExists,
    MachineGone,
    MachineStopped,
    TaskFailed,
)
from tests.contract.hypervisor.replay import Replay, made_up, recorded
from tests.unit.sharing.certificate import make as make_certificate

SECRET = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
POOLS = made_up("GET", "pools", [{"poolid": "phr-sessions", "members": []}])
TASK_RUNNING = recorded("GET", r"nodes/pve/tasks/UPID:.*:qmclone:100:root@pam:/status", where='"running"')
TASK_OK = recorded("GET", r"nodes/pve/tasks/UPID:.*:qmclone:100:root@pam:/status", where='"OK"')
ANY_TASK = r"nodes/pve/tasks/UPID:.*/status"


@pytest.fixture
def replay(tmp_path):
    certificate = make_certificate(tmp_path)
    server = Replay(certificate)
    yield server
    server.close()


@pytest.fixture
def settings(replay, tmp_path):
    (tmp_path / "token").write_text(SECRET + "\n")
    return settings_module.load(
        {}, home=tmp_path, proxmox_url=replay.url, proxmox_token_secret_file=str(tmp_path / "token"),
        proxmox_ca_file=str(tmp_path / "certificate.pem"),
    )  # fmt: skip


@pytest.fixture
def hypervisor(settings) -> Hypervisor:
    return Hypervisor(settings)


def any_task(step):
    return dataclasses.replace(step, path=ANY_TASK)


def task_ended(exitstatus: str):
    return made_up("GET", ANY_TASK, {"status": "stopped", "exitstatus": exitstatus})


# -- what is sent
def test_a_clone_is_linked_into_our_pool_with_booleans_as_numbers(hypervisor, replay) -> None:
    replay.steps = [recorded("POST", "nodes/pve/qemu/100/clone"), any_task(TASK_RUNNING), any_task(TASK_OK)]
    upid = hypervisor.clone(100, 100_000, "phr-x")
    hypervisor.wait_task(upid, 10)
    replay.done()
    assert replay.calls[0][2] == {"newid": "100000", "name": "phr-x", "pool": "phr-sessions", "full": "0"}


def test_a_file_is_written_as_base64_that_the_node_does_not_encode_again(hypervisor, replay) -> None:
    replay.steps = [dataclasses.replace(recorded("POST", r"nodes/pve/qemu/401/agent/file-write"), path=".*file-write")]
    hypervisor.write_file(401, "/run/myphr/claim.json", b"\x00\xff bin")
    replay.done()
    assert replay.calls[0][2] == {"file": "/run/myphr/claim.json", "content": "AP8gYmlu", "encode": "0"}


def test_a_file_that_is_too_large_is_not_even_sent(hypervisor, replay) -> None:
    with pytest.raises(ValueError, match="too large"):
        hypervisor.write_file(401, "/x", b"x" * 46_081)
    assert not replay.calls


def test_deleting_sends_its_parameters_in_the_query(hypervisor, replay) -> None:
    replay.steps = [dataclasses.replace(recorded("DELETE", r"nodes/pve/qemu/190"), path=r"nodes/pve/qemu/190")]
    hypervisor.delete(190)
    replay.done()
    assert replay.calls[0][2] == {"purge": "1", "destroy-unreferenced-disks": "1"}


def test_the_firewall_closes_everything_but_the_files_gateway(hypervisor, replay) -> None:
    replay.steps = [
        dataclasses.replace(recorded("PUT", r"nodes/pve/qemu/101/firewall/options"), path=".*/firewall/options"),
        dataclasses.replace(recorded("GET", r"nodes/pve/qemu/101/firewall/ipset"), path=".*/firewall/ipset"),
        dataclasses.replace(recorded("POST", r"nodes/pve/qemu/101/firewall/ipset"), path=".*/firewall/ipset"),
        made_up("GET", ".*/ipset/ipfilter-net0", []),
        made_up("POST", ".*/ipset/ipfilter-net0"),
        dataclasses.replace(recorded("GET", r"nodes/pve/qemu/101/firewall/rules"), path=".*/firewall/rules"),
        dataclasses.replace(recorded("POST", r"nodes/pve/qemu/101/firewall/rules"), path=".*/firewall/rules"),
    ]
    hypervisor.set_firewall(101, "10.20.0.16", "10.20.0.1", 564)
    replay.done()
    options, rule = replay.calls[0][2], replay.calls[-1][2]
    assert options == {
        "enable": "1", "dhcp": "0", "ndp": "0", "radv": "0", "macfilter": "1", "ipfilter": "1", "policy_in": "DROP",
        "policy_out": "DROP",
    }  # fmt: skip
    assert replay.calls[4][2] == {"cidr": "10.20.0.16"}
    assert rule == {
        "type": "out", "action": "ACCEPT", "proto": "tcp", "dest": "10.20.0.1", "dport": "564", "enable": "1",
    }  # fmt: skip


def test_plugging_the_cable_in_keeps_the_mac_address(hypervisor, replay) -> None:
    net0 = "virtio=BC:24:11:00:00:01,bridge=vmbr1,firewall=1,link_down=1"
    replay.steps = [
        made_up("GET", "nodes/pve/qemu/100000/config", {"net0": net0, "digest": "d" * 40}),
        made_up("PUT", "nodes/pve/qemu/100000/config"),
        made_up("GET", "nodes/pve/qemu/100000/config", {"net0": net0.replace("link_down=1", "link_down=0")}),
    ]
    hypervisor.plug_network(100_000)
    hypervisor.plug_network(100_000)  # the second time there is nothing to do
    replay.done()
    assert replay.calls[1][2] == {"net0": net0.replace("link_down=1", "link_down=0"), "digest": "d" * 40}


def test_publishing_uploads_the_image_under_its_own_name_and_makes_a_template(hypervisor, replay, tmp_path) -> None:
    image = tmp_path / "some-other-name.qcow2"
    image.write_bytes(b"QFI\xfb" + b"\0" * 100)
    upid = "UPID:pve:00000A79:0003A466:6B02FC50:imgcopy::root@pam:"
    replay.steps = [
        dataclasses.replace(recorded("POST", "nodes/pve/storage/lab/upload"), path="nodes/pve/storage/local/upload"),
        task_ended("OK"),
        made_up("POST", "nodes/pve/qemu", upid),
        task_ended("WARNINGS: 1"),
        made_up("POST", "nodes/pve/qemu/9000/template", upid),
        task_ended("OK"),
        made_up("DELETE", "nodes/pve/storage/local/content/local:import/probe-r-0123456789ab.qcow2"),
    ]
    config = {"memory": 160, "cores": 1, "name": "ignored", "vga": "virtio"}
    template = hypervisor.publish_template("probe", "0123456789ab", image, 9000, config=config)
    replay.done()
    assert (template.name, template.vmid) == ("probe", 9000)
    assert replay.calls[0][2] == {"content": "import", "filename": "probe-r-0123456789ab.qcow2"}
    created = replay.calls[2][2]
    assert created["name"] == "probe-r-0123456789ab" and created["pool"] == "phr-templates"
    assert created["virtio0"] == "local:0,import-from=local:import/probe-r-0123456789ab.qcow2"


# -- what is made of the answers
def test_a_machine_that_is_gone_is_recognised_from_the_500_that_root_sees(hypervisor, replay) -> None:
    replay.steps = [dataclasses.replace(recorded("GET", r"nodes/pve/qemu/999/status/current", status=500), path=".*")]
    with pytest.raises(MachineGone):
        hypervisor.status(999)
    replay.done()


def test_a_machine_that_is_gone_is_recognised_from_the_403_that_a_pool_token_sees(hypervisor, replay) -> None:
    refused = made_up(
        "GET", "nodes/pve/qemu/112/status/current",
        {"data": None, "message": "x\n"}, status=403, reason="Permission check failed (/vms/112, VM.Audit)",
    )  # fmt: skip
    replay.steps = [refused, POOLS, POOLS]
    with pytest.raises(MachineGone):
        hypervisor.status(112)
    replay.done()


def test_a_privilege_that_is_missing_on_a_machine_of_ours_is_not_taken_for_gone(hypervisor, replay) -> None:
    refused = recorded("POST", r"nodes/pve/qemu/401/agent/ping", status=403)
    members = made_up("GET", "pools", [{"poolid": "phr-sessions", "members": [{"type": "qemu", "vmid": 401}]}])
    replay.steps = [refused, members]
    with pytest.raises(HypervisorRefused) as error:
        hypervisor.agent_ping(401)
    assert not isinstance(error.value, MachineGone) and "VM.Monitor" in error.value.detail
    replay.done()


def test_a_taken_number_is_recognised_at_once_and_in_the_task(hypervisor, replay) -> None:
    replay.steps = [recorded("POST", "nodes/pve/qemu/100/clone", status=500, reason="config file already exists")]
    with pytest.raises(MachineExists):
        hypervisor.clone(100, 101, "dup")
    replay.steps = [task_ended("unable to create VM 250: config file already exists")]
    with pytest.raises(MachineExists):
        hypervisor.wait_task("UPID:pve:1:2:3:qmclone:100:root@pam:", 10)
    replay.done()


@pytest.mark.parametrize("text", ["OK", "WARNINGS: 3"])
def test_a_task_with_warnings_is_a_success(hypervisor, replay, text) -> None:
    replay.steps = [task_ended(text)]
    hypervisor.wait_task("UPID:pve:1:2:3:qmstart:100:root@pam:", 10)
    replay.done()


@pytest.mark.parametrize("text", ["unexpected status", "start failed: QEMU exited with code 1", ""])
def test_a_task_that_ended_otherwise_raises(hypervisor, replay, text) -> None:
    replay.steps = [task_ended(text)]
    with pytest.raises(TaskFailed):
        hypervisor.wait_task("UPID:pve:1:2:3:qmstart:100:root@pam:", 10)


def test_a_task_that_does_not_end_is_an_error_and_the_tick_is_called_meanwhile(hypervisor, replay) -> None:
    replay.loose = lambda method, path: TASK_RUNNING
    ticks = []
    with pytest.raises(HypervisorUnreachable):
        hypervisor.wait_task("UPID:pve:1:2:3:qmclone:100:root@pam:", 0.3, lambda: ticks.append(1))
    assert ticks


def test_the_agent_says_it_is_away_and_a_stopped_machine_says_so(hypervisor, replay) -> None:
    away = recorded("POST", r"nodes/pve/qemu/401/agent/ping", status=500, reason="QEMU guest agent is not running")
    stopped = recorded("POST", r"nodes/pve/qemu/401/agent/ping", status=500, reason="VM 401 is not running")
    replay.steps = [away, stopped]
    assert hypervisor.agent_ping(401) is False
    with pytest.raises(MachineStopped):
        hypervisor.agent_ping(401)
    replay.done()


def test_a_file_is_read_byte_by_byte_and_a_missing_one_is_none(hypervisor, replay) -> None:
    read = recorded("GET", r"nodes/pve/qemu/401/agent/file-read", where="\\u00ff bin")
    missing = recorded("GET", r"nodes/pve/qemu/401/agent/file-read", status=500, reason="failed to open file '/nosuch'")
    replay.steps = [read, missing]
    assert hypervisor.read_file(401, "/tmp/b64") == b"\x00\xff bin"
    assert hypervisor.read_file(401, "/nosuch") is None
    replay.done()


def test_what_a_guest_says_is_bounded(hypervisor, replay) -> None:
    replay.steps = [made_up("GET", ".*file-read", {"content": "x" * 65_537})]
    with pytest.raises(HypervisorRefused):
        hypervisor.read_file(401, "/run/myphr/status.json")


def test_a_lock_is_waited_for_and_other_refusals_are_not(hypervisor, replay, monkeypatch) -> None:
    monkeypatch.setattr(proxmox.time, "sleep", lambda seconds: None)
    locked = recorded("PUT", r"nodes/pve/qemu/\d+/config", status=500, reason="can't lock file")
    replay.steps = [
        dataclasses.replace(locked, method="POST", path=".*/clone"), recorded("POST", "nodes/pve/qemu/100/clone"),
    ]  # fmt: skip
    assert hypervisor.clone(100, 100_000, "phr-x").startswith("UPID:")
    replay.done()
    other = recorded("POST", "nodes/pve/qemu/100/clone", status=500, reason="Linked clone feature is not supported")
    replay.steps = [other]
    with pytest.raises(HypervisorRefused):
        hypervisor.clone(100, 100_001, "phr-y")
    replay.done()


def test_a_lock_is_not_waited_for_for_ever(hypervisor, replay, monkeypatch) -> None:
    monkeypatch.setattr(proxmox.time, "sleep", lambda seconds: None)
    locked = recorded("PUT", r"nodes/pve/qemu/\d+/config", status=500, reason="can't lock file")
    replay.loose = lambda method, path: locked
    with pytest.raises(HypervisorRefused):
        hypervisor.start(101)
    assert len(replay.calls) == proxmox.LOCK_TRIES_MAX


@pytest.mark.parametrize("status", [595, 596, 599])
def test_a_node_behind_the_proxy_that_is_down_is_unreachable(hypervisor, replay, status) -> None:
    down = dataclasses.replace(recorded("GET", "nodes/pve/qemu", status=595), path=".*", status=status)
    replay.loose = lambda method, path: down
    with pytest.raises(HypervisorUnreachable):
        hypervisor.status(101)


def test_a_bad_token_is_refused_with_the_nodes_reason(hypervisor, replay) -> None:
    replay.steps = [recorded("GET", "version", status=401, reason="invalid token value!")]
    with pytest.raises(HypervisorRefused) as error:
        hypervisor.version()
    assert "invalid token value!" in error.value.detail


def test_something_that_is_not_proxmox_is_noticed(hypervisor, replay) -> None:
    replay.steps = [dataclasses.replace(made_up("GET", "version"), body="<html>hello</html>")]
    with pytest.raises(HypervisorRefused, match="not JSON"):
        hypervisor.version()


def test_a_connection_that_was_just_closed_costs_a_get_nothing(hypervisor, replay) -> None:
    replay.steps = [recorded("GET", "version"), recorded("GET", "version")]
    hypervisor.version()
    replay.drop_next = 1
    assert hypervisor.version() == (8, 4)
    replay.done()


def test_a_post_is_never_sent_twice(hypervisor, replay) -> None:
    replay.drop_next = 1
    with pytest.raises(HypervisorUnreachable):
        hypervisor.clone(100, 100_000, "phr-x")
    assert not replay.calls


def test_an_unknown_certificate_is_refused(settings, replay, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_certificate(other)
    wrong = dataclasses.replace(settings, proxmox_ca_file=str(other / "certificate.pem"))
    with pytest.raises(HypervisorUnreachable):
        Hypervisor(wrong).version()
    assert not replay.calls


def test_the_environment_cannot_send_this_traffic_elsewhere(hypervisor, replay, monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    replay.steps = [recorded("GET", "version")]
    assert hypervisor.version() == (8, 4)


def test_the_firewall_state_that_the_token_may_not_see_is_unknown(hypervisor, replay) -> None:
    hidden = recorded("GET", "cluster/firewall/options", status=403)
    replay.steps = [hidden, recorded("GET", "cluster/firewall/options")]
    assert hypervisor.cluster_firewall() is None
    assert hypervisor.cluster_firewall() is False


def test_permissions_of_the_token_are_read(hypervisor, replay) -> None:
    replay.steps = [recorded("GET", "access/permissions", auth="token")]
    assert "VM.Console" in hypervisor.permissions()["/vms"]


def test_a_console_carries_the_generated_password_or_the_old_servers_ticket(hypervisor, replay) -> None:
    answer = {"port": "5900", "ticket": "PVEVNC:6B02F9A0::abc+/==", "user": "portal@pve!web", "cert": "x", "upid": "x"}
    replay.steps = [
        made_up("POST", ".*/vncproxy", answer | {"password": "p!ss`^_A"}), made_up("POST", ".*/vncproxy", answer),
    ]  # fmt: skip
    new, old = hypervisor.console(101), hypervisor.console(101)
    assert new.password == "p!ss`^_A" and old.password.startswith("PVEVNC:6")
    assert new.url.endswith("vncwebsocket?port=5900&vncticket=PVEVNC%3A6B02F9A0%3A%3Aabc%2B%2F%3D%3D")
    assert new.headers == {"Authorization": f"PVEAPIToken=portal@pve!web={SECRET}"}
    assert SECRET not in repr(new) and "abc" not in repr(new)
    assert replay.calls[0][2] == {"websocket": "1", "generate-password": "1"}
    replay.done()


def test_the_tokens_secret_is_in_no_error_and_no_log(hypervisor, replay, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    replay.loose = lambda method, path: recorded("GET", "version", status=401, reason="invalid token value!")
    for call in (hypervisor.version, lambda: hypervisor.write_file(101, "/x", b"plain-marker")):
        with pytest.raises(HypervisorRefused) as error:
            call()
        assert SECRET not in str(error.value)
    assert SECRET not in caplog.text and "cGxhaW4tbWFya2Vy" not in caplog.text


# -- many at once
@pytest.mark.parametrize("shared", [False, True], ids=["one process", "over Redis"])
def test_at_most_two_calls_are_under_way(settings, replay, redis_url, shared) -> None:
    import redis

    replay.delay_seconds = 0.03
    replay.loose = lambda method, path: recorded("GET", r"nodes/pve/qemu/101/status/current")
    one = Hypervisor(settings, redis.Redis.from_url(redis_url) if shared else None)
    others = [Hypervisor(settings, redis.Redis.from_url(redis_url)) for _ in range(3)] if shared else [one]
    threads = [threading.Thread(target=others[i % len(others)].status, args=(101,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(replay.calls) == 12
    assert replay.most_at_once <= proxmox.CALLS_AT_ONCE_MAX


def test_one_clone_at_once_per_storage_and_a_dead_workers_turn_runs_out(settings, redis_url, monkeypatch) -> None:
    import redis

    monkeypatch.setattr(proxmox, "CLONE_LEASE_SECONDS", 1)
    connection = redis.Redis.from_url(redis_url)
    one, other = (Hypervisor(settings, connection) for _ in range(2))
    with one.clone_turn(), pytest.raises(HypervisorUnreachable), other.clone_turn(seconds_max=0.2):
        pass
    dead = one.clone_turn()
    dead.__enter__()  # killed here: never given back
    with other.clone_turn(seconds_max=5):
        pass


def test_each_thread_and_each_fork_has_its_own_connection(hypervisor, replay) -> None:
    replay.loose = lambda method, path: recorded("GET", "version")
    hypervisor.version()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(hypervisor._api()))
    thread.start()
    thread.join()
    assert seen[0] is not hypervisor._api()
    mine = hypervisor._api()
    hypervisor._mine.process = -1  # as after a fork
    assert hypervisor._api() is not mine


# -- templates
def test_templates_are_found_by_name_even_when_the_list_lags_behind(hypervisor, replay) -> None:
    members = [
        {"type": "qemu", "vmid": 9001, "node": "pve", "name": "radiology-r-0123456789ab", "template": 1},
        {"type": "qemu", "vmid": 9002, "node": "pve", "status": "unknown"},
        {"type": "qemu", "vmid": 9003, "node": "pve", "name": "somebody else's", "template": 1},
        {"type": "storage", "storage": "local"},
    ]
    replay.steps = [
        made_up("GET", "pools", [{"poolid": "phr-templates", "members": members}]),
        made_up("GET", "nodes/pve/qemu/9002/config", {"name": "radiology-r-ba9876543210", "template": 1}),
        made_up("GET", "nodes/pve/qemu/9003/config", {"name": "somebody else's", "template": 1}),
    ]
    assert [(t.name, t.vmid, t.revision) for t in hypervisor.templates()] == [
        ("radiology", 9001, "0123456789ab"), ("radiology", 9002, "ba9876543210"),
    ]  # fmt: skip
    replay.done()


def test_only_machines_of_our_pool_and_our_numbers_are_listed(hypervisor, replay) -> None:
    members = [{"type": "qemu", "vmid": vmid, "node": "pve"} for vmid in (100, 99_999, 100_000, 999_999, 1_000_000)]
    replay.steps = [made_up("GET", "pools", [{"poolid": "phr-sessions", "members": members}])]
    assert [machine.vmid for machine in hypervisor.list_machines()] == [100_000, 999_999]
