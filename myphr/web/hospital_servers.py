"""The operator's list of hospitals that patients may get their records from."""

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import FormRefused, HospitalRefused
from myphr.ingest.fhir import servers
from myphr.web.hospitals import redirect_uri
from myphr.web.login import portal, this_login
from myphr.web.policy import OPERATOR, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("hospital_servers", __name__, url_prefix="/operator/hospitals")

FIELDS = ("name", "base", "client_id")


def _page(form: dict[str, str], error: FormRefused | HospitalRefused | None = None) -> Response:
    return render_page(
        "hospitals/servers.html", status=error.status if error else 200, form=form, error=error,
        servers=servers.offered(portal()), redirect_uri=redirect_uri(),
    )  # fmt: skip


@blueprint.get("")
@policy(OPERATOR)
def mine() -> Response:
    return _page(dict.fromkeys(FIELDS, ""))


@blueprint.post("")
@policy(OPERATOR)
def add() -> Response:
    form = {name: request.form.get(name, "")[:2048] for name in FIELDS}
    try:
        found = servers.add(portal(), this_login(), form["name"], form["base"], form["client_id"])
    except (FormRefused, HospitalRefused) as error:
        return _page(form, error)
    flash(f"{found.server.name} is on the list. Its patients sign in at {found.server.authorization_origin}.")
    return redirect(url_for("hospital_servers.mine"), 303)  # type: ignore[return-value]


@blueprint.post("/<uuid:server_id>/close")
@policy(OPERATOR)
def close(server_id: object) -> Response:
    name = servers.one(portal(), str(server_id)).name
    servers.close(portal(), this_login(), str(server_id))
    flash(f"{name} is off the list. What patients fetched stays in their records.")
    return redirect(url_for("hospital_servers.mine"), 303)  # type: ignore[return-value]
