"""Opening what others shared in a machine of the reader's own, and its end when an emergency's hour is over.

The reader's keys open the share as for its page; the machine gets the files' keys in its sealed manifest, like the
owner's machines. What the viewer saves goes to the reader's own record. Called by the pages and the sweep.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlmodel import Session, col, func, select

from myphr.database import Database, now
from myphr.errors import NotFound
from myphr.machines import vm_sessions
from myphr.machines.models import VmSession
from myphr.machines.states import VM_SESSION
from myphr.people import identities
from myphr.people.models import Account, Identity
from myphr.sharing import delegated_to_me, shared_with_me, withdrawal
from myphr.sharing.compartments import Parts
from myphr.sharing.record_models import Compartment, CompartmentReader, EmergencyOpening, VmSessionShare
from myphr.sharing.shared_with_me import Opened

if TYPE_CHECKING:
    from myphr.people.accounts import Login


def open_in_viewer(
    parts: Parts, login: "Login", share_id: str, viewer: Any, seen: Callable[[Opened], None] | None = None
) -> VmSession:
    """A VM session of this reader over the files of a share; `seen` is told what they are. Raises as
    `shared_with_me.open_shared` and `vm_sessions.request` do; NotFound also when it was taken back in this very
    moment."""
    opened = shared_with_me.open_shared(parts, login, share_id)
    gid = identities.gid_of(login)
    if seen is not None:
        seen(opened)

    def note(db: Session, vm_session: VmSession) -> None:
        # Taking back changes this row first and looks for sessions afterwards: it is refused here, or ended there.
        row = db.get(Compartment, opened.compartment_id, with_for_update=True)
        if row is None or row.state != "active":
            raise NotFound("share")
        db.refresh(row)
        if row.kind == "labels":
            let_in = delegated_to_me.is_let_in(db, share_id, gid)
        else:
            let_in = row.preset == "emergency" or db.get(CompartmentReader, (share_id, row.epoch, gid)) is not None
        if row.state != "active" or not let_in:
            raise NotFound("share")
        db.add(VmSessionShare(vm_session_id=vm_session.id, compartment_id=row.id))

    return vm_sessions.request_opened(
        parts, login, viewer, [one.item for one in opened.items], [one.dek for one in opened.items],
        [one.details for one in opened.items], note,
    )  # fmt: skip


def owner_shown(database: Database, vm_session_id: str) -> str | None:
    """Whose files a reader's machine shows; None for a machine over one's own record."""
    with database.read() as db:
        return db.exec(
            select(Account.name)
            .join(Compartment, col(Compartment.account_id) == col(Account.id))
            .join(VmSessionShare, col(VmSessionShare.compartment_id) == col(Compartment.id))
            .where(VmSessionShare.vm_session_id == vm_session_id)
        ).first()


def end_emergencies(parts: Parts) -> int:
    """Ends the machines over emergency shares whose reader's hour is over; returns how many. Safe to repeat."""
    with parts.database.read() as db:
        using = db.exec(
            select(VmSessionShare.compartment_id, Identity.gid, func.max(EmergencyOpening.until))
            .join(VmSession, col(VmSession.id) == col(VmSessionShare.vm_session_id))
            .join(Compartment, col(Compartment.id) == col(VmSessionShare.compartment_id))
            .join(Identity, col(Identity.account_id) == col(VmSession.account_id))
            .join(EmergencyOpening, (col(EmergencyOpening.compartment_id) == col(Compartment.id))
                  & (col(EmergencyOpening.gid) == col(Identity.gid)))
            .where(Compartment.preset == "emergency", col(VmSession.state).not_in(("ending", *VM_SESSION.final)))
            .group_by(VmSessionShare.compartment_id, Identity.gid)
        ).all()  # fmt: skip
    over = [(share_id, gid) for share_id, gid, until in using if until <= now()]
    return sum(withdrawal.end_sessions(parts, [share_id], gid) for share_id, gid in over)
