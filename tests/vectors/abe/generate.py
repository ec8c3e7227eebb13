"""Makes the frozen vectors of docs/formats/abe.md and policy.md: `python -m tests.vectors.abe.generate`.

One JSON file, one scenario; bytes are hexadecimal. Everything follows from the name of the scenario, so a run makes the
same bytes again; existing files are never written again, as what version 1 sealed must open for ever. A run compares
them instead, and ends with an error where they differ.
"""

import datetime
import hashlib
import json
import sys
from pathlib import Path

from myphr.crypto.abe import curve, dates, encapsulation, key_policy, multi_authority
from myphr.crypto.abe.policy import (
    Attribute,
    Gate,
    Policy,
    all_of,
    any_of,
    at_least,
    authorities_of,
    canonical,
    depth_of,
    leaves_of,
    parse,
    satisfied,
    to_text,
)

HERE = Path(__file__).resolve().parent
ALIASES = {
    "hospA": "0a0a0a0a-1111-4111-8111-00000000000a",
    "patient": "0b0b0b0b-2222-4222-8222-00000000000b",
    "registrar": "0c0c0c0c-3333-4333-8333-00000000000c",
}
HOSPITAL, PATIENT, REGISTRAR = ALIASES.values()
GID, OTHER_GID = "d1d1d1d1-4444-4444-8444-0000000000d1", "d2d2d2d2-4444-4444-8444-0000000000d2"
EPOCH = 7
Document = dict[str, object]


def seed(name: str) -> bytes:
    return hashlib.sha256(f"myphr vector {name}".encode()).digest()


def _policy(text: str) -> Policy:
    return parse(text, ALIASES, EPOCH)


SECRETS = {uuid: multi_authority.new_authority(uuid, seed=seed(f"authority {uuid}")) for uuid in ALIASES.values()}
PUBLICS = {uuid: secret.public for uuid, secret in SECRETS.items()}
PATIENT_SECRET = key_policy.new_patient(seed=seed("patient"))


# -- what is in a policy --------------------------------------------------------------------------
def attributes() -> dict[str, Document]:
    made: dict[str, Document] = {}
    longest = "abcdefghijklmnopqrstuvwxyz0123456789._-"
    for name, one in {
        "name-only": Attribute(PATIENT, "owner"),
        "name-and-value": Attribute(HOSPITAL, "role", "cardiologist", EPOCH),
        "shortest": Attribute("00000000-0000-0000-0000-000000000000", "a", "", 0),
        "longest": Attribute("ffffffff-ffff-ffff-ffff-ffffffffffff", longest + "z" * 25, "9" * 25 + longest, 2**32 - 1),
    }.items():
        made[f"attribute-{name}"] = {
            "kind": "attribute",
            "authority": one.authority,
            "name": one.name,
            "value": one.value,
            "epoch": one.epoch,
            "bytes": one.to_bytes().hex(),
        }
    good = Attribute(HOSPITAL, "role", "nurse", 1).to_bytes()
    for name, bad in {
        "empty": b"",
        "cut": good[:-1],
        "extended": good + b"\x00",
        "id-size": b"\x11" + good[1:],
        "upper-case": good.replace(b"role", b"Role"),
        "colon": good.replace(b"role", b"ro:e"),
        "utf-8": good.replace(b"role", "rôl".encode()),
        "no-name": good[:17] + b"\x00" + good[22:],
        "name-of-65": Attribute(HOSPITAL, "a" * 64).to_bytes().replace(b"\x40" + b"a" * 64, b"\x41" + b"a" * 65),
        "value-beyond-end": good[:22] + b"\x40" + good[23:],
    }.items():
        made[f"attribute-refused-{name}"] = {"kind": "attribute-refused", "bytes": bad.hex()}
    return made


