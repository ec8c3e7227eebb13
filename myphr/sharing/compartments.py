"""Compartments: the key of a share, from a header and the vault's half; files' keys under it. No I/O, no clock.

Spec: docs/formats/compartment.md. Takes and gives bytes and values. Called by `record_shares` (the owner's side),
`shared_with_me` (the reader's) and the re-wrapping job.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates, envelope
from myphr.crypto.abe.policy import uuid_bytes, uuid_text
from myphr.errors import EnvelopeError
from myphr.machines.parts import Parts as MachineParts
from myphr.people.keyholder import Keyholder
from myphr.people.keyring import KeyRing

Kind = Literal["named", "policy"]

NAMED_MAGIC = b"MYPHRNAM"
VERSION = 1
READERS_MAX = 1000
_NAMED_BYTES = 8 + 1 + 16 + 16 + 4 + 2  # in front of the readers
_KINDS = {"named": 1, "policy": 2}
_SIGNATURE_TAG = b"myphr/compartment/1"
_OWNER = "myphr/compartment-owner/1"


class Parts(MachineParts, Protocol):
    """What shares of the record need of the portal."""

    @property
    def keyholder(self) -> Keyholder: ...


# -- headers ------------------------------------------------------------------------------------------
def binding(compartment_id: str, owner_gid: str, epoch: int) -> bytes:
    """What a policy's header is bound to."""
    return envelope.context_for("compartment", compartment_id, owner_gid, str(epoch))


def named_header(compartment_id: str, owner_gid: str, epoch: int, gids: Iterable[str]) -> bytes:
    """The header of a share with people by name. Raises ValueError beyond READERS_MAX."""
    readers = sorted(set(gids))
    if not 1 <= len(readers) <= READERS_MAX:
        raise ValueError(f"a share is for 1 to {READERS_MAX} people")
    return b"".join((NAMED_MAGIC, bytes([VERSION]), uuid_bytes(compartment_id), uuid_bytes(owner_gid),
                     struct.pack(">IH", epoch, len(readers)), *(uuid_bytes(gid) for gid in readers)))  # fmt: skip


def check_named_header(header: bytes, compartment_id: str, owner_gid: str, epoch: int, reader_gid: str) -> None:
    """Raises EnvelopeError unless this is, byte for byte, the header of this epoch for readers of whom this is one."""
    gids = [uuid_text(header[at : at + 16]) for at in range(_NAMED_BYTES, len(header) - 15, 16)]
    known = reader_gid in gids and len(gids) <= READERS_MAX
    if not known or header != named_header(compartment_id, owner_gid, epoch, gids):
        raise EnvelopeError("header of another share, or not for this reader")


def sign_header(
    key: ec.EllipticCurvePrivateKey, kind: Kind, compartment_id: str, owner_gid: str, epoch: int, header: bytes
) -> bytes:
    return certificates.sign(key, _SIGNATURE_TAG, _signed(kind, compartment_id, owner_gid, epoch, header))


def check_signature(
    public_key: bytes, kind: Kind, compartment_id: str, owner_gid: str, epoch: int, header: bytes, signature: bytes
) -> None:
    """Raises CertificateRefused unless the owner signed this header for this compartment and epoch. `public_key`: of a
    verified key statement."""
    certificates.verify(certificates.public_key_from_bytes(public_key), _SIGNATURE_TAG,
                        _signed(kind, compartment_id, owner_gid, epoch, header), signature)  # fmt: skip


def _signed(kind: Kind, compartment_id: str, owner_gid: str, epoch: int, header: bytes) -> bytes:
    return b"".join((bytes([VERSION, _KINDS[kind]]), uuid_bytes(compartment_id), uuid_bytes(owner_gid),
                     struct.pack(">I", epoch), header))  # fmt: skip


# -- keys ---------------------------------------------------------------------------------------------
def key_of(secret: bytes, half: bytes, header: bytes) -> bytes:
    """The compartment's key: needs the header's secret and the vault's half, 32 bytes each."""
    if len(secret) != envelope.KEY_BYTES or len(half) != envelope.KEY_BYTES:
        raise ValueError("a secret and a half have 32 bytes")
    return envelope.derive(secret + half, "myphr/compartment-key/1", hashlib.sha256(header).digest())


def reader_context(compartment_id: str, epoch: int, gid: str) -> bytes:
    """Of the envelope to one reader: the header's secret (named), or their key of the consent attribute (policy)."""
    return envelope.context_for("compartment-reader", compartment_id, str(epoch), gid)


