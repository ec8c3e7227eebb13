"""Fetching from a PACS that is wrong, slow, gone or hostile, and a worker that dies: a real Orthanc behind a line that
can be cut, and pynetdicom where an archive has to lie."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydicom import Dataset
from pydicom.uid import RLELossless, generate_uid

from myphr.database import now
from myphr.errors import FormRefused, PacsRefused
from myphr.ingest.fetch import rows
from myphr.ingest.pacs import fetches, fetching, links, looking, servers, way
from myphr.ingest.pacs import plan as plans
from myphr.ingest.pacs import study as study_module
from myphr.ingest.pacs.models import PacsFetch, PacsLink
from myphr.ingest.pacs.requestor import Requestor
from myphr.portal import Portal
from myphr.records import duplicates
from myphr.records.items import dek_of, open_item
from tests import cast as cast_module
from tests.cast import STRANGER, SignedIn
from tests.integration.providers.conftest import ROOT, disk_before, items_of, partial, where_marker_is
from tests.pacs import (
    BORN,
    NILS,
    VERA,
    Dcmqrscp,
    Orthanc,
    as_other_image,
    fetched,
    linked,
    looked,
    on_the_list,
    study_of,
    uid_of,
)
from tests.running import free_port
from tests.unit.sharing import certificate

NUMBER = "ZZMARKERZZ77"  # a patient's number that must stand nowhere in clear


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("pacs") / "archive", UnknownSopClassAccepted=True) as running:
        yield running


class Cable:
    """A line to a port that can be cut or held after so many bytes from there. Each connection is another one."""

    def __init__(self, port: int) -> None:
        self._to, self.port = port, free_port()
        self.after_bytes: list[int] = []  # of the next connections, in turn; none left: not at all
        self.held = threading.Event()
        self.hold = False
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                ours, _ = self._listening.accept()
            except OSError:
                return
            most = self.after_bytes.pop(0) if self.after_bytes else None
            theirs = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._carry, args=(ours, theirs, None), daemon=True).start()
            threading.Thread(target=self._carry, args=(theirs, ours, most), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        try:
            while data := source.recv(65536 if most is None else min(most, 65536)):
                target.sendall(data)
                if most is not None and (most := most - len(data)) <= 0:
                    self.held.set()
                    if self.hold:
                        time.sleep(60)
                    break
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def cable(orthanc: Orthanc) -> Iterator[Cable]:
    made = Cable(orthanc.port)
    yield made
    made.close()


@pytest.fixture
def portal(tmp_path: Path, redis_url: str) -> Iterator[Portal]:
    made = cast_module.new_portal(tmp_path / "home", redis_url, pacs_silence_seconds=3, pacs_object_bytes_max=3_000_000)
    yield made
    made.database.dispose()
    made.redis.close()


def large_study(number: str = VERA, images: int = 6, size: int = 400_000) -> list[bytes]:
    """Images that need more than one PDU."""
    return [as_other_image(one, PixelData=os.urandom(size), Rows=size // 1000, Columns=1000)
            for one in study_of(number, images)]  # fmt: skip


# -- other people's -------------------------------------------------------------------------------
def test_images_of_somebody_else_in_her_study_are_refused_and_counted(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    """As an archive has them after a mistake at the scanner: one study UID, two patients."""
    hers, his = study_of(VERA, 3, StudyID="mixed"), study_of(NILS, 2)
    his = [as_other_image(one, StudyInstanceUID=uid_of(hers), SeriesInstanceUID=generate_uid()) for one in his]
    orthanc.put(his)
    uid = orthanc.put(hers)
    done = fetched(portal, patient, linked(portal, patient, operator, orthanc.port), uid)
    assert (done.state, done.items_count, done.refused_count, done.missing_count) == ("done", 3, 2, 0)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 3 and partial(portal) == []


def test_another_date_of_birth_under_her_number_is_not_her(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    """A number that was mistyped at the operator's, say."""
    orthanc.put(study_of("5000", 2, PatientBirthDate="19991231"))
    there = looked(portal, patient, linked(portal, patient, operator, orthanc.port, "5000", "19780412"))
    assert (there.state, there.studies, there.refused_count) == ("listed", (), 1)


