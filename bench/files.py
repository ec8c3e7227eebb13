"""The files gateway (sealed items, opened on the fly) against wsgidav and `rclone serve webdav` on plain files.

Same machine, same run, rounds interleaved, medians; each reader is the same small Python client loop, in its own
processes. Peers are set up well: wsgidav with 1 MiB blocks under gunicorn gthread, rclone without a VFS cache.
Prints figures and ratios; asserts nothing. `python -m bench.files [rounds]`.
"""

import concurrent.futures
import contextlib
import http.client
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from myphr.gateway import ninep_wire as wire
from tests.cast import PATIENT, enter, new_portal
from tests.integration.files.rig import Claim, Gateway, claim, upload, wait_for
from tests.running import free_port

BIG_BYTES = 700 * 10**6
SLICES = 2000
SLICE_BYTES = 512 * 1024
RANGES = 300
RANGE_BYTES = 64 * 1024
READERS = 4

# Fork, not spawn: the readers need nothing but a socket, and starting must not be measured.
_processes = multiprocessing.get_context("fork")


class Ours:
    name = "files gateway (sealed)"

    def __init__(self, gateway: Gateway, big: Claim, slices: Claim) -> None:
        assert gateway.process is not None
        self.pid = gateway.process.pid
        self.big, self.slices = big, slices

    def read_big(self) -> int:
        with self.big.mount() as guest:
            fid, at = guest.open("big.bin"), 0
            while got := len(guest.call(wire.TREAD, fid, at, wire.PAYLOAD_BYTES_MAX)) - 4:
                at += got
            return at

    def ranges(self, offsets: list[int]) -> list[float]:
        with self.big.mount() as guest:
            fid = guest.open("big.bin")
            return [_timed(lambda at=at: guest.call(wire.TREAD, fid, at, RANGE_BYTES)) for at in offsets]  # type: ignore[misc]

    def listing(self) -> int:
        """As `ls -l` of the Linux client does it: names, then walk, attributes and clunk of each, one at a time."""
        with self.slices.mount() as guest:
            found = 0
            for name, folder in guest.list():
                if not folder:
                    with guest.fid(name) as fid:
                        found += guest.size(fid) == SLICE_BYTES
            return found

    def read_slices(self, part: int) -> int:
        with self.slices.mount() as guest:
            total = 0
            for n in range(part, SLICES, READERS):
                fid, at = guest.open(f"slice{n:04}.bin"), 0
                while got := len(guest.call(wire.TREAD, fid, at, wire.PAYLOAD_BYTES_MAX)) - 4:
                    at += got
                guest.clunk(fid)
                total += at
            return total


class WebDav:
    def __init__(self, name: str, pid: int, port: int) -> None:
        self.name, self.pid, self.port = name, pid, port

    def _get(self, http: http.client.HTTPConnection, path: str, headers: dict[str, str] | None = None) -> int:
        http.request("GET", path, headers=headers or {})
        reply = http.getresponse()
        buffer, total = bytearray(1 << 20), 0
        while got := reply.readinto(buffer):
            total += got
        return total

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def read_big(self) -> int:
        return self._get(self.connect(), "/big.bin")

    def ranges(self, offsets: list[int]) -> list[float]:
        http = self.connect()
        return [
            _timed(lambda at=at: self._get(http, "/big.bin", {"Range": f"bytes={at}-{at + RANGE_BYTES - 1}"}))  # type: ignore[misc]
            for at in offsets
        ]

    def listing(self) -> int:
        http = self.connect()
        http.request("PROPFIND", "/slices/", headers={"Depth": "1"}, body=(
            '<?xml version="1.0"?><propfind xmlns="DAV:"><prop><getcontentlength/><resourcetype/></prop></propfind>'
        ))
        root = xml.etree.ElementTree.fromstring(http.getresponse().read())
        return sum(length.text == str(SLICE_BYTES) for length in root.iter("{DAV:}getcontentlength"))

    def read_slices(self, part: int) -> int:
        http = self.connect()
        return sum(self._get(http, f"/slices/slice{n:04}.bin") for n in range(part, SLICES, READERS))


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _cpu_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))


def _in_child(function: Callable, *args: object) -> object:
    with concurrent.futures.ProcessPoolExecutor(1, _processes) as pool:
        return pool.submit(function, *args).result()


@contextlib.contextmanager
def _stopping(command: list[str], log: Path, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environ)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _noise(chance: random.Random, size: int) -> Iterator[bytes]:
    while size > 0:
        piece = chance.randbytes(min(size, 1 << 20))
        size -= len(piece)
        yield piece


def _make_plain(plain: Path) -> None:
    (plain / "slices").mkdir(parents=True)
    with (plain / "big.bin").open("wb") as file:
        for piece in _noise(random.Random(0), BIG_BYTES):
            file.write(piece)
    for n in range(SLICES):
        (plain / "slices" / f"slice{n:04}.bin").write_bytes(b"".join(_noise(random.Random(n + 1), SLICE_BYTES)))


def _serving(peer: WebDav) -> bool:
    try:
        http = peer.connect()
        http.request("OPTIONS", "/")
        return http.getresponse().read() is not None
    except OSError:
        return False


