"""Receiving images by C-STORE: our receiver (sealed, durable) against Orthanc and dcmtk's storescp, in one run.

The same senders (storescu, dcmsend) send the same generated CT images, new ones each time, rounds interleaved in
another order each, medians. TCP_NODELAY=1 for all of them: without it Debian's dcmtk and Orthanc wait 40 ms an object,
which would flatter us. storescp and Orthanc neither seal nor wait for the disk; ours does both before it answers. What
that alone costs in Python is measured beside them (`receiving_floor`). Then one object of 400 MB, for memory.

Nothing is removed before the end: ext4 passes one by one over the numbers of files that were deleted in the last
minutes, for each new file in the same part of the disk. That was up to 0.6 ms of CPU an image, for whoever had its
folder there; what a new file costs each of them is printed. Prints figures and ratios, asserts nothing.
`python -m bench.receiving [images] [rounds]`; TMPDIR says where.
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from bench import receiving_floor
from myphr.ingest import drop_offs
from tests import cast

ROOT = Path(__file__).parents[1]
MIB = 1024**2
ENVIRON = {key: value for key, value in os.environ.items() if not key.startswith("MYPHR_")} | {"TCP_NODELAY": "1"}
SENDERS = ("storescu", "dcmsend")
NEW_FILES = 20
BIG_BYTES = 400 * 1000**2


@dataclasses.dataclass
class Peer:
    """A running receiver. `count` tells how many objects it holds, new ones begin in `folder`."""

    name: str
    process: subprocess.Popen
    port: int
    ae_title: str
    count: Callable[[], int]
    folder: Path

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def memory(self, what: str) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) / 1024
        raise AssertionError

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(command: list[str], port: int, running: contextlib.ExitStack, **environ: str) -> subprocess.Popen:
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRON | environ, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    running.callback(process.wait)
    running.callback(process.kill)
    for _ in range(500):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return process
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"{command[0]} did not start")


def ours(folder: Path, redis_url: str, running: contextlib.ExitStack) -> Peer:
    portal = cast.new_portal(folder / "home", redis_url, drop_off_files_max=1_000_000)
    running.callback(portal.database.dispose)
    login = cast.enter(portal, cast.PATIENT).login
    created = drop_offs.create(portal, login, "Bench", 86_400, 1_000_000)
    port = free_port()
    process = _start([sys.executable, "-m", "myphr.receiver"], port, running, MYPHR_HOME=str(portal.settings.home),
                     MYPHR_REDIS_URL=redis_url, MYPHR_RECEIVER_BIND=f"127.0.0.1:{port}")  # fmt: skip

    return Peer("ours, sealed, durable", process, port, created.ae_title, lambda: len(list(portal.store.keys())),
                portal.store.partial_dir)  # fmt: skip


def storescp(folder: Path, running: contextlib.ExitStack) -> Peer:
    data, port = folder / "storescp", free_port()
    data.mkdir()
    process = _start(["storescp", "-od", str(data), "-aet", "PEER", "+xa", str(port)], port, running)

    return Peer("dcmtk storescp", process, port, "PEER", lambda: len(list(data.iterdir())), data)


def orthanc(folder: Path, running: contextlib.ExitStack) -> Peer:
    data, port, http = folder / "orthanc", free_port(), free_port()
    data.mkdir()
    configuration = {
        "StorageDirectory": str(data), "IndexDirectory": str(data), "Plugins": [], "HttpPort": http, "DicomPort": port,
        "DicomAet": "PEER", "AuthenticationEnabled": False, "RemoteAccessAllowed": False, "StorageCompression": False,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    binary = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    process = _start([binary, str(folder / "orthanc.json")], port, running)

    def count() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/statistics") as answer:
            return json.load(answer)["CountInstances"]

    return Peer("Orthanc", process, port, "PEER", count, data)


def make_images(folder: Path, count: int) -> None:
    """CT slices of 512 x 512: 526 KB each, pixels that do not compress. Writes over those that are there."""
    folder.mkdir(exist_ok=True)
    study, series = generate_uid(), generate_uid()
    for number in range(count):
        (folder / f"{number:05}.dcm").write_bytes(_image(study, series, number + 1, 512, 512))


def _image(study: str, series: str, number: int, rows: int, columns: int) -> bytes:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = study, series
    image.PatientName, image.PatientID, image.PatientBirthDate = "Bench^Vera", "4711", "19700101"
    image.StudyDate, image.StudyTime, image.Modality = "20260101", "101010", "CT"
    image.StudyDescription, image.SeriesDescription, image.SeriesNumber = "Chest", "Axial", 1
    image.InstanceNumber, image.AccessionNumber, image.InstitutionName = number, "A1", "Harbour Hospital"
    image.Rows, image.Columns, image.SamplesPerPixel = rows, columns, 1
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.PhotometricInterpretation = 15, 0, "MONOCHROME2"
    image.PixelData = os.urandom(rows * columns * 2)
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    return out.getvalue()


def send(peer: Peer, images: Path, sender: str) -> tuple[float, float]:
    """Wall seconds as the sender felt them, CPU seconds of the receiver."""
    command = {
        "storescu": ["storescu", "-aec", peer.ae_title, "+sd", "127.0.0.1", str(peer.port), str(images)],
        "dcmsend": ["dcmsend", "-aec", peer.ae_title, "+sd", "127.0.0.1", str(peer.port), str(images)],
    }[sender]
    cpu, started = peer.cpu_seconds(), time.monotonic()
    subprocess.run(command, check=True, env=ENVIRON, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took = time.monotonic() - started
    return took, peer.cpu_seconds() - cpu


def new_file_seconds(folder: Path) -> float:
    """CPU seconds of making one more file there."""
    (probe := folder / "probe").mkdir()
    took = []
    for number in range(NEW_FILES):
        started = time.thread_time()
        os.close(os.open(probe / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        took.append(time.thread_time() - started)
    return statistics.median(took)


@dataclasses.dataclass
class Floor:
    """The process of `receiving_floor`, and the line to it."""

    process: subprocess.Popen
    line: socket.socket

    def send(self, images: Path) -> float:
        """CPU seconds that it took for all of them, each answered for before the next."""
        before = psutil.Process(self.process.pid).cpu_times()
        for path in sorted(images.iterdir()):
            content = path.read_bytes()
            self.line.sendall(len(content).to_bytes(receiving_floor.SIZE_BYTES, "big") + content)
            if not self.line.recv(1):
                raise RuntimeError("the floor gave way")
        after = psutil.Process(self.process.pid).cpu_times()
        return after.user + after.system - before.user - before.system


def floor(folder: Path, running: contextlib.ExitStack) -> Floor:
    (data := folder / "floor").mkdir()
    process = subprocess.Popen([sys.executable, "-m", "bench.receiving_floor", str(data)], cwd=ROOT, env=ENVIRON,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    running.callback(process.wait)
    running.callback(process.kill)
    assert process.stdout is not None
    line = socket.create_connection(("127.0.0.1", int(process.stdout.readline())))
    running.callback(line.close)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Floor(process, line)


@contextlib.contextmanager
def stage() -> Iterator[tuple[Path, str, contextlib.ExitStack]]:
    """A folder, a Redis of its own, and a stack of what must end."""
    folder = Path(tempfile.mkdtemp(prefix="myphr-bench-receiving-"))
    with contextlib.ExitStack() as running:
        running.callback(shutil.rmtree, folder, ignore_errors=True)
        sock = folder / "redis.sock"
        redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", str(sock), "--save", ""],
                                 stdout=subprocess.DEVNULL)  # fmt: skip
        running.callback(redis.wait)
        running.callback(redis.kill)
        while not sock.exists():
            time.sleep(0.02)
        yield folder, f"unix://{sock}", running


def main(count: int = 200, rounds: int = 3) -> None:
    with stage() as (folder, redis_url, running):
        peers = [ours(folder, redis_url, running), storescp(folder, running)]
        if shutil.which("Orthanc") or Path("/usr/sbin/Orthanc").exists():
            peers.append(orthanc(folder, running))
        bare = floor(folder, running)
        images = folder / "images"
        figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
        idle = {peer.name: peer.memory("VmRSS") for peer in peers}
        floors: list[float] = []
        order = random.Random(1)
        for number in range((rounds + 1) * len(SENDERS)):
            sender = SENDERS[number % len(SENDERS)]
            make_images(images, count)
            os.sync()  # what one left to be written must not slow the next
            for peer in order.sample(peers, len(peers)):
                took = send(peer, images, sender)
                if peer.count() != (number + 1) * count:
                    raise RuntimeError(f"{peer.name} holds {peer.count()} of {(number + 1) * count}")
                if number >= len(SENDERS):  # the first round warms everything up
                    figures.setdefault((peer.name, sender), []).append(took)
                os.sync()
            floors.append(bare.send(images))
            os.sync()
        size = sum(path.stat().st_size for path in images.iterdir())
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"{count} CT images, {size / 1e6:.0f} MB, median of {rounds} rounds, TCP_NODELAY=1; load {load}")
        print(f"{'':24}{'sender':>10}{'objects/s':>11}{'MB/s':>7}{'CPU ms/object':>15}{'idle':>7}{'peak MiB':>10}")
        cpu = {}
        for (name, sender), found in sorted(figures.items()):
            seconds = statistics.median(one for one, _ in found)
            cpu[name, sender] = statistics.median(one for _, one in found) / count * 1000
            peer = next(one for one in peers if one.name == name)
            print(f"{name:24}{sender:>10}{count / seconds:11.0f}{size / 1e6 / seconds:7.0f}{cpu[name, sender]:15.2f}"
                  f"{idle[name]:7.0f}{peer.memory('VmHWM'):10.0f}")  # fmt: skip
        news = ", ".join(f"{peer.name} {new_file_seconds(peer.folder) * 1e6:.0f}" for peer in peers)
        print(f"us of CPU of that for a new file: {news}")
        least = statistics.median(floors[len(SENDERS) :]) / count * 1000
        print(f"bare floor: read + hash + seal + fdatasync + one commit: {least:.2f} ms of CPU an image")
        for sender in SENDERS:
            print(f"ours / bare floor, {sender}: {cpu[peers[0].name, sender] / least:.2f}")
            for peer in peers[1:]:
                ratio = cpu[peer.name, sender] / max(cpu[peers[0].name, sender], 0.001)
                print(f"objects per CPU second, ours / {peer.name}, {sender}: {ratio:.2f}")
        shutil.rmtree(images)
        (images := folder / "big").mkdir()
        rows = BIG_BYTES // (2 * 20_000)
        (images / "big.dcm").write_bytes(_image(generate_uid(), generate_uid(), 1, rows, 20_000))
        for peer in peers:
            before = peer.memory("VmRSS")
            peer.forget_peak()
            took, _ = send(peer, images, "storescu")
            print(f"one object of {BIG_BYTES / 1e6:.0f} MB, {peer.name}: {took:.1f} s,"
                  f" memory {before:.0f} -> {peer.memory('VmHWM'):.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
