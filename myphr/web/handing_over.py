"""What a practice sees behind its link: the landing page, the page for handing files over, the goodbye. No account.

GET changes nothing, because mail scanners follow links too; the secret stands behind the "#". One POST with it earns a
cookie that is good below this drop-off's address only and ends with the browser. The uploads below it are those of
`web/uploads.py` in the name of the drop-off; their answers never tell whether the record had a file already.
"""

from flask import Blueprint, Response, g, redirect, request, url_for

from myphr.errors import DropOffFull
from myphr.ingest import drop_offs
from myphr.ingest.handing_over import PageSender
from myphr.web.login import portal
from myphr.web.policy import ANYONE, LINK_SENDER, policy
from myphr.web.rendering import render_page
from myphr.web.senders import LINK_COOKIE, open_link, streams
from myphr.web.uploads import make_blueprint

blueprint = Blueprint("handing_over", __name__, url_prefix="/d/<uuid:drop_off_id>")


@blueprint.get("")
@policy(ANYONE)
def landing(drop_off_id: object) -> Response:
    """The same for a drop-off that is open, closed or never was: it tells a stranger nothing."""
    return render_page("handing_over/landing.html", drop_off_id=drop_off_id)


@blueprint.post("/open")
@policy(ANYONE)
def open_page(drop_off_id: object) -> Response:
    secret = request.form.get("secret", "")
    page = open_link(drop_off_id, secret)
    drop_offs.note_opening(portal(), page.drop_off_id)
    answer: Response = redirect(url_for("handing_over.files", drop_off_id=drop_off_id), 303)  # type: ignore[assignment]
    answer.set_cookie(LINK_COOKIE, secret, **_cookie_settings(drop_off_id))
    return answer


@blueprint.get("/files")
@policy(LINK_SENDER)
def files(drop_off_id: object) -> Response:
    return render_page("handing_over/files.html", page=g.link, drop_off_id=drop_off_id)


@blueprint.post("/done")
@policy(LINK_SENDER)
def done(drop_off_id: object) -> Response:
    """The cookie is taken back: the next person at this computer needs the link again."""
    answer = render_page("handing_over/done.html", page=g.link)
    answer.delete_cookie(LINK_COOKIE, **_cookie_settings(drop_off_id))
    return answer


def _cookie_settings(drop_off_id: object) -> dict:
    return {
        "path": f"/d/{drop_off_id}", "httponly": True, "samesite": "Strict",
        "secure": portal().settings.public_url.startswith("https://"),
    }  # fmt: skip


def _sender() -> PageSender:
    """Raises DropOffFull."""
    if g.link.grant is None:
        raise DropOffFull()
    return PageSender(portal(), g.link.grant)


uploads_blueprint = make_blueprint(
    lambda: None, sender=_sender, guard=policy(LINK_SENDER), anyone=policy(ANYONE), name="handing_over_uploads",
    url_prefix="/d/<uuid:drop_off_id>/uploads", one_stream=lambda: streams.one(g.link.drop_off_id),
)  # fmt: skip
