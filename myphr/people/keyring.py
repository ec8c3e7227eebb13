"""The owner's key ring in memory: what opens the record while the owner is signed in. No I/O.

Built by `login_sessions` from the ring that the browser's cookie opens. Later kinds of keys do not join it, they are
wrapped under it (`identity_keys`): the recovery code's wrap could not be made anew without the code.
"""

import base64
import binascii
import json
from typing import Protocol

from myphr.crypto.envelope import KeyPair, Opener, context_for, derive
from myphr.errors import EnvelopeError

RING_VERSION = 1


class SealedItem(Protocol):
    """What `open_dek` needs of an item."""

    @property
    def id(self) -> str: ...
    @property
    def sealed_dek(self) -> bytes: ...


class SealedStudy(Protocol):
    """What `open_study` needs of a study."""

    @property
    def id(self) -> str: ...
    @property
    def sealed_summary(self) -> bytes: ...


class KeyRing:
    """Opens what is sealed to the owner. Never stored, logged or handed to a job. Safe to share between threads."""

    def __init__(self, pair: KeyPair) -> None:
        self._pair = pair
        self._opener = Opener(pair.private)

    @classmethod
    def from_bytes(cls, ring: bytes) -> "KeyRing":
        """Raises EnvelopeError for a ring of an unknown version."""
        try:
            content = json.loads(ring)
            if content["version"] != RING_VERSION:
                raise EnvelopeError("key ring of an unknown version")
            private = base64.b64decode(content["private"], validate=True)
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise EnvelopeError("key ring is damaged") from None
        return cls(KeyPair.from_private(private))

    def to_bytes(self) -> bytes:
        private = base64.b64encode(self._pair.private).decode()
        return json.dumps({"version": RING_VERSION, "private": private}, separators=(",", ":")).encode()

    @property
    def suite(self) -> int:
        return self._pair.suite

    @property
    def public_key(self) -> bytes:
        return self._pair.public

    @property
    def private_key(self) -> bytes:
        return self._pair.private

    def derive(self, label: str) -> bytes:
        """32 bytes for one use, which nobody without this ring can know or make."""
        return derive(self._pair.private, label)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """A secret sealed to the owner. Raises EnvelopeError."""
        return self._opener.open(sealed, context=context)

    def open_dek(self, item: SealedItem) -> bytes:
        """The file's key of one of the owner's items. Raises EnvelopeError, also for somebody else's."""
        return self.open(item.sealed_dek, context=context_for("item-dek", item.id))

    def open_study(self, study: SealedStudy) -> bytes:
        """The JSON summary of one of the owner's studies. Raises EnvelopeError, also for somebody else's."""
        return self.open(study.sealed_summary, context=context_for("study", study.id))
