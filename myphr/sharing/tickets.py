"""Screen tickets: what a page hands the browser so that it may connect to one screen, once, within 30 seconds.

Minted by `web`, verified by the screen gateway; both hold `ServiceKeys.ticket_key`. Format: docs/formats/ticket.md.
Pure: knows no clock, database or Redis. That a ticket is used once is the gateway's part (`jti`), and so is asking
the database whether the grant still holds.
"""

import base64
import binascii
import dataclasses
import datetime as dt
import hmac
import json
import re
import secrets
from hashlib import sha256

from myphr.errors import TicketRefused

LIFETIME_SECONDS = 30
TEXT_CHARS_MAX = 1024
_CONTEXT = b"myphr/ticket/1|"
_GRANT = re.compile(r"(owner|share):[a-z0-9-]{1,64}")
_ID = re.compile(r"[a-z0-9-]{1,64}")
_JTI = re.compile(r"[A-Za-z0-9_-]{8,64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScreenTicket:
    """`grant` is "owner:<login session id>" or "share:<share id>"; `visit` is the ShareVisit's id for a share, None
    for the owner; `access` is view or control; `jti` names this one ticket."""

    vm_session_id: str
    grant: str
    visit: str | None
    access: str
    expires_at: dt.datetime
    jti: str


def issue(
    key: bytes, *, vm_session_id: str, grant: str, access: str, now: dt.datetime, visit: str | None = None
) -> str:
    """A fresh ticket that is good for LIFETIME_SECONDS from `now`. The caller has checked the right to it."""
    return mint(key, ScreenTicket(
        vm_session_id=vm_session_id, grant=grant, visit=visit, access=access,
        expires_at=now + dt.timedelta(seconds=LIFETIME_SECONDS), jti=secrets.token_urlsafe(16),
    ))  # fmt: skip


def mint(key: bytes, ticket: ScreenTicket) -> str:
    """The ticket as text: base64url of its JSON, a dot, base64url of its MAC. Raises ValueError for odd fields."""
    _check(ticket)
    payload = json.dumps(
        {
            "v": 1, "s": ticket.vm_session_id, "g": ticket.grant, "i": ticket.visit, "a": ticket.access,
            "e": int(ticket.expires_at.timestamp()), "j": ticket.jti,
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip
    return f"{_encode(payload)}.{_encode(_mac(key, payload))}"


def verify(key: bytes, text: str, now: dt.datetime) -> ScreenTicket:
    """The ticket, if `key` made it and it is still good. Raises TicketRefused."""
    if len(text) > TEXT_CHARS_MAX:
        raise TicketRefused("too long")
    payload_text, dot, mac_text = text.partition(".")
    payload, mac = _decode(payload_text), _decode(mac_text)
    # Canonical text only: otherwise one ticket would have several spellings.
    if not dot or not hmac.compare_digest(mac, _mac(key, payload)) or f"{_encode(payload)}.{_encode(mac)}" != text:
        raise TicketRefused("not ours")
    try:
        fields = json.loads(payload)
        ticket = ScreenTicket(
            vm_session_id=fields["s"], grant=fields["g"], visit=fields["i"], access=fields["a"],
            expires_at=dt.datetime.fromtimestamp(fields["e"], dt.UTC), jti=fields["j"],
        )  # fmt: skip
        if fields["v"] != 1:
            raise ValueError("version")
        _check(ticket)
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        raise TicketRefused("not a ticket of this version") from None
    if now >= ticket.expires_at:
        raise TicketRefused("expired")
    if ticket.expires_at - now > dt.timedelta(seconds=LIFETIME_SECONDS + 5):
        # A minter with a wrong clock would otherwise make tickets that outlive the memory of used ones.
        raise TicketRefused("too far ahead")
    return ticket


def _check(ticket: ScreenTicket) -> None:
    if not (
        _ID.fullmatch(ticket.vm_session_id)
        and _GRANT.fullmatch(ticket.grant)
        and (ticket.visit is None) == ticket.grant.startswith("owner:")
        and (ticket.visit is None or _ID.fullmatch(ticket.visit))
        and ticket.access in ("view", "control")
        and _JTI.fullmatch(ticket.jti)
    ):
        raise ValueError("a field of the ticket is not of its form")


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.new(key, _CONTEXT + payload, sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TicketRefused("not base64url") from None
