"""Makes the frozen vectors of docs/formats/compartment.md: `python -m tests.vectors.compartment.make`.

One file, one scenario: a text header with the expected outcome and the row of the page, an empty line, then JSON with
bytes in hexadecimal. `expect: refused-each-byte` says that every byte of the field named by `of`, changed alone, is
refused. Signing, sealing and wrapping draw random numbers (`DRAWN`), so a file is made once and never written again;
everything else follows from names, so that what is added later fits what is there. To add: a function like
`named_shares`, and its name in `scenarios`.
"""

import base64
import datetime as dt
import hashlib
import json
import struct
import uuid
from pathlib import Path
from typing import Any

from myphr.crypto import certificates, envelope
from myphr.crypto.abe import key_policy
from myphr.crypto.abe.multi_authority import encapsulate, issue, new_authority
from myphr.crypto.abe.policy import Attribute, all_of, canonical
from myphr.crypto.envelope import KeyPair
from myphr.people.keyholder import half_context, keys_context
from myphr.people.keyring import KeyRing
from myphr.records import labels as record_labels
from myphr.records.labels import Labels
from myphr.sharing import compartments, kinds
from myphr.sharing.compartments import DelegationSecret
from myphr.sharing.kinds import Filter, Hasher

HERE = Path(__file__).resolve().parent
DRAWN = (
    "signature",
    "sealed",
    "half",
    "wrapped_words",
    "wrapped_dek",
    "wrapped_ck",
    "wrapped_plan",
    "keys_for_worker",
    "sealed_reason",
    "attribute_keys",
    "delegation_signature",
    "wrapped_labels",
)
WORDS = {"title": "Röntgen thorax, 3 March 2024", "words": "Tomas Lindqvist, Nora Holm"}
Document = dict[str, Any]
Scenario = tuple[str, str, Document]  # expect, row, content


def seed(name: str) -> bytes:
    return hashlib.sha256(f"myphr compartment vector {name}".encode()).digest()


def gid(name: str) -> str:
    return str(uuid.UUID(bytes=seed(f"uuid {name}")[:16], version=4))


def signing(name: str):  # type: ignore[no-untyped-def]
    return certificates.signing_key_from_bytes(seed(f"signing {name}"))


def pair(name: str) -> KeyPair:
    return KeyPair.from_private(b"\x01" + seed(f"d {name}") + seed(f"z {name}") + seed(f"x25519 {name}"))


def seal(to: str, secret: bytes, context: bytes) -> str:
    return envelope.seal_to(pair(to).public, secret, context=context).hex()


def flipped(value: str, at: int = -1) -> str:
    data = bytearray.fromhex(value)
    data[at] ^= 1
    return data.hex()


# -- a share as one reader finds it -------------------------------------------------------------------
def opened(
    kind: str,
    secret: bytes,
    header: bytes,
    *,
    epoch: int = 0,
    share: str = "share",
    signer: str = "owner",
    words: bytes | None = None,
) -> Document:
    """Everything but what K comes from, for the reader. Words and a file's key stand under the key of this header."""
    compartment, owner, reader, item = gid(share), gid("owner"), gid("reader"), gid("item")
    half = seed(f"half {share} {epoch}")
    ck = compartments.key_of(secret[:32].ljust(32, b"\0"), half, header)
    place = (kind, compartment, owner, epoch, header)
    wrapped_words = compartments.wrap_words(ck, compartment, epoch, WORDS)
    if words is not None:
        wrapped_words = envelope.wrap(ck, words, context=envelope.context_for("compartment-words", compartment, "0"))
    return {
        "kind": kind,
        "compartment": compartment,
        "owner": owner,
        "epoch": epoch,
        "reader": reader,
        "item": item,
        "owner_signing": certificates.public_key_bytes(signing("owner").public_key()).hex(),
        "reader_private": pair("reader").private.hex(),
        "header": header.hex(),
        "signature": compartments.sign_header(signing(signer), *place).hex(),  # type: ignore[arg-type]
        "half": seal("reader", half, half_context(compartment, epoch, reader)),
        "wrapped_words": wrapped_words.hex(),
        "wrapped_dek": compartments.wrap_dek(ck, compartment, item, epoch, seed("dek")).hex(),
        "opens_to": {"secret": secret.hex(), "ck": ck.hex(), "words": WORDS, "dek": seed("dek").hex()},
    }


def refused_shares(made: Document, older: Document, other: Document) -> dict[str, Document]:
    """What is refused whatever the kind: `made` with one thing of another share, epoch or person, or changed.
    `older`: the same share one epoch on, `other`: another share of the owner."""
    compartment, epoch, reader = made["compartment"], made["epoch"], made["reader"]
    ck, half = bytes.fromhex(made["opens_to"]["ck"]), half_context(compartment, epoch, reader)
    another_item = compartments.wrap_dek(ck, compartment, gid("another item"), epoch, seed("another dek")).hex()
    changes: dict[str, Document] = {
        "in-another-compartment": {"compartment": other["compartment"]},
        "in-another-epoch": {"epoch": older["epoch"]},
        "of-another-owner": {"owner": gid("stranger")},
        "checked-with-another-s-key": {
            "owner_signing": certificates.public_key_bytes(signing("stranger").public_key()).hex()
        },
        "header-cut": {"header": made["header"][:-2]},
        "header-extended": {"header": made["header"] + "00"},
        "header-empty": {"header": ""},
        "header-of-another-epoch": {"header": older["header"]},
        "signature-cut": {"signature": made["signature"][:-2]},
        "signature-extended": {"signature": made["signature"] + "00"},
        "signature-empty": {"signature": ""},
        "signature-of-another-epoch": {"signature": older["signature"]},
        "signature-of-another-share": {"signature": other["signature"]},
        "half-of-another-epoch": {"half": older["half"]},
        "half-of-another-share": {"half": other["half"]},
        "half-wrong": {"half": seal("reader", seed("no half"), half)},
        "half-of-31-bytes": {"half": seal("reader", seed(f"half share {epoch}")[:31], half)},
        "half-of-another-person": {"half": seal("stranger", seed(f"half share {epoch}"), half)},
        "half-flipped": {"half": flipped(made["half"])},
        "words-of-another-epoch": {"wrapped_words": older["wrapped_words"]},
        "words-of-another-share": {"wrapped_words": other["wrapped_words"]},
        "words-extended": {"wrapped_words": made["wrapped_words"] + "00"},
        "words-in-the-place-of-a-file": {"wrapped_dek": made["wrapped_words"]},
        "a-file-in-the-place-of-words": {"wrapped_words": made["wrapped_dek"]},
        "file-of-another-epoch": {"wrapped_dek": older["wrapped_dek"]},
        "file-of-another-share": {"wrapped_dek": other["wrapped_dek"]},
        "files-swapped": {"wrapped_dek": another_item},
        "file-cut": {"wrapped_dek": made["wrapped_dek"][:-2]},
        "file-extended": {"wrapped_dek": made["wrapped_dek"] + "00"},
    }
    return {name: made | change for name, change in changes.items()}


