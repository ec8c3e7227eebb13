"""The reaper: makes the rows, the queue and the hypervisor agree again, every 15 seconds.

Finds VM sessions and machines whose worker died, virtual machines without a row, rows without a virtual machine, and
sessions whose time is up. Decides here, acts through the same services as everybody else. Touches nothing outside our
pool and our range of numbers. Safe to run twice; one at a time by lease. Called by `jobs.sweep`.
"""

import datetime as dt
import logging

from sqlalchemy import update
from sqlmodel import col, select

from myphr.database import now
from myphr.errors import HypervisorRefused, HypervisorUnreachable
from myphr.machines import lease, pool, vm_sessions
from myphr.machines.models import Machine, VmSession
from myphr.machines.parts import Parts
from myphr.machines.proxmox import ListedMachine, MachineGone
from myphr.machines.states import COMING_UP, STARTING, StateConflict

LOST_SECONDS = 10  # a row that nobody drives for this long has lost its worker or its job
CHECK_SECONDS_MAX = 300  # a doctor that takes longer with its machine has died
HOPELESS_FACTOR = 3  # a start that takes this many times the limit is over, whoever drives it

log = logging.getLogger(__name__)


def sweep(parts: Parts) -> None:
    """One round. What cannot be done now (hypervisor away) is left for the next."""
    try:
        with lease.hold(parts.redis, "sweep", "machines") as mine:
            _note_input(parts)
            _end_overdue(parts)
            _resume_vm_sessions(parts)
            mine()
            _resume_machines(parts)
            _end_checks(parts)
            try:
                listed = parts.hypervisor.list_machines()
                _compare(parts, listed, mine)
                pool.refill(parts)
            except (HypervisorUnreachable, HypervisorRefused) as error:
                log.warning("sweep: %s %s", error.code, error.detail)
    except (lease.LeaseTaken, lease.LeaseLost):
        return


def _older_than(seconds: float) -> dt.datetime:
    return now() - dt.timedelta(seconds=seconds)


def _note_input(parts: Parts) -> None:
    """Copy the screen gateway's news of input into the rows, which outlive Redis."""
    with parts.database.read() as db:
        live = db.exec(select(VmSession).where(VmSession.state == "live")).all()
    for vm_session in live:
        seen = vm_sessions.last_input_at(parts, vm_session)
        if vm_session.last_input_at is None or seen > vm_session.last_input_at:
            with parts.database.write() as db:
                db.connection().execute(
                    update(VmSession).where(col(VmSession.id) == vm_session.id).values(last_input_at=seen)
                )


def _end_overdue(parts: Parts) -> None:
    with parts.database.read() as db:
        live = db.exec(select(VmSession).where(VmSession.state == "live")).all()
    for vm_session in live:
        if vm_session.ends_at is not None and vm_session.ends_at <= now():
            vm_sessions.end(parts, vm_session.id, "time")
        elif vm_sessions.idle_end(parts, vm_session) <= now():
            vm_sessions.end(parts, vm_session.id, "idle")


def _resume_vm_sessions(parts: Parts) -> None:
    with parts.database.read() as db:
        starting = db.exec(select(VmSession).where(col(VmSession.state).in_(STARTING))).all()
        ending = db.exec(select(VmSession).where(VmSession.state == "ending")).all()
    for vm_session in starting:
        hopeless = dt.timedelta(seconds=HOPELESS_FACTOR * parts.settings.start_seconds_max)
        if vm_session.created_at + hopeless < now():
            _fail_hopeless(parts, vm_session)
        elif _nobody_at(parts, "vm-session", vm_session.id, vm_session.changed_at):
            # Under another name than the first job: that one may still count as running for a while after the
            # worker was killed, and would make this a no-op. The lease decides who really drives.
            vm_sessions.enqueue_start(parts, vm_session.id, "jobs.machines.resume_vm_session")
    for vm_session in ending:
        if _nobody_at(parts, "vm-session", vm_session.id, vm_session.changed_at):
            parts.queue.enqueue("jobs.machines.resume_vm_session_end", vm_session.id, seconds_max=300)


def _nobody_at(parts: Parts, kind: str, row_id: str, changed_at: dt.datetime) -> bool:
    return changed_at < _older_than(LOST_SECONDS) and not lease.is_held(parts.redis, kind, row_id)


