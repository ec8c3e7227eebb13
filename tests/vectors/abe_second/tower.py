"""GT of BLS12-381 in plain Python integers, for reading and writing what py_arkworks_bls12381 can only compute.

An element of Fp12 is a polynomial in w of degree below 12 with w**12 = 2*w**6 - 2 (since u = w**6 - 1 and u**2 = -1).
Two such polynomials are multiplied as two long integers, one limb per coefficient (Kronecker). Tests only.
"""

import math

from py_arkworks_bls12381 import GT

P = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
Z_ABS = 0xD201000000010000  # the curve's parameter is z = -Z_ABS: P is z modulo ORDER, so x**P = x**z in GT
CYCLOTOMIC_ORDER = P**4 - P**2 + 1
assert (P + Z_ABS) % ORDER == 0 and math.gcd(P + Z_ABS, CYCLOTOMIC_ORDER) == ORDER  # what in_gt relies on
COORDINATE_BYTES, GT_BYTES = 48, 576
_LIMB = 100  # bytes per coefficient of a product: 2 * 381 bits, 12 summands, some room


class Fp12:
    """An element of the field; `*`, `**` and `==`. `coordinates` are c[i][j][k] of Fp2 < Fp6 < Fp12, flat, c[0][0][0]
    first: sum of (c[i][j][0] + c[i][j][1]*u) * v**j * w**i with v = w**2."""

    def __init__(self, packed: int) -> None:
        self._packed = packed

    @classmethod
    def from_coordinates(cls, coordinates: list[int]) -> "Fp12":
        """Twelve integers below P. Raises ValueError."""
        if len(coordinates) != 12 or not all(0 <= value < P for value in coordinates):
            raise ValueError("not twelve integers below the field's prime")
        powers = [0] * 12
        for index in range(6):
            i, j = divmod(index, 3)
            real, imaginary = coordinates[2 * index : 2 * index + 2]
            powers[2 * j + i] = (real - imaginary) % P
            powers[2 * j + i + 6] = imaginary
        return cls(int.from_bytes(b"".join(value.to_bytes(_LIMB, "little") for value in powers), "little"))

    @classmethod
    def from_arkworks(cls, element: GT) -> "Fp12":
        """str() of the library's GT is its only output: 576 bytes in hexadecimal, little end first."""
        raw = bytes.fromhex(str(element))
        return cls.from_coordinates(
            [int.from_bytes(raw[at : at + COORDINATE_BYTES], "little") for at in range(0, GT_BYTES, COORDINATE_BYTES)])

    def _powers(self) -> list[int]:
        raw = self._packed.to_bytes(12 * _LIMB, "little")
        return [int.from_bytes(raw[at : at + _LIMB], "little") for at in range(0, 12 * _LIMB, _LIMB)]

    def coordinates(self) -> list[int]:
        powers, out = self._powers(), []
        for i in range(2):
            for j in range(3):
                imaginary = powers[2 * j + i + 6]
                out += [(powers[2 * j + i] + imaginary) % P, imaginary]
        return out

    def __mul__(self, other: "Fp12") -> "Fp12":
        raw = (self._packed * other._packed).to_bytes(24 * _LIMB, "little")
        high = [int.from_bytes(raw[at : at + _LIMB], "little") for at in range(0, 23 * _LIMB, _LIMB)]
        for power in range(22, 11, -1):  # w**n = 2*w**(n-6) - 2*w**(n-12)
            high[power - 6] += 2 * high[power]
            high[power - 12] -= 2 * high[power]
        return _packed(high[:12])

    def __pow__(self, exponent: int) -> "Fp12":
        return power(self, exponent % (P**12 - 1), ONE)

    def to_the_p(self) -> "Fp12":
        """x ** P: coefficients stay, w becomes w**P."""
        out = [0] * 12
        for value, image in zip(self._powers(), _W_TO_THE_P, strict=True):
            for at, factor in image:
                out[at] += value * factor
        return _packed(out)

    def conjugate(self) -> "Fp12":
        """x ** (P**6): w becomes -w. In GT this is the inverse."""
        return _packed([-value if at % 2 else value for at, value in enumerate(self._powers())])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fp12) and self._packed == other._packed

    def __hash__(self) -> int:
        return hash(self._packed)


def _packed(powers: list[int]) -> Fp12:
    return Fp12(int.from_bytes(b"".join((value % P).to_bytes(_LIMB, "little") for value in powers), "little"))


def power(base, exponent: int, one):  # type: ignore[no-untyped-def]
    """base ** exponent (not negative) by windows of four bits, for any type with `*`: Fp12 or the library's GT."""
    table = [one, base]
    for _ in range(14):
        table.append(table[-1] * base)
    result = one
    for at in range((exponent.bit_length() + 3) // 4 * 4 - 4, -1, -4):
        if result is not one:
            result = result * result
            result = result * result
            result = result * result
            result = result * result
        if digit := exponent >> at & 15:
            result = result * table[digit]
    return result


ONE = Fp12(1)
_W = Fp12(1 << 8 * _LIMB)


def _images() -> list[list[tuple[int, int]]]:
    """w**(k*P) for k = 0 ... 11, only the coefficients that are not zero."""
    step, image, out = power(_W, P, ONE), ONE, []
    for _ in range(12):
        out.append([(at, value) for at, value in enumerate(image._powers()) if value])
        image = image * step
    return out


_W_TO_THE_P = _images()


def in_gt(element: Fp12) -> bool:
    """Of order ORDER, and not the neutral element: x**(P**4 - P**2 + 1) = 1 and x**P = x**z (see the gcd above)."""
    squared = element.to_the_p().to_the_p()
    cyclotomic = squared.to_the_p().to_the_p() * element == squared
    return cyclotomic and element != ONE and element.to_the_p() * power(element, Z_ABS, ONE) == ONE


def gt_power(base: Fp12, exponent: int) -> Fp12:
    """For elements of GT alone: the exponent's four digits in base Z_ABS at once; x**Z_ABS is the inverse of x**P."""
    bases, digits, rest = [base], [], exponent % ORDER
    for _ in range(4):
        rest, digit = divmod(rest, Z_ABS)
        digits.append(digit)
        bases.append(bases[-1].to_the_p().conjugate())
    products = [ONE]
    for one in bases[:4]:
        products += [product * one for product in products]
    result = ONE
    for at in range(Z_ABS.bit_length() - 1, -1, -1):
        result = result * result
        if chosen := sum((digit >> at & 1) << index for index, digit in enumerate(digits)):
            result = result * products[chosen]
    return result
