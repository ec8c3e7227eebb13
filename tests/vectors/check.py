"""All published and frozen vectors, with the product and with a second implementation: `make vectors`.

Prints each failure, and last `vectors: OK/TOTAL`; ends with 1 if one failed. One count is one vector in one
implementation. `documents` and `check_*` are also what the quick test uses.
"""

import argparse
import datetime
import importlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import py_arkworks_bls12381 as arkworks
import pyotp

from myphr.crypto import certificates, envelope, passwords, proofs, statements
from myphr.crypto.abe import curve, dates, key_policy, multi_authority, policy
from myphr.crypto.certificates import Chain
from myphr.crypto.envelope import KeyPair
from myphr.crypto.statements import AuthorityStatement, DestroyOrder, EpochTable, Holding, KeyStatement
from myphr.errors import AbeError, CertificateRefused, EnvelopeError, PolicyError, PortalError
from myphr.people import second_factor
from myphr.people.identity_keys import unwrap_keys
from myphr.people.keyring import KeyRing
from myphr.people.login_sessions import parts_of_cookie
from myphr.people.models import Account, PendingSignIn, Totp
from myphr.people.pending_sign_ins import Pending
from tests.vectors.abe_second import policy as second_policy
from tests.vectors.abe_second import schemes as second
from tests.vectors.compartment import product as product_compartment
from tests.vectors.second import compartment as second_compartment
from tests.vectors.second import identity as second_identity
from tests.vectors.second import sealed as second_sealed
from tests.vectors.second import signed as second_signed

HERE = Path(__file__).resolve().parent
Document = dict[str, Any]
Check = tuple[str, Callable[[], None]]


def must(condition: bool, what: str = "another result") -> None:
    if not condition:
        raise AssertionError(what)


def refuses(error: type[Exception] | tuple[type[Exception], ...], act: Callable[[], object]) -> None:
    try:
        act()
    except error:
        return
    raise AssertionError("was accepted")


def h(value: object) -> bytes:
    return bytes.fromhex(str(value))


# -- our frozen ones, with the product ------------------------------------------------------------
def product_attribute(d: Document) -> None:
    one = policy.Attribute(d["authority"], d["name"], d["value"], d["epoch"])
    must(one.to_bytes() == h(d["bytes"]) and policy.Attribute.from_bytes(h(d["bytes"])) == one)


def product_policy(d: Document) -> None:
    tree = policy.parse(d["text"], d["aliases"], d["epoch"])
    must(policy.canonical(tree) == h(d["bytes"]) and policy.from_canonical(h(d["bytes"])) == tree, "another tree")
    must(policy.to_text(tree, d["aliases"]) == d["written"], "written otherwise")
    must(policy.parse(d["written"], d["aliases"], d["epoch"]) == tree, "not what was written")
    must(
        [leaf.to_bytes().hex() for leaf in policy.leaves_of(tree)] == d["leaves"]
        and policy.depth_of(tree) == d["depth"]
    )
    held = [policy.Attribute.from_bytes(h(one)) for one in d["held"]]
    for which, answer in d["satisfied"]:
        must(policy.satisfied(tree, {held[i] for i in which}) is answer, "another answer")


def product_days(d: Document) -> None:
    tree = dates.date_range(
        datetime.date.fromisoformat(d["first"]),
        datetime.date.fromisoformat(d["last"]),
        authority=d["authority"],
        epoch=d["epoch"],
    )
    must([leaf.value for leaf in policy.leaves_of(tree)] == d["values"] and policy.canonical(tree) == h(d["policy"]))


def product_day(d: Document) -> None:
    found = dates.date_attributes(datetime.date.fromisoformat(d["day"]), authority=str(uuid.UUID(int=1)))
    must([one.value for one in found] == d["values"])


def product_pairing(d: Document) -> None:
    a, b = int(d["a"], 16), int(d["b"], 16)
    p, q, gt = curve.G1.from_bytes(h(d["g1"])), curve.G2.from_bytes(h(d["g2"])), curve.GT.from_bytes(h(d["gt"]))
    must(
        curve.G1.generator().times(a) == p and curve.g2_power(b) == q == curve.G2.generator().times(b), "another point"
    )
    must(curve.pairing(p, q) == gt and curve.generator_power(a * b % curve.R) == gt and gt.to_bytes() == h(d["gt"]))


