"""The second implementation's own ground: its arithmetic in GT against py_ecc and the definition, and that it opens
what it makes and nothing else. The product is compared with it by `make vectors` and in test_second_agrees.py."""

import hashlib
import random
import uuid

import pytest
from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar
from py_ecc import optimized_bls12_381 as py_ecc

from tests.vectors.abe_second import policy as policies
from tests.vectors.abe_second import schemes
from tests.vectors.abe_second.tower import CYCLOTOMIC_ORDER, ONE, ORDER, Fp12, P, gt_power, in_gt

RNG = random.Random("second implementation")
ALIASES = {name: uuid.UUID(int=number) for number, name in enumerate(("hospital", "patient", "registrar"), 1)}
GID = uuid.UUID(int=77).bytes


def policy_of(text):
    return policies.parse(text, ALIASES, lambda *_: 5)


def some_gt():
    return Fp12.from_arkworks(GT.pairing(G1Point() * Scalar(RNG.randrange(1, ORDER)), G2Point()))


def test_the_pairing_is_the_one_that_the_page_names():
    raw = schemes.write_gt(schemes.GENERATOR_T)
    assert raw.hex().startswith("1250ebd871fc0a92")
    assert hashlib.sha256(raw).hexdigest() == "4bb3f049849e856bd6879346f3978c28b031a407701c01ebb19d74a35c645520"


def test_py_ecc_pairs_to_another_power_as_the_page_says():
    theirs = py_ecc.pairing(py_ecc.G2, py_ecc.G1) ** (ORDER - 3)
    assert schemes.GENERATOR_T._powers() == [int(value) for value in theirs.coeffs]


def test_products_agree_with_py_ecc():
    for _ in range(5):
        one, other = some_gt(), Fp12.from_coordinates([RNG.randrange(P) for _ in range(12)])
        theirs = py_ecc.FQ12(one._powers()) * py_ecc.FQ12(other._powers())
        assert (one * other)._powers() == [int(value) for value in theirs.coeffs]


def test_powers_in_gt_are_the_powers_of_the_field():
    element = some_gt()
    for exponent in (0, 1, 2, ORDER - 1, RNG.randrange(ORDER)):
        assert gt_power(element, exponent) == element**exponent
    assert gt_power(element, -1) * element == ONE == gt_power(element, ORDER)
    assert element.to_the_p() == element**P


def test_only_elements_of_the_right_order_are_in_gt():
    anything = Fp12.from_coordinates([RNG.randrange(P) for _ in range(12)])
    cyclotomic = anything.conjugate() * anything ** (P**12 - 2)
    cyclotomic = cyclotomic.to_the_p().to_the_p() * cyclotomic
    assert cyclotomic**CYCLOTOMIC_ORDER == ONE
    assert in_gt(some_gt())
    for element in (anything, cyclotomic, ONE, Fp12(0), Fp12.from_coordinates([P - 1] + [0] * 11)):
        assert not in_gt(element)


def test_elements_of_gt_are_read_strictly():
    raw = schemes.write_gt(some_gt())
    assert schemes.write_gt(schemes.read_gt(raw)) == raw
    first = int.from_bytes(raw[:48], "big")
    for bad in (raw[:-1], raw + b"\0", bytes(576), (first + P).to_bytes(48, "big") + raw[48:], raw[48:] + raw[:48]):
        with pytest.raises(ValueError):
            schemes.read_gt(bad)


def test_infinity_and_points_off_the_subgroup_are_refused():
    for read, size in ((schemes.read_g1, 48), (schemes.read_g2, 96)):
        for bad in (b"\xc0" + bytes(size - 1), bytes(size), b"\x80" + bytes(size - 1), b"\xff" * size):
            with pytest.raises(ValueError):
                read(bad)


@pytest.fixture(scope="module")
def world():
    authorities = {name: schemes.Authority.from_seed(value.bytes, bytes([value.int]) * 32)
                   for name, value in ALIASES.items()}
    publics = [schemes.AuthorityPublic.decode(authority.public()) for authority in authorities.values()]
    by_name = {authority.name: authority for authority in authorities.values()}
    return by_name, {public.name: public for public in publics}


def keys_for(world, attributes, gid=GID):
    return [world[0][attribute.authority].issue(gid, attribute, bytes(32)) for attribute in attributes]


def test_it_opens_what_it_makes_and_refuses_every_other_binding_and_person(world):
    policy = policy_of("2 of (role:nurse@hospital AND consent@patient, owner@patient, emergency@registrar)")
    nurse, consent, owner, emergency = policies.leaves(policy)
    header, key = schemes.rw15_encapsulate(policy, world[1], b"item", bytes(32))
    for held in ([nurse, consent, owner], [owner, emergency], [nurse, consent, emergency, owner]):
        assert schemes.rw15_decapsulate(header, keys_for(world, held), world[1], b"item") == key
    for held in ([nurse, owner], [emergency], [nurse, consent]):
        with pytest.raises(ValueError):
            schemes.rw15_decapsulate(header, keys_for(world, held), world[1], b"item")
    for attribute_key in keys_for(world, [nurse, consent]):
        attribute_key.check(world[1][attribute_key.attribute.authority])
    with pytest.raises(ValueError):
        schemes.rw15_decapsulate(header, keys_for(world, [owner, emergency]), world[1], b"another item")


def test_a_delegated_key_opens_the_records_that_its_policy_takes():
    patient = schemes.Patient.from_seed(bytes(32))
    public = schemes.PatientPublic.decode(patient.public())
    policy = policy_of("2 of (type:lab@patient, year:2024@patient, type:lab@patient)")
    lab, year, _ = policies.leaves(policy)
    key = patient.issue(policy, b"\1" * 32)
    assert schemes.DelegatedKey.decode(key.encode()) == key
    header, secret = schemes.kp_encapsulate([lab], public, b"record", bytes(32))
    assert schemes.kp_decapsulate(header, key, public, b"record") == secret
    header, _ = schemes.kp_encapsulate([year], public, b"record", bytes(32))
    with pytest.raises(ValueError):
        schemes.kp_decapsulate(header, key, public, b"record")


def test_a_changed_proof_of_possession_is_refused(world):
    raw = next(iter(world[1].values())).encoded
    for at in (12, len(raw) - 1, len(raw) - 40, len(raw) - 80):
        with pytest.raises(ValueError):
            schemes.AuthorityPublic.decode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