# -- people by name -----------------------------------------------------------------------------------
def reader_s(secret: bytes, *, epoch: int = 0, share: str = "share", to: str = "reader") -> str:
    return seal(to, secret, compartments.reader_context(gid(share), epoch, gid("reader")))


def by_name(
    *, epoch: int = 0, share: str = "share", readers: tuple[str, ...] = ("reader", "nurse"), **more: Any
) -> Document:
    secret = more.pop("secret", seed(f"K {share} {epoch}"))
    header = more.pop("header", None)
    if header is None:
        header = compartments.named_header(gid(share), gid("owner"), epoch, [gid(one) for one in readers])
    return opened("named", secret, header, epoch=epoch, share=share, **more) | {
        "sealed": reader_s(secret, epoch=epoch, share=share)
    }


def named_shares() -> dict[str, Scenario]:
    made, older, other = by_name(), by_name(epoch=1), by_name(share="other share")
    good = bytes.fromhex(made["header"])
    first, second = good[47:63], good[63:]
    many = tuple(["reader", *(f"reader {number}" for number in range(999))])
    found: dict[str, Scenario] = {
        "opens-named": ("opens", "share", made),
        "opens-named-a-later-epoch": ("opens", "share", by_name(epoch=2**32 - 1)),
        "opens-named-one-reader": ("opens", "share", by_name(readers=("reader",))),
        "opens-named-a-thousand-readers": ("opens", "share", by_name(readers=many)),
        "refused-named-each-byte-of-the-header": ("refused-each-byte", "share", made | {"of": "header"}),
        "refused-named-each-byte-of-the-signature": ("refused-each-byte", "share", made | {"of": "signature"}),
        "refused-named-each-byte-of-the-words": ("refused-each-byte", "share", made | {"of": "wrapped_words"}),
        "refused-named-each-byte-of-the-file-s-key": ("refused-each-byte", "share", made | {"of": "wrapped_dek"}),
        "refused-named-each-byte-of-the-envelope": ("refused-each-byte", "share", made | {"of": "sealed"}),
    }
    theirs = refused_shares(made, older, other) | {
        "as-a-policy": made | {"kind": "policy", "publics": {}, "attribute_keys": {}},
        "envelope-of-another-epoch": made | {"sealed": older["sealed"]},
        "envelope-of-another-share": made | {"sealed": other["sealed"]},
        "envelope-of-another-person": made | {"sealed": reader_s(seed("K share 0"), to="nurse")},
        "envelope-read-by-another-reader": made
        | {
            "reader": gid("nurse"),
            "reader_private": pair("nurse").private.hex(),
            "half": seal("nurse", seed("half share 0"), half_context(gid("share"), 0, gid("nurse"))),
        },
        "envelope-cut": made | {"sealed": made["sealed"][:-2]},
        "envelope-empty": made | {"sealed": ""},
        "another-s-secret": made | {"sealed": reader_s(seed("no K"))},
        "secret-of-31-bytes": by_name(secret=seed("K share 0")[:31]),
        "secret-of-33-bytes": by_name(secret=seed("K share 0") + b"\0"),
        "words-not-json": by_name(words=b"{'title'"),
        "words-not-utf-8": by_name(words=b'{"title":"R\xf6ntgen"}'),
        "signed-by-a-reader": by_name(signer="reader"),
    }
    ours = {  # the owner signed it, and it is no header of this epoch for this reader all the same
        "cut": good[:-1],
        "extended": good + b"\0",
        "empty": b"",
        "magic": b"MYPHRNAN" + good[8:],
        "version-2": good[:8] + b"\2" + good[9:],
        "of-another-share": bytes.fromhex(other["header"]),
        "of-another-epoch": bytes.fromhex(older["header"]),
        "of-another-owner": good[:25] + first + good[41:],
        "without-this-reader": compartments.named_header(gid("share"), gid("owner"), 0, [gid("nurse")]),
        "readers-not-ascending": good[:47] + second + first,
        "a-reader-twice": good[:47] + first + first,
        "a-count-too-small": good[:46] + b"\1" + good[47:],
        "a-count-too-large": good[:46] + b"\3" + good[47:],
        "no-readers": good[:46] + b"\0",
        "a-thousand-and-one-readers": good[:45]
        + struct.pack(">H", 1001)
        + b"".join(sorted(uuid.UUID(gid(one)).bytes for one in (*many, "one too many"))),
    }
    theirs |= {f"signed-header-{name}": by_name(header=header) for name, header in ours.items()}
    return found | {f"refused-named-{name}": ("refused", "share", one) for name, one in theirs.items()}


# -- people by what they are --------------------------------------------------------------------------
HOSPITAL, REGISTRAR, OWNER = (
    new_authority(gid(name), seed=seed(f"authority {name}")) for name in ("hospital", "registrar", "owner")
)
PUBLICS = {one.authority: one.public for one in (HOSPITAL, REGISTRAR, OWNER)}


def consent(*, epoch: int = 0, share: str = "share", who: str = "reader") -> bytes:
    return issue(
        OWNER,
        gid(who),
        Attribute(OWNER.authority, "consent", gid(share), epoch),
        seed=seed(f"consent {share} {epoch} {who}"),
    ).to_bytes()


