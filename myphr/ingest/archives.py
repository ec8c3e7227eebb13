"""Unpacking an archive or the image of a disc: each member becomes an item of its own, the archive itself stays one.

The worker gets this one file's key, sealed to it, for as long as the task lasts. The archive is read through its sealed
container, member by member (`packing`); what a disc brought beside its images is noted (`discs`). An archive that asks
too much is kept and not unpacked. Called by `ingest.uploads` (ask), `jobs.ingest` (expand) and the sweep.
"""

import dataclasses
import datetime as dt
import logging
from collections.abc import Sequence
from typing import Protocol

import redis
from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM
from myphr.crypto import envelope
from myphr.database import now
from myphr.errors import ArchiveRefused, EnvelopeError, NotFound, RecordFull
from myphr.ingest import discs, identify, packing
from myphr.ingest.packing import FORMATS, Contents, Limits, Member, MemberDamaged
from myphr.people.models import StoredKeyRing
from myphr.queue import JobQueue
from myphr.records import discs as disc_notes
from myphr.records.discs import DiscNote
from myphr.records.filing import (
    Filed,
    NotHeldAnyMore,
    RecordParts,
    SealedFile,
    check_room,
    file_sealed,
    held,
    remove_unfiled,
    shown_name,
)
from myphr.records.item_writer import ItemWriter
from myphr.records.models import ArchiveTask, Item
from myphr.records.opening import OpenItem, open_item
from myphr.records.store import commit_all

__all__ = ["FORMATS", "IngestParts", "ask", "enqueue", "enqueue_stuck", "expand", "unpacking"]

log = logging.getLogger(__name__)

JOB = "jobs.ingest.expand_archive"
JOB_AGAIN = "jobs.ingest.reexpand_archive"
JOB_SECONDS_MAX = 6 * 3600
BATCH_MEMBERS = 64  # filed in one commit: one file at a time spends more on the commit than on the file
BATCH_BYTES = 64 * 1024**2
STUCK = dt.timedelta(minutes=10)


class IngestParts(RecordParts, Protocol):
    """What this package needs of the portal."""

    @property
    def queue(self) -> JobQueue: ...


class _Overtaken(Exception):
    """Another run of the same task went further: this one must not file anything any more."""


def _dek_context(task_id: str) -> bytes:
    return envelope.context_for("archive-dek", task_id)


def ask(db: Session, worker_public_key: bytes, item: Item, dek: bytes) -> str:
    """In the commit that files an archive: the task to unpack it, with its key sealed to the worker. Its id."""
    task = ArchiveTask(account_id=item.account_id, item_id=item.id, dek_for_worker=None)
    task.dek_for_worker = envelope.seal_to(worker_public_key, dek, context=_dek_context(task.id))
    db.add(task)
    return task.id


def enqueue(parts: IngestParts, task_id: str, job: str = JOB) -> None:
    """Tell the worker. If the queue is away, the sweep tells it later: the row is the truth."""
    try:
        parts.queue.enqueue(job, task_id, seconds_max=JOB_SECONDS_MAX)
    except redis.RedisError:
        log.warning("the queue is away; archive task %s waits for the sweep", task_id)


def enqueue_stuck(parts: IngestParts) -> int:
    """Put tasks back that nobody seems to work on; a task in work takes no harm. For the sweep."""
    with parts.database.read() as db:
        query = select(ArchiveTask.id).where(
            col(ArchiveTask.state).in_(("waiting", "running")), ArchiveTask.changed_at < now() - STUCK
        )
        task_ids = db.exec(query).all()
    for task_id in task_ids:
        enqueue(parts, task_id, JOB_AGAIN)
    return len(task_ids)