def test_what_is_not_on_the_list_cannot_be_chosen(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    orthanc.put(study_of("5001", 1))
    nils = orthanc.put(study_of(NILS, 1))
    there = looked(portal, patient, linked(portal, patient, operator, orthanc.port, "5001", "19780412"))
    for uids in ([nils], [there.studies[0].uid, nils], [], ["*"], [""]):
        with pytest.raises(FormRefused):
            fetches.choose(portal, patient.login, there.id, uids)
    assert fetches.view(portal, patient.login, there.id).state == "listed"


@pytest.mark.parametrize("forged", ["link", "plan", "row"])
def test_who_only_writes_to_the_database_fetches_nobody_elses(
    portal: Portal, patient: SignedIn, operator: SignedIn, enter: Any, orthanc: Orthanc, forged: str
) -> None:
    """Anybody can seal something to the owner's or the worker's public key."""
    orthanc.put(study_of(VERA, 1))
    link_id = linked(portal, patient, operator, orthanc.port)
    stranger = enter(STRANGER)
    with portal.database.read() as db:
        hers = db.get(PacsLink, link_id)
    assert hers is not None
    mine = links.ask(portal, stranger.login, hers.pacs_id)
    code = links.one_of_mine(portal, stranger.login, mine).code
    links.confirm(portal, operator.login, code, "1000", "", "1965-01-01")
    if forged == "plan":
        fetch_id = fetches.look(portal, stranger.login, mine)
        plan = plans.Plan(hers.pacs_id, "Knee Clinic", plans.Patient(VERA, "", BORN[VERA]))
        change(portal, PacsFetch, fetch_id, sealed_for_worker=plans.seal(portal.keys.worker.public, fetch_id, plan))
    else:
        key = stranger.login.ring().public_key
        facts = {"number": VERA, "issuer": "", "birth_date": BORN[VERA]}
        sealed = links._seal(key, link_id if forged == "row" else mine, facts)
        if forged == "row":  # her whole link, under the stranger's name
            change(portal, PacsLink, mine, state="ended")
            change(portal, PacsLink, link_id, account_id=stranger.account.id, sealed_for_owner=sealed)
        else:
            change(portal, PacsLink, mine, sealed_for_owner=sealed)
        fetch_id = fetches.look(portal, stranger.login, link_id if forged == "row" else mine)
    fetching.look(portal, fetch_id)
    seen = fetches.view(portal, stranger.login, fetch_id)
    assert (seen.state, seen.studies) == ("failed", ()) and "not connected" in seen.reason


def change(portal: Portal, table: type, row_id: str, **values: Any) -> None:
    with portal.database.write() as db:
        row = db.get(table, row_id)
        for name, value in values.items():
            setattr(row, name, value)
        db.add(row)


# -- kinds and encodings --------------------------------------------------------------------------
def test_more_kinds_than_fit_into_one_association_all_come(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1",
             "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.20",
             "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.12.1",
             "1.2.826.0.1.3680043.9.9999.1"]  # fmt: skip
    images = study_of("5002", len(kinds))
    images = [as_other_image(one, SOPClassUID=kind) for one, kind in zip(images, kinds, strict=True)]
    uid = orthanc.put(images)
    lines: list[tuple[str, ...]] = []
    opened = Requestor._open
    monkeypatch.setattr(Requestor, "_open", lambda self: (lines.append(tuple(self._classes)), opened(self))[1])
    done = fetched(portal, patient, linked(portal, patient, operator, orthanc.port, "5002", "19780412"), uid)
    assert (done.state, done.items_count, done.missing_count) == ("done", 9, 0), done.reason
    assert len([one for one in lines if one]) > 1


def test_compressed_and_plain_images_of_one_kind_come_as_they_are(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    import io

    from pydicom import dcmread

    images = study_of("5003", 2)
    packed = dcmread(io.BytesIO(images[1]))
    packed.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    out = io.BytesIO()
    packed.save_as(out, enforce_file_format=True)
    uid = orthanc.put([images[0], out.getvalue()])
    done = fetched(portal, patient, linked(portal, patient, operator, orthanc.port, "5003", "19780412"), uid)
    assert (done.items_count, done.missing_count) == (2, 0)
    ring, syntaxes = patient.login.ring(), set()
    for item in items_of(portal):
        opened = open_item(portal.store, item, dek_of(ring, item))
        syntaxes.add(dcmread(io.BytesIO(opened.read_at(0, item.plain_bytes))).file_meta.TransferSyntaxUID)
    assert syntaxes == {"1.2.840.10008.1.2.1", RLELossless}


# -- a line that is bad ---------------------------------------------------------------------------
def test_a_line_that_breaks_in_an_image_is_dialled_again_and_nothing_comes_twice(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc, cable: Cable
) -> None:
    uid = orthanc.put(large_study("5004"))
    link_id = linked(portal, patient, operator, cable.port, "5004", "19780412")
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, [uid])
    cable.after_bytes = [1 << 40, 1_500_000]  # the questions, then the fourth image
    fetching.run(portal, there.id)
    done = fetches.view(portal, patient.login, there.id)
    assert cable.held.is_set()
    assert (done.state, done.items_count, done.known_count, done.missing_count) == ("done", 6, 0, 0), done.reason
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 6 and partial(portal) == []
    assert repeats_of(portal, patient) == 0


def repeats_of(portal: Portal, patient: SignedIn) -> int:
    ring = patient.login.ring()
    return sum(duplicates.again(portal.database, ring, item).repeats_count for item in items_of(portal))


def test_an_archive_that_falls_silent_in_an_image_is_given_up(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc, cable: Cable
) -> None:
    uid = orthanc.put(large_study("5005"))
    link_id = linked(portal, patient, operator, cable.port, "5005", "19780412")
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, [uid])
    cable.hold, cable.after_bytes = True, [1 << 40, 1_500_000]
    begun = time.monotonic()
    fetching.run(portal, there.id)
    done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count) == ("failed", 3) and "too slow" in done.reason
    assert time.monotonic() - begun < 20 and partial(portal) == []
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 3


