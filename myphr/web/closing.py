"""Closing one's account: what happens in plain words, then the last question with the password, then it is done."""

import secrets

from flask import Blueprint, Response, redirect, request, url_for

from myphr.errors import PortalError
from myphr.people import accounts, second_factor
from myphr.people.pending_sign_ins import CHALLENGE_BYTES
from myphr.sharing import closing
from myphr.web.login import portal, stop, this_login
from myphr.web.policy import ANYONE, SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("closing", __name__, url_prefix="/account")

CHALLENGE_SECONDS = 300


@blueprint.get("/close")
@policy(SIGNED_IN)
def about() -> Response:
    return render_page("account/close.html", before=closing.before(portal(), this_login()))


@blueprint.get("/close/sure")
@policy(SIGNED_IN)
def sure() -> Response:
    return _sure()


@blueprint.post("/close/sure")
@policy(SIGNED_IN)
def close() -> Response:
    """Gone when this answers."""
    form, login = request.form, this_login()
    challenge = portal().redis.getdel(_challenge_key())
    try:
        if (refusal := closing.before(portal(), login).refusal) is not None:
            raise refusal
        accounts.check_owner(
            portal(), login, form.get("password", ""), code=form.get("code", ""),
            credential=form.get("credential", ""), challenge=challenge if isinstance(challenge, bytes) else b"",
            recovery_code=form.get("recovery_code", ""),
        )  # fmt: skip
        closing.close(portal(), login)
    except PortalError as error:
        return _sure(error)
    stop()
    return redirect(url_for("closing.closed"), 303)  # type: ignore[return-value]


@blueprint.get("/closed")
@policy(ANYONE)
def closed() -> Response:
    """Says nothing about anybody."""
    return render_page("account/closed.html")


def _sure(error: PortalError | None = None) -> Response:
    """With a fresh challenge each time: one challenge, one answer."""
    login = this_login()
    with portal().database.read() as db:
        steps = second_factor.of_account(db, login.account.id)
    challenge = secrets.token_bytes(CHALLENGE_BYTES)
    options = second_factor.passkey_options(portal(), login.account.id, challenge)
    if options is not None:
        portal().redis.set(_challenge_key(), challenge, ex=CHALLENGE_SECONDS)
    return render_page(
        "account/close_sure.html", status=error.status if error else 200, error=error,
        before=closing.before(portal(), login), steps=steps, options=options,
        place=second_factor.passkey_place(portal().settings),
    )  # fmt: skip


def _challenge_key() -> str:
    return f"myphr:closing:{this_login().login_session.id}"