def product_rw15(d: Document) -> None:
    publics, secrets = {}, {}
    for one in d["authorities"]:
        secret = multi_authority.new_authority(one["uuid"], seed=h(one["seed"]))
        must(
            secret.to_bytes() == h(one["secret"]) and secret.public.to_bytes() == h(one["public"]), "another authority"
        )
        secrets[one["uuid"]], publics[one["uuid"]] = (
            secret,
            multi_authority.AuthorityPublic.from_bytes(h(one["public"])),
        )
        multi_authority.check_public(publics[one["uuid"]], one["uuid"])
    keys = []
    for one in d["keys"]:
        attribute = policy.Attribute.from_bytes(h(one["attribute"]))
        key = multi_authority.issue(secrets[attribute.authority], one["gid"], attribute, seed=h(one["seed"]))
        must(key.to_bytes() == h(one["bytes"]), "another key")
        keys.append(multi_authority.AttributeKey.from_bytes(h(one["bytes"])))
        multi_authority.check_key(keys[-1], publics[attribute.authority])
    tree, binding = policy.from_canonical(h(d["policy"])), h(d["binding"])
    must(
        multi_authority.encapsulate(tree, publics, binding=binding, seed=h(d["seed"])) == (h(d["key"]), h(d["header"]))
    )
    must(multi_authority.decapsulate(h(d["header"]), keys, publics, binding=binding) == h(d["key"]), "opens otherwise")


def product_rw15_refused(d: Document) -> None:
    publics = {one["uuid"]: multi_authority.AuthorityPublic.from_bytes(h(one["public"])) for one in d["authorities"]}
    keys = [multi_authority.AttributeKey.from_bytes(h(one["bytes"])) for one in d["keys"]]
    refuses(AbeError, lambda: multi_authority.decapsulate(h(d["header"]), keys, publics, binding=h(d["binding"])))


def product_kp(d: Document) -> None:
    secret = key_policy.new_patient(seed=h(d["patient_seed"]))
    must(secret.to_bytes() == h(d["patient_secret"]) and secret.public.to_bytes() == h(d["patient_public"]))
    public = key_policy.PatientPublic.from_bytes(h(d["patient_public"]))
    key_policy.check_public(public)
    made = key_policy.issue(secret, policy.from_canonical(h(d["policy"])), seed=h(d["issue_seed"]))
    must(made.to_bytes() == h(d["kp_key"]), "another key")
    key = key_policy.KpKey.from_bytes(h(d["kp_key"]))
    key_policy.check_key(key, public)
    labels = [policy.Attribute.from_bytes(h(label)) for label in d["labels"]]
    must(
        key_policy.encapsulate(labels, public, binding=h(d["binding"]), seed=h(d["seed"]))
        == (h(d["key"]), h(d["header"]))
    )
    must(key_policy.decapsulate(h(d["header"]), key, public, binding=h(d["binding"])) == h(d["key"]), "opens otherwise")


def product_kp_refused(d: Document) -> None:
    public = key_policy.PatientPublic.from_bytes(h(d["patient_public"]))
    key = key_policy.KpKey.from_bytes(h(d["kp_key"]))
    refuses(AbeError, lambda: key_policy.decapsulate(h(d["header"]), key, public, binding=h(d["binding"])))


def product_key_refused(d: Document) -> None:
    def read() -> None:
        if d["what"] == "authority-public":
            multi_authority.check_public(multi_authority.AuthorityPublic.from_bytes(h(d["bytes"])))
        elif d["what"] == "patient-public":
            key_policy.check_public(key_policy.PatientPublic.from_bytes(h(d["bytes"])))
        else:
            {
                "authority-secret": multi_authority.AuthoritySecret,
                "attribute-key": multi_authority.AttributeKey,
                "patient-secret": key_policy.PatientSecret,
                "kp-key": key_policy.KpKey,
            }[d["what"]].from_bytes(h(d["bytes"]))

    refuses(AbeError, read)


