"""The owner's record as pages show it: studies and documents in plain words, never identifiers first.

Needs the signed-in owner's key ring; opens one sealed summary per study and the details of the documents shown. A
study that grew since its summary was made is summed up anew here, because only here it can be read. Called by web,
machines and the command line.
"""

import collections
import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from myphr.database import Database, now
from myphr.errors import EnvelopeError, NotFound
from myphr.records import formats, summaries
from myphr.records.models import ArchiveTask, Item, Study, Upload
from myphr.records.opening import Ring, details_of, seal_summary, summary_of

DOCUMENTS_SHOWN = 200
SETTLE = dt.timedelta(seconds=3)  # while slices pour in, the page polls: sum up once they pause


@dataclasses.dataclass(frozen=True)
class SeriesView:
    number: int | None
    description: str
    modality: str
    count: int

    @property
    def title(self) -> str:
        return self.description or summaries.modality_words(self.modality)


@dataclasses.dataclass(frozen=True)
class ItemView:
    """One file. `headers` are its DICOM headers, if any (technical names, for the details page)."""

    id: str
    name: str
    path: str
    format: str
    format_words: str
    media_type: str
    plain_bytes: int
    size_words: str
    sha256: str
    source: str
    added_at: dt.datetime
    headers: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class StudyView:
    """One study. `date` is when the pictures were taken, `added_at` when they came here. `modalities` and `formats`
    count items by code, for the suggestion of a viewer."""

    id: str
    title: str
    date: dt.date | None
    date_words: str
    description: str
    hospital: str
    patient: str
    body_part: str
    modality_words: str
    modalities: dict[str, int]
    formats: dict[str, int]
    series: tuple[SeriesView, ...]
    items_count: int
    items_words: str
    bytes_total: int
    size_words: str
    added_at: dt.datetime
    study_uid: str = ""
    kinds: tuple[tuple[str, str, str, int], ...] = ()  # modality, SOP class, transfer syntax, how many


@dataclasses.dataclass(frozen=True)
class ArchiveView:
    """An archive being unpacked, or one that was not. `reason` completes "not unpacked: ..."."""

    item_id: str
    state: str
    members_total: int
    members_done: int
    members_duplicate: int
    members_damaged: int
    members_left: int
    reason: str | None

    @property
    def members_new(self) -> int:
        return self.members_done - self.members_duplicate - self.members_damaged


@dataclasses.dataclass(frozen=True)
class RecordView:
    """`documents` holds at most `documents_max`, the newest, of `documents_count` files that belong to no study."""

    studies: tuple[StudyView, ...]
    documents: tuple[ItemView, ...]
    documents_count: int
    items_count: int
    bytes_total: int
    size_words: str
    archives: dict[str, ArchiveView]
    uploads_unfinished: int

    @property
    def is_empty(self) -> bool:
        return self.items_count == 0


@dataclasses.dataclass(frozen=True)
class StudyPage:
    study: StudyView
    items: tuple[ItemView, ...]


def my_record(
    database: Database, ring: Ring, account_id: str, *, documents_from: int = 0, documents_max: int = DOCUMENTS_SHOWN
) -> RecordView:
    """The whole record, newest study first. Raises EnvelopeError if the ring is not this record's."""
    with database.read() as db:
        studies = db.exec(
            select(Study).where(Study.account_id == account_id, col(Study.deleted_at).is_(None), Study.items_count > 0)
        ).all()
        kept = (Item.account_id == account_id, col(Item.deleted_at).is_(None))
        loose = (*kept, col(Item.study_id).is_(None))
        documents = db.exec(
            select(Item)
            .where(*loose)
            .order_by(col(Item.created_at).desc(), Item.id)
            .offset(documents_from)
            .limit(documents_max)
        ).all()
        documents_count = db.exec(select(func.count()).select_from(Item).where(*loose)).one()
        items_count, bytes_total = db.exec(
            select(func.count(), func.coalesce(func.sum(Item.plain_bytes), 0)).select_from(Item).where(*kept)
        ).one()
        tasks = db.exec(
            select(ArchiveTask).where(
                ArchiveTask.account_id == account_id,
                # one under way is shown even when what came out of it has pushed it off the page
                col(ArchiveTask.item_id).in_([d.id for d in documents])
                | col(ArchiveTask.state).in_(("waiting", "running")),
            )
        ).all()
        uploads = db.exec(
            select(func.count())
            .select_from(Upload)
            .where(Upload.account_id == account_id, col(Upload.state).in_(("receiving", "writing", "finishing")))
        ).one()
    shown = [_study_view(study, _summary(database, ring, study)) for study in studies]
    shown.sort(key=lambda study: (study.date or dt.date.min, study.added_at), reverse=True)
    return RecordView(
        studies=tuple(shown),
        documents=tuple(_item_view(ring, item) for item in documents),
        documents_count=documents_count,
        items_count=items_count,
        bytes_total=bytes_total,
        size_words=summaries.size_words(bytes_total),
        uploads_unfinished=uploads,
        archives={task.item_id: _archive_view(task) for task in tasks},
    )


def study_page(database: Database, ring: Ring, account_id: str, study_id: str) -> StudyPage:
    """One study with all its items in the order a person leafs through them. Raises NotFound.

    Summed up from these very items, whatever the stored summary says: who compares it with the CD must not see a
    series short of images that are here, and opening them is paid already."""
    study, items = load_study(database, account_id, study_id)
    views = sorted((_item_view(ring, item) for item in items), key=_leafing_order)
    summary = summaries.merge(view.headers or {} for view in views)
    # On PostgreSQL the row and its items are read one after the other: the page counts what it lists.
    study.items_count, study.bytes_total = len(items), sum(item.plain_bytes for item in items)
    if summary != summary_of(ring, study):
        _keep(database, ring, study, summary)
    return StudyPage(_study_view(study, summary), tuple(views))


