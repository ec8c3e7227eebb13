"""Everything that `bench.screen` measures, started side by side: fake VNC servers, the gateway, and its peers."""

import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bench.screen_line import PASSWORD, PUBLIC_URL, Client, serve_vnc
from myphr.database import now
from myphr.machines.models import Machine, VmSession
from myphr.sharing import tickets
from tests import cast
from tests.integration.screen.pve_like import make_certificate
from tests.running import free_port

ROOT = Path(__file__).resolve().parents[1]
VMID = 100_000


@dataclasses.dataclass
class Target:
    name: str
    connect: tuple[str, str | int]  # ("unix", path) or ("tcp", port)
    path: str | None
    subprotocols: Callable[[], str]
    pid: int | None
    reference: bool = False  # not a peer: shows what the line or the kernel costs by itself

    def processes(self) -> list[psutil.Process]:
        if self.pid is None:
            return []
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def cpu(self) -> float:
        seconds = 0.0
        for process in self.processes():
            for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    seconds += int(task.read_text().split()[0]) / 1e9
        return seconds

    def waiting(self) -> tuple[float, float]:
        """Seconds its main threads have been on a processor, and seconds they were ready but had to wait for one."""
        on, waited = 0.0, 0.0
        for process in self.processes():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{process.pid}/schedstat").read_text().split()
                on, waited = on + int(text[0]) / 1e9, waited + int(text[1]) / 1e9
        return on, waited

    def memory(self) -> int:
        """Proportional set size of all its processes, in bytes: pages they share are counted once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total


async def opened(target: Target) -> Client:
    """A client with its screen open. Tries again a few times: websockify now and then gives up on a busy server."""
    loop = asyncio.get_running_loop()
    kind, place = target.connect
    for attempt in range(40):
        client = Client(target.path, target.subprotocols())
        if kind == "unix":
            await loop.create_unix_connection(lambda client=client: client, str(place))  # type: ignore[misc]
        else:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", int(place))  # type: ignore[misc]
        try:
            await client.open()
            return client
        except (ConnectionError, TimeoutError) as error:
            client.transport.abort()
            if attempt == 39:
                raise ConnectionError(f"{target.name}: {error}") from None
            await asyncio.sleep(0.2)
    raise AssertionError


def relay(unix: str, port: int) -> None:
    """The least that any relay in a process of its own must do: one recv and one send a chunk, no frames, no rights.
    What it reaches is the kernel's share of everybody's figures."""
    poll, others = select.epoll(), {}
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    poll.register(listener, select.EPOLLIN)
    buffer = memoryview(bytearray(256 * 1024))
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                near, _ = listener.accept()
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                far = socket.socket(socket.AF_UNIX)
                far.connect(unix)
                for source, sink in ((near, far), (far, near)):
                    others[source.fileno()] = source, sink
                    poll.register(source, select.EPOLLIN)
                continue
            if number not in others:
                continue
            source, sink = others[number]
            try:
                if got := source.recv_into(buffer):
                    sink.sendall(buffer[:got])
                    continue
            except OSError:
                pass  # a side is gone, which ends both
            for end in (source, sink):
                others.pop(end.fileno(), None)
                end.close()


# -- the gateways -------------------------------------------------------------------------------------
@contextlib.contextmanager
def stage(folder: Path) -> Iterator[list[Target]]:
    """All servers, and the lines to measure."""
    certificate, key = make_certificate(folder)
    unix, ws_port, tls_port = str(folder / "vnc.sock"), free_port(), free_port()
    # One process for each kind, so that none waits for another's load.
    addresses = (unix, ws_port, tls_port, str(certificate), str(key))
    servers = [
        multiprocessing.Process(target=serve_vnc, args=(kind, *addresses), daemon=True)
        for kind in ("unix", "ws", "tls")
    ]
    for server in servers:
        server.start()
    children: list[subprocess.Popen] = []

    def start(command: list[str], **options) -> subprocess.Popen:
        children.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, **options))
        return children[-1]

    try:
        start(["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", "",
               "--appendonly", "no", "--dir", str(folder)], stdout=subprocess.DEVNULL)  # fmt: skip
        wait_for_path(folder / "redis.sock")
        wait_for_path(Path(unix))
        portal = cast.new_portal(folder / "home", f"unix://{folder / 'redis.sock'}")
        patient = cast.enter(portal, cast.PATIENT)
        machine = Machine(vmid=VMID, node="pve", template="probe", state="claimed")
        vm_session = VmSession(
            account_id=patient.account.id, machine_id=machine.id, viewer="probe", template="probe", state="live"
        )
        with portal.database.write() as db:
            db.add(machine)
            db.flush()
            db.add(vm_session)

        def ticket() -> str:
            text = tickets.issue(
                portal.keys.ticket_key, vm_session_id=vm_session.id, access="control", now=now(),
                grant=f"owner:{patient.login.login_session.id}",
            )  # fmt: skip
            return f"myphr.screen.1, ticket.{text}"

        relay_port = free_port()
        bare = multiprocessing.Process(target=relay, args=(unix, relay_port), daemon=True)
        bare.start()
        servers.append(bare)
        wait_for_port(relay_port)
        targets = [
            Target("direct", ("unix", unix), None, str, None, True),
            Target("bare relay", ("tcp", relay_port), None, str, bare.pid, True),
        ]
        lines = {
            "gateway": {"url": f"unix:{unix}", "password": PASSWORD},
            "gateway, TLS": {"url": f"wss://127.0.0.1:{tls_port}/", "password": PASSWORD, "ca_file": str(certificate)},
        }
        for name, console in lines.items():
            config = folder / f"{name}.json"
            config.write_text(json.dumps({
                "database_url": portal.settings.database_url, "redis_url": portal.settings.redis_url,
                "ticket_key": portal.keys.ticket_key.hex(), "public_url": PUBLIC_URL,
                "constants": {"SCREENS_PER_GRANT_MAX": 1000}, "consoles": {"fixed": {str(VMID): console}},
            }))  # fmt: skip
            process = start(
                [sys.executable, "-m", "tests.integration.screen.run_gateway", str(config)],
                stdout=subprocess.PIPE, text=True, cwd=ROOT,
            )  # fmt: skip
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            targets.append(Target(name, ("tcp", port), "/", ticket, process.pid))
        websockify_port = free_port()
        process = start(
            [str(Path(sys.executable).parent / "websockify"), f"127.0.0.1:{websockify_port}", f"--unix-target={unix}"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        targets.append(Target("websockify", ("tcp", websockify_port), "/", lambda: "binary", process.pid))
        wait_for_port(websockify_port)
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        if Path(nginx).exists():
            plain, tls = free_port(), free_port()
            config = folder / "nginx.conf"
            config.write_text(
                nginx_config(folder, {plain: f"http://127.0.0.1:{ws_port}", tls: f"https://127.0.0.1:{tls_port}"})
            )
            process = start([nginx, "-c", str(config), "-p", str(folder)], stdout=subprocess.DEVNULL)
            wait_for_port(plain)
            targets.append(Target("nginx", ("tcp", plain), "/", lambda: "binary", process.pid))
            targets.append(Target("nginx, TLS", ("tcp", tls), "/", lambda: "binary", process.pid))
        yield targets
    finally:
        for child in reversed(children):
            with contextlib.suppress(psutil.Error):
                for grandchild in psutil.Process(child.pid).children(recursive=True):
                    grandchild.kill()
            child.kill()
            child.wait()
        for server in servers:
            server.kill()
            server.join()


def nginx_config(folder: Path, lines: dict[int, str]) -> str:
    servers = "".join(
        f"""server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
        proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 64k;
        proxy_ssl_verify off; proxy_read_timeout 600s; }} }}\n"""
        for port, upstream in lines.items()
    )
    return f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit; user root;
events {{ worker_connections 2048; }}
http {{ access_log off; {
        "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    } {servers} }}"""


def wait_for_path(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise RuntimeError("a peer did not start")
