"""The peer of `python -m bench abe`: RW15 and FABEO-KP by the same format pages on py_arkworks_bls12381, made
reasonably fast: one multi-pairing per opening, multiplications by small signed numbers, tables for fixed bases in GT,
shared squarings. Elements stay the library's own objects, because it can neither read nor write GT: the peer is spared
that work.
"""

import functools
import hashlib
import hmac
import secrets

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from tests.vectors.abe_second import policy as policies
from tests.vectors.abe_second.policy import Attribute, Policy
from tests.vectors.abe_second.schemes import (
    Draws,
    hash_attribute,
    hash_gid,
    hash_label,
    reconstruct,
    repetitions,
    sha256,
    share,
    xor,
)
from tests.vectors.abe_second.tower import ORDER, power

ONE = GT.one()
G1, G2 = G1Point(), G2Point()
GENERATOR_T = GT.pairing(G1, G2)


class FixedBase:
    """Powers of one element of GT: 64 products each, after 1,024 once."""

    def __init__(self, base: GT) -> None:
        self.base, self._windows = base, []
        for _ in range(64):
            window = [ONE]
            for _ in range(15):
                window.append(window[-1] * base)
            self._windows.append(window)
            base = window[-1] * base

    def __pow__(self, exponent: int) -> GT:
        result = ONE
        for index, window in enumerate(self._windows):
            if digit := exponent >> 4 * index & 15:
                result = result * window[digit]
        return result


@functools.cache
def fixed(base: GT) -> FixedBase:
    return FixedBase(base)


def signed(value: int) -> int:
    return value - ORDER if value > ORDER // 2 else value


def scaled(point, factor: int):  # type: ignore[no-untyped-def]
    factor = signed(factor)
    return point * Scalar(factor) if factor >= 0 else -point * Scalar(-factor)


def product_of_powers(terms: list[tuple[GT, int]]) -> GT:
    """Squarings shared; the negative powers are collected and inverted at the end."""

    def of(positive: list[tuple[GT, int]]) -> GT:
        result = ONE
        for at in range(max((exponent.bit_length() for _, exponent in positive), default=0) - 1, -1, -1):
            result = result * result
            for base, exponent in positive:
                if exponent >> at & 1:
                    result = result * base
        return result

    terms = [(base, signed(exponent)) for base, exponent in terms]
    negative = [(base, -exponent) for base, exponent in terms if exponent < 0]
    result = of([(base, exponent) for base, exponent in terms if exponent > 0])
    return result * power(of(negative), ORDER - 1, ONE) if negative else result


def cover(ctx: bytes, element: GT) -> bytes:
    return sha256(b"cover", ctx, bytes.fromhex(str(element)))


