"""What is known of an archive or a disc as a whole, beyond its members: the note of a disc.

Written by the worker that unpacked it, sealed to the owner; docs/formats/disc-note.md. Knows no formats. Called by
`ingest.archives` and the page of the archive.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sqlmodel import select

from myphr.crypto import envelope
from myphr.database import Database
from myphr.errors import EnvelopeError
from myphr.records.models import ArchiveTask
from myphr.records.opening import Ring

PATHS_MAX = 200  # named in a note, of each kind; all are counted
TEXT_CHARACTERS_MAX = 1024
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """One program that a disc starts, or a viewer known by its files. `system`: windows, mac, linux, java or ""."""

    name: str
    path: str
    system: str


@dataclasses.dataclass(frozen=True)
class DiscNote:
    """`is_image`: a CD kept whole. `is_disc`: an image, or an archive of a disc's files. `autorun`: what autorun.inf
    says. `starts`: the program it names. `viewers`: those known. `listed`: how many files the DICOMDIR has, `found` how
    many of them are on the disc; None without one. `left_out` counts what is no item, by reason."""

    is_image: bool = False
    is_disc: bool = False
    label: str = ""
    made_on: str = ""
    autorun: dict[str, str] = dataclasses.field(default_factory=dict)
    starts: Program | None = None
    viewers: tuple[Program, ...] = ()
    systems: tuple[str, ...] = ()
    programs_count: int = 0
    programs: tuple[str, ...] = ()
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    listed: int | None = None
    listed_images: int = 0
    found: int = 0
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def missing_count(self) -> int:
        return 0 if self.listed is None else self.listed - self.found


def seal(public_key: bytes, task_id: str, note: DiscNote) -> bytes:
    plain = {"version": VERSION, **dataclasses.asdict(note)}
    return envelope.seal_to(
        public_key, json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode(), context=_context(task_id)
    )


def open_note(ring: Ring, task_id: str, sealed: bytes) -> DiscNote:
    """Raises EnvelopeError."""
    try:
        plain = json.loads(ring.open(sealed, context=_context(task_id)))
        return _from_json(plain)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise EnvelopeError("the note is not what was sealed") from None


def of_item(database: Database, ring: Ring, item_id: str) -> tuple[ArchiveTask, DiscNote | None] | None:
    """The unpacking of one of the owner's archives, and its note once that is done."""
    with database.read() as db:
        task = db.exec(select(ArchiveTask).where(ArchiveTask.item_id == item_id)).first()
    if task is None:
        return None
    if not task.sealed_note:
        return task, None
    try:
        return task, open_note(ring, task.id, task.sealed_note)
    except EnvelopeError:
        return task, None  # a damaged note must not hide the file


def _from_json(plain: Mapping[str, Any]) -> DiscNote:
    if plain["version"] != VERSION:
        raise ValueError("a note of another version")
    starts = plain.get("starts")
    known = {field.name for field in dataclasses.fields(DiscNote)}
    values = {name: value for name, value in plain.items() if name in known}
    for name in ("systems", "programs", "missing", "damaged"):
        values[name] = tuple(str(text) for text in plain.get(name, ()))
    values["starts"] = Program(**starts) if starts else None
    values["viewers"] = tuple(Program(**viewer) for viewer in plain.get("viewers", ()))
    return DiscNote(**values)


def _context(task_id: str) -> bytes:
    return envelope.context_for("disc-note", task_id)