def test_an_archive_that_is_gone_or_never_answers(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PacsRefused) as refusal:
        on_the_list(portal, free_port())
    assert "does not answer" in refusal.value.message
    monkeypatch.setattr(servers, "ECHO_SECONDS_MAX", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(PacsRefused) as refusal:
        on_the_list(portal, silent.getsockname()[1])
    assert "too slow" in refusal.value.message


def test_an_archive_that_does_not_know_us_does_not_get_on_the_list(portal: Portal, orthanc: Orthanc) -> None:
    with pytest.raises(PacsRefused) as refusal:
        on_the_list(portal, orthanc.port, called_ae="ELSEWHERE")
    assert "does not let this portal in" in refusal.value.message


# -- limits ---------------------------------------------------------------------------------------
def test_an_image_above_its_limit_ends_the_fetch_and_leaves_nothing(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    uid = orthanc.put(large_study("5006", images=1, size=4_000_000))
    done = fetched(portal, patient, linked(portal, patient, operator, orthanc.port, "5006", "19780412"), uid)
    assert done.state == "failed" and "more than this portal takes" in done.reason
    assert items_of(portal) == [] and partial(portal) == [] and list(portal.store.keys()) == []


def test_a_record_without_room_is_said_and_nothing_is_left_over(
    tmp_path: Path, redis_url: str, orthanc: Orthanc
) -> None:
    small = cast_module.new_portal(tmp_path / "small", redis_url, record_bytes_max=1_000_000)
    patient, operator = (cast_module.enter(small, one) for one in (cast_module.PATIENT, cast_module.OPERATOR))
    uid = orthanc.put(large_study("5007", images=4))
    done = fetched(small, patient, linked(small, patient, operator, orthanc.port, "5007", "19780412"), uid)
    assert done.state == "failed" and "no room left" in done.reason
    assert len(items_of(small)) == len(list(small.store.keys())) <= 2
    small.database.dispose()


def test_a_full_disk_is_said_and_what_had_room_is_kept(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    """The worker's store is a small disk of its own, which ends with it."""
    uid = orthanc.put(large_study("5022", images=6))
    link_id = linked(portal, patient, operator, orthanc.port, "5022", "19780412")
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, [uid])
    code = f"from jobs.ingest import fetch_from_pacs; fetch_from_pacs({there.id!r})"
    command = [*disk_before(portal, 1_000_000), sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT, env=worker_environ(portal), check=True, timeout=120)
    done = fetches.view(portal, patient.login, there.id)
    assert done.state == "failed" and "computer that keeps your record is full" in done.reason
    assert len(items_of(portal)) == done.items_count and 0 < done.items_count < 6
    again = fetched(portal, patient, link_id, uid)
    assert again.state == "done" and again.items_count + again.known_count == 6


def worker_environ(portal: Portal) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("MYPHR_")} | {
        "MYPHR_HOME": str(portal.settings.home), "MYPHR_REDIS_URL": portal.settings.redis_url,
        "MYPHR_PACS_SILENCE_SECONDS": "60",
    }  # fmt: skip


def test_an_error_behind_the_commit_costs_no_image(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc, request: pytest.FixtureRequest
) -> None:
    """A group is filed; then Redis refuses the job to read it, and the run ends with that."""
    uid = orthanc.put(study_of("5015", 3))
    there = looked(portal, patient, linked(portal, patient, operator, orthanc.port, "5015", "19780412"))
    fetches.choose(portal, patient.login, there.id, [uid])
    full = request.getfixturevalue("full_redis")
    with pytest.raises(redis.ResponseError):
        fetching.run(portal, there.id)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 3
    full.config_set("maxmemory", 0)
    fetching.run(portal, there.id)
    done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count, done.missing_count) == ("done", 3, 0), done.reason
    for item in items_of(portal):
        assert open_item(portal.store, item, dek_of(patient.login.ring(), item)).read_at(128, 4) == b"DICM"


