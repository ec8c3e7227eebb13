"""The second step of signing in: a passkey, a code of the authenticator app, or the recovery code.

Between password and second step the browser holds a cookie of its own; there is no login session before both are done.
"""

from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import PortalError, SecondStepOver
from myphr.people import accounts, pending_sign_ins, second_factor
from myphr.people.accounts import SignIn
from myphr.people.pending_sign_ins import LIFE_SECONDS
from myphr.web.devices import this_address
from myphr.web.login import portal, start
from myphr.web.policy import ANYONE, policy
from myphr.web.rendering import render_page
from myphr.web.security import local_path

blueprint = Blueprint("second_step", __name__, url_prefix="/sign-in/second-step")


def _cookie_name() -> str:
    secure = portal().settings.public_url.startswith("https://")
    return "__Host-myphr-step" if secure else "myphr-step"


def _cookie_settings() -> dict[str, Any]:
    return {
        "httponly": True, "samesite": "Lax", "path": "/",
        "secure": portal().settings.public_url.startswith("https://"),
    }  # fmt: skip


def go_to_second_step(begun: SignIn, where: str | None) -> Response:
    """On to the second step, with the cookie that alone opens what waits there."""
    answer: Response = redirect(url_for("second_step.second_step", next=where), 303)  # type: ignore[assignment]
    answer.set_cookie(_cookie_name(), begun.cookie_value, max_age=LIFE_SECONDS, **_cookie_settings())
    return answer


def _second_step_page(error: PortalError | None = None) -> Response:
    try:
        pending = pending_sign_ins.resolve(portal().database, request.cookies.get(_cookie_name(), ""))
    except SecondStepOver as over:
        return _from_the_start(over)
    with portal().database.read() as db:
        steps = second_factor.of_account(db, pending.account.id)
    options = second_factor.passkey_options(portal(), pending.account.id, pending.row.challenge)
    return render_page(
        "account/second_step.html", status=error.status if error else 200, error=error, options=options, app=steps.app,
        place=second_factor.passkey_place(portal().settings),
        next=local_path(request.values.get("next")),
    )  # fmt: skip


def _from_the_start(error: PortalError) -> Response:
    answer = render_page("sign_in.html", status=error.status, error=error, form={"email": ""},
                         next=local_path(request.values.get("next")))  # fmt: skip
    answer.delete_cookie(_cookie_name(), **_cookie_settings())
    return answer


def _in(finished: SignIn, where: str) -> Response:
    assert finished.login_session is not None
    start(finished.login_session, finished.cookie_value)
    answer: Response = redirect(where, 303)  # type: ignore[assignment]
    answer.delete_cookie(_cookie_name(), **_cookie_settings())
    return answer


def _where() -> str:
    return local_path(request.form.get("next")) or url_for("record.my_record")


@blueprint.get("")
@policy(ANYONE)
def second_step() -> Response:
    return _second_step_page()


@blueprint.post("/code")
@policy(ANYONE)
def by_code() -> Response:
    try:
        finished = accounts.finish_by_code(
            portal(), request.cookies.get(_cookie_name(), ""), request.form.get("code", ""), address=this_address()
        )
    except PortalError as error:
        return _second_step_page(error)
    return _in(finished, _where())


@blueprint.post("/passkey")
@policy(ANYONE)
def by_passkey() -> Response:
    try:
        finished = accounts.finish_by_passkey(
            portal(), request.cookies.get(_cookie_name(), ""), request.form.get("credential", ""),
            address=this_address(),
        )  # fmt: skip
    except PortalError as error:
        return _second_step_page(error)
    return _in(finished, _where())


@blueprint.post("/recovery-code")
@policy(ANYONE)
def by_recovery_code() -> Response:
    try:
        finished = accounts.finish_by_recovery_code(
            portal(), request.cookies.get(_cookie_name(), ""), request.form.get("recovery_code", ""),
            address=this_address(),
        )  # fmt: skip
    except PortalError as error:
        return _second_step_page(error)
    answer = _in(finished, url_for("account.my_account"))
    flash("You came in with your recovery code, which still works. If phone or key are lost, remove them below.")
    return answer
