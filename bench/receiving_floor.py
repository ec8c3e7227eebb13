"""What any Python process pays that answers for an image only when it is sealed and durable: read it from a socket,
hash it, seal it and its key, write it, sync file and folder, commit one row to SQLite. No DICOM, no record, no study,
no trail, no drop-off: the floor under `bench.receiving`, which starts it (`python -m bench.receiving_floor FOLDER`).
"""

import hashlib
import os
import socket
import sqlite3
import sys
import uuid
from pathlib import Path

from myphr.crypto import container, envelope
from myphr.records.store import LocalStore

BLOCK_BYTES = 8 * container.CHUNK_BYTES
SIZE_BYTES = 8
RECORD_ID = bytes(16)


def serve(folder: Path) -> None:
    """Prints its port, then takes one connection: sizes (8 bytes) and files come, one byte goes for each."""
    store, owner = LocalStore(folder / "store"), envelope.new_key_pair().public
    db = sqlite3.connect(folder / "floor.sqlite", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE item (id TEXT PRIMARY KEY, sha256 BLOB, sealed_dek BLOB, sealed_details BLOB)")
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    line, _ = listening.accept()
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    block = memoryview(bytearray(BLOCK_BYTES))
    while size := line.recv(SIZE_BYTES, socket.MSG_WAITALL):
        _take(line, int.from_bytes(size, "big"), block, store, owner, db)
        line.sendall(b"\0")


def _take(
    line: socket.socket, left: int, block: memoryview, store: LocalStore, owner: bytes, db: sqlite3.Connection
) -> None:
    item_id, dek, digest = uuid.uuid4(), container.new_dek(), hashlib.sha256()
    sealer = container.ChunkSealer(dek, RECORD_ID, item_id.bytes)
    out = store.create(f"{item_id}.1")
    out.write(sealer.header)
    while left:
        part = block[: min(left, BLOCK_BYTES)]
        filled = 0
        while filled < len(part):
            filled += line.recv_into(part[filled:])
        left -= len(part)
        digest.update(part)
        out.write(sealer.seal_chunks(part, last=not left))
    out.commit()
    sealed_dek = envelope.seal_to(owner, dek, context=item_id.bytes)
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO item VALUES (?, ?, ?, ?)", (str(item_id), digest.digest(), sealed_dek, os.urandom(1024)))
    db.execute("COMMIT")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
