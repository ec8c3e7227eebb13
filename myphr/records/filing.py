"""Putting sealed files into a record: finds their studies and duplicates, seals what is known of them, commits once.

Needs the owner's public key only, so an upload, the worker and the files gateway can file without being able to open.
The containers come from `item_writer`. Called by ingest, jobs and the files gateway.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, bindparam, func, insert, text, update
from sqlmodel import Session, col, select

from myphr.crypto import envelope
from myphr.database import Database, new_id, now
from myphr.errors import NotFound, RecordFull
from myphr.people.models import Account
from myphr.people.service_keys import ServiceKeys
from myphr.prepared import Prepared
from myphr.queue import JobQueue
from myphr.records import duplicates, readings, summaries
from myphr.records.facts import Facts
from myphr.records.models import HELD, Item, ItemIdentifier, ItemReading, Study, Upload
from myphr.records.opening import content_key, dek_context, group_key, seal_details, seal_summary
from myphr.records.store import ObjectStore
from myphr.settings import Settings

log = logging.getLogger(__name__)

NAME_CHARACTERS_MAX = 255
PATH_CHARACTERS_MAX = 1024
_QUERY_ROWS = 500  # values in one query: SQLite takes a limited number


class RecordParts(Protocol):
    """What this package needs of the portal (`myphr.portal.Portal` has it)."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def store(self) -> ObjectStore: ...
    @property
    def keys(self) -> ServiceKeys: ...
    @property
    def queue(self) -> JobQueue: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SealedFile:
    """A container that is durable in the store but in no record yet."""

    item_id: str
    account_id: str
    object_key: str
    plain_bytes: int
    sha256: bytes
    dek: bytes = dataclasses.field(repr=False)
    facts: Facts
    name: str = dataclasses.field(repr=False)
    path: str = dataclasses.field(repr=False)
    source: str
    source_id: str | None
    stored: bool = True  # False: left out of the store, because the record had these bytes (`held`) a moment ago


class NotHeldAnyMore(Exception):
    """A file that was left out of the store is not in the record by now: seal it again and store it."""


@dataclasses.dataclass(frozen=True)
class Filed:
    """`duplicate`: the record had these very bytes already, `item` is the one it had, nothing was added."""

    columns: Mapping[str, Any] = dataclasses.field(repr=False)
    duplicate: bool

    @property
    def item_id(self) -> str:
        return self.columns["id"]

    @functools.cached_property
    def item(self) -> Item:
        """Made when asked for, which takes as long as SQLite takes to insert it."""
        return Item(**self.columns)


def object_key_of(item_id: str, version: int = 1) -> str:
    """The store's name for an item's container."""
    return f"{item_id}.{version}"


def shown_name(text: str, most: int = NAME_CHARACTERS_MAX) -> str:
    """A name or path as it may be kept and shown: without control and direction-changing characters, limited."""
    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most * 2]).strip()
    return kept if len(kept) <= most else kept[: most - 17] + "…" + kept[-16:]


_HELD_BYTES = select(func.coalesce(func.sum(Item.plain_bytes), 0)).where(
    # In the words of its index, and with its second column too: SQLite would take another index otherwise.
    Item.account_id == bindparam("account"), Item.plain_bytes >= 0, text(HELD),
)
_COMING_BYTES = select(func.coalesce(func.sum(Upload.total_bytes), 0)).where(
    Upload.account_id == bindparam("account"), col(Upload.state).in_(("receiving", "writing", "finishing"))
)
_BYTES = Prepared(select((_HELD_BYTES.scalar_subquery() + _COMING_BYTES.scalar_subquery()).label("bytes")))
_ACCOUNT = Prepared(select(Account.closed_at).where(Account.id == bindparam("account")).with_for_update())
_ITEMS = Prepared(
    select(Item.id, Item.content_key)
    .where(
        Item.account_id == bindparam("account"), col(Item.content_key).in_(bindparam("keys", expanding=True)),
        col(Item.deleted_at).is_(None),
    )
    .order_by(col(Item.created_at), Item.id)
)  # fmt: skip
_ROWS = Prepared(Item.__table__.select().where(col(Item.id).in_(bindparam("ids", expanding=True))))  # type: ignore[attr-defined]
_OBJECTS = select(Item.object_key).where(col(Item.object_key).in_(bindparam("keys", expanding=True)))
_STUDIES = Prepared(
    select(Study.id, Study.group_key).where(
        Study.account_id == bindparam("account"), col(Study.group_key).in_(bindparam("keys", expanding=True))
    )
)
_STUDY_GREW = Prepared(
    update(Study)
    .where(col(Study.id) == bindparam("study"))
    .values(
        items_count=Study.items_count + bindparam("items"), bytes_total=Study.bytes_total + bindparam("bytes"),
        changed_at=bindparam("at"), deleted_at=None,
    )
)  # fmt: skip


def check_room(db: Session, settings: Settings, account_id: str, more_bytes: int) -> None:
    """Raises RecordFull if the record with its unfinished uploads and `more_bytes` passes its limit."""
    db.flush()
    if _BYTES.first(db.connection(), {"account": account_id}).bytes + more_bytes > settings.record_bytes_max:
        raise RecordFull()


