"""The probe guest under localpve: sealed and cold starts, its one address, what it may not write, its sandbox."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.localpve.rig import TEMPLATE, Hypervisor, wait_for

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def sealed() -> Iterator[Hypervisor]:
    with Hypervisor() as hypervisor:
        lines = hypervisor.probe_template()
        assert any(line.startswith("sealed in") for line in lines), lines
        yield hypervisor


@pytest.fixture
def vmid(sealed: Hypervisor) -> Iterator[int]:
    number = 100_000 + max([0, *(v - 100_000 for v in sealed.machines())]) + 1
    sealed.clone(number)
    yield number
    sealed.task("POST", f"/nodes/pve/qemu/{number}/status/stop")
    sealed.task("DELETE", f"/nodes/pve/qemu/{number}", purge=1)


class Listener:
    """The far end of a guest's forward: keeps what arrives."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(8)
        self.received = b""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                self.received += data
        except OSError:
            pass

    def close(self) -> None:
        self.socket.close()
        for connection in self._open:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def in_guest(hypervisor: Hypervisor, vmid: int, script: str) -> dict:
    """Runs a shell line in the guest by its agent; its exit status and output."""
    words = [("command", "/bin/busybox"), ("command", "sh"), ("command", "-c"), ("command", script)]
    url = f"https://127.0.0.1:{hypervisor.port}/api2/json/nodes/pve/qemu/{vmid}/agent/exec"
    answer = hypervisor.session.post(url, data=words, timeout=30)
    assert answer.status_code == 200, answer.reason
    pid = answer.json()["data"]["pid"]

    def ended() -> dict | None:
        status = hypervisor.call("GET", f"/nodes/pve/qemu/{vmid}/agent/exec-status", pid=pid)
        return status if status["exited"] else None

    return wait_for(ended, "the program in the guest ends")


def seal_folder(hypervisor: Hypervisor) -> Path:
    return hypervisor.home / "local/seals" / str(TEMPLATE) / "current"


def wait_made_anew(hypervisor: Hypervisor, before: Path) -> None:
    """Until a generation other than `before` is there; localpve's own words if none comes."""
    current = seal_folder(hypervisor)
    try:
        wait_for(lambda: (current / "seal.json").exists() and current.resolve() != before, "made anew", 120)
    except AssertionError as problem:
        problem.add_note((hypervisor.folder / "log").read_text()[-4000:])
        raise


