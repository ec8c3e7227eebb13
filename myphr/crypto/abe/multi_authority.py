"""Sharing with people by what several authorities say of them: RW15 as a key encapsulation.

Rouselakis and Waters, "Efficient statically-secure large-universe multi-authority attribute-based encryption" (2015),
section 4, on an asymmetric pairing: keys' K and H, F in G1, the rest in G2. Bytes: docs/formats/abe.md, suite 1. Takes
and gives bytes and values. Called by `sharing` (encapsulate, decapsulate) and by the process of an authority (issue).
"""

import dataclasses
import functools
import hashlib
import hmac
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence

from myphr.crypto.abe import encapsulation
from myphr.crypto.abe.curve import (
    G1,
    G1_BYTES,
    G2,
    G2_BYTES,
    GT,
    GT_BYTES,
    SCALAR_BYTES,
    Comb,
    CombG2,
    R,
    g2_power,
    generator_power,
    hash_to_g1,
    pairing_product,
    product_public,
    scalar_from_bytes,
    scalar_to_bytes,
    sum_public,
    wide,
)
from myphr.crypto.abe.policy import (
    Attribute,
    Policy,
    authorities_of,
    canonical,
    check_uuid,
    from_canonical,
    leaf_count,
    leaves_of,
    uuid_bytes,
    uuid_text,
)
from myphr.crypto.abe.shares import Draws, choose, share
from myphr.errors import AbeError, AbeMalformed, AbeNotSatisfied, AuthorityRefused, PolicyError

GID_DST = b"MYPHR-ABE-V01-RW15-GID_BLS12381G1_XMD:SHA-256_SSWU_RO_"
ATTRIBUTE_DST = b"MYPHR-ABE-V01-RW15-ATTRIBUTE_BLS12381G1_XMD:SHA-256_SSWU_RO_"
ROW_BYTES = GT_BYTES + 2 * G2_BYTES + G1_BYTES

_KIND_SECRET, _KIND_PUBLIC, _KIND_KEY = 1, 2, 3
_TAG_AUTHORITY = b"myphr/abe/rw15/authority/1"
_TAG_ISSUE = b"myphr/abe/rw15/issue/1"
_TAG_NONCE = b"myphr/abe/rw15/possession-nonce/1"
_TAG_POSSESSION = b"myphr/abe/rw15/possession/1"
_TAG_BOUND = b"myphr/abe/rw15/bound/1"
_TAG_ENCAPSULATE = b"myphr/abe/rw15/encapsulate/1"
_TAG_COVER = b"myphr/abe/rw15/cover/1"
_TAG_KEY = b"myphr/abe/rw15/key/1"


def _gid_point(gid: str) -> G1:
    """H(GID) of the paper."""
    return hash_to_g1(uuid_bytes(gid), GID_DST)


@functools.lru_cache(maxsize=1024)
def _attribute_point(attribute: Attribute) -> G1:
    """F(u) of the paper, in a domain of its own: with H's, a GID equal to an attribute would break the scheme."""
    return hash_to_g1(attribute.to_bytes(), ATTRIBUTE_DST)


# -- authorities ----------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class AuthorityPublic:
    """What everybody may know of an authority: A = e(g1,g2)^alpha, Y = g2^y (RW15, AuthSetup), and a proof that its
    owner knows alpha and y. Reading it checks the groups, `check_public` the proof."""

    authority: str
    a: GT
    y: G2
    proof: tuple[int, int, int]

    def to_bytes(self) -> bytes:
        return (encapsulation.key_front(_KIND_PUBLIC) + uuid_bytes(self.authority) + self.a.to_bytes()
                + self.y.to_bytes() + b"".join(scalar_to_bytes(part) for part in self.proof))

    @classmethod
    def from_bytes(cls, data: bytes) -> "AuthorityPublic":
        """Raises AbeMalformed. The proof is not checked here."""
        reader = encapsulation.KeyReader(data, _KIND_PUBLIC)
        authority = uuid_text(reader.take(16))
        a, y = GT.from_bytes(reader.take(GT_BYTES)), G2.from_bytes(reader.take(G2_BYTES))
        c, z_alpha, z_y = (scalar_from_bytes(reader.take(SCALAR_BYTES)) for _ in range(3))
        reader.end()
        return cls(authority, a, y, (c, z_alpha, z_y))

    @functools.cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()

    @functools.cached_property
    def _powers(self) -> "_Powers":
        return _powers_of(self)


