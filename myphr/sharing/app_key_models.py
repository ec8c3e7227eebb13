"""Tables of app keys: what an app of the patient's own may read. Its name and the files' keys stand only sealed."""

import datetime as dt

from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class AppKey(SQLModel, table=True):
    """A key that the patient gave an app. Of its token the hash is stored; the token alone opens `AppKeyStudy`."""

    __tablename__ = "app_key"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    sealed_name: bytes  # the app in the patient's words, envelope to the owner
    token_sha256: str = Field(unique=True)
    state: str = Field(default="open", index=True)  # see myphr.sharing.app_keys: open, revoked, expired
    expires_at: dt.datetime
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    last_used_at: dt.datetime | None = None
    # What wraps the rows of its studies, envelope to the owner. None: made before there was one, or over.
    sealed_key: bytes | None = None
    covers_all: bool = False  # also studies that come later; else those that have a row


class AppKeyStudy(SQLModel, table=True):
    """One study that an app key opens. Rows go with the key's end."""

    __tablename__ = "app_key_study"

    app_key_id: str = Field(foreign_key="app_key.id", primary_key=True)
    study_id: str = Field(foreign_key="study.id", primary_key=True)
    wrapped_deks: bytes  # JSON, under a key from the token: see docs/formats/app-key.md; empty: a file was deleted
    wrapped_at: dt.datetime | None = None  # None: not all that the study has is in it