TEXTS = {
    "leaf": "owner@patient",
    "care": "(role:cardiologist@hospA AND consent:care-team@patient) OR owner@patient",
    "emergency": "(role:cardiologist@hospA AND consent:care-team@patient) OR "
    "(break-glass@registrar AND emergency@hospA) OR owner@patient",
    "two-of-three": "2 of (role:nurse@hospA, consent@patient, break-glass@registrar)",
    "without-parentheses": "a@hospA AND b@patient OR c@hospA AND d@patient",
    "chains-and-gates": "a@hospA AND (b@hospA AND c@hospA) AND 1 of (d@hospA)",
    "repeated": "2 of (a@hospA, b@patient, a@hospA)",
    "literal-uuid": "role:nurse@0a0a0a0a-1111-4111-8111-00000000000a OR owner@patient",
    "blanks": "\t( a@hospA\n AND  b@patient )\r\n",
    "widest": " OR ".join(f"n{i}@hospA" for i in range(64)),
    "deepest": "a@hospA AND (b@hospA OR (c@hospA AND (d@hospA OR (e@hospA AND (f@hospA OR (g@hospA AND h@hospA))))))",
    "parentheses": "(" * 32 + "a@hospA" + ")" * 32,
    "three-of-five-nested": "3 of (a@hospA, 2 of (b@patient, c@patient, d@patient), e@registrar, "
    "f@hospA OR g@hospA, a@hospA)",
}
REFUSED_TEXTS = {
    "empty": "",
    "blank": " \n",
    "no-authority": "owner",
    "unknown-authority": "owner@nobody",
    "upper-case-name": "Owner@patient",
    "small-and": "a@hospA and b@hospA",
    "not": "NOT a@hospA",
    "missing-term": "a@hospA AND",
    "two-words": "a@hospA b@hospA",
    "open": "(a@hospA",
    "closed": "a@hospA)",
    "nothing-inside": "()",
    "zero-of": "0 of (a@hospA, b@hospA)",
    "more-than-all": "3 of (a@hospA, b@hospA)",
    "two-of-one": "2 of (a@hospA)",
    "leading-zero": "02 of (a@hospA, b@hospA)",
    "trailing-comma": "1 of (a@hospA, b@hospA,)",
    "empty-value": "role:@hospA",
    "two-values": "a:b:c@hospA",
    "unicode": "r\u00f4le@hospA",
    "fullwidth": "\uff52ole@hospA",
    "name-of-65": "a" * 65 + "@hospA",
    "no-break-space": "a@hospA\u00a0OR b@hospA",
    "65-leaves": " OR ".join(f"n{i}@hospA" for i in range(65)),
    "33-parentheses": "(" * 33 + "a@hospA" + ")" * 33,
    "too-deep": "a@hospA AND (b@hospA OR (c@hospA AND (d@hospA OR (e@hospA AND (f@hospA OR (g@hospA AND (h@hospA OR "
    "i@hospA)))))))",
    "upper-case-uuid": "a@0A0A0A0A-1111-4111-8111-00000000000A",
    "16385-signs": "a@hospA" + " " * 16_378,
}


def policies() -> dict[str, Document]:
    made: dict[str, Document] = {}
    for name, text in TEXTS.items():
        tree = _policy(text)
        leaves = list(dict.fromkeys(leaves_of(tree)))
        asked = []
        for number in range(16):
            bits = int.from_bytes(seed(f"held {name} {number}")[:8], "big")
            held = [i for i in range(len(leaves)) if bits >> i & 1] if number else list(range(len(leaves)))
            asked.append([held, satisfied(tree, {leaves[i] for i in held})])
        made[f"policy-{name}"] = {
            "kind": "policy",
            "text": text,
            "aliases": ALIASES,
            "epoch": EPOCH,
            "bytes": canonical(tree).hex(),
            "written": to_text(tree, ALIASES),
            "leaves": [leaf.to_bytes().hex() for leaf in leaves_of(tree)],
            "depth": depth_of(tree),
            "held": [leaf.to_bytes().hex() for leaf in leaves],
            "satisfied": asked,
        }
    for name, text in REFUSED_TEXTS.items():
        made[f"policy-refused-text-{name}"] = {
            "kind": "policy-refused-text",
            "text": text,
            "aliases": ALIASES,
            "epoch": EPOCH,
        }
    good = canonical(_policy("2 of (a@hospA, b@patient, c@registrar)"))
    leaf = b"\x01" + Attribute(HOSPITAL, "a").to_bytes()
    for name, bad in {
        "empty": b"",
        "version-only": b"\x01",
        "version-2": b"\x02" + good[1:],
        "kind-3": good[:1] + b"\x03" + good[2:],
        "cut": good[:-1],
        "extended": good + b"\x00",
        "k-is-0": good[:2] + b"\x00" + good[3:],
        "k-is-4": good[:2] + b"\x04" + good[3:],
        "one-child": b"\x01\x02\x01\x01" + leaf,
        "no-child": b"\x01\x02\x00\x00",
        "65-children": b"\x01\x02\x01\x41" + leaf * 65,
        "65-leaves": b"\x01\x02\x01\x02" + leaf + b"\x02\x01\x40" + leaf * 64,
        "depth-9": b"\x01" + (b"\x02\x01\x02" + leaf) * 8 + leaf,
        "depth-1000": b"\x01" + b"\x02\x01\x02" * 1000,
    }.items():
        made[f"policy-refused-bytes-{name}"] = {"kind": "policy-refused-bytes", "bytes": bad.hex()}
    return made


