"""The real peer: the Linux kernel's 9p client in a real guest, through QEMU's one forward, against the real gateway."""

import hashlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.gateway import ninep_wire as wire
from myphr.portal import Portal
from tests.cast import SignedIn
from tests.integration.files.rig import Claim, Gateway, Relay, claim, end, wait_for
from tests.integration.files.test_files_gateway import results_in_record
from tests.integration.templates.machine import GuestMachine
from tests.running import TEMPLATES, built_template

pytestmark = pytest.mark.qemu

FOLDER = "/data"
SMALL = random.Random(1).randbytes(100_001)
BIG = random.Random(2).randbytes(20_000_000)
VIEWER = {"name": "probe", "command": []}


def small(number: int) -> bytes:
    return random.Random(number).randbytes(300)


@pytest.fixture
def probe() -> Path:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not installed")
    built_template("probe")
    return TEMPLATES / "probe.qcow2"


@pytest.fixture
def gateway(portal: Portal) -> Iterator[Gateway]:
    gateway = Gateway(portal).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def files() -> dict[str, bytes]:
    return {"small.bin": SMALL, "many0007.bin": small(7)}


@pytest.fixture
def claimed(portal: Portal, patient: SignedIn, gateway: Gateway, files: dict[str, bytes]) -> Claim:
    made = claim(portal, patient, files, session_state="starting")
    wait_for(made.socket.exists)
    return made


@pytest.fixture
def relay(tmp_path: Path, claimed: Claim) -> Iterator[Relay]:
    relay = Relay(tmp_path / "relay.sock", claimed.socket)
    yield relay
    relay.close()


@pytest.fixture
def guest(tmp_path: Path, probe: Path, relay: Relay) -> Iterator[GuestMachine]:
    machine = GuestMachine(
        tmp_path / "machine", probe, 160, files="chardev:files0",
        extra=["-chardev", f"socket,id=files0,path={tmp_path}/relay.sock,reconnect=1"],
    )  # fmt: skip
    try:
        machine.wait_state("waiting", seconds_max=120)
        yield machine
    finally:
        machine.close()


def shell(guest: GuestMachine, command: str, seconds_max: float = 120) -> str:
    code, output = guest.run("/bin/busybox", "sh", "-c", command, seconds_max=seconds_max)
    assert code == 0, output
    return output


def give(guest: GuestMachine, portal: Portal, claimed: Claim) -> None:
    guest.claim(claimed.secret, VIEWER, vm_session=claimed.vm_session_id)
    guest.wait_state("mounted", "opening", "ready", seconds_max=60)


def sums(guest: GuestMachine, *names: str) -> list[str]:
    words = " ".join(f"{FOLDER}/{name}" for name in names)
    return [line.split()[0] for line in shell(guest, f"sha256sum {words}").splitlines()]


