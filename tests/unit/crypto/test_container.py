"""The sealed file format: what opens, what is refused, and that nothing is sealed twice under one nonce."""

import itertools
import os
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.crypto import container
from myphr.crypto.container import (
    CHUNK_BYTES,
    CHUNKS_MAX,
    HEADER_BYTES,
    PLAIN_BYTES_MAX,
    SEALED_CHUNK_BYTES,
    TAG_BYTES,
    ChunkOpener,
    ChunkSealer,
    Header,
    open_whole,
    seal_whole,
)
from myphr.errors import ContainerError

DEK, RECORD, FILE = os.urandom(32), os.urandom(16), os.urandom(16)
TWO_CHUNKS = os.urandom(2 * CHUNK_BYTES)


@pytest.mark.parametrize("size", [0, 1, 15, 16, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_what_is_sealed_opens_byte_exact(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = seal_whole(DEK, RECORD, FILE, plaintext)
    assert len(sealed) == container.sealed_bytes(size)
    assert container.plain_bytes(len(sealed)) == size
    assert open_whole(DEK, RECORD, FILE, sealed) == plaintext


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32), st.integers(1, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_any_file_key_and_version_opens_again(plaintext: bytes, dek: bytes, version: int) -> None:
    sealed = seal_whole(dek, RECORD, FILE, plaintext, version)
    assert open_whole(dek, RECORD, FILE, sealed, version) == plaintext
    assert plaintext == b"" or len(plaintext) < 8 or plaintext not in sealed


@given(st.integers(0, PLAIN_BYTES_MAX))
def test_sizes_convert_both_ways(size: int) -> None:
    assert container.plain_bytes(container.sealed_bytes(size)) == size


@given(st.integers(0, 5 * SEALED_CHUNK_BYTES))
def test_only_sizes_of_containers_have_a_plain_size(sealed_size: int) -> None:
    try:
        size = container.plain_bytes(sealed_size)
    except ContainerError:
        return
    assert container.sealed_bytes(size) == sealed_size


def test_largest_file_has_a_size_and_one_byte_more_is_refused() -> None:
    largest = container.sealed_bytes(PLAIN_BYTES_MAX)
    assert container.plain_bytes(largest) == PLAIN_BYTES_MAX
    with pytest.raises(ContainerError):
        container.plain_bytes(largest + TAG_BYTES + 1)
    with pytest.raises(ValueError):
        container.sealed_bytes(PLAIN_BYTES_MAX + 1)
    with pytest.raises(ValueError):
        container.sealed_bytes(-1)


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES, HEADER_BYTES + TAG_BYTES - 1,
                                  HEADER_BYTES + SEALED_CHUNK_BYTES + 1,
                                  HEADER_BYTES + SEALED_CHUNK_BYTES + TAG_BYTES])
def test_sizes_that_no_container_has_are_refused(size: int) -> None:
    with pytest.raises(ContainerError):
        container.plain_bytes(size)


# -- hostile containers ---------------------------------------------------------------------------
def test_any_flipped_bit_of_the_header_is_refused() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, b"twelve slices")
    for offset in range(HEADER_BYTES):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[offset] ^= 1 << bit
            with pytest.raises(ContainerError):
                ChunkOpener(DEK, changed[:HEADER_BYTES], RECORD, FILE)


def test_any_flipped_byte_of_a_small_container_is_refused() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, os.urandom(50))
    for offset in range(len(sealed)):
        changed = bytearray(sealed)
        changed[offset] ^= 0xFF
        with pytest.raises(ContainerError):
            open_whole(DEK, RECORD, FILE, changed)


def test_every_truncation_of_a_small_container_is_refused() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, os.urandom(50))
    for size in range(len(sealed)):
        with pytest.raises(ContainerError):
            open_whole(DEK, RECORD, FILE, sealed[:size])


def test_truncation_at_a_chunk_boundary_is_refused() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, TWO_CHUNKS)
    with pytest.raises(ContainerError):
        open_whole(DEK, RECORD, FILE, sealed[: HEADER_BYTES + SEALED_CHUNK_BYTES])