def _fail_hopeless(parts: Parts, vm_session: VmSession) -> None:
    try:
        with parts.database.write() as db:
            vm_sessions.fail(db, vm_session, "machine-failed")
    except StateConflict:
        return
    if vm_session.machine_id:
        pool.give_up(parts, vm_session.machine_id, "machine-failed")


def _resume_machines(parts: Parts) -> None:
    with parts.database.read() as db:
        machines = db.exec(select(Machine).where(col(Machine.state).in_((*COMING_UP, "destroying")))).all()
        sessions = {s.machine_id: s for s in db.exec(select(VmSession).where(col(VmSession.machine_id).is_not(None)))}
    for machine in machines:
        vm_session = sessions.get(machine.id)
        if machine.state == "destroying":
            if _nobody_at(parts, "destroy", machine.id, machine.changed_at):
                parts.queue.enqueue("jobs.machines.redestroy_machine", machine.id)
        elif vm_session is not None:
            # Its session's worker brings it up. A session that is over cannot use it any more.
            if vm_session.state in ("ended", "failed"):
                pool.give_up(parts, machine.id, "machine-failed")
        elif machine.purpose == "check":
            continue  # its doctor brings it up
        elif _nobody_at(parts, "machine", machine.id, machine.changed_at):
            seconds_max = parts.settings.start_seconds_max
            if machine.created_at < _older_than(HOPELESS_FACTOR * seconds_max):
                pool.give_up(parts, machine.id, "machine-failed")
            else:
                parts.queue.enqueue("jobs.machines.rewarm_machine", machine.id, seconds_max=seconds_max + 60)


def _end_checks(parts: Parts) -> None:
    with parts.database.read() as db:
        left = db.exec(
            select(Machine.id).where(Machine.purpose == "check", Machine.created_at < _older_than(CHECK_SECONDS_MAX))
        ).all()
    for machine_id in left:
        pool.give_up(parts, machine_id, "machine-failed")


def _compare(parts: Parts, listed: list[ListedMachine], mine: lease.Lease) -> None:
    """Rows against virtual machines, both ways."""
    there = {machine.vmid: machine for machine in listed}
    with parts.database.read() as db:
        rows = {row.vmid: row for row in db.exec(select(Machine).where(Machine.state != "destroyed")).all()}
    for vmid, found in there.items():
        if vmid not in rows:
            mine()
            _destroy_orphan(parts, found)
    for row in rows.values():
        if row.state in ("warm", "claimed"):
            mine()
            _check_alive(parts, row)


def _destroy_orphan(parts: Parts, found: ListedMachine) -> None:
    # Asked again: the row may have been written after the list of rows was read.
    with parts.database.read() as db:
        row = db.exec(select(Machine).where(Machine.vmid == found.vmid)).first()
    if row is not None and row.state != "destroyed":
        return
    log.warning("machine number %s has no row: destroyed", found.vmid)
    try:
        parts.hypervisor.destroy(found.vmid, node=found.node)
    except (HypervisorUnreachable, HypervisorRefused) as error:
        log.error("machine number %s cannot be destroyed: %s", found.vmid, error.detail)


def _check_alive(parts: Parts, machine: Machine) -> None:
    """A warm or claimed machine must run. The list lags behind, so its own status is asked."""
    try:
        running = parts.hypervisor.status(machine.vmid, node=machine.node) == "running"
    except MachineGone:
        running = False
    with parts.database.read() as db:
        vm_session = db.exec(select(VmSession).where(VmSession.machine_id == machine.id)).first()
    if running:
        if vm_session is not None and vm_session.state in ("ended", "failed"):
            log.warning("machine %s outlived its VM session", machine.id)
            pool.give_up(parts, machine.id, "machine-failed")
        return
    log.warning("machine %s is not running any more", machine.id)
    if vm_session is None:
        pool.give_up(parts, machine.id, "machine-failed")
    elif vm_session.state == "live":
        vm_sessions.end(parts, vm_session.id, "failure")
    elif vm_session.state in ("connecting", "opening"):
        pass  # its worker meets the same fact and tries another machine
    elif vm_session.state in ("ended", "failed"):
        pool.give_up(parts, machine.id, "machine-failed")
