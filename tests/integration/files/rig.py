"""A claimed machine as the database knows it, and the files gateway as its own process. Used by tests and the bench."""

import collections
import contextlib
import dataclasses
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from myphr.ingest import identify
from myphr.machines.models import Machine, VmSession
from myphr.records import items, manifest
from tests.cast import SignedIn
from tests.ninep_client import Client

if TYPE_CHECKING:
    from myphr.portal import Portal

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a guest is told, and what the tests need to know of it."""

    vmid: int
    vm_session_id: str
    secret: str
    socket: Path
    machine_id: str
    item_ids: list[str]

    def mount(self, **options: object) -> Client:
        return Client(self.socket, **options).mount(self.vm_session_id, self.secret)  # type: ignore[arg-type]


def upload(portal: "Portal", person: SignedIn, name: str, content: Iterable[bytes]) -> str:
    """An item of the person's record, sealed as an upload seals it; its id."""
    with items.ItemWriter(
        portal, person.account.id, owner_public_key=person.login.ring().public_key, source="upload", source_id=None,
        describe=identify.describe,
    ) as writer:  # fmt: skip
        for piece in content:
            writer.write(piece)
        return writer.finish(name, name).id


_next_vmid = iter(range(100_000, 200_000))


def claim(
    portal: "Portal", person: SignedIn, files: Mapping[str, bytes] | None = None, *, item_ids: list[str] | None = None,
    machine_state: str = "claimed", session_state: str = "connecting",
) -> Claim:  # fmt: skip
    """A machine that was claimed for a session over these files, short of the hypervisor."""
    ids = item_ids or [upload(portal, person, name, [content]) for name, content in (files or {}).items()]
    secret = secrets.token_urlsafe(32)
    machine = Machine(vmid=next(_next_vmid), node="pve", template="probe", state=machine_state)
    session = VmSession(
        account_id=person.account.id, machine_id=machine.id, viewer="probe", template="probe", state=session_state,
        items_count=len(ids), owner_public_key=person.login.ring().public_key,
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
    )  # fmt: skip
    session.sealed_manifest = manifest.build(
        portal.database, person.login.ring(), person.account.id, ids, secret.encode(), session.id
    )
    with portal.database.write() as db:
        db.add(machine)
        db.flush()
        db.add(session)
    socket = Path(portal.settings.files_listen.removeprefix("unix:").format(vmid=machine.vmid))
    return Claim(machine.vmid, session.id, secret, socket, machine.id, ids)


def set_state(portal: "Portal", table: type, row_id: str, state: str) -> None:
    with portal.database.write() as db:
        row = db.get(table, row_id)
        assert row is not None
        row.state = state
        db.add(row)


def end(portal: "Portal", claimed: Claim) -> None:
    """What `vm_sessions.end` does as far as the files gateway can see."""
    set_state(portal, VmSession, claimed.vm_session_id, "ending")
    portal.redis.publish("myphr:revoked", f"vm:{claimed.vm_session_id}")


def wait_for(what: Callable[[], object], seconds: float = 20) -> object:
    """The first true answer. Raises TimeoutError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.02)
    raise TimeoutError("it did not happen")


class Relay:
    """Between QEMU's forward and the gateway's socket: counts what the guest asks, by type of message."""

    def __init__(self, near: Path, far: Path) -> None:
        self.asked: collections.Counter[int] = collections.Counter()
        self._far = far
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(near))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                guest, _ = self._listener.accept()
                gateway = socket.socket(socket.AF_UNIX)
                try:
                    gateway.connect(str(self._far))
                except OSError:  # the gateway is away: QEMU dials again
                    guest.close()
                    continue
                for ends in ((guest, gateway, True), (gateway, guest, False)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            while got := source.recv(1 << 20):
                target.sendall(got)
                if counted:
                    pending += got
                    while len(pending) >= 7 and len(pending) >= (size := int.from_bytes(pending[:4], "little")) >= 7:
                        self.asked[pending[4]] += 1
                        pending = pending[size:]
        for end_ in (source, target):
            with contextlib.suppress(OSError):
                end_.shutdown(socket.SHUT_RDWR)


class Gateway:
    """`python -m myphr.gateway files` over a test portal's home."""

    def __init__(self, portal: "Portal", **settings: object) -> None:
        self.portal = portal
        given = portal.settings
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("MYPHR_")} | {
            "MYPHR_HOME": str(given.home), "MYPHR_REDIS_URL": given.redis_url,
            **{f"MYPHR_{key.upper()}": str(value) for key, value in settings.items()},
        }  # fmt: skip
        self.log = given.home / "files.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> "Gateway":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "myphr.gateway", "files"], cwd=ROOT, env=self.environ, stdout=log, stderr=log
            )
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def resident_bytes(self) -> int:
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def __enter__(self) -> "Gateway":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
