"""One request's bytes of an upload on their way to the disk: received and hashed in one thread, sealed and written in
another. Knows containers and files, neither rows nor HTTP. Called by `uploads`.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from myphr.crypto import container
from myphr.records.store import Appender, full_disk_is_store_full, sync_folder, write_all

# Received, hashed, sealed and written at once. Measured per GB: 256 KiB costs 3.8 CPU s, 512 KiB 2.5, 1 MiB 2.2 and
# 2 MiB 2.1, as the two threads hand over less often; four of them are the memory of an upload.
BLOCK_BYTES = 16 * container.CHUNK_BYTES
SEALED_BLOCK_BYTES = BLOCK_BYTES + container.TAG_BYTES * container.chunks_of(BLOCK_BYTES)
BLOCKS_IN_FLIGHT = 3
CHECKPOINT_BYTES = 32 * 1024**2  # about so much is sent again after a kill -9 ...
CHECKPOINT_SECONDS = 5.0  # ... or this many seconds' worth
QUIET_SECONDS_MAX = 60.0  # a connection that says nothing for so long is gone


class Body(Protocol):
    """The bytes of one request, as the web server hands them over."""

    length: int | None  # as declared; None if the client did not say

    def receive(self, buffer: memoryview) -> int | None:
        """Bytes received; 0 at the end of the body or when the connection is lost; None if nothing came for a while
        (so that the caller can look around)."""


class UploadStream:
    """One request's bytes on their way to the disk: this thread receives and hashes, a second one seals and writes.

    With one thread the socket waits for the disk; with two, hashing (0.6 s/GB) and sealing plus writing overlap.
    `position`, `hash`: what is sealed; when `run` is over, it is also durable."""

    def __init__(self, total: int, start: int, sealer: container.ChunkSealer, fd: int, digest: Any) -> None:
        self.total = total
        self.position = start
        self.hash = digest
        self.let_go = self.too_much = self.ended_well = False
        self._received = start
        self._sealer = sealer
        self._fd = fd
        self._out: Appender | None = None

    def run(self, body: Body, let_go_path: Path, commit: Callable[[int], object] | None = None) -> None:
        """Takes the body until it ends, breaks or must let go; then all whole chunks (or the whole file) are durable.

        `commit(position)` is called from time to time, from another thread, with a position that is durable: waiting
        for the disk here would stop the socket for as long. Without it nothing is durable. Raises StoreFull."""
        expected = self.total - self._received if body.length is None else body.length
        is_small = expected <= BLOCKS_IN_FLIGHT * BLOCK_BYTES  # not worth a thread
        out = self._out = Appender(self._fd, SEALED_BLOCK_BYTES, direct=commit is not None and not is_small)
        sink = _Sink(self._seal_and_write) if is_small else _ThreadSink(self._seal_and_write)
        checkpoints = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")  # starts its thread at the first one
        under_way: concurrent.futures.Future[None] | None = None
        asked, asked_at = self.position, time.monotonic()  # of the last checkpoint
        try:
            for block in self._blocks(body, let_go_path, sink):
                sink.put(block)
                if under_way is not None and under_way.done():
                    under_way.result()
                    under_way = None
                in_file = _whole_chunks_in(out.reached)
                due = in_file - asked >= CHECKPOINT_BYTES or time.monotonic() - asked_at > CHECKPOINT_SECONDS
                if commit and due and under_way is None and asked < in_file < self.total:
                    asked, asked_at = in_file, time.monotonic()
                    under_way = checkpoints.submit(self._checkpoint, asked, commit)
            sink.drain()
        finally:
            sink.close()
            checkpoints.shutdown()
        if under_way is not None:
            under_way.result()
        out.finish()
        if commit:
            with full_disk_is_store_full():
                os.fdatasync(self._fd)

    def _checkpoint(self, position: int, commit: Callable[[int], object]) -> None:
        with full_disk_is_store_full():
            os.fdatasync(self._fd)
        commit(position)

    def _blocks(self, body: Body, let_go_path: Path, sink: "_Sink") -> Iterator[memoryview]:
        """Full blocks, and at the end the whole chunks of the last one."""
        buffer, filled = sink.buffer(), 0
        quiet_since = time.monotonic()
        while True:
            room = min(BLOCK_BYTES - filled, self.total - self._received - filled)
            if room == 0 and self._received + filled == self.total:
                self.ended_well = True
                self.too_much = body.length is None and body.receive(memoryview(bytearray(1))) not in (0, None)
                break
            got = body.receive(buffer[filled : filled + room])
            if got is None:
                self.let_go = let_go_path.exists()
                if self.let_go or time.monotonic() - quiet_since > QUIET_SECONDS_MAX:
                    break
                continue
            if got == 0:
                self.ended_well = True
                break
            quiet_since = time.monotonic()
            filled += got
            if filled == BLOCK_BYTES:
                self._count(buffer)
                yield buffer
                buffer, filled = sink.buffer(), 0
                self.let_go = let_go_path.exists()
                if self.let_go:
                    break
        keep = filled if self._received + filled == self.total else filled - filled % container.CHUNK_BYTES
        if keep:
            self._count(buffer[:keep])
            yield buffer[:keep]

    def _count(self, plaintext: memoryview) -> None:
        if self.hash is not None:
            self.hash.update(plaintext)
        self._received += len(plaintext)

    def _seal_and_write(self, plaintext: memoryview) -> None:
        last = self.position + len(plaintext) == self.total
        assert self._out is not None
        size = len(plaintext) + container.TAG_BYTES * container.chunks_of(len(plaintext))
        self._sealer.seal_chunks_into(plaintext, self._out.room(size), last)
        self._out.put(size)
        self.position += len(plaintext)


def reseal(
    old_path: Path, opener_of: Callable[[bytes], container.ChunkOpener], new_path: Path, sealer: container.ChunkSealer,
    plain_bytes: int,
) -> Any:
    """The first `plain_bytes` (whole chunks) of the old container in a new file by `sealer`, durable; the SHA-256 over
    them. On any error there is no new file.

    Raises FileNotFoundError if there is no old one, ContainerError if it lost or changed something, StoreFull."""
    digest = hashlib.sha256()
    with open(old_path, "rb", buffering=0) as old, _new_file(new_path) as new:
        opener = opener_of(old.read(container.HEADER_BYTES))
        write_all(new, sealer.header)
        at, end = 0, plain_bytes // container.CHUNK_BYTES
        while at < end:
            chunks = min(BLOCK_BYTES // container.CHUNK_BYTES, end - at)
            sealed = os.pread(old.fileno(), chunks * container.SEALED_CHUNK_BYTES, container.chunk_offset(at))
            plain = opener.open_chunks(at, sealed, last=False)  # of nothing read: ContainerError
            digest.update(plain)
            write_all(new, sealer.seal_chunks(plain, last=False))
            at += len(sealed) // container.SEALED_CHUNK_BYTES
    return digest


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Its descriptor; durable at the end, gone after an error."""
    with full_disk_is_store_full():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
        with full_disk_is_store_full():
            os.fdatasync(fd)
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


