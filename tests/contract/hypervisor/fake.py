"""A hypervisor in memory, with a guest in each machine: for tests of state logic only.

The contract suite beside this file runs against it, against localpve and (opt-in) against real Proxmox, so that it
cannot drift from them. `trouble` makes the next calls of a method fail.
"""

import contextlib
import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from myphr.errors import HypervisorRefused, ViewerNotInstalled
from myphr.machines.proxmox import (
    AgentAway,
    Console,
    ListedMachine,
    MachineExists,
    MachineGone,
    MachineStopped,
    StorageStatus,
    TaskFailed,
    Template,
)

GUEST_PROGRESS = ("claimed", "mounted", "opening", "ready")
ISOLATION = [{"check": "dns", "blocked": True}, {"check": "neighbours", "blocked": True}]


@dataclasses.dataclass
class FakeMachine:
    vmid: int
    name: str
    template: int
    running: bool = False
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    claims: list[dict] = dataclasses.field(default_factory=list)
    progress: list[str] = dataclasses.field(default_factory=list)
    guest: str = ""


class FakeHypervisor:
    """The methods of `myphr.machines.proxmox.Hypervisor` that the services use."""

    def __init__(self, vmid_first: int = 100_000, vmid_last: int = 999_999) -> None:
        self.node = "pve"
        self.pool = "phr-sessions"
        self.vmid_range = (vmid_first, vmid_last)
        self.known_templates = [Template("probe", 9000, "pve", "000000000001")]
        self.machines: dict[int, FakeMachine] = {}
        self.tasks: dict[str, str] = {}
        self.calls: list[str] = []
        self.trouble: dict[str, list[Exception | None]] = defaultdict(list)
        self.guest_progress: tuple[str, ...] = GUEST_PROGRESS
        self.isolation = ISOLATION
        self.most_at_once = 0
        self._numbers = itertools.count(1)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.trouble[name]:
            problem = self.trouble[name].pop(0)
            if problem is not None:
                raise problem

    def _task(self, kind: str, vmid: int, result: str = "OK") -> str:
        upid = f"UPID:pve:{next(self._numbers):08X}:0000AAAA:00000000:{kind}:{vmid}:portal@pve!web:"
        self.tasks[upid] = result
        return upid

    def _machine(self, vmid: int) -> FakeMachine:
        try:
            return self.machines[vmid]
        except KeyError:
            raise MachineGone(f"500 Configuration file 'nodes/pve/qemu-server/{vmid}.conf' does not exist") from None

    # -- what is there
    def version(self) -> tuple[int, int]:
        self._call("version")
        return 8, 4

    def cluster_firewall(self) -> bool | None:
        return True

    def storage(self) -> StorageStatus:
        return StorageStatus(True, 2**40, frozenset({"images", "import"}))

    def permissions(self) -> dict[str, frozenset[str]]:
        return {}

    def templates(self) -> list[Template]:
        self._call("templates")
        return list(self.known_templates)

    def find_template(self, name: str) -> Template:
        found = [template for template in self.templates() if template.name == name]
        if not found:
            raise ViewerNotInstalled(f"template {name} is not in the pool")
        return found[-1]

    def can_clone(self, vmid: int, *, node: str | None = None) -> bool:
        return True

    def list_machines(self) -> list[ListedMachine]:
        self._call("list_machines")
        first, last = self.vmid_range
        return [ListedMachine(m.vmid, "pve", m.name) for m in self.machines.values() if first <= m.vmid <= last]

    def config(self, vmid: int, *, node: str | None = None) -> dict:
        self._call("config")
        for template in self.known_templates:
            if template.vmid == vmid:
                return {"name": f"{template.name}-r-{template.revision}", "template": 1, "net0": "virtio,bridge=vmbr1"}
        return {"name": self._machine(vmid).name}

    def exists(self, vmid: int, *, node: str | None = None) -> bool:
        return vmid in self.machines

    # -- the life of a machine
    @contextlib.contextmanager
    def clone_turn(self, seconds_max: float = 60) -> Iterator[Callable[[], None]]:
        yield lambda: None

    def clone(self, template_vmid: int, vmid: int, name: str, *, node: str | None = None) -> str:
        self._call("clone")
        if all(template.vmid != template_vmid for template in self.known_templates):
            raise MachineGone(f"500 unable to find configuration file for VM {template_vmid} on node 'pve'")
        if vmid in self.machines:
            raise MachineExists(f"500 unable to create VM {vmid}: config file already exists")
        self.machines[vmid] = FakeMachine(vmid, name, template_vmid)
        self.most_at_once = max(self.most_at_once, len(self.machines))
        return self._task("qmclone", template_vmid)

    def start(self, vmid: int, *, node: str | None = None) -> str:
        self._call("start")
        machine = self._machine(vmid)
        if machine.running:
            return self._task("qmstart", vmid, f"VM {vmid} already running")
        machine.running, machine.guest = True, "waiting"
        return self._task("qmstart", vmid)

    def stop(self, vmid: int, *, node: str | None = None) -> str:
        self._call("stop")
        machine = self._machine(vmid)
        machine.running, machine.guest = False, ""
        machine.files.clear()
        return self._task("qmstop", vmid)

    def delete(self, vmid: int, *, node: str | None = None) -> str:
        self._call("delete")
        if self._machine(vmid).running:
            raise HypervisorRefused(f"500 VM {vmid} is running - destroy failed")
        del self.machines[vmid]
        return self._task("qmdestroy", vmid)

    def destroy(self, vmid: int, *, node: str | None = None, seconds_max: float = 90, tick=lambda: None) -> None:
        self._call("destroy")
        if vmid in self.machines:
            self.stop(vmid)
            self.delete(vmid)

    def status(self, vmid: int, *, node: str | None = None) -> str:
        self._call("status")
        return "running" if self._machine(vmid).running else "stopped"

    def wait_task(self, upid: str, seconds_max: float, tick=lambda: None) -> None:
        self._call("wait_task")
        tick()
        result = self.tasks[upid]
        if result != "OK":
            raise TaskFailed(result)

    # -- the guest
    def _guest(self, vmid: int) -> FakeMachine:
        machine = self._machine(vmid)
        if not machine.running:
            raise MachineStopped(f"500 VM {vmid} is not running")
        return machine

    def agent_ping(self, vmid: int, *, node: str | None = None) -> bool:
        try:
            self._call("agent_ping")
        except AgentAway:
            return False
        return bool(self._guest(vmid))

    def write_file(self, vmid: int, path: str, content: bytes, *, node: str | None = None) -> None:
        self._call("write_file")
        if len(content) > 45_000:
            raise ValueError("too large for the guest agent")
        machine = self._guest(vmid)
        if path == "/run/myphr/claim.json":
            machine.claims.append(json.loads(content))
            if len(machine.claims) == 1:
                machine.progress = list(self.guest_progress)
            return
        machine.files[path] = content

    def read_file(self, vmid: int, path: str, *, node: str | None = None) -> bytes | None:
        self._call("read_file")
        machine = self._guest(vmid)
        if path != "/run/myphr/status.json":
            return machine.files.get(path)
        if machine.progress:
            machine.guest = machine.progress.pop(0)
        isolation = self.isolation if machine.guest == "ready" else []
        error = "folder-unreachable" if machine.guest == "failed" else None
        return json.dumps({"version": 1, "state": machine.guest, "error": error, "isolation": isolation}).encode()

    def console(self, vmid: int, *, node: str | None = None) -> Console:
        self._machine(vmid)
        path = f"/api2/json/nodes/pve/qemu/{vmid}/vncwebsocket"
        url = f"wss://127.0.0.1:8006{path}?port=5900&vncticket=x"
        return Console(url, {"Authorization": "x"}, "ca.pem", "12345678")

    def set_firewall(self, vmid: int, guest: str, files: str, port: int, *, node: str | None = None) -> None:
        self._call("set_firewall")

    def plug_network(self, vmid: int, *, node: str | None = None) -> None:
        self._call("plug_network")

    def publish_template(self, name: str, revision: str, image: Path, vmid: int, **options) -> Template:
        template = Template(name, vmid, "pve", revision)
        self.known_templates.append(template)
        return template
