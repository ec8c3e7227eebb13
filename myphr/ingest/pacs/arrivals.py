"""An image that a PACS sends to our receiver because a fetch asked for it (C-MOVE): by whose word it comes, whether it
is what was asked for, and the commit that files it and counts it for the fetch.

Whatever no expectation awaits is refused, and what is acknowledged is durable and in its record. Called by the
receiver; knows no protocol.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from sqlmodel import Session, col, select, update

from myphr.database import now
from myphr.errors import OtherStudy, RecordFull, StoreFull, UploadTooLarge
from myphr.ingest import identify
from myphr.ingest.deliveries import name_of
from myphr.ingest.pacs import expectations
from myphr.ingest.pacs.models import Pacs, PacsExpectation, PacsFetch
from myphr.ingest.pacs.way import WAY
from myphr.ingest.upload_filing import check_disk
from myphr.people.models import StoredKeyRing
from myphr.records import duplicates
from myphr.records.facts import Facts
from myphr.records.filing import Filed, RecordParts, SealedFile, check_room, file_sealed, remove_unfiled
from myphr.records.item_writer import ItemWriter
from myphr.records.models import Item

REFUSED_MAX = 200  # of one expectation: then nothing more is taken of it


def is_awaited(parts: RecordParts, called: str, calling: str) -> bool:
    """Whether anything is expected that comes from this AE title to that one."""
    with parts.database.read() as db:
        return db.exec(_between(select(PacsExpectation.id), called, calling).limit(1)).first() is not None


@dataclasses.dataclass(frozen=True)
class Expected:
    """An expectation as the receiver goes by it, with whose it is."""

    row: PacsExpectation = dataclasses.field(repr=False)
    account_id: str
    owner_public_key: bytes = dataclasses.field(repr=False)
    folder: str = dataclasses.field(repr=False)
    object_bytes_max: int
    announced: frozenset[bytes] = dataclasses.field(repr=False)


def find(parts: RecordParts, called: str, calling: str, originator: str, message_id: int) -> Expected:
    """By what the association and the C-STORE-RQ say. Raises OtherStudy: nobody asked for it."""
    with parts.database.read() as db:
        query = _between(select(PacsExpectation), called, calling)
        row = db.exec(query.where(PacsExpectation.message_id == message_id)).first()
        if row is None or originator != called:
            raise OtherStudy()
        fetch, pacs = db.get(PacsFetch, row.fetch_id), db.get(Pacs, row.pacs_id)
        ring = db.get(StoredKeyRing, fetch.account_id) if fetch else None
        if fetch is None or pacs is None or ring is None or not expectations.holds(parts, db, row, fetch):
            raise OtherStudy()
    settings = parts.settings
    return Expected(
        row, fetch.account_id, ring.public_key, f"{pacs.name.replace('/', '-')} {fetch.created_at:%Y-%m-%d}",
        min(settings.pacs_object_bytes_max, max(0, row.bytes_left - row.bytes_count)),
        expectations.hashes_in(row.announced),
    )  # fmt: skip


class Arrival:
    """One image on its way in (`receiver.incoming.Coming`). `write`, then `finish`, or `abort`; nothing half-stored
    stays. What this very fetch has brought already is let go, and answered as if it were stored: it is."""

    def __init__(self, parts: RecordParts, expected: Expected, instance: str) -> None:
        """Raises OtherStudy for what was not announced, UploadTooLarge, StoreFull."""
        self._parts, self._expected, self._instance = parts, expected, instance
        self._writer: ItemWriter | None = None
        row = expected.row
        self._announced = expectations.instance_hash(parts.keys.index_key, row.id, instance) in expected.announced
        if not self._announced:
            self._refuse()
            raise OtherStudy()
        if self._is_here():
            return
        with self._stopping():
            if row.stopped_by or expected.object_bytes_max <= 0 or row.items_count + row.known_count >= row.files_left:
                raise UploadTooLarge()
            check_disk(parts)
            self._writer = ItemWriter(
                parts, expected.account_id, owner_public_key=expected.owner_public_key, source=WAY.source,
                source_id=row.fetch_id, describe=identify.describe, bytes_max=expected.object_bytes_max,
            )  # fmt: skip

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises UploadTooLarge, StoreFull; nothing of it is left then."""
        if self._writer is None:
            return
        with self._stopping():
            try:
                self._writer.write(data)
            except RecordFull:
                raise UploadTooLarge() from None

    def finish(self, check: Callable[[Facts], None]) -> None:
        """Returns once the image is durable and in its record. `check` may refuse it by a PortalError.

        Raises also OtherStudy, UploadTooLarge, RecordFull, StoreFull, NotFound."""
        if self._writer is None:
            return
        with self._stopping():
            sealed = self._writer.close_up("")
        try:
            check(sealed.facts)
            self._check(sealed.facts)
        except Exception:
            self._refuse()
            raise
        name = name_of(sealed.facts)
        sealed = dataclasses.replace(sealed, name=name, path=f"{self._expected.folder}/{name}")
        with self._stopping():
            self._writer.commit()
            self._file(sealed)

    def abort(self) -> None:
        """Leaves nothing behind. Harmless after finish."""
        if self._writer is not None:
            self._writer.abort()

    def _check(self, facts: Facts) -> None:
        """That it says itself whose it is and of which study. Raises OtherStudy."""
        row, headers = self._expected.row, facts.headers or {}
        key, born = self._parts.keys.index_key, str(headers.get("patient_birth_date") or "")
        said = (
            expectations.hash_of(key, row.id, "number", str(headers.get("patient_id") or "")),
            expectations.hash_of(key, row.id, "study", str(headers.get("study_uid") or "")),
            expectations.hash_of(key, row.id, "birth-date", born) if born else row.birth_date_hash,
        )
        if said != (row.number_hash, row.study_hash, row.birth_date_hash):
            raise OtherStudy()

    def _file(self, sealed: SealedFile) -> None:
        def count(db: Session, filed: list[Filed]) -> None:
            row = db.get(PacsExpectation, self._expected.row.id, with_for_update=True, populate_existing=True)
            fetch = db.get(PacsFetch, row.fetch_id, populate_existing=True) if row else None
            if row is None or fetch is None or row.expires_at < now():
                raise OtherStudy()
            if not expectations.holds(self._parts, db, row, fetch):
                raise OtherStudy()  # stopped, unlinked, or asked anew
            full = row.items_count + row.known_count >= row.files_left
            if full or row.bytes_count + sealed.plain_bytes > row.bytes_left:
                raise UploadTooLarge()
            check_room(db, self._parts.settings, fetch.account_id, 0)
            if filed[0].duplicate:
                row.known_count += 1
            else:
                row.items_count += 1
                row.bytes_count += filed[0].item.plain_bytes
            db.add(row)

        try:
            file_sealed(
                self._parts, [sealed], owner_public_key=self._expected.owner_public_key, also=count, read_soon=False
            )
        except BaseException as error:
            remove_unfiled(self._parts, [sealed], error)
            raise

    def _is_here(self) -> bool:
        key, account_id = self._parts.keys.index_key, self._expected.account_id
        wanted = duplicates.identifier_key(key, account_id, duplicates.DICOM_INSTANCE, self._instance)
        with self._parts.database.read() as db:
            found = duplicates.holders(db, account_id, duplicates.DICOM_INSTANCE, {wanted}).get(wanted, [])
            return db.exec(select(Item.id).where(
                col(Item.id).in_(found), Item.source == WAY.source, Item.source_id == self._expected.row.fetch_id
            )).first() is not None  # fmt: skip

    def _refuse(self) -> None:
        """Counted at once: the sender may go on for ever."""
        row = self._expected.row
        values = {
            "refused_count": PacsExpectation.refused_count + 1, "refused_total": PacsExpectation.refused_total + 1,
            "wrong_count": PacsExpectation.wrong_count + self._announced,
        }  # fmt: skip
        with self._parts.database.write() as db:
            db.exec(update(PacsExpectation).where(col(PacsExpectation.id) == row.id).values(**values))
            many = db.exec(select(PacsExpectation.refused_total).where(PacsExpectation.id == row.id)).first() or 0
            if many > REFUSED_MAX:
                _stop(db, row.id, "foreign")

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """What no further image of this fetch would fare better with ends it, and is its reason."""
        try:
            yield
        except (StoreFull, RecordFull) as error:
            self._stop(error.code)
            raise
        except UploadTooLarge:
            self._stop("too-large")
            raise

    def _stop(self, reason: str) -> None:
        with self._parts.database.write() as db:
            _stop(db, self._expected.row.id, reason)


def _stop(db: Session, expectation_id: str, reason: str) -> None:
    db.exec(
        update(PacsExpectation)
        .where(col(PacsExpectation.id) == expectation_id, col(PacsExpectation.stopped_by).is_(None))
        .values(stopped_by=reason)
    )


def _between(query: Any, called: str, calling: str) -> Any:
    return query.join(Pacs, col(Pacs.id) == col(PacsExpectation.pacs_id)).where(
        Pacs.calling_ae == called, Pacs.called_ae == calling, col(Pacs.moves), col(Pacs.closed_at).is_(None),
        PacsExpectation.expires_at > now(),
    )  # fmt: skip
