"""One file of a provider on its way in, and the commits that deliveries share.

A delivery is sealed to the owner while it streams and counted by its drop-off in the commit that files it, so that a
revoked drop-off takes nothing that is still on its way. Called by the receiver and `stow`; knows no protocol.
"""

import threading
import time
from collections.abc import Callable, Sequence

from sqlmodel import Session

from myphr.errors import DropOffFull, PortalError, RecordFull, UploadTooLarge
from myphr.ingest import drop_offs, identify
from myphr.ingest.drop_offs import Grant
from myphr.ingest.upload_filing import check_disk
from myphr.records.filing import Filed, SealedFile, ask_to_read, check_room, file_sealed, remove_unfiled
from myphr.records.items import Facts, ItemWriter, RecordParts

ASK_SECONDS = 2.0
FILED_TOGETHER_MAX = 50  # in one commit: others wait that long for the database


class Delivery:
    """One file of a provider on its way in. `write`, then `finish`, or `abort`; nothing half-stored stays."""

    def __init__(self, parts: RecordParts, grant: Grant, filing: "FilingTogether | None" = None) -> None:
        """Raises StoreFull."""
        check_disk(parts)
        self._parts, self._grant, self._filing = parts, grant, filing or FilingTogether(parts)
        self._object_bytes_max = parts.settings.drop_off_object_bytes_max
        self._writer = ItemWriter(
            parts, grant.account_id, owner_public_key=grant.owner_public_key, source=drop_offs.SOURCE,
            source_id=grant.drop_off_id, describe=identify.describe,
            bytes_max=min(self._object_bytes_max, grant.bytes_left),
        )  # fmt: skip

    def write(self, plaintext: bytes | bytearray | memoryview) -> None:
        """Append. Raises UploadTooLarge, DropOffFull, StoreFull; the delivery is then aborted."""
        try:
            self._writer.write(plaintext)
        except RecordFull:
            raise (UploadTooLarge if self._writer.plain_bytes > self._object_bytes_max else DropOffFull)() from None

    def close_up(self, check: Callable[[Facts], None] | None = None) -> SealedFile:
        """Ends the container, which is not durable before `commit` and then in no record yet. `check` may refuse what
        the first bytes say it is, by a PortalError; nothing of it is left then."""
        sealed = self._writer.close_up(name_of)
        try:
            if check is not None:
                check(sealed.facts)
        except PortalError:
            self.abort()
            raise
        return sealed

    def commit(self) -> None:
        """Raises StoreFull; nothing of it is left then."""
        self._writer.commit()

    def finish(self, check: Callable[[Facts], None] | None = None) -> Filed:
        """The item, durable, in its study, counted and noted. `check` as in `close_up`.

        Raises DropOffClosed, DropOffFull, RecordFull, StoreFull."""
        sealed = self.close_up(check)
        self.commit()
        return self._filing.file(self._grant, sealed)

    def abort(self) -> None:
        """Leaves nothing behind. Harmless after finish."""
        self._writer.abort()


class _Waiting:
    """One sealed file that waits to be filed. `outcome` stands once `turn` is set, unless it is `to_lead`."""

    def __init__(self, grant: Grant, sealed: SealedFile) -> None:
        self.grant, self.sealed = grant, sealed
        self.turn = threading.Event()
        self.to_lead = False
        self.outcome: Filed | BaseException | None = None


