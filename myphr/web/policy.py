"""Who may call a view. Every view carries exactly one `@policy(...)`; a test fails for a view without one or with two.

A rule only says what kind of caller is let in. Whether this study or machine is theirs is decided by the one loader
of that kind of thing, which answers NotFound. Used by every page module; nothing below `web` knows of it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from flask import Flask, g, request
from flask_login import current_user

from myphr.errors import NotFound, SignInRequired


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a caller must bring. `prolongs` False marks polls: they must never keep a login session alive."""

    name: str
    needs: str  # nobody, login, visit, operator, drop-off
    prolongs: bool = True


ANYONE = Rule("anyone", "nobody", prolongs=False)
SIGNED_IN = Rule("signed in", "login")
SIGNED_IN_POLL = Rule("signed in, poll", "login", prolongs=False)
VISITOR = Rule("visitor of this share", "visit")
VISITOR_POLL = Rule("visitor of this share, poll", "visit", prolongs=False)
OPERATOR = Rule("operator", "operator")
SENDER = Rule("sender of this drop-off", "drop-off", prolongs=False)
APP = Rule("app with this key", "app key", prolongs=False)
LINK_SENDER = Rule("sender by this link", "drop-off link", prolongs=False)


def policy(rule: Rule) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let only callers in whom `rule` admits. Raises SignInRequired, NotFound, (for a visit) ShareClosed, (for a
    drop-off) DropOffClosed, DropOffFull, (for its link) DropOffLinkClosed or (for an app) AppKeyClosed."""

    def mark(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            _admit(rule, kwargs)
            return view(*args, **kwargs)

        guarded.policies = (*getattr(view, "policies", ()), rule)  # type: ignore[attr-defined]
        return guarded

    return mark


def policies_of(view: Callable[..., Any]) -> tuple[Rule, ...]:
    """The rules a view carries; the test of the whole site reads them with this."""
    return getattr(view, "policies", ())


def this_request_prolongs(app: Flask) -> bool:
    """May the current request keep a login session alive? Asked by the login loader, whoever triggers it first."""
    view = app.view_functions.get(request.endpoint or "")
    rules = policies_of(view) if view else ()
    return bool(rules) and all(rule.prolongs for rule in rules)


def _admit(rule: Rule, url_values: dict[str, Any]) -> None:
    if rule.needs in ("login", "operator"):
        if not current_user.is_authenticated:
            raise SignInRequired
        if rule.needs == "operator" and not current_user.login.account.is_operator:
            raise NotFound
    elif rule.needs == "visit":
        from myphr.web.visits import load_visit

        g.visit = load_visit(url_values["share_id"])
    elif rule.needs == "drop-off":
        from myphr.web.senders import load_grant

        g.grant = load_grant()
    elif rule.needs == "app key":
        from myphr.web.senders import load_app_key

        g.app_key = load_app_key()
    elif rule.needs == "drop-off link":
        from myphr.web.senders import load_link

        g.link = load_link(url_values["drop_off_id"])
