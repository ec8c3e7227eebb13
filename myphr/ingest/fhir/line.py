"""The line to one hospital with the permission for one fetch: asks, tries again, renews the permission, gives it back.

A new permission goes into the row at once: the old one may be worth nothing any more. Called by `fetching` and
`documents`.
"""

import dataclasses
import logging
import time

from myphr.errors import HospitalRefused
from myphr.ingest.fetch.runs import Taken
from myphr.ingest.fhir import smart
from myphr.ingest.fhir.dial import Answer, Call, Dial
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.fhir.plan import Plan, Step
from myphr.ingest.fhir.reasons import refused
from myphr.ingest.fhir.way import WAY

PAGE_BYTES_MAX = 16 * 1024**2  # of one answer, read into memory; 100 entries have 0.3 MB
TRIES = 3
PAUSES_SECONDS = (1.0, 4.0)
RETRY_AFTER_SECONDS_MAX = 60
EXPIRES_SOON_SECONDS = 30
GIVE_BACK_SECONDS = 10

Fetch = Taken[FhirFetch, Plan]

log = logging.getLogger(__name__)


class Line:
    def __init__(self, taken: Fetch, dial: Dial) -> None:
        self._taken, self._plan, self._dial = taken, taken.plan, dial
        self._step: Step | None = None  # the one being asked: out of the plan, and not done before its commit

    def next_step(self) -> Step:
        self._step = self._plan.todo.pop(0)
        return self._step

    def is_out_of_time(self) -> bool:
        return time.monotonic() > self._dial.ends_at

    def room(self, most: int) -> int:
        """How large the next answer may be. Raises HospitalRefused."""
        left = self._taken.parts.settings.fhir_bytes_max - self._taken.row.bytes_count
        if left <= 0:
            raise refused("too-large")
        return min(most, left)

    # -- asking -----------------------------------------------------------------------------------
    def offer(self, step: Step) -> Answer:
        """What anybody may ask. Raises HospitalRefused."""
        return self._dial.get(step.url)

    def get(self, step: Step) -> Answer:
        """The answer. What a second try may mend is tried three times; a permission that ran out is renewed once.
        Raises HospitalRefused."""
        renewed = False
        for number in range(TRIES + 1):
            self._renew_soon()
            try:
                reply = self._dial.get(step.url, token=self._plan.tokens.access, bytes_max=self.room(PAGE_BYTES_MAX))
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
                return reply
        raise refused("server-error")

    def stream(self, step: Step, accept: str) -> Call:
        """An answer whose body has not been read. Raises HospitalRefused."""
        self._renew_soon()
        call = self._dial.stream(step.url, token=self._plan.tokens.access, accept=accept)
        if call.status == 401:
            call.close()
            self._renew()
            call = self._dial.stream(step.url, token=self._plan.tokens.access, accept=accept)
        return call

    def _pause(self, number: int, seconds: int = 0) -> None:
        wait = min(max(seconds, PAUSES_SECONDS[min(number, len(PAUSES_SECONDS) - 1)]), RETRY_AFTER_SECONDS_MAX)
        if time.monotonic() + wait > self._dial.ends_at:
            raise refused("too-slow")
        time.sleep(wait)
        self._taken.tick()

    # -- the permission ---------------------------------------------------------------------------
    def _renew_soon(self) -> None:
        if self._plan.tokens.refresh and time.time() > self._plan.tokens_end_at - EXPIRES_SOON_SECONDS:
            self._renew()

    def _renew(self) -> None:
        plan, tokens = self._plan, self._plan.tokens
        if not tokens.refresh:
            raise refused("expired")
        form = smart.refresh_request(refresh=tokens.refresh, client_id=plan.client_id)
        reply = self._dial.post(plan.endpoints.token, form)
        try:
            plan.tokens = smart.tokens_of(reply.status, reply.body, before=tokens)
        except HospitalRefused:
            raise refused("expired") from None
        plan.tokens_end_at = time.time() + plan.tokens.expires_in
        unfinished = dataclasses.replace(plan, todo=[self._step, *plan.todo]) if self._step else plan
        with self._taken.parts.database.write() as db:
            self._taken.move(db, "begin", sealed_for_worker=self._taken.sealed(unfinished))

    def give_back(self) -> None:
        """Tell the hospital that the permission is not needed any more (RFC 7009), where it says how, once the fetch is
        over. Never raises: it runs out by itself, and the records have come."""
        plan = self._plan
        try:
            with self._taken.parts.database.read() as db:
                row = db.get(FhirFetch, self._taken.row.id)
            over = row is None or row.state not in WAY.live
            if over and plan.endpoints.revocation:
                self._dial.ends_at = time.monotonic() + GIVE_BACK_SECONDS
                token = plan.tokens.refresh or plan.tokens.access
                self._dial.post(plan.endpoints.revocation, {"token": token, "client_id": plan.client_id})
        except Exception as error:
            log.warning("the permission of fetch %s was not given back: %s", self._taken.row.id, type(error).__name__)
