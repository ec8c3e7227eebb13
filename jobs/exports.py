"""Jobs of exports: an id in, one service call. Safe to run twice, beside itself or after a run that was cut off: see
`myphr.records.exports`."""

from jobs.portal import portal
from myphr.ingest import identify
from myphr.records import exports


def make_export(export_id: str) -> None:
    """The zip of one record, or a note why not."""
    exports.run(portal(), export_id, identify.pronom_of)


# The same work under another name, for the sweep: RQ holds a job whose worker was killed for "running" for a minute,
# and refuses a second one of that name for so long.
make_export_again = make_export
