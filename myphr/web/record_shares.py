"""Sharing the record: who may open a file, a study, several, or all of a kind; who it is today; taking it back."""

import dataclasses
import re
from collections.abc import Sequence

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import FormRefused, NotFound, PortalError
from myphr.people import authorities
from myphr.people.authorities import attribute_words
from myphr.records import items
from myphr.sharing import delegations, policies, record_shares
from myphr.sharing.record_shares import Audience, Scope, ShareView, WithdrawalReport
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page
from myphr.web.zones import reader_zone

blueprint = Blueprint("record_shares", __name__)

EVERYTHING = {"imaging": "All my scans and pictures", "documents": "All my documents", "all": "My whole record"}
FIELDS = ("who", "role", "people", "hospital", "registrar")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One line of a list: what is sent, and what people read."""

    value: str
    words: str


@dataclasses.dataclass(frozen=True)
class Choices:
    """What can be chosen today: roles that somebody holds, hospitals and registrars with people for emergencies."""

    roles: list[Choice]
    hospitals: list[Choice]
    registrars: list[Choice]


def _choices() -> Choices:
    roles, hospitals, registrars = [], [], []
    with portal().database.read() as db:
        for one in authorities.open_ones(db):
            for name, value in authorities.offered(db, one.gid):
                if (name, value) == policies.EMERGENCY:
                    hospitals.append(Choice(one.gid, one.name))
                elif (name, value) == policies.BREAK_GLASS:
                    registrars.append(Choice(one.gid, one.name))
                else:
                    roles.append(Choice(f"{one.gid} {name}:{value}", f"{attribute_words(name, value)} at {one.name}"))
    return Choices(roles, hospitals, registrars)


def _audience() -> Audience:
    """What the form says. Raises FormRefused."""
    who = request.form.get("who", "")
    if who == "care-team":
        gid, _, attribute = request.form.get("role", "").partition(" ")
        name, _, value = attribute.partition(":")
        return Audience("care-team", authority_gid=gid, attributes=((name, value),) if name else ())
    if who == "named":
        written = [one for one in re.split(r"[\s,;]+", request.form.get("people", "")) if one]
        return Audience("named", gids=tuple(authorities.find_person(portal(), one).gid for one in written))
    if who == "emergency":
        return Audience("emergency", authority_gid=request.form.get("hospital", ""),
                        registrar_gid=request.form.get("registrar", ""))  # fmt: skip
    raise FormRefused("preset", reason="choose who may open it")


# -- giving -----------------------------------------------------------------------------------------
@blueprint.route("/share-record/<any(item, study):kind>/<uuid:thing_id>", methods=["GET", "POST"])
@policy(SIGNED_IN)
def share(kind: str, thing_id: object) -> Response:
    """Who may open this file or study; POST shows who that is today, and POST with `sure` shares it."""
    study = kind == "study"
    back = url_for("study.study", study_id=thing_id) if study else url_for("study.item", item_id=thing_id)
    scope = Scope("study" if study else "item", str(thing_id))
    return _share(scope, record_shares.title_of(portal(), this_login(), scope), back)


@blueprint.route("/share-record/everything", methods=["GET", "POST"])
@policy(SIGNED_IN)
def share_everything() -> Response:
    """The same for everything of a kind, also what comes later."""
    kind = request.form.get("everything", "all")
    if kind not in EVERYTHING:
        raise NotFound("no such kind")
    return _share(Scope("everything", kind), "Everything", url_for("record.my_record"))


@blueprint.get("/share-record/choose")
@policy(SIGNED_IN)
def choose() -> Response:
    """Studies and files to choose several of."""
    return _choose()


def _choose(error: PortalError | None = None) -> Response:
    record = items.my_record(portal().database, this_login().ring(), this_login().account.id)
    return render_page("sharing/choose.html", status=error.status if error else 200, record=record, error=error)


@blueprint.post("/share-record/collection")
@policy(SIGNED_IN)
def share_collection() -> Response:
    """Who may open the chosen ones; as for one, once somebody is chosen, too."""
    try:
        scope = Scope.of(request.form.getlist("thing"))
    except FormRefused as error:
        return _choose(error)
    things = [f"{one.kind}:{one.id}" for one in (scope.things() if scope.kind == "collection" else [scope])]
    return _share(scope, record_shares.title_of(portal(), this_login(), scope), url_for("record_shares.choose"), things)


def _share(scope: Scope, title: str, back: str, things: Sequence[str] = ()) -> Response:
    error: PortalError | None = None
    preview = None
    if request.method == "POST" and ("who" in request.form or not things):
        try:
            audience = _audience()
            preview = record_shares.preview(portal(), this_login(), audience)
            if request.form.get("sure"):
                record_shares.share(portal(), this_login(), scope, audience)
                flash(f"Shared with {preview.words}.")
                return redirect(url_for("record_shares.mine"), 303)  # type: ignore[return-value]
        except NotFound:
            raise
        except PortalError as refused:
            error, preview = refused, None
    return render_page(
        "sharing/share.html", status=error.status if error else 200, title=title, back=back, choices=_choices(),
        form={name: request.form.get(name, "") for name in FIELDS}, preview=preview, error=error,
        everything=EVERYTHING if scope.kind == "everything" else None, chosen=scope.id, things=things,
    )  # fmt: skip


# -- who may, and taking back -----------------------------------------------------------------------
@blueprint.get("/sharing")
@policy(SIGNED_IN)
def mine() -> Response:
    shares = [one for one in record_shares.list_mine(portal(), this_login()) if one.state != "withdrawn"]
    shares += delegations.list_mine(portal(), this_login())
    shares.sort(key=lambda share: share.since, reverse=True)
    return render_page("sharing/mine.html", shares=shares)


@blueprint.get("/sharing/<uuid:share_id>/progress")
@policy(SIGNED_IN_POLL)
def progress(share_id: object) -> Response:
    return render_page("sharing/progress.html", share=_one(share_id))


@blueprint.route("/sharing/<uuid:share_id>/stop", methods=["GET", "POST"])
@policy(SIGNED_IN)
def stop(share_id: object) -> Response:
    view = _one(share_id)
    if request.method != "POST":
        who = view.people[0].name if view.by_kind and view.people else "everybody"
        return render_page("sharing/stop.html", share=view, who=who)
    if view.by_kind:
        return _told(delegations.stop(portal(), this_login(), view.id))
    return _told(record_shares.withdraw(portal(), this_login(), view.id))


@blueprint.route("/sharing/<uuid:share_id>/remove/<uuid:gid>", methods=["GET", "POST"])
@policy(SIGNED_IN)
def remove(share_id: object, gid: object) -> Response:
    view = _one(share_id)
    if view.by_kind:
        raise NotFound("one person only: stop it")
    person = next((one for one in view.people if one.gid == str(gid)), None)
    if person is None:
        raise NotFound("no such person")
    if request.method != "POST":
        return render_page("sharing/stop.html", share=view, who=person.name)
    return _told(record_shares.remove_person(portal(), this_login(), view.id, person.gid))


def _one(share_id: object) -> ShareView:
    try:
        view = record_shares.one(portal(), this_login(), str(share_id))
    except NotFound:
        return delegations.one(portal(), this_login(), str(share_id))
    if view.state == "withdrawn":
        raise NotFound("share")
    return view


def _told(report: WithdrawalReport) -> Response:
    sentence = report.sentence(reader_zone())
    flash(f"{sentence[:1].upper()}{sentence[1:]}. What somebody had opened before, they may have kept.")
    return redirect(url_for("record_shares.mine"), 303)  # type: ignore[return-value]
