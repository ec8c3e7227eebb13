"""The stage: a patient with a live VM session, a share, a Proxmox-like endpoint, and the real gateway as a process."""

import dataclasses
import datetime as dt
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from myphr.database import now
from myphr.machines.models import Machine, VmSession
from myphr.portal import Portal
from myphr.sharing import tickets
from myphr.sharing.models import Share, ShareVisit
from tests.cast import CAREGIVER, SignedIn
from tests.integration.screen.browser import RawScreen
from tests.integration.screen.machines import FakeVnc, Qemu
from tests.integration.screen.pve_like import PveLike

ROOT = Path(__file__).resolve().parents[3]
PUBLIC_URL = "http://portal.example:8000"


class GatewayProcess:
    """The gateway of `run_gateway.py`, with its log."""

    def __init__(self, folder: Path, config: dict) -> None:
        self._config = folder / f"gateway-{len(list(folder.glob('gateway-*.json')))}.json"
        self._config.write_text(json.dumps(config))
        self.log = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.screen.run_gateway", str(self._config)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        threading.Thread(target=self._collect, daemon=True).start()
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.log

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def memory(self, kind: str = "VmRSS") -> int:
        """Bytes in memory now; VmHWM for the most there ever were."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"{kind}:\s+(\d+) kB", text)
        assert match
        return int(match[1]) * 1024

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@dataclasses.dataclass
class Stage:
    portal: Portal
    patient: SignedIn
    folder: Path
    pve: PveLike
    vm_session_id: str
    vmid: int
    gateways: list[GatewayProcess] = dataclasses.field(default_factory=list)

    def start_gateway(self, redis_url: str | None = None, **constants: float) -> GatewayProcess:
        gateway = GatewayProcess(self.folder, {
            "database_url": self.portal.settings.database_url, "redis_url": redis_url or self.portal.settings.redis_url,
            "ticket_key": self.portal.keys.ticket_key.hex(), "public_url": PUBLIC_URL, "constants": constants,
            "consoles": {"base": self.pve.address, "ca_file": str(self.pve.ca_file)},
        })  # fmt: skip
        self.gateways.append(gateway)
        return gateway

    @property
    def gateway(self) -> GatewayProcess:
        return self.gateways[-1] if self.gateways else self.start_gateway()

    @property
    def owner_grant(self) -> str:
        return f"owner:{self.patient.login.login_session.id}"

    def owner_ticket(self, **changes: object) -> str:
        fields = {"vm_session_id": self.vm_session_id, "grant": self.owner_grant, "access": "control", "now": now()}
        return tickets.issue(self.portal.keys.ticket_key, **(fields | changes))  # type: ignore[arg-type]

    def share(self, access: str = "view", seconds: float = 3600, vm_session_id: str | None = None) -> tuple[Share, str]:
        """A share that somebody opened: (share, visit id)."""
        share = Share(
            account_id=self.patient.account.id, vm_session_id=vm_session_id or self.vm_session_id,
            email=CAREGIVER.email, access=access, state="opened", secret_sha256="0" * 64,
            expires_at=now() + dt.timedelta(seconds=seconds),
        )  # fmt: skip
        visit = ShareVisit(share_id=share.id, token_sha256=share.id)
        with self.portal.database.write() as db:
            db.add(share)
            db.flush()
            db.add(visit)
        return share, visit.id

    def share_ticket(self, share: Share, visit: str, access: str | None = None) -> str:
        return tickets.issue(
            self.portal.keys.ticket_key, vm_session_id=self.vm_session_id, grant=f"share:{share.id}", visit=visit,
            access=access or share.access, now=now(),
        )  # fmt: skip

    def change(self, kind: type, row_id: str, **values: object) -> None:
        with self.portal.database.write() as db:
            row = db.get(kind, row_id)
            assert row is not None
            for name, value in values.items():
                setattr(row, name, value)
            db.add(row)

    def connect(self, ticket: str | None = None, *, origin: str | None = PUBLIC_URL, **options: object) -> RawScreen:
        return RawScreen(
            self.gateway.address, self.owner_ticket() if ticket is None else ticket, origin=origin, **options
        )


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="myphr-screen-"))  # sockets want a short path
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_stage(portal: Portal, patient: SignedIn, folder: Path) -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(vnc: str, password: str) -> Stage:
        vmid = 100_000
        machine = Machine(vmid=vmid, node="pve", template="probe", state="claimed")
        vm_session = VmSession(
            account_id=patient.account.id, machine_id=machine.id, viewer="probe", template="probe", state="live"
        )
        with portal.database.write() as db:
            db.add(machine)
            db.flush()
            db.add(vm_session)
        pve = PveLike(folder, {vmid: (vnc, password)})
        pve.__enter__()
        stages.append(Stage(portal, patient, folder, pve, vm_session.id, vmid))
        return stages[-1]

    yield make
    for stage in stages:
        for gateway in stage.gateways:
            gateway.process.kill()
            gateway.process.wait()
        stage.pve.__exit__()
        assert stage.pve.violations == []
        for secret in ("PVEAPIToken", "vncticket", "s3cret", FakeVnc.password, "ticket."):
            assert not any(secret in gateway.log for gateway in stage.gateways), f"{secret} is in the log"


@pytest.fixture
def fake(folder: Path) -> Iterator[FakeVnc]:
    with FakeVnc(folder / "fake.sock") as server:
        yield server


@pytest.fixture
def stage(make_stage: Callable[..., Stage], fake: FakeVnc) -> Stage:
    """With a VNC server that records what reaches it."""
    return make_stage(fake.path, fake.password)


@pytest.fixture
def qemu(folder: Path) -> Iterator[Qemu]:
    with Qemu(folder) as machine:
        yield machine


@pytest.fixture
def qemu_stage(make_stage: Callable[..., Stage], qemu: Qemu) -> Stage:
    return make_stage(qemu.vnc, qemu.password)
