""" "Get my records from a hospital": the list, to the hospital's own sign-in and back, how far it is, stopping it.

The one page whose forms lead to another site: its policy names the origins of the hospitals' sign-in pages, as the
operator saw them, and no others. Coming back is a GET by the hospital's redirect (RFC 6749, 4.1.2); the state in it is
what a CSRF token is elsewhere. It answers with a redirect, so that the code leaves the address bar.
"""

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import FormRefused, HospitalRefused
from myphr.ingest.fhir import fetches, servers
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page
from myphr.web.security import content_security_policy

blueprint = Blueprint("hospitals", __name__, url_prefix="/hospitals")

PARAMETER_CHARACTERS_MAX = 8192


def _page(error: FormRefused | HospitalRefused | None = None) -> Response:
    offered = servers.offered(portal())
    answer = render_page(
        "hospitals/choose.html", status=error.status if error else 200, hospitals=offered, error=error,
        fetches=fetches.list_mine(portal(), this_login()),
    )  # fmt: skip
    origins = sorted({server.authorization_origin for server in offered})
    answer.headers["Content-Security-Policy"] = content_security_policy(portal().settings, origins)
    return answer


@blueprint.get("")
@policy(SIGNED_IN)
def choose() -> Response:
    return _page()


@blueprint.post("")
@policy(SIGNED_IN)
def go() -> Response:
    """To the hospital's own page."""
    try:
        address = fetches.start(portal(), this_login(), request.form.get("hospital", "")[:100], redirect_uri())
    except (FormRefused, HospitalRefused) as error:
        return _page(error)
    return redirect(address, 303)  # type: ignore[return-value]


@blueprint.get("/back")
@policy(SIGNED_IN)
def back() -> Response:
    query = {name: request.args.get(name, "")[:PARAMETER_CHARACTERS_MAX] for name in request.args}
    fetch_id = fetches.answer(portal(), this_login(), query)
    return redirect(url_for("hospitals.fetch", fetch_id=fetch_id), 303)  # type: ignore[return-value]


@blueprint.get("/<uuid:fetch_id>")
@policy(SIGNED_IN)
def fetch(fetch_id: object) -> Response:
    return render_page("hospitals/fetch.html", fetch=fetches.view(portal(), this_login(), str(fetch_id)))


@blueprint.get("/<uuid:fetch_id>/progress")
@policy(SIGNED_IN_POLL)
def progress(fetch_id: object) -> Response:
    """How far it is, for htmx; as a plain address it is the whole page."""
    return render_page("hospitals/fetch.html", "news", fetch=fetches.view(portal(), this_login(), str(fetch_id)))


@blueprint.post("/<uuid:fetch_id>/stop")
@policy(SIGNED_IN)
def stop(fetch_id: object) -> Response:
    fetches.withdraw(portal(), this_login(), str(fetch_id))
    flash("Nothing more is fetched. What came before is in your record.")
    return redirect(url_for("hospitals.fetch", fetch_id=fetch_id), 303)  # type: ignore[return-value]


def redirect_uri() -> str:
    """What the operator registers at each hospital."""
    return portal().settings.public_url.rstrip("/") + url_for("hospitals.back")


@blueprint.app_template_global("hospitals_offered")
def hospitals_offered() -> bool:
    return servers.are_offered(portal())