def test_reordered_chunks_are_refused() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, TWO_CHUNKS + TWO_CHUNKS)
    cuts = [HEADER_BYTES + i * SEALED_CHUNK_BYTES for i in range(5)]
    chunks = [sealed[a:b] for a, b in itertools.pairwise(cuts)]
    with pytest.raises(ContainerError):
        open_whole(DEK, RECORD, FILE, sealed[:HEADER_BYTES] + chunks[1] + chunks[0] + chunks[2] + chunks[3])
    with pytest.raises(ContainerError):
        open_whole(DEK, RECORD, FILE, sealed[:HEADER_BYTES] + chunks[0] + chunks[0] + chunks[2] + chunks[3])


def test_chunk_spliced_in_from_another_version_under_the_same_key_is_refused() -> None:
    one, two = (seal_whole(DEK, RECORD, FILE, TWO_CHUNKS, version) for version in (1, 2))
    cut = HEADER_BYTES + SEALED_CHUNK_BYTES
    with pytest.raises(ContainerError):
        open_whole(DEK, RECORD, FILE, one[:cut] + two[cut:])


@pytest.mark.parametrize("tail", [b"\0", bytes(TAG_BYTES), bytes(SEALED_CHUNK_BYTES)])
@pytest.mark.parametrize("size", [0, 10, CHUNK_BYTES])
def test_extension_is_refused(size: int, tail: bytes) -> None:
    with pytest.raises(ContainerError):
        open_whole(DEK, RECORD, FILE, seal_whole(DEK, RECORD, FILE, bytes(size)) + tail)


def test_header_swapped_in_from_another_container_is_refused() -> None:
    one, two = seal_whole(DEK, RECORD, FILE, b"one"), seal_whole(DEK, RECORD, FILE, b"two")
    with pytest.raises(ContainerError):
        open_whole(DEK, RECORD, FILE, one[:HEADER_BYTES] + two[HEADER_BYTES:])


def test_container_of_another_record_file_version_or_key_is_refused() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, b"one", 3)
    assert open_whole(DEK, RECORD, FILE, sealed, 3) == b"one"
    for arguments in ((DEK, FILE, FILE, sealed), (DEK, RECORD, RECORD, sealed), (bytes(32), RECORD, FILE, sealed),
                      (DEK, RECORD, FILE, sealed, 2)):
        with pytest.raises(ContainerError):
            open_whole(*arguments)


@pytest.mark.parametrize(("offset", "value", "word"), [(8, 0, "version"), (8, 2, "version"), (9, 0, "suite"),
                                                       (9, 2, "suite"), (10, 15, "chunk"), (10, 17, "chunk")])
def test_unknown_version_suite_and_chunk_size_are_refused_by_name(offset: int, value: int, word: str) -> None:
    header = bytearray(seal_whole(DEK, RECORD, FILE, b"")[:HEADER_BYTES])
    header[offset] = value
    with pytest.raises(ContainerError, match=word):
        Header.parse(header)


def test_header_of_another_size_is_refused() -> None:
    header = seal_whole(DEK, RECORD, FILE, b"")[:HEADER_BYTES]
    for changed in (header[:-1], header + b"\0", b""):
        with pytest.raises(ContainerError):
            ChunkOpener(DEK, changed, RECORD, FILE)


def test_empty_last_chunk_behind_a_full_one_is_refused() -> None:
    sealer = ChunkSealer(DEK, RECORD, FILE)
    sealer.seal(0, TWO_CHUNKS[:CHUNK_BYTES], last=False)
    with pytest.raises(ValueError):
        sealer.seal(1, b"", last=True)
    with pytest.raises(ContainerError):
        ChunkOpener(DEK, sealer.header, RECORD, FILE).open(1, bytes(TAG_BYTES), last=True)


def test_refused_chunks_leave_no_plaintext_in_the_buffer() -> None:
    sealed = bytearray(seal_whole(DEK, RECORD, FILE, TWO_CHUNKS))
    opener = ChunkOpener(DEK, sealed[:HEADER_BYTES], RECORD, FILE)
    sealed[-1] ^= 1
    out = bytearray(len(TWO_CHUNKS))
    with pytest.raises(ContainerError):
        opener.open_chunks_into(0, memoryview(sealed)[HEADER_BYTES:], out, last=True)
    assert not any(out)


