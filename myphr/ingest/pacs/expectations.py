"""What a PACS was asked to send to our receiver (C-MOVE), and what becomes of what comes there.

A worker opens an expectation: one study of one fetch, these images, for a while, under a message id that the PACS
repeats with each of them. The receiver holds each image against it and files it for that fetch's owner, and for nobody
else; whatever no expectation awaits is refused. The row has keyed hashes, so the receiver needs no key of the worker's
and the database tells nobody who is meant; and a proof, so that who only writes to the database opens none.

docs/decisions/0218-pacs-that-only-move.md. Called by `fetching`, which opens, folds and closes, and by `arrivals`,
which holds what comes against it.
"""

import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import secrets
from collections.abc import Collection

from sqlmodel import Session, col, delete, select, update

from myphr.database import new_id, now
from myphr.ingest.pacs.models import Pacs, PacsExpectation, PacsFetch, PacsLink
from myphr.ingest.pacs.plan import Patient
from myphr.records.filing import RecordParts

GRACE_SECONDS = 60  # longer than the worker waits: it closes what it opened
_HASH_BYTES = 16
_OPEN = "fetching"  # the state of a fetch in which something may come


# -- the worker -----------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to come."""

    patient: Patient
    study: str = dataclasses.field(repr=False)
    instances: Collection[str] = dataclasses.field(repr=False)
    files_max: int
    bytes_max: int
    seconds: float


def open_for(parts: RecordParts, db: Session, fetch: PacsFetch, pacs_id: str, wanted: Wanted) -> PacsExpectation:
    """In the caller's commit, in place of any that the fetch had. Two workers never get one message id: the database
    holds it once for each PACS, and whoever is late fails and comes again."""
    close_all(db, fetch.id)
    taken = set(db.exec(select(PacsExpectation.message_id).where(PacsExpectation.pacs_id == pacs_id)))
    free = next(one for one in iter(lambda: secrets.randbelow(0xFFFF) + 1, 0) if one not in taken)
    key, row_id = parts.keys.index_key, new_id()
    row = PacsExpectation(
        id=row_id, fetch_id=fetch.id, pacs_id=pacs_id, message_id=free,
        number_hash=hash_of(key, row_id, "number", wanted.patient.number),
        birth_date_hash=hash_of(key, row_id, "birth-date", wanted.patient.birth_date),
        study_hash=hash_of(key, row_id, "study", wanted.study),
        announced=b"".join(sorted(instance_hash(key, row_id, one) for one in wanted.instances)),
        files_left=wanted.files_max, bytes_left=wanted.bytes_max, proof="",
        expires_at=now() + dt.timedelta(seconds=wanted.seconds + GRACE_SECONDS),
    )  # fmt: skip
    row.proof = _proof(key, row, fetch.account_id)
    db.add(row)
    db.flush()
    return row


def has_news(parts: RecordParts, expectation_id: str) -> bool:
    with parts.database.read() as db:
        row = db.get(PacsExpectation, expectation_id)
    return row is not None and bool(row.items_count or row.known_count or row.refused_count or row.stopped_by)


@dataclasses.dataclass(frozen=True)
class Came:
    """Since the last time: images; those that were filed; those announced that are no items of this fetch, since they
    were here already or not what they were announced as. `stopped_by`: why nothing more is taken (one of `reasons`), or
    ""."""

    images: int = 0
    items: int = 0
    accounted: int = 0
    stopped_by: str = ""


def fold(db: Session, expectation_id: str) -> Came:
    """In the caller's commit the counts go into the fetch, whatever became of it, and are gone from the expectation."""
    row = db.get(PacsExpectation, expectation_id, with_for_update=True, populate_existing=True)
    if row is None:
        return Came()
    images = row.items_count + row.known_count + row.refused_count
    came = Came(images, row.items_count, row.known_count + row.wrong_count, row.stopped_by or "")
    db.exec(update(PacsFetch).where(col(PacsFetch.id) == row.fetch_id).values(
        items_count=PacsFetch.items_count + row.items_count, known_count=PacsFetch.known_count + row.known_count,
        refused_count=PacsFetch.refused_count + row.refused_count, bytes_count=PacsFetch.bytes_count + row.bytes_count,
    ))  # fmt: skip
    row.files_left -= row.items_count + row.known_count
    row.bytes_left -= row.bytes_count
    row.items_count = row.known_count = row.refused_count = row.wrong_count = row.bytes_count = 0
    db.add(row)
    db.flush()
    return came


def close(db: Session, expectation_id: str) -> Came:
    """The same; and from this commit on nothing more comes."""
    came = fold(db, expectation_id)
    db.exec(delete(PacsExpectation).where(col(PacsExpectation.id) == expectation_id))
    return came


def close_all(db: Session, fetch_id: str) -> None:
    for row_id in db.exec(select(PacsExpectation.id).where(PacsExpectation.fetch_id == fetch_id)).all():
        close(db, row_id)


def sweep(parts: RecordParts) -> None:
    """Those whose worker died. Safe to run twice."""
    with parts.database.write() as db:
        for row_id in db.exec(select(PacsExpectation.id).where(col(PacsExpectation.expires_at) < now())).all():
            close(db, row_id)


# -- whoever holds something against one ----------------------------------------------------------
def holds(parts: RecordParts, db: Session, row: PacsExpectation, fetch: PacsFetch) -> bool:
    """Whether a worker opened this for this fetch, and it still may be."""
    link, pacs = db.get(PacsLink, fetch.link_id), db.get(Pacs, row.pacs_id)
    if fetch.state != _OPEN or link is None or pacs is None or link.state != "confirmed" or pacs.closed_at is not None:
        return False
    is_hers = (link.account_id, link.pacs_id) == (fetch.account_id, row.pacs_id)
    return is_hers and hmac.compare_digest(row.proof, _proof(parts.keys.index_key, row, fetch.account_id))


def hashes_in(announced: bytes) -> frozenset[bytes]:
    return frozenset(announced[at : at + _HASH_BYTES] for at in range(0, len(announced), _HASH_BYTES))


# -- hashes ---------------------------------------------------------------------------------------
def hash_of(index_key: bytes, expectation_id: str, kind: str, value: str) -> str:
    """Of its own in each expectation: two rows do not show that they are about one patient."""
    return hmac.digest(index_key, json.dumps(["pacs-expected", kind, expectation_id, value]).encode(), "sha256").hex()


def instance_hash(index_key: bytes, expectation_id: str, instance: str) -> bytes:
    return bytes.fromhex(hash_of(index_key, expectation_id, "instance", instance))[:_HASH_BYTES]


def _proof(index_key: bytes, row: PacsExpectation, account_id: str) -> str:
    said = [row.id, row.fetch_id, account_id, row.pacs_id, row.message_id, row.number_hash, row.birth_date_hash,
            row.study_hash, hashlib.sha256(row.announced).hexdigest(), row.expires_at.isoformat()]  # fmt: skip
    return hash_of(index_key, row.id, "proof", json.dumps(said))

