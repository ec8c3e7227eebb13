"""The bytes of a request's body, in big pieces and never spooled: straight from the socket under gunicorn, through WSGI
elsewhere. Knows the web server, not what the bytes are. Called by the uploads and by DICOMweb."""

import socket
import struct
from typing import Any

from flask import request
from gunicorn.http.errors import ParseException

LOOK_AROUND_SECONDS = 0.5
QUIET_SECONDS_MAX = 60.0  # a connection that says nothing for so long is gone
WAKE_BYTES = 256 * 1024  # the kernel wakes us for so much, not for each segment; its own wait still ends it after 0.5 s
_LOOK_AROUND = struct.pack("@ll", 0, int(LOOK_AROUND_SECONDS * 1e6))  # struct timeval
_FOR_EVER = struct.pack("@ll", 0, 0)


def body_of_request() -> "SocketBody | PlainBody":
    """The request's body: straight from the socket under gunicorn, through WSGI elsewhere and for chunked bodies."""
    found = request.environ.get("myphr.body")
    if found is None:
        try:
            found = SocketBody(request.environ)
        except (KeyError, AttributeError):
            found = PlainBody(request.environ)
        request.environ["myphr.body"] = found
    return found


def bytes_left() -> bool:
    """Whether bytes of the body were not read."""
    found = request.environ.get("myphr.body")
    if found is not None:
        return bool(found.left)
    return bool(request.content_length or request.environ.get("HTTP_TRANSFER_ENCODING"))


class SocketBody:
    """A body of known length, received into the caller's memory: one copy by the kernel and none here. Through
    `wsgi.input` each byte is copied four more times, which costs as much as sealing it."""

    def __init__(self, environ: dict[str, Any]) -> None:
        """Raises AttributeError or KeyError if this is not gunicorn or the length is not known."""
        reader = environ["wsgi.input"].reader
        self._reader, self._unreader = reader, reader.unreader
        self._socket: socket.socket = environ["gunicorn.socket"]
        self.length: int | None = int(environ["CONTENT_LENGTH"])
        self._reader.length += 0  # gunicorn's count of what is left of the body; it goes on from there
        self._is_plain = type(self._socket) is socket.socket
        self._body = environ["wsgi.input"]

    @property
    def left(self) -> int:
        return self._reader.length

    def receive(self, buffer: memoryview) -> int | None:
        want = min(len(buffer), self._reader.length)
        if want == 0:
            return 0
        if ahead := self._unreader.take_buffered():  # what gunicorn read along with the headers
            got = min(want, len(ahead))
            buffer[:got] = ahead[:got]
            # Always given back: gunicorn throws away what is left of a refused body, and would take as many bytes of
            # the next request instead.
            self._unreader.unread(ahead[got:])
            self._reader.length -= got
            return got
        try:
            if self._is_plain:
                # One system call fills the whole buffer; the kernel's own timeout costs no poll before each.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _LOOK_AROUND)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(want, WAKE_BYTES))
                got = self._socket.recv_into(buffer, want, socket.MSG_WAITALL)
            else:
                self._socket.settimeout(LOOK_AROUND_SECONDS)
                got = self._socket.recv_into(buffer, want)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError:
            got = 0
        finally:
            if self._is_plain:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _FOR_EVER)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)  # the next request's poll is not ours
            else:
                self._socket.settimeout(None)
        if got == 0:
            self._body.failed = True  # where the next request would start is not known
        self._reader.length -= got
        return got


class PlainBody:
    """The same through `wsgi.input`. A read may wait as long as the server lets it, so letting go takes longer."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._input = environ["wsgi.input"]
        self._socket: socket.socket | None = environ.get("gunicorn.socket")
        length = environ.get("CONTENT_LENGTH")
        self.length: int | None = int(length) if length else (None if environ.get("HTTP_TRANSFER_ENCODING") else 0)
        self.left: int = 1 if self.length is None else self.length

    def receive(self, buffer: memoryview) -> int | None:
        want = len(buffer) if self.length is None else min(len(buffer), self.left)
        if self._socket is not None:
            self._socket.settimeout(QUIET_SECONDS_MAX)  # gunicorn itself would wait for ever
        try:
            found = self._input.read(want) if want else b""
        except (OSError, ParseException):  # the latter for chunks that break off or are none
            found = b""
        finally:
            if self._socket is not None:
                self._socket.settimeout(None)
        buffer[: len(found)] = found
        if self.length is not None:
            self.left -= len(found)
        elif not found:
            self.left = 0
        return len(found)