@pytest.mark.parametrize(
    "files", [{f"many{n:04}.bin": small(n) for n in range(2000)} | {"small.bin": SMALL, "big.bin": BIG}], ids=["many"]
)
def test_a_linux_guest_lists_reads_writes_and_finds_its_folder_again_after_kill_9(
    guest: GuestMachine, portal: Portal, patient: SignedIn, claimed: Claim, gateway: Gateway, relay: Relay
) -> None:
    give(guest, portal, claimed)
    for _ in range(2):
        started = time.monotonic()
        listed = shell(guest, f"ls -l {FOLDER}/").splitlines()
        print(f"ls -l of {len(listed)} files in the guest: {time.monotonic() - started:.2f} s")
    started = time.monotonic()
    shell(guest, f"cat {FOLDER}/big.bin > /dev/null")
    print(f"20 MB read in the guest: {time.monotonic() - started:.2f} s")
    started = time.monotonic()
    shell(guest, f"cat {FOLDER}/many*.bin > /dev/null")
    print(f"2,000 files read in the guest: {time.monotonic() - started:.2f} s")
    assert len([line for line in listed if ".bin" in line]) == 2002
    # Names, sizes and contents of 2,000 files by a read or two of each; over 9P alone it would be 16 questions of each.
    print(f"asked since the claim: {relay.asked.total()} messages")
    assert relay.asked.total() < 5000
    assert relay.asked[wire.TWALK] < 100
    assert sums(guest, "small.bin", "big.bin", "many0007.bin") == [
        hashlib.sha256(content).hexdigest() for content in (SMALL, BIG, small(7))
    ]
    # The folder is read-only but for results/.
    for command in (f"echo x > {FOLDER}/new", f"echo x >> {FOLDER}/small.bin", f"rm {FOLDER}/small.bin",
                    f"mv {FOLDER}/small.bin {FOLDER}/other", f"ln -s /etc/passwd {FOLDER}/results/link",
                    f"mknod {FOLDER}/results/null c 1 3", f"mkdir {FOLDER}/folder"):  # fmt: skip
        code, _ = guest.run("/bin/busybox", "sh", "-c", command)
        assert code != 0, command
    shell(guest, f"""
        set -e
        cd {FOLDER}/results
        mkdir -p export/deep
        cat {FOLDER}/small.bin {FOLDER}/big.bin > export/deep/both.bin
        cp {FOLDER}/small.bin export/copy.bin
        echo draft > report.tmp
        mv report.tmp report.txt
        echo more >> report.txt
        dd if=/dev/zero of=sparse.bin bs=1 count=1 seek=199999 2>/dev/null
        truncate -s 100000 sparse.bin
        echo gone > gone.txt
        rm gone.txt
        touch -d '2020-01-02 03:04:05' report.txt
        sync
    """)
    assert sums(guest, "results/export/deep/both.bin") == [hashlib.sha256(SMALL + BIG).hexdigest()]
    assert shell(guest, f"cat {FOLDER}/results/report.txt") == "draft\nmore\n"
    assert shell(guest, f"stat -c %s {FOLDER}/results/sparse.bin").strip() == "100000"

    shell(guest, f"tail -c 1000 {FOLDER}/big.bin > /tmp/end; echo 3 > /proc/sys/vm/drop_caches")
    gateway.kill()
    gateway.start()

    def mounted_again() -> bool:
        asked = f"cat {FOLDER}/results/report.txt && tail -c 1000 {FOLDER}/big.bin | cmp - /tmp/end"
        try:
            return guest.run("/bin/busybox", "sh", "-c", asked, seconds_max=4)[0] == 0
        except TimeoutError:
            return False  # asked while nobody was there: Linux lets that program hang, and the next one not

    started = time.monotonic()
    wait_for(mounted_again, seconds=90)
    print(f"folder back after kill -9 of the gateway: {time.monotonic() - started:.1f} s")
    assert shell(guest, f"cat {FOLDER}/results/report.txt") == "draft\nmore\n"
    shell(guest, f"echo after > {FOLDER}/results/after.txt")

    end(portal, claimed)
    key = f"myphr:results:{claimed.vm_session_id}"
    assert wait_for(lambda: portal.redis.get(key), seconds=60) == b"drained"
    found = results_in_record(portal, patient)
    assert found == {  # the copy is in the record already: it is the very item it was made of
        "results/export/deep/both.bin": SMALL + BIG, "results/report.txt": b"draft\nmore\n",
        "results/sparse.bin": bytes(100_000), "results/after.txt": b"after\n",
    }  # fmt: skip


def test_a_folder_whose_stream_was_garbled_comes_back(
    guest: GuestMachine, portal: Portal, patient: SignedIn, claimed: Claim
) -> None:
    """localpve's forward is one stream: whoever is root in the guest can write into it, and gets its answers."""
    give(guest, portal, claimed)
    shell(guest, f"echo before > {FOLDER}/results/before.txt")
    shell(guest, "{ (echo no 9P at all; sleep 600) | nc 10.0.2.100 564; } > /dev/null 2>&1 &")

    def works() -> bool:
        asked = f"sha256sum {FOLDER}/small.bin && echo after > {FOLDER}/results/after.txt"
        try:
            return guest.run("/bin/busybox", "sh", "-c", asked, seconds_max=4)[0] == 0
        except TimeoutError:
            return False

    # Until it is noticed a program that asks waits; then the folder is opened anew.
    lost = guest.wait(lambda status: status["error"] == "folder-lost", seconds_max=90)
    assert lost["state"] != "failed"
    wait_for(works, seconds=90)
    assert guest.wait(lambda status: status["error"] is None, seconds_max=60)["state"] != "failed"
    assert shell(guest, f"cat {FOLDER}/results/before.txt {FOLDER}/results/after.txt") == "before\nafter\n"
    end(portal, claimed)
    key = f"myphr:results:{claimed.vm_session_id}"
    assert wait_for(lambda: portal.redis.get(key), seconds=60) == b"drained"
    found = results_in_record(portal, patient)
    assert (found["results/before.txt"], found["results/after.txt"]) == (b"before\n", b"after\n")


def test_a_guest_with_another_sessions_secret_never_gets_a_folder(
    guest: GuestMachine, portal: Portal, patient: SignedIn, claimed: Claim
) -> None:
    other = claim(portal, patient, item_ids=claimed.item_ids, session_state="starting")
    guest.claim(other.secret, VIEWER, vm_session=claimed.vm_session_id)
    status = guest.wait_state("failed", seconds_max=120)
    assert status["error"]
    _, output = guest.run("/bin/busybox", "ls", f"{FOLDER}/")
    assert ".bin" not in output
