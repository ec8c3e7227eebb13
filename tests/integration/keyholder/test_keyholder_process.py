"""The keyholder as a process: who starts it, who may connect, what it does to itself, and what kill -9 leaves."""

import contextlib
import datetime as dt
import os
import pwd
import random
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.crypto import certificates, proofs
from myphr.crypto.abe.multi_authority import AttributeKey
from myphr.crypto.envelope import new_key_pair
from myphr.errors import (
    AccessWithheld,
    KeyholderFull,
    KeyholderProtocolError,
    KeyholderUnavailable,
    NotFound,
    PortalError,
)
from myphr.people.keyholder import Block, Keyholder, Rule, check_papers, read_reply, unpack_keys
from tests.running_keyholder import ROOT, RunningKeyholder, Somebody, somebody
from tests.unit.keyholder.desk_stage import raw, together

LATER = 86_400


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningKeyholder]:
    """One of this test's own: for tests that stop, kill or starve it."""
    with RunningKeyholder(tmp_path) as running:
        yield running


def status(running: RunningKeyholder, name: str) -> str:
    assert running.process is not None
    text = Path(f"/proc/{running.process.pid}/status").read_text()
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(f"{name}:"))


# -- starting
def test_a_wrong_passphrase_is_refused_in_plain_words(running: RunningKeyholder) -> None:
    running.stop()
    running.passphrase_file.write_text("another passphrase altogether\n")
    with pytest.raises(RuntimeError, match="passphrase does not open the keyholder's keys"):
        running.start()
    assert "another passphrase" not in running.log


@pytest.mark.parametrize("content", ["", "short\n", "\xff" * 20])
def test_what_is_no_passphrase_is_refused(running: RunningKeyholder, content: str) -> None:
    running.stop()
    running.passphrase_file.write_bytes(content.encode("latin-1"))
    with pytest.raises(RuntimeError, match="passphrase"):
        running.start()


def test_a_passphrase_that_others_may_read_is_refused(running: RunningKeyholder) -> None:
    running.stop()
    running.passphrase_file.chmod(0o640)
    with pytest.raises(RuntimeError, match="mode 0600"):
        running.start()


def test_a_folder_that_others_may_enter_is_refused(running: RunningKeyholder) -> None:
    running.stop()
    running.folder.chmod(0o711)
    with pytest.raises(RuntimeError, match="mode 0700"):
        running.start()


def test_a_damaged_or_lost_store_is_refused(running: RunningKeyholder) -> None:
    running.stop()
    store = running.folder / "store.sqlite"
    store.write_bytes(b"rubbish" * 1000)
    with pytest.raises(RuntimeError, match="keyholder"):
        running.start()
    store.unlink()
    with pytest.raises(RuntimeError, match="missing"):
        running.start()


