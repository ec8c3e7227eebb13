"""The worker's part of a fetch from a PACS: what there is (C-FIND), and the images of what was chosen (C-GET).

Nothing is believed: an answer about somebody else is dropped, and an image is filed only if it was announced for the
study that was asked, and says itself that it is of that study and of this patient. Both are counted.

Images are sealed as they come and filed in groups, with the row's counts in the same commit: a run that is cut off is
taken up where the row says, what it had filed is let go when it comes again, and of two runs at once the slower one is
overtaken. Called by `fetches` and `jobs.ingest`.
"""

import dataclasses
import datetime as dt
import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from myphr.audit import trail
from myphr.audit.trail import SYSTEM
from myphr.crypto import envelope
from myphr.errors import EnvelopeError, NotDicom, NotFound, PacsRefused, PortalError, RecordFull, StoreFull
from myphr.ingest import dicom, identify
from myphr.ingest.archives import IngestParts
from myphr.ingest.deliveries import name_of
from myphr.ingest.dimse import asking
from myphr.ingest.dimse.part10 import head_of_file
from myphr.ingest.pacs import links, servers
from myphr.ingest.pacs import plan as plans
from myphr.ingest.pacs.models import Pacs, PacsFetch, PacsLink
from myphr.ingest.pacs.plan import BIRTH_DATE, ISSUER, PATIENT_ID, Plan
from myphr.ingest.pacs.reasons import refused
from myphr.ingest.pacs.requestor import Names, Requestor
from myphr.ingest.pacs.states import PACS_FETCH
from myphr.people.models import StoredKeyRing
from myphr.records import duplicates
from myphr.records.filing import Filed, SealedFile, ask_to_read, check_room, file_sealed
from myphr.records.item_writer import ItemWriter
from myphr.records.models import Item
from myphr.state_tables import StateConflict

SOURCE = "pacs"  # of an item
LOOK, LOOK_AGAIN = "jobs.ingest.look_at_pacs", "jobs.ingest.look_at_pacs_again"
FETCH, FETCH_AGAIN = "jobs.ingest.fetch_from_pacs", "jobs.ingest.refetch_from_pacs"
STUCK = dt.timedelta(minutes=2)  # longer than a run is silent
ALIVE_SECONDS = 20
LOOK_SECONDS_MAX = 120
STUDIES_MAX = 1_000
SERIES_MAX = 2_000  # of one study
TOGETHER_MAX = 50  # images in one commit: others wait that long for the database
TOGETHER_SECONDS = 2.0
REFUSED_MAX = 200  # of one study: whoever sends more of what was not asked is hung up on
ONE_BY_ONE_MAX = 1_000  # of one study
TURN_SECONDS = 60.0  # of one job: others wait for the worker too
TRIES = 3
PAUSES_SECONDS = (1.0, 4.0)

_LEVEL, _CHARACTERS, _STUDY, _SERIES, _INSTANCE, _CLASS = (
    0x00080052, 0x00080005, 0x0020000D, 0x0020000E, 0x00080018, 0x00080016
)  # fmt: skip
_DATE, _MODALITIES, _DESCRIPTION, _IMAGES = 0x00080020, 0x00080061, 0x00081030, 0x00201208
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_SUCCESS, _NOT_WHAT_WAS_ASKED = 0x0000, 0xA900

log = logging.getLogger(__name__)


class _Overtaken(Exception):
    """Another run went further, or the owner stopped it: this one must not file anything any more."""


class _TurnOver(Exception):
    """Others wait for this worker: the rest comes in a job of its own."""


def enqueue(parts: IngestParts, fetch_id: str, job: str) -> None:
    parts.queue.enqueue(job, fetch_id, seconds_max=parts.settings.pacs_seconds_max + 300)


def look(parts: IngestParts, fetch_id: str) -> None:
    """Ask what there is, or say why not. Runs twice without harm, also at the same time."""
    _run(parts, fetch_id, ("waiting", "looking"), "look", "")


def run(parts: IngestParts, fetch_id: str, *, again: str = FETCH_AGAIN) -> None:
    """Fetch what was chosen, as much as fits into one turn, or say why not. Runs twice without harm, also at the same
    time. `again`: the job of the next turn."""
    _run(parts, fetch_id, ("chosen", "fetching"), "begin", again)


