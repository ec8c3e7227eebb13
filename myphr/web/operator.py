"""For the operator: is the portal well (`/healthz`, no secrets, no patient), and where mails go. Sees no record."""

from flask import Blueprint, Response, jsonify
from sqlalchemy import text

from myphr.web.login import portal
from myphr.web.policy import ANYONE, OPERATOR, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("operator", __name__)


def _works(check) -> bool:
    try:
        check()
    except Exception:  # whatever it is, the part does not answer; its own log says why
        return False
    return True


def _ask_database() -> None:
    with portal().database.read() as db:
        db.connection().execute(text("SELECT 1"))


@blueprint.get("/healthz")
@policy(ANYONE)
def healthz() -> tuple[Response, int]:
    """200 when this process can do its work, else 503. For a load balancer or a container's health check."""
    parts = {"database": _works(_ask_database), "redis": _works(portal().redis.ping)}
    return jsonify({"ok": all(parts.values()), **parts}), 200 if all(parts.values()) else 503


@blueprint.get("/operator")
@policy(OPERATOR)
def status() -> Response:
    outbox = (
        portal().settings.smtp_url.removeprefix("outbox:") if portal().settings.smtp_url.startswith("outbox:") else None
    )
    return render_page(
        "operator.html", database=_works(_ask_database), redis=_works(portal().redis.ping), outbox=outbox
    )
