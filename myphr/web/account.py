"""My account: devices, password, recovery code, second steps, number and certificate, roles and duties.

What changes second steps and certificate is in `identity`.
"""

import datetime as dt
from typing import Any

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import PortalError
from myphr.people import accounts, authorities, identities, second_factor
from myphr.sharing import live
from myphr.web.entrance import show_recovery_code
from myphr.web.login import portal, stop, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("account", __name__, url_prefix="/account")


def account_page(status: int = 200, **errors: PortalError | None) -> Response:
    """The page, with what went wrong beside the form it went wrong in: `password_error`, `step_error` ..."""
    wrong: dict[str, Any] = {
        name: errors.get(name) for name in ("password_error", "recovery_error", "step_error", "certificate_error")
    }
    return render_page(
        "account.html", status=status, this=this_login().login_session,
        login_sessions=accounts.list_login_sessions(portal(), this_login()), **_identity_facts(), **wrong,
    )  # fmt: skip


def _identity_facts() -> dict[str, Any]:
    """What the page says about number, certificate, second steps, roles and duties."""
    login, at = this_login(), dt.datetime.now(dt.UTC)
    with portal().database.read() as db:
        identity = identities.of_account(db, login.account.id)
        certificate = identities.current_certificate(db, identity.gid) if identity else None
        steps = second_factor.of_account(db, login.account.id)
        holdings = authorities.held_by(db, identity.gid) if identity else []
        officer_of = authorities.of_officer(db, login.account.id)
    return {
        "gid": identity.gid if identity else None, "certificate": certificate,
        "certificate_is_good": identities.is_good(certificate, at), "steps": steps, "holdings": holdings,
        "officer_of": officer_of,
        "passkeys_possible": second_factor.passkey_place(portal().settings) is not None,
    }  # fmt: skip


@blueprint.get("")
@policy(SIGNED_IN)
def my_account() -> Response:
    return account_page()


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
        return account_page(error.status, password_error=error)
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
        return account_page(error.status, recovery_error=error)
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
