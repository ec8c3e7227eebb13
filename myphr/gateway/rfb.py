"""The RFB protocol as far as the screen gateway speaks it (RFC 6143, sections 7.1 to 7.5): bytes in, bytes out.

`HypervisorHandshake` is the client's part towards the hypervisor, `BrowserHandshake` the server's towards the
browser, `ClientMessages` the filter for all that a browser sends after that. No sockets, clocks or rights in here;
`myphr.gateway.screen` owns those. Every buffer has a bound; whatever is not known is refused, not passed on, because
a message whose length we misjudge would let the rest of the stream slip past the filter.
"""

import struct

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

VERSION = b"RFB 003.008\n"
SECURITY_NONE = 1
SECURITY_VNC = 2
REASON_BYTES_MAX = 4096
NAME_BYTES_MAX = 4096
ENCODINGS_MAX = 256
SCREENS_MAX = 16
FENCE_BYTES_MAX = 64
CLIPBOARD_BYTES_MAX = 1 << 20  # what QEMU accepts

_U32 = struct.Struct(">I")
_S32 = struct.Struct(">i")
_U16 = struct.Struct(">H")


class RfbError(Exception):
    """The other side left the protocol, or refused us. The text is ours and safe to log."""


def vnc_response(password: str, challenge: bytes) -> bytes:
    """The answer to a VNC authentication challenge (RFC 6143, 7.2.2): DES in ECB, each key byte bit-reversed.

    Only the first 8 characters of the password count. DES is TripleDES with one key three times."""
    key = password.encode("latin-1")[:8].ljust(8, b"\0")
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    encryptor = Cipher(TripleDES(mirrored * 3), modes.ECB()).encryptor()  # noqa: S305 - the protocol's, not ours
    return encryptor.update(challenge) + encryptor.finalize()


class _Script:
    """A handshake as a chain of steps: each step waits for a number of bytes and says what comes next."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._out = bytearray()
        self._wanted = 0
        self._step = self._end

    def _expect(self, count: int, step) -> None:
        self._wanted, self._step = count, step

    def _end(self, _data: bytes) -> None:
        raise AssertionError("nothing is awaited")

    @property
    def done(self) -> bool:
        return self._wanted == 0

    @property
    def rest(self) -> bytes:
        """What came after the end of the handshake and belongs to the stream."""
        return bytes(self._held)

    def receive(self, data: bytes) -> bytes:
        """Takes bytes of the other side, returns bytes to send to it. Raises RfbError."""
        self._held += data
        while self._wanted and len(self._held) >= self._wanted:
            count, self._wanted = self._wanted, 0
            taken = bytes(self._held[:count])
            del self._held[:count]
            self._step(taken)
        out = bytes(self._out)
        self._out.clear()
        return out


class HypervisorHandshake(_Script):
    """Client side: version 3.8, VNC authentication, ClientInit with the shared flag always set.

    An unshared client would throw all others out and keep them out, so nobody's browser decides on it.
    When `done`, `server_init` holds the server's ServerInit without its name."""

    def __init__(self, password: str) -> None:
        super().__init__()
        self._password = password
        self.server_init = b""
        self._expect(len(VERSION), self._version)

    def _version(self, data: bytes) -> None:
        if data != VERSION:
            raise RfbError("hypervisor does not speak RFB 3.8")
        self._out += VERSION
        self._expect(1, self._count)

    def _count(self, data: bytes) -> None:
        if data[0] == 0:
            self._expect(4, self._reason_length)
        else:
            self._expect(data[0], self._types)

    def _types(self, data: bytes) -> None:
        if SECURITY_VNC not in data:
            # "None" would mean a console anybody on that machine can open: refuse it loudly.
            raise RfbError("hypervisor does not offer VNC authentication")
        self._out.append(SECURITY_VNC)
        self._expect(16, self._challenge)

    def _challenge(self, data: bytes) -> None:
        self._out += vnc_response(self._password, data)
        self._password = ""
        self._expect(4, self._result)

    def _result(self, data: bytes) -> None:
        if _U32.unpack(data)[0] != 0:
            raise RfbError("hypervisor refused the console password")
        self._out.append(1)
        self._expect(24, self._init)

    def _init(self, data: bytes) -> None:
        (length,) = _U32.unpack_from(data, 20)
        if length > NAME_BYTES_MAX:
            raise RfbError("hypervisor sent too long a name")
        self.server_init = data[:20]
        if length:
            self._expect(length, self._name)

    def _name(self, data: bytes) -> None:
        pass  # names the machine on the hypervisor: not for the browser

    def _reason_length(self, data: bytes) -> None:
        raise RfbError("hypervisor refused the connection")


