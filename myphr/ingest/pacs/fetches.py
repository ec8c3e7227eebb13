"""One look at what a PACS has of a patient, and what she takes of it: asked for, listed, chosen, stopped.

The worker asks the PACS (`fetching`); what it needs to know stands in the row, sealed to it, while it works. She may
choose what the list says, and the list is what the PACS said of her number. Called by the pages and the sweep.
"""

import dataclasses
import datetime as dt
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.database import new_id, now
from myphr.errors import EnvelopeError, FormRefused, NotFound
from myphr.ingest.archives import IngestParts
from myphr.ingest.pacs import fetching, links
from myphr.ingest.pacs import plan as plans
from myphr.ingest.pacs.models import Pacs, PacsFetch, PacsLink
from myphr.ingest.pacs.plan import Plan
from myphr.ingest.pacs.reasons import REASONS, refused
from myphr.ingest.pacs.states import LIVE, PACS_FETCH, WORKING
from myphr.people.login_sessions import Login
from myphr.records import summaries
from myphr.records.models import Study
from myphr.records.opening import Ring, group_key
from myphr.state_tables import StateConflict

LIST_WITHIN = dt.timedelta(days=1)  # to choose from a list: what is there changes
SHOWN_MAX = 10


@dataclasses.dataclass(frozen=True)
class StudyThere:
    """One study in the list. `images` is 0 if the PACS does not say; `here` counts what the record has of it."""

    uid: str = dataclasses.field(repr=False)
    title: str = dataclasses.field(repr=False)
    date: dt.date | None
    images: int
    here: int

    @property
    def is_here(self) -> bool:
        """As far as one can tell: all of it, or something where the PACS does not say how much there is."""
        return self.here > 0 and self.here >= self.images


@dataclasses.dataclass(frozen=True)
class FetchView:
    """One fetch as its owner sees it. `reason` completes "The images could not be fetched: ..."."""

    id: str
    link_id: str
    pacs_name: str = dataclasses.field(repr=False)
    state: str
    studies: tuple[StudyThere, ...]
    studies_count: int
    studies_done: int
    files_total: int
    items_count: int
    known_count: int
    refused_count: int
    missing_count: int
    bytes_count: int
    reason: str
    created_at: dt.datetime
    changed_at: dt.datetime

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def is_working(self) -> bool:
        return self.state in WORKING

    @property
    def files_come(self) -> int:
        return self.items_count + self.known_count


# -- the owner ------------------------------------------------------------------------------------
def look(parts: IngestParts, login: Login, link_id: str) -> str:
    """Have the worker ask what there is. Returns the fetch's id; while one of this link is under way, that one's.

    Raises NotFound, and FormRefused for a link that is not confirmed."""
    link = links.one_of_mine(parts, login, link_id)
    if link.patient is None:
        raise FormRefused(reason="the practice has not confirmed who you are there")
    plan = Plan(link.pacs_id, link.pacs_name, link.patient)
    with parts.database.write() as db:
        _held(db, link.id)
        mine = select(PacsFetch).where(PacsFetch.link_id == link.id, col(PacsFetch.state).in_(LIVE))
        for other in db.exec(mine).all():
            if other.state != "listed":
                return other.id
            PACS_FETCH.move(db, other, "lapse", sealed_list=None)
        row = PacsFetch(id=new_id(), account_id=login.account.id, link_id=link.id)
        row.sealed_for_worker = plans.seal(parts.keys.worker.public, row.id, plan)
        db.add(row)
        db.flush()
        trail.record(db, "pacs-asked", account_id=row.account_id, actor=_owner(row), fetch=row.id)
    fetching.enqueue(parts, row.id, fetching.LOOK)
    return row.id


def choose(parts: IngestParts, login: Login, fetch_id: str, uids: Collection[str]) -> None:
    """Have the worker fetch these studies of the list. Raises NotFound, FormRefused."""
    with parts.database.read() as db:
        row = _mine(db, login, fetch_id)
    if row.state != "listed":
        return  # pressed twice, or in two tabs: the page says how it stands
    there = {one["uid"]: one["images"] for one in _listed(login.ring(), row)}
    chosen = {uid: int(there[uid]) for uid in there if uid in uids}
    if not chosen or len(chosen) != len(set(uids)):
        raise FormRefused(reason="tick what you want to have")
    if sum(chosen.values()) > parts.settings.pacs_files_max:
        raise FormRefused(reason=f"choose fewer: at most {parts.settings.pacs_files_max:,} images come at a time")
    link = links.one_of_mine(parts, login, row.link_id)
    if link.patient is None:
        raise refused("ended")
    plan = Plan(link.pacs_id, link.pacs_name, link.patient, chosen)
    with parts.database.write() as db:
        _held(db, link.id)
        PACS_FETCH.move(
            db, row, "choose", sealed_for_worker=plans.seal(parts.keys.worker.public, row.id, plan), sealed_list=None,
            studies_count=len(chosen), files_total=sum(chosen.values()), refused_count=0,
        )  # fmt: skip
        trail.record(
            db, "pacs-chosen", account_id=row.account_id, actor=_owner(row), fetch=row.id, studies=len(chosen)
        )
    fetching.enqueue(parts, row.id, fetching.FETCH)


def withdraw(parts: IngestParts, login: Login, fetch_id: str) -> None:
    """Stop; what came stays. One that is over stays as it is. Raises NotFound."""
    with parts.database.write() as db:
        row = _mine(db, login, fetch_id)
        try:
            PACS_FETCH.move(db, row, "withdraw", sealed_for_worker=None, sealed_list=None)
        except StateConflict:
            return
        trail.record(
            db, "pacs-withdrawn", account_id=row.account_id, actor=_owner(row), fetch=row.id, items=row.items_count
        )


