"""What uploads have in common, whichever way they come: in whose name, whether there is room, and the commit that files
them. Called by `uploads` (tus, piece by piece) and `whole_files`; knows neither of their protocols.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlmodel import Session

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.crypto import container
from myphr.errors import NotFound, StoreFull, UploadRefused, UploadTooLarge
from myphr.ingest import archives
from myphr.people.models import StoredKeyRing
from myphr.records.filing import Filed, RecordParts, SealedFile, check_room, file_sealed

FREE_BYTES_MIN = 256 * 1024**2  # left for the database, which must still be able to say what is there


def check_disk(parts: RecordParts, more_bytes: int = 0) -> None:
    """Before anything is taken that may be so large. Raises StoreFull."""
    if shutil.disk_usage(parts.store.partial_dir).free < more_bytes + FREE_BYTES_MIN:
        raise StoreFull()


class Sender(Protocol):
    """Who uploads in the owner's place: a drop-off (`ingest.handing_over`)."""

    source: str
    drop_off_id: str

    def check_room(self, db: Session, more_bytes: int) -> None:
        """Before anything is taken. Raises DropOffClosed, DropOffFull, UploadTooLarge."""

    def count(self, db: Session, filed: Filed, size: int) -> None:
        """In the commit that files it. Raises DropOffClosed, DropOffFull, and then nothing is filed."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the client said of the file: size in bytes, name, path below the dropped folder, type. Only the size
    is believed."""

    total: int
    name: str = dataclasses.field(repr=False)
    path: str = dataclasses.field(default="", repr=False)


class UploadFiling:
    """Files what was uploaded, by the owner or by a `sender` in her place."""

    def __init__(self, parts: archives.IngestParts, sender: Sender | None = None) -> None:
        self.parts = parts
        self._sender = sender

    @property
    def source(self) -> str:
        return "upload" if self._sender is None else self._sender.source

    @property
    def drop_off_id(self) -> str | None:
        return None if self._sender is None else self._sender.drop_off_id

    def check_sizes(self, totals: Sequence[int]) -> None:
        """Raises UploadRefused for an empty file, UploadTooLarge, StoreFull."""
        if min(totals) <= 0:
            raise UploadRefused(reason="the file is empty")
        if max(totals) > min(self.parts.settings.upload_bytes_max, container.PLAIN_BYTES_MAX):
            raise UploadTooLarge()
        check_disk(self.parts, sum(totals))

    def check_room(self, db: Session, account_id: str, more_bytes: int) -> None:
        """Raises RecordFull, and what `Sender.check_room` raises."""
        if self._sender is not None:
            self._sender.check_room(db, more_bytes)
        check_room(db, self.parts.settings, account_id, more_bytes)

    def owner_public_key(self, account_id: str) -> bytes:
        """Raises NotFound."""
        with self.parts.database.read() as db:
            ring = db.get(StoredKeyRing, account_id)
        if ring is None:
            raise NotFound("key ring")
        return ring.public_key

    def file(
        self, files: Sequence[SealedFile], owner_public_key: bytes,
        *, also: Callable[[Session, list[Filed]], bool] | None = None,
    ) -> list[Filed]:  # fmt: skip
        """Durable containers into the record in one commit, counted for the sender, noted for the owner; archives
        among them are unpacked next. `also` writes into the same commit and says whether this is news at all.

        Raises what `file_sealed` and `Sender.count` raise, and then nothing is filed."""
        task_ids: list[str] = []

        def note(db: Session, filed: list[Filed]) -> None:
            if also is not None and not also(db, filed):
                return
            for file, one in zip(files, filed, strict=True):
                self._note(db, file, one, task_ids)

        filed = file_sealed(self.parts, files, owner_public_key=owner_public_key, also=note)
        for task_id in task_ids:
            archives.enqueue(self.parts, task_id)
        return filed

    def _note(self, db: Session, file: SealedFile, filed: Filed, task_ids: list[str]) -> None:
        if self._sender is not None:
            self._sender.count(db, filed, file.plain_bytes)
        if filed.duplicate:
            return
        if self._sender is None:
            trail.record(
                db, "item-uploaded", account_id=file.account_id, actor=Actor("patient", file.account_id),
                item=filed.item_id, bytes=file.plain_bytes,
            )  # fmt: skip
        if filed.columns["format"] in archives.FORMATS:
            task_ids.append(archives.ask(db, self.parts.keys.worker.public, filed.item, file.dek))
