"""A small, strict HTTP/1.1 server over asyncio streams (RFC 9112), only what the Proxmox VE API needs.

Sizes are bounded before anything is kept: 8 KiB and 64 lines of header, 512 KiB of body; an upload's body is handed on
as a stream. Knows nothing of the API. Called by `server`, calls one handler per request.
"""

import asyncio
import contextlib
import email.utils
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

HEADER_BYTES_MAX = 8192
HEADER_LINES_MAX = 64
BODY_BYTES_MAX = 512 * 1024
IDLE_SECONDS = 5.0  # an idle connection is dropped, as a real node does
REQUEST_SECONDS = 30.0  # to send headers and a small body
REQUESTS_PER_CONNECTION_MAX = 100
METHODS = frozenset({"GET", "POST", "PUT", "DELETE"})


@dataclass
class Request:
    """One request. `path` is percent-decoded as Latin-1, as a real node does."""

    method: str
    target: str
    path: str
    query: str
    headers: dict[str, str]
    content_length: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytes = b""
    read_bytes: int = 0  # of a streamed body

    async def read(self, count: int) -> bytes:
        """The next bytes of a streamed body, b"" at its end. Raises ConnectionError when the client leaves."""
        count = min(count, self.content_length - self.read_bytes)
        if count <= 0:
            return b""
        data = await asyncio.wait_for(self.reader.read(count), REQUEST_SECONDS)
        if not data:
            raise ConnectionResetError("client left in the middle of a body")
        self.read_bytes += len(data)
        return data


@dataclass
class Reply:
    """One answer. `taken_over` means that the handler used the connection itself (a websocket)."""

    status: int
    reason: str
    content: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    taken_over: bool = False
    close: bool = False


class Refused(Exception):
    """A request that is answered before it reaches the handler; the connection then ends."""

    def __init__(self, status: int, reason: str, content: bytes = b"") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.content = content


Handler = Callable[[Request], Awaitable[Reply]]
Streamed = Callable[[str, str], bool]  # method, path -> is this body handed on as a stream?


def _decode_path(raw: str) -> str:
    return unquote_to_bytes(raw).decode("latin-1")


async def _read_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        first = await asyncio.wait_for(reader.readuntil(b"\r\n"), IDLE_SECONDS)
        lines: list[bytes] = []
        size = len(first)
        while True:
            line = await asyncio.wait_for(reader.readuntil(b"\r\n"), REQUEST_SECONDS)
            if line == b"\r\n":
                break
            size += len(line)
            lines.append(line[:-2])
            if size > HEADER_BYTES_MAX or len(lines) > HEADER_LINES_MAX:
                raise Refused(400, "header too large")
    except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
        return None
    except asyncio.LimitOverrunError:
        raise Refused(400, "header too large") from None
    parts = first[:-2].decode("latin-1").split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not parts[1].startswith("/"):
        raise Refused(400, "bad request")
    method, target, version = parts
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise Refused(400, "bad header")
        key = name.lower()
        if key in headers and key in ("content-length", "transfer-encoding", "authorization", "host"):
            raise Refused(400, "bad header")  # ambiguous framing or identity is how requests get smuggled
        headers[key] = value.strip()
    if version == "HTTP/1.0":
        headers["connection"] = "close"
    if method not in METHODS:
        raise Refused(501, f"method '{method}' not available")
    if "transfer-encoding" in headers:
        raise Refused(501, "chunked transfer encoding not supported")
    length_text = headers.get("content-length", "0")
    if not length_text.isascii() or not length_text.isdigit():
        raise Refused(400, "bad content length")
    raw_path, _, query = target.partition("?")
    return Request(method, target, _decode_path(raw_path), query, headers, int(length_text), reader, writer)


def _head(reply: Reply, keep: bool) -> bytes:
    now = email.utils.formatdate(time.time(), usegmt=True)
    lines = [
        f"HTTP/1.1 {reply.status} ".encode() + _reason_bytes(reply.reason),
        b"Cache-Control: max-age=0",
        b"Connection: Keep-Alive" if keep else b"Connection: close",
        b"Date: " + now.encode(),
        b"Pragma: no-cache",
        b"Server: pve-api-daemon/3.0",
        b"Expires: " + now.encode(),
    ]
    if reply.content or reply.content_type:
        lines.append(f"Content-Length: {len(reply.content)}".encode())
        if reply.content_type:
            lines.append(f"Content-Type: {reply.content_type}".encode())
    else:
        lines.append(b"Content-Length: 0")
    lines += [f"{name}: {value}".encode() for name, value in reply.headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _reason_bytes(reason: str) -> bytes:
    """A path's bytes come back as they came (Latin-1); text with wider letters is UTF-8, as on a real node."""
    try:
        return reason.encode("latin-1")
    except UnicodeEncodeError:
        return reason.encode("utf-8", "replace")


class HttpConnection:
    """Serves one client. `busy` says whether a request is being answered (for an orderly end)."""

    def __init__(self, handler: Handler, streamed: Streamed) -> None:
        self._handler = handler
        self._streamed = streamed

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken_over = False
        try:
            for number in range(1, REQUESTS_PER_CONNECTION_MAX + 1):
                try:
                    request = await _read_head(reader, writer)
                    if request is None:
                        break
                    await self._read_body(request)
                except Refused as refused:
                    reply = Reply(refused.status, refused.reason, refused.content)
                    writer.write(_head(reply, keep=False) + reply.content)
                    await writer.drain()
                    # Let a client that is still sending read the answer before the connection is reset.
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        await asyncio.wait_for(_discard(reader), 2)
                    break
                reply = await self._handler(request)
                if reply.taken_over:
                    taken_over = True
                    break
                wants_close = request.headers.get("connection", "").lower() == "close"
                keep = not (reply.close or wants_close or number == REQUESTS_PER_CONNECTION_MAX)
                keep = keep and request.content_length in (len(request.body), request.read_bytes)
                writer.write(_head(reply, keep) + reply.content)
                await writer.drain()
                if not keep:
                    break
        except (ConnectionError, TimeoutError):
            pass
        finally:
            if not taken_over:
                with contextlib.suppress(Exception):
                    writer.close()

    async def _read_body(self, request: Request) -> None:
        if self._streamed(request.method, request.path):
            return
        if request.method == "DELETE" and request.content_length:
            raise Refused(501, "Unexpected content for method 'DELETE'")
        if request.content_length > BODY_BYTES_MAX:
            raise Refused(501, "for data too large", b"for data too large")
        if request.content_length:
            try:
                request.body = await asyncio.wait_for(
                    request.reader.readexactly(request.content_length), REQUEST_SECONDS
                )
            except asyncio.IncompleteReadError:
                raise ConnectionResetError("client left in the middle of a body") from None


async def _discard(reader: asyncio.StreamReader) -> None:
    left = 4 * 1024 * 1024
    while left > 0 and (data := await reader.read(65536)):
        left -= len(data)
