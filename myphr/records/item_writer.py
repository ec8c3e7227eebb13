"""Sealing one file as it streams in, up to a container that is durable in the store; `filing` puts it into the record.

Needs the owner's public key only. Plaintext exists in one buffer of this process and never on disk. Called by ingest,
jobs and the files gateway.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from myphr.crypto import container
from myphr.database import new_id
from myphr.errors import RecordFull
from myphr.records.facts import Describe, Facts
from myphr.records.filing import RecordParts, SealedFile, file_sealed, object_key_of
from myphr.records.models import Item
from myphr.records.opening import id_bytes
from myphr.records.store import SealedWriter

HEAD_BYTES = 256 * 1024  # enough for the headers of any DICOM image seen; a format is told by the first 64 KiB
BLOCK_BYTES = 8 * container.CHUNK_BYTES
FIRST_BLOCK_BYTES = 2 * container.CHUNK_BYTES


class ItemWriter:
    """Seals one file as it streams in. Write, then `finish`, or `abort`; as a context manager it aborts on an error.

    `describe` is `ingest.identify.describe`: passed in, because records must not know formats."""

    def __init__(
        self,
        parts: RecordParts,
        account_id: str,
        *,
        owner_public_key: bytes,
        source: str,
        source_id: str | None,
        describe: Describe,
        bytes_max: int | None = None,
    ) -> None:
        self._parts = parts
        self._account_id = account_id
        self._owner_public_key = owner_public_key
        self._source, self._source_id = source, source_id
        self._describe = describe
        self._bytes_max = parts.settings.upload_bytes_max if bytes_max is None else bytes_max
        self.item_id = new_id()
        self.duplicate = False
        self.plain_bytes = 0
        self._dek = container.new_dek()
        self._sealer = container.ChunkSealer(self._dek, id_bytes(account_id), id_bytes(self.item_id))
        self._hash = hashlib.sha256()
        self._head = b""
        # The last chunk must be sealed as such: something is always held back.
        self._held, self._filled = memoryview(bytearray(FIRST_BLOCK_BYTES)), 0
        self._object_key = object_key_of(self.item_id)
        self._out: SealedWriter = parts.store.create(self._object_key)
        self._out.write(self._sealer.header)

    def write(self, plaintext: bytes | bytearray | memoryview) -> None:
        """Append. Raises StoreFull, RecordFull above `bytes_max`; the writer is then aborted."""
        self.plain_bytes += len(plaintext)
        if self.plain_bytes > self._bytes_max:
            self.abort()
            raise RecordFull()
        source = memoryview(plaintext).cast("B")
        while len(source):
            if self._filled == len(self._held):
                self._take(self._held, last=False)
                if len(self._held) < BLOCK_BYTES:  # a small file needs no large block
                    self._held = memoryview(bytearray(BLOCK_BYTES))
                self._filled = 0
            part = source[: len(self._held) - self._filled]
            self._held[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            source = source[len(part) :]

    def _take(self, plaintext: memoryview, *, last: bool) -> None:
        self._hash.update(plaintext)
        if len(self._head) < HEAD_BYTES:
            self._head += plaintext[: HEAD_BYTES - len(self._head)]
        self._out.write(self._sealer.seal_chunks(plaintext, last))

    def seal_up(self, name: str, path: str = "") -> SealedFile:
        """Ends the container and makes it durable in the store; `file_sealed` then puts it into the record."""
        sealed = self.close_up(name, path)
        self.commit()
        return sealed

    def commit(self) -> None:
        """After `close_up`: makes the container durable in the store. Several threads may do so for several files."""
        try:
            self._out.commit()
        except BaseException:
            self.abort()
            raise

    def close_up(self, name: str | Callable[[Facts], str], path: str = "") -> SealedFile:
        """Ends the container; it is not durable before `commit`. `name`: or what makes one of what the file says."""
        try:
            self._take(self._held[: self._filled], last=True)
        except BaseException:
            self.abort()
            raise
        facts = self._describe(self._head)
        return SealedFile(
            item_id=self.item_id,
            account_id=self._account_id,
            object_key=self._object_key,
            plain_bytes=self.plain_bytes,
            sha256=self._hash.digest(),
            dek=self._dek,
            facts=facts,
            name=name if isinstance(name, str) else name(facts),
            path=path,
            source=self._source,
            source_id=self._source_id,
        )

    def finish(self, name: str, path: str = "") -> Item:
        """The item, durable and in its study when this returns. If the record had these very bytes already,
        `duplicate` is set and the item it had is returned. Raises StoreFull, NotFound."""
        [filed] = file_sealed(self._parts, [self.seal_up(name, path)], owner_public_key=self._owner_public_key)
        self.duplicate = filed.duplicate
        return filed.item

    def abort(self) -> None:
        """Leaves nothing behind. Harmless after finish."""
        self._out.abort()
        self._held, self._filled = memoryview(b""), 0

    def __enter__(self) -> "ItemWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.abort()
