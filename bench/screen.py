"""The screen gateway against websockify 0.13 and nginx, in front of the same fake VNC server.

Same machine, same run, rounds interleaved, medians: bytes per CPU second of the gateway's processes, added round trip
of an input event, memory per open screen. Unix-socket upstream (as websockify has it; nginx speaks WebSocket to the
same server) and WebSocket over TLS (as Proxmox has it; websockify cannot). Prints figures, ratios and which targets
are met; asserts nothing. Processor time comes in ticks of 10 ms, and "added" is a difference of two noisy figures: on a
busy machine neither says much. nginx does not verify the upstream's certificate, the gateway does.
`python -m bench.screen [rounds]`.
"""

import asyncio
import base64
import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha1
from pathlib import Path

import psutil
import uvloop

from myphr.database import now
from myphr.gateway import rfb
from myphr.machines.models import Machine, VmSession
from myphr.sharing import tickets
from tests import cast
from tests.integration.screen.pve_like import make_certificate
from tests.running import free_port

ROOT = Path(__file__).resolve().parents[1]
SCREENS = (1, 50, 200)
BLOCK = 65_536
VOLUME = 1024 * 1024 * 1024
PUBLIC_URL = "http://portal.example"
PASSWORD = "benchpw1"
VMID = 100_000
PIXELS = bytes.fromhex("0400030020180001 00ff00ff00ff 100800 000000".replace(" ", ""))


# -- the fake VNC server ------------------------------------------------------------------------------
class FakeVnc(asyncio.Protocol):
    """Real RFB handshake, then: an update request asks for `x` blocks of 64 KiB, a pointer event is answered with 16
    bytes. With `framed`, all of it inside WebSocket frames."""

    def __init__(self, framed: bool) -> None:
        self.framed, self.held, self.stage = framed, b"", "upgrade" if framed else "version"
        self.unframed = b""
        self.blocks = 0
        self.paused = False
        self.block = (struct.pack(">BBQ", 0x82, 127, BLOCK) if framed else b"") + os.urandom(BLOCK)

    def connection_made(self, transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 20)
        if not self.framed:
            transport.write(b"RFB 003.008\n")

    def say(self, data: bytes) -> None:
        self.transport.write((bytes((0x82, len(data))) if self.framed else b"") + data)

    def data_received(self, data: bytes) -> None:
        self.held += data
        if self.stage == "upgrade":
            if b"\r\n\r\n" not in self.held:
                return
            head, _, self.held = self.held.partition(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            key = next(value for name, value in fields.items() if name.lower() == b"sec-websocket-key")
            accept = base64.b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Protocol: binary\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self.stage = "version"
            self.say(b"RFB 003.008\n")
        if self.framed:
            self.held, payload = unmask(self.held)
            self.unframed += payload
        else:
            self.unframed, self.held = self.unframed + self.held, b""
        while self.step():
            pass

    def step(self) -> bool:
        sizes = {"version": 12, "type": 1, "answer": 16, "init": 1}
        size = sizes.get(self.stage) or (rfb._HEADER_BYTES[self.unframed[0]] if self.unframed else 1)
        if len(self.unframed) < size:
            return False
        taken, self.unframed = self.unframed[:size], self.unframed[size:]
        if self.stage == "version":
            self.stage = "type"
            self.say(b"\x01\x02")
        elif self.stage == "type":
            self.stage = "answer"
            self.say(bytes(16))
        elif self.stage == "answer":
            self.stage = "init"
            self.say(bytes(4 if taken == rfb.vnc_response(PASSWORD, bytes(16)) else 5))
        elif self.stage == "init":
            self.stage = "open"
            self.say(PIXELS + struct.pack(">I", 4) + b"fake")
        elif taken[0] == 3:
            self.blocks += struct.unpack_from(">H", taken, 2)[0]
            self.pour()
        elif taken[0] == 5:
            self.say(taken + bytes(10))
        return True

    def pour(self) -> None:
        while self.blocks and not self.paused:
            self.blocks -= 1
            self.transport.write(self.block)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pour()


def unmask(data: bytes) -> tuple[bytes, bytes]:
    payload = b""
    while len(data) >= 6:
        size, head = data[1] & 0x7F, 2
        if size == 126:
            size, head = struct.unpack_from(">H", data, 2)[0], 4
        if len(data) < head + 4 + size:
            break
        mask, body = data[head : head + 4], data[head + 4 : head + 4 + size]
        if data[0] & 0x0F in (0, 2):
            payload += bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))
        data = data[head + 4 + size :]
    return data, payload


def serve_vnc(kind: str, unix: str, port: int, tls_port: int, certificate: str, key: str) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if kind == "unix":
            await loop.create_unix_server(lambda: FakeVnc(False), unix, backlog=512)
        elif kind == "ws":
            await loop.create_server(lambda: FakeVnc(True), "127.0.0.1", port, backlog=512)
        else:
            await loop.create_server(lambda: FakeVnc(True), "127.0.0.1", tls_port, ssl=context, backlog=512)
        await asyncio.Event().wait()

    uvloop.run(run())


