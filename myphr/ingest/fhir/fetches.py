"""One time that a patient gets records from a hospital: sent to its sign-in page, back with a code, handed to a job.

Web does the exchange of the code: the patient is told at once when it is refused, and no busy worker lets it run out.
What the hospital grants is sealed to the worker until the fetch is over, and never stands anywhere in clear. Which
hospital it is stands in the row sealed to the owner. Called by the pages and the sweep; `fetching` does the work.
"""

import dataclasses
import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlmodel import Session, col, func, select

from myphr.audit import trail
from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.errors import EnvelopeError, FormRefused, HospitalRefused, NotFound
from myphr.ingest.archives import IngestParts
from myphr.ingest.fetch import rows
from myphr.ingest.fhir import plan as plans
from myphr.ingest.fhir import servers, smart
from myphr.ingest.fhir.dial import SMALL_SECONDS_MAX, Dial
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.fhir.plan import Plan
from myphr.ingest.fhir.reasons import REASONS, refused
from myphr.ingest.fhir.states import FETCH
from myphr.ingest.fhir.way import ANSWER_WITHIN, JOB, WAY
from myphr.ingest.fhir.words import words_of
from myphr.people.login_sessions import Login
from myphr.records.items import RecordParts
from myphr.records.opening import Ring

LIVE_MAX = 10  # of one patient, questions that nobody answered included
SHOWN_MAX = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchView(rows.FetchView):
    """One fetch as its owner sees it. `reason` completes "Your records could not be fetched: ..."; `not_given` and
    `cut_short` are kinds of records in plain words; `elsewhere` counts documents that lie on other servers."""

    hospital: str = dataclasses.field(repr=False)
    steps_done: int
    steps_total: int
    entries_new: int
    entries_changed: int
    entries_known: int
    not_given: tuple[str, ...]
    cut_short: tuple[str, ...]
    elsewhere: int

    @property
    def nothing_new(self) -> bool:
        return self.state == "done" and not self.items_count and self.entries_known > 0


def _owner_context(fetch_id: str) -> bytes:
    return envelope.context_for("fhir-owner", fetch_id)


# -- there and back -------------------------------------------------------------------------------
def start(parts: RecordParts, login: Login, server_id: str, redirect_uri: str) -> str:
    """Where to send the patient's browser. Raises NotFound, HospitalRefused, FormRefused."""
    server = servers.one(parts, server_id)
    endpoints = servers.checked_endpoints(parts, server)
    state, verifier = secrets.token_urlsafe(32), smart.new_verifier()
    row = FhirFetch(
        id=new_id(), account_id=login.account.id, state_sha256=_hash_of(state), sealed_for_owner=b"",
    )  # fmt: skip
    row.sealed_for_owner = _seal_for_owner(login.ring(), row.id, {
        "server": server.id, "hospital": server.name, "verifier": verifier, "redirect_uri": redirect_uri,
        "endpoints": dataclasses.asdict(endpoints), "client_id": server.client_id,
    })  # fmt: skip
    with parts.database.write() as db:
        live = select(func.count()).where(FhirFetch.account_id == row.account_id, col(FhirFetch.state).in_(WAY.live))
        if db.exec(live).one() >= LIVE_MAX:
            raise FormRefused(reason="you have asked several times already. Wait until those are over, or stop them")
        db.add(row)
    return smart.authorization_url(
        endpoints, client_id=server.client_id, redirect_uri=redirect_uri, state=state, verifier=verifier
    )


def answer(parts: IngestParts, login: Login, query: Mapping[str, str]) -> str:
    """The patient is back from the hospital's page. Returns the id of her fetch, whatever came of it: its page tells.

    Raises NotFound for a state that is not hers: a link that somebody else made brings their records into nobody's
    account (RFC 6749, 10.12). A second visit by the same address changes nothing."""
    with parts.database.write() as db:
        mine = select(FhirFetch).where(FhirFetch.state_sha256 == _hash_of(query.get("state", "")))
        row = db.exec(mine).first()
        if row is None or row.account_id != login.account.id:
            raise NotFound("fetch")
        if row.state != "asked":
            return row.id
        event = "lapse" if row.created_at < now() - ANSWER_WITHIN else "return"
        FETCH.move(db, row, event)
    if event == "lapse":
        return row.id
    try:
        asked = _open_for_owner(login.ring(), row)
        endpoints = smart.Endpoints(**asked["endpoints"])
        servers.one(parts, asked["server"])
        code = smart.code_of_answer(endpoints, query)
        tokens = _exchange(parts, asked, endpoints, code)
    except NotFound:
        _fail(parts, login, row, "gone")
    except HospitalRefused as error:
        _fail(parts, login, row, error.detail)
    else:
        _accept(parts, login, row, asked, endpoints, tokens)
    return row.id


