"""Table of the audit trail. Rows are only ever inserted; `hash` chains each row to the one before."""

import datetime as dt

from sqlmodel import Field, SQLModel


class AuditEvent(SQLModel, table=True):
    """One thing that happened. `details` is canonical JSON of ids, counts and codes, never of contents or names."""

    __tablename__ = "audit_event"

    number: int = Field(primary_key=True)  # 1, 2, 3 ... without gaps
    at: dt.datetime
    event: str = Field(index=True)  # a name declared in myphr.audit.events
    account_id: str | None = Field(default=None, index=True)  # whose record
    actor_kind: str  # patient, caregiver, machine, system, operator
    actor_id: str | None = None  # account id, share id or machine id
    details: str = "{}"
    previous_hash: str  # hex SHA-256 of the row before; 64 zeros for the first
    hash: str = Field(unique=True)  # hex SHA-256 over previous_hash and the canonical row
