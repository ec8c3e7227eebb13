"""What others share with who is signed in: the list, what is in it, opening it in a machine of one's own."""

import base64
import dataclasses

from flask import Blueprint, Response, request, url_for

from myphr.errors import EnvelopeError, PortalError, ReasonRequired
from myphr.records import readings, summaries
from myphr.records.models import ItemReading
from myphr.records.reading import media_type_of
from myphr.sharing import shared_with_me, viewing
from myphr.sharing.shared_with_me import Opened, SharedItem
from myphr.viewers import contents
from myphr.viewers.contents import Contents
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page
from myphr.web.study import open_with, openable

blueprint = Blueprint("shared_with_me", __name__, url_prefix="/shared-with-me")

PICTURES_MAX = 12  # each is up to 100 KiB of the page
FILES_TOLD_MAX = 200  # as many as the page lists


@blueprint.get("")
@policy(SIGNED_IN)
def everything() -> Response:
    return render_page("sharing/with_me.html", shares=shared_with_me.list_shared(portal(), this_login()))


@blueprint.route("/<uuid:share_id>", methods=["GET", "POST"])
@policy(SIGNED_IN)
def shared(share_id: object) -> Response:
    """What is in it; an emergency asks for the reason first, and only a POST opens one."""
    return _page(str(share_id), request.form.get("reason", "") if request.method == "POST" else "")


@blueprint.post("/<uuid:share_id>/open")
@policy(SIGNED_IN)
def open_in_viewer(share_id: object) -> Response:
    seen: list[Opened] = []
    return open_with(
        lambda error: _page(str(share_id), "", error),
        lambda viewer: viewing.open_in_viewer(portal(), this_login(), str(share_id), viewer, seen.append),
        lambda: _what(seen[0]),
    )


def _page(share_id: str, reason: str, error: PortalError | None = None) -> Response:
    try:
        opened = shared_with_me.open_shared(portal(), this_login(), share_id, reason)
    except ReasonRequired as needed:
        asked = request.method == "POST"
        return render_page("sharing/reason.html", status=needed.status if asked else 200, share_id=share_id,
                           error=needed if asked else None)  # fmt: skip
    return openable(
        "sharing/shared.html", _what(opened), error, opened=opened, contents=_contents(opened),
        open_url=url_for("shared_with_me.open_in_viewer", share_id=share_id),
    )  # fmt: skip


def _what(opened: Opened) -> Contents:
    return contents.of_files(
        (one.item.format, one.details.get("headers"), one.item.plain_bytes) for one in opened.items
    )


@dataclasses.dataclass(frozen=True)
class Line:
    """A study as its owner sees it, or a file. `picture`: a preview as a data address, since asking for each anew would
    open the share again and tell its owner so."""

    what: str
    how_much: str
    told: str = ""
    picture: str | None = None


def _contents(opened: Opened) -> list[Line]:
    """Studies first, then files by name."""
    studies: dict[str, list[SharedItem]] = {}
    files: list[SharedItem] = []
    for one in opened.items:
        if one.item.study_id and one.details.get("headers"):
            studies.setdefault(one.item.study_id, []).append(one)
        else:
            files.append(one)
    with_picture = readings.with_preview(portal().database, [one.item.id for one in opened.items])
    left = PICTURES_MAX
    lines = []
    for items in studies.values():
        summary = summaries.merge(one.details["headers"] for one in items)
        date = summaries.date_words(summaries.date_of(str(summary.get("study_date") or "")))
        count = summaries.count_words(len(items), "image")
        pictured = [one for one in items if one.item.id in with_picture]
        picture = _picture(pictured[len(pictured) // 2]) if pictured and left > 0 else None
        left -= picture is not None
        words = ", ".join(one for one in (date, count) if one)
        lines.append(Line(summaries.title(summary), words, picture=picture))
    rows = readings.rows_of(portal().database, [one.item.id for one in files[:FILES_TOLD_MAX]])
    for one in files:
        picture = _picture(one) if one.item.id in with_picture and left > 0 else None
        left -= picture is not None
        name, size = str(one.details.get("name") or "A file"), summaries.size_words(one.item.plain_bytes)
        lines.append(Line(name, size, _told(rows.get(one.item.id), one.dek), picture))
    return lines


def _picture(one: SharedItem) -> str | None:
    try:
        found = readings.preview_of(portal().database, one.item.id, one.dek)
    except EnvelopeError:
        return None
    return f"data:{media_type_of(found)};base64,{base64.b64encode(found).decode()}" if found else None


def _told(row: ItemReading | None, dek: bytes) -> str:
    try:
        reading = readings.reading_in(row, dek) if row else None
    except EnvelopeError:
        return ""
    return ", ".join(filter(None, (reading.title, reading.date_words, reading.place))) if reading else ""
