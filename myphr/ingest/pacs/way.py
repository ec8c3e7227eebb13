"""Fetching from a PACS, as `ingest.fetch` has to know it. Called by the rest of this package."""

import datetime as dt

from sqlmodel import Session

from myphr.errors import PacsRefused
from myphr.ingest.fetch.ways import Way
from myphr.ingest.pacs import plan as plans
from myphr.ingest.pacs import vouching
from myphr.ingest.pacs.models import Pacs, PacsFetch, PacsLink
from myphr.ingest.pacs.plan import Plan
from myphr.ingest.pacs.reasons import REASONS
from myphr.ingest.pacs.states import PACS_FETCH
from myphr.records.items import RecordParts

LOOK, LOOK_AGAIN = "jobs.ingest.look_at_pacs", "jobs.ingest.look_at_pacs_again"
FETCH, FETCH_AGAIN = "jobs.ingest.fetch_from_pacs", "jobs.ingest.refetch_from_pacs"
LIST_WITHIN = dt.timedelta(days=1)  # to choose from a list: what is there changes


def _may(parts: RecordParts, db: Session, row: PacsFetch, plan: Plan) -> bool:
    """By a link that holds and was vouched for, to a PACS that is on the list."""
    link, pacs = db.get(PacsLink, row.link_id), db.get(Pacs, plan.pacs)
    if link is None or pacs is None or pacs.closed_at is not None:
        return False
    is_hers = (link.account_id, link.pacs_id) == (row.account_id, pacs.id)
    return is_hers and vouching.is_vouched(parts.keys.index_key, link, plan.patient)


WAY = Way[PacsFetch, Plan](
    source="pacs",
    trail_word="pacs",
    table=PACS_FETCH,
    working=("waiting", "looking", "chosen", "fetching"),
    patience={"listed": LIST_WITHIN},
    again={"waiting": LOOK_AGAIN, "looking": LOOK_AGAIN, "chosen": FETCH_AGAIN, "fetching": FETCH_AGAIN},
    erased={"sealed_for_worker": None, "sealed_list": None},
    takes_over=True,  # what two of them fetch at once, the PACS sends twice
    reasons=REASONS,
    ended="ended",
    refusal=PacsRefused,
    seconds_max=lambda settings: settings.pacs_seconds_max,
    open_plan=plans.open_with,
    seal_plan=plans.seal,
    may=_may,
)
