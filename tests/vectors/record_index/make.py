"""Makes the frozen examples of docs/formats/record-index.md: `python -m tests.vectors.record_index.make`.

What it draws is random, so a file is made once and never written again.
"""

import json
from pathlib import Path

from myphr.crypto import container
from myphr.crypto.envelope import context_for, derive, new_key_pair, wrap
from myphr.database import new_id
from myphr.people.keyring import KeyRing
from myphr.records import questions
from myphr.records.opening import id_bytes
from myphr.records.search_index import Question

HERE = Path(__file__).parent


def index() -> dict[str, object]:
    pair, account, index_id, dek = new_key_pair(), new_id(), new_id(), container.new_dek()
    plain = bytes(range(256)) * 300
    sealer = container.ChunkSealer(dek, id_bytes(account), id_bytes(index_id))
    key = derive(pair.private, "myphr/record-index/1")
    return {
        "scenario": "an index of two chunks (of bytes that are no database)", "ring_private": pair.private.hex(),
        "account": account, "index_id": index_id,
        "wrapped_dek": wrap(key, dek, context=context_for("record-index", account, index_id)).hex(),
        "object": (sealer.header + sealer.seal_chunks(plain, True)).hex(), "plain_bytes": len(plain),
        "plain": "0 to 255, 300 times",
    }  # fmt: skip


def question() -> dict[str, object]:
    pair, account = new_key_pair(), new_id()
    asked = Question("Müller \N{LEFT DOUBLE QUOTATION MARK}knee", {"type": "document", "year": "2004"}, 30)
    return {
        "scenario": "a question in an address", "ring_private": pair.private.hex(), "account": account,
        "words": asked.words, "chosen": dict(asked.chosen), "start": asked.start,
        "question": questions.seal(KeyRing(pair), account, asked),
    }  # fmt: skip


if __name__ == "__main__":
    for name, made in (("index", index), ("question", question)):
        if not (path := HERE / f"{name}.json").exists():
            path.write_text(json.dumps(made(), indent=1, ensure_ascii=False) + "\n")
