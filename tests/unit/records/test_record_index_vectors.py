"""What docs/formats/record-index.md freezes opens; anything else is refused."""

import json
from pathlib import Path

import pytest

from myphr.crypto.container import HEADER_BYTES, ChunkOpener
from myphr.crypto.envelope import KeyPair, context_for, derive, unwrap
from myphr.errors import ContainerError, EnvelopeError, NotFound
from myphr.people.keyring import KeyRing
from myphr.records import questions
from myphr.records.opening import id_bytes
from myphr.records.search_index import Question

HERE = Path(__file__).parents[2] / "vectors" / "record_index"
INDEX, QUESTION = (json.loads((HERE / f"{name}.json").read_text()) for name in ("index", "question"))
SEALED = bytes.fromhex(INDEX["object"])


def opened(account: str = INDEX["account"], index_id: str = INDEX["index_id"], sealed: bytes = SEALED) -> bytes:
    """From the page alone: no code of the search."""
    key = derive(bytes.fromhex(INDEX["ring_private"]), "myphr/record-index/1")
    dek = unwrap(key, bytes.fromhex(INDEX["wrapped_dek"]), context=context_for("record-index", account, index_id))
    opener = ChunkOpener(dek, sealed[:HEADER_BYTES], id_bytes(account), id_bytes(index_id), 1)
    return bytes(opener.open_chunks(0, sealed[HEADER_BYTES:], True))


def test_a_frozen_index_opens() -> None:
    assert opened() == bytes(range(256)) * 300 and len(opened()) == INDEX["plain_bytes"]


@pytest.mark.parametrize("changed", ["account", "index_id", "cut", "extended", "flipped"])
def test_another_index_does_not_open(changed: str) -> None:
    with pytest.raises((EnvelopeError, ContainerError)):
        if changed in ("account", "index_id"):
            opened(**{changed: QUESTION["account"]})
        else:
            opened(sealed={"cut": SEALED[:-1], "extended": SEALED + b"\0",
                           "flipped": SEALED[:-1] + bytes([SEALED[-1] ^ 1])}[changed])  # fmt: skip


def ring(private: str = QUESTION["ring_private"]) -> KeyRing:
    return KeyRing(KeyPair.from_private(bytes.fromhex(private)))


def test_a_frozen_question_opens() -> None:
    asked = questions.open_(ring(), QUESTION["account"], QUESTION["question"])
    assert asked == Question(QUESTION["words"], QUESTION["chosen"], QUESTION["start"])


@pytest.mark.parametrize("text", [
    "", "A",
    QUESTION["question"][:-4], QUESTION["question"] + "AAAA", QUESTION["question"][:-4] + "AAAA", "=" * 20, "\0",
    "é" * 9, "A" * 5000, QUESTION["question"] + "=", QUESTION["question"][::-1],
])  # fmt: skip
def test_another_question_is_not_there(text: str) -> None:
    with pytest.raises(NotFound):
        questions.open_(ring(), QUESTION["account"], text)


def test_a_question_of_another_account_or_ring_is_not_there() -> None:
    for private, account in ((QUESTION, INDEX), (INDEX, QUESTION)):
        with pytest.raises(NotFound):
            questions.open_(ring(private["ring_private"]), account["account"], QUESTION["question"])


def test_a_question_keeps_its_limits() -> None:
    made = questions.made("a\0b" + "x" * 900, {"type": "y" * 900, "poem": "z", "year": ""}, 10**12)
    assert len(made.words) <= 200 and "\0" not in made.words and made.start == questions.START_MAX
    assert list(made.chosen) == ["type"] and len(made.chosen["type"]) == questions.VALUE_CHARACTERS_MAX
