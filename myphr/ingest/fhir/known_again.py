"""By what the entries of a FHIR file are known again: noted with the item, blindly, for later fetches from hospitals.

Called by `fetching` for what a hospital sent, and by `reading.work` for what was put in by hand.
"""

import dataclasses
from collections.abc import Callable, Iterable

from sqlmodel import Session

from myphr.ingest.fhir import entries
from myphr.ingest.fhir.entries import Page
from myphr.records import duplicates
from myphr.records.models import Item

FORMAT = "fhir-json"
Brought = Callable[[Session, Iterable[str]], set[str]]  # those of these items that the same fetch filed
HAND_BYTES_MAX = 8 * 1024**2  # JSON of so many empty lists takes 200 MB in memory; real bundles have 5 MB at most


@dataclasses.dataclass
class News:
    """Entries of one answer. Mutable: only in the commit that files is it known whether the bytes were here already."""

    new: int = 0
    changed: int = 0
    known: int = 0

    def all_known(self) -> None:
        self.known, self.new, self.changed = self.known + self.new + self.changed, 0, 0


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


def news_of(db: Session, index_key: bytes, account_id: str, page: Page, brought: Brought) -> News:
    """Each entry against what came at other times: the same, the same thing with other words, or new. Within one fetch
    entries may look alike, so what it brought itself does not count."""
    identity = {one: duplicates.identifier_key(index_key, account_id, duplicates.FHIR_IDENTIFIER, one)
                for entry in page.entries for one in entry.identities}  # fmt: skip
    content = {
        entry.content: duplicates.identifier_key(index_key, account_id, duplicates.FHIR_CONTENT, content_value(entry))
        for entry in page.entries
    }
    identities = _from_before(db, account_id, duplicates.FHIR_IDENTIFIER, set(identity.values()), brought)
    contents = _from_before(db, account_id, duplicates.FHIR_CONTENT, set(content.values()), brought)
    news = News()
    for entry in page.entries:
        if content[entry.content] in contents:
            news.known += 1
        elif any(identity[one] in identities for one in entry.identities):
            news.changed += 1
        else:
            news.new += 1
    return news


def _from_before(db: Session, account_id: str, kind: str, keys: set[str], brought: Brought) -> set[str]:
    """Those of the keys that an item bears which came at another time."""
    found = duplicates.holders(db, account_id, kind, keys)
    own = brought(db, (item_id for holders in found.values() for item_id in holders))
    return {key for key, holders in found.items() if set(holders) - own}


def content_value(entry: entries.Entry) -> str:
    return f"{entry.type}|{entry.content}"