@dataclasses.dataclass(frozen=True)
class AuthoritySecret:
    """The master key of one authority (RW15, AuthSetup): scalars alpha and y, 1..R-1."""

    authority: str
    alpha: int = dataclasses.field(repr=False)
    y: int = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        check_uuid(self.authority)
        if not 1 <= self.alpha < R or not 1 <= self.y < R:
            raise AbeMalformed("not a secret of an authority")

    @functools.cached_property
    def public(self) -> AuthorityPublic:
        """The public value with its proof: Schnorr's, for alpha in GT and y in G2 under one challenge."""
        a, y_point = generator_power(self.alpha), G2.generator().times(self.y)
        statement = uuid_bytes(self.authority) + a.to_bytes() + y_point.to_bytes()
        key = scalar_to_bytes(self.alpha) + scalar_to_bytes(self.y)
        nonces = [wide(hmac.digest(key, _TAG_NONCE + b"\x00" + statement + struct.pack(">I", i), "sha512"))
                  for i in range(2)]
        c = _challenge(statement, generator_power(nonces[0]), G2.generator().times(nonces[1]))
        proof = (c, (nonces[0] + c * self.alpha) % R, (nonces[1] + c * self.y) % R)
        return AuthorityPublic(self.authority, a, y_point, proof)

    def to_bytes(self) -> bytes:
        return (encapsulation.key_front(_KIND_SECRET) + uuid_bytes(self.authority) + scalar_to_bytes(self.alpha)
                + scalar_to_bytes(self.y))

    @classmethod
    def from_bytes(cls, data: bytes) -> "AuthoritySecret":
        """Raises AbeMalformed."""
        reader = encapsulation.KeyReader(data, _KIND_SECRET)
        authority = uuid_text(reader.take(16))
        alpha, y = (scalar_from_bytes(reader.take(SCALAR_BYTES)) for _ in range(2))
        reader.end()
        return cls(authority, alpha, y)


class _Powers:
    """Powers of one authority's A and Y. Tables for them are made at the eighth use: they take 2.5 ms and 197 kB, and
    spare 0.3 ms a leaf. Two threads may both make them; they make the same."""

    TABLES_FROM_USES = 8

    def __init__(self, a: GT, y: G2) -> None:
        self._a, self._y = a, y
        self._uses = 0
        self._tables: tuple[Comb, CombG2] | None = None

    def of(self, scalar: int) -> tuple[GT, G2]:
        """(A to the power `scalar`, Y to the power `scalar`)."""
        self._uses += 1
        if self._tables is None and self._uses >= self.TABLES_FROM_USES:
            self._tables = Comb(self._a, halves=2, tables=1), CombG2(self._y, tables=1)
        if self._tables is None:
            return self._a.power(scalar), self._y.times(scalar)
        return self._tables[0].power(scalar), self._tables[1].power(scalar)


_POWERS_MAX = 32  # authorities whose tables the process keeps: 6 MB
_powers: dict[bytes, _Powers] = {}
_powers_lock = threading.Lock()


def _powers_of(public: AuthorityPublic) -> _Powers:
    """By the bytes of the public value, so that one read anew for each request finds its tables again."""
    with _powers_lock:
        found = _powers.pop(public._digest, None) or _Powers(public.a, public.y)
        _powers[public._digest] = found  # now the youngest
        while len(_powers) > _POWERS_MAX:
            del _powers[next(iter(_powers))]
        return found


def _challenge(statement: bytes, gt_part: GT, g2_part: G2) -> int:
    parts = (_TAG_POSSESSION, b"\x00", statement, gt_part.to_bytes(), g2_part.to_bytes())
    return wide(hashlib.sha512(b"".join(parts)).digest())


