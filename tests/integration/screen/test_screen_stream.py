"""The stream itself: what a hostile browser sends, what a slow one takes, what happens when a side dies."""

import base64
import os
import signal
import socket
import struct
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed

from myphr.sharing import live
from tests.integration.screen.browser import KEY_ESCAPE, POINTER, UPDATE
from tests.integration.screen.conftest import PUBLIC_URL, Stage
from tests.integration.screen.machines import FakeVnc, wait_for

MIB = 1024 * 1024
CUT = struct.pack(">BxxxI", 6, 5) + b"hello"
QEMU_KEY = struct.pack(">BBHII", 255, 0, 1, 0x61, 30)
RESIZE = struct.pack(">BxHHBx", 251, 800, 600, 1) + struct.pack(">IHHHHI", 1, 0, 0, 800, 600, 0)


# -- what a browser sends -------------------------------------------------------------------------
def test_a_hostile_viewers_bytes_never_reach_the_machine(stage: Stage, fake):
    share, visit = stage.share("view")
    with stage.connect(stage.share_ticket(share, visit)).open() as viewer:
        for message in (KEY_ESCAPE, POINTER, QEMU_KEY, CUT, RESIZE, bytes([250, 0, 1, 2])):
            viewer.send(message)
            for place in range(len(message)):
                viewer.send(message[place : place + 1])
        viewer.send(UPDATE)
        wait_for("the request", lambda: fake.received)
    assert fake.received == UPDATE


def test_the_machine_gets_exactly_what_a_controller_sent(stage: Stage, fake):
    with stage.connect().open() as owner:
        sent = b"".join(struct.pack(">BBHH", 5, 0, x % 1000, x % 700) for x in range(50_000))
        for place in range(0, len(sent), 10_001):
            owner.send(sent[place : place + 10_001])
        wait_for("all of it", lambda: len(fake.received) == len(sent))
    assert fake.received == sent


def test_the_shared_flag_is_forced(stage: Stage, fake):
    stage.connect().open(client_init=b"\x00").__exit__()
    assert fake.client_inits == [1]


@pytest.mark.parametrize("message", [b"\x07", b"\xfc" * 100, b"\xff\x01" + bytes(10), struct.pack(">BxH", 2, 65_535)])
def test_an_unknown_message_closes_the_screen(stage: Stage, fake, message):
    with stage.connect().open() as owner:
        owner.send(UPDATE + message)
        assert owner.close_code() == 4400
    assert fake.received == b""


def test_text_closes_the_screen(stage: Stage):
    with stage.connect().open() as owner:
        owner.socket.send("hello")
        assert owner.close_code() == 4400


def test_a_browser_that_speaks_first_is_refused(stage: Stage):
    with stage.connect() as owner:
        owner.send(b"RFB 003.008\n" + b"\x01\x01")
        assert owner.close_code() in (4400, 1006)


def test_a_frame_larger_than_any_browser_sends_cuts_the_line(stage: Stage, fake):
    with stage.connect().open() as owner, pytest.raises(ConnectionClosed):
        owner.send(UPDATE * 100_000)
        owner.take(1)
    assert fake.received == b""


def test_fragmented_messages_of_a_browser_reach_the_machine_whole(stage: Stage, fake):
    with stage.connect().open() as owner:
        owner.socket.send([UPDATE[:3], UPDATE[3:4], UPDATE[4:]])
        wait_for("the request", lambda: fake.received == UPDATE)


def test_random_bytes_from_many_browsers_do_not_hurt_the_one_who_works(stage: Stage, fake):
    with stage.connect(stage.share_ticket(*stage.share("control"))).open() as caregiver:
        for _ in range(30):
            with stage.connect().open() as hostile:
                try:
                    for _ in range(5):
                        hostile.send(b"\x03" + os.urandom(200))
                except ConnectionClosed:
                    pass
        fake.received = b""
        caregiver.send(UPDATE)
        wait_for("the request", lambda: fake.received.endswith(UPDATE))
        assert stage.gateway.process.poll() is None