def keys(secret: Any, *held: tuple[str, str, int], who: str = "reader", cut: int = 0, more: bytes = b"") -> Document:
    """What the keyholder gives: keys of (name, value, epoch) at this authority, packed and sealed to the reader."""
    made = [
        issue(secret, gid(who), Attribute(secret.authority, *one), seed=seed(f"key {one} {who}")).to_bytes()
        for one in held
    ]
    packed = struct.pack(">H", len(made)) + b"".join(struct.pack(">H", len(one)) + one for one in made)
    packed = packed[: len(packed) - cut] + more
    return {secret.authority: seal("reader", packed, keys_context(secret.authority, gid("reader")))}


CARDIOLOGIST, OTHER_ROLE = ("role", "cardiologist", 3), ("department", "radiology", 0)


def by_policy(
    *, epoch: int = 0, share: str = "share", bound: bytes | None = None, publics: Any = None, **more: Any
) -> Document:
    policy = all_of(
        Attribute(HOSPITAL.authority, *CARDIOLOGIST), Attribute(OWNER.authority, "consent", gid(share), epoch)
    )
    bound = bound or compartments.binding(gid(share), gid("owner"), epoch)
    secret, header = encapsulate(policy, publics or PUBLICS, binding=bound, seed=seed(f"m {share} {epoch}"))
    header = more.pop("change", lambda whole: whole)(header)
    return opened("policy", secret, header, epoch=epoch, share=share, **more) | {
        "publics": {one.authority: one.public.to_bytes().hex() for one in (HOSPITAL, OWNER)},
        "attribute_keys": keys(HOSPITAL, OTHER_ROLE, CARDIOLOGIST),
        "sealed": reader_s(consent(epoch=epoch, share=share), epoch=epoch, share=share),
    }


def emergency(**instead: Document) -> Document:
    policy = all_of(Attribute(HOSPITAL.authority, "emergency", "", 1), Attribute(REGISTRAR.authority, "break-glass"))
    bound = compartments.binding(gid("share"), gid("owner"), 0)
    secret, header = encapsulate(policy, PUBLICS, binding=bound, seed=seed("m emergency"))
    return (
        opened("policy", secret, header)
        | {
            "publics": {one.authority: one.public.to_bytes().hex() for one in (HOSPITAL, REGISTRAR)},
            "sealed": "",
            "attribute_keys": keys(HOSPITAL, ("emergency", "", 1)) | keys(REGISTRAR, ("break-glass", "", 0)),
        }
        | instead
    )


def policy_shares() -> dict[str, Scenario]:
    made, older, other = by_policy(), by_policy(epoch=1), by_policy(share="other share")
    found: dict[str, Scenario] = {
        "opens-policy-care-team": ("opens", "share", made),
        "opens-policy-a-later-epoch": ("opens", "share", older),
        "opens-policy-emergency": ("opens", "share", emergency()),
        "refused-policy-each-byte-of-the-header": ("refused-each-byte", "share", made | {"of": "header"}),
    }
    stranger_s = {OWNER.authority: new_authority(OWNER.authority, seed=seed("authority stranger")).public}
    theirs = refused_shares(made, older, other) | {
        "as-people-by-name": made | {"kind": "named"},
        "without-consent": made | {"sealed": ""},
        "consent-of-another-share": made | {"sealed": reader_s(consent(share="other share"))},
        "consent-of-another-epoch": made | {"sealed": reader_s(consent(epoch=1))},
        "consent-of-another-person": made | {"sealed": reader_s(consent(who="nurse"))},
        "envelope-of-another-share": made | {"sealed": other["sealed"]},
        "envelope-of-another-epoch": made | {"sealed": older["sealed"]},
        "without-the-role": made | {"attribute_keys": keys(HOSPITAL, OTHER_ROLE)},
        "without-any-role": made | {"attribute_keys": {}},
        "the-role-of-another-epoch": made | {"attribute_keys": keys(HOSPITAL, ("role", "cardiologist", 2))},
        "the-role-of-another-person": made | {"attribute_keys": keys(HOSPITAL, CARDIOLOGIST, who="nurse")},
        "keys-cut": made | {"attribute_keys": keys(HOSPITAL, CARDIOLOGIST, cut=1)},
        "keys-extended": made | {"attribute_keys": keys(HOSPITAL, CARDIOLOGIST, more=b"\0")},
        "keys-for-another-authority": made
        | {"attribute_keys": {HOSPITAL.authority: keys(REGISTRAR, CARDIOLOGIST)[REGISTRAR.authority]}},
        "the-owner-s-public-value-exchanged": made
        | {"publics": made["publics"] | {OWNER.authority: stranger_s[OWNER.authority].to_bytes().hex()}},
        "signed-header-bound-to-another-share": by_policy(
            bound=compartments.binding(gid("other share"), gid("owner"), 0)
        ),
        "signed-header-bound-to-another-epoch": by_policy(bound=compartments.binding(gid("share"), gid("owner"), 1)),
        "signed-header-bound-to-another-owner": by_policy(bound=compartments.binding(gid("share"), gid("nurse"), 0)),
        "signed-header-of-another-owner-s-consent": by_policy(publics=PUBLICS | stranger_s),
        "signed-header-cut": by_policy(change=lambda whole: whole[:-1]),
        "signed-header-extended": by_policy(change=lambda whole: whole + b"\0"),
        "signed-header-flipped": by_policy(change=lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])),
        "emergency-without-the-registrar": emergency(attribute_keys=keys(HOSPITAL, ("emergency", "", 1))),
        "emergency-without-the-hospital": emergency(attribute_keys=keys(REGISTRAR, ("break-glass", "", 0))),
    }
    return found | {f"refused-policy-{name}": ("refused", "share", one) for name, one in theirs.items()}