def _run(parts: IngestParts, fetch_id: str, states: Sequence[str], event: str, again: str) -> None:
    with parts.database.write() as db:
        row = db.get(PacsFetch, fetch_id)
        if row is None or row.state not in states or row.sealed_for_worker is None:
            return
        try:
            PACS_FETCH.move(db, row, event, step=row.step + 1)
        except StateConflict:  # stopped this very moment
            return
        ring, link = db.get(StoredKeyRing, row.account_id), db.get(PacsLink, row.link_id)
    try:
        try:
            plan = plans.open_with(parts.keys.worker.private, row.id, row.sealed_for_worker)
            pacs = servers.one(parts, plan.pacs)
        except (EnvelopeError, NotFound):
            raise refused("ended") from None
        if ring is None or link is None or (link.account_id, link.pacs_id) != (row.account_id, pacs.id):
            raise refused("ended")
        if not links.is_vouched(parts.keys.index_key, link, plan.patient):
            raise refused("ended")
        worker = _Run(parts, row, plan, pacs, ring.public_key)
        if event == "look":
            worker.look()
        else:
            worker.fetch_all()
    except _TurnOver:
        enqueue(parts, fetch_id, again)
    except PacsRefused as refusal:
        fail(parts, fetch_id, refusal.detail)
    except RecordFull:
        fail(parts, fetch_id, "record-full")
    except NotFound:  # the account was closed
        fail(parts, fetch_id, "ended")
    except _Overtaken:
        log.info("fetch %s is worked on elsewhere, or was stopped", fetch_id)


def fail(parts: IngestParts, fetch_id: str, code: str) -> None:
    """What the worker knew is erased, what came stays."""
    with parts.database.write() as db:
        row = db.get(PacsFetch, fetch_id)
        if row is None:
            return
        try:
            PACS_FETCH.move(db, row, "fail", error_code=code, sealed_for_worker=None)
        except StateConflict:
            return
        trail.record(
            db, "pacs-failed", account_id=row.account_id, actor=SYSTEM, fetch=row.id, items=row.items_count, reason=code
        )


