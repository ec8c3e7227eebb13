"""Sharing by kind on the page: which kinds, from when to when, with whom; and what kind of file each one is."""

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import EnvelopeError, FormRefused, PortalError
from myphr.people import authorities
from myphr.records import items as records
from myphr.records import labels as record_labels
from myphr.records.labels import NO_MODALITY, TYPES
from myphr.records.summaries import modality_words
from myphr.sharing import delegations
from myphr.sharing.kinds import Filter
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("share_by_kind", __name__)

# Scans that many people have; more would make a form nobody reads, and "scans and pictures" has them all.
_X_RAYS = "x-ray"  # two codes, which nobody but a technician tells apart
MODALITIES = {_X_RAYS: "X-rays", "ct": "CT scans", "mr": "MR scans", "us": "Ultrasounds", "mg": "Mammograms",
              "nm": "Nuclear medicine scans", "pt": "PET scans"}  # fmt: skip


def _filter() -> Filter:
    """What the form says. Raises FormRefused."""
    types, modalities = request.form.getlist("type"), request.form.getlist("modality")
    if not types or not set(types) <= set(TYPES) or not set(modalities) <= set(MODALITIES):
        raise FormRefused("type", reason="choose at least one kind")
    codes = [code for one in modalities for code in (("cr", "dx") if one == _X_RAYS else (one,))]
    first, last = (request.form.get(name, "") for name in ("first", "last"))
    return Filter(
        tuple(types), tuple(codes) if "imaging" in types else (),
        record_labels.read_day(first) if first else None, record_labels.read_day(last) if last else None,
        request.form.get("sensitive") == "yes",
    )  # fmt: skip


@blueprint.route("/share-record/by-kind", methods=["GET", "POST"])
@policy(SIGNED_IN)
def share() -> Response:
    """Which kinds with whom; POST shows who that is and how many files today, and POST with `sure` shares them."""
    error: PortalError | None = None
    preview = None
    if request.method == "POST":
        try:
            wanted = _filter()
            person = authorities.find_person(portal(), request.form.get("person", ""))
            preview = delegations.preview(portal(), this_login(), person.gid, wanted)
            if request.form.get("sure"):
                delegations.delegate(portal(), this_login(), person.gid, wanted)
                flash(f"Shared with {preview.person.name}: {preview.title}.")
                return redirect(url_for("record_shares.mine"), 303)  # type: ignore[return-value]
        except PortalError as refused:
            error, preview = refused, None
    return render_page(
        "sharing/by_kind.html", status=error.status if error else 200, types=TYPES, modalities=MODALITIES,
        form=request.form, chosen_types=request.form.getlist("type"),
        chosen_modalities=request.form.getlist("modality"), preview=preview, error=error,
    )  # fmt: skip


@blueprint.route("/study/<uuid:study_id>/sensitive", methods=["GET", "POST"])
@policy(SIGNED_IN)
def study_sensitive(study_id: object) -> Response:
    """Whether a whole study is sensitive: nobody marks five hundred images one by one."""
    login = this_login()
    study, items = records.load_study(portal().database, login.account.id, str(study_id))
    if request.method == "POST":
        delegations.mark_study(portal(), login, study.id, sensitive=request.form.get("sensitive") == "yes")
        flash("Noted whether this study is sensitive.")
        return redirect(url_for("study.study", study_id=study.id), 303)  # type: ignore[return-value]
    return render_page("record/study_sensitive.html", study_id=study.id, count=len(items),
                       sensitive=record_labels.is_sensitive(login.ring(), items))  # fmt: skip


@blueprint.route("/item/<uuid:item_id>/kind", methods=["GET", "POST"])
@policy(SIGNED_IN)
def kind(item_id: object) -> Response:
    """What a file is: its owner's word goes before our guess."""
    login = this_login()
    row = records.load_item(portal().database, login.account.id, str(item_id))
    view = records.item_view(portal().database, login.ring(), login.account.id, row.id)
    error: PortalError | None = None
    try:
        labels = record_labels.of_file(portal().database, login.ring(), row)
    except EnvelopeError:  # damaged: the guess is shown, and only what its owner says now is kept
        labels = record_labels.guess(view.format, view.headers, view.added_at.date())
    if request.method == "POST":
        try:
            said = record_labels.read_form(
                request.form.get("type", ""), request.form.get("day", ""), request.form.get("sensitive") == "yes",
                labels.modality,
            )  # fmt: skip
            delegations.relabel(portal(), login, row.id, said)
            flash("Noted what this file is.")
            return redirect(url_for("study.item", item_id=row.id), 303)  # type: ignore[return-value]
        except FormRefused as refused:
            error = refused
    chosen = {"type": labels.type, "day": labels.day.isoformat(), "sensitive": "yes" if labels.sensitive else ""}
    if error is not None:
        chosen = {name: request.form.get(name, "") for name in chosen}
    modality = "" if labels.modality == NO_MODALITY else modality_words(labels.modality)
    return render_page("record/kind.html", status=error.status if error else 200, item=view, types=TYPES,
                       chosen=chosen, modality=modality, error=error)  # fmt: skip
