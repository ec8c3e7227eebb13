"""Which machine serves whom: reads and rows only, inside the caller's unit of work; talks to no hypervisor.

All of it runs under one lock, so two patients never get the last machine. Called by `vm_sessions` and `pool`.
"""

import datetime as dt

from sqlalchemy import ColumnElement, exists, func, text
from sqlmodel import Session, col, select

from myphr.database import now
from myphr.errors import AllMachinesInUse, HypervisorRefused
from myphr.machines.models import Machine, VmSession
from myphr.machines.proxmox import Template
from myphr.machines.states import ACTIVE, COMING_UP, move
from myphr.settings import Settings

_POSTGRESQL_LOCK = 0x6D79706872_6D  # "myphrm": one placement at a time in all processes
STUCK_SECONDS = 60  # a machine that takes longer to vanish counts as one in use


def one_at_a_time(db: Session) -> None:
    """SQLite has one writer by itself; PostgreSQL is told."""
    if db.get_bind().dialect.name == "postgresql":
        db.connection().execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRESQL_LOCK})


def _not_spoken_for(except_for: str | None = None) -> ColumnElement[bool]:
    taken = select(VmSession.id).where(col(VmSession.machine_id) == col(Machine.id))
    if except_for is not None:
        taken = taken.where(VmSession.id != except_for)
    return ~exists(taken)


def check_room(db: Session, settings: Settings) -> None:
    """Is there room for one more VM session? Raises AllMachinesInUse.

    Machines of the warm pool do not count: they are claimed or make room."""
    one_at_a_time(db)
    sessions = db.exec(select(func.count()).where(col(VmSession.state).in_(ACTIVE))).one()
    long_ago = now() - dt.timedelta(seconds=STUCK_SECONDS)
    stuck = db.exec(
        select(func.count()).where(
            Machine.state == "destroying",
            Machine.changed_at < long_ago,
            ~exists(select(VmSession.id).where(VmSession.machine_id == Machine.id, col(VmSession.state).in_(ACTIVE))),
        )
    ).one()
    if sessions + stuck >= settings.machines_max:
        raise AllMachinesInUse(f"{sessions} sessions, {stuck} machines stuck")


def alive(db: Session) -> int:
    """How many machines take room at this moment."""
    return db.exec(select(func.count()).where(Machine.state != "destroyed")).one()


def waiting_sessions(db: Session) -> int:
    """VM sessions that wait for a machine."""
    return db.exec(select(func.count()).where(VmSession.state == "requested")).one()


def free_machines(db: Session, template: str | None = None) -> list[Machine]:
    """Pool machines that no VM session has spoken for: warm ones first, newest template first, oldest machine first."""
    query = select(Machine).where(
        col(Machine.state).in_(("warm", *COMING_UP)), Machine.purpose == "session", _not_spoken_for()
    )
    if template is not None:
        query = query.where(Machine.template == template)
    found = db.exec(query).all()
    progress = {state: place for place, state in enumerate(("warm", *reversed(COMING_UP)))}
    return sorted(found, key=lambda m: (progress[m.state], -m.template_vmid, m.created_at))


def spoken_for_by(vm_session_id: str) -> ColumnElement[bool]:
    """Condition for `move`: no other VM session has this machine."""
    return _not_spoken_for(except_for=vm_session_id)


def order(db: Session, settings: Settings, template: Template, *, purpose: str = "session") -> Machine:
    """A new machine row with a number that was never used. Raises HypervisorRefused when the numbers are used up."""
    highest = db.exec(select(func.max(Machine.vmid))).one()
    vmid = max(settings.vmid_first, (highest or 0) + 1)
    if vmid > settings.vmid_last:
        raise HypervisorRefused("no machine numbers left: raise MYPHR_VMID_LAST")
    machine = Machine(
        vmid=vmid, node=template.node, template=template.name, template_vmid=template.vmid, state="ordered",
        purpose=purpose,
    )  # fmt: skip
    db.add(machine)
    db.flush()
    return machine


def assign(db: Session, settings: Settings, vm_session: VmSession, template: Template | None) -> Machine | None:
    """Give this waiting VM session a machine: a warm one, else one that is coming up, else a new one of `template`.

    Returns None when there is no room yet; a pool machine of another template is then told to go. With `template`
    None nothing new is ordered (the caller has not asked the hypervisor for it yet)."""
    one_at_a_time(db)
    free = free_machines(db, vm_session.template)
    machine: Machine | None = free[0] if free else None
    if machine is None:
        if template is None:
            return None
        if alive(db) < settings.machines_max:
            machine = order(db, settings, template)
        else:
            others = free_machines(db)
            if others:
                move(db, others[-1], "give_up")
            return None
    move(db, vm_session, "assign", machine_id=machine.id)
    return machine
