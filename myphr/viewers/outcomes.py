"""What people say of a viewer after they used it ("It opened", "It did not"): kept for each, counted over all.

For each: a sealed memory that opens with her key ring alone. Over all: one word per person, viewer and kind of items,
under a token that only her key ring can make; words wait sealed to the worker until PEOPLE_MIN people's can be counted
at once. Learns from what people say, never from what they do. Knows no VM session but its id. Called by the pages
(`remember`, `say`, `memory_of`, `tallies`) and the sweep (`count`).
"""

import dataclasses
import json
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from myphr.crypto import envelope
from myphr.database import Database
from myphr.errors import EnvelopeError, NotFound
from myphr.people.models import Account
from myphr.people.parts import CommonParts
from myphr.viewers.belief import PEOPLE_MIN, Tally
from myphr.viewers.models import ViewerAnswer, ViewerMemory, ViewerVoice

ENTRIES_MAX = 60  # openings remembered; the question is asked about these
MEMORY_BYTES = 8192  # 60 of the longest entries take 7.6 KB; always as long, so that its length tells nothing
ANSWER_BYTES = 512
ANSWERS_AT_ONCE = 2000
_VERSION = 1

log = logging.getLogger(__name__)


class Ring(Protocol):
    @property
    def public_key(self) -> bytes: ...
    def derive(self, label: str) -> bytes: ...
    def open(self, sealed: bytes, *, context: bytes) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Opening:
    """One time somebody opened something. `opened` is what they said of it; None while they said nothing."""

    vm_session_id: str
    kind: str
    viewer: str
    opened: bool | None = None


@dataclasses.dataclass(frozen=True)
class Memory:
    """Newest last."""

    openings: tuple[Opening, ...] = ()

    def of(self, vm_session_id: str) -> Opening | None:
        return next((one for one in self.openings if one.vm_session_id == vm_session_id), None)

    def last_words(self, kind: str) -> dict[str, bool]:
        """Viewer to what this person said of it the last time, for items of this kind."""
        return {one.viewer: one.opened for one in self.openings if one.kind == kind and one.opened is not None}


# -- a person's own memory --------------------------------------------------------------------------
def memory_of(database: Database, ring: Ring, account_id: str) -> Memory:
    """What this person opened and said. Empty when there is nothing, or nothing that her ring opens."""
    with database.read() as db:
        return _open_memory(ring, account_id, db.get(ViewerMemory, account_id))


def remember(database: Database, ring: Ring, account_id: str, vm_session_id: str, viewer: str, kind: str) -> None:
    """Note that this VM session opens items of this kind, so that she can be asked how it went. Safe to repeat."""
    with database.write() as db:
        row = _locked(db, account_id)
        kept = [one for one in _open_memory(ring, account_id, row).openings if one.vm_session_id != vm_session_id]
        _keep(db, ring, account_id, row, [*kept, Opening(vm_session_id, kind, viewer)])


def say(parts: CommonParts, ring: Ring, account_id: str, vm_session_id: str, opened: bool | None) -> None:
    """ "It opened", "It did not", or None to take it back. Once a VM session, changeable, safe to repeat. Raises
    NotFound for a VM session that is not in her memory."""
    with parts.database.write() as db:
        row = _locked(db, account_id)
        memory = _open_memory(ring, account_id, row)
        about = memory.of(vm_session_id)
        if about is None:
            raise NotFound(f"opening {vm_session_id}")
        said = dataclasses.replace(about, opened=opened)
        _keep(db, ring, account_id, row, [said if one is about else one for one in memory.openings])
        # Her word is the newest one that stands; an older one counts again when it is taken back.
        word = Memory(tuple(said if one is about else one for one in memory.openings)).last_words(about.kind)
        answer_id = ring.derive(f"myphr/viewer-answer/1|{vm_session_id}").hex()[:32]
        answer = {
            "token": ring.derive(f"myphr/viewer-voice/1|{about.kind}|{about.viewer}").hex()[:32],
            "person": ring.derive("myphr/viewer-person/1").hex()[:32],
            "kind": about.kind, "viewer": about.viewer, "opened": word.get(about.viewer), "at": time.time_ns(),
        }  # fmt: skip
        sealed = envelope.seal_to(
            parts.keys.worker.public, _padded(answer, ANSWER_BYTES), context=_answer_context(answer_id)
        )
        db.merge(ViewerAnswer(id=answer_id, sealed=sealed))


