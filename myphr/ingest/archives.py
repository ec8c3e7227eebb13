"""Unpacking an uploaded zip: each member becomes an item of its own, the zip itself stays one.

The worker gets this one file's key, sealed to it, for as long as the task lasts. The zip is read through its sealed
container, member by member; nothing is unpacked to a disk and no name in it is ever a path of ours. Everything that can
be judged before unpacking is (APPNOTE.TXT 4.3): a zip that asks too much is kept and not unpacked. Called by
`ingest.uploads` (ask), `jobs.ingest` (expand) and the sweep.
"""

import dataclasses
import datetime as dt
import io
import logging
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Protocol

import redis
from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM
from myphr.crypto import envelope
from myphr.database import now
from myphr.errors import ArchiveRefused, EnvelopeError, NotFound, RecordFull
from myphr.ingest import identify
from myphr.people.models import StoredKeyRing
from myphr.queue import JobQueue
from myphr.records.filing import Filed, ItemWriter, RecordParts, SealedFile, check_room, file_sealed
from myphr.records.models import ArchiveTask, Item
from myphr.records.opening import OpenItem, open_item

log = logging.getLogger(__name__)

FORMATS = frozenset({"zip"})
JOB = "jobs.ingest.expand_archive"
JOB_AGAIN = "jobs.ingest.reexpand_archive"
JOB_SECONDS_MAX = 6 * 3600
READ_BYTES = 1024**2
BATCH_MEMBERS = 64  # filed in one commit: one file at a time spends more on the commit than on the file
BATCH_BYTES = 64 * 1024**2
# A whole archive that grows more than this is a bomb; deflate alone reaches 1,032. 16-bit images shrink to a tenth.
RATIO_MAX = 100
RATIO_FREE_BYTES = 64 * 1024**2
DIRECTORY_BYTES_PER_MEMBER = 1024  # what one entry of the central directory may take on average
STUCK = dt.timedelta(minutes=10)

_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2})  # LZMA may ask for 4 GiB
_END = struct.Struct("<4s4H2IH")  # end of central directory, 4.3.16
_END_64_LOCATOR = struct.Struct("<4sIQI")  # 4.3.15
_END_64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_ENTRY_BYTES = 46  # fixed part of a central directory header, 4.3.12
_JUNK_NAMES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_SYMLINK = 0o120000


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
            _expand(parts, task, item, opened, ring.public_key)
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


# -- judging --------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Limits:
    members_max: int
    bytes_max: int


def members_of(file: io.BufferedIOBase, size: int, limits: Limits) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """The archive and those of its members that are to become items, in the order of its directory.

    Raises ArchiveRefused: too many members, too large, a bomb, overlapping members, a password, an unknown packing,
    or a directory that cannot be read. Reads the directory only."""
    _check_directory(file, size, limits)
    try:
        archive = zipfile.ZipFile(file)  # type: ignore[arg-type]
        members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError, EOFError):
        raise ArchiveRefused("damaged", reason="its table of contents is damaged") from None
    if len(members) > limits.members_max:
        raise _too_many(limits)
    if any(member.flag_bits & 0x41 for member in members):
        raise ArchiveRefused("encrypted", reason="it is protected with a password; unpack it and upload its files")
    total = sum(member.file_size for member in members)
    if total > limits.bytes_max:
        raise ArchiveRefused("too-large", reason="its files are larger than this portal accepts")
    if total > RATIO_FREE_BYTES + RATIO_MAX * size:
        raise ArchiveRefused("bomb", reason="its files would be far larger than any real record")
    _check_overlap(members, size)
    wanted = [member for member in members if _is_wanted(member)]
    if any(member.compress_type not in _METHODS for member in wanted):
        raise ArchiveRefused("packing", reason="it is packed in a way we cannot read; unpack it and upload its files")
    return archive, wanted


def _too_many(limits: Limits) -> ArchiveRefused:
    return ArchiveRefused("too-many", reason=f"it holds more than {limits.members_max:,} files")


def _check_directory(file: io.BufferedIOBase, size: int, limits: Limits) -> None:
    """Size and length of the central directory before `zipfile` reads all of it into memory and makes an object of
    each entry: neither is bounded there, and the count in the end record may lie."""
    damaged = ArchiveRefused("damaged", reason="its table of contents is damaged")
    tail_bytes = min(size, _END.size + 0xFFFF)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise damaged
    _sig, _disk, _first, _here, count, directory_bytes, _offset, _comment = _END.unpack_from(tail, at)
    end = size - tail_bytes + at
    if end >= _END_64_LOCATOR.size:
        file.seek(end - _END_64_LOCATOR.size)
        signature, _disk, end_64, _disks = _END_64_LOCATOR.unpack(file.read(_END_64_LOCATOR.size))
        if signature == b"PK\x06\x07":
            # zipfile expects the record right before the locator and does not look where the locator points
            end_64 = end - _END_64_LOCATOR.size - _END_64.size
            if end_64 < 0:
                raise damaged
            file.seek(end_64)
            record = _END_64.unpack(file.read(_END_64.size))
            if record[0] != b"PK\x06\x06":
                raise damaged
            count, directory_bytes, end = record[7], record[8], end_64
    if count > limits.members_max:
        raise _too_many(limits)
    if directory_bytes > end:
        raise damaged
    if directory_bytes > limits.members_max * DIRECTORY_BYTES_PER_MEMBER:
        raise _too_many(limits)
    file.seek(end - directory_bytes)
    directory = file.read(directory_bytes)
    found = at = 0
    while at + _ENTRY_BYTES <= len(directory) and directory[at : at + 4] == b"PK\x01\x02":
        at += _ENTRY_BYTES + sum(struct.unpack_from("<3H", directory, at + 28))
        found += 1
        if found > limits.members_max:
            raise _too_many(limits)
    file.seek(0)