def file_sealed(
    parts: RecordParts,
    files: Sequence[SealedFile],
    *,
    owner_public_key: bytes,
    also: Callable[[Session, list[Filed]], None] | None = None,
    read_soon: bool = True,
) -> list[Filed]:
    """Files durable containers into the record in one commit; `also` writes into the same commit (progress, upload
    state). Byte-identical files of the same owner are reported as duplicates and their containers removed. Without
    `read_soon` the caller says itself, by `ask_to_read`, that there is something to read.

    Safe to run again after a crash between the store and here: whoever lost the race for the same item id or the
    same content gets the row that won. Raises NotFound for a closed account."""
    ready = [_Ready(parts, file, owner_public_key) for file in files]
    _prepare(parts, ready)
    with parts.database.write() as db:
        connection = db.connection()
        for account_id in {file.account_id for file in files}:
            # One filing at a time per record: PostgreSQL would otherwise let two identical files or studies in.
            account = _ACCOUNT.first(connection, {"account": account_id})
            if account is None or account.closed_at is not None:
                raise NotFound("account")
        filed = _file_all(db, ready)
        if also is not None:
            also(db, filed)
    for file, result in zip(files, filed, strict=True):
        if file.stored and result.columns["object_key"] != file.object_key:
            parts.store.delete(file.object_key)
    if read_soon:
        for account_id in {file.account_id for file in files if file.facts.readable}:
            ask_to_read(parts, account_id)  # once a commit: it reads all that waits
    return filed


def ask_to_read(parts: RecordParts, account_id: str) -> None:
    """Has the worker read what was filed. Safe to leave out: the sweep asks too."""
    parts.queue.enqueue(readings.JOB, account_id)


def held(parts: RecordParts, files: Sequence[SealedFile]) -> set[str]:
    """Ids of those files whose very bytes their record has already."""
    ready = [_Ready(parts, file, b"") for file in files]
    with parts.database.read() as db:
        found = _items_held(db.connection(), ready)
        return {one.file.item_id for one in ready if one.content in found}


def _prepare(parts: RecordParts, ready: Sequence["_Ready"]) -> None:
    """Does the cipher work ahead of the write lock; what is found here may have changed by then."""
    if len(ready) == 1:  # looking would cost more than sealing in vain, which a file that is known does
        ready[0].prepare("item", "reading")
        return
    with parts.database.read() as db:
        connection = db.connection()
        items, studies = _items_held(connection, ready), set(_studies_held(connection, ready))
    for one in ready:
        if one.content in items:
            one.prepare("arrival")
        else:
            one.prepare("item", "reading")
            if one.group and one.group not in studies:
                one.prepare("study")
                studies.add(one.group)


def remove_unfiled(parts: RecordParts, files: Sequence[SealedFile], error: BaseException) -> None:
    """After a filing that failed with `error`: removes the containers that are in no record. A sender who tries again
    and again while the database fails would fill the store with them. What cannot be looked up now is left to the
    sweep, and so is a commit that was cut off on its way to the database, which may yet land. Never raises."""
    if getattr(error, "connection_invalidated", False):
        return
    try:
        keys = [file.object_key for file in files]
        with parts.database.read() as db:
            found = db.connection().execute(_OBJECTS, {"keys": keys}).scalars().all()
        for key in set(keys) - set(found):
            parts.store.delete(key)
    except Exception as error:  # the class only: a message may quote what was sent
        log.warning("containers in no record are left to the sweep: %s", type(error).__name__)


