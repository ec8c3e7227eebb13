"""RW15 and FABEO-KP by docs/formats/abe.md, a second time, over py_arkworks_bls12381. What is refused is a ValueError.

Written to be compared with the page, line by line; nothing here runs in constant time.
"""

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from tests.vectors.abe_second import policy as policies
from tests.vectors.abe_second.policy import Attribute, Gate, Policy, Reader
from tests.vectors.abe_second.tower import COORDINATE_BYTES, GT_BYTES, ORDER, Fp12, gt_power, in_gt

G1_BYTES, G2_BYTES = 48, 96
GENERATOR1, GENERATOR2 = G1Point(), G2Point()
GENERATOR_T = Fp12.from_arkworks(GT.pairing(GENERATOR1, GENERATOR2))
HASH = "BLS12381G1_XMD:SHA-256_SSWU_RO_"


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def tagged(tag: str) -> bytes:
    return tag.encode("ascii") + b"\0"


# --------------------------------------------------------------------------------------------------- encodings
def read_g1(content: bytes) -> G1Point:
    return _point(G1Point, G1_BYTES, content)


def read_g2(content: bytes) -> G2Point:
    return _point(G2Point, G2_BYTES, content)


def _point(group, size: int, content: bytes):  # type: ignore[no-untyped-def]
    if len(content) != size:
        raise ValueError("length of a point")
    point = group.from_compressed_bytes(content)  # on the curve and in the subgroup, or ValueError
    if point == group.identity() or not point.is_in_subgroup() or point.to_compressed_bytes() != content:
        raise ValueError("not a point")
    return point


def write_gt(element: Fp12) -> bytes:
    """By powers of w: coordinate pair 2*j + i is c[i][j] of the tower."""
    flat = element.coordinates()
    pairs = [flat[2 * (3 * i + j) : 2 * (3 * i + j) + 2] for j in range(3) for i in range(2)]
    return b"".join(value.to_bytes(COORDINATE_BYTES, "big") for pair in pairs for value in pair)


def read_gt(content: bytes) -> Fp12:
    if len(content) != GT_BYTES:
        raise ValueError("length of an element of GT")
    values = [int.from_bytes(content[at : at + COORDINATE_BYTES], "big") for at in range(0, GT_BYTES, COORDINATE_BYTES)]
    flat = [0] * 12
    for power in range(6):
        j, i = divmod(power, 2)
        flat[2 * (3 * i + j) : 2 * (3 * i + j) + 2] = values[2 * power : 2 * power + 2]
    element = Fp12.from_coordinates(flat)
    if not in_gt(element):
        raise ValueError("not in GT")
    return element


def read_scalar(content: bytes) -> int:
    value = int.from_bytes(content, "big")
    if len(content) != 32 or value >= ORDER:
        raise ValueError("not a scalar")
    return value


def scalar_bytes(value: int) -> bytes:
    return value.to_bytes(32, "big")


def pairing(left: G1Point, right: G2Point) -> Fp12:
    return Fp12.from_arkworks(GT.pairing(left, right))


def multi_pairing(pairs: Iterable[tuple[G1Point, G2Point]]) -> Fp12:
    left, right = zip(*pairs, strict=True)
    return Fp12.from_arkworks(GT.multi_pairing(list(left), list(right)))


def hash_gid(gid: bytes) -> G1Point:
    return G1Point.hash_to_curve(gid, f"MYPHR-ABE-V01-RW15-GID_{HASH}".encode())


def hash_attribute(attribute: Attribute) -> G1Point:
    return G1Point.hash_to_curve(attribute.encode(), f"MYPHR-ABE-V01-RW15-ATTRIBUTE_{HASH}".encode())


def hash_label(label: Attribute) -> G1Point:
    return G1Point.hash_to_curve(label.encode(), f"MYPHR-ABE-V01-KP-LABEL_{HASH}".encode())


def wide(content: bytes) -> int:
    return 1 + int.from_bytes(content, "big") % (ORDER - 1)


