"""Secret sharing along a policy, and which leaves a holder of attributes puts together again.

Spec: docs/formats/abe.md, "Scalars from a seed" and "Sharing a secret along a policy" (Shamir per gate, a linear secret
sharing scheme). Called by the two schemes beside it."""

import hmac
import math
import struct
from collections.abc import Collection

from myphr.crypto.abe.curve import R, wide
from myphr.crypto.abe.policy import Attribute, Policy, leaf_count

SEED_BYTES = 32


class Draws:
    """The scalars (1..R-1) that follow from a seed, a tag and a context, one behind the other."""

    def __init__(self, seed: bytes, tag: bytes, context: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError("a seed has 32 bytes")
        self._seed = seed
        self._start = tag + b"\x00" + context
        self._count = 0

    def draw(self) -> int:
        digest = hmac.digest(self._seed, self._start + struct.pack(">I", self._count), "sha512")
        self._count += 1
        return wide(digest)


def share(policy: Policy, secret: int, draws: Draws) -> list[int]:
    """One scalar per leaf, in the order of the leaves."""
    if isinstance(policy, Attribute):
        return [secret]
    coefficients = [secret, *(draws.draw() for _ in range(policy.k - 1))]
    shares: list[int] = []
    for x, child in enumerate(policy.children, start=1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % R
        shares += share(child, value, draws)
    return shares


def choose(policy: Policy, attributes: Collection[Attribute]) -> tuple[list[tuple[int, int]], int] | None:
    """The fewest leaves that put the secret together again: ([(leaf, factor), ...], divisor), so that the secret is
    sum(factor * share of leaf) / divisor. None if the attributes do not satisfy the policy.

    Factors are integers, and small: over the points 1, 2, 3 ... Lagrange's coefficients are ratios of small numbers,
    and one division at the end spares a long exponentiation per leaf."""
    chosen = _choose(policy, frozenset(attributes), 0)
    if chosen is None:
        return None
    divisor = math.lcm(*(below for _, _, below in chosen))
    return [(leaf, above * (divisor // below)) for leaf, above, below in chosen], divisor


_Chosen = list[tuple[int, int, int]]  # leaf, and its factor as a fraction in lowest terms: numerator, denominator > 0


def _choose(policy: Policy, attributes: frozenset[Attribute], first_leaf: int) -> _Chosen | None:
    if isinstance(policy, Attribute):
        return [(first_leaf, 1, 1)] if policy in attributes else None
    found: list[tuple[int, _Chosen]] = []
    for x, child in enumerate(policy.children, start=1):
        parts = _choose(child, attributes, first_leaf)
        first_leaf += leaf_count(child)
        if parts is not None:
            found.append((x, parts))
    if len(found) < policy.k:
        return None
    found = sorted(found, key=lambda one: len(one[1]))[: policy.k]
    points = [x for x, _ in found]
    chosen = []
    for x, parts in found:
        others = [other for other in points if other != x]
        above, below = math.prod(others), math.prod(other - x for other in others)
        for leaf, part_above, part_below in parts:
            a, b = above * part_above, below * part_below
            common = math.gcd(a, b) * (1 if b > 0 else -1)
            chosen.append((leaf, a // common, b // common))
    return sorted(chosen)