# -- what the owner and the worker get ----------------------------------------------------------------
def kept() -> dict[str, Scenario]:
    ring, share, other = KeyRing(pair("owner")), gid("share"), gid("other share")
    ck, plan = (
        seed("ck"),
        {
            "scope": {"kind": "everything", "id": "imaging"},
            "title": WORDS["title"],
            "words": WORDS["words"],
            "audience": {
                "preset": "family",
                "authority_gid": "",
                "attributes": [],
                "gids": [gid("reader")],
                "registrar_gid": "",
            },
            "removed": [gid("nurse")],
        },
    )
    owner = {"ring_private": pair("owner").private.hex()}
    own_key = owner | {
        "compartment": share,
        "epoch": 7,
        "opens_to": {"ck": ck.hex()},
        "wrapped_ck": compartments.wrap_ck(ring, share, 7, ck).hex(),
    }
    own_plan = owner | {
        "compartment": share,
        "wrapped_plan": compartments.wrap_plan(ring, share, plan).hex(),
        "opens_to": {"plan": plan},
    }
    reason = "unconscious after a fall, «no medication known»"
    told = owner | {
        "opening": gid("opening"),
        "opens_to": {"reason": reason},
        "sealed_reason": compartments.seal_reason(pair("owner").public, gid("opening"), reason).hex(),
    }
    stranger = {"ring_private": pair("stranger").private.hex()}
    sealed_ck = seal("owner", ck, envelope.context_for("compartment-owner", share, "7"))
    sealed_plan = seal("owner", json.dumps(plan).encode(), envelope.context_for("compartment-plan", share))
    not_json = envelope.wrap(
        ring.derive("myphr/compartment-plan/1"), b"no", context=envelope.context_for("compartment-plan", share)
    ).hex()
    found: dict[str, Scenario] = {
        "opens-owner-key": ("opens", "owner-key", own_key),
        "opens-plan": ("opens", "plan", own_plan),
        "opens-reason": ("opens", "reason", told),
        "refused-owner-key-each-byte": ("refused-each-byte", "owner-key", own_key | {"of": "wrapped_ck"}),
        "refused-plan-each-byte": ("refused-each-byte", "plan", own_plan | {"of": "wrapped_plan"}),
        "refused-reason-each-byte": ("refused-each-byte", "reason", told | {"of": "sealed_reason"}),
    }
    for row, made, field, changes in (
        (
            "owner-key",
            own_key,
            "wrapped_ck",
            {
                "in-another-share": {"compartment": other},
                "in-another-epoch": {"epoch": 8},
                "of-another-owner": stranger,
                "that-is-the-plan": {"wrapped_ck": own_plan["wrapped_plan"]},
                "sealed-to-the-ring": {"wrapped_ck": sealed_ck},
            },
        ),
        (
            "plan",
            own_plan,
            "wrapped_plan",
            {
                "in-another-share": {"compartment": other},
                "of-another-owner": stranger,
                "not-json": {"wrapped_plan": not_json},
                "that-is-the-key": {"wrapped_plan": own_key["wrapped_ck"]},
                "sealed-to-the-ring": {"wrapped_plan": sealed_plan},
            },
        ),
        (
            "reason",
            told,
            "sealed_reason",
            {
                "of-another-opening": {"opening": gid("another opening")},
                "for-another-owner": stranger,
                "not-json": {
                    "sealed_reason": seal("owner", b"no", envelope.context_for("emergency-reason", gid("opening")))
                },
            },
        ),
    ):
        changes |= {"cut": {field: made[field][:-2]}, "extended": {field: made[field] + "00"}, "empty": {field: ""}}
        found |= {f"refused-{row}-{name}": ("refused", row, made | one) for name, one in changes.items()}
    return found


def worker_s() -> dict[str, Scenario]:
    task, worker = gid("task"), {"worker_private": pair("worker").private.hex()}
    by_epoch = {0: seed("ck 0"), 3: seed("ck 3"), 2**32 - 1: seed("ck last")}
    context = envelope.context_for("rewrap", task)

    def packed(*epochs: int, cut: int = 0) -> str:
        data = b"".join(struct.pack(">I", epoch) + by_epoch[epoch] for epoch in epochs)
        return seal("worker", data[: len(data) - cut], context)

    made = worker | {
        "task": task,
        "keys_for_worker": compartments.seal_keys(pair("worker").public, task, by_epoch).hex(),
        "opens_to": {"keys": {str(epoch): key.hex() for epoch, key in by_epoch.items()}},
    }
    changes: dict[str, Document] = {
        "of-another-task": {"task": gid("another task")},
        "for-another-worker": {"worker_private": pair("stranger").private.hex()},
        "cut": {"keys_for_worker": made["keys_for_worker"][:-2]},
        "empty": {"keys_for_worker": ""},
        "extended": {"keys_for_worker": made["keys_for_worker"] + "00"},
        "not-ascending": {"keys_for_worker": packed(3, 0)},
        "an-epoch-twice": {"keys_for_worker": packed(0, 0)},
        "half-a-key": {"keys_for_worker": packed(0, 3, cut=16)},
    }
    return {
        "opens-worker-keys": ("opens", "worker-keys", made),
        "refused-worker-keys-each-byte": ("refused-each-byte", "worker-keys", made | {"of": "keys_for_worker"}),
    } | {f"refused-worker-keys-{name}": ("refused", "worker-keys", made | one) for name, one in changes.items()}


# -- by kind ------------------------------------------------------------------------------------------
LABEL_KEY = seed("label key")
GIVEN = Filter(("laboratory",), first=dt.date(2024, 1, 1), last=dt.date(2024, 12, 31))
LAB, OTHER_LAB, PHOTO = (
    Labels("laboratory", "none", False, dt.date(2024, 3, 3)),
    Labels("laboratory", "none", False, dt.date(2024, 12, 31)),
    Labels("photo", "none", False, dt.date(2024, 3, 3)),
)
PATIENT, ANOTHER_PATIENT = (key_policy.new_patient(seed=seed(f"patient {name}")) for name in ("owner", "stranger"))


def hasher(*, epoch: int = 0, share: str = "by kind", key: bytes = LABEL_KEY) -> Hasher:
    return Hasher(key, gid("owner"), gid(share), epoch)