def days() -> dict[str, Document]:
    made: dict[str, Document] = {}
    for text in ("1900-01-01", "2079-06-06", "2024-02-29", "1969-12-31"):
        values = [one.value for one in dates.date_attributes(datetime.date.fromisoformat(text), authority=PATIENT)]
        made[f"day-{text}"] = {"kind": "day", "day": text, "values": values}
    for name, first, last in (
        ("two-years", "2024-03-10", "2026-02-01"),
        ("one-day", "2024-02-29", "2024-02-29"),
        ("a-year", "2024-01-01", "2024-12-31"),
        ("all", "1900-01-01", "2079-06-06"),
        ("all-but-ends", "1900-01-02", "2079-06-05"),
        ("from-first", "1900-01-01", "1999-12-31"),
        ("to-last", "2000-01-01", "2079-06-06"),
        ("around-the-middle", "1989-09-18", "1989-09-19"),
    ):
        tree = dates.date_range(
            datetime.date.fromisoformat(first), datetime.date.fromisoformat(last), authority=PATIENT, epoch=EPOCH
        )
        made[f"days-{name}"] = {
            "kind": "days",
            "first": first,
            "last": last,
            "values": [one.value for one in leaves_of(tree)],
            "authority": PATIENT,
            "epoch": EPOCH,
            "policy": canonical(tree).hex(),
        }
    for name, first, last in (
        ("backwards", "2024-01-02", "2024-01-01"),
        ("before-first", "1899-12-31", "1900-01-01"),
        ("after-last", "2079-06-06", "2079-06-07"),
    ):
        made[f"days-refused-{name}"] = {"kind": "days-refused", "first": first, "last": last}
    return made


# -- the curve ------------------------------------------------------------------------------------
def pairings() -> dict[str, Document]:
    made: dict[str, Document] = {}
    for number in range(4):
        a, b = (curve.wide(hashlib.sha512(seed(f"pairing {number} {which}")).digest()) for which in "ab")
        p, q = curve.G1.generator().times(a), curve.G2.generator().times(b)
        made[f"pairing-{number}"] = {
            "kind": "pairing",
            "a": f"{a:064x}",
            "b": f"{b:064x}",
            "g1": p.to_bytes().hex(),
            "g2": q.to_bytes().hex(),
            "gt": curve.pairing(p, q).to_bytes().hex(),
        }
    p_bytes = curve.P.to_bytes(48, "big")
    g1, g2 = curve.G1.generator().to_bytes(), curve.G2.generator().to_bytes()
    gt = curve.GT.generator().to_bytes()
    one, beyond = (
        bytes(47) + b"\x01" + bytes(528),
        (int.from_bytes(gt[:48], "big") + curve.P).to_bytes(48, "big") + gt[48:],
    )
    # 4 and, in Fp2, 2 are the first x of points on the curve that are not in the subgroup.
    for group, name, bad in (
        ("g1", "infinity", b"\xc0" + bytes(47)),
        ("g1", "zeros", bytes(48)),
        ("g1", "off-subgroup", b"\x80" + bytes(46) + b"\x04"),
        ("g1", "x-is-p", bytes((p_bytes[0] | 0x80,)) + p_bytes[1:]),
        ("g1", "not-compressed", bytes((g1[0] & 0x7F,)) + g1[1:]),
        ("g1", "infinity-flag", bytes((g1[0] | 0x40,)) + g1[1:]),
        ("g1", "short", g1[:-1]),
        ("g1", "long", g1 + b"\x00"),
        ("g1", "off-curve", b"\x80" + bytes(46) + b"\x01"),
        ("g1", "infinity-with-x", b"\xc0" + bytes(46) + b"\x01"),
        ("g2", "infinity", b"\xc0" + bytes(95)),
        ("g2", "zeros", bytes(96)),
        ("g2", "off-subgroup", b"\x80" + bytes(94) + b"\x02"),
        ("g2", "x-is-p", bytes((p_bytes[0] | 0x80,)) + p_bytes[1:] + bytes(48)),
        ("g2", "not-compressed", bytes((g2[0] & 0x7F,)) + g2[1:]),
        ("g2", "short", g2[:-1]),
        ("g2", "long", g2 + b"\x00"),
        ("g2", "x1-is-p", g2[:48] + p_bytes),
        ("gt", "one", one),
        ("gt", "zero", bytes(576)),
        ("gt", "two", bytes(47) + b"\x02" + bytes(528)),
        ("gt", "minus-one", (curve.P - 1).to_bytes(48, "big") + bytes(528)),
        ("gt", "coefficient-beyond-p", beyond),
        ("gt", "short", gt[:-1]),
        ("gt", "long", gt + b"\x00"),
        ("gt", "flipped", gt[:-1] + bytes((gt[-1] ^ 1,))),
        ("gt", "shifted", gt[96:] + gt[:96]),
    ):
        made[f"element-refused-{group}-{name}"] = {"kind": "element-refused", "group": group, "bytes": bad.hex()}
    return made


