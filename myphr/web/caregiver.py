"""What a caregiver sees: the landing page of a link, the live screen, the goodbye. Needs no account.

GET changes nothing, because mail scanners follow links too; the link's secret stands behind the "#", so it reaches no
server log. One POST with secret and passcode earns a cookie that is good below this share's address only.
"""

from flask import Blueprint, Response, g, jsonify, redirect, request, url_for

from myphr.database import now
from myphr.errors import PasscodeRefused, PortalError, ShareClosed
from myphr.people.models import Account
from myphr.sharing import shares, tickets
from myphr.web.devices import this_device
from myphr.web.login import portal
from myphr.web.policy import ANYONE, VISITOR, VISITOR_POLL, policy
from myphr.web.rendering import render_page
from myphr.web.visits import COOKIE, Visit

blueprint = Blueprint("caregiver", __name__, url_prefix="/s/<uuid:share_id>")


def _cookie_settings(share_id: object) -> dict:
    return {
        "path": f"/s/{share_id}", "httponly": True, "samesite": "Lax",
        "secure": portal().settings.public_url.startswith("https://"),
    }  # fmt: skip


def _landing_page(share_id: object, secret: str = "", error: PortalError | None = None) -> Response:
    return render_page(
        "caregiver/landing.html", status=error.status if error else 200, share_id=share_id, secret=secret, error=error,
        asks_passcode=shares.landing(portal(), str(share_id)),
    )  # fmt: skip


@blueprint.get("")
@policy(ANYONE)
def landing(share_id: object) -> Response:
    """The same for a share that is open, closed or never was: it tells a stranger nothing."""
    return _landing_page(share_id)


@blueprint.post("/open")
@policy(ANYONE)
def open_share(share_id: object) -> Response:
    secret = request.form.get("secret", "")
    passcode = "".join(request.form.get("passcode", "").split())  # people write 123 456
    try:
        cookie = shares.open_link(portal(), str(share_id), secret, passcode, device=this_device())
    except PasscodeRefused as error:
        return _landing_page(share_id, secret, error)
    answer: Response = redirect(url_for("caregiver.screen", share_id=share_id), 303)  # type: ignore[assignment]
    answer.set_cookie(COOKIE, cookie, **_cookie_settings(share_id))
    return answer


@blueprint.get("/screen")
@policy(VISITOR)
def screen(share_id: object) -> Response:
    visit: Visit = g.visit
    with portal().database.read() as db:
        owner = db.get(Account, visit.share.account_id)
    if owner is None:
        raise ShareClosed
    return render_page("caregiver/screen.html", share=visit.share, owner_name=owner.name)


@blueprint.post("/ticket")
@policy(VISITOR)
def ticket(share_id: object) -> Response:
    """A one-use ticket for the screen gateway. The gateway asks the database again before it lets anybody in."""
    visit: Visit = g.visit
    text = tickets.issue(
        portal().keys.ticket_key, vm_session_id=visit.share.vm_session_id, grant=f"share:{visit.share.id}",
        access=visit.share.access, now=now(), visit=visit.visit.id,
    )  # fmt: skip
    return jsonify({"url": portal().settings.screen_url, "ticket": text})


@blueprint.get("/state")
@policy(VISITOR_POLL)
def state(share_id: object) -> Response:
    """Polled while the screen is open; a closed share answers with the page that says whom to ask."""
    return Response(status=204)


@blueprint.post("/leave")
@policy(VISITOR)
def leave(share_id: object) -> Response:
    """The visit ends, the cookie is taken back, the screen closes with the page. The link still works, until its owner
    closes it."""
    visit: Visit = g.visit
    shares.leave(portal(), visit.visit)
    answer = render_page("caregiver/left.html")
    answer.delete_cookie(COOKIE, **_cookie_settings(share_id))
    return answer
