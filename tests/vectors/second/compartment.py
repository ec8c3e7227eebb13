"""Compartments by docs/formats/compartment.md, a second time, over the other second implementations. What is refused is
a ValueError.

One function a row of the page; each takes the JSON of a vector and gives what it opens to, in hexadecimal or as JSON.
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

from tests.vectors.abe_second import schemes
from tests.vectors.second.sealed import context, derive, open_envelope, unwrap
from tests.vectors.second.signed import Reader, verify

Document = dict[str, Any]
KINDS = {"named": 1, "policy": 2}


def h(value: object) -> bytes:
    return bytes.fromhex(str(value))


def raw(text: str) -> bytes:
    return uuid.UUID(text).bytes


def check_signature(d: Document, header: bytes) -> None:
    said = (
        bytes([1, KINDS[d["kind"]]])
        + raw(d["compartment"])
        + raw(d["owner"])
        + int(d["epoch"]).to_bytes(4, "big")
        + header
    )
    verify(h(d["owner_signing"]), "myphr/compartment/1", said, h(d["signature"]))


# -- K, by kind of header -----------------------------------------------------------------------------
def from_reader_s_envelope(d: Document) -> bytes:
    where = context("compartment-reader", d["compartment"], str(d["epoch"]), d["reader"])
    return open_envelope(h(d["reader_private"]), h(d["sealed"]), where)


def named(d: Document, header: bytes) -> bytes:
    reader = Reader(header)
    if reader.take(9) != b"MYPHRNAM\x01":
        raise ValueError("not a named header of version 1")
    if (reader.take(16), reader.take(16)) != (raw(d["compartment"]), raw(d["owner"])):
        raise ValueError("of another share")
    if reader.number(4) != d["epoch"]:
        raise ValueError("of another epoch")
    gids = [reader.take(16) for _ in range(reader.number(2))]
    reader.end()
    if not 1 <= len(gids) <= 1000 or gids != sorted(set(gids)) or raw(d["reader"]) not in gids:
        raise ValueError("readers")
    return from_reader_s_envelope(d)


def policy(d: Document, header: bytes) -> bytes:
    publics = {raw(gid): schemes.AuthorityPublic.decode(h(public)) for gid, public in d["publics"].items()}
    keys = [schemes.AttributeKey.decode(from_reader_s_envelope(d))] if d["sealed"] else []
    for authority, sealed in d["attribute_keys"].items():
        where = context("attribute-keys", authority, d["reader"])
        packed = Reader(open_envelope(h(d["reader_private"]), h(sealed), where))
        keys += [schemes.AttributeKey.decode(packed.sized()) for _ in range(packed.number(2))]
        packed.end()
    bound = context("compartment", d["compartment"], d["owner"], str(d["epoch"]))
    return schemes.rw15_decapsulate(header, keys, publics, bound)


SECRETS: dict[str, Callable[[Document, bytes], bytes]] = {"named": named, "policy": policy}


# -- the rows -----------------------------------------------------------------------------------------
def under(secret: bytes, d: Document, header: bytes) -> Document:
    """What CK opens, CK being made of this K, the vault's half and this header."""
    half = open_envelope(
        h(d["reader_private"]), h(d["half"]), context("vault-half", d["compartment"], str(d["epoch"]), d["reader"])
    )
    if len(secret) != 32 or len(half) != 32:
        raise ValueError("K and the half have 32 bytes")
    ck = derive(secret + half, "myphr/compartment-key/1", hashlib.sha256(header).digest())
    words = unwrap(ck, h(d["wrapped_words"]), context("compartment-words", d["compartment"], str(d["epoch"])))
    where = context("item-wrap", d["compartment"], d["item"], str(d["epoch"]))
    dek = unwrap(ck, h(d["wrapped_dek"]), where)
    return {"secret": secret.hex(), "ck": ck.hex(), "words": json.loads(words), "dek": dek.hex()}


def share(d: Document) -> Document:
    header = h(d["header"])
    check_signature(d, header)
    return under(SECRETS[d["kind"]](d, header), d, header)


def owner_key(d: Document) -> Document:
    key = derive(h(d["ring_private"]), "myphr/compartment-owner/1")
    where = context("compartment-owner", d["compartment"], str(d["epoch"]))
    return {"ck": unwrap(key, h(d["wrapped_ck"]), where).hex()}


def plan(d: Document) -> Document:
    key = derive(h(d["ring_private"]), "myphr/compartment-plan/1")
    return {"plan": json.loads(unwrap(key, h(d["wrapped_plan"]), context("compartment-plan", d["compartment"])))}


def worker_keys(d: Document) -> Document:
    reader = Reader(open_envelope(h(d["worker_private"]), h(d["keys_for_worker"]), context("rewrap", d["task"])))
    found = {}
    while reader.at < len(reader.content):
        epoch = reader.number(4)
        if found and epoch <= max(found):
            raise ValueError("epochs do not ascend")
        found[epoch] = reader.take(32)
    return {"keys": {str(epoch): key.hex() for epoch, key in found.items()}}


def reason(d: Document) -> Document:
    opened = open_envelope(h(d["ring_private"]), h(d["sealed_reason"]), context("emergency-reason", d["opening"]))
    return {"reason": json.loads(opened)}


ROWS: dict[str, Callable[[Document], Document]] = {
    "share": share,
    "owner-key": owner_key,
    "plan": plan,
    "worker-keys": worker_keys,
    "reason": reason,
}
