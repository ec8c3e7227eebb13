"""Pages and their fragments: one template each, a fragment is the block `frag_<name>` inside its page.

`render_page` answers htmx with the block alone and everybody else with the whole page, so that first paint and
refresh cannot drift apart and every page works as a plain URL.
"""

from typing import Any

from flask import Response, current_app, make_response, render_template
from htmx_flask import request


def wants_fragment() -> bool:
    """Did htmx ask for a part? A history restore needs the whole page although htmx sends it."""
    return bool(request.htmx) and not request.htmx.boosted and not request.htmx.history_restore_request


def render_fragment(template: str, fragment: str, **context: Any) -> str:
    """The block `frag_<fragment>` of a page, rendered alone. Its macros must be imported inside the block."""
    app = current_app
    page = app.jinja_env.get_template(template)
    app.update_template_context(context)
    block = page.blocks[f"frag_{fragment}"]
    return "".join(block(page.new_context(context)))


def render_page(template: str, fragment: str | None = None, *, status: int = 200, **context: Any) -> Response:
    """A page, or only its `fragment` if htmx asked for it."""
    if fragment and wants_fragment():
        body = render_fragment(template, fragment, **context)
    else:
        body = render_template(template, **context)
    return make_response(body, status)


def whole_number(name: str, default: int | None = None, *, most: int = 2**31) -> int | None:
    """A whole number from the address, or `default` for anything that is none.

    More than `most` would overflow a database."""
    number = request.args.get(name, type=int)
    return default if number is None or not 0 <= number <= most else number
