""" "Download everything": asking for the copy, watching it being made, fetching it, deleting it.

The file itself is served with ranges (RFC 9110, 14): a tablet that loses the connection after 10 GB goes on there.
"""

from collections.abc import Iterator

from flask import Blueprint, Response, flash, redirect, request, url_for
from werkzeug.datastructures import Range

from myphr.database import now
from myphr.errors import FormRefused, PortalError, StoreFull
from myphr.records import exports
from myphr.records.opening import OpenItem
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page

BLOCK_BYTES = 1024 * 1024
_FAILURES = {
    "store-full": "the portal's storage is full. Nothing of your record is lost. Please tell who runs it",
    "order-lost": "a part of what it needs was lost",
}

blueprint = Blueprint("everything", __name__, url_prefix="/everything")


def _page(error: PortalError | None = None) -> Response:
    """Each look opens some more of the files that the copy is to have, until its job can begin."""
    try:
        exports.go_on(portal(), this_login())
    except StoreFull as full:
        error = error or full
    export = exports.latest(portal(), this_login())
    failure = _FAILURES.get(export.error_code or "", "of a fault of ours") if export is not None else ""
    return render_page(
        "record/everything.html", "export", status=error.status if error else 200, export=export, failure=failure,
        error=error,
    )  # fmt: skip


@blueprint.get("")
@policy(SIGNED_IN)
def everything() -> Response:
    return _page()


@blueprint.get("/progress")
@policy(SIGNED_IN_POLL)
def progress() -> Response:
    """The part that changes, for htmx; as a plain address it is the whole page."""
    return _page()


@blueprint.post("")
@policy(SIGNED_IN)
def ask() -> Response:
    try:
        exports.ask(portal(), this_login())
    except (FormRefused, StoreFull) as error:
        return _page(error)
    return redirect(url_for("everything.everything"), 303)  # type: ignore[return-value]


@blueprint.post("/<uuid:export_id>/remove")
@policy(SIGNED_IN)
def remove(export_id: object) -> Response:
    exports.remove(portal(), this_login(), str(export_id))
    flash("The copy is deleted. Your record is as it was.")
    return redirect(url_for("everything.everything"), 303)  # type: ignore[return-value]


@blueprint.get("/<uuid:export_id>/zip")
@policy(SIGNED_IN)
def download(export_id: object) -> Response:
    """The zip, whole or from where the browser lost it. One range at most: of several, the whole is sent, as RFC 9110
    allows."""
    opened = exports.open_zip(portal(), this_login(), str(export_id))
    size, tag = opened.plain_bytes, f'"{export_id}"'
    wanted = _range(tag)
    if wanted is not None and wanted.range_for_length(size) is None:
        opened.close()
        return Response(status=416, headers={"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"})
    start, end = wanted.range_for_length(size) if wanted else (0, size)  # type: ignore[misc]
    if request.method == "HEAD":
        opened.close()
        answer = Response(mimetype="application/zip")
    else:
        if start == 0:
            exports.note_download(portal(), this_login(), str(export_id))
        answer = Response(_blocks(opened, start, end), mimetype="application/zip")
        answer.call_on_close(opened.close)
    answer.content_length = end - start
    if wanted is not None:
        answer.status_code = 206
        answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    answer.headers["Accept-Ranges"] = "bytes"
    answer.headers["ETag"] = tag
    answer.headers["Content-Disposition"] = f'attachment; filename="My record {now():%Y-%m-%d}.zip"'
    return answer


def _range(tag: str) -> Range | None:
    """The one range that is asked for, if it is of this very file."""
    wanted = request.range
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return None
    if_range = request.headers.get("If-Range")
    return None if if_range is not None and if_range != tag else wanted


def _blocks(opened: OpenItem, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, BLOCK_BYTES):
        yield opened.read_at(offset, min(BLOCK_BYTES, end - offset))