class HeldPiece:
    """A piece that waited sealed in a file, read as a body."""

    def __init__(self, fd: int, opener: container.ChunkOpener, length: int) -> None:
        self.length: int | None = length
        self._fd = fd
        self._opener = opener
        self._left = length
        self._index = 0
        self._open = memoryview(b"")  # opened and not yet taken

    def receive(self, buffer: memoryview) -> int:
        if not self._open and self._left:
            size = min(self._left, BLOCK_BYTES)
            sealed = os.pread(
                self._fd, size + container.TAG_BYTES * container.chunks_of(size), container.chunk_offset(self._index)
            )
            self._left -= size
            self._open = memoryview(self._opener.open_chunks(self._index, sealed, last=self._left == 0))
            self._index += container.chunks_of(size)
        got = min(len(buffer), len(self._open))
        buffer[:got] = self._open[:got]
        self._open = self._open[got:]
        return got


class _Sink:
    """Takes blocks in order; here in the caller's own thread."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._only = memoryview(bytearray(BLOCK_BYTES))

    def buffer(self) -> memoryview:
        """An empty block to fill."""
        return self._only

    def put(self, block: memoryview) -> None:
        self._work(block)

    def drain(self) -> None:
        """Returns when all blocks are worked off. Raises what went wrong with one."""

    def close(self) -> None: ...


class _ThreadSink(_Sink):
    """The same in a thread of its own, with `BLOCKS_IN_FLIGHT` blocks in turn: the bound on memory and on the lead."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._blocks = [memoryview(bytearray(BLOCK_BYTES)) for _ in range(BLOCKS_IN_FLIGHT)]
        self._next = 0
        self._room = threading.Semaphore(BLOCKS_IN_FLIGHT - 1)  # one block is always the caller's
        self._full: queue.Queue[memoryview | None] = queue.Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sealing", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (block := self._full.get()) is not None:
            if self._error is None:
                try:
                    self._work(block)
                except BaseException as error:  # handed to the receiving thread, which raises it
                    self._error = error
            self._room.release()
            self._full.task_done()

    def buffer(self) -> memoryview:
        self._check()
        return self._blocks[self._next]

    def put(self, block: memoryview) -> None:
        self._full.put(block)
        self._next = (self._next + 1) % BLOCKS_IN_FLIGHT
        self._room.acquire()
        self._check()

    def drain(self) -> None:
        self._full.join()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._full.put(None)
        self._thread.join()


def _whole_chunks_in(file_bytes: int) -> int:
    """Plaintext bytes of the chunks that a container cut after `file_bytes` still holds whole."""
    return max(0, file_bytes - container.HEADER_BYTES) // container.SEALED_CHUNK_BYTES * container.CHUNK_BYTES
