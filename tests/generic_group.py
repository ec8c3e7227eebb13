"""Generic-group checker: what a set of colluding people can compute from a header, decided by linear algebra.

**What it decides.** In a generic bilinear group of Type III an adversary can only add what it has in G1, G2 and GT,
and multiply once, one element of G1 by one of G2. Write each element it holds by its discrete logarithm, a polynomial
in the secrets that were drawn at random (alpha, y, t, s, ..., and one variable per answer of a hash oracle). What it
can reach in GT is then the span of {p * q : p in G1, q in G2} and its GT elements, with numbers for coefficients, and
the header's key is within reach exactly if the target polynomial lies in that span.

**Why the answer is sound.** Monomials are kept exactly (no random evaluation), over the field of the real group order,
with the real coefficients of the share matrix: "in the span" comes with the combination that computes the key. If the
target is not in the span, a generic adversary of q steps tells the key from random with a chance of at most about
q**2 * degree / r (Boneh, Boyen, Goh 2005, theorem A.2), below 2**-200 at a million steps. Corrupted authorities are
numbers instead of variables, because the adversary knows them; they are random numbers of 255 bits, so that one that
happens to change a rank is as unlikely.

**What it does not prove.** It is one instance at a time (a policy, some people, some corrupted authorities), not a
proof for all; it knows nothing of attacks on the curve itself, on the hash to the curve, on encodings, on the key
derivation, or of chosen-ciphertext attacks (those meet the re-encryption check); it sees one header, honestly made;
authorities' public keys are either honest or belong to someone who knows the secret behind them (hence the proof of
possession).

Tests only. Knows the schemes from the papers, not from the product.
"""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001  # r of BLS12-381

Polynomial = dict[int, int]  # monomial -> coefficient mod ORDER; a monomial packs 3 bits of exponent per variable


# ---------------------------------------------------------------------------------------------------- policies
@dataclasses.dataclass(frozen=True)
class Leaf:
    """`attribute` is the whole name, its authority included."""

    authority: str
    attribute: str


@dataclasses.dataclass(frozen=True)
class Gate:
    """At least `needed` of `inputs`: 1 is OR, all is AND."""

    needed: int
    inputs: "tuple[Leaf | Gate, ...]"


Policy = Leaf | Gate
Row = tuple[Leaf, Sequence[int]]
ShareMatrix = Callable[[Policy], list[Row]]


def satisfied(policy: Policy, attributes: Iterable[str]) -> bool:
    """The plain boolean evaluator: the truth that everything else is compared with."""
    held = set(attributes)

    def true(node: Policy) -> bool:
        if isinstance(node, Leaf):
            return node.attribute in held
        return sum(true(child) for child in node.inputs) >= node.needed

    return true(policy)


def leaves(policy: Policy) -> list[Leaf]:
    if isinstance(policy, Leaf):
        return [policy]
    return [leaf for child in policy.inputs for leaf in leaves(child)]


def shamir_rows(policy: Policy, lost_degree: int = 0, whole_to_one_input: bool = False) -> list[Row]:
    """The share matrix: row times (secret, v1, v2, ...) is the leaf's share. Each gate shares its own value with a
    fresh polynomial of degree needed-1, its i-th input (from 1) getting the value at i.

    The two options are faults for the checker to find: `lost_degree` takes that much off each degree (k-of-n opens with
    fewer), `whole_to_one_input` gives an AND's first input the whole value and the others shares of zero.
    """
    fresh = [1]  # column 0 is the secret

    def share(node: Policy, value: dict[int, int]) -> list[tuple[Leaf, dict[int, int]]]:
        if isinstance(node, Leaf):
            return [(node, value)]
        if whole_to_one_input and node.needed == len(node.inputs) > 1:
            first, *others = node.inputs
            return share(first, value) + [row for child in others for row in share(child, {})]
        degree = max(0, node.needed - 1 - lost_degree)
        columns = range(fresh[0], fresh[0] + degree)
        fresh[0] += degree
        rows = []
        for point, child in enumerate(node.inputs, 1):
            rows += share(child, value | {column: pow(point, power, ORDER) for power, column in enumerate(columns, 1)})
        return rows

    return [(leaf, [row.get(column, 0) for column in range(fresh[0])]) for leaf, row in share(policy, {0: 1})]


