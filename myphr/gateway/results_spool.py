"""Where results wait, sealed, until they are items: blocks and a journal that survive kill -9 of the gateway.

Nothing here is ever in clear on disk: each block and each journal record is wrapped with a fresh random salt under the
key of this one VM session, bound to its place. Acknowledged means: blocks written, then the journal names them, so
what was closed or fsynced comes back whole. Layout: docs/formats/folder.md. Called by `myphr.gateway.results`.
"""

import contextlib
import errno
import json
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from myphr.crypto import envelope
from myphr.errors import EnvelopeError

BLOCK_BYTES = 65_536
SLOT_BYTES = 4 + envelope.WRAP_OVERHEAD_BYTES + BLOCK_BYTES
DIRTY_BLOCKS_MAX = 64  # per VM session, 4 MiB: beyond, pieces of blocks are sealed as they come
_LENGTH = struct.Struct("<I")
_RECORD_BYTES_MAX = 8 * 1024 * 1024


class SpoolDamaged(Exception):
    """The spool is not what was written. What it holds can only be had in part."""


class Dirty:
    """How many unsealed blocks one VM session keeps in memory."""

    def __init__(self, blocks_max: int = DIRTY_BLOCKS_MAX) -> None:
        self._count = 0
        self._max = blocks_max
        self._lock = threading.Lock()

    def add(self, count: int) -> bool:
        """Whether there is still room after counting these."""
        with self._lock:
            self._count += count
            return self._count <= self._max

    @property
    def count(self) -> int:
        return self._count


class SealedFile:
    """The bytes of one result. Two slots per block: a write never touches the slot that the journal vouches for.

    Not thread-safe by itself: the owner holds `lock` around every call."""

    def __init__(self, path: Path, key: bytes, vm_session_id: str, number: int, dirty: Dirty) -> None:
        self.lock = threading.Lock()
        self.size = 0
        self._path = path
        self._key = key
        self._ids = (vm_session_id, str(number))
        self._journaled: dict[int, int] = {}  # block -> sequence number, as the journal knows it
        self._journaled_size = 0
        self._current: dict[int, int] = {}
        self._dirty: dict[int, bytearray] = {}
        self._shared = dirty
        self._cut: int | None = None  # blocks from here on were dropped since the last record
        self._touched: set[int] = set()
        self._resized = False

    # -- as the journal says --------------------------------------------------------------------------
    def apply(self, record: dict[str, Any]) -> None:
        """Replay one of our records."""
        self.size = self._journaled_size = record["size"]
        if record.get("cut") is not None:
            self._journaled = {i: seq for i, seq in self._journaled.items() if i < record["cut"]}
        self._journaled.update((i, seq) for i, seq in record["blocks"])
        self._current = dict(self._journaled)

    def flush(self) -> dict[str, Any] | None:
        """Make everything durable but the journal. Returns what to journal, to be confirmed by `flushed`."""
        self._seal_dirty()
        if not (self._touched or self._cut is not None or self._resized):
            return None
        if self._touched:
            with self._opened() as fd:
                os.fdatasync(fd)
        blocks = sorted((i, self._current[i]) for i in self._touched)
        return {"size": self.size, "cut": self._cut, "blocks": blocks}

    def flushed(self) -> None:
        if self._cut is not None:
            self._journaled = {i: seq for i, seq in self._journaled.items() if i < self._cut}
        for i in self._touched:
            self._journaled[i] = self._current[i]
        self._touched.clear()
        self._cut = None
        self._resized = False
        self._journaled_size = self.size

    def snapshot(self) -> dict[str, Any]:
        """The journaled state as one record, for compaction."""
        return {"size": self._journaled_size, "cut": 0, "blocks": sorted(self._journaled.items())}

    # -- bytes ------------------------------------------------------------------------------------------
    def read(self, offset: int, count: int) -> bytes:
        end = min(offset + count, self.size)
        if offset >= end:
            return b""
        out = bytearray(end - offset)
        for index in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            start = index * BLOCK_BYTES
            block = self._block(index)
            low, high = max(offset, start), min(end, start + len(block))
            if low < high:
                out[low - offset : high - offset] = block[low - start : high - start]
        return bytes(out)

    def write(self, offset: int, payload: bytes) -> None:
        """The caller has checked the new size against its limits."""
        view = memoryview(payload)
        end = offset + len(payload)
        at = offset
        fitting = True
        while at < end:
            index, inside = divmod(at, BLOCK_BYTES)
            piece = view[at - offset : at - offset + BLOCK_BYTES - inside]
            if inside == 0 and len(piece) == BLOCK_BYTES:
                self._forget_dirty(index)
                self._seal(index, bytes(piece))
            else:
                block = self._dirty.get(index)
                if block is None:
                    block = self._dirty[index] = bytearray(self._block(index))
                    fitting = self._shared.add(1) and fitting
                if len(block) < inside:
                    block += bytes(inside - len(block))
                block[inside : inside + len(piece)] = piece
            at += len(piece)
        if end > self.size:
            self.size = end
            self._resized = True
        if not fitting:
            self._seal_dirty()

    def truncate(self, size: int) -> None:
        if size < self.size:
            keep = -(-size // BLOCK_BYTES)
            for index in [i for i in self._dirty if i >= keep]:
                self._forget_dirty(index)
            self._current = {i: seq for i, seq in self._current.items() if i < keep}
            self._touched = {i for i in self._touched if i < keep}
            self._cut = keep if self._cut is None else min(self._cut, keep)
            inside = size % BLOCK_BYTES
            if inside:  # what is cut off must not come back when the file grows again
                block = self._block(keep - 1)
                if len(block) > inside:
                    self._forget_dirty(keep - 1)
                    self._seal(keep - 1, bytes(block[:inside]))
        self._resized = self._resized or size != self.size
        self.size = size

    def forget(self) -> None:
        """Let go of key and unsealed blocks."""
        for index in list(self._dirty):
            self._forget_dirty(index)
        self._key = b""

    def drop(self) -> None:
        """The file is gone for good."""
        self.forget()
        self._path.unlink(missing_ok=True)

    # -- blocks -------------------------------------------------------------------------------------------
    def _block(self, index: int) -> bytes | bytearray:
        dirty = self._dirty.get(index)
        if dirty is not None:
            return dirty
        sequence = self._current.get(index)
        if sequence is None:
            return b""
        with self._opened() as fd:
            slot = os.pread(fd, SLOT_BYTES, self._slot(index, sequence))
        length = _LENGTH.unpack_from(slot)[0] if len(slot) >= 4 else 0
        try:
            return envelope.unwrap(self._key, slot[4 : 4 + length], context=self._context(index, sequence))
        except EnvelopeError:
            raise OSError(errno.EIO, "refused") from None

    def _seal(self, index: int, block: bytes) -> None:
        sequence = self._journaled.get(index, -1) + 1
        wrapped = envelope.wrap(self._key, block, context=self._context(index, sequence))
        with self._opened() as fd:
            slot = memoryview(_LENGTH.pack(len(wrapped)) + wrapped)
            at = self._slot(index, sequence)
            while slot:  # a full disk may take a part
                done = os.pwrite(fd, slot, at)
                slot, at = slot[done:], at + done
        self._current[index] = sequence
        self._touched.add(index)

    def _seal_dirty(self) -> None:
        for index in sorted(self._dirty):
            self._seal(index, bytes(self._dirty[index]))
            self._forget_dirty(index)

    def _forget_dirty(self, index: int) -> None:
        if self._dirty.pop(index, None) is not None:
            self._shared.add(-1)

    def _context(self, index: int, sequence: int) -> bytes:
        return envelope.context_for("results-block", *self._ids, str(index), str(sequence))

    @staticmethod
    def _slot(index: int, sequence: int) -> int:
        return (index * 2 + (sequence & 1)) * SLOT_BYTES

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        # Opened for each use: a guest may hold a thousand results open, we have fewer descriptors than that.
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)


