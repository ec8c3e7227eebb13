"""An account that closes: nothing comes into its record any more, and no practice's or hospital's name is left.

Called by `sharing.closing` in its one commit.
"""

import contextlib
from typing import Any

from sqlmodel import Session, col, select

from myphr.ingest import drop_offs, uploads
from myphr.ingest.fhir.models import FhirFetch
from myphr.ingest.fhir.states import FETCH
from myphr.ingest.models import DropOff
from myphr.ingest.pacs import expectations, links
from myphr.ingest.pacs.models import PacsFetch, PacsLink
from myphr.ingest.pacs.states import PACS_FETCH, PACS_LINK
from myphr.ingest.states import DROP_OFF
from myphr.state_tables import StateConflict


def destroy(db: Session, account_id: str) -> dict[str, int]:
    """Inside the caller's unit of work. How many of what ended. Safe to repeat. Mails with a drop-off's link are the
    caller's: `mails_of` names them, before."""
    ended = {"uploads": uploads.abandon_all(db, account_id), "drop_offs": 0, "hospital_tokens": 0, "pacs_links": 0}
    for row in db.exec(select(DropOff).where(DropOff.account_id == account_id)):
        ended["drop_offs"] += row.state in drop_offs.LIVE
        _move(lambda row=row: DROP_OFF.move(db, row, "revoke"))
        row.sealed_name, row.sealed_address, row.wrapped_page, row.mail_id = b"", None, None, None
        db.add(row)
    for fetch in db.exec(select(FhirFetch).where(FhirFetch.account_id == account_id)):
        ended["hospital_tokens"] += fetch.sealed_for_worker is not None
        _move(lambda fetch=fetch: FETCH.move(db, fetch, "withdraw"))
        _move(lambda fetch=fetch: FETCH.move(db, fetch, "lapse"))
        fetch.sealed_for_owner, fetch.sealed_for_worker, fetch.sealed_notes = b"", None, None
        db.add(fetch)
    for link in db.exec(select(PacsLink).where(PacsLink.account_id == account_id)):
        ended["pacs_links"] += link.state in links.HELD
        _move(lambda link=link: PACS_LINK.move(db, link, "end"))
        link.sealed_for_owner, link.patient_key, link.vouched = b"", None, None
        db.add(link)
    for look in db.exec(select(PacsFetch).where(PacsFetch.account_id == account_id)):
        expectations.close_all(db, look.id)  # first, as its worker holds the two
        _move(lambda look=look: PACS_FETCH.move(db, look, "withdraw"))
        look.sealed_for_worker, look.sealed_list = None, None
        db.add(look)
    return ended


def mails_of(db: Session, account_id: str) -> list[str]:
    """Ids of the mails that carried a drop-off's link."""
    found = db.exec(select(DropOff.mail_id).where(DropOff.account_id == account_id, col(DropOff.mail_id).is_not(None)))
    return [mail_id for mail_id in found if mail_id]


def _move(step: Any) -> None:
    with contextlib.suppress(StateConflict):  # over already
        step()