# ------------------------------------------------------------------------------------------------- polynomials
class Variables:
    """Gives each name a variable, the same for the same name."""

    def __init__(self) -> None:
        self._shift: dict[object, int] = {}

    def __call__(self, *name: object) -> Polynomial:
        return {1 << 3 * self._shift.setdefault(name, len(self._shift)): 1}


ONE: Polynomial = {0: 1}


def number(value: int) -> Polynomial:
    return {0: value % ORDER} if value % ORDER else {}


def total(*terms: Polynomial) -> Polynomial:
    out: dict[int, int] = defaultdict(int)
    for term in terms:
        for monomial, coefficient in term.items():
            out[monomial] += coefficient
    return {monomial: value % ORDER for monomial, value in out.items() if value % ORDER}


def times(left: Polynomial, right: Polynomial) -> Polynomial:
    out: dict[int, int] = defaultdict(int)
    for a, x in left.items():
        for b, y in right.items():
            out[a + b] += x * y
    return {monomial: value % ORDER for monomial, value in out.items() if value % ORDER}


def in_span(target: Polynomial, rows: list[Polynomial]) -> bool:
    """Whether `target` is a linear combination of `rows`.

    First, as long as there is one, a row is struck out that holds a monomial which no other row and not the target
    has: its coefficient can only be zero. What is left goes through plain elimination.
    """
    holders: dict[int, set[int]] = defaultdict(set)
    for number_of_row, row in enumerate(rows):
        for monomial in row:
            holders[monomial].add(number_of_row)
    lonely = [monomial for monomial, where in holders.items() if len(where) == 1 and monomial not in target]
    alive = set(range(len(rows)))
    while lonely:
        where = holders[lonely.pop()]
        if len(where) != 1:
            continue
        (gone,) = where
        alive.discard(gone)
        for monomial in rows[gone]:
            holders[monomial].discard(gone)
            if len(holders[monomial]) == 1 and monomial not in target:
                lonely.append(monomial)
    if any(not holders[monomial] for monomial in target):
        return False
    pivots: dict[int, Polynomial] = {}

    def reduced(row: Polynomial) -> Polynomial:
        row = dict(row)
        for monomial in list(pivots):  # in the order in which they were found: a pivot row has no earlier pivot in it
            if factor := row.get(monomial):
                for other, value in pivots[monomial].items():
                    left = (row.get(other, 0) - factor * value) % ORDER
                    if left:
                        row[other] = left
                    else:
                        row.pop(other, None)
        return row

    for index in sorted(alive, key=lambda index: len(rows[index])):
        row = reduced(rows[index])
        if row:
            pivot = min(row, key=lambda monomial: len(holders[monomial]))
            inverse = pow(row[pivot], -1, ORDER)
            pivots[pivot] = {monomial: value * inverse % ORDER for monomial, value in row.items()}
    return not reduced(target)


@dataclasses.dataclass
class View:
    """All that the adversary holds, by discrete logarithms, and the one it wants (in GT)."""

    g1: list[Polynomial]
    g2: list[Polynomial]
    gt: list[Polynomial]
    target: Polynomial

    def opens(self) -> bool:
        """Whether the target can be computed."""
        products: dict[frozenset[tuple[int, int]], Polynomial] = {}
        for p in self.g1:
            for q in self.g2:
                product = times(p, q)
                products[frozenset(product.items())] = product
        for element in self.gt:
            products[frozenset(element.items())] = element
        return in_span(self.target, [row for row in products.values() if row])


