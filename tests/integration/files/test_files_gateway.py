"""The files gateway as a real process over a real record: its own folder for each machine, and nothing else."""

import dataclasses
import errno
import hashlib
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from myphr.audit.models import AuditEvent
from myphr.gateway import ninep_wire as wire
from myphr.machines import left_over
from myphr.machines.addresses import guest_address
from myphr.machines.models import Machine, VmSession
from myphr.portal import Portal
from myphr.records import items
from myphr.records.models import Item
from tests.cast import SignedIn
from tests.integration.files.rig import Claim, Gateway, claim, end, set_state, wait_for
from tests.ninep_client import Client
from tests.running import free_port

SCAN = random.Random(1).randbytes(300_000)
MARKER = b"MARKER-kept-by-nobody"


@pytest.fixture
def gateway(portal: Portal) -> Iterator[Gateway]:
    with Gateway(portal) as running:
        yield running


def up(claimed: Claim) -> Claim:
    wait_for(claimed.socket.exists)
    return claimed


def refused(action: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:
        action()
    return caught.value.errno or 0


def events(portal: Portal, name: str) -> list[AuditEvent]:
    with portal.database.read() as db:
        return list(db.exec(select(AuditEvent).where(AuditEvent.event == name)).all())


def results_in_record(portal: Portal, person: SignedIn) -> dict[str, bytes]:
    found = {}
    with portal.database.read() as db:
        rows = db.exec(select(Item).where(Item.source == "result", Item.deleted_at.is_(None))).all()  # type: ignore[union-attr]
    for item in rows:
        ring = person.login.ring()
        opened = items.open_item(portal.store, item, items.dek_of(ring, item))
        found[items.details_of(ring, item)["path"]] = opened.read_at(0, opened.plain_bytes)
        opened.close()
    return found


def ask_left_over(portal: Portal, claimed: Claim, key: bytes) -> dict[str, object]:
    return left_over.ask(portal.settings.run_dir / left_over.DOOR, claimed.vm_session_id, key)


def test_a_machine_reads_its_own_items_byte_for_byte(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    claimed = up(claim(portal, patient, {"scan.bin": SCAN, "MZ.pdf": b"MZ" + bytes(126) + b"DICM" + SCAN}))
    with claimed.mount() as guest:
        names = dict(guest.list())
        assert names.pop("results") is True
        contents = {hashlib.sha256(guest.read(name)).digest() for name in names}
    assert contents == {hashlib.sha256(c).digest() for c in (SCAN, b"MZ" + bytes(126) + b"DICM" + SCAN)}


def test_a_wrong_missing_or_other_sessions_secret_gets_nothing(
    gateway: Gateway, portal: Portal, patient: SignedIn, stranger: SignedIn
) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    other = up(claim(portal, stranger, {"theirs.bin": b"theirs"}))
    tries = [
        (mine.vm_session_id, other.secret), (other.vm_session_id, other.secret), (other.vm_session_id, mine.secret),
        (mine.vm_session_id, ""), (mine.vm_session_id, mine.secret[:-1]), (mine.vm_session_id, mine.secret + "A"),
        ("", "A" * 43),
    ]  # fmt: skip
    for uname, secret in tries[:3]:
        with Client(mine.socket, seconds=60) as guest:
            assert refused(lambda u=uname, s=secret, g=guest: g.mount(u, s)) == errno.EACCES  # type: ignore[misc]
            assert refused(lambda g=guest: g.list()) == errno.EBADF  # type: ignore[misc]
    noted = events(portal, "folder-refused")
    assert [(event.actor_id, event.account_id) for event in noted] == [(mine.machine_id, patient.account.id)]
    for secret in (mine.secret, other.secret):
        assert secret not in gateway.log.read_text()
        assert all(secret not in event.details for event in noted)


def test_after_three_wrong_secrets_the_connection_is_dropped(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    guest = Client(mine.socket, seconds=60)
    for _ in range(2):
        assert refused(lambda: guest.mount(mine.vm_session_id, "A" * 43)) == errno.EACCES
    with pytest.raises(ConnectionError):
        guest.mount(mine.vm_session_id, "A" * 43)
    with mine.mount(seconds=60) as again:  # the right secret still opens it
        assert again.list()


def test_linux_attaches_again_without_a_name_for_a_second_user(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    with mine.mount() as guest:
        guest.call(wire.TATTACH, 4711, wire.NO_FID, "", mine.secret, 1000)
        assert guest.walk("scan.bin", start=4711)


@pytest.mark.parametrize("session_state", ["requested", "ending", "ended", "failed"])
def test_a_session_that_is_not_running_has_no_folder(
    gateway: Gateway, portal: Portal, patient: SignedIn, session_state: str
) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}, session_state=session_state))
    with Client(mine.socket) as guest:
        assert refused(lambda: guest.mount(mine.vm_session_id, mine.secret)) == errno.EACCES


def test_a_warm_machine_gets_nothing_and_its_socket_goes_with_it(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}, machine_state="warm", session_state="live"))
    with portal.database.write() as db:  # nobody's yet
        row = db.get(VmSession, mine.vm_session_id)
        assert row is not None
        row.machine_id = None
        db.add(row)
    with Client(mine.socket) as guest:
        assert refused(lambda: guest.mount(mine.vm_session_id, mine.secret)) == errno.EACCES
        set_state(portal, Machine, mine.machine_id, "destroying")
        portal.redis.publish("myphr:machines", str(mine.vmid))
        with pytest.raises(ConnectionError):
            while True:
                guest.receive()
    wait_for(lambda: not mine.socket.exists())


