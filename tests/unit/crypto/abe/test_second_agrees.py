"""The product and the second implementation, on random policies, people and seeds: the same keys, headers and public
values byte for byte, and each opens what the other made exactly when the plain boolean evaluator says so."""

import random
import uuid

import pytest

from myphr.crypto.abe import key_policy, multi_authority, policy
from myphr.errors import AbeNotSatisfied
from tests.vectors.abe_second import policy as second_policy
from tests.vectors.abe_second import schemes as second

AUTHORITIES = [str(uuid.UUID(int=0xC0 + number, version=4)) for number in range(3)]
SECRETS = {name: multi_authority.new_authority(name, seed=bytes([number]) * 32)
           for number, name in enumerate(AUTHORITIES)}
PUBLICS = {name: secret.public for name, secret in SECRETS.items()}
SECOND_SECRETS = {uuid.UUID(name).bytes: second.Authority.from_seed(uuid.UUID(name).bytes, bytes([number]) * 32)
                  for number, name in enumerate(AUTHORITIES)}
POOL = [policy.Attribute(name, kind, value, 9) for name in AUTHORITIES for kind, value in (("a", ""), ("b", "c-1"))]
POLICIES = 12


def random_policy(rng, leaves):
    if leaves == 1:
        return rng.choice(POOL)
    width = rng.randint(2, min(leaves, 4))
    cuts = sorted(rng.sample(range(1, leaves), width - 1))
    sizes = [end - start for start, end in zip([0, *cuts], [*cuts, leaves], strict=True)]
    return policy.at_least(rng.randint(1, width), [random_policy(rng, size) for size in sizes])


def truly(tree, held):
    """The plain boolean evaluator."""
    if isinstance(tree, policy.Attribute):
        return tree in held
    return [truly(child, held) for child in tree.children].count(True) >= tree.k


def translated(attribute):
    return second_policy.read_attribute(second_policy.Reader(attribute.to_bytes()))


@pytest.fixture(scope="module")
def second_publics():
    return {name: second.AuthorityPublic.decode(secret.public()) for name, secret in SECOND_SECRETS.items()}


def test_secrets_and_public_values_are_the_same_bytes(second_publics):
    for name, secret in SECRETS.items():
        other = SECOND_SECRETS[uuid.UUID(name).bytes]
        assert secret.to_bytes() == other.encode()
        assert secret.public.to_bytes() == other.public() == second_publics[other.name].encoded
        assert multi_authority.AuthorityPublic.from_bytes(other.public()).to_bytes() == other.public()
        multi_authority.check_public(multi_authority.AuthorityPublic.from_bytes(other.public()), name)
    patient, other = key_policy.new_patient(seed=b"\5" * 32), second.Patient.from_seed(b"\5" * 32)
    assert (patient.to_bytes(), patient.public.to_bytes()) == (other.encode(), other.public())


@pytest.mark.parametrize("number", range(POLICIES))
def test_rw15_is_the_same_and_opens_for_the_same_people(number, second_publics):
    rng = random.Random(f"rw15 {number}")
    tree, seed, gid = random_policy(rng, rng.randint(1, 6)), rng.randbytes(32), str(uuid.UUID(int=rng.getrandbits(128)))
    other_tree = second_policy.decode(policy.canonical(tree))
    key, header = multi_authority.encapsulate(tree, PUBLICS, binding=b"here", seed=seed)
    assert second.rw15_encapsulate(other_tree, second_publics, b"here", seed) == (header, key)
    held = [attribute for attribute in POOL if rng.random() < 0.6]
    seeds = {attribute: rng.randbytes(32) for attribute in held}
    keys = [multi_authority.issue(SECRETS[one.authority], gid, one, seed=seeds[one]) for one in held]
    others = [SECOND_SECRETS[uuid.UUID(one.authority).bytes].issue(
        uuid.UUID(gid).bytes, translated(one), seeds[one]) for one in held]
    assert [one.to_bytes() for one in keys] == [one.encode() for one in others]
    if truly(tree, held):
        assert multi_authority.decapsulate(header, keys, PUBLICS, binding=b"here") == key
        assert second.rw15_decapsulate(header, others, second_publics, b"here") == key
    else:
        with pytest.raises(AbeNotSatisfied):
            multi_authority.decapsulate(header, keys, PUBLICS, binding=b"here")
        with pytest.raises(ValueError):
            second.rw15_decapsulate(header, others, second_publics, b"here")


@pytest.mark.parametrize("number", range(POLICIES))
def test_fabeo_is_the_same_and_opens_the_same_records(number):
    rng = random.Random(f"fabeo {number}")
    patient, other = key_policy.new_patient(seed=b"\5" * 32), second.Patient.from_seed(b"\5" * 32)
    other_public = second.PatientPublic.decode(other.public())
    tree, seed, issue_seed = random_policy(rng, rng.randint(1, 8)), rng.randbytes(32), rng.randbytes(32)
    labels = [label for label in POOL if rng.random() < 0.6] or POOL[:1]
    key, header = key_policy.encapsulate(labels, patient.public, binding=b"here", seed=seed)
    other_labels = [translated(label) for label in labels]
    assert second.kp_encapsulate(other_labels, other_public, b"here", seed) == (header, key)
    delegated = key_policy.issue(patient, tree, seed=issue_seed)
    other_delegated = other.issue(second_policy.decode(policy.canonical(tree)), issue_seed)
    assert delegated.to_bytes() == other_delegated.encode()
    if truly(tree, labels):
        assert key_policy.decapsulate(header, delegated, patient.public, binding=b"here") == key
        assert second.kp_decapsulate(header, other_delegated, other_public, b"here") == key
    else:
        with pytest.raises(AbeNotSatisfied):
            key_policy.decapsulate(header, delegated, patient.public, binding=b"here")
        with pytest.raises(ValueError):
            second.kp_decapsulate(header, other_delegated, other_public, b"here")
