"""Tables of hospitals' FHIR servers and of the fetches from them. Which hospital a fetch asked stands only sealed."""

import datetime as dt

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class FhirServer(SQLModel, table=True):
    """A hospital that patients of this portal may fetch from, as the operator entered it. Nothing secret: we are a
    public client (docs/decisions/0221-smart-client.md). The origins are what its discovery said when it was entered;
    another one later stops the sign-in until the operator looked."""

    __tablename__ = "fhir_server"

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str  # as patients know it
    base: str  # without a slash at the end
    client_id: str
    authorization_origin: str
    token_origin: str
    created_at: dt.datetime = Field(default_factory=now)
    closed_at: dt.datetime | None = None


class FhirFetch(SQLModel, table=True):
    """One time that a patient gets records from one hospital. `sealed_for_worker` is there as long as the fetch lasts:
    the hospital's permission and what is still to be asked. Everything else in clear counts."""

    __tablename__ = "fhir_fetch"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    state: str = Field(default="asked", index=True)  # see myphr.ingest.fhir.states
    state_sha256: str = Field(unique=True)  # of the OAuth state (RFC 6749, 10.12)
    sealed_for_owner: bytes  # envelope of JSON: which hospital; until the patient is back also the PKCE verifier
    sealed_for_worker: bytes | None = None  # envelope of JSON: see myphr.ingest.fhir.fetching
    sealed_notes: bytes | None = None  # envelope to the owner of JSON: what the hospital did not give
    step: int = 0  # rises with each commit of a run: whoever expects another number is overtaken
    steps_left: int = 0
    items_count: int = 0
    bytes_count: int = Field(default=0, sa_type=BigInteger)
    entries_new: int = 0
    entries_changed: int = 0
    entries_known: int = 0
    error_code: str | None = None  # one of myphr.ingest.fhir.reasons.REASONS
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
