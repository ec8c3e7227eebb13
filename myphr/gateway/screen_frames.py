"""WebSocket frames (RFC 6455, section 5) as the screen gateway needs them towards the hypervisor. Pure.

RFB is a stream of bytes, so a frame need not be whole before its bytes go on: `FrameReader.scan` finds payload in a
buffer that all screens share, and `reframe` writes our own frame headers in place, in front of each piece. One copy
in, one copy out, and no screen owns a buffer of the size of its largest frame.
"""

import os
import struct

from myphr.gateway.rfb import RfbError

HEADROOM = 16  # free bytes before the data in a shared buffer: room for one frame header
FRAME_BYTES_MAX = 65_536  # towards the hypervisor: a larger or fragmented frame kills Proxmox's worker
CONTROL_BYTES_MAX = 125
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


def client_frame(payload: bytes, opcode: int = _BINARY) -> bytes:
    """One masked, unfragmented frame. Raises ValueError beyond FRAME_BYTES_MAX."""
    size = len(payload)
    if size > FRAME_BYTES_MAX:
        raise ValueError("frame too large")
    key = os.urandom(4)
    masked = int.from_bytes(payload, "little") ^ int.from_bytes((key * (size // 4 + 1))[:size], "little")
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + key + masked.to_bytes(size, "little")


def client_frames(payload: bytes) -> bytes:
    """As many frames as `payload` needs."""
    if len(payload) <= FRAME_BYTES_MAX:
        return client_frame(payload)
    return b"".join(
        client_frame(payload[place : place + FRAME_BYTES_MAX]) for place in range(0, len(payload), FRAME_BYTES_MAX)
    )


def server_header(size: int) -> bytes:
    """Header of an unmasked binary frame of `size` bytes."""
    if size < 126:
        return bytes((0x82, size))
    if size < 65_536:
        return struct.pack(">BBH", 0x82, 126, size)
    return struct.pack(">BBQ", 0x82, 127, size)


def reframe(buffer: bytearray, pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Writes a frame header in front of each piece of payload in `buffer` and returns the ranges to send.

    There is always room: before a piece lies the header it came with, which is no shorter than ours, or HEADROOM."""
    ranges: list[tuple[int, int]] = []
    for start, end in pieces:
        head = server_header(end - start)
        first = start - len(head)
        buffer[first:start] = head
        if ranges and ranges[-1][1] == first:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((first, end))
    return ranges


class FrameReader:
    """Reads the hypervisor's frames. `held` is the beginning of a header: put it before the next bytes."""

    __slots__ = ("_control", "_control_left", "_left", "_opcode", "closed", "held")

    def __init__(self) -> None:
        self.held = b""
        self.closed = False
        self._left = 0  # payload of the current data frame still to come
        self._opcode = 0  # of a control frame that is being read
        self._control = b""
        self._control_left = 0

    def scan(self, buffer: bytearray, start: int, end: int) -> tuple[list[tuple[int, int]], list[bytes]]:
        """The ranges of payload in buffer[start:end], and frames to answer with (pongs).

        Sets `closed` at a close frame and ignores what follows. Raises RfbError on what a server must not send."""
        pieces: list[tuple[int, int]] = []
        replies: list[bytes] = []
        self.held = b""
        while start < end and not self.closed:
            if self._left:
                stop = min(end, start + self._left)
                pieces.append((start, stop))
                self._left -= stop - start
                start = stop
                continue
            if self._control_left:
                stop = min(end, start + self._control_left)
                self._control += bytes(buffer[start:stop])
                self._control_left -= stop - start
                start = stop
                if not self._control_left:
                    self._finish_control(replies)
                continue
            header = self._header(buffer, start, end)
            if not header:
                self.held = bytes(buffer[start:end])
                break
            start += header
            if self._opcode and not self._control_left:
                self._finish_control(replies)
        return pieces, replies

    def _header(self, buffer: bytearray, start: int, end: int) -> int:
        """Takes one header; returns its length, 0 if it is not all there."""
        if end - start < 2:
            return 0
        first, second = buffer[start], buffer[start + 1]
        if first & 0x70 or second & 0x80:
            raise RfbError("hypervisor sent a masked or compressed frame")
        opcode, size, header = first & 0x0F, second, 2
        if size >= 126:
            header = 4 if size == 126 else 10
            if end - start < header:
                return 0
            size = int.from_bytes(buffer[start + 2 : start + header], "big")
            if size >> 63:
                raise RfbError("hypervisor sent an impossible length")
        if opcode in (_CLOSE, _PING, _PONG):
            if size > CONTROL_BYTES_MAX or not first & 0x80:
                raise RfbError("hypervisor sent a malformed control frame")
            self._opcode, self._control, self._control_left = opcode, b"", size
        elif opcode in (0, _BINARY):
            self._left = size
        else:
            raise RfbError("hypervisor sent a frame that is not binary")
        return header

    def _finish_control(self, replies: list[bytes]) -> None:
        if self._opcode == _CLOSE:
            self.closed = True
        elif self._opcode == _PING:
            replies.append(client_frame(self._control, _PONG))
        self._opcode = 0

    def read(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        """`scan` for bytes: the payloads and the replies. For the handshake, where speed does not matter."""
        buffer = bytearray(self.held + data)
        pieces, replies = self.scan(buffer, 0, len(buffer))
        return [bytes(buffer[first:last]) for first, last in pieces], replies