PRODUCT: dict[str, Callable[[Document], None]] = {
    "attribute": product_attribute,
    "attribute-refused": lambda d: refuses(PolicyError, lambda: policy.Attribute.from_bytes(h(d["bytes"]))),
    "policy": product_policy,
    "policy-refused-text": lambda d: refuses(PolicyError, lambda: policy.parse(d["text"], d["aliases"], d["epoch"])),
    "policy-refused-bytes": lambda d: refuses(PolicyError, lambda: policy.from_canonical(h(d["bytes"]))),
    "day": product_day,
    "days": product_days,
    "days-refused": lambda d: refuses(
        PolicyError,
        lambda: dates.date_range(
            datetime.date.fromisoformat(d["first"]),
            datetime.date.fromisoformat(d["last"]),
            authority=str(uuid.UUID(int=1)),
        ),
    ),
    "pairing": product_pairing,
    "element-refused": lambda d: refuses(
        AbeError, lambda: {"g1": curve.G1, "g2": curve.G2, "gt": curve.GT}[d["group"]].from_bytes(h(d["bytes"]))
    ),
    "rw15": product_rw15,
    "rw15-refused": product_rw15_refused,
    "kp": product_kp,
    "kp-refused": product_kp_refused,
    "key-refused": product_key_refused,
}


# -- our frozen ones, with the second implementation ----------------------------------------------
def second_attribute_from(data: bytes) -> second.Attribute:
    reader = second_policy.Reader(data)
    found = second_policy.read_attribute(reader)
    reader.end()
    return found


def second_parse(d: Document, text: str) -> second_policy.Policy:
    aliases = {alias: uuid.UUID(value) for alias, value in d["aliases"].items()}
    return second_policy.parse(text, aliases, lambda *_: d["epoch"])


def second_attribute(d: Document) -> None:
    one = second.Attribute(uuid.UUID(d["authority"]).bytes, d["name"], d["value"], d["epoch"])
    must(one.encode() == h(d["bytes"]) and second_attribute_from(h(d["bytes"])) == one)


def second_policy_document(d: Document) -> None:
    tree = second_parse(d, d["text"])
    must(second_policy.encode(tree) == h(d["bytes"]) and second_policy.decode(h(d["bytes"])) == tree, "another tree")
    must(second_policy.write(tree, {uuid.UUID(v).bytes: k for k, v in d["aliases"].items()}) == d["written"], "written")
    must(
        [leaf.encode().hex() for leaf in second_policy.leaves(tree)] == d["leaves"]
        and second_policy.depth(tree) == d["depth"]
    )
    held = [second_attribute_from(h(one)) for one in d["held"]]
    for which, answer in d["satisfied"]:
        must(second_policy.satisfied(tree, {held[i] for i in which}) is answer, "another answer")


def second_days(d: Document) -> None:
    values = second_policy.range_values(datetime.date.fromisoformat(d["first"]), datetime.date.fromisoformat(d["last"]))
    leaves = [second.Attribute(uuid.UUID(d["authority"]).bytes, "date", value, d["epoch"]) for value in values]
    tree = leaves[0] if len(leaves) == 1 else second.Gate(1, tuple(leaves))
    must(values == d["values"] and second_policy.encode(tree) == h(d["policy"]))


def second_pairing(d: Document) -> None:
    a, b = int(d["a"], 16), int(d["b"], 16)
    p, q, gt = second.read_g1(h(d["g1"])), second.read_g2(h(d["g2"])), second.read_gt(h(d["gt"]))
    must(arkworks.G1Point() * arkworks.Scalar(a) == p and arkworks.G2Point() * arkworks.Scalar(b) == q, "another point")
    must(second.pairing(p, q) == gt and second.gt_power(second.GENERATOR_T, a * b) == gt)


def second_rw15(d: Document) -> None:
    secrets, publics = {}, {}
    for one in d["authorities"]:
        name = uuid.UUID(one["uuid"]).bytes
        secrets[name] = second.Authority.from_seed(name, h(one["seed"]))
        must(
            secrets[name].encode() == h(one["secret"]) and secrets[name].public() == h(one["public"]),
            "another authority",
        )
        publics[name] = second.AuthorityPublic.decode(h(one["public"]))
    keys = []
    for one in d["keys"]:
        attribute = second_attribute_from(h(one["attribute"]))
        made = secrets[attribute.authority].issue(uuid.UUID(one["gid"]).bytes, attribute, h(one["seed"]))
        must(made.encode() == h(one["bytes"]), "another key")
        keys.append(second.AttributeKey.decode(h(one["bytes"])))
        keys[-1].check(publics[attribute.authority])
    tree = second_policy.decode(h(d["policy"]))
    must(second.rw15_encapsulate(tree, publics, h(d["binding"]), h(d["seed"])) == (h(d["header"]), h(d["key"])))
    must(second.rw15_decapsulate(h(d["header"]), keys, publics, h(d["binding"])) == h(d["key"]), "opens otherwise")


