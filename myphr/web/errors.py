"""Turns errors into answers: a plain page, a fragment for htmx, or JSON for scripts. The only place that does.

The log gets the code, the ids in `detail` and where it happened; never the message of a foreign exception, which may
quote a name or a key.
"""

import contextlib
import logging
import traceback
from urllib.parse import urlencode, urlsplit

from flask import Flask, Response, jsonify, make_response, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from myphr.errors import (
    FormExpired,
    NotFound,
    PortalError,
    RequestRefused,
    SignInRequired,
    UploadTooLarge,
    WrongMethod,
)
from myphr.web.policy import policies_of
from myphr.web.rendering import render_fragment, wants_fragment

log = logging.getLogger(__name__)

_OF_STATUS: dict[int, type[PortalError]] = {404: NotFound, 405: WrongMethod, 413: UploadTooLarge}


def init_errors(app: Flask) -> None:
    app.register_error_handler(PortalError, lambda error: _answer(app, error))
    app.register_error_handler(HTTPException, lambda error: _http(app, error))
    app.register_error_handler(Exception, lambda error: _unexpected(app, error))


def _http(app: Flask, error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error  # a redirect is not an error
    if error.code >= 500:
        return _answer(app, PortalError(type(error).__name__))
    answer = _answer(app, _OF_STATUS.get(error.code, RequestRefused)())
    if error.code == 405:
        answer.headers["Allow"] = dict(error.get_headers()).get("Allow", "")
    return answer


def _unexpected(app: Flask, error: Exception) -> Response:
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s at %s\n%s", type(error).__name__, request.endpoint, frames)
    return _answer(app, PortalError(type(error).__name__))


def _is_poll(app: Flask) -> bool:
    view = app.view_functions.get(request.endpoint or "")
    return any("poll" in rule.name for rule in policies_of(view)) if view else False


def _wants_json() -> bool:
    return request.accept_mimetypes.best == "application/json" or request.path.endswith("/ticket")


def _answer(app: Flask, error: PortalError) -> Response:
    if error.status >= 500:
        log.error("%s at %s: %s", error.code, request.endpoint, error.detail)
    if _wants_json():
        answer = jsonify({"code": error.code, "message": error.message})
        answer.status_code = error.status
        return answer
    if isinstance(error, SignInRequired):
        return _to_sign_in()
    if wants_fragment():
        return _fragment(app, error)
    page = "errors/share_closed.html" if _is_share_closed(error) else "errors/error.html"
    if request.path.startswith("/d/") and error.status in (404, 410):
        page = "handing_over/closed.html"
    return make_response(render_template(page, error=error), error.status)


def _is_share_closed(error: PortalError) -> bool:
    """Whoever comes by a link is told whom to ask, and the same for a closed, an expired and a wrong link."""
    return request.path.startswith("/s/") and error.status in (404, 410)


def _to_sign_in() -> Response:
    came_from = ""
    if request.method == "GET" and wants_fragment():  # the page that asked for its part
        with contextlib.suppress(ValueError):
            page = urlsplit(request.headers.get("HX-Current-URL", ""))
            came_from = page.path + (f"?{page.query}" if page.query else "")
    elif request.method == "GET":
        came_from = request.full_path.rstrip("?")
    address = url_for("entrance.sign_in") + (f"?{urlencode({'next': came_from})}" if len(came_from) > 1 else "")
    if wants_fragment():
        answer = make_response("", 401)
        answer.headers["HX-Redirect"] = address
        return answer
    return make_response(redirect(address, 303))


def _fragment(app: Flask, error: PortalError) -> Response:
    if _is_share_closed(error):
        body = render_fragment("errors/share_closed.html", "closed", error=error)
    else:
        body = render_template("errors/fragment.html", error=error)
    answer = make_response(body, error.status)
    if not _is_poll(app):
        answer.headers["HX-Retarget"] = "#notice"
        answer.headers["HX-Reswap"] = "innerHTML"
    elif error.status >= 500:
        # The next poll may succeed: keep what is shown. A final error replaces the polling part, which ends it.
        answer.headers["HX-Reswap"] = "none"
    if isinstance(error, FormExpired):
        answer.headers["HX-Retarget"] = "#notice"
    return answer
