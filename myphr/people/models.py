"""Tables of accounts, key rings, sign-ins, identities, second steps, and who holds what at which authority."""

import datetime as dt

from sqlalchemy import UniqueConstraint
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


class PendingSignIn(SQLModel, table=True):
    """A password that was right, waiting five minutes for the second step. `sealed_ring` opens only with the key in
    that browser's cookie, as in `LoginSession`; there is no login session yet."""

    __tablename__ = "pending_sign_in"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    token_sha256: str
    sealed_ring: bytes
    ring_changed_at: dt.datetime  # of the key ring that was opened: another password since ends this
    challenge: bytes  # for a passkey; the row is used once, therefore the challenge too
    device: str = ""
    expires_at: dt.datetime


class Identity(SQLModel, table=True):
    """A global id (GID), given once and never again. A person's keys under it are wrapped under their key ring."""

    __tablename__ = "identity"

    gid: str = Field(default_factory=new_id, primary_key=True)
    kind: str = "person"  # person, authority
    account_id: str | None = Field(default=None, foreign_key="account.id", index=True)
    state: str = "active"  # active, revoked: for good
    wrapped_keys: bytes = b""  # myphr.people.identity_keys; empty until the first sign-in
    created_at: dt.datetime = Field(default_factory=now)
    revoked_at: dt.datetime | None = None


class Certificate(SQLModel, table=True):
    """One certificate of the CA for a GID, 24 hours long. Not what decides: that is its chain, and the CA's list."""

    __tablename__ = "certificate"

    serial: str = Field(primary_key=True)  # hex
    gid: str = Field(foreign_key="identity.gid", index=True)
    der: bytes
    issued_at: dt.datetime
    expires_at: dt.datetime
    revoked_at: dt.datetime | None = None


class KeyStatement(SQLModel, table=True):
    """A person's public keys, signed with the key of their certificate: `myphr.crypto.statements.KeyStatement`."""

    __tablename__ = "key_statement"

    gid: str = Field(primary_key=True, foreign_key="identity.gid")
    statement: bytes
    certificate: bytes  # DER, the one it was signed under
    signed_at: dt.datetime = Field(default_factory=now)


class Totp(SQLModel, table=True):
    """An authenticator app (RFC 6238). Counts as a second step once `confirmed_at` is set."""

    __tablename__ = "totp"

    account_id: str = Field(primary_key=True, foreign_key="account.id")
    sealed_secret: bytes  # wrapped under a service key
    last_step: int = 0  # the newest 30 s step whose code was taken: no code is taken twice
    created_at: dt.datetime = Field(default_factory=now)
    confirmed_at: dt.datetime | None = None


class Passkey(SQLModel, table=True):
    """A passkey (WebAuthn level 2) of an account, as its second step."""

    __tablename__ = "passkey"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    credential_id: bytes = Field(unique=True)
    public_key: bytes  # COSE
    sign_count: int
    device: str = ""  # where it was made, in plain words
    created_at: dt.datetime = Field(default_factory=now)
    last_used_at: dt.datetime | None = None


class Authority(SQLModel, table=True):
    """An organisation that says what people are. Its keys are with the keyholder; here stand its name and officer."""

    __tablename__ = "authority"

    gid: str = Field(primary_key=True, foreign_key="identity.gid")
    name: str  # plain words: "St Mary's Hospital"
    kind: str  # hospital, practice, registrar
    officer_account_id: str = Field(foreign_key="account.id", index=True)
    created_at: dt.datetime = Field(default_factory=now)
    closed_at: dt.datetime | None = None


class AttributeGrant(SQLModel, table=True):
    """The portal's copy of who holds what, for the sharing screens. The keyholder's own list decides."""

    __tablename__ = "attribute_grant"
    __table_args__ = (UniqueConstraint("authority_gid", "member_gid", "name", "value"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    authority_gid: str = Field(foreign_key="authority.gid", index=True)
    member_gid: str = Field(foreign_key="identity.gid", index=True)
    name: str
    value: str = ""
    granted_at: dt.datetime = Field(default_factory=now)
    ends_at: dt.datetime
    taken_at: dt.datetime | None = None