def second_rw15_refused(d: Document) -> None:
    publics = {
        uuid.UUID(one["uuid"]).bytes: second.AuthorityPublic.decode(h(one["public"])) for one in d["authorities"]
    }
    keys = [second.AttributeKey.decode(h(one["bytes"])) for one in d["keys"]]
    refuses(ValueError, lambda: second.rw15_decapsulate(h(d["header"]), keys, publics, h(d["binding"])))


def second_kp(d: Document) -> None:
    patient = second.Patient.from_seed(h(d["patient_seed"]))
    must(patient.encode() == h(d["patient_secret"]) and patient.public() == h(d["patient_public"]), "another patient")
    public = second.PatientPublic.decode(h(d["patient_public"]))
    must(
        patient.issue(second_policy.decode(h(d["policy"])), h(d["issue_seed"])).encode() == h(d["kp_key"]),
        "another key",
    )
    labels = [second_attribute_from(h(label)) for label in d["labels"]]
    must(second.kp_encapsulate(labels, public, h(d["binding"]), h(d["seed"])) == (h(d["header"]), h(d["key"])))
    key = second.DelegatedKey.decode(h(d["kp_key"]))
    must(second.kp_decapsulate(h(d["header"]), key, public, h(d["binding"])) == h(d["key"]), "opens otherwise")


def second_kp_refused(d: Document) -> None:
    public, key = second.PatientPublic.decode(h(d["patient_public"])), second.DelegatedKey.decode(h(d["kp_key"]))
    refuses(ValueError, lambda: second.kp_decapsulate(h(d["header"]), key, public, h(d["binding"])))


SECOND: dict[str, Callable[[Document], None]] = {
    "attribute": second_attribute,
    "attribute-refused": lambda d: refuses(ValueError, lambda: second_attribute_from(h(d["bytes"]))),
    "policy": second_policy_document,
    "policy-refused-text": lambda d: refuses(ValueError, lambda: second_parse(d, d["text"])),
    "policy-refused-bytes": lambda d: refuses(ValueError, lambda: second_policy.decode(h(d["bytes"]))),
    "day": lambda d: must(second_policy.day_values(datetime.date.fromisoformat(d["day"])) == d["values"]),
    "days": second_days,
    "days-refused": lambda d: refuses(
        ValueError,
        lambda: second_policy.range_values(
            datetime.date.fromisoformat(d["first"]), datetime.date.fromisoformat(d["last"])
        ),
    ),
    "pairing": second_pairing,
    "element-refused": lambda d: refuses(
        ValueError,
        lambda: {"g1": second.read_g1, "g2": second.read_g2, "gt": second.read_gt}[d["group"]](h(d["bytes"])),
    ),
    "rw15": second_rw15,
    "rw15-refused": second_rw15_refused,
    "kp": second_kp,
    "kp-refused": second_kp_refused,
    "key-refused": lambda d: refuses(
        ValueError,
        lambda: {
            "authority-secret": second.Authority,
            "authority-public": second.AuthorityPublic,
            "attribute-key": second.AttributeKey,
            "patient-secret": second.Patient,
            "patient-public": second.PatientPublic,
            "kp-key": second.DelegatedKey,
        }[d["what"]].decode(h(d["bytes"])),
    ),
}


def documents() -> list[Document]:
    return [json.loads(path.read_text("utf-8")) for path in sorted((HERE / "abe").glob("*.json"))]


def frozen_checks() -> Iterator[Check]:
    for d in documents():
        yield f"abe/{d['scenario']}, product", lambda d=d: PRODUCT[d["kind"]](d)
        yield f"abe/{d['scenario']}, second", lambda d=d: SECOND[d["kind"]](d)


