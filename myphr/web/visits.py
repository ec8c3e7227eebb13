"""A caregiver's visit: the cookie that one share's link and passcode earned, valid below that share's address only.

Used by the policy for visitors and by the caregiver pages.
"""

import dataclasses

from flask import request

from myphr.errors import NotFound, ShareClosed
from myphr.sharing import shares
from myphr.sharing.models import Share, ShareVisit
from myphr.web.login import portal

COOKIE = "myphr-visit"


@dataclasses.dataclass(frozen=True)
class Visit:
    share: Share
    visit: ShareVisit


def load_visit(share_id: object) -> Visit:
    """The visit behind this request to this share. Raises ShareClosed for everything else, without saying why."""
    cookie = request.cookies.get(COOKIE)
    if not cookie:
        raise ShareClosed
    try:
        share, visit = shares.resolve_visit(portal(), cookie)
    except NotFound:
        raise ShareClosed from None
    if share.id != str(share_id):
        raise ShareClosed
    return Visit(share, visit)
