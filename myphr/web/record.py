""" "My record": what is in it, putting files in, sample studies. The list is a fragment that the page refreshes while
files come in or an archive is being unpacked; when neither goes on, polling ends by itself.
"""

import dataclasses
import importlib
import importlib.util
from typing import Any

from flask import Blueprint, Response, flash, redirect, session, url_for

from myphr.errors import NotFound
from myphr.ingest import drop_offs
from myphr.records.items import RecordView
from myphr.records.items import my_record as view_of_record
from myphr.web import previews
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page, whole_number

blueprint = Blueprint("record", __name__, url_prefix="/record")

_DEMO = "myphr.ingest.demo"
_UNPACKING = ("waiting", "running")
STUDIES_SHOWN, DOCUMENTS_SHOWN = 25, 50  # on one page: with more, nobody finds the end of it


def _page() -> Response:
    login = this_login()
    first, first_study = whole_number("from", 0) or 0, whole_number("scans_from", 0) or 0
    view = view_of_record(
        portal().database, login.ring(), login.account.id, documents_from=first, documents_max=DOCUMENTS_SHOWN
    )
    studies = view.studies[first_study : first_study + STUDIES_SHOWN]
    return render_page(
        "record/my_record.html", "items", record=view, unpacking=_unpacking(view), refused=_refused(view), first=first,
        studies=studies, place=_Place(first_study, first, len(view.studies), view.documents_count),
        samples=importlib.util.find_spec(_DEMO) is not None,
        unconfirmed="recovery_check" in session, pictures=previews.of_items(view.documents),
        lines=previews.lines_of(view.documents),
        study_pictures=previews.of_studies([study.id for study in studies]),
        sent_lately=drop_offs.sent_lately(portal(), login),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Place:
    """Which part of a long record the page shows: from which study and from which file on, of how many."""

    studies_from: int
    documents_from: int
    studies: int
    documents: int

    @property
    def query(self) -> dict[str, int]:
        """As the address says it; nothing for the beginning."""
        told = {"scans_from": self.studies_from, "from": self.documents_from}
        return {name: value for name, value in told.items() if value}

    @property
    def newer_studies(self) -> str:
        return self._moved(studies=-STUDIES_SHOWN) if self.studies_from else ""

    @property
    def older_studies(self) -> str:
        return self._moved(studies=STUDIES_SHOWN) if self.studies_from + STUDIES_SHOWN < self.studies else ""

    @property
    def newer_documents(self) -> str:
        return self._moved(documents=-DOCUMENTS_SHOWN) if self.documents_from else ""

    @property
    def older_documents(self) -> str:
        return self._moved(documents=DOCUMENTS_SHOWN) if self.documents_from + DOCUMENTS_SHOWN < self.documents else ""

    def _moved(self, studies: int = 0, documents: int = 0) -> str:
        there = dataclasses.replace(
            self,
            studies_from=max(0, self.studies_from + studies), documents_from=max(0, self.documents_from + documents),
        )  # fmt: skip
        where = "scans-heading" if studies else "documents-heading"
        return url_for("record.my_record", **there.query, _anchor=where)  # type: ignore[arg-type]


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
