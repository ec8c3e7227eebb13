"""Uploads on their way in: tus 1.0 without HTTP (create, append, progress, terminate), sealed as they stream.

The key of an upload is wrapped under a token that only the client's URL carries, so a stopped upload opens for nobody
else. No chunk number of one key is ever sealed twice: before the first chunk of a PATCH the row is durably marked
`writing`; whoever finds that mark and no living writer cannot know what was sealed, and goes on under a fresh salt
(docs/decisions/0131-resumed-uploads.md). Files that come whole in one request are `whole_files`'. Called by
`web/uploads.py`.
"""

import contextlib
import copy
import dataclasses
import datetime as dt
import functools
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from myphr.crypto import container, envelope
from myphr.database import new_id, now
from myphr.errors import (
    ChecksumMismatch,
    ContainerError,
    DropOffClosed,
    DropOffFull,
    EnvelopeError,
    NotFound,
    UploadConflict,
    UploadRefused,
    UploadTooLarge,
)
from myphr.ingest import archives, identify
from myphr.ingest.running_hashes import RunningHashes
from myphr.ingest.upload_filing import Sender, UploadFiling, Wish
from myphr.ingest.upload_lock import LET_GO_SECONDS, UploadLock
from myphr.ingest.upload_stream import BLOCK_BYTES, Body, HeldPiece, UploadStream, reseal
from myphr.people.models import Account
from myphr.records.facts import Facts
from myphr.records.filing import Filed, SealedFile, object_key_of
from myphr.records.items import HEAD_BYTES
from myphr.records.models import Upload
from myphr.records.opening import ItemPlace, id_bytes, open_item
from myphr.records.store import full_disk_is_store_full, sync_folder, write_all

FINISHED_KEPT = dt.timedelta(days=2)  # a finished upload still answers "all there" so long

# (state, event) -> state. `writing` is the durable mark that chunks beyond `durable_bytes` may have been sealed.
TRANSITIONS = {
    ("receiving", "claim"): "writing",
    ("writing", "claim"): "writing",
    ("writing", "release"): "receiving",
    ("writing", "complete"): "finishing",
    ("finishing", "filed"): "finished",
    ("receiving", "abandon"): "abandoned",
    ("writing", "abandon"): "abandoned",
    ("finishing", "abandon"): "abandoned",
}
UNFINISHED = ("receiving", "writing", "finishing")

