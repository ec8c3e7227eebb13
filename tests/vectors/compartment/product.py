"""The rows of docs/formats/compartment.md as the product opens them, for the frozen vectors: the steps are those of
`sharing.shared_with_me` and `sharing.delegated_to_me`, without their database and keyholder. Each function takes the
JSON of a vector.

A new kind of header is a line in `SECRETS`, here and in `tests/vectors/second/compartment.py`.
"""

from collections.abc import Callable
from typing import Any

from myphr.crypto import envelope
from myphr.crypto.abe import key_policy
from myphr.crypto.abe.key_policy import KpKey, PatientPublic
from myphr.crypto.abe.multi_authority import AttributeKey, AuthorityPublic, check_public, decapsulate
from myphr.crypto.abe.policy import from_canonical, satisfied
from myphr.crypto.envelope import KeyPair
from myphr.errors import EnvelopeError
from myphr.people.keyholder import half_context, keys_context, unpack_keys
from myphr.people.keyring import KeyRing
from myphr.records import labels as record_labels
from myphr.sharing import compartments, kinds
from myphr.sharing.kinds import Filter, Hasher

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


def delegation_of(d: Document) -> compartments.DelegationSecret:
    return compartments.open_delegation(
        ring(d, "reader_private"), d["delegation"], d["epoch"], d["reader"], h(d["sealed"])
    )


def checked_key(d: Document) -> tuple[compartments.DelegationSecret, KpKey, PatientPublic]:
    compartments.check_delegation(
        h(d["owner_signing"]), d["delegation"], d["by_kind"], d["epoch"], d["reader"], h(d["sealed"]),
        h(d["delegation_signature"]),
    )  # fmt: skip
    public = PatientPublic.from_bytes(h(d["owner_public"]))
    key_policy.check_public(public)
    secret = delegation_of(d)
    key = KpKey.from_bytes(secret.key)
    key_policy.check_key(key, public)
    return secret, key, public


def labels(d: Document, header: bytes) -> bytes:
    """`compartment` is the class."""
    _, key, public = checked_key(d)
    bound = compartments.binding(d["compartment"], d["owner"], d["epoch"])
    return key_policy.decapsulate(header, key, public, binding=bound)


SECRETS: dict[str, Callable[[Document, bytes], bytes]] = {"named": named, "policy": policy, "labels": labels}


# -- the rows -----------------------------------------------------------------------------------------
def under(secret: bytes, d: Document, header: bytes) -> Document:
    """What CK opens, CK being made of this K, the vault's half and this header."""
    given = delegation_of(d) if d["kind"] == "labels" else None
    context = half_context(given.vault_id if given else d["compartment"], d["epoch"], d["reader"])
    half = ring(d, "reader_private").open(h(d["half"]), context=context)
    ck = compartments.key_of(secret, half, header)
    if given:
        words = {"title": given.title, "words": given.words}
    else:
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


# -- by kind ------------------------------------------------------------------------------------------
def delegation(d: Document) -> Document:
    secret, key, _ = checked_key(d)
    return {"vault": secret.vault_id, "key": key.to_bytes().hex(), "title": secret.title, "words": secret.words}


def hasher(d: Document) -> Hasher:
    return Hasher(h(d["label_key"]), d["owner"], d["by_kind"], d["epoch"])


def hashes(d: Document) -> Document:
    said = record_labels.from_json(d["labels"])
    return {
        "attributes": [one.to_bytes().hex() for one in hasher(d).attributes(said)],
        "class": kinds.class_id(h(d["label_key"]), d["by_kind"], said),
        "vault": kinds.vault_id(h(d["label_key"]), d["by_kind"], d["epoch"]),
    }


def filter(d: Document) -> Document:
    """What the policy of then lets through, and that of today has to do the same."""
    wanted = Filter.from_json(d["filter"])
    candidates = [set(hasher(d).attributes(record_labels.from_json(one))) for one in d["candidates"]]
    then, today = from_canonical(h(d["policy"])), hasher(d).policy(wanted)
    matching = [satisfied(then, one) for one in candidates]
    if matching != [satisfied(today, one) for one in candidates]:
        raise ValueError("today's policy lets others through")
    return {"matching": matching}


def item_labels(d: Document) -> Document:
    kept = record_labels.kept_of(ring(d), d["item"], h(d["wrapped_labels"]))
    if kept is None:
        raise ValueError("a guess of another version")
    return {"labels": record_labels.to_json(kept.labels)}


def class_labels(d: Document) -> Document:
    kept = compartments.unwrap_labels(ring(d), d["class"], h(d["wrapped_labels"]))
    try:
        return {"labels": record_labels.to_json(record_labels.from_json(kept))}
    except KeyError:
        raise EnvelopeError("not labels") from None


def class_keys(d: Document) -> Document:
    keys = compartments.open_class_keys(h(d["worker_private"]), d["task"], h(d["keys_for_worker"]))
    return {"keys": [[class_id, epoch, key.hex()] for (class_id, epoch), key in keys.items()]}


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
