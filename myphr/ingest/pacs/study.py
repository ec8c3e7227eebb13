"""The images of one study on their way, each held against what the PACS announced and against who the patient is.

Nothing is believed: an image is filed only if it was announced for the study that was asked, and says itself that it is
of that study and of this patient. What is not is let go, and counted. Called by `fetching`; opens no connection.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Protocol

from myphr.errors import NotDicom
from myphr.ingest.dimse.part10 import head_of_file
from myphr.ingest.pacs.plan import Patient
from myphr.ingest.pacs.reasons import refused
from myphr.ingest.pacs.requestor import Names
from myphr.records.filing import SealedFile
from myphr.records.item_writer import ItemWriter

REFUSED_MAX = 200  # of one study: whoever sends more of what was not asked is hung up on
_SUCCESS, _NOT_WHAT_WAS_ASKED = 0x0000, 0xA900


@dataclasses.dataclass(frozen=True)
class Announced:
    """One image as the PACS says that it has it; `kind` is its SOP class, or "" if the PACS does not say."""

    series: str
    kind: str


class Keeper(Protocol):
    """Where images go, and what it counts."""

    def room(self) -> int:
        """How large the next image may be. Raises PacsRefused."""

    def writer(self, bytes_max: int) -> ItemWriter: ...
    def keep(self, sealed: SealedFile) -> None: ...
    def let_go(self, sealed: SealedFile) -> None: ...
    def count_refused(self) -> None: ...


class Study:
    """`waited_for`: by instance, those that have not come. `here`: what came before by the same fetch."""

    def __init__(
        self, keeper: Keeper, patient: Patient, uid: str, images: dict[str, Announced], here: set[str]
    ) -> None:  # fmt: skip
        self.uid = uid
        self.waited_for = {one: said for one, said in images.items() if one not in here}
        self._keeper, self._patient, self._here, self._refused = keeper, patient, here, 0
        self._begun = {said.series for one, said in images.items() if one in here}

    def kinds_by_series(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for said in self.waited_for.values():
            found.setdefault(said.series, set()).add(said.kind)
        return found

    def waits_for(self, series: str) -> bool:
        return any(said.series == series for said in self.waited_for.values())

    def is_begun(self, series: str) -> bool:
        """Whether something of it is here: asked for as a whole, that would come again."""
        return series in self._begun

    def left_of(self, series: str, kinds: Collection[str] | None = None) -> list[str]:
        """What has not come of it, of these kinds or of any."""
        return [
            one for one, said in self.waited_for.items()
            if said.series == series and (kinds is None or not said.kind or said.kind in kinds)
        ]  # fmt: skip

    def note_here(self, here: set[str]) -> None:
        """These have come elsewhere (C-MOVE)."""
        self.waited_for = {one: said for one, said in self.waited_for.items() if one not in here}

    def take(self, names: Names) -> "Image":
        """Where this image goes: into the record, or nowhere."""
        limit = self._keeper.room()
        if names.instance in self._here:
            return _let_go(limit, _SUCCESS)
        if names.instance not in self.waited_for:
            return _let_go(limit, self._refuse())
        try:
            head = head_of_file(names.sop_class, names.instance, names.transfer_syntax)
        except NotDicom:
            return _let_go(limit, self._refuse())
        writer = self._keeper.writer(limit + len(head))
        writer.write(head)
        return Image(limit, writer, lambda: self._keep(names, writer.seal_up("")))

    def _keep(self, names: Names, sealed: SealedFile) -> int:
        headers = sealed.facts.headers or {}
        said = (headers.get("sop_class"), headers.get("instance_uid"), headers.get("study_uid"))
        is_asked = sealed.facts.format == "dicom" and said == (names.sop_class, names.instance, self.uid)
        self._begun.add(self.waited_for.pop(names.instance).series)  # kept or refused: it is not asked for again
        if not is_asked or not self._patient.is_in(headers):
            self._keeper.let_go(sealed)
            return self._refuse()
        self._keeper.keep(sealed)
        self._here.add(names.instance)  # sent twice, it is let go the second time
        return _SUCCESS

    def _refuse(self) -> int:
        self._refused += 1
        self._keeper.count_refused()
        if self._refused > REFUSED_MAX:
            raise refused("foreign")
        return _NOT_WHAT_WAS_ASKED


class Image:
    """One image on the line (`requestor.Sink`): sealed as it comes, or let go. `end` gives the status to answer."""

    def __init__(self, bytes_max: int, writer: ItemWriter | None, end: Callable[[], int]) -> None:
        self._left, self._writer, self._end = bytes_max, writer, end

    def write(self, data: memoryview) -> None:
        """Raises PacsRefused for an image without end, StoreFull."""
        self._left -= len(data)
        if self._left < 0:
            raise refused("too-large")
        if self._writer is not None:
            self._writer.write(data)

    def finish(self) -> int:
        return self._end()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.abort()


def _let_go(bytes_max: int, status: int) -> Image:
    return Image(bytes_max, None, lambda: status)