class FilingTogether:
    """Files what several threads of this process have ready in one commit: a sync of the database costs the same for
    one file as for ten. Who comes while nobody files leads: takes all that wait for one record, files them, and hands
    on to the next. Nobody waits for company, and nobody's `file` returns before the commit that holds its file."""

    def __init__(self, parts: RecordParts) -> None:
        self._parts = parts
        self._guard = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._led = False
        self._asked_at: dict[str, float] = {}  # when the worker was last asked to read, by account
        self._unread: set[str] = set()

    def file(self, grant: Grant, sealed: SealedFile) -> Filed:
        """Raises as `Delivery.finish`."""
        mine = _Waiting(grant, sealed)
        with self._guard:
            self._waiting.append(mine)
            leads, self._led = not self._led, True
        if not leads:
            mine.turn.wait()
        if leads or mine.to_lead:
            self._lead(mine)
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        assert mine.outcome is not None
        return mine.outcome

    def file_all(self, grant: Grant, files: Sequence[SealedFile]) -> list[Filed | PortalError]:
        """What one sender has ready at once: in one commit, unless one of them is refused. Raises what befell all of
        them, an absent database say."""
        group = [_Waiting(grant, sealed) for sealed in files]
        self._file_group(group)
        outcomes: list[Filed | PortalError] = []
        for one in group:
            if not isinstance(one.outcome, Filed | PortalError):
                raise one.outcome or RuntimeError("not filed")
            outcomes.append(one.outcome)
        return outcomes

    def ask_to_read(self, account_id: str, *, at_once: bool = True) -> None:
        """Has the worker read what was filed and it was not asked to yet. A job an image would cost more than filing
        it, so while images come it is asked now and then; the sender's end is the time to ask for the rest."""
        moment = time.monotonic()
        with self._guard:
            recent = moment - self._asked_at.get(account_id, -ASK_SECONDS) < ASK_SECONDS
            if account_id not in self._unread or (recent and not at_once):
                return
            self._unread.discard(account_id)
            self._asked_at = {one: at for one, at in self._asked_at.items() if moment - at < ASK_SECONDS}
            self._asked_at[account_id] = moment
        ask_to_read(self._parts, account_id)

    def _lead(self, mine: _Waiting) -> None:
        with self._guard:
            group = [one for one in self._waiting if one.grant.account_id == mine.grant.account_id]
            group = group[:FILED_TOGETHER_MAX] if mine in group[:FILED_TOGETHER_MAX] else [mine]
            self._waiting = [one for one in self._waiting if one not in group]
        try:
            self._file_group(group)
        finally:
            with self._guard:
                following = self._waiting[0] if self._waiting else None
                self._led = following is not None
            for one in group:
                if one.outcome is None:
                    one.outcome = RuntimeError("not filed")
                if one is not mine:
                    one.turn.set()
            if following is not None:
                following.to_lead = True
                following.turn.set()

    def _file_group(self, group: list[_Waiting]) -> None:
        try:
            filed = self._file(group)
        except PortalError as error:  # of one of them: whose it is shows when each is filed alone
            if len(group) == 1:
                group[0].outcome = error
                remove_unfiled(self._parts, [group[0].sealed], error)
                return
            for one in group:
                self._file_group([one])
        except Exception as error:  # the database is away, say: of all of them
            for one in group:
                one.outcome = error
            remove_unfiled(self._parts, [one.sealed for one in group], error)
        else:
            for one, outcome in zip(group, filed, strict=True):
                one.outcome = outcome

    def _file(self, group: list[_Waiting]) -> list[Filed]:
        def count_all(db: Session, filed: list[Filed]) -> None:
            for one, result in zip(group, filed, strict=True):
                drop_offs.count_one(db, one.grant.drop_off_id, result, one.sealed.plain_bytes)
            check_room(db, self._parts.settings, group[0].grant.account_id, 0)

        grant = group[0].grant
        filed = file_sealed(
            self._parts, [one.sealed for one in group], owner_public_key=grant.owner_public_key, also=count_all,
            read_soon=False,
        )  # fmt: skip
        if any(one.sealed.facts.readable for one in group):
            with self._guard:
                self._unread.add(grant.account_id)
            self.ask_to_read(grant.account_id, at_once=False)
        return filed


def name_of(facts: Facts) -> str:
    """What a file without a name is called: "MR-3-12.dcm", by series and image."""
    headers = facts.headers or {}
    words = [str(headers.get(key) or "") for key in ("modality", "series_number", "instance_number")]
    stem = "-".join("".join(c for c in word if c.isalnum() and c.isascii())[:16] for word in words if word)
    ending = {"dicom": ".dcm"}.get(facts.format, "")
    return (stem or "file") + ending
