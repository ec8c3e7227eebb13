"""Compartments: the key of a share, from a header and the vault's half; files' keys under it. No I/O, no clock.

Spec: docs/formats/compartment.md. Takes and gives bytes and values. Called by `record_shares` (the owner's side),
`shared_with_me` (the reader's), `delegations` and `delegated_to_me` (the same by kind), and the re-wrapping job.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates, envelope
from myphr.crypto.abe.policy import check_uuid, uuid_bytes, uuid_text
from myphr.errors import EnvelopeError, PolicyError
from myphr.machines.parts import Parts as MachineParts
from myphr.people.keyholder import Keyholder
from myphr.people.keyring import KeyRing

Kind = Literal["named", "policy", "labels"]

NAMED_MAGIC = b"MYPHRNAM"
VERSION = 1
READERS_MAX = 1000
_NAMED_BYTES = 8 + 1 + 16 + 16 + 4 + 2  # in front of the readers
_KINDS = {"named": 1, "policy": 2, "labels": 3}
_SIGNATURE_TAG = b"myphr/compartment/1"
_DELEGATION_TAG = b"myphr/delegation/1"
_OWNER = "myphr/compartment-owner/1"


class Parts(MachineParts, Protocol):
    """What shares of the record need of the portal."""

    @property
    def keyholder(self) -> Keyholder: ...


def place_of(wrap: "Wrapped") -> str:
    """Whose key wraps a file's key: the class's where files are shared by kind, else the compartment's."""
    return wrap.label_class_id or wrap.compartment_id


class Wrapped(Protocol):
    """What `place_of` needs of a row of `ItemWrap`."""

    @property
    def compartment_id(self) -> str: ...
    @property
    def label_class_id(self) -> str | None: ...


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


def wrap_labels(ring: KeyRing, class_id: str, labels: dict[str, Any]) -> bytes:
    """What a class of files is, for its owner."""
    return envelope.wrap(ring.derive("myphr/label-class/1"), _json(labels),
                         context=envelope.context_for("label-class", class_id))  # fmt: skip


def unwrap_labels(ring: KeyRing, class_id: str, wrapped: bytes) -> dict[str, Any]:
    """Raises EnvelopeError unless this ring wrapped it for this class."""
    context = envelope.context_for("label-class", class_id)
    return _parsed(envelope.unwrap(ring.derive("myphr/label-class/1"), wrapped, context=context))


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


def seal_class_keys(worker_public: bytes, task_id: str, keys: dict[tuple[str, int], bytes]) -> bytes:
    """The keys by class and epoch, for one task of re-wrapping what is shared by kind."""
    packed = b"".join(uuid_bytes(id_) + struct.pack(">I", epoch) + keys[id_, epoch] for id_, epoch in sorted(keys))
    return envelope.seal_to(worker_public, packed, context=envelope.context_for("rewrap-classes", task_id))


def open_class_keys(worker_private: bytes, task_id: str, sealed: bytes) -> dict[tuple[str, int], bytes]:
    """Raises EnvelopeError."""
    packed = envelope.open_with(worker_private, sealed, context=envelope.context_for("rewrap-classes", task_id))
    size = 20 + envelope.KEY_BYTES
    if len(packed) % size:
        raise EnvelopeError("not keys by class and epoch")
    parts: Sequence[bytes] = [packed[at : at + size] for at in range(0, len(packed), size)]
    places = [(uuid_text(part[:16]), struct.unpack(">I", part[16:20])[0]) for part in parts]
    if places != sorted(set(places)):
        raise EnvelopeError("not keys by class and epoch")
    return {place: part[20:] for place, part in zip(places, parts, strict=True)}


# -- what a delegate gets -----------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class DelegationSecret:
    """What opens what is shared by kind, in one epoch: the key over labels, where the half is, and what to call it."""

    vault_id: str
    key: bytes = dataclasses.field(repr=False)
    title: str
    words: str


def seal_delegation(hpke: bytes, delegation_id: str, epoch: int, gid: str, secret: DelegationSecret) -> bytes:
    plain = {"vault": secret.vault_id, "key": base64.b64encode(secret.key).decode(), "title": secret.title,
             "words": secret.words}  # fmt: skip
    return envelope.seal_to(hpke, _json(plain), context=_delegation_context(delegation_id, epoch, gid))


def open_delegation(ring: KeyRing, delegation_id: str, epoch: int, gid: str, sealed: bytes) -> DelegationSecret:
    """Raises EnvelopeError. Who sealed it only the signature tells."""
    found = _parsed(ring.open(sealed, context=_delegation_context(delegation_id, epoch, gid)))
    try:
        key = base64.b64decode(found["key"], validate=True)
        return DelegationSecret(check_uuid(found["vault"]), key, str(found["title"]), str(found["words"]))
    except (KeyError, TypeError, ValueError, binascii.Error, PolicyError):
        raise EnvelopeError("not a delegation") from None


def sign_delegation(
    key: ec.EllipticCurvePrivateKey, delegation_id: str, compartment_id: str, epoch: int, gid: str, sealed: bytes
) -> bytes:
    signed = _signed_delegation(delegation_id, compartment_id, epoch, gid, sealed)
    return certificates.sign(key, _DELEGATION_TAG, signed)


def check_delegation(
    public_key: bytes, delegation_id: str, compartment_id: str, epoch: int, gid: str, sealed: bytes, signature: bytes
) -> None:
    """Raises CertificateRefused unless the owner sealed this to this person for this delegation and epoch."""
    certificates.verify(certificates.public_key_from_bytes(public_key), _DELEGATION_TAG,
                        _signed_delegation(delegation_id, compartment_id, epoch, gid, sealed), signature)  # fmt: skip


def _signed_delegation(delegation_id: str, compartment_id: str, epoch: int, gid: str, sealed: bytes) -> bytes:
    return b"".join((bytes([VERSION]), uuid_bytes(delegation_id), uuid_bytes(compartment_id), uuid_bytes(gid),
                     struct.pack(">I", epoch), sealed))  # fmt: skip


def _delegation_context(delegation_id: str, epoch: int, gid: str) -> bytes:
    return envelope.context_for("delegation", delegation_id, str(epoch), gid)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise EnvelopeError("not what was wrapped") from None