class BrowserHandshake(_Script):
    """Server side: version 3.8, security type None (the WebSocket is what authenticates), ClientInit ignored.

    `begin` is to be sent first: in RFB the server speaks first. `server_init` is that of the hypervisor."""

    def __init__(self, server_init: bytes, name: bytes = b"screen") -> None:
        super().__init__()
        self._server_init = server_init + _U32.pack(len(name)) + name
        self._expect(len(VERSION), self._version)

    def begin(self) -> bytes:
        return VERSION

    def _version(self, data: bytes) -> None:
        if data != VERSION:
            raise RfbError("browser does not speak RFB 3.8")
        self._out += bytes((1, SECURITY_NONE))
        self._expect(1, self._type)

    def _type(self, data: bytes) -> None:
        if data[0] != SECURITY_NONE:
            raise RfbError("browser chose a security type that was not offered")
        self._out += _U32.pack(0)
        self._expect(1, self._client_init)

    def _client_init(self, data: bytes) -> None:
        self._out += self._server_init


# -- what a browser may say -------------------------------------------------------------------------
SET_PIXEL_FORMAT = 0
SET_ENCODINGS = 2
FRAMEBUFFER_UPDATE_REQUEST = 3
KEY_EVENT = 4
POINTER_EVENT = 5
CLIENT_CUT_TEXT = 6
ENABLE_CONTINUOUS_UPDATES = 150
CLIENT_FENCE = 248
XVP = 250
SET_DESKTOP_SIZE = 251
GII = 253
QEMU = 255
QEMU_EXTENDED_KEY = 0

# message type -> bytes that tell its length
_HEADER_BYTES = {
    SET_PIXEL_FORMAT: 20, SET_ENCODINGS: 4, FRAMEBUFFER_UPDATE_REQUEST: 10, KEY_EVENT: 8, POINTER_EVENT: 6,
    CLIENT_CUT_TEXT: 8, ENABLE_CONTINUOUS_UPDATES: 10, CLIENT_FENCE: 9, XVP: 4, SET_DESKTOP_SIZE: 8, GII: 4, QEMU: 2,
}  # fmt: skip
_QEMU_KEY_BYTES = 12

_DESKTOP_RESIZE = -308  # ExtendedDesktopSize: invites SetDesktopSize
_CLIPBOARD = 0xC0A1E5CE - (1 << 32)
# Encodings whose server side we know to be harmless. Not among them: xvp (-309, power of the machine), desktop name
# (-307, names the machine), extended mouse buttons (-316, makes the length of a pointer event depend on what the
# server said), audio (-259), gii (-305).
_ENCODINGS = frozenset(
    {0, 1, 2, 5, 6, 7, 16, 21, 50, -260, -223, -224, -239, -258, -261, -312, -313, 0x574D5664}
    | set(range(-32, -22))
    | set(range(-256, -246))
)


