"""The receiver with its database on PostgreSQL, which goes away and comes back under real senders.

The line is cut, also in a commit: then nobody knows whether it was carried out. So an image may be in the record that
was answered with a failure; never the other way round, and never one without its bytes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pydicom.uid import generate_uid

from myphr.audit import trail
from myphr.ingest.drop_offs import Created
from myphr.portal import Portal
from tests.cast import SignedIn, new_portal
from tests.integration.providers.conftest import MARKER, Process, count_of, items_of, where_marker_is
from tests.integration.providers.test_receiver import dcmread_uid, settled
from tests.integration.providers.test_receiver_faults import FAILURE, all_open, send
from tests.web.stage import dicom_bytes

SENDERS, IMAGES = 3, 60


@pytest.fixture
def portal(tmp_path: Path, redis_url: str, postgresql_url: str) -> Iterator[Portal]:
    portal = new_portal(tmp_path / "home", redis_url, database_url=postgresql_url)
    yield portal
    portal.database.dispose()
    portal.redis.close()


@pytest.fixture
def away(postgresql_server: str, portal: Portal) -> Iterator[Callable[[bool], None]]:
    """`away(True)` cuts all lines to this database and lets nobody in."""
    name = portal.database.engine.url.database
    with psycopg.connect(postgresql_server, autocommit=True) as control:

        def set_away(is_away: bool) -> None:
            control.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {not is_away}".encode())
            if is_away:
                control.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

        yield set_away
        set_away(False)


def test_senders_lose_nothing_that_was_answered_for_when_the_database_goes_away(
    portal: Portal, patient: SignedIn, start_receiver: Callable[..., Process], created: Created, tmp_path: Path,
    away: Callable[[bool], None],
) -> None:  # fmt: skip
    receiver = start_receiver(database_url=portal.settings.database_url)
    study, answers = generate_uid(), dict[Path, str]()
    folders = [tmp_path / f"sender-{number}" for number in range(SENDERS)]
    for folder in folders:
        folder.mkdir()
        for at in range(IMAGES):
            (folder / f"{at:02}.dcm").write_bytes(dicom_bytes(study, at, PatientName=MARKER))

    def sender(folder: Path) -> None:
        files = sorted(folder.iterdir())
        answers.update(zip(files, send("storescu", receiver.port, created.ae_title, *files), strict=True))

    threads = [threading.Thread(target=sender, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    settled(lambda: len(items_of(portal)) >= 4 * SENDERS)
    while any(thread.is_alive() for thread in threads):
        away(True)
        time.sleep(0.02)
        away(False)
        time.sleep(0.2)
    answered = {dcmread_uid(path.read_bytes()) for path, answer in answers.items() if answer == "Success"}
    refused = [answer for answer in answers.values() if answer != "Success"]
    assert len(answers) == SENDERS * IMAGES and answered and refused and all(FAILURE in answer for answer in refused)
    portal.database.dispose()  # the lines of the test's own were cut too
    stored = all_open(portal, patient, portal.store)  # type: ignore[arg-type]
    assert answered <= stored and len(stored) == len(items_of(portal)) == count_of(portal, created)
    assert list(portal.store.partial_dir.iterdir()) == []

    for folder in folders:  # again, until the receiver's own cut lines are found out
        settled(lambda folder=folder: sender(folder) or all(answers[path] == "Success" for path in folder.iterdir()))
    assert len(all_open(portal, patient, portal.store)) == count_of(portal, created) == SENDERS * IMAGES  # type: ignore[arg-type]
    assert trail.verify(portal.database) > 0
    assert where_marker_is(portal.settings.home, receiver.temporary) == []
    assert MARKER not in receiver.log.read_text()
