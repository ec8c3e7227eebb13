"""BLS12-381 through blst: points of G1 and G2, elements of GT, hashing to G1, pairings.

Encodings and domains: docs/formats/abe.md. Called by the two schemes beside it; knows nothing of policies or keys. The
library is loaded and tested on first use, once a process; every value here is immutable, so threads may share them.

All points handed out are in the groups of order R: decoding refuses the rest. `power` with a secret exponent takes
constant time in G1 and G2 (blst's own multiplication) and always multiplies in GT; `power_public` does not.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
import threading
from collections.abc import Iterable, Sequence
from typing import ClassVar, TypeVar

from myphr.errors import AbeMalformed, CurveUnavailable

R = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001  # order of G1, G2 and GT
P = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
SCALAR_BYTES = 32
G1_BYTES = 48
G2_BYTES = 96
GT_BYTES = 576
LIBRARY_VARIABLE = "MYPHR_LIBBLST"

_MINUS_X = 0xD201000000010000  # the curve's parameter is x = -_MINUS_X; R = x^4 - x^2 + 1
_DIGIT_BITS = 64
_P_BYTES = P.to_bytes(48, "big")
_GENERATOR_GT_SHA256 = "4bb3f049849e856bd6879346f3978c28b031a407701c01ebb19d74a35c645520"


class _Library:
    """The functions of blst. `call` keeps Python's lock and is for what takes microseconds, of which one encapsulation
    does thousands: handing the lock over would cost more than the work. `free` gives it back, for pairings."""

    _SIGNATURES: ClassVar[dict[str, tuple[object, str]]] = {
        # name: (result, arguments: p pointer, s size, i int, b bool)
        "blst_p1_generator": (ctypes.c_void_p, ""), "blst_p2_generator": (ctypes.c_void_p, ""),
        "blst_p1_uncompress": (ctypes.c_int, "pp"), "blst_p2_uncompress": (ctypes.c_int, "pp"),
        "blst_p1_compress": (None, "pp"), "blst_p2_compress": (None, "pp"),
        "blst_p1_affine_in_g1": (ctypes.c_bool, "p"), "blst_p2_affine_in_g2": (ctypes.c_bool, "p"),
        "blst_p1_affine_is_inf": (ctypes.c_bool, "p"), "blst_p2_affine_is_inf": (ctypes.c_bool, "p"),
        "blst_p1_is_inf": (ctypes.c_bool, "p"), "blst_p2_is_inf": (ctypes.c_bool, "p"),
        "blst_p1_from_affine": (None, "pp"), "blst_p2_from_affine": (None, "pp"),
        "blst_p1_to_affine": (None, "pp"), "blst_p2_to_affine": (None, "pp"),
        "blst_p1_add_or_double": (None, "ppp"), "blst_p2_add_or_double": (None, "ppp"),
        "blst_p2_add_or_double_affine": (None, "ppp"), "blst_p2_double": (None, "pp"),
        "blst_p1_cneg": (None, "pb"), "blst_p2_cneg": (None, "pb"),
        "blst_p1_mult": (None, "ppps"), "blst_p2_mult": (None, "ppps"),
        "blst_hash_to_g1": (None, "ppspsps"), "blst_hash_to_g2": (None, "ppspsps"),
        "blst_miller_loop_n": (None, "ppps"), "blst_final_exp": (None, "pp"),
        "blst_fp_from_bendian": (None, "pp"), "blst_bendian_from_fp12": (None, "pp"),
        "blst_fp12_in_group": (ctypes.c_bool, "p"), "blst_fp12_is_one": (ctypes.c_bool, "p"),
        "blst_fp12_one": (ctypes.c_void_p, ""), "blst_fp12_sizeof": (ctypes.c_size_t, ""),
        "blst_p1_sizeof": (ctypes.c_size_t, ""), "blst_p2_sizeof": (ctypes.c_size_t, ""),
        "blst_fp12_mul": (None, "ppp"), "blst_fp12_cyclotomic_sqr": (None, "pp"),
        "blst_fp12_conjugate": (None, "p"), "blst_fp12_frobenius_map": (None, "pps"),
    }
    _ARGUMENTS: ClassVar[dict[str, object]] = {"p": ctypes.c_void_p, "s": ctypes.c_size_t, "b": ctypes.c_bool}

    def __init__(self, path: str) -> None:
        self.call = ctypes.PyDLL(path)
        self.free = ctypes.CDLL(path)
        for loaded in (self.call, self.free):
            for name, (result, arguments) in self._SIGNATURES.items():
                function = getattr(loaded, name)
                function.restype = result
                function.argtypes = [self._ARGUMENTS[argument] for argument in arguments]
        sizes = (self.call.blst_p1_sizeof(), self.call.blst_p2_sizeof(), self.call.blst_fp12_sizeof())
        if sizes != (144, 288, 576):
            raise CurveUnavailable("blst was built for another size of numbers")


_ready: _Library | None = None
_loading: _Library | None = None
_load_lock = threading.RLock()


def _candidates() -> Iterable[str]:
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        yield named  # named on purpose: no other one is tried in its place
        return
    packaged = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libblst.so")
    if os.path.exists(packaged):
        yield packaged
    wheel = importlib.util.find_spec("ckzg")
    if wheel is not None and wheel.origin:
        yield wheel.origin


def _load() -> _Library:
    reasons = []
    for path in _candidates():
        try:
            return _Library(path)
        except (OSError, AttributeError) as error:
            reasons.append(str(error))
    raise CurveUnavailable("; ".join(reasons) or "no blst library: neither named, nor packaged, nor in ckzg")


def _library() -> _Library:
    global _ready, _loading
    if _ready is not None:
        return _ready
    with _load_lock:  # re-entrant: the self-test computes with the library it tests, other threads wait
        if _ready is not None:
            return _ready
        if _loading is not None:
            return _loading
        _loading = _load()
        try:
            _run_self_test()
            _ready = _loading
        finally:
            _loading = None
        return _ready


def self_test() -> None:
    """Loads blst and tests it, once a process; later calls return at once.

    Raises CurveUnavailable if there is no library or it answers wrongly: the portal must not start then."""
    _library()


# -- scalars --------------------------------------------------------------------------------------
def check_scalar(value: int) -> int:
    """`value` if it is in 0..R-1. Raises ValueError."""
    if type(value) is not int or not 0 <= value < R:
        raise ValueError("a scalar is below the order of the group")
    return value


def scalar_to_bytes(value: int) -> bytes:
    return check_scalar(value).to_bytes(SCALAR_BYTES, "big")


def scalar_from_bytes(data: bytes) -> int:
    """A scalar of 32 bytes, 0..R-1. Raises AbeMalformed."""
    value = int.from_bytes(data, "big")
    if len(data) != SCALAR_BYTES or value >= R:
        raise AbeMalformed("not a scalar")
    return value


def wide(data: bytes) -> int:
    """A scalar in 1..R-1 out of 64 uniform bytes; its bias is below 2^-256 (docs/formats/abe.md, "Scalars")."""
    if len(data) != 64:
        raise ValueError("64 bytes make a scalar")
    return 1 + int.from_bytes(data, "big") % (R - 1)


# -- G1 and G2 ------------------------------------------------------------------------------------
_Point = TypeVar("_Point", bound="_PointBase")


class _PointBase:
    """A point of a group of order R, in blst's projective form. Immutable."""

    __slots__ = ("_at",)
    SIZE: ClassVar[int]  # bytes, compressed
    _MEMORY: ClassVar[int]  # bytes of the projective form; the affine one has two thirds of it
    _NAME: ClassVar[str]

    _at: "ctypes.Array[ctypes.c_char]"

    @classmethod
    def _new(cls: type[_Point]) -> _Point:
        point = object.__new__(cls)
        point._at = ctypes.create_string_buffer(cls._MEMORY)
        return point

    @classmethod
    def _call(cls, name: str) -> "ctypes._FuncPointer":
        return getattr(_library().call, f"blst_{cls._NAME}_{name}")  # type: ignore[no-any-return]

    @classmethod
    def generator(cls: type[_Point]) -> _Point:
        point = cls._new()
        ctypes.memmove(point._at, cls._call("generator")(), cls._MEMORY)
        return point

    @classmethod
    def from_bytes(cls: type[_Point], data: bytes) -> _Point:
        """Reads the Zcash compressed form. Raises AbeMalformed for another length, a non-canonical form, infinity, and
        what is not on the curve or not in the subgroup."""
        affine = ctypes.create_string_buffer(cls._MEMORY // 3 * 2)
        if len(data) != cls.SIZE or cls._call("uncompress")(affine, bytes(data)) != 0:
            raise AbeMalformed("not a point")
        in_group = "affine_in_g1" if cls._NAME == "p1" else "affine_in_g2"
        if cls._call("affine_is_inf")(affine) or not cls._call(in_group)(affine):
            raise AbeMalformed("not a point of the group")
        point = cls._new()
        cls._call("from_affine")(point._at, affine)
        return point

    def to_bytes(self) -> bytes:
        """The Zcash compressed form. Raises AbeMalformed for infinity, which no format here has."""
        if self.is_infinity():
            raise AbeMalformed("infinity has no place in a format")
        out = ctypes.create_string_buffer(self.SIZE)
        self._call("compress")(out, self._at)
        return out.raw

    def is_infinity(self) -> bool:
        return bool(self._call("is_inf")(self._at))

    def affine(self) -> "ctypes.Array[ctypes.c_char]":
        out = ctypes.create_string_buffer(self._MEMORY // 3 * 2)
        self._call("to_affine")(out, self._at)
        return out

    def __add__(self: _Point, other: _Point) -> _Point:
        point = self._new()
        self._call("add_or_double")(point._at, self._at, other._at)
        return point

    def __neg__(self: _Point) -> _Point:
        point = self._new()
        ctypes.memmove(point._at, self._at, self._MEMORY)
        self._call("cneg")(point._at, True)
        return point

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (self + -other).is_infinity()

    __hash__ = None  # type: ignore[assignment]  # mutable buffers make no keys of dictionaries

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def times(self: _Point, scalar: int) -> _Point:
        """This point `scalar` (0..R-1) times, in a time that does not depend on the scalar: for secrets."""
        point = self._new()
        self._call("mult")(point._at, self._at, check_scalar(scalar).to_bytes(32, "little"), 255)
        return point

    def times_public(self: _Point, factor: int) -> _Point:
        """This point `factor` times (any integer), faster for small ones: for public factors only."""
        factor = centred(factor)
        size = abs(factor).bit_length()
        if size == 1:
            return self if factor > 0 else -self
        point = self._new()
        self._call("mult")(point._at, self._at, abs(factor).to_bytes(32, "little"), size)
        return -point if factor < 0 else point


class G1(_PointBase):
    __slots__ = ()
    SIZE = G1_BYTES
    _MEMORY = 144
    _NAME = "p1"


class G2(_PointBase):
    __slots__ = ()
    SIZE = G2_BYTES
    _MEMORY = 288
    _NAME = "p2"


def centred(factor: int) -> int:
    """The representative of `factor` mod R closest to 0: -1 is cheaper than R - 1."""
    factor %= R
    return factor - R if factor > R // 2 else factor


def sum_public(points: Sequence[_Point], factors: Sequence[int]) -> _Point:
    """sum factors[i] * points[i], for public factors; at least one point."""
    small = [centred(factor) for factor in factors]
    if len(points) == 1 or max(map(abs, small)) >= 1 << _DIGIT_BITS:
        total = points[0].times_public(small[0])
        for point, factor in zip(points[1:], small[1:], strict=True):
            total = total + point.times_public(factor)
        return total
    total = points[0]._new()  # all zeros: infinity
    at, add = total._at, total._call("add_or_double")
    signed = [point._at if factor >= 0 else (-point)._at for point, factor in zip(points, small, strict=True)]
    for place in range(max(abs(factor).bit_length() for factor in small) - 1, -1, -1):
        add(at, at, at)
        for point_at, factor in zip(signed, small, strict=True):
            if abs(factor) >> place & 1:
                add(at, at, point_at)
    return total


def hash_to_g1(message: bytes, dst: bytes) -> G1:
    """hash_to_curve of RFC 9380, suite BLS12381G1_XMD:SHA-256_SSWU_RO_. `dst` has 16 to 255 bytes."""
    if not 16 <= len(dst) <= 255:
        raise ValueError("a domain has 16 to 255 bytes")
    point = G1._new()
    _library().call.blst_hash_to_g1(point._at, bytes(message), len(message), bytes(dst), len(dst), None, 0)
    return point


def hash_to_g2(message: bytes, dst: bytes) -> G2:
    """hash_to_curve of RFC 9380, suite BLS12381G2_XMD:SHA-256_SSWU_RO_. Only the vectors use it."""
    if not 16 <= len(dst) <= 255:
        raise ValueError("a domain has 16 to 255 bytes")
    point = G2._new()
    _library().call.blst_hash_to_g2(point._at, bytes(message), len(message), bytes(dst), len(dst), None, 0)
    return point


# -- GT -------------------------------------------------------------------------------------------
def _coefficient_offset(k: int) -> int:
    """Where blst keeps the coefficient of w^k in its Fp12 (two Fp6 of three Fp2 each, 96 bytes an Fp2)."""
    return (k % 2 * 3 + k // 2) * 96


class GT:
    """An element of the subgroup of order R of Fp12. Immutable; written multiplicatively."""

    __slots__ = ("_at",)
    SIZE = GT_BYTES

    def __init__(self) -> None:
        """The neutral element."""
        self._at = ctypes.create_string_buffer(GT_BYTES)
        ctypes.memmove(self._at, _library().call.blst_fp12_one(), GT_BYTES)

    @staticmethod
    def _new() -> "GT":
        element = object.__new__(GT)
        element._at = ctypes.create_string_buffer(GT_BYTES)
        return element

    @staticmethod
    def generator() -> "GT":
        """e(g1, g2)."""
        return _generator_gt()

    @classmethod
    def from_bytes(cls, data: bytes) -> "GT":
        """Reads 576 bytes. Raises AbeMalformed for another length, a coefficient not below P, the neutral element, and
        what is not in the subgroup of order R."""
        if len(data) != GT_BYTES:
            raise AbeMalformed("not an element of GT")
        data = bytes(data)
        call = _library().call
        element = cls._new()
        start = ctypes.addressof(element._at)
        for k in range(6):
            for half in (0, 48):
                coefficient = data[k * 96 + half : k * 96 + half + 48]
                if coefficient >= _P_BYTES:
                    raise AbeMalformed("not an element of GT")
                call.blst_fp_from_bendian(start + _coefficient_offset(k) + half, coefficient)
        if call.blst_fp12_is_one(element._at) or not call.blst_fp12_in_group(element._at):
            raise AbeMalformed("not an element of GT")
        return element

    def to_bytes(self) -> bytes:
        out = ctypes.create_string_buffer(GT_BYTES)
        _library().call.blst_bendian_from_fp12(out, self._at)
        return out.raw

    def __mul__(self, other: "GT") -> "GT":
        element = GT._new()
        _library().call.blst_fp12_mul(element._at, self._at, other._at)
        return element

    def inverse(self) -> "GT":
        """In this subgroup the inverse is the conjugate."""
        element = GT._new()
        ctypes.memmove(element._at, self._at, GT_BYTES)
        _library().call.blst_fp12_conjugate(element._at)
        return element

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GT):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<GT>"

    def is_one(self) -> bool:
        return bool(_library().call.blst_fp12_is_one(self._at))

    def _frobenius(self, times: int) -> "GT":
        element = GT._new()
        _library().call.blst_fp12_frobenius_map(element._at, self._at, times)
        return element

    def _powers_of_x(self) -> tuple["GT", "GT", "GT", "GT"]:
        """This to the powers 1, |x|, |x|^2, |x|^3: in the subgroup the Frobenius map is the power x, and x < 0."""
        return (self, self._frobenius(1).inverse(), self._frobenius(2), self._frobenius(3).inverse())

    def power(self, scalar: int) -> "GT":
        """This to the power `scalar` (0..R-1): 63 squarings and 64 multiplications whatever the scalar."""
        return Comb(self, halves=1, tables=1).power(scalar)


def _square(element: GT, times: int = 1) -> GT:
    out = GT._new()
    at, square = out._at, _library().call.blst_fp12_cyclotomic_sqr
    square(at, element._at)
    for _ in range(times - 1):
        square(at, at)
    return out


def _columns(bits: str, width: int) -> list[int]:
    """The columns of a bit string cut into rows of `width`: entry i has bit i of every row, the last row's lowest."""
    return [int(bits[width - 1 - place :: width], 2) for place in range(width)]


class Comb:
    """Powers of one element of GT, with tables made once: for an element that is raised more than once.

    The scalar is written in base |x| (four digits of 64 bits, no division left to do: R < x^4), each digit cut into
    `halves` parts, each part into `tables` rows; one column of bits is one entry of a table (Lim and Lee, 1994). Every
    power costs 64 / (halves * tables) - 1 squarings and 64 / halves multiplications, neutral ones too. A table has
    2^(4 * halves) entries of 576 bytes."""

    __slots__ = ("_halves", "_rows", "_tables", "_tables_at")

    def __init__(self, base: GT, *, halves: int, tables: int) -> None:
        if halves not in (1, 2) or tables not in (1, 2, 4, 8):
            raise ValueError("no such comb")
        self._halves = halves
        self._rows = _DIGIT_BITS // (halves * tables)
        bases = list(base._powers_of_x())
        if halves == 2:
            bases += [_square(one, _DIGIT_BITS // 2) for one in bases]
        multiply = _library().call.blst_fp12_mul
        entries = 1 << len(bases)
        self._tables = []
        for number in range(tables):
            if number:
                bases = [_square(one, self._rows) for one in bases]
            table = ctypes.create_string_buffer(entries * GT_BYTES)
            start = ctypes.addressof(table)
            ctypes.memmove(start, GT()._at, GT_BYTES)
            for index in range(1, entries):
                top = index.bit_length() - 1
                multiply(start + index * GT_BYTES, start + (index ^ 1 << top) * GT_BYTES, bases[top]._at)
            self._tables.append(table)
        self._tables_at = [ctypes.addressof(table) for table in self._tables]

    def power(self, scalar: int) -> GT:
        """The base to the power `scalar` (0..R-1)."""
        rest = check_scalar(scalar)
        bits = ""
        upper = ""
        for _ in range(4):
            rest, digit = divmod(rest, _MINUS_X)
            if self._halves == 2:
                upper = format(digit >> 32, "032b") + upper
                digit &= 0xFFFFFFFF
            bits = format(digit, "032b" if self._halves == 2 else "064b") + bits
        columns = _columns(upper + bits, _DIGIT_BITS // self._halves)
        out = GT()
        at = ctypes.addressof(out._at)
        call = _library().call
        multiply, square = call.blst_fp12_mul, call.blst_fp12_cyclotomic_sqr
        rows = self._rows
        for row in range(rows - 1, -1, -1):
            if row != rows - 1:
                square(at, at)
            for number, table_at in enumerate(self._tables_at):
                multiply(at, at, table_at + columns[number * rows + row] * GT_BYTES)
        return out


def product_public(elements: Sequence[GT], factors: Sequence[int]) -> GT:
    """prod elements[i] ^ factors[i], for public factors (any integers): squarings are shared."""
    out = GT()
    at = out._at
    call = _library().call
    small = [centred(factor) for factor in factors]
    signed = [element if factor > 0 else element.inverse() for element, factor in zip(elements, small, strict=True)]
    if any(abs(factor) >= 1 << _DIGIT_BITS for factor in small):
        for element, factor in zip(signed, small, strict=True):
            out = out * element.power(abs(factor))
        return out
    for place in range(max((abs(factor).bit_length() for factor in small), default=0) - 1, -1, -1):
        call.blst_fp12_cyclotomic_sqr(at, at)
        for element, factor in zip(signed, small, strict=True):
            if abs(factor) >> place & 1:
                call.blst_fp12_mul(at, at, element._at)
    return out


# -- pairings -------------------------------------------------------------------------------------
def pairing_product(pairs: Sequence[tuple[G1, G2]]) -> GT:
    """prod e(p, q): one shared final exponentiation. A pair with infinity counts as 1."""
    left, right = [], []
    for p, q in pairs:
        if not p.is_infinity() and not q.is_infinity():
            left.append(p.affine())
            right.append(q.affine())
    if not left:
        return GT()
    pointers = ctypes.c_void_p * len(left)
    middle, element = GT._new(), GT._new()
    free = _library().free
    free.blst_miller_loop_n(middle._at, pointers(*map(ctypes.addressof, right)), pointers(*map(ctypes.addressof, left)),
                            len(left))
    free.blst_final_exp(element._at, middle._at)
    return element


def pairing(p: G1, q: G2) -> GT:
    return pairing_product([(p, q)])


_cache_lock = threading.RLock()


@functools.lru_cache(maxsize=1)
def _cached_generator_gt() -> GT:
    return pairing(G1.generator(), G2.generator())


@functools.lru_cache(maxsize=1)
def _cached_generator_comb() -> Comb:
    return Comb(_generator_gt(), halves=2, tables=4)


def _generator_gt() -> GT:
    with _cache_lock:
        return _cached_generator_gt()


class CombG2:
    """Powers of one point of G2: as `Comb`, for 256-bit scalars in 8 teeth of 32 bits and 1, 2 or 4 tables of 256
    affine points: 32 / tables - 1 doublings and 32 additions, those of infinity too (blst's addition selects without
    branching). A table takes 49 kB."""

    __slots__ = ("_rows", "_tables", "_tables_at")
    _TEETH = 8
    _ENTRY_BYTES = 192

    def __init__(self, base: G2, *, tables: int) -> None:
        if tables not in (1, 2, 4):
            raise ValueError("no such comb")
        self._rows = 32 // tables
        bases = [base]
        for _ in range(self._TEETH - 1):
            bases.append(bases[-1].times_public(1 << 32))
        self._tables = []
        for number in range(tables):
            if number:
                bases = [one.times_public(1 << self._rows) for one in bases]
            points = [G2._new()]  # all zeros: blst's infinity, in affine form too
            for index in range(1, 1 << self._TEETH):
                top = index.bit_length() - 1
                points.append(points[index ^ 1 << top] + bases[top])
            self._tables.append(ctypes.create_string_buffer(b"".join(point.affine().raw for point in points)))
        self._tables_at = [ctypes.addressof(table) for table in self._tables]

    def power(self, scalar: int) -> G2:
        point = G2._new()
        at = ctypes.addressof(point._at)
        call = _library().call
        add, double = call.blst_p2_add_or_double_affine, call.blst_p2_double
        columns = _columns(format(check_scalar(scalar), "0256b"), 32)
        for row in range(self._rows - 1, -1, -1):
            if row != self._rows - 1:
                double(at, at)
            for number, table_at in enumerate(self._tables_at):
                add(at, at, table_at + columns[number * self._rows + row] * self._ENTRY_BYTES)
        return point


@functools.lru_cache(maxsize=1)
def _cached_g2_comb() -> CombG2:
    return CombG2(G2.generator(), tables=4)


def g2_power(scalar: int) -> G2:
    """g2 to the power `scalar` (0..R-1), with a comb of 197 kB that the process keeps."""
    with _cache_lock:
        comb = _cached_g2_comb()
    return comb.power(scalar)


def generator_power(scalar: int) -> GT:
    """e(g1, g2) to the power `scalar`, with a comb of 590 kB that the process keeps."""
    with _cache_lock:
        comb = _cached_generator_comb()
    return comb.power(scalar)


# -- self-test ------------------------------------------------------------------------------------
# RFC 9380, J.9.1 and J.10.1, messages "" and "abc", in compressed form.
_RFC_9380 = (
    (hash_to_g1, b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_", b"",
     "852926add2207b76ca4fa57a8734416c8dc95e24501772c814278700eed6d1e4e8cf62d9c09db0fac349612b759e79a1"),
    (hash_to_g1, b"QUUX-V01-CS02-with-BLS12381G1_XMD:SHA-256_SSWU_RO_", b"abc",
     "83567bc5ef9c690c2ab2ecdf6a96ef1c139cc0b2f284dca0a9a7943388a49a3aee664ba5379a7655d3c68900be2f6903"),
    (hash_to_g2, b"QUUX-V01-CS02-with-BLS12381G2_XMD:SHA-256_SSWU_RO_", b"",
     "a5cb8437535e20ecffaef7752baddf98034139c38452458baeefab379ba13dff5bf5dd71b72418717047f5b0f37da03d"
     "0141ebfbdca40eb85b87142e130ab689c673cf60f1a3e98d69335266f30d9b8d4ac44c1038e9dcdd5393faf5c41fb78a"),
    (hash_to_g2, b"QUUX-V01-CS02-with-BLS12381G2_XMD:SHA-256_SSWU_RO_", b"abc",
     "939cddbccdc5e91b9623efd38c49f81a6f83f175e80b06fc374de9eb4b41dfe4ca3a230ed250fbe3a2acf73a41177fd8"
     "02c2d18e033b960562aae3cab37a27ce00d80ccd5ba4b7fe0e7a210245129dbec7780ccc7954725f4168aff2787776e6"),
)
# Must not be read: x = 4 is on the curve and not in the subgroup (G1); infinity; x = P; the neutral element and an
# element of Fp12 outside the subgroup of GT.
_REFUSED: tuple[tuple[type[G1] | type[G2] | type[GT], bytes], ...] = (
    (G1, bytes((0x80,)) + bytes(46) + b"\x04"), (G1, b"\xc0" + bytes(47)), (G2, b"\xc0" + bytes(95)),
    (G1, bytes((_P_BYTES[0] | 0x80,)) + _P_BYTES[1:]),
    (GT, bytes(47) + b"\x01" + bytes(528)), (GT, bytes(47) + b"\x02" + bytes(528)), (GT, bytes(576)),
)


def _run_self_test() -> None:
    """Known answers and refusals. Raises CurveUnavailable."""
    for function, dst, message, expected in _RFC_9380:
        if function(message, dst).to_bytes().hex() != expected:
            raise CurveUnavailable("self-test: hash_to_curve answers wrongly")
    p, q = G1.generator(), G2.generator()
    gt = pairing(p, q)
    if hashlib.sha256(gt.to_bytes()).hexdigest() != _GENERATOR_GT_SHA256:
        raise CurveUnavailable("self-test: the pairing answers wrongly")
    a, b = wide(hashlib.sha512(b"a").digest()), wide(hashlib.sha512(b"b").digest())
    both = gt.power(a * b % R)
    if pairing(p.times(a), q.times(b)) != both or Comb(gt, halves=1, tables=4).power(a * b % R) != both:
        raise CurveUnavailable("self-test: the pairing is not bilinear")
    if GT.from_bytes(both.to_bytes()) != both or not (both * both.inverse()).is_one():
        raise CurveUnavailable("self-test: GT is not read as it was written")
    for kind, data in _REFUSED:
        try:
            kind.from_bytes(data)
        except AbeMalformed:
            continue
        raise CurveUnavailable("self-test: an element outside the group was accepted")
