"""For the operator: is the portal well (`/healthz`, no secrets, no patient), organisations, people to stop. Sees no
record."""

from flask import Blueprint, Response, flash, jsonify, redirect, request, url_for
from sqlalchemy import text

from myphr.errors import FormRefused, NotFound, PortalError
from myphr.people import accounts, authorities, identities
from myphr.people.models import Account, Authority
from myphr.sharing import live, withdrawal
from myphr.web.login import portal, this_login
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


def _page(**errors: PortalError) -> Response:
    settings = portal().settings
    outbox = settings.smtp_url.removeprefix("outbox:") if settings.smtp_url.startswith("outbox:") else None
    with portal().database.read() as db:
        known = authorities.all_of(db)
        officers = {one.gid: db.get(Account, one.officer_account_id) for one in known}
        members = {one.gid: len({line.member.gid for line in authorities.members(db, one.gid)}) for one in known}
    error = next(iter(errors.values()), None)
    form = {name: request.form.get(name, "") for name in ("name", "kind", "officer")}
    return render_page(
        "operator.html", status=error.status if error else 200, database=_works(_ask_database),
        redis=_works(portal().redis.ping), keyholder=_works(portal().keyholder.hello), outbox=outbox,
        authorities=known, officers=officers, members=members, kinds=authorities.KINDS, form=form,
        authority_error=errors.get("authority_error"), person_error=errors.get("person_error"),
    )  # fmt: skip


def _done(words: str, endpoint: str = "operator.status") -> Response:
    flash(words)
    return redirect(url_for(endpoint), 303)  # type: ignore[return-value]


@blueprint.get("/operator")
@policy(OPERATOR)
def status() -> Response:
    return _page()


# -- organisations ----------------------------------------------------------------------------------
@blueprint.post("/operator/organisations")
@policy(OPERATOR)
def create_authority() -> Response:
    form = {name: request.form.get(name, "") for name in ("name", "kind", "officer")}
    try:
        made = authorities.create(portal(), this_login(), form["name"], form["kind"], form["officer"])
    except PortalError as error:
        return _page(authority_error=error)
    return _done(f"{made.name} is registered. Its officer finds it under My account.")


def _authority_page(authority_gid: object, error: PortalError | None = None) -> Response:
    with portal().database.read() as db:
        authority = db.get(Authority, str(authority_gid))
        if authority is None or authority.closed_at is not None:
            raise NotFound()
        officer = db.get(Account, authority.officer_account_id)
        count = len({line.member.gid for line in authorities.members(db, authority.gid)})
    return render_page(
        "operator_organisation.html", status=error.status if error else 200, authority=authority, officer=officer,
        count=count, kinds=authorities.KINDS, error=error,
    )  # fmt: skip


@blueprint.get("/operator/organisations/<uuid:authority_gid>")
@policy(OPERATOR)
def authority(authority_gid: object) -> Response:
    return _authority_page(authority_gid)


@blueprint.post("/operator/organisations/<uuid:authority_gid>/officer")
@policy(OPERATOR)
def change_officer(authority_gid: object) -> Response:
    try:
        changed = authorities.change_officer(
            portal(), this_login(), str(authority_gid), request.form.get("officer", "")
        )
    except PortalError as error:
        return _authority_page(authority_gid, error)
    return _done(f"{changed.name} has another officer.")


@blueprint.post("/operator/organisations/<uuid:authority_gid>/close")
@policy(OPERATOR)
def close_authority(authority_gid: object) -> Response:
    try:
        if request.form.get("sure") != "yes":
            raise FormRefused(reason="tick the box first: this cannot be undone")
        authorities.close(portal(), this_login(), str(authority_gid))
        withdrawal.authority_closed(portal(), str(authority_gid))
    except PortalError as error:
        return _authority_page(authority_gid, error)
    return _done("The organisation is closed. Nobody gets a key from it any more.")


# -- people -----------------------------------------------------------------------------------------
@blueprint.post("/operator/people/stop")
@policy(OPERATOR)
def revoke_identity() -> Response:
    """Sign-ins end at once; if the keyholder does not answer, the page says so and the button is pressed again."""
    try:
        if request.form.get("sure") != "yes":
            raise FormRefused(reason="tick the box first: this cannot be undone")
        account = accounts.find_by_email(portal(), request.form.get("email", ""))
        if account.id == this_login().account.id:
            raise FormRefused(reason="you cannot stop your own account")
        for login_session_id in identities.revoke_identity(portal(), this_login(), account):
            live.revoke(portal().redis, f"owner:{login_session_id}")
        with portal().database.read() as db:
            stopped = identities.of_account(db, account.id)
        if stopped is not None:
            withdrawal.person_revoked(portal(), stopped.gid)
        identities.tell_keyholder_revoked(portal(), this_login(), account)
    except PortalError as error:
        return _page(person_error=error)
    return _done("The account is stopped. Nobody is signed in to it, and nobody can sign in.")


@blueprint.post("/operator/people/new-identity")
@policy(OPERATOR)
def give_new_identity() -> Response:
    try:
        account = accounts.find_by_email(portal(), request.form.get("email", ""))
        identities.give_new(portal(), this_login(), account)
    except NotFound:
        return _page(person_error=FormRefused(reason="this account is not stopped"))
    except PortalError as error:
        return _page(person_error=error)
    return _done("The account has a new identity. Its owner signs in with the same password as before.")
