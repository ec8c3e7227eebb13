"""The hypervisor's side of one open screen: reads its picture data into a buffer that all screens share.

Uses the bare socket and the loop's readiness calls instead of a transport: a TLS transport keeps 190 KB a connection
for its buffers, this keeps what OpenSSL needs. `on_picture` is called while the shared buffer holds the data and must
be done with it when it returns. Called by `myphr.gateway.screen`; knows nothing of rights.
"""

import asyncio
import collections
import socket
import ssl
from collections.abc import Callable

from myphr.gateway.rfb import RfbError
from myphr.gateway.screen_dial import Dialled
from myphr.gateway.screen_frames import HEADROOM, client_frames, reframe

CHUNK_BYTES = 256 * 1024  # most that one screen takes before the others have their turn
QUEUE_BYTES_MAX = 64 * 1024  # input that the hypervisor has not taken yet; beyond it the browser is not read
_TLS_RECORD_BYTES = 16_384


class SharedBuffer:
    """One per event loop. Safe to share, because a reader fills and empties it without yielding."""

    def __init__(self) -> None:
        self.bytes = bytearray(HEADROOM + CHUNK_BYTES)
        self.view = memoryview(self.bytes)


class Upstream:
    """One authenticated console. `on_picture(view)` gets ranges that are ready for the browser's socket: whole,
    unmasked WebSocket frames. `on_room` tells that input is wanted again, `on_lost` that it is over (once)."""

    __slots__ = (
        "_fd", "_loop", "_on_lost", "_on_picture", "_on_room", "_queue", "_queued_bytes", "_read_into", "_reading",
        "_shared", "_slice",
        "_sock", "_tls", "_writing", "dialled",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dialled: Dialled,
        shared: SharedBuffer,
        *,
        on_picture: Callable[[memoryview], None],
        on_room: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._loop, self._shared, self.dialled = loop, shared, dialled
        self._sock: socket.socket | None = dialled.sock
        self._fd = dialled.sock.fileno()
        self._tls = isinstance(dialled.sock, ssl.SSLSocket)
        self._read_into = dialled.sock.recv_into
        self._on_picture, self._on_room, self._on_lost = on_picture, on_room, on_lost
        self._queue: collections.deque[bytes] = collections.deque()
        self._queued_bytes = 0
        self._slice = b""  # what TLS was offered and must be offered again unchanged
        self._reading = self._writing = False

    # -- picture ----------------------------------------------------------------------------------
    def resume(self) -> None:
        if self._sock is not None and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def deliver_early(self) -> None:
        """What came together with the end of the handshake."""
        early, self.dialled.early = self.dialled.early, b""
        if early:
            self._shared.bytes[HEADROOM : HEADROOM + len(early)] = early
            self._deliver([(HEADROOM, HEADROOM + len(early))])

    def _readable(self) -> None:
        if self._sock is None:
            return
        shared, reader = self._shared, self.dialled.reader
        start = HEADROOM
        if reader is not None and reader.held:
            start += len(reader.held)
            shared.bytes[HEADROOM:start] = reader.held
        try:
            end = self._fill(shared.view, start)
            if end == start:
                return
            if reader is None:
                self._deliver([(HEADROOM, end)])
                return
            pieces, replies = reader.scan(shared.bytes, HEADROOM, end)
            if pieces:
                self._deliver(pieces)
            for reply in replies:
                self._send(reply)
            if reader.closed:
                self._lose()
        except (OSError, RfbError):
            self._lose()

    def _fill(self, view: memoryview, start: int) -> int:
        """Reads what is there, up to a chunk. Returns its end. Raises ConnectionError at the end of the stream."""
        if not self._tls:
            try:
                got = self._read_into(view[start:])
            except (BlockingIOError, InterruptedError):
                return start
            if not got:
                raise ConnectionError
            return start + got
        place, end = start, len(view)
        # One call gives one TLS record at most. A short one was the last that is here: the next readiness call comes
        # by itself, since OpenSSL is not told to read ahead.
        while end - place >= _TLS_RECORD_BYTES:
            try:
                got = self._read_into(view[place:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not got:
                if place == start:
                    raise ConnectionError
                break
            place += got
            if got < _TLS_RECORD_BYTES:
                break
        return place

    def _deliver(self, pieces: list[tuple[int, int]]) -> None:
        view = self._shared.view
        for first, last in reframe(self._shared.bytes, pieces):
            self._on_picture(view[first:last])

    # -- input ------------------------------------------------------------------------------------
    def send(self, message: bytes) -> bool:
        """Sends RFB bytes. False asks the caller to stop reading the browser until `on_room`."""
        self._send(client_frames(message) if self.dialled.framed else message)
        return self._queued_bytes + len(self._slice) <= QUEUE_BYTES_MAX

    def _send(self, data: bytes) -> None:
        if self._sock is None:
            return
        self._queue.append(data)
        self._queued_bytes += len(data)
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        if self._sock is None:
            return
        try:
            while self._slice or self._queue:
                if not self._slice:
                    self._slice = self._queue.popleft()
                    self._queued_bytes -= len(self._slice)
                sent = self._sock.send(self._slice)
                self._slice = self._slice[sent:]
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._writable)
        except OSError:
            self._lose()
        else:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        self._flush()
        if self._sock is not None and not self._writing:
            self._on_room()

    # -- end --------------------------------------------------------------------------------------
    def _lose(self) -> None:
        if self._sock is not None:
            self.close()
            self._on_lost()

    def close(self) -> None:
        """Lets go of the socket, without ceremony: the hypervisor takes a hang-up for a goodbye."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self.pause()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # already gone
        sock.close()
        self._queue.clear()
        self._slice = b""
