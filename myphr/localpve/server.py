"""Puts localpve together: home folder, first users and rights, recovery after a crash, the TLS server.

Everything it remembers lies below its home; what must not outlive a reboot (sockets) lies in a run directory. Called by
`python -m myphr.localpve` and, with other parameters, by tests and the conformance run.
"""

import asyncio
import dataclasses
import fcntl
import hashlib
import os
import secrets
import shutil
import ssl
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from myphr.localpve import accelerator, calls_access, calls_cluster, calls_machines, certificates
from myphr.localpve.access import Access, hash_password, new_ticket_key
from myphr.localpve.api import Api, Node
from myphr.localpve.console import CONNECT_SECONDS, Consoles
from myphr.localpve.http import HttpConnection
from myphr.localpve.machines import Machines
from myphr.localpve.qemu import Forward, VmUser
from myphr.localpve.schema import Schema
from myphr.localpve.state import State
from myphr.localpve.storage import Storages
from myphr.localpve.tasks import Tasks

PORTAL_USER, PORTAL_TOKEN = "portal@pve", "portal@pve!web"
SESSION_POOL, TEMPLATE_POOL = "phr-sessions", "phr-templates"
STORAGE = "local"
# docs/operations/localpve.md says what each is for; a real node is given the same.
SESSION_ROLE = [
    "VM.Audit",
    "VM.Allocate",
    "VM.Clone",
    "VM.PowerMgmt",
    "VM.Console",
    "VM.Monitor",
    "VM.Config.Options",
    "VM.Config.Network",
    "VM.Config.CDROM",
    "VM.Config.Cloudinit",
    "VM.Config.Memory",
    "VM.Config.CPU",
    "VM.Config.HWType",
    "Pool.Audit",
]
TEMPLATE_ROLE = ["VM.Audit", "VM.Clone", "Pool.Audit"]
CONNECTIONS_MAX = 1024
SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108 with the vmid and the socket's own name

_CALL_MODULES = (calls_access, calls_cluster, calls_machines)  # importing them registers their calls


