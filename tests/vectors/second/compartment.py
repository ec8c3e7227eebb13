"""Compartments by docs/formats/compartment.md, a second time, over the other second implementations. What is refused is
a ValueError.

One function a row of the page; each takes the JSON of a vector and gives what it opens to, in hexadecimal or as JSON.
"""

import base64
import datetime
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

from tests.vectors.abe_second import policy as policies
from tests.vectors.abe_second import schemes
from tests.vectors.second.sealed import context, derive, open_envelope, unwrap
from tests.vectors.second.signed import Reader, verify

Document = dict[str, Any]
KINDS = {"named": 1, "policy": 2, "labels": 3}
TYPES = ("imaging", "laboratory", "document", "ecg", "genome", "wearable", "photo", "other")


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


def delegation_of(d: Document) -> Document:
    """vault, key, title and words; nothing of it is checked but the envelope."""
    where = context("delegation", d["delegation"], str(d["epoch"]), d["reader"])
    opened = json.loads(open_envelope(h(d["reader_private"]), h(d["sealed"]), where))
    if not isinstance(opened, dict) or not {"vault", "key", "title", "words"} <= set(opened):
        raise ValueError("not a delegation")
    if str(uuid.UUID(opened["vault"])) != opened["vault"]:
        raise ValueError("not the vault's id")
    return opened | {"key": base64.b64decode(opened["key"], validate=True)}


def checked_key(d: Document) -> tuple[Document, schemes.DelegatedKey, schemes.PatientPublic]:
    said = (
        b"\x01" + raw(d["delegation"]) + raw(d["by_kind"]) + raw(d["reader"]) + int(d["epoch"]).to_bytes(4, "big")
        + h(d["sealed"])
    )  # fmt: skip
    verify(h(d["owner_signing"]), "myphr/delegation/1", said, h(d["delegation_signature"]))
    public = schemes.PatientPublic.decode(h(d["owner_public"]))
    opened = delegation_of(d)
    key = schemes.DelegatedKey.decode(opened["key"])
    key.check(public)
    return opened, key, public


def labels(d: Document, header: bytes) -> bytes:
    """`compartment` is the class."""
    _, key, public = checked_key(d)
    bound = context("compartment", d["compartment"], d["owner"], str(d["epoch"]))
    return schemes.kp_decapsulate(header, key, public, bound)


SECRETS: dict[str, Callable[[Document, bytes], bytes]] = {"named": named, "policy": policy, "labels": labels}


# -- the rows -----------------------------------------------------------------------------------------
def under(secret: bytes, d: Document, header: bytes) -> Document:
    """What CK opens, CK being made of this K, the vault's half and this header."""
    given = delegation_of(d) if d["kind"] == "labels" else None
    vault = given["vault"] if given else d["compartment"]
    half = open_envelope(
        h(d["reader_private"]), h(d["half"]), context("vault-half", vault, str(d["epoch"]), d["reader"])
    )
    if len(secret) != 32 or len(half) != 32:
        raise ValueError("K and the half have 32 bytes")
    ck = derive(secret + half, "myphr/compartment-key/1", hashlib.sha256(header).digest())
    if given:
        words = {name: given[name] for name in ("title", "words")}
    else:
        about = context("compartment-words", d["compartment"], str(d["epoch"]))
        words = json.loads(unwrap(ck, h(d["wrapped_words"]), about))
    where = context("item-wrap", d["compartment"], d["item"], str(d["epoch"]))
    dek = unwrap(ck, h(d["wrapped_dek"]), where)
    return {"secret": secret.hex(), "ck": ck.hex(), "words": words, "dek": dek.hex()}


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


# -- by kind ------------------------------------------------------------------------------------------
def delegation(d: Document) -> Document:
    opened, key, _ = checked_key(d)
    return {"vault": opened["vault"], "key": key.encode().hex(), "title": opened["title"], "words": opened["words"]}


def checked_labels(kept: Any) -> Document:
    if not isinstance(kept, dict) or not {"type", "modality", "sensitive", "day"} <= set(kept):
        raise ValueError("not labels")
    if kept["type"] not in TYPES or not re.fullmatch("[a-z0-9]{1,16}", kept["modality"]):
        raise ValueError("no such type or modality")
    if kept["sensitive"] is not True and kept["sensitive"] is not False:
        raise ValueError("sensitive or not")
    policies.day_number(datetime.date.fromisoformat(kept["day"]))
    return kept


