"""A worker's run of one fetch: it takes the row, files what comes with the progress in one commit, and ends.

What is still to be fetched (the plan) stands in the row, sealed to the worker, and moves on in the very commit that
files: a run that is cut off is taken up where the row says, and of two runs at once the slower one is overtaken. Knows
no protocol. Called by the `fetching` of each way.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic

from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM
from myphr.errors import EnvelopeError, NotFound, RecordFull, StoreFull
from myphr.ingest import identify
from myphr.ingest.archives import IngestParts
from myphr.ingest.fetch import rows
from myphr.ingest.fetch.ways import AnyPlan, AnyRow, Way
from myphr.ingest.upload_filing import check_disk
from myphr.people.models import StoredKeyRing
from myphr.records.filing import Filed, SealedFile, check_room, file_sealed, remove_unfiled
from myphr.records.item_writer import ItemWriter
from myphr.records.models import Item
from myphr.state_tables import StateConflict

WANTED_SECONDS = 2.0  # between two looks whether it was stopped
ALIVE_SECONDS = 20.0  # between two touches of the row, so that nobody takes it for stuck (`rows.STUCK`)
_QUERY_ROWS = 500

log = logging.getLogger(__name__)


class Overtaken(Exception):
    """Another run went further, or the owner stopped it: this one must not file anything any more."""


class TurnOver(Exception):
    """Others wait for this worker: the rest comes in a job of its own."""


def run(
    parts: IngestParts, way: Way[AnyRow, AnyPlan], fetch_id: str, event: str,
    work: "Callable[[Taken[AnyRow, AnyPlan]], None]", *, again: str = "",
) -> None:  # fmt: skip
    """Take the fetch by `event` and work on it until it is done, or say why not. Runs twice without harm, also at the
    same time. `again`: the job of the next turn, for work that raises TurnOver."""
    row = _claimed(parts, way, fetch_id, event)
    if row is None:
        return
    try:
        work(_taken(parts, way, row, event))
    except TurnOver:
        rows.enqueue(parts, way, fetch_id, again)
    except way.refusal as refusal:
        rows.fail(parts, way, fetch_id, refusal.detail)
    except (RecordFull, StoreFull) as full:
        rows.fail(parts, way, fetch_id, full.code)
    except NotFound:  # the account was closed
        rows.fail(parts, way, fetch_id, way.ended)
    except Overtaken:
        log.info("fetch %s is worked on elsewhere, or was stopped", fetch_id)


def _claimed(parts: IngestParts, way: Way[AnyRow, AnyPlan], fetch_id: str, event: str) -> AnyRow | None:
    with parts.database.write() as db:
        row = db.get(way.model, fetch_id)
        if row is None or row.state not in way.table.states_of(event) or row.sealed_for_worker is None:
            return None
        try:
            return way.table.move(db, row, event, step=row.step + way.takes_over)
        except StateConflict:  # stopped this very moment
            return None


def _taken(parts: IngestParts, way: Way[AnyRow, AnyPlan], row: AnyRow, event: str) -> "Taken[AnyRow, AnyPlan]":
    """Raises the way's refusal if this may not be fetched any more."""
    assert row.sealed_for_worker is not None
    try:
        plan = way.open_plan(parts.keys.worker.private, row.id, row.sealed_for_worker)
    except EnvelopeError:
        raise way.refused(way.ended) from None
    with parts.database.read() as db:
        ring = db.get(StoredKeyRing, row.account_id)
        if ring is None or not way.may(parts, db, row, plan):
            raise way.refused(way.ended)
    return Taken(parts, way, row, event, plan, ring.public_key)


