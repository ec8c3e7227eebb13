""" "Find in my record", and the timeline. What is looked for never stands in an address in clear: a form posts it, and
the page it leads to carries it sealed (decision 0205). Every page works as a plain address and without JavaScript.
"""

import collections
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for

from myphr.errors import NotFound
from myphr.records import formats, questions, readings
from myphr.records.entries import SOURCES, day_words, item_key, study_key
from myphr.records.labels import TYPES
from myphr.records.search_index import FACETS, NO_YEAR, Entry, Question
from myphr.records.summaries import modality_words
from myphr.sharing.search_around import Around
from myphr.web import previews
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page, wants_fragment, whole_number

blueprint = Blueprint("find", __name__, url_prefix="/record")

SHOWN = 30
TIMELINE_SHOWN = 100
CHIPS_SHOWN = 8  # of one group; the others wait behind "More"
_FACET_WORDS = {"type": "Kind", "modality": "Scan", "year": "Year", "source": "How it came", "format": "Format"}


@dataclasses.dataclass(frozen=True)
class Chip:
    words: str
    count: int
    address: str
    chosen: bool = False


@dataclasses.dataclass(frozen=True)
class ChipGroup:
    words: str
    first: Sequence[Chip]
    more: Sequence[Chip]


# -- finding ----------------------------------------------------------------------------------------
@blueprint.get("/find")
@policy(SIGNED_IN)
def find() -> Response:
    """Everything, the newest first, with what it can be narrowed by."""
    return _page(Question())


@blueprint.post("/find")
@policy(SIGNED_IN)
def ask() -> Response:
    """Leads to the address of the answer; htmx, which asks while somebody types, gets the answer itself."""
    chosen: Mapping[str, str] = {}
    try:
        chosen = _opened(request.form.get("within", "")).chosen
    except NotFound:
        pass  # the form of another login, or none: only the words count
    question = questions.made(request.form.get("words", ""), dict(chosen))
    if wants_fragment():
        return _page(question)
    return redirect(_address(question), 303)  # type: ignore[return-value]


@blueprint.get("/find/<question>")
@policy(SIGNED_IN)
def found(question: str) -> Response:
    return _page(_opened(question))


@blueprint.get("/find/<question>/reading")
@policy(SIGNED_IN_POLL)
def reading(question: str) -> Response:
    """The answer once more, while files are still being read."""
    return _page(_opened(question))


def _opened(text: str) -> Question:
    """Raises NotFound for what this person did not ask."""
    return questions.open_(this_login().ring(), this_login().account.id, text)


def _sealed(question: Question) -> str:
    return questions.seal(this_login().ring(), this_login().account.id, question)


def _address(question: Question) -> str:
    if not question.words.strip() and not question.chosen and not question.start:
        return url_for("find.find")
    return url_for("find.found", question=_sealed(question))


def _page(question: Question) -> Response:
    login = this_login()
    around = Around(portal(), login)
    answer = portal().search.find(login.ring(), login.account.id, question, SHOWN, around)
    start, total = question.start, answer.found.total
    return render_page(
        "record/find.html", "found", question=question, answer=answer, found=answer.found, within=_sealed(question),
        address=_address(question), groups=_groups(question, answer.found.counts), chosen=_chosen(question),
        pictures=_pictures([hit.entry for hit in answer.found.hits]), row_words=row_words,
        first=start + 1, last=start + len(answer.found.hits),
        earlier=_address(dataclasses.replace(question, start=max(0, start - SHOWN))) if start else None,
        later=_address(dataclasses.replace(question, start=start + SHOWN)) if start + SHOWN < total else None,
    )  # fmt: skip


def _chosen(question: Question) -> list[Chip]:
    """What it is narrowed to; each address leaves one out."""
    return [
        Chip(_value_words(name, value), 0, _address(Question(question.words, _without(question.chosen, name))), True)
        for name, value in question.chosen.items()
    ]


def _without(chosen: Mapping[str, str], name: str) -> dict[str, str]:
    return {other: value for other, value in chosen.items() if other != name}


def _groups(question: Question, counts: Mapping[str, Sequence[tuple[str, int]]]) -> list[ChipGroup]:
    found = []
    for name in FACETS:
        values = counts.get(name, ())
        if name in question.chosen or len(values) < 2:  # nothing to choose between
            continue
        if name == "year":
            values = sorted(values, key=lambda one: one[0] if one[0] != NO_YEAR else "", reverse=True)
        chips = [
            Chip(_value_words(name, value), count, _address(Question(question.words, {**question.chosen, name: value})))
            for value, count in values
        ]
        found.append(ChipGroup(_FACET_WORDS[name], chips[:CHIPS_SHOWN], chips[CHIPS_SHOWN:]))
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _format_words(code: str) -> str:
    one = formats.of(code)
    alike = sum(other.words == one.words for other in formats.FORMATS.values()) > 1
    return f"{one.words} ({one.ending})" if alike and one.ending else one.words


