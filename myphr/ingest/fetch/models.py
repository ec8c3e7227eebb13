"""Columns that every table of fetches has. What a worker has to know stands sealed, while it works; the rest counts."""

import datetime as dt

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class FetchRow(SQLModel):
    """One fetch. The subclass is the table, and names its first state."""

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    state: str = Field(index=True)
    sealed_for_worker: bytes | None = None  # envelope of JSON: the plan of this way in; gone once the fetch is over
    step: int = 0  # rises with each commit of a run: whoever expects another number is overtaken
    items_count: int = 0
    bytes_count: int = Field(default=0, sa_type=BigInteger)
    error_code: str | None = None  # one of the way's reasons
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