class Draws:
    """S(seed, tag, ctx, i) for i = 0, 1, 2 ..."""

    def __init__(self, seed: bytes, tag: str, context: bytes) -> None:
        if len(seed) != 32:
            raise ValueError("a seed has 32 bytes")
        self._seed, self._prefix, self._count = seed, tagged(tag) + context, 0

    def draw(self) -> int:
        self._count += 1
        return wide(hmac.digest(self._seed, self._prefix + u32(self._count - 1), "sha512"))


# ----------------------------------------------------------------------------------------------------- sharing
def share(node: Policy, value: int, draws: Draws) -> list[int]:
    """One share per leaf, in order."""
    if isinstance(node, Attribute):
        return [value]
    coefficients = [value, *(draws.draw() for _ in range(node.needed - 1))]
    out = []
    for point, child in enumerate(node.inputs, 1):
        at_point = sum(factor * pow(point, power, ORDER) for power, factor in enumerate(coefficients)) % ORDER
        out += share(child, at_point, draws)
    return out


def share_matrix(policy: Policy) -> list[tuple[Attribute, list[int]]]:
    """Row x: the coefficient of the value and of each draw in the share of leaf x, found by sharing unit vectors."""

    class Counted:
        def __init__(self, one: int | None) -> None:
            self.one, self.count = one, 0

        def draw(self) -> int:
            self.count += 1
            return int(self.count - 1 == self.one)

    counting = Counted(None)
    columns = [share(policy, 1, counting)]  # type: ignore[arg-type]
    columns += [share(policy, 0, Counted(one)) for one in range(counting.count)]  # type: ignore[arg-type]
    return [(leaf, list(row)) for leaf, row in zip(policies.leaves(policy), zip(*columns, strict=True), strict=True)]


def reconstruct(policy: Policy, held: set[Attribute]) -> dict[int, int]:
    """{leaf number: c_x}, by Lagrange along the path; the last children that can, so as to differ from a first-fit.
    Raises ValueError."""
    count = 0

    def node(tree: Policy) -> dict[int, int] | None:
        nonlocal count
        if isinstance(tree, Attribute):
            count += 1
            return {count - 1: 1} if tree in held else None
        below = [node(child) for child in tree.inputs]
        chosen = [(point, rows) for point, rows in enumerate(below, 1) if rows is not None][-tree.needed :]
        if len(chosen) < tree.needed:
            return None
        out = {}
        for point, rows in chosen:
            factor = 1
            for other, _ in chosen:
                if other != point:
                    factor = factor * other * pow(other - point, -1, ORDER) % ORDER
            out.update({leaf: value * factor % ORDER for leaf, value in rows.items()})
        return out

    found = node(policy)
    if found is None:
        raise ValueError("the policy is not satisfied")
    return found


# ---------------------------------------------------------------------------------------- keys and public values
def kind(number: int) -> bytes:
    return b"MYPHRABK\x01" + bytes([number])


def expect_kind(reader: Reader, number: int) -> None:
    if reader.take(10) != kind(number):
        raise ValueError("not this kind of key")