def seal_reason(owner_public: bytes, opening_id: str, reason: str) -> bytes:
    """Why somebody opened a share in an emergency, for its owner."""
    return envelope.seal_to(owner_public, _json(reason), context=_reason_context(opening_id))


def open_reason(ring: KeyRing, opening_id: str, sealed: bytes) -> str:
    """Raises EnvelopeError."""
    return _parsed(ring.open(sealed, context=_reason_context(opening_id)))


def _reason_context(opening_id: str) -> bytes:
    return envelope.context_for("emergency-reason", opening_id)


def wrap_dek(ck: bytes, compartment_id: str, item_id: str, epoch: int, dek: bytes) -> bytes:
    return envelope.wrap(ck, dek, context=_item_context(compartment_id, item_id, epoch))


def unwrap_dek(ck: bytes, compartment_id: str, item_id: str, epoch: int, wrapped: bytes) -> bytes:
    """Raises EnvelopeError, also for a wrap of another compartment, item or epoch."""
    return envelope.unwrap(ck, wrapped, context=_item_context(compartment_id, item_id, epoch))


def _item_context(compartment_id: str, item_id: str, epoch: int) -> bytes:
    return envelope.context_for("item-wrap", compartment_id, item_id, str(epoch))


def wrap_words(ck: bytes, compartment_id: str, epoch: int, words: dict[str, str]) -> bytes:
    """What the readers are told: title and words."""
    return envelope.wrap(ck, _json(words), context=_words_context(compartment_id, epoch))


def unwrap_words(ck: bytes, compartment_id: str, epoch: int, wrapped: bytes) -> dict[str, str]:
    """Raises EnvelopeError."""
    return _parsed(envelope.unwrap(ck, wrapped, context=_words_context(compartment_id, epoch)))


def _words_context(compartment_id: str, epoch: int) -> bytes:
    return envelope.context_for("compartment-words", compartment_id, str(epoch))


# -- what the owner keeps -----------------------------------------------------------------------------
# Under keys that only the owner's ring gives: sealed to the ring's public key, anybody who can write to the database
# could put a plan or a key of their own in place, and the owner would wrap new files under it.
def wrap_plan(ring: KeyRing, compartment_id: str, plan: dict[str, Any]) -> bytes:
    return envelope.wrap(ring.derive("myphr/compartment-plan/1"), _json(plan),
                         context=envelope.context_for("compartment-plan", compartment_id))  # fmt: skip


def unwrap_plan(ring: KeyRing, compartment_id: str, wrapped: bytes) -> dict[str, Any]:
    """Raises EnvelopeError unless this ring wrapped it for this compartment."""
    context = envelope.context_for("compartment-plan", compartment_id)
    return _parsed(envelope.unwrap(ring.derive("myphr/compartment-plan/1"), wrapped, context=context))


def wrap_ck(ring: KeyRing, compartment_id: str, epoch: int, ck: bytes) -> bytes:
    return envelope.wrap(ring.derive(_OWNER), ck, context=_ck_context(compartment_id, epoch))


def unwrap_ck(ring: KeyRing, compartment_id: str, epoch: int, wrapped: bytes) -> bytes:
    """Raises EnvelopeError unless this ring wrapped it for this compartment and epoch."""
    return envelope.unwrap(ring.derive(_OWNER), wrapped, context=_ck_context(compartment_id, epoch))


def _ck_context(compartment_id: str, epoch: int) -> bytes:
    return envelope.context_for("compartment-owner", compartment_id, str(epoch))


# -- what the worker gets -----------------------------------------------------------------------------
def seal_keys(worker_public: bytes, task_id: str, keys: dict[int, bytes]) -> bytes:
    """The keys by epoch, for one task of re-wrapping."""
    packed = b"".join(struct.pack(">I", epoch) + keys[epoch] for epoch in sorted(keys))
    return envelope.seal_to(worker_public, packed, context=envelope.context_for("rewrap", task_id))


def open_keys(worker_private: bytes, task_id: str, sealed: bytes) -> dict[int, bytes]:
    """Raises EnvelopeError."""
    packed = envelope.open_with(worker_private, sealed, context=envelope.context_for("rewrap", task_id))
    size = 4 + envelope.KEY_BYTES
    if len(packed) % size:
        raise EnvelopeError("not keys by epoch")
    parts: Sequence[bytes] = [packed[at : at + size] for at in range(0, len(packed), size)]
    epochs = [struct.unpack(">I", part[:4])[0] for part in parts]
    if epochs != sorted(set(epochs)):
        raise EnvelopeError("not keys by epoch")
    return {epoch: part[4:] for epoch, part in zip(epochs, parts, strict=True)}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise EnvelopeError("not what was wrapped") from None
