"""Machines from order to rubble: brings one up step by step, keeps the warm pool filled, destroys.

Every step may be repeated: the row says how far it is and which hypervisor task is under way, so after kill -9 the
next worker goes on from there. Knows no patient and no data. Called by `vm_sessions`, `reaper` and jobs.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import redis
from sqlalchemy import update
from sqlmodel import col

from myphr.database import now
from myphr.errors import HypervisorRefused, HypervisorUnreachable, MachineFailed
from myphr.machines import addresses, lease, placement
from myphr.machines.models import Machine
from myphr.machines.parts import Parts
from myphr.machines.proxmox import AgentAway, MachineExists, MachineGone, TaskFailed, Template
from myphr.machines.states import COMING_UP, StateConflict, move

STATUS_FILE = "/run/myphr/status.json"
STATUS_BYTES_MAX = 16_384
GUEST_STATES = ("waiting", "claimed", "mounted", "opening", "ready", "failed")
CLONE_TRIES_MAX = 3
NEWS_CHANNEL = "myphr:machines"

Tick = Callable[[], None]
log = logging.getLogger(__name__)


def clone_name(machine: Machine) -> str:
    """The name at the hypervisor: tells our clone from a foreign machine with the same number."""
    return f"phr-{machine.id}"


# -- the guest's word -------------------------------------------------------------------------------
def read_status(parts: Parts, machine: Machine) -> dict | None:
    """What the guest agent says, checked; None while it does not say anything. A guest is hostile: whatever does not
    fit raises MachineFailed."""
    try:
        raw = parts.hypervisor.read_file(machine.vmid, STATUS_FILE, node=machine.node)
    except AgentAway:
        return None
    if not raw:
        return None
    if len(raw) > STATUS_BYTES_MAX:
        raise MachineFailed("status file too large")
    try:
        status = json.loads(raw)
    except (ValueError, RecursionError):
        raise MachineFailed("status file is not JSON") from None
    if not isinstance(status, dict) or status.get("state") not in GUEST_STATES:
        raise MachineFailed("status file of an unknown kind")
    return status


# -- bringing up ------------------------------------------------------------------------------------
def bring_up(parts: Parts, machine_id: str, tick: Tick, deadline: float) -> Machine:
    """Until the machine is warm (or claimed already). `deadline` is of time.monotonic().

    Only one worker drives a machine: another one waits here and takes over when the first falls silent. Raises
    MachineFailed when it will not come up; HypervisorUnreachable may be tried again; StateConflict when it was told
    to go."""
    while True:
        try:
            with lease.hold(parts.redis, "machine", machine_id) as mine:

                def both() -> None:
                    mine()
                    tick()
                    if time.monotonic() > deadline:
                        raise MachineFailed("not up in time")

                while (machine := _load(parts, machine_id)).state in COMING_UP:
                    both()
                    _STEPS[machine.state](parts, machine, both)
                break
        except lease.LeaseTaken:
            machine = _load(parts, machine_id)
            if machine.state not in COMING_UP:
                break
            tick()
            if time.monotonic() > deadline:
                raise MachineFailed("not up in time") from None
            time.sleep(0.1)
    if machine.state not in ("warm", "claimed"):
        raise StateConflict(f"machine {machine_id} was told to go")
    return machine


def _load(parts: Parts, machine_id: str) -> Machine:
    with parts.database.read() as db:
        machine = db.get(Machine, machine_id)
    if machine is None:
        raise MachineFailed(f"no machine row {machine_id}")
    return machine


def _step(parts: Parts, machine: Machine, event: str, **values: Any) -> None:
    with parts.database.write() as db:
        move(db, machine, event, **values)
    tell(parts, machine.id)


def tell(parts: Parts, machine_id: str) -> None:
    """News for the files gateway, which opens a door for each machine; it looks by itself every second anyway."""
    try:
        parts.redis.publish(NEWS_CHANNEL, machine_id)
    except redis.exceptions.RedisError:
        pass


def _remember_task(parts: Parts, machine: Machine, task: str) -> None:
    """The hypervisor's task, so that a later worker waits for this one instead of asking again."""
    with parts.database.write() as db:
        db.connection().execute(
            update(Machine).where(col(Machine.id) == machine.id, col(Machine.state) == machine.state).values(task=task)
        )
    machine.task = task


