"""Opening items: contexts, sealed details, and range reads of a container. Pure reads, safe for several threads.

Knows the container and envelope formats and the store; no account, page or queue. Called by records, the files gateway
(512 KiB at a time) and the unpacking of archives.
"""

import dataclasses
import hmac
import json
import threading
import uuid
from typing import Any, Protocol

from myphr.crypto import container, envelope
from myphr.errors import ContainerError, EnvelopeError
from myphr.records.models import Item, Study
from myphr.records.store import ObjectStore, SealedReader


class Openable(Protocol):
    """What `open_item` needs to know: an Item row (by `opening_of`) or an entry of a manifest."""

    @property
    def item_id(self) -> str: ...
    @property
    def account_id(self) -> str: ...
    @property
    def object_key(self) -> str: ...
    @property
    def plain_bytes(self) -> int: ...
    @property
    def version(self) -> int: ...


class Ring(Protocol):
    """The signed-in owner's keys (`people.keyring.KeyRing`), made ready once for many items."""

    @property
    def public_key(self) -> bytes: ...
    def open(self, sealed: bytes, *, context: bytes) -> bytes: ...


def id_bytes(text: str) -> bytes:
    """A UUID as its 16 bytes."""
    return uuid.UUID(text).bytes


def dek_context(item_id: str) -> bytes:
    return envelope.context_for("item-dek", item_id)


def study_context(study_id: str) -> bytes:
    return envelope.context_for("study", study_id)


def content_key(index_key: bytes, account_id: str, sha256: bytes) -> str:
    """Finds an identical file of the same owner without being able to read either, or to compare owners."""
    return hmac.digest(index_key, b"content|" + account_id.encode() + b"|" + sha256, "sha256").hex()


def group_key(index_key: bytes, account_id: str, study_uid: str) -> str:
    """Finds the study of a new item without being able to read the study's UID."""
    return hmac.digest(index_key, b"study|" + account_id.encode() + b"|" + study_uid.encode(), "sha256").hex()


def seal_details(dek: bytes, item_id: str, details: dict[str, Any]) -> bytes:
    plain = json.dumps(details, ensure_ascii=False, separators=(",", ":")).encode()
    return envelope.wrap(envelope.derive(dek, "myphr/details/1"), plain, context=item_id.encode())


def open_details(dek: bytes, item_id: str, sealed: bytes) -> dict[str, Any]:
    """What the item says about itself: name, path, sha256, rule, headers. Raises EnvelopeError."""
    plain = envelope.unwrap(envelope.derive(dek, "myphr/details/1"), sealed, context=item_id.encode())
    try:
        return json.loads(plain)
    except ValueError:
        raise EnvelopeError("details are not what was sealed") from None


def dek_of(ring: Ring, item: Item) -> bytes:
    """The key of one of the owner's items. Raises EnvelopeError, also for somebody else's."""
    return ring.open(item.sealed_dek, context=dek_context(item.id))


def details_of(ring: Ring, item: Item) -> dict[str, Any]:
    """Raises EnvelopeError."""
    return open_details(dek_of(ring, item), item.id, item.sealed_details)


def summary_of(ring: Ring, study: Study) -> dict[str, Any]:
    """Raises EnvelopeError."""
    return json.loads(ring.open(study.sealed_summary, context=study_context(study.id)))


def seal_summary(public_key: bytes, study_id: str, summary: dict[str, Any]) -> bytes:
    plain = json.dumps(summary, ensure_ascii=False, separators=(",", ":")).encode()
    return envelope.seal_to(public_key, plain, context=study_context(study_id))


@dataclasses.dataclass(frozen=True)
class ItemPlace:
    """Where one item's bytes are, without its row."""

    item_id: str
    account_id: str
    object_key: str
    plain_bytes: int
    version: int = 1


class OpenItem:
    """One item open for reading. `read_at` may be called by several threads at once."""

    _scratch = threading.local()  # sealed and plain buffers of each thread: fresh ones cost more than the cipher

    def __init__(self, reader: SealedReader, dek: bytes, source: Openable) -> None:
        if reader.size != container.sealed_bytes(source.plain_bytes):
            # The size on record is what was sealed; a container cut at a chunk's edge would read as a shorter file.
            raise ContainerError("size is not that on record")
        self._reader = reader
        self.plain_bytes = source.plain_bytes
        self._chunks = container.chunks_of(source.plain_bytes)
        header = reader.read_at(0, container.HEADER_BYTES)
        self._opener = container.ChunkOpener(
            dek, header, id_bytes(source.account_id), id_bytes(source.item_id), source.version
        )

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`, at most `length`; fewer only at the end of the file. Raises ContainerError."""
        plain, start, end = self._open_range(offset, length)
        return bytes(plain[start:end])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """As read_at, into the caller's memory; the number of bytes."""
        length = min(len(buffer), max(0, self.plain_bytes - offset))
        whole = (
            offset % container.CHUNK_BYTES == 0
            and length
            and (length % container.CHUNK_BYTES == 0 or offset + length == self.plain_bytes)
        )
        if whole:
            return self._open_into(offset // container.CHUNK_BYTES, buffer[:length])
        plain, start, end = self._open_range(offset, length)
        buffer[: end - start] = plain[start:end]
        return end - start

    def _open_range(self, offset: int, length: int) -> tuple[memoryview, int, int]:
        """Opens the chunks around the range into this thread's buffer; (buffer, start, end of the range in it)."""
        end = min(offset + length, self.plain_bytes)
        if offset < 0 or length <= 0 or offset >= end:
            return memoryview(b""), 0, 0
        first = offset // container.CHUNK_BYTES
        base = first * container.CHUNK_BYTES
        plain_end = min(-(-end // container.CHUNK_BYTES) * container.CHUNK_BYTES, self.plain_bytes)
        plain = self._buffer("plain", plain_end - base)
        self._open_into(first, plain)
        return plain, offset - base, end - base

    def _open_into(self, first: int, plain: memoryview) -> int:
        chunks = max(1, -(-len(plain) // container.CHUNK_BYTES))
        sealed = self._buffer("sealed", len(plain) + chunks * container.TAG_BYTES)
        at, filled = container.chunk_offset(first), 0
        while filled < len(sealed):
            got = self._reader.read_into(at + filled, sealed[filled:])
            if got <= 0:
                raise ContainerError("the container ends early")
            filled += got
        return self._opener.open_chunks_into(first, sealed, plain, last=first + chunks == self._chunks)

    def _buffer(self, name: str, size: int) -> memoryview:
        found = getattr(self._scratch, name, None)
        if found is None or len(found) < size:
            found = memoryview(bytearray(max(size, 1 << 19)))
            setattr(self._scratch, name, found)
        return found[:size]

    def close(self) -> None:
        self._reader.close()


def open_item(store: ObjectStore, item: "Item | Openable", dek: bytes) -> OpenItem:
    """Open an item's bytes with its key. Raises NotFound, ContainerError."""
    source: Openable = (
        item
        if not isinstance(item, Item)
        else ItemPlace(item.id, item.account_id, item.object_key, item.plain_bytes, item.version)
    )
    reader = store.open(source.object_key)
    try:
        return OpenItem(reader, dek, source)
    except BaseException:
        reader.close()
        raise
