""" "Came again": what the page of a file says of the other times its bytes, or other versions of it, came.

No views: `study` asks for the words."""

import dataclasses
import datetime as dt

from myphr.errors import EnvelopeError, NotFound
from myphr.ingest import drop_offs
from myphr.ingest.pacs import fetches
from myphr.records import duplicates
from myphr.records import items as records
from myphr.records.duplicates import RepeatView
from myphr.records.models import Item
from myphr.web.login import portal, this_login

_FROM = {"result": "from a viewer", "archive": "in an archive that is deleted by now"}


@dataclasses.dataclass(frozen=True)
class RepeatWords:
    """`place` says where it came from; `thing_id` is the disc or archive it was in, if that is still here."""

    at: dt.datetime
    times: int
    place: str
    name: str
    thing_id: str | None = None
    thing_name: str = ""


@dataclasses.dataclass(frozen=True)
class AgainWords:
    repeats: list[RepeatWords]
    more: int
    versions: tuple[tuple[str, str, dt.datetime], ...]


def of(item: Item) -> AgainWords:
    """Of one of the signed-in owner's items."""
    login = this_login()
    again = duplicates.again(portal().database, login.ring(), item)
    practices = {source: [one.source_id for one in again.repeats if one.source == source and one.source_id]
                 for source in ("drop-off", "pacs")}  # fmt: skip
    with portal().database.read() as db:
        names = drop_offs.names(db, login, practices["drop-off"])
        names |= fetches.names(db, login, practices["pacs"]) if practices["pacs"] else {}
    return AgainWords(
        [_words(one, names) for one in again.repeats], again.repeats_count - len(again.repeats), again.versions
    )


def _words(one: RepeatView, practices: dict[str, str]) -> RepeatWords:
    name = one.path or one.name
    if one.source in ("drop-off", "pacs"):
        return RepeatWords(one.last_at, one.times, f"from {practices.get(one.source_id or '', 'a practice')}", name)
    if one.source == "archive" and one.source_id:
        login = this_login()
        try:
            thing = records.item_view(portal().database, login.ring(), login.account.id, one.source_id)
            return RepeatWords(one.last_at, one.times, "in", name, thing.id, thing.name)
        except (NotFound, EnvelopeError):
            pass  # the archive was deleted; that its file came again still stands
    return RepeatWords(one.last_at, one.times, _FROM.get(one.source, ""), name)
