"""Tables of providers' PACS, of what links a record to a patient there, and of the fetches. A patient's number stands
only sealed, and as a keyed hash while the link holds."""

import datetime as dt

from sqlalchemy import BigInteger, UniqueConstraint
from sqlmodel import Field, SQLModel

from myphr.database import new_id, now
from myphr.ingest.fetch.models import FetchRow


class Pacs(SQLModel, table=True):
    """A provider's PACS as the operator entered it. Nothing secret: our own key is a file of the installation."""

    __tablename__ = "pacs"

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str  # as patients know it
    host: str
    port: int
    called_ae: str
    calling_ae: str
    tls: bool
    moves: bool = False  # it sends to our receiver (C-MOVE) what it is asked for; else on our own line (C-GET)
    ca_pem: str = ""  # whom we believe about its certificate; "": the CAs of this computer
    created_at: dt.datetime = Field(default_factory=now)
    closed_at: dt.datetime | None = None


class PacsLink(SQLModel, table=True):
    """That one account is one patient of one PACS, as somebody vouched for. Which PACS stands in clear: who vouched
    must be able to find the link and end it."""

    __tablename__ = "pacs_link"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    pacs_id: str = Field(foreign_key="pacs.id", index=True)
    state: str = Field(default="asked", index=True)  # see myphr.ingest.pacs.states
    code_sha256: str = Field(unique=True)
    sealed_for_owner: bytes  # envelope of JSON: the code while it is asked; then number, issuer, date of birth
    patient_key: str | None = Field(default=None, unique=True)  # keyed hash of PACS, issuer and number, while linked
    vouched: str | None = None  # keyed hash of whose link it is, to where, and who she is there: see `vouching`
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)


class PacsFetch(FetchRow, table=True):
    """One look at what a PACS has of one patient, and what she then fetched of it. `sealed_for_worker` is there only
    while a worker has to ask. Everything else in clear counts."""

    __tablename__ = "pacs_fetch"

    link_id: str = Field(foreign_key="pacs_link.id", index=True)
    state: str = Field(default="waiting", index=True)  # see myphr.ingest.pacs.states
    sealed_list: bytes | None = None  # envelope to the owner of JSON: the studies there are
    studies_count: int = 0  # there, and then chosen
    studies_done: int = 0
    files_total: int = 0
    known_count: int = 0
    refused_count: int = 0  # came and were not what was asked, or answers about another patient
    missing_count: int = 0


class PacsExpectation(SQLModel, table=True):
    """Images of one study that a PACS was asked to send to our receiver (C-MOVE), while it does. Who and which they are
    stands in keyed hashes: the receiver holds what comes against them. The counts are what came since the worker last
    took them over into the fetch."""

    __tablename__ = "pacs_expectation"
    __table_args__ = (UniqueConstraint("pacs_id", "message_id"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    fetch_id: str = Field(foreign_key="pacs_fetch.id", unique=True)
    pacs_id: str = Field(foreign_key="pacs.id", index=True)
    message_id: int  # of the C-MOVE-RQ; the PACS repeats it in each C-STORE-RQ
    number_hash: str
    birth_date_hash: str
    study_hash: str
    announced: bytes  # 16 bytes of the keyed hash of each instance
    files_left: int
    bytes_left: int = Field(sa_type=BigInteger)
    proof: str  # that a worker opened it: see `ingest.pacs.expectations`
    items_count: int = 0
    known_count: int = 0
    refused_count: int = 0
    wrong_count: int = 0  # of those refused: announced, but not what it was announced as
    bytes_count: int = Field(default=0, sa_type=BigInteger)
    refused_total: int = 0  # also those that were taken over
    stopped_by: str | None = None  # the reason why nothing more is taken
    expires_at: dt.datetime