# -- stopped --------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["withdraw", "end"])
def test_stopped_in_the_middle_nothing_more_comes(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc, cable: Cable, how: str
) -> None:
    uid = orthanc.put(large_study("5008" + how))
    link_id = linked(portal, patient, operator, cable.port, "5008" + how, "19780412")
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, [uid])
    cable.hold, cable.after_bytes = True, [1 << 40, 1_500_000]
    worker = threading.Thread(target=fetching.run, args=(portal, there.id))
    worker.start()
    assert cable.held.wait(20)
    if how == "withdraw":
        fetches.withdraw(portal, patient.login, there.id)
    else:
        links.end(portal, patient.login, link_id)
    came = len(items_of(portal))
    worker.join(20)
    assert not worker.is_alive()
    with portal.database.read() as db:
        row = db.get(PacsFetch, there.id)
    assert row is not None and (row.state, row.sealed_for_worker) == ("withdrawn", None)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == came and partial(portal) == []


def test_of_two_runs_at_once_one_goes_on_and_nothing_comes_twice(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    uid = orthanc.put(large_study("5009", images=12))
    there = looked(portal, patient, linked(portal, patient, operator, orthanc.port, "5009", "19780412"))
    fetches.choose(portal, patient.login, there.id, [uid])
    runs = [threading.Thread(target=fetching.run, args=(portal, there.id)) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join(60)
    done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count + done.known_count) == ("done", 12), done.reason
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 12


def test_a_worker_killed_in_the_middle_is_followed_by_one_that_goes_on(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc, cable: Cable
) -> None:
    uid = orthanc.put([as_other_image(one, PixelData=os.urandom(100_000), Rows=100, Columns=1000)
                       for one in study_of(NUMBER, 80)])  # fmt: skip
    link_id = linked(portal, patient, operator, cable.port, NUMBER, "19780412")
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, [uid])
    cable.hold, cable.after_bytes = True, [1 << 40, 6_500_000]  # past the first fifty, which are one commit
    worker = subprocess.Popen(
        [sys.executable, "-c", f"from jobs.ingest import fetch_from_pacs; fetch_from_pacs({there.id!r})"], cwd=ROOT,
        env=worker_environ(portal),
    )
    assert cable.held.wait(30)
    deadline = time.monotonic() + 10
    while len(items_of(portal)) < 50 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    came = len(items_of(portal))
    assert 50 <= came < 80
    assert where_marker_is(portal.settings.home) == []
    cable.hold = False
    fetching.run(portal, there.id)
    done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count, done.known_count, done.missing_count) == ("done", 80, 0, 0), done.reason
    assert len(items_of(portal)) == 80 and repeats_of(portal, patient) == 0


