""" "Who looked": the owner's audit trail in plain words, newest first, grouped by day. Reads, never writes."""

import dataclasses
import datetime as dt
import itertools
import json
from collections.abc import Mapping, Sequence

from flask import Blueprint, Response
from sqlmodel import col, select

from myphr.audit import trail as audit_trail
from myphr.audit.events import COUNT_MAX
from myphr.audit.models import AuditEvent
from myphr.audit.trail import Run
from myphr.ingest import drop_offs
from myphr.people.models import Account
from myphr.sharing import app_keys, record_shares
from myphr.sharing.models import Share
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page, whole_number
from myphr.web.zones import local

blueprint = Blueprint("trail", __name__)

LINES_PER_PAGE = 200
EVENTS_PER_PAGE = 20_000  # a line may stand for thousands: what one page reads at most
_ICON_OF_START = {
    "signed": "person", "sign": "person", "account": "person", "password": "key", "recover": "key", "login": "device",
    "second": "key", "certificate": "shield", "identity": "shield", "authority": "person", "attribute": "person",
    "item": "file", "items": "upload", "archive": "zip", "study": "scan", "vm": "open",
    "machine": "trash", "isolation": "shield",
    "results": "download", "share": "share", "screen": "eye", "record": "share", "shared": "eye",
    "emergency": "shield", "export": "download",
    "keys": "trash", "bytes": "trash", "app": "eye", "drop": "upload", "hospital": "download", "pacs": "download",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Line:
    """`since` is set when the line stands for several events: when the first of them was."""

    at: dt.datetime
    icon: str
    sentence: str
    since: dt.datetime | None = None


@dataclasses.dataclass(frozen=True)
class Day:
    date: dt.date
    lines: list[Line]


def lines_of(
    runs: Sequence[Run], account_id: str, emails: dict[str, str], reasons: Mapping[str, str] | None = None
) -> list[Line]:
    """Plain lines; `emails` turns share ids into the addresses they went to, and accounts of readers and
    drop-offs into names.
    `reasons`: what people wrote who opened something in an emergency, by the id of the opening."""
    return [
        Line(
            run.newest.at,
            _ICON_OF_START.get(run.newest.event.partition("-")[0], "clock"),
            audit_trail.sentence(run.newest, _who(run.newest, account_id, emails), run.times)
            + _written(run.newest, reasons or {}),
            run.first_at if run.times > 1 else None,
        )
        for run in runs
    ]


def by_day(lines: Sequence[Line]) -> list[Day]:
    return [
        Day(date, list(of_day)) for date, of_day in itertools.groupby(lines, key=lambda line: local(line.at).date())
    ]


def _written(event: AuditEvent, reasons: Mapping[str, str]) -> str:
    reason = reasons.get(json.loads(event.details).get("opening") or "")
    return f" Reason: {reason}" if reason else ""


def _who(event: AuditEvent, account_id: str, emails: dict[str, str]) -> str | None:
    if event.actor_kind in ("provider", "app"):
        return emails.get(event.actor_id or "")
    if event.actor_kind == "caregiver":
        return emails.get(event.actor_id or "") or emails.get(json.loads(event.details).get("share") or "")
    if event.actor_kind == "patient" and event.actor_id not in (None, account_id):
        return "Somebody else"
    return None


@blueprint.get("/who-looked")
@policy(SIGNED_IN)
def who_looked() -> Response:
    account_id = this_login().account.id
    before = whole_number("before", most=COUNT_MAX)
    events = audit_trail.newest_first(portal().database, account_id, before, EVENTS_PER_PAGE)
    runs = list(itertools.islice(audit_trail.runs(events), LINES_PER_PAGE))
    with portal().database.read() as db:
        emails = {share.id: share.email for share in db.exec(select(Share).where(col(Share.account_id) == account_id))}
        readers = {run.newest.actor_id for run in runs if run.newest.actor_kind == "caregiver"}
        emails |= {one.id: one.name for one in db.exec(select(Account).where(col(Account.id).in_(readers)))}
        senders = {run.newest.actor_id or "" for run in runs if run.newest.actor_kind == "provider"}
        emails |= drop_offs.names(db, this_login(), senders)
        apps = {run.newest.actor_id or "" for run in runs if run.newest.actor_kind == "app"}
        emails |= app_keys.names(db, this_login(), apps)
    full = len(runs) == LINES_PER_PAGE or sum(run.times for run in runs) == EVENTS_PER_PAGE
    older = runs[-1].first_number if full else None
    reasons = record_shares.reasons(portal(), this_login())
    return render_page("trail.html", days=by_day(lines_of(runs, account_id, emails, reasons)), older=older)
