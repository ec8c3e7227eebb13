"""Keys over the labels of one patient's records: FABEO-KP as a key encapsulation, one instance per patient.

Riepel and Wee, "FABEO: fast attribute-based encryption with optimal security" (2022), the KP-ABE scheme, with a
repetition index for labels that stand more than once in a policy. Bytes: docs/formats/abe.md, suite 2. Takes and gives
bytes and values. Called by `sharing`.
"""

import dataclasses
import functools
import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence

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
    R,
    g2_power,
    generator_power,
    hash_to_g1,
    pairing_product,
    scalar_from_bytes,
    scalar_to_bytes,
    sum_public,
    wide,
)
from myphr.crypto.abe.policy import (
    Attribute,
    Policy,
    attributes_from_bytes,
    canonical,
    from_canonical,
    leaf_count,
    leaves_of,
)
from myphr.crypto.abe.shares import Draws, choose, share
from myphr.errors import AbeMalformed, AbeNotSatisfied, AuthorityRefused, PolicyError

LABEL_DST = b"MYPHR-ABE-V01-KP-LABEL_BLS12381G1_XMD:SHA-256_SSWU_RO_"
LABELS_MAX = encapsulation.LABELS_MAX

_KIND_SECRET, _KIND_PUBLIC, _KIND_KEY = 4, 5, 6
_TAG_PATIENT = b"myphr/abe/kp/patient/1"
_TAG_ISSUE = b"myphr/abe/kp/issue/1"
_TAG_NONCE = b"myphr/abe/kp/possession-nonce/1"
_TAG_POSSESSION = b"myphr/abe/kp/possession/1"
_TAG_BOUND = b"myphr/abe/kp/bound/1"
_TAG_ENCAPSULATE = b"myphr/abe/kp/encapsulate/1"
_TAG_COVER = b"myphr/abe/kp/cover/1"
_TAG_KEY = b"myphr/abe/kp/key/1"


@functools.lru_cache(maxsize=1024)
def _label_point(label: Attribute) -> G1:
    """H(u) of the paper, in a domain of its own."""
    return hash_to_g1(label.to_bytes(), LABEL_DST)


