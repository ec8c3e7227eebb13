"""Sealed uploads through our own stack against unsealed ones through nginx and rclone, and against rclone crypt.

Same machine, same run, the same curl as client, rounds interleaved, medians. Ours is always durable when it answers
(fdatasync of the container, directory synced, row committed); nginx and rclone are not, so the plain peers are
measured as they come and again with `sync` of the file and its folder before the clock stops: that pair is the fair
one. Prints figures and ratios, where our time goes stage by stage, and asserts nothing.
`python -m bench.uploads [rounds] [MiB]`.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from flask import Flask
from sqlmodel import Session, select

from myphr.crypto import container, envelope
from myphr.ingest import upload_stream, uploads
from myphr.people.models import Account, StoredKeyRing
from myphr.records.models import Item, Upload
from myphr.records.store import Appender
from myphr.web.bodies import SocketBody
from tests.cast import new_portal
from tests.integration.uploads import serving
from tests.running import free_port

ROOT = Path(__file__).parents[1]
TARGET = 0.8
MIB = 1024**2


@dataclasses.dataclass
class Figures:
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Peer:
    """A running server. `send(file)` uploads it once and returns when the answer is there."""

    name: str
    process: subprocess.Popen
    send: Callable[[Path], None]
    clean: Callable[[], None]

    def cpu_seconds(self) -> float:
        total = 0.0
        for one in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def memory(self, what: str = "VmRSS") -> int:
        """Bytes of the largest process of the server."""
        most = 0
        for one in self._family():
            for line in Path(f"/proc/{one.pid}/status").read_text().splitlines():
                if line.startswith(what + ":"):
                    most = max(most, int(line.split()[1]) * 1024)
        return most

    def _family(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _start(command: list[str], port: int, environ: dict[str, str] | None = None) -> subprocess.Popen:
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(500):
        with contextlib.suppress(OSError):
            import socket

            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"{command[0]} did not start")


def _curl(*arguments: str) -> None:
    subprocess.run(["curl", "-sS", "-f", "-o", "/dev/null", *arguments], check=True)


def ours(folder: Path, app: str = "tests.integration.uploads.serving:create_app()", **more: str) -> Peer:
    """gunicorn gthread with the upload routes and cheap sign-in, store and database below `folder`."""
    portal = new_portal(folder / "home")
    pair = envelope.new_key_pair()
    with portal.database.write() as db:
        account = Account(email="bench@example.org", name="Bench")
        db.add(account)
        db.flush()
        db.add(StoredKeyRing(account_id=account.id, suite=pair.suite, public_key=pair.public,
                             wrapped_by_password=b"", wrapped_by_recovery=b""))  # fmt: skip
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MYPHR_")}
    environ |= {"MYPHR_HOME": str(portal.settings.home), "MYPHR_PUBLIC_URL": url} | more
    process = _start(
        [sys.executable, "-m", "gunicorn", "--no-control-socket", "-k", "gthread", "--threads", "64", "--timeout", "0",
         "-b", f"127.0.0.1:{port}", app], port, environ,
    )  # fmt: skip
    headers = ["-H", f"X-Account: {account.id}", "-H", "Tus-Resumable: 1.0.0"]

    def send(file: Path) -> None:
        request = urllib.request.Request(url + "/uploads", method="POST", headers={
            "X-Account": account.id, "Tus-Resumable": "1.0.0", "Upload-Length": str(file.stat().st_size),
        })  # fmt: skip
        with urllib.request.urlopen(request) as answer:
            location = answer.headers["Location"]
        _curl("-X", "PATCH", "-T", str(file), *headers, "-H", "Upload-Offset: 0",
              "-H", "Content-Type: application/offset+octet-stream", url + location)  # fmt: skip

    def clean() -> None:
        with portal.database.write() as db:
            for table in (Item, Upload):
                for row in db.exec(select(table)):
                    db.delete(row)
        for key in list(portal.store.keys()):
            portal.store.delete(key)

    return Peer("ours, sealed, durable", process, send, clean)


def nginx(folder: Path) -> Peer:
    port = free_port()
    data = folder / "nginx" / "data"
    data.mkdir(parents=True)
    (folder / "nginx" / "body").mkdir()
    os.chmod(folder, 0o755)
    config = folder / "nginx" / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/nginx/pid; error_log {folder}/nginx/error.log;"
        "events { worker_connections 64; }"
        f"http {{ access_log off; client_body_temp_path {folder}/nginx/body; client_max_body_size 0;"
        f" client_body_buffer_size 1m; server {{ listen 127.0.0.1:{port}; root {data};"
        " location / { dav_methods PUT DELETE; create_full_put_path on; } } }"
    )
    process = _start(["nginx", "-c", str(config), "-p", str(folder / "nginx")], port)
    return _plain("nginx PUT, plain", process, port, data)


def rclone(folder: Path, *, crypt: bool) -> Peer:
    port = free_port()
    data = folder / ("rclone-crypt" if crypt else "rclone-plain")
    data.mkdir()
    environ = dict(os.environ) | {"RCLONE_CONFIG": str(folder / "no-rclone.conf")}
    remote = str(data)
    if crypt:
        secret = subprocess.run(
            ["rclone", "obscure", "a bench needs no secret"], capture_output=True, text=True, check=True
        )
        environ |= {"RCLONE_CONFIG_SEALED_TYPE": "crypt", "RCLONE_CONFIG_SEALED_REMOTE": str(data),
                    "RCLONE_CONFIG_SEALED_PASSWORD": secret.stdout.strip()}  # fmt: skip
        remote = "sealed:"
    process = _start(
        ["rclone", "serve", "webdav", remote, "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off"], port, environ
    )
    return _plain("rclone webdav over crypt" if crypt else "rclone webdav, plain", process, port, data)


def _plain(name: str, process: subprocess.Popen, port: int, data: Path) -> Peer:
    def clean() -> None:
        for file in data.iterdir():
            file.unlink() if file.is_file() else shutil.rmtree(file)

    def send(file: Path) -> None:
        _curl("-T", str(file), f"http://127.0.0.1:{port}/upload-{time.monotonic_ns()}.bin")

    return Peer(name, process, send, clean)


def durable(peer: Peer, data: Path) -> Peer:
    """The same server; the clock stops when file and folder are on the disk."""

    def send(file: Path) -> None:
        peer.send(file)
        for written in data.iterdir():
            fd = os.open(written, os.O_RDONLY)
            os.fdatasync(fd)
            os.close(fd)
        fd = os.open(data, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    return dataclasses.replace(peer, name=peer.name + ", synced", send=send)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="myphr-bench-uploads-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(rounds: int = 3, mebibytes: int = 512) -> None:
    with _folder() as folder, contextlib.ExitStack() as running:
        peers = [ours(folder), nginx(folder)]
        peers.append(durable(peers[1], folder / "nginx" / "data"))
        if shutil.which("rclone"):
            plain, crypt = rclone(folder, crypt=False), rclone(folder, crypt=True)
            peers += [plain, durable(plain, folder / "rclone-plain"), crypt, durable(crypt, folder / "rclone-crypt")]
        for peer in peers:
            running.callback(peer.stop)
        source = folder / "source.bin"
        with source.open("wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(MIB))
        idle = {peer.name: peer.memory() for peer in peers}
        figures = {peer.name: Figures() for peer in peers}
        order = random.Random(1)
        for number in range(rounds + 1):
            # Another order each round: the pages that one server's deleted file gives back make the next one faster.
            for peer in order.sample(peers, len(peers)):
                _settle(folder, mebibytes)
                before, started = peer.cpu_seconds(), time.monotonic()
                peer.send(source)
                took = time.monotonic() - started
                if number:  # the first round warms everything up
                    figures[peer.name].seconds.append(took)
                    figures[peer.name].cpu.append(peer.cpu_seconds() - before)
                peer.clean()
        _print(figures, mebibytes, {peer.name: peer.memory("VmHWM") - idle[peer.name] for peer in peers})
        _profile(folder, source, rounds)
        _many_at_once(peers[0], source, folder)


def _print(figures: dict[str, Figures], mebibytes: int, memory: dict[str, int]) -> None:
    speed = {name: mebibytes * MIB / 1e6 / statistics.median(one.seconds) for name, one in figures.items()}
    rounds = len(next(iter(figures.values())).seconds)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"one upload of {mebibytes} MiB, median of {rounds} interleaved rounds; load average {load}")
    print(f"{'':34} {'MB/s':>7} {'CPU s/GB':>9} {'memory +MiB':>12}")
    for name, one in figures.items():
        cpu = statistics.median(one.cpu) / (mebibytes * MIB / 1e9)
        print(f"{name:34} {speed[name]:7.0f} {cpu:9.2f} {memory[name] / MIB:12.1f}")
    mine = next(iter(figures))
    for name in speed:
        if name != mine:
            print(f"ratio ours / {name}: {speed[mine] / speed[name]:.2f}")
    fair = speed[mine] / speed["nginx PUT, plain, synced"]
    verdict = "met" if fair >= TARGET else "MISSED"
    print(f"target: at least {TARGET} of nginx with equal durability: {fair:.2f} ({verdict})")


# -- where our time goes --------------------------------------------------------------------------
class _Stages:
    """Wall and CPU seconds of each stage of uploads in this process, noted as one JSON line per finished request."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._seconds: dict[str, tuple[float, float]] = {}

    def watch(self, owner: object, name: str, stage: str, then: Callable[[], object] = lambda: None) -> None:
        """Counts each call of `owner.name` as `stage`; `then` runs after it."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*arguments: object, **named: object) -> object:
            wall, cpu = time.monotonic(), time.thread_time()
            try:
                return original(*arguments, **named)
            finally:
                wall, cpu = time.monotonic() - wall, time.thread_time() - cpu
                with self._guard:
                    before = self._seconds.get(stage, (0.0, 0.0))
                    self._seconds[stage] = (before[0] + wall, before[1] + cpu)
                then()

        setattr(owner, name, watched)

    def note(self) -> None:
        with self._guard, open(self._path, "a") as file:
            file.write(json.dumps(self._seconds) + "\n")
            self._seconds = {}


def staged_app() -> Flask:
    """The upload routes with a clock around each stage: slower by nothing that shows, but never measured as `ours`."""
    stages = _Stages(os.environ.pop("STAGES_FILE"))
    stages.watch(SocketBody, "receive", "receive")
    stages.watch(upload_stream.UploadStream, "_count", "SHA-256")
    stages.watch(container.ChunkSealer, "seal_chunks_into", "AES-256-GCM")
    stages.watch(Appender, "put", "write")
    stages.watch(os, "fdatasync", "fdatasync")
    stages.watch(os, "fsync", "folder sync")
    stages.watch(Session, "commit", "database commit")
    stages.watch(uploads.Uploads, "append", "the whole PATCH", stages.note)
    return serving.create_app()


def _profile(folder: Path, source: Path, rounds: int) -> None:
    """Stage by stage: those of different threads overlap, so their wall times add up to more than the whole."""
    notes = folder / "stages"
    peer = ours(folder / "staged", "bench.uploads:staged_app()", STAGES_FILE=str(notes))
    try:
        for _ in range(rounds + 1):
            _settle(folder, source.stat().st_size // MIB)
            peer.send(source)
            peer.clean()
    finally:
        peer.stop()
    gigabytes = source.stat().st_size / 1e9
    runs = [json.loads(line) for line in notes.read_text().splitlines()][1:]
    print(f"{'where our time goes':24} {'wall s/GB':>10} {'CPU s/GB':>9}")
    for stage in sorted(runs[0], key=lambda name: -runs[0][name][0]):
        wall, cpu = (statistics.median(run.get(stage, (0, 0))[of] for run in runs) / gigabytes for of in (0, 1))
        print(f"{stage:24} {wall:10.2f} {cpu:9.2f}")


def _settle(folder: Path, mebibytes: int) -> None:
    """The same ground for everyone. What the one before left dirty is not the next one's to write. And a virtual
    machine gives free memory back to its host within seconds: who then fills the page cache first waits for the host,
    which was seen to cost 1.5 CPU s/GB, five times what nginx needs; so a file that nobody measures fills it first."""
    subprocess.run(["sync"], check=True)
    block = bytes(MIB)
    with (folder / "settling").open("wb", buffering=0) as file:
        for _ in range(mebibytes + mebibytes // 2):
            file.write(block)
    (folder / "settling").unlink()  # before the kernel began to write it


def _many_at_once(peer: Peer, source: Path, folder: Path, count: int = 16) -> None:
    """Memory of each further upload: 16 at once, peak of the server's memory while they run."""
    small = folder / "small.bin"
    with source.open("rb") as file, small.open("wb") as out:
        out.write(file.read(48 * MIB))
    before, peak = peer.memory(), 0
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(peer.send, small) for _ in range(count)]
        while not all(one.done() for one in waiting):
            peak = max(peak, peer.memory())
            time.sleep(0.01)
        for one in waiting:
            one.result()
    peer.clean()
    print(f"memory of each of {count} uploads at once: {(peak - before) / count / MIB:.1f} MiB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
