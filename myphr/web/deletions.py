""" "What I deleted": the proof that keys were destroyed and bytes removed, to read and to keep."""

import json

from flask import Blueprint, Response

from myphr.records import deletions
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, policy
from myphr.web.rendering import render_page

NAMES_SHOWN_MAX = 200

blueprint = Blueprint("deletions", __name__, url_prefix="/deleted")


@blueprint.get("")
@policy(SIGNED_IN)
def mine() -> Response:
    return render_page("record/deleted.html", deletions=deletions.list_mine(portal(), this_login()))


@blueprint.get("/<uuid:deletion_id>")
@policy(SIGNED_IN)
def proof(deletion_id: object) -> Response:
    one = deletions.one_of_mine(portal(), this_login(), str(deletion_id))
    certificate = deletions.certificate(portal(), this_login(), one.id)
    return render_page(
        "record/deletion.html", deletion=one, certificate=certificate, shown=NAMES_SHOWN_MAX,
        files=certificate["note"]["files"][:NAMES_SHOWN_MAX],
    )  # fmt: skip


@blueprint.get("/<uuid:deletion_id>/certificate")
@policy(SIGNED_IN)
def certificate(deletion_id: object) -> Response:
    content = deletions.certificate(portal(), this_login(), str(deletion_id))
    answer = Response(json.dumps(content, ensure_ascii=False, indent=1) + "\n", mimetype="application/json")
    answer.headers["Content-Disposition"] = f'attachment; filename="Proof of deletion {deletion_id}.json"'
    return answer