def test_clone_of_a_sealed_template_is_waiting_without_booting(sealed, vmid):
    sealed.start_machine(vmid)
    assert sealed.state_in_guest(vmid) == "waiting"
    (pid,) = [p for p in sealed.qemu_pids() if b"incoming" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert pid == sealed.call("GET", f"/nodes/pve/qemu/{vmid}/status/current")["pid"]


def test_what_one_machine_writes_the_next_does_not_see(sealed, vmid):
    sealed.start_machine(vmid)
    wait_for(lambda: sealed.agent_answers(vmid), "the agent answers")
    sealed.call("POST", f"/nodes/pve/qemu/{vmid}/agent/file-write", file="/tmp/mark", content="c2VjcmV0", encode=0)
    sealed.clone(vmid + 50)
    sealed.start_machine(vmid + 50)
    wait_for(lambda: sealed.agent_answers(vmid + 50), "the agent answers")
    with pytest.raises(AssertionError, match="No such file"):
        sealed.call("GET", f"/nodes/pve/qemu/{vmid + 50}/agent/file-read", file="/tmp/mark")
    sealed.task("POST", f"/nodes/pve/qemu/{vmid + 50}/status/stop")
    sealed.task("DELETE", f"/nodes/pve/qemu/{vmid + 50}", purge=1)


def test_machine_cannot_write_the_memory_that_others_resume_from(sealed, vmid):
    sealed.start_machine(vmid)
    pid = sealed.call("GET", f"/nodes/pve/qemu/{vmid}/status/current")["pid"]
    opened = [
        link
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if "memfd:" in os.readlink(link) and "emory" in os.readlink(link)
    ]
    assert opened
    for link in opened:
        with pytest.raises(OSError), link.open("r+b", buffering=0) as memory:  # sealed: not even root may write
            memory.write(b"x")


def test_sealed_machine_outlives_kill_and_still_answers(sealed, vmid):
    sealed.start_machine(vmid)
    assert sealed.state_in_guest(vmid) == "waiting"
    sealed.kill()
    sealed.start()
    assert sealed.state_in_guest(vmid) == "waiting"


def test_damaged_memory_boots_cold_and_is_made_anew(sealed, vmid):
    before = seal_folder(sealed).resolve()
    with open(before / "memory", "r+b") as memory:
        memory.seek(1 << 20)
        memory.write(b"damage")
    sealed.kill()
    sealed.start()
    sealed.start_machine(vmid)
    assert sealed.state_in_guest(vmid) == "waiting"
    current = sealed.call("GET", f"/nodes/pve/qemu/{vmid}/status/current")["pid"]
    assert b"incoming" not in Path(f"/proc/{current}/cmdline").read_bytes()
    wait_made_anew(sealed, before)


def test_state_that_qemu_refuses_falls_back_to_a_cold_boot(sealed, vmid):
    before = seal_folder(sealed).resolve()
    # Same size, so that only QEMU itself can notice: localpve checked the file when it first read it.
    content = (before / "state").read_bytes()
    sealed.clone(vmid + 60)
    sealed.start_machine(vmid + 60)
    (before / "state").write_bytes(b"\0" * len(content))
    sealed.start_machine(vmid)
    assert sealed.state_in_guest(vmid) == "waiting"
    sealed.task("POST", f"/nodes/pve/qemu/{vmid + 60}/status/stop")
    sealed.task("DELETE", f"/nodes/pve/qemu/{vmid + 60}", purge=1)
    wait_made_anew(sealed, before)


def test_boot_of_the_seal_that_dies_is_tried_again_and_machines_do_not_wait_for_it(sealed, vmid):
    before = seal_folder(sealed).resolve()
    (before / "state").unlink()
    mark = f"{sealed.run_dir}/seal-{TEMPLATE}".encode()

    def boots_to_seal() -> list[int]:
        return [p for p in sealed.qemu_pids() if mark in Path(f"/proc/{p}/cmdline").read_bytes()]

    sealed.start_machine(vmid)
    (first,) = wait_for(boots_to_seal, "the seal is made anew")
    os.kill(first, signal.SIGKILL)
    (second,) = wait_for(lambda: [p for p in boots_to_seal() if p != first], "it is tried again")
    os.kill(second, signal.SIGSTOP)
    try:
        sealed.clone(vmid + 70)
        sealed.start_machine(vmid + 70)
        pid = sealed.call("GET", f"/nodes/pve/qemu/{vmid + 70}/status/current")["pid"]
        assert b"incoming" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    finally:
        os.kill(second, signal.SIGCONT)
    sealed.task("POST", f"/nodes/pve/qemu/{vmid + 70}/status/stop")
    sealed.task("DELETE", f"/nodes/pve/qemu/{vmid + 70}", purge=1)
    wait_made_anew(sealed, before)


def test_forward_works_when_the_listener_appears_later_and_after_it_restarted(sealed, vmid):
    path = sealed.sockets / f"{vmid}.sock"
    sealed.start_machine(vmid)
    wait_for(lambda: sealed.agent_answers(vmid), "the agent answers")
    in_guest(sealed, vmid, "/bin/busybox ip addr add 10.0.2.15/24 dev eth0; /bin/busybox ip link set eth0 up")

    def arrives(listener: Listener, word: str) -> bool:
        in_guest(sealed, vmid, f"echo {word} | /bin/busybox timeout 2 /bin/busybox nc 10.0.2.100 564")
        return word.encode() in listener.received

    for word in ("first", "second"):
        listener = Listener(path)
        wait_for(lambda: arrives(listener, word), f"the {word} listener is reached")  # noqa: B023
        listener.close()


def test_qemu_runs_unprivileged_without_dumps_and_with_its_sandbox(sealed, vmid):
    sealed.start_machine(vmid)
    pid = sealed.call("GET", f"/nodes/pve/qemu/{vmid}/status/current")["pid"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    if os.geteuid() == 0:
        assert status["Uid"].split()[0] != "0"
        assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == 0 or os.geteuid() != 0
    assert status["Seccomp"].strip() == "2"
    limits = {line[:26].strip(): line[26:].split() for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert limits["Max core file size"][:2] == ["0", "0"]
    assert int(limits["Max address space"][0]) < 4 << 30
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert not any(str(sealed.home) in word for word in words)  # nothing of localpve is opened by name


def test_without_sealing_a_clone_boots_cold():
    with Hypervisor("--no-sealing") as hypervisor:
        assert hypervisor.probe_template() == ["TASK OK"]
        hypervisor.clone(100_001)
        hypervisor.start_machine(100_001)
        assert hypervisor.state_in_guest(100_001) == "waiting"
