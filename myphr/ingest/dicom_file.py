"""A DICOM file that lies in a sealed container, walked element by element without having it in memory (PS3.5, 7).

One block of `BLOCK_BYTES` is held, whatever the file claims. Called by `dicom_frames` and `dicom_whole_header`; takes a
`read_at`, knows no item, key or HTTP.
"""

from collections.abc import Callable, Iterator

from myphr.ingest.dicom import Stop, Walk, start_of

BLOCK_BYTES = 64 * 1024  # a container's chunk: one is opened for the head of most files
STEPS_MAX = 200_000  # half a second; an enhanced image of 2,000 frames has 100,000 elements before its pixels

ReadAt = Callable[[int, int], bytes]


class NotDicom(Exception):
    """The file does not begin as DICOM does."""


class DicomFile:
    """One file: its encoding, its top-level elements, its bytes by place. Raises NotDicom."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        head = read_at(0, BLOCK_BYTES)
        try:
            data, self.at, self.explicit, self.little, self.syntax = start_of(head)
        except (Stop, IndexError):
            raise NotDicom from None
        self.deflated = data is not head
        self.size = len(data) if self.deflated else size
        self._read_at = (lambda at, length: data[at : at + length]) if self.deflated else read_at
        self._block_at, self._block = 0, data[:BLOCK_BYTES]

    def take(self, at: int, length: int) -> bytes:
        """These bytes, fewer at the end of the file. `length` is the caller's to bound."""
        inside = at - self._block_at
        if inside < 0 or inside + length > len(self._block):
            if length > BLOCK_BYTES or at >= self.size:
                return self._read_at(at, length) if at < self.size else b""
            self._block_at = at
            self._block = self._read_at(at, min(BLOCK_BYTES, self.size - at))
            inside = 0
        return self._block[inside : inside + length]

    def elements(self) -> Iterator[tuple[int, bytes, int, int]]:
        """Top-level elements as (tag, VR, start, length), as far as they make sense; without the file meta."""
        return FileWalk(self, self.at).elements()


class FileWalk(Walk):
    """As `Walk`, twelve bytes at a time out of a file."""

    steps_max = STEPS_MAX

    def __init__(self, file: DicomFile, at: int) -> None:
        super().__init__(b"", at, explicit=file.explicit, little=file.little)
        self._file = file

    def header(self, explicit: bool) -> tuple[int, bytes, int]:
        at, self.data, self.at = self.at, self._file.take(self.at, 12), 0
        try:
            return super().header(explicit)
        finally:
            self.at += at