# -- published ones -------------------------------------------------------------------------------
def _compressed(x: list[int], y: list[int]) -> bytes:
    """The Zcash form of the coordinates in the RFC's files, by the definition and without a curve library."""
    out = bytearray(b"".join(part.to_bytes(48, "big") for part in reversed(x)))
    larger = next((part > curve.P - part for part in reversed(y) if part), False)
    out[0] |= 0xA0 if larger else 0x80
    return bytes(out)


def rfc_9380_checks() -> Iterator[Check]:
    for group, product, other in ((1, curve.hash_to_g1, arkworks.G1Point), (2, curve.hash_to_g2, arkworks.G2Point)):
        path = HERE / "curve" / f"rfc9380_BLS12381G{group}_XMD_SHA-256_SSWU_RO_.json"
        published = json.loads(path.read_text("utf-8"))
        dst = published["dst"].encode()
        for number, one in enumerate(published["vectors"]):
            expected = _compressed(*([int(part, 16) for part in one["P"][axis].split(",")] for axis in "xy"))
            message = one["msg"].encode()
            yield (
                f"RFC 9380 G{group} {number}, product",
                lambda f=product, m=message, d=dst, e=expected: must(f(m, d).to_bytes() == e),
            )
            yield (
                f"RFC 9380 G{group} {number}, second",
                lambda f=other, m=message, d=dst, e=expected: must(f.hash_to_curve(m, d).to_compressed_bytes() == e),
            )


def serialisation_checks(every: int = 1) -> Iterator[Check]:
    """Entry n is n times the generator. Entry 0 is infinity: it has that form, and our reading refuses it."""
    for group, kind, other, read in (
        ("g1", curve.G1, arkworks.G1Point, second.read_g1),
        ("g2", curve.G2, arkworks.G2Point, second.read_g2),
    ):
        published = (HERE / "curve" / f"{group}_compressed_valid_test_vectors.dat").read_bytes()
        size = kind.SIZE
        must(len(published) == 1000 * size, "another file")
        point, point_second = kind.generator(), other()
        for n in range(1000):
            data = published[n * size : (n + 1) * size]
            if n == 0:
                must(data == b"\xc0" + bytes(size - 1), "entry 0 is not infinity")
                yield f"{group} 0, product", lambda d=data, k=kind: refuses(AbeError, lambda: k.from_bytes(d))
                yield f"{group} 0, second", lambda d=data, r=read: refuses(ValueError, lambda: r(d))
                continue
            if n % every == 0:
                yield (
                    f"{group} {n}, product",
                    lambda d=data, k=kind, p=point: must(
                        p.to_bytes() == d and k.from_bytes(d) == p and k.from_bytes(d).to_bytes() == d
                    ),
                )
                yield (
                    f"{group} {n}, second",
                    lambda d=data, r=read, p=point_second: must(p.to_compressed_bytes() == d and r(d) == p),
                )
            point, point_second = point + kind.generator(), point_second + other()


# -- the other formats ----------------------------------------------------------------------------
def sealed_checks() -> Iterator[Check]:
    """Containers and envelopes, with the second implementations that stand in their tests."""
    book = importlib.import_module("tests.unit.crypto.test_container_vectors")
    for path in book.VECTORS:
        yield f"container/{path.stem}, both", lambda p=path: book.test_frozen_container_still_has_its_outcome(p)

    def load(name: str) -> Document:
        return json.loads((HERE / "envelope" / f"{name}.json").read_text("utf-8"))  # type: ignore[no-any-return]

    hybrid, other, wrap, derived = load("hybrid"), load("hybrid-other-context"), load("wrap"), load("derive")
    ring, recovery = load("ring-password"), load("ring-recovery")
    yield (
        "envelope/hybrid, product",
        lambda: must(
            envelope.open_with(h(hybrid["private"]), h(hybrid["sealed"]), context=h(hybrid["context"]))
            == h(hybrid["secret"])
        ),
    )
    yield (
        "envelope/hybrid, second",
        lambda: must(
            second_sealed.open_envelope(h(hybrid["private"]), h(hybrid["sealed"]), h(hybrid["context"]))
            == h(hybrid["secret"])
        ),
    )
    yield (
        "envelope/hybrid-other-context, product",
        lambda: refuses(
            EnvelopeError,
            lambda: envelope.open_with(h(other["private"]), h(other["sealed"]), context=h(other["context"])),
        ),
    )
    yield (
        "envelope/hybrid-other-context, second",
        lambda: refuses(
            ValueError,
            lambda: second_sealed.open_envelope(h(other["private"]), h(other["sealed"]), h(other["context"])),
        ),
    )
    yield (
        "envelope/wrap, second",
        lambda: must(second_sealed.unwrap(h(wrap["key"]), h(wrap["wrapped"]), h(wrap["context"])) == h(wrap["secret"])),
    )
    yield (
        "envelope/derive, second",
        lambda: must(second_sealed.derive(h(derived["secret"]), derived["label"]) == h(derived["key"])),
    )
    yield (
        "envelope/wrap, product",
        lambda: must(
            envelope.unwrap(h(wrap["key"]), h(wrap["wrapped"]), context=h(wrap["context"])) == h(wrap["secret"])
        ),
    )
    yield (
        "envelope/derive, product",
        lambda: must(envelope.derive(h(derived["secret"]), derived["label"]) == h(derived["key"])),
    )
    yield (
        "envelope/ring-password, product",
        lambda: must(
            passwords.unwrap_ring(ring["password"], h(ring["wrapped"]), context=h(ring["context"])) == h(ring["ring"])
        ),
    )
    yield (
        "envelope/ring-recovery, product",
        lambda: must(
            passwords.unwrap_by_recovery(recovery["code"], h(recovery["wrapped"]), context=h(recovery["context"]))
            == h(recovery["ring"])
        ),
    )