# ----------------------------------------------------------------------------------------- Rouselakis-Waters 2015
@dataclasses.dataclass(frozen=True)
class Person:
    """Someone who pools what they have: a GID and, of each authority, keys for these attributes."""

    gid: str
    attributes: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Rw15Fault:
    """What a bad implementation gets wrong; all False is the scheme."""

    one_hash: bool = False  # H(GID) and F(attribute) are the same function
    no_zero_shares: bool = False  # C3 lacks the share of zero
    zero_shares_not_of_zero: bool = False  # C3 shares a random number instead of zero
    zero_shares_reuse_secret: bool = False  # C3 shares s again, by the vector that C1 shares it with
    zero_shares_reuse_vector: bool = False  # C3 shares zero by the vector of C1, its first entry apart
    gid_ignored: bool = False  # every key is made for the same H(GID)
    key_not_randomised: bool = False  # t = 0: no F(attribute) in the key
    one_t_per_header: bool = False  # the same t_x in every row
    attribute_ignored: bool = False  # F is a constant


def rw15_view(
    rows: Sequence[Row], people: Sequence[Person], corrupted: frozenset[str], rng: random.Random,
    fault: Rw15Fault = Rw15Fault(),
) -> View:
    """The Type-III form of Rouselakis-Waters 2015 (section 4), as the product uses it: with H and F into G1,

    key of GID for u at A:  K = alpha_A + y_A*H(GID) + t*F(u) in G1,  K' = t in G2
    header, row x for u at A, shares l_x of s and w_x of 0:
        C1 = l_x + alpha_A*t_x in GT,  C2 = -t_x in G2,  C3 = y_A*t_x + w_x in G2,  C4 = t_x*F(u) in G1
    target: s in GT.
    """
    variable = Variables()
    hashed = "H" if fault.one_hash else "F"

    def hash_gid(gid: str) -> Polynomial:
        return variable("H", "" if fault.gid_ignored else gid)

    def hash_attribute(attribute: str) -> Polynomial:
        return variable(hashed, "" if fault.attribute_ignored else attribute)

    def secret(what: str, authority: str) -> Polynomial:
        return number(rng.randrange(1, ORDER)) if authority in corrupted else variable(what, authority)

    authority_of = {leaf.attribute: leaf.authority for leaf, _ in rows}
    for person in people:
        for attribute in person.attributes:
            authority_of.setdefault(attribute, attribute.partition("@")[2])
    authorities = sorted(set(authority_of.values()) | corrupted)
    alpha = {authority: secret("alpha", authority) for authority in authorities}
    y = {authority: secret("y", authority) for authority in authorities}

    g1, g2, gt = [ONE], [ONE], []
    for authority in authorities:
        gt.append(alpha[authority])
        g2.append(y[authority])
    for attribute in sorted(authority_of):
        g1.append(hash_attribute(attribute))
    for person in people:
        g1.append(hash_gid(person.gid))
        for attribute in sorted(person.attributes):
            authority = authority_of[attribute]
            t = {} if fault.key_not_randomised else variable("t", person.gid, attribute)
            g1.append(total(alpha[authority], times(y[authority], hash_gid(person.gid)),
                            times(t, hash_attribute(attribute))))
            g2.append(t)

    def share(row: Sequence[int], vector: str, secret_value: Polynomial) -> Polynomial:
        columns = [secret_value, *(variable(vector, column) for column in range(1, len(row)))]
        return total(*(times(number(coefficient), column) for coefficient, column in zip(row, columns, strict=True)))

    s = variable("s")
    for index, (leaf, row) in enumerate(rows):
        t = variable("tx", 0 if fault.one_t_per_header else index)
        zero = share(row, "w", variable("w", 0) if fault.zero_shares_not_of_zero else {})
        if fault.no_zero_shares:
            zero = {}
        elif fault.zero_shares_reuse_secret or fault.zero_shares_reuse_vector:
            zero = share(row, "v", s if fault.zero_shares_reuse_secret else {})
        gt.append(total(share(row, "v", s), times(alpha[leaf.authority], t)))
        g2.append(times(number(-1), t))
        g2.append(total(times(y[leaf.authority], t), zero))
        g1.append(times(t, hash_attribute(leaf.attribute)))
    return View(g1, g2, gt, s)


