"""One study or one file: what it is, opening it with a suggested viewer, downloading, deleting.

Every load goes through the record's loaders, which answer NotFound for what is not the owner's.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.errors import (
    AllMachinesInUse,
    EnvelopeError,
    FormRefused,
    HypervisorUnreachable,
    PortalError,
    ViewerNotInstalled,
)
from myphr.machines import vm_sessions
from myphr.machines.models import VmSession
from myphr.records import deletions, duplicates, manifest, zip_stream
from myphr.records import items as records
from myphr.records import labels as record_labels
from myphr.records.items import ItemView, StudyPage
from myphr.records.models import Item
from myphr.records.opening import OpenItem
from myphr.records.zip_stream import ZipMember
from myphr.sharing import app_key_wraps, forgetting
from myphr.viewers import catalogue
from myphr.viewers.catalogue import Viewer
from myphr.viewers.contents import Contents
from myphr.web import discs, previews, repeats, suggested
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page
from myphr.web.words import date_words

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


# -- a study --------------------------------------------------------------------------------------
def _study_page(study_id: object, error: PortalError | None = None) -> Response:
    page = _study(study_id)
    return openable(
        "record/study.html", suggested.of_study(page.study), error, study=page.study,
        items=page.items[:FILES_LISTED_MAX], open_url=url_for("study.open_study", study_id=study_id),
        versions_count=duplicates.versions_count(portal().database, [item.id for item in page.items]),
        series_pictures=previews.of_series(page),
    )  # fmt: skip


@blueprint.get("/study/<uuid:study_id>")
@policy(SIGNED_IN)
def study(study_id: object) -> Response:
    return _study_page(study_id)


@blueprint.post("/study/<uuid:study_id>/open")
@policy(SIGNED_IN)
def open_study(study_id: object) -> Response:
    return open_with(
        lambda error: _study_page(study_id, error),
        lambda viewer: vm_sessions.request(portal(), this_login(), viewer, study_id=str(study_id)),
        lambda: suggested.study_contents(str(study_id)),
    )


@blueprint.get("/study/<uuid:study_id>/download")
@policy(SIGNED_IN)
def download_study(study_id: object) -> Response:
    """All files of the study in one zip, each as it came, in folders named in plain words."""
    login, store = this_login(), portal().store
    row, items = records.load_study(portal().database, login.account.id, str(study_id))
    deks = [records.dek_of(login.ring(), item) for item in items]
    details = [records.open_details(dek, item.id, item.sealed_details) for item, dek in zip(items, deks, strict=True)]
    paths = manifest.lay_out(items, details)
    members = sorted(
        (
            ZipMember(path, item.plain_bytes, item.created_at, functools.partial(records.open_item, store, item, dek))
            for path, item, dek in zip(paths, items, deks, strict=True)
        ),
        key=lambda member: member.path,
    )
    _note_download("study-downloaded", study=row.id, items=len(items))
    blocks = zip_stream.stream(members)
    answer = _attachment(blocks, f"{_folder_of(paths)}.zip", "application/zip", zip_stream.size_of(members))
    answer.call_on_close(blocks.close)
    return answer


def _folder_of(paths: list[str]) -> str:
    """What the study is called in the zip, for the name of the zip itself."""
    return next((path.partition("/")[0] for path in paths if "/" in path), "Study")


@blueprint.route("/study/<uuid:study_id>/delete", methods=["GET", "POST"])
@policy(SIGNED_IN)
def delete_study(study_id: object) -> Response:
    page = _study(study_id)
    return _delete(
        "study", deletions.delete_study, page.study.id, title=page.study.title, count=page.study.items_count,
        size=page.study.size_words, back=url_for("study.study", study_id=study_id),
    )  # fmt: skip


# -- one file -------------------------------------------------------------------------------------
def _item_page(item_id: object, error: PortalError | None = None) -> Response:
    item = _item(item_id)
    row = records.load_item(portal().database, this_login().account.id, item.id)
    technical: dict[str, Any] = {"SHA-256": item.sha256, "Path": item.path, "Media type": item.media_type}
    technical["Format code"] = item.format
    technical |= {name: (item.headers or {}).get(key) for key, name in _TECHNICAL_NAMES.items()}
    return openable(
        "record/item.html", suggested.of_item(item), error, item=item,
        study_id=row.study_id, open_url=url_for("study.open_item", item_id=item_id), labels_words=_labels_words(row),
        again=repeats.of(row), disc=discs.of(row), origin=discs.origin(row),
        told=previews.told_of(row),
        technical=[(name, value) for name, value in technical.items() if value not in (None, "")],
    )  # fmt: skip


def _labels_words(row: Item) -> str:
    try:
        found = record_labels.of_file(portal().database, this_login().ring(), row)
    except EnvelopeError:
        return "not known"
    one, _ = record_labels.TYPES[found.type]
    came = "added" if found.day == row.created_at.date() else "of"  # nobody knows its day: it is taken for this one
    return f"{one} {came} {date_words(found.day)}{', sensitive' if found.sensitive else ''}"


@blueprint.get("/item/<uuid:item_id>")
@policy(SIGNED_IN)
def item(item_id: object) -> Response:
    return _item_page(item_id)


@blueprint.post("/item/<uuid:item_id>/open")
@policy(SIGNED_IN)
def open_item(item_id: object) -> Response:
    return open_with(
        lambda error: _item_page(item_id, error),
        lambda viewer: vm_sessions.request(portal(), this_login(), viewer, item_ids=[str(item_id)]),
        lambda: suggested.of_item(_item(item_id)),
    )


@blueprint.get("/item/<uuid:item_id>/download")
@policy(SIGNED_IN)
def download(item_id: object) -> Response:
    """The file as it came, byte by byte. Opened block by block: at most one block of it is in memory."""
    login = this_login()
    row = records.load_item(portal().database, login.account.id, str(item_id))
    name = _item(item_id).name
    opened = records.open_item(portal().store, row, records.dek_of(login.ring(), row))
    _note_download("item-downloaded", item=row.id)
    # Never shown by the browser: it is a stranger's file.
    answer = _attachment(_blocks(opened), name, "application/octet-stream", opened.plain_bytes)
    answer.call_on_close(opened.close)
    return answer


def _blocks(opened: OpenItem) -> Iterator[bytes]:
    for offset in range(0, opened.plain_bytes, BLOCK_BYTES):
        yield opened.read_at(offset, BLOCK_BYTES)


@blueprint.route("/item/<uuid:item_id>/delete", methods=["GET", "POST"])
@policy(SIGNED_IN)
def delete_item(item_id: object) -> Response:
    item = _item(item_id)
    return _delete(
        "file", deletions.delete_item, item.id, title=item.name, count=1, size=item.size_words,
        back=url_for("study.item", item_id=item_id),
    )  # fmt: skip


# -- what a study and a file have in common -----------------------------------------------------------
def openable(template: str, what: Contents, error: PortalError | None, **context: Any) -> Response:
    """The page of something that a viewer opens; with `error` when that did not go."""
    suggestions = suggested.suggestions(what)
    status = error.status if error else 200
    return render_page(template, status=status, suggestions=suggestions, error=error, **context)


def open_with(
    page_with: Callable[[PortalError], Response], ask: Callable[[Viewer], VmSession], what: Callable[[], Contents]
) -> Response:
    """The machine's page, or the page one came from, saying why not. `ask` asks for the machine; `what`, called after
    it, tells what is opened, so that one can be asked afterwards how it went."""
    viewer = catalogue.load().get(request.form.get("viewer", ""))
    try:
        if viewer is None:
            raise FormRefused("unknown viewer", reason="choose one of the viewers")
        vm_session = ask(viewer)
        suggested.remember(vm_session, what())
    except NOT_OPENED as error:
        return page_with(error)
    return redirect(url_for("machine.machine", vm_session_id=vm_session.id), 303)  # type: ignore[return-value]


def _delete(what: str, remove: Callable[..., object], id_: str, **context: Any) -> Response:
    """Asks first; POST deletes."""
    if request.method != "POST":
        return render_page("record/delete.html", what=f"this {what}", **context)
    remove(portal(), this_login(), id_, (forgetting.forget_items,))
    app_key_wraps.catch_up(portal(), this_login())  # an app lost the whole study with one of its files
    flash(f"The {what} is deleted. Its keys are destroyed; you find the proof at the end of this page.")
    return redirect(url_for("record.my_record"), 303)  # type: ignore[return-value]


def _note_download(event: str, **details: object) -> None:
    account_id = this_login().account.id
    with portal().database.write() as db:
        trail.record(db, event, account_id=account_id, actor=Actor("patient", account_id), **details)


def _attachment(blocks: Iterator[bytes], name: str, media_type: str, size_bytes: int | None) -> Response:
    """Something to save: never a page of ours, whatever is in it (RFC 6266 for the name)."""
    answer = Response(blocks, mimetype=media_type)
    if size_bytes is not None:
        answer.content_length = size_bytes  # so that the browser tells how far it is, and notices a missing end
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in name)[-100:] or "file"
    answer.headers["Content-Disposition"] = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    answer.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; sandbox; frame-ancestors 'none'"
    )
    return answer