@dataclasses.dataclass(frozen=True)
class Authority:
    """Secret half."""

    name: bytes  # UUID
    alpha: int
    y: int

    @classmethod
    def from_seed(cls, name: bytes, seed: bytes) -> "Authority":
        draws = Draws(seed, "myphr/abe/rw15/authority/1", name)
        return cls(name, draws.draw(), draws.draw())

    def encode(self) -> bytes:
        return kind(1) + self.name + scalar_bytes(self.alpha) + scalar_bytes(self.y)

    @classmethod
    def decode(cls, content: bytes) -> "Authority":
        reader = Reader(content)
        expect_kind(reader, 1)
        authority = cls(reader.take(16), read_scalar(reader.take(32)), read_scalar(reader.take(32)))
        reader.end()
        if not (authority.alpha and authority.y):
            raise ValueError("zero")
        return authority

    def public(self) -> bytes:
        """The public bytes, proof of possession included."""
        a, y = gt_power(GENERATOR_T, self.alpha), GENERATOR2 * Scalar(self.y)
        said = self.name + write_gt(a) + y.to_compressed_bytes()
        secrets = scalar_bytes(self.alpha) + scalar_bytes(self.y)
        nonces = [
            wide(hmac.digest(secrets, tagged("myphr/abe/rw15/possession-nonce/1") + said + u32(i), "sha512"))
            for i in range(2)
        ]
        c = possession(said, gt_power(GENERATOR_T, nonces[0]), GENERATOR2 * Scalar(nonces[1]))
        answers = [(nonce + c * value) % ORDER for nonce, value in zip(nonces, (self.alpha, self.y), strict=True)]
        return kind(2) + said + b"".join(map(scalar_bytes, (c, *answers)))

    def issue(self, gid: bytes, attribute: Attribute, seed: bytes) -> "AttributeKey":
        if attribute.authority != self.name or len(gid) != 16:
            raise ValueError("another authority's attribute, or not a GID")
        t = Draws(seed, "myphr/abe/rw15/issue/1", sha256(gid + attribute.encode())).draw()
        k = (GENERATOR1 * Scalar(self.alpha) + hash_gid(gid) * Scalar(self.y) + hash_attribute(attribute) * Scalar(t))
        return AttributeKey(gid, attribute, k, GENERATOR2 * Scalar(t))


def possession(said: bytes, first: Fp12, second: G2Point) -> int:
    content = tagged("myphr/abe/rw15/possession/1") + said + write_gt(first) + second.to_compressed_bytes()
    return wide(hashlib.sha512(content).digest())


@dataclasses.dataclass(frozen=True)
class AuthorityPublic:
    name: bytes
    a: Fp12
    y: G2Point
    encoded: bytes

    @classmethod
    def decode(cls, content: bytes) -> "AuthorityPublic":
        """Checks the proof of possession. Raises ValueError."""
        reader = Reader(content)
        expect_kind(reader, 2)
        name, a, y = reader.take(16), read_gt(reader.take(GT_BYTES)), read_g2(reader.take(G2_BYTES))
        c, of_alpha, of_y = (read_scalar(reader.take(32)) for _ in range(3))
        reader.end()
        said = content[10 : 10 + 16 + GT_BYTES + G2_BYTES]
        first = gt_power(GENERATOR_T, of_alpha) * gt_power(a, -c)
        second = GENERATOR2 * Scalar(of_y) - y * Scalar(c)
        if possession(said, first, second) != c:
            raise ValueError("proof of possession")
        return cls(name, a, y, content)


@dataclasses.dataclass(frozen=True)
class AttributeKey:
    gid: bytes
    attribute: Attribute
    k: G1Point
    t: G2Point

    def encode(self) -> bytes:
        attribute = self.attribute.encode()
        return (kind(3) + self.gid + u16(len(attribute)) + attribute + self.k.to_compressed_bytes()
                + self.t.to_compressed_bytes())

    @classmethod
    def decode(cls, content: bytes) -> "AttributeKey":
        reader = Reader(content)
        expect_kind(reader, 3)
        gid, size = reader.take(16), reader.number(2)
        inner = Reader(reader.take(size))
        attribute = policies.read_attribute(inner)
        inner.end()
        key = cls(gid, attribute, read_g1(reader.take(G1_BYTES)), read_g2(reader.take(G2_BYTES)))
        reader.end()
        return key

    def check(self, public: AuthorityPublic) -> None:
        """K is what the authority would give. Raises ValueError."""
        left = multi_pairing([
            (self.k, GENERATOR2), (-hash_gid(self.gid), public.y), (-hash_attribute(self.attribute), self.t)])
        if public.name != self.attribute.authority or left != public.a:
            raise ValueError("not a key of this authority")


# ------------------------------------------------------------------------------------------------------- headers
def front(suite: int, count: int, size: int) -> bytes:
    return b"MYPHRABE\x01" + bytes([suite]) + u16(count) + u32(size)


