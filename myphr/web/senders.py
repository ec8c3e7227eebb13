"""Who sends by a drop-off: the bearer of its token (RFC 6750, 2.1), where no cookie is looked at, or the browser that
opened its link. And how many may send at once."""

import collections
import contextlib
import re
import threading
from collections.abc import Iterator

from flask import request

from myphr.errors import AppKeyClosed, DropOffClosed, NotFound, TooManySenders
from myphr.ingest import drop_offs
from myphr.ingest.drop_offs import Grant, LinkPage
from myphr.sharing import app_keys
from myphr.sharing.app_keys import Reader
from myphr.web.login import portal

LINK_COOKIE = "myphr-drop-off"
# Of the 64 threads that also serve the pages: a practice that sends in many streams must not take them all.
STREAMS_PER_DROP_OFF = 8
STREAMS_MAX = 24
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class _Streams:
    """How many requests of each drop-off are under way in this process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._of: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def one(self, drop_off_id: str) -> Iterator[None]:
        """Raises TooManySenders."""
        with self._guard:
            if self._of[drop_off_id] >= STREAMS_PER_DROP_OFF or self._of.total() >= STREAMS_MAX:
                raise TooManySenders()
            self._of[drop_off_id] += 1
        try:
            yield
        finally:
            with self._guard:
                self._of[drop_off_id] -= 1
                self._of += collections.Counter()  # forgets those at zero


streams = _Streams()


def load_grant() -> Grant:
    """The drop-off whose token this request carries. Raises DropOffClosed, DropOffFull."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token.strip()):
        raise DropOffClosed()
    return drop_offs.by_token(portal(), token.strip())


def load_app_key() -> Reader:
    """What the app whose key this request carries may read. Raises AppKeyClosed."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token.strip()):
        raise AppKeyClosed()
    return app_keys.by_token(portal(), token.strip())


def load_link(drop_off_id: object) -> LinkPage:
    """The page of the link that this browser opened. Raises NotFound, DropOffLinkClosed."""
    return open_link(drop_off_id, request.cookies.get(LINK_COOKIE, ""))


def open_link(drop_off_id: object, token: str) -> LinkPage:
    """Raises NotFound for a wrong secret, DropOffLinkClosed."""
    if not _TOKEN.fullmatch(token):
        raise NotFound("drop-off link")
    return drop_offs.by_link(portal(), str(drop_off_id), token)