# tus 1.0 asks for sha1. It is no defence against people here, and need not be: it finds accidents on the way.
CHECKSUMS: dict[str, Callable[[], Any]] = {
    "sha256": hashlib.sha256,
    "sha1": functools.partial(hashlib.sha1, usedforsecurity=False),
}


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the client may know. `offset`: bytes that survive any crash. `item_id`: once it is in the record."""

    upload_id: str
    offset: int
    total: int
    expires_at: dt.datetime
    item_id: str | None = None
    duplicate: bool = False


@dataclasses.dataclass(frozen=True)
class Checksum:
    """What the client says of one piece (tus 1.0, checksum extension): a name of CHECKSUMS and its digest."""

    algorithm: str
    digest: bytes

    def check(self, running: Any) -> None:
        """Raises ChecksumMismatch."""
        if not hmac.compare_digest(running.digest(), self.digest):
            raise ChecksumMismatch()


def _move(upload: Upload, event: str) -> None:
    try:
        upload.state = TRANSITIONS[upload.state, event]
    except KeyError:
        raise UploadConflict(f"no {event} while {upload.state}") from None
    upload.changed_at = now()


def _dek_context(upload_id: str) -> bytes:
    return envelope.context_for("upload-dek", upload_id)


class Uploads:
    """All uploads of one process. Safe for many threads; several processes may share the folder and the database."""

    def __init__(self, parts: archives.IngestParts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._hashes = RunningHashes()
        self.filing = UploadFiling(parts)

    def of(self, sender: Sender) -> "Uploads":
        """The same uploads, in the name of this sender: it sees and continues its own ones only, and the owner's are
        not there for it."""
        other = copy.copy(self)
        other.filing = UploadFiling(self._parts, sender)
        return other

    # -- the four requests of tus -----------------------------------------------------------------
    def create(self, account_id: str, wish: Wish) -> tuple[Progress, str]:
        """A new upload and its token (the client's URL must carry it; it is not kept here).

        Raises UploadRefused for an empty file, UploadTooLarge, RecordFull, StoreFull."""
        self.filing.check_sizes([wish.total])
        token = secrets.token_urlsafe(32)
        dek = container.new_dek()
        upload_id = new_id()
        metadata = json.dumps({"name": wish.name, "path": wish.path}).encode()
        row = Upload(
            id=upload_id, account_id=account_id, token_sha256=_hash_of(token), total_bytes=wish.total,
            wrapped_dek=envelope.wrap(_token_key(token, upload_id), dek, context=_dek_context(upload_id)),
            sealed_metadata=envelope.wrap(_metadata_key(dek), metadata, context=upload_id.encode()),
            salt=secrets.token_bytes(container.SALT_BYTES), expires_at=self._expiry(),
            drop_off_id=self.filing.drop_off_id,
        )  # fmt: skip
        with self._parts.database.write() as db:
            # PostgreSQL has many writers: each would find room that the others take a moment later.
            db.exec(select(Account.id).where(Account.id == account_id).with_for_update()).first()
            self.filing.check_room(db, account_id, wish.total)
            db.add(row)
        return _progress(row), token

    def all_there(self, filed: Filed, total: int) -> Progress:
        """What the client is told of a file that came whole with its creation."""
        return Progress(new_id(), total, total, self._expiry(), filed.item_id, filed.duplicate)

    def progress(self, account_id: str, upload_id: str, token: str) -> Progress:
        """How far it is; asks a request that still writes to let go, and ends what was complete but not filed.

        Raises NotFound for a wrong token, another account or an upload that is gone; UploadConflict if the other
        request does not let go."""
        row, dek = self._load(account_id, upload_id, token)
        if dek is None:
            return _progress(row, self._duplicate_of(row))
        with self._alone(upload_id):
            row, dek = self._load(account_id, upload_id, token)
            if row.state == "finishing" and dek is not None:
                return self._finish(row, dek)
        return _progress(row, self._duplicate_of(row))

    def append(
        self, account_id: str, upload_id: str, token: str, offset: int, body: Body, checksum: Checksum | None = None
    ) -> Progress:
        """Takes the body from `offset` on; the offset of the answer is durable. When the file is complete it is in
        the record. With a checksum nothing of the body is taken before all of it has arrived and fits.

        Raises ChecksumMismatch, and then nothing has changed; NotFound as `progress`; UploadConflict for another offset
        than ours or a second writer; UploadTooLarge for more than was announced; UploadRefused for a piece so small
        that nothing of it could be kept; StoreFull."""
        self._load(account_id, upload_id, token)  # a stranger must not be able to make lock files or disturb a writer
        with self._alone(upload_id):
            row, dek = self._load(account_id, upload_id, token)
            if offset != row.durable_bytes or dek is None:
                if dek is None and offset == row.total_bytes and body.length in (0, None):
                    return _progress(row, self._duplicate_of(row))
                raise UploadConflict()
            if body.length is not None and body.length > row.total_bytes - offset:
                raise UploadTooLarge()
            if row.state != "finishing":
                if body.length == 0 and offset < row.total_bytes:
                    return _progress(row)
                if checksum is None:
                    row = self._receive(row, dek, body)
                else:
                    with self._hold(row, body, checksum) as piece:
                        row = self._receive(row, dek, piece)
            return self._finish(row, dek) if row.state == "finishing" else _progress(row)

    def terminate(self, account_id: str, upload_id: str, token: str) -> None:
        """Forget the upload and what came of it. Raises NotFound, also once it is in the record."""
        row, dek = self._load(account_id, upload_id, token)
        if dek is None:
            raise NotFound("upload")
        with self._alone(upload_id):
            self._abandon(row.id)

    def sweep(self) -> int:
        """Forget uploads that ran out, rows long finished and files of no upload. Returns how many uploads ran out."""
        swept = 0
        with self._parts.database.read() as db:
            over = db.exec(select(Upload.id).where(col(Upload.state).in_(UNFINISHED), Upload.expires_at < now())).all()
        for upload_id in over:
            with contextlib.suppress(UploadConflict), self._alone(upload_id, wait_seconds=0):
                self._abandon(upload_id)
                swept += 1
        with self._parts.database.write() as db:
            old = select(Upload).where(
                col(Upload.state).in_(("finished", "abandoned")), Upload.changed_at < now() - FINISHED_KEPT
            )
            for row in db.exec(old):
                db.delete(row)
            known = set(db.exec(select(Upload.id).where(col(Upload.state).in_(UNFINISHED))))
        limit = time.time() - self._settings.upload_seconds_max - 3600
        for path in self._parts.store.partial_dir.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name.split(".")[0] not in known and path.stat().st_mtime < limit:
                    path.unlink()
        return swept

    # -- receiving --------------------------------------------------------------------------------
    def _receive(self, row: Upload, dek: bytes, body: Body) -> Upload:
        """Claim, stream, checkpoint, release. Ends with a row in `receiving` or `finishing`; on an error it stays
        `writing`, so that the next request rolls the salt."""
        dirty = row.state == "writing"
        row = self._update(row, "claim")
        path = self._path(row)
        start = offset = row.durable_bytes
        if dirty or (start and _size(path) != container.chunk_offset(start // container.CHUNK_BYTES)):
            row = self._roll(row, dek) if start else self._start_over(row)
            path, start = self._path(row), row.durable_bytes
            if start != offset:  # the disk lost what it had acknowledged: these bytes belong elsewhere
                self._update(row, "release")
                raise UploadConflict()
        sealer = container.ChunkSealer(
            dek, id_bytes(row.account_id), id_bytes(row.id), salt=row.salt, first_index=start // container.CHUNK_BYTES
        )
        with full_disk_is_store_full():
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if start == 0:
                write_all(fd, sealer.header)
                sync_folder(path.parent)
            stream = UploadStream(row.total_bytes, start, sealer, fd, self._hashes.at(row.id, start))
            stream.run(body, self._lock(row.id).let_go_path, functools.partial(self._update, row, None))
            if stream.position == row.total_bytes:
                row = self._update(row, "complete", stream.position)
            else:
                row = self._update(row, "release", stream.position)
            self._hashes.keep(row.id, stream.position, stream.hash)
        finally:
            os.close(fd)
        if stream.too_much:
            raise UploadTooLarge()
        if stream.let_go and row.state == "receiving":
            raise UploadConflict("let go for another request")
        if stream.ended_well and row.state == "receiving" and stream.position == start:
            raise UploadRefused(reason="it comes in pieces that are too small; pieces need at least 64 KiB")
        return row

    @contextlib.contextmanager
    def _hold(self, row: Upload, body: Body, checksum: Checksum) -> Iterator[Body]:
        """The whole piece once its checksum fits. Until then it waits in a file without a name, sealed under a key
        that only this call knows: neither the container nor the row learns of a piece that does not fit, so no salt
        must roll for it, and a kill -9 leaves nothing.

        Raises ChecksumMismatch, UploadRefused for a piece of unknown length, UploadConflict if it did not come
        whole, StoreFull."""
        if body.length is None:
            raise UploadRefused(reason="a piece with a checksum must say its length")
        path = self._parts.store.partial_dir / f"{row.id}.held"
        with full_disk_is_store_full():
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            path.unlink()
            dek, nobody = container.new_dek(), bytes(container.ID_BYTES)
            sealer = container.ChunkSealer(dek, nobody, nobody)
            write_all(fd, sealer.header)
            stream = UploadStream(body.length, 0, sealer, fd, CHECKSUMS[checksum.algorithm]())
            stream.run(body, self._lock(row.id).let_go_path)
            if stream.position < body.length:
                raise UploadConflict("the piece did not come whole")
            checksum.check(stream.hash)
            yield HeldPiece(fd, container.ChunkOpener(dek, sealer.header, nobody, nobody), body.length)
        finally:
            os.close(fd)

    def _roll(self, row: Upload, dek: bytes) -> Upload:
        """Seal the committed part anew under a fresh salt: chunks beyond it may have been sealed and lost, and a
        second plaintext under their key and nonce would give both away. Costs about a second per GB, only after
        a crash."""
        old_path = self._path(row)
        owner, item = id_bytes(row.account_id), id_bytes(row.id)
        sealer = container.ChunkSealer(dek, owner, item, salt=secrets.token_bytes(container.SALT_BYTES))
        new_path = self._path(row, sealer.salt)
        try:
            digest = reseal(old_path, lambda header: container.ChunkOpener(dek, header, owner, item), new_path, sealer,
                            row.durable_bytes)  # fmt: skip
        except (FileNotFoundError, ContainerError):
            return self._start_over(row)  # the disk lost what it had acknowledged: the client sends it again
        row = self._update(row, None, salt=sealer.salt)
        old_path.unlink(missing_ok=True)
        self._hashes.keep(row.id, row.durable_bytes, digest)
        return row

    def _start_over(self, row: Upload) -> Upload:
        """Nothing committed: a fresh salt and an empty file."""
        old_path = self._path(row)
        row = self._update(row, None, 0, salt=secrets.token_bytes(container.SALT_BYTES))
        old_path.unlink(missing_ok=True)
        return row

    # -- finishing --------------------------------------------------------------------------------
    def _finish(self, row: Upload, dek: bytes) -> Progress:
        """From a complete sealed file to an item. Each step may be done twice: a kill -9 anywhere leaves a row in
        `finishing`, and the client's next request ends it."""
        key = object_key_of(row.id)
        self._parts.store.adopt(self._path(row), key)
        facts, digest = self._facts(row, dek, key)
        metadata = json.loads(envelope.unwrap(_metadata_key(dek), row.sealed_metadata, context=row.id.encode()))
        sealed = SealedFile(
            item_id=row.id, account_id=row.account_id, object_key=key, plain_bytes=row.total_bytes, sha256=digest,
            dek=dek, facts=facts, name=metadata["name"], path=metadata["path"],
            source=self.filing.source, source_id=self.filing.drop_off_id or row.id,
        )  # fmt: skip

        def finish(db: Session, filed: list[Filed]) -> bool:
            current = db.get(Upload, row.id)
            if current is None or current.state == "finished":
                return False  # noted already
            _move(current, "filed")
            current.item_id, current.wrapped_dek, current.sealed_metadata = filed[0].item_id, None, b""
            current.expires_at = now() + FINISHED_KEPT
            db.add(current)
            return True

        try:
            [filed] = self.filing.file([sealed], self.filing.owner_public_key(row.account_id), also=finish)
        except (DropOffClosed, DropOffFull, UploadConflict):  # the sender may not, or no longer
            self._discard(row.id, key)
            raise
        self._lock(row.id).remove()
        return Progress(row.id, row.total_bytes, row.total_bytes, row.expires_at, filed.item_id, filed.duplicate)

    def _facts(self, row: Upload, dek: bytes, key: str) -> tuple[Facts, bytes]:
        """(what it is, SHA-256) of the stored file. Reads it whole only if this process did not see all of it."""
        source = ItemPlace(row.id, row.account_id, key, row.total_bytes)
        opened = open_item(self._parts.store, source, dek)
        try:
            facts = identify.describe(opened.read_at(0, HEAD_BYTES), opened.read_at, row.total_bytes)
            digest = self._hashes.at(row.id, row.total_bytes)
            if digest is None:
                digest = hashlib.sha256()
                buffer = memoryview(bytearray(BLOCK_BYTES))
                at = 0
                while at < row.total_bytes:
                    got = opened.read_into(at, buffer)
                    digest.update(buffer[:got])
                    at += got
            return facts, digest.digest()
        finally:
            opened.close()

    # -- rows and files ---------------------------------------------------------------------------
    def _expiry(self) -> dt.datetime:
        return now() + dt.timedelta(seconds=self._settings.upload_seconds_max)

    def _load(self, account_id: str, upload_id: str, token: str) -> tuple[Upload, bytes | None]:
        """The row and its key (None once finished). Raises NotFound: one answer for all that is not this client's."""
        with self._parts.database.read() as db:
            row = db.get(Upload, upload_id)
        if (
            row is None or row.account_id != account_id or row.drop_off_id != self.filing.drop_off_id
            or row.state == "abandoned" or row.expires_at < now()
            or not hmac.compare_digest(row.token_sha256, _hash_of(token))
        ):  # fmt: skip
            raise NotFound("upload")
        if row.wrapped_dek is None:
            return row, None
        try:
            return row, envelope.unwrap(_token_key(token, upload_id), row.wrapped_dek, context=_dek_context(upload_id))
        except EnvelopeError:
            raise NotFound("upload") from None

    def _update(self, row: Upload, event: str | None, durable: int | None = None, salt: bytes | None = None) -> Upload:
        """One durable change of the row. Raises UploadConflict if it is gone or no longer unfinished."""
        with self._parts.database.write() as db:
            current = db.get(Upload, row.id)
            if current is None or current.state not in UNFINISHED:
                raise UploadConflict("the upload is over")
            if event is not None:
                _move(current, event)
            if durable is not None:
                current.durable_bytes = durable
                current.expires_at = self._expiry()
            if salt is not None:
                current.salt = salt
            db.add(current)
        return current

    def _abandon(self, upload_id: str) -> None:
        with self._parts.database.write() as db:
            row = db.get(Upload, upload_id)
            if row is None or row.state not in UNFINISHED:
                return
            finishing = row.state == "finishing"
            _abandon_row(row)
            db.add(row)
        for path in self._parts.store.partial_dir.glob(f"{upload_id}.*"):
            path.unlink(missing_ok=True)
        if finishing:
            self._parts.store.delete(object_key_of(upload_id))

    def _discard(self, upload_id: str, key: str) -> None:
        """What was complete and is not wanted any more. Not for what became an item meanwhile."""
        self._abandon(upload_id)
        with self._parts.database.read() as db:
            row = db.get(Upload, upload_id)
        if row is None or row.state == "abandoned":
            self._parts.store.delete(key)

    def _duplicate_of(self, row: Upload) -> bool:
        return row.item_id is not None and row.item_id != row.id

    def _path(self, row: Upload, salt: bytes | None = None) -> Path:
        """The sealed file so far. Named by its salt, so that a roll is one update of the row."""
        return self._parts.store.partial_dir / f"{row.id}.{(salt or row.salt)[:8].hex()}"

    def _lock(self, upload_id: str) -> UploadLock:
        return UploadLock(self._parts.store.partial_dir, upload_id)

    def _alone(self, upload_id: str, wait_seconds: float = LET_GO_SECONDS) -> contextlib.AbstractContextManager[None]:
        """One request at a time for this upload. Raises UploadConflict if the other does not let go, StoreFull."""
        return self._lock(upload_id).held(lambda: self._is_unfinished(upload_id), wait_seconds)

    def _is_unfinished(self, upload_id: str) -> bool:
        with self._parts.database.read() as db:
            row = db.get(Upload, upload_id)
        return row is not None and row.state in UNFINISHED


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _token_key(token: str, upload_id: str) -> bytes:
    return envelope.derive(token.encode(), "myphr/upload/1", upload_id.encode())


def _metadata_key(dek: bytes) -> bytes:
    return envelope.derive(dek, "myphr/upload-metadata/1")


def _progress(row: Upload, duplicate: bool = False) -> Progress:
    return Progress(row.id, row.durable_bytes, row.total_bytes, row.expires_at, row.item_id, duplicate)


def abandon_of(db: Session, drop_off_id: str) -> None:
    """What this drop-off has on its way, in the caller's commit: the stream ends at its next step, the key is gone."""
    _abandon_where(db, col(Upload.drop_off_id) == drop_off_id)


def abandon_all(db: Session, account_id: str) -> int:
    """The same of all that is on its way into a record that closes; how many there were."""
    return _abandon_where(db, col(Upload.account_id) == account_id)


def _abandon_where(db: Session, condition: Any) -> int:
    rows = db.exec(select(Upload).where(condition, col(Upload.state).in_(UNFINISHED))).all()
    for row in rows:
        _abandon_row(row)
        db.add(row)
    return len(rows)


def _abandon_row(row: Upload) -> None:
    """Over, and its key is gone."""
    _move(row, "abandon")
    row.wrapped_dek, row.sealed_metadata = None, b""


def sweep(parts: archives.IngestParts) -> int:
    """Uploads that ran out, and archives nobody works on. For the recurring round; safe to run twice."""
    archives.enqueue_stuck(parts)
    return Uploads(parts).sweep()