def check_binding(binding: bytes) -> None:
    if not 1 <= len(binding) <= 4096:
        raise ValueError("binding")


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def rw15_encapsulate(
    policy: Policy, publics: Mapping[bytes, AuthorityPublic], binding: bytes, m: bytes
) -> tuple[bytes, bytes]:
    """(header, key) from the seed m."""
    check_binding(binding)
    policies.check_limits(policy)
    leaves, canonical = policies.leaves(policy), policies.encode(policy)
    start = front(1, len(leaves), len(canonical))
    names = sorted({leaf.authority for leaf in leaves})
    if missing := set(names) - set(publics):
        raise ValueError(f"{len(missing)} authorities unknown")
    ctx = sha256(tagged("myphr/abe/rw15/bound/1"), start, canonical, u32(len(binding)), binding, u16(len(names)),
                 *(sha256(publics[name].encoded) for name in names))
    draws = Draws(m, "myphr/abe/rw15/encapsulate/1", ctx)
    z = draws.draw()
    lambdas, omegas = share(policy, z, draws), share(policy, 0, draws)
    rows = []
    for leaf, of_z, of_zero in zip(leaves, lambdas, omegas, strict=True):
        t, public = draws.draw(), publics[leaf.authority]
        rows += [
            write_gt(gt_power(GENERATOR_T, of_z) * gt_power(public.a, t)),
            (GENERATOR2 * Scalar(ORDER - t)).to_compressed_bytes(),
            (public.y * Scalar(t) + GENERATOR2 * Scalar(of_zero)).to_compressed_bytes(),
            (hash_attribute(leaf) * Scalar(t)).to_compressed_bytes(),
        ]
    covered = xor(m, sha256(tagged("myphr/abe/rw15/cover/1"), ctx, write_gt(gt_power(GENERATOR_T, z))))
    header = start + canonical + covered + b"".join(rows)
    return header, hmac.digest(m, tagged("myphr/abe/rw15/key/1") + sha256(header), "sha256")


def rw15_decapsulate(
    header: bytes, keys: Sequence[AttributeKey], publics: Mapping[bytes, AuthorityPublic], binding: bytes
) -> bytes:
    """The key. Raises ValueError for a header that is not exactly what its seed makes, or keys that do not open it."""
    reader = Reader(header)
    if reader.take(10) != b"MYPHRABE\x01\x01":
        raise ValueError("not a header of suite 1")
    count, size = reader.number(2), reader.number(4)
    canonical = reader.take(size)
    policy = policies.decode(canonical)
    leaves = policies.leaves(policy)
    covered = reader.take(32)
    rows = [(read_gt(reader.take(GT_BYTES)), read_g2(reader.take(G2_BYTES)), read_g2(reader.take(G2_BYTES)),
             read_g1(reader.take(G1_BYTES))) for _ in leaves]
    reader.end()
    if count != len(leaves):
        raise ValueError("count")
    if len({key.gid for key in keys}) != 1:
        raise ValueError("keys of one GID are needed")
    by_attribute = {key.attribute: key for key in keys}
    chosen = reconstruct(policy, set(by_attribute))
    gt, pairs = Fp12(1), []
    for index, factor in chosen.items():
        c1, c2, c3, c4 = rows[index]
        key = by_attribute[leaves[index]]
        gt = gt * gt_power(c1, factor)
        times = Scalar(factor)
        pairs += [(key.k * times, c2), (hash_gid(key.gid) * times, c3), (c4 * times, key.t)]
    gt = gt * multi_pairing(pairs)
    names = sorted({leaf.authority for leaf in leaves})
    if not set(names) <= set(publics):
        raise ValueError("authorities unknown")
    check_binding(binding)
    ctx = sha256(tagged("myphr/abe/rw15/bound/1"), header[:16], canonical, u32(len(binding)), binding, u16(len(names)),
                 *(sha256(publics[name].encoded) for name in names))
    m = xor(covered, sha256(tagged("myphr/abe/rw15/cover/1"), ctx, write_gt(gt)))
    again, key_bytes = rw15_encapsulate(policy, publics, binding, m)
    if again != header:
        raise ValueError("the header is not what its seed makes")
    return key_bytes


