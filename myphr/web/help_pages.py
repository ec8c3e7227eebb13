"""Help in plain words, for everybody, signed in or not."""

from flask import Blueprint, Response

from myphr.web.policy import ANYONE, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("help", __name__)


@blueprint.get("/help")
@policy(ANYONE)
def help_page() -> Response:
    return render_page("help.html")
