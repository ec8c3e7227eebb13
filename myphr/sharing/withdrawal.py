"""What ends when access ends: VM sessions, and with them the screens, that show files of a share.

Called by `record_shares` after the vault said no. Safe to repeat."""

from collections.abc import Sequence

from sqlmodel import col, select

from myphr.machines import vm_sessions
from myphr.machines.models import VmSession
from myphr.machines.states import VM_SESSION
from myphr.people.models import Identity
from myphr.sharing.compartments import Parts
from myphr.sharing.record_models import VmSessionShare


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
