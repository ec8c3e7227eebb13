"""One end and the other of a line to a screen: the fake VNC server, and the browser that asks it for pictures.

Both do the real RFB handshake. They are as cheap as Python allows, and run in processes of their own, because what is
measured is what lies between them. Used by `bench.screen_stage` and `bench.screen`.
"""

import asyncio
import base64
import os
import ssl
import struct
import time
from hashlib import sha1

import uvloop

from myphr.gateway import rfb

BLOCK = 65_536
PUBLIC_URL = "http://portal.example"
PASSWORD = "benchpw1"
PIXELS = bytes.fromhex("0400030020180001 00ff00ff00ff 100800 000000".replace(" ", ""))


# -- the fake VNC server ------------------------------------------------------------------------------
class FakeVnc(asyncio.Protocol):
    """Real RFB handshake, then: an update request asks for `x` blocks of 64 KiB, a pointer event is answered with 16
    bytes. With `framed`, all of it inside WebSocket frames."""

    def __init__(self, framed: bool) -> None:
        self.framed, self.held, self.stage = framed, b"", "upgrade" if framed else "version"
        self.unframed = b""
        self.blocks = 0
        self.paused = False
        self.block = (struct.pack(">BBQ", 0x82, 127, BLOCK) if framed else b"") + os.urandom(BLOCK)

    def connection_made(self, transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 20)
        if not self.framed:
            transport.write(b"RFB 003.008\n")

    def say(self, data: bytes) -> None:
        self.transport.write((bytes((0x82, len(data))) if self.framed else b"") + data)

    def data_received(self, data: bytes) -> None:
        self.held += data
        if self.stage == "upgrade":
            if b"\r\n\r\n" not in self.held:
                return
            head, _, self.held = self.held.partition(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            key = next(value for name, value in fields.items() if name.lower() == b"sec-websocket-key")
            accept = base64.b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Protocol: binary\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self.stage = "version"
            self.say(b"RFB 003.008\n")
        if self.framed:
            self.held, payload = unmask(self.held)
            self.unframed += payload
        else:
            self.unframed, self.held = self.unframed + self.held, b""
        while self.step():
            pass

    def step(self) -> bool:
        sizes = {"version": 12, "type": 1, "answer": 16, "init": 1}
        size = sizes.get(self.stage) or (rfb._HEADER_BYTES[self.unframed[0]] if self.unframed else 1)
        if len(self.unframed) < size:
            return False
        taken, self.unframed = self.unframed[:size], self.unframed[size:]
        if self.stage == "version":
            self.stage = "type"
            self.say(b"\x01\x02")
        elif self.stage == "type":
            self.stage = "answer"
            self.say(bytes(16))
        elif self.stage == "answer":
            self.stage = "init"
            self.say(bytes(4 if taken == rfb.vnc_response(PASSWORD, bytes(16)) else 5))
        elif self.stage == "init":
            self.stage = "open"
            self.say(PIXELS + struct.pack(">I", 4) + b"fake")
        elif taken[0] == 3:
            self.blocks += struct.unpack_from(">H", taken, 2)[0]
            self.pour()
        elif taken[0] == 5:
            self.say(taken + bytes(10))
        return True

    def pour(self) -> None:
        while self.blocks and not self.paused:
            self.blocks -= 1
            self.transport.write(self.block)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pour()


def unmask(data: bytes) -> tuple[bytes, bytes]:
    payload = b""
    while len(data) >= 6:
        size, head = data[1] & 0x7F, 2
        if size == 126:
            size, head = struct.unpack_from(">H", data, 2)[0], 4
        if len(data) < head + 4 + size:
            break
        mask, body = data[head : head + 4], data[head + 4 : head + 4 + size]
        if data[0] & 0x0F in (0, 2):
            payload += bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))
        data = data[head + 4 + size :]
    return data, payload


def serve_vnc(kind: str, unix: str, port: int, tls_port: int, certificate: str, key: str) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if kind == "unix":
            await loop.create_unix_server(lambda: FakeVnc(False), unix, backlog=512)
        elif kind == "ws":
            await loop.create_server(lambda: FakeVnc(True), "127.0.0.1", port, backlog=512)
        else:
            await loop.create_server(lambda: FakeVnc(True), "127.0.0.1", tls_port, ssl=context, backlog=512)
        await asyncio.Event().wait()

    uvloop.run(run())


