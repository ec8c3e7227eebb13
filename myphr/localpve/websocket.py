"""The websocket of one screen (RFC 6455): frames towards the client, strict parsing of its frames, bounded relay.

Knows nothing of RFB or the API. Both directions have back-pressure: a side that does not read stops the other side's
reading. What a real node does not survive (fragments, frames over 128 KiB, unmasked or reserved bits) ends the
connection.
"""

import asyncio
import base64
import contextlib
import hashlib
import struct

FRAME_BYTES_MAX = 64 * 1024  # towards the client, one frame each, never fragmented
CLIENT_FRAME_BYTES_MAX = 128 * 1024
WRITE_BUFFER_BYTES = 256 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class ProtocolBroken(Exception):
    """The client sent something a real node would drop it for."""


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def frame_head(opcode: int, length: int) -> bytes:
    if length < 126:
        return bytes((0x80 | opcode, length))
    if length < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, length)
    return struct.pack("!BBQ", 0x80 | opcode, 127, length)


def unmask(mask: bytes, data: bytes) -> bytes:
    length = len(data)
    if not length:
        return b""
    repeated = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and payload of the client's next frame. Raises ProtocolBroken, IncompleteReadError."""
    first, second = await reader.readexactly(2)
    opcode, length = first & 0x0F, second & 0x7F
    if first & 0x70 or not second & 0x80:
        raise ProtocolBroken("reserved bits or no mask")
    if not first & 0x80 or opcode == 0:
        raise ProtocolBroken("fragmented message")
    if length == 126:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", await reader.readexactly(8))
    if length > CLIENT_FRAME_BYTES_MAX or (opcode >= 8 and length > 125):
        raise ProtocolBroken("frame too large")
    mask = await reader.readexactly(4)
    return opcode, unmask(mask, await reader.readexactly(length))


async def relay(
    client_reader: asyncio.StreamReader,
    client_writer: asyncio.StreamWriter,
    screen_reader: asyncio.StreamReader,
    screen_writer: asyncio.StreamWriter,
) -> None:
    """Carries bytes both ways until either side ends; then ends the other. Never raises for a broken connection."""
    client_writer.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    async def to_client() -> None:
        while data := await screen_reader.read(FRAME_BYTES_MAX):
            client_writer.write(frame_head(BINARY, len(data)) + data)
            await client_writer.drain()

    async def to_screen() -> None:
        while True:
            opcode, payload = await read_frame(client_reader)
            if opcode in (TEXT, BINARY):
                screen_writer.write(payload)
                await screen_writer.drain()
            elif opcode == PING:
                client_writer.write(frame_head(PONG, len(payload)) + payload)
                await client_writer.drain()
            elif opcode == CLOSE:
                client_writer.write(frame_head(CLOSE, len(payload[:2])) + payload[:2])
                return
            elif opcode != PONG:
                raise ProtocolBroken("unknown opcode")

    directions = [asyncio.create_task(to_client()), asyncio.create_task(to_screen())]
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        for writer in (client_writer, screen_writer):
            with contextlib.suppress(Exception):
                writer.close()