# -- compartments ---------------------------------------------------------------------------------
REFUSED_BY_THE_PRODUCT = (PortalError, ValueError)


def compartment_documents() -> list[Document]:
    """The content of each file, with `scenario`, `expect`, `row` and perhaps `of` out of its text header."""
    found = []
    for path in sorted((HERE / "compartment").glob("*.vector")):
        head, _, body = path.read_text("utf-8").partition("\n\n")
        found.append(json.loads(body) | dict(line.split(": ", 1) for line in head.splitlines()))
    return found


def compartment_check(
    side: Any, refused: type[Exception] | tuple[type[Exception], ...], d: Document, every: int = 1
) -> None:
    """One file with one implementation, a module with `ROWS`; of a field that is changed byte by byte every n-th."""
    row = side.ROWS[d["row"]]
    if d["expect"] == "refused":
        refuses(refused, lambda: row(d))
        return
    must(row(d) == d["opens_to"], "opens otherwise")
    if d["expect"] != "refused-each-byte":
        return
    whole = h(d[d["of"]])
    for at in range(0, len(whole), every):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        bad = d | {d["of"]: changed.hex()}
        refuses(refused, lambda bad=bad: row(bad))
        if d["of"] == "header":  # and if there were no signature, its key would open nothing
            refuses(refused, lambda bad=bad: side.under(h(d["opens_to"]["secret"]), bad, h(bad["header"])))


def compartment_checks() -> Iterator[Check]:
    for d in compartment_documents():
        yield (
            f"compartment/{d['scenario']}, product",
            lambda d=d: compartment_check(product_compartment, REFUSED_BY_THE_PRODUCT, d),
        )
        yield f"compartment/{d['scenario']}, second", lambda d=d: compartment_check(second_compartment, ValueError, d)


# -- identity keys, statements, requests, certificates --------------------------------------------
def loaded(folder: str, name: str) -> Document:
    return json.loads((HERE / folder / f"{name}.json").read_text("utf-8"))  # type: ignore[no-any-return]


def each_byte_refused(
    error: type[Exception] | tuple[type[Exception], ...], data: bytes, read: Callable[[bytes], object]
) -> None:
    """Every byte changed, one cut off, one more, none at all."""
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        refuses(error, lambda changed=changed: read(changed))
    for other in (data[:-1], data + b"\0", b""):
        refuses(error, lambda other=other: read(other))


def product_ring(private: bytes) -> KeyRing:
    return KeyRing(KeyPair.from_private(private))


def product_identity_keys(d: Document, wrapped: bytes) -> dict[str, bytes]:
    keys = unwrap_keys(product_ring(h(d["ring_private"])), d["gid"], wrapped)
    return {"signing": keys.signing, "authority": keys.authority, "key_policy": keys.key_policy, "labels": keys.labels}