class ClientMessages:
    """The filter for one browser's stream after the handshake. Feed it bytes, send on what it returns.

    A view-only grant gets no key, pointer, clipboard or resize message through. Clipboard text passes only with
    `clipboard`, and never for view-only. Messages pass whole; only the text of a clipboard passes as it comes."""

    def __init__(self, *, view_only: bool, clipboard: bool = False) -> None:
        self.view_only = view_only
        self.clipboard = clipboard and not view_only
        self._held = b""
        self._left = 0  # bytes of a clipboard (or gii) message still to come
        self._pass_left = False
        self._had_input = False

    def take_input(self) -> bool:
        """Whether a key or pointer message passed since the last call: that is what counts as being there."""
        had, self._had_input = self._had_input, False
        return had

    def feed(self, data: bytes) -> bytes:
        """The part of `data` (and of what was held) that may go to the hypervisor. Raises RfbError on anything that
        is not a known message; nothing of that call is to be sent then."""
        if self._held:
            data, self._held = self._held + data, b""
        out: list[bytes] = []
        place, end = 0, len(data)
        while place < end:
            if self._left:
                taken = min(self._left, end - place)
                if self._pass_left:
                    out.append(data[place : place + taken])
                self._left -= taken
                place += taken
                continue
            kind = data[place]
            header = _HEADER_BYTES.get(kind)
            if header is None:
                raise RfbError(f"unknown message {kind}")
            if end - place < header:
                break
            size = self._size(kind, data, place)
            if end - place < size:
                break
            kept = self._judge(kind, data[place : place + size])
            if kept:
                out.append(kept)
            place += size
        self._held = data[place:]  # at most one message: bounded by _size
        return out[0] if len(out) == 1 else b"".join(out)

    def _size(self, kind: int, data: bytes, place: int) -> int:
        """Bytes of the message that must be here before it is judged. Raises RfbError beyond the bounds."""
        if kind == SET_ENCODINGS:
            (count,) = _U16.unpack_from(data, place + 2)
            if count > ENCODINGS_MAX:
                raise RfbError("too many encodings")
            return 4 + 4 * count
        if kind == SET_DESKTOP_SIZE:
            if data[place + 6] > SCREENS_MAX:
                raise RfbError("too many screens")
            return 8 + 16 * data[place + 6]
        if kind == CLIENT_FENCE:
            if data[place + 8] > FENCE_BYTES_MAX:
                raise RfbError("fence too long")
            return 9 + data[place + 8]
        if kind == QEMU:
            if data[place + 1] != QEMU_EXTENDED_KEY:
                raise RfbError("unknown QEMU message")
            return _QEMU_KEY_BYTES
        return _HEADER_BYTES[kind]

    def _judge(self, kind: int, message: bytes) -> bytes:
        if kind in (KEY_EVENT, POINTER_EVENT, QEMU):
            if self.view_only:
                return b""
            self._had_input = True
            return message
        if kind == SET_ENCODINGS:
            return self._encodings(message)
        if kind == CLIENT_CUT_TEXT:
            # A negative length marks the extended clipboard; its size is the absolute value.
            size = abs(_S32.unpack_from(message, 4)[0])
            if size > CLIPBOARD_BYTES_MAX:
                raise RfbError("clipboard too large")
            self._left, self._pass_left = size, self.clipboard
            return message if self.clipboard else b""
        if kind == GII:
            self._left = int.from_bytes(message[2:4], "big" if message[1] & 0x80 else "little")
            self._pass_left = False
            return b""
        if kind == XVP:
            return b""  # the machine ends through the portal, for everybody
        if kind == SET_DESKTOP_SIZE and self.view_only:
            return b""
        return message

    def _encodings(self, message: bytes) -> bytes:
        asked = struct.unpack(f">{(len(message) - 4) // 4}i", message[4:])
        kept = [
            code
            for code in asked
            if code in _ENCODINGS
            or (code == _DESKTOP_RESIZE and not self.view_only)
            or (code == _CLIPBOARD and self.clipboard)
        ]
        return struct.pack(f">BxH{len(kept)}i", SET_ENCODINGS, len(kept), *kept)
