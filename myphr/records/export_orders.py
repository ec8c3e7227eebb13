"""The order of an export: what its worker must know of each file, written piece by piece while the owner is signed in.

Opening a description takes 0.15 ms, 20,000 of them longer than a page may take: each request does its share, and each
piece lies sealed in the object store until the zip is there. Only the last step tells the worker the key. Format:
docs/formats/export.md. Called by `exports`; knows no state.
"""

import contextlib
import dataclasses
import datetime as dt
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, or_
from sqlmodel import col, func, select

from myphr.crypto import container
from myphr.database import Database
from myphr.errors import EnvelopeError
from myphr.people.keyring import KeyRing
from myphr.records import export_contents, formats, labels, manifest, summaries
from myphr.records.export_contents import FILES
from myphr.records.models import Export, Item
from myphr.records.opening import ItemPlace, dek_of, id_bytes, open_details, open_item
from myphr.records.store import ObjectStore, SealedWriter

BATCH = 200
BLOCK_BYTES = 16 * container.CHUNK_BYTES


@dataclasses.dataclass(frozen=True)
class Step:
    """How far the order is after one step. `pieces` and `opened_to` are what the row takes over."""

    pieces: str
    opened_to: str
    opened: int
    is_done: bool
    object_key: str


def totals(database: Database, export: Export) -> tuple[int, int]:
    """(files, bytes) that the order will name."""
    with database.read() as db:
        count, size = db.exec(
            select(func.count(), func.coalesce(func.sum(Item.plain_bytes), 0)).where(*_of_then(export))
        ).one()
    return count, int(size)  # PostgreSQL sums in decimals


def step(database: Database, store: ObjectStore, ring: KeyRing, export: Export, dek: bytes, seconds: float) -> Step:
    """Opens the next files for about so long, and writes what it found as one more piece. The caller takes it over into
    the row, or deletes `object_key` where somebody else was first."""
    started, after = time.monotonic(), export.opened_to
    found: list[dict[str, Any]] = []
    waiting = _next(database, export)
    while waiting and (not found or time.monotonic() - started < seconds):
        items = _load(database, waiting[:BATCH])
        found += [_opened(ring, item) for item in items]
        at, item_id = waiting[:BATCH][-1]
        after, waiting = json.dumps([_iso(at), item_id]), waiting[BATCH:]
    pieces = json.loads(export.order_pieces)
    name, plain = secrets.token_hex(8), json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
    with Sealed(store, _object(export.id, name), dek, export, len(pieces) + 1) as out:
        out.write(plain)
        out.commit()
    return Step(
        json.dumps([*pieces, [name, len(plain)]]), after or "", len(found), not waiting, _object(export.id, name)
    )  # fmt: skip


def objects_of(export: Export) -> list[str]:
    """The objects of its pieces."""
    return [_object(export.id, name) for name, _ in json.loads(export.order_pieces)]


def read(store: ObjectStore, export: Export, dek: bytes, name: str) -> dict[str, Any]:
    """The whole order: each file with the path that it gets, studies, and what could not be opened. `name`: the
    owner's. Raises NotFound, ContainerError."""
    opened: list[dict[str, Any]] = []
    unreadable: list[dict[str, Any]] = []
    for one in _pieces(store, export, dek):
        (unreadable if one.get("is_damaged") else opened).append(one)
    items = [
        Item(id=one["item"], account_id=one["account"], study_id=one["study"], object_key=one["object"],
             format=one["format"], plain_bytes=one["bytes"], version=one["version"],
             created_at=dt.datetime.fromisoformat(one["added_at"]), content_key="", sealed_dek=b"", sealed_details=b"")
        for one in opened
    ]  # fmt: skip
    details = [one.pop("details") for one in opened]
    for one, of_one, path in zip(opened, details, manifest.lay_out(items, details), strict=True):
        one |= {
            "path": f"{FILES}/{path}", "sha256": of_one["sha256"], "name": of_one.get("name", ""),
            "original_path": of_one.get("path", ""), "format_words": formats.of(one["format"]).words,
        }  # fmt: skip
    studies = _studies(items, details)
    opened.sort(key=lambda entry: str(entry["path"]))
    return {
        "version": export_contents.VERSION, "made_at": _iso(export.created_at), "name": name, "entries": opened,
        "studies": studies, "unreadable": [{"name": one["name"], "item": one["item"], "sha256": ""}
                                           for one in unreadable],
    }  # fmt: skip


def _pieces(store: ObjectStore, export: Export, dek: bytes) -> Iterator[dict[str, Any]]:
    for number, (name, size) in enumerate(json.loads(export.order_pieces), 1):
        place = ItemPlace(export.id, export.account_id, _object(export.id, name), size, number)
        with contextlib.closing(open_item(store, place, dek)) as opened:
            yield from json.loads(opened.read_at(0, size))


