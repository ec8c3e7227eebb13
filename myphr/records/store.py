"""The object store: sealed bytes under immutable keys, in a local folder or an S3 bucket.

Knows no key, owner or plaintext; whatever comes in is already a container (docs/formats/container.md). An object is
written once and never changed: the database row is the only pointer to it. Called by `records.items`, `ingest` and,
through them, the files gateway. Why our own folder writer: docs/decisions/0130-object-store.md.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import mmap
import os
import re
import secrets
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from myphr.errors import ConfigurationError, NotFound, StoreFull

_KEY = re.compile(r"[0-9a-z][0-9a-z.-]{7,99}")
_SHARD = re.compile(r"[0-9a-f]{2}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
COMMITS_AT_ONCE = 16
S3_PART_BYTES = 8 * 1024**2  # S3 wants at least 5 MiB; 10,000 parts of 8 MiB are the largest upload of 64 GiB and more


class KeyTaken(Exception):
    """An object of this key exists: keys are random, so this is a step that ran twice, not an accident."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """One object as listed: for the orphan sweep."""

    key: str
    size: int  # sealed bytes
    age_seconds: float


class SealedWriter(Protocol):
    """Takes sealed bytes in order. Nothing is visible under the key until `commit` returned."""

    def write(self, sealed: Any) -> None:
        """Append a bytes-like object. Raises StoreFull."""

    def commit(self) -> None:
        """Make it durable and visible. Raises StoreFull or KeyTaken, and then nothing is left behind."""

    def abort(self) -> None:
        """Leave nothing behind. Harmless after commit and twice."""


class SealedReader(Protocol):
    """Reads one object. Safe for several threads at once."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer only at the end."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """As read_at, into memory of the caller; the number of bytes read."""

    def close(self) -> None: ...


class ObjectStore(Protocol):
    """Sealed objects by key. `partial_dir` is where an unfinished upload is written until `adopt` takes it in."""

    partial_dir: Path

    def create(self, key: str) -> SealedWriter: ...

    def open(self, key: str) -> SealedReader:
        """Raises NotFound."""

    def adopt(self, path: Path, key: str) -> None:
        """Take a finished sealed file below `partial_dir` into the store: durable when it returns, the path is gone.
        Harmless when it was done before (the path is gone and the key exists). Raises StoreFull, NotFound."""

    def delete(self, key: str) -> None:
        """Remove the object; harmless when there is none."""

    def exists(self, key: str) -> bool: ...

    def keys(self) -> Iterator[str]: ...

    def listing(self) -> Iterator[Stored]: ...


def open_store(url: str, *, partial_dir: Path | None = None) -> ObjectStore:
    """The store that `url` names: `file:///folder` or `s3://bucket/prefix?endpoint=https://host&region=name`.

    Credentials of S3 come from the usual AWS_* environment variables. `partial_dir` is where unfinished uploads
    wait for S3, sealed; the local store keeps them in itself, so that taking them in is a rename.
    Raises ConfigurationError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return LocalStore(Path(urllib.parse.unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        options = dict(urllib.parse.parse_qsl(parts.query))
        spool = partial_dir or Path(tempfile.gettempdir()) / f"myphr-partial-{os.geteuid()}"
        if unknown := set(options) - {"endpoint", "region"}:
            raise ConfigurationError(f"unknown option of the store address: {', '.join(sorted(unknown))}")
        return S3Store(parts.netloc, parts.path.strip("/"), spool, **options)
    raise ConfigurationError("the store address must be file:///folder or s3://bucket/prefix")


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key) or ".." in key:
        raise ValueError("not an object key")
    return key


@contextlib.contextmanager
def full_disk_is_store_full() -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" into StoreFull; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull() from error
        raise


def commit_all(commits: Sequence[Callable[[], None]]) -> None:
    """Carries out the commits of several writers, many at once: a disk that is asked to keep sixteen files takes hardly
    longer than for one (1,000 files: 8 s one by one). Raises what the first to fail raises, after all have ended."""
    if len(commits) <= 1:
        for commit in commits:
            commit()
        return
    with concurrent.futures.ThreadPoolExecutor(min(len(commits), COMMITS_AT_ONCE), "commit") as pool:
        waiting = [pool.submit(commit) for commit in commits]
    for one in waiting:
        one.result()


def sync_folder(folder: Path | str) -> None:
    """A rename or link is durable only when its directory is (man 2 fsync)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, sealed: Any) -> None:
    """write(2) until everything is written: it may stop early, and at 2 GiB always does. Raises StoreFull."""
    view = memoryview(sealed).cast("B")
    with full_disk_is_store_full():
        while view:
            view = view[os.write(fd, view) :]


