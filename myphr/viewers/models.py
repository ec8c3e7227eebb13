"""Tables of what people said about viewers. None of them says who: docs/decisions/0235-counted-without-identities.md.

Without row numbers on SQLite, because the order of rows would tell in which order they came.
"""

from sqlmodel import Field, SQLModel


class ViewerMemory(SQLModel, table=True):
    """What one account opened with what, and what she said of it: sealed to her, always the same size. Her own pages
    read it; the server cannot without her."""

    __tablename__ = "viewer_memory"

    account_id: str = Field(foreign_key="account.id", primary_key=True)
    sealed: bytes


class ViewerAnswer(SQLModel, table=True):
    """One answer that waits, sealed to the worker, until those of a few people can be counted in one go."""

    __tablename__ = "viewer_answer"
    __table_args__ = {"sqlite_with_rowid": False}

    id: str = Field(primary_key=True)  # derived from the key ring: one a VM session, and leads back to neither
    sealed: bytes


class ViewerVoice(SQLModel, table=True):
    """One person's last word on one viewer and one kind of items. `token` is derived from her key ring: the same person
    finds her word again and changes it; nobody else, the portal with all its keys included, can tell whose it is."""

    __tablename__ = "viewer_voice"
    __table_args__ = {"sqlite_with_rowid": False}

    token: str = Field(primary_key=True)
    kind: str = Field(index=True)  # of myphr.viewers.contents: "dicom/MR/image"
    viewer: str
    opened: bool