def test_a_systemd_credential_opens_it_as_well(running: RunningKeyholder, tmp_path: Path) -> None:
    running.stop()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    credential = credentials / "myphr-keyholder-passphrase"
    credential.write_bytes(running.passphrase_file.read_bytes())
    credential.chmod(0o440)
    process = subprocess.Popen(
        [sys.executable, "-m", "myphr.keyholder", "serve", "--folder", running.folder, "--socket", running.socket],
        cwd=ROOT, env={**os.environ, "CREDENTIALS_DIRECTORY": str(credentials)}, stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(KeyholderUnavailable):
                assert running.client.hello().ca
                return
            time.sleep(0.02)
        raise AssertionError("it did not start")
    finally:
        process.terminate()
        process.wait(15)


def test_without_any_passphrase_it_does_not_start(running: RunningKeyholder) -> None:
    running.stop()
    done = subprocess.run(
        [sys.executable, "-m", "myphr.keyholder", "serve", "--folder", running.folder, "--socket", running.socket],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 1 and "no passphrase" in done.stderr and "Traceback" not in done.stderr


def test_two_on_one_folder_are_one_too_many(running: RunningKeyholder) -> None:
    second = running.command("serve", "--socket", running.socket.with_name("t"), check=False)
    assert second.returncode == 1 and "already running" in second.stderr
    assert running.client.hello()


def test_set_up_twice_it_stays_the_same(running: RunningKeyholder) -> None:
    gid, root = running.client.gid(), (running.root_folder / "root.der").read_bytes()
    running.initialise()
    assert (running.root_folder / "root.der").read_bytes() == root
    running.stop()
    running.start()
    assert running.client.hello().gid == gid


def test_a_set_up_that_was_cut_off_is_made_whole_by_the_next(tmp_path: Path) -> None:
    running = RunningKeyholder(tmp_path)
    running.initialise()
    running.folder.rename(tmp_path / "keyholder.new")  # as if it had died just before the last step
    with running:
        assert running.client.hello().ca
    assert (tmp_path / "ca-root.old-1").exists() and not (tmp_path / "keyholder.new").exists()


def test_another_passphrase_takes_over_and_the_old_one_is_refused(running: RunningKeyholder, tmp_path: Path) -> None:
    person = somebody(running.client)
    running.stop()
    new = tmp_path / "new"
    new.write_text("a better passphrase than before\n")
    new.chmod(0o600)
    running.command("change-passphrase", "--new-passphrase-file", new, "--argon2-memory-kib", 64, "--argon2-passes", 1)
    with pytest.raises(RuntimeError, match="passphrase"):
        running.start()
    running.passphrase_file = new
    running.start()
    assert running.client.ca_issue(certificates.new_request(person.signing_key, person.gid))


# -- what it does to itself
def test_it_leaves_no_core_and_lets_nobody_look(running: RunningKeyholder) -> None:
    assert running.process is not None
    limits = Path(f"/proc/{running.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]
    assert status(running, "NoNewPrivs") == "1"
    # /proc of a process that is not dumpable belongs to root, whoever runs it
    assert Path(f"/proc/{running.process.pid}/mem").stat().st_uid == 0


def test_socket_and_folder_are_for_its_user_alone(running: RunningKeyholder) -> None:
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
    for path in running.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def unix_user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


@pytest.mark.skipif(os.geteuid() != 0 or not unix_user("myphr-keys"), reason="needs root and the user myphr-keys")
def test_started_by_root_it_becomes_a_user_who_cannot_read_the_passphrase() -> None:
    user = unix_user("myphr-keys")
    assert user is not None
    base = Path(tempfile.mkdtemp(prefix="myphr-keyholder-"))
    base.chmod(0o711)
    try:
        running = RunningKeyholder(base, "--user", "myphr-keys")
        running.initialise("--user", "myphr-keys")
        # What root does to the folder before the first start must not lock its user out.
        code = (running.root_folder / "root-code.txt").read_text()
        running.command("renew-intermediate", "--root-folder", running.root_folder, text=code)
        with running:
            assert status(running, "Uid").split() == [str(user.pw_uid)] * 4
            assert status(running, "Groups") == ""
            person, operator = somebody(running.client), running.appoint(somebody(running.client))
            assert running.client.authority_create(operator.speaker, certificates.new_gid(), [person.gid])
            assert {path.stat().st_uid for path in running.folder.iterdir()} == {user.pw_uid}
            forbidden = [running.passphrase_file, running.root_folder / "root.sealed"]
            for path in forbidden:
                done = subprocess.run(["setpriv", "--reuid", "myphr-keys", "--clear-groups", "cat", path],
                                      capture_output=True)  # fmt: skip
                assert done.returncode != 0 and b"denied" in done.stderr
    finally:
        shutil.rmtree(base)


@pytest.mark.skipif(os.geteuid() != 0 or not unix_user("nobody"), reason="needs root and the user nobody")
def test_another_unix_user_cannot_connect_and_one_of_the_group_is_no_operator(tmp_path: Path) -> None:
    program = (
        "import sys; from myphr.people.keyholder import Keyholder; k = Keyholder('unix:' + sys.argv[1]); "
        "print(k.hello().ca); k.operator_appoint(sys.argv[2])"
    )

    def ask(running: RunningKeyholder, gid: str) -> subprocess.CompletedProcess:
        running.socket.parent.chmod(0o711)
        return subprocess.run(
            ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", sys.executable, "-c", program,
             running.socket, gid], cwd=ROOT, capture_output=True, text=True, env={"PYTHONDONTWRITEBYTECODE": "1"},
        )

    with RunningKeyholder(tmp_path / "closed") as running:
        done = ask(running, somebody(running.client).gid)
        assert "KeyholderUnavailable: PermissionError" in done.stderr, done.stderr
    with RunningKeyholder(tmp_path / "open", "--socket-group", "nogroup") as running:
        done = ask(running, somebody(running.client).gid)
        assert done.stdout == "True\n" and "NotFound" in done.stderr, done.stderr


def test_somebody_is_an_operator_before_their_first_certificate(keyholder_server: RunningKeyholder) -> None:
    gid, key = certificates.new_gid(), certificates.new_signing_key()
    keyholder_server.command("operator", "--gid", gid)
    der = keyholder_server.client.ca_issue(certificates.new_request(key, gid))
    operator = Somebody(gid, key, new_key_pair(), der)
    authority = certificates.new_gid()
    keyholder_server.client.authority_create(operator.speaker, authority, [gid])
    keyholder_server.command("operator", "--gid", gid, "--dismiss")
    with pytest.raises(NotFound):
        keyholder_server.client.authority_close(operator.speaker, authority)


# -- hostile frames
def test_rubbish_on_the_socket_hurts_nobody(keyholder_server: RunningKeyholder) -> None:
    rng = random.Random(9)
    good = proofs.new_request("", "hello", {}, now=int(time.time())).to_bytes()
    frames = [b"", b"\0", b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack(">I", proofs.REQUEST_BYTES_MAX + 1) + b"x" * 99,
              struct.pack(">I", 1) + b"x", b"GET / HTTP/1.1\r\n\r\n", proofs.frame(b"x" * 1000)]
    for _ in range(300):
        data = bytearray(proofs.frame(good))
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        frames.append(bytes(data))
    for frame in frames:
        answer = raw(keyholder_server.socket, frame)
        while answer:  # nothing, or whole replies one behind the other
            size = proofs.frame_bytes(answer[:4], proofs.REPLY_BYTES_MAX)
            assert set(proofs.load(answer[4 : 4 + size])) in ({"error", "detail"}, {"done"})
            answer = answer[4 + size :]
    assert keyholder_server.client.hello().ca


def test_half_a_request_asks_nothing(keyholder_server: RunningKeyholder) -> None:
    frame = proofs.frame(proofs.new_request("", "hello", {}, now=int(time.time())).to_bytes())
    for at in range(1, len(frame), 17):
        assert raw(keyholder_server.socket, frame[:at]) == b""
    assert read_reply(raw(keyholder_server.socket, frame)[4:])["ca"]


def test_requests_one_behind_the_other_get_their_answers_in_order(keyholder_server: RunningKeyholder) -> None:
    one = proofs.frame(proofs.new_request("", "hello", {}, now=1).to_bytes())
    two = proofs.frame(proofs.new_request("", "nothing", {}, now=1).to_bytes())
    answer = raw(keyholder_server.socket, one + two + one)
    replies = []
    while answer:
        size = proofs.frame_bytes(answer[:4], proofs.REPLY_BYTES_MAX)
        replies.append(proofs.load(answer[4 : 4 + size]))
        answer = answer[4 + size :]
    assert ["done" in reply for reply in replies] == [True, False, True]


def test_silent_and_greedy_connections_do_not_keep_others_out(keyholder_server: RunningKeyholder) -> None:
    with contextlib.ExitStack() as stack:
        streams = []
        for number in range(200):
            stream = stack.enter_context(socket.socket(socket.AF_UNIX))
            stream.connect(str(keyholder_server.socket))
            stream.sendall(b"\0\0" if number % 2 else struct.pack(">I", 200_000) + b"x" * 50_000)
            streams.append(stream)
        assert keyholder_server.client.hello().ca


def test_more_connections_than_there_is_room_for_are_told_so(keyholder_server: RunningKeyholder) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(256):
            stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX))).connect(str(keyholder_server.socket))
        with pytest.raises(KeyholderUnavailable):
            for _ in range(5):
                keyholder_server.client.hello()
    deadline = time.monotonic() + 10
    while True:
        try:
            keyholder_server.client.hello()
            return
        except KeyholderUnavailable:
            assert time.monotonic() < deadline


