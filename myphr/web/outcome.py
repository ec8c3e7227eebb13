"""The answer to "Did it open?": one press on the page of a VM session, changeable, optional.

Only the owner of the VM session is asked, and nobody is told who said what: see `myphr.viewers.outcomes`.
"""

from flask import Blueprint, Response, redirect, request, url_for

from myphr.errors import FormRefused
from myphr.machines import vm_sessions
from myphr.viewers import outcomes
from myphr.web import suggested
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page, wants_fragment

blueprint = Blueprint("outcome", __name__, url_prefix="/machine/<uuid:vm_session_id>")

ANSWERS = {"yes": True, "no": False, "unsaid": None}


@blueprint.post("/opened")
@policy(SIGNED_IN)
def answer(vm_session_id: object) -> Response:
    login = this_login()
    view = vm_sessions.view(portal(), login.account.id, str(vm_session_id))
    said = request.form.get("opened", "")
    if said not in ANSWERS:
        raise FormRefused("opened", reason="say whether it opened")
    if suggested.question(view) is None:
        raise FormRefused("opened", reason="there is nothing to say about this one")
    outcomes.say(portal(), login.ring(), login.account.id, view.id, ANSWERS[said])
    if not wants_fragment():
        here = url_for("machine.machine", vm_session_id=view.id, _anchor="did-it-open")
        return redirect(here, 303)  # type: ignore[return-value]
    return render_page("machine/did_it_open.html", question=suggested.question(view))
