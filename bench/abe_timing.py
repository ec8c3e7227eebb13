"""Whether the time of an operation depends on a secret scalar: `python -m bench.abe_timing`.

Each operation that meets a secret runs with scalars of several classes (small, one bit, all bits, random), interleaved
and in a new order each round; the figure is the largest median divided by the smallest, in CPU time. Goal: at most 1.2.
Medians over rounds, as the machine is not ours alone. `times_public`, which is for public factors and does depend on
them, runs as well, to show that the figure can tell. Ends with 1 if a secret operation misses the goal.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable

from myphr.crypto.abe import curve

GOAL = 1.2
ROUNDS = 60
CONTROL = "G1, public factor (control)"


def classes(rng: random.Random) -> dict[str, int]:
    """One fresh scalar of each class."""
    return {
        "below 2^16": rng.randrange(1, 1 << 16),
        "one bit": 1 << rng.randrange(254),
        "mostly ones": curve.R - 1 - rng.randrange(1 << 16),
        "alternating": int("01" * 127, 2) % curve.R,
        "random": rng.randrange(1, curve.R),
    }


def operations() -> dict[str, tuple[Callable[[int], object], int]]:
    """Name -> (operation on a scalar, calls per measurement)."""
    p, q = curve.G1.generator().times(3), curve.G2.generator().times(5)
    gt = curve.generator_power(7)
    comb, comb_g2 = curve.Comb(gt, halves=2, tables=1), curve.CombG2(q, tables=1)
    return {
        "G1 (K of a key)": (p.times, 20), "G2 (Y of an authority)": (q.times, 10), "g2, comb": (curve.g2_power, 20),
        "GT": (gt.power, 6), "A of an authority, comb": (comb.power, 10),
        "Y of an authority, comb": (comb_g2.power, 10), "gt, comb": (curve.generator_power, 20),
        CONTROL: (p.times_public, 20),
    }


def measure(rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Operation -> class -> median in microseconds of CPU."""
    rng = random.Random(20261124)
    found: dict[str, dict[str, float]] = {}
    for name, (operation, calls) in operations().items():
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            scalars = list(classes(rng).items())
            rng.shuffle(scalars)
            for kind, scalar in scalars:
                start = time.process_time_ns()
                for _ in range(calls):
                    operation(scalar)
                times.setdefault(kind, []).append((time.process_time_ns() - start) / calls / 1e3)
        found[name] = {kind: statistics.median(some) for kind, some in times.items()}
    return found


def main() -> int:
    curve.self_test()
    missed = False
    kinds = list(classes(random.Random(0)))
    print(f"{'microseconds of CPU':30}" + "".join(f"{kind:>13}" for kind in kinds) + f"{'ratio':>8}")
    for name, by_class in measure().items():
        ratio = max(by_class.values()) / min(by_class.values())
        missed |= name != CONTROL and ratio > GOAL
        print(f"{name:30}" + "".join(f"{by_class[kind]:13.1f}" for kind in kinds) + f"{ratio:8.2f}")
    print(f"secret scalars: {'a ratio is above' if missed else 'every ratio is at most'} {GOAL}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