# ------------------------------------------------------------------------------------------------- FABEO, KP-ABE
@dataclasses.dataclass(frozen=True)
class Patient:
    """Secret half."""

    alpha: int

    @classmethod
    def from_seed(cls, seed: bytes) -> "Patient":
        return cls(Draws(seed, "myphr/abe/kp/patient/1", b"").draw())

    def encode(self) -> bytes:
        return kind(4) + scalar_bytes(self.alpha)

    @classmethod
    def decode(cls, content: bytes) -> "Patient":
        reader = Reader(content)
        expect_kind(reader, 4)
        patient = cls(read_scalar(reader.take(32)))
        reader.end()
        if not patient.alpha:
            raise ValueError("zero")
        return patient

    def public(self) -> bytes:
        a = write_gt(gt_power(GENERATOR_T, self.alpha))
        nonce = wide(hmac.digest(
            scalar_bytes(self.alpha), tagged("myphr/abe/kp/possession-nonce/1") + a + u32(0), "sha512"))
        c = kp_possession(a, gt_power(GENERATOR_T, nonce))
        return kind(5) + a + scalar_bytes(c) + scalar_bytes((nonce + c * self.alpha) % ORDER)

    def issue(self, policy: Policy, seed: bytes) -> "DelegatedKey":
        policies.check_limits(policy)
        draws = Draws(seed, "myphr/abe/kp/issue/1", sha256(policies.encode(policy)))
        lambdas, numbers = share(policy, self.alpha, draws), repetitions(policy)
        r = [draws.draw() for _ in range(max(numbers) + 1)]
        rows = [GENERATOR1 * Scalar(value) + hash_label(leaf) * Scalar(r[number])
                for leaf, value, number in zip(policies.leaves(policy), lambdas, numbers, strict=True)]
        return DelegatedKey(policy, [GENERATOR2 * Scalar(value) for value in r], rows)


def repetitions(policy: Policy) -> list[int]:
    """rho(x): how many leaves before x have the very same label."""
    seen: list[Attribute] = []
    out = []
    for leaf in policies.leaves(policy):
        out.append(seen.count(leaf))
        seen.append(leaf)
    return out


def kp_possession(a: bytes, nonce: Fp12) -> int:
    return wide(hashlib.sha512(tagged("myphr/abe/kp/possession/1") + a + write_gt(nonce)).digest())


@dataclasses.dataclass(frozen=True)
class PatientPublic:
    a: Fp12
    encoded: bytes

    @classmethod
    def decode(cls, content: bytes) -> "PatientPublic":
        """Checks the proof of possession. Raises ValueError."""
        reader = Reader(content)
        expect_kind(reader, 5)
        encoded = reader.take(GT_BYTES)
        a = read_gt(encoded)
        c, answer = read_scalar(reader.take(32)), read_scalar(reader.take(32))
        reader.end()
        if kp_possession(encoded, gt_power(GENERATOR_T, answer) * gt_power(a, -c)) != c:
            raise ValueError("proof of possession")
        return cls(a, content)