def test_a_long_fetch_gives_way_to_others_between_two_series(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = study_of("5011", 9)
    series = [generate_uid() for _ in range(3)]
    images = [as_other_image(one, SeriesInstanceUID=series[at % 3]) for at, one in enumerate(images)]
    uids = [orthanc.put(images), orthanc.put(study_of("5011", 2))]
    link_id = linked(portal, patient, operator, orthanc.port, "5011", "19780412")
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, uids)
    came, jobs = [], []
    monkeypatch.setattr(Requestor, "get", one_a_turn(Requestor.get))
    for _ in range(20):
        portal.queue.rq.empty()
        monkeypatch.setattr(fetching, "TURN_SECONDS", 60.0)
        fetching.run(portal, there.id, again=way.FETCH if len(came) % 2 else way.FETCH_AGAIN)
        done = fetches.view(portal, patient.login, there.id)
        came.append(done.items_count)
        if done.state != "fetching":
            break
        jobs += [job.func_name for job in portal.queue.rq.jobs if "pacs" in job.func_name]
    assert (done.state, done.items_count, done.known_count, done.missing_count) == ("done", 11, 0, 0), done.reason
    assert jobs == [way.FETCH_AGAIN, way.FETCH, way.FETCH_AGAIN]
    assert len(came) == 4 and came == sorted(set(came))
    assert repeats_of(portal, patient) == 0


def one_a_turn(get: Any) -> Any:
    """A series takes all of a turn."""

    def slow(self: Requestor, *arguments: Any) -> int:
        status = get(self, *arguments)
        fetching.TURN_SECONDS = 0.0
        return status

    return slow


def test_what_a_worker_left_is_put_back_by_the_sweep(
    portal: Portal, patient: SignedIn, operator: SignedIn, orthanc: Orthanc
) -> None:
    link_id = linked(portal, patient, operator, orthanc.port, "5010", "19780412")
    fetch_id = fetches.look(portal, patient.login, link_id)
    portal.queue.rq.empty()
    assert fetches.sweep(portal) == 0
    with portal.database.write() as db:
        row = db.get(PacsFetch, fetch_id)
        assert row
        row.changed_at = now() - 2 * rows.STUCK
        db.add(row)
    assert fetches.sweep(portal) == 1
    assert [job.func_name for job in portal.queue.rq.jobs] == [way.LOOK_AGAIN]


# -- an archive that lies ---------------------------------------------------------------------------
class Liar:
    """pynetdicom as an archive that answers what it is told to. As a context manager."""

    def __init__(self) -> None:
        self.found: dict[str, list[Dataset]] = {}  # by level
        self.sent: list[Dataset] = []
        self.get_offered = True
        self.sends: Callable[[Any], list[Dataset]] = lambda event: self.sent
        self.asked: list[Dataset] = []

    def __enter__(self) -> "Liar":
        from pynetdicom import AE, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import (
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelGet,
            Verification,
        )

        ae = AE("ARCHIVE")
        for one in (Verification, StudyRootQueryRetrieveInformationModelFind):
            ae.add_supported_context(one)
        if self.get_offered:
            ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        for one in AllStoragePresentationContexts[:120]:
            ae.add_supported_context(one.abstract_syntax, scu_role=True, scp_role=True)
        self.port = free_port()
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[
            (evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._get)])  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        for one in self.found.get(event.identifier.QueryRetrieveLevel, []):
            yield 0xFF00, one

    def _get(self, event: Any) -> Iterator[Any]:
        sent = self.sends(event)
        yield len(sent)
        for one in sent:
            yield 0xFF00, one


