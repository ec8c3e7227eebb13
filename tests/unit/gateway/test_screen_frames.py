"""Frames of the hypervisor, however they are cut; our own headers in front of every piece."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.gateway.rfb import RfbError
from myphr.gateway.screen_frames import HEADROOM, FrameReader, client_frame, client_frames, reframe


def frame(payload: bytes, opcode: int = 2, fin: bool = True) -> bytes:
    first = (0x80 if fin else 0) | opcode
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    if len(payload) < 65_536:
        return struct.pack(">BBH", first, 126, len(payload)) + payload
    return struct.pack(">BBQ", first, 127, len(payload)) + payload


def unframed(data: bytes) -> bytes:
    """An independent reader of unmasked frames as a browser gets them."""
    payload, place = b"", 0
    while place < len(data):
        assert data[place] == 0x82
        size, place = data[place + 1], place + 2
        if size == 126:
            (size,) = struct.unpack_from(">H", data, place)
            place += 2
        elif size == 127:
            (size,) = struct.unpack_from(">Q", data, place)
            place += 8
        assert place + size <= len(data)
        payload += data[place : place + size]
        place += size
    return payload


def through(stream: bytes, cuts: list[int]) -> tuple[bytes, list[bytes], FrameReader]:
    """What the browser is sent when the stream arrives cut like that."""
    reader, sent, replies, place = FrameReader(), b"", [], 0
    for end in [*cuts, len(stream)]:
        if end <= place:
            continue
        piece = reader.held + stream[place:end]
        buffer = bytearray(HEADROOM) + bytearray(piece)
        pieces, answers = reader.scan(buffer, HEADROOM, len(buffer))
        for first, last in reframe(buffer, pieces):
            sent += bytes(buffer[first:last])
        replies += answers
        place = end
    return sent, replies, reader


@given(
    st.lists(st.sampled_from([0, 1, 2, 124, 125, 126, 127, 300, 65_535, 65_536, 70_000]), max_size=6),
    st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_however_frames_arrive_the_browser_gets_whole_frames_with_the_same_bytes(sizes, seed):
    generator = random.Random(seed)
    payloads = [generator.randbytes(size) for size in sizes]
    stream = b"".join(frame(payload) for payload in payloads)
    cuts = sorted(generator.randrange(len(stream) + 1) for _ in range(generator.randrange(12))) if stream else []
    sent, _, _ = through(stream, cuts)
    assert unframed(sent) == b"".join(payloads)


def test_byte_by_byte():
    payloads = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 700]
    stream = b"".join(frame(payload) for payload in payloads)
    sent, _, _ = through(stream, list(range(1, len(stream))))
    assert unframed(sent) == b"".join(payloads)


def test_control_frames_are_taken_out_and_pings_answered():
    stream = frame(b"ab") + frame(b"hello", 9) + frame(b"", 9) + frame(b"x", 10) + frame(b"cd")
    for cuts in ([], list(range(1, len(stream)))):
        sent, replies, reader = through(stream, cuts)
        assert unframed(sent) == b"abcd"
        assert [(reply[0], reply[1] & 0x7F) for reply in replies] == [(0x8A, 5), (0x8A, 0)]
        assert not reader.closed


def test_a_close_frame_ends_it_and_the_rest_is_ignored():
    for close in (frame(b"", 8), frame(b"\x03\xe8bye", 8)):
        sent, _, reader = through(frame(b"ab") + close + frame(b"cd"), [])
        assert unframed(sent) == b"ab"
        assert reader.closed


def test_fragments_of_a_server_are_a_stream_to_us():
    sent, _, _ = through(frame(b"ab", 2, fin=False) + frame(b"", 9) + frame(b"cd", 0), [])
    assert unframed(sent) == b"abcd"


@pytest.mark.parametrize("wrong", [
    b"\x82\x81....x", b"\xc2\x01x", b"\x81\x01x", b"\x83\x01x", b"\x89\x7e\x00\x7e", b"\x09\x00",
    b"\x82\x7f" + b"\xff" * 8,
])  # fmt: skip
def test_what_a_server_must_not_send_is_refused(wrong):
    with pytest.raises(RfbError):
        through(wrong, [])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_random_bytes_never_crash_the_reader(stream, cuts):
    try:
        sent, _, _ = through(stream, sorted(cut for cut in cuts if cut <= len(stream)))
    except RfbError:
        return
    unframed(sent)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 65_535, 65_536])
def test_our_frames_are_masked_whole_and_undo_to_the_payload(size):
    payload = random.Random(size).randbytes(size)
    made = client_frame(payload)
    assert made[0] == 0x82 and made[1] & 0x80
    head = {126: 4, 127: 10}.get(made[1] & 0x7F, 2)
    key, body = made[head : head + 4], made[head + 4 :]
    assert bytes(byte ^ key[place % 4] for place, byte in enumerate(body)) == payload


def test_no_frame_of_ours_is_larger_than_64_kib():
    with pytest.raises(ValueError):
        client_frame(bytes(65_537))
    made = client_frames(bytes(65_536 + 3))
    assert len(made) == (10 + 4 + 65_536) + (2 + 4 + 3)