def _ordered(parts: Parts, machine: Machine, tick: Tick) -> None:
    _step(parts, machine, "clone", task=None)
    # Asked for here and not in the next step: there, "no task" means that the asking was cut off.
    _ask_for_clone(parts, machine, tick)


def _ask_for_clone(parts: Parts, machine: Machine, tick: Tick) -> None:
    for attempt in range(CLONE_TRIES_MAX):
        try:
            # No turn while we already queue here longer than a start may take: the tick tells.
            with parts.hypervisor.clone_turn() as renew:

                def both(renew: Tick = renew) -> None:
                    renew()
                    tick()

                task = parts.hypervisor.clone(
                    machine.template_vmid, machine.vmid, clone_name(machine), node=machine.node
                )
                _remember_task(parts, machine, task)
                parts.hypervisor.wait_task(task, parts.settings.start_seconds_max, both)
        except TaskFailed as error:
            if not error.locked or attempt == CLONE_TRIES_MAX - 1:
                raise MachineFailed(f"clone: {error.detail}") from None
            continue
        except MachineExists as error:
            raise MachineFailed(f"clone: {error.detail}") from None
        except MachineGone:
            raise MachineFailed("the template is gone") from None
        _step(parts, machine, "cloned", task=None)
        return


def _cloning(parts: Parts, machine: Machine, tick: Tick) -> None:
    if machine.task is None:
        # Cut off between the asking and the note of it. If the clone is there under our name, it was asked for.
        try:
            config = parts.hypervisor.config(machine.vmid, node=machine.node)
        except MachineGone:
            raise MachineFailed("cut off while asking for the clone") from None
        if config.get("name") != clone_name(machine):
            raise MachineFailed("the number is taken by another machine")
        if config.get("lock"):
            tick()
            time.sleep(0.3)
            return
    else:
        try:
            parts.hypervisor.wait_task(machine.task, parts.settings.start_seconds_max, tick)
        except (TaskFailed, MachineExists, MachineGone) as error:
            raise MachineFailed(f"clone: {error.detail}") from None
    _step(parts, machine, "cloned", task=None)


def _cloned(parts: Parts, machine: Machine, tick: Tick) -> None:
    settings = parts.settings
    guest = addresses.guest_address(settings, machine.vmid)
    # Unknown (the token may not look) is treated as on: the rules do no harm where it is off.
    if guest is not None and parts.hypervisor.cluster_firewall() is not False:
        host, port = addresses.files_address(settings)
        parts.hypervisor.set_firewall(machine.vmid, str(guest.ip), host, port, node=machine.node)
    tick()
    _step(parts, machine, "start", task=None)


def _starting(parts: Parts, machine: Machine, tick: Tick) -> None:
    try:
        if machine.task is None:
            _remember_task(parts, machine, parts.hypervisor.start(machine.vmid, node=machine.node))
        assert machine.task is not None
        parts.hypervisor.wait_task(machine.task, parts.settings.start_seconds_max, tick)
    except TaskFailed as error:
        # A second start, after a crash, finds it running: that is what was wanted.
        if parts.hypervisor.status(machine.vmid, node=machine.node) != "running":
            raise MachineFailed(f"start: {error.detail}") from None
    except HypervisorRefused as error:
        raise MachineFailed(f"start: {error.detail}") from None
    _step(parts, machine, "started", task=None, booted_at=now())


def _booting(parts: Parts, machine: Machine, tick: Tick) -> None:
    pause = 0.05
    while True:
        try:
            status = read_status(parts, machine)
        except HypervisorRefused as error:
            raise MachineFailed(f"boot: {error.detail}") from None
        if status is not None:
            if status["state"] == "waiting":
                _step(parts, machine, "booted")
                return
            if status["state"] == "failed":
                raise MachineFailed("the guest reports a failure before the claim")
            if status["state"] != "waiting":
                raise MachineFailed("the guest was claimed before its time")
        tick()
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


_STEPS: dict[str, Callable[[Parts, Machine, Tick], None]] = {
    "ordered": _ordered, "cloning": _cloning, "cloned": _cloned, "starting": _starting, "booting": _booting,
}  # fmt: skip