def data_set(image: bytes) -> Dataset:
    import io

    from pydicom import dcmread

    return dcmread(io.BytesIO(image))


def answer(level: str, image: Dataset, **more: Any) -> Dataset:
    found = Dataset()
    found.QueryRetrieveLevel = level
    for keyword in ("PatientID", "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
                    "SOPClassUID", "StudyDate", "StudyDescription"):  # fmt: skip
        setattr(found, keyword, image.get(keyword, ""))
    for keyword, value in more.items():
        setattr(found, keyword, value)
    return found


@pytest.fixture
def liar() -> Iterator[Liar]:
    with Liar() as running:
        yield running


def honest(liar: Liar, number: str, images: int = 3) -> list[Dataset]:
    """What it would say if it told the truth of one study."""
    study = [data_set(one) for one in study_of(number, images)]
    liar.found = {"STUDY": [answer("STUDY", study[0], NumberOfStudyRelatedInstances=images)],
                  "SERIES": [answer("SERIES", study[0])], "IMAGE": [answer("IMAGE", one) for one in study]}  # fmt: skip
    liar.sent = list(study)
    return study


def test_an_archive_that_ignores_what_was_asked_shows_her_nobody_else(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar
) -> None:
    hers = honest(liar, VERA)
    for number in (NILS, VERA + "0", "", f"{VERA}\\{NILS}", "*", VERA.lower() + " x"):
        liar.found["STUDY"].append(answer("STUDY", hers[0], PatientID=number, StudyInstanceUID=generate_uid()))
    there = looked(portal, patient, linked(portal, patient, operator, liar.port))
    assert [one.uid for one in there.studies] == [hers[0].StudyInstanceUID] and there.refused_count == 6
    assert liar.asked[-1].PatientID == VERA


def test_where_the_issuer_is_known_no_other_issuers_number_is_hers(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar
) -> None:
    hers = honest(liar, VERA)
    liar.found["STUDY"] = [answer("STUDY", hers[0], IssuerOfPatientID=issuer, StudyInstanceUID=generate_uid())
                           for issuer in ("EAST", "WEST", "")]  # fmt: skip
    pacs = on_the_list(portal, liar.port)
    link_id = links.ask(portal, patient.login, pacs.id)
    code = links.one_of_mine(portal, patient.login, link_id).code
    links.confirm(portal, operator.login, code, VERA, "EAST", "1978-04-12")
    there = looked(portal, patient, link_id)
    assert len(there.studies) == 1 and there.refused_count == 2 and liar.asked[-1].IssuerOfPatientID == "EAST"


@pytest.mark.parametrize("lie", ["another-study", "another-patient", "not-announced", "no-patient", "twice"])
def test_what_was_not_asked_for_is_refused(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar, lie: str
) -> None:
    study = honest(liar, VERA)
    odd = data_set(study_of(VERA, 1)[0])
    if lie == "another-study":
        odd.SOPInstanceUID = odd.file_meta.MediaStorageSOPInstanceUID = study[0].SOPInstanceUID
        liar.sent[0] = odd
    elif lie == "another-patient":
        study[0].PatientID = NILS
    elif lie == "no-patient":
        del study[0].PatientID
    elif lie == "not-announced":
        odd.StudyInstanceUID = study[0].StudyInstanceUID
        liar.sent.append(odd)
    else:
        liar.sent.append(study[0])
    done = fetched(portal, patient, linked(portal, patient, operator, liar.port))
    lacks = lie not in ("not-announced", "twice")
    assert (done.state, done.items_count, done.missing_count) == ("done", 3 - lacks, 0), done.reason
    assert done.refused_count == (0 if lie == "twice" else 1)
    assert len(items_of(portal)) == len(list(portal.store.keys())) == 3 - lacks and partial(portal) == []


