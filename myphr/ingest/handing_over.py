"""Files that a provider hands over on the page behind its link: what an upload asks of its drop-off.

The row is asked before anything is taken (files and bytes on their way count as come) and again in the commit that
files it. Called by `web/handing_over.py`; `ingest.uploads` does the receiving.
"""

from sqlmodel import Session, col, func, select

from myphr.database import now
from myphr.errors import DropOffClosed, DropOffFull, UploadTooLarge
from myphr.ingest import drop_offs
from myphr.ingest.models import DropOff
from myphr.ingest.uploads import UNFINISHED
from myphr.records.filing import Filed
from myphr.records.items import RecordParts
from myphr.records.models import Upload


class PageSender:
    """One drop-off as the sender of uploads (`uploads.Sender`)."""

    source = drop_offs.SOURCE

    def __init__(self, parts: RecordParts, grant: drop_offs.Grant) -> None:
        self._parts = parts
        self.drop_off_id = grant.drop_off_id
        self.account_id = grant.account_id

    def check_room(self, db: Session, more_bytes: int) -> None:
        row = db.get(DropOff, self.drop_off_id)
        if row is None or row.state not in drop_offs.LIVE or row.expires_at <= now():
            raise DropOffClosed()
        if more_bytes > self._parts.settings.drop_off_object_bytes_max:
            raise UploadTooLarge()
        files, size = db.exec(
            select(func.count(), func.coalesce(func.sum(Upload.total_bytes), 0)).where(
                Upload.drop_off_id == row.id, col(Upload.state).in_(UNFINISHED)
            )
        ).one()
        if row.files_count + files >= row.files_max or row.bytes_count + size + more_bytes > row.bytes_max:
            raise DropOffFull()

    def count(self, db: Session, filed: Filed, size: int) -> None:
        drop_offs.count(self._parts, self.drop_off_id, db, filed, size)