@dataclasses.dataclass(kw_only=True)
class Options:
    """How one localpve runs. The defaults are those of the embedded hypervisor."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8006
    node: str = "pve"
    accelerator: str = "auto"
    forwards: tuple[Forward, ...] = ()
    bridges: tuple[str, ...] = ("vmbr1",)
    vm_user: str | None = None
    token_file: Path | None = None
    run_dir: Path | None = None
    sealing: bool = True
    unauthorised_seconds: float = 3.0
    console_connect_seconds: float = CONNECT_SECONDS


def _say(text: str) -> None:
    print(f"localpve: {text}", file=sys.stderr, flush=True)


class Server:
    """One running localpve. `await start()`, then `port` is bound; `await stop()` leaves machines running."""

    def __init__(self, options: Options, say: Callable[[str], None] = _say) -> None:
        self.options = options
        self._say = say
        self.port = 0
        self.node: Node
        self._state: State
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        options = self.options
        home = options.home = options.home.resolve()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_home(home)
        run_dir = options.run_dir or default_run_dir(home)
        run_dir.mkdir(parents=True, exist_ok=True)
        for folder in (run_dir, run_dir.parent) if os.geteuid() == 0 else ():
            if folder.stat().st_uid == 0 and "myphr-localpve" in str(folder):
                folder.chmod(0o711)  # the user of machines passes through to its own folder, and sees nothing else
        user = VmUser.find(options.vm_user)
        server_pem = await asyncio.to_thread(certificates.ensure, home, options.node)
        key_path = home / "tickets.key"
        if not key_path.exists():
            certificates.write_private(key_path, await asyncio.to_thread(new_ticket_key))
        self._state = state = State(home / "state.sqlite")
        access = Access(state, key_path.read_bytes())
        storages = Storages(state)
        self._first_start(state, access)
        chosen = await accelerator.choose(options.accelerator, user.uid, user.gid)
        self._say(f"machines run under {'KVM' if chosen == 'kvm' else 'software emulation (TCG)'}")
        machines = Machines(
            state,
            storages,
            options.node,
            run_dir,
            user,
            chosen,
            list(options.forwards),
            set(options.bridges),
            self._say,
        )
        tasks = Tasks(state, options.node)
        self.node = Node(
            options.node, home, state, access, storages, machines, tasks,
            Consoles(machines, options.console_connect_seconds),
            (home / "ca.pem").read_text(), certificates.fingerprint(server_pem), options.unauthorised_seconds,
        )  # fmt: skip
        calls_cluster.remove_old_drafts(self.node)
        if options.sealing:
            from myphr.localpve.sealing import Sealer

            machines.sealer = Sealer(machines)
        await machines.recover()
        if machines.sealer:
            await machines.sealer.recover()
        schema = Schema()
        put_config = schema.calls["PUT /nodes/{node}/qemu/{vmid}/config"]["parameters"]
        calls_machines.CONFIG_OPTIONS.update(put_config, {"lock", "parent", "template"})
        api = Api(self.node, schema)
        http = HttpConnection(api.handle, api.streamed)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(server_pem)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._connections) >= CONNECTIONS_MAX:
                writer.close()
                return
            current = asyncio.current_task()
            assert current is not None
            self._connections.add(current)
            try:
                await http.serve(reader, writer)
            finally:
                self._connections.discard(current)

        self._server = await asyncio.start_server(
            serve, options.host, options.port, ssl=context, limit=64 * 1024, backlog=256, ssl_handshake_timeout=10
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._say(f"listening on https://{options.host}:{self.port}")

    def _lock_home(self, home: Path) -> None:
        self._home_lock = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._home_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._home_lock)
            raise SystemExit("localpve: another localpve uses this home") from None

    def _first_start(self, state: State, access: Access) -> None:
        """Users, rights, pools and the storage of a new home; the portal's token secret on every start."""
        home = self.options.home
        password_path = home / "root.password"
        if not password_path.exists():
            certificates.write_private(password_path, secrets.token_urlsafe(24).encode() + b"\n")
            document = state.get("user", "root@pam") or {"enable": 1, "expire": 0, "comment": None}
            password = hash_password(password_path.read_text().strip())
            state.put("user", "root@pam", {**document, "password": password})
        if state.get("meta", "ready") is None:
            with state.together():
                state.put(
                    "user",
                    PORTAL_USER,
                    {"enable": 1, "expire": 0, "comment": "MyPHRMachines", "email": "", "password": None},
                )
                state.put("role", "PHRPortal", SESSION_ROLE)
                state.put("role", "PHRTemplate", TEMPLATE_ROLE)
                for pool in (SESSION_POOL, TEMPLATE_POOL):
                    state.put("pool", pool, {"comment": None, "vms": [], "storage": []})
                state.put("storage", STORAGE, {"path": str(home / "local"), "content": "images,iso,import"})
                # privsep=1: what the token may do is what both the user and the token are given.
                for who in (PORTAL_USER, PORTAL_TOKEN):
                    access.grant(f"/pool/{SESSION_POOL}", who, "PHRPortal")
                    access.grant(f"/pool/{TEMPLATE_POOL}", who, "PHRTemplate")
                    access.grant(f"/storage/{STORAGE}", who, "PVEDatastoreUser")
                    for bridge in self.options.bridges:
                        access.grant(f"/sdn/zones/localnetwork/{bridge}", who, "PVESDNUser")
                state.put("meta", "ready", 1)
        token_file = self.options.token_file or home / "portal.token"
        if token_file.exists():
            secret = token_file.read_text().strip()
        else:
            secret = str(uuid.uuid4())
            token_file.parent.mkdir(parents=True, exist_ok=True)
            certificates.write_private(token_file, secret.encode() + b"\n")
        known = state.get("token", PORTAL_TOKEN)
        if known is None or known["secret_sha256"] != hashlib.sha256(secret.encode()).hexdigest():
            access.put_token(PORTAL_TOKEN, secret, privsep=1)

    async def stop(self, *, end_machines: bool = False) -> None:
        """An orderly end. Machines go on running and are found again, unless `end_machines`."""
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=2)
        await self.node.tasks.stop_all()
        if self.node.machines.sealer:
            await self.node.machines.sealer.close()
        if end_machines:
            await self.node.machines.stop_all()
            await asyncio.to_thread(shutil.rmtree, self.node.machines.run_dir, True)
        self._state.close()
        os.close(self._home_lock)


def default_run_dir(home: Path) -> Path:
    """Where sockets go: a short path that the unprivileged user of machines can reach."""
    short = hashlib.sha256(str(home).encode()).hexdigest()[:10]
    if os.geteuid() == 0:
        return Path("/run/myphr-localpve") / short
    inside = home / "run"
    if len(str(inside)) <= SOCKET_PATH_BYTES_MAX - 30:
        return inside
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"myphr-localpve-{os.getuid()}-{short}"