def _exchange(parts: RecordParts, asked: Mapping[str, Any], endpoints: smart.Endpoints, code: str) -> smart.Tokens:
    form = smart.token_request(
        code=code, verifier=asked["verifier"], client_id=asked["client_id"], redirect_uri=asked["redirect_uri"]
    )
    with Dial(loopback=bool(parts.settings.fhir_loopback), ends_at=time.monotonic() + SMALL_SECONDS_MAX) as dial:
        reply = dial.post(endpoints.token, form)
    return smart.tokens_of(reply.status, reply.body)


def _accept(
    parts: IngestParts, login: Login, row: FhirFetch, asked: Mapping[str, Any], endpoints: smart.Endpoints,
    tokens: smart.Tokens,
) -> None:  # fmt: skip
    plan = Plan.new(asked["server"], asked["hospital"], asked["client_id"], endpoints, tokens)
    with parts.database.write() as db:
        FETCH.move(
            db, row, "accept", sealed_for_owner=_seal_for_owner(login.ring(), row.id, {"hospital": asked["hospital"]}),
            sealed_for_worker=plans.seal(parts.keys.worker.public, row.id, plan), steps_left=len(plan.todo),
        )  # fmt: skip
        trail.record(db, "hospital-asked", account_id=row.account_id, actor=rows.owner_of(row), fetch=row.id)
    rows.enqueue(parts, WAY, row.id, JOB)


def _fail(parts: RecordParts, login: Login, row: FhirFetch, code: str) -> None:
    opened = _open_for_owner(login.ring(), row)
    without = _seal_for_owner(login.ring(), row.id, {"hospital": opened.get("hospital", "")})
    with parts.database.write() as db:
        FETCH.move(db, row, "fail", error_code=code if code in REASONS else "token", sealed_for_owner=without)
        trail.record(
            db, "hospital-failed", account_id=row.account_id, actor=rows.owner_of(row), fetch=row.id, items=0,
            reason=row.error_code or "token",
        )  # fmt: skip


# -- the owner ------------------------------------------------------------------------------------
def withdraw(parts: RecordParts, login: Login, fetch_id: str) -> None:
    """Stop: the permission is erased, what came stays. One that is over stays as it is. Raises NotFound."""
    rows.withdraw(parts, WAY, login, fetch_id)


def view(parts: RecordParts, login: Login, fetch_id: str) -> FetchView:
    """Raises NotFound."""
    with parts.database.read() as db:
        return _view(login.ring(), rows.one_of_mine(db, WAY, login, fetch_id))


def list_mine(parts: RecordParts, login: Login) -> Sequence[FetchView]:
    """The latest, newest first; questions that nobody answered are left out."""
    with parts.database.read() as db:
        found = rows.latest(db, WAY, login, SHOWN_MAX, without=["asked", "lapsed"])
    ring = login.ring()
    return [_view(ring, row) for row in found]


def names(db: Session, login: Login, fetch_ids: Iterable[str]) -> dict[str, str]:
    """The hospitals of these fetches, for the search. One that does not open is left out."""
    query = select(FhirFetch).where(FhirFetch.account_id == login.account.id, col(FhirFetch.id).in_(set(fetch_ids)))
    found, ring = {}, login.ring()
    for row in db.exec(query):
        try:
            found[row.id] = str(json.loads(ring.open(row.sealed_for_owner, context=_owner_context(row.id)))["hospital"])
        except (EnvelopeError, ValueError, KeyError):
            continue
    return found


def sweep(parts: IngestParts) -> int:
    """Safe to run twice. Returns how many were changed or put back."""
    return rows.sweep(parts, WAY)


def _view(ring: Ring, row: FhirFetch) -> FetchView:
    notes: dict[str, Any] = {}
    if row.sealed_notes:
        try:
            notes = json.loads(ring.open(row.sealed_notes, context=plans.notes_context(row.id)))
        except (EnvelopeError, ValueError):
            notes = {}  # a damaged note must not hide the rest
    return FetchView(
        **rows.seen(WAY, row), hospital=str(_open_for_owner(ring, row).get("hospital", "")) or "A hospital",
        steps_done=row.step, steps_total=row.step + row.steps_left,
        entries_new=row.entries_new, entries_changed=row.entries_changed, entries_known=row.entries_known,
        not_given=tuple(dict.fromkeys(words_of(kind) for kind in notes.get("not_given", []))),
        cut_short=tuple(dict.fromkeys(words_of(kind) for kind in notes.get("cut_short", []))),
        elsewhere=int(notes.get("elsewhere", 0)),
    )  # fmt: skip


def _seal_for_owner(ring: Ring, fetch_id: str, facts: Mapping[str, Any]) -> bytes:
    return envelope.seal_to(ring.public_key, json.dumps(facts).encode(), context=_owner_context(fetch_id))


def _open_for_owner(ring: Ring, row: FhirFetch) -> dict[str, Any]:
    try:
        return json.loads(ring.open(row.sealed_for_owner, context=_owner_context(row.id)))
    except EnvelopeError:
        raise refused("token") from None


def _hash_of(state: str) -> str:
    return hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()
