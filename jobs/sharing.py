"""Jobs of sharing the record: an id in, one service call. Safe to run twice, beside itself or after a run that was cut
off: see `myphr.sharing.rewrapping`."""

from jobs.portal import portal
from myphr.sharing import rewrapping


def rewrap_share(rewrap_task_id: str) -> None:
    """The files' keys of one share under its new key."""
    rewrapping.run(portal(), rewrap_task_id)


# The same work under another name, for the sweep: RQ holds a job whose worker was killed for "running" for a while,
# and refuses a second one of that name for so long.
rewrap_share_again = rewrap_share