def test_over_tcp_the_source_address_tells_the_machine(portal: Portal, patient: SignedIn, stranger: SignedIn) -> None:
    port = free_port()
    on_a_node = {
        "files_listen": f"tcp:127.0.0.1:{port}", "guest_network": "127.20.0.0/16",
        "guest_files_address": "127.20.0.1:564",
    }  # fmt: skip
    settings = dataclasses.replace(portal.settings, **on_a_node)
    mine, other = claim(portal, patient, {"mine.bin": SCAN}), claim(portal, stranger, {"other.bin": SCAN[::-1]})
    with Gateway(portal, **on_a_node):

        def call(claimed: Claim, secret_of: Claim) -> Client:
            guest = guest_address(settings, claimed.vmid)
            assert guest is not None
            return Client(("127.0.0.1", port), source=str(guest.ip)).mount(secret_of.vm_session_id, secret_of.secret)

        def mounted() -> Client | None:
            try:
                return call(mine, mine)
            except OSError:
                return None

        with wait_for(mounted) as guest:  # type: ignore[attr-defined]
            assert guest.read("mine.bin") == SCAN
        with call(other, other) as guest:
            assert guest.read("other.bin") == SCAN[::-1]
        assert refused(lambda: call(mine, other)) == errno.EACCES
        with Client(("127.0.0.1", port)) as nobody, pytest.raises((ConnectionError, OSError)):
            nobody.mount(mine.vm_session_id, mine.secret)


