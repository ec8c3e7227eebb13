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
from typing import Any

import py_arkworks_bls12381 as arkworks

from myphr.crypto import envelope, passwords
from myphr.crypto.abe import curve, dates, key_policy, multi_authority, policy
from myphr.errors import AbeError, EnvelopeError, PolicyError
from tests.vectors.abe_second import policy as second_policy
from tests.vectors.abe_second import schemes as second

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
    by_the_book = importlib.import_module("tests.unit.crypto.test_envelope").open_by_the_book
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
            by_the_book(h(hybrid["private"]), h(hybrid["sealed"]), h(hybrid["context"])) == h(hybrid["secret"])
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


GROUPS: dict[str, Callable[[], Iterator[Check]]] = {
    "RFC 9380": rfc_9380_checks,
    "Zcash serialisation": serialisation_checks,
    "frozen, attribute-based sharing": frozen_checks,
    "frozen, containers and envelopes": sealed_checks,
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