def product_pending_ring(d: Document, sealed: bytes) -> bytes:
    row_id, _, ring_key = parts_of_cookie(d["cookie"]) or ("", b"", b"")
    row = PendingSignIn(id=row_id, sealed_ring=sealed)
    return Pending(Account(), row, ring_key).ring().private_key


def product_totp(d: Document, sealed: bytes) -> str:
    parts: Any = SimpleNamespace(keys=SimpleNamespace(passcode_key=h(d["passcode_key"])))
    return second_factor._secret_of(parts, Totp(account_id=d["account"], sealed_secret=sealed))


def identity_checks() -> Iterator[Check]:
    keys, pending, app = (loaded("identity", name) for name in ("keys-version2", "pending-ring", "totp"))
    of_keys = {name: h(keys[name]) for name in ("signing", "authority", "key_policy", "labels")}
    for name, sealed, expected, product, second_reads in (
        (
            "keys-version2",
            h(keys["wrapped"]),
            of_keys,
            lambda data: product_identity_keys(keys, data),
            lambda data: second_identity.identity_keys(h(keys["ring_private"]), keys["gid"], data),
        ),
        (
            "pending-ring",
            h(pending["sealed_ring"]),
            h(pending["ring_private"]),
            lambda data: product_pending_ring(pending, data),
            lambda data: second_identity.pending_ring(pending["cookie"], data, pending["token_sha256"]),
        ),
        (
            "totp",
            h(app["sealed_secret"]),
            app["secret"],
            lambda data: product_totp(app, data),
            lambda data: second_identity.totp_secret(h(app["passcode_key"]), app["account"], data),
        ),
    ):
        for side, read, error in (("product", product, PortalError), ("second", second_reads, ValueError)):
            yield f"identity/{name}, {side}", lambda r=read, s=sealed, e=expected: must(r(s) == e, "opens otherwise")
            yield f"identity/{name} changed, {side}", lambda r=read, s=sealed, e=error: each_byte_refused(e, s, r)
    elsewhere = keys | {"gid": app["account"]}
    yield (
        "identity/keys of another GID, product",
        lambda: refuses(PortalError, lambda: product_identity_keys(elsewhere, h(keys["wrapped"]))),
    )
    yield (
        "identity/keys of another GID, second",
        lambda: refuses(
            ValueError,
            lambda: second_identity.identity_keys(h(keys["ring_private"]), app["account"], h(keys["wrapped"])),
        ),
    )
    yield (
        "identity/codes, product",
        lambda: must(all(pyotp.TOTP(app["secret"]).at(int(at)) == code for at, code in app["codes"].items())),
    )
    yield (
        "identity/codes, second",
        lambda: must(all(second_identity.code(app["secret"], int(at)) == code for at, code in app["codes"].items())),
    )