class Appender:
    """Appends sealed blocks to a file open for reading and writing; past the page cache if `direct` and the file
    system can. Then nothing is copied and nothing waits for the last sync: 0.10 CPU s/GB, where a buffered write takes
    0.3 and the kernel's own writing out comes on top. Such writes need whole pages, so up to 4095 bytes wait for
    `finish`; until then the file ends at `reached` and not behind the last block.

    Raises StoreFull. The sealing goes straight into this memory: `room`, seal into it, `put`."""

    def __init__(self, fd: int, block_bytes: int, *, direct: bool) -> None:
        self._fd = fd
        # Direct writes also want memory that starts with a page, as mmap gives it.
        self._memory = memoryview(mmap.mmap(-1, block_bytes + mmap.PAGESIZE))
        self.reached = os.lseek(fd, 0, os.SEEK_END)
        self._waiting = 0  # bytes at the start of the memory that belong at `reached`
        self._direct = False
        if direct:
            waiting = self.reached % mmap.PAGESIZE
            found = os.preadv(fd, [self._memory[:waiting]], self.reached - waiting) if waiting else 0
            if found == waiting and self._set_direct(True):
                self.reached -= waiting
                self._waiting = waiting

    def room(self, size: int) -> memoryview:
        """Where the next `size` bytes belong."""
        return self._memory[self._waiting : self._waiting + size]

    def put(self, size: int) -> None:
        """The next `size` bytes are in `room`."""
        end = self._waiting + size
        whole = end - end % mmap.PAGESIZE if self._direct else end
        self._write(self._memory[:whole])
        self._waiting = end - whole
        self._memory[: self._waiting] = self._memory[whole:end]

    def finish(self) -> None:
        """Everything is in the file, though not yet durable."""
        self._set_direct(False)
        self._write(self._memory[: self._waiting])
        self._waiting = 0

    def _write(self, sealed: memoryview) -> None:
        with full_disk_is_store_full():
            while sealed:
                try:
                    written = os.pwrite(self._fd, sealed, self.reached)
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._direct:
                        raise
                    self._set_direct(False)  # a file system that takes the flag and not the write
                    continue
                self.reached += written
                sealed = sealed[written:]

    def _set_direct(self, direct: bool) -> bool:
        if direct != self._direct:
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT
            try:
                fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | (os.O_DIRECT if direct else 0))
            except OSError:
                return False
            self._direct = direct
        return True


