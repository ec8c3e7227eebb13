"""Our own static files, the only ones a page loads.

A versioned address may be kept for a year, others are asked again. Called by templates through `static_url`.
"""

import functools
import mimetypes
from hashlib import sha256
from pathlib import Path

from flask import Blueprint, Flask, Response, request, send_from_directory, url_for

from myphr.web.policy import ANYONE, policy

FOLDER = Path(__file__).resolve().parents[2] / "static"
blueprint = Blueprint("files", __name__)

mimetypes.add_type("text/javascript", ".js")  # some systems say text/plain, which nosniff then refuses to run
mimetypes.add_type("image/svg+xml", ".svg")


@functools.lru_cache(maxsize=256)
def _version(filename: str, _changed: int) -> str:
    return sha256((FOLDER / filename).read_bytes()).hexdigest()[:12]


def static_url(filename: str) -> str:
    """Address of a static file, carrying a hash of its content."""
    path = FOLDER / filename
    version = _version(filename, path.stat().st_mtime_ns) if path.is_file() else "0"
    return url_for("files.static_file", filename=filename, v=version)


@blueprint.get("/static/<path:filename>")
@policy(ANYONE)
def static_file(filename: str) -> Response:
    answer = send_from_directory(FOLDER, filename, conditional=True)
    answer.headers["Cache-Control"] = "public, max-age=31536000, immutable" if "v" in request.args else "no-cache"
    return answer


def init_static(app: Flask) -> None:
    app.register_blueprint(blueprint)
    app.jinja_env.globals["static_url"] = static_url
