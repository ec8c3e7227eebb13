"""SHA-256 of uploads so far, between their requests. Called by `uploads`."""

import collections
import hashlib
import threading
from typing import Any

KEPT_MAX = 1024


class RunningHashes:
    """The state of a hash cannot be stored: after a restart it is made anew from the sealed file at the end. Bounded:
    one that was let go costs a second reading, nothing else. Safe for many threads."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[str, tuple[int, Any]] = collections.OrderedDict()
        self._guard = threading.Lock()

    def at(self, upload_id: str, position: int) -> Any:
        """The hash over the first `position` bytes, a copy to go on with; None where it is not known."""
        if position == 0:
            return hashlib.sha256()
        with self._guard:
            at, digest = self._kept.get(upload_id, (-1, None))
            return digest.copy() if at == position and digest is not None else None

    def keep(self, upload_id: str, position: int, digest: Any) -> None:
        """Remember the hash over the first `position` bytes; None is nothing to remember."""
        if digest is None:
            return
        with self._guard:
            self._kept[upload_id] = (position, digest)
            self._kept.move_to_end(upload_id)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
