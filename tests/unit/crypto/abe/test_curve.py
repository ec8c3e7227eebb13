"""BLS12-381 through blst: arithmetic against plain integers, strict reading, and a library that is not what it says."""

import ctypes
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.crypto.abe import curve
from myphr.crypto.abe.curve import G1, G2, GT, R
from myphr.errors import AbeMalformed, CurveUnavailable

EDGES = [
    0,
    1,
    2,
    3,
    15,
    16,
    1 << 32,
    (1 << 64) - 1,
    1 << 64,
    0xD201000000010000,
    0xD201000000010000**3,
    1 << 254,
    R - 2,
    R - 1,
]
SCALARS = st.one_of(st.sampled_from(EDGES), st.integers(0, R - 1))
ROOT = Path(__file__).resolve().parents[4]


def by_doubling(one, scalar, zero):
    """`scalar` times `one`, with additions alone."""
    total = zero
    for bit in format(scalar, "b"):
        total = total + total
        if bit == "1":
            total = total + one
    return total


class Multiplied:
    """Lets `by_doubling` work on GT."""

    def __init__(self, element):
        self.element = element

    def __add__(self, other):
        return Multiplied(self.element * other.element)


@given(SCALARS)
@settings(deadline=None, max_examples=40)
def test_every_way_to_a_power_gives_the_same(scalar):
    g1, g2, gt = G1.generator(), G2.generator(), GT.generator()
    assert g1.times(scalar) == by_doubling(g1, scalar, G1._new())
    assert g1.times_public(scalar) == g1.times(scalar) == -g1.times_public(-scalar)
    expected = by_doubling(g2, scalar, G2._new())
    assert g2.times(scalar) == expected == curve.g2_power(scalar) == g2.times_public(scalar)
    expected = by_doubling(Multiplied(gt), scalar, Multiplied(GT())).element
    assert gt.power(scalar) == expected == curve.generator_power(scalar)
    assert curve.product_public([gt], [scalar]) == expected == curve.product_public([gt], [-scalar]).inverse()


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("tables", [1, 2, 4, 8])
def test_a_comb_of_any_shape_gives_the_same_powers(halves, tables):
    base = curve.generator_power(12345)
    comb = curve.Comb(base, halves=halves, tables=tables)
    for scalar in (*EDGES, random.Random(1).randrange(R)):
        assert comb.power(scalar) == curve.generator_power(12345 * scalar % R)


@pytest.mark.parametrize("tables", [1, 2, 4])
def test_a_comb_of_points_gives_the_same_powers(tables):
    base = G2.generator().times(12345)
    comb = curve.CombG2(base, tables=tables)
    for scalar in (*EDGES, random.Random(1).randrange(R)):
        assert comb.power(scalar) == base.times(scalar)


@given(SCALARS, SCALARS)
@settings(deadline=None, max_examples=20)
def test_the_pairing_is_bilinear(a, b):
    p, q = G1.generator().times(a), G2.generator().times(b)
    assert curve.pairing(p, q) == curve.generator_power(a * b % R)
    pairs = [(p, q), (-p, G2.generator()), (G1.generator(), G2.generator())]
    assert curve.pairing_product(pairs) == curve.generator_power((a * b - a + 1) % R)


def test_public_products_take_large_and_negative_factors():
    elements = [curve.generator_power(i) for i in (3, 5, 7)]
    for factors in ([1, -2, 3], [R - 1, 0, 2], [1 << 70, -(1 << 65), 9], [0, 0, 0]):
        expected = (3 * factors[0] + 5 * factors[1] + 7 * factors[2]) % R
        assert curve.product_public(elements, factors) == curve.generator_power(expected)
        points = [G2.generator().times(i) for i in (3, 5, 7)]
        assert curve.sum_public(points, factors) == curve.g2_power(expected)