def class_of(labels: Labels, *, share: str = "by kind") -> str:
    return kinds.class_id(LABEL_KEY, gid(share), labels)


def delegated(
    *,
    epoch: int = 0,
    share: str = "by kind",
    name: str = "delegation",
    to: str = "reader",
    signer: str = "owner",
    patient: Any = PATIENT,
    wanted: Filter = GIVEN,
    plain: bytes | None = None,
    change: Any = None,
) -> Document:
    """What a delegate is given. `change` takes the key's bytes, `plain` goes into the envelope as it is."""
    delegation, compartment, who = gid(name), gid(share), gid(to)
    policy = hasher(epoch=epoch, share=share).policy(wanted)
    key = key_policy.issue(patient, policy, seed=seed(f"issue {share} {epoch} {to}")).to_bytes()
    key = change(key) if change else key
    vault = kinds.vault_id(LABEL_KEY, compartment, epoch)
    secret = DelegationSecret(vault, key, wanted.words(), "no sensitive files")
    if plain is None:
        sealed = compartments.seal_delegation(pair(to).public, delegation, epoch, who, secret)
    else:
        where = envelope.context_for("delegation", delegation, str(epoch), who)
        sealed = envelope.seal_to(pair(to).public, plain, context=where)
    signature = compartments.sign_delegation(signing(signer), delegation, compartment, epoch, who, sealed)
    return {
        "delegation": delegation,
        "by_kind": compartment,
        "epoch": epoch,
        "reader": who,
        "reader_private": pair(to).private.hex(),
        "owner_signing": certificates.public_key_bytes(signing("owner").public_key()).hex(),
        "owner_public": PATIENT.public.to_bytes().hex(),
        "sealed": sealed.hex(),
        "delegation_signature": signature.hex(),
        "opens_to": {"vault": vault, "key": key.hex(), "title": secret.title, "words": secret.words},
    }


def delegations() -> dict[str, Scenario]:
    made, older = delegated(), delegated(epoch=1)
    nurse_s, public = delegated(to="nurse"), bytearray(PATIENT.public.to_bytes())
    public[-1] ^= 1
    told = made["opens_to"]
    plain = {
        "vault": told["vault"],
        "key": base64.b64encode(bytes.fromhex(told["key"])).decode(),
        "title": "",
        "words": "",
    }

    def holding(**change: object) -> Document:
        kept = {name: value for name, value in (plain | change).items() if value is not None}
        return delegated(plain=json.dumps(kept).encode())

    def given(one: Document) -> Document:
        return {name: one[name] for name in ("sealed", "delegation_signature")}

    theirs: dict[str, Document] = {
        "of-another-delegation": {"delegation": gid("another delegation")},
        "of-another-compartment": {"by_kind": gid("share")},
        "in-another-epoch": {"epoch": 1},
        "with-the-key-of-another-epoch": given(older),
        "of-another-person": {"reader": gid("nurse")},
        "read-by-another-reader": {"reader": gid("nurse"), "reader_private": pair("nurse").private.hex()},
        "given-to-another-reader": given(nurse_s),
        "given-to-another-reader-and-called-theirs": given(nurse_s) | {"reader": gid("nurse")},
        "signed-by-the-reader": given(delegated(signer="reader")),
        "checked-with-another-s-key": {
            "owner_signing": certificates.public_key_bytes(signing("stranger").public_key()).hex()
        },
        "signature-of-another-epoch": {"delegation_signature": older["delegation_signature"]},
        "signature-of-another-person": {"delegation_signature": nurse_s["delegation_signature"]},
        "signature-cut": {"delegation_signature": made["delegation_signature"][:-2]},
        "signature-extended": {"delegation_signature": made["delegation_signature"] + "00"},
        "signature-empty": {"delegation_signature": ""},
        "cut": {"sealed": made["sealed"][:-2]},
        "extended": {"sealed": made["sealed"] + "00"},
        "empty": {"sealed": ""},
        "the-owner-s-public-value-exchanged": {"owner_public": ANOTHER_PATIENT.public.to_bytes().hex()},
        "the-owner-s-public-value-unproved": {"owner_public": bytes(public).hex()},
        # the owner signed it, and it is no key of theirs all the same
        "signed-key-of-another-owner": given(delegated(patient=ANOTHER_PATIENT)),
        "signed-key-cut": given(delegated(change=lambda key: key[:-1])),
        "signed-key-extended": given(delegated(change=lambda key: key + b"\0")),
        "signed-key-flipped": given(delegated(change=lambda key: key[:-1] + bytes([key[-1] ^ 1]))),
        "signed-key-empty": given(delegated(change=lambda key: b"")),
        "signed-key-not-base64": given(holding(key="*" + plain["key"][1:])),
        "signed-without-a-key": given(holding(key=None)),
        "signed-without-a-vault": given(holding(vault=None)),
        "signed-vault-no-uuid": given(holding(vault="by kind")),
        "signed-not-json": given(delegated(plain=b"{'vault'")),
        "signed-no-object": given(delegated(plain=b"[]")),
    }
    return {
        "opens-delegation": ("opens", "delegation", made),
        "opens-delegation-a-later-epoch": ("opens", "delegation", delegated(epoch=2**32 - 1)),
        "refused-delegation-each-byte": ("refused-each-byte", "delegation", made | {"of": "sealed"}),
        "refused-delegation-each-byte-of-the-signature": (
            "refused-each-byte",
            "delegation",
            made | {"of": "delegation_signature"},
        ),
    } | {f"refused-delegation-{name}": ("refused", "delegation", made | one) for name, one in theirs.items()}