def _peers(stack: contextlib.ExitStack, home: Path, plain: Path) -> Iterator[WebDav]:
    (home / "dav.py").write_text(
        "from wsgidav.wsgidav_app import WsgiDAVApp\n"
        f"app = WsgiDAVApp({{'provider_mapping': {{'/': {{'root': {str(plain)!r}, 'readonly': True}}}}, 'verbose': 0,\n"
        "    'block_size': 1048576, 'simple_dc': {'user_mapping': {'*': True}}, 'logging': {'enable': False},\n"
        "    'property_manager': False, 'lock_storage': False})\n"
    )
    port = free_port()
    server = stack.enter_context(_stopping(
        [sys.executable, "-m", "gunicorn", "dav:app", "--chdir", str(home), "--bind", f"127.0.0.1:{port}",
         "--worker-class", "gthread", "--threads", "16", "--no-control-socket", "--keep-alive", "60"],
        home / "wsgidav.log",
    ))  # fmt: skip
    yield WebDav("wsgidav 4.4, plain", server.pid, port)
    if shutil.which("rclone") is None:
        print("rclone is not installed: measured without it")
        return
    port = free_port()
    server = stack.enter_context(_stopping(
        ["rclone", "serve", "webdav", str(plain), "--addr", f"127.0.0.1:{port}", "--read-only", "--config", os.devnull],
        home / "rclone.log",
    ))  # fmt: skip
    yield WebDav("rclone serve webdav, plain", server.pid, port)


def main(rounds: int = 3) -> None:
    home = Path(tempfile.mkdtemp(prefix="myphr-bench-files-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        _make_plain(home / "plain")
        stack.enter_context(_stopping(
            ["redis-server", "--port", "0", "--unixsocket", f"{home}/redis.sock", "--save", "", "--dir", str(home)],
            home / "redis.log",
        ))  # fmt: skip
        wait_for((home / "redis.sock").exists)
        portal = new_portal(home / "home", f"unix://{home}/redis.sock")
        stack.callback(portal.database.dispose)
        patient = enter(portal, PATIENT)
        ids = [
            upload(portal, patient, f"slice{n:04}.bin", _noise(random.Random(n + 1), SLICE_BYTES))
            for n in range(SLICES)
        ]
        gateway = stack.enter_context(Gateway(portal))
        big = claim(portal, patient, item_ids=[upload(portal, patient, "big.bin", _noise(random.Random(0), BIG_BYTES))])
        slices = claim(portal, patient, item_ids=ids)
        wait_for(big.socket.exists)
        wait_for(slices.socket.exists)
        servers: list[Ours | WebDav] = [Ours(gateway, big, slices)]
        for peer in _peers(stack, home, home / "plain"):
            wait_for(lambda peer=peer: _serving(peer))  # type: ignore[misc]
            servers.append(peer)
        _measure(servers, rounds)


def _measure(servers: list[Ours | WebDav], rounds: int) -> None:
    figures: dict[str, dict[str, list[float]]] = {}

    def note(server: Ours | WebDav, what: str, value: float) -> None:
        figures.setdefault(what, {}).setdefault(server.name, []).append(value)

    chance = random.Random(99)
    for number in range(rounds + 1):
        warm = number > 0  # the first round fills the page cache and is not counted
        order = servers if number % 2 else servers[::-1]
        for server in order:
            cpu, start = _cpu_seconds(server.pid), time.perf_counter()
            if _in_child(server.read_big) != BIG_BYTES:
                raise RuntimeError(f"{server.name} gave other bytes")
            took, cpu = time.perf_counter() - start, _cpu_seconds(server.pid) - cpu
            if warm:
                note(server, "700 MB file, MB/s", BIG_BYTES / took / 1e6)
                note(server, "700 MB file, server CPU s/GB", cpu / BIG_BYTES * 1e9)
        for server in order:
            offsets = [chance.randrange(BIG_BYTES - RANGE_BYTES) for _ in range(RANGES)]
            times = sorted(_in_child(server.ranges, offsets))  # type: ignore[call-overload]
            if warm:
                note(server, "64 KiB anywhere, p50 ms", times[len(times) // 2] * 1e3)
                note(server, "64 KiB anywhere, p99 ms", times[len(times) * 99 // 100] * 1e3)
        for server in order:
            start = time.perf_counter()
            if _in_child(server.listing) != SLICES:
                raise RuntimeError(f"{server.name} listed other files")
            if warm:
                note(server, "2,000 names and sizes, ms", (time.perf_counter() - start) * 1e3)
        for server in order:
            with concurrent.futures.ProcessPoolExecutor(READERS, _processes) as pool:
                list(pool.map(abs, range(READERS)))
                cpu, start = _cpu_seconds(server.pid), time.perf_counter()
                if sum(pool.map(server.read_slices, range(READERS))) != SLICES * SLICE_BYTES:
                    raise RuntimeError(f"{server.name} gave other bytes")
                took, cpu = time.perf_counter() - start, _cpu_seconds(server.pid) - cpu
            if warm:
                note(server, "2,000 x 512 KiB by 4, s", took)
                note(server, "2,000 x 512 KiB by 4, server CPU s", cpu)
    _print(servers, figures)


def _print(servers: list[Ours | WebDav], figures: dict[str, dict[str, list[float]]]) -> None:
    ours = servers[0].name
    width = max(map(len, figures))
    for what, by_server in figures.items():
        medians = {name: statistics.median(values) for name, values in by_server.items()}
        print(f"{what:<{width}}  {ours}: {medians[ours]:.3g}")
        for name, value in medians.items():
            if name != ours:
                better = medians[ours] / value if what.endswith("MB/s") else value / medians[ours]
                print(f"{'':<{width}}  {name}: {value:.3g}   ours is {better:.2f}x as good")
    listing = statistics.median(figures["2,000 names and sizes, ms"][ours])
    print(f"target: 2,000 names and sizes within 1,000 ms: {'met' if listing <= 1000 else 'MISSED'} ({listing:.0f} ms)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
