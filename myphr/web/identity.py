"""Number (GID) and certificate, authenticator app, passkeys: what changes them. They stand on the page of `account`."""

import secrets

import segno
from flask import Blueprint, Response, flash, redirect, request, url_for
from markupsafe import Markup

from myphr.errors import FormExpired, NotFound, PortalError, SecondStepRefused
from myphr.people import accounts, identities, second_factor
from myphr.people.models import Passkey
from myphr.people.pending_sign_ins import CHALLENGE_BYTES
from myphr.web.account import account_page
from myphr.web.devices import this_device
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("identity", __name__, url_prefix="/account")

CHALLENGE_SECONDS = 300


# -- authenticator app ------------------------------------------------------------------------------
@blueprint.post("/authenticator-app")
@policy(SIGNED_IN)
def begin_app() -> Response:
    second_factor.begin_app(portal(), this_login())
    return redirect(url_for("identity.authenticator_app"), 303)  # type: ignore[return-value]


def _app_page(error: PortalError | None = None) -> Response:
    setup = second_factor.app_setup(portal(), this_login())
    picture = segno.make(setup.address, error="m", micro=False).svg_inline(
        scale=5, border=4, dark="#000", light="#fff", svgclass=None, lineclass=None, omitsize=True
    )
    groups = [setup.secret[at : at + 4] for at in range(0, len(setup.secret), 4)]
    return render_page(
        "account/authenticator_app.html", status=error.status if error else 200, error=error,
        picture=Markup(picture),  # noqa: S704 - drawn by segno: squares, no text
        secret=" ".join(groups),
    )  # fmt: skip


@blueprint.get("/authenticator-app")
@policy(SIGNED_IN)
def authenticator_app() -> Response:
    try:
        return _app_page()
    except NotFound:  # confirmed, removed, or never begun
        return redirect(url_for("account.my_account"), 303)  # type: ignore[return-value]


@blueprint.post("/authenticator-app/confirm")
@policy(SIGNED_IN)
def confirm_app() -> Response:
    try:
        second_factor.confirm_app(portal(), this_login(), request.form.get("code", ""))
    except SecondStepRefused as error:
        return _app_page(error)
    flash("Your authenticator app is set up. The next time you sign in you are asked for a code from it.")
    return redirect(url_for("account.my_account"), 303)  # type: ignore[return-value]


@blueprint.post("/authenticator-app/remove")
@policy(SIGNED_IN)
def remove_app() -> Response:
    try:
        accounts.check_password(portal(), this_login(), request.form.get("password", ""))
    except PortalError as error:
        return account_page(error.status, step_error=error)
    second_factor.remove_app(portal(), this_login())
    flash("The authenticator app is removed. Delete its entry in the app too.")
    return redirect(url_for("account.my_account"), 303)  # type: ignore[return-value]


# -- passkeys ---------------------------------------------------------------------------------------
def _challenge_key() -> str:
    return f"myphr:passkey:{this_login().login_session.id}"


@blueprint.get("/passkeys/new")
@policy(SIGNED_IN)
def new_passkey() -> Response:
    return _passkey_page()


def _passkey_page(error: PortalError | None = None) -> Response:
    """With a fresh challenge each time: one challenge, one answer."""
    challenge = secrets.token_bytes(CHALLENGE_BYTES)
    place = second_factor.passkey_place(portal().settings)
    options = None
    try:
        options = second_factor.new_passkey_options(portal(), this_login(), challenge)
        portal().redis.set(_challenge_key(), challenge, ex=CHALLENGE_SECONDS)
    except PortalError as refused:
        error = error or refused
    return render_page(
        "account/new_passkey.html", status=error.status if error else 200, error=error, options=options, place=place
    )


@blueprint.post("/passkeys")
@policy(SIGNED_IN)
def add_passkey() -> Response:
    challenge = portal().redis.getdel(_challenge_key())
    if not isinstance(challenge, bytes):
        return _passkey_page(FormExpired("no challenge waits"))
    try:
        second_factor.add_passkey(portal(), this_login(), challenge, request.form.get("credential", ""), this_device())
    except PortalError as error:
        return _passkey_page(error)
    flash("Your passkey is set up. The next time you sign in you are asked for it after your password.")
    return redirect(url_for("account.my_account"), 303)  # type: ignore[return-value]


@blueprint.post("/passkeys/<uuid:passkey_id>/remove")
@policy(SIGNED_IN)
def remove_passkey(passkey_id: object) -> Response:
    with portal().database.read() as db:
        row = db.get(Passkey, str(passkey_id))
    if row is None or row.account_id != this_login().account.id:
        raise NotFound()
    try:
        accounts.check_password(portal(), this_login(), request.form.get("password", ""))
    except PortalError as error:
        return account_page(error.status, step_error=error)
    second_factor.remove_passkey(portal(), this_login(), row.id)
    flash("The passkey is removed from this account. Delete it on your device too.")
    return redirect(url_for("account.my_account"), 303)  # type: ignore[return-value]


# -- certificate ------------------------------------------------------------------------------------
@blueprint.post("/certificate/renew")
@policy(SIGNED_IN)
def renew_certificate() -> Response:
    try:
        identities.renew_certificate(portal(), this_login())
    except PortalError as error:
        return account_page(error.status, certificate_error=error)
    flash("You have a new certificate.")
    return redirect(url_for("account.my_account", _anchor="certificate"), 303)  # type: ignore[return-value]


@blueprint.post("/certificate/revoke")
@policy(SIGNED_IN)
def revoke_certificate() -> Response:
    try:
        count = identities.revoke_certificates(portal(), this_login())
    except PortalError as error:
        return account_page(error.status, certificate_error=error)
    if count:
        flash("Your certificate is cancelled. Nobody can use it to open what others share with you.")
    return redirect(url_for("account.my_account", _anchor="certificate"), 303)  # type: ignore[return-value]
