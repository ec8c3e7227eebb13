"""Jobs of getting data in: an id in, one service call. Safe to run twice, beside itself or after a run that was cut
off: see `myphr.ingest.archives`, `myphr.ingest.reading.work` and `myphr.ingest.fetch.runs`."""

from jobs.portal import portal
from myphr.ingest import archives
from myphr.ingest.fhir import fetching
from myphr.ingest.pacs import fetching as pacs_fetching
from myphr.ingest.pacs import way as pacs_way
from myphr.ingest.reading import work


def expand_archive(archive_task_id: str) -> None:
    """Unpack one uploaded archive into the record, or note why not."""
    archives.expand(portal(), archive_task_id)


# The same work under another name, for the sweep: RQ holds a job whose worker was killed for "running" for a while,
# and refuses a second one of that name for so long.
reexpand_archive = expand_archive


def read_items(account_id: str) -> None:
    """What files say, and their pictures: as many of the account's waiting ones as fit into one turn."""
    work.run(portal(), account_id)


def read_items_further(account_id: str) -> None:
    """The next turn. Under the other name: RQ refuses a second job of a name that is still running."""
    work.run(portal(), account_id, again=work.JOB)


def fetch_from_hospital(fetch_id: str) -> None:
    """Ask a hospital's FHIR server for the patient's records, or note why not."""
    fetching.run(portal(), fetch_id)


refetch_from_hospital = fetch_from_hospital  # for the sweep, as above


def look_at_pacs(fetch_id: str) -> None:
    """Ask a practice's PACS what it has of the patient, or note why not."""
    pacs_fetching.look(portal(), fetch_id)


def fetch_from_pacs(fetch_id: str) -> None:
    """Fetch what she chose of it, as much as fits into one turn, or note why not."""
    pacs_fetching.run(portal(), fetch_id)


def refetch_from_pacs(fetch_id: str) -> None:
    """The next turn. Under the other name: RQ refuses a second job of a name that is still running."""
    pacs_fetching.run(portal(), fetch_id, again=pacs_way.FETCH)


look_at_pacs_again = look_at_pacs  # for the sweep, as above
