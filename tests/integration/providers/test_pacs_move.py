"""Images from a PACS that offers C-MOVE only: real archives that send to the real receiver, an archive that sends what
nobody asked for, and processes that die in the middle."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from sqlmodel import select

from myphr.database import now
from myphr.errors import FormRefused
from myphr.ingest.pacs import arrivals, fetches, fetching, links
from myphr.ingest.pacs.models import PacsExpectation, PacsFetch
from myphr.portal import Portal
from myphr.records.items import dek_of, details_of, open_item
from tests import cast as cast_module
from tests.cast import STRANGER, SignedIn
from tests.integration.providers.conftest import ROOT, Process, items_of, partial, where_marker_is
from tests.integration.providers.test_pacs_faults import Liar, answer, change, data_set, honest
from tests.pacs import NILS, VERA, Dcmqrscp, Orthanc, as_other_image, fetched, linked, looked, on_the_list, study_of

pytestmark = pytest.mark.usefixtures("receiver")


@pytest.fixture
def portal(tmp_path: Path, redis_url: str) -> Iterator[Portal]:
    made = cast_module.new_portal(tmp_path / "home", redis_url, pacs_silence_seconds=5)
    yield made
    made.database.dispose()
    made.redis.close()


@pytest.fixture(params=["Orthanc", "dcmqrscp"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, receiver: Process) -> Iterator[Any]:
    with mover_to(request.param, receiver.port, tmp_path / "archive") as running:
        yield running


def mover_to(program: str, port: int, folder: Path) -> Orthanc | Dcmqrscp:
    """An archive that sends to the receiver at this port."""
    if program == "Orthanc":
        return Orthanc(folder, DicomAlwaysAllowGet=False, DicomModalities={"portal": ["MYPHR", "127.0.0.1", port]})
    return Dcmqrscp(folder, hosts=f"portal = (MYPHR, localhost, {port})\n")


class Mover(Liar):
    """Sends to the receiver as the test tells it, when it is asked to move. `script` gets a `Sender`."""

    def __init__(self, receiver_port: int) -> None:
        super().__init__()
        self.get_offered = False
        self.statuses: list[int | None] = []
        self.destination: str | None = None
        self.script: Callable[[Sender], None] = self._send_all
        self._receiver_port = receiver_port

    def __enter__(self) -> "Mover":
        from pynetdicom import AE, evt
        from pynetdicom.sop_class import (
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelMove,
            Verification,
        )

        from tests.running import free_port

        ae = AE("ARCHIVE")
        for one in (Verification, StudyRootQueryRetrieveInformationModelFind,
                    StudyRootQueryRetrieveInformationModelMove):  # fmt: skip
            ae.add_supported_context(one)
        self.port = free_port()
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[
            (evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._move)])  # fmt: skip
        return self

    def _send_all(self, sender: "Sender") -> None:
        for one in self.sent:
            if sender.association.is_established:
                sender.send(one)

    def _move(self, event: Any) -> Iterator[Any]:
        self.destination = event.request.MoveDestination
        with Sender(self._receiver_port, self.statuses, event.request.MessageID) as sender:
            self.script(sender)
        yield "127.0.0.1", self._receiver_port
        yield 0


class Sender:
    """An association to the receiver, as the archive opens one. `statuses`: what each object was answered."""

    def __init__(self, port: int, statuses: list[int | None], message_id: int, calling: str = "ARCHIVE") -> None:
        self.port, self.statuses, self.message_id, self.calling = port, statuses, message_id, calling

    def __enter__(self) -> "Sender":
        from pynetdicom import AE
        from pynetdicom.sop_class import CTImageStorage

        ae = AE(self.calling)
        ae.add_requested_context(CTImageStorage)
        ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4")
        self.association = ae.associate("127.0.0.1", self.port, ae_title="MYPHR")
        return self

    def send(self, image: Dataset, originator: str | None = "MYPHR", message_id: int | None = 0) -> None:
        answered = self.association.send_c_store(
            image, originator_aet=originator, originator_id=self.message_id if message_id == 0 else message_id
        )
        self.statuses.append(answered.get("Status"))

    def __exit__(self, *_: object) -> None:
        if self.association.is_established:
            self.association.release()


@pytest.fixture
def mover(receiver: Process) -> Iterator[Mover]:
    with Mover(receiver.port) as running:
        yield running


def expected_rows(portal: Portal) -> list[PacsExpectation]:
    with portal.database.read() as db:
        return list(db.exec(select(PacsExpectation)).all())


# -- real archives --------------------------------------------------------------------------------
def test_a_study_comes_by_c_move_and_again_brings_nothing_new(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Any
) -> None:
    study = study_of(VERA, 4)
    study += [as_other_image(one, SeriesInstanceUID=series, SOPInstanceUID=generate_uid(), Modality="MR")
              for series in [generate_uid()] for one in study[:2]]  # fmt: skip
    archive.put(study)
    archive.put(study_of(NILS, 2))
    link_id = linked(portal, patient, operator, archive.port, moves=True)
    done = fetched(portal, patient, link_id)
    assert (done.state, done.items_count, done.missing_count, done.refused_count) == ("done", 6, 0, 0), done.reason
    items, ring = items_of(portal), patient.login.ring()
    assert len(items) == len(list(portal.store.keys())) == 6 and expected_rows(portal) == []
    for item in items:
        assert (item.source, item.source_id, item.format) == ("pacs", done.id, "dicom")
        assert details_of(ring, item)["path"].startswith("Knee Clinic ")
        assert open_item(portal.store, item, dek_of(ring, item)).read_at(128, 4) == b"DICM"
    assert done.bytes_count == sum(item.plain_bytes for item in items)
    again = fetched(portal, patient, link_id)
    assert (again.state, again.items_count, again.known_count, again.missing_count) == ("done", 0, 6, 0)
    assert len(items_of(portal)) == 6


def test_two_patients_at_once_get_each_their_own(
    portal: Portal, patient: SignedIn, operator: SignedIn, enter: Any, archive: Any
) -> None:
    nils = enter(STRANGER)
    archive.put(study_of(VERA, 15))
    archive.put(study_of(NILS, 9))
    hers = linked(portal, patient, operator, archive.port, moves=True)
    with portal.database.read() as db:
        pacs_id = db.get(links.PacsLink, hers).pacs_id  # type: ignore[union-attr]
    his = links.ask(portal, nils.login, pacs_id)
    code = links.one_of_mine(portal, nils.login, his).code
    links.confirm(portal, operator.login, code, NILS, "", "1965-01-01")
    seen: dict[str, Any] = {}

    def fetch(who: SignedIn, link_id: str) -> None:
        seen[who.account.id] = fetched(portal, who, link_id)

    both = [threading.Thread(target=fetch, args=one) for one in ((patient, hers), (nils, his))]
    for one in both:
        one.start()
    for one in both:
        one.join(90)
    for who, count in ((patient, 15), (nils, 9)):
        done = seen[who.account.id]
        assert (done.state, done.items_count, done.missing_count) == ("done", count, 0), done.reason
        assert sum(item.account_id == who.account.id for item in items_of(portal)) == count


def test_an_archive_that_does_not_know_us_as_destination_is_told(
    portal: Portal, patient: SignedIn, operator: SignedIn, tmp_path: Path
) -> None:
    with Orthanc(tmp_path / "elsewhere", DicomAlwaysAllowMove=True) as archive:
        archive.put(study_of(VERA, 1))
        done = fetched(portal, patient, linked(portal, patient, operator, archive.port, moves=True))
    assert done.state == "failed" and done.items_count == 0 and done.reason
    assert expected_rows(portal) == []


# -- what nobody asked for ------------------------------------------------------------------------
@pytest.mark.parametrize("lie", [
    "another-study", "another-patient", "another-birth-date", "no-patient", "not-announced", "other-originator",
    "no-originator", "other-message", "no-message",
])  # fmt: skip
def test_what_was_not_asked_for_is_refused(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover, lie: str
) -> None:
    study = honest(mover, VERA, 2)
    odd = data_set(study_of(VERA, 1)[0])
    said: dict[str, Any] = {}
    if lie == "another-study":
        odd.SOPInstanceUID = odd.file_meta.MediaStorageSOPInstanceUID = study[0].SOPInstanceUID
    elif lie == "not-announced":
        odd.StudyInstanceUID = study[0].StudyInstanceUID
    else:
        odd = data_set(as_other_image(study_of(VERA, 1)[0], SOPInstanceUID=study[0].SOPInstanceUID,
                                      StudyInstanceUID=study[0].StudyInstanceUID))  # fmt: skip
        values = {"another-patient": ("PatientID", NILS), "another-birth-date": ("PatientBirthDate", "19991231"),
                  "no-patient": ("PatientID", "")}  # fmt: skip
        if lie in values:
            setattr(odd, *values[lie])
        said = {"other-originator": {"originator": "ELSEWHERE"}, "no-originator": {"originator": None},
                "other-message": {"message_id": -1}, "no-message": {"message_id": None}}.get(lie, {})  # fmt: skip

    def script(sender: Sender) -> None:
        if said.get("message_id") == -1:
            said["message_id"] = sender.message_id % 65535 + 1
        sender.send(odd, **said)
        sender.send(study[1])

    mover.script = script
    done = fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True))
    assert mover.statuses == [0xA900, 0x0000]
    assert (done.state, done.items_count) == ("done", 1), done.reason
    counted = lie in ("another-study", "another-patient", "another-birth-date", "no-patient", "not-announced")
    assert done.refused_count == counted
    assert done.missing_count == (1 if lie == "not-announced" or not counted else 0)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 1 and partial(portal) == []


def test_who_goes_on_sending_what_was_not_asked_is_hung_up_on(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover
) -> None:
    honest(mover, VERA, 1)
    foreign = data_set(study_of(NILS, 1)[0])

    def script(sender: Sender) -> None:
        for _ in range(2 * arrivals.REFUSED_MAX):
            if not sender.association.is_established:
                return
            sender.send(foreign)

    mover.script = script
    done = fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True))
    assert done.state == "failed" and "not asked for" in done.reason
    assert len(mover.statuses) <= arrivals.REFUSED_MAX + 2 and items_of(portal) == []


def test_nothing_comes_in_while_nothing_is_expected(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover, receiver: Process
) -> None:
    study = honest(mover, VERA, 1)
    message: list[int] = []
    mover.script = lambda sender: message.append(sender.message_id)
    fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True))
    with Sender(receiver.port, [], message[0]) as late:
        assert late.association.is_rejected
    assert items_of(portal) == [] and study


def test_only_the_archive_that_was_asked_gets_in(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover, receiver: Process
) -> None:
    study = honest(mover, VERA, 1)
    rejected: list[bool] = []

    def script(sender: Sender) -> None:
        with Sender(receiver.port, [], sender.message_id, calling="ELSEWHERE") as other:
            rejected.append(other.association.is_rejected)
        sender.send(study[0])

    mover.script = script
    assert fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True)).items_count == 1
    assert rejected == [True] and mover.destination == "MYPHR"


@pytest.mark.parametrize("how", ["withdraw", "end"])
def test_stopped_in_the_middle_nothing_more_is_taken(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover, how: str
) -> None:
    study = honest(mover, VERA, 3)
    link_id = linked(portal, patient, operator, mover.port, moves=True)
    there = looked(portal, patient, link_id)

    def script(sender: Sender) -> None:
        sender.send(study[0])
        if how == "withdraw":
            fetches.withdraw(portal, patient.login, there.id)
        else:
            links.end(portal, patient.login, link_id)
        sender.send(study[1])

    mover.script = script
    fetches.choose(portal, patient.login, there.id, [study[0].StudyInstanceUID])
    fetching.run(portal, there.id)
    assert mover.statuses == [0x0000, 0xA900]
    done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count) == ("withdrawn", 1)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 1 and expected_rows(portal) == []


@pytest.mark.parametrize("forged", ["message_id", "number_hash", "fetch_id", "announced", "expires_at"])
def test_who_only_writes_to_the_database_makes_nothing_expected(
    portal: Portal, patient: SignedIn, operator: SignedIn, enter: Any, mover: Mover, forged: str
) -> None:
    """Each value of the row is in its proof; and so is whose fetch it is."""
    study = honest(mover, VERA, 1)
    link_id = linked(portal, patient, operator, mover.port, moves=True)

    def script(sender: Sender) -> None:
        row = expected_rows(portal)[0]
        if forged == "fetch_id":  # the fetch becomes a stranger's
            change(portal, PacsFetch, row.fetch_id, account_id=enter(STRANGER).account.id)
        elif forged == "message_id":
            sender.message_id = row.message_id % 65535 + 1
            change(portal, PacsExpectation, row.id, message_id=sender.message_id)
        elif forged == "expires_at":
            change(portal, PacsExpectation, row.id, expires_at=now().replace(year=2100))
        elif forged == "announced":
            change(portal, PacsExpectation, row.id, announced=bytes(16) + row.announced)
        else:
            change(portal, PacsExpectation, row.id, number_hash="0" * 64)
        sender.send(study[0])

    mover.script = script
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, [study[0].StudyInstanceUID])
    fetching.run(portal, there.id)
    assert mover.statuses == [0xA900] and items_of(portal) == []


# -- limits, and what dies ------------------------------------------------------------------------
@pytest.mark.parametrize(("setting", "words"), [
    ({"pacs_object_bytes_max": 100_000}, "more than this portal takes"),
    ({"record_bytes_max": 300_000}, "no room left"),
])  # fmt: skip
def test_what_passes_a_limit_ends_the_fetch_and_is_said(
    tmp_path: Path, redis_url: str, processes: list[Process], setting: dict[str, int], words: str
) -> None:
    from tests.running import free_port

    portal = cast_module.new_portal(tmp_path / "small", redis_url, **setting)
    patient, operator = (cast_module.enter(portal, one) for one in (cast_module.PATIENT, cast_module.OPERATOR))
    port = free_port()
    processes.append(Process(portal, [sys.executable, "-m", "myphr.receiver"], port,
                             receiver_bind=f"127.0.0.1:{port}", **setting))  # fmt: skip
    with Mover(port) as mover:
        study = honest(mover, VERA, 3)
        for one in study:
            one.PixelData, one.Rows, one.Columns = os.urandom(200_000), 200, 1000
        done = fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True))
    assert done.state == "failed" and words in done.reason
    assert len(items_of(portal)) == len(list(portal.store.keys())) <= 1 and partial(portal) == []
    portal.database.dispose()


@pytest.mark.parametrize("program", ["Orthanc", "dcmqrscp"])
def test_a_full_disk_ends_the_fetch_and_it_is_fetched_to_the_end_once_there_is_room(
    portal: Portal, patient: SignedIn, operator: SignedIn, on_a_disk: Any, tmp_path: Path, program: str
) -> None:
    """Room for some images of eight. The database is not on that disk."""
    marked, size = "ZZMARKERZZ78", 400_000
    receiver, disk = on_a_disk(3 * size)
    study = [as_other_image(one, PixelData=os.urandom(size), Rows=size // 1000, Columns=1000)
             for one in study_of(marked, 8)]  # fmt: skip
    with mover_to(program, receiver.port, tmp_path / "archive") as archive:
        archive.put(study)
        link_id = linked(portal, patient, operator, archive.port, marked, "19780412", moves=True)
        done = fetched(portal, patient, link_id)
        assert done.state == "failed" and "computer that keeps your record is full" in done.reason
        came = done.items_count
        assert 0 < came < 8 and disk.left(portal) == (came, 0) and len(items_of(portal)) == came
        assert expected_rows(portal) == []
        again = fetched(portal, patient, link_id)
        assert again.state == "failed" and again.reason == done.reason
        assert disk.left(portal) == (came, 0) and len(items_of(portal)) == came
        disk.grow(16 * size)
        done = fetched(portal, patient, link_id)
        assert (done.state, done.items_count, done.known_count, done.missing_count) == ("done", 8 - came, came, 0)
    assert disk.left(portal) == (8, 0) and len(items_of(portal)) == 8
    ring = patient.login.ring()
    for item in items_of(portal):
        content = open_item(disk.store, item, dek_of(ring, item)).read_at(0, item.plain_bytes)
        assert content[128:132] == b"DICM" and len(content) == item.plain_bytes


def test_an_archive_that_says_nothing_while_it_sends_is_not_given_up(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover
) -> None:
    """Its answers to the C-MOVE may come at the end only; here that is longer than a PACS may be silent (5 s)."""
    study = honest(mover, VERA, 5)

    def script(sender: Sender) -> None:
        for one in study:
            time.sleep(1.8)
            sender.send(one)

    mover.script = script
    done = fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True))
    assert (done.state, done.items_count) == ("done", 5), done.reason


def test_a_worker_killed_in_the_middle_is_followed_by_one_that_goes_on(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover
) -> None:
    marked = "ZZMARKERZZ77"
    study = honest(mover, marked, 6)
    for one in study:
        one.PatientBirthDate = "19780412"
    mover.found = {level: [answer(level, one) for one in some] for level, some in (
        ("STUDY", study[:1]), ("SERIES", study[:1]), ("IMAGE", study))}  # fmt: skip
    there = looked(portal, patient, linked(portal, patient, operator, mover.port, marked, "19780412", moves=True))
    fetches.choose(portal, patient.login, there.id, [study[0].StudyInstanceUID])
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MYPHR_")} | {
        "MYPHR_HOME": str(portal.settings.home), "MYPHR_REDIS_URL": portal.settings.redis_url,
    }  # fmt: skip
    reached, killed = threading.Event(), threading.Event()

    def script(sender: Sender) -> None:
        for one in study[:3]:
            sender.send(one)
        if not killed.is_set():
            reached.set()
            assert killed.wait(60)
        for one in study[3:]:
            sender.send(one)

    mover.script = script
    worker = subprocess.Popen(
        [sys.executable, "-c", f"from jobs.ingest import fetch_from_pacs; fetch_from_pacs({there.id!r})"], cwd=ROOT,
        env=environ,
    )
    assert reached.wait(60)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    rows = expected_rows(portal)
    assert len(rows) == 1 and len(items_of(portal)) == 3
    assert where_marker_is(portal.settings.home) == []
    fetching_again = threading.Thread(target=fetching.run, args=(portal, there.id))
    mover.script = lambda sender: [sender.send(one) for one in study] and None
    fetching_again.start()
    fetching_again.join(60)
    killed.set()
    done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count, done.known_count, done.missing_count) == ("done", 6, 0, 0), done.reason
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 6 and expected_rows(portal) == []


def test_what_the_receiver_acknowledged_outlives_it(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover, receiver: Process
) -> None:
    study = honest(mover, VERA, 3)

    def script(sender: Sender) -> None:
        sender.send(study[0])
        sender.send(study[1])
        receiver.stop(signal.SIGKILL)

    mover.script = script
    done = fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True))
    assert mover.statuses == [0, 0]
    assert done.items_count == len(items_of(portal)) == 2 and done.missing_count == 1


def test_the_sweep_forgets_what_a_dead_worker_expected(
    portal: Portal, patient: SignedIn, operator: SignedIn, mover: Mover
) -> None:
    study = honest(mover, VERA, 2)

    def script(sender: Sender) -> None:
        sender.send(study[0])
        change(portal, PacsExpectation, expected_rows(portal)[0].id, expires_at=now())
        fetches.sweep(portal)
        assert expected_rows(portal) == []
        sender.send(study[1])

    mover.script = script
    done = fetched(portal, patient, linked(portal, patient, operator, mover.port, moves=True))
    assert mover.statuses == [0x0000, 0xA900] and done.items_count == 1


def test_a_pacs_that_moves_needs_a_receiver_that_it_can_reach(tmp_path: Path, redis_url: str) -> None:
    for bind, words in (("", "MYPHR_RECEIVER_BIND"), ("127.0.0.1:11112", "this computer only")):
        portal = cast_module.new_portal(tmp_path / f"home-{bool(bind)}", redis_url, receiver_bind=bind)
        with pytest.raises(FormRefused) as refusal:
            on_the_list(portal, 104, host="pacs.example", tls=True, moves=True)
        assert words in refusal.value.message
        portal.database.dispose()


@pytest.mark.parametrize("program", ["Orthanc", "dcmqrscp"])
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_receiver_killed_within_an_image_loses_nothing_that_it_acknowledged(
    portal: Portal, patient: SignedIn, operator: SignedIn, processes: list[Process], receiver: Process, tmp_path: Path,
    program: str, comes_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A real archive sends; the supervisor starts the receiver again, or it stays away."""
    if not comes_back:
        monkeypatch.setattr(fetching, "AWAY_SECONDS", (0.1, 0.1))
    marked, size = "ZZMARKERZZ79", 4_000_000
    study = [as_other_image(one, PixelData=os.urandom(size), Rows=size // 1000, Columns=1000)
             for one in study_of(marked, 8)]  # fmt: skip
    came: list[int] = []
    over = threading.Event()

    def kill() -> None:
        until = time.monotonic() + 30
        while not (len(items_of(portal)) >= 2 and partial(portal)) and time.monotonic() < until:
            time.sleep(0.002)
        receiver.stop(signal.SIGKILL)
        came.append(len(items_of(portal)))
        if comes_back:
            command = [sys.executable, "-m", "myphr.receiver"]
            shutil.rmtree(receiver.temporary)
            processes.append(Process(portal, command, receiver.port, receiver_bind=f"127.0.0.1:{receiver.port}"))
            over.wait(120)  # what a thread started ends with it (`setpriv --pdeathsig`)

    with mover_to(program, receiver.port, tmp_path / "archive") as archive:
        archive.put(study)
        there = looked(portal, patient, linked(portal, patient, operator, archive.port, marked, "19780412", moves=True))
        fetches.choose(portal, patient.login, there.id, [one.uid for one in there.studies])
        killer = threading.Thread(target=kill)
        killer.start()
        fetching.run(portal, there.id)
        over.set()
        killer.join(60)
    done = fetches.view(portal, patient.login, there.id)
    assert 2 <= came[0] < 8
    if comes_back:
        assert (done.state, done.items_count, done.known_count, done.missing_count) == ("done", 8, 0, 0), done.reason
    else:
        assert done.state == "failed" and "could not send them to this portal" in done.reason
    assert len(items_of(portal)) == done.items_count >= came[0] and expected_rows(portal) == []
    ring = patient.login.ring()
    for item in items_of(portal):
        content = open_item(portal.store, item, dek_of(ring, item)).read_at(0, item.plain_bytes)
        assert content[128:132] == b"DICM" and len(content) == item.plain_bytes
    assert where_marker_is(portal.settings.home, receiver.temporary) == []
