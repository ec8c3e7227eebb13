"""For the officer of an organisation: who its members are, what they may call themselves, and until when."""

import datetime as dt

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.database import now
from myphr.errors import FormRefused, NotFound, PortalError
from myphr.people import authorities
from myphr.people.identities import AWAY
from myphr.sharing import withdrawal
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("authorities", __name__, url_prefix="/organisations/<uuid:authority_gid>")

USUAL_DAYS = 365


def _page(authority_gid: object, error: PortalError | None = None) -> Response:
    gid = str(authority_gid)
    with portal().database.read() as db:
        authority = authorities.for_officer(db, this_login().account.id, gid)
    stale: PortalError | None = None
    try:
        authorities.refresh(portal(), this_login(), gid)
    except NotFound:  # the keyholder does not take this person for the officer, or not any more
        raise
    except PortalError as away:
        stale = away
    with portal().database.read() as db:
        members = authorities.members(db, gid)
    today = now().date()
    form = {name: request.form.get(name, "") for name in ("member", "attribute", "other", "other_kind", "last_day")}
    form["last_day"] = form["last_day"] or (today + dt.timedelta(days=USUAL_DAYS)).isoformat()
    return render_page(
        "authorities/members.html", status=error.status if error else 200, authority=authority, members=members,
        common=authorities.COMMON, kinds=authorities.KINDS, form=form, error=error, stale=stale, today=today,
        last=today + dt.timedelta(days=authorities.GRANT_DAYS_MAX),
    )  # fmt: skip


@blueprint.get("")
@policy(SIGNED_IN)
def members(authority_gid: object) -> Response:
    return _page(authority_gid)


@blueprint.post("/grant")
@policy(SIGNED_IN)
def grant(authority_gid: object) -> Response:
    with portal().database.read() as db:
        authorities.for_officer(db, this_login().account.id, str(authority_gid))
    try:
        name, value = _attribute()
        person = authorities.grant(
            portal(), this_login(), str(authority_gid), request.form.get("member", ""), name, value, _last_day()
        )
    except PortalError as error:
        return _page(authority_gid, error)
    flash(f"{person.name}: {authorities.attribute_words(*authorities.attribute_of(name, value))}. Noted.")
    return redirect(url_for("authorities.members", authority_gid=authority_gid), 303)  # type: ignore[return-value]


@blueprint.post("/members/<uuid:grant_id>/take")
@policy(SIGNED_IN)
def take(authority_gid: object, grant_id: object) -> Response:
    try:
        line = authorities.take(portal(), this_login(), str(authority_gid), str(grant_id))
    except AWAY as error:
        return _page(authority_gid, error)
    withdrawal.attribute_taken(portal(), str(authority_gid), line.member.gid)
    flash(f"{line.member.name} no longer has this: {line.words}. It ended just now.")
    return redirect(url_for("authorities.members", authority_gid=authority_gid), 303)  # type: ignore[return-value]


def _attribute() -> tuple[str, str]:
    """What was chosen, or what was typed. Raises FormRefused for neither and for both."""
    chosen, typed = request.form.get("attribute", ""), request.form.get("other", "").strip()
    if bool(chosen) == bool(typed):
        raise FormRefused(reason="choose a role from the list, or type one")
    if typed:
        kind = request.form.get("other_kind", "role")
        return ("role" if kind not in ("role", "department") else kind), typed
    name, _, value = chosen.partition(":")
    if (name, value) not in authorities.COMMON:
        raise FormRefused(reason="choose a role from the list, or type one")
    return name, value


def _last_day() -> dt.date:
    try:
        return dt.date.fromisoformat(request.form.get("last_day", ""))
    except ValueError:
        raise FormRefused(reason="say until which day, as on the calendar") from None
