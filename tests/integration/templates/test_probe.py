"""The probe template on a real QEMU: boots by its own disk, takes a claim, shows the folder, keeps its walls."""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from myphr.viewers import builder, probe_picture
from tests.integration.templates.folder_server import FolderServer
from tests.integration.templates.machine import GuestMachine

MEMORY_MIB = 160
BOOT_SECONDS_MAX = 240  # software emulation on a machine that others use too
VIEWER = {"name": "probe", "command": ["probe", "{folder}"]}
SESSION = "root"  # diod knows sessions as users

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Short, because paths of unix sockets are."""
    folder = Path(tempfile.mkdtemp(prefix="tpl-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(scratch: Path) -> Path:
    """A patient's folder as the gateway would serve it."""
    path = scratch / "export"
    (path / "series").mkdir(parents=True)
    (path / "a-first.bin").write_bytes(bytes(range(256)) * 4096)  # 1 MiB: more than one message of the protocol
    (path / "series" / "b").write_bytes(b"second")
    (path / "write-result").touch()
    return path


@pytest.fixture
def server(scratch: Path, folder: Path) -> Iterator[FolderServer]:
    served = FolderServer(scratch / "files.sock", folder)
    yield served
    served.close()


@pytest.fixture
def machines(scratch: Path) -> Iterator[list[GuestMachine]]:
    running: list[GuestMachine] = []
    yield running
    for machine in running:
        machine.close()


def look(machine: GuestMachine) -> probe_picture.ProbePicture | None:
    image = Image.open(machine.picture()).convert("RGB")
    return probe_picture.read(lambda x, y: image.getpixel((x, y)), image.width, image.height)


