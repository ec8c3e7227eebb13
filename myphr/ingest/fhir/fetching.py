"""The worker's part of a fetch: asks the hospital one thing after the other and files each answer as it came.

What is still to be asked (`Plan`) stands in the row, sealed to the worker, and moves on in the very commit that files
an answer: a run that is cut off is taken up where the row says, and of two runs at once the slower one is overtaken.
Each answer is kept byte for byte (source "fhir") unless every entry in it was here already from an earlier time; that
is counted and said. Called by `fetches` and `jobs.ingest`.
"""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import redis
from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM
from myphr.crypto import envelope
from myphr.errors import EnvelopeError, HospitalRefused, NotFound, RecordFull
from myphr.ingest import identify
from myphr.ingest.archives import IngestParts
from myphr.ingest.fhir import entries, known_again, servers, smart
from myphr.ingest.fhir import plan as plans
from myphr.ingest.fhir.dial import FHIR_JSON, Dial
from myphr.ingest.fhir.entries import Page
from myphr.ingest.fhir.models import FhirFetch, FhirServer
from myphr.ingest.fhir.plan import Plan, Step
from myphr.ingest.fhir.reasons import refused
from myphr.ingest.fhir.states import FETCH
from myphr.ingest.fhir.words import KINDS, OBSERVATION_CATEGORIES, words_of
from myphr.people.models import StoredKeyRing
from myphr.records import duplicates, formats
from myphr.records.filing import Filed, SealedFile, check_room, file_sealed, remove_unfiled
from myphr.records.item_writer import ItemWriter
from myphr.records.models import Item
from myphr.state_tables import StateConflict

SOURCE = "fhir"  # of an item
JOB = "jobs.ingest.fetch_from_hospital"
JOB_AGAIN = "jobs.ingest.refetch_from_hospital"
STUCK = dt.timedelta(minutes=2)  # longer than a step is silent: a long file says every 30 s that it goes on
ALIVE_SECONDS = 30
PAGE_BYTES_MAX = 16 * 1024**2  # of one answer, read into memory; 100 entries have 0.3 MB
PAGES_PER_KIND_MAX = 500
FILE_BYTES_MAX = 1024**3
ENTRIES_PER_PAGE = 100  # asked for; a server may give fewer
TRIES = 3
PAUSES_SECONDS = (1.0, 4.0)
RETRY_AFTER_SECONDS_MAX = 60
EXPIRES_SOON_SECONDS = 30
TODO_MAX = 4_000

log = logging.getLogger(__name__)


@dataclasses.dataclass
class News:
    """Entries of one answer. Mutable: only in the commit that files is it known whether the bytes were here already."""

    new: int = 0
    changed: int = 0
    known: int = 0


class _Overtaken(Exception):
    """Another run went further, or the owner stopped it: this one must not file anything any more."""


def enqueue(parts: IngestParts, fetch_id: str, job: str = JOB) -> None:
    """Tell the worker. If the queue is away, the sweep tells it later: the row is the truth."""
    try:
        parts.queue.enqueue(job, fetch_id, seconds_max=parts.settings.fhir_seconds_max + 300)
    except redis.RedisError:
        log.warning("the queue is away; fetch %s waits for the sweep", fetch_id)


def run(parts: IngestParts, fetch_id: str) -> None:
    """Ask until nothing is left to ask, or say why not. Runs twice without harm, also at the same time."""
    with parts.database.write() as db:
        row = db.get(FhirFetch, fetch_id)
        if row is None or row.state not in ("waiting", "running") or row.sealed_for_worker is None:
            return
        try:
            FETCH.move(db, row, "begin")
        except StateConflict:  # stopped this very moment
            return
        ring = db.get(StoredKeyRing, row.account_id)
    try:
        try:
            plan = plans.open_with(parts.keys.worker.private, row.id, row.sealed_for_worker)
            servers.one(parts, plan.server)
        except (EnvelopeError, NotFound):
            raise refused("gone") from None
        if ring is None:
            raise refused("gone")
        if plan.ends_at is None:
            plan.ends_at = time.time() + parts.settings.fhir_seconds_max
        ends_at = time.monotonic() + plan.ends_at - time.time()
        with Dial(loopback=bool(parts.settings.fhir_loopback), ends_at=ends_at) as dial:
            worker = _Run(parts, row, plan, ring.public_key, dial)
            try:
                worker.ask_all()
            finally:
                worker.give_back()
    except HospitalRefused as refusal:
        fail(parts, fetch_id, refusal.detail)
    except RecordFull:
        fail(parts, fetch_id, "record-full")
    except NotFound:  # the account was closed
        fail(parts, fetch_id, "gone")
    except _Overtaken:
        log.info("fetch %s is worked on elsewhere, or was stopped", fetch_id)


