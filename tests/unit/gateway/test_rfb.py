"""The RFB cores as scripts: receive this, expect that. Byte by byte, hostile and random input included."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.gateway import rfb

PIXELS = struct.pack(">HH16s", 1024, 768, bytes.fromhex("20180001 00ff00ff00ff 100800 000000"))
SERVER_INIT = PIXELS + struct.pack(">I", 12) + b"QEMU (phr-7)"


def encodings(*codes: int) -> bytes:
    return struct.pack(f">BxH{len(codes)}i", 2, len(codes), *codes)


FORMAT = bytes([0, 0, 0, 0]) + PIXELS[4:]
UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, 1024, 768)
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
POINTER = struct.pack(">BBHH", 5, 1, 10, 20)
QEMU_KEY = struct.pack(">BBHII", 255, 0, 1, 0x61, 30)
CONTINUOUS = struct.pack(">BBHHHH", 150, 1, 0, 0, 1024, 768)
FENCE = struct.pack(">BxxxIB", 248, 1, 3) + b"abc"
XVP = bytes([250, 0, 1, 2])
RESIZE = struct.pack(">BxHHBx", 251, 800, 600, 1) + struct.pack(">IHHHHI", 1, 0, 0, 800, 600, 0)
GII = struct.pack(">BBH", 253, 0x81, 5) + b"12345"
CUT = struct.pack(">BxxxI", 6, 5) + b"hello"
EXTENDED_CUT = struct.pack(">BxxxiI", 6, -4, 0x01000001)
PASSING = encodings(0, 7, -32)

ALWAYS = [FORMAT, UPDATE, CONTINUOUS, FENCE, PASSING]
INPUT = [KEY, POINTER, QEMU_KEY, RESIZE]
DROPPED = [CUT, EXTENDED_CUT, XVP, GII]


# -- towards the hypervisor -----------------------------------------------------------------------
def test_vnc_response_agrees_with_a_known_answer():
    # The DES test vector 0123456789ABCDEF / "Now is t" with each key byte mirrored, as VNC does.
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in bytes.fromhex("0123456789abcdef")).decode("latin-1")
    assert rfb.vnc_response(key, b"Now is t" * 2) == bytes.fromhex("3fa40e8a984d4815") * 2


def test_only_eight_characters_of_a_password_count_and_short_ones_are_padded():
    assert rfb.vnc_response("12345678", bytes(16)) == rfb.vnc_response("12345678TAIL", bytes(16))
    assert rfb.vnc_response("abc", bytes(16)) == rfb.vnc_response("abc\0\0\0\0\0", bytes(16))
    assert rfb.vnc_response("abc", bytes(16)) != rfb.vnc_response("abd", bytes(16))


SCRIPT = [
    (b"RFB 003.008\n", b"RFB 003.008\n"),
    (b"\x01\x02", b"\x02"),
    (bytes(range(16)), rfb.vnc_response("secret!`", bytes(range(16)))),
    (bytes(4), b"\x01"),
    (SERVER_INIT, b""),
]


def test_the_hypervisor_handshake_follows_the_script():
    handshake = rfb.HypervisorHandshake("secret!`")
    for received, expected in SCRIPT:
        assert not handshake.done
        assert handshake.receive(received) == expected
    assert handshake.done
    assert handshake.server_init == PIXELS
    assert handshake.rest == b""


def test_the_hypervisor_handshake_in_single_bytes_and_the_rest_is_kept():
    handshake = rfb.HypervisorHandshake("secret!`")
    stream = b"".join(received for received, _ in SCRIPT)
    sent = b"".join(handshake.receive(bytes([byte])) for byte in stream)
    assert sent == b"".join(expected for _, expected in SCRIPT)
    assert handshake.done
    assert handshake.receive(b"\x00\x00picture") == b""
    assert handshake.rest == b"\x00\x00picture"


def test_the_shared_flag_is_always_set():
    handshake = rfb.HypervisorHandshake("x")
    sent = [handshake.receive(received) for received, _ in SCRIPT]
    assert sent[3] == b"\x01"


@pytest.mark.parametrize(("stream", "reason"), [
    (b"RFB 003.003\n", "3.8"),
    (b"HTTP/1.1 500", "3.8"),
    (b"RFB 003.008\n\x01\x01", "authentication"),
    (b"RFB 003.008\n\x02\x01\x13", "authentication"),
    (b"RFB 003.008\n\x00\x00\x00\x00\x05later", "refused"),
    (b"RFB 003.008\n\x01\x02" + bytes(16) + b"\0\0\0\x01\0\0\0\x15Authentication failed", "password"),
    (b"RFB 003.008\n\x01\x02" + bytes(20) + PIXELS + b"\0\0\x10\x01", "name"),
    (b"RFB 003.008\n\x01\x02" + bytes(20) + PIXELS + b"\xff\xff\xff\xff", "name"),
])  # fmt: skip
def test_a_hypervisor_that_leaves_the_script_is_refused(stream, reason):
    with pytest.raises(rfb.RfbError, match=reason):
        rfb.HypervisorHandshake("x").receive(stream)


def test_the_longest_name_is_taken():
    handshake = rfb.HypervisorHandshake("x")
    handshake.receive(b"RFB 003.008\n\x01\x02" + bytes(20) + PIXELS + b"\0\0\x10\0" + b"n" * 4096)
    assert handshake.done


# -- towards the browser --------------------------------------------------------------------------
def test_the_browser_is_offered_none_and_gets_server_init_without_the_machines_name():
    handshake = rfb.BrowserHandshake(PIXELS)
    assert handshake.begin() == b"RFB 003.008\n"
    assert handshake.receive(b"RFB 003.008\n") == b"\x01\x01"
    assert handshake.receive(b"\x01") == bytes(4)
    assert handshake.receive(b"\x00" + UPDATE) == PIXELS + b"\0\0\0\x06screen"
    assert handshake.done
    assert handshake.rest == UPDATE


@pytest.mark.parametrize(
    "stream", [b"RFB 003.003\n", b"RFB 003.889\n", b"GET / HTTP/1", b"RFB 003.008\n\x02", b"RFB 003.008\n\x00"]
)
def test_a_browser_that_leaves_the_script_is_refused(stream):
    with pytest.raises(rfb.RfbError):
        rfb.BrowserHandshake(PIXELS).receive(stream)


# -- the filter -----------------------------------------------------------------------------------
@pytest.mark.parametrize("message", ALWAYS)
@pytest.mark.parametrize("view_only", [True, False])
def test_messages_that_only_ask_for_pictures_pass(message, view_only):
    assert rfb.ClientMessages(view_only=view_only).feed(message) == message


@pytest.mark.parametrize("message", INPUT)
def test_input_passes_with_control_and_not_with_view(message):
    assert rfb.ClientMessages(view_only=False).feed(message) == message
    assert rfb.ClientMessages(view_only=True).feed(message) == b""
    assert rfb.ClientMessages(view_only=True).feed(message + UPDATE) == UPDATE


@pytest.mark.parametrize("message", DROPPED)
@pytest.mark.parametrize("view_only", [True, False])
def test_clipboard_and_power_are_dropped_for_everybody(message, view_only):
    assert rfb.ClientMessages(view_only=view_only).feed(message + UPDATE) == UPDATE


def test_clipboard_passes_when_allowed_but_never_for_view_only():
    assert rfb.ClientMessages(view_only=False, clipboard=True).feed(CUT + EXTENDED_CUT) == CUT + EXTENDED_CUT
    assert rfb.ClientMessages(view_only=True, clipboard=True).feed(CUT + EXTENDED_CUT) == b""


def test_input_is_noticed_once_and_only_when_it_passes():
    control, view = rfb.ClientMessages(view_only=False), rfb.ClientMessages(view_only=True)
    for messages in (control, view):
        messages.feed(UPDATE)
        assert not messages.take_input()
        messages.feed(KEY)
    assert control.take_input()
    assert not control.take_input()
    assert not view.take_input()


def test_encodings_that_invite_what_we_drop_are_taken_out():
    asked = encodings(1, 7, -223, -307, -308, -309, -316, -259, -305, 0xC0A1E5CE - (1 << 32), 123456, 0)
    assert rfb.ClientMessages(view_only=True).feed(asked) == encodings(1, 7, -223, 0)
    assert rfb.ClientMessages(view_only=False).feed(asked) == encodings(1, 7, -223, -308, 0)
    with_clipboard = rfb.ClientMessages(view_only=False, clipboard=True).feed(asked)
    assert with_clipboard == encodings(1, 7, -223, -308, 0xC0A1E5CE - (1 << 32), 0)


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(rfb._HEADER_BYTES)))
def test_every_unknown_type_is_refused(kind):
    with pytest.raises(rfb.RfbError, match=str(kind)):
        rfb.ClientMessages(view_only=False).feed(UPDATE + bytes([kind]) + bytes(30))


@pytest.mark.parametrize(("good", "bad"), [
    (struct.pack(">BxH", 2, 256) + bytes(1024), struct.pack(">BxH", 2, 257)),
    (struct.pack(">BxHHBx", 251, 8, 8, 16) + bytes(256), struct.pack(">BxHHBx", 251, 8, 8, 17)),
    (struct.pack(">BxxxIB", 248, 0, 64) + bytes(64), struct.pack(">BxxxIB", 248, 0, 65)),
    (struct.pack(">BxxxI", 6, 1 << 20), struct.pack(">BxxxI", 6, (1 << 20) + 1)),
    (struct.pack(">Bxxxi", 6, -(1 << 20)), struct.pack(">Bxxxi", 6, -(1 << 20) - 1)),
    (struct.pack(">Bxxxi", 6, 0), struct.pack(">Bxxxi", 6, -(1 << 31))),
    (QEMU_KEY, b"\xff\x01" + bytes(10)),
])  # fmt: skip
def test_each_limit_has_two_sides(good, bad):
    rfb.ClientMessages(view_only=False).feed(good)
    with pytest.raises(rfb.RfbError):
        rfb.ClientMessages(view_only=False).feed(bad)


def test_what_is_held_is_bounded():
    messages = rfb.ClientMessages(view_only=True)
    generator = random.Random(7)
    flood = b"".join(generator.choice(ALWAYS + INPUT + DROPPED) for _ in range(20_000))
    most = 0
    place = 0
    while place < len(flood):
        size = generator.randrange(1, 90)
        messages.feed(flood[place : place + size])
        place += size
        most = max(most, len(messages._held))
    assert most <= 4 + 4 * rfb.ENCODINGS_MAX


MESSAGES = st.lists(st.sampled_from(ALWAYS + INPUT + DROPPED), max_size=30)


@given(MESSAGES, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_however_the_stream_is_cut_the_result_is_the_same(chosen, view_only, clipboard, generator):
    stream = b"".join(chosen)
    whole = rfb.ClientMessages(view_only=view_only, clipboard=clipboard).feed(stream)
    cut = rfb.ClientMessages(view_only=view_only, clipboard=clipboard)
    parts, place = [], 0
    while place < len(stream):
        size = generator.randrange(1, 12)
        parts.append(cut.feed(stream[place : place + size]))
        place += size
    assert b"".join(parts) == whole
    byte_by_byte = rfb.ClientMessages(view_only=view_only, clipboard=clipboard)
    assert b"".join(byte_by_byte.feed(stream[i : i + 1]) for i in range(len(stream))) == whole


def _types_of(stream: bytes) -> set[int]:
    """An independent reader of a stream of complete messages."""
    kinds, place = set(), 0
    while place < len(stream):
        kind = stream[place]
        kinds.add(kind)
        if kind == 2:
            place += 4 + 4 * struct.unpack_from(">H", stream, place + 2)[0]
        elif kind == 248:
            place += 9 + stream[place + 8]
        elif kind == 251:
            place += 8 + 16 * stream[place + 6]
        else:
            place += {0: 20, 3: 10, 4: 8, 5: 6, 150: 10, 255: 12}[kind]
    assert place == len(stream)
    return kinds


@given(st.lists(st.binary(max_size=60), max_size=20))
@settings(max_examples=400)
def test_random_bytes_never_bring_input_past_a_view_only_filter(pieces):
    messages = rfb.ClientMessages(view_only=True)
    passed = b""
    try:
        for piece in pieces:
            passed += messages.feed(piece)
    except rfb.RfbError:
        pass
    assert _types_of(passed) <= {0, 2, 3, 150, 248}


@given(MESSAGES, st.data())
@settings(max_examples=200)
def test_a_damaged_stream_never_brings_input_past_a_view_only_filter(chosen, data):
    stream = bytearray(b"".join(chosen))
    for _ in range(data.draw(st.integers(0, 5))):
        if stream:
            stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    messages = rfb.ClientMessages(view_only=True)
    passed = b""
    try:
        for place in range(0, len(stream), 7):
            passed += messages.feed(bytes(stream[place : place + 7]))
    except rfb.RfbError:
        pass
    assert _types_of(passed) <= {0, 2, 3, 150, 248}


@given(st.binary(max_size=200), st.integers(1, 9))
def test_random_bytes_never_crash_a_handshake(stream, size):
    for handshake in (rfb.HypervisorHandshake("x"), rfb.BrowserHandshake(PIXELS)):
        try:
            for place in range(0, len(stream), size):
                handshake.receive(b"RFB 003.008\n" + stream if place == 0 else stream[place : place + size])
        except rfb.RfbError:
            pass
