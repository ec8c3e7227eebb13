"""The manifest of one VM session: path, key, size and place of each item, sealed under the session's own secret.

Spec: docs/formats/manifest.md. Built in web while the owner is signed in, opened in the files gateway when the machine
presents its secret. Names are made for people: `<Study>/<Series>/0001.dcm`, loose documents at the top.
"""

import base64
import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from sqlmodel import col, select

from myphr.crypto import envelope
from myphr.database import Database
from myphr.errors import EnvelopeError, NotFound
from myphr.records import formats, summaries
from myphr.records.models import Item
from myphr.records.opening import Ring, dek_of, open_details

VERSION = 1
ITEMS_MAX = 50_000
FOLDER_CHARACTERS_MAX = 60
FILE_CHARACTERS_MAX = 100
_SYNONYMS = {
    ".jpeg": ".jpg", ".tiff": ".tif", ".htm": ".html", ".heif": ".heic", ".fasta": ".fa", ".fna": ".fa",
    ".fq": ".fastq", ".csi": ".tbi", ".mpeg": ".mpg",
}  # fmt: skip
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_BATCH = 500  # SQLite takes at most 32,766 variables in one statement; PostgreSQL plans short lists better


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One file in the machine's folder. `path` has "/" between its parts and is safe to create anywhere."""

    path: str
    item_id: str
    account_id: str
    object_key: str
    plain_bytes: int
    version: int
    format: str
    dek: bytes = dataclasses.field(repr=False)


def build(
    database: Database, ring: Ring, account_id: str, item_ids: Iterable[str], secret: bytes, vm_session_id: str
) -> bytes:
    """The sealed manifest. Raises NotFound if an item is missing, deleted or not the owner's, EnvelopeError if the
    ring does not open it, ValueError for more than ITEMS_MAX items."""
    items = _load(database, account_id, list(dict.fromkeys(item_ids)))
    deks = [dek_of(ring, item) for item in items]
    details = [open_details(dek, item.id, item.sealed_details) for item, dek in zip(items, deks, strict=True)]
    return seal(items, deks, details, secret, vm_session_id)


def seal(
    items: Sequence[Item], deks: Sequence[bytes], details: Sequence[dict[str, Any]], secret: bytes, vm_session_id: str
) -> bytes:
    """The sealed manifest of files whose keys are at hand, in the same order: the owner's, or shared ones. Raises
    ValueError for more than ITEMS_MAX."""
    if len(items) > ITEMS_MAX:
        raise ValueError(f"a VM session takes at most {ITEMS_MAX} items")
    rows: list[dict[str, Any]] = [
        {
            "path": path,
            "item": item.id,
            "account": item.account_id,
            "object": item.object_key,
            "bytes": item.plain_bytes,
            "version": item.version,
            "format": item.format,
            "dek": base64.b64encode(dek).decode(),
        }
        for path, item, dek in zip(lay_out(items, details), items, deks, strict=True)
    ]
    rows.sort(key=lambda row: row["path"])
    plain = json.dumps({"version": VERSION, "items": rows}, ensure_ascii=False, separators=(",", ":")).encode()
    return envelope.wrap(envelope.derive(secret, "myphr/manifest/1"), plain, context=vm_session_id.encode())


def open_(secret: bytes, vm_session_id: str, blob: bytes) -> list[ManifestEntry]:
    """The entries, ordered by path. Raises EnvelopeError unless secret, VM session and every byte fit."""
    plain = envelope.unwrap(envelope.derive(secret, "myphr/manifest/1"), blob, context=vm_session_id.encode())
    content = json.loads(plain)
    if content.get("version") != VERSION:
        raise EnvelopeError("manifest of an unknown version")
    return [
        ManifestEntry(
            path=row["path"],
            item_id=row["item"],
            account_id=row["account"],
            object_key=row["object"],
            plain_bytes=row["bytes"],
            version=row["version"],
            format=row["format"],
            dek=base64.b64decode(row["dek"]),
        )
        for row in content["items"]
    ]


def _load(database: Database, account_id: str, item_ids: list[str]) -> list[Item]:
    if len(item_ids) > ITEMS_MAX:
        raise ValueError(f"a VM session takes at most {ITEMS_MAX} items")
    found: dict[str, Item] = {}
    with database.read() as db:
        for at in range(0, len(item_ids), _BATCH):
            part = item_ids[at : at + _BATCH]
            rows = db.exec(
                select(Item).where(
                    col(Item.id).in_(part), Item.account_id == account_id, col(Item.deleted_at).is_(None)
                )
            )
            found |= {item.id: item for item in rows}
    if len(found) != len(item_ids):
        raise NotFound("item")
    return [found[item_id] for item_id in item_ids]


