"""Opens one machine's screen at the hypervisor: vncproxy, WebSocket over TLS, RFB authentication. Blocking.

The screen gateway calls `dial` in a worker thread, under a lock for the machine, and then owns the socket. Each call
asks for a console of its own and connects to it at once: a port that is dialled twice can take the hypervisor's
worker, and every other screen on it, down. Console tickets, passwords and host names never leave this module.
"""

import base64
import dataclasses
import functools
import os
import socket
import ssl
import time
from collections.abc import Mapping
from hashlib import sha1
from typing import Protocol
from urllib.parse import urlsplit

from myphr.gateway import rfb
from myphr.gateway.screen_frames import FrameReader, client_frame

HEADER_BYTES_MAX = 16_384
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


class Console(Protocol):
    """What `myphr.machines.proxmox.Hypervisor.console` hands out; good for one connection, for a few seconds.

    `url` is wss://, ws:// (measurements on loopback) or unix:<path> (a bare VNC server)."""

    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def ca_file(self) -> str | os.PathLike[str] | None: ...
    @property
    def password(self) -> str: ...


class ConsoleSource(Protocol):
    def console(self, vmid: int, *, node: str | None = None) -> Console: ...


class DialFailed(Exception):
    """The screen could not be opened. The text names no host, ticket or password."""


@dataclasses.dataclass
class Dialled:
    """An authenticated screen. `sock` is non-blocking; `framed` tells whether WebSocket frames travel on it."""

    sock: socket.socket
    framed: bool
    server_init: bytes  # without the name
    early: bytes  # RFB bytes that came after it
    reader: FrameReader | None


def dial(source: ConsoleSource, vmid: int, *, node: str | None = None, seconds_max: float) -> Dialled:
    """Asks for a console and opens it. Raises DialFailed, or what `console` raises."""
    deadline = time.monotonic() + seconds_max
    console = source.console(vmid, node=node)
    try:
        return _open(console, deadline)
    except (OSError, ValueError, rfb.RfbError) as error:
        # Messages of sockets and TLS name hosts and paths; the kind of error is enough for the log.
        text = str(error) if isinstance(error, rfb.RfbError) else type(error).__name__
        raise DialFailed(text) from None


@functools.lru_cache(maxsize=8)
def _tls(ca_file: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def _open(console: Console, deadline: float) -> Dialled:
    parts = urlsplit(console.url)
    sock: socket.socket
    if parts.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _limit(sock, deadline)
        sock.connect(parts.path)
    else:
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        sock = socket.create_connection((parts.hostname, port), timeout=_left(deadline))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        reader: FrameReader | None = None
        pending = b""
        if parts.scheme == "wss":
            sock = _tls(str(console.ca_file) if console.ca_file else None).wrap_socket(
                sock, server_hostname=parts.hostname
            )
        elif parts.scheme not in ("unix", "ws"):
            raise ValueError("unknown kind of console")
        if parts.scheme != "unix":
            reader = FrameReader()
            pending = _upgrade(sock, console, deadline)
        handshake = rfb.HypervisorHandshake(console.password)
        while not handshake.done:
            for payload in _payloads(reader, pending) if pending else ():
                answer = handshake.receive(payload)
                if answer:
                    sock.sendall(client_frame(answer) if reader else answer)
            if handshake.done:
                break
            _limit(sock, deadline)
            pending = sock.recv(HEADER_BYTES_MAX)
            if not pending:
                raise rfb.RfbError("hypervisor hung up during the handshake")
        sock.setblocking(False)
        return Dialled(sock, reader is not None, handshake.server_init, handshake.rest, reader)
    except BaseException:
        sock.close()
        raise


def _payloads(reader: FrameReader | None, data: bytes) -> list[bytes]:
    if reader is None:
        return [data]
    payloads, replies = reader.read(data)
    if reader.closed:
        raise rfb.RfbError("hypervisor closed the WebSocket during the handshake")
    del replies  # a ping within these few seconds may go unanswered
    return payloads


def _upgrade(sock: socket.socket, console: Console, deadline: float) -> bytes:
    """The WebSocket opening handshake (RFC 6455, 4.1). Returns bytes that came after the response."""
    parts = urlsplit(console.url)
    key = base64.b64encode(os.urandom(16))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: binary",
        *(f"{name}: {value}" for name, value in console.headers.items()),
    ]  # fmt: skip
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("line break in a header")
    _limit(sock, deadline)
    sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) > HEADER_BYTES_MAX:
            raise rfb.RfbError("hypervisor sent too long an answer")
        _limit(sock, deadline)
        more = sock.recv(4096)
        if not more:
            raise rfb.RfbError("hypervisor hung up instead of opening the WebSocket")
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    if status.split(b" ")[1:2] != [b"101"]:
        raise rfb.RfbError(f"hypervisor answered {status.split(b' ')[1:2]!r} instead of opening the WebSocket")
    accept = base64.b64encode(sha1(key + _GUID).digest())  # noqa: S324 - the protocol's, not ours
    answers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
    if answers.get(b"sec-websocket-accept") != accept:
        raise rfb.RfbError("hypervisor did not accept the WebSocket key")
    return rest


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _limit(sock: socket.socket, deadline: float) -> None:
    sock.settimeout(_left(deadline))
