"""The two schemes as the product uses them, over random small instances: a set of people opens a header in a generic
group exactly if one of them alone (with the corrupted authorities) satisfies the policy. And: the checker itself finds
each known fault. See tests/generic_group.py for what this shows and what it does not."""

import functools
import random
import uuid

import pytest

from myphr.crypto.abe import policy as product_policy
from myphr.crypto.abe import shares
from tests.generic_group import (
    ORDER,
    FabeoFault,
    Gate,
    Leaf,
    Person,
    Rw15Fault,
    Variables,
    fabeo_instance,
    in_span,
    leaves,
    number,
    rw15_instance,
    rw15_view,
    satisfied,
    shamir_rows,
    times,
    total,
)
from tests.vectors.abe_second import policy as second_policy
from tests.vectors.abe_second import schemes as second_schemes

INSTANCES = 2000  # of each scheme and each share matrix


def by_the_page(policy):
    """The matrix of the second implementation, which is that of docs/formats/abe.md."""

    def translated(node):
        if isinstance(node, Leaf):
            return second_policy.Attribute(bytes(16), node.attribute.replace("@", "."), "", 0)
        return second_policy.Gate(node.needed, tuple(map(translated, node.inputs)))

    matrix = second_schemes.share_matrix(translated(policy))
    return [(leaf, row) for leaf, (_, row) in zip(leaves(policy), matrix, strict=True)]


class OneDraw:
    """Draws that are zero, all but one."""

    def __init__(self, one):
        self.one, self.count = one, 0

    def draw(self):
        self.count += 1
        return int(self.count - 1 == self.one)


def of_the_product(policy):
    """The matrix that the product's own sharing amounts to: what it makes of unit vectors."""

    def translated(node):
        if isinstance(node, Leaf):
            return product_policy.Attribute(str(uuid.UUID(int=0)), node.attribute.replace("@", "."), "", 0)
        if len(node.inputs) == 1:
            return translated(node.inputs[0])
        return product_policy.at_least(node.needed, tuple(map(translated, node.inputs)))

    tree, counting = translated(policy), OneDraw(None)
    columns = [shares.share(tree, 1, counting)]
    columns += [shares.share(tree, 0, OneDraw(one)) for one in range(counting.count)]
    return [(leaf, row) for leaf, row in zip(leaves(policy), zip(*columns, strict=True), strict=True)]


SHARE_MATRICES = {"by the papers": shamir_rows, "by the page": by_the_page, "of the product": of_the_product}
FAULTS_RW15 = (
    "one_hash", "no_zero_shares", "zero_shares_reuse_vector", "gid_ignored", "key_not_randomised", "one_t_per_header",
    "attribute_ignored",
)
FAULTS_FABEO = ("no_repetition_index", "one_r_for_all_keys", "one_patient_for_all", "label_ignored")
FAULTS_SHARING = {"AND gives the whole to one input": {"whole_to_one_input": True}, "k-of-n by k-1": {"lost_degree": 1}}


OPENS_TOO_MUCH, OPENS_TOO_LITTLE = (False, True), (True, False)  # (should open, opens)


def found(kind, instance, **faulty):
    """Whether one of the instances that every run looks at shows the fault."""
    return any(instance(seed, **faulty) == kind for seed in range(INSTANCES))


@pytest.mark.parametrize("matrix", SHARE_MATRICES)
@pytest.mark.parametrize("instance", [rw15_instance, fabeo_instance])
def test_a_header_opens_exactly_for_one_person_who_satisfies_the_policy(instance, matrix):
    seen = [instance(seed, share_matrix=SHARE_MATRICES[matrix]) for seed in range(INSTANCES)]
    assert [seed for seed, (should, does) in enumerate(seen) if should != does] == []
    assert all(seen.count(pair) > INSTANCES / 5 for pair in ((True, True), (False, False)))  # both are asked for often


@pytest.mark.parametrize("fault", FAULTS_RW15)
def test_the_checker_finds_a_faulty_rouselakis_waters(fault):
    assert found(OPENS_TOO_MUCH, rw15_instance, fault=Rw15Fault(**{fault: True}))


@pytest.mark.parametrize("fault", FAULTS_FABEO)
def test_the_checker_finds_a_faulty_fabeo(fault):
    assert found(OPENS_TOO_MUCH, fabeo_instance, fault=FabeoFault(**{fault: True}))


@pytest.mark.parametrize("fault", FAULTS_SHARING)
@pytest.mark.parametrize("instance", [rw15_instance, fabeo_instance])
def test_the_checker_finds_faulty_sharing(instance, fault):
    faulty = functools.partial(shamir_rows, **FAULTS_SHARING[fault])
    assert found(OPENS_TOO_MUCH, instance, share_matrix=faulty)


@pytest.mark.parametrize("fault", ["zero_shares_not_of_zero", "zero_shares_reuse_secret"])
def test_the_checker_finds_a_scheme_that_those_who_may_cannot_open(fault):
    assert found(OPENS_TOO_LITTLE, rw15_instance, fault=Rw15Fault(**{fault: True}))


def test_one_hash_for_gid_and_attribute_lets_two_people_pool():
    """The attack that opens a library's version, spelt out: each of two people is called as the attribute they hold."""
    policy = Gate(2, (Leaf("hospital", "a@hospital"), Leaf("patient", "b@patient")))
    pool = [Person("a@hospital", frozenset({"a@hospital"})), Person("b@patient", frozenset({"b@patient"}))]
    rows, nobody = shamir_rows(policy), frozenset()
    assert rw15_view(rows, pool, nobody, random.Random(1), Rw15Fault(one_hash=True)).opens()
    assert not rw15_view(rows, pool, nobody, random.Random(1)).opens()
    assert not any(satisfied(policy, person.attributes) for person in pool)


def test_the_span_is_computed_over_the_order_of_the_group():
    variable = Variables()
    x, y = variable("x"), variable("y")
    rows = [total(x, y), total(x, times(number(2), y))]
    assert in_span(y, rows) and in_span(x, rows) and in_span({}, rows)
    assert not in_span(times(x, y), rows)
    assert not in_span(x, [total(x, y), times(number(7), total(x, y))])
    assert in_span(x, [times(number(ORDER - 1), x)]) and not in_span(x, [times(number(ORDER), x)])