def test_with_nothing_behind_the_socket_it_is_unavailable_and_never_a_wait(tmp_path: Path) -> None:
    with pytest.raises(KeyholderUnavailable):
        Keyholder(f"unix:{tmp_path}/nothing").hello()


def test_a_keyholder_that_answers_rubbish_is_not_believed(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="myphr-kh-"))
    answers = [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", proofs.frame(b"[]"), proofs.frame(b'{"done":3}'),
               proofs.frame(b'{"done":{}}'), proofs.frame(b'{"error":"no-such"}'), proofs.frame(b"x" * 100)[:50]]
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / "s"))
            listening.listen()

            def serve() -> None:
                for answer in answers:
                    stream, _ = listening.accept()
                    stream.recv(65536)
                    stream.sendall(answer)
                    stream.close()

            thread = threading.Thread(target=serve)
            thread.start()
            for _ in answers:
                with pytest.raises((KeyholderProtocolError, KeyholderUnavailable)):
                    Keyholder(f"unix:{folder}/s").hello()
            thread.join()
    finally:
        shutil.rmtree(folder)


# -- kill -9
class Place:
    """Operator, officer, authority on a running keyholder."""

    def __init__(self, running: RunningKeyholder) -> None:
        self.client = running.client
        self.operator = running.appoint(somebody(self.client))
        self.officer = somebody(self.client)
        self.gid = certificates.new_gid()
        self.client.authority_create(self.operator.speaker, self.gid, [self.officer.gid])

    def keys(self, person: Somebody) -> list[AttributeKey]:
        sealed = self.client.attribute_keys(person.speaker, self.gid)
        return [AttributeKey.from_bytes(key) for key in unpack_keys(person.open(sealed))]