@pytest.mark.parametrize("kind", [G1, G2, GT])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_what_can_be_read_is_written_the_same_and_all_else_refused(kind, data):
    if kind is GT:
        good = curve.generator_power(data.draw(st.integers(1, R - 1))).to_bytes()
    else:
        good = kind.generator().times(data.draw(st.integers(1, R - 1))).to_bytes()
    assert kind.from_bytes(good).to_bytes() == good
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    for hostile in (
        bad,
        data.draw(st.binary(max_size=kind.SIZE + 2)),
        data.draw(st.binary(min_size=kind.SIZE, max_size=kind.SIZE)),
    ):
        try:
            read = kind.from_bytes(hostile)
        except AbeMalformed:
            continue
        assert read.to_bytes() == hostile  # a flip may give another point of the group; never the same one
        assert kind is not GT and (hostile == good or read != kind.from_bytes(good))


def test_infinity_is_neither_read_nor_written():
    for kind in (G1, G2):
        nothing = kind.generator().times(0)
        assert nothing.is_infinity()
        with pytest.raises(AbeMalformed):
            nothing.to_bytes()
        with pytest.raises(AbeMalformed):
            kind.from_bytes(b"\xc0" + bytes(kind.SIZE - 1))


@pytest.mark.parametrize("scalar", [-1, R, 1 << 256, True, 1.0])
def test_a_scalar_out_of_range_is_no_scalar(scalar):
    for act in (
        G1.generator().times,
        G2.generator().times,
        GT.generator().power,
        curve.g2_power,
        curve.generator_power,
    ):
        with pytest.raises(ValueError):
            act(scalar)


def test_wide_never_gives_zero_and_reduces_all_64_bytes():
    assert curve.wide(bytes(64)) == 1
    assert curve.wide((R - 1).to_bytes(64, "big")) == 1
    assert curve.wide((R - 2).to_bytes(64, "big")) == R - 1
    assert curve.wide(b"\xff" * 64) == 1 + ((1 << 512) - 1) % (R - 1)
    with pytest.raises(ValueError):
        curve.wide(bytes(63))


def test_threads_that_compute_at_once_get_the_same():
    expected = curve.generator_power(77).to_bytes() + curve.g2_power(78).to_bytes()
    found, gate = [], threading.Barrier(8)

    def work():
        gate.wait()
        for _ in range(5):
            found.append(curve.generator_power(77).to_bytes() + curve.g2_power(78).to_bytes())
            assert curve.pairing(G1.generator().times(3), G2.generator()) == curve.generator_power(3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 40


# -- the library itself ---------------------------------------------------------------------------
def in_a_fresh_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_self_test_passes_and_many_threads_may_come_first():
    code = """
import threading
from myphr.crypto.abe import curve
gate = threading.Barrier(6)
results = []
def work():
    gate.wait()
    curve.self_test()
    results.append(curve.generator_power(5).to_bytes())
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(results), len(set(results)))
"""
    assert in_a_fresh_process(code).stdout == "6 1\n"


def test_a_library_named_in_the_environment_is_the_only_one_tried(tmp_path):
    code = """
from myphr.crypto.abe import curve
try:
    curve.self_test()
except curve.CurveUnavailable as error:
    print("refused", error.code)
"""
    for path in (tmp_path / "missing.so", Path("/usr/lib/x86_64-linux-gnu/libc.so.6")):
        assert in_a_fresh_process(code, MYPHR_LIBBLST=str(path)).stdout == "refused sharing-unavailable\n"
    import ckzg

    assert in_a_fresh_process(code, MYPHR_LIBBLST=ckzg.__file__).stdout == ""


SABOTAGES = {
    "hash_to_curve": lambda call: (
        "blst_hash_to_g1",
        lambda out, *_: ctypes.memmove(out, call.blst_p1_generator(), 144),
    ),
    "pairing": lambda call: ("blst_final_exp", None),
    "group": lambda call: ("blst_p1_affine_in_g1", lambda *_: True),
    "GT": lambda call: ("blst_fp12_in_group", lambda *_: True),
}


@pytest.mark.parametrize("what", sorted(SABOTAGES))
def test_a_library_that_answers_wrongly_is_refused(what, monkeypatch):
    """Each answer the self-test asks for, given wrongly, stops it."""
    library = curve._library()
    name, wrong = SABOTAGES[what](library.call)
    if wrong is None:
        monkeypatch.setattr(library.free, name, lambda out, _: ctypes.memmove(out, GT()._at, 576))
    else:
        monkeypatch.setattr(library.call, name, wrong)
    with pytest.raises(CurveUnavailable, match="self-test"):
        curve._run_self_test()
