""" "Let a practice send me files": giving a drop-off, the list of them, stopping one. Link and key are on one page,
once."""

from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import FormRefused
from myphr.ingest import drop_offs
from myphr.sharing import drop_off_links
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("drop_offs", __name__, url_prefix="/drop-offs")

DAY = 86_400
HOW_LONG = {"1": "A day", "7": "A week", "30": "A month"}
HOW_MANY = {
    "50": "50: letters and a few pictures",
    "2000": "2,000: an examination",
    "20000": "20,000: many examinations",
}
DEFAULTS = {"name": "", "email": "", "for_name": "", "days": "7", "files": "2000"}


@blueprint.get("")
@policy(SIGNED_IN)
def mine() -> Response:
    return _page(DEFAULTS | {"for_name": this_login().account.name})


@blueprint.post("")
@policy(SIGNED_IN)
def create() -> Response:
    form = {key: request.form.get(key, "")[:400] for key in DEFAULTS}
    try:
        if form["days"] not in HOW_LONG or form["files"] not in HOW_MANY:
            raise FormRefused(reason="choose for how long, and how many files")
        invitation = drop_off_links.invite(
            portal(), this_login(), form["name"], form["email"], form["for_name"].strip(), int(form["days"]) * DAY,
            int(form["files"]),
        )  # fmt: skip
    except FormRefused as error:
        return _page(form, status=error.status, error=error)
    host, _, port = portal().settings.receiver_address.rpartition(":")
    return render_page(
        "drop_offs/created.html", invitation=invitation, created=invitation.created, host=host, port=port,
        stow_url=_stow_url(),
    )  # fmt: skip


@blueprint.route("/<uuid:drop_off_id>/stop", methods=["GET", "POST"])
@policy(SIGNED_IN)
def stop(drop_off_id: object) -> Response:
    view = drop_offs.one_of_mine(portal(), this_login(), str(drop_off_id))
    if request.method != "POST":
        return render_page("drop_offs/stop.html", drop_off=view)
    drop_offs.revoke(portal(), this_login(), view.id)
    flash(f"{view.name} can send you nothing any more. What came before is in your record.")
    return redirect(url_for("drop_offs.mine"), 303)  # type: ignore[return-value]


def _page(form: dict[str, str], *, status: int = 200, error: Any = None) -> Response:
    every = drop_offs.list_mine(portal(), this_login())
    return render_page(
        "drop_offs/mine.html", status=status, form=form, error=error, how_long=HOW_LONG, how_many=HOW_MANY,
        live=[one for one in every if one.is_live], over=[one for one in every if not one.is_live],
        mail_states=drop_off_links.mail_states(portal(), (one.mail_id for one in every)),
    )  # fmt: skip


def _stow_url() -> str:
    return portal().settings.public_url.rstrip("/") + "/dicom-web"