_VALUE_WORDS: Mapping[str, Callable[[str], str]] = {
    "type": lambda value: _capital(TYPES[value][1]) if value in TYPES else value,
    "modality": modality_words,
    "year": lambda value: "Date not known" if value == NO_YEAR else value,
    "source": lambda value: SOURCES[value][0] if value in SOURCES else _capital(value.replace("-", " ")),
    "format": _format_words,
}


def _value_words(name: str, value: str) -> str:
    return _VALUE_WORDS[name](value)


def row_words(entry: Entry, under_day: bool) -> dict[str, Any]:
    """A row in plain words: what, when, where, by whom, how large, how it came. `under_day`: day and place are said
    above it."""
    page, name = ("study.study", "study_id") if entry.is_study else ("study.item", "item_id")
    values: dict[str, Any] = {name: entry.thing_id}
    if entry.share_id is not None:  # somebody else's: it has no page of its own here
        page, values = "shared_with_me.shared", {"share_id": entry.share_id}
    when = () if under_day else (day_words(entry.day) or "date not known", entry.place)
    return {
        "address": url_for(page, **values),
        "facts": [text for text in (entry.kind, *when, entry.author and f"by {entry.author}", entry.size) if text],
        "came": SOURCES[entry.source][1] if entry.source in SOURCES else "came into your record",
        "added": dt.datetime.fromisoformat(entry.added),
        "shared_by": entry.patient if entry.share_id is not None else None,
    }


def _pictures(entries: Sequence[Entry]) -> dict[str, str]:
    """By the key of an entry, the item whose picture stands for it."""
    alone = [entry.thing_id for entry in entries if not entry.is_study and entry.share_id is None]
    of_items = readings.with_preview(portal().database, alone)
    of_studies = previews.of_studies([entry.thing_id for entry in entries if entry.is_study])
    return {item_key(item_id): item_id for item_id in of_items} | {
        study_key(study_id): item_id for study_id, item_id in of_studies.items()
    }


# -- the timeline -------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Occasion:
    """What was made on one day at one place."""

    day: str
    place: str
    entries: Sequence[Entry]

    @property
    def words(self) -> str:
        return ", ".join(filter(None, (day_words(self.day), self.place)))


@dataclasses.dataclass(frozen=True)
class Month:
    """`words` name year and month, as far as they are known."""

    key: str
    words: str
    occasions: Sequence[Occasion]


@blueprint.get("/timeline")
@policy(SIGNED_IN)
def timeline() -> Response:
    return _timeline()


@blueprint.get("/timeline/reading")
@policy(SIGNED_IN_POLL)
def timeline_reading() -> Response:
    """The timeline once more, while files are still being read."""
    return _timeline()


def _timeline() -> Response:
    login = this_login()
    undated, year, start = "undated" in request.args, whole_number("year", most=9999), whole_number("from", 0) or 0
    view = portal().search.timeline(
        login.ring(), login.account.id, year=year, dated=not undated, start=start, most=TIMELINE_SHOWN,
        around=Around(portal(), login),
    )
    where: dict[str, Any] = {"undated": 1} if undated else {"year": year} if year is not None else {}

    def address(first: int, endpoint: str = "find.timeline") -> str:
        values = where | ({"from": first} if first else {})
        return url_for(endpoint, **values)

    return render_page(
        "record/timeline.html", "timeline", view=view, year=year, undated=undated, row_words=row_words,
        pictures=_pictures(view.entries),
        months=[] if undated else months_of(view.entries), again=address(start, "find.timeline_reading"),
        later=address(max(0, start - TIMELINE_SHOWN)) if start else None,
        earlier=address(start + TIMELINE_SHOWN) if start + TIMELINE_SHOWN < view.total else None,
    )  # fmt: skip


def months_of(entries: Iterable[Entry]) -> list[Month]:
    """By month, and within it by occasion: the same day at the same place. `entries` come the newest first."""
    months: dict[str, dict[tuple[str, str], list[Entry]]] = {}
    for entry in entries:
        occasions = months.setdefault(entry.day[:7], collections.defaultdict(list))
        occasions[entry.day, " ".join(entry.place.casefold().split())].append(entry)
    return [
        Month(key, day_words(key) if len(key) == 7 else f"{key}, month not known",
              [Occasion(day, group[0].place, group) for (day, _), group in occasions.items()])
        for key, occasions in months.items()
    ]  # fmt: skip
