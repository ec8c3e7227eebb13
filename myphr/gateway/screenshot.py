"""One look at a machine's screen: a client of its own at the hypervisor's console that asks for the whole picture once
(RFC 6143, 7.5.3, raw encoding) and hangs up. Sends no key and no pointer. Called by the check whether viewers still
open their formats; knows no machine rows.
"""

import struct
import time

from PIL import Image

from myphr.gateway import rfb
from myphr.gateway.screen_dial import ConsoleSource, DialFailed, Dialled, dial
from myphr.gateway.screen_frames import client_frame

SIDE_MAX = 8192  # pixels; a server may claim anything
RAW, DESKTOP_SIZE = 0, -223
_PIXELS = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)  # red first, as Pillow's RGBX


def take(source: ConsoleSource, vmid: int, *, node: str | None = None, seconds_max: float = 20) -> Image.Image:
    """The screen as it is now. Raises DialFailed, and what `console` raises."""
    deadline = time.monotonic() + seconds_max
    dialled = dial(source, vmid, node=node, seconds_max=seconds_max)
    try:
        return _Look(dialled, deadline).picture()
    except (OSError, ValueError, rfb.RfbError, struct.error) as error:
        raise DialFailed(type(error).__name__) from None
    finally:
        dialled.sock.close()


class _Look:
    def __init__(self, dialled: Dialled, deadline: float) -> None:
        self.sock, self.reader, self.deadline = dialled.sock, dialled.reader, deadline
        self.held = bytearray(dialled.early)
        self.width, self.height = struct.unpack_from(">HH", dialled.server_init)

    def picture(self) -> Image.Image:
        self._send(b"\0\0\0\0" + _PIXELS)
        self._send(struct.pack(">BxHii", 2, 2, RAW, DESKTOP_SIZE))
        while True:
            if not (0 < self.width <= SIDE_MAX and 0 < self.height <= SIDE_MAX):
                raise ValueError("size")
            image = Image.new("RGB", (self.width, self.height))
            self._send(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
            if self._update(image):
                return image

    def _update(self, image: Image.Image) -> bool:
        """One FramebufferUpdate; False when it told of a new size, so that one must ask again."""
        while (kind := self._take(1)[0]) != 0:
            if kind == 3:  # clipboard of the machine: not looked at
                self._take(3)
                self._take(struct.unpack(">I", self._take(4))[0])
            elif kind != 2:  # a bell has no body
                raise ValueError("message")
        self._take(1)
        whole = True
        for _ in range(struct.unpack(">H", self._take(2))[0]):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self._take(12))
            if encoding == DESKTOP_SIZE:
                self.width, self.height, whole = width, height, False
            elif encoding == RAW and x + width <= SIDE_MAX and y + height <= SIDE_MAX:
                pixels = self._take(4 * width * height)
                if width and height:
                    image.paste(Image.frombytes("RGBX", (width, height), bytes(pixels)).convert("RGB"), (x, y))
            else:
                raise ValueError("encoding")
        return whole

    def _send(self, message: bytes) -> None:
        self._wait()
        self.sock.sendall(client_frame(message) if self.reader else message)

    def _take(self, count: int) -> bytes:
        if count > 4 * SIDE_MAX * SIDE_MAX:
            raise ValueError("size")
        while len(self.held) < count:
            self._wait()
            data = self.sock.recv(1 << 18)
            if not data:
                raise ConnectionError
            if self.reader is None:
                self.held += data
                continue
            payloads, _ = self.reader.read(data)
            for payload in payloads:
                self.held += payload
            if self.reader.closed:
                raise ConnectionError
        taken = bytes(self.held[:count])
        del self.held[:count]
        return taken

    def _wait(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
