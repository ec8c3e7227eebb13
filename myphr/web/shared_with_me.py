"""What others share with who is signed in: the list, what is in it, opening it in a machine of one's own."""

from flask import Blueprint, Response, request, url_for

from myphr.errors import PortalError, ReasonRequired
from myphr.records import summaries
from myphr.sharing import shared_with_me, viewing
from myphr.sharing.shared_with_me import Opened
from myphr.viewers import contents
from myphr.viewers.contents import Contents
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page
from myphr.web.study import open_with, openable

blueprint = Blueprint("shared_with_me", __name__, url_prefix="/shared-with-me")


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


def _contents(opened: Opened) -> list[tuple[str, str]]:
    """(what, how much) a line: a study as its owner sees it, then files by name."""
    studies: dict[str, list[dict]] = {}
    files = []
    for one in opened.items:
        headers = one.details.get("headers")
        if one.item.study_id and headers:
            studies.setdefault(one.item.study_id, []).append(headers)
        else:
            size = summaries.size_words(one.item.plain_bytes)
            files.append((str(one.details.get("name") or "A file"), size))
    lines = []
    for headers in studies.values():
        summary = summaries.merge(headers)
        date = summaries.date_words(summaries.date_of(str(summary.get("study_date") or "")))
        count = summaries.count_words(len(headers), "image")
        lines.append((summaries.title(summary), ", ".join(one for one in (date, count) if one)))
    return lines + files
