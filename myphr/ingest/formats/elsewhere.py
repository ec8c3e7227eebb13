"""Places of a file behind its head, for formats that keep their table of contents there: compound files, TIFF, zip.

`identify` hands one of these to the rules in `CLOSER`, with a budget: however a file points about, no more is read.
Where only the head is at hand (a file that streams by), the head answers alone.
"""

from collections.abc import Callable

ReadAt = Callable[[int, int], bytes | bytearray | memoryview]


class Elsewhere:
    """`at` gives what stands at a place, shorter or empty where there is nothing, no way to read or no budget left."""

    def __init__(self, head: bytes, read_at: ReadAt | None = None, size: int | None = None, budget: int = 0) -> None:
        self.head = head
        self.size = size  # of the whole file, None if unknown
        self._read_at = read_at
        self.budget = budget

    def at(self, position: int, length: int) -> bytes:
        """`length` bytes at `position`. A part that the head holds comes from there."""
        if position < 0 or length <= 0:
            return b""
        if position + length <= len(self.head):
            return self.head[position : position + length]
        if self._read_at is None or (self.size is not None and position >= self.size):
            return self.head[position : position + length]
        length = min(length, self.budget)
        if length <= 0 or position >= 1 << 62:
            return self.head[position : position + length]
        self.budget -= length
        return bytes(self._read_at(position, length))
