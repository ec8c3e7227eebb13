"""Login sessions: one row per signed-in browser, and the cookie that alone opens its sealed key ring.

Cookie value: `<login session id>.<token>.<ring key>`, both 43 characters of base64url. The server stores the token's
SHA-256 and the ring sealed under the ring key, so that the database without the browser opens nothing.
"""

import base64
import dataclasses
import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from sqlmodel import Session, col, delete, or_, select, update

from myphr.crypto.envelope import context_for, unwrap, wrap
from myphr.database import Database, new_id, now
from myphr.errors import NotFound
from myphr.people.keyring import KeyRing
from myphr.people.models import Account, LoginSession

IDLE_SECONDS_MAX = 1_800  # NIST SP 800-63B-4, 2.2.3 with the stricter of the two usual readings
LIFE_SECONDS_MAX = 43_200
TOUCH_SECONDS = 60  # a click within a minute of the last writes nothing
KEPT_SECONDS = 86_400  # rows of ended login sessions; what happened stands in the audit trail
DEVICE_CHARACTERS_MAX = 60

_COOKIE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})")


@dataclasses.dataclass
class Login:
    """A signed-in person of one request."""

    account: Account
    login_session: LoginSession
    ring_key: bytes = dataclasses.field(repr=False)
    database: Database = dataclasses.field(repr=False)
    _ring: KeyRing | None = dataclasses.field(default=None, repr=False)

    def ring(self) -> KeyRing:
        """The owner's keys, opened on first use. Raises EnvelopeError if the row and the cookie do not fit."""
        if self._ring is None:
            context = context_for("login-ring", self.login_session.id)
            self._ring = KeyRing.from_bytes(unwrap(self.ring_key, self.login_session.sealed_ring, context=context))
        return self._ring


def start(db: Session, account: Account, ring: KeyRing, device: str) -> tuple[LoginSession, str]:
    """A new login session and its cookie value, inside the caller's unit of work."""
    token, ring_key, begun = secrets.token_bytes(32), secrets.token_bytes(32), now()
    row_id = new_id()
    row = LoginSession(
        id=row_id, account_id=account.id, token_sha256=hashlib.sha256(token).hexdigest(),
        sealed_ring=wrap(ring_key, ring.to_bytes(), context=context_for("login-ring", row_id)),
        device="".join(c for c in device if c.isprintable())[:DEVICE_CHARACTERS_MAX],
        created_at=begun, last_seen_at=begun, expires_at=begun + dt.timedelta(seconds=LIFE_SECONDS_MAX),
    )
    db.add(row)
    return row, cookie_value_of(row.id, token, ring_key)


def cookie_value_of(row_id: str, token: bytes, ring_key: bytes) -> str:
    return f"{row_id}.{_text(token)}.{_text(ring_key)}"


def parts_of_cookie(cookie_value: str) -> tuple[str, bytes, bytes] | None:
    """(row's id, token, ring key), or None for anything that has not the form of a cookie of ours."""
    match = _COOKIE.fullmatch(cookie_value)
    return (match[1], _bytes(match[2]), _bytes(match[3])) if match else None


def resolve(
    database: Database, cookie_value: str, touch: bool = True, *, at: dt.datetime | None = None
) -> Login | None:
    """The login behind a cookie, or None if it is not (or no longer) one: forged, revoked, idle for 30 minutes, older
    than 12 hours, account closed. `touch` marks it as used; polls pass False so that they never prolong it."""
    found = parts_of_cookie(cookie_value)
    if found is None:
        return None
    at = at or now()
    row_id, token, ring_key = found
    with database.read() as db:
        row = db.get(LoginSession, row_id)
        account = db.get(Account, row.account_id) if row else None
    if row is None or account is None:
        return None
    if not hmac.compare_digest(hashlib.sha256(token).hexdigest(), row.token_sha256):
        return None
    if not _is_live(row, account, at):
        return None
    if touch and (at - row.last_seen_at).total_seconds() >= TOUCH_SECONDS:
        with database.write() as db:
            # One column only: a click cannot undo what another browser does to this row meanwhile.
            db.execute(update(LoginSession).where(col(LoginSession.id) == row.id).values(last_seen_at=at))
        row.last_seen_at = at
    return Login(account, row, ring_key, database)


def is_live(database: Database, login_session_id: str, *, at: dt.datetime | None = None) -> bool:
    """Whether this browser is still signed in: what the screen gateway asks for a grant "owner:<id>"."""
    with database.read() as db:
        row = db.get(LoginSession, login_session_id)
        account = db.get(Account, row.account_id) if row else None
    return row is not None and account is not None and _is_live(row, account, at or now())


def live_of(database: Database, account_id: str, *, at: dt.datetime | None = None) -> Sequence[LoginSession]:
    """The account's signed-in browsers, last used first."""
    at = at or now()
    with database.read() as db:
        account = db.get(Account, account_id)
        rows = db.exec(
            select(LoginSession)
            .where(LoginSession.account_id == account_id, col(LoginSession.revoked_at).is_(None))
            .order_by(col(LoginSession.last_seen_at).desc())
        ).all()
    return [row for row in rows if account and _is_live(row, account, at)]


def revoke_one(db: Session, account_id: str, login_session_id: str) -> LoginSession:
    """Ends one login session of this account and erases its sealed ring. Raises NotFound for any other, and for one
    that has ended already."""
    row = db.get(LoginSession, login_session_id)
    if row is None or row.account_id != account_id or row.revoked_at is not None:
        raise NotFound()
    row.revoked_at, row.sealed_ring = now(), b""
    db.add(row)
    return row


def revoke_all(db: Session, account_id: str, *, but: str | None = None) -> int:
    """Ends all login sessions of this account (but one); returns how many were live until now."""
    rows = db.exec(
        select(LoginSession).where(LoginSession.account_id == account_id, col(LoginSession.revoked_at).is_(None))
    ).all()
    account = db.get(Account, account_id)
    at, live = now(), 0
    for row in rows:
        if row.id != but:
            live += account is not None and _is_live(row, account, at)
            row.revoked_at, row.sealed_ring = at, b""
            db.add(row)
    return live


def sweep(database: Database, *, at: dt.datetime | None = None) -> int:
    """Deletes rows that ended more than a day ago, whatever ended them; returns how many. Safe to run twice."""
    at = at or now()
    ended = at - dt.timedelta(seconds=KEPT_SECONDS)
    idle = ended - dt.timedelta(seconds=IDLE_SECONDS_MAX)
    with database.write() as db:
        result = db.execute(
            delete(LoginSession).where(
                or_(
                    col(LoginSession.revoked_at) < ended,
                    col(LoginSession.expires_at) < ended,
                    col(LoginSession.last_seen_at) < idle,
                )
            )
        )
    return result.rowcount  # type: ignore[attr-defined]


def _is_live(row: LoginSession, account: Account, at: dt.datetime) -> bool:
    return (
        row.revoked_at is None
        and account.closed_at is None
        and at < row.expires_at
        and (at - row.last_seen_at).total_seconds() < IDLE_SECONDS_MAX
    )


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=")


