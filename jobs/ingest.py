"""Jobs of getting data in: an id in, one service call. Safe to run twice, beside itself or after a run that was cut
off: see `myphr.ingest.archives`."""

from jobs.portal import portal
from myphr.ingest import archives


def expand_archive(archive_task_id: str) -> None:
    """Unpack one uploaded archive into the record, or note why not."""
    archives.expand(portal(), archive_task_id)


# The same work under another name, for the sweep: RQ holds a job whose worker was killed for "running" for a minute,
# and refuses a second one of that name for so long.
reexpand_archive = expand_archive
