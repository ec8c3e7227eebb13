"""By what the entries of a FHIR file are known again: noted with the item, blindly, for later fetches from hospitals.

Called by `fetching` for what a hospital sent, and by `reading.work` for what was put in by hand.
"""

from collections.abc import Callable

from sqlmodel import Session

from myphr.ingest.fhir import entries
from myphr.ingest.fhir.entries import Page
from myphr.records import duplicates
from myphr.records.models import Item

FORMAT = "fhir-json"
HAND_BYTES_MAX = 8 * 1024**2  # JSON of so many empty lists takes 200 MB in memory; real bundles have 5 MB at most


def page_of_item(item: Item, read_at: Callable[[int, int], bytes]) -> Page | None:
    """What stands in a file that somebody put in, or None: it is no FHIR, too large, or noted when it was fetched."""
    if item.format != FORMAT or item.source == "fhir" or item.plain_bytes > HAND_BYTES_MAX:
        return None
    return entries.page_of(read_at(0, item.plain_bytes), "")


def note(db: Session, item: Item, index_key: bytes, page: Page) -> None:
    """In the caller's commit. The same again changes nothing."""
    identities = [identity for entry in page.entries for identity in entry.identities]
    duplicates.note_identifiers(db, item, index_key, duplicates.FHIR_IDENTIFIER, identities)
    duplicates.note_identifiers(
        db, item, index_key, duplicates.FHIR_CONTENT, [content_value(entry) for entry in page.entries]
    )


def content_value(entry: entries.Entry) -> str:
    return f"{entry.type}|{entry.content}"
