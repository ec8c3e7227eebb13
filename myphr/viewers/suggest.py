"""Which viewer fits these items best, and why, in plain sentences. Pure: contents and what is known in, a ranked list
out. Content (what viewers say they open, and what was proved) gives the order; what people said about such items
moves it (`belief`); what this person said about such items moves it for this person. With no history it is the
content order. Called by the pages of whatever is opened, before and after.
"""

import dataclasses
import re
from collections.abc import Mapping

from myphr.viewers import belief, contents
from myphr.viewers.belief import Tally
from myphr.viewers.catalogue import Viewer
from myphr.viewers.contents import Contents, Part, how_many

# Weights. What share of the files a viewer opens decides, the rest breaks ties.
FITS = 100.0
FAMILIES = 20.0  # of the sorts of DICOM objects: one set of marked areas among 300 slices must count
TOUCH, RANK = 10.0, 1.0  # a viewer for fingers may fail one person in ten more before one for a mouse comes first
PROVED = 2.0  # this portal tried it with such a file, and it opened
CHECK_FAILED = -60.0  # ... and the last time it did not
TOO_MUCH = -70.0  # it opens these, but not so many or so large ones
NOT_INSTALLED = -1000.0
OWN_OPENED, OWN_NOT = 13.0, -50.0  # what this person said the last time; what they know to work beats ease of use
NOT_HERE = "It is not installed on this portal."
PARTLY = 0.5  # a viewer that shows only the pictures of such an object


@dataclasses.dataclass(frozen=True)
class Check:
    """What "Still opens" found when this portal last tried a viewer with a file of a format."""

    worked: bool
    on: str = ""  # the day, in words


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known beside the items. `installed`: names of templates, None while nobody knows. `checks`: by
    (viewer, format). `tallies` and `own` (opened or not, the last time) by viewer, of this kind of items."""

    installed: frozenset[str] | None = None
    checks: Mapping[tuple[str, str], Check] = dataclasses.field(default_factory=dict)
    tallies: Mapping[str, Tally] = dataclasses.field(default_factory=dict)
    own: Mapping[str, bool] = dataclasses.field(default_factory=dict)


NOTHING = Known()


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """`reason` is one sentence without its full stop; `notes` are whole sentences on what was learned or is in the
    way. Not `installed`: pressing Open would lead nowhere. Not `fits`: none is made for it, this one only tries."""

    viewer: Viewer
    reason: str
    score: float  # the higher, the better it fits; only the order means something
    notes: tuple[str, ...] = ()
    installed: bool = True
    fits: bool = True


def suggest(catalogue: Mapping[str, Viewer], what: Contents, known: Known = NOTHING) -> list[Suggestion]:
    """Viewers for these items, best first. Never empty.

    When no installed viewer opens anything, those that take whatever comes are offered too, and say so. Raises
    ValueError for an empty catalogue."""
    if not catalogue:
        raise ValueError("there are no viewers to choose from")
    offered = [viewer for viewer in catalogue.values() if not viewer.internal] or list(catalogue.values())
    if known.installed is not None and not any(_is_installed(viewer, known) for viewer in offered):
        known = dataclasses.replace(known, installed=None)  # a portal without viewers: pressing Open says so
    found = [one for viewer in offered if (one := _judged(viewer, what, known)) is not None]
    if not any(one.installed for one in found):
        found += _fallbacks(offered, what, known, {one.viewer.name for one in found})
    return sorted(found, key=lambda one: (-one.score, one.viewer.name))


# -- one viewer -------------------------------------------------------------------------------------
def _judged(viewer: Viewer, what: Contents, known: Known) -> Suggestion | None:
    """None for a viewer that opens nothing of it."""
    opens = {part: _degree(viewer, part) for part in what.parts}
    weighed = sum(opens[part] * count for part, count in what.parts.items())
    total = sum(count for part, count in what.parts.items() if part.format != "dicomdir") or what.count
    opened = sum(count for part, count in what.parts.items() if opens[part] > 0 and part.format != "dicomdir")
    if weighed <= 0 or opened == 0:
        return None
    tally = known.tallies.get(viewer.name, belief.NOBODY)
    share = min(1.0, weighed / total)
    score = FITS * share * belief.factor(tally) + FAMILIES * _families_share(opens)
    score += TOUCH * viewer.touch + RANK * viewer.rank
    notes = []
    too_much = _too_much(viewer, what)
    if too_much:
        score += TOO_MUCH
        notes.append(too_much)
    if checks := [known.checks[key] for part in what.parts if (key := (viewer.name, part.format)) in known.checks]:
        failed = next((check for check in checks if not check.worked), None)
        score += CHECK_FAILED if failed else PROVED
        if failed:
            notes.append(f"When we last tried it with such a file{_on(failed)}, it did not open.")
        elif len(checks) == len(what.parts):
            notes.append(f"We tried it with such a file{_on(checks[0])}: it opened.")
    if viewer.name in known.own:
        score += OWN_OPENED if known.own[viewer.name] else OWN_NOT
        notes.append("It opened for you last time." if known.own[viewer.name] else "It did not open for you last time.")
    if tally.counts:
        notes.append(_people_words(tally))
    installed = _is_installed(viewer, known)
    if not installed:
        score += NOT_INSTALLED
        notes.append(NOT_HERE)
    return Suggestion(viewer, _reason(viewer, what, opens, opened, total), score, tuple(notes), installed)


def _degree(viewer: Viewer, part: Part) -> float:
    """How far this viewer opens such an item: 0, PARTLY or 1."""
    if part.format not in viewer.formats:
        return 0.0
    if part.format != "dicom":
        return 1.0
    if part.transfer_syntax and part.transfer_syntax in viewer.cannot:
        return 0.0
    if part.modality and "*" not in viewer.modalities and part.modality not in viewer.modalities:
        return 0.0
    if part.family in viewer.families:
        return 1.0
    return PARTLY if part.family in viewer.partly and part.has_pictures else 0.0


def _families_share(opens: Mapping[Part, float]) -> float:
    """Of the sorts of DICOM objects that are there, how many this viewer opens; 1 where there are none. Reports and
    settings that come along with images are left out: nobody opens a scan for their sake."""
    best: dict[str, float] = {}
    for part, degree in opens.items():
        if part.family:
            best[part.family] = max(degree, best.get(part.family, 0.0))
    told = {family: degree for family, degree in best.items() if family not in ("sr", "state", "other")} or best
    return sum(told.values()) / len(told) if told else 1.0


def _is_installed(viewer: Viewer, known: Known) -> bool:
    return known.installed is None or viewer.template in known.installed


def _too_much(viewer: Viewer, what: Contents) -> str:
    if viewer.items_max and what.count > viewer.items_max:
        return f"So many do not fit in its memory: it takes {viewer.items_max:,} files at once."
    if viewer.file_bytes_max and what.file_bytes_max > viewer.file_bytes_max:
        return f"A file this large does not fit in its memory: it takes up to {_size(viewer.file_bytes_max)}."
    if viewer.bytes_max and what.bytes_total > viewer.bytes_max:
        return f"So much does not fit in its memory: it takes up to {_size(viewer.bytes_max)} at once."
    return ""


def _size(size: int) -> str:
    from myphr.records.summaries import size_words

    return size_words(size)


def _reason(viewer: Viewer, what: Contents, opens: Mapping[Part, float], opened: int, total: int) -> str:
    words = contents.words(what)
    if opened < total:
        packed = any(
            not opens[part] and part.format in viewer.formats and part.transfer_syntax in viewer.cannot
            for part in what.parts
        )
        why = "; the others are packed in a way it cannot read" if packed else ""
        return f"{words}: {viewer.title} opens {opened:,} of the {total:,}{why}"
    if all(degree < 1 for part, degree in opens.items() if part.format != "dicomdir"):
        return f"{words}: {viewer.title} shows only the pictures in {'it' if total == 1 else 'them'}"
    return f"{words}: {viewer.title} {_of_one(viewer.opens) if what.count == 1 else viewer.opens}"


def _of_one(opens: str) -> str:
    """What a viewer's file says of several ("shows these ..."), said of one."""
    for several, one in (("their authors see", "its author sees"), ("these", "it"), ("them", "it"), ("their", "its")):
        opens = re.sub(rf"\b{several}\b", one, opens)
    return opens