def by_kind(
    *,
    epoch: int = 0,
    share: str = "by kind",
    labels: Labels = LAB,
    carried: Labels | None = None,
    place: str | None = None,
    bound: bytes | None = None,
    public: Any = None,
    signer: str = "owner",
    change: Any = None,
) -> Document:
    """A file of the class of `labels`, for the delegate. `carried`: the labels that its header has instead."""
    class_id, owner, reader, item = class_of(labels, share=share), gid("owner"), gid("reader"), gid("item")
    place, given = place or class_id, delegated(epoch=epoch, share=share)
    secret, header = key_policy.encapsulate(
        hasher(epoch=epoch, share=share).attributes(carried or labels),
        public or PATIENT.public,
        binding=bound or compartments.binding(class_id, owner, epoch),
        seed=seed(f"m {class_id} {epoch}"),
    )
    header = change(header) if change else header
    half, vault = seed(f"half {share} {epoch}"), given["opens_to"]["vault"]
    ck = compartments.key_of(secret, half, header)
    signed = compartments.sign_header(signing(signer), "labels", class_id, owner, epoch, header)
    words = {name: given["opens_to"][name] for name in ("title", "words")}
    return given | {
        "kind": "labels",
        "compartment": class_id,
        "owner": owner,
        "item": item,
        "header": header.hex(),
        "signature": signed.hex(),
        "half": seal("reader", half, half_context(vault, epoch, reader)),
        "wrapped_dek": compartments.wrap_dek(ck, place, item, epoch, seed("dek")).hex(),
        "opens_to": {"secret": secret.hex(), "ck": ck.hex(), "words": words, "dek": seed("dek").hex()},
    }


def classes() -> dict[str, Scenario]:
    made, older, other = by_kind(), by_kind(epoch=1), by_kind(labels=OTHER_LAB)
    elsewhere, class_id, reader = by_kind(share="other by kind"), made["compartment"], gid("reader")
    vault, ck = kinds.vault_id(LABEL_KEY, gid("by kind"), 0), bytes.fromhex(made["opens_to"]["ck"])
    half, context = seed("half by kind 0"), half_context(vault, 0, reader)
    another_item = compartments.wrap_dek(ck, class_id, gid("another item"), 0, seed("another dek")).hex()
    of_class = half_context(class_id, 0, reader)
    given = ("delegation", "by_kind", "sealed", "delegation_signature")
    theirs: dict[str, Document] = {
        "in-another-class": {"compartment": other["compartment"]},
        "in-the-compartment-s-place": {"compartment": gid("by kind")},
        "in-another-epoch": {"epoch": 1},
        "of-another-owner": {"owner": gid("stranger")},
        "checked-with-another-s-key": {
            "owner_signing": certificates.public_key_bytes(signing("stranger").public_key()).hex()
        },
        "as-people-by-name": {"kind": "named"},
        "as-a-policy": {"kind": "policy", "publics": {}, "attribute_keys": {}},
        "header-cut": {"header": made["header"][:-2]},
        "header-extended": {"header": made["header"] + "00"},
        "header-empty": {"header": ""},
        "header-of-another-class": {"header": other["header"]},
        "header-and-signature-of-another-class": {name: other[name] for name in ("header", "signature")},
        "header-of-another-epoch": {"header": older["header"]},
        "signature-cut": {"signature": made["signature"][:-2]},
        "signature-extended": {"signature": made["signature"] + "00"},
        "signature-empty": {"signature": ""},
        "signature-of-another-class": {"signature": other["signature"]},
        "signature-of-another-epoch": {"signature": older["signature"]},
        "signature-of-a-delegation": {"signature": made["delegation_signature"]},
        "half-of-another-epoch": {"half": older["half"]},
        "half-of-another-compartment": {"half": elsewhere["half"]},
        "half-of-a-vault-named-as-the-class": {"half": seal("reader", half, of_class)},
        "half-wrong": {"half": seal("reader", seed("no half"), context)},
        "half-of-31-bytes": {"half": seal("reader", half[:31], context)},
        "half-of-another-person": {"half": seal("stranger", half, context)},
        "half-flipped": {"half": flipped(made["half"])},
        "file-of-another-epoch": {"wrapped_dek": older["wrapped_dek"]},
        "file-of-another-class": {"wrapped_dek": other["wrapped_dek"]},
        "file-of-another-compartment": {"wrapped_dek": elsewhere["wrapped_dek"]},
        "file-under-the-compartment-s-id": {"wrapped_dek": by_kind(place=gid("by kind"))["wrapped_dek"]},
        "files-swapped": {"wrapped_dek": another_item},
        "file-cut": {"wrapped_dek": made["wrapped_dek"][:-2]},
        "file-extended": {"wrapped_dek": made["wrapped_dek"] + "00"},
        "file-flipped": {"wrapped_dek": flipped(made["wrapped_dek"])},
        "delegation-of-another-compartment": {name: elsewhere[name] for name in given},
        "delegation-of-another-kind": {
            name: delegated(wanted=Filter(("photo",), first=GIVEN.first, last=GIVEN.last))[name] for name in given
        },
        "delegation-of-another-person": {name: delegated(to="nurse")[name] for name in given},
        "the-owner-s-public-value-exchanged": {"owner_public": ANOTHER_PATIENT.public.to_bytes().hex()},
        "signed-by-the-reader": by_kind(signer="reader"),
        # the owner signed it, and it is no header of this class for this key all the same
        "signed-header-bound-to-another-class": by_kind(
            bound=compartments.binding(class_of(OTHER_LAB), gid("owner"), 0)
        ),
        "signed-header-bound-to-the-compartment": by_kind(bound=compartments.binding(gid("by kind"), gid("owner"), 0)),
        "signed-header-bound-to-another-epoch": by_kind(bound=compartments.binding(class_id, gid("owner"), 1)),
        "signed-header-bound-to-another-owner": by_kind(bound=compartments.binding(class_id, gid("nurse"), 0)),
        "signed-header-with-labels-not-given": by_kind(carried=PHOTO),
        "signed-header-with-sensitive-labels": by_kind(carried=Labels("laboratory", "none", True, LAB.day)),
        "signed-header-for-another-owner-s-keys": by_kind(public=ANOTHER_PATIENT.public),
        "signed-header-cut": by_kind(change=lambda whole: whole[:-1]),
        "signed-header-extended": by_kind(change=lambda whole: whole + b"\0"),
        "signed-header-flipped": by_kind(change=lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])),
        "signed-header-empty": by_kind(change=lambda whole: b""),
        "signed-header-of-people-by-name": by_kind(
            change=lambda whole: compartments.named_header(class_id, gid("owner"), 0, [reader])
        ),
    }
    return {
        "opens-labels": ("opens", "share", made),
        "opens-labels-another-class": ("opens", "share", other),
        "opens-labels-a-later-epoch": ("opens", "share", by_kind(epoch=2**32 - 1)),
        "refused-labels-each-byte-of-the-header": ("refused-each-byte", "share", made | {"of": "header"}),
        "refused-labels-each-byte-of-the-signature": ("refused-each-byte", "share", made | {"of": "signature"}),
    } | {f"refused-labels-{name}": ("refused", "share", made | one) for name, one in theirs.items()}