def _check_overlap(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Members that share bytes are how 10 MB become terabytes; real archives never do."""
    end_of_last = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end_of_last:
            raise ArchiveRefused("overlap", reason="its files overlap each other, as no real archive does")
        end_of_last = member.header_offset + 30 + member.compress_size
    if end_of_last > size:
        raise ArchiveRefused("damaged", reason="it ends too early; parts of it are missing")


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    """Not: folders, empty files, links (their content is a path of another computer), what operating systems leave."""
    parts = member.filename.replace("\\", "/").split("/")
    is_link = (member.external_attr >> 16) & 0o170000 == _SYMLINK
    junk = "__MACOSX" in parts or parts[-1].lower() in _JUNK_NAMES
    return not (member.is_dir() or is_link or junk or member.file_size == 0 or parts[-1] == "")


# -- unpacking ------------------------------------------------------------------------------------
class SealedZip(io.RawIOBase):
    """An open item as a file that `zipfile` can seek in."""

    def __init__(self, opened: OpenItem) -> None:
        self._opened = opened
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._opened.plain_bytes}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        view = memoryview(buffer).cast("B")
        got = self._opened.read_into(self._at, view) if self._at < self._opened.plain_bytes else 0
        self._at += got
        return got


def _expand(parts: IngestParts, task: ArchiveTask, item: Item, opened: OpenItem, owner_public_key: bytes) -> None:
    limits = Limits(parts.settings.archive_members_max, parts.settings.archive_bytes_max)
    file = io.BufferedReader(SealedZip(opened), READ_BYTES)
    archive, members = members_of(file, opened.plain_bytes, limits)
    done = task.members_done
    with parts.database.write() as db:
        check_room(db, parts.settings, task.account_id, sum(member.file_size for member in members[done:]))
        current = db.get(ArchiveTask, task.id)
        if current is None or current.state != "running" or current.members_done != done:
            raise _Overtaken
        current.members_total = len(members)
        db.add(current)
    while done < len(members):
        done = _expand_batch(parts, task, item, archive, members, done, owner_public_key)
    _finish(parts, task)


def _expand_batch(
    parts: IngestParts, task: ArchiveTask, item: Item, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo],
    start: int, owner_public_key: bytes,
) -> int:  # fmt: skip
    """Seal the next members, then file them and the progress in one commit. Returns where to go on."""
    sealed: list[SealedFile] = []
    damaged = size = 0
    end = start
    try:
        while end < len(members) and len(sealed) < BATCH_MEMBERS and size < BATCH_BYTES:
            one = _seal_member(parts, task, item, archive, members[end], owner_public_key)
            end += 1
            if one is None:
                damaged += 1
            else:
                sealed.append(one)
                size += one.plain_bytes

        def progress(db: Session, filed: list[Filed]) -> None:
            current = db.get(ArchiveTask, task.id)
            if current is None or current.state != "running" or current.members_done != start:
                raise _Overtaken
            current.members_done = end
            current.members_duplicate += sum(one.duplicate for one in filed)
            if damaged:
                before = int((current.error_reason or "0").split()[0].replace(",", ""))
                current.error_code = "members-damaged"
                current.error_reason = f"{before + damaged:,} files in it were damaged and could not be read"
            current.changed_at = now()
            db.add(current)

        file_sealed(parts, sealed, owner_public_key=owner_public_key, also=progress)
    except BaseException:
        for one in sealed:  # in no record: a later run seals them anew, under other keys
            parts.store.delete(one.object_key)
        raise
    return end


def _seal_member(
    parts: IngestParts, task: ArchiveTask, item: Item, archive: zipfile.ZipFile, member: zipfile.ZipInfo,
    owner_public_key: bytes,
) -> SealedFile | None:  # fmt: skip
    """One member, sealed and durable, or None if it is damaged."""
    path = member.filename.replace("\\", "/")
    writer = ItemWriter(
        parts, task.account_id, owner_public_key=owner_public_key, source="archive", source_id=item.id,
        describe=identify.describe, bytes_max=member.file_size,
    )  # fmt: skip
    with writer:
        try:
            with archive.open(member) as content:
                while block := content.read(READ_BYTES):
                    writer.write(block)
            if writer.plain_bytes == member.file_size:
                return writer.seal_up(path.rsplit("/", 1)[-1], path)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RecordFull,
            OSError,
            RuntimeError,
        ) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's trouble, not the member's
        writer.abort()
    return None


def _finish(parts: IngestParts, task: ArchiveTask) -> None:
    with parts.database.write() as db:
        current = db.get(ArchiveTask, task.id)
        if current is None or current.state != "running":
            return
        current.state, current.dek_for_worker, current.changed_at = "done", None, now()
        db.add(current)
        damaged = int(current.error_reason.split()[0].replace(",", "")) if current.error_reason else 0
        trail.record(
            db, "archive-unpacked", account_id=task.account_id, actor=SYSTEM, archive_task=task.id, item=task.item_id,
            items=current.members_total - current.members_duplicate - damaged, duplicates=current.members_duplicate,
        )  # fmt: skip


def unpacking(parts: IngestParts, account_id: str, task_id: str) -> ArchiveTask:
    """The owner's task, for the page. Raises NotFound."""
    with parts.database.read() as db:
        task = db.get(ArchiveTask, task_id)
    if task is None or task.account_id != account_id:
        raise NotFound("archive task")
    return task