def new_authority(authority: str, *, seed: bytes | None = None) -> AuthoritySecret:
    """A fresh master key for the authority with this UUID text. `seed` (32 bytes) is for vectors alone.

    Raises PolicyError for another form of id."""
    draws = Draws(encapsulation.new_seed(seed), _TAG_AUTHORITY, uuid_bytes(authority))
    return AuthoritySecret(authority, draws.draw(), draws.draw())


def check_public(public: AuthorityPublic, authority: str | None = None) -> None:
    """Raises AuthorityRefused unless the proof holds and, if given, the value is that of `authority`.

    Without the proof an authority could publish a value made out of another one's."""
    if authority is not None and public.authority != authority:
        raise AuthorityRefused("public value of another authority")
    c, z_alpha, z_y = public.proof
    statement = uuid_bytes(public.authority) + public.a.to_bytes() + public.y.to_bytes()
    gt_part = generator_power(z_alpha) * public.a.power(-c % R)
    g2_part = g2_power(z_y) + public.y.times(-c % R)
    if g2_part.is_infinity() or _challenge(statement, gt_part, g2_part) != c:
        raise AuthorityRefused("proof of possession does not hold")


# -- keys of people -------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class AttributeKey:
    """The key of person `gid` for one attribute (RW15, KeyGen): K = g1^alpha H(GID)^y F(u)^t, T = g2^t."""

    gid: str
    attribute: Attribute
    k: G1 = dataclasses.field(repr=False)
    t: G2 = dataclasses.field(repr=False)

    def to_bytes(self) -> bytes:
        attribute = self.attribute.to_bytes()
        return (encapsulation.key_front(_KIND_KEY) + uuid_bytes(self.gid) + struct.pack(">H", len(attribute))
                + attribute + self.k.to_bytes() + self.t.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> "AttributeKey":
        """Raises AbeMalformed."""
        reader = encapsulation.KeyReader(data, _KIND_KEY)
        gid = uuid_text(reader.take(16))
        try:
            attribute = Attribute.from_bytes(reader.take_sized())
        except PolicyError as error:
            raise AbeMalformed("key of no attribute") from error
        k, t = G1.from_bytes(reader.take(G1_BYTES)), G2.from_bytes(reader.take(G2_BYTES))
        reader.end()
        return cls(gid, attribute, k, t)


def issue(secret: AuthoritySecret, gid: str, attribute: Attribute, *, seed: bytes | None = None) -> AttributeKey:
    """RW15, KeyGen: the key of person `gid` (UUID text) for an attribute of this authority.

    `seed` is for vectors alone. Raises AuthorityRefused for an attribute of another authority, PolicyError for another
    form of GID."""
    if attribute.authority != secret.authority:
        raise AuthorityRefused("attribute of another authority")
    statement = uuid_bytes(gid) + attribute.to_bytes()
    t = Draws(encapsulation.new_seed(seed), _TAG_ISSUE, hashlib.sha256(statement).digest()).draw()
    k = G1.generator().times(secret.alpha) + _gid_point(gid).times(secret.y) + _attribute_point(attribute).times(t)
    # Not g2_power: who learnt t from its table lookups could turn this key into one for any attribute.
    return AttributeKey(gid, attribute, k, G2.generator().times(t))


def check_key(key: AttributeKey, public: AuthorityPublic) -> None:
    """e(K, g2) = A e(H(GID), Y) e(F(u), T), which who gets a key can check. Raises AuthorityRefused."""
    if key.attribute.authority != public.authority:
        raise AuthorityRefused("key of another authority")
    product = pairing_product([(key.k, G2.generator()), (-_gid_point(key.gid), public.y),
                               (-_attribute_point(key.attribute), key.t)])
    if product != public.a:
        raise AuthorityRefused("key does not fit the public value")


# -- headers --------------------------------------------------------------------------------------
def _publics_of(policy: Policy, publics: Mapping[str, AuthorityPublic]) -> dict[str, AuthorityPublic]:
    """The public values of the policy's authorities, ascending. Raises AuthorityRefused for one missing or swapped."""
    found = {}
    for authority in authorities_of(policy):
        public = publics.get(authority)
        if public is None or public.authority != authority:
            raise AuthorityRefused("public value of an authority is missing")
        found[authority] = public
    return found


def _context(start: bytes, publics: Mapping[str, AuthorityPublic], binding: bytes) -> bytes:
    """`ctx` of the spec. `start` is front || policy, `publics` those of the policy, ascending."""
    digest = hashlib.sha256(_TAG_BOUND + b"\x00" + start + encapsulation.bound_binding(binding))
    digest.update(struct.pack(">H", len(publics)))
    for public in publics.values():
        digest.update(public._digest)
    return digest.digest()


def _header(policy: Policy, publics: Mapping[str, AuthorityPublic], binding: bytes, seed: bytes) -> bytes:
    """RW15, Encrypt, with all randomness out of `seed`: rows C1 to C4 of the paper and the covered seed."""
    used = _publics_of(policy, publics)
    start = encapsulation.front(encapsulation.SUITE_RW15, leaf_count(policy), canonical(policy))
    context = _context(start, used, binding)
    draws = Draws(seed, _TAG_ENCAPSULATE, context)
    z = draws.draw()
    lambdas = share(policy, z, draws)
    omegas = share(policy, 0, draws)
    parts = [start, encapsulation.cover(seed, _TAG_COVER, context, generator_power(z))]
    for attribute, lambda_x, omega_x in zip(leaves_of(policy), lambdas, omegas, strict=True):
        t_x = draws.draw()
        a_t, y_t = used[attribute.authority]._powers.of(t_x)
        parts += [
            (generator_power(lambda_x) * a_t).to_bytes(),
            (-g2_power(t_x)).to_bytes(),
            (y_t + g2_power(omega_x)).to_bytes(),
            _attribute_point(attribute).times(t_x).to_bytes(),
        ]
    return b"".join(parts)


def encapsulate(policy: Policy, publics: Mapping[str, AuthorityPublic], *, binding: bytes,
                seed: bytes | None = None) -> tuple[bytes, bytes]:
    """(key of 32 bytes, header): a fresh key that opens for who satisfies `policy`, and only with this `binding` (1 to
    4,096 bytes that say what is shared). `publics` has the checked public value of each authority by its UUID text.

    `seed` (32 bytes) is for vectors alone. Raises AuthorityRefused if a public value is missing."""
    seed = encapsulation.new_seed(seed)
    header = _header(policy, publics, binding, seed)
    return encapsulation.derive_key(seed, _TAG_KEY, header), header


@dataclasses.dataclass(frozen=True)
class _Header:
    whole: bytes
    policy: Policy
    start: bytes  # front || policy
    covered: bytes
    body: bytes

    def row(self, x: int) -> tuple[GT, G2, G2, G1]:
        """C1, C2, C3, C4 of row x, each checked to be in its group. Raises AbeMalformed."""
        row = self.body[x * ROW_BYTES : (x + 1) * ROW_BYTES]
        at_2, at_3, at_4 = GT_BYTES, GT_BYTES + G2_BYTES, GT_BYTES + 2 * G2_BYTES
        return (GT.from_bytes(row[:at_2]), G2.from_bytes(row[at_2:at_3]), G2.from_bytes(row[at_3:at_4]),
                G1.from_bytes(row[at_4:]))


def _parse(header: bytes) -> _Header:
    """Raises AbeMalformed. Rows are read when they are used; the comparison at the end covers all of them."""
    count, text, covered, body = encapsulation.parse(header, encapsulation.SUITE_RW15, 0, ROW_BYTES)
    try:
        policy = from_canonical(text)
    except PolicyError as error:
        raise AbeMalformed("header without a policy") from error
    if leaf_count(policy) != count:
        raise AbeMalformed("header has another number of rows than its policy")
    return _Header(bytes(header), policy, encapsulation.front(encapsulation.SUITE_RW15, count, text), covered, body)


def policy_of(header: bytes) -> Policy:
    """The policy in a header. It is authenticated only once the header has been opened. Raises AbeMalformed."""
    return _parse(header).policy


@dataclasses.dataclass(frozen=True)
class _Pick:
    """One row taken into the product: its exponent, the key used on it, and the GID hashed for it."""

    row: int
    factor: int
    key: AttributeKey
    gid: str


def _recovered(header: _Header, picks: Sequence[_Pick], divisor: int) -> GT:
    """e(g1,g2)^z, if the picks are right: RW15, Decrypt, with the pairings of one key and of one GID merged.

    Private, and without any check whether the keys satisfy the policy: attack tests come in here with rows, exponents,
    keys and GIDs of their choice, as an attacker would."""
    if not picks:
        raise AbeNotSatisfied("no row")
    rows = [header.row(pick.row) for pick in picks]
    factors = [pick.factor for pick in picks]
    pairs: list[tuple[G1, G2]] = []
    by_key: dict[int, list[int]] = {}
    by_gid: dict[str, list[int]] = {}
    for i, pick in enumerate(picks):
        by_key.setdefault(id(pick.key), []).append(i)
        by_gid.setdefault(pick.gid, []).append(i)
    for same_key in by_key.values():
        key = picks[same_key[0]].key
        some = [factors[i] for i in same_key]
        if len(same_key) == 1:
            pairs.append((key.k.times_public(some[0]), rows[same_key[0]][1]))  # cheaper in G1 than in G2
        else:
            pairs.append((key.k, sum_public([rows[i][1] for i in same_key], some)))
        pairs.append((sum_public([rows[i][3] for i in same_key], some), key.t))
    for gid, same_gid in by_gid.items():
        pairs.append((_gid_point(gid), sum_public([rows[i][2] for i in same_gid], [factors[i] for i in same_gid])))
    product = product_public([row[0] for row in rows], factors) * pairing_product(pairs)
    return product if divisor == 1 else product.power(pow(divisor, -1, R))


def _uncovered(header: bytes | _Header, picks: Sequence[_Pick], publics: Mapping[str, AuthorityPublic], *,
               binding: bytes, divisor: int = 1) -> bytes:
    """The seed these picks uncover, without the re-encryption check. Private: for `decapsulate` and attack tests."""
    parsed = header if isinstance(header, _Header) else _parse(header)
    context = _context(parsed.start, _publics_of(parsed.policy, publics), binding)
    return encapsulation.cover(parsed.covered, _TAG_COVER, context, _recovered(parsed, picks, divisor))


def _opened(header: bytes | _Header, picks: Sequence[_Pick], publics: Mapping[str, AuthorityPublic], *,
            binding: bytes, divisor: int = 1) -> bytes:
    """The key these picks open, with the re-encryption check and without the check of the policy.

    Private: for `decapsulate` and attack tests. Raises AbeError."""
    parsed = header if isinstance(header, _Header) else _parse(header)
    seed = _uncovered(parsed, picks, publics, binding=binding, divisor=divisor)
    encapsulation.same(_header(parsed.policy, publics, binding, seed), parsed.whole)
    return encapsulation.derive_key(seed, _TAG_KEY, parsed.whole)


def decapsulate(header: bytes, keys: Iterable[AttributeKey], publics: Mapping[str, AuthorityPublic], *,
                binding: bytes) -> bytes:
    """The key of 32 bytes in a header, with the attribute keys of one person.

    Raises AbeNotSatisfied if the keys do not satisfy the policy, AuthorityRefused if a public value is missing,
    AbeMalformed for a header that is none, AbeError for one that was changed, moved to another binding, or made for
    other public values, and for keys that do not belong together or to these authorities."""
    parsed = _parse(header)
    by_attribute: dict[Attribute, AttributeKey] = {key.attribute: key for key in keys}
    if len({key.gid for key in by_attribute.values()}) > 1:
        raise AbeError("keys of more than one person")
    chosen = choose(parsed.policy, by_attribute.keys())
    if chosen is None:
        raise AbeNotSatisfied("the keys do not satisfy the policy")
    leaves = list(leaves_of(parsed.policy))
    rows, divisor = chosen
    picks = []
    for x, factor in rows:
        key = by_attribute[leaves[x]]
        picks.append(_Pick(x, factor, key, key.gid))
    return _opened(parsed, picks, publics, binding=binding, divisor=divisor)