def expand(parts: IngestParts, task_id: str) -> None:
    """Unpack the archive of this task, or say why not. Runs twice without harm, also at the same time: each batch is
    filed in the commit that moves the progress on from exactly where this run believes it to be."""
    with parts.database.write() as db:
        task = db.get(ArchiveTask, task_id)
        if task is None or task.state not in ("waiting", "running") or task.dek_for_worker is None:
            return
        task.state, task.changed_at = "running", now()
        db.add(task)
        item = db.get(Item, task.item_id)
        ring = db.get(StoredKeyRing, task.account_id)
    try:
        if item is None or item.deleted_at is not None or ring is None:
            raise ArchiveRefused("gone", reason="it was deleted")
        try:
            dek = envelope.open_with(parts.keys.worker.private, task.dek_for_worker, context=_dek_context(task_id))
        except EnvelopeError:
            raise ArchiveRefused("key", reason="its key no longer fits; upload it again") from None
        opened = open_item(parts.store, item, dek)
        try:
            _Unpacking(parts, task, item, opened, ring.public_key).run()
        finally:
            opened.close()
    except ArchiveRefused as refusal:
        _refuse(parts, task, refusal.detail, str(refusal.facts["reason"]))
    except RecordFull:
        _refuse(parts, task, "record-full", "your record has no room left for its files")
    except _Overtaken:
        log.info("archive task %s is worked on elsewhere", task_id)


def _refuse(parts: IngestParts, task: ArchiveTask, code: str, reason: str) -> None:
    with parts.database.write() as db:
        current = db.get(ArchiveTask, task.id)
        if current is None or current.state != "running":
            return
        current.state, current.error_code, current.error_reason = "refused", code, reason
        current.dek_for_worker, current.changed_at = None, now()
        db.add(current)
        trail.record(
            db, "archive-refused", account_id=task.account_id, actor=SYSTEM,
            archive_task=task.id, item=task.item_id, reason=code,
        )  # fmt: skip