# -- RW15 -----------------------------------------------------------------------------------------
def _authority(uuid: str) -> Document:
    return {
        "uuid": uuid,
        "seed": seed(f"authority {uuid}").hex(),
        "secret": SECRETS[uuid].to_bytes().hex(),
        "public": PUBLICS[uuid].to_bytes().hex(),
    }


def _key(name: str, gid: str, attribute: Attribute) -> tuple[multi_authority.AttributeKey, Document]:
    key_seed = seed(f"issue {name} {gid} {attribute.to_bytes().hex()}")
    key = multi_authority.issue(SECRETS[attribute.authority], gid, attribute, seed=key_seed)
    return key, {
        "gid": gid,
        "attribute": attribute.to_bytes().hex(),
        "seed": key_seed.hex(),
        "bytes": key.to_bytes().hex(),
    }


RW15 = {  # name: (policy text, the leaves that are held, by number)
    "leaf": ("owner@patient", [0]),
    "and": ("role:nurse@hospA AND consent@patient", [0, 1]),
    "or-second": ("role:nurse@hospA OR owner@patient", [1]),
    "care": (TEXTS["care"], [0, 1]),
    "care-owner": (TEXTS["care"], [2]),
    "emergency": (TEXTS["emergency"], [2, 3]),
    "two-of-three": (TEXTS["two-of-three"], [0, 2]),
    "repeated": (TEXTS["repeated"], [0, 2]),
    "nested": (TEXTS["three-of-five-nested"], [0, 2, 3, 6]),
    "ten": (" AND ".join(f"n{i}@{'hospA' if i % 2 else 'patient'}" for i in range(10)), list(range(10))),
}


