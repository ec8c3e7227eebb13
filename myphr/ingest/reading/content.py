"""What a reading module gets and yields. Pure values."""

import dataclasses
from collections.abc import Callable, Iterator

from myphr.records.reading import FullReading, Reading


class NotRead(Exception):
    """The file cannot be read this way; its text is a note for people, or empty."""


@dataclasses.dataclass(frozen=True)
class Content:
    """A file, or its first bytes when it is larger than we read of its kind."""

    format: str
    data: bytes = dataclasses.field(repr=False)
    total_bytes: int = 0

    @property
    def whole(self) -> bool:
        return len(self.data) >= self.total_bytes


# Yields what it has as soon as it has it: words first, then the same with a picture. The last one counts, so that a
# decoder that dies costs the picture and not the words.
Read = Callable[[Content], Iterator[FullReading]]


def words_only(reading: Reading) -> FullReading:
    return FullReading(reading)