class Taken(Generic[AnyRow, AnyPlan]):
    """A fetch in the hands of one run: the only way to its row, and to the record."""

    def __init__(
        self, parts: IngestParts, way: Way[AnyRow, AnyPlan], row: AnyRow, event: str, plan: AnyPlan,
        owner_public_key: bytes,
    ) -> None:  # fmt: skip
        self.parts, self.way, self.row, self.plan = parts, way, row, plan
        self.owner_public_key = owner_public_key
        self._event, self._state = event, row.state
        self._folder = f"{plan.whom.replace('/', '-')} {row.created_at:%Y-%m-%d}"
        self._asked_at = self._alive_at = time.monotonic()

    # -- the row ----------------------------------------------------------------------------------
    def current(self, db: Session) -> AnyRow:
        """The row as this run knows it. Raises Overtaken, and the way's refusal if this may not be fetched any more."""
        row = db.get(self.way.model, self.row.id)
        if row is None or row.state != self._state or row.step != self.row.step:
            raise Overtaken
        if not self.way.may(self.parts, db, row, self.plan):
            raise self.way.refused(self.way.ended)
        return row

    def move(self, db: Session, event: str, **values: Any) -> None:
        """Raises as `current`."""
        row = self.current(db)
        try:
            self.way.table.move(db, row, event, only_if=[col(self.way.model.step) == self.row.step], **values)
        except StateConflict:
            raise Overtaken from None
        self.row = row

    def tick(self) -> None:
        """To be called often while something takes long. Raises as `current`."""
        moment = time.monotonic()
        if moment - self._asked_at > WANTED_SECONDS:
            self._asked_at = moment
            with self.parts.database.read() as db:
                self.current(db)
        if moment - self._alive_at > ALIVE_SECONDS:
            self._alive_at = moment
            with self.parts.database.write() as db:
                self.move(db, self._event)

    def sealed(self, plan: AnyPlan | None = None) -> bytes:
        """The plan, as the row keeps it."""
        return self.way.seal_plan(self.parts.keys.worker.public, self.row.id, plan or self.plan)

    # -- the record -------------------------------------------------------------------------------
    def writer(self, bytes_max: int) -> ItemWriter:
        """Raises StoreFull."""
        check_disk(self.parts)
        return ItemWriter(
            self.parts, self.row.account_id, owner_public_key=self.owner_public_key, source=self.way.source,
            source_id=self.row.id, describe=identify.describe, bytes_max=bytes_max,
        )  # fmt: skip

    def named(self, sealed: SealedFile, name: str) -> SealedFile:
        """In the folder of this fetch."""
        return dataclasses.replace(sealed, name=name, path=f"{self._folder}/{name}")

    def brought(self, db: Session, item_ids: Iterable[str]) -> set[str]:
        """Those of these items that this very fetch filed."""
        ids, found = sorted(set(item_ids)), set()
        for at in range(0, len(ids), _QUERY_ROWS):
            found |= set(db.exec(select(Item.id).where(
                col(Item.id).in_(ids[at : at + _QUERY_ROWS]), Item.source == self.way.source,
                Item.source_id == self.row.id,
            )))  # fmt: skip
        return found

    def file(
        self, files: Sequence[SealedFile] = (),
        count: Callable[[Session, AnyRow, list[Filed]], Mapping[str, Any]] = lambda db, row, filed: {},
    ) -> None:  # fmt: skip
        """What is sealed goes into the record, with the plan and the counts, in one commit. `count` says what else of
        the row changes. Raises as `current`, RecordFull, NotFound; what is then in no record is removed."""

        def progress(db: Session, filed: list[Filed]) -> None:
            row = self.current(db)
            more = count(db, row, filed)
            kept = [one.item for one in filed if not one.duplicate]
            check_room(db, self.parts.settings, row.account_id, 0)
            self.move(
                db, "step", step=row.step + 1, sealed_for_worker=self.sealed(),
                items_count=row.items_count + len(kept),
                bytes_count=row.bytes_count + sum(item.plain_bytes for item in kept), **more,
            )  # fmt: skip

        try:
            if files:
                file_sealed(self.parts, files, owner_public_key=self.owner_public_key, also=progress)
            else:
                with self.parts.database.write() as db:
                    progress(db, [])
        except BaseException as error:
            self.drop(files, error)
            raise

    def drop(self, files: Sequence[SealedFile], error: BaseException) -> None:
        """After an error, wherever it was: removes what is in no record. A later run has it sent again."""
        if files:
            remove_unfiled(self.parts, files, error)

    def finish(self, *, known: int, **values: Any) -> None:
        """`known`: how many came that the owner had already."""
        with self.parts.database.write() as db:
            self.move(db, "finish", **{**self.way.erased, **values})
            trail.record(
                db, f"{self.way.trail_word}-fetched", account_id=self.row.account_id, actor=SYSTEM, fetch=self.row.id,
                items=self.row.items_count, known=known,
            )  # fmt: skip