class Rw15:
    """A few authorities, one person, one policy."""

    def __init__(self, policy: Policy, gid: bytes) -> None:
        self.policy, self.leaves, self.gid = policy, policies.leaves(policy), gid
        names = sorted({leaf.authority for leaf in self.leaves})
        self.secrets = {name: (secrets.randbelow(ORDER), secrets.randbelow(ORDER)) for name in names}
        self.publics = {name: (fixed(GT.pairing(G1 * Scalar(alpha), G2)), G2 * Scalar(y))
                        for name, (alpha, y) in self.secrets.items()}

    def keygen(self) -> dict[Attribute, tuple[G1Point, G2Point]]:
        keys = {}
        for attribute in self.leaves:
            alpha, y = self.secrets[attribute.authority]
            t = Scalar(secrets.randbelow(ORDER))
            keys[attribute] = (G1 * Scalar(alpha) + hash_gid(self.gid) * Scalar(y) + hash_attribute(attribute) * t,
                               G2 * t)
        return keys

    def encrypt(self, m: bytes) -> tuple[bytes, list[tuple[GT, G2Point, G2Point, G1Point]], bytes]:
        """(covered seed, rows, key)"""
        ctx = sha256(policies.encode(self.policy) if len(self.leaves) <= 64 else repr(self.policy).encode())
        draws = Draws(m, "bench", ctx)
        z = draws.draw()
        rows = []
        base = fixed(GENERATOR_T)
        for leaf, of_z, of_zero in zip(
            self.leaves, share(self.policy, z, draws), share(self.policy, 0, draws), strict=True
        ):
            t, (a, y) = draws.draw(), self.publics[leaf.authority]
            rows.append((base**of_z * a**t, -(G2 * Scalar(t)), y * Scalar(t) + G2 * Scalar(of_zero),
                         hash_attribute(leaf) * Scalar(t)))
        return xor(m, cover(ctx, base**z)), rows, hmac.digest(m, b"key", "sha256")

    def decrypt(self, header, keys, check: bool) -> bytes:  # type: ignore[no-untyped-def]
        covered, rows, _ = header
        chosen = reconstruct(self.policy, set(keys))
        pairs = [(hash_gid(self.gid), G2Point.multiexp_unchecked(
            [rows[index][2] for index in chosen], [Scalar(factor) for factor in chosen.values()]))]
        for index, factor in chosen.items():
            k, t = keys[self.leaves[index]]
            pairs += [(scaled(k, factor), rows[index][1]), (scaled(rows[index][3], factor), t)]
        left, right = zip(*pairs, strict=True)
        element = product_of_powers([(rows[index][0], factor) for index, factor in chosen.items()])
        element = element * GT.multi_pairing(list(left), list(right))
        ctx = sha256(policies.encode(self.policy) if len(self.leaves) <= 64 else repr(self.policy).encode())
        m = xor(covered, cover(ctx, element))
        if check:
            again = self.encrypt(m)
            if again[:2] != (covered, rows):
                raise ValueError("not what its seed makes")
        return hmac.digest(m, b"key", "sha256")


class Kp:
    """One patient, one policy over labels, one record that has them all."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.leaves = policy, policies.leaves(policy)
        self.alpha = secrets.randbelow(ORDER)
        self.a = fixed(GT.pairing(G1 * Scalar(self.alpha), G2))

    def keygen(self) -> tuple[list[G2Point], list[G1Point]]:
        draws = Draws(secrets.token_bytes(32), "bench", b"")
        shares, numbers = share(self.policy, self.alpha, draws), repetitions(self.policy)
        r = [draws.draw() for _ in range(max(numbers) + 1)]
        return [G2 * Scalar(value) for value in r], [
            G1 * Scalar(value) + hash_label(leaf) * Scalar(r[number])
            for leaf, value, number in zip(self.leaves, shares, numbers, strict=True)]

    def encrypt(self, m: bytes) -> tuple[bytes, G2Point, dict[Attribute, G1Point], bytes]:
        ctx = hashlib.sha256(b"".join(label.encode() for label in self.leaves)).digest()
        s = Draws(m, "bench", ctx).draw()
        covered = xor(m, cover(ctx, self.a**s))
        return (covered, G2 * Scalar(s), {label: hash_label(label) * Scalar(s) for label in self.leaves},
                hmac.digest(m, b"key", "sha256"))

    def decrypt(self, header, key, check: bool) -> bytes:  # type: ignore[no-untyped-def]
        covered, c, of_label, _ = header
        r, k = key
        chosen, numbers = reconstruct(self.policy, set(of_label)), repetitions(self.policy)
        left, right = [G1Point.multiexp_unchecked([k[index] for index in chosen],
                                                  [Scalar(factor) for factor in chosen.values()])], [c]
        for number in sorted({numbers[index] for index in chosen}):
            rows = [index for index in chosen if numbers[index] == number]
            left.append(-G1Point.multiexp_unchecked([of_label[self.leaves[index]] for index in rows],
                                                    [Scalar(chosen[index]) for index in rows]))
            right.append(r[number])
        ctx = hashlib.sha256(b"".join(label.encode() for label in self.leaves)).digest()
        m = xor(covered, cover(ctx, GT.multi_pairing(left, right)))
        if check:
            again = self.encrypt(m)
            if again[:3] != (covered, c, of_label):
                raise ValueError("not what its seed makes")
        return hmac.digest(m, b"key", "sha256")