def hashed_labels() -> dict[str, Scenario]:
    """Attributes, ids and what a policy lets through: nothing in it is drawn."""
    found: dict[str, Scenario] = {}
    scan = Labels("imaging", "ct", True, dt.date(1900, 1, 1))
    last = Labels("other", "none", False, dt.date(2079, 6, 6))
    for name, labels, epoch, share in (
        ("", LAB, 0, "by kind"),
        ("-a-sensitive-scan", scan, 7, "by kind"),
        ("-the-last-day", last, 2**32 - 1, "other by kind"),
    ):
        found[f"opens-hashes{name}"] = ("opens", "hashes", {
            "label_key": LABEL_KEY.hex(),
            "owner": gid("owner"),
            "by_kind": gid(share),
            "epoch": epoch,
            "labels": record_labels.to_json(labels),
            "opens_to": {
                "attributes": [one.to_bytes().hex() for one in hasher(epoch=epoch, share=share).attributes(labels)],
                "class": class_of(labels, share=share),
                "vault": kinds.vault_id(LABEL_KEY, gid(share), epoch),
            },
        })  # fmt: skip
    made = found["opens-hashes"][2]
    for name, change in (
        ("no-such-type", {"type": "secret"}),
        ("modality-in-capitals", {"modality": "CT"}),
        ("modality-with-a-sign", {"modality": "c|t"}),
        ("modality-too-long", {"modality": "a" * 17}),
        ("sensitive-as-a-word", {"sensitive": "False"}),
        ("a-day-too-early", {"day": "1899-12-31"}),
        ("a-day-too-late", {"day": "2079-06-07"}),
    ):
        found[f"refused-hashes-{name}"] = ("refused", "hashes", made | {"labels": made["labels"] | change})
    candidates = [LAB, OTHER_LAB, PHOTO, scan, last, *(
        Labels(type, modality, sensitive, day)
        for type, modality in (("laboratory", "none"), ("imaging", "ct"), ("imaging", "mr"))
        for sensitive in (False, True)
        for day in (dt.date(2023, 12, 31), dt.date(2024, 1, 1), dt.date(2025, 1, 1))
    )]  # fmt: skip
    for name, wanted in (
        ("", GIVEN),
        ("-everything", Filter()),
        ("-also-sensitive", Filter(also_sensitive=True)),
        ("-certain-scans", Filter(("imaging", "laboratory"), ("ct", "us"), last=dt.date(2024, 1, 1))),
        ("-scans-of-all", Filter((), ("mr",), first=dt.date(2024, 1, 1), also_sensitive=True)),
    ):
        found[f"opens-filter{name}"] = ("opens", "filter", {
            "label_key": LABEL_KEY.hex(),
            "owner": gid("owner"),
            "by_kind": gid("by kind"),
            "epoch": 3,
            "filter": wanted.to_json(),
            "policy": canonical(hasher(epoch=3).policy(wanted)).hex(),
            "candidates": [record_labels.to_json(one) for one in candidates],
            "opens_to": {"matching": [wanted.matches(one) for one in candidates]},
        })  # fmt: skip
    made = found["opens-filter"][2]
    for name, change in (
        ("with-the-policy-of-another", {"policy": found["opens-filter-everything"][2]["policy"]}),
        ("of-another-epoch", {"epoch": 4}),
        ("of-another-compartment", {"by_kind": gid("other by kind")}),
        ("with-another-label-key", {"label_key": seed("another label key").hex()}),
        ("policy-cut", {"policy": made["policy"][:-2]}),
        ("policy-extended", {"policy": made["policy"] + "00"}),
        ("policy-empty", {"policy": ""}),
    ):
        found[f"refused-filter-{name}"] = ("refused", "filter", made | change)
    return found