def _rw15_document(name: str) -> Document:
    text, held = RW15[name]
    tree = _policy(text)
    leaves = list(leaves_of(tree))
    keys = [_key(name, GID, leaf) for leaf in dict.fromkeys(leaves[i] for i in held)]
    binding, m = f"myphr/vector/1|{name}".encode(), seed(f"rw15 {name}")
    key, header = multi_authority.encapsulate(tree, PUBLICS, binding=binding, seed=m)
    assert multi_authority.decapsulate(header, [one for one, _ in keys], PUBLICS, binding=binding) == key
    return {
        "kind": "rw15",
        "authorities": [_authority(uuid) for uuid in authorities_of(tree)],
        "keys": [document for _, document in keys],
        "policy": canonical(tree).hex(),
        "binding": binding.hex(),
        "seed": m.hex(),
        "header": header.hex(),
        "key": key.hex(),
    }


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def rw15() -> dict[str, Document]:
    made = {f"rw15-{name}": _rw15_document(name) for name in RW15}
    base = made["rw15-and"]
    header = bytes.fromhex(str(base["header"]))
    other = bytes.fromhex(str(_rw15_document("or-second")["header"]))
    nurse, consent = leaves_of(_policy(RW15["and"][0]))
    text_bytes = int.from_bytes(header[12:16], "big")
    covered, rows = 16 + text_bytes, 48 + text_bytes
    row = multi_authority.ROW_BYTES
    infinity_1, infinity_2 = b"\xc0" + bytes(47), b"\xc0" + bytes(95)

    def refused(name: str, **changed: object) -> None:
        made[f"rw15-refused-{name}"] = {
            key: value
            for key, value in {**base, "kind": "rw15-refused", **changed}.items()
            if key not in ("key", "seed")
        }

    for name, at in (
        ("magic", 0),
        ("version", 8),
        ("suite", 9),
        ("count", 11),
        ("size", 15),
        ("epoch", covered - 1),
        ("gate", 17),
        ("covered", covered),
        ("c1", rows + 100),
        ("c2", rows + 576 + 50),
        ("c3", rows + 672 + 50),
        ("c4", rows + 768 + 20),
        ("last", len(header) - 1),
        ("c2-sign", rows + 576),
    ):
        changed = (
            _flipped(header, at) if name != "c2-sign" else header[:at] + bytes((header[at] ^ 0x20,)) + header[at + 1 :]
        )
        refused(f"flipped-{name}", header=changed.hex())
    refused("empty", header="")
    refused("front-only", header=header[:16].hex())
    refused("cut", header=header[:-1].hex())
    refused("cut-by-a-row", header=header[:-row].hex())
    refused("extended", header=(header + b"\x00").hex())
    refused("rows-swapped", header=(header[:rows] + header[rows + row :] + header[rows : rows + row]).hex())
    refused("row-twice", header=(header[:rows] + header[rows : rows + row] * 2).hex())
    refused("rows-of-another", header=(header[:rows] + other[-2 * row :]).hex())
    refused("infinity-c2", header=(header[: rows + 576] + infinity_2 + header[rows + 672 :]).hex())
    refused("infinity-c3", header=(header[: rows + 672] + infinity_2 + header[rows + 768 :]).hex())
    refused("infinity-c4", header=(header[: rows + 768] + infinity_1 + header[rows + 816 :]).hex())
    refused("one-c1", header=(header[:rows] + bytes(47) + b"\x01" + bytes(528) + header[rows + 576 :]).hex())
    refused(
        "off-subgroup-c4", header=(header[: rows + 768] + b"\x80" + bytes(46) + b"\x04" + header[rows + 816 :]).hex()
    )
    or_bytes = canonical(_policy("role:nurse@hospA OR consent@patient"))
    refused("and-called-or", header=(header[:16] + or_bytes + header[covered:]).hex())
    refused("another-binding", binding=b"myphr/vector/1|or-second".hex())
    stranger = multi_authority.new_authority(HOSPITAL, seed=seed("a stranger"))
    refused(
        "another-authority-s-public",
        authorities=[
            {
                **_authority(HOSPITAL),
                "seed": seed("a stranger").hex(),
                "secret": stranger.to_bytes().hex(),
                "public": stranger.public.to_bytes().hex(),
            },
            _authority(PATIENT),
        ],
    )
    refused("one-key-missing", keys=[_key("and", GID, nurse)[1]])
    refused("no-key", keys=[])
    refused("keys-of-two-people", keys=[_key("and", GID, nurse)[1], _key("and", OTHER_GID, consent)[1]])
    refused(
        "key-of-the-epoch-before",
        keys=[_key("and", GID, nurse)[1], _key("and", GID, Attribute(PATIENT, "consent", "", EPOCH - 1))[1]],
    )
    # The holder of an old key, or of another's, writes the wanted attribute or GID over it.
    old, _ = _key("and", GID, Attribute(PATIENT, "consent", "", EPOCH - 1))
    forged = multi_authority.AttributeKey(GID, consent, old.k, old.t)
    refused(
        "old-key-renamed",
        keys=[
            _key("and", GID, nurse)[1],
            {"gid": GID, "attribute": consent.to_bytes().hex(), "bytes": forged.to_bytes().hex()},
        ],
    )
    lent, _ = _key("and", OTHER_GID, consent)
    forged = multi_authority.AttributeKey(GID, consent, lent.k, lent.t)
    refused(
        "lent-key-renamed",
        keys=[
            _key("and", GID, nurse)[1],
            {"gid": GID, "attribute": consent.to_bytes().hex(), "bytes": forged.to_bytes().hex()},
        ],
    )
    return made


# -- FABEO-KP -------------------------------------------------------------------------------------
def _labels(day: str, *more: Attribute) -> list[Attribute]:
    return [*more, *dates.date_attributes(datetime.date.fromisoformat(day), authority=PATIENT, epoch=EPOCH)]


