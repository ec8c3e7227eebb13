""" "My record": what is in it, putting files in, sample studies. The list is a fragment that the page refreshes while
files come in or an archive is being unpacked; when neither goes on, polling ends by itself.
"""

import importlib
import importlib.util
from typing import Any

from flask import Blueprint, Response, flash, redirect, session, url_for

from myphr.errors import NotFound
from myphr.ingest import drop_offs
from myphr.records.items import RecordView
from myphr.records.items import my_record as view_of_record
from myphr.records.views import DOCUMENTS_SHOWN
from myphr.web import previews
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page, whole_number

blueprint = Blueprint("record", __name__, url_prefix="/record")

_DEMO = "myphr.ingest.demo"
_UNPACKING = ("waiting", "running")


def _page() -> Response:
    login = this_login()
    first = whole_number("from", 0) or 0
    view = view_of_record(portal().database, login.ring(), login.account.id, documents_from=first)
    return render_page(
        "record/my_record.html", "items", record=view, unpacking=_unpacking(view), refused=_refused(view), first=first,
        step=DOCUMENTS_SHOWN, samples=importlib.util.find_spec(_DEMO) is not None,
        unconfirmed="recovery_check" in session, pictures=previews.of_items(view.documents),
        lines=previews.lines_of(view.documents),
        study_pictures=previews.of_studies([study.id for study in view.studies]),
        sent_lately=drop_offs.sent_lately(portal(), login),
    )  # fmt: skip


def _unpacking(view: RecordView) -> list[Any]:
    names = {item.id: item.name for item in view.documents}
    return [
        (names.get(task.item_id, "an archive"), task) for task in view.archives.values() if task.state in _UNPACKING
    ]


def _refused(view: RecordView) -> dict[str, str]:
    return {
        task.item_id: task.reason or "it could not be read"
        for task in view.archives.values()
        if task.state == "refused"
    }


@blueprint.get("")
@policy(SIGNED_IN)
def my_record() -> Response:
    return _page()


@blueprint.get("/items")
@policy(SIGNED_IN_POLL)
def items() -> Response:
    """The list alone, for htmx; as a plain address it is the whole page."""
    return _page()


@blueprint.post("/samples")
@policy(SIGNED_IN)
def load_samples() -> Response:
    if importlib.util.find_spec(_DEMO) is None:
        raise NotFound("no sample studies in this installation")
    count = importlib.import_module(_DEMO).load(portal(), this_login().account.email)
    flash(f"{count} sample files are in your record. You can delete them at any time.")
    return redirect(url_for("record.my_record"), 303)  # type: ignore[return-value]