def label_hash(d: Document, text: str) -> bytes:
    return hmac.digest(h(d["label_key"]), text.encode("ascii"), "sha256")


def attributes(d: Document, kept: Document) -> list[policies.Attribute]:
    day = datetime.date.fromisoformat(kept["day"])
    plain = [
        f"type:{kept['type']}",
        f"modality:{kept['modality']}",
        f"sensitivity:{'sensitive' if kept['sensitive'] else 'normal'}",
        *(f"date:{value}" for value in policies.day_values(day)),
    ]
    where = f"myphr/label/1|{d['by_kind']}|{d['epoch']}|"
    values = [label_hash(d, where + one).hex()[:32] for one in plain]
    return [policies.Attribute(raw(d["owner"]), "label", value, d["epoch"]) for value in values]


def id_of(d: Document, text: str) -> str:
    """A UUID of version 4 in the first 16 bytes of the hash."""
    data = bytearray(label_hash(d, text)[:16])
    data[6], data[8] = data[6] & 0x0F | 0x40, data[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(data)))


def hashes(d: Document) -> Document:
    kept = checked_labels(d["labels"])
    text = f"{kept['type']}|{kept['modality']}|{kept['sensitive']}|{kept['day']}"
    return {
        "attributes": [one.encode().hex() for one in attributes(d, kept)],
        "class": id_of(d, f"myphr/label-class/1|{d['by_kind']}|{text}"),
        "vault": id_of(d, f"myphr/label-vault/1|{d['by_kind']}|{d['epoch']}"),
    }


def filter(d: Document) -> Document:
    """The policy's answers, and by the filter's own words they have to be the same."""
    wanted, tree = d["filter"], policies.decode(h(d["policy"]))
    found = []
    for kept in map(checked_labels, d["candidates"]):
        by_words = (
            (not wanted["types"] or kept["type"] in wanted["types"])
            and (not wanted["modalities"] or kept["type"] != "imaging" or kept["modality"] in wanted["modalities"])
            and (wanted["first"] or "") <= kept["day"] <= (wanted["last"] or "9")
            and (wanted["also_sensitive"] or not kept["sensitive"])
        )
        found.append(policies.satisfied(tree, set(attributes(d, kept))))
        if found[-1] != by_words:
            raise ValueError("the policy is not that of the filter")
    return {"matching": found}


def item_labels(d: Document) -> Document:
    key = derive(h(d["ring_private"]), "myphr/item-labels/1")
    kept = json.loads(unwrap(key, h(d["wrapped_labels"]), context("item-labels", d["item"])))
    if not isinstance(kept, dict) or not {"version", "said", "labels"} <= set(kept) or kept["version"] != 1:
        raise ValueError("not labels of version 1")
    return {"labels": checked_labels(kept["labels"])}


def class_labels(d: Document) -> Document:
    key = derive(h(d["ring_private"]), "myphr/label-class/1")
    kept = json.loads(unwrap(key, h(d["wrapped_labels"]), context("label-class", d["class"])))
    return {"labels": checked_labels(kept)}


def class_keys(d: Document) -> Document:
    where = context("rewrap-classes", d["task"])
    reader = Reader(open_envelope(h(d["worker_private"]), h(d["keys_for_worker"]), where))
    found: list[tuple[bytes, int, str]] = []
    while reader.at < len(reader.content):
        found.append((reader.take(16), reader.number(4), reader.take(32).hex()))
        if len(found) > 1 and found[-1][:2] <= found[-2][:2]:
            raise ValueError("classes and epochs do not ascend")
    return {"keys": [[str(uuid.UUID(bytes=one)), epoch, key] for one, epoch, key in found]}


ROWS: dict[str, Callable[[Document], Document]] = {
    "share": share,
    "owner-key": owner_key,
    "plan": plan,
    "worker-keys": worker_keys,
    "reason": reason,
    "delegation": delegation,
    "hashes": hashes,
    "filter": filter,
    "item-labels": item_labels,
    "class-labels": class_labels,
    "class-keys": class_keys,
}