def test_sockets_are_private(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    wait_for(lambda: mine.socket.stat().st_mode & 0o777 == 0o660)
    assert mine.socket.parent.stat().st_mode & 0o777 == 0o711


def test_ending_closes_the_folder_and_its_results_are_in_the_record(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    guest = mine.mount()
    guest.mkdir("results/export")
    guest.write("results/export/report.pdf", b"%PDF-1.4 " + SCAN)
    open_file = guest.create("results/notes.txt")
    guest.pwrite(open_file, 0, b"never closed")
    reading = guest.open("scan.bin")
    end(portal, mine)
    with pytest.raises((ConnectionError, OSError)):
        while True:
            guest.pread(reading, 0, 10)
    key = f"myphr:results:{mine.vm_session_id}"
    assert wait_for(lambda: portal.redis.get(key)) == b"drained"
    assert results_in_record(portal, patient) == {
        "results/export/report.pdf": b"%PDF-1.4 " + SCAN, "results/notes.txt": b"never closed",
    }  # fmt: skip
    assert not (portal.settings.spool_dir / "results" / mine.vm_session_id).exists()
    [saved] = events(portal, "results-saved")
    assert '"items":2' in saved.details
    with Client(mine.socket) as late:
        assert refused(lambda: late.mount(mine.vm_session_id, mine.secret)) == errno.EACCES


def test_a_session_that_saved_nothing_is_drained_at_once(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    end(portal, mine)
    assert wait_for(lambda: portal.redis.get(f"myphr:results:{mine.vm_session_id}")) == b"drained"


def test_that_results_are_safe_is_said_again_when_redis_forgot_it(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    end(portal, mine)
    key = f"myphr:results:{mine.vm_session_id}"
    assert wait_for(lambda: portal.redis.get(key)) == b"drained"
    portal.redis.delete(key)  # killed before it was on the disk
    assert wait_for(lambda: portal.redis.get(key)) == b"drained"


def test_after_kill_9_the_guest_presents_its_secret_again_and_goes_on(portal: Portal, patient: SignedIn) -> None:
    mine = claim(portal, patient, {"scan.bin": SCAN})
    gateway = Gateway(portal).start()
    try:
        guest = up(mine).mount()
        guest.write("results/before.txt", MARKER * 20_000)
        fid = guest.create("results/during.txt")
        guest.pwrite(fid, 0, b"fsynced")
        guest.fsync(fid)
        gateway.kill()
        for path in (portal.settings.spool_dir / "results").rglob("*"):
            assert path.is_dir() or MARKER not in path.read_bytes()
        gateway.start()

        def again() -> Client | None:
            try:
                return mine.mount()
            except (OSError, ConnectionError):
                return None

        guest = wait_for(again)  # type: ignore[assignment]
        assert guest.read("scan.bin") == SCAN
        assert guest.read("results/before.txt") == MARKER * 20_000
        assert guest.read("results/during.txt") == b"fsynced"
        guest.write("results/after.txt", b"goes on")
        end(portal, mine)
        wait_for(lambda: portal.redis.get(f"myphr:results:{mine.vm_session_id}"))
        assert set(results_in_record(portal, patient)) == {
            "results/before.txt", "results/during.txt", "results/after.txt"
        }  # fmt: skip
    finally:
        gateway.stop()


def test_results_whose_machine_was_gone_before_the_gateway_was_back_are_left_over_not_lost(
    portal: Portal, patient: SignedIn
) -> None:
    mine = claim(portal, patient, {"scan.bin": SCAN})
    gateway = Gateway(portal).start()
    try:
        up(mine).mount().write("results/a", b"left")
        gateway.kill()
        end(portal, mine)
        gateway.start()
        key = f"myphr:results:{mine.vm_session_id}"
        assert wait_for(lambda: portal.redis.get(key)) == b"left-over"
        spool = portal.settings.spool_dir / "results"
        opened = left_over.owner_opens(spool, mine.vm_session_id, patient.login.ring())
        assert ask_left_over(portal, mine, bytes(32)) == {"error": "spool-damaged"}
        assert ask_left_over(portal, mine, opened) == {"items": 1}
        assert results_in_record(portal, patient) == {"results/a": b"left"}
        assert not (spool / mine.vm_session_id).exists()
        assert ask_left_over(portal, mine, opened) == {"error": "no-spool"}
        assert (portal.settings.run_dir / "left-over.sock").stat().st_mode & 0o777 == 0o600
    finally:
        gateway.stop()


def test_what_a_running_session_writes_is_not_left_over(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    mine = up(claim(portal, patient, {"scan.bin": SCAN}))
    with mine.mount() as guest:
        guest.write("results/a", b"running")
        key = left_over.owner_opens(portal.settings.spool_dir / "results", mine.vm_session_id, patient.login.ring())
        assert ask_left_over(portal, mine, key) == {"error": "not-over"}
        assert guest.read("results/a") == b"running"


def test_a_damaged_item_is_eio_and_noted_once_and_the_others_go_on(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    mine = up(claim(portal, patient, {"bad.bin": b"B" + SCAN, "good.bin": SCAN}))
    with portal.database.read() as db:
        bad = db.get(Item, mine.item_ids[0])
    assert bad is not None
    [stored] = [p for p in Path(portal.settings.home / "store").rglob(bad.object_key)]
    raw = bytearray(stored.read_bytes())
    raw[100_000] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(raw)
    with mine.mount() as guest:
        by_size = {}
        for name, folder in guest.list():
            if not folder:
                with guest.fid(name) as fid:
                    by_size[guest.size(fid)] = name
        damaged = by_size[len(SCAN) + 1]
        for _ in range(3):
            assert refused(lambda: guest.read(damaged)) == errno.EIO
        assert guest.read(by_size[len(SCAN)]) == SCAN
    [event] = events(portal, "item-damaged")
    assert bad.id in event.details
    assert "bad.bin" not in gateway.log.read_text()


def test_it_works_while_redis_is_away(portal: Portal, patient: SignedIn, tmp_path: Path) -> None:
    with Gateway(portal, redis_url=f"unix://{tmp_path}/nobody.sock"):
        mine = up(claim(portal, patient, {"scan.bin": SCAN}))
        with mine.mount() as guest:
            guest.write("results/a", b"saved")
            end(portal, mine)
            wait_for(lambda: results_in_record(portal, patient) == {"results/a": b"saved"})


def test_an_orderly_stop_makes_open_results_durable(portal: Portal, patient: SignedIn) -> None:
    mine = claim(portal, patient, {"scan.bin": SCAN})
    gateway = Gateway(portal).start()
    guest = up(mine).mount()
    guest.pwrite(guest.create("results/open"), 0, b"not closed")
    assert gateway.stop() == 0
    with gateway, up(mine).mount() as again:
        assert again.read("results/open") == b"not closed"


def test_nothing_in_clear_is_left_in_the_home_or_the_log(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    mine = up(claim(portal, patient, {"scan-of-vera.bin": MARKER * 3000}))
    with mine.mount() as guest:
        [name] = [name for name, folder in guest.list() if not folder]
        assert guest.read(name) == MARKER * 3000
        guest.write("results/report-of-vera.txt", MARKER)
        end(portal, mine)
        wait_for(lambda: portal.redis.get(f"myphr:results:{mine.vm_session_id}"))
    for path in portal.settings.home.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert MARKER not in raw
            assert b"of-vera" not in raw
            assert mine.secret.encode() not in raw


# -- hostile guests -----------------------------------------------------------------------------------------
def test_a_flood_of_garbage_costs_the_others_nothing_but_time(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    hostile, good = up(claim(portal, patient, {"a.bin": SCAN})), up(claim(portal, patient, {"b.bin": SCAN + b"b"}))
    with good.mount() as guest:
        [name] = [name for name, folder in guest.list() if not folder]
        before = gateway.resident_bytes()
        chance = random.Random(7)
        for _ in range(300):
            try:
                with Client(hostile.socket) as bad:
                    bad.socket.sendall(chance.randbytes(4096))
            except OSError:
                pass  # hung up on, or its own door's queue is full
            if chance.random() < 0.1:
                assert guest.read(name) == SCAN + b"b"
        assert gateway.resident_bytes() - before < 64 << 20
    assert gateway.log.read_text().count("spoke no 9P2000.L") == 1


def test_a_hundred_thousand_bad_requests_are_each_refused(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    mine = up(claim(portal, patient, {"a.bin": SCAN}))
    with mine.mount() as guest:
        burst = b"".join(wire.encode(wire.TWALK, tag % 60 + 1, 0, 9, ("no-such-file",)) for tag in range(1000))
        before = gateway.resident_bytes()
        for _ in range(100):
            sender = threading.Thread(target=guest.socket.sendall, args=(burst,))
            sender.start()
            for _ in range(1000):
                kind, _, body = guest.receive()
                assert (kind, struct.unpack("<I", body)[0]) == (wire.RLERROR, errno.ENOENT)
            sender.join()
        assert gateway.resident_bytes() - before < 32 << 20
        [name] = [name for name, folder in guest.list() if not folder]
        assert guest.read(name) == SCAN


def test_a_guest_that_never_reads_holds_little_memory_and_stops_nobody(
    gateway: Gateway, portal: Portal, patient: SignedIn
) -> None:
    hostile = up(claim(portal, patient, {"a.bin": random.Random(3).randbytes(8 << 20)}))
    good = up(claim(portal, patient, {"b.bin": SCAN + b"b"}))
    with good.mount() as guest:
        [name] = [name for name, folder in guest.list() if not folder]
        before = gateway.resident_bytes()
        greedy = []
        for _ in range(4):
            client = hostile.mount()
            [big] = [found for found, folder in client.list() if not folder]
            fid = client.open(big)
            client.socket.setblocking(False)
            burst = b"".join(wire.encode(wire.TREAD, tag, fid, 0, 0xFFFFFFFF) for tag in range(1, 60)) * 50
            try:
                while True:
                    client.socket.send(burst)
            except BlockingIOError:
                pass
            greedy.append(client)
        for _ in range(20):
            assert guest.read(name) == SCAN + b"b"
        # Four connections: each 1 MiB unsent, 2 MiB being made, one message waiting; and the threads' own buffers.
        assert gateway.resident_bytes() - before < 64 << 20
        for client in greedy:
            client.close()


def test_connections_of_one_machine_are_limited(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    mine = up(claim(portal, patient, {"a.bin": SCAN}))
    held = [mine.mount() for _ in range(4)]
    with Client(mine.socket) as fifth, pytest.raises((ConnectionError, OSError)):
        fifth.mount(mine.vm_session_id, mine.secret)
    held.pop().close()
    time.sleep(0.1)
    mine.mount().close()
    for client in held:
        client.close()


def test_a_huge_message_is_refused_before_it_is_kept(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    mine = up(claim(portal, patient, {"a.bin": SCAN}))
    with mine.mount() as guest:
        before = gateway.resident_bytes()
        with pytest.raises((ConnectionError, OSError)):
            guest.socket.sendall(struct.pack("<IBH", 2**32 - 1, wire.TWRITE, 1))
            while True:
                guest.socket.sendall(bytes(1 << 20))
        assert gateway.resident_bytes() - before < 16 << 20


def test_a_big_read_of_one_does_not_hold_up_another(gateway: Gateway, portal: Portal, patient: SignedIn) -> None:
    big = up(claim(portal, patient, {"big.bin": random.Random(4).randbytes(64 << 20)}))
    small = up(claim(portal, patient, {"small.bin": SCAN}))
    with big.mount() as busy, small.mount() as guest:
        [name] = [name for name, folder in busy.list() if not folder]
        done = threading.Event()
        reads = 0

        def read_on() -> None:
            while not done.is_set():
                busy.read(name)

        thread = threading.Thread(target=read_on)
        thread.start()
        [other] = [name for name, folder in guest.list() if not folder]
        for _ in range(30):
            assert guest.read(other, piece=65_536) == SCAN
            reads += 1
        assert thread.is_alive()
        done.set()
        thread.join()
        assert reads == 30
