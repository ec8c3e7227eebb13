"""The worker's part of a fetch from a PACS: what there is (C-FIND), and the images of what was chosen: by C-GET on our
own line, or by C-MOVE to our receiver, which files them as this fetch's `expectations` say.

Images are sealed as they come and filed in groups, with the row's counts in the same commit (`ingest.fetch.runs`): what
a run that is cut off had filed is let go when it comes again. What is believed of an image: see `study`. Called by
`jobs.ingest`.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlmodel import Session

from myphr.errors import PacsRefused, StoreFull
from myphr.ingest.archives import IngestParts
from myphr.ingest.deliveries import name_of
from myphr.ingest.dimse import asking
from myphr.ingest.fetch import runs
from myphr.ingest.pacs import expectations, looking, servers
from myphr.ingest.pacs.expectations import Wanted
from myphr.ingest.pacs.looking import LEVEL, STUDY, Fetch, uid_in
from myphr.ingest.pacs.models import Pacs, PacsExpectation, PacsFetch
from myphr.ingest.pacs.reasons import refused
from myphr.ingest.pacs.requestor import Requestor
from myphr.ingest.pacs.study import Announced, Study
from myphr.ingest.pacs.way import FETCH_AGAIN, WAY
from myphr.records import duplicates
from myphr.records.filing import Filed, SealedFile, ask_to_read
from myphr.records.item_writer import ItemWriter

SERIES_MAX = 2_000  # of one study
TOGETHER_MAX = 50  # images in one commit: others wait that long for the database
TOGETHER_SECONDS = 2.0
ONE_BY_ONE_MAX = 1_000  # of one study
WHOLE_MAX = 500  # images of a series that is asked for in one go: a turn ends only between two questions
LISTED_MAX = 100  # UIDs in one question
TURN_SECONDS = 60.0  # of one job: others wait for the worker too
TRIES = 3
PAUSES_SECONDS = (1.0, 4.0)
AWAY_SECONDS = (2.0, 15.0)  # the same where a PACS does not reach our receiver: longer than that takes to start again
_SERIES, _INSTANCE, _CLASS = 0x0020000E, 0x00080018, 0x00080016


def look(parts: IngestParts, fetch_id: str) -> None:
    """Ask what there is, or say why not. Runs twice without harm, also at the same time."""
    runs.run(parts, WAY, fetch_id, "look", looking.look)


def run(parts: IngestParts, fetch_id: str, *, again: str = FETCH_AGAIN) -> None:
    """Fetch what was chosen, as much as fits into one turn, or say why not. Runs twice without harm, also at the same
    time. `again`: the job of the next turn."""
    runs.run(parts, WAY, fetch_id, "begin", lambda taken: _Fetching(taken).fetch_all(), again=again)


class _Fetching:
    """One turn of one fetch. What came and waits to be filed is here (`study.Keeper`)."""

    def __init__(self, taken: Fetch) -> None:
        self._taken, self._plan, self._settings = taken, taken.plan, taken.parts.settings
        self._pacs: Pacs = servers.one(taken.parts, taken.plan.pacs)
        self._awaited: PacsExpectation | None = None  # while a C-MOVE is under way
        self._moving: Requestor | None = None
        self._folded_at = 0.0
        self._came_now = 0  # images that it brought of the series under way
        self._ready: list[SealedFile] = []
        self._refused = 0  # since the last commit
        self._begun = self._ready_since = time.monotonic()
        self._used_before = self._plan.seconds_used
        self._ends_at = self._begun + self._settings.pacs_seconds_max - self._used_before

    def fetch_all(self) -> None:
        try:
            while self._plan.todo:
                self._fetch_study(next(iter(self._plan.todo)))
                self._give_way(bool(self._plan.todo))
        finally:
            for sealed in self._ready:  # handed to no filing yet: a later run has them sent again
                self.let_go(sealed)
        self._taken.finish(known=self._taken.row.known_count)

    def _turn_is_over(self) -> bool:
        return time.monotonic() - self._begun > TURN_SECONDS

    def _give_way(self, is_more: bool) -> None:
        """Between two series or studies: what came is filed, and the next job goes on behind it."""
        if is_more and self._turn_is_over():
            self._file_ready(studies_done=self._taken.row.studies_done)
            raise runs.TurnOver

    def _fetch_study(self, uid: str) -> None:
        """Tried again where a second try may mend it; what came the first time is let go when it comes again."""
        for number in range(TRIES):
            try:
                study = self._announced(uid)
                self._move(study, is_last=number == TRIES - 1) if self._pacs.moves else self._get(study)
            except PacsRefused as error:
                self._file_ready()
                if error.detail not in ("unreachable", "broke-off", "busy", "not-sent") or number == TRIES - 1:
                    raise
                self._pause((AWAY_SECONDS if error.detail == "not-sent" else PAUSES_SECONDS)[number])
            except StoreFull:
                self._file_ready()  # what is sealed has its room
                raise
            else:
                self._plan.todo.pop(uid)
                missing = max(0, len(study.waited_for) - self._plan.accounted)
                self._plan.series_asked, self._plan.accounted = [], 0
                row = self._taken.row
                self._file_ready(
                    studies_done=row.studies_done + 1, missing_count=row.missing_count + missing
                )
                return

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if until > self._ends_at:
            raise refused("too-slow")
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            self._tick()

    # -- asking -----------------------------------------------------------------------------------
    def _line(self, services: Sequence[str], classes: Sequence[str] = ()) -> Requestor:
        return looking.line_to(self._taken, services, classes, ends_at=self._ends_at, tick=self._tick)

    def _announced(self, uid: str) -> Study:
        """The images of this study, as the PACS says before it sends them."""
        images: dict[str, Announced] = {}
        most = self._settings.pacs_files_max
        with self._line([asking.STUDY_ROOT_FIND]) as line:
            for one in line.find({LEVEL: "SERIES", STUDY: uid, _SERIES: ""}, SERIES_MAX):
                series = uid_in(one, _SERIES)
                asked = {LEVEL: "IMAGE", STUDY: uid, _SERIES: series, _INSTANCE: "", _CLASS: ""}
                for image in line.find(asked, most - len(images)) if series else ():
                    if uid_in(image, _INSTANCE):
                        images[uid_in(image, _INSTANCE)] = Announced(series, uid_in(image, _CLASS))
        here = self._filed_before(images)
        more, self._plan.todo[uid] = len(images) - self._plan.todo[uid], len(images)
        self._file_ready(files_total=self._taken.row.files_total + more)
        return Study(self, self._plan.patient, uid, images, here)

    def _filed_before(self, images: Mapping[str, Announced]) -> set[str]:
        """Those that an earlier run of this very fetch filed."""
        key, account_id = self._taken.parts.keys.index_key, self._taken.row.account_id
        keys = {duplicates.identifier_key(key, account_id, duplicates.DICOM_INSTANCE, one): one for one in images}
        with self._taken.parts.database.read() as db:
            found = duplicates.holders(db, account_id, duplicates.DICOM_INSTANCE, set(keys))
            own = self._taken.brought(db, (item_id for holders in found.values() for item_id in holders))
        return {keys[one] for one, holders in found.items() if own.intersection(holders)}

    def _get(self, study: Study) -> None:
        """Series by series, as many of them over one association as have kinds that fit into it: Orthanc ends a C-GET
        at the first image for which there is no context."""
        asked = self._plan.series_asked
        series = {uid: kinds for uid, kinds in study.kinds_by_series().items() if uid not in asked}
        while series:
            kinds: set[str] = set()
            together: list[str] = []
            for uid, more in series.items():
                if len(kinds | more) <= asking.CLASSES_PER_ASSOCIATION or not together:
                    kinds |= more
                    together.append(uid)
            self._get_series(study, together, sorted(kinds))
            for uid in together:
                series.pop(uid)
        self._get_one_by_one(study)

    def _get_series(self, study: Study, series: Sequence[str], kinds: Sequence[str]) -> None:
        """Where the PACS does not name the kinds, those that we know, until all has come."""
        unnamed = "" in kinds
        every = [one for one in kinds if one] + [one for one in asking.known_classes() if unnamed and one not in kinds]
        for at in range(0, len(every), asking.CLASSES_PER_ASSOCIATION):
            some = every[at : at + asking.CLASSES_PER_ASSOCIATION]
            with self._line([asking.STUDY_ROOT_GET], some) as line:
                for uid in series:
                    for keys in self._questions(study, uid, some, lambda: -len(study.waited_for)):
                        if self._turn_is_over():
                            break
                        line.get(keys, study.take)
                    else:
                        if not unnamed and at + len(some) == len(every):
                            self._plan.series_asked.append(uid)
            if not any(map(study.waits_for, series)):
                return
            self._give_way(True)

    def _questions(
        self, study: Study, series: str, kinds: Collection[str] | None, came: Callable[[], int]
    ) -> Iterator[Mapping[int, str]]:
        """What to ask for to have the rest of a series: the series as a whole while nothing of it
        is here, else its images by lists of UIDs (PS3.4, C.4.2.2.1 and C.4.3.2.1), so that none travels twice.
        `came` counts. From a PACS that sends nothing for a list, the whole again: in one go, not one by one."""
        whole = {LEVEL: "SERIES", STUDY: study.uid, _SERIES: series}
        left = study.left_of(series, kinds)
        if not left:
            return
        if not study.is_begun(series) and len(left) <= WHOLE_MAX and len(left) == len(study.left_of(series)):
            yield whole
            return
        before = came()
        for at in range(0, len(left), LISTED_MAX):
            yield whole | {LEVEL: "IMAGE", _INSTANCE: "\\".join(left[at : at + LISTED_MAX])}
            if came() == before and (self._pacs.moves or len(left) > ONE_BY_ONE_MAX):
                yield whole
                return

    def _get_one_by_one(self, study: Study) -> None:
        """What did not come with its series: one image that a PACS cannot send must not cost the others behind it."""
        left = [(said.kind, one) for one, said in study.waited_for.items() if said.kind]
        kinds = sorted({kind for kind, _ in left})
        for at in range(0, len(kinds), asking.CLASSES_PER_ASSOCIATION):
            some = kinds[at : at + asking.CLASSES_PER_ASSOCIATION]
            with self._line([asking.STUDY_ROOT_GET], some) as line:
                for kind, one in left[:ONE_BY_ONE_MAX]:
                    if kind in some:
                        series = study.waited_for[one].series
                        line.get({LEVEL: "IMAGE", STUDY: study.uid, _SERIES: series, _INSTANCE: one}, study.take)

    # -- sent to the receiver -----------------------------------------------------------------------
    def _move(self, study: Study, *, is_last: bool) -> None:
        """Series by series, as above. The receiver files what comes; here it is counted. What a PACS could not send is
        asked for again, since our receiver may have been away, unless this is the last try; and unless something of the
        study needs no asking (`accounted`): it would be sent and counted again."""
        asked = self._plan.series_asked
        series = [uid for uid in study.kinds_by_series() if uid not in asked]
        if not series:
            return
        self._awaited = self._expect(study)
        try:
            with self._line([asking.STUDY_ROOT_MOVE]) as self._moving:
                for uid in series:
                    self._came_now, status, expected = 0, 0, len(study.left_of(uid))
                    for keys in self._questions(study, uid, None, lambda: self._came_now):
                        if self._turn_is_over():
                            break
                        before = self._came_now
                        status = self._moving.move(keys, self._pacs.calling_ae, self._awaited.message_id)
                        self._fold()
                        is_list_refused = keys[LEVEL] == "IMAGE" and not before  # then the whole is asked for
                        if asking.is_failure(status) and self._came_now == before and not is_list_refused:
                            raise refused("not-sent")
                    else:
                        if status and self._came_now < expected and not is_last and not self._plan.accounted:
                            raise refused("not-sent")
                        asked.append(uid)
        finally:
            awaited, self._awaited, self._moving = self._awaited, None, None
            with self._taken.parts.database.write() as db:
                self._plan.accounted += expectations.close(db, awaited.id).accounted
        study.note_here(self._filed_before(study.waited_for))
        self._give_way(any(uid not in asked for uid in series))

    def _expect(self, study: Study) -> PacsExpectation:
        row, settings = self._taken.row, self._settings
        self.room()
        wanted = Wanted(
            self._plan.patient, study.uid, study.waited_for.keys(),
            files_max=settings.pacs_files_max - row.items_count - row.known_count,
            bytes_max=settings.pacs_bytes_max - row.bytes_count, seconds=max(0.0, self._ends_at - time.monotonic()),
        )  # fmt: skip
        with self._taken.parts.database.write() as db:
            return expectations.open_for(self._taken.parts, db, self._taken.current(db), self._pacs.id, wanted)

    def _fold(self) -> None:
        """What the receiver has counted goes into the row. Raises PacsRefused if it takes nothing more."""
        self._folded_at = time.monotonic()
        if self._awaited is None or not expectations.has_news(self._taken.parts, self._awaited.id):
            return
        if self._moving is not None:
            self._moving.heard()
        with self._taken.parts.database.write() as db:
            came = expectations.fold(db, self._awaited.id)
            self._taken.row = self._taken.current(db)
        self._came_now += came.images
        self._plan.accounted += came.accounted
        if came.items:
            ask_to_read(self._taken.parts, self._taken.row.account_id)
        if came.stopped_by:
            raise refused(came.stopped_by)

    # -- keeping ----------------------------------------------------------------------------------
    def room(self) -> int:
        settings, row, coming = self._settings, self._taken.row, sum(one.plain_bytes for one in self._ready)
        left = settings.pacs_bytes_max - row.bytes_count - coming
        if left <= 0 or row.items_count + row.known_count + len(self._ready) >= settings.pacs_files_max:
            raise refused("too-large")
        return min(settings.pacs_object_bytes_max, left)

    def writer(self, bytes_max: int) -> ItemWriter:
        return self._taken.writer(bytes_max)

    def keep(self, sealed: SealedFile) -> None:
        if not self._ready:
            self._ready_since = time.monotonic()
        self._ready.append(self._taken.named(sealed, name_of(sealed.facts)))
        if len(self._ready) >= TOGETHER_MAX:
            self._file_ready()

    def let_go(self, sealed: SealedFile) -> None:
        self._taken.parts.store.delete(sealed.object_key)

    def count_refused(self) -> None:
        self._refused += 1

    def _tick(self) -> None:
        """Files what has waited long enough, and looks whether it is still wanted."""
        if self._ready and time.monotonic() - self._ready_since > TOGETHER_SECONDS:
            self._file_ready()
        if self._awaited is not None and time.monotonic() - self._folded_at > TOGETHER_SECONDS:
            self._fold()
        self._taken.tick()

    def _file_ready(self, **values: Any) -> None:
        """What is sealed goes into the record, with the row's counts, in one commit."""
        files, refused_now = self._ready, self._refused
        self._ready, self._refused = [], 0
        if not files and not refused_now and not values:
            return
        self._plan.seconds_used = self._used_before + time.monotonic() - self._begun

        def count(db: Session, row: PacsFetch, filed: list[Filed]) -> Mapping[str, Any]:
            known = sum(one.duplicate for one in filed)
            return {"known_count": row.known_count + known, "refused_count": row.refused_count + refused_now, **values}

        self._taken.file(files, count)