# -- patients -------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class PatientPublic:
    """A = e(g1,g2)^alpha (FABEO-KP, Setup), and a proof that its owner knows alpha."""

    a: GT
    proof: tuple[int, int]

    def to_bytes(self) -> bytes:
        return (encapsulation.key_front(_KIND_PUBLIC) + self.a.to_bytes()
                + b"".join(scalar_to_bytes(part) for part in self.proof))

    @classmethod
    def from_bytes(cls, data: bytes) -> "PatientPublic":
        """Raises AbeMalformed. The proof is not checked here."""
        reader = encapsulation.KeyReader(data, _KIND_PUBLIC)
        a = GT.from_bytes(reader.take(GT_BYTES))
        c, z = (scalar_from_bytes(reader.take(SCALAR_BYTES)) for _ in range(2))
        reader.end()
        return cls(a, (c, z))

    @functools.cached_property
    def _digest(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()

    @functools.cached_property
    def _comb(self) -> Comb:
        """37 kB. Two threads may both make it; they make the same."""
        return Comb(self.a, halves=1, tables=4)


@dataclasses.dataclass(frozen=True)
class PatientSecret:
    """The master key of one patient (FABEO-KP, Setup): alpha, 1..R-1."""

    alpha: int = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.alpha < R:
            raise AbeMalformed("not a secret of a patient")

    @functools.cached_property
    def public(self) -> PatientPublic:
        """The public value with its proof (Schnorr's)."""
        a = generator_power(self.alpha)
        statement = a.to_bytes()
        nonce = wide(hmac.digest(scalar_to_bytes(self.alpha), _TAG_NONCE + b"\x00" + statement + struct.pack(">I", 0),
                                 "sha512"))
        c = _challenge(statement, generator_power(nonce))
        return PatientPublic(a, (c, (nonce + c * self.alpha) % R))

    def to_bytes(self) -> bytes:
        return encapsulation.key_front(_KIND_SECRET) + scalar_to_bytes(self.alpha)

    @classmethod
    def from_bytes(cls, data: bytes) -> "PatientSecret":
        """Raises AbeMalformed."""
        reader = encapsulation.KeyReader(data, _KIND_SECRET)
        alpha = scalar_from_bytes(reader.take(SCALAR_BYTES))
        reader.end()
        return cls(alpha)


def _challenge(statement: bytes, part: GT) -> int:
    return wide(hashlib.sha512(_TAG_POSSESSION + b"\x00" + statement + part.to_bytes()).digest())


def new_patient(*, seed: bytes | None = None) -> PatientSecret:
    """A fresh master key. `seed` (32 bytes) is for vectors alone."""
    return PatientSecret(Draws(encapsulation.new_seed(seed), _TAG_PATIENT, b"").draw())


def check_public(public: PatientPublic) -> None:
    """Raises AuthorityRefused unless the proof holds."""
    c, z = public.proof
    if _challenge(public.a.to_bytes(), generator_power(z) * public.a.power(-c % R)) != c:
        raise AuthorityRefused("proof of possession does not hold")


# -- keys -----------------------------------------------------------------------------------------
def _repetitions(policy: Policy) -> list[int]:
    """rho: for each leaf, how many leaves before it have the very same label."""
    seen: dict[Attribute, int] = {}
    found = []
    for label in leaves_of(policy):
        found.append(seen.get(label, 0))
        seen[label] = found[-1] + 1
    return found


@dataclasses.dataclass(frozen=True)
class KpKey:
    """A key that opens the records whose labels satisfy `policy` (FABEO-KP, KeyGen): K_x in G1 per leaf, R_j in G2 per
    repetition."""

    policy: Policy
    rows: tuple[G1, ...] = dataclasses.field(repr=False)
    randomisers: tuple[G2, ...] = dataclasses.field(repr=False)

    def to_bytes(self) -> bytes:
        policy = canonical(self.policy)
        return (encapsulation.key_front(_KIND_KEY) + struct.pack(">H", len(policy)) + policy
                + bytes((len(self.randomisers),)) + b"".join(one.to_bytes() for one in self.randomisers)
                + b"".join(row.to_bytes() for row in self.rows))

    @classmethod
    def from_bytes(cls, data: bytes) -> "KpKey":
        """Raises AbeMalformed."""
        reader = encapsulation.KeyReader(data, _KIND_KEY)
        try:
            policy = from_canonical(reader.take_sized())
        except PolicyError as error:
            raise AbeMalformed("key without a policy") from error
        count = reader.take(1)[0]
        if count != 1 + max(_repetitions(policy)):
            raise AbeMalformed("key has another number of parts than its policy")
        randomisers = tuple(G2.from_bytes(reader.take(G2_BYTES)) for _ in range(count))
        rows = tuple(G1.from_bytes(reader.take(G1_BYTES)) for _ in range(leaf_count(policy)))
        reader.end()
        return cls(policy, rows, randomisers)


def issue(secret: PatientSecret, policy: Policy, *, seed: bytes | None = None) -> KpKey:
    """FABEO-KP, KeyGen: K_x = g1^lambda_x L(label)^r_rho(x), R_j = g2^r_j. `seed` is for vectors alone."""
    draws = Draws(encapsulation.new_seed(seed), _TAG_ISSUE, hashlib.sha256(canonical(policy)).digest())
    lambdas = share(policy, secret.alpha, draws)
    repetitions = _repetitions(policy)
    r = [draws.draw() for _ in range(1 + max(repetitions))]
    g1, g2 = G1.generator(), G2.generator()  # not g2_power: its table lookups could tell r, and r the shares
    rows = tuple(g1.times(lambda_x) + _label_point(label).times(r[rho])
                 for label, lambda_x, rho in zip(leaves_of(policy), lambdas, repetitions, strict=True))
    return KpKey(policy, rows, tuple(g2.times(one) for one in r))


def check_key(key: KpKey, public: PatientPublic) -> None:
    """Whether the key opens what it says: its rows, put together over all leaves, give A. Raises AuthorityRefused.

    Checks one choice of leaves, the cheapest; a patient who wants to can still make other rows wrong."""
    chosen = choose(key.policy, set(leaves_of(key.policy)))
    assert chosen is not None
    rows, divisor = chosen
    repetitions = _repetitions(key.policy)
    leaves = list(leaves_of(key.policy))
    pairs = [(sum_public([key.rows[x] for x, _ in rows], [factor for _, factor in rows]), G2.generator())]
    pairs += [(-_label_point(leaves[x]).times_public(factor), key.randomisers[repetitions[x]]) for x, factor in rows]
    if pairing_product(pairs) != public.a.power(divisor % R):
        raise AuthorityRefused("key does not fit the public value")


# -- headers --------------------------------------------------------------------------------------
def _sorted_labels(labels: Iterable[Attribute]) -> tuple[Attribute, ...]:
    """Ascending by their bytes. Raises PolicyError for none, too many, or one twice."""
    found = sorted(labels, key=Attribute.to_bytes)
    if not 1 <= len(found) <= LABELS_MAX or len(set(found)) != len(found):
        raise PolicyError(reason=f"a record has 1 to {LABELS_MAX} labels, none of them twice")
    return tuple(found)


def _start(labels: Sequence[Attribute]) -> bytes:
    """front || labels."""
    return encapsulation.front(encapsulation.SUITE_KP, len(labels), b"".join(label.to_bytes() for label in labels))


def _context(start: bytes, public: PatientPublic, binding: bytes) -> bytes:
    """`ctx` of the spec."""
    return hashlib.sha256(_TAG_BOUND + b"\x00" + start + encapsulation.bound_binding(binding) + public._digest).digest()


def _header(labels: Sequence[Attribute], public: PatientPublic, binding: bytes, seed: bytes) -> bytes:
    """FABEO-KP, Encrypt, with s out of `seed`: C = g2^s, C_u = L(u)^s, and the seed covered by A^s."""
    start = _start(labels)
    context = _context(start, public, binding)
    s = Draws(seed, _TAG_ENCAPSULATE, context).draw()
    covered = encapsulation.cover(seed, _TAG_COVER, context, public._comb.power(s))
    return b"".join((start, covered, g2_power(s).to_bytes(),
                     *(_label_point(label).times(s).to_bytes() for label in labels)))


def encapsulate(labels: Iterable[Attribute], public: PatientPublic, *, binding: bytes,
                seed: bytes | None = None) -> tuple[bytes, bytes]:
    """(key of 32 bytes, header): a fresh key that opens for who holds a key of this patient whose policy the labels
    satisfy, and only with this `binding` (1 to 4,096 bytes). `seed` is for vectors alone. Raises PolicyError."""
    seed = encapsulation.new_seed(seed)
    header = _header(_sorted_labels(labels), public, binding, seed)
    return encapsulation.derive_key(seed, _TAG_KEY, header), header


@dataclasses.dataclass(frozen=True)
class _Header:
    whole: bytes
    labels: tuple[Attribute, ...]
    start: bytes
    covered: bytes
    body: bytes

    def c(self) -> G2:
        return G2.from_bytes(self.body[:G2_BYTES])

    def label_part(self, label: Attribute) -> G1:
        """C_label. Raises AbeMalformed, and AbeNotSatisfied for a label the record has not."""
        if label not in self.labels:
            raise AbeNotSatisfied("the record has no such label")
        at = G2_BYTES + self.labels.index(label) * G1_BYTES
        return G1.from_bytes(self.body[at : at + G1_BYTES])


def _parse(header: bytes) -> _Header:
    """Raises AbeMalformed."""
    count, text, covered, body = encapsulation.parse(header, encapsulation.SUITE_KP, G2_BYTES, G1_BYTES)
    try:
        labels = attributes_from_bytes(text, count)
        if _sorted_labels(labels) != labels:
            raise AbeMalformed("labels are not in order")
    except PolicyError as error:
        raise AbeMalformed("header without labels") from error
    return _Header(bytes(header), labels, _start(labels), covered, body)


def labels_of(header: bytes) -> tuple[Attribute, ...]:
    """The labels in a header, authenticated only once it has been opened. Raises AbeMalformed."""
    return _parse(header).labels


@dataclasses.dataclass(frozen=True)
class _Pick:
    """One row of a key taken into the product, its exponent, and the label whose part of the header meets it."""

    row: int
    factor: int
    key: KpKey
    label: Attribute


def _recovered(header: _Header, picks: Sequence[_Pick], divisor: int) -> GT:
    """A^s, if the picks are right: FABEO-KP, Decrypt, with the pairings of one randomiser merged.

    Private, and without any check whether the labels satisfy the key: attack tests come in here with rows of several
    keys and exponents of their choice."""
    if not picks:
        raise AbeNotSatisfied("no row")
    pairs = [(sum_public([pick.key.rows[pick.row] for pick in picks], [pick.factor for pick in picks]), header.c())]
    by_randomiser: dict[tuple[int, int], list[_Pick]] = {}
    for pick in picks:
        by_randomiser.setdefault((id(pick.key), _repetitions(pick.key.policy)[pick.row]), []).append(pick)
    for (_, rho), some in by_randomiser.items():
        part = sum_public([header.label_part(pick.label) for pick in some], [pick.factor for pick in some])
        pairs.append((-part, some[0].key.randomisers[rho]))
    product = pairing_product(pairs)
    return product if divisor == 1 else product.power(pow(divisor, -1, R))


def _uncovered(header: bytes | _Header, picks: Sequence[_Pick], public: PatientPublic, *, binding: bytes,
               divisor: int = 1) -> bytes:
    """The seed these picks uncover, without the re-encryption check. Private: for `decapsulate` and attack tests."""
    parsed = header if isinstance(header, _Header) else _parse(header)
    context = _context(parsed.start, public, binding)
    return encapsulation.cover(parsed.covered, _TAG_COVER, context, _recovered(parsed, picks, divisor))


def _opened(header: bytes | _Header, picks: Sequence[_Pick], public: PatientPublic, *, binding: bytes,
            divisor: int = 1) -> bytes:
    """The key these picks open, with the re-encryption check and without the check of the policy.

    Private: for `decapsulate` and attack tests. Raises AbeError."""
    parsed = header if isinstance(header, _Header) else _parse(header)
    seed = _uncovered(parsed, picks, public, binding=binding, divisor=divisor)
    encapsulation.same(_header(parsed.labels, public, binding, seed), parsed.whole)
    return encapsulation.derive_key(seed, _TAG_KEY, parsed.whole)


def decapsulate(header: bytes, key: KpKey, public: PatientPublic, *, binding: bytes) -> bytes:
    """The key of 32 bytes in a header. Raises AbeNotSatisfied if the record's labels do not satisfy the key's policy,
    AbeMalformed for a header that is none, AbeError for one that was changed, moved to another binding, or is of
    another patient."""
    parsed = _parse(header)
    chosen = choose(key.policy, parsed.labels)
    if chosen is None:
        raise AbeNotSatisfied("the labels do not satisfy the key")
    rows, divisor = chosen
    leaves = list(leaves_of(key.policy))
    picks = [_Pick(x, factor, key, leaves[x]) for x, factor in rows]
    return _opened(parsed, picks, public, binding=binding, divisor=divisor)