def signed_checks() -> Iterator[Check]:
    v, order = loaded("keyholder", "version1"), loaded("keyholder", "destroy-order")
    public, at, gid, other = h(v["public_key"]), v["at"], v["gid"], v["other"]
    key, now = certificates.public_key_from_bytes(public), datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
    epochs = {("role", "cardiologist"): 3, ("owner", ""): 1, ("role", "nurse"): 2**32 - 1}

    def product_request(data: bytes) -> proofs.Request:
        found = proofs.read_request(data)
        found.check_signature(key)
        return found

    for name, data, product, by_product, second_reads, by_second in (
        (
            "key_statement",
            h(v["key_statement"]),
            lambda data: statements.read_key_statement(data, key, gid),
            KeyStatement(gid, at, b"hpke" * 10, b"authority" * 5, b""),
            second_signed.key_statement,
            {"gid": gid, "at": at, "hpke": b"hpke" * 10, "authority": b"authority" * 5, "key_policy": b""},
        ),
        (
            "authority_statement",
            h(v["authority_statement"]),
            lambda data: statements.read_authority_statement(data, key, gid),
            AuthorityStatement(gid, at, b"public" * 20, b"s" * 65),
            second_signed.authority_statement,
            {"gid": gid, "at": at, "public": b"public" * 20, "signing_public": b"s" * 65},
        ),
        (
            "epoch_table",
            h(v["epoch_table"]),
            lambda data: statements.read_epoch_table(data, key, gid),
            EpochTable(gid, 7, at, epochs),
            second_signed.epoch_table,
            {"gid": gid, "version": 7, "at": at, "epochs": epochs},
        ),
        (
            "holding",
            h(v["holding"]),
            lambda data: statements.read_holding(data, key),
            Holding(gid, other, "role", "cardiologist", at),
            second_signed.holding,
            {"authority": gid, "member": other, "at": at, "name": "role", "value": "cardiologist"},
        ),
        (
            "destroy_order",
            h(order["destroy_order"]),
            lambda data: statements.read_destroy_order(data, key),
            DestroyOrder(order["owner"], order["compartment"], order["before"]),
            second_signed.destroy_order,
            {name: order[name] for name in ("owner", "compartment", "before")},
        ),
    ):
        both = (
            ("product", product, by_product, CertificateRefused),
            ("second", lambda data, read=second_reads: read(data, public), by_second, ValueError),
        )
        for side, read, expected, error in both:
            yield f"keyholder/{name}, {side}", lambda r=read, d=data, e=expected: must(r(d) == e, "says otherwise")
            yield f"keyholder/{name} changed, {side}", lambda r=read, d=data, e=error: each_byte_refused(e, d, r)
    request, nonce, der = h(v["request"]), h(v["nonce"]), h(v["certificate"])
    said = {
        "arguments": {"block": ["gid", other], "compartment": None},
        "call": "vault.block",
        "gid": gid,
        "keyholder": other,
        "nonce": nonce,
        "time": at,
        "certificate": der,
    }
    yield (
        "keyholder/request, product",
        lambda: must({name: getattr(product_request(request), name) for name in said} == said, "says otherwise"),
    )
    yield "keyholder/request, second", lambda: must(second_signed.request(request, public) == said, "says otherwise")
    for part, begin, end in (("front and proof", 0, 4), ("what is said", 4 + len(der), len(request))):
        for side, error, read in (
            ("product", PortalError, product_request),
            ("second", ValueError, lambda data: second_signed.request(data, public)),
        ):
            yield (
                f"keyholder/request changed in {part}, {side}",
                lambda b=begin, n=end, e=error, r=read: [
                    refuses(e, lambda at=at: r(request[:at] + bytes([request[at] ^ 1]) + request[at + 1 :]))
                    for at in range(b, n)
                ],
            )
    chain = Chain(h(v["root"]), (h(v["intermediate"]),), (h(v["crl"]), h(v["root_crl"])))
    later = now + datetime.timedelta(days=1, minutes=5)

    def product_certificate(data: bytes, when: datetime.datetime = now) -> tuple[str, bytes]:
        found = certificates.validate(data, chain, when)
        return found.gid, certificates.public_key_bytes(found.public_key)

    def second_certificate(data: bytes, when: datetime.datetime = now) -> tuple[str, bytes]:
        return second_signed.chained(data, [h(v["intermediate"]), h(v["root"])], [h(v["crl"]), h(v["root_crl"])], when)

    for side, read_one, error in (
        ("product", product_certificate, CertificateRefused),
        ("second", second_certificate, ValueError),
    ):
        yield f"keyholder/certificate, {side}", lambda r=read_one: must(r(der) == (gid, public), "says otherwise")
        yield f"keyholder/certificate changed, {side}", lambda r=read_one, e=error: each_byte_refused(e, der, r)
        yield (
            f"keyholder/certificate a day later, {side}",
            lambda r=read_one, e=error: refuses(e, lambda: r(der, later)),
        )


GROUPS: dict[str, Callable[[], Iterator[Check]]] = {
    "RFC 9380": rfc_9380_checks,
    "Zcash serialisation": serialisation_checks,
    "frozen, attribute-based sharing": frozen_checks,
    "frozen, containers and envelopes": sealed_checks,
    "frozen, identity keys": identity_checks,
    "frozen, statements and certificates": signed_checks,
    "frozen, compartments": compartment_checks,
}


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    curve.self_test()
    ok = total = 0
    for title, checks in GROUPS.items():
        passed = count = 0
        for name, check in checks():
            count += 1
            try:
                check()
                passed += 1
            except Exception as error:
                print(f"failed: {name}: {type(error).__name__}: {error}")
        print(f"{title}: {passed}/{count}")
        ok, total = ok + passed, total + count
    print(f"vectors: {ok}/{total}")
    return 0 if ok == total else 1


if __name__ == "__main__":
    sys.exit(main())
