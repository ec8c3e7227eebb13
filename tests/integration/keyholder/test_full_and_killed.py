"""A keyholder whose disk is full, and one that is killed between what it did and what it answers: what was acknowledged
holds, what was not is whole or not there, and whoever asked is told so.

A full disk is made by the kernel's limit on the size of files, put on the running process and taken off again: writing
fails wherever it is told to, also in the middle of a transaction.
"""

import contextlib
import hashlib
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from myphr.crypto import certificates, proofs
from myphr.crypto.statements import DestroyOrder
from myphr.errors import AccessWithheld, KeyholderFull, KeyholderUnavailable, NotFound, PortalError, ProofRefused
from myphr.people.keyholder import Block, Held, Rule, read_reply
from tests.integration.keyholder.test_keyholder_process import LATER, Place, running  # noqa: F401 - a fixture
from tests.running_keyholder import ROOT, RunningKeyholder, Somebody, somebody
from tests.unit.keyholder.desk_stage import raw

FRAME_BYTES = 4096 + 24  # one page in the write-ahead log
REASON = hashlib.sha256(b"unconscious in the ambulance").digest()


@contextlib.contextmanager
def full(running: RunningKeyholder, frames: int | None = None) -> Iterator[None]:  # noqa: F811
    """No byte can be written any more; with `frames` the log takes so many pages more, and the rest is cut off."""
    assert running.process is not None
    log = running.folder / "store.sqlite-wal"
    limit = 0 if frames is None else log.stat().st_size + frames * FRAME_BYTES
    before = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, before)


class Owned:
    """An owner with two epochs of a compartment, a friend who is let in, and a doctor who is by breaking the glass."""

    def __init__(self, running: RunningKeyholder) -> None:  # noqa: F811
        self.client = running.client
        self.place = Place(running)
        self.owner, self.friend, self.doctor = (somebody(self.client) for _ in range(3))
        self.compartment, self.glass = str(uuid.uuid4()), str(uuid.uuid4())
        until = int(time.time()) + LATER
        self.client.attribute_grant(self.place.officer.speaker, self.place.gid, self.doctor.gid, "role", "x", until)
        for epoch in (1, 2):
            self.client.vault_create(self.owner.speaker, self.compartment, epoch, Rule(frozenset({self.friend.gid})))
        way_in = ((Held(self.place.gid, "role", "x"),),)
        self.client.vault_create(self.owner.speaker, self.glass, 1, Rule(holders=way_in, window_minutes=30))

    def opens(self, person: Somebody, epoch: int = 1) -> bool:
        try:
            return len(person.open(self.client.vault_release(person.speaker, self.compartment, epoch))) == 32
        except (AccessWithheld, NotFound):
            return False

    def destroy_old(self) -> int:
        order = DestroyOrder(self.owner.gid, self.compartment, 2).sign(self.owner.signing_key)
        return self.client.vault_destroy_old(self.compartment, 2, order)

    def changes(self) -> dict[str, Callable[[], object]]:
        """Calls that change something, each of another kind."""
        owner, officer, doctor = self.owner.speaker, self.place.officer.speaker, self.doctor.gid
        until = int(time.time()) + LATER
        return {
            "block": lambda: self.client.vault_block(owner, Block(gid=self.friend.gid)),
            "rule": lambda: self.client.vault_rule(owner, self.compartment, Rule()),
            "create": lambda: self.client.vault_create(owner, str(uuid.uuid4()), 1, Rule()),
            "destroy": lambda: self.client.vault_destroy(owner, self.compartment, 1),
            "destroy all": lambda: self.client.vault_destroy(owner, self.compartment),
            "destroy by order": self.destroy_old,
            "grant": lambda: self.client.attribute_grant(officer, self.place.gid, doctor, "role", "y", until),
            "take": lambda: self.client.attribute_take(officer, self.place.gid, doctor, "role", "x"),
            "certificate": lambda: somebody(self.client),
            "revoke": lambda: self.client.identity_revoke(owner, self.owner.gid),
            "break glass": lambda: self.client.vault_release(
                self.doctor.speaker, self.glass, 1, reason_sha256=REASON
            ),
        }

    def state(self) -> dict[str, object]:
        """All that the calls above would have changed."""
        return {
            "friend": [self.opens(self.friend, epoch) for epoch in (1, 2)],
            "owner": [self.opens(self.owner, epoch) for epoch in (1, 2)],
            "doctor": sorted(key.attribute.value for key in self.place.keys(self.doctor)),
            "openings": self.client.vault_openings(self.owner.speaker),
            "epochs": self.client.authority_statement(self.place.gid).epochs,
        }


# -- full
@pytest.mark.parametrize("frames", [None, 0, 1])
def test_on_a_full_disk_every_change_is_refused_whole_and_reading_goes_on(
    running: RunningKeyholder, frames: int | None  # noqa: F811
) -> None:  # fmt: skip
    owned = Owned(running)
    before = owned.state()
    assert before["friend"] == before["owner"] == [True, True] and before["doctor"] == ["x"] and not before["openings"]
    with full(running, frames):
        changes = owned.changes()
        if frames == 1:  # it changes one page, and that has room
            del changes["destroy by order"]
        for name, change in changes.items():
            with pytest.raises(KeyholderFull):
                change()
                raise AssertionError(f"{name} was acknowledged")
        assert owned.state() == before
    assert owned.state() == before
    running.kill()
    running.start()
    assert owned.state() == before


