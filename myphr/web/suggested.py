"""Suggestions of viewers for pages: brings together the items, the catalogue, what is installed, and what people said;
and the question "Did it open?" with the next viewer to try. Pages call it; it answers no request itself.
"""

import dataclasses

from flask import url_for

from myphr.errors import NotFound
from myphr.machines import templates, viewer_checks
from myphr.machines.models import VmSession
from myphr.machines.vm_sessions import VmSessionView
from myphr.records import items as records
from myphr.records.items import ItemView, StudyView
from myphr.viewers import catalogue, contents, outcomes, suggest
from myphr.viewers.contents import Contents
from myphr.viewers.outcomes import Memory
from myphr.viewers.suggest import Known, Suggestion
from myphr.web.login import portal, this_login

ASKED_IN = ("live", "ended")  # a start that failed says nothing about the viewer


# -- what is opened -------------------------------------------------------------------------------
def of_study(study: StudyView) -> Contents:
    return contents.of_study(study.kinds, study.items_count, study.bytes_total)


def of_item(item: ItemView) -> Contents:
    return contents.of_files([(item.format, item.headers, item.plain_bytes)])


def study_contents(study_id: str) -> Contents:
    """Raises NotFound."""
    login = this_login()
    return of_study(records.study_view(portal().database, login.ring(), login.account.id, study_id))


# -- suggestions ----------------------------------------------------------------------------------
def _memory() -> Memory:
    login = this_login()
    return outcomes.memory_of(portal().database, login.ring(), login.account.id)


def suggestions(what: Contents) -> list[Suggestion]:
    """Best first, for the person who is signed in."""
    return _suggestions(what, _memory())


def _suggestions(what: Contents, memory: Memory) -> list[Suggestion]:
    kind = what.kind
    known = Known(
        installed=templates.installed(portal().redis),
        checks=viewer_checks.checks(
            portal().database, {part.modality for part in what.parts if part.format == "dicom"}
        ),
        tallies=outcomes.tallies(portal().database, kind),
        own=memory.last_words(kind),
    )
    return suggest.suggest(catalogue.load(), what, known)


def remember(vm_session: VmSession, what: Contents) -> None:
    """So that its page can ask how it went."""
    login = this_login()
    outcomes.remember(
        portal().database, login.ring(), login.account.id, vm_session.id, vm_session.viewer, what.kind
    )


# -- afterwards -----------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Question:
    """ "Did it open?", what was answered, and after "It did not" the next viewer for the same items, if there is one
    and they are still there."""

    vm_session_id: str
    viewer_title: str
    opened: bool | None
    is_live: bool
    next: Suggestion | None = None
    open_url: str = ""


def question(view: VmSessionView) -> Question | None:
    """None where there is nothing to ask: not opened yet, never opened, or too long ago."""
    if view.state not in ASKED_IN or (view.state == "ended" and view.live_at is None):
        return None
    memory = _memory()
    about = memory.of(view.id)
    viewer = catalogue.load().get(view.viewer)
    if about is None or viewer is None:
        return None
    asked = Question(view.id, viewer.title, about.opened, view.state == "live")
    if about.opened is not False:
        return asked
    try:
        if view.study_id:
            what, url = study_contents(view.study_id), url_for("study.open_study", study_id=view.study_id)
        elif view.item_id:
            login = this_login()
            item = records.item_view(portal().database, login.ring(), login.account.id, view.item_id)
            what, url = of_item(item), url_for("study.open_item", item_id=view.item_id)
        else:
            return asked
    except NotFound:
        return asked  # deleted meanwhile
    refused = {name for name, opened in memory.last_words(what.kind).items() if not opened} | {view.viewer}
    left = [one for one in _suggestions(what, memory) if one.viewer.name not in refused and one.installed]
    return dataclasses.replace(asked, next=left[0] if left else None, open_url=url)