def test_header_round_trips() -> None:
    header = seal_whole(DEK, RECORD, FILE, b"", 9)[:HEADER_BYTES]
    parsed = Header.parse(header)
    assert (parsed.record_id, parsed.file_id, parsed.file_version) == (RECORD, FILE, 9)
    assert parsed.to_bytes() == header


# -- sealing --------------------------------------------------------------------------------------
def test_a_chunk_number_is_never_sealed_twice() -> None:
    sealer = ChunkSealer(DEK, RECORD, FILE)
    sealer.seal(0, TWO_CHUNKS[:CHUNK_BYTES], last=False)
    for index in (0, 2):
        with pytest.raises(ValueError):
            sealer.seal(index, TWO_CHUNKS[:CHUNK_BYTES], last=False)
    sealer.seal(1, b"end", last=True)
    for index in (1, 2):
        with pytest.raises(ValueError):
            sealer.seal(index, b"end", last=True)


def test_a_chunk_number_stays_used_when_the_cipher_fails() -> None:
    sealer = ChunkSealer(DEK, RECORD, FILE)

    class Broken:
        def encrypt_into(self, *_: object) -> int:
            raise MemoryError

    sealer._cipher = Broken()  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        sealer.seal(0, b"one", last=True)
    with pytest.raises(ValueError):
        sealer.seal(0, b"two", last=True)


class Yielding(int):
    """The largest number of chunks; the sealer compares with it between looking at the next number and taking it, and
    here has to wait a moment, so that others could come in."""

    def __lt__(self, other: int) -> bool:  # "next + chunks > CHUNKS_MAX" asks the subclass first
        time.sleep(0.01)
        return int(self) < other


def test_of_threads_that_seal_one_number_only_one_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    sealer, sealed, refused = ChunkSealer(DEK, RECORD, FILE), [], []
    start = threading.Barrier(8)
    monkeypatch.setattr(container, "CHUNKS_MAX", Yielding(CHUNKS_MAX))

    def work() -> None:
        start.wait()
        try:
            sealed.append(sealer.seal(0, os.urandom(CHUNK_BYTES), last=False))
        except ValueError:
            refused.append(0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(sealed), len(refused), sealer.next_index) == (1, 7, 1)


def test_short_chunks_stand_at_the_end_only() -> None:
    sealer = ChunkSealer(DEK, RECORD, FILE)
    for plaintext in (b"", b"short", bytes(CHUNK_BYTES - 1)):
        with pytest.raises(ValueError):
            sealer.seal(0, plaintext, last=False)
    with pytest.raises(ValueError):
        sealer.seal(0, bytes(CHUNK_BYTES + 1), last=True)
    with pytest.raises(ValueError):
        sealer.seal_chunks(bytes(CHUNK_BYTES + 1), last=False)
    assert sealer.next_index == 0


def test_two_sealers_of_one_file_never_share_a_salt() -> None:
    assert ChunkSealer(DEK, RECORD, FILE).salt != ChunkSealer(DEK, RECORD, FILE).salt


def test_a_container_goes_on_where_an_earlier_sealer_stopped() -> None:
    first = ChunkSealer(DEK, RECORD, FILE)
    start = first.seal_chunks(TWO_CHUNKS[:CHUNK_BYTES], last=False)
    second = ChunkSealer(DEK, RECORD, FILE, salt=first.salt, first_index=1)
    assert second.header == first.header
    with pytest.raises(ValueError):
        second.seal(0, TWO_CHUNKS[:CHUNK_BYTES], last=False)
    end = second.seal_chunks(TWO_CHUNKS[CHUNK_BYTES:], last=True)
    assert open_whole(DEK, RECORD, FILE, second.header + start + end) == TWO_CHUNKS


def test_going_on_without_the_salt_is_refused() -> None:
    with pytest.raises(ValueError):
        ChunkSealer(DEK, RECORD, FILE, first_index=1)


