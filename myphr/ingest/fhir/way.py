"""Fetching from a hospital, as `ingest.fetch` has to know it. Called by the rest of this package."""

import datetime as dt

from sqlmodel import Session

from myphr.errors import HospitalRefused
from myphr.ingest.fetch.ways import Way
from myphr.ingest.fhir import plan as plans
from myphr.ingest.fhir.models import FhirFetch, FhirServer
from myphr.ingest.fhir.plan import Plan
from myphr.ingest.fhir.reasons import REASONS
from myphr.ingest.fhir.states import FETCH
from myphr.records.items import RecordParts

JOB, JOB_AGAIN = "jobs.ingest.fetch_from_hospital", "jobs.ingest.refetch_from_hospital"
ANSWER_WITHIN = dt.timedelta(minutes=30)  # to find one's password for the hospital
EXCHANGE_WITHIN = dt.timedelta(minutes=2)


def _may(parts: RecordParts, db: Session, row: FhirFetch, plan: Plan) -> bool:
    """From a hospital that is on the list."""
    server = db.get(FhirServer, plan.server)
    return server is not None and server.closed_at is None


WAY = Way[FhirFetch, Plan](
    source="fhir",
    trail_word="hospital",
    table=FETCH,
    working=("exchanging", "waiting", "running"),
    patience={"asked": ANSWER_WITHIN, "exchanging": EXCHANGE_WITHIN},
    again={"waiting": JOB_AGAIN, "running": JOB_AGAIN},
    erased={"sealed_for_worker": None},
    takes_over=False,  # its steps are the questions that were answered: the page counts them
    reasons=REASONS,
    ended="gone",
    refusal=HospitalRefused,
    seconds_max=lambda settings: settings.fhir_seconds_max,
    open_plan=plans.open_with,
    seal_plan=plans.seal,
    may=_may,
)
