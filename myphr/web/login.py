"""Signing in and out as Flask-Login sees it. The user's id is the login session's row, so that taking the row away
signs that browser out at once. A second cookie carries what opens the owner's key ring; the server keeps no copy.

Called by the entrance and account pages; every other view only asks `this_login()`.
"""

from typing import Any

from flask import Flask, Response, current_app, g, request, session
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user

from myphr.ingest.reading import work as reading
from myphr.machines import left_over
from myphr.people import accounts
from myphr.people.accounts import Login
from myphr.people.models import LoginSession
from myphr.portal import Portal
from myphr.sharing import app_key_wraps, delegations, record_shares
from myphr.sharing.search_around import Around
from myphr.web.policy import this_request_prolongs
from myphr.web.security import renew_csrf


class SignedIn(UserMixin):
    """The signed-in person of this request, as Flask-Login wants it."""

    def __init__(self, login: Login) -> None:
        self.login = login

    def get_id(self) -> str:
        return self.login.login_session.id


def portal() -> Portal:
    """The parts of this process."""
    return current_app.extensions["portal"]


def this_login() -> Login:
    """The login behind this request. Only for views whose policy asks for one."""
    return current_user.login


def init_login(app: Flask) -> None:
    manager = LoginManager(app)
    # "strong" signs a tablet out when its address changes and believes any X-Forwarded-For.
    app.config["SESSION_PROTECTION"] = None

    @manager.user_loader
    def load(login_session_id: str) -> SignedIn | None:
        login = _resolve(touch=this_request_prolongs(app))
        if login is None or login.login_session.id != login_session_id:
            return None
        return SignedIn(login)


def key_cookie_name() -> str:
    """`__Host-` pins the cookie to this host and path; browsers take it over https only."""
    secure = portal().settings.public_url.startswith("https://")
    return "__Host-myphr-key" if secure else "myphr-key"


def start(login_session: LoginSession, cookie_value: str) -> None:
    """This browser is signed in from here on; the cookie goes out with whatever this request answers."""
    session.clear()
    renew_csrf()
    g.key_cookie = cookie_value
    login = _resolve(touch=False)
    assert login is not None and login.login_session.id == login_session.id
    login_user(SignedIn(login))
    session.pop("_id", None)  # a hash of address and browser: we compare neither
    left_over.bring_in(portal(), login.account.id, login.ring())
    reading.catch_up(portal(), login.account.id, login.ring())
    record_shares.catch_up(portal(), login)
    delegations.catch_up(portal(), login)
    app_key_wraps.catch_up(portal(), login)
    portal().search.catch_up(login.ring(), login.account.id, Around(portal(), login))


def stop() -> None:
    """This browser is signed out; its cookies are taken back."""
    logout_user()
    session.clear()
    g.key_cookie = None


def put_key_cookie(response: Response) -> Response:
    """after_request: send or take back the key cookie if this request changed it."""
    if "key_cookie" not in g:
        return response
    settings: dict[str, Any] = {
        "httponly": True, "samesite": "Lax", "path": "/",
        "secure": portal().settings.public_url.startswith("https://"),
    }  # fmt: skip
    if g.key_cookie is None:
        response.delete_cookie(key_cookie_name(), **settings)
    else:
        response.set_cookie(key_cookie_name(), g.key_cookie, **settings)
    return response


def _resolve(touch: bool) -> Login | None:
    value = g.key_cookie if "key_cookie" in g else request.cookies.get(key_cookie_name())
    return accounts.resolve(portal().database, value, touch=touch) if value else None