def rw15_should_open(policy: Policy, people: Sequence[Person], corrupted: frozenset[str]) -> bool:
    """One person alone, with all that the corrupted authorities could give, satisfies the policy."""
    given = {leaf.attribute for leaf in leaves(policy) if leaf.authority in corrupted}
    return any(satisfied(policy, held | given) for held in [frozenset(), *(person.attributes for person in people)])


# ---------------------------------------------------------------------------------------------------- FABEO, KP
@dataclasses.dataclass(frozen=True)
class FabeoFault:
    """What a bad implementation gets wrong; all False is the scheme."""

    no_repetition_index: bool = False  # one r' per key although a label repeats
    one_r_for_all_keys: bool = False  # r' is the same in two people's keys
    one_patient_for_all: bool = False  # patients share alpha
    label_ignored: bool = False  # H is a constant


@dataclasses.dataclass(frozen=True)
class DelegatedKey:
    """A key that a patient issued: her name and the share matrix of its policy."""

    patient: str
    rows: tuple[tuple[Leaf, tuple[int, ...]], ...]


def fabeo_view(
    labels: Iterable[str], keys: Sequence[DelegatedKey], patient: str, corrupted: frozenset[str], rng: random.Random,
    fault: FabeoFault = FabeoFault(),
) -> View:
    """FABEO KP-ABE (Riepel-Wee 2022, figure 1, right) with a repetition index, one instance per patient:

    key, row j with label u_j, the tau-th row with this label, share l_j of alpha:
        sk1_tau = r'_tau in G2 (one per tau),  sk2_j = l_j + r'_tau*H(u_j) in G1
    header of a record with these labels:  ct1 = s in G2,  ct2_u = s*H(u) in G1
    target: alpha*s in GT. Known to all: alpha in GT. Corrupted patients are numbers.
    """
    variable = Variables()
    alphas: dict[str, Polynomial] = {}

    def alpha(name: str) -> Polynomial:
        if fault.one_patient_for_all:
            name = ""
        if name not in alphas:
            alphas[name] = number(rng.randrange(1, ORDER)) if name in corrupted else variable("alpha", name)
        return alphas[name]

    def hash_label(label: str) -> Polynomial:
        return variable("H", "" if fault.label_ignored else label)

    labels = sorted(set(labels))
    s = variable("s")
    known = sorted({*labels, *(leaf.attribute for key in keys for leaf, _ in key.rows)})
    g1 = [ONE, *(hash_label(label) for label in known), *(times(s, hash_label(label)) for label in labels)]
    g2, gt = [ONE, s], [alpha(name) for name in sorted({patient, *(key.patient for key in keys)})]
    for index, key in enumerate(keys):
        seen: dict[str, int] = defaultdict(int)
        indices: set[int] = set()
        owner = 0 if fault.one_r_for_all_keys else index
        for leaf, row in key.rows:
            tau = 0 if fault.no_repetition_index else seen[leaf.attribute]
            seen[leaf.attribute] += 1
            indices.add(tau)
            columns = [alpha(key.patient), *(variable("v", index, column) for column in range(1, len(row)))]
            share = total(*(times(number(value), column) for value, column in zip(row, columns, strict=True)))
            g1.append(total(share, times(variable("r", owner, tau), hash_label(leaf.attribute))))
        g2 += [variable("r", owner, tau) for tau in sorted(indices)]
    return View(g1, g2, gt, times(alpha(patient), s))


def fabeo_should_open(
    labels: Iterable[str], policies: Sequence[tuple[str, Policy]], patient: str, corrupted: frozenset[str]
) -> bool:
    """One key of this very patient accepts the labels, or the patient's own secret is known."""
    held = set(labels)
    return patient in corrupted or any(name == patient and satisfied(policy, held) for name, policy in policies)