class Journal:
    """An append-only list of sealed records. A torn last record was never acknowledged and is dropped."""

    def __init__(self, path: Path, key: bytes, vm_session_id: str) -> None:
        self._path = path
        self._key = key
        self._vm_session_id = vm_session_id
        self._lock = threading.Lock()
        self._count = 0
        self.bytes = 0
        self._fd = -1

    def replay(self) -> list[dict[str, Any]]:
        """All records, oldest first; then ready to append. Raises SpoolDamaged when more than the tail is broken."""
        raw = self._path.read_bytes() if self._path.exists() else b""
        records: list[dict[str, Any]] = []
        at = 0
        while at + 4 <= len(raw):
            length = _LENGTH.unpack_from(raw, at)[0]
            if not 0 < length <= _RECORD_BYTES_MAX or at + 4 + length > len(raw):
                break
            try:
                record = envelope.unwrap(self._key, raw[at + 4 : at + 4 + length], context=self._context(len(records)))
            except EnvelopeError:
                if at == 0 or at + 4 + length < len(raw):  # the first of all: more likely a wrong key than a torn end
                    raise SpoolDamaged("journal") from None
                break
            records.append(json.loads(record))
            at += 4 + length
        self._open(at, len(records))
        return records

    def _open(self, at: int, count: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, at)
        self.bytes, self._count = at, count

    def append(self, record: dict[str, Any]) -> None:
        """Written before this returns: it survives kill -9. `sync` makes it survive a power cut."""
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.ESTALE, "refused")
            framed = memoryview(self._framed(record, self._count))
            at = self.bytes
            while framed:
                done = os.pwrite(self._fd, framed, at)
                framed, at = framed[done:], at + done
            self.bytes, self._count = at, self._count + 1

    def sync(self) -> None:
        """Waits for the disk without holding up those who append."""
        with self._lock:
            if self._fd < 0:
                return
            fd = os.dup(self._fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def rewrite(self, records: list[dict[str, Any]]) -> None:
        """Replace the whole by a shorter list that says the same."""
        with self._lock:
            new = self._path.with_suffix(".new")
            framed = b"".join(self._framed(record, n) for n, record in enumerate(records))
            with new.open("wb") as file:
                file.write(framed)
                file.flush()
                os.fdatasync(file.fileno())
            new.replace(self._path)
            sync_directory(self._path.parent)
            self._open(len(framed), len(records))

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _framed(self, record: dict[str, Any], number: int) -> bytes:
        plain = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
        wrapped = envelope.wrap(self._key, plain, context=self._context(number))
        return _LENGTH.pack(len(wrapped)) + wrapped

    def _context(self, number: int) -> bytes:
        return envelope.context_for("results-journal", self._vm_session_id, str(number))


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
