"""The upload routes alone under the real gunicorn, with cheap sign-in: `X-Account` names the account.

`MYPHR_TEST_SEALS` in the environment names a file to which every chunk is noted before it is sealed: header, chunk
number, last, hash of the plaintext. Started by the tests as `gunicorn tests.integration.uploads.serving:create_app()`.
"""

import hashlib
import json
import os
import types
from collections.abc import Callable
from pathlib import Path

from flask import Flask, request

from myphr import settings
from myphr.crypto import container
from myphr.portal import Portal
from myphr.web.uploads import make_blueprint


def create_app() -> Flask:
    environ = dict(os.environ)
    note_seals(environ.pop("SEALS_FILE", None))
    portal = Portal(settings.load(environ))
    app = Flask(__name__)
    app.extensions["portal"] = portal

    def current_login() -> object | None:
        account_id = request.headers.get("X-Account")
        return types.SimpleNamespace(account=types.SimpleNamespace(id=account_id)) if account_id else None

    app.register_blueprint(make_blueprint(current_login))  # type: ignore[arg-type]
    return app


def note_seals(path: str | None) -> None:
    """O_APPEND and no buffer: a kill -9 right after the note still leaves the note."""
    if path is None:
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    original: Callable = container.ChunkSealer._seal_into

    def noting(self, index, plaintext, out, last):  # type: ignore[no-untyped-def]
        chunks = max(1, -(-len(plaintext) // container.CHUNK_BYTES))
        lines = []
        for at in range(chunks):
            chunk = plaintext[at * container.CHUNK_BYTES : (at + 1) * container.CHUNK_BYTES]
            where = [self.header.hex(), self.next_index + at, bool(last and at == chunks - 1)]
            lines.append(json.dumps([where, hashlib.sha256(chunk).hexdigest()]))
        os.write(fd, ("\n".join(lines) + "\n").encode())
        return original(self, index, plaintext, out, last)

    container.ChunkSealer._seal_into = noting  # type: ignore[method-assign]


def reused(path: Path) -> tuple[int, list[str]]:
    """(chunks noted, places under which two different plaintexts were sealed)."""
    seen: dict[str, set[str]] = {}
    count = 0
    for line in path.read_text().splitlines():
        where, digest = json.loads(line)
        seen.setdefault(json.dumps(where), set()).add(digest)
        count += 1
    return count, [where for where, hashes in seen.items() if len(hashes) > 1]