def _locked(db: Session, account_id: str) -> ViewerMemory | None:
    """The row, for this transaction alone. By the account's row, as two tabs may both be the first to make it."""
    db.get(Account, account_id, with_for_update={"key_share": True})
    return db.get(ViewerMemory, account_id)


def _open_memory(ring: Ring, account_id: str, row: ViewerMemory | None) -> Memory:
    if row is None:
        return Memory()
    try:
        content = json.loads(ring.open(row.sealed, context=_memory_context(account_id)))
        if content["version"] != _VERSION:
            return Memory()
        return Memory(tuple(Opening(*entry) for entry in content["openings"]))
    except (EnvelopeError, ValueError, KeyError, TypeError):
        return Memory()  # not hers, or damaged: a memory is worth no error page


def _keep(db: Session, ring: Ring, account_id: str, row: ViewerMemory | None, openings: Sequence[Opening]) -> None:
    content = {"version": _VERSION, "openings": [dataclasses.astuple(one) for one in openings[-ENTRIES_MAX:]]}
    context = _memory_context(account_id)
    row = row or ViewerMemory(account_id=account_id, sealed=b"")
    row.sealed = envelope.seal_to(ring.public_key, _padded(content, MEMORY_BYTES), context=context)
    db.add(row)


def _padded(content: dict[str, Any], size: int) -> bytes:
    """JSON, filled up with spaces to this size."""
    text = json.dumps(content, separators=(",", ":")).encode()
    if len(text) > size:
        raise ValueError("longer than its padding")
    return text.ljust(size)


def _memory_context(account_id: str) -> bytes:
    return envelope.context_for("viewer-memory", account_id)


def _answer_context(answer_id: str) -> bytes:
    return envelope.context_for("viewer-answer", answer_id)


# -- counted over all -------------------------------------------------------------------------------
def tallies(database: Database, kind: str) -> dict[str, Tally]:
    """What everybody said of each viewer for items of this kind; those of a few people are left out."""
    counts: dict[str, dict[bool, int]] = defaultdict(dict)
    with database.read() as db:
        query = select(ViewerVoice.viewer, ViewerVoice.opened, func.count()).where(ViewerVoice.kind == kind)
        for viewer, opened, people in db.exec(query.group_by(ViewerVoice.viewer, col(ViewerVoice.opened))).all():
            counts[viewer][opened] = people
    found = {viewer: Tally(said.get(True, 0), said.get(False, 0)) for viewer, said in counts.items()}
    return {viewer: tally for viewer, tally in found.items() if tally.counts}


def count(parts: CommonParts) -> int:
    """Count the answers that wait, once they are of PEOPLE_MIN people; returns how many were counted. Safe to run
    twice and beside itself: each answer is taken by the delete that finds it as it was read."""
    with parts.database.read() as db:
        rows = db.exec(select(ViewerAnswer).limit(ANSWERS_AT_ONCE)).all()
    opener = envelope.Opener(parts.keys.worker.private)
    read = []
    for row in rows:
        try:
            read.append((row, json.loads(opener.open(row.sealed, context=_answer_context(row.id)))))
        except (EnvelopeError, ValueError):
            log.error("an answer about a viewer does not open and is dropped")
            read.append((row, None))
    if len({answer["person"] for _, answer in read if answer}) < PEOPLE_MIN:
        return 0
    counted = 0
    with parts.database.write() as db:
        # The latest word last; then by token, so that the order of rows says nothing where a database keeps one.
        for row, answer in sorted(read, key=lambda one: (one[1]["token"], one[1]["at"]) if one[1] else ("", 0)):
            taken = delete(ViewerAnswer).where(col(ViewerAnswer.id) == row.id, col(ViewerAnswer.sealed) == row.sealed)
            if db.connection().execute(taken).rowcount != 1 or answer is None:
                continue  # changed or counted meanwhile
            counted += 1
            if answer["opened"] is None:
                db.connection().execute(delete(ViewerVoice).where(col(ViewerVoice.token) == answer["token"]))
            else:
                db.merge(ViewerVoice(token=answer["token"], kind=answer["kind"], viewer=answer["viewer"],
                                     opened=bool(answer["opened"])))  # fmt: skip
                db.flush()
    return counted