# -- the load ---------------------------------------------------------------------------------------
class Client(asyncio.Protocol):
    """One browser: WebSocket (or none, for the direct line), RFB handshake, counts payload."""

    def __init__(self, path: str | None, subprotocols: str) -> None:
        self.path, self.subprotocols = path, subprotocols
        self.data = b""
        self.payload = 0
        self.left = 0
        self.head = b""
        self.counting = False
        self.waiter: asyncio.Future | None = None
        self.wanted = 0

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.counting:
            self.data += data
        else:
            self.count(data)
        if self.waiter and not self.waiter.done() and (not self.counting or self.payload >= self.wanted):
            self.waiter.set_result(None)

    def connection_lost(self, error) -> None:
        if self.waiter and not self.waiter.done():
            self.waiter.set_exception(error or ConnectionError("closed"))

    def count(self, data: bytes) -> None:
        if self.path is None:
            self.payload += len(data)
            return
        place, end = 0, len(data)
        if self.head:
            data, self.head = self.head + data, b""
            end = len(data)
        while place < end:
            if self.left:
                taken = min(self.left, end - place)
                self.left -= taken
                self.payload += taken
                place += taken
                continue
            size, head = (data[place + 1] & 0x7F, 2) if end - place > 1 else (0, 99)
            head = {126: 4, 127: 10}.get(size, head)
            if end - place < head:
                self.head = data[place:]
                return
            if size > 125:
                size = int.from_bytes(data[place + 2 : place + head], "big")
            if data[place] & 0x0F == 8:
                raise ConnectionError(f"closed: {data[place + head : place + head + size]!r}")
            self.left, place = (size, place + head) if data[place] & 0x0F < 3 else (0, place + head + size)

    async def more(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(self.waiter, 60)
        self.waiter = None

    async def exactly(self, count: int) -> bytes:
        """Handshake bytes, taken out of their frames."""
        while True:
            if self.path is None:
                if len(self.data) >= count:
                    taken, self.data = self.data[:count], self.data[count:]
                    return taken
            else:
                body, data = b"", self.data
                while len(data) >= 2 and len(data) >= 2 + data[1] and data[1] < 126:
                    if data[0] & 0x0F == 8:
                        raise ConnectionError(f"closed: {data!r}")
                    body += data[2 : 2 + data[1]] if data[0] & 0x0F == 2 else b""
                    data = data[2 + data[1] :]
                if len(body) >= count:
                    rest = body[count:]
                    self.data = (bytes((0x82, len(rest))) + rest if rest else b"") + data
                    return body[:count]
            await self.more()

    def send(self, payload: bytes) -> None:
        head = bytes((0x82, 0x80 | len(payload), 0, 0, 0, 0)) if self.path is not None else b""
        self.transport.write(head + payload)

    async def open(self) -> None:
        if self.path is not None:
            lines = [
                f"GET {self.path} HTTP/1.1", "Host: portal.example", "Upgrade: websocket", "Connection: Upgrade",
                "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Origin: {PUBLIC_URL}",
                f"Sec-WebSocket-Protocol: {self.subprotocols}",
            ]  # fmt: skip
            self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            while b"\r\n\r\n" not in self.data:
                await self.more()
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            if b" 101 " not in head:
                raise ConnectionError(head.decode())
        await self.exactly(12)
        self.send(b"RFB 003.008\n")
        kind = (await self.exactly(2))[1]
        self.send(bytes((kind,)))
        if kind == 2:
            self.send(rfb.vnc_response(PASSWORD, await self.exactly(16)))
        await self.exactly(4)
        self.send(b"\x01")
        name = struct.unpack(">I", (await self.exactly(24))[20:])[0]
        await self.exactly(name)
        self.counting = True

    async def take(self, blocks: int) -> None:
        self.payload, self.wanted = 0, blocks * BLOCK
        while blocks:
            part = min(blocks, 60_000)
            self.send(struct.pack(">BBHHHH", 3, 0, part, 0, 1, 1))
            blocks -= part
        await self.more()

    async def echo(self) -> float:
        self.payload, self.wanted = 0, 16
        started = time.perf_counter()
        self.send(struct.pack(">BBHH", 5, 0, 1, 1))
        await self.more()
        return time.perf_counter() - started


@dataclasses.dataclass
class Target:
    name: str
    connect: tuple[str, str | int]  # ("unix", path) or ("tcp", port)
    path: str | None
    subprotocols: Callable[[], str]
    pid: int | None
    memory_at_start: int = 0

    def processes(self) -> list[psutil.Process]:
        if self.pid is None:
            return []
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def cpu(self) -> float:
        seconds = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds

    def memory(self) -> int:
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total


@dataclasses.dataclass
class Figures:
    mb_per_cpu_second: list[float] = dataclasses.field(default_factory=list)
    p50: list[float] = dataclasses.field(default_factory=list)
    p99: list[float] = dataclasses.field(default_factory=list)
    kib: list[float] = dataclasses.field(default_factory=list)


async def opened(target: Target) -> Client:
    """A client with its screen open. Tries again a few times: websockify now and then gives up on a busy server."""
    loop = asyncio.get_running_loop()
    kind, place = target.connect
    for attempt in range(40):
        client = Client(target.path, target.subprotocols())
        if kind == "unix":
            await loop.create_unix_connection(lambda client=client: client, place)  # type: ignore[misc]
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


async def measure(target: Target, screens: int, figures: Figures) -> None:
    target.memory_at_start = target.memory_at_start or target.memory()
    clients: list[Client] = []
    clients.extend([await opened(target) for _ in range(screens)])
    try:
        await asyncio.gather(*(client.take(8) for client in clients))  # every screen has shown a picture
        if target.pid is not None:
            figures.kib.append((target.memory() - target.memory_at_start) / screens / 1024)

        async def act(client: Client, count: int) -> list[float]:
            times = []
            for _ in range(count):
                times.append(await client.echo())
                await asyncio.sleep(0.02 if screens == 1 else 0.1)
            return times

        results = await asyncio.gather(*(act(client, 200 if screens == 1 else 30) for client in clients))
        times = sorted(one for each in results for one in each)
        figures.p50.append(times[len(times) // 2] * 1000)
        figures.p99.append(times[int(len(times) * 0.99)] * 1000)

        if target.pid is not None:
            blocks = VOLUME // BLOCK // screens
            used = target.cpu()
            await asyncio.gather(*(client.take(blocks) for client in clients))
            used = target.cpu() - used
            figures.mb_per_cpu_second.append(blocks * screens * BLOCK / 1e6 / max(used, 0.01))
    finally:
        for client in clients:
            client.transport.abort()
        await asyncio.sleep(0.3)


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

        targets = [Target("direct", ("unix", unix), None, str, None)]
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


# -- the report ---------------------------------------------------------------------------------------
def main() -> None:
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    rounds = numbers[0] if numbers else 3
    found: dict[tuple[str, int], Figures] = {}
    with tempfile.TemporaryDirectory(prefix="myphr-bench-") as name, stage(Path(name)) as targets:

        async def run() -> None:
            for _ in range(rounds):
                for screens in SCREENS:
                    for target in targets:
                        figures = found.setdefault((target.name, screens), Figures())
                        await measure(target, screens, figures)

        uvloop.run(run())
        names = [target.name for target in targets]
    middle = statistics.median
    print(f"{VOLUME >> 20} MiB a run, median of {rounds}; round trip of an input event through the line")
    print(f"{'':14}{'screens':>8}{'MB/CPU s':>10}{'p50 ms':>9}{'p99 ms':>9}{'added p99':>11}{'KiB/screen':>12}")
    for name in names:
        for screens in SCREENS:
            figures, direct = found[name, screens], found["direct", screens]
            rate = f"{middle(figures.mb_per_cpu_second):10.0f}" if figures.mb_per_cpu_second else f"{'-':>10}"
            # With few screens this would show what the process keeps from earlier rounds.
            memory = f"{middle(figures.kib):12.0f}" if figures.kib and screens == max(SCREENS) else f"{'-':>12}"
            added = max(middle(figures.p99) - middle(direct.p99), 0.0)
            print(
                f"{name:14}{screens:>8}{rate}{middle(figures.p50):9.2f}{middle(figures.p99):9.2f}{added:11.2f}{memory}"
            )

    def verdict(what: str, value: float, good: bool, target: str) -> None:
        print(f"{'met   ' if good else 'MISSED'} {what}: {value:.2f} (target {target})")

    def added(name: str, screens: int) -> float:
        return max(middle(found[name, screens].p99) - middle(found["direct", screens].p99), 0.05)

    for screens in SCREENS:
        ratio = middle(found["gateway", screens].mb_per_cpu_second) / middle(
            found["websockify", screens].mb_per_cpu_second
        )
        verdict(f"bytes per CPU second against websockify, {screens} screens", ratio, ratio >= 3, ">= 3")
    for name in ("gateway", "gateway, TLS"):
        value = middle(found[name, 200].kib)
        verdict(f"KiB per screen, {name}, 200 screens", value, value <= 40, "<= 40")
    for screens in SCREENS:
        ratio = added("gateway", screens) / added("websockify", screens)
        verdict(f"added p99 against websockify, {screens} screens", ratio, ratio < 1, "< 1")
        for ours, theirs in (("gateway", "nginx"), ("gateway, TLS", "nginx, TLS")):
            if (theirs, screens) in found:
                ratio = added(ours, screens) / added(theirs, screens)
                verdict(f"added p99 of {ours} against {theirs}, {screens} screens", ratio, ratio <= 2, "<= 2")


if __name__ == "__main__":
    main()