LAB, IMAGE = Attribute(PATIENT, "type", "laboratory", EPOCH), Attribute(PATIENT, "type", "image", EPOCH)
LOW = Attribute(PATIENT, "sensitivity", "low", EPOCH)
IN_2024 = dates.date_range(datetime.date(2024, 1, 1), datetime.date(2024, 12, 31), authority=PATIENT, epoch=EPOCH)
KP: dict[str, tuple[Policy, list[Attribute]]] = {
    "leaf": (LAB, [LAB]),
    "lab-results-of-2024": (all_of(LAB, LOW, IN_2024), _labels("2024-03-10", LAB, LOW)),
    "any": (any_of(LAB, IMAGE), [IMAGE]),
    "repeated": (at_least(2, [LAB, IMAGE, LAB]), [LAB]),
    "two-of-three": (at_least(2, [LAB, IMAGE, LOW]), [LAB, LOW]),
    "repeated-deep": (Gate(2, (Gate(2, (LAB, LOW, LAB)), Gate(1, (IMAGE, LAB)), LOW)), [LAB, LOW]),
}


def _kp_document(name: str) -> Document:
    tree, labels = KP[name]
    issue_seed, m, binding = seed(f"kp issue {name}"), seed(f"kp {name}"), f"myphr/vector/1|{name}".encode()
    kp_key = key_policy.issue(PATIENT_SECRET, tree, seed=issue_seed)
    key, header = key_policy.encapsulate(labels, PATIENT_SECRET.public, binding=binding, seed=m)
    assert key_policy.decapsulate(header, kp_key, PATIENT_SECRET.public, binding=binding) == key
    return {
        "kind": "kp",
        "patient_seed": seed("patient").hex(),
        "patient_secret": PATIENT_SECRET.to_bytes().hex(),
        "patient_public": PATIENT_SECRET.public.to_bytes().hex(),
        "policy": canonical(tree).hex(),
        "issue_seed": issue_seed.hex(),
        "kp_key": kp_key.to_bytes().hex(),
        "labels": [label.to_bytes().hex() for label in labels],
        "binding": binding.hex(),
        "seed": m.hex(),
        "header": header.hex(),
        "key": key.hex(),
    }


def kp() -> dict[str, Document]:
    made = {f"kp-{name}": _kp_document(name) for name in KP}
    base = made["kp-two-of-three"]
    header = bytes.fromhex(str(base["header"]))
    covered = 16 + int.from_bytes(header[12:16], "big")
    sizes = [len(label.to_bytes()) for label in sorted(KP["two-of-three"][1], key=Attribute.to_bytes)]

    def refused(name: str, **changed: object) -> None:
        made[f"kp-refused-{name}"] = {
            "kind": "kp-refused",
            **{
                key: value
                for key, value in {**base, **changed}.items()
                if key in ("patient_public", "kp_key", "binding", "header")
            },
        }

    for name, at in (
        ("magic", 0),
        ("version", 8),
        ("suite", 9),
        ("count", 11),
        ("size", 15),
        ("label", covered - 1),
        ("covered", covered),
        ("c", covered + 60),
        ("label-part", covered + 128 + 30),
        ("last", len(header) - 1),
    ):
        refused(f"flipped-{name}", header=_flipped(header, at).hex())
    refused("empty", header="")
    refused("cut", header=header[:-1].hex())
    refused("extended", header=(header + b"\x00").hex())
    refused("infinity-c", header=(header[: covered + 32] + b"\xc0" + bytes(95) + header[covered + 128 :]).hex())
    refused("infinity-label", header=(header[: covered + 128] + b"\xc0" + bytes(47) + header[covered + 176 :]).hex())
    refused(
        "parts-swapped",
        header=(header[: covered + 128] + header[covered + 176 :] + header[covered + 128 : covered + 176]).hex(),
    )
    first, second = header[16 : 16 + sizes[0]], header[16 + sizes[0] : covered]
    refused(
        "labels-out-of-order",
        header=(
            header[:16]
            + second
            + first
            + header[covered : covered + 128]
            + header[covered + 176 :]
            + header[covered + 128 : covered + 176]
        ).hex(),
    )
    refused("another-binding", binding=b"myphr/vector/1|leaf".hex())
    stranger = key_policy.new_patient(seed=seed("another patient"))
    refused("another-patient", patient_public=stranger.public.to_bytes().hex())
    refused(
        "another-patient-s-key",
        kp_key=key_policy.issue(stranger, KP["two-of-three"][0], seed=seed("x")).to_bytes().hex(),
    )
    refused(
        "labels-not-enough",
        kp_key=key_policy.issue(PATIENT_SECRET, all_of(LAB, IMAGE), seed=seed("y")).to_bytes().hex(),
    )
    day_after = key_policy.encapsulate(
        _labels("2025-01-01", LAB, LOW), PATIENT_SECRET.public, binding=b"d", seed=seed("z")
    )[1]
    refused(
        "the-day-after", header=day_after.hex(), binding=b"d".hex(), kp_key=made["kp-lab-results-of-2024"]["kp_key"]
    )
    return made


