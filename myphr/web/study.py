"""One study or one file: what it is, opening it with a suggested viewer, downloading, deleting.

Every load goes through the record's loaders, which answer NotFound for what is not the owner's.
"""

import collections
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.errors import AllMachinesInUse, FormRefused, HypervisorUnreachable, PortalError, ViewerNotInstalled
from myphr.machines import vm_sessions
from myphr.records import items as records
from myphr.records.items import ItemView, StudyPage
from myphr.records.opening import OpenItem
from myphr.viewers import catalogue, suggest
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("study", __name__)

FILES_LISTED_MAX = 500  # in the technical details; a whole CT of 2,000 slices makes a page nobody reads
BLOCK_BYTES = 1024 * 1024
NOT_OPENED = (AllMachinesInUse, HypervisorUnreachable, ViewerNotInstalled, FormRefused)  # told on the page itself
_TECHNICAL_NAMES = {
    "study_uid": "Study UID", "series_uid": "Series UID", "instance_uid": "Instance UID", "sop_class": "SOP class",
    "modality": "Modality", "accession": "Accession number", "patient_id": "Patient ID", "rows": "Rows",
    "columns": "Columns", "frames": "Frames",
    "series_number": "Series number", "instance_number": "Image number", "transfer_syntax": "Transfer syntax",
}  # fmt: skip


# -- loading --------------------------------------------------------------------------------------
def _study(study_id: object) -> StudyPage:
    login = this_login()
    return records.study_page(portal().database, login.ring(), login.account.id, str(study_id))


def _item(item_id: object) -> ItemView:
    login = this_login()
    return records.item_view(portal().database, login.ring(), login.account.id, str(item_id))


def _suggestions(formats: dict[str, int], modalities: dict[str, int]) -> list[suggest.Suggestion]:
    return suggest.suggest(catalogue.load(), collections.Counter(formats), collections.Counter(modalities))


# -- a study --------------------------------------------------------------------------------------
def _study_page(study_id: object, error: PortalError | None = None) -> Response:
    page = _study(study_id)
    return render_page(
        "record/study.html", status=error.status if error else 200, study=page.study,
        items=page.items[:FILES_LISTED_MAX],
        suggestions=_suggestions(page.study.formats, page.study.modalities), error=error,
        open_url=url_for("study.open_study", study_id=study_id),
    )  # fmt: skip


@blueprint.get("/study/<uuid:study_id>")
@policy(SIGNED_IN)
def study(study_id: object) -> Response:
    return _study_page(study_id)


@blueprint.post("/study/<uuid:study_id>/open")
@policy(SIGNED_IN)
def open_study(study_id: object) -> Response:
    try:
        vm_session = vm_sessions.request(portal(), this_login(), _chosen_viewer(), study_id=str(study_id))
    except NOT_OPENED as error:
        return _study_page(study_id, error)
    return _to_machine(vm_session.id)


@blueprint.route("/study/<uuid:study_id>/delete", methods=["GET", "POST"])
@policy(SIGNED_IN)
def delete_study(study_id: object) -> Response:
    page = _study(study_id)
    if request.method == "POST":
        account_id = this_login().account.id
        records.remove_study(portal().database, account_id, str(study_id), Actor("patient", account_id))
        flash("The study is deleted.")
        return _to_record()
    return render_page(
        "record/delete.html", what="this study", title=page.study.title, count=page.study.items_count,
        size=page.study.size_words,
        back=url_for("study.study", study_id=study_id),
    )  # fmt: skip


# -- one file -------------------------------------------------------------------------------------
def _item_page(item_id: object, error: PortalError | None = None) -> Response:
    item = _item(item_id)
    row = records.load_item(portal().database, this_login().account.id, item.id)
    modality = str((item.headers or {}).get("modality") or "")
    technical: dict[str, Any] = {"SHA-256": item.sha256, "Path": item.path, "Media type": item.media_type}
    technical["Format code"] = item.format
    technical |= {name: (item.headers or {}).get(key) for key, name in _TECHNICAL_NAMES.items()}
    return render_page(
        "record/item.html", status=error.status if error else 200, item=item, study_id=row.study_id,
        technical=[(name, value) for name, value in technical.items() if value not in (None, "")],
        suggestions=_suggestions({item.format: 1}, {modality: 1} if modality else {}), error=error,
        open_url=url_for("study.open_item", item_id=item_id),
    )  # fmt: skip


@blueprint.get("/item/<uuid:item_id>")
@policy(SIGNED_IN)
def item(item_id: object) -> Response:
    return _item_page(item_id)


@blueprint.post("/item/<uuid:item_id>/open")
@policy(SIGNED_IN)
def open_item(item_id: object) -> Response:
    try:
        vm_session = vm_sessions.request(portal(), this_login(), _chosen_viewer(), item_ids=[str(item_id)])
    except NOT_OPENED as error:
        return _item_page(item_id, error)
    return _to_machine(vm_session.id)


@blueprint.get("/item/<uuid:item_id>/download")
@policy(SIGNED_IN)
def download(item_id: object) -> Response:
    """The file as it came, byte by byte. Opened block by block: at most one block of it is in memory."""
    login = this_login()
    row = records.load_item(portal().database, login.account.id, str(item_id))
    name = _item(item_id).name
    opened = records.open_item(portal().store, row, records.dek_of(login.ring(), row))
    with portal().database.write() as db:
        trail.record(
            db, "item-downloaded", account_id=login.account.id, actor=Actor("patient", login.account.id), item=row.id
        )
    answer = Response(
        _blocks(opened), mimetype="application/octet-stream"
    )  # never shown by the browser: it is a stranger's file
    answer.call_on_close(opened.close)
    answer.content_length = opened.plain_bytes
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in name)[-100:] or "file"
    answer.headers["Content-Disposition"] = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    answer.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; sandbox; frame-ancestors 'none'"
    )
    return answer


def _blocks(opened: OpenItem) -> Iterator[bytes]:
    for offset in range(0, opened.plain_bytes, BLOCK_BYTES):
        yield opened.read_at(offset, BLOCK_BYTES)


@blueprint.route("/item/<uuid:item_id>/delete", methods=["GET", "POST"])
@policy(SIGNED_IN)
def delete_item(item_id: object) -> Response:
    item = _item(item_id)
    if request.method == "POST":
        account_id = this_login().account.id
        records.remove_item(portal().database, account_id, item.id, Actor("patient", account_id))
        flash("The file is deleted.")
        return _to_record()
    return render_page(
        "record/delete.html", what="this file", title=item.name, count=1, size=item.size_words,
        back=url_for("study.item", item_id=item_id),
    )  # fmt: skip


# -- where to -------------------------------------------------------------------------------------
def _chosen_viewer() -> catalogue.Viewer:
    viewer = catalogue.load().get(request.form.get("viewer", ""))
    if viewer is None:
        raise FormRefused("unknown viewer", reason="choose one of the viewers")
    return viewer


def _to_machine(vm_session_id: str) -> Response:
    return redirect(url_for("machine.machine", vm_session_id=vm_session_id), 303)  # type: ignore[return-value]


def _to_record() -> Response:
    return redirect(url_for("record.my_record"), 303)  # type: ignore[return-value]