@dataclasses.dataclass(frozen=True)
class DelegatedKey:
    policy: Policy
    r: list[G2Point]
    k: list[G1Point]

    def encode(self) -> bytes:
        canonical = policies.encode(self.policy)
        return (kind(6) + u16(len(canonical)) + canonical + bytes([len(self.r)])
                + b"".join(point.to_compressed_bytes() for point in [*self.r, *self.k]))

    @classmethod
    def decode(cls, content: bytes) -> "DelegatedKey":
        reader = Reader(content)
        expect_kind(reader, 6)
        policy = policies.decode(reader.take(reader.number(2)))
        count = reader.number(1)
        if count != max(repetitions(policy)) + 1:
            raise ValueError("number of repetitions")
        r = [read_g2(reader.take(G2_BYTES)) for _ in range(count)]
        k = [read_g1(reader.take(G1_BYTES)) for _ in policies.leaves(policy)]
        reader.end()
        return cls(policy, r, k)

    def check(self, public: PatientPublic) -> None:
        """All rows that are chosen, put together, give A. Raises ValueError."""
        leaves, numbers = policies.leaves(self.policy), repetitions(self.policy)
        pairs = []
        for index, factor in reconstruct(self.policy, set(leaves)).items():
            pairs += [(self.k[index] * Scalar(factor), GENERATOR2),
                      (hash_label(leaves[index]) * Scalar(ORDER - factor), self.r[numbers[index]])]
        if multi_pairing(pairs) != public.a:
            raise ValueError("not a key of this owner")


def kp_encapsulate(labels: Iterable[Attribute], public: PatientPublic, binding: bytes, m: bytes) -> tuple[bytes, bytes]:
    """(header, key) from the seed m."""
    check_binding(binding)
    labels = sorted(labels, key=Attribute.encode)
    if not 1 <= len(labels) == len(set(labels)) <= 64:
        raise ValueError("labels")
    encoded = b"".join(map(Attribute.encode, labels))
    start = front(2, len(labels), len(encoded))
    ctx = sha256(tagged("myphr/abe/kp/bound/1"), start, encoded, u32(len(binding)), binding, sha256(public.encoded))
    s = Draws(m, "myphr/abe/kp/encapsulate/1", ctx).draw()
    covered = xor(m, sha256(tagged("myphr/abe/kp/cover/1"), ctx, write_gt(gt_power(public.a, s))))
    header = (start + encoded + covered + (GENERATOR2 * Scalar(s)).to_compressed_bytes()
              + b"".join((hash_label(label) * Scalar(s)).to_compressed_bytes() for label in labels))
    return header, hmac.digest(m, tagged("myphr/abe/kp/key/1") + sha256(header), "sha256")


def kp_decapsulate(header: bytes, key: DelegatedKey, public: PatientPublic, binding: bytes) -> bytes:
    """The key. Raises ValueError, as rw15_decapsulate."""
    reader = Reader(header)
    if reader.take(10) != b"MYPHRABE\x01\x02":
        raise ValueError("not a header of suite 2")
    count, size = reader.number(2), reader.number(4)
    encoded = reader.take(size)
    inner, labels = Reader(encoded), []
    while inner.at < size:
        labels.append(policies.read_attribute(inner))
    if count != len(labels):
        raise ValueError("count")
    covered, c = reader.take(32), read_g2(reader.take(G2_BYTES))
    of_label = {label: read_g1(reader.take(G1_BYTES)) for label in labels}
    reader.end()
    chosen = reconstruct(key.policy, set(labels))
    leaves, numbers = policies.leaves(key.policy), repetitions(key.policy)
    pairs = [(key.k[index] * Scalar(factor), c) for index, factor in chosen.items()]
    pairs += [(of_label[leaves[index]] * Scalar(ORDER - factor), key.r[numbers[index]])
              for index, factor in chosen.items()]
    check_binding(binding)
    ctx = sha256(tagged("myphr/abe/kp/bound/1"), header[:16], encoded, u32(len(binding)), binding,
                 sha256(public.encoded))
    m = xor(covered, sha256(tagged("myphr/abe/kp/cover/1"), ctx, write_gt(multi_pairing(pairs))))
    again, key_bytes = kp_encapsulate(labels, public, binding, m)
    if again != header:
        raise ValueError("the header is not what its seed makes")
    return key_bytes


__all__ = ["Attribute", "AttributeKey", "Authority", "AuthorityPublic", "DelegatedKey", "Gate", "Patient",
           "PatientPublic", "kp_decapsulate", "kp_encapsulate", "rw15_decapsulate", "rw15_encapsulate"]
