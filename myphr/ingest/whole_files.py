"""Small files that come whole in one request: one with its creation (tus 1.0), or many together. There is no address to
resume at and no row: what broke off leaves nothing and is sent again. Called by `web/uploads.py`.

Many together is our own, for folders of thousands of small files (docs/decisions/0213-small-files-together.md): the
body is the length of a description (4 bytes, big endian), the description (JSON: [{"name", "path", "size"} ...]), then
the files, back to back.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

from myphr.crypto import container
from myphr.errors import PortalError, UploadConflict, UploadRefused
from myphr.ingest import identify
from myphr.ingest.upload_filing import UploadFiling, Wish
from myphr.ingest.upload_stream import QUIET_SECONDS_MAX, Body
from myphr.ingest.uploads import CHECKSUMS, Checksum
from myphr.records.filing import Filed, NotHeldAnyMore, SealedFile, held, remove_unfiled
from myphr.records.items import ItemWriter
from myphr.records.store import commit_all

WHOLE_BYTES_MAX = 64 * container.CHUNK_BYTES  # of one file; a larger one must be able to resume
TOGETHER_FILES_MAX = 200
TOGETHER_BYTES_MAX = 16 * 1024**2
DESCRIPTION_BYTES_MAX = 512 * 1024
_LENGTH_BYTES = 4


def receive_one(
    filing: UploadFiling, account_id: str, wish: Wish, body: Body, checksum: Checksum | None = None
) -> Filed:
    """A small file that comes complete with its creation: one sealed object, one commit.

    Raises what `UploadFiling` raises, ChecksumMismatch, and UploadConflict if the connection broke before the end
    (nothing is kept)."""
    filing.check_sizes([wish.total])
    with filing.parts.database.read() as db:
        filing.check_room(db, account_id, wish.total)
    owner_public_key = filing.owner_public_key(account_id)
    content = _exactly(body, wish.total)
    if checksum is not None:
        running = CHECKSUMS[checksum.algorithm]()
        running.update(content)
        checksum.check(running)
    writer, sealed = _sealed(filing, account_id, owner_public_key, wish, content)
    writer.commit()
    try:
        return filing.file([sealed], owner_public_key)[0]
    except BaseException as error:
        remove_unfiled(filing.parts, [sealed], error)
        raise


def receive_together(filing: UploadFiling, account_id: str, body: Body) -> list[Filed | PortalError]:
    """Many small files, in one commit unless one of them is refused: what became of each, in their order. What the
    owner's record has already is not written to the disk again.

    Raises what concerns all of them: UploadRefused for a body that is not as described above, UploadConflict if the
    connection broke before the end (nothing is kept, all are sent again), RecordFull, StoreFull, NotFound."""
    wishes = _described(body)
    outcomes: dict[int, Filed | PortalError] = {
        place: UploadRefused(reason="the file is empty") for place, wish in enumerate(wishes) if wish.total == 0
    }
    places = [place for place in range(len(wishes)) if place not in outcomes]
    if places:
        filing.check_sizes([wishes[place].total for place in places])
        with filing.parts.database.read() as db:
            filing.check_room(db, account_id, sum(wish.total for wish in wishes))
        owner_public_key = filing.owner_public_key(account_id)
        batch = _Batch(filing, owner_public_key)
        try:
            for place in places:
                wish = wishes[place]
                batch.add(*_sealed(filing, account_id, owner_public_key, wish, _exactly(body, wish.total)))
            outcomes |= dict(zip(places, batch.file(), strict=True))
        finally:
            batch.close()
    return [outcomes[place] for place in range(len(wishes))]


class _Batch:
    """Sealed files of one request, not yet durable. `file`, then `close` in any case."""

    def __init__(self, filing: UploadFiling, owner_public_key: bytes) -> None:
        self._filing, self._owner_public_key = filing, owner_public_key
        self._writers: list[ItemWriter] = []
        self._files: list[SealedFile] = []

    def add(self, writer: ItemWriter, file: SealedFile) -> None:
        self._writers.append(writer)
        self._files.append(file)

    def file(self) -> list[Filed | PortalError]:
        try:
            # A practice must not learn from the time it takes what the record has.
            known = held(self._filing.parts, self._files) if self._filing.drop_off_id is None else set()
            self._files = [dataclasses.replace(file, stored=file.item_id not in known) for file in self._files]
            self._commit(lambda file: file.stored)
            return self._filed(self._files)
        except NotHeldAnyMore:  # what the record had was deleted in this very moment
            self._commit(lambda file: not file.stored)
            self._files = [dataclasses.replace(file, stored=True) for file in self._files]
            return self._filed(self._files)
        except BaseException as error:
            remove_unfiled(self._filing.parts, self._files, error)
            raise

    def close(self) -> None:
        for writer in self._writers:
            writer.abort()  # harmless for those that are durable

    def _commit(self, which: Callable[[SealedFile], bool]) -> None:
        pairs = zip(self._writers, self._files, strict=True)
        commit_all([writer.commit for writer, file in pairs if which(file)])

    def _filed(self, files: Sequence[SealedFile]) -> list[Filed | PortalError]:
        try:
            return list(self._filing.file(files, self._owner_public_key))
        except PortalError as error:  # of one of them: whose it is shows when each is filed alone
            if len(files) == 1:
                remove_unfiled(self._filing.parts, files, error)
                return [error]
        return [outcome for file in files for outcome in self._filed([file])]


def _sealed(
    filing: UploadFiling, account_id: str, owner_public_key: bytes, wish: Wish, content: memoryview
) -> tuple[ItemWriter, SealedFile]:
    writer = ItemWriter(
        filing.parts, account_id, owner_public_key=owner_public_key, source=filing.source,
        source_id=filing.drop_off_id, describe=identify.describe,
    )  # fmt: skip
    with writer:
        writer.write(content)
        return writer, writer.close_up(wish.name, wish.path)


def _described(body: Body) -> list[Wish]:
    """What is to come. Raises UploadRefused unless it fits the rest of the body to the byte."""
    length = int.from_bytes(_exactly(body, _LENGTH_BYTES), "big")
    if body.length is None or length > DESCRIPTION_BYTES_MAX:
        raise UploadRefused(reason="its description is too long")
    try:
        told = json.loads(bytes(_exactly(body, length)))
        wishes = [Wish(_size(one["size"]), _text(one["name"]), _text(one.get("path", ""))) for one in told]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UploadRefused(reason="its description cannot be read") from None
    if not 0 < len(wishes) <= TOGETHER_FILES_MAX:
        raise UploadRefused(reason="too many files came together")
    if _LENGTH_BYTES + length + sum(wish.total for wish in wishes) != body.length:
        raise UploadRefused(reason="its description and its size do not fit")
    return wishes


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value <= WHOLE_BYTES_MAX:
        raise ValueError("size")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _exactly(body: Body, size: int) -> memoryview:
    """The next so many bytes. Raises UploadConflict if they do not come."""
    buffer, filled = memoryview(bytearray(size)), 0
    quiet_since = time.monotonic()
    while filled < size:
        got = body.receive(buffer[filled:])
        if got == 0 or (got is None and time.monotonic() - quiet_since > QUIET_SECONDS_MAX):
            raise UploadConflict("the connection broke before the end")
        if got:
            filled += got
            quiet_since = time.monotonic()
    return buffer
