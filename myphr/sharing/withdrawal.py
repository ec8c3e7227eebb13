"""What ends when access ends: VM sessions, and with them the screens, that show files of a share.

Called by `record_shares` and `delegations` after the vault said no, and by the pages where an organisation or the
operator took something away: the keyholder refuses the keys already, here the machines end and the shares ask for new
keys. Safe to repeat."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, update
from sqlmodel import col, or_, select

from myphr.machines import vm_sessions
from myphr.machines.models import VmSession
from myphr.machines.states import VM_SESSION
from myphr.people.models import Identity
from myphr.sharing.compartments import Parts
from myphr.sharing.record_models import Compartment, CompartmentReader, Delegation, VmSessionShare


def end_sessions(parts: Parts, compartment_ids: Sequence[str], gid: str | None) -> int:
    """Ends the VM sessions that use these shares, of one person or of all; returns how many."""
    query = (
        select(VmSession.id)
        .join(VmSessionShare, col(VmSessionShare.vm_session_id) == col(VmSession.id))
        .where(col(VmSessionShare.compartment_id).in_(compartment_ids),
               col(VmSession.state).not_in(("ending", *VM_SESSION.final)))
        .distinct()
    )  # fmt: skip
    if gid is not None:
        query = query.join(Identity, col(Identity.account_id) == col(VmSession.account_id)).where(Identity.gid == gid)
    with parts.database.read() as db:
        found = db.exec(query).all()
    for vm_session_id in found:
        vm_sessions.end(parts, vm_session_id, "withdrawn")
    return len(found)


def attribute_taken(parts: Parts, authority_gid: str, member_gid: str) -> int:
    """Somebody lost a role at this organisation: their machines over shares that ask for it end. Returns how many."""
    return _stale(parts, _of_authority(authority_gid), member_gid)


def authority_closed(parts: Parts, authority_gid: str) -> int:
    """An organisation is no more: all machines over shares through it end. Returns how many."""
    return _stale(parts, _of_authority(authority_gid), None)


def person_revoked(parts: Parts, gid: str) -> int:
    """An identity ended: so do this person's machines over others' files, and others' over theirs. Returns how many."""
    used = (
        select(VmSessionShare.compartment_id)
        .join(VmSession, col(VmSession.id) == col(VmSessionShare.vm_session_id))
        .join(Identity, col(Identity.account_id) == col(VmSession.account_id))
        .where(Identity.gid == gid)
    )
    theirs = or_(shared_with(gid), col(Compartment.id).in_(used))
    return _stale(parts, theirs, gid) + _stale(parts, col(Compartment.owner_gid) == gid, None)


def shared_with(gid: str) -> ColumnElement[bool]:
    """Of compartments: those whose keys this person has."""
    read = select(CompartmentReader.compartment_id).where(CompartmentReader.gid == gid)
    by_kind = select(Delegation.compartment_id).where(Delegation.gid == gid, Delegation.state == "active")
    return or_(col(Compartment.id).in_(read), col(Compartment.id).in_(by_kind))


def _of_authority(gid: str) -> ColumnElement[bool]:
    return or_(col(Compartment.authority_gid) == gid, col(Compartment.registrar_gid) == gid)


def _stale(parts: Parts, which: ColumnElement[bool], gid: str | None) -> int:
    active = (col(Compartment.state) == "active", which)
    with parts.database.write() as db:
        found = db.exec(select(Compartment.id).where(*active)).all()
        db.execute(update(Compartment).where(col(Compartment.id).in_(found)).values(stale=True))
    return end_sessions(parts, found, gid) if found else 0
