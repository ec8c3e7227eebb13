"""A hostile program inside a live machine of a real portal reaches nothing but its own folder.

The machine is a patient's, started by the portal as for anybody; the program runs in it as root. The same program in a
plain QEMU guest with an open network, in the same surroundings, gets out everywhere: so these tests can fail.
"""

import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from sqlmodel import select

from myphr.audit.models import AuditEvent
from myphr.machines.models import Machine, VmSession
from myphr.portal import Portal
from myphr.settings import load
from tests.integration.portal.surroundings import OWN_ADDRESS, Surroundings
from tests.integration.templates.machine import GuestMachine
from tests.person import Person
from tests.running import TEMPLATES, RunningPortal, built_template

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

SENTENCE = "This machine could reach nothing but your files"
HOSTILE = "/usr/lib/myphr/hostile"
OTHER_GUEST = "10.0.2.77"  # a second address of the other guest, on the same network as ours would be
PATIENCE_SECONDS = 40  # the gateway's refusals take up to 30 s: they shall be heard
GROWTH_BYTES_MAX = 48 * 1024 * 1024
BOOT_SECONDS_MAX = 240


class Node:
    """The hypervisor's API as its root: the portal's own token may not run programs in guests."""

    def __init__(self, running: RunningPortal) -> None:
        home = running.home / "localpve"
        self.url = f"https://{running.environ['MYPHR_LOCALPVE_BIND']}/api2/json"
        self.http = requests.Session()
        self.http.trust_env = False  # or the variables of some computers replace the authority below
        self.http.verify = str(home / "ca.pem")
        password = (home / "root.password").read_text().strip()
        login = {"username": "root@pam", "password": password}
        answer = self.http.post(f"{self.url}/access/ticket", data=login, timeout=30)
        ticket = answer.json()["data"]
        self.http.cookies["PVEAuthCookie"] = ticket["ticket"]
        self.http.headers["CSRFPreventionToken"] = ticket["CSRFPreventionToken"]

    def start(self, guest: "Guest", *words: str) -> int:
        """Starts a program in the guest; returns its process id there."""
        path = f"{self.url}/nodes/{guest.node}/qemu/{guest.vmid}/agent/exec"
        answer = self.http.post(path, data=[("command", word) for word in words], timeout=30)
        assert answer.ok, answer.reason
        return int(answer.json()["data"]["pid"])

    def output(self, guest: "Guest", pid: int, seconds_max: float) -> str:
        path = f"{self.url}/nodes/{guest.node}/qemu/{guest.vmid}/agent/exec-status"
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            answer = self.http.get(path, params={"pid": pid}, timeout=30)
            if answer.ok and answer.json()["data"]["exited"]:
                return str(answer.json()["data"].get("out-data", ""))
            time.sleep(0.2)
        raise TimeoutError(f"program {pid} did not end in the guest")

    def run(self, guest: "Guest", *words: str, seconds_max: float = 60) -> str:
        return self.output(guest, self.start(guest, *words), seconds_max)

    def hostile(self, guest: "Guest", *options: str) -> list[dict]:
        """What the hostile program found. By way of a file: a child that hangs in a dead folder keeps a pipe open."""
        script = f"{HOSTILE} {' '.join(options)} >/run/hostile.out 2>/run/hostile.err"
        self.run(guest, "/bin/busybox", "sh", "-c", script, seconds_max=400)
        lines = [json.loads(line) for line in self.run(guest, "/bin/busybox", "cat", "/run/hostile.out").splitlines()]
        assert lines, self.run(guest, "/bin/busybox", "cat", "/run/hostile.err")
        return lines


