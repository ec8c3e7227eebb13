"""One reader process for all tests that read: it takes a second to start and a file cannot spoil it for the next."""

from collections.abc import Callable, Iterator

import pytest

from myphr.ingest import identify
from myphr.ingest.reading.capped import Reader
from myphr.records.reading import FullReading

Read = Callable[..., FullReading | None]


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    with Reader() as running:
        yield running


@pytest.fixture
def read(reader: Reader) -> Read:
    """`read(content)`: what the portal would keep of a file with these bytes."""

    def read_one(content: bytes, format_: str | None = None) -> FullReading | None:
        format_ = format_ or identify.identify(content[: identify.HEAD_BYTES]).format
        return reader.read(format_, len(content), lambda offset, length: content[offset : offset + length])

    return read_one
