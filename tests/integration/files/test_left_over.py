"""Results that waited for their owner: signing in brings them into the record, through the real gateway process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.machines import left_over
from myphr.machines.models import VmSession
from myphr.portal import Portal
from myphr.web.application import create_app
from tests.cast import PATIENT, STRANGER, SignedIn
from tests.integration.files.rig import Claim, Gateway, claim, end, set_state, wait_for
from tests.integration.files.test_files_gateway import results_in_record, up
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient, text_of


@pytest.fixture
def left(portal: Portal, patient: SignedIn) -> Iterator[tuple[Gateway, Claim]]:
    """A session that is over, whose gateway died with a result and whose guest never came back. Gateway not started."""
    mine = claim(portal, patient, {"scan.bin": b"a scan"})
    gateway = Gateway(portal).start()
    up(mine).mount().write("results/measurement.txt", b"12 mm")
    gateway.kill()
    end(portal, mine)
    yield gateway, mine
    gateway.stop()


def ended(portal: Portal, gateway: Gateway, mine: Claim) -> Path:
    """The end job has seen that the results wait; the spool."""
    gateway.start()
    assert wait_for(lambda: portal.redis.get(f"myphr:results:{mine.vm_session_id}")) == b"left-over"
    set_state(portal, VmSession, mine.vm_session_id, "ended")
    wait_for((portal.settings.run_dir / left_over.DOOR).exists)
    return portal.settings.spool_dir / "results" / mine.vm_session_id


def test_signing_in_brings_what_was_left_over_into_the_record(
    left: tuple[Gateway, Claim], portal: Portal, patient: SignedIn
) -> None:
    spool = ended(portal, *left)
    browser = sign_in(PageClient(create_app(portal)), PATIENT)
    wait_for(lambda: not spool.exists())
    assert results_in_record(portal, patient) == {"results/measurement.txt": b"12 mm"}
    assert "measurement.txt" in text_of(browser.get("/record"))


def test_another_persons_sign_in_touches_nothing(
    left: tuple[Gateway, Claim], portal: Portal, patient: SignedIn, stranger: SignedIn
) -> None:
    spool = ended(portal, *left)
    sign_in(PageClient(create_app(portal)), STRANGER)
    assert left_over.bring_in(portal, stranger.account.id, stranger.login.ring()) is None
    assert (spool / "journal").exists() and results_in_record(portal, patient) == {}


def test_with_another_ring_nothing_is_handed_over(
    left: tuple[Gateway, Claim], portal: Portal, patient: SignedIn, stranger: SignedIn
) -> None:
    spool = ended(portal, *left)
    assert left_over.bring_in(portal, patient.account.id, stranger.login.ring()) is None
    assert (spool / "journal").exists()


def test_without_the_gateway_the_sign_in_works_and_the_results_go_on_waiting(
    left: tuple[Gateway, Claim], portal: Portal, patient: SignedIn, caplog: pytest.LogCaptureFixture
) -> None:
    _, mine = left
    browser = sign_in(PageClient(create_app(portal)), PATIENT)
    thread = left_over.bring_in(portal, patient.account.id, patient.login.ring())
    assert thread is not None
    thread.join(20)
    assert f"{mine.vm_session_id} still wait" in caplog.text
    assert browser.get("/record").status_code == 200
    assert (portal.settings.spool_dir / "results" / mine.vm_session_id / "journal").exists()


def test_a_spool_full_of_nonsense_does_not_stop_the_sign_in(
    left: tuple[Gateway, Claim], portal: Portal, patient: SignedIn
) -> None:
    _, mine = left
    spool = portal.settings.spool_dir / "results"
    (spool / mine.vm_session_id / left_over.OWNER_KEY).write_bytes(b"\xff" * 100_000)
    (spool / "not an id").mkdir()
    (spool / "6A1B0000-0000-4000-8000-000000000000").write_text("a file")
    assert sign_in(PageClient(create_app(portal)), PATIENT).get("/record").status_code == 200
    assert (spool / mine.vm_session_id / "journal").exists()


def test_the_page_of_the_ended_session_does_not_say_that_nothing_was_saved(
    left: tuple[Gateway, Claim], portal: Portal, patient: SignedIn
) -> None:
    gateway, mine = left
    browser = sign_in(PageClient(create_app(portal)), PATIENT)  # nobody is at the door yet: it still waits afterwards
    spool = ended(portal, gateway, mine)
    words = text_of(browser.get(f"/machine/{mine.vm_session_id}"))
    assert "still being put into your record" in words and "nothing was added" not in words
    wait_for(lambda: not spool.exists())
    words = text_of(browser.get(f"/machine/{mine.vm_session_id}"))
    assert "You saved 1 file" in words and "still being put" not in words
