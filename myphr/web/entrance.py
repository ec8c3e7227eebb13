"""Getting in and out: welcome, register, recovery code, sign in, recover, sign out.

The recovery code is in one answer only and never stored; what the browser carries to the next step is a keyed hash of
its last group, so that the person can prove to have written it down.
"""

import hmac
from hashlib import sha256
from typing import Any

from flask import Blueprint, Response, redirect, request, session, url_for
from flask_login import current_user

from myphr.errors import FormRefused, PortalError
from myphr.people import accounts
from myphr.sharing import live
from myphr.web.devices import this_address, this_device
from myphr.web.login import portal, start, stop, this_login
from myphr.web.policy import ANYONE, SIGNED_IN, policy
from myphr.web.rendering import render_page
from myphr.web.second_step import go_to_second_step
from myphr.web.security import local_path

blueprint = Blueprint("entrance", __name__)


@blueprint.get("/")
@policy(ANYONE)
def welcome() -> Response:
    if current_user.is_authenticated:
        return redirect(url_for("record.my_record"), 303)  # type: ignore[return-value]
    return render_page("welcome.html")


# -- register -------------------------------------------------------------------------------------
@blueprint.get("/register")
@policy(ANYONE)
def register() -> Response:
    return render_page("register.html", error=None, form={"name": "", "email": ""})


@blueprint.post("/register")
@policy(ANYONE)
def register_now() -> Response:
    form = {name: request.form.get(name, "") for name in ("name", "email")}
    password = request.form.get("password", "")
    try:
        _account, recovery_code = accounts.register(
            portal(), form["email"], form["name"], password, address=this_address()
        )
    except PortalError as error:
        return _again("register.html", error, form=form)
    start(*accounts.sign_in(portal(), form["email"], password, this_device()))
    return show_recovery_code(recovery_code, is_new=False)


def show_recovery_code(recovery_code: str, *, is_new: bool) -> Response:
    """The one page that ever shows it. `is_new`: it replaces an earlier one."""
    session["recovery_check"] = _last_group_mac(recovery_code)
    return render_page("recovery_code.html", recovery_code=recovery_code, is_new=is_new, error=None)


@blueprint.get("/recovery-code")
@policy(SIGNED_IN)
def recovery_code_check() -> Response:
    if "recovery_check" not in session:
        return redirect(url_for("record.my_record"), 303)  # type: ignore[return-value]
    return render_page("confirm_recovery_code.html", error=None)


@blueprint.post("/recovery-code")
@policy(SIGNED_IN)
def confirm_recovery_code() -> Response:
    expected = session.get("recovery_check")
    if expected is None or hmac.compare_digest(expected, _last_group_mac(request.form.get("last_group", ""))):
        session.pop("recovery_check", None)
        return _go(url_for("record.my_record"))
    error = FormRefused(reason="these are not the last letters of your code")
    if request.htmx:  # type: ignore[attr-defined]
        return render_page("confirm_form.html", error=error)
    return _again("confirm_recovery_code.html", error)


def _last_group_mac(code: str) -> str:
    last = code.strip().replace(" ", "-").strip("-").split("-")[-1].upper()
    text = f"myphr/recovery-check/1|{this_login().login_session.id}|{last}"
    return hmac.new(portal().keys.cookie_key, text.encode(), sha256).hexdigest()


# -- sign in and out ------------------------------------------------------------------------------
@blueprint.get("/sign-in")
@policy(ANYONE)
def sign_in() -> Response:
    where = local_path(request.args.get("next"))
    if current_user.is_authenticated:
        return redirect(where or url_for("record.my_record"), 303)  # type: ignore[return-value]
    return render_page("sign_in.html", error=None, form={"email": ""}, next=where)


@blueprint.post("/sign-in")
@policy(ANYONE)
def sign_in_now() -> Response:
    where = local_path(request.form.get("next"))
    form = {"email": request.form.get("email", "")}
    try:
        begun = accounts.begin_sign_in(
            portal(), form["email"], request.form.get("password", ""), this_device(), address=this_address()
        )
    except PortalError as error:
        return _again("sign_in.html", error, form=form, next=where)
    if begun.login_session is None:
        return go_to_second_step(begun, where)
    start(begun.login_session, begun.cookie_value)
    return _go(where or url_for("record.my_record"))


@blueprint.post("/sign-out")
@policy(SIGNED_IN)
def sign_out() -> Response:
    accounts.sign_out(portal(), this_login())
    live.revoke(portal().redis, f"owner:{this_login().login_session.id}")
    stop()
    return _go(url_for("entrance.welcome"))


# -- recover --------------------------------------------------------------------------------------
@blueprint.get("/recover")
@policy(ANYONE)
def recover() -> Response:
    return render_page("recover.html", error=None, form={"email": ""})


@blueprint.post("/recover")
@policy(ANYONE)
def recover_now() -> Response:
    form = {"email": request.form.get("email", "")}
    password = request.form.get("password", "")
    try:
        begun, recovery_code = accounts.recover_and_sign_in(
            portal(), form["email"], request.form.get("recovery_code", ""), password, this_device(),
            address=this_address(),
        )  # fmt: skip
    except PortalError as error:
        return _again("recover.html", error, form=form)
    assert begun.login_session is not None
    start(begun.login_session, begun.cookie_value)
    return show_recovery_code(recovery_code, is_new=True)


def _again(template: str, error: PortalError, **context: Any) -> Response:
    """The form once more, with what is wrong and what was typed (never the password)."""
    return render_page(template, status=error.status, error=error, **context)


def _go(address: str) -> Response:
    """On to another page; htmx is told to load it as a page."""
    if request.htmx:  # type: ignore[attr-defined]
        answer = Response(status=204)
        answer.headers["HX-Redirect"] = address
        return answer
    return redirect(address, 303)  # type: ignore[return-value]