# -- amounts --------------------------------------------------------------------------------------
def _pour(amount: int):
    """A machine that sends `amount` bytes of a known pattern once it was asked for a picture."""
    block = bytes(range(256)) * 256

    def behave(server: FakeVnc, connection: socket.socket) -> None:
        connection.recv(100)
        for _ in range(amount // len(block)):
            connection.sendall(block)
        server.record(connection)

    return behave


def test_what_a_machine_sends_arrives_whole_and_in_order(stage: Stage, fake):
    fake.behave = _pour(64 * MIB)
    with stage.connect().open() as owner:
        owner.send(UPDATE)
        block = bytes(range(256)) * 256
        for _ in range(64 * MIB // len(block)):
            assert owner.take(len(block)) == block


def test_a_slow_reader_of_200_mb_costs_no_memory_and_loses_nothing(stage: Stage, fake):
    amount = 200 * MIB
    fake.behave = _pour(amount)
    with stage.connect().open() as quick:
        fake.behave = _pour(amount)
        slow = stage.connect(stage.share_ticket(*stage.share())).open()
        quick.send(UPDATE)
        before = stage.gateway.memory()
        slow.send(UPDATE)
        for _ in range(amount // MIB):
            quick.take(MIB)  # all of it passes while the slow one takes nothing
        assert stage.gateway.memory("VmHWM") - before < 8 * MIB
        block = bytes(range(256)) * 4096
        for _ in range(amount // MIB):
            assert slow.take(MIB) == block
        assert stage.gateway.memory("VmHWM") - before < 8 * MIB
        slow.__exit__()


def test_a_flood_of_input_that_the_machine_does_not_take_costs_no_memory(stage: Stage, fake):
    go_on = threading.Event()

    def deaf(server: FakeVnc, connection: socket.socket) -> None:
        go_on.wait(60)
        server.record(connection)

    fake.behave = deaf
    with stage.connect().open() as owner:
        before = stage.gateway.memory()
        flood = POINTER * 1600
        sent = 0

        def send_all() -> None:
            nonlocal sent
            for _ in range(6000):
                owner.send(flood)
                sent += len(flood)

        sender = threading.Thread(target=send_all)
        sender.start()
        last = -1
        while last != sent:  # until the back-pressure has reached the browser
            last = sent
            time.sleep(0.5)
        assert sent < 6000 * len(flood)
        assert stage.gateway.memory("VmHWM") - before < 8 * MIB
        go_on.set()
        sender.join(120)
        wait_for("all input", lambda: len(fake.received) == 6000 * len(flood), seconds=120)
        assert stage.gateway.memory("VmHWM") - before < 32 * MIB  # 55 MiB have passed


# -- a side dies ----------------------------------------------------------------------------------
def test_a_machine_that_dies_closes_the_screen(stage: Stage, fake):
    with stage.connect().open() as owner:
        stage.pve.cut_all()
        assert owner.close_code() == 4502
    with stage.connect().open() as owner:  # and the next one works, through a fresh console
        owner.send(UPDATE)
        wait_for("the request", lambda: fake.received == UPDATE)
    assert (stage.pve.consoles, stage.pve.connections) == (2, 2)


def test_a_wrong_console_password_closes_the_screen(stage: Stage, fake):
    stage.pve.machines[stage.vmid] = (fake.path, "another")
    assert stage.connect().close_code() == 4502
    wait_for("the reason", lambda: "password" in stage.gateway.log)


def test_a_machine_room_that_does_not_answer_closes_the_screen(stage: Stage):
    stage.pve.machines.clear()
    assert stage.connect().close_code() == 4502


def test_a_machine_room_with_a_foreign_certificate_is_not_trusted(make_stage, fake, folder):
    from tests.integration.screen.pve_like import make_certificate

    stage = make_stage(fake.path, fake.password)
    other = folder / "other"
    other.mkdir()
    stage.pve.ca_file, _ = make_certificate(other)
    assert stage.connect().close_code() == 4502
    assert fake.client_inits == []


def test_many_reconnections_leave_nothing_behind(stage: Stage, fake):
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{stage.gateway.process.pid}/fd"))

    for _ in range(5):
        stage.connect().open().__exit__()
    wait_for("the screens to be gone", lambda: live.presence(stage.portal.redis, stage.vm_session_id) == [])
    before = descriptors()
    for _ in range(40):
        stage.connect().open().__exit__()
    wait_for("the screens to be gone", lambda: live.presence(stage.portal.redis, stage.vm_session_id) == [])
    # Pools of the database and Redis may grow with how many asked at once; a leak would be one for each of the 40.
    wait_for("all sockets to be closed", lambda: descriptors() < before + 20)


def test_sigterm_tells_the_browsers_to_come_back(stage: Stage):
    with stage.connect().open() as owner, stage.connect(stage.share_ticket(*stage.share())).open() as viewer:
        stage.gateway.process.send_signal(signal.SIGTERM)
        assert (owner.close_code(), viewer.close_code()) == (1012, 1012)
    assert stage.gateway.process.wait(30) == 0
    assert live.presence(stage.portal.redis, stage.vm_session_id) == []
    assert "Traceback" not in stage.gateway.log


def test_after_kill_9_a_new_gateway_serves_at_once(stage: Stage, fake):
    with stage.connect().open() as owner:
        stage.gateway.process.kill()
        assert owner.close_code() == 1006
    stage.start_gateway()
    with stage.connect().open() as owner:
        owner.send(UPDATE)
        wait_for("the request", lambda: fake.received == UPDATE)


def test_a_browser_that_answers_no_ping_is_let_go_and_one_that_does_stays(stage: Stage, fake):
    gateway = stage.start_gateway(TICK_SECONDS=0.1, PING_SECONDS=0.3, SILENT_SECONDS_MAX=2)
    with stage.connect().open() as alive:
        host, port = gateway.address.split(":")
        with socket.create_connection((host, int(port))) as mute:
            key = base64.b64encode(os.urandom(16)).decode()
            mute.sendall(
                "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {key}\r\nOrigin: {PUBLIC_URL}\r\n"
                f"Sec-WebSocket-Protocol: myphr.screen.1, ticket.{stage.owner_ticket()}\r\n\r\n".encode()
            )
            received = b""
            while more := mute.recv(4096):
                received += more
        assert b"101 Switching" in received
        assert b"\x89\x00" in received  # pings came
        assert struct.pack(">H", 4408) in received
        alive.send(UPDATE)
        wait_for("the request", lambda: fake.received == UPDATE)
