"""A drop-off with the real receiver process and the real web server before it, and real senders."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from sqlmodel import select

from myphr.ingest import drop_offs
from myphr.ingest.drop_offs import Created
from myphr.ingest.models import DropOff
from myphr.ingest.upload_filing import FREE_BYTES_MIN
from myphr.portal import Portal
from myphr.records.models import Item
from myphr.records.store import LocalStore
from myphr.supervisor import web_command
from tests.cast import SignedIn, cheap_settings
from tests.unit.sharing import certificate
from tests.web.stage import dicom_bytes

ROOT = Path(__file__).parents[3]
MARKER = "ZZMARKERZZ"  # stands in the patient's name of every image sent here


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """One process of the portal on a port of its own, with a TMPDIR of its own."""

    def __init__(self, portal: Portal, command: list[str], port: int, **settings: object) -> None:
        self.port, self.temporary = port, portal.settings.home.parent / f"tmp-{port}"
        self.temporary.mkdir()
        self.log = portal.settings.home.parent / f"{port}.log"
        values = {"home": portal.settings.home, "redis_url": portal.settings.redis_url} | settings
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MYPHR_")}
        environ |= {f"MYPHR_{key.upper()}": str(value) for key, value in values.items()}
        environ |= {"TMPDIR": str(self.temporary), "TCP_NODELAY": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command], cwd=ROOT, env=environ, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        while not answers(port):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def memory_bytes(self, field: str = "VmHWM") -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(30)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.stop(signal.SIGKILL)


@pytest.fixture
def start_receiver(portal: Portal, processes: list[Process]) -> Callable[..., Process]:
    def start(**settings: object) -> Process:
        port = free_port()
        processes.append(
            Process(portal, [sys.executable, "-m", "myphr.receiver"], port, receiver_bind=f"127.0.0.1:{port}",
                    **settings)
        )  # fmt: skip
        return processes[-1]

    return start


class Disk:
    """The small file system of a process, seen from outside."""

    def __init__(self, portal: Portal, process: Process) -> None:
        root = Path(f"/proc/{process.process.pid}/root") / portal.store.partial_dir.parent.relative_to("/")
        self.store, self._filler, self._process = LocalStore(root), root / "filler", process
        self._root, self._as_user = portal.store.partial_dir.parent, ["--user", "--preserve-credentials"]

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        with self._filler.open("wb") as filler:
            free = shutil.disk_usage(self.store.root).free
            os.posix_fallocate(filler.fileno(), 0, free - FREE_BYTES_MIN + 64 * 1024)
        try:
            yield
        finally:
            self._filler.unlink()

    def grow(self, more_bytes: int) -> None:
        size = shutil.disk_usage(self.store.root).total + more_bytes
        inside = ["nsenter", "--target", str(self._process.process.pid), "--mount", *self._as_user]
        mount = ["mount", "-o", f"remount,size={size}", str(self._root)]
        subprocess.run([*inside, *mount], check=True)

    def left(self, portal: Portal) -> tuple[int, int]:
        """How many objects are stored and half-stored. Nothing of a patient stands anywhere in clear."""
        assert where_marker_is(self.store.root, portal.settings.home, self._process.temporary) == []
        return len(list(self.store.keys())), len(list(self.store.partial_dir.iterdir()))


def disk_before(portal: Portal, room_bytes: int, inodes: int = 0) -> list[str]:
    """What a command has to begin with to have its store on a disk of its own."""
    if os.geteuid() != 0:  # building templates needs as much
        namespace = ["unshare", "--user", "--map-root-user", "--mount", "true"]
        assert not subprocess.run(namespace).returncode, "this kernel lets nobody mount in a namespace of their own"
    options = f"size={FREE_BYTES_MIN + room_bytes},nr_inodes={inodes}"
    mount = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"'
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    return [*unshared, str(portal.store.partial_dir.parent)]


@pytest.fixture
def on_a_disk(portal: Portal, processes: list[Process]) -> Callable[..., tuple[Process, Disk]]:
    """`on_a_disk(bytes)` starts the receiver (or the web server) with its store on a disk of its own."""

    def start(room_bytes: int, *, inodes: int = 0, web: bool = False) -> tuple[Process, Disk]:
        port = free_port()
        bind = {"web_bind" if web else "receiver_bind": f"127.0.0.1:{port}"}
        command = [sys.executable, "-m", "myphr.receiver"]
        if web:
            command = web_command(cheap_settings(portal.settings.home, portal.settings.redis_url, **bind))
        process = Process(portal, [*disk_before(portal, room_bytes, inodes), *command], port, **bind)
        processes.append(process)
        return process, Disk(portal, process)

    return start


class Keys:
    """A certificate that signs itself, and its key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.certificate, self.key = certificate.make(folder)


@pytest.fixture
def ours(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "theirs")


@pytest.fixture
def receiver_over_tls(start_receiver: Callable[..., Process], ours: Keys, theirs: Keys) -> Process:
    return start_receiver(
        receiver_tls_cert_file=ours.certificate, receiver_tls_key_file=ours.key,
        receiver_tls_ca_file=theirs.certificate,
    )  # fmt: skip


@pytest.fixture
def receiver(start_receiver: Callable[..., Process]) -> Process:
    return start_receiver()


@pytest.fixture
def web(portal: Portal, processes: list[Process]) -> Process:
    port = free_port()
    settings = cheap_settings(portal.settings.home, portal.settings.redis_url, web_bind=f"127.0.0.1:{port}")
    processes.append(Process(portal, web_command(settings), port, web_bind=f"127.0.0.1:{port}"))
    return processes[-1]


@pytest.fixture
def created(portal: Portal, patient: SignedIn) -> Created:
    return drop_offs.create(portal, patient.login, "Dr Berger", 3600, 500)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with four images of one study."""
    folder, study = tmp_path / "images", generate_uid()
    folder.mkdir()
    for number in range(4):
        content = dicom_bytes(study, number + 1, SeriesNumber=2, PatientName=f"{MARKER}^Vera")
        (folder / f"{number}.dcm").write_bytes(content)
    return folder


def items_of(portal: Portal) -> list[Item]:
    with portal.database.read() as db:
        return list(db.exec(select(Item)).all())


def count_of(portal: Portal, created: Created) -> int:
    with portal.database.read() as db:
        row = db.get(DropOff, created.drop_off_id)
        assert row
        return row.files_count


def partial(portal: Portal) -> list[Path]:
    return list(portal.store.partial_dir.iterdir())


def where_marker_is(*folders: Path) -> list[Path]:
    """Files below these folders that hold the marker in clear."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and MARKER.encode() in path.read_bytes():
                found.append(path)
    return found


@pytest.fixture
def orthanc(tmp_path: Path, created: Created) -> Iterator[Callable[[dict], str]]:
    """`orthanc(configuration)` starts Orthanc with the DICOMweb plugin and returns its address."""
    started: list[subprocess.Popen] = []

    def start(configuration: dict) -> str:
        import json

        port, folder = free_port(), tmp_path / "orthanc"
        folder.mkdir()
        settings = {
            "Name": "peer", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "Plugins": ["/usr/share/orthanc/plugins"], "HttpPort": port, "DicomPort": free_port(),
            "DicomAet": "PEER", "AuthenticationEnabled": False, "RemoteAccessAllowed": False,
        } | configuration  # fmt: skip
        path = folder / "orthanc.json"
        path.write_text(json.dumps(settings))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(path)], stdout=log, stderr=log,
                env=os.environ | {"TCP_NODELAY": "1"},
            )  # fmt: skip
        started.append(process)
        while not answers(port):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()