class _Run:
    """One run of one fetch."""

    def __init__(self, parts: IngestParts, row: PacsFetch, plan: Plan, pacs: Pacs, owner_public_key: bytes) -> None:
        self.parts, self.plan = parts, plan
        self.owner_public_key = owner_public_key
        self._row, self._pacs = row, pacs
        self._peer = servers.peer_of(parts.settings, pacs)
        self._folder = f"{plan.pacs_name.replace('/', '-')} {row.created_at:%Y-%m-%d}"
        self._ready: list[SealedFile] = []
        self._ready_since = self._asked_at = self._alive_at = time.monotonic()
        self._refused = 0  # since the last commit
        self._begun, self._used_before = time.monotonic(), 0.0
        self._ends_at = self._begun + LOOK_SECONDS_MAX

    @property
    def fetch_id(self) -> str:
        return self._row.id

    @property
    def account_id(self) -> str:
        return self._row.account_id

    def _line(self, services: Sequence[str], classes: Sequence[str] = ()) -> Requestor:
        return Requestor(
            self._peer, services, classes, ends_at=self._ends_at, tick=self._tick,
            silence_seconds=self.parts.settings.pacs_silence_seconds,
        )  # fmt: skip

    # -- what there is ------------------------------------------------------------------------------
    def look(self) -> None:
        patient = self.plan.patient
        asked = {
            _LEVEL: "STUDY", PATIENT_ID: patient.number, ISSUER: patient.issuer, BIRTH_DATE: "", _STUDY: "", _DATE: "",
            _MODALITIES: "", _DESCRIPTION: "", _IMAGES: "",
        }  # fmt: skip
        with self._line([asking.STUDY_ROOT_FIND]) as line:
            answers = line.find(asked, STUDIES_MAX)
        hers = [one for one in answers if patient.is_meant_by(one) and _uid(one, _STUDY)]
        listed = {_uid(one, _STUDY): _listed(one) for one in hers}
        newest = sorted(listed.values(), key=lambda one: one["date"], reverse=True)
        sealed = envelope.seal_to(
            self.owner_public_key, json.dumps(newest).encode(), context=plans.list_context(self.fetch_id)
        )
        with self.parts.database.write() as db:
            self._move(
                db, self._current(db, "looking"), "list", sealed_list=sealed, sealed_for_worker=None,
                studies_count=len(newest), refused_count=len(answers) - len(hers),
            )  # fmt: skip

    # -- what was chosen ----------------------------------------------------------------------------
    def fetch_all(self) -> None:
        self._begun, self._used_before = time.monotonic(), self.plan.seconds_used
        self._ends_at = self._begun + self.parts.settings.pacs_seconds_max - self._used_before
        try:
            while self.plan.todo:
                self._fetch_study(next(iter(self.plan.todo)))
                self._give_way(bool(self.plan.todo))
        finally:
            self._drop(self._ready)
        self._finish()

    def _turn_is_over(self) -> bool:
        return time.monotonic() - self._begun > TURN_SECONDS

    def _give_way(self, is_more: bool) -> None:
        """Between two series or studies: what came is filed, and the next job goes on behind it."""
        if is_more and self._turn_is_over():
            self.file_ready(studies_done=self._row.studies_done)
            raise _TurnOver

    def _fetch_study(self, uid: str) -> None:
        """Tried again where a second try may mend it; what came the first time is let go when it comes again."""
        for number in range(TRIES):
            try:
                study = self._announced(uid)
                self._get(study)
            except PacsRefused as error:
                self.file_ready()
                if error.detail not in ("unreachable", "broke-off", "busy") or number == TRIES - 1:
                    raise
                self._pause(PAUSES_SECONDS[number])
            else:
                self.plan.todo.pop(uid)
                self.plan.series_asked = []
                self.file_ready(studies_done=self._row.studies_done + 1,
                                missing_count=self._row.missing_count + len(study.waited_for))  # fmt: skip
                return

    def _announced(self, uid: str) -> "_Study":
        """The images of this study, as the PACS says before it sends them."""
        images: dict[str, _Announced] = {}
        most = self.parts.settings.pacs_files_max
        with self._line([asking.STUDY_ROOT_FIND]) as line:
            for one in line.find({_LEVEL: "SERIES", _STUDY: uid, _SERIES: ""}, SERIES_MAX):
                series = _uid(one, _SERIES)
                asked = {_LEVEL: "IMAGE", _STUDY: uid, _SERIES: series, _INSTANCE: "", _CLASS: ""}
                for image in line.find(asked, most - len(images)) if series else ():
                    if _uid(image, _INSTANCE):
                        images[_uid(image, _INSTANCE)] = _Announced(series, _uid(image, _CLASS))
        here = self._filed_before(images)
        more, self.plan.todo[uid] = len(images) - self.plan.todo[uid], len(images)
        self.file_ready(files_total=self._row.files_total + more)
        return _Study(self, uid, images, here)

    def _filed_before(self, images: "dict[str, _Announced]") -> set[str]:
        """Those that an earlier run of this very fetch filed."""
        key, account_id = self.parts.keys.index_key, self.account_id
        keys = {duplicates.identifier_key(key, account_id, duplicates.DICOM_INSTANCE, one): one for one in images}
        with self.parts.database.read() as db:
            found = duplicates.holders(db, account_id, duplicates.DICOM_INSTANCE, set(keys))
            own = set(db.exec(select(Item.id).where(
                Item.account_id == account_id, Item.source == SOURCE, Item.source_id == self.fetch_id
            )))  # fmt: skip
        return {keys[one] for one, holders in found.items() if own.intersection(holders)}

    def _get(self, study: "_Study") -> None:
        """Series by series, as many of them over one association as have kinds that fit into it: Orthanc ends a C-GET
        at the first image for which there is no context."""
        asked = self.plan.series_asked
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

    def _get_series(self, study: "_Study", series: Sequence[str], kinds: Sequence[str]) -> None:
        """Where the PACS does not name the kinds, those that we know, until all has come."""
        unnamed = "" in kinds
        todo = [one for one in kinds if one] + [one for one in asking.known_classes() if unnamed and one not in kinds]
        for at in range(0, len(todo), asking.CLASSES_PER_ASSOCIATION):
            some = todo[at : at + asking.CLASSES_PER_ASSOCIATION]
            with self._line([asking.STUDY_ROOT_GET], some) as line:
                for uid in series:
                    if study.waits_for(uid) and not self._turn_is_over():
                        line.get({_LEVEL: "SERIES", _STUDY: study.uid, _SERIES: uid}, study.take)
                        if not unnamed:
                            self.plan.series_asked.append(uid)
            if not any(map(study.waits_for, series)):
                return
            self._give_way(True)

    def _get_one_by_one(self, study: "_Study") -> None:
        """What did not come with its series: one image that a PACS cannot send must not cost the others behind it."""
        left = [(said.kind, one) for one, said in study.waited_for.items() if said.kind]
        kinds = sorted({kind for kind, _ in left})
        for at in range(0, len(kinds), asking.CLASSES_PER_ASSOCIATION):
            some = kinds[at : at + asking.CLASSES_PER_ASSOCIATION]
            with self._line([asking.STUDY_ROOT_GET], some) as line:
                for kind, one in left[:ONE_BY_ONE_MAX]:
                    if kind in some:
                        series = study.waited_for[one].series
                        line.get({_LEVEL: "IMAGE", _STUDY: study.uid, _SERIES: series, _INSTANCE: one}, study.take)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if until > self._ends_at:
            raise refused("too-slow")
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            self._tick()

    # -- keeping ----------------------------------------------------------------------------------
    def room(self) -> int:
        """How large the next image may be. Raises PacsRefused."""
        settings, coming = self.parts.settings, sum(one.plain_bytes for one in self._ready)
        left = settings.pacs_bytes_max - self._row.bytes_count - coming
        if left <= 0 or self._row.items_count + self._row.known_count + len(self._ready) >= settings.pacs_files_max:
            raise refused("too-large")
        return min(settings.pacs_object_bytes_max, left)

    def keep(self, sealed: SealedFile) -> None:
        name = name_of(sealed.facts)
        if not self._ready:
            self._ready_since = time.monotonic()
        self._ready.append(dataclasses.replace(sealed, name=name, path=f"{self._folder}/{name}"))
        if len(self._ready) >= TOGETHER_MAX:
            self.file_ready()

    def refuse(self) -> None:
        self._refused += 1

    def file_ready(self, **values: Any) -> None:
        """What is sealed goes into the record, with the row's counts, in one commit."""
        files, refused_now = self._ready, self._refused
        self._ready, self._refused = [], 0
        if not files and not refused_now and not values:
            return

        self.plan.seconds_used = self._used_before + time.monotonic() - self._begun

        def progress(db: Session, filed: list[Filed]) -> None:
            row = self._current(db, "fetching")
            fresh = [one.item for one in filed if not one.duplicate]
            check_room(db, self.parts.settings, row.account_id, 0)
            self._move(
                db, row, "step", step=row.step + 1, items_count=row.items_count + len(fresh),
                known_count=row.known_count + len(filed) - len(fresh), refused_count=row.refused_count + refused_now,
                bytes_count=row.bytes_count + sum(item.plain_bytes for item in fresh),
                sealed_for_worker=plans.seal(self.parts.keys.worker.public, row.id, self.plan), **values,
            )  # fmt: skip

        try:
            if files:
                file_sealed(
                    self.parts, files, owner_public_key=self.owner_public_key, also=progress, read_soon=False
                )  # fmt: skip
            else:
                with self.parts.database.write() as db:
                    progress(db, [])
        except (PortalError, _Overtaken):  # raised by us, before the commit; of anything else nobody knows
            self._drop(files)
            raise
        if files and any(one.facts.readable for one in files):
            ask_to_read(self.parts, self.account_id)

    def _drop(self, files: Sequence[SealedFile]) -> None:
        """In no record: a later run has them sent again."""
        for one in files:
            self.parts.store.delete(one.object_key)

    # -- the row ----------------------------------------------------------------------------------
    def _tick(self) -> None:
        """Looks now and then whether it is still wanted, and files what has waited long enough."""
        moment = time.monotonic()
        if self._ready and moment - self._ready_since > TOGETHER_SECONDS:
            self.file_ready()
        if moment - self._asked_at > TOGETHER_SECONDS:
            self._asked_at = moment
            with self.parts.database.read() as db:
                self._current(db, self._row.state)
        if moment - self._alive_at > ALIVE_SECONDS:
            self._alive_at = moment
            with self.parts.database.write() as db:
                event = "look" if self._row.state == "looking" else "begin"
                self._move(db, self._current(db, self._row.state), event)

    def _current(self, db: Session, state: str) -> PacsFetch:
        row = db.get(PacsFetch, self._row.id)
        if row is None or row.state != state or row.step != self._row.step:
            raise _Overtaken
        link, pacs = db.get(PacsLink, row.link_id), db.get(Pacs, self._pacs.id)
        if link is None or link.state != "confirmed" or pacs is None or pacs.closed_at is not None:
            raise refused("ended")
        return row

    def _move(self, db: Session, row: PacsFetch, event: str, **values: Any) -> None:
        try:
            PACS_FETCH.move(db, row, event, only_if=[col(PacsFetch.step) == self._row.step], **values)
        except StateConflict:
            raise _Overtaken from None
        self._row = row

    def _finish(self) -> None:
        with self.parts.database.write() as db:
            row = self._current(db, "fetching")
            self._move(db, row, "finish", sealed_for_worker=None)
            trail.record(
                db, "pacs-fetched", account_id=row.account_id, actor=SYSTEM, fetch=row.id, items=row.items_count,
                known=row.known_count,
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Announced:
    """One image as the PACS says that it has it; `kind` is its SOP class, or "" if the PACS does not say."""

    series: str
    kind: str


class _Study:
    """The images of one study on their way. `waited_for`: by instance, those that have not come."""

    def __init__(self, run: _Run, uid: str, images: dict[str, _Announced], here: set[str]) -> None:
        self.uid = uid
        self.waited_for = {one: said for one, said in images.items() if one not in here}
        self._run, self._here, self._refused = run, here, 0

    def kinds_by_series(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for said in self.waited_for.values():
            found.setdefault(said.series, set()).add(said.kind)
        return found

    def waits_for(self, series: str) -> bool:
        return any(said.series == series for said in self.waited_for.values())

    def take(self, names: Names) -> "_Object":
        """Where this image goes: into the record, or nowhere."""
        limit = self._run.room()
        if names.instance in self._here:
            return _Object(limit, None, _SUCCESS)
        if names.instance not in self.waited_for:
            return _Object(limit, None, self._refuse())
        try:
            head = head_of_file(names.sop_class, names.instance, names.transfer_syntax)
        except NotDicom:
            return _Object(limit, None, self._refuse())
        parts, run = self._run.parts, self._run
        writer = ItemWriter(
            parts, run.account_id, owner_public_key=run.owner_public_key, source=SOURCE, source_id=run.fetch_id,
            describe=identify.describe, bytes_max=limit + len(head),
        )  # fmt: skip
        writer.write(head)
        return _Object(limit, writer, _SUCCESS, lambda sealed: self._keep(names, sealed))

    def _keep(self, names: Names, sealed: SealedFile) -> int:
        headers = sealed.facts.headers or {}
        said = (headers.get("sop_class"), headers.get("instance_uid"), headers.get("study_uid"))
        is_asked = sealed.facts.format == "dicom" and said == (names.sop_class, names.instance, self.uid)
        self.waited_for.pop(names.instance)  # kept or refused: it is not asked for again
        if not is_asked or not self._run.plan.patient.is_in(headers):
            self._run.parts.store.delete(sealed.object_key)
            return self._refuse()
        self._run.keep(sealed)
        self._here.add(names.instance)  # sent twice, it is let go the second time
        return _SUCCESS

    def _refuse(self) -> int:
        self._refused += 1
        self._run.refuse()
        if self._refused > REFUSED_MAX:
            raise refused("foreign")
        return _NOT_WHAT_WAS_ASKED


class _Object:
    """One image of a C-GET (`requestor.Sink`): sealed as it comes, or let go."""

    def __init__(self, bytes_max: int, writer: ItemWriter | None, status: int, keep: Any = None) -> None:
        self._left, self._writer, self._status, self._keep = bytes_max, writer, status, keep

    def write(self, data: memoryview) -> None:
        """Raises PacsRefused for an image without end."""
        self._left -= len(data)
        if self._left < 0:
            raise refused("too-large")
        if self._writer is not None:
            try:
                self._writer.write(data)
            except StoreFull:
                raise refused("record-full") from None

    def finish(self) -> int:
        if self._writer is None:
            return self._status
        try:
            return self._keep(self._writer.seal_up(""))
        except StoreFull:
            raise refused("record-full") from None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.abort()


def _uid(answer: dict[int, bytes], tag: int) -> str:
    """"" for what is none: it goes into questions and contexts."""
    text = answer.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace")
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def _listed(answer: dict[int, bytes]) -> dict[str, Any]:
    """One study as the list keeps it."""
    images = dicom.text_in(answer, _IMAGES)
    return {
        "uid": _uid(answer, _STUDY),
        "date": dicom.text_in(answer, _DATE)[:8],
        "modalities": [one.strip()[:16] for one in dicom.text_in(answer, _MODALITIES).split("\\")[:8] if one.strip()],
        "description": dicom.text_in(answer, 0x00081030),
        "images": int(images) if images.isascii() and images.isdecimal() and len(images) < 8 else 0,
    }