class Guest:
    """The guest behind one live VM session, and what root in it can know."""

    def __init__(self, running: RunningPortal, node: Node, page: str) -> None:
        self.page = page
        self.vm_session = page.rsplit("/", 1)[-1]
        portal = Portal(load({k: v for k, v in running.environ.items() if k.startswith("MYPHR_")}))
        with portal.database.read() as db:
            row = db.exec(select(VmSession).where(VmSession.id == self.vm_session)).one()
            machine = db.exec(select(Machine).where(Machine.id == row.machine_id)).one()
            self.vmid, self.node = machine.vmid, machine.node
        portal.database.dispose()
        mounts = node.run(self, "/bin/busybox", "cat", "/proc/mounts")
        found = re.search(r"aname=([A-Za-z0-9_-]{43})", mounts)
        assert found, "the folder is not mounted"
        self.secret = found[1]


def port_of(address: str) -> str:
    return str(urlsplit(address if "//" in address else f"//{address}").port)


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Iterator[Surroundings]:
    built_template("probe")  # before: building fetches packages, and from inside nothing can be fetched
    with Surroundings() as made:
        yield made


@pytest.fixture(scope="module")
def node(running: RunningPortal) -> Node:
    return Node(running)


@pytest.fixture(scope="module")
def targets(running: RunningPortal, surroundings: Surroundings) -> list[str]:
    """Every TCP door of the portal's own processes, and the listeners of these tests."""
    doors = [running.environ[f"MYPHR_{name}"] for name in ("WEB_BIND", "SCREEN_BIND", "LOCALPVE_BIND")]
    return [f"10.0.2.2:{port_of(door)}" for door in doors] + surroundings.targets


@pytest.fixture(scope="module")
def mine(running: RunningPortal, ada: Person, node: Node) -> Guest:
    """Ada's machine, which the attacker has taken over."""
    page = ada.open(ada.studies()[0])
    assert ada.wait_for(page, "live", "failed") == "live"
    return Guest(running, node, page)


@pytest.fixture(scope="module")
def bert(running: RunningPortal) -> Person:
    person = Person(running.url)
    person.register("bert@example.org", name="Bert Neighbour")
    running.command("demo-data", "bert@example.org")
    return person


@pytest.fixture(scope="module")
def theirs(running: RunningPortal, bert: Person, node: Node) -> Guest:
    """Another patient's machine, with an address beside ours and somebody listening there."""
    page = bert.open(bert.studies()[0])
    assert bert.wait_for(page, "live", "failed") == "live"
    guest = Guest(running, node, page)
    listen_beside(lambda *words: node.start(guest, *words), lambda *words: node.run(guest, *words))
    return guest


def listen_beside(start, run) -> None:  # type: ignore[no-untyped-def]
    """Gives a guest a second address and a listener; proves to itself that it listens."""
    run("/bin/busybox", "sh", "-c", f"busybox ip address add {OTHER_GUEST}/24 dev $(ls /sys/class/net | grep -v lo)")
    start("/bin/busybox", "nc", "-ll", "-p", "22", "-e", "/bin/busybox", "echo", "here")
    knock = f"for i in 1 2 3 4 5 6 7 8; do busybox nc -w 2 {OTHER_GUEST} 22 && exit; busybox sleep 1; done"
    assert "here" in str(run("/bin/busybox", "sh", "-c", knock)), "the other guest does not listen"


def reached(lines: list[dict]) -> list[dict]:
    return [line for line in lines if line["reached"] and line["check"] != "own-folder"]


def said(lines: list[dict], check: str) -> list[str]:
    return [line["detail"] for line in lines if line["check"] == check]


def words_of(options: list[str], option: str, values: list[str]) -> list[str]:
    return options + [word for value in values for word in (option, value)]


@pytest.fixture(scope="module")
def outward(node: Node, mine: Guest, theirs: Guest, surroundings: Surroundings, targets: list[str]) -> list[dict]:
    """Everything there is outside, and the folder's walls with the door of its own session open."""
    surroundings.knock("127.0.0.1", surroundings.loopback_port)
    surroundings.visits.clear()
    words = ["--no-gateway", "--no-flood", "--session", mine.vm_session, "--secret", mine.secret]
    words = [*words_of(words, "--target", targets), "--node", OWN_ADDRESS, "--guest", OTHER_GUEST]
    return node.hostile(mine, *words)