def test_the_last_possible_chunk_is_sealed_and_the_one_behind_it_refused() -> None:
    salt = os.urandom(32)
    sealer = ChunkSealer(DEK, RECORD, FILE, salt=salt, first_index=CHUNKS_MAX - 1)
    with pytest.raises(ValueError):
        sealer.seal_chunks(TWO_CHUNKS, last=True)
    sealed = sealer.seal(CHUNKS_MAX - 1, b"end", last=True)
    opener = ChunkOpener(DEK, sealer.header, RECORD, FILE)
    assert opener.open(CHUNKS_MAX - 1, sealed, last=True) == b"end"
    with pytest.raises(ContainerError):
        opener.open(CHUNKS_MAX, sealed, last=True)
    with pytest.raises(ContainerError):
        opener.open(-1, sealed, last=True)
    with pytest.raises(ValueError):
        ChunkSealer(DEK, RECORD, FILE, salt=salt, first_index=CHUNKS_MAX)


@pytest.mark.parametrize("version", [0, 2**32])
def test_file_versions_outside_the_field_are_refused(version: int) -> None:
    with pytest.raises(ValueError):
        ChunkSealer(DEK, RECORD, FILE, version)


def test_keys_and_ids_of_a_wrong_size_are_refused() -> None:
    for arguments in ((DEK[:31], RECORD, FILE), (DEK, RECORD[:15], FILE), (DEK, RECORD, FILE + b"\0")):
        with pytest.raises(ValueError):
            ChunkSealer(*arguments)
    with pytest.raises(ValueError):
        ChunkSealer(DEK, RECORD, FILE, salt=b"short")


# -- many chunks at once --------------------------------------------------------------------------
def test_many_chunks_at_once_equal_one_by_one() -> None:
    salt = os.urandom(32)
    single, many = (ChunkSealer(DEK, RECORD, FILE, salt=salt) for _ in range(2))
    plaintext = TWO_CHUNKS + b"tail"
    one_by_one = b"".join(
        single.seal(i, plaintext[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES], last=i == 2) for i in range(3)
    )
    out = bytearray(len(one_by_one) + 5)
    assert many.seal_chunks_into(memoryview(plaintext), memoryview(out), last=True) == len(one_by_one)
    assert out[:-5] == one_by_one


@given(st.integers(0, 4), st.integers(1, 5), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_any_range_of_chunks_opens_alone(first: int, count: int, tail: int) -> None:
    plaintext = os.urandom(4 * CHUNK_BYTES + 1 + tail)
    sealed = seal_whole(DEK, RECORD, FILE, plaintext)
    end = min(5, first + count)
    part = sealed[container.chunk_offset(first) : container.chunk_offset(end)]
    opened = ChunkOpener(DEK, sealed[:HEADER_BYTES], RECORD, FILE).open_chunks(first, part, last=end == 5)
    assert opened == plaintext[first * CHUNK_BYTES : end * CHUNK_BYTES]


def test_a_middle_chunk_claimed_as_last_is_refused_and_the_other_way_round() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, TWO_CHUNKS)
    opener = ChunkOpener(DEK, sealed[:HEADER_BYTES], RECORD, FILE)
    cut = HEADER_BYTES + SEALED_CHUNK_BYTES
    with pytest.raises(ContainerError):
        opener.open(0, sealed[HEADER_BYTES:cut], last=True)
    with pytest.raises(ContainerError):
        opener.open(1, sealed[cut:], last=False)


def test_a_buffer_that_is_too_small_is_refused_before_any_work() -> None:
    sealer = ChunkSealer(DEK, RECORD, FILE)
    with pytest.raises(ValueError):
        sealer.seal_chunks_into(b"abc", bytearray(18), last=True)
    assert sealer.next_index == 0
    opener = ChunkOpener(DEK, sealer.header, RECORD, FILE)
    with pytest.raises(ValueError):
        opener.open_chunks_into(0, sealer.seal(0, b"abc", last=True), bytearray(2), last=True)


def test_threads_share_an_opener() -> None:
    sealed = seal_whole(DEK, RECORD, FILE, TWO_CHUNKS)
    opener = ChunkOpener(DEK, sealed[:HEADER_BYTES], RECORD, FILE)
    wrong: list[int] = []

    def work(index: int) -> None:
        part = sealed[container.chunk_offset(index) : container.chunk_offset(index + 1)]
        expected = TWO_CHUNKS[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        for _ in range(200):
            if opener.open(index, part, last=index == 1) != expected:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
