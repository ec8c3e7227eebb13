"""The operator's list of PACS, and saying which patient there the owner of a code is: with a practice's word for it."""

from flask import Blueprint, Response, flash, redirect, request, url_for

from myphr.audit.trail import Actor
from myphr.errors import FormRefused, PacsRefused, PortalError
from myphr.ingest.pacs import links, servers
from myphr.ingest.pacs.links import Asked
from myphr.ingest.pacs.servers import Entry
from myphr.web.login import portal, this_login
from myphr.web.policy import OPERATOR, policy
from myphr.web.rendering import render_page

blueprint = Blueprint("pacs_servers", __name__, url_prefix="/operator/image-archives")

FIELDS = ("name", "host", "port", "called_ae", "calling_ae", "ca_pem")
WHO = ("number", "issuer", "birth_date")


def _page(
    form: dict[str, str] | None = None, error: PortalError | None = None, code_error: PortalError | None = None
) -> Response:
    known = servers.offered(portal())
    wrong = error or code_error
    return render_page(
        "pacs/servers.html", status=wrong.status if wrong else 200, error=error, code_error=code_error,
        form=form or dict.fromkeys(FIELDS, "") | {"calling_ae": "MYPHR", "port": "2762", "tls": "yes", "moves": ""},
        known=known, linked={pacs.id: links.of_pacs(portal(), pacs.id) for pacs in known},
    )  # fmt: skip


def _actor() -> Actor:
    return Actor("operator", this_login().account.id)


def _done(words: str) -> Response:
    flash(words)
    return redirect(url_for("pacs_servers.mine"), 303)  # type: ignore[return-value]


@blueprint.get("")
@policy(OPERATOR)
def mine() -> Response:
    return _page()


@blueprint.post("")
@policy(OPERATOR)
def add() -> Response:
    form = {name: request.form.get(name, "")[: servers.CA_CHARACTERS_MAX + 1] for name in (*FIELDS, "tls", "moves")}
    entry = Entry(**{name: form[name] for name in FIELDS}, tls=form["tls"] == "yes", moves=form["moves"] == "yes")
    try:
        pacs = servers.add(portal(), _actor(), entry)
    except (FormRefused, PacsRefused) as error:
        return _page(form, error)
    return _done(f"{pacs.name} answered, and is on the list.")


@blueprint.post("/<uuid:pacs_id>/echo")
@policy(OPERATOR)
def echo(pacs_id: object) -> Response:
    pacs = servers.one(portal(), str(pacs_id))
    try:
        servers.echo(portal(), pacs)
    except PacsRefused as error:
        return _page(error=error)
    return _done(f"{pacs.name} answers, and lets this portal in.")


@blueprint.post("/<uuid:pacs_id>/close")
@policy(OPERATOR)
def close(pacs_id: object) -> Response:
    name = servers.one(portal(), str(pacs_id)).name
    servers.close(portal(), _actor(), str(pacs_id))
    return _done(f"{name} is off the list, and nobody is connected with it. What patients fetched stays with them.")


# -- who is who -------------------------------------------------------------------------------------
def _who_page(asked: Asked, code: str, form: dict[str, str], error: PortalError | None = None) -> Response:
    status = error.status if error else 200
    return render_page("pacs/confirm.html", status=status, asked=asked, code=code, form=form, error=error)


@blueprint.post("/code")
@policy(OPERATOR)
def code() -> Response:
    """Whose code it is. Changes nothing: the code is no address, so that it stands in no history."""
    typed = request.form.get("code", "")[:100]
    try:
        return _who_page(links.by_code(portal(), typed), typed, dict.fromkeys(WHO, ""))
    except FormRefused as error:
        return _page(code_error=error)


@blueprint.post("/confirm")
@policy(OPERATOR)
def confirm() -> Response:
    typed = request.form.get("code", "")[:100]
    form = {name: request.form.get(name, "")[:200] for name in WHO}
    try:
        asked = links.by_code(portal(), typed)
    except FormRefused as error:
        return _page(code_error=error)
    try:
        if request.form.get("sure") != "yes":
            raise FormRefused(reason="tick the box: somebody has to have seen who the patient is")
        links.confirm(portal(), this_login(), typed, form["number"], form["issuer"], form["birth_date"])
    except FormRefused as error:
        return _who_page(asked, typed, form, error)
    return _done(f"{asked.account_name} ({asked.account_email}) is connected with {asked.pacs_name}.")


@blueprint.post("/links/<uuid:link_id>/end")
@policy(OPERATOR)
def end(link_id: object) -> Response:
    links.end_by_operator(portal(), this_login(), str(link_id))
    return _done("The connection is ended. What was fetched stays in the record.")
