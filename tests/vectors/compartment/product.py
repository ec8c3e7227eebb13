"""The rows of docs/formats/compartment.md as the product opens them, for the frozen vectors: the steps are those of
`sharing.shared_with_me`, without its database and keyholder. Each function takes the JSON of a vector.

A new kind of header is a line in `SECRETS`, here and in `tests/vectors/second/compartment.py`.
"""

from collections.abc import Callable
from typing import Any

from myphr.crypto import envelope
from myphr.crypto.abe.multi_authority import AttributeKey, AuthorityPublic, check_public, decapsulate
from myphr.crypto.envelope import KeyPair
from myphr.errors import EnvelopeError
from myphr.people.keyholder import half_context, keys_context, unpack_keys
from myphr.people.keyring import KeyRing
from myphr.sharing import compartments

Document = dict[str, Any]


def h(value: object) -> bytes:
    return bytes.fromhex(str(value))


def ring(d: Document, name: str = "ring_private") -> KeyRing:
    return KeyRing(KeyPair.from_private(h(d[name])))


def check_signature(d: Document, header: bytes) -> None:
    compartments.check_signature(
        h(d["owner_signing"]), d["kind"], d["compartment"], d["owner"], d["epoch"], header, h(d["signature"])
    )


# -- K, by kind of header -----------------------------------------------------------------------------
def from_reader_s_envelope(d: Document) -> bytes:
    context = compartments.reader_context(d["compartment"], d["epoch"], d["reader"])
    return ring(d, "reader_private").open(h(d["sealed"]), context=context)


def named(d: Document, header: bytes) -> bytes:
    compartments.check_named_header(header, d["compartment"], d["owner"], d["epoch"], d["reader"])
    secret = from_reader_s_envelope(d)
    if len(secret) != envelope.KEY_BYTES:
        raise EnvelopeError("no secret for this reader")
    return secret


def policy(d: Document, header: bytes) -> bytes:
    publics = {gid: AuthorityPublic.from_bytes(h(public)) for gid, public in d["publics"].items()}
    for gid, public in publics.items():
        check_public(public, gid)
    keys = [AttributeKey.from_bytes(from_reader_s_envelope(d))] if d["sealed"] else []
    for authority, sealed in d["attribute_keys"].items():
        opened = ring(d, "reader_private").open(h(sealed), context=keys_context(authority, d["reader"]))
        keys += [AttributeKey.from_bytes(one) for one in unpack_keys(opened)]
    return decapsulate(header, keys, publics, binding=compartments.binding(d["compartment"], d["owner"], d["epoch"]))


SECRETS: dict[str, Callable[[Document, bytes], bytes]] = {"named": named, "policy": policy}


# -- the rows -----------------------------------------------------------------------------------------
def under(secret: bytes, d: Document, header: bytes) -> Document:
    """What CK opens, CK being made of this K, the vault's half and this header."""
    context = half_context(d["compartment"], d["epoch"], d["reader"])
    half = ring(d, "reader_private").open(h(d["half"]), context=context)
    ck = compartments.key_of(secret, half, header)
    words = compartments.unwrap_words(ck, d["compartment"], d["epoch"], h(d["wrapped_words"]))
    dek = compartments.unwrap_dek(ck, d["compartment"], d["item"], d["epoch"], h(d["wrapped_dek"]))
    return {"secret": secret.hex(), "ck": ck.hex(), "words": words, "dek": dek.hex()}


def share(d: Document) -> Document:
    header = h(d["header"])
    check_signature(d, header)
    return under(SECRETS[d["kind"]](d, header), d, header)


def owner_key(d: Document) -> Document:
    return {"ck": compartments.unwrap_ck(ring(d), d["compartment"], d["epoch"], h(d["wrapped_ck"])).hex()}


def plan(d: Document) -> Document:
    return {"plan": compartments.unwrap_plan(ring(d), d["compartment"], h(d["wrapped_plan"]))}


def worker_keys(d: Document) -> Document:
    keys = compartments.open_keys(h(d["worker_private"]), d["task"], h(d["keys_for_worker"]))
    return {"keys": {str(epoch): key.hex() for epoch, key in keys.items()}}


def reason(d: Document) -> Document:
    return {"reason": compartments.open_reason(ring(d), d["opening"], h(d["sealed_reason"]))}


ROWS: dict[str, Callable[[Document], Document]] = {
    "share": share,
    "owner-key": owner_key,
    "plan": plan,
    "worker-keys": worker_keys,
    "reason": reason,
}