def _people_words(tally: Tally) -> str:
    """Only of tallies that count."""
    people = how_many(tally.people, "person", "people")
    if tally.not_opened == 0:
        return f"It opened for all {people} with such files who told us."
    if tally.opened == 0:
        return f"It did not open for any of {people} with such files who told us."
    return f"It opened for {tally.opened:,} of {people} with such files who told us."


def _on(check: Check) -> str:
    return f" on {check.on}" if check.on else ""


# -- when nothing fits ------------------------------------------------------------------------------
def _fallbacks(offered: list[Viewer], what: Contents, known: Known, taken: set[str]) -> list[Suggestion]:
    found = []
    words = contents.words(what)
    unreadable = any(
        part.transfer_syntax in viewer.cannot for viewer in offered for part in what.parts if part.transfer_syntax
    )
    for viewer in [viewer for viewer in offered if viewer.fallback] or offered:
        if viewer.name in taken:
            continue
        why = f"no viewer of ours {'reads how they are packed' if unreadable else 'is made for this'}"
        if taken:
            why = "the viewer made for this is not installed here"
        installed = _is_installed(viewer, known)
        refused = known.own.get(viewer.name) is False
        score = RANK * viewer.rank + (OWN_NOT if refused else 0) + (0 if installed else NOT_INSTALLED)
        notes = ["It did not open for you last time."] if refused else []
        notes += [] if installed else [NOT_HERE]
        reason = f"{words}: {why}. {viewer.title} shows what it can"
        found.append(Suggestion(viewer, reason, score, tuple(notes), installed, fits=False))
    return found