def give_up(parts: Parts, machine_id: str, failure: str | None = None) -> None:
    """Tell a machine to go, whatever it is doing, and have it destroyed. Safe to repeat."""
    with parts.database.write() as db:
        machine = db.get(Machine, machine_id)
        if machine is None or machine.state in ("destroying", "destroyed"):
            return
        move(db, machine, "give_up", failure=failure)
    parts.queue.enqueue("jobs.machines.destroy_machine", machine_id)


# -- the warm pool ------------------------------------------------------------------------------------
def refill(parts: Parts) -> None:
    """Order what the warm pool lacks, give up what is too much or of an older template. Safe to run twice, and
    beside itself: it decides under the placement lock."""
    sizes = {name: size for name, size in parts.settings.warm_pool_sizes.items() if size > 0}
    newest: dict[str, Template] = {}
    if sizes:
        for template in parts.hypervisor.templates():  # oldest first: the newest stays
            newest[template.name] = template
    ordered: list[str] = []
    given_up: list[str] = []
    with parts.database.write() as db:
        placement.one_at_a_time(db)
        waiting = placement.waiting_sessions(db)
        for name, template in newest.items():
            free = placement.free_machines(db, name)
            fresh = [m for m in free if m.template_vmid == template.vmid]
            old = [m for m in free if m.template_vmid != template.vmid]
            missing = sizes.get(name, 0) - len(fresh)
            for _ in range(missing):
                if placement.alive(db) + waiting >= parts.settings.machines_max:
                    break
                ordered.append(placement.order(db, parts.settings, template).id)
            ready = sum(machine.state == "warm" for machine in fresh)
            no_room = placement.alive(db) + waiting >= parts.settings.machines_max
            # An outdated one serves until a fresh one is warm, unless it stands in the way of that one.
            outdated = old if ready >= sizes.get(name, 0) else old[-missing:] if missing > 0 and no_room else []
            for machine in (*outdated, *fresh[sizes.get(name, 0) :]):
                move(db, machine, "give_up")
                given_up.append(machine.id)
        for machine in placement.free_machines(db):
            if sizes.get(machine.template, 0) == 0 and machine.id not in given_up:
                move(db, machine, "give_up")
                given_up.append(machine.id)
    for machine_id in ordered:
        parts.queue.enqueue("jobs.machines.warm_machine", machine_id, seconds_max=parts.settings.start_seconds_max + 60)
    for machine_id in given_up:
        parts.queue.enqueue("jobs.machines.destroy_machine", machine_id)


def run_warm(parts: Parts, machine_id: str) -> None:
    """Bring a pool machine up. Safe to run twice; a failure gives the machine up, and the next refill orders anew."""
    deadline = time.monotonic() + parts.settings.start_seconds_max
    while True:
        try:
            bring_up(parts, machine_id, lambda: None, deadline)
            return
        except StateConflict:
            return  # claimed, told to go, or another worker has taken over
        except HypervisorUnreachable as error:
            if time.monotonic() > deadline:
                give_up(parts, machine_id, error.code)
                return
            time.sleep(1)
        except (MachineFailed, HypervisorRefused) as error:
            log.warning("machine %s did not come up: %s", machine_id, error.detail)
            give_up(parts, machine_id, error.code)
            return


# -- the end of a machine -----------------------------------------------------------------------------
def run_destroy(parts: Parts, machine_id: str) -> None:
    """See a machine that was told to go off the hypervisor. Safe to run twice. Raises HypervisorUnreachable or
    HypervisorRefused when that fails for now: the row stays in `destroying` and the sweep repeats it."""
    try:
        with lease.hold(parts.redis, "destroy", machine_id, wait_seconds=1) as mine:
            machine = _load(parts, machine_id)
            if machine.state != "destroying":
                return
            if machine.task is not None:
                # A clone under way would come to life after we looked; a start would fight with the stop.
                try:
                    parts.hypervisor.wait_task(machine.task, 60, mine)
                except HypervisorRefused:
                    pass  # failed or unknown: either way it is over
            parts.hypervisor.destroy(machine.vmid, node=machine.node, tick=mine)
            _step(parts, machine, "gone", destroyed_at=now(), task=None)
    except lease.LeaseTaken:
        return
