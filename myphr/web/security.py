"""What protects every answer: security headers, CSRF on every unsafe request, addresses that stay on this site.

No inline script or style exists in any page, so the policy needs no nonce. See docs/decisions/0170-own-csrf.md.
"""

import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256
from urllib.parse import urlsplit

from flask import Flask, Response, request, session

from myphr.errors import FormExpired
from myphr.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_CHECKS = ("uploads", "handing_over_uploads", "dicom_web")
CSRF_FIELD = "csrf"
CSRF_HEADER = "X-CSRF-Token"

_PERMISSIONS = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "hid", "magnetometer", "microphone",
        "midi", "payment", "serial", "usb", "browsing-topics",
    )
) + ", fullscreen=(self), clipboard-read=(self), clipboard-write=(self)"  # fmt: skip


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def content_security_policy(settings: Settings, form_origins: Iterable[str] = ()) -> str:
    """Only our own files; the screen gateway is the one other place a page may talk to. `form_origins`: where a form of
    this page may lead by a redirect (a hospital's sign-in)."""
    return "; ".join((
        "default-src 'none'", "script-src 'self'", "style-src 'self'",
        "img-src 'self' data:",  # noVNC draws the machine's pointer as a data: cursor
        "frame-src 'self'",  # the narrative of a health record, in a sandboxed document: myphr.web.previews
        "font-src 'self'", "manifest-src 'self'", f"connect-src 'self' {_origin(settings.screen_url)}",
        " ".join(("form-action 'self'", *form_origins)),
        "base-uri 'none'", "frame-ancestors 'none'", "object-src 'none'",
    ))  # fmt: skip


# -- CSRF -----------------------------------------------------------------------------------------
def csrf_token(key: bytes) -> str:
    """The token for this browser and this login session. Signing in or out makes all earlier ones useless."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(32)
    text = f"myphr/csrf/1|{session['csrf']}|{session.get('_user_id', '')}"
    return hmac.new(key, text.encode(), sha256).hexdigest()


def renew_csrf() -> None:
    session["csrf"] = secrets.token_urlsafe(32)


def _check_csrf(key: bytes, settings: Settings) -> None:
    if request.method in SAFE_METHODS or request.blueprint in OWN_CHECKS:
        # Uploads have a check of their own, which an upload that outlives a login session can pass; DICOMweb looks at
        # no cookie at all, only at a token that no other site's page knows.
        return
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise FormExpired("foreign site")
    # Our own forms say "null", because our pages send no referrer; Sec-Fetch-Site and the token decide then.
    origin = request.headers.get("Origin", "null")
    if origin not in ("null", _origin(request.host_url), _origin(settings.public_url)):
        raise FormExpired("foreign Origin")
    sent = request.headers.get(CSRF_HEADER)
    # Reading request.form would swallow the body of an upload: only forms are looked into.
    if sent is None and request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        sent = request.form.get(CSRF_FIELD)
    if "csrf" not in session or not hmac.compare_digest((sent or "").encode(), csrf_token(key).encode()):
        raise FormExpired("CSRF token missing or wrong")


def local_path(text: str | None) -> str | None:
    """`text` if it is a path on this site, else None: a link must not make us send anybody elsewhere."""
    if not text or not text.startswith("/") or text[1:2] in ("/", "\\"):
        return None
    if any(ord(character) <= 32 or character == "\\" for character in text):
        return None
    parts = urlsplit(text)
    return None if parts.scheme or parts.netloc else text


def init_security(app: Flask, settings: Settings, key: bytes) -> None:
    """Headers on every answer, errors included; CSRF before every view."""
    policy = content_security_policy(settings)
    is_https = settings.public_url.startswith("https://")

    @app.before_request
    def csrf() -> None:
        _check_csrf(key, settings)

    @app.after_request
    def headers(response: Response) -> Response:
        put = response.headers.setdefault
        put("Content-Security-Policy", policy)
        put("X-Content-Type-Options", "nosniff")
        put("X-Frame-Options", "DENY")
        put("Referrer-Policy", "no-referrer")
        put("Permissions-Policy", _PERMISSIONS)
        put("Cross-Origin-Opener-Policy", "same-origin")
        put("Cross-Origin-Resource-Policy", "same-origin")
        put("Cache-Control", "no-store")  # pages tell of a patient; static files say otherwise themselves
        if is_https:
            put("Strict-Transport-Security", "max-age=31536000")
        response.vary.add("HX-Request")
        response.vary.add("Cookie")
        return response

    app.jinja_env.globals["csrf_token"] = lambda: csrf_token(key)
