"""The reader's time zone: their browser says it in a cookie (static/app.js), UTC until then. Decides words only."""

import datetime as dt
import re
import zoneinfo

from flask import g, has_request_context, request

COOKIE = "myphr-zone"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,31}){0,2}")


def zone_named(name: str) -> dt.tzinfo:
    """The zone, or UTC for anything that is none: the cookie is a stranger's text."""
    if not _NAME.fullmatch(name):
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return dt.UTC


def reader_zone() -> dt.tzinfo:
    if not has_request_context():
        return dt.UTC
    if "zone" not in g:
        g.zone = zone_named(request.cookies.get(COOKIE, "").replace("%2F", "/"))
    return g.zone


def local(at: dt.datetime) -> dt.datetime:
    """A stored time as the reader's clock shows it."""
    return (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).astimezone(reader_zone())
