""" "Tell us what this file is": the owner chooses the kind of a file from all we know, and can take it back."""

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.errors import FormRefused
from myphr.ingest.reading import work as reading
from myphr.records import correction, formats
from myphr.records import items as records
from myphr.sharing import delegations
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("correction", __name__)

AS_TOLD = "as-told"
# How people look for a kind of file: packed files and films are "other" to sharing by kind, but not to a reader.
_FAMILIES = {
    "imaging": "Scans and pictures of the body", "photo": "Photos and pictures",
    "document": "Letters, tables and health records", "laboratory": "Laboratory",
    "ecg": "Heart, brain and sleep recordings", "genome": "Genes", "wearable": "Watches and sensors",
    "sound": "Sound and film", "packed": "Packed files and discs", "other": "Something else",
}  # fmt: skip


def family_of(code: str) -> str:
    found = formats.of(code)
    if found.icon == "zip":
        return "packed"
    return "sound" if found.type == "other" and found.counted[0] in ("recording", "video") else found.type


def families() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """(code, words, [(format, its words, its ending)]) in the order of the page."""
    found: dict[str, list[tuple[str, str, str]]] = {code: [] for code in _FAMILIES}
    for code, one in formats.FORMATS.items():
        found[family_of(code)].append((code, one.words, one.ending))
    return [(code, words, sorted(found[code], key=lambda one: one[1].casefold())) for code, words in _FAMILIES.items()]


@blueprint.route("/item/<uuid:item_id>/format", methods=["GET", "POST"])
@policy(SIGNED_IN)
def kind(item_id: object) -> Response:
    login = this_login()
    view = records.item_view(portal().database, login.ring(), login.account.id, str(item_id))
    now_kind = correction.kind_of(portal().database, login.ring(), login.account.id, view.id)
    error: FormRefused | None = None
    if request.method == "POST":
        said = request.form.get("format", "")
        try:
            delegations.correct_kind(portal(), login, view.id, None if said == AS_TOLD else said)
            reading.read_anew(portal(), login.account.id, login.ring(), view.id)
            flash("Noted. The file itself stays exactly as it came.")
            return redirect(url_for("study.item", item_id=view.id), 303)  # type: ignore[return-value]
        except FormRefused as refused:
            error = refused
    return render_page(
        "record/correct_kind.html", status=error.status if error else 200, item=view, kind=now_kind,
        told=formats.of(now_kind.identified).words if now_kind.identified else None, as_told=AS_TOLD,
        families=families(), open_family=family_of(now_kind.format), error=error,
    )  # fmt: skip