# -- the load ---------------------------------------------------------------------------------------
class Client(asyncio.Protocol):
    """One browser: WebSocket (or none, for the direct line), RFB handshake, counts payload."""

    def __init__(self, path: str | None, subprotocols: str) -> None:
        self.path, self.subprotocols = path, subprotocols
        self.data = b""
        self.payload = 0
        self.left = 0
        self.head = b""
        self.counting = False
        self.waiter: asyncio.Future | None = None
        self.wanted = 0

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.counting:
            self.data += data
        else:
            self.count(data)
        if self.waiter and not self.waiter.done() and (not self.counting or self.payload >= self.wanted):
            self.waiter.set_result(None)

    def connection_lost(self, error) -> None:
        if self.waiter and not self.waiter.done():
            self.waiter.set_exception(error or ConnectionError("closed"))

    def count(self, data: bytes) -> None:
        if self.path is None:
            self.payload += len(data)
            return
        place, end = 0, len(data)
        if self.head:
            data, self.head = self.head + data, b""
            end = len(data)
        while place < end:
            if self.left:
                taken = min(self.left, end - place)
                self.left -= taken
                self.payload += taken
                place += taken
                continue
            size, head = (data[place + 1] & 0x7F, 2) if end - place > 1 else (0, 99)
            head = {126: 4, 127: 10}.get(size, head)
            if end - place < head:
                self.head = data[place:]
                return
            if size > 125:
                size = int.from_bytes(data[place + 2 : place + head], "big")
            if data[place] & 0x0F == 8:
                raise ConnectionError(f"closed: {data[place + head : place + head + size]!r}")
            self.left, place = (size, place + head) if data[place] & 0x0F < 3 else (0, place + head + size)

    async def more(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(self.waiter, 60)
        self.waiter = None

    async def exactly(self, count: int) -> bytes:
        """Handshake bytes, taken out of their frames."""
        while True:
            if self.path is None:
                if len(self.data) >= count:
                    taken, self.data = self.data[:count], self.data[count:]
                    return taken
            else:
                body, data = b"", self.data
                while len(data) >= 2 and len(data) >= 2 + data[1] and data[1] < 126:
                    if data[0] & 0x0F == 8:
                        raise ConnectionError(f"closed: {data!r}")
                    body += data[2 : 2 + data[1]] if data[0] & 0x0F == 2 else b""
                    data = data[2 + data[1] :]
                if len(body) >= count:
                    rest = body[count:]
                    self.data = (bytes((0x82, len(rest))) + rest if rest else b"") + data
                    return body[:count]
            await self.more()

    def send(self, payload: bytes) -> None:
        head = bytes((0x82, 0x80 | len(payload), 0, 0, 0, 0)) if self.path is not None else b""
        self.transport.write(head + payload)

    async def open(self) -> None:
        if self.path is not None:
            lines = [
                f"GET {self.path} HTTP/1.1", "Host: portal.example", "Upgrade: websocket", "Connection: Upgrade",
                "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Origin: {PUBLIC_URL}",
                f"Sec-WebSocket-Protocol: {self.subprotocols}",
            ]  # fmt: skip
            self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            while b"\r\n\r\n" not in self.data:
                await self.more()
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            if b" 101 " not in head:
                raise ConnectionError(head.decode())
        await self.exactly(12)
        self.send(b"RFB 003.008\n")
        kind = (await self.exactly(2))[1]
        self.send(bytes((kind,)))
        if kind == 2:
            self.send(rfb.vnc_response(PASSWORD, await self.exactly(16)))
        await self.exactly(4)
        self.send(b"\x01")
        name = struct.unpack(">I", (await self.exactly(24))[20:])[0]
        await self.exactly(name)
        self.counting = True

    async def take(self, blocks: int) -> None:
        self.payload, self.wanted = 0, blocks * BLOCK
        while blocks:
            part = min(blocks, 60_000)
            self.send(struct.pack(">BBHHHH", 3, 0, part, 0, 1, 1))
            blocks -= part
        await self.more()

    async def echo(self) -> float:
        self.payload, self.wanted = 0, 16
        started = time.perf_counter()
        self.send(struct.pack(">BBHH", 5, 0, 1, 1))
        await self.more()
        return time.perf_counter() - started