class _Ready:
    """One file on its way into the record. What it may need is sealed when first asked for, once."""

    def __init__(self, parts: RecordParts, file: SealedFile, owner_public_key: bytes) -> None:
        self.file = file
        self.index_key = parts.keys.index_key
        self.headers = file.facts.headers or {}
        self.content = (file.account_id, content_key(self.index_key, file.account_id, file.sha256))
        uid = self.headers.get("study_uid")
        self.group = (file.account_id, group_key(self.index_key, file.account_id, str(uid))) if uid else None
        self._owner_public_key = owner_public_key
        self._worker_public_key = parts.keys.worker.public

    @property
    def name(self) -> str:
        return shown_name(self.file.name) or "unnamed"

    @property
    def path(self) -> str:
        return shown_name(self.file.path, PATH_CHARACTERS_MAX)

    def prepare(self, *names: str) -> None:
        """Seals these now."""
        for name in names:
            getattr(self, name)

    @functools.cached_property
    def arrival(self) -> duplicates.Arrival:
        """For a file that the record has already."""
        file = self.file
        return duplicates.arrival(
            self.index_key, self._owner_public_key, new_id(), file.account_id, source=file.source,
            source_id=file.source_id, name=self.name, path=self.path,
        )  # fmt: skip

    @functools.cached_property
    def item(self) -> dict[str, Any]:
        """The columns of a file that is new: 0.1 ms of cipher work, as for each of the others."""
        file = self.file
        details = {
            "name": self.name,
            "path": self.path,
            "sha256": file.sha256.hex(),
            "rule": file.facts.rule,
            "headers": file.facts.headers,
        }
        return {
            "id": file.item_id, "account_id": file.account_id, "study_id": None, "version": 1,
            "object_key": file.object_key, "format": file.facts.format, "media_type": file.facts.media_type,
            "plain_bytes": file.plain_bytes, "content_key": self.content[1],
            "sealed_dek": envelope.seal_to(self._owner_public_key, file.dek, context=dek_context(file.item_id)),
            "sealed_details": seal_details(file.dek, file.item_id, details), "wrapped_labels": None,
            "source": file.source, "source_id": file.source_id, "created_at": now(), "deleted_at": None,
        }  # fmt: skip

    @functools.cached_property
    def study(self) -> Study:
        """For the first file of a study that is not here yet."""
        assert self.group is not None
        study_id = new_id()
        summary = seal_summary(self._owner_public_key, study_id, summaries.merge([self.headers]))
        return Study(id=study_id, account_id=self.file.account_id, group_key=self.group[1], sealed_summary=summary)

    @functools.cached_property
    def reading(self) -> dict[str, Any] | None:
        """The order to read the file, while its key is at hand."""
        file = self.file
        if not file.facts.readable:
            return None
        return readings.order_columns(self._worker_public_key, file.account_id, file.item_id, file.dek)

    def identifiers(self) -> list[dict[str, str]]:
        uid = self.headers.get("instance_uid")
        if not uid:
            return []
        file, kind = self.file, duplicates.DICOM_INSTANCE
        return [duplicates.identifier(self.index_key, file.account_id, file.item_id, kind, str(uid))]


_Key = tuple[str, str]  # account id, keyed hash


def _items_held(connection: Connection, ready: Sequence[_Ready]) -> dict[_Key, str]:
    """Ids of items with the content of one of these files, the oldest of each."""
    return _ids(connection, _ITEMS, {one.content for one in ready})


def _studies_held(connection: Connection, ready: Sequence[_Ready]) -> dict[_Key, str]:
    """Ids of the studies that these files belong to."""
    return _ids(connection, _STUDIES, {one.group for one in ready if one.group})


def _ids(connection: Connection, query: Prepared, wanted: set[_Key]) -> dict[_Key, str]:
    found: dict[_Key, str] = {}
    for account_id in {account_id for account_id, _ in wanted}:
        keys = sorted(key for owner, key in wanted if owner == account_id)
        for at in range(0, len(keys), _QUERY_ROWS):
            values = {"account": account_id, "keys": keys[at : at + _QUERY_ROWS]}
            for row_id, key in query.rows(connection, values):
                found.setdefault((account_id, key), row_id)
    return found


def _file_all(db: Session, ready: Sequence[_Ready]) -> list[Filed]:
    """All of them with few statements: one by one, the database took half the time of an import."""
    connection = db.connection()
    held, studies = _items_held(connection, ready), _studies_held(connection, ready)
    items: dict[_Key, Mapping[str, Any]] = {}
    for at in range(0, len(held), _QUERY_ROWS):
        for row in _ROWS.rows(connection, {"ids": list(held.values())[at : at + _QUERY_ROWS]}):
            items[row.account_id, row.content_key] = row._asdict()
    filed: list[Filed] = []
    again: list[tuple[str, duplicates.Arrival]] = []
    fresh: list[_Ready] = []
    new_studies: list[Study] = []
    grown: dict[str, list[int]] = {}
    for one in ready:
        same = items.get(one.content)
        if same is not None:
            came_twice = same["id"] != one.file.item_id  # else it was filed before a crash
            if came_twice:
                again.append((same["id"], one.arrival))
            filed.append(Filed(same, duplicate=came_twice))
            continue
        if not one.file.stored:
            raise NotHeldAnyMore
        item = items[one.content] = one.item
        if one.group:
            if one.group not in studies:
                new_studies.append(one.study)
                studies[one.group] = one.study.id
            item["study_id"] = studies[one.group]
            grown.setdefault(studies[one.group], []).append(one.file.plain_bytes)
        fresh.append(one)
        filed.append(Filed(item, duplicate=False))
    # Rows that others point at come first.
    _into(Study).run_each(connection, [_columns(study) for study in new_studies])
    _into(Item).run_each(connection, [one.item for one in fresh])
    _into(ItemReading).run_each(connection, [one.reading for one in fresh if one.reading is not None])
    _into(ItemIdentifier).run_each(connection, [row for one in fresh for row in one.identifiers()])
    for study_id, sizes in grown.items():
        _STUDY_GREW.run(connection, {"study": study_id, "items": len(sizes), "bytes": sum(sizes), "at": now()})
    if again:
        duplicates.came_again(db, again)
        db.flush()
    return filed


def _columns(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


@functools.cache
def _into(model: type) -> Prepared:
    """Past the object mapper, which takes longer over a row than SQLite."""
    return Prepared(insert(model.__table__))  # type: ignore[attr-defined]
