"""DICOMweb for providers: STOW-RS (DICOM PS3.18, 10.5), with a drop-off's token. Nothing can be asked or fetched here.

The body goes part by part into sealed containers while it comes in, chunked or not; it is never in memory as a whole
and never in clear on a disk. Knows HTTP; `ingest.multipart` and `ingest.stow` do the work.
"""

import json
import re

from flask import Blueprint, Response, g, request
from werkzeug.http import parse_options_header

from myphr.errors import DropOffFull, PortalError
from myphr.ingest import multipart
from myphr.ingest.stow import MEDIA_TYPE, Store
from myphr.web.bodies import LOOK_AROUND_SECONDS, QUIET_SECONDS_MAX, PlainBody, SocketBody, body_of_request, bytes_left
from myphr.web.login import portal
from myphr.web.policy import SENDER, policy
from myphr.web.senders import streams

PIECE_BYTES = 256 * 1024
ENVELOPE_BYTES_MAX = 16 * 1024**2  # what boundaries and part headers may add to the files themselves
DRAIN_BYTES_MAX = 64 * 1024**2
STRANGERS_DRAIN_BYTES_MAX = 1024**2
_UID = re.compile(r"[0-9.]{1,64}")

blueprint = Blueprint("dicom_web", __name__, url_prefix="/dicom-web")


@blueprint.post("/studies")
@policy(SENDER)
def store() -> Response:
    return _store(None)


@blueprint.post("/studies/<study_uid>")
@policy(SENDER)
def store_study(study_uid: str) -> Response:
    if not _UID.fullmatch(study_uid):
        return _told("The address holds no study UID.", 400)
    return _store(study_uid)


@blueprint.errorhandler(PortalError)
def tell_error(error: PortalError) -> Response:
    response = _told(error.message, error.status)
    response.headers["MyPHR-Error"] = error.code
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="MyPHRMachines drop-off"'
    if error.status == 503:
        response.headers["Retry-After"] = "5"
    return response


def _store(study_uid: str | None) -> Response:
    kind, options = parse_options_header(request.headers.get("Content-Type"))
    if kind.lower() != "multipart/related" or options.get("type", MEDIA_TYPE).lower() != MEDIA_TYPE:
        return _told(f'The body must be multipart/related; type="{MEDIA_TYPE}".', 415)
    if (request.content_length or 0) > g.grant.bytes_left + ENVELOPE_BYTES_MAX:
        raise DropOffFull()
    try:
        parser = multipart.Parser(options.get("boundary", ""), portal().settings.drop_off_files_max)
    except multipart.Broken:
        return _told("The Content-Type names no boundary that can be used.", 400)
    with streams.one(g.grant.drop_off_id):
        request_store = Store(portal(), g.grant, study_uid)
        try:
            whole = _receive(request_store, parser)
            request_store.finish()
        finally:
            request_store.close()
    status = request_store.status()
    if not whole and not request_store.is_over:
        status = 400
    response = Response(json.dumps(request_store.answer()), status, mimetype="application/dicom+json")
    return _last_word(response)


def _receive(request_store: Store, parser: multipart.Parser) -> bool:
    """Whether the body came whole and well-formed. What was stored before it broke stays, and the answer says so."""
    body = body_of_request()
    buffer = memoryview(bytearray(PIECE_BYTES))
    try:
        while got := _next(body, buffer):
            request_store.take(parser.feed(bytes(buffer[:got])))
            if request_store.is_over:
                return False
        parser.finish()
    except multipart.Broken:
        return False
    return True


def _next(body: SocketBody | PlainBody, buffer: memoryview) -> int:
    """Bytes of the next piece; 0 at the end, and for a connection that says nothing any more."""
    for _ in range(int(QUIET_SECONDS_MAX / LOOK_AROUND_SECONDS)):
        got = body.receive(buffer)
        if got is not None:
            return got
    return 0


def _told(sentence: str, status: int) -> Response:
    return _last_word(Response(sentence + "\n", status, mimetype="text/plain"))


def _last_word(response: Response) -> Response:
    """A sender that is still writing when the connection closes may never read the answer: what is left of a small
    body is taken and thrown away first. Behind more than that gunicorn closes."""
    most = DRAIN_BYTES_MAX if "grant" in g else STRANGERS_DRAIN_BYTES_MAX
    if bytes_left():
        body, buffer = body_of_request(), memoryview(bytearray(PIECE_BYTES))
        while bytes_left() and most > 0 and (got := body.receive(buffer)):
            most -= got
    return response