# -- unpacking ------------------------------------------------------------------------------------
class _Unpacking:
    """One run of one task."""

    def __init__(
        self, parts: IngestParts, task: ArchiveTask, item: Item, opened: OpenItem, owner_public_key: bytes
    ) -> None:
        self._parts = parts
        self._task = task
        self._item = item
        self._opened = opened
        self._owner_public_key = owner_public_key
        self._damaged: list[str] = []

    def run(self) -> None:
        settings = self._parts.settings
        limits = Limits(settings.archive_members_max, settings.archive_bytes_max)
        contents = packing.contents_of(self._item.format, self._opened, limits)
        surveyed = discs.survey(contents, lambda member, most: self._head(contents, member, most))
        members = [one for place, one in enumerate(contents.members) if place not in surveyed.stays]
        done = self._begin(members, len(surveyed.stays))
        while done < len(members):
            done = self._batch(contents, members, done)
        self._finish(surveyed.note)

    def _head(self, contents: Contents, member: Member, most: int) -> bytes:
        """The member's first bytes; empty if it is damaged."""
        head = b""
        try:
            with contents.open_member(member) as stream:
                while len(head) < most and (block := stream.read(most - len(head))):
                    head += block
        except MemberDamaged:
            return b""
        return head

    def _begin(self, members: Sequence[Member], staying: int) -> int:
        """Where to go on, with room for what is to come. Raises RecordFull, _Overtaken."""
        task, done = self._task, self._task.members_done
        with self._parts.database.write() as db:
            current = db.get(ArchiveTask, task.id)
            if current is None or current.state != "running" or current.members_done != done:
                raise _Overtaken
            if done and current.members_total != len(members):
                # Another version of this program counted them otherwise: from the start, what is there is found again.
                done = current.members_done = current.members_duplicate = current.members_damaged = 0
            check_room(db, self._parts.settings, task.account_id, sum(member.plain_bytes for member in members[done:]))
            current.members_total, current.members_left = len(members), staying
            db.add(current)
        return done

    def _batch(self, contents: Contents, members: Sequence[Member], start: int) -> int:
        """Seal the next members, then file them and the progress in one commit. Returns where to go on."""
        try:
            return self._file_batch(contents, members, start, leave_out=True)
        except NotHeldAnyMore:  # what the record had was deleted in this very moment
            return self._file_batch(contents, members, start, leave_out=False)

    def _file_batch(self, contents: Contents, members: Sequence[Member], start: int, *, leave_out: bool) -> int:
        writers: list[ItemWriter] = []
        sealed: list[SealedFile] = []
        damaged: list[str] = []
        size, end = 0, start
        try:
            while end < len(members) and len(sealed) < BATCH_MEMBERS and size < BATCH_BYTES:
                one = self._seal_member(contents, members[end])
                if one is None:
                    damaged.append(members[end].path)
                else:
                    writers.append(one[0])
                    sealed.append(one[1])
                    size += one[1].plain_bytes
                end += 1
            if leave_out:
                known = held(self._parts, sealed)
                sealed = [dataclasses.replace(file, stored=file.item_id not in known) for file in sealed]
            keep = [writer for writer, file in zip(writers, sealed, strict=True) if file.stored]
            commit_all([writer.commit for writer in keep])

            def progress(db: Session, filed: list[Filed]) -> None:
                current = db.get(ArchiveTask, self._task.id)
                if current is None or current.state != "running" or current.members_done != start:
                    raise _Overtaken
                current.members_done = end
                current.members_duplicate += sum(one.duplicate for one in filed)
                current.members_damaged += len(damaged)
                current.changed_at = now()
                db.add(current)

            file_sealed(self._parts, sealed, owner_public_key=self._owner_public_key, also=progress)
        except BaseException as error:
            for writer in writers:
                writer.abort()
            remove_unfiled(self._parts, sealed, error)  # a later run seals them anew, under other keys
            raise
        for writer in writers:
            writer.abort()  # of what was left out; harmless for the others
        self._damaged += damaged
        return end

    def _seal_member(self, contents: Contents, member: Member) -> tuple[ItemWriter, SealedFile] | None:
        """One member, sealed and not yet durable, or None if it is damaged."""
        writer = ItemWriter(
            self._parts, self._task.account_id, owner_public_key=self._owner_public_key, source="archive",
            source_id=self._item.id, describe=identify.describe, bytes_max=member.plain_bytes,
        )  # fmt: skip
        with writer:
            try:
                with contents.open_member(member) as content:
                    while block := content.read(packing.READ_BYTES):
                        writer.write(block)
                if writer.plain_bytes == member.plain_bytes:
                    return writer, writer.close_up(member.path.rsplit("/", 1)[-1], member.path)
            except (MemberDamaged, RecordFull):
                pass  # RecordFull: it holds more than it declares
            writer.abort()
        return None

    def _finish(self, note: DiscNote) -> None:
        task = self._task
        names = tuple(shown_name(path) for path in self._damaged[: disc_notes.PATHS_MAX])
        sealed_note = disc_notes.seal(self._owner_public_key, task.id, dataclasses.replace(note, damaged=names))
        with self._parts.database.write() as db:
            current = db.get(ArchiveTask, task.id)
            if current is None or current.state != "running":
                return
            current.state, current.dek_for_worker, current.changed_at = "done", None, now()
            current.sealed_note = sealed_note
            db.add(current)
            new = current.members_total - current.members_duplicate - current.members_damaged
            trail.record(
                db, "archive-unpacked", account_id=task.account_id, actor=SYSTEM, archive_task=task.id,
                item=task.item_id, items=new, duplicates=current.members_duplicate,
            )  # fmt: skip


def unpacking(parts: IngestParts, account_id: str, task_id: str) -> ArchiveTask:
    """The owner's task, for the page. Raises NotFound."""
    with parts.database.read() as db:
        task = db.get(ArchiveTask, task_id)
    if task is None or task.account_id != account_id:
        raise NotFound("archive task")
    return task
