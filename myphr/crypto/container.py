"""The sealed file format of an item: a 128-byte header, then AES-256-GCM chunks of 64 KiB in STREAM order.

Spec: docs/formats/container.md. Takes bytes and returns bytes; knows no file, store, owner or clock. Called by
`records` (writing and reading items), `ingest` (uploads) and through them by the files gateway.
"""

import dataclasses
import hashlib
import hmac
import secrets
import struct
import threading
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from myphr.errors import ContainerError

Bytes: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"MYPHRENC"
VERSION = 1
SUITE_AES_256_GCM = 1
CHUNK_LOG2 = 16
CHUNK_BYTES = 1 << CHUNK_LOG2
TAG_BYTES = 16
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
HEADER_BYTES = 128
BOUND_BYTES = 88  # header[0:88] is hashed into both derived values, so every one of these bytes is authenticated
ID_BYTES = 16
DEK_BYTES = 32
SALT_BYTES = 32
COMMITMENT_BYTES = 32
FILE_VERSION_MAX = 2**32 - 1
# 1 TiB under one key: 2^36 AES blocks leave an attacker an advantage below 2^-56, far inside what GCM's proofs allow.
CHUNKS_MAX = 2**24
PLAIN_BYTES_MAX = CHUNKS_MAX * CHUNK_BYTES

_LAYOUT = struct.Struct(">8sBBBB4s16s16sI4s32s32s8s")
assert _LAYOUT.size == HEADER_BYTES
_NONCE = struct.Struct(">7xIB")  # STREAM: 7 zero bytes, chunk number, 1 for the last chunk else 0


def new_dek() -> bytes:
    """A fresh random data encryption key, 32 bytes, for one item."""
    return secrets.token_bytes(DEK_BYTES)