def study_view(database: Database, ring: Ring, account_id: str, study_id: str) -> StudyView:
    """One study as its summary tells it, without a look at its items: a CT has 2,000. Raises NotFound."""
    with database.read() as db:
        study = db.get(Study, study_id)
    if study is None or study.account_id != account_id or study.deleted_at is not None:
        raise NotFound("study")
    return _study_view(study, summary_of(ring, study))


def study_in(database: Database, ring: Ring, study: Study) -> StudyView:
    """One study of a row that is loaded already. Raises EnvelopeError for a damaged one."""
    return _study_view(study, _summary(database, ring, study))


def item_view(database: Database, ring: Ring, account_id: str, item_id: str) -> ItemView:
    """One file. Raises NotFound."""
    return _item_view(ring, load_item(database, account_id, item_id))


def load_item(database: Database, account_id: str, item_id: str) -> Item:
    """The owner's item. Raises NotFound for what is not there, deleted or not theirs."""
    with database.read() as db:
        item = db.get(Item, item_id)
    if item is None or item.account_id != account_id or item.deleted_at is not None:
        raise NotFound("item")
    return item


def load_items(database: Database, account_id: str, item_ids: Sequence[str]) -> Sequence[Item]:
    """Those of these items that are the owner's and there; in no order. For lists of at most `DOCUMENTS_SHOWN`."""
    with database.read() as db:
        return db.exec(select(Item).where(
            Item.account_id == account_id, col(Item.deleted_at).is_(None), col(Item.id).in_(item_ids)
        )).all()  # fmt: skip


def load_study(database: Database, account_id: str, study_id: str) -> tuple[Study, Sequence[Item]]:
    """The owner's study and its items. Raises NotFound."""
    with database.read() as db:
        study = db.get(Study, study_id)
        if study is None or study.account_id != account_id or study.deleted_at is not None:
            raise NotFound("study")
        return study, _items_of(db, study_id)


def _items_of(db: Session, study_id: str) -> Sequence[Item]:
    return db.exec(select(Item).where(Item.study_id == study_id, col(Item.deleted_at).is_(None))).all()


def _summary(database: Database, ring: Ring, study: Study) -> dict[str, Any]:
    summary = summary_of(ring, study)
    if summary.get("counted") == study.items_count or now() - study.changed_at < SETTLE:
        return summary
    with database.read() as db:
        items = _items_of(db, study.id)
    headers = [details_of(ring, item).get("headers") or {} for item in items]
    summary = summaries.merge(headers)
    _keep(database, ring, study, summary)
    return summary


def _keep(database: Database, ring: Ring, study: Study, summary: dict[str, Any]) -> None:
    sealed = seal_summary(ring.public_key, study.id, summary)
    with database.write() as db:
        current = db.get(Study, study.id)
        if current is not None and current.items_count == summary["counted"]:
            current.sealed_summary = sealed
            db.add(current)


def _study_view(study: Study, summary: dict[str, Any]) -> StudyView:
    date = summaries.date_of(summary.get("study_date", ""))
    modalities = {str(code): int(count) for code, count in (summary.get("modalities") or {}).items()}
    return StudyView(
        id=study.id,
        title=summaries.title(summary),
        date=date,
        date_words=summaries.date_words(date),
        description=summary.get("study_description", ""),
        hospital=summary.get("hospital", ""),
        patient=summaries.person_words(summary.get("patient_name", "")),
        body_part=summaries.body_part_words(summary.get("body_part", "")),
        modality_words=" and ".join(dict.fromkeys(summaries.modality_words(code) for code in modalities)),
        modalities=modalities,
        formats={"dicom": study.items_count},
        series=tuple(
            SeriesView(s["number"], s["description"], s["modality"], s["count"]) for s in summary.get("series", [])
        ),
        items_count=study.items_count,
        items_words=summaries.count_words(study.items_count, "image"),
        bytes_total=study.bytes_total,
        size_words=summaries.size_words(study.bytes_total),
        added_at=study.created_at,
        study_uid=summary.get("study_uid", ""),
        kinds=tuple((str(m), str(c), str(t), int(n)) for m, c, t, n in summary.get("kinds") or ()),
    )


def _item_view(ring: Ring, item: Item) -> ItemView:
    try:
        details = details_of(ring, item)
    except (EnvelopeError, json.JSONDecodeError):
        # One damaged row must not hide the record: shown as such, and opening it says what is wrong.
        details = {"name": "A file whose description is damaged"}
    return ItemView(
        id=item.id,
        name=details.get("name", ""),
        path=details.get("path", ""),
        format=item.format,
        format_words=formats.of(item.format).words,
        media_type=item.media_type,
        plain_bytes=item.plain_bytes,
        size_words=summaries.size_words(item.plain_bytes),
        sha256=details.get("sha256", ""),
        source=item.source,
        added_at=item.created_at,
        headers=details.get("headers"),
    )


def _archive_view(task: ArchiveTask) -> ArchiveView:
    return ArchiveView(
        task.item_id, task.state, task.members_total, task.members_done, task.members_duplicate, task.members_damaged,
        task.members_left, task.error_reason,
    )  # fmt: skip


def _leafing_order(item: ItemView) -> tuple[Any, ...]:
    headers = item.headers or {}
    return (
        headers.get("series_number") is None,
        headers.get("series_number") or 0,
        str(headers.get("series_uid") or ""),
        headers.get("instance_number") is None,
        headers.get("instance_number") or 0,
        item.name,
    )


def counts_of(items: Sequence[Item]) -> collections.Counter[str]:
    """How many items of each format, for the suggestion of a viewer."""
    return collections.Counter(item.format for item in items)
