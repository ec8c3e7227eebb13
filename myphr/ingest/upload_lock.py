"""One request at a time per upload, in all processes that share the folder. Called by `uploads`."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from myphr.errors import UploadConflict
from myphr.records.store import full_disk_is_store_full

LET_GO_SECONDS = 5.0  # how long a second request waits for the first to let go


class UploadLock:
    """The lock of one upload: a kernel lock on a file beside its bytes, which a kill -9 releases.

    `let_go_path` appears when another request asks the holder to let go."""

    def __init__(self, folder: Path, upload_id: str) -> None:
        self._path = folder / f"{upload_id}.lock"
        self.let_go_path = folder / f"{upload_id}.let-go"

    @contextlib.contextmanager
    def held(self, keep: Callable[[], bool], wait_seconds: float = LET_GO_SECONDS) -> Iterator[None]:
        """Asks the holder to let go, because it is usually a connection that the client gave up long ago. The file
        stays while `keep()` says that the upload goes on.

        Raises UploadConflict if the holder does not let go, StoreFull."""
        fd = self._take(wait_seconds)
        self.let_go_path.unlink(missing_ok=True)
        try:
            yield
        finally:
            if not keep():
                self.remove()
            os.close(fd)

    def remove(self) -> None:
        """Nobody needs it any more. Who holds it keeps it."""
        self._path.unlink(missing_ok=True)

    def _take(self, wait_seconds: float) -> int:
        deadline = time.monotonic() + wait_seconds
        while True:
            with full_disk_is_store_full():
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_of(fd):
                    return fd
                os.close(fd)  # the one before finished and removed the file: take the new one
                continue
            except OSError as error:
                os.close(fd)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            if time.monotonic() >= deadline:
                raise UploadConflict("another request is writing")
            self.let_go_path.touch(0o600)
            time.sleep(0.05)

    def _is_of(self, fd: int) -> bool:
        try:
            return os.fstat(fd).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False