# ------------------------------------------------------------------------------------------- random instances
AUTHORITIES = ("hospital", "patient", "registrar")
ATTRIBUTES = tuple(f"{name}@{authority}" for authority in AUTHORITIES for name in ("a", "b"))


def random_policy(rng: random.Random, attributes: Sequence[str], leaves_max: int = 5) -> Policy:
    """Up to `leaves_max` leaves; from few attributes, so that they repeat often."""

    def grow(count: int) -> Policy:
        if count == 1:
            attribute = rng.choice(attributes)
            return Leaf(attribute.partition("@")[2], attribute)
        width = rng.randint(2, count)
        sizes = [1] * width
        for _ in range(count - width):
            sizes[rng.randrange(width)] += 1
        return Gate(rng.randint(1, width), tuple(grow(size) for size in sizes))

    return grow(rng.randint(1, leaves_max))


def random_rw15(rng: random.Random) -> tuple[Policy, list[Person], frozenset[str]]:
    """A policy, one to three people (some with a GID that is the name of an attribute, even their own), and corrupted
    authorities."""
    pool = rng.sample(ATTRIBUTES, rng.randint(2, len(ATTRIBUTES)))
    policy = random_policy(rng, pool)
    people = []
    for index in range(rng.randint(1, 3)):
        held = [name for name in pool if rng.random() < 0.4]
        gid = rng.choice([f"gid-{index}", rng.choice(pool), rng.choice(held or pool)])
        people.append(Person(gid, frozenset(held)))
    merged: dict[str, frozenset[str]] = defaultdict(frozenset)
    for person in people:  # two of the same GID are one person
        merged[person.gid] |= person.attributes
    corrupted = frozenset(name for name in AUTHORITIES if rng.random() < 0.15)
    return policy, [Person(gid, held) for gid, held in merged.items()], corrupted


def random_fabeo(rng: random.Random) -> tuple[list[str], list[tuple[str, Policy]], str, frozenset[str]]:
    """A record's labels, one to three keys (some of another patient), the patient, and corrupted patients."""
    pool = rng.sample(ATTRIBUTES, rng.randint(2, len(ATTRIBUTES)))
    labels = [name for name in pool if rng.random() < 0.5]
    policies = [("her" if rng.random() < 0.75 else "another", random_policy(rng, pool))
                for _ in range(rng.randint(1, 3))]
    corrupted = frozenset(name for name, chance in (("another", 0.3), ("her", 0.03)) if rng.random() < chance)
    return labels, policies, "her", corrupted


def frozen_rows(rows: Iterable[Row]) -> tuple[tuple[Leaf, tuple[int, ...]], ...]:
    return tuple((leaf, tuple(row)) for leaf, row in rows)


def rw15_instance(
    seed: int, share_matrix: ShareMatrix = shamir_rows, fault: Rw15Fault = Rw15Fault()
) -> tuple[bool, bool]:
    """(what should be, what the checker finds) for the instance of this seed."""
    rng = random.Random(f"rw15-{seed}")
    policy, people, corrupted = random_rw15(rng)
    view = rw15_view(share_matrix(policy), people, corrupted, rng, fault)
    return rw15_should_open(policy, people, corrupted), view.opens()


def fabeo_instance(
    seed: int, share_matrix: ShareMatrix = shamir_rows, fault: FabeoFault = FabeoFault()
) -> tuple[bool, bool]:
    """(what should be, what the checker finds) for the instance of this seed."""
    rng = random.Random(f"fabeo-{seed}")
    labels, policies, patient, corrupted = random_fabeo(rng)
    keys = [DelegatedKey(name, frozen_rows(share_matrix(policy))) for name, policy in policies]
    view = fabeo_view(labels, keys, patient, corrupted, rng, fault)
    return fabeo_should_open(labels, policies, patient, corrupted), view.opens()