def kept_by_kind() -> dict[str, Scenario]:
    """What the owner keeps under keys of the ring: labels of a file and of a class, a class's key, a delegation."""
    ring, owner = KeyRing(pair("owner")), {"ring_private": pair("owner").private.hex()}
    item, class_id, other, delegation = gid("item"), class_of(LAB), class_of(OTHER_LAB), gid("delegation")
    plain, stranger = record_labels.to_json(LAB), {"ring_private": pair("stranger").private.hex()}
    ck, plan = seed("ck of a class"), {"compartment": gid("by kind"), "gid": gid("reader"), "filter": GIVEN.to_json()}

    def of_item(content: bytes) -> str:
        return envelope.wrap(
            ring.derive("myphr/item-labels/1"), content, context=envelope.context_for("item-labels", item)
        ).hex()

    def of_class(content: bytes) -> str:
        return envelope.wrap(
            ring.derive("myphr/label-class/1"), content, context=envelope.context_for("label-class", class_id)
        ).hex()

    own_item = owner | {
        "item": item,
        "wrapped_labels": record_labels._wrap(ring, item, LAB, said=True).hex(),
        "opens_to": {"labels": plain},
    }
    guessed = own_item | {"wrapped_labels": record_labels._wrap(ring, item, LAB, said=False).hex()}
    own_class = owner | {
        "class": class_id,
        "wrapped_labels": compartments.wrap_labels(ring, class_id, plain).hex(),
        "opens_to": {"labels": plain},
    }
    own_key = owner | {
        "compartment": class_id,
        "epoch": 7,
        "wrapped_ck": compartments.wrap_ck(ring, class_id, 7, ck).hex(),
        "opens_to": {"ck": ck.hex()},
    }
    own_plan = owner | {
        "compartment": delegation,
        "wrapped_plan": compartments.wrap_plan(ring, delegation, plan).hex(),
        "opens_to": {"plan": plan},
    }
    told = json.dumps({"version": 1, "said": True, "labels": plain})
    sealed_item = seal("owner", told.encode(), envelope.context_for("item-labels", item))
    sealed_class = seal("owner", json.dumps(plain).encode(), envelope.context_for("label-class", class_id))
    found: dict[str, Scenario] = {"opens-labels-of-a-file-guessed": ("opens", "item-labels", guessed)}
    for name, row, made, field, changes in (
        (
            "labels-of-a-file",
            "item-labels",
            own_item,
            "wrapped_labels",
            {
                "of-another-file": {"item": gid("another item")},
                "that-are-a-class-s": {"wrapped_labels": own_class["wrapped_labels"]},
                "sealed-to-the-ring": {"wrapped_labels": sealed_item},
                "not-json": {"wrapped_labels": of_item(b"no")},
                "without-labels": {"wrapped_labels": of_item(b'{"version":1,"said":true}')},
                "no-such-type": {"wrapped_labels": of_item(told.replace("laboratory", "secret").encode())},
                "sensitive-as-a-word": {"wrapped_labels": of_item(told.replace("false", '"no"').encode())},
            },
        ),
        (
            "labels-of-a-class",
            "class-labels",
            own_class,
            "wrapped_labels",
            {
                "of-another-class": {"class": other},
                "that-are-a-file-s": {"wrapped_labels": own_item["wrapped_labels"]},
                "sealed-to-the-ring": {"wrapped_labels": sealed_class},
                "not-json": {"wrapped_labels": of_class(b"no")},
                "without-a-day": {"wrapped_labels": of_class(b'{"type":"photo","modality":"none","sensitive":false}')},
                "no-such-type": {"wrapped_labels": of_class(json.dumps(plain | {"type": "secret"}).encode())},
            },
        ),
        (
            "key-of-a-class",
            "owner-key",
            own_key,
            "wrapped_ck",
            {
                "of-another-class": {"compartment": other},
                "of-the-compartment": {"compartment": gid("by kind")},
                "in-another-epoch": {"epoch": 8},
            },
        ),
        (
            "plan-of-a-delegation",
            "plan",
            own_plan,
            "wrapped_plan",
            {
                "of-another-delegation": {"compartment": gid("another delegation")},
                "of-the-compartment": {"compartment": gid("by kind")},
            },
        ),
    ):
        found[f"opens-{name}"] = ("opens", row, made)
        found[f"refused-{name}-each-byte"] = ("refused-each-byte", row, made | {"of": field})
        changes |= {"of-another-owner": stranger, "cut": {field: made[field][:-2]}, "empty": {field: ""},
                    "extended": {field: made[field] + "00"}}  # fmt: skip
        found |= {f"refused-{name}-{change}": ("refused", row, made | one) for change, one in changes.items()}
    return found


def worker_s_by_class() -> dict[str, Scenario]:
    task, worker = gid("task"), {"worker_private": pair("worker").private.hex()}
    low, high = sorted((class_of(LAB), class_of(OTHER_LAB)))
    keys = {(low, 0): seed("low 0"), (low, 2**32 - 1): seed("low last"), (high, 1): seed("high 1")}
    context = envelope.context_for("rewrap-classes", task)

    def packed(*places: tuple[str, int], cut: int = 0, context: bytes = context) -> str:
        data = b"".join(uuid.UUID(one).bytes + struct.pack(">I", epoch) + keys[one, epoch] for one, epoch in places)
        return seal("worker", data[: len(data) - cut], context)

    made = worker | {
        "task": task,
        "keys_for_worker": compartments.seal_class_keys(pair("worker").public, task, keys).hex(),
        "opens_to": {"keys": [[one, epoch, key.hex()] for (one, epoch), key in sorted(keys.items())]},
    }
    changes: dict[str, Document] = {
        "of-another-task": {"task": gid("another task")},
        "for-another-worker": {"worker_private": pair("stranger").private.hex()},
        "cut": {"keys_for_worker": made["keys_for_worker"][:-2]},
        "empty": {"keys_for_worker": ""},
        "extended": {"keys_for_worker": made["keys_for_worker"] + "00"},
        "classes-not-ascending": {"keys_for_worker": packed((high, 1), (low, 0))},
        "epochs-not-ascending": {"keys_for_worker": packed((low, 2**32 - 1), (low, 0))},
        "a-class-twice": {"keys_for_worker": packed((low, 0), (low, 0))},
        "half-a-key": {"keys_for_worker": packed((low, 0), (high, 1), cut=16)},
        "sealed-as-keys-by-epoch": {
            "keys_for_worker": packed((low, 0), (high, 1), context=envelope.context_for("rewrap", task))
        },
    }
    return {
        "opens-class-keys": ("opens", "class-keys", made),
        "refused-class-keys-each-byte": ("refused-each-byte", "class-keys", made | {"of": "keys_for_worker"}),
    } | {f"refused-class-keys-{name}": ("refused", "class-keys", made | one) for name, one in changes.items()}


def shares_by_kind() -> dict[str, Scenario]:
    return delegations() | classes() | hashed_labels() | kept_by_kind() | worker_s_by_class()


def scenarios() -> dict[str, Scenario]:
    return named_shares() | policy_shares() | kept() | worker_s() | shares_by_kind()


def main() -> None:
    for name, (expect, row, content) in scenarios().items():
        content = dict(content)
        head = {"scenario": name, "expect": expect, "row": row}
        if expect == "refused-each-byte":
            head["of"] = content.pop("of")
        if expect == "refused":
            content.pop("opens_to", None)
        path = HERE / f"{name}.vector"
        if not path.exists():
            lines = [f"{key}: {value}" for key, value in head.items()]
            body = json.dumps(content, ensure_ascii=False, indent=1)
            path.write_text("\n".join([*lines, "", body, ""]), "utf-8")


if __name__ == "__main__":
    main()