OUTWARD = ["dns", "icmp", "host", "public", "ipv6", "neighbours", "target", "node", "guest"]
WALLS = ["path-traversal", "write-outside-results", "results-escape", "change-item"]


@pytest.mark.parametrize("check", OUTWARD)
def test_guest_does_not_reach(outward: list[dict], check: str) -> None:
    tried = [line for line in outward if line["check"] == check]
    assert tried
    assert reached(tried) == []


def test_nobody_came_to_the_listeners(outward: list[dict], surroundings: Surroundings) -> None:
    """The host's own word, beside the guest's."""
    assert surroundings.visits == []


def test_own_folder_answers(outward: list[dict]) -> None:
    assert next(line["reached"] for line in outward if line["check"] == "own-folder") is True


@pytest.mark.parametrize("check", WALLS)
def test_folder_has_no_way_out(outward: list[dict], check: str) -> None:
    assert said(outward, "walls-control") == ["attached with the session's own secret"]  # the tries were real
    tried = [line for line in outward if line["check"] == check]
    assert tried
    assert reached(tried) == []


def test_pages_of_both_sessions_say_what_was_checked(ada: Person, bert: Person, mine: Guest, theirs: Guest) -> None:
    for person, guest in ((ada, mine), (bert, theirs)):
        deadline = time.monotonic() + 60
        while SENTENCE not in (text := person.get(guest.page).get_text(" ", strip=True)):
            assert time.monotonic() < deadline, text[-1500:]
            time.sleep(0.5)
        assert "not blocked" not in text


def memory(process: int) -> tuple[int, int]:
    """Resident bytes of a process now, and at most since `forget_peak` (proc(5))."""
    status = Path(f"/proc/{process}/status").read_text()
    now, peak = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return now, peak


def forget_peak(process: int) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


def test_flood_neither_stops_other_sessions_nor_fills_the_gateway(
    running: RunningPortal, node: Node, mine: Guest, theirs: Guest, outward: list[dict]
) -> None:
    servers = running.processes(r"myphr\.gateway files|myphr\.localpve")
    assert len(servers) == 2
    first = "busybox find /data -name '*.dcm' | busybox head -n 1 | busybox xargs busybox sha256sum"
    right = node.run(theirs, "/bin/busybox", "sh", "-c", first)
    assert re.match(r"[0-9a-f]{64} ", right)
    for process in servers:
        forget_peak(process)
    before = [memory(process)[0] for process in servers]
    flooding = threading.Event()
    floods: list[dict] = []

    def flood() -> None:
        other = Node(running)  # a connection of its own
        try:
            floods.extend(other.hostile(mine, "--no-network", "--no-gateway", "--no-folder", "--flood-seconds", "8"))
        finally:
            flooding.set()

    attack = threading.Thread(target=flood)
    attack.start()
    reads = []
    while not flooding.is_set():
        reads.append(node.run(theirs, "/bin/busybox", "sh", "-c", first, seconds_max=60))
    attack.join()
    print("flood:", said(floods, "flood"), len(reads), "reads beside it")
    assert len(said(floods, "flood")) == 1 and reached(floods) == []
    assert all(re.search(r"[1-9]\d* bytes sent", detail) for detail in said(floods, "flood"))
    assert len(reads) >= 2 and set(reads) == {right}
    for process, was in zip(servers, before, strict=True):
        now, peak = memory(process)
        print("before, after, peak MiB:", was >> 20, now >> 20, peak >> 20)
        assert peak - was < GROWTH_BYTES_MAX


