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
from myphr.database import new_id
from myphr.errors import EnvelopeError, FormRefused, NotFound
from myphr.ingest.archives import IngestParts
from myphr.ingest.fetch import rows
from myphr.ingest.pacs import expectations, links
from myphr.ingest.pacs import plan as plans
from myphr.ingest.pacs.models import Pacs, PacsFetch, PacsLink
from myphr.ingest.pacs.plan import Plan
from myphr.ingest.pacs.reasons import refused
from myphr.ingest.pacs.states import PACS_FETCH
from myphr.ingest.pacs.way import FETCH, LOOK, WAY
from myphr.people.login_sessions import Login
from myphr.records import summaries
from myphr.records.models import Study
from myphr.records.opening import Ring, group_key

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchView(rows.FetchView):
    """One fetch as its owner sees it. `reason` completes "The images could not be fetched: ..."."""

    link_id: str
    pacs_name: str = dataclasses.field(repr=False)
    studies: tuple[StudyThere, ...]
    studies_count: int
    studies_done: int
    files_total: int
    known_count: int
    refused_count: int
    missing_count: int

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
        mine = select(PacsFetch).where(PacsFetch.link_id == link.id, col(PacsFetch.state).in_(WAY.live))
        for other in db.exec(mine).all():
            if other.state != "listed":
                return other.id
            PACS_FETCH.move(db, other, "lapse", sealed_list=None)
        row = PacsFetch(id=new_id(), account_id=login.account.id, link_id=link.id)
        row.sealed_for_worker = plans.seal(parts.keys.worker.public, row.id, plan)
        db.add(row)
        db.flush()
        trail.record(db, "pacs-asked", account_id=row.account_id, actor=rows.owner_of(row), fetch=row.id)
    rows.enqueue(parts, WAY, row.id, LOOK)
    return row.id


def choose(parts: IngestParts, login: Login, fetch_id: str, uids: Collection[str]) -> None:
    """Have the worker fetch these studies of the list. Raises NotFound, FormRefused."""
    with parts.database.read() as db:
        row = rows.one_of_mine(db, WAY, login, fetch_id)
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
            db, "pacs-chosen", account_id=row.account_id, actor=rows.owner_of(row), fetch=row.id, studies=len(chosen)
        )
    rows.enqueue(parts, WAY, row.id, FETCH)


def withdraw(parts: IngestParts, login: Login, fetch_id: str) -> None:
    """Stop; what came stays. One that is over stays as it is. Raises NotFound."""
    rows.withdraw(parts, WAY, login, fetch_id)


def view(parts: IngestParts, login: Login, fetch_id: str) -> FetchView:
    """Raises NotFound."""
    with parts.database.read() as db:
        row = rows.one_of_mine(db, WAY, login, fetch_id)
        return _view(db, row, _studies(parts, db, login.ring(), row))


def list_mine(parts: IngestParts, login: Login) -> Sequence[FetchView]:
    """The latest, newest first, without what they list."""
    with parts.database.read() as db:
        found = rows.latest(db, WAY, login, SHOWN_MAX, without=["lapsed"])
        return [_view(db, row, ()) for row in found]


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
    """Links and fetches. Safe to run twice. Returns how many fetches were changed or put back."""
    links.sweep(parts)
    expectations.sweep(parts)
    return rows.sweep(parts, WAY)


def _held(db: Session, link_id: str) -> None:
    """The link, still held in this commit. Raises NotFound."""
    link = db.get(PacsLink, link_id, with_for_update=True)
    if link is None or link.state != "confirmed":
        raise NotFound("link to a PACS")


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
        **rows.seen(WAY, row), link_id=row.link_id, pacs_name=pacs.name if pacs else "A practice", studies=studies,
        studies_count=row.studies_count, studies_done=row.studies_done, files_total=row.files_total,
        known_count=row.known_count, refused_count=row.refused_count, missing_count=row.missing_count,
    )  # fmt: skip
