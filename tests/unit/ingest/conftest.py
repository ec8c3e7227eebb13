"""A sealer that notes what it seals, for the tests of uploads and archives."""

import hashlib
from collections.abc import Callable, Iterator

import pytest

from myphr.crypto import container
from tests.unit.ingest.bodies import Seals


@pytest.fixture
def seals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seals]:
    """Notes every chunk that any sealer of this process is asked to seal, before it does."""
    noted = Seals()
    original: Callable = container.ChunkSealer._seal_into

    def noting(self: container.ChunkSealer, index, plaintext, out, last):  # type: ignore[no-untyped-def]
        chunks = max(1, -(-len(plaintext) // container.CHUNK_BYTES))
        for at in range(chunks):
            chunk = plaintext[at * container.CHUNK_BYTES : (at + 1) * container.CHUNK_BYTES]
            where = (self.header, self.next_index + at, last and at == chunks - 1)
            noted.setdefault(where, set()).add(hashlib.sha256(chunk).digest())
        return original(self, index, plaintext, out, last)

    monkeypatch.setattr(container.ChunkSealer, "_seal_into", noting)
    yield noted
