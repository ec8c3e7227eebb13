"""Images from a PACS on PostgreSQL, where many write at once."""

import sys
from pathlib import Path

from myphr.errors import FormRefused
from myphr.ingest.pacs import fetches, fetching, links
from tests.cast import STRANGER
from tests.integration.postgresql.test_exports_and_deletions import together
from tests.integration.providers.conftest import Process, items_of, processes
from tests.pacs import VERA, Orthanc, linked, looked, study_of
from tests.running import free_port
from tests.web.stage import put_pacs

__all__ = ["processes"]


def test_two_runs_at_once_file_each_image_once(portal, patient, operator, tmp_path: Path) -> None:
    with Orthanc(tmp_path / "archive") as archive:
        archive.put(study_of(VERA, 60))
        link_id = linked(portal, patient, operator, archive.port)
        there = looked(portal, patient, link_id)
        fetches.choose(portal, patient.login, there.id, [one.uid for one in there.studies])
        together(*[lambda: fetching.run(portal, there.id)] * 2)
        done = fetches.view(portal, patient.login, there.id)
        assert (done.state, done.items_count + done.known_count, len(items_of(portal))) == ("done", 60, 60), done.reason
        ids = together(*[lambda: fetches.look(portal, patient.login, link_id)] * 4)
        assert len(set(ids)) == 1 and isinstance(ids[0], str), ids


def test_two_runs_at_once_have_each_image_sent_to_the_record_once(
    portal, patient, operator, tmp_path: Path, processes
) -> None:
    """C-MOVE: the receiver files and counts, while two workers fold the counts and open what is expected anew."""
    port = free_port()
    processes.append(Process(portal, [sys.executable, "-m", "myphr.receiver"], port,
                             receiver_bind=f"127.0.0.1:{port}", database_url=portal.settings.database_url))  # fmt: skip
    with Orthanc(tmp_path / "archive", DicomModalities={"portal": ["MYPHR", "127.0.0.1", port]}) as archive:
        archive.put(study_of(VERA, 40))
        there = looked(portal, patient, linked(portal, patient, operator, archive.port, moves=True))
        fetches.choose(portal, patient.login, there.id, [one.uid for one in there.studies])
        together(*[lambda: fetching.run(portal, there.id)] * 2)
        done = fetches.view(portal, patient.login, there.id)
    assert (done.state, done.items_count + done.known_count, len(items_of(portal))) == ("done", 40, 40), done.reason
    assert done.missing_count == 0 and len(list(portal.store.keys())) == 40


def test_of_two_confirmed_at_once_for_one_number_one_is_refused(portal, patient, operator, enter) -> None:
    stranger, pacs_id = enter(STRANGER), put_pacs(portal)
    asked = together(*[lambda: links.ask(portal, patient.login, pacs_id)] * 4)
    assert len(set(asked)) == 1 and isinstance(asked[0], str), asked
    codes = [links.one_of_mine(portal, one.login, links.ask(portal, one.login, pacs_id)).code
             for one in (patient, stranger)]  # fmt: skip
    done = together(*[
        lambda code=code: links.confirm(portal, operator.login, code, VERA, "", "1978-04-12") for code in codes
    ])  # fmt: skip
    assert sorted(isinstance(one, FormRefused) for one in done) == [False, True], done
