"""A browser's side without a browser: raw WebSocket messages of a client that may be hostile."""

import struct
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

UPDATE = struct.pack(">BBHHHH", 3, 0, 0, 0, 16, 16)
KEY_ESCAPE = struct.pack(">BBxxI", 4, 1, 0xFF1B) + struct.pack(">BBxxI", 4, 0, 0xFF1B)
POINTER = struct.pack(">BBHH", 5, 1, 10, 20)


class RawScreen:
    """One connection to the gateway. `open()` walks through the RFB handshake."""

    def __init__(self, address: str, ticket: str | None, *, origin: str | None, **options: Any) -> None:
        subprotocols = ["myphr.screen.1", *([f"ticket.{ticket}"] if ticket is not None else [])]
        self._connecting = connect(
            f"ws://{address}/", subprotocols=subprotocols, origin=origin, compression=None,  # type: ignore[arg-type]
            max_size=None, open_timeout=30, close_timeout=1, ping_interval=None, **options,
        )  # fmt: skip
        self.socket = self._connecting.__enter__()
        self._held = b""
        self.server_init = b""

    def __enter__(self) -> "RawScreen":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connecting.__exit__(None, None, None)

    def open(self, client_init: bytes = b"\x01") -> "RawScreen":
        assert self.take(12) == b"RFB 003.008\n"
        self.send(b"RFB 003.008\n")
        assert self.take(2) == b"\x01\x01"
        self.send(b"\x01")
        assert self.take(4) == bytes(4)
        self.send(client_init)
        self.server_init = self.take(24)
        self.server_init += self.take(struct.unpack_from(">I", self.server_init, 20)[0])
        return self

    def send(self, data: bytes) -> None:
        self.socket.send(data)

    def take(self, count: int) -> bytes:
        parts, have = [self._held], len(self._held)
        while have < count:
            part = self.socket.recv(timeout=60)
            assert isinstance(part, bytes)
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._held = data[count:]
        return data[:count]

    def picture(self) -> tuple[int, int, bytes]:
        """A whole picture, asked for and taken raw: width, height, RGB."""
        width, height = struct.unpack_from(">HH", self.server_init)
        self.send(bytes(4) + bytes([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]))
        self.send(struct.pack(">BxHii", 2, 2, 0, -223))
        self.send(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        canvas = bytearray(width * height * 3)
        seen = 0
        while seen < width * height:
            kind, rectangles = struct.unpack(">BxH", self.take(4))
            assert kind == 0
            for _ in range(rectangles):
                x, y, w, h, encoding = struct.unpack(">HHHHi", self.take(12))
                if encoding == -223:
                    return self._resized(w, h)
                assert encoding == 0
                pixels = self.take(w * h * 4)
                for row in range(h):
                    line = pixels[row * w * 4 : (row + 1) * w * 4]
                    place = ((y + row) * width + x) * 3
                    canvas[place : place + w * 3 : 3] = line[2::4]
                    canvas[place + 1 : place + w * 3 : 3] = line[1::4]
                    canvas[place + 2 : place + w * 3 : 3] = line[0::4]
                seen += w * h
        return width, height, bytes(canvas)

    def _resized(self, width: int, height: int) -> tuple[int, int, bytes]:
        self.server_init = struct.pack(">HH", width, height) + self.server_init[4:]
        return self.picture()

    def close_code(self) -> int:
        """Reads until the gateway closes and returns its code (1006 for a cut line)."""
        try:
            while True:
                self.socket.recv(timeout=60)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006
