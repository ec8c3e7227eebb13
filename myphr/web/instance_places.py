"""Where an app found an image before, so that one which asks frame by frame does not open every image's details each
time. Only digests and ids are held; what stands here opens nothing and is checked against the key each time. Used by
`dicom_web_parts`; one per process."""

import collections
import hashlib
import threading

PLACES_MAX = 20_000  # 6 MiB


class InstancePlaces:
    """Digest of an app key and an image's UIDs -> (study, item)."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._known: collections.OrderedDict[bytes, tuple[str, str]] = collections.OrderedDict()

    def find(self, app_key_id: str, uids: tuple[str, str, str]) -> tuple[str, str] | None:
        with self._guard:
            return self._known.get(_digest(app_key_id, uids))

    def learn(self, app_key_id: str, uids: tuple[str, str, str], study_id: str, item_id: str) -> None:
        with self._guard:
            self._known[_digest(app_key_id, uids)] = study_id, item_id
            if len(self._known) > PLACES_MAX:
                self._known.popitem(last=False)


def _digest(app_key_id: str, uids: tuple[str, str, str]) -> bytes:
    return hashlib.sha256("\0".join((app_key_id, *uids)).encode("utf-8", "surrogatepass")).digest()
