"""An account that closes: its key ring, sign-ins, second steps and keys of identity are destroyed, its name forgotten.

What stays is a number without a name, to which the audit trail's rows lead. The database's half: what the keyholder
knows is `sharing.closing`'s to end, who calls this in its one commit.
"""

from typing import Any

from sqlalchemy import delete, update
from sqlmodel import Session, col, func, select

from myphr.database import now
from myphr.errors import AccountNeeded
from myphr.people import authorities
from myphr.people.models import (
    Account,
    AttributeGrant,
    Identity,
    KeyStatement,
    LoginSession,
    Passkey,
    PendingSignIn,
    StoredKeyRing,
    Totp,
)


def refuse_if_needed(db: Session, account: Account) -> None:
    """Raises AccountNeeded, in plain words, where something of others would be left without anybody."""
    officer_of = authorities.of_officer(db, account.id)
    if officer_of:
        names = " and ".join(one.name for one in officer_of)
        raise AccountNeeded(
            reason=f"you look after {names}. Ask the operator of this portal to name somebody else for it first"
        )
    if account.is_operator:
        others = select(func.count()).select_from(Account).where(
            col(Account.is_operator).is_(True), col(Account.closed_at).is_(None), Account.id != account.id
        )  # fmt: skip
        if db.exec(others).one() == 0:
            raise AccountNeeded(
                reason="you are the only one who runs this portal. Make somebody else its operator first"
                " (on the server: myphr operator, and their e-mail address)"
            )


def gids_of(db: Session, account_id: str) -> list[str]:
    """All that this account ever had: an operator may have given a new one."""
    return list(db.exec(select(Identity.gid).where(Identity.account_id == account_id)))


def destroy(db: Session, account_id: str) -> dict[str, int]:
    """Inside the caller's unit of work, whose lock is the account's row. How many of what went. Safe to repeat."""
    gids = gids_of(db, account_id)
    at = now()
    counts = {
        "key_ring": _rows(db, delete(StoredKeyRing).where(col(StoredKeyRing.account_id) == account_id)),
        "sign_ins": _rows(db, delete(LoginSession).where(col(LoginSession.account_id) == account_id))
        + _rows(db, delete(PendingSignIn).where(col(PendingSignIn.account_id) == account_id)),
        "second_steps": _rows(db, delete(Totp).where(col(Totp.account_id) == account_id))
        + _rows(db, delete(Passkey).where(col(Passkey.account_id) == account_id)),
        "identity_keys": _rows(
            db, update(Identity).where(col(Identity.gid).in_(gids), col(Identity.wrapped_keys) != b"")
            .values(wrapped_keys=b"")
        ),
        "roles": _rows(db, delete(AttributeGrant).where(col(AttributeGrant.member_gid).in_(gids))),
    }  # fmt: skip
    db.execute(delete(KeyStatement).where(col(KeyStatement.gid).in_(gids)))
    db.execute(
        update(Identity).where(col(Identity.gid).in_(gids), col(Identity.state) == "active")
        .values(state="revoked", revoked_at=at)
    )  # fmt: skip
    db.execute(
        update(Account).where(col(Account.id) == account_id, col(Account.closed_at).is_(None))
        # No address holds a colon before its "@": it frees the real one, and nobody can register this.
        .values(email=f"closed:{account_id}", name="", is_operator=False, closed_at=at)
    )  # fmt: skip
    return counts


def _rows(db: Session, statement: Any) -> int:
    return db.connection().execute(statement).rowcount