def view(parts: IngestParts, login: Login, fetch_id: str) -> FetchView:
    """Raises NotFound."""
    with parts.database.read() as db:
        row = _mine(db, login, fetch_id)
        return _view(db, row, _studies(parts, db, login.ring(), row))


def list_mine(parts: IngestParts, login: Login) -> Sequence[FetchView]:
    """The latest, newest first, without what they list."""
    with parts.database.read() as db:
        rows = db.exec(
            select(PacsFetch)
            .where(PacsFetch.account_id == login.account.id, PacsFetch.state != "lapsed")
            .order_by(col(PacsFetch.created_at).desc())
            .limit(SHOWN_MAX)
        ).all()
        return [_view(db, row, ()) for row in rows]


def names(db: Session, login: Login, fetch_ids: Iterable[str]) -> dict[str, str]:
    """The practices of these fetches, for the search and for what came again."""
    return dict(
        db.exec(
            select(PacsFetch.id, Pacs.name)
            .join(PacsLink, col(PacsLink.id) == col(PacsFetch.link_id))
            .join(Pacs, col(Pacs.id) == col(PacsLink.pacs_id))
            .where(PacsFetch.account_id == login.account.id, col(PacsFetch.id).in_(set(fetch_ids)))
        ).all()
    )


def sweep(parts: IngestParts) -> int:
    """Forget old lists, end what takes far too long, put back what nobody works on. Safe to run twice. Returns how many
    were changed or put back."""
    links.sweep(parts)
    with parts.database.read() as db:
        rows = db.exec(select(PacsFetch).where(col(PacsFetch.state).in_(LIVE))).all()
    changed = 0
    longest = LIST_WITHIN + dt.timedelta(seconds=2 * parts.settings.pacs_seconds_max)
    for row in rows:
        idle = now() - row.changed_at
        if row.state == "listed" and idle > LIST_WITHIN:
            with parts.database.write() as db:
                _lapse(db, row)
        elif row.state != "listed" and now() - row.created_at > longest:
            fetching.fail(parts, row.id, "cut-off")
        elif row.state in ("waiting", "looking") and idle > fetching.STUCK:
            fetching.enqueue(parts, row.id, fetching.LOOK_AGAIN)
        elif row.state in ("chosen", "fetching") and idle > fetching.STUCK:
            fetching.enqueue(parts, row.id, fetching.FETCH_AGAIN)
        else:
            continue
        changed += 1
    return changed


def _lapse(db: Session, row: PacsFetch) -> None:
    try:
        PACS_FETCH.move(db, row, "lapse", sealed_list=None)
    except StateConflict:
        pass  # she chose this very moment


def _held(db: Session, link_id: str) -> None:
    """The link, still held in this commit. Raises NotFound."""
    link = db.get(PacsLink, link_id, with_for_update=True)
    if link is None or link.state != "confirmed":
        raise NotFound("link to a PACS")


def _mine(db: Session, login: Login, fetch_id: str) -> PacsFetch:
    row = db.get(PacsFetch, fetch_id)
    if row is None or row.account_id != login.account.id:
        raise NotFound("fetch from a PACS")
    return row


def _listed(ring: Ring, row: PacsFetch) -> list[dict[str, Any]]:
    if row.sealed_list is None:
        return []
    try:
        return json.loads(ring.open(row.sealed_list, context=plans.list_context(row.id)))
    except (EnvelopeError, ValueError):
        return []  # damaged: there is nothing to choose, and she can look again


def _studies(parts: IngestParts, db: Session, ring: Ring, row: PacsFetch) -> tuple[StudyThere, ...]:
    listed = _listed(ring, row)
    keys = {one["uid"]: group_key(parts.keys.index_key, row.account_id, one["uid"]) for one in listed}
    here: dict[str, int] = {}
    wanted = sorted(keys.values())
    for at in range(0, len(wanted), 500):
        held = select(Study.group_key, Study.items_count).where(
            Study.account_id == row.account_id, col(Study.group_key).in_(wanted[at : at + 500]),
            col(Study.deleted_at).is_(None),
        )  # fmt: skip
        here |= dict(db.exec(held).all())
    return tuple(
        StudyThere(
            one["uid"], _title(one), _date(one["date"]), one["images"], here.get(keys[one["uid"]], 0)
        ) for one in listed
    )  # fmt: skip


def _title(one: dict[str, Any]) -> str:
    title = summaries.title({"modalities": dict.fromkeys(one["modalities"], 1)})
    return f"{title}: {one['description']}" if one["description"] else title


def _date(text: str) -> dt.date | None:
    try:
        return dt.datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _view(db: Session, row: PacsFetch, studies: tuple[StudyThere, ...]) -> FetchView:
    link = db.get(PacsLink, row.link_id)
    pacs = db.get(Pacs, link.pacs_id) if link else None
    return FetchView(
        id=row.id, link_id=row.link_id, pacs_name=pacs.name if pacs else "A practice", state=row.state, studies=studies,
        studies_count=row.studies_count, studies_done=row.studies_done, files_total=row.files_total,
        items_count=row.items_count, known_count=row.known_count, refused_count=row.refused_count,
        missing_count=row.missing_count, bytes_count=row.bytes_count, reason=REASONS.get(row.error_code or "", ""),
        created_at=row.created_at, changed_at=row.changed_at,
    )  # fmt: skip


def _owner(row: PacsFetch) -> Actor:
    return Actor("patient", row.account_id)
