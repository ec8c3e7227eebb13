"""The bytes of one DICOM association's socket, PDU by PDU, bounded in size and time. Knows PDU headers and no more.

Called by `receiver.association` and by `ingest.pacs.requestor`."""

import socket
import struct
import time

from myphr.ingest.dimse import upper_layer

PDU_BYTES_MAX = 1024**2  # we announce 128 KiB; an association request of a big archive has some 20 KiB
ANNOUNCED_PDU_BYTES = 128 * 1024
PDU_SECONDS_MAX = 60.0
_LINE_BYTES = 2 * ANNOUNCED_PDU_BYTES


class Line:
    """The bytes of one socket, PDU by PDU, out of one buffer."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = memoryview(bytearray(_LINE_BYTES))
        self._at = self._end = 0

    def read_pdu(self, wait_seconds: float, pdu_seconds: float) -> tuple[int, memoryview]:
        """Type and body of the next PDU; the body stands until the next call. Raises EOFError when there is none,
        OSError for a peer that takes too long and for a PDU that nobody sends."""
        deadline = time.monotonic() + wait_seconds
        if self._at == self._end:
            self._at = self._end = 0
            self._receive(deadline)
        deadline = min(deadline, time.monotonic() + pdu_seconds)
        self._need(upper_layer.HEADER_BYTES, deadline)
        kind, _, size = struct.unpack_from(">BBI", self._buffer, self._at)
        if size > PDU_BYTES_MAX:
            raise OSError("the announced PDU passes the limit")  # nothing to say to such a peer
        self._at += upper_layer.HEADER_BYTES
        self._need(size, deadline)
        body = self._buffer[self._at : self._at + size]
        self._at += size
        return kind, body

    def comes(self, seconds: float) -> bool:
        """Whether something of the next PDU is there, or comes within these seconds. Raises EOFError, OSError."""
        if self._at < self._end:
            return True
        self._at = self._end = 0
        try:
            self._receive(time.monotonic() + seconds)
        except TimeoutError:
            return False
        return True

    def _need(self, size: int, deadline: float) -> None:
        if self._at + size > len(self._buffer):
            held = self._buffer[self._at : self._end]
            larger = memoryview(bytearray(size)) if size > len(self._buffer) else self._buffer
            larger[: len(held)] = bytes(held)
            self._buffer, self._at, self._end = larger, 0, len(held)
        while self._end - self._at < size:
            self._receive(deadline)

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the peer takes too long")
        self.socket.settimeout(left)
        got = self.socket.recv_into(self._buffer[self._end :])
        if not got:
            raise EOFError
        self._end += got

    def send(self, data: bytes) -> None:
        """Raises OSError, also for a peer that does not read."""
        self.socket.settimeout(PDU_SECONDS_MAX)
        self.socket.sendall(data)
