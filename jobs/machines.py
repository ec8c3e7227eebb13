"""Jobs about machines and VM sessions: an id in, one service call. Each may run twice, beside itself, or after its
first run was cut off, without harm: the services drive by state and lease."""

from jobs.portal import portal
from myphr.machines import pool, vm_sessions


def start_vm_session(vm_session_id: str) -> None:
    """From requested to live, or to a failure the page explains."""
    vm_sessions.run_start(portal(), vm_session_id)


# The same work under another name: RQ holds a job whose worker was killed for "running" for a while, and refuses a
# second one of that name for so long.
resume_vm_session = start_vm_session


def end_vm_session(vm_session_id: str) -> None:
    """Results in, shares closed, machine destroyed."""
    from myphr.sharing import shares

    parts = portal()
    shares.close_for_vm_session(parts, vm_session_id)
    vm_sessions.run_end(parts, vm_session_id)


resume_vm_session_end = end_vm_session


def warm_machine(machine_id: str) -> None:
    """Bring one pool machine up."""
    pool.run_warm(portal(), machine_id)


rewarm_machine = warm_machine


def destroy_machine(machine_id: str) -> None:
    """See one machine off the hypervisor."""
    pool.run_destroy(portal(), machine_id)


redestroy_machine = destroy_machine


def try_a_viewer() -> None:
    """Open one of our own samples, if none was opened lately and nobody has a machine."""
    from myphr import still_opens

    still_opens.try_next(portal())


def refill_pool() -> None:
    """Order what the warm pool lacks."""
    pool.refill(portal())