def look_for(machine: GuestMachine, wanted, seconds_max: float = 20) -> probe_picture.ProbePicture | None:
    """The picture once it is as wanted, or the last one: the screen is drawn a moment after the fact."""
    deadline = time.monotonic() + seconds_max
    while not ((seen := look(machine)) and wanted(seen)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen


def test_claimed_machine_shows_the_folder_it_was_given_and_nothing_else(
    probe_template: builder.Built, scratch: Path, folder: Path, server: FolderServer, machines: list[GuestMachine]
) -> None:
    machine = GuestMachine(scratch / "m", probe_template.image, MEMORY_MIB, files=f"unix:{server.path}")
    machines.append(machine)
    waiting = machine.wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
    assert waiting == {"version": 1, "state": "waiting", "error": None, "isolation": []}
    picture = look_for(machine, lambda seen: seen.state == "waiting")
    assert picture and picture.state == "waiting"

    machine.claim(str(folder), VIEWER, vm_session=SESSION, clock=1_790_000_000)
    ready = machine.wait_state("ready", "failed", seconds_max=60)
    assert (ready["state"], ready["error"]) == ("ready", None)
    picture = look_for(machine, lambda seen: seen.state == "ready")
    first = (folder / "a-first.bin").read_bytes()
    assert picture and picture.state == "ready"
    assert picture.files == 3
    assert picture.sha256 == hashlib.sha256(first).hexdigest()

    # the claim is gone, the clock is the portal's, the secret is in no file
    assert machine.run("/bin/busybox", "ls", "/run/myphr")[1].split() == ["claimed", "folder", "status.json"]
    assert machine.run("/bin/busybox", "stat", "-c", "%a %u", "/run/myphr")[1].split() == ["700", "0"]
    assert 1_790_000_000 <= int(machine.run("/bin/busybox", "date", "+%s")[1]) < 1_790_000_000 + 600

    # the viewer cannot learn the secret, leave its folder, or dial the gateway by itself
    result = (folder / "results" / "probe-result.txt").read_text()
    tries = [line for line in result.splitlines() if line.endswith((": yes", ": no"))]
    assert len(tries) == 7
    assert [line for line in tries if line.endswith(": yes")] == []

    # what the patient is told about isolation
    checked = machine.wait(lambda status: bool(status["isolation"]), 30)
    assert {entry["check"] for entry in checked["isolation"]} == {"dns", "icmp", "host", "public", "ipv6", "neighbours"}
    assert all(entry["blocked"] for entry in checked["isolation"])

    # pointer and keys arrive
    for at in range(3):
        machine.click(0.2 + 0.1 * at, 0.9)
        machine.key("a")
    picture = look_for(machine, lambda seen: seen.keys == 3 and seen.buttons == 3)
    assert picture and (picture.keys, picture.buttons) == (3, 3)

    # a second claim changes nothing
    machine.claim("another", VIEWER, vm_session="another")
    deadline = time.monotonic() + 20
    while "claim.json" in machine.run("/bin/busybox", "ls", "/run/myphr")[1] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert machine.run("/bin/busybox", "ls", "/run/myphr")[1].split() == ["claimed", "folder", "status.json"]
    assert machine.status()["state"] == "ready"  # type: ignore[index]
    assert str(folder) in machine.run("/bin/busybox", "cat", "/proc/mounts")[1]

    # the log that leaves the guest names no file
    serial = machine.serial.read_text(errors="replace")
    assert "a-first" not in serial and str(folder) not in serial


def test_machines_that_wake_from_one_memory_state_show_their_own_folders_and_draw_their_own_random_numbers(
    probe_template: builder.Built, scratch: Path, machines: list[GuestMachine]
) -> None:
    ram, state = scratch / "ram", scratch / "state"
    sealed = GuestMachine(scratch / "s", probe_template.image, MEMORY_MIB, ram=ram)
    machines.append(sealed)
    sealed.wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
    sealed.save_state(state)
    sealed.close()
    before = hashlib.sha256(ram.read_bytes()).hexdigest()
    drawn = []
    for number in range(2):
        export = scratch / f"e{number}"
        export.mkdir()
        (export / "only").write_bytes(f"folder {number}".encode())
        server = FolderServer(scratch / f"f{number}.sock", export)
        machine = GuestMachine(
            scratch / f"m{number}",
            probe_template.image,
            MEMORY_MIB,
            files=f"unix:{server.path}",
            ram=ram,
            ram_shared=False,
            incoming=state,
        )
        machines.append(machine)
        machine.wait_state("waiting", seconds_max=60)
        machine.claim(str(export), VIEWER, vm_session=SESSION)
        assert machine.wait_state("ready", "failed", seconds_max=60)["state"] == "ready"
        picture = look_for(machine, lambda seen: seen.state == "ready")
        assert picture and picture.sha256 == hashlib.sha256(f"folder {number}".encode()).hexdigest()
        drawn.append(machine.run("/bin/busybox", "head", "-c", "32", "/dev/urandom")[1])
        server.close()
    assert drawn[0] != drawn[1]
    assert hashlib.sha256(ram.read_bytes()).hexdigest() == before, (
        "a machine wrote into the memory that others wake from"
    )


@pytest.mark.parametrize(
    ("claim", "error"),
    [
        (b'{"version": 1, "vm_ses', "claim-invalid"),
        (b'{"version": 2}', "claim-version"),
        (b"{" * 70_000, "claim-invalid"),
    ],
    ids=["cut off", "of another version", "too large"],
)
def test_broken_claim_is_refused_with_a_code(
    probe_template: builder.Built, scratch: Path, machines: list[GuestMachine], claim: bytes, error: str
) -> None:
    machine = GuestMachine(scratch / "m", probe_template.image, MEMORY_MIB)
    machines.append(machine)
    machine.wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
    for at in range(0, len(claim), 30_000):
        mode = "w" if at == 0 else "a"
        handle = machine.guest("guest-file-open", {"path": "/run/myphr/claim.json", "mode": mode})
        body = base64.b64encode(claim[at : at + 30_000]).decode()
        machine.guest("guest-file-write", {"handle": handle, "buf-b64": body})
        machine.guest("guest-file-close", {"handle": handle})
    failed = machine.wait_state("failed", seconds_max=60)
    assert failed["error"] == error
    picture = look(machine)
    assert picture and picture.state == "waiting"


def test_folder_that_does_not_answer_is_an_error_and_no_black_screen(
    probe_template: builder.Built, scratch: Path, machines: list[GuestMachine]
) -> None:
    machine = GuestMachine(scratch / "m", probe_template.image, MEMORY_MIB)
    machines.append(machine)
    machine.wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
    machine.claim("nobody-listens", VIEWER)
    assert machine.wait_state("failed", seconds_max=90)["error"] == "folder-unreachable"


def test_template_boots_from_a_scsi_disk_with_plain_graphics_and_usb_input(
    probe_template: builder.Built, scratch: Path, machines: list[GuestMachine]
) -> None:
    machine = GuestMachine(scratch / "m", probe_template.image, MEMORY_MIB, bus="scsi")
    machines.append(machine)
    machine.wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
    picture = look_for(machine, lambda seen: seen.state == "waiting")
    assert picture and picture.state == "waiting"
    machine.click(0.5, 0.9)
    picture = look_for(machine, lambda seen: seen.buttons == 1)
    assert picture and picture.buttons == 1


def test_hostile_program_notices_an_open_wall(scratch: Path, folder: Path) -> None:
    """The check can fail: against a server that lets everybody write anywhere, it says "reached"."""
    program = scratch / "hostile"
    program.write_bytes(builder.compile_static(builder.GUEST / "hostile.c"))
    program.chmod(0o755)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    (folder / "results").mkdir(exist_ok=True)
    command = [
        "diod",
        "-f",
        "-n",
        "-N",
        "-L",
        "stderr",
        "-c",
        "/dev/null",
        "-e",
        str(folder),
        "-l",
        f"127.0.0.1:{port}",
    ]
    lax = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        words = [str(program), "--no-network", "--no-flood", "--files", f"127.0.0.1:{port}", "--session", "root"]
        words += ["--secret", str(folder), "--target", f"127.0.0.1:{port}"]
        output = subprocess.run(
            words, capture_output=True, text=True, timeout=120, env={"PATH": os.environ["PATH"]}
        ).stdout
    finally:
        lax.kill()
        lax.wait()
    reached = {line["check"] for line in map(json.loads, output.splitlines()) if line["reached"]}
    assert {"target", "write-outside-results", "results-escape"} <= reached
