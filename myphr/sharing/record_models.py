"""Tables of shares of the record: compartments, their keys by epoch, who gets in, the files' keys under them.

Spec: docs/formats/compartment.md. Ids, states and times stand in clear; what is shared, under which title and why
somebody opened it in an emergency only sealed. `VmSessionShare` says which shares a running session shows.
"""

import datetime as dt

from sqlmodel import Field, SQLModel

from myphr.database import new_id, now


class Compartment(SQLModel, table=True):
    """What one owner shares with one group under one rule. `wrapped_plan` is the owner's own note of scope, audience,
    title and who was removed, under a key of their ring: a changed row does not make them share with somebody else."""

    __tablename__ = "compartment"

    id: str = Field(default_factory=new_id, primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    owner_gid: str = Field(foreign_key="identity.gid", index=True)
    kind: str  # named, policy, labels (one for all that an owner shares by kind)
    preset: str  # care-team, family, emergency, named, by-kind
    authority_gid: str | None = Field(default=None, index=True)  # whose attributes it asks for
    registrar_gid: str | None = None
    state: str = "active"  # active, withdrawn: for good
    stale: bool = False  # keys have to roll at the owner's next unlock
    epoch: int = 0
    wrapped_plan: bytes
    created_at: dt.datetime = Field(default_factory=now)
    withdrawn_at: dt.datetime | None = None


class CompartmentKey(SQLModel, table=True):
    """One epoch: the header that its key comes from, signed by the owner, and what the owner and the readers keep."""

    __tablename__ = "compartment_key"

    compartment_id: str = Field(primary_key=True, foreign_key="compartment.id")
    epoch: int = Field(primary_key=True)
    header: bytes
    signature: bytes
    wrapped_ck: bytes  # the key itself, under a key of the owner's ring
    wrapped_words: bytes  # title and words for the readers, under the key
    created_at: dt.datetime = Field(default_factory=now)


class CompartmentReader(SQLModel, table=True):
    """What one person needs besides their roles and the vault's half: an envelope to their HPKE key."""

    __tablename__ = "compartment_reader"

    compartment_id: str = Field(primary_key=True, foreign_key="compartment.id")
    epoch: int = Field(primary_key=True)
    gid: str = Field(primary_key=True, foreign_key="identity.gid", index=True)
    sealed: bytes  # named: the header's secret; policy: the key of the consent attribute
    since: dt.datetime = Field(default_factory=now)


class ItemWrap(SQLModel, table=True):
    """A file's key under the compartment's key of one epoch."""

    __tablename__ = "item_wrap"

    compartment_id: str = Field(primary_key=True, foreign_key="compartment.id")
    item_id: str = Field(primary_key=True)  # no foreign key: an erased item takes nothing with it, and opens nothing
    epoch: int = Field(primary_key=True)
    label_class_id: str | None = Field(default=None, index=True)  # by kind: whose key it is
    wrapped_dek: bytes


class LabelClass(SQLModel, table=True):
    """Files with equal labels, shared by kind under one key. `id` and `wrapped_labels` tell nobody but the owner which
    labels. `epoch`: of its newest key; behind the compartment's until a roll has come to it."""

    __tablename__ = "label_class"

    id: str = Field(primary_key=True)
    compartment_id: str = Field(foreign_key="compartment.id", index=True)
    epoch: int
    wrapped_labels: bytes


class LabelClassKey(SQLModel, table=True):
    """One epoch of a class: the header over its hashed labels, signed by the owner, and the key for the owner."""

    __tablename__ = "label_class_key"

    label_class_id: str = Field(primary_key=True, foreign_key="label_class.id")
    epoch: int = Field(primary_key=True)
    header: bytes
    signature: bytes
    wrapped_ck: bytes


class Delegation(SQLModel, table=True):
    """Who may open which kinds of files of one owner. `wrapped_plan`, under a key of the owner's ring: who and what."""

    __tablename__ = "delegation"

    id: str = Field(default_factory=new_id, primary_key=True)
    compartment_id: str = Field(foreign_key="compartment.id", index=True)
    gid: str = Field(foreign_key="identity.gid", index=True)
    state: str = "active"  # active, ended: for good
    wrapped_plan: bytes
    created_at: dt.datetime = Field(default_factory=now)
    ended_at: dt.datetime | None = None


class DelegationKey(SQLModel, table=True):
    """A delegate's key over labels of one epoch, sealed to them and signed by the owner."""

    __tablename__ = "delegation_key"

    delegation_id: str = Field(primary_key=True, foreign_key="delegation.id")
    epoch: int = Field(primary_key=True)
    sealed: bytes
    signature: bytes


class RewrapTask(SQLModel, table=True):
    """Wrapping the files' keys anew after a roll. The worker gets the keys of these epochs, sealed to it,
    and the owner's order to the vault to destroy the halves that are old then."""

    __tablename__ = "rewrap_task"

    id: str = Field(default_factory=new_id, primary_key=True)
    compartment_id: str = Field(foreign_key="compartment.id", index=True)
    to_epoch: int
    keys_for_worker: bytes | None
    destroy_order: bytes | None = None  # the owner's signed word for the vault; shown when done
    state: str = "waiting"  # waiting, done, closed (old halves destroyed), stopped (overtaken or withdrawn)
    done: int = 0
    total: int = 0
    created_at: dt.datetime = Field(default_factory=now)
    changed_at: dt.datetime = Field(default_factory=now)


class EmergencyOpening(SQLModel, table=True):
    """Somebody opened an emergency share. `sealed_reason` is an envelope to the owner of what they wrote."""

    __tablename__ = "emergency_opening"

    id: str = Field(default_factory=new_id, primary_key=True)
    compartment_id: str = Field(foreign_key="compartment.id", index=True)
    gid: str = Field(foreign_key="identity.gid")
    sealed_reason: bytes
    opened_at: dt.datetime
    until: dt.datetime


class AuthoritySeen(SQLModel, table=True):
    """The newest epoch table seen of an authority, as it signed it: an older one is refused."""

    __tablename__ = "authority_seen"

    authority_gid: str = Field(primary_key=True, foreign_key="identity.gid")
    epochs: bytes


class VmSessionShare(SQLModel, table=True):
    """A reader's VM session shows files of this compartment: it ends with the access."""

    __tablename__ = "vm_session_share"

    vm_session_id: str = Field(primary_key=True, foreign_key="vm_session.id")
    compartment_id: str = Field(primary_key=True, foreign_key="compartment.id", index=True)