def test_who_goes_on_sending_what_was_not_asked_is_hung_up_on(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "REFUSED_MAX", 5)
    honest(liar, VERA)
    liar.sent += [data_set(one) for one in study_of(NILS, 30)]
    done = fetched(portal, patient, linked(portal, patient, operator, liar.port))
    assert done.state == "failed" and "not asked for" in done.reason and done.items_count == 3
    assert done.refused_count == 6


def test_an_archive_that_names_no_kinds_is_asked_for_those_we_know(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar
) -> None:
    honest(liar, VERA)
    for one in liar.found["IMAGE"]:
        del one.SOPClassUID
    done = fetched(portal, patient, linked(portal, patient, operator, liar.port))
    assert (done.state, done.items_count, done.missing_count) == ("done", 3, 0)


def test_an_archive_that_promises_more_than_it_sends(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar
) -> None:
    honest(liar, VERA, 4)
    del liar.sent[2:]
    done = fetched(portal, patient, linked(portal, patient, operator, liar.port))
    assert (done.state, done.items_count, done.missing_count) == ("done", 2, 2)


def test_more_answers_than_anybody_has_studies_end_the_look(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "STUDIES_MAX", 5)
    study = honest(liar, VERA)
    liar.found["STUDY"] = [answer("STUDY", study[0], StudyInstanceUID=generate_uid()) for _ in range(6)]
    there = looked(portal, patient, linked(portal, patient, operator, liar.port))
    assert there.state == "failed" and "more than this portal takes" in there.reason


def test_an_archive_that_only_moves_is_told_so(portal: Portal, patient: SignedIn, operator: SignedIn) -> None:
    moves = Liar()
    moves.get_offered = False
    with moves as liar:
        honest(liar, VERA)
        done = fetched(portal, patient, linked(portal, patient, operator, liar.port))
    assert done.state == "failed" and "does not hand out images in the way" in done.reason


# -- TLS --------------------------------------------------------------------------------------------
def tls_orthanc(folder: Path, **settings: Any) -> Orthanc:
    (folder / "theirs").mkdir()
    chain, key = certificate.make(folder / "theirs")
    return Orthanc(folder / "archive", DicomTlsEnabled=True, DicomTlsCertificate=str(chain),
                   DicomTlsPrivateKey=str(key), **settings)  # fmt: skip


@pytest.mark.parametrize("client", [True, False], ids=["our-certificate", "any-client"])
def test_over_tls_images_come_and_both_sides_prove_themselves(
    tmp_path: Path, redis_url: str, client: bool
) -> None:
    (tmp_path / "ours").mkdir()
    chain, key = certificate.make(tmp_path / "ours")
    ours = {"pacs_tls_cert_file": str(chain), "pacs_tls_key_file": str(key)} if client else {}
    portal = cast_module.new_portal(tmp_path / "home", redis_url, **ours)
    patient, operator = (cast_module.enter(portal, one) for one in (cast_module.PATIENT, cast_module.OPERATOR))
    demands = {"DicomTlsTrustedCertificates": str(chain), "DicomTlsRemoteCertificateRequired": client}
    with tls_orthanc(tmp_path, **demands) as archive:
        archive.put(study_of(VERA, 2))
        theirs = (tmp_path / "theirs" / "certificate.pem").read_text()
        for wrong in ({"tls": False}, {"tls": True, "ca_pem": chain.read_text()}, {"tls": True}):
            with pytest.raises(PacsRefused):
                on_the_list(portal, archive.port, **wrong)
        link_id = linked(portal, patient, operator, archive.port, tls=True, ca_pem=theirs)
        assert fetched(portal, patient, link_id).items_count == 2
        if client:
            without = cast_module.new_portal(tmp_path / "without", redis_url)
            with pytest.raises(PacsRefused):
                on_the_list(without, archive.port, tls=True, ca_pem=theirs)
            without.database.dispose()
    portal.database.dispose()