# -- names ----------------------------------------------------------------------------------------
def safe_name(text: str, most: int = FOLDER_CHARACTERS_MAX) -> str:
    """One part of a path that every guest can create: no separators, control or direction-changing characters, no
    leading dot or dash, no trailing dot, not a device name, at most `most` characters and 200 bytes. May be empty."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else " " for c in text)
    kept = " ".join(kept.split()).lstrip(".- ")[:most].rstrip(". ")
    while len(kept.encode("utf-8", "replace")) > 200:
        kept = kept[:-1]
    return f"_{kept}" if _RESERVED.fullmatch(kept) else kept


def lay_out(items: Sequence[Item], details: Sequence[dict[str, Any]]) -> list[str]:
    """A path for each item, in the same order; unique also for a guest that ignores case."""
    paths = [""] * len(items)
    folders: dict[str, dict[str, list[int]]] = {}
    for at, (item, one) in enumerate(zip(items, details, strict=True)):
        headers = one.get("headers") or {}
        if item.study_id and item.format == "dicom":
            folders.setdefault(item.study_id, {}).setdefault(str(headers.get("series_uid") or ""), []).append(at)
    taken: set[str] = {"results"}  # the machine's writable folder
    in_study = {at for series in folders.values() for members in series.values() for at in members}
    for series in folders.values():
        everything = [details[at].get("headers") or {} for members in series.values() for at in members]
        study_folder = _unique(_study_name(summaries.merge(everything)), taken)
        series_taken: set[str] = set()
        ordered = sorted(series.values(), key=lambda members: _series_order(details[members[0]].get("headers") or {}))
        for members in ordered:
            members.sort(key=lambda at: _instance_order(details[at], items[at]))
            folder = _unique(_series_name(details[members[0]].get("headers") or {}), series_taken)
            for number, at in enumerate(members, 1):
                paths[at] = f"{study_folder}/{folder}/{number:04d}.dcm"
    for at, (item, one) in enumerate(zip(items, details, strict=True)):
        if at not in in_study:
            paths[at] = _unique(_document_name(item, one), taken)
    return paths


def _unique(name: str, taken: set[str]) -> str:
    stem, dot, ending = name.rpartition(".") if re.search(r"\.[A-Za-z0-9]{1,5}$", name) else (name, "", "")
    candidate, number = name, 2
    while candidate.casefold() in taken:
        candidate = f"{stem} ({number}){dot}{ending}"
        number += 1
    taken.add(candidate.casefold())
    return candidate


def _study_name(summary: dict[str, Any]) -> str:
    date = summaries.date_of(summary.get("study_date", ""))
    words = [date.isoformat() if date else "", summaries.title(summary), summary.get("study_description", "")]
    return safe_name(" - ".join(word for word in words if word)) or "Study"


def _series_name(headers: dict[str, Any]) -> str:
    number = headers.get("series_number")
    description = str(
        headers.get("series_description") or summaries.modality_words(str(headers.get("modality") or "OT"))
    )
    return safe_name(f"{number} - {description}" if number is not None else description) or "Series"


def _series_order(headers: dict[str, Any]) -> tuple[Any, ...]:
    return headers.get("series_number") is None, headers.get("series_number") or 0, str(headers.get("series_uid") or "")


def _instance_order(details: dict[str, Any], item: Item) -> tuple[Any, ...]:
    headers = details.get("headers") or {}
    number = headers.get("instance_number")
    return number is None, number or 0, str(details.get("name", "")), item.id


def _document_name(item: Item, details: dict[str, Any]) -> str:
    """The item's own name with an ending that fits its content: programs in the machine go by the ending."""
    name = safe_name(str(details.get("name") or ""), FILE_CHARACTERS_MAX) or "document"
    wanted = formats.of(item.format).ending
    _stem, dot, ending = name.rpartition(".")
    has = f".{ending.lower()}" if dot else ""
    fits = name.lower().endswith(wanted) or _SYNONYMS.get(has) == wanted
    if fits or (item.format == "text" and has in (".csv", ".md", ".log", ".xml", ".json")):
        return name
    return f"{name}{wanted}"
