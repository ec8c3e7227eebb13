"""The table of drop-offs: what a patient lets a provider send. Who the provider is stands here only sealed."""

import datetime as dt

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class DropOff(SQLModel, table=True):
    """A grant to one provider to send files into one record, and nothing else: no reading, no listing. The token is
    stored hashed; the AE title is an address, told in clear on every association, and stored as it is."""

    __tablename__ = "drop_off"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    sealed_name: bytes  # the provider in the patient's words, envelope to the owner
    token_sha256: str = Field(unique=True)
    ae_title: str = Field(unique=True)
    state: str = Field(default="open", index=True)  # see myphr.ingest.states: open, full, revoked, expired
    files_max: int
    bytes_max: int = Field(sa_type=BigInteger)
    files_count: int = 0
    bytes_count: int = Field(default=0, sa_type=BigInteger)
    expires_at: dt.datetime
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    last_file_at: dt.datetime | None = None
    wrapped_page: bytes | None = None  # JSON under a key from the token: whose record and which practice, for its page
    sealed_address: bytes | None = None  # where the link was sent, envelope to the owner
    mail_id: str | None = None  # the mail that carries the link
    opened_at: dt.datetime | None = None  # when the link was opened last, to ten minutes