def test_what_was_acknowledged_is_there_after_kill_9(running: RunningKeyholder) -> None:
    place = Place(running)
    doctors = [somebody(running.client) for _ in range(3)]
    owner = somebody(running.client)
    done: dict[str, object] = {}
    until, officer = int(time.time()) + LATER, place.officer.speaker

    def work(number: int) -> None:
        step = 0
        with contextlib.suppress(PortalError):  # the kill ends each thread where it stands
            while True:
                step += 1
                if number == 0:
                    place.client.attribute_grant(officer, place.gid, doctors[0].gid, "n", str(step), until)
                    done["granted"] = step
                elif number == 1:
                    place.client.attribute_grant(officer, place.gid, doctors[1].gid, "role", "x", until)
                    done["epoch"] = place.client.attribute_take(officer, place.gid, doctors[1].gid, "role", "x")
                elif number == 2:
                    compartment = str(uuid.UUID(int=step))
                    half = owner.open(place.client.vault_create(owner.speaker, compartment, 1, Rule()))
                    done["half"] = (compartment, half)
                else:
                    gid = certificates.new_gid()
                    papers = place.client.authority_create(place.operator.speaker, gid, [place.officer.gid])
                    done["authority"] = papers

    for _round in range(2):
        done.clear()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(done) < 4:
            time.sleep(0.01)
        time.sleep(random.Random(_round).random() / 5)
        running.kill()
        for thread in threads:
            thread.join()
        running.start()
        granted = {key.attribute.value for key in place.keys(doctors[0])}
        assert {str(step) for step in range(1, int(str(done["granted"])) + 1)} <= granted
        _, table = check_papers(place.client.authority_statement(place.gid), place.client.chain(), now())
        assert table.epoch("role", "x") >= int(str(done["epoch"]))
        compartment, half = done["half"]  # type: ignore[misc]
        assert owner.open(place.client.vault_release(owner.speaker, compartment, 1)) == half
        papers = done["authority"]
        assert place.client.authority_statement(papers.authority) == papers  # type: ignore[attr-defined]


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def test_a_block_that_was_acknowledged_holds_after_kill_9(running: RunningKeyholder) -> None:
    owner, friend = somebody(running.client), somebody(running.client)
    compartment = str(uuid.uuid4())
    running.client.vault_create(owner.speaker, compartment, 1, Rule(frozenset({friend.gid})))
    running.client.vault_block(owner.speaker, Block(gid=friend.gid))
    running.kill()
    running.start()
    with pytest.raises(AccessWithheld):
        running.client.vault_release(friend.speaker, compartment, 1)


