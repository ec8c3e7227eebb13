"""Tables of hospitals' FHIR servers and of the fetches from them. Which hospital a fetch asked stands only sealed."""

import datetime as dt

from sqlmodel import Field, SQLModel

from myphr.database import new_id, now
from myphr.ingest.fetch.models import FetchRow


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


class FhirFetch(FetchRow, table=True):
    """One time that a patient gets records from one hospital. `sealed_for_worker` is there as long as the fetch lasts:
    the hospital's permission and what is still to be asked. Everything else in clear counts."""

    __tablename__ = "fhir_fetch"

    state: str = Field(default="asked", index=True)  # see myphr.ingest.fhir.states
    state_sha256: str = Field(unique=True)  # of the OAuth state (RFC 6749, 10.12)
    sealed_for_owner: bytes  # envelope of JSON: which hospital; until the patient is back also the PKCE verifier
    sealed_notes: bytes | None = None  # envelope to the owner of JSON: what the hospital did not give
    steps_left: int = 0
    entries_new: int = 0
    entries_changed: int = 0
    entries_known: int = 0
