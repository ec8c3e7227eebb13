"""Tables of accounts, key rings and sign-ins."""

import datetime as dt

from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class Account(SQLModel, table=True):
    __tablename__ = "account"

    id: str = Field(default_factory=new_id, primary_key=True)
    email: str = Field(unique=True)  # case-folded
    name: str
    is_operator: bool = False
    created_at: dt.datetime = Field(default_factory=now)
    closed_at: dt.datetime | None = None


class StoredKeyRing(SQLModel, table=True):
    """The owner's key ring at rest: the public half in clear, the private half only wrapped.

    There is no password hash: a password is right when it opens `wrapped_by_password`.
    """

    __tablename__ = "key_ring"

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    suite: int  # myphr.crypto.envelope suite of the key pair
    public_key: bytes
    wrapped_by_password: bytes  # Argon2id parameters and salt, then the sealed ring
    wrapped_by_recovery: bytes
    changed_at: dt.datetime = Field(default_factory=now)


class LoginSession(SQLModel, table=True):
    """One signed-in browser. `sealed_ring` opens only with the key in that browser's cookie."""

    __tablename__ = "login_session"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    token_sha256: str
    sealed_ring: bytes
    device: str = ""  # short plain words from the user agent: "Chrome on Android"
    created_at: dt.datetime = Field(default_factory=now)
    last_seen_at: dt.datetime = Field(default_factory=now)
    expires_at: dt.datetime
    revoked_at: dt.datetime | None = None