def test_with_room_again_what_was_refused_is_done_by_asking_again(running: RunningKeyholder) -> None:  # noqa: F811
    owned = Owned(running)
    with full(running), pytest.raises(KeyholderFull):
        owned.changes()["block"]()
    for name in ("block", "break glass", "grant", "take", "destroy by order", "certificate", "create"):
        owned.changes()[name]()
    running.kill()
    running.start()
    after = owned.state()
    assert after["friend"] == [False, False] and after["owner"] == [False, True]
    assert after["doctor"] == ["y"] and len(after["openings"]) == 1  # type: ignore[arg-type]
    assert "Traceback" not in running.log


def command(running: RunningKeyholder, limit: int, *words: object) -> subprocess.CompletedProcess:  # noqa: F811
    """A command of the keyholder that may write files up to so many bytes."""
    return subprocess.run(
        ["prlimit", f"--fsize={limit}", sys.executable, "-m", "myphr.keyholder", *map(str, words),
         "--passphrase-file", running.passphrase_file], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def test_on_a_full_disk_it_does_not_start_and_says_why(running: RunningKeyholder) -> None:  # noqa: F811
    owned = Owned(running)
    running.kill()  # what was acknowledged lies in the log alone
    done = command(running, 0, "serve", "--folder", running.folder, "--socket", running.socket)
    assert done.returncode == 1 and "is full" in done.stderr and "Traceback" not in done.stderr
    running.start()
    assert owned.state()["friend"] == [True, True]


def test_a_damaged_store_is_told_in_plain_words(running: RunningKeyholder) -> None:  # noqa: F811
    running.stop()
    (running.folder / "store.sqlite").write_bytes(b"rubbish" * 1000)
    done = command(running, 2**30, "serve", "--folder", running.folder, "--socket", running.socket)
    assert done.returncode == 1 and "store is damaged" in done.stderr and "Traceback" not in done.stderr


def test_a_copy_that_finds_no_room_leaves_nothing_and_can_be_made_again(
    running: RunningKeyholder, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    out = tmp_path / "copy"
    done = command(running, 8192, "backup", "--folder", running.folder, "--out", out)
    assert done.returncode == 1 and "is full" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists() and running.client.hello().ca
    running.command("backup", "--out", out)


def test_a_set_up_that_finds_no_room_says_so_and_is_made_whole_by_the_next(tmp_path: Path) -> None:
    running = RunningKeyholder(tmp_path)  # noqa: F811
    running.passphrase_file.write_text("a passphrase of the tests\n")
    running.passphrase_file.chmod(0o600)
    root = ("--root-folder", running.root_folder, "--argon2-memory-kib", 64, "--argon2-passes", 1)
    for limit in (0, 4096, 50_000):
        done = command(running, limit, "init", "--folder", running.folder, *root)
        assert done.returncode == 1 and done.stderr.startswith("keyholder: ") and "Traceback" not in done.stderr
        assert not running.folder.exists()
    with running:
        assert running.client.hello().ca


# -- killed
def block_of(running: RunningKeyholder, owned: Owned) -> bytes:  # noqa: F811
    arguments = {"block": ["gid", owned.friend.gid], "compartment": owned.compartment}
    return proofs.new_request(running.client.gid(), "vault.block", arguments, now=int(time.time()),
                              key=owned.owner.signing_key, certificate=owned.owner.certificate).to_bytes()  # fmt: skip


def blocks_in(store: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        return db.execute("SELECT count(*) FROM block").fetchone()[0]


def test_killed_after_a_block_whose_answer_never_came_the_block_holds_and_asking_again_is_no_harm(
    running: RunningKeyholder,  # noqa: F811
) -> None:
    owned = Owned(running)
    request = block_of(running, owned)
    raw(running.socket, proofs.frame(request)[:-1])  # not whole: asks nothing
    assert blocks_in(running.folder / "store.sqlite") == 0
    with socket.socket(socket.AF_UNIX) as stream:  # gone before the answer
        stream.connect(str(running.socket))
        stream.sendall(proofs.frame(request))
    while not blocks_in(running.folder / "store.sqlite"):
        time.sleep(0.001)
    running.kill()
    running.start()
    assert owned.state()["friend"] == [False, False]
    with pytest.raises(ProofRefused):  # the proof is spent, though nobody saw its answer
        read_reply(raw(running.socket, proofs.frame(request))[4:])
    assert owned.client.vault_block(owned.owner.speaker, Block(gid=owned.friend.gid), owned.compartment) == 1
    assert blocks_in(running.folder / "store.sqlite") == 1


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 4, 8, 16])
def test_killed_at_any_moment_of_a_block_it_holds_if_it_was_acknowledged_and_can_be_asked_again(
    running: RunningKeyholder, milliseconds: int  # noqa: F811
) -> None:  # fmt: skip
    owned = Owned(running)
    assert running.process is not None
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; input(); time.sleep({milliseconds / 1000}); "
                               f"os.kill({running.process.pid}, 9)"], stdin=subprocess.PIPE)  # fmt: skip
    assert killer.stdin is not None
    killer.stdin.write(b"\n")
    acknowledged = 0
    try:
        while True:  # one block after the other until it is dead
            killer.stdin.close()
            owned.client.vault_block(owned.owner.speaker, Block(gid=certificates.new_gid()), owned.compartment)
            acknowledged += 1
    except PortalError as error:
        assert isinstance(error, KeyholderUnavailable)
    killer.wait()
    running.process.wait()
    running.start()
    assert blocks_in(running.folder / "store.sqlite") in (acknowledged, acknowledged + 1)
    assert owned.state()["friend"] == [True, True]
    owned.client.vault_block(owned.owner.speaker, Block(gid=owned.friend.gid), owned.compartment)
    assert owned.state()["friend"] == [False, False]
