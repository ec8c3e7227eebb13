""" "Get my images from a practice": connecting (a code for the practice), looking what there is, choosing, how far it
is, stopping, ending the connection. Nothing that a patient types is ever asked of an archive: she ticks."""

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import FormRefused, PortalError
from myphr.ingest.pacs import fetches, links, servers
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("pacs", __name__, url_prefix="/image-archives")

UID_CHARACTERS_MAX = 64


def _page(error: PortalError | None = None) -> Response:
    mine = links.list_mine(portal(), this_login())
    linked = {link.pacs_id for link in mine}
    return render_page(
        "pacs/mine.html", status=error.status if error else 200, error=error, links=mine,
        others=[pacs for pacs in servers.offered(portal()) if pacs.id not in linked],
        fetches=fetches.list_mine(portal(), this_login()),
    )  # fmt: skip


@blueprint.get("")
@policy(SIGNED_IN)
def mine() -> Response:
    return _page()


@blueprint.post("")
@policy(SIGNED_IN)
def connect() -> Response:
    """A code for the practice."""
    try:
        links.ask(portal(), this_login(), request.form.get("pacs", "")[:100])
    except FormRefused as error:
        return _page(error)
    return redirect(url_for("pacs.mine"), 303)  # type: ignore[return-value]


@blueprint.post("/<uuid:link_id>/look")
@policy(SIGNED_IN)
def look(link_id: object) -> Response:
    try:
        fetch_id = fetches.look(portal(), this_login(), str(link_id))
    except FormRefused as error:
        return _page(error)
    return redirect(url_for("pacs.fetch", pacs_fetch_id=fetch_id), 303)  # type: ignore[return-value]


@blueprint.route("/<uuid:link_id>/end", methods=["GET", "POST"])
@policy(SIGNED_IN)
def end(link_id: object) -> Response:
    link = links.one_of_mine(portal(), this_login(), str(link_id))
    if request.method != "POST":
        return render_page("pacs/end.html", link=link)
    links.end(portal(), this_login(), link.id)
    flash(f"{link.pacs_name} is not connected any more. What came before is in your record.")
    return redirect(url_for("pacs.mine"), 303)  # type: ignore[return-value]


# -- one fetch ------------------------------------------------------------------------------------
def _fetch_page(fetch_id: object, error: PortalError | None = None, fragment: str | None = None) -> Response:
    found = fetches.view(portal(), this_login(), str(fetch_id))
    status = error.status if error else 200
    return render_page("pacs/fetch.html", fragment, status=status, fetch=found, error=error)


@blueprint.get("/fetches/<uuid:pacs_fetch_id>")
@policy(SIGNED_IN)
def fetch(pacs_fetch_id: object) -> Response:
    return _fetch_page(pacs_fetch_id)


@blueprint.get("/fetches/<uuid:pacs_fetch_id>/progress")
@policy(SIGNED_IN_POLL)
def progress(pacs_fetch_id: object) -> Response:
    """How far it is, for htmx; as a plain address it is the whole page."""
    return _fetch_page(pacs_fetch_id, fragment="news")


@blueprint.post("/fetches/<uuid:pacs_fetch_id>")
@policy(SIGNED_IN)
def choose(pacs_fetch_id: object) -> Response:
    uids = [uid[: UID_CHARACTERS_MAX + 1] for uid in request.form.getlist("study")]
    try:
        fetches.choose(portal(), this_login(), str(pacs_fetch_id), uids)
    except FormRefused as error:
        return _fetch_page(pacs_fetch_id, error)
    return redirect(url_for("pacs.fetch", pacs_fetch_id=pacs_fetch_id), 303)  # type: ignore[return-value]


@blueprint.post("/fetches/<uuid:pacs_fetch_id>/stop")
@policy(SIGNED_IN)
def stop(pacs_fetch_id: object) -> Response:
    fetches.withdraw(portal(), this_login(), str(pacs_fetch_id))
    flash("Nothing more is fetched. What came before is in your record.")
    return redirect(url_for("pacs.fetch", pacs_fetch_id=pacs_fetch_id), 303)  # type: ignore[return-value]


@blueprint.app_template_global("archives_offered")
def archives_offered() -> bool:
    return servers.are_offered(portal())
