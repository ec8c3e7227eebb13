"""My account: devices that are signed in, change password, new recovery code."""

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import PortalError
from myphr.people import accounts
from myphr.sharing import live
from myphr.web.entrance import show_recovery_code
from myphr.web.login import portal, stop, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("account", __name__, url_prefix="/account")


def _page(status: int = 200, **errors: PortalError | None) -> Response:
    return render_page(
        "account.html", status=status, this=this_login().login_session,
        login_sessions=accounts.list_login_sessions(portal(), this_login()),
        password_error=errors.get("password_error"), recovery_error=errors.get("recovery_error"),
    )  # fmt: skip


@blueprint.get("")
@policy(SIGNED_IN)
def my_account() -> Response:
    return _page()


@blueprint.post("/password")
@policy(SIGNED_IN)
def change_password() -> Response:
    others = [
        row.id
        for row in accounts.list_login_sessions(portal(), this_login())
        if row.id != this_login().login_session.id
    ]
    try:
        accounts.change_password(
            portal(), this_login(), request.form.get("old_password", ""), request.form.get("new_password", "")
        )
    except PortalError as error:
        return _page(error.status, password_error=error)
    for login_session_id in others:
        live.revoke(portal().redis, f"owner:{login_session_id}")
    flash("Your password is changed. All other devices are signed out.")
    return redirect(url_for("account.my_account"), 303)  # type: ignore[return-value]


@blueprint.post("/recovery-code")
@policy(SIGNED_IN)
def new_recovery_code() -> Response:
    try:
        code = accounts.new_recovery_code(portal(), this_login(), request.form.get("password", ""))
    except PortalError as error:
        return _page(error.status, recovery_error=error)
    return show_recovery_code(code, is_new=True)


@blueprint.post("/devices/<uuid:login_session_id>/sign-out")
@policy(SIGNED_IN)
def sign_out_device(login_session_id: object) -> Response:
    accounts.revoke(portal(), this_login(), str(login_session_id))
    live.revoke(portal().redis, f"owner:{login_session_id}")
    if str(login_session_id) == this_login().login_session.id:
        stop()
        return redirect(url_for("entrance.welcome"), 303)  # type: ignore[return-value]
    flash("That device is signed out.")
    return redirect(url_for("account.my_account"), 303)  # type: ignore[return-value]