def fail(parts: IngestParts, fetch_id: str, code: str) -> None:
    """The permission is erased, what came stays."""
    with parts.database.write() as db:
        row = db.get(FhirFetch, fetch_id)
        if row is None:
            return
        try:
            FETCH.move(db, row, "fail", error_code=code, sealed_for_worker=None)
        except StateConflict:
            return
        trail.record(
            db, "hospital-failed", account_id=row.account_id, actor=SYSTEM, fetch=row.id, items=row.items_count,
            reason=code,
        )  # fmt: skip


class _Run:
    """One run of one fetch."""

    def __init__(self, parts: IngestParts, row: FhirFetch, plan: Plan, owner_public_key: bytes, dial: Dial) -> None:
        self._parts, self._row, self._plan, self._dial = parts, row, plan, dial
        self._owner_public_key = owner_public_key
        self._settings = parts.settings
        self._step: Step | None = None  # the one being asked: out of the plan, and not done before its commit
        self._alive_at = time.monotonic()
        self._folder = f"{plan.hospital.replace('/', '-')} {row.created_at:%Y-%m-%d}"

    # -- asking -----------------------------------------------------------------------------------
    def ask_all(self) -> None:
        while self._plan.todo:
            step = self._step = self._plan.todo.pop(0)
            {
                "offer": self._ask_offer, "patient": self._ask_page, "everything": self._ask_page,
                "search": self._ask_page, "file": self._ask_file,
            }[step.what](step)  # fmt: skip
        self._finish()

    def _ask_offer(self, step: Step) -> None:
        """Which kinds there are. A server that does not say is asked for all that we know."""
        offer = entries.Offer(None, False)
        with contextlib.suppress(HospitalRefused):
            reply = self._dial.get(step.url)
            if reply.status == 200:
                offer = entries.offer_of(reply.body)
        base, patient = self._plan.endpoints.base, quote(self._plan.tokens.patient, safe="")
        self._plan.todo.append(Step("patient", f"{base}/Patient/{patient}", "Patient"))
        if offer.everything:
            url = f"{base}/Patient/{patient}/$everything?_count={ENTRIES_PER_PAGE}"
            self._plan.todo.append(Step("everything", url, "Everything"))
        else:
            self._plan.todo += self._searches(offer.types)
        self._save()

    def _searches(self, offered: frozenset[str] | None) -> list[Step]:
        return [self._search(kind) for kind in KINDS if kind != "Patient" and (offered is None or kind in offered)]

    def _search(self, kind: str, **more: str) -> Step:
        asked = {"patient": self._plan.tokens.patient, **more, "_count": str(ENTRIES_PER_PAGE)}
        return Step("search", f"{self._plan.endpoints.base}/{kind}?{urlencode(asked)}", kind)

    def _ask_page(self, step: Step) -> None:
        status, body = self._get(step)
        if status == 200:
            page = entries.page_of(body, step.url)
            if page is None or page.type == "OperationOutcome":
                raise refused("not-records")
            self._keep_page(step, body, page)
            return
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
        self._save()

    def _get(self, step: Step) -> tuple[int, bytes]:
        """The answer. What a second try may mend is tried three times; a permission that ran out is renewed once."""
        renewed = False
        for number in range(TRIES + 1):
            self._renew_soon()
            try:
                reply = self._dial.get(step.url, token=self._plan.tokens.access, bytes_max=self._room(PAGE_BYTES_MAX))
            except HospitalRefused as error:
                if error.detail not in ("unreachable", "too-slow") or number >= TRIES - 1:
                    raise
                self._pause(number)
                continue
            if reply.status == 401 and not renewed:
                renewed = True
                self._renew()
            elif reply.status in (429, 502, 503, 504) and number < TRIES - 1:
                self._pause(number, reply.retry_after)
            elif reply.status == 401:
                raise refused("expired")
            else:
                return reply.status, reply.body
        raise refused("server-error")

    def _pause(self, number: int, seconds: int = 0) -> None:
        wait = min(max(seconds, PAUSES_SECONDS[min(number, len(PAUSES_SECONDS) - 1)]), RETRY_AFTER_SECONDS_MAX)
        if time.monotonic() + wait > self._dial.ends_at:
            raise refused("too-slow")
        time.sleep(wait)
        self._still_alive()

    def _renew_soon(self) -> None:
        if self._plan.tokens.refresh and time.time() > self._plan.tokens_end_at - EXPIRES_SOON_SECONDS:
            self._renew()

    def _renew(self) -> None:
        """New tokens by the refresh token, and into the row at once: the old one may be worth nothing any more."""
        tokens = self._plan.tokens
        if not tokens.refresh:
            raise refused("expired")
        reply = self._dial.post(
            self._plan.endpoints.token, smart.refresh_request(refresh=tokens.refresh, client_id=self._plan.client_id)
        )
        try:
            self._plan.tokens = smart.tokens_of(reply.status, reply.body, before=tokens)
        except HospitalRefused:
            raise refused("expired") from None
        self._plan.tokens_end_at = time.time() + self._plan.tokens.expires_in
        with self._parts.database.write() as db:
            row = self._current(db)
            self._move(db, row, "begin", sealed_for_worker=self._sealed(unfinished=True))

    def give_back(self) -> None:
        """Tell the hospital that the permission is not needed any more (RFC 7009), where it says how."""
        plan = self._plan
        try:
            with self._parts.database.read() as db:
                row = db.get(FhirFetch, self._row.id)
            over = row is None or row.state not in ("waiting", "running")
            if over and plan.endpoints.revocation:
                self._dial.ends_at = time.monotonic() + 10
                token = plan.tokens.refresh or plan.tokens.access
                self._dial.post(plan.endpoints.revocation, {"token": token, "client_id": plan.client_id})
        except Exception as error:  # the permission runs out by itself; the records have come, and are kept
            log.warning("the permission of fetch %s was not given back: %s", self._row.id, type(error).__name__)

    # -- keeping ----------------------------------------------------------------------------------
    def _keep_page(self, step: Step, body: bytes, page: Page) -> None:
        self._plan.pages += 1
        self._plan.asked.append(_short_hash(step.url))
        self._follow(step, page)
        self._note_attachments(page)
        news = self._news(page)
        sealed = []
        name = words_of(step.kind) + (f" {step.page}" if step.page > 1 else "")
        if news.new or news.changed:
            sealed.append(self._sealed_file(iter([body]), name, len(body)))
        inline = [one for one in page.attachments if one.content is not None]
        try:
            for one in inline if sealed else ():
                assert one.content is not None
                sealed.append(self._sealed_file(iter([one.content]), one.title, len(one.content), one.media_type))
        except BaseException as error:
            remove_unfiled(self._parts, sealed, error)  # a later run asks and seals anew
            raise

        def note(db: Session, filed: list[Filed]) -> None:
            if not filed:
                return
            if filed[0].duplicate:  # these very bytes were put in by hand, say
                news.known, news.new, news.changed = news.known + news.new + news.changed, 0, 0
                return
            known_again.note(db, filed[0].item, self._parts.keys.index_key, page)

        self._file(sealed, note, news)

    def _follow(self, step: Step, page: Page) -> None:
        """The next page, if it is one: on this server, not asked before, and within the limits."""
        if not page.next:
            return
        plan = self._plan
        full = plan.pages >= self._settings.fhir_pages_max or len(plan.todo) >= TODO_MAX
        full = full or step.page >= PAGES_PER_KIND_MAX
        foreign = not smart.is_below(page.next, plan.endpoints.base) or len(page.next) > smart.URL_CHARACTERS_MAX
        if full or foreign or _short_hash(page.next) in plan.asked:
            plan.cut_short.append(step.kind)
            return
        plan.todo.insert(0, Step(step.what, page.next, step.kind, step.page + 1))

    def _note_attachments(self, page: Page) -> None:
        plan = self._plan
        for one in page.attachments:
            if one.content is not None:
                continue
            url = entries.attachment_url(plan.endpoints.base, one.url)
            if _short_hash(url) in plan.asked:
                continue
            if not smart.is_below(url, plan.endpoints.base) or len(url) > smart.URL_CHARACTERS_MAX:
                plan.elsewhere += 1
            elif plan.files >= self._settings.fhir_files_max or len(plan.todo) >= TODO_MAX:
                plan.cut_short.append("DocumentReference")
            else:
                plan.files += 1
                plan.asked.append(_short_hash(url))
                plan.todo.append(Step("file", url, "DocumentReference", title=one.title, media_type=one.media_type))

    def _news(self, page: Page) -> News:
        """Each entry against what came at other times: the same, the same thing with other words, or new."""
        key, account_id = self._parts.keys.index_key, self._row.account_id
        by_identity = {
            (duplicates.FHIR_IDENTIFIER, one): duplicates.identifier_key(
                key, account_id, duplicates.FHIR_IDENTIFIER, one
            )
            for entry in page.entries for one in entry.identities
        }  # fmt: skip
        by_content = {
            entry.content: duplicates.identifier_key(
                key, account_id, duplicates.FHIR_CONTENT, known_again.content_value(entry)
            )
            for entry in page.entries
        }
        with self._parts.database.read() as db:
            identities = self._from_before(db, duplicates.FHIR_IDENTIFIER, list(by_identity.values()))
            contents = self._from_before(db, duplicates.FHIR_CONTENT, list(by_content.values()))
        news = News()
        for entry in page.entries:
            if by_content[entry.content] in contents:
                news.known += 1
            elif any(by_identity[duplicates.FHIR_IDENTIFIER, one] in identities for one in entry.identities):
                news.changed += 1
            else:
                news.new += 1
        return news

    def _from_before(self, db: Session, kind: str, keys: Sequence[str]) -> set[str]:
        """Those of the keys that an item bears which this fetch did not bring: within one, entries may look alike."""
        found = duplicates.holders(db, self._row.account_id, kind, set(keys))
        ids = {item_id for holders in found.values() for item_id in holders}
        own: set[str] = set()
        for at in range(0, len(ids), 500):
            some = sorted(ids)[at : at + 500]
            own |= set(
                db.exec(
                    select(Item.id).where(
                        col(Item.id).in_(some), Item.source == SOURCE, Item.source_id == self._row.id
                    )
                )
            )
        return {key for key, holders in found.items() if set(holders) - own}

    def _ask_file(self, step: Step) -> None:
        """A document as a file of its own. One that does not come is said, and does not end the fetch."""
        try:
            self._renew_soon()
            sealed = self._fetched_file(step)
        except HospitalRefused as error:
            if error.detail == "expired" or time.monotonic() > self._dial.ends_at:
                raise
            sealed = None
        if sealed is None:
            self._plan.not_given.append(step.kind)
            self._save()
        else:
            self._file([sealed], None, News())

    def _fetched_file(self, step: Step) -> SealedFile | None:
        accept = step.media_type if "/" in step.media_type and step.media_type.isascii() else "*/*"
        accept = accept if accept.isprintable() and len(accept) < 100 else "*/*"
        call = self._dial.stream(step.url, token=self._plan.tokens.access, accept=f"{accept}, */*;q=0.1")
        if call.status == 401:
            call.close()
            self._renew()
            call = self._dial.stream(step.url, token=self._plan.tokens.access, accept=f"{accept}, */*;q=0.1")
        with call:
            if call.status != 200:
                return None
            if call.media_type in (FHIR_JSON, "application/json") and "json" not in step.media_type:
                # The server gave the resource in place of its bytes (R4, 2.8.1 lets it).
                body = b"".join(call.blocks(self._room(PAGE_BYTES_MAX)))
                binary = entries.binary_of(body)
                media_type, content = binary or (call.media_type, body)
                return self._sealed_file(iter([content]), step.title, len(content), media_type)
            size = self._room(FILE_BYTES_MAX)
            return self._sealed_file(call.blocks(size), step.title, size, step.media_type)

    def _sealed_file(self, blocks: Iterator[bytes], title: str, size: int, media_type: str = "") -> SealedFile:
        """Sealed as it streams. A title without an ending gets that of its format, which the content tells."""
        writer = ItemWriter(
            self._parts, self._row.account_id, owner_public_key=self._owner_public_key, source=SOURCE,
            source_id=self._row.id, describe=identify.describe, bytes_max=size,
        )  # fmt: skip
        with writer:
            for block in blocks:
                writer.write(block)
                self._still_alive()
            sealed = writer.seal_up("", self._folder)
        ending = formats.of(sealed.facts.format).ending
        name = title.strip().replace("/", "-") or "Document"
        if ending and not name.lower().endswith(ending):
            name += ending
        return dataclasses.replace(sealed, name=name, path=f"{self._folder}/{name}")

    def _file(
        self, sealed: Sequence[SealedFile], note: Callable[[Session, list[Filed]], None] | None, news: News
    ) -> None:  # fmt: skip
        def progress(db: Session, filed: list[Filed]) -> None:
            row = self._current(db)
            if note is not None:
                note(db, filed)
            kept = [one.item for one in filed if not one.duplicate]
            check_room(db, self._settings, row.account_id, 0)
            self._move(
                db, row, "step", step=row.step + 1, steps_left=len(self._plan.todo), sealed_for_worker=self._sealed(),
                items_count=row.items_count + len(kept),
                bytes_count=row.bytes_count + sum(item.plain_bytes for item in kept),
                entries_new=row.entries_new + news.new, entries_changed=row.entries_changed + news.changed,
                entries_known=row.entries_known + news.known,
            )  # fmt: skip

        try:
            if sealed:
                file_sealed(self._parts, sealed, owner_public_key=self._owner_public_key, also=progress)
            else:
                with self._parts.database.write() as db:
                    progress(db, [])
        except BaseException as error:
            remove_unfiled(self._parts, sealed, error)  # a later run asks and seals anew
            raise

    # -- the row ----------------------------------------------------------------------------------
    def _save(self) -> None:
        self._file((), None, News())

    def _sealed(self, *, unfinished: bool = False) -> bytes:
        plan = self._plan
        if unfinished and self._step is not None:
            plan = dataclasses.replace(plan, todo=[self._step, *plan.todo])
        return plans.seal(self._parts.keys.worker.public, self._row.id, plan)

    def _current(self, db: Session) -> FhirFetch:
        row = db.get(FhirFetch, self._row.id)
        if row is None or row.state != "running" or row.step != self._row.step:
            raise _Overtaken
        server = db.get(FhirServer, self._plan.server)
        if server is None or server.closed_at is not None:
            raise refused("gone")
        return row

    def _move(self, db: Session, row: FhirFetch, event: str, **values: Any) -> None:
        try:
            FETCH.move(db, row, event, only_if=[col(FhirFetch.step) == self._row.step], **values)
        except StateConflict:
            raise _Overtaken from None
        self._row = row

    def _still_alive(self) -> None:
        """Now and then while something takes long: the row is touched, so that nobody takes it for stuck."""
        if time.monotonic() - self._alive_at > ALIVE_SECONDS:
            self._alive_at = time.monotonic()
            with self._parts.database.write() as db:
                self._move(db, self._current(db), "begin")

    def _room(self, most: int) -> int:
        left = self._settings.fhir_bytes_max - self._row.bytes_count
        if left <= 0:
            raise refused("too-large")
        return min(most, left)

    def _finish(self) -> None:
        plan = self._plan
        notes = {"not_given": plan.not_given, "cut_short": plan.cut_short, "elsewhere": plan.elsewhere}
        sealed = envelope.seal_to(
            self._owner_public_key, json.dumps(notes).encode(), context=plans.notes_context(self._row.id)
        )
        with self._parts.database.write() as db:
            row = self._current(db)
            self._move(db, row, "finish", sealed_for_worker=None, sealed_notes=sealed, steps_left=0)
            trail.record(
                db, "hospital-fetched", account_id=row.account_id, actor=SYSTEM, fetch=row.id, items=row.items_count,
                known=row.entries_known,
            )  # fmt: skip


def _short_hash(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()[:16]
