"""Uploads over HTTP: tus 1.0 (core, creation, creation-with-upload, checksum, expiration, termination), and many small
files in one request.

Knows HTTP and the web server, not sealing: `ingest.uploads` does the work. Needs no page templates; who is signed in
comes from the callable given to `make_blueprint`, so benches and tests run it alone. Bodies are read straight from the
socket in big pieces and never spooled.

Why a form token is not needed here (the site asks for one all the same): every call but OPTIONS must carry
`Tus-Resumable`, a header that no form, image or link can send and that a script of another site may send only after a
CORS preflight, which is never answered with permission; the `Origin` (or `Sec-Fetch-Site`) that browsers add
themselves must also be ours. What exists already is further guarded by the token in its URL.
"""

import base64
import binascii
import contextlib
import email.utils
import re
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, jsonify, request, url_for

from myphr.errors import (
    ChecksumMismatch,
    NotFound,
    PortalError,
    SignInRequired,
    UploadRefused,
    UploadTooLarge,
)
from myphr.ingest import whole_files
from myphr.ingest.handing_over import PageSender
from myphr.ingest.upload_filing import Wish
from myphr.ingest.uploads import CHECKSUMS, Checksum, Progress, Uploads
from myphr.ingest.whole_files import TOGETHER_BYTES_MAX, WHOLE_BYTES_MAX
from myphr.records.filing import Filed
from myphr.settings import Settings
from myphr.web.bodies import body_of_request
from myphr.web.login import this_login
from myphr.web.policy import ANYONE, SIGNED_IN, policy

