"""The worker's part of a fetch: asks the hospital one thing after the other and files each answer as it came.

What is still to be asked (`Plan`) moves on in the commit that files an answer (`ingest.fetch.runs`). Each answer is
kept byte for byte unless every entry in it was here already from an earlier time; that is counted and said. Called by
`jobs.ingest`.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from sqlmodel import Session

from myphr.crypto import envelope
from myphr.errors import HospitalRefused
from myphr.ingest.archives import IngestParts
from myphr.ingest.fetch import runs
from myphr.ingest.fhir import documents, entries, known_again, smart
from myphr.ingest.fhir import plan as plans
from myphr.ingest.fhir.dial import Dial
from myphr.ingest.fhir.entries import Page
from myphr.ingest.fhir.known_again import News
from myphr.ingest.fhir.line import Fetch, Line
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.fhir.plan import Step
from myphr.ingest.fhir.reasons import refused
from myphr.ingest.fhir.way import WAY
from myphr.ingest.fhir.words import KINDS, OBSERVATION_CATEGORIES
from myphr.records.filing import Filed, SealedFile

PAGES_PER_KIND_MAX = 500
ENTRIES_PER_PAGE = 100  # asked for; a server may give fewer
TODO_MAX = 4_000


def run(parts: IngestParts, fetch_id: str) -> None:
    """Ask until nothing is left to ask, or say why not. Runs twice without harm, also at the same time."""
    runs.run(parts, WAY, fetch_id, "begin", _work)


def _work(taken: Fetch) -> None:
    plan, settings = taken.plan, taken.parts.settings
    if plan.ends_at is None:
        plan.ends_at = time.time() + settings.fhir_seconds_max
    ends_at = time.monotonic() + plan.ends_at - time.time()
    with Dial(loopback=bool(settings.fhir_loopback), ends_at=ends_at) as dial:
        line = Line(taken, dial)
        try:
            _Asking(taken, line).ask_all()
        finally:
            line.give_back()


class _Asking:
    """One run of one fetch."""

    def __init__(self, taken: Fetch, line: Line) -> None:
        self._taken, self._plan, self._line, self._settings = taken, taken.plan, line, taken.parts.settings

    def ask_all(self) -> None:
        while self._plan.todo:
            step = self._line.next_step()
            {
                "offer": self._ask_offer, "patient": self._ask_page, "everything": self._ask_page,
                "search": self._ask_page, "file": self._ask_file,
            }[step.what](step)  # fmt: skip
        plan = self._plan
        notes = {"not_given": plan.not_given, "cut_short": plan.cut_short, "elsewhere": plan.elsewhere}
        sealed = envelope.seal_to(
            self._taken.owner_public_key, json.dumps(notes).encode(), context=plans.notes_context(self._taken.row.id)
        )
        self._taken.finish(known=self._taken.row.entries_known, sealed_notes=sealed, steps_left=0)

    # -- asking -----------------------------------------------------------------------------------
    def _ask_offer(self, step: Step) -> None:
        """Which kinds there are. A server that does not say is asked for all that we know."""
        offer = entries.Offer(None, False)
        with contextlib.suppress(HospitalRefused):
            reply = self._line.offer(step)
            if reply.status == 200:
                offer = entries.offer_of(reply.body)
        base, patient = self._plan.endpoints.base, quote(self._plan.tokens.patient, safe="")
        self._plan.todo.append(Step("patient", f"{base}/Patient/{patient}", "Patient"))
        if offer.everything:
            url = f"{base}/Patient/{patient}/$everything?_count={ENTRIES_PER_PAGE}"
            self._plan.todo.append(Step("everything", url, "Everything"))
        else:
            self._plan.todo += self._searches(offer.types)
        self._file()

    def _searches(self, offered: frozenset[str] | None) -> list[Step]:
        return [self._search(kind) for kind in KINDS if kind != "Patient" and (offered is None or kind in offered)]

    def _search(self, kind: str, **more: str) -> Step:
        asked = {"patient": self._plan.tokens.patient, **more, "_count": str(ENTRIES_PER_PAGE)}
        return Step("search", f"{self._plan.endpoints.base}/{kind}?{urlencode(asked)}", kind)

    def _ask_page(self, step: Step) -> None:
        reply = self._line.get(step)
        if reply.status != 200:
            self._note_refusal(step, reply.status)
            self._file()
            return
        page = entries.page_of(reply.body, step.url)
        if page is None or page.type == "OperationOutcome":
            raise refused("not-records")
        self._keep_page(step, reply.body, page)

    def _note_refusal(self, step: Step, status: int) -> None:
        """What to ask in place of it, or what to say."""
        if step.what == "patient":  # whose records we may have, but not read: then nothing else will be right either
            raise refused("not-allowed" if 400 <= status < 500 else "server-error")
        if step.what == "everything" and step.page == 1:
            self._plan.todo += self._searches(None)
        elif step.kind == "Observation" and step.page == 1 and status in (400, 422) and "&category=" not in step.url:
            self._plan.todo[:0] = [self._search("Observation", category=one) for one in OBSERVATION_CATEGORIES]
        elif step.page > 1:
            self._plan.cut_short.append(step.kind)
        elif not (status in (404, 501) or (status == 400 and "&category=" not in step.url)):
            self._plan.not_given.append(step.kind)  # 404, 400, 501: this server knows no such kind

    def _ask_file(self, step: Step) -> None:
        """A document as a file of its own. One that does not come is said, and does not end the fetch."""
        try:
            sealed = documents.fetched(self._taken, self._line, step)
        except HospitalRefused as error:
            if error.detail == "expired" or self._line.is_out_of_time():
                raise
            sealed = None
        if sealed is None:
            self._plan.not_given.append(step.kind)
        self._file([sealed] if sealed else [])

    # -- keeping ----------------------------------------------------------------------------------
    def _keep_page(self, step: Step, body: bytes, page: Page) -> None:
        self._plan.pages += 1
        self._plan.asked.append(_short_hash(step.url))
        self._follow(step, page)
        self._note_attachments(page)
        taken, key = self._taken, self._taken.parts.keys.index_key
        with taken.parts.database.read() as db:
            news = known_again.news_of(db, key, taken.row.account_id, page, taken.brought)
        is_news = news.new or news.changed
        self._file(documents.of_page(taken, step, body, page) if is_news else [], news, page)

    def _follow(self, step: Step, page: Page) -> None:
        """The next page, if it is one: on this server, not asked before, and within the limits."""
        if not page.next:
            return
        plan = self._plan
        full = plan.pages >= self._settings.fhir_pages_max or len(plan.todo) >= TODO_MAX
        full = full or step.page >= PAGES_PER_KIND_MAX
        if full or not self._is_here(page.next) or _short_hash(page.next) in plan.asked:
            plan.cut_short.append(step.kind)
            return
        plan.todo.insert(0, Step(step.what, page.next, step.kind, step.page + 1))

    def _note_attachments(self, page: Page) -> None:
        """Documents that the answer points to are asked for later."""
        plan = self._plan
        for one in page.attachments:
            if one.content is not None:
                continue
            url = entries.attachment_url(plan.endpoints.base, one.url)
            if _short_hash(url) in plan.asked:
                continue
            if not self._is_here(url):
                plan.elsewhere += 1
            elif plan.files >= self._settings.fhir_files_max or len(plan.todo) >= TODO_MAX:
                plan.cut_short.append("DocumentReference")
            else:
                plan.files += 1
                plan.asked.append(_short_hash(url))
                plan.todo.append(Step("file", url, "DocumentReference", title=one.title, media_type=one.media_type))

    def _is_here(self, url: str) -> bool:
        """On the server that gave the permission: nobody else gets to see it."""
        return smart.is_below(url, self._plan.endpoints.base) and len(url) <= smart.URL_CHARACTERS_MAX

    def _file(self, sealed: Sequence[SealedFile] = (), news: News | None = None, page: Page | None = None) -> None:
        """`page`: what stands in the first file."""
        counted = news or News()

        def count(db: Session, row: FhirFetch, filed: list[Filed]) -> Mapping[str, Any]:
            if filed and page is not None:
                if filed[0].duplicate:  # these very bytes were put in by hand, say
                    counted.all_known()
                else:
                    known_again.note(db, filed[0].item, self._taken.parts.keys.index_key, page)
            return {
                "steps_left": len(self._plan.todo), "entries_new": row.entries_new + counted.new,
                "entries_changed": row.entries_changed + counted.changed,
                "entries_known": row.entries_known + counted.known,
            }  # fmt: skip

        self._taken.file(sealed, count)


def _short_hash(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()[:16]