def test_an_orderly_end_is_quick_and_clean(running: RunningKeyholder) -> None:
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(running.socket))
        assert running.stop() == 0
    assert "Traceback" not in running.log and "ERROR" not in running.log


def test_many_at_once_get_what_is_theirs(keyholder_server: RunningKeyholder) -> None:
    place = Place(keyholder_server)
    doctors = [somebody(place.client) for _ in range(8)]
    until = int(time.time()) + LATER

    def run(number: int) -> list[str]:
        for value in ("a", "b"):
            place.client.attribute_grant(place.officer.speaker, place.gid, doctors[number].gid, "role",
                                         f"{value}{number}", until)  # fmt: skip
        return [key.attribute.value for key in place.keys(doctors[number])]

    assert together(8, run) == [[f"a{number}", f"b{number}"] for number in range(8)]


# -- disk full
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_refuses_in_plain_words_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        with RunningKeyholder(disk / "k") as running:
            owner, halves = somebody(running.client), {}
            filler = disk / "filler"
            with pytest.raises(KeyholderFull):
                for number in range(4000):
                    if number == 20:
                        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                        filler.write_bytes(bytes(max(0, free - 120_000)))
                    compartment = str(uuid.UUID(int=number + 1))
                    rule = Rule(frozenset(certificates.new_gid() for _ in range(100)))
                    halves[compartment] = owner.open(running.client.vault_create(owner.speaker, compartment, 1, rule))
            assert len(halves) >= 20
            for compartment, half in halves.items():
                assert owner.open(running.client.vault_release(owner.speaker, compartment, 1)) == half
            filler.unlink()
            running.client.vault_create(owner.speaker, str(uuid.uuid4()), 1, Rule())
            running.kill()
            running.start()
            for compartment, half in halves.items():
                assert owner.open(running.client.vault_release(owner.speaker, compartment, 1)) == half
    finally:
        subprocess.run(["umount", disk], check=False)


# -- backup, and what lies about
def test_a_copy_made_while_it_runs_opens_as_the_original(running: RunningKeyholder, tmp_path: Path) -> None:
    owner, compartment = somebody(running.client), str(uuid.uuid4())
    half = owner.open(running.client.vault_create(owner.speaker, compartment, 1, Rule()))
    running.command("backup", "--out", tmp_path / "copy")
    running.stop()
    shutil.rmtree(running.folder)
    (tmp_path / "copy").rename(running.folder)
    running.start()
    assert owner.open(running.client.vault_release(owner.speaker, compartment, 1)) == half


def test_nothing_secret_is_in_log_folder_or_command_line(running: RunningKeyholder) -> None:
    place = Place(running)
    doctor, owner, compartment = somebody(running.client), somebody(running.client), str(uuid.uuid4())
    running.client.attribute_grant(place.officer.speaker, place.gid, doctor.gid, "role", "x", int(time.time()) + LATER)
    (key,) = place.keys(doctor)
    half = owner.open(running.client.vault_create(owner.speaker, compartment, 1, Rule()))
    with pytest.raises(AccessWithheld):
        running.client.vault_release(doctor.speaker, compartment, 1)
    with pytest.raises(NotFound):
        running.client.authority_close(doctor.speaker, place.gid)
    assert running.process is not None
    line = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
    running.stop()
    passphrase = running.passphrase_file.read_text().strip().encode()
    secrets = {"half": half, "key": key.to_bytes()[-144:], "passphrase": passphrase,
               "signing": certificates.signing_key_bytes(owner.signing_key), "hpke": owner.pair.private[1:]}
    everything = {path.name: path.read_bytes() for path in running.folder.iterdir()}
    everything |= {"log": running.log.encode(), "command line": line}
    for place_name, content in everything.items():
        for name, secret in secrets.items():
            for form in (secret, secret.hex().encode(), proofs.to_base64(secret).encode()):
                assert form not in content, f"{name} in {place_name}"
    assert "access-withheld" in running.log and compartment not in running.log