# -- a local folder -------------------------------------------------------------------------------
class LocalStore:
    """Objects as files: <root>/objects/<two hex digits>/<key>, 0600, written below <root>/partial first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.partial_dir = root / "partial"
        self._objects = root / "objects"
        self._prepare()

    def _prepare(self) -> None:
        # All 256 folders at once: made one by one, each would cost the first file in it two more directory syncs.
        if (self._objects / "ff").is_dir() and self.partial_dir.is_dir():
            return
        for folder in (self.root, self.partial_dir, self._objects):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for shard in range(256):
            (self._objects / f"{shard:02x}").mkdir(mode=0o700, exist_ok=True)
        sync_folder(self._objects)
        sync_folder(self.root)

    def path_of(self, key: str) -> Path:
        return Path(self.place_of(key))

    def place_of(self, key: str) -> str:
        """As `path_of`, in a tenth of the time: for what is done with every image that comes."""
        shard = key[:2] if _SHARD.match(key) else f"{sum(key.encode()) % 256:02x}"
        return f"{self._objects}/{shard}/{_checked(key)}"

    def create(self, key: str) -> "LocalWriter":
        return LocalWriter(self, _checked(key))

    def open(self, key: str) -> "LocalReader":
        try:
            return LocalReader(self.path_of(key))
        except FileNotFoundError:
            raise NotFound("object") from None

    def adopt(self, path: Path, key: str) -> None:
        final = self.path_of(key)
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if not final.exists():
                raise NotFound("object") from None
        else:
            try:
                with full_disk_is_store_full():
                    os.fdatasync(fd)
            finally:
                os.close(fd)
            with contextlib.suppress(KeyTaken):
                self.publish(str(path), str(final))
            path.unlink(missing_ok=True)
        sync_folder(final.parent)

    def publish(self, path: str, final: str) -> None:
        """Give the finished file its name if nobody has it: link(2) refuses an existing name, rename(2) does not."""
        with full_disk_is_store_full():
            try:
                os.link(path, final)
            except FileExistsError:
                raise KeyTaken from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                if os.path.exists(final):  # a file system without hard links: keys are random, so a look is enough
                    raise KeyTaken from None
                os.rename(path, final)
        sync_folder(os.path.dirname(final))

    def delete(self, key: str) -> None:
        path = self.path_of(key)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        sync_folder(path.parent)

    def exists(self, key: str) -> bool:
        return self.path_of(key).exists()

    def keys(self) -> Iterator[str]:
        return (stored.key for stored in self.listing())

    def listing(self) -> Iterator[Stored]:
        for shard in sorted(self._objects.iterdir()):
            with os.scandir(shard) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield Stored(entry.name, status.st_size, time.time() - status.st_mtime)


class LocalWriter:
    def __init__(self, store: LocalStore, key: str) -> None:
        self._store = store
        self._final = store.place_of(key)
        self._path = f"{store.partial_dir}/new-{secrets.token_hex(16)}"
        with full_disk_is_store_full():
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, sealed: Any) -> None:
        try:
            write_all(self._fd, sealed)
        except BaseException:
            self.abort()
            raise

    def commit(self) -> None:
        try:
            with full_disk_is_store_full():
                os.fdatasync(self._fd)
            self._store.publish(self._path, self._final)
        finally:
            self.abort()

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(FileNotFoundError):  # renamed, where nothing can be linked
                os.unlink(self._path)


class LocalReader:
    _fd = -1

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        return os.preadv(self._fd, [buffer], offset)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


# -- an S3 bucket ---------------------------------------------------------------------------------
class S3Store:
    """Objects in a bucket. Conditional writes are not portable (Ceph accepts a second one on a versioned bucket, Swift
    knows no If-Match), so nothing here is used as a lock: keys are random and the database row is the commit."""

    def __init__(
        self, bucket: str, prefix: str, partial_dir: Path, *, endpoint: str = "", region: str = "us-east-1"
    ) -> None:
        import obstore
        import obstore.exceptions
        import obstore.store

        self._api = obstore
        self._absent = (obstore.exceptions.NotFoundError, FileNotFoundError)
        options: dict[str, Any] = {"region": region, "virtual_hosted_style_request": False}
        if endpoint:
            options["endpoint"] = endpoint
        client: Any = {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": "10s",
            "read_timeout": "30s",
            "timeout": "300s",
        }
        self._bucket = obstore.store.S3Store(
            bucket,
            prefix=prefix or None,
            client_options=client,
            **options,  # type: ignore[arg-type]
        )
        self.partial_dir = partial_dir
        partial_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, key: str) -> "S3Writer":
        if self.exists(key):
            raise KeyTaken
        return S3Writer(self, _checked(key))

    def open(self, key: str) -> "S3Reader":
        try:
            size = self._api.head(self._bucket, _checked(key))["size"]
        except self._absent:
            raise NotFound("object") from None
        return S3Reader(self, key, size)

    def adopt(self, path: Path, key: str) -> None:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            if not self.exists(key):
                raise NotFound("object") from None
            return
        if not (self.exists(key) and self.size_of(key) == size):
            with path.open("rb") as sealed:
                self._api.put(self._bucket, _checked(key), sealed, chunk_size=S3_PART_BYTES, max_concurrency=4)
            self.check_size(key, size)
        path.unlink(missing_ok=True)

    def size_of(self, key: str) -> int:
        return self._api.head(self._bucket, _checked(key))["size"]

    def check_size(self, key: str, expected: int) -> None:
        """Read the size back: a store was seen that acknowledged a multipart object and kept 0 bytes of it."""
        if self.size_of(key) != expected:
            self.delete(key)
            raise OSError(errno.EIO, "the object store kept another size than it was given")

    def delete(self, key: str) -> None:
        with contextlib.suppress(*self._absent):
            self._api.delete(self._bucket, _checked(key))

    def exists(self, key: str) -> bool:
        try:
            self._api.head(self._bucket, _checked(key))
        except self._absent:
            return False
        return True

    def keys(self) -> Iterator[str]:
        return (stored.key for stored in self.listing())

    def listing(self) -> Iterator[Stored]:
        for page in self._api.list(self._bucket, chunk_size=1000):
            for found in page:
                yield Stored(found["path"], found["size"], time.time() - found["last_modified"].timestamp())


class S3Writer:
    """Streams parts of 8 MiB, at most two in flight: 24 MiB of memory, whatever the size."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._written = 0
        self._stream: Any = store._api.open_writer(store._bucket, key, buffer_size=S3_PART_BYTES, max_concurrency=2)

    def write(self, sealed: Any) -> None:
        self._stream.write(sealed)
        self._written += memoryview(sealed).nbytes

    def commit(self) -> None:
        stream, self._stream = self._stream, None
        stream.close()
        self._store.check_size(self._key, self._written)

    def abort(self) -> None:
        # An unfinished multipart upload has no name in the bucket; the operator's lifecycle rule removes its parts.
        self._stream = None


class S3Reader:
    def __init__(self, store: S3Store, key: str, size: int) -> None:
        self._store = store
        self._key = key
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        return bytes(self._store._api.get_range(self._store._bucket, self._key, start=offset, length=length))

    def read_into(self, offset: int, buffer: memoryview) -> int:
        found = self.read_at(offset, len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        pass
