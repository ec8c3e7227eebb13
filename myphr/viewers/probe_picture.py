"""The picture that the probe template draws, specified and read back: what a test sees of a guest on its screen.

A grid of 32 x 20 blocks over the whole screen, whatever its size. Rows 0-4: eight colour bars. Row 5: the state. Row 6:
number of files, 32 bits. Row 7: keys pressed (16 bits), buttons pressed (16 bits). Rows 8-15: SHA-256 of the first file
by path. Rows 16-19: free, a magenta mark follows the pointer. Drawn by guest/probe_desk.c; used by tests and benches.
"""

import dataclasses
from collections.abc import Callable

COLUMNS, ROWS = 32, 20
BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]
STATES = {"waiting": (0, 0, 96), "opening": (255, 128, 0), "ready": (0, 128, 0), "failed": (192, 0, 0)}
MARK = (255, 0, 255)

Colour = tuple[int, int, int]
Pixel = Callable[[int, int], Colour]  # x, y from the upper left corner


@dataclasses.dataclass(frozen=True)
class ProbePicture:
    """What the screen says. `sha256` (hex), `files` mean something in the state `ready` only."""

    state: str
    files: int
    keys: int
    buttons: int
    sha256: str


def _near(a: Colour, b: Colour, tolerance: int = 48) -> bool:
    """A browser or a lossy codec may shift colours a little."""
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def read(pixel: Pixel, width: int, height: int) -> ProbePicture | None:
    """The picture on a screen of this size, or None when it is not the probe's. Samples the middle of each block."""

    def block(column: int, row: int) -> Colour:
        return pixel((2 * column + 1) * width // (2 * COLUMNS), (2 * row + 1) * height // (2 * ROWS))

    def bits(row: int) -> int:
        value = 0
        for column in range(COLUMNS):
            value = value << 1 | (sum(block(column, row)) > 3 * 128)
        return value

    if not all(_near(block(4 * i + 1, 2), colour) for i, colour in enumerate(BARS)):
        return None
    state = next((name for name, colour in STATES.items() if _near(block(COLUMNS // 2, 5), colour)), None)
    if state is None:
        return None
    input_counts = bits(7)
    digest = "".join(f"{bits(row):08x}" for row in range(8, 16))
    return ProbePicture(state, bits(6), input_counts >> 16, input_counts & 0xFFFF, digest)
