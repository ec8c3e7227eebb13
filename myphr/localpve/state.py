"""Everything localpve must remember, in one SQLite file: users, rights, machines, tasks, firewall settings.

Documents by (kind, key), held in memory and written through in one transaction per change, so a kill -9 at any moment
leaves either the old or the new state. Small by nature (tens of machines, a thousand tasks). Not thread-safe: only the
event loop touches it.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class State:
    """`documents[kind][key]` is the current truth; change it only through `put` and `remove`."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        # NORMAL loses at most the last commits at a power cut, never consistency; a kill -9 loses nothing.
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS document (kind TEXT, key TEXT, body TEXT, PRIMARY KEY (kind, key))"
        )
        self._depth = 0
        self.documents: dict[str, dict[str, Any]] = {}
        for kind, key, body in self._connection.execute("SELECT kind, key, body FROM document ORDER BY rowid"):
            self.kind(kind)[key] = json.loads(body)

    def kind(self, kind: str) -> dict[str, Any]:
        return self.documents.setdefault(kind, {})

    def get(self, kind: str, key: str) -> Any:
        return self.kind(kind).get(key)

    def put(self, kind: str, key: str, document: Any) -> None:
        self.kind(kind)[key] = document
        self._connection.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (kind, key, json.dumps(document)))

    def remove(self, kind: str, key: str) -> None:
        self.kind(kind).pop(key, None)
        self._connection.execute("DELETE FROM document WHERE kind = ? AND key = ?", (kind, key))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Several changes that become durable at once. The block must not await."""
        self._depth += 1
        if self._depth == 1:
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()
