"""Who sends by a drop-off: the bearer of its token (RFC 6750, 2.1). No cookie is looked at."""

import re

from flask import request

from myphr.errors import DropOffClosed
from myphr.ingest import drop_offs
from myphr.ingest.drop_offs import Grant
from myphr.web.login import portal

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


def load_grant() -> Grant:
    """The drop-off whose token this request carries. Raises DropOffClosed, DropOffFull."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token.strip()):
        raise DropOffClosed()
    return drop_offs.by_token(portal(), token.strip())