def chunks_of(plain_bytes: int) -> int:
    """How many chunks `plain_bytes` take: at least one, as an empty file is one empty last chunk.

    Raises ValueError outside 0..PLAIN_BYTES_MAX."""
    if not 0 <= plain_bytes <= PLAIN_BYTES_MAX:
        raise ValueError("size outside what one container holds")
    return max(1, -(-plain_bytes // CHUNK_BYTES))


def sealed_bytes(plain_bytes: int) -> int:
    """Size in bytes of the container of a file of `plain_bytes`. Raises ValueError as `chunks_of` does."""
    return HEADER_BYTES + plain_bytes + TAG_BYTES * chunks_of(plain_bytes)


def plain_bytes(sealed_bytes: int) -> int:
    """Size in bytes of the file in a container of `sealed_bytes`. Raises ContainerError for a size no container has.

    A size is only a claim until the last chunk has been opened as the last one: see "Reading" in the spec."""
    body = sealed_bytes - HEADER_BYTES
    if body < TAG_BYTES:
        raise ContainerError("shorter than the smallest container")
    chunks = -(-body // SEALED_CHUNK_BYTES)
    if chunks > CHUNKS_MAX:
        raise ContainerError("longer than the longest container")
    last_chunk_bytes = body - (chunks - 1) * SEALED_CHUNK_BYTES
    if last_chunk_bytes < TAG_BYTES or (last_chunk_bytes == TAG_BYTES and chunks > 1):
        raise ContainerError("size is not that of a container")
    return body - chunks * TAG_BYTES


def chunk_offset(index: int) -> int:
    """Offset in bytes of sealed chunk `index` from the start of the container."""
    return HEADER_BYTES + index * SEALED_CHUNK_BYTES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """The 128 bytes in front of the chunks. `record_id` and `file_id` are UUIDs as 16 bytes."""

    record_id: bytes
    file_id: bytes
    file_version: int
    salt: bytes
    commitment: bytes
    suite: int = SUITE_AES_256_GCM

    @classmethod
    def parse(cls, data: Bytes) -> "Header":
        """Reads a header and checks all that can be checked without the key.

        Raises ContainerError for another size, magic, version, suite or chunk size, and for reserved bytes in use."""
        if len(data) != HEADER_BYTES:
            raise ContainerError("header has the wrong size")
        (magic, version, suite, chunk_log2, flags, reserved_1, record_id, file_id, file_version, reserved_2,
         salt, commitment, pad) = _LAYOUT.unpack(data)
        if magic != MAGIC:
            raise ContainerError("not a container")
        if version != VERSION:
            raise ContainerError("container version not known")
        if suite != SUITE_AES_256_GCM:
            raise ContainerError("container suite not known")
        if chunk_log2 != CHUNK_LOG2:
            raise ContainerError("chunk size not known")
        if flags or any(reserved_1) or any(reserved_2) or any(pad):
            raise ContainerError("reserved header bytes are in use")
        if file_version == 0:
            raise ContainerError("file version is zero")
        return cls(suite=suite, record_id=record_id, file_id=file_id, file_version=file_version,
                   salt=salt, commitment=commitment)

    def to_bytes(self) -> bytes:
        return _LAYOUT.pack(MAGIC, VERSION, self.suite, CHUNK_LOG2, 0, b"", self.record_id, self.file_id,
                            self.file_version, b"", self.salt, self.commitment, b"")


def _file_keys(dek: bytes, header_start: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """(file key, commitment): HKDF-SHA256 (RFC 5869) of the DEK, both bound to the hash of header[0:88]."""
    if len(dek) != DEK_BYTES:
        raise ValueError("a DEK has 32 bytes")
    bound = hashlib.sha256(header_start).digest()
    prk = hmac.digest(salt, dek, "sha256")
    return (
        hmac.digest(prk, b"myphr/file/1" + bound + b"\x01", "sha256"),
        hmac.digest(prk, b"myphr/commit/1" + bound + b"\x01", "sha256"),
    )


def _check_id(value: bytes) -> None:
    if len(value) != ID_BYTES:
        raise ValueError("record and file ids are UUIDs as 16 bytes")


class ChunkSealer:
    """Seals one file from front to back, each chunk number once: a repeated or skipped number raises ValueError.

    One sealer per salt in the whole world: a fresh salt is drawn unless `salt` is given. Give one only to go on with
    a container whose chunks `first_index`... were never sealed by anyone (not even to a buffer that was then lost to
    a crash), as a second plaintext under the same key and nonce would give both away. Safe to share between threads.
    """

    def __init__(self, dek: bytes, record_id: bytes, file_id: bytes, file_version: int = 1,
                 salt: bytes | None = None, *, first_index: int = 0) -> None:
        _check_id(record_id)
        _check_id(file_id)
        if not 1 <= file_version <= FILE_VERSION_MAX:
            raise ValueError("file version outside 1..2^32-1")
        if first_index and salt is None:
            raise ValueError("going on needs the salt of the container")
        if not 0 <= first_index < CHUNKS_MAX:
            raise ValueError("chunk number outside what one container holds")
        salt = secrets.token_bytes(SALT_BYTES) if salt is None else bytes(salt)
        if len(salt) != SALT_BYTES:
            raise ValueError("a salt has 32 bytes")
        draft = Header(record_id=record_id, file_id=file_id, file_version=file_version, salt=salt, commitment=b"")
        key, commitment = _file_keys(dek, draft.to_bytes()[:BOUND_BYTES], salt)
        self.salt = salt
        self.header = dataclasses.replace(draft, commitment=commitment).to_bytes()
        self.next_index = first_index
        self.finished = False
        self._cipher = AESGCM(key)
        self._one_at_a_time = threading.Lock()

    def seal(self, index: int, plaintext: Bytes, last: bool) -> bytes:
        """One sealed chunk (plaintext plus 16 bytes). `index` must be the next one: 0, 1, 2 ...

        Every chunk but the last has exactly CHUNK_BYTES; the last has 1..CHUNK_BYTES, or none in an empty file.
        Raises ValueError for anything else, and after the last chunk."""
        if len(plaintext) > CHUNK_BYTES:
            raise ValueError("a chunk has at most 64 KiB")
        out = bytearray(len(plaintext) + TAG_BYTES)
        self._seal_into(index, memoryview(plaintext), memoryview(out), last)
        return bytes(out)

    def seal_chunks(self, plaintext: Bytes, last: bool) -> bytearray:
        """The next chunks of the file in one go, sealed one behind the other. `plaintext` is a whole number of
        chunks unless `last`. Raises ValueError as `seal` does."""
        out = bytearray(len(plaintext) + TAG_BYTES * max(1, -(-len(plaintext) // CHUNK_BYTES)))
        self.seal_chunks_into(plaintext, out, last)
        return out

    def seal_chunks_into(self, plaintext: Bytes, out: bytearray | memoryview, last: bool) -> int:
        """Like `seal_chunks` into a buffer of at least that size; returns the bytes written."""
        return self._seal_into(None, memoryview(plaintext), memoryview(out), last)

    def _seal_into(self, index: int | None, plaintext: memoryview, out: memoryview, last: bool) -> int:
        size = len(plaintext)
        chunks = max(1, -(-size // CHUNK_BYTES))
        needed = size + TAG_BYTES * chunks
        with self._one_at_a_time:
            if self.finished:
                raise ValueError("the last chunk is already sealed")
            if index is not None and index != self.next_index:
                raise ValueError("chunks are sealed in order, each once")
            if not last and (size == 0 or size % CHUNK_BYTES):
                raise ValueError("only the last chunk may be short")
            if last and size == 0 and self.next_index:
                raise ValueError("only an empty file ends with an empty chunk")
            if self.next_index + chunks > CHUNKS_MAX:
                raise ValueError("longer than the longest container")
            if len(out) < needed:
                raise ValueError("the buffer is too small")
            first = self.next_index
            # Taken before anything is sealed: whatever goes wrong below, these numbers are never used again.
            self.next_index += chunks
            self.finished = last
            encrypt_into = self._cipher.encrypt_into
            read = write = 0
            for number in range(first, first + chunks):
                chunk = plaintext[read : read + CHUNK_BYTES]
                end = write + len(chunk) + TAG_BYTES
                encrypt_into(_NONCE.pack(number, last and number == first + chunks - 1), chunk, None, out[write:end])
                read += CHUNK_BYTES
                write = end
        return needed


class ChunkOpener:
    """Opens chunks of one container, in any order, from any thread. Pure: reading changes nothing.

    Raises ContainerError at once if the header is not that of `file_id` in `record_id` (and, if given, of this
    `file_version`) or the DEK is not the one it was sealed under."""

    def __init__(self, dek: bytes, header: Bytes, record_id: bytes, file_id: bytes,
                 file_version: int | None = None) -> None:
        _check_id(record_id)
        _check_id(file_id)
        self.header = Header.parse(header)
        # The commitment comes first: no other value of a foreign header is acted upon before it fits.
        key, commitment = _file_keys(dek, bytes(header[:BOUND_BYTES]), self.header.salt)
        if not hmac.compare_digest(commitment, self.header.commitment):
            raise ContainerError("header does not fit the key")
        if self.header.record_id != record_id or self.header.file_id != file_id:
            raise ContainerError("container of another file")
        if file_version is not None and self.header.file_version != file_version:
            raise ContainerError("container of another version")
        self._cipher = AESGCM(key)

    def open(self, index: int, sealed: Bytes, last: bool) -> bytes:
        """The plaintext of one sealed chunk. `last` is what the container's size says about chunk `index`.

        Raises ContainerError if this is not that very chunk, unchanged."""
        if len(sealed) > SEALED_CHUNK_BYTES:
            raise ContainerError("chunk is too long")
        return bytes(self.open_chunks(index, sealed, last))

    def open_chunks(self, first_index: int, sealed: Bytes, last: bool) -> bytearray:
        """The plaintext of several sealed chunks that follow each other, the first being `first_index`; `last` says
        whether they reach the end of the file. Raises ContainerError."""
        out = bytearray(max(0, len(sealed) - TAG_BYTES * -(-len(sealed) // SEALED_CHUNK_BYTES)))
        self.open_chunks_into(first_index, sealed, out, last)
        return out

    def open_chunks_into(self, first_index: int, sealed: Bytes, out: bytearray | memoryview, last: bool) -> int:
        """Like `open_chunks` into a buffer of at least that size; returns the bytes written. On ContainerError the
        buffer is wiped: the cipher writes before it knows whether the tag fits."""
        source, target = memoryview(sealed), memoryview(out)
        size = len(source)
        chunks = -(-size // SEALED_CHUNK_BYTES)
        if chunks == 0 or first_index < 0 or first_index + chunks > CHUNKS_MAX:
            raise ContainerError("no such chunk")
        last_chunk_bytes = size - (chunks - 1) * SEALED_CHUNK_BYTES
        if last_chunk_bytes < TAG_BYTES or (not last and last_chunk_bytes != SEALED_CHUNK_BYTES):
            raise ContainerError("chunk is too short")
        if last and last_chunk_bytes == TAG_BYTES and first_index + chunks > 1:
            raise ContainerError("empty chunk behind others")
        needed = size - chunks * TAG_BYTES
        if len(target) < needed:
            raise ValueError("the buffer is too small")
        decrypt_into = self._cipher.decrypt_into
        read = write = 0
        try:
            for number in range(first_index, first_index + chunks):
                chunk = source[read : read + SEALED_CHUNK_BYTES]
                end = write + len(chunk) - TAG_BYTES
                is_last = last and number == first_index + chunks - 1
                decrypt_into(_NONCE.pack(number, is_last), chunk, None, target[write:end])
                read += SEALED_CHUNK_BYTES
                write = end
        except InvalidTag:
            target[:needed] = bytes(needed)
            raise ContainerError(f"chunk {number} is not what was sealed") from None
        return needed


def seal_whole(dek: bytes, record_id: bytes, file_id: bytes, plaintext: Bytes, file_version: int = 1) -> bytes:
    """A whole container for a file held in memory."""
    sealer = ChunkSealer(dek, record_id, file_id, file_version)
    return sealer.header + sealer.seal_chunks(plaintext, last=True)


def open_whole(dek: bytes, record_id: bytes, file_id: bytes, container: Bytes,
               file_version: int | None = None) -> bytes:
    """The file in a whole container held in memory. Raises ContainerError."""
    size = plain_bytes(len(container))
    view = memoryview(container)
    opener = ChunkOpener(dek, view[:HEADER_BYTES], record_id, file_id, file_version)
    out = bytearray(size)
    opener.open_chunks_into(0, view[HEADER_BYTES:], out, last=True)
    return bytes(out)