# -- keys and public values -----------------------------------------------------------------------
def keys() -> dict[str, Document]:
    made: dict[str, Document] = {}
    public, patient = PUBLICS[HOSPITAL].to_bytes(), PATIENT_SECRET.public.to_bytes()
    attribute = _key("keys", GID, Attribute(HOSPITAL, "role", "nurse", 1))[0].to_bytes()
    kp_key = key_policy.issue(PATIENT_SECRET, any_of(LAB, LAB), seed=seed("keys")).to_bytes()
    order = curve.R.to_bytes(32, "big")

    def refused(what: str, name: str, bad: bytes) -> None:
        made[f"key-refused-{what}-{name}"] = {"kind": "key-refused", "what": what, "bytes": bad.hex()}

    for what, good in (
        ("authority-secret", SECRETS[HOSPITAL].to_bytes()),
        ("authority-public", public),
        ("attribute-key", attribute),
        ("patient-secret", PATIENT_SECRET.to_bytes()),
        ("patient-public", patient),
        ("kp-key", kp_key),
    ):
        refused(what, "magic", _flipped(good, 0))
        refused(what, "version", _flipped(good, 8))
        refused(what, "kind", _flipped(good, 9))
        refused(what, "cut", good[:-1])
        refused(what, "extended", good + b"\x00")
        refused(what, "front-only", good[: encapsulation.KEY_FRONT_BYTES])
    refused("authority-secret", "zero", SECRETS[HOSPITAL].to_bytes()[:-32] + bytes(32))
    refused("authority-secret", "order", SECRETS[HOSPITAL].to_bytes()[:-32] + order)
    refused("patient-secret", "zero", PATIENT_SECRET.to_bytes()[:-32] + bytes(32))
    refused("patient-secret", "order", PATIENT_SECRET.to_bytes()[:-32] + order)
    other = PUBLICS[PATIENT].to_bytes()
    refused("authority-public", "proof-flipped", _flipped(public, len(public) - 1))
    refused("authority-public", "challenge-flipped", _flipped(public, len(public) - 65))
    refused("authority-public", "another-uuid", public[:10] + other[10:26] + public[26:])
    refused("authority-public", "another-y", public[: 26 + 576] + other[26 + 576 : 26 + 672] + public[26 + 672 :])
    refused("authority-public", "another-a", public[:26] + other[26 : 26 + 576] + public[26 + 576 :])
    refused(
        "authority-public",
        "proof-not-reduced",
        public[:-32] + (int.from_bytes(public[-32:], "big") + curve.R).to_bytes(32, "big"),
    )
    refused("authority-public", "infinity-y", public[: 26 + 576] + b"\xc0" + bytes(95) + public[26 + 672 :])
    refused("patient-public", "proof-flipped", _flipped(patient, len(patient) - 1))
    refused("patient-public", "a-is-one", patient[:10] + bytes(47) + b"\x01" + bytes(528) + patient[586:])
    refused("attribute-key", "infinity-k", attribute[:-144] + b"\xc0" + bytes(47) + attribute[-96:])
    refused("attribute-key", "infinity-t", attribute[:-96] + b"\xc0" + bytes(95))
    refused("kp-key", "tau", kp_key[: -2 * 48 - 2 * 96 - 1] + b"\x01" + kp_key[-2 * 48 - 2 * 96 :])
    return made


def scenarios() -> dict[str, Document]:
    made: dict[str, Document] = {}
    for part in (attributes, policies, days, pairings, rw15, kp, keys):
        made.update(part())
    return {name: {"scenario": name, **document} for name, document in made.items()}


def main() -> int:
    differ = 0
    for name, document in scenarios().items():
        path = HERE / f"{name}.json"
        text = json.dumps(document, indent=1) + "\n"
        if not path.exists():
            path.write_text(text, "utf-8")
        elif path.read_text("utf-8") != text:
            print(f"{path.name}: would be made otherwise today")
            differ += 1
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