def _of_then(export: Export) -> tuple[Any, ...]:
    """Files of the moment it was asked for; what comes later is not in it."""
    return (Item.account_id == export.account_id, col(Item.deleted_at).is_(None), Item.sealed_dek != b"",
            Item.created_at <= export.created_at)  # fmt: skip


def _next(database: Database, export: Export) -> list[tuple[dt.datetime, str]]:
    """(time, id) of all that is left. Looked for once a step: the rows are in no order of time."""
    query = select(Item.created_at, Item.id).where(*_of_then(export)).order_by(col(Item.created_at), col(Item.id))
    if export.opened_to:
        at, item_id = json.loads(export.opened_to)
        moment = dt.datetime.fromisoformat(at)
        query = query.where(or_(col(Item.created_at) > moment,
                                and_(col(Item.created_at) == moment, col(Item.id) > item_id)))  # fmt: skip
    with database.read() as db:
        return list(db.exec(query).all())


def _load(database: Database, some: Sequence[tuple[dt.datetime, str]]) -> list[Item]:
    """In the same order. One that was deleted since is left out; its export goes too."""
    with database.read() as db:
        rows = {item.id: item for item in db.exec(select(Item).where(col(Item.id).in_([id_ for _, id_ in some])))}
    return [rows[item_id] for _, item_id in some if item_id in rows and rows[item_id].sealed_dek]


def _opened(ring: KeyRing, item: Item) -> dict[str, Any]:
    """What the worker must know of it. One that does not open is named: a damaged row must not keep the rest from its
    owner."""
    try:
        dek = dek_of(ring, item)
        details = open_details(dek, item.id, item.sealed_details)
    except EnvelopeError:
        return {"item": item.id, "name": "A file whose description is damaged", "is_damaged": True}
    return {
        "item": item.id, "account": item.account_id, "object": item.object_key, "bytes": item.plain_bytes,
        "version": item.version, "dek": dek.hex(), "format": item.format, "media_type": item.media_type,
        "source": item.source, "added_at": _iso(item.created_at), "labels": _labels(ring, item, details),
        "study": item.study_id, "details": details,
    }  # fmt: skip


def _labels(ring: KeyRing, item: Item, details: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        kept = labels.kept_of(ring, item.id, item.wrapped_labels)
    except EnvelopeError:
        return None
    found = kept.labels if kept else labels.guess(item.format, details.get("headers"), item.created_at.date())
    return labels.to_json(found)


def _studies(items: Sequence[Item], details: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    headers: dict[str, list[Mapping[str, Any]]] = {}
    for item, one in zip(items, details, strict=True):
        if item.study_id is not None:
            headers.setdefault(item.study_id, []).append(one.get("headers") or {})
    found = []
    for study_id, of_study in headers.items():
        summary = summaries.merge(of_study)
        date = summaries.date_of(summary.get("study_date", ""))
        series: dict[str, list[Mapping[str, Any]]] = {}
        for one in of_study:
            series.setdefault(str(one.get("series_uid") or ""), []).append(one)
        found.append({
            "study": study_id, "uid": str(of_study[0].get("study_uid") or ""), "title": summaries.title(summary),
            "date": date.isoformat() if date else None, "instances": len(of_study),
            "modalities": list(summary.get("modalities") or {}),
            "series": [
                {
                    "uid": uid, "modality": str(members[0].get("modality") or "OT"), "instances": len(members),
                    "number": members[0].get("series_number"),
                    "description": str(members[0].get("series_description") or ""),
                }
                for uid, members in series.items()
            ],
        })  # fmt: skip
    return found


class Sealed:
    """A container that is written in pieces of any size. Nothing stays of one that was not committed."""

    def __init__(self, store: ObjectStore, object_key: str, dek: bytes, row: Export, version: int = 1) -> None:
        self.plain_bytes = 0
        self._sealer = container.ChunkSealer(dek, id_bytes(row.account_id), id_bytes(row.id), version)
        self._held = bytearray()  # the last chunk must be sealed as such: something is always held back
        self._out: SealedWriter = store.create(object_key)
        self._out.write(self._sealer.header)

    def write(self, plaintext: bytes) -> None:
        self.plain_bytes += len(plaintext)
        self._held += plaintext
        if len(self._held) > BLOCK_BYTES:
            size = (len(self._held) - 1) // BLOCK_BYTES * BLOCK_BYTES
            self._out.write(self._sealer.seal_chunks(bytes(self._held[:size]), False))
            del self._held[:size]

    def commit(self) -> None:
        self._out.write(self._sealer.seal_chunks(bytes(self._held), True))
        self._out.commit()

    def __enter__(self) -> "Sealed":
        return self

    def __exit__(self, *error: object) -> None:
        self._out.abort()


def _object(export_id: str, name: str) -> str:
    return f"{export_id}.order-{name}"


def _iso(moment: dt.datetime) -> str:
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat()
