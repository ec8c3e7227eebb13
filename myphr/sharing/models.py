"""Tables of shares of a live screen, the visits through them, and mails on their way out."""

import datetime as dt

from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class Share(SQLModel, table=True):
    """A grant to one caregiver to see (or control) one VM session. The link's secret is stored hashed."""

    __tablename__ = "share"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    vm_session_id: str = Field(foreign_key="vm_session.id", index=True)
    email: str
    access: str  # view, control
    state: str = Field(index=True)  # see myphr.sharing.states
    secret_sha256: str
    passcode_mac: str | None = None  # None: no passcode asked
    attempts_left: int = 5
    expires_at: dt.datetime
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    first_opened_at: dt.datetime | None = None
    closed_at: dt.datetime | None = None


class ShareVisit(SQLModel, table=True):
    """One browser that opened a share's link with the right passcode."""

    __tablename__ = "share_visit"

    id: str = Field(default_factory=new_id, primary_key=True)
    share_id: str = Field(foreign_key="share.id", index=True)
    token_sha256: str = Field(unique=True)
    device: str = ""
    created_at: dt.datetime = Field(default_factory=now)
    last_seen_at: dt.datetime = Field(default_factory=now)


class Mail(SQLModel, table=True):
    """One mail. `sealed_values` holds what its template needs, for the worker only, until it is sent."""

    __tablename__ = "mail"

    id: str = Field(default_factory=new_id, primary_key=True)
    template: str  # templates/emails/<template>.{subject.txt,body.txt,body.html}
    recipient: str
    sealed_values: bytes | None
    state: str = "waiting"  # see myphr.sharing.states: waiting, sending, sent, failed
    attempts: int = 0
    share_id: str | None = Field(default=None, foreign_key="share.id")
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    sent_at: dt.datetime | None = None
