"""What both schemes have in common: the front of a header, the front of a key, covering the seed, deriving the key.

Spec: docs/formats/abe.md. The rule of Fujisaki and Okamoto (CRYPTO 1999): all randomness of a header follows from a
seed that the header covers; who uncovers it makes the header again and compares."""

import hashlib
import hmac
import secrets
import struct

from myphr.crypto.abe.curve import GT
from myphr.crypto.abe.policy import POLICY_BYTES_MAX
from myphr.crypto.abe.shares import SEED_BYTES
from myphr.errors import AbeError, AbeMalformed

MAGIC = b"MYPHRABE"
KEY_MAGIC = b"MYPHRABK"
VERSION = 1
SUITE_RW15 = 1
SUITE_KP = 2
KEY_BYTES = 32
BINDING_MAX = 4096
FRONT = struct.Struct(">8sBBHI")
assert FRONT.size == 16
KEY_FRONT_BYTES = len(KEY_MAGIC) + 2
LABELS_MAX = 64


def new_seed(seed: bytes | None) -> bytes:
    """`seed`, or 32 fresh random bytes. Raises ValueError for another size."""
    if seed is None:
        return secrets.token_bytes(SEED_BYTES)
    if len(seed) != SEED_BYTES:
        raise ValueError("a seed has 32 bytes")
    return bytes(seed)


def bound_binding(binding: bytes) -> bytes:
    """u32 length || binding. Raises ValueError outside 1..BINDING_MAX bytes."""
    if not 1 <= len(binding) <= BINDING_MAX:
        raise ValueError("a binding has 1 to 4,096 bytes")
    return struct.pack(">I", len(binding)) + bytes(binding)


def front(suite: int, count: int, text: bytes) -> bytes:
    """front || text."""
    return FRONT.pack(MAGIC, VERSION, suite, count, len(text)) + text


def parse(header: bytes, suite: int, body_bytes: int, row_bytes: int) -> tuple[int, bytes, bytes, bytes]:
    """(count, text, covered seed, body) of a header whose body has `body_bytes` and `row_bytes` per count.

    Raises AbeMalformed for another magic, version, suite or size."""
    header = bytes(header)
    if len(header) < FRONT.size:
        raise AbeMalformed("header is too short")
    magic, version, found_suite, count, text_bytes = FRONT.unpack_from(header)
    if magic != MAGIC or version != VERSION or found_suite != suite:
        raise AbeMalformed("header is not of this kind")
    if not 1 <= count <= LABELS_MAX or text_bytes > POLICY_BYTES_MAX:
        raise AbeMalformed("header is beyond the limits")
    text_end = FRONT.size + text_bytes
    body_at = text_end + SEED_BYTES
    if len(header) != body_at + body_bytes + row_bytes * count:
        raise AbeMalformed("header has the wrong size")
    return count, header[FRONT.size : text_end], header[text_end:body_at], header[body_at:]


def cover(seed: bytes, tag: bytes, context: bytes, element: GT) -> bytes:
    """`seed` xor a hash of the group element; its own inverse."""
    mask = hashlib.sha256(tag + b"\x00" + context + element.to_bytes()).digest()
    return bytes(a ^ b for a, b in zip(seed, mask, strict=True))


def derive_key(seed: bytes, tag: bytes, header: bytes) -> bytes:
    """The 32 bytes that are shared, bound to every byte of the header."""
    return hmac.digest(seed, tag + b"\x00" + hashlib.sha256(header).digest(), "sha256")


def same(again: bytes, header: bytes) -> None:
    """Raises AbeError unless the header made again is the header at hand."""
    if not hmac.compare_digest(again, bytes(header)):
        raise AbeError("header is not what these keys and this binding make")


def key_front(kind: int) -> bytes:
    return KEY_MAGIC + bytes((VERSION, kind))


class KeyReader:
    """Reads a key or public value front to back; raises AbeMalformed for whatever is lacking or left over."""

    def __init__(self, data: bytes, kind: int) -> None:
        self._data = bytes(data)
        self._at = 0
        if self.take(KEY_FRONT_BYTES) != key_front(kind):
            raise AbeMalformed("not a key of this kind")

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise AbeMalformed("key is too short")
        self._at += size
        return taken

    def take_sized(self) -> bytes:
        """u16 length, then as many bytes."""
        return self.take(int.from_bytes(self.take(2), "big"))

    def end(self) -> None:
        if self._at != len(self._data):
            raise AbeMalformed("key is too long")
