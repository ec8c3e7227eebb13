"""The table of accounts that close: what is still to be done after the one commit that destroyed the keys."""

import datetime as dt

from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class AccountClosing(SQLModel, table=True):
    """One account that was closed. Nothing in it opens anything or names anybody."""

    __tablename__ = "account_closing"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", unique=True)
    deletion_id: str = Field(foreign_key="deletion.id")  # the proof
    state: str = Field(default="keyless", index=True)  # see myphr.sharing.states
    revocation: bytes | None = None  # the owner's last word to the keyholder, good for 60 s
    index_object: str | None = None  # the search index's file
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