TUS_VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
BODY_TYPE = "application/offset+octet-stream"
TOGETHER_TYPE = "application/vnd.myphr.files"
METADATA_BYTES_MAX = 16 * 1024
_NUMBER = re.compile(r"\d{1,18}")
_ID = re.compile(r"[0-9a-f-]{36}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class SignedIn(Protocol):
    """What is needed of a login (`people.accounts.Login`)."""

    @property
    def account(self) -> Any: ...


Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


def _unguarded(view: Callable[..., Any]) -> Callable[..., Any]:
    return view


def make_blueprint(
    current_login: Callable[[], SignedIn | None],
    *,
    guard: Guard = _unguarded,
    anyone: Guard = _unguarded,
    sender: Callable[[], PageSender] | None = None,
    name: str = "uploads",
    url_prefix: str = "/uploads",
    one_stream: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Blueprint:
    """The routes below /uploads. `current_login` returns who is signed in by the request's cookie, or None; `guard`
    and `anyone` mark the views for the site's policy. With `sender` they are a drop-off's uploads instead, whose
    answers tell nothing of the record; `one_stream` bounds how many run. Expects the portal in
    `app.extensions["portal"]`."""
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)
    tells_items = sender is None

    def uploads_of_caller() -> tuple[Uploads, str]:
        """Raises SignInRequired, DropOffFull."""
        if sender is not None:
            who = sender()
            return _uploads().of(who), who.account_id
        login = current_login()
        if login is None:
            raise SignInRequired()
        return _uploads(), login.account.id

    def reply(progress: Progress, status: int, location: str | None = None) -> Response:
        return _reply(progress, status, location, tells_items=tells_items)

    @blueprint.before_request
    def check_caller() -> Response | None:
        if request.method == "OPTIONS":
            return None
        _check_same_origin(_origin_of(_settings().public_url))
        if request.headers.get("Tus-Resumable") != TUS_VERSION:
            return Response("This portal speaks tus 1.0.0.\n", 412, {"Tus-Version": TUS_VERSION}, mimetype="text/plain")
        return None

    @blueprint.after_request
    def tell_version(response: Response) -> Response:
        response.headers["Tus-Resumable"] = TUS_VERSION
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"  # the address carries the token
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @blueprint.errorhandler(PortalError)
    def tell_error(error: PortalError) -> Response:
        # The rest of the body may still be on its way. gunicorn throws 64 KiB of it away, and closes where more comes.
        response = Response(error.message + "\n", error.status, mimetype="text/plain")
        response.headers["MyPHR-Error"] = error.code
        return response

    @blueprint.route("", methods=["OPTIONS"], provide_automatic_options=False)
    @blueprint.route("/<path:_any>", methods=["OPTIONS"], provide_automatic_options=False)
    @anyone
    def options(_any: str = "", **_where: object) -> Response:
        headers = {
            "Tus-Version": TUS_VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
            "Tus-Max-Size": str(_settings().upload_bytes_max),
        }
        return Response(status=204, headers=headers)

    @blueprint.post("")
    @guard
    def create(**where: object) -> Response:
        uploads, owner = uploads_of_caller()
        if "Upload-Defer-Length" in request.headers:
            raise UploadRefused(reason="its size must be known from the start")
        total = _number_header("Upload-Length")
        if total > _settings().upload_bytes_max:
            raise UploadTooLarge()
        metadata = _metadata(request.headers.get("Upload-Metadata", ""))
        wish = Wish(total, metadata.get("filename") or metadata.get("name") or "", metadata.get("relativePath", ""))
        checksum = _checksum()
        body = body_of_request() if request.headers.get("Content-Type") == BODY_TYPE else None
        if body is not None and body.length is not None and body.length > total:
            raise UploadTooLarge()
        own_address = url_for(".create", _external=False, **where)  # type: ignore[arg-type]
        with one_stream():
            if body is not None and body.length == total and total <= WHOLE_BYTES_MAX:
                filed = whole_files.receive_one(uploads.filing, owner, wish, body, checksum)
                progress = uploads.all_there(filed, total)
                # Nothing can be asked of this address: the file is in the record already.
                return reply(progress, 201, f"{own_address}/{progress.upload_id}/{'A' * 43}")
            progress, token = uploads.create(owner, wish)
            if body is not None and body.length != 0:
                try:
                    progress = uploads.append(owner, progress.upload_id, token, 0, body, checksum)
                except ChecksumMismatch:  # the client never learns the address: nothing of it shall stay
                    uploads.terminate(owner, progress.upload_id, token)
                    raise
        return reply(progress, 201, f"{own_address}/{progress.upload_id}/{token}")

    @blueprint.post("/together")
    @guard
    def together(**_where: object) -> Response:
        """Many small files in one request: see `ingest.whole_files`. The answer says of each what became of it."""
        uploads, owner = uploads_of_caller()
        if request.headers.get("Content-Type") != TOGETHER_TYPE:
            return Response(f"The body must be {TOGETHER_TYPE}.\n", 415, mimetype="text/plain")
        body = body_of_request()
        if body.length is None or body.length > TOGETHER_BYTES_MAX:
            raise UploadTooLarge()
        with one_stream():
            outcomes = whole_files.receive_together(uploads.filing, owner, body)
        return jsonify([_told(outcome, tells_items=tells_items) for outcome in outcomes])  # type: ignore[return-value]

    @blueprint.route("/<upload_id>/<token>", methods=["HEAD"])
    @guard
    def head(upload_id: str, token: str, **_where: object) -> Response:
        _check_address(upload_id, token)
        uploads, owner = uploads_of_caller()
        return reply(uploads.progress(owner, upload_id, token), 200)

    @blueprint.patch("/<upload_id>/<token>")
    @guard
    def patch(upload_id: str, token: str, **_where: object) -> Response:
        _check_address(upload_id, token)
        uploads, owner = uploads_of_caller()
        if request.headers.get("Content-Type") != BODY_TYPE:
            return Response(f"The body must be {BODY_TYPE}.\n", 415, mimetype="text/plain")
        offset = _number_header("Upload-Offset")
        with one_stream():
            return reply(uploads.append(owner, upload_id, token, offset, body_of_request(), _checksum()), 204)

    @blueprint.delete("/<upload_id>/<token>")
    @guard
    def delete(upload_id: str, token: str, **_where: object) -> Response:
        _check_address(upload_id, token)
        uploads, owner = uploads_of_caller()
        uploads.terminate(owner, upload_id, token)
        return Response(status=204)

    return blueprint


def _settings() -> Settings:
    return current_app.extensions["portal"].settings


def _uploads() -> Uploads:
    """One per application: it keeps the running hashes of this process's uploads."""
    found = current_app.extensions.get("uploads")
    if found is None:
        found = current_app.extensions.setdefault("uploads", Uploads(current_app.extensions["portal"]))
    return found


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _reply(progress: Progress, status: int, location: str | None, *, tells_items: bool) -> Response:
    response = Response(status=status)
    response.headers["Upload-Offset"] = str(progress.offset)
    response.headers["Upload-Length"] = str(progress.total)
    response.headers["Upload-Expires"] = email.utils.format_datetime(progress.expires_at, usegmt=True)
    if location is not None:
        response.headers["Location"] = location
    if progress.item_id is not None and tells_items:
        response.headers["MyPHR-Item"] = progress.item_id
        response.headers["MyPHR-Duplicate"] = "yes" if progress.duplicate else "no"
    return response


def _told(outcome: Filed | PortalError, *, tells_items: bool) -> dict[str, object]:
    if isinstance(outcome, PortalError):
        return {"stored": False, "code": outcome.code, "why": outcome.message}
    return {"stored": True, "again": outcome.duplicate} if tells_items else {"stored": True}


def _check_same_origin(own_origin: str) -> None:
    """Raises UploadRefused for a call that another site's page made."""
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if (origin is not None and origin not in (own_origin, request.host_url.rstrip("/"))) or site == "cross-site":
        raise UploadRefused(reason="it was started from another site")


def _check_address(upload_id: str, token: str) -> None:
    if not (_ID.fullmatch(upload_id) and _TOKEN.fullmatch(token)):
        raise NotFound("upload")


def _number_header(name: str) -> int:
    text = request.headers.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise UploadRefused(reason=f"the header {name} is missing or not a number")
    return int(text)


def _checksum() -> Checksum | None:
    """Upload-Checksum of tus: "sha1 base64". An algorithm that we do not know is 400, as the extension asks."""
    text = request.headers.get("Upload-Checksum")
    if text is None:
        return None
    algorithm, _, value = text.partition(" ")
    if algorithm not in CHECKSUMS:
        raise UploadRefused(reason="its checksum is of a kind that is not known here")
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != CHECKSUMS[algorithm]().digest_size:
        raise UploadRefused(reason="its checksum cannot be read")
    return Checksum(algorithm, digest)


def _metadata(text: str) -> dict[str, str]:
    """Upload-Metadata of tus: "key base64,key base64"; a key may stand without value."""
    if len(text) > METADATA_BYTES_MAX:
        raise UploadRefused(reason="its description is too long")
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            raise UploadRefused(reason="its description cannot be read") from None
    return found


blueprint = make_blueprint(lambda: this_login(), guard=policy(SIGNED_IN), anyone=policy(ANYONE))  # type: ignore[arg-type,return-value]
