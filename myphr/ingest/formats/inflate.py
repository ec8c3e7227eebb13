"""The first bytes inside a gzip (RFC 1952), never more than asked for. For formats that come compressed."""

import zlib

INFLATED_BYTES_MAX = 64 * 1024


def first_bytes(head: bytes, bytes_max: int = INFLATED_BYTES_MAX) -> bytes:
    """What the head's gzip members hold, as far as it goes; empty if it is no gzip or broken from the start."""
    found = b""
    rest = head
    while rest[:3] == b"\x1f\x8b\x08" and len(found) < bytes_max:
        inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            more = inflate.decompress(rest, bytes_max - len(found))
        except zlib.error:
            break
        found += more
        if not inflate.eof:
            break
        rest = inflate.unused_data
    return found