def test_gateway_opens_no_folder_without_the_right_secret(
    running: RunningPortal, node: Node, mine: Guest, theirs: Guest
) -> None:
    words = ["--no-network", "--no-flood", "--no-folder", "--session", theirs.vm_session]
    words += ["--patience", str(PATIENCE_SECONDS)]
    words += ["--secret", mine.secret, "--other-secret", theirs.secret]
    lines = node.hostile(mine, *words)
    assert reached([line for line in lines if line["check"].startswith("gateway")]) == []
    # Its way to the gateway is one stream, on which the machine's own agent speaks as well and mounts anew as soon as
    # it is disturbed: an answer may reach the other of the two. That the gateway did hear and refuse is in the trail.
    print({line["check"]: line["detail"] for line in lines if line["check"].startswith("gateway")})
    portal = Portal(load({k: v for k, v in running.environ.items() if k.startswith("MYPHR_")}))
    with portal.database.read() as db:
        refusals = db.exec(select(AuditEvent).where(AuditEvent.event == "folder-refused")).all()
    portal.database.dispose()
    assert refusals  # it stands in the trail; once, because a guest must not be able to fill it
    # Neither patient lost anything by it.
    assert node.run(theirs, "/bin/busybox", "ls", "/data").strip()


def test_a_machine_that_was_taken_over_ends_like_any_other(ada: Person, mine: Guest, outward: list[dict]) -> None:
    ada.end(mine.page)
    assert ada.wait_for(mine.page, "ended", "failed") == "ended"


# -- the control: the same program where nothing holds it -------------------------------------------------------------
@pytest.fixture(scope="module")
def open_guest(running: RunningPortal) -> Iterator[tuple[GuestMachine, GuestMachine]]:
    """Two guests of the same template in plain QEMU: on one wire, with an open user-mode network."""
    folder = Path(tempfile.mkdtemp(prefix="open-"))
    image, machines = TEMPLATES / "probe.qcow2", []
    wire = folder / "wire"
    try:
        wide = ["-netdev", "user,id=out", "-netdev", "hubport,id=p1,hubid=0,netdev=out"]
        wide += ["-netdev", f"stream,id=wire,server=on,addr.type=unix,addr.path={wire}"]
        wide += ["-netdev", "hubport,id=p2,hubid=0,netdev=wire"]
        machines.append(GuestMachine(folder / "a", image, 160, netdev="hubport,id=net0,hubid=0", extra=wide))
        machines[0].wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
        other = f"stream,id=net0,server=off,addr.type=unix,addr.path={wire}"
        machines.append(GuestMachine(folder / "b", image, 160, netdev=other))
        machines[1].wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
        for machine, address in zip(machines, ("10.0.2.15", "10.0.2.16"), strict=True):
            up = "d=$(ls /sys/class/net | grep -v lo); busybox ip link set $d up; "
            up += f"busybox ip address add {address}/24 dev $d; busybox ip route add default via 10.0.2.2"
            machine.run("/bin/busybox", "sh", "-c", up)
        yield machines[0], machines[1]
    finally:
        for machine in machines:
            machine.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_same_program_gets_out_where_nothing_holds_it(
    open_guest: tuple[GuestMachine, GuestMachine], surroundings: Surroundings, targets: list[str]
) -> None:
    attacker, other = open_guest
    listen_beside(
        lambda *words: other.guest("guest-exec", {"path": words[0], "arg": list(words[1:])}),
        lambda *words: other.run(*words)[1],
    )
    surroundings.visits.clear()
    words = words_of([HOSTILE, "--no-gateway", "--no-flood", "--guest", OTHER_GUEST], "--target", targets)
    words += ["--node", OWN_ADDRESS] if surroundings.whole else ["--no-network"]  # nothing may leave this computer
    lines = [json.loads(line) for line in attacker.run(*words, seconds_max=180)[1].splitlines()]
    open_ways = {line["check"] for line in reached(lines)}
    assert [line for line in lines if line["check"] == "target" and not line["reached"]] == []
    for port in (surroundings.loopback_port, surroundings.all_port):
        assert f"tcp 127.0.0.1:{port}" in surroundings.visits
    expected = {"target", "guest"}
    if surroundings.whole:
        expected |= {"dns", "host", "public", "ipv6", "node"}
        assert "dns" in surroundings.visits
    print("open ways:", sorted(open_ways))
    assert expected <= open_ways, lines