def test_a_line_in_clear_leads_to_this_computer_only(portal: Portal) -> None:
    with pytest.raises(FormRefused) as refusal:
        on_the_list(portal, 104, host="pacs.example")
    assert "MYPHR_PACS_PLAIN" in refusal.value.message




# -- what travels twice -----------------------------------------------------------------------------
class Travelled:
    """Counts what comes over the line, by instance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: dict[str, int] = {}
        take = study_module.Study.take

        def counted(study: study_module.Study, names: Any) -> Any:
            self.times[names.instance] = self.times.get(names.instance, 0) + 1
            return take(study, names)

        monkeypatch.setattr(study_module.Study, "take", counted)

    @property
    def twice(self) -> int:
        return sum(times - 1 for times in self.times.values())


@pytest.fixture(params=["Orthanc", "dcmqrscp"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made: Any = Orthanc if request.param == "Orthanc" else Dcmqrscp
    with made(tmp_path / "archive") as running:
        yield running


def test_a_series_that_was_cut_goes_on_where_it_was(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = archive.put([as_other_image(one, PixelData=os.urandom(50_000), Rows=50, Columns=1000)
                       for one in study_of("5020", 120)])  # fmt: skip
    cable = Cable(archive.port)
    link_id = linked(portal, patient, operator, cable.port, "5020", "19780412")
    there = looked(portal, patient, link_id)
    cable.after_bytes = [1 << 40, 5_000_000]
    travelled = Travelled(monkeypatch)
    fetches.choose(portal, patient.login, there.id, [uid])
    fetching.run(portal, there.id)
    cable.close()
    done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count, done.known_count, done.missing_count) == ("done", 120, 0, 0), done.reason
    assert len(items_of(portal)) == len(travelled.times) == 120 and cable.held.is_set()
    assert travelled.twice <= 1  # the image that was cut


def test_a_huge_series_gives_way_to_others_and_nothing_of_it_travels_twice(
    portal: Portal, patient: SignedIn, operator: SignedIn, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "WHOLE_MAX", 20)
    monkeypatch.setattr(fetching, "LISTED_MAX", 10)
    monkeypatch.setattr(Requestor, "get", one_a_turn(Requestor.get))
    uid = archive.put(study_of("5021", 25))
    link_id = linked(portal, patient, operator, archive.port, "5021", "19780412")
    there = looked(portal, patient, link_id)
    fetches.choose(portal, patient.login, there.id, [uid])
    travelled, came = Travelled(monkeypatch), []
    for _ in range(10):
        monkeypatch.setattr(fetching, "TURN_SECONDS", 60.0)
        fetching.run(portal, there.id)
        done = fetches.view(portal, patient.login, there.id)
        came.append(done.items_count)
        if done.state != "fetching":
            break
    assert (done.state, done.known_count, done.missing_count) == ("done", 0, 0), done.reason
    assert came == [10, 20, 25] and travelled.twice == 0


@pytest.mark.parametrize("left", [5, 12])
def test_from_an_archive_that_takes_no_lists_the_rest_comes_all_the_same(
    portal: Portal, patient: SignedIn, operator: SignedIn, liar: Liar, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """One by one while it is little, else the series once more."""
    monkeypatch.setattr(fetching, "WHOLE_MAX", 3)
    monkeypatch.setattr(fetching, "ONE_BY_ONE_MAX", 10)
    honest(liar, VERA, left)
    asked: list[str] = []

    def get(event: Any) -> list[Dataset]:
        key = event.identifier
        names = key.get("SOPInstanceUID", "")
        is_list = not isinstance(names, str)
        asked.append("list" if is_list else "one" if names else "series")
        return [one for one in liar.sent if not is_list and (not names or one.SOPInstanceUID == names)]

    liar.sends = get
    done = fetched(portal, patient, linked(portal, patient, operator, liar.port))
    assert (done.state, done.items_count, done.missing_count, done.refused_count) == ("done", left, 0, 0), done.reason
    assert asked == (["list"] + ["one"] * left if left <= 10 else ["list", "series"])
