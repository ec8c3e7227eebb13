"""Tables of machines and VM sessions. Their states change only through the tables in `myphr.machines.states`."""

import datetime as dt

from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class Machine(SQLModel, table=True):
    """One linked clone of a template: serves one VM session, once. `vmid` is never used again."""

    __tablename__ = "machine"

    id: str = Field(default_factory=new_id, primary_key=True)
    vmid: int = Field(unique=True)
    node: str
    template: str = Field(index=True)  # template name; its vmid is found by name in the template pool
    template_vmid: int = 0  # the revision it was cloned from; a warm machine of an older one is replaced
    purpose: str = "session"  # session: for patients; check: the doctor's own, never given to anybody
    state: str = Field(index=True)
    task: str | None = None  # UPID of the hypervisor task under way, to resume after a crash
    failure: str | None = None  # an error code
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    booted_at: dt.datetime | None = None  # switched on
    destroyed_at: dt.datetime | None = None


class VmSession(SQLModel, table=True):
    """A patient's use of one machine. The manifest (names, keys, object keys of the items) is sealed under the
    secret that only this one machine is given; the worker's copy of the secret is erased once delivered."""

    __tablename__ = "vm_session"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    machine_id: str | None = Field(default=None, foreign_key="machine.id", unique=True)
    viewer: str  # name in the catalogue
    template: str
    study_id: str | None = None
    item_id: str | None = None  # when one file was asked for: no more than study_id says of a study
    state: str = Field(index=True)
    tries: int = 0  # machines that failed before this one; a start is tried twice
    items_count: int = 0
    owner_public_key: bytes = b""  # results are sealed to it
    secret_sha256: str = ""
    secret_for_worker: bytes | None = None  # envelope to the worker; erased at claim
    sealed_manifest: bytes | None = None  # under a key derived from the secret; erased at the end
    isolation: str | None = None  # JSON: what the guest checked and what it found
    failure: str | None = None  # an error code
    end_reason: str | None = None  # owner, idle, time, failure, account
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)
    live_at: dt.datetime | None = None
    last_input_at: dt.datetime | None = None
    ends_at: dt.datetime | None = None  # the hard limit
    ended_at: dt.datetime | None = None


class ViewerCheck(SQLModel, table=True):
    """When a viewer last opened our sample of a kind of file, and when it last did not. About nobody's files."""

    __tablename__ = "viewer_check"

    viewer: str = Field(primary_key=True)  # name in the catalogue
    sample: str = Field(primary_key=True)  # format, and for DICOM its modality: "dicom SEG"
    template_vmid: int = 0  # the revision that was looked at: a new one is looked at again
    looked_at: dt.datetime = Field(default_factory=now)
    worked_at: dt.datetime | None = None
    failed_at: dt.datetime | None = None
    reason: str | None = None  # a word of `still_opens` for the last failure
