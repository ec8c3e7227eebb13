""" "Let an app read my images": making an app key, shown once, the list of them, stopping one."""

from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import FormRefused
from myphr.records import items
from myphr.sharing import app_keys
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("app_keys", __name__, url_prefix="/app-keys")

DAY = 86_400
HOW_LONG = {"1": "A day", "30": "A month", "365": "A year"}
DEFAULTS = {"name": "", "days": "30", "what": "chosen"}
STUDIES_SHOWN_MAX = 200


@blueprint.get("")
@policy(SIGNED_IN)
def mine() -> Response:
    return _page(DEFAULTS, set())


@blueprint.post("")
@policy(SIGNED_IN)
def create() -> Response:
    form = {key: request.form.get(key, "")[:400] for key in DEFAULTS}
    chosen = set(request.form.getlist("study"))
    try:
        if form["days"] not in HOW_LONG or form["what"] not in ("chosen", "all"):
            raise FormRefused(reason="choose what the app may read, and for how long")
        created = app_keys.create(
            portal(), this_login(), form["name"], int(form["days"]) * DAY, None if form["what"] == "all" else chosen
        )
    except FormRefused as error:
        return _page(form, chosen, status=error.status, error=error)
    address = portal().settings.public_url.rstrip("/") + "/dicom-web"
    return render_page("app_keys/created.html", created=created, address=address)


@blueprint.route("/<uuid:app_key_id>/stop", methods=["GET", "POST"])
@policy(SIGNED_IN)
def stop(app_key_id: object) -> Response:
    view = app_keys.one_of_mine(portal(), this_login(), str(app_key_id))
    if request.method != "POST":
        return render_page("app_keys/stop.html", app_key=view)
    app_keys.revoke(portal(), this_login(), view.id)
    flash(f"{view.name} can read nothing any more. What it has fetched already stays with it.")
    return redirect(url_for("app_keys.mine"), 303)  # type: ignore[return-value]


def _page(form: dict[str, str], chosen: set[str], *, status: int = 200, error: Any = None) -> Response:
    every = app_keys.list_mine(portal(), this_login())
    record = items.my_record(portal().database, this_login().ring(), this_login().account.id)
    return render_page(
        "app_keys/mine.html", status=status, form=form, chosen=chosen, error=error, how_long=HOW_LONG,
        studies=record.studies[:STUDIES_SHOWN_MAX], live=[one for one in every if one.is_open],
        over=[one for one in every if not one.is_open],
    )  # fmt: skip
