"""Between password and second step: the opened ring waits, sealed under a key in that browser's cookie, for 5 minutes.

No login session exists yet. Cookie value as in `login_sessions`: `<id>.<token>.<ring key>`. Called by `accounts`.
"""

import dataclasses
import datetime as dt
import hashlib
import hmac
import secrets

from sqlmodel import Session, col, delete

from myphr.crypto.envelope import context_for, unwrap, wrap
from myphr.database import Database, new_id, now
from myphr.errors import SecondStepOver
from myphr.people.keyring import KeyRing
from myphr.people.login_sessions import DEVICE_CHARACTERS_MAX, cookie_value_of, parts_of_cookie
from myphr.people.models import Account, PendingSignIn, StoredKeyRing

LIFE_SECONDS = 300
CHALLENGE_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Pending:
    """Somebody whose password was right."""

    account: Account
    row: PendingSignIn
    ring_key: bytes = dataclasses.field(repr=False)

    def ring(self) -> KeyRing:
        """Raises EnvelopeError if the row and the cookie do not fit."""
        return KeyRing.from_bytes(unwrap(self.ring_key, self.row.sealed_ring, context=_context(self.row.id)))


def start(db: Session, account: Account, stored: StoredKeyRing, ring: KeyRing, device: str) -> str:
    """A new row and its cookie value, inside the caller's unit of work. Rows that ran out go at the same time."""
    token, ring_key, begun, row_id = secrets.token_bytes(32), secrets.token_bytes(32), now(), new_id()
    db.execute(delete(PendingSignIn).where(col(PendingSignIn.expires_at) < begun))
    db.add(PendingSignIn(
        id=row_id, account_id=account.id, token_sha256=hashlib.sha256(token).hexdigest(),
        sealed_ring=wrap(ring_key, ring.to_bytes(), context=_context(row_id)), ring_changed_at=stored.changed_at,
        challenge=secrets.token_bytes(CHALLENGE_BYTES),
        device="".join(c for c in device if c.isprintable())[:DEVICE_CHARACTERS_MAX],
        expires_at=begun + dt.timedelta(seconds=LIFE_SECONDS),
    ))  # fmt: skip
    return cookie_value_of(row_id, token, ring_key)


def resolve(database: Database, cookie_value: str, *, at: dt.datetime | None = None) -> Pending:
    """Raises SecondStepOver for a cookie that is not, or no longer, one of these."""
    found = parts_of_cookie(cookie_value)
    if found is None:
        raise SecondStepOver("no such cookie")
    row_id, token, ring_key = found
    with database.read() as db:
        row = db.get(PendingSignIn, row_id)
        account = db.get(Account, row.account_id) if row else None
    if row is None or account is None or account.closed_at is not None or row.expires_at <= (at or now()):
        raise SecondStepOver("no such row, or ran out")
    if not hmac.compare_digest(hashlib.sha256(token).hexdigest(), row.token_sha256):
        raise SecondStepOver("another token")
    return Pending(account, row, ring_key)


def use(db: Session, pending: Pending) -> None:
    """Takes the row away: one password makes one login session. Raises SecondStepOver if another request was first,
    or the password was changed meanwhile."""
    gone = db.execute(delete(PendingSignIn).where(col(PendingSignIn.id) == pending.row.id))
    stored = db.get(StoredKeyRing, pending.account.id, populate_existing=True, with_for_update=True)
    if gone.rowcount != 1 or stored is None or stored.changed_at != pending.row.ring_changed_at:  # type: ignore[attr-defined]
        raise SecondStepOver("used, or password changed")


def end_all(db: Session, account_id: str) -> None:
    """Nobody who gave the password before goes on from there: it was changed, or the identity revoked."""
    db.execute(delete(PendingSignIn).where(col(PendingSignIn.account_id) == account_id))


def _context(row_id: str) -> bytes:
    return context_for("pending-ring", row_id)
