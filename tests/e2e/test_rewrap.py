"""One person out of a large share: the keys of thousands of files are wrapped anew by the running worker, and the page
tells how far it is."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect
from sqlmodel import col, select

from myphr import settings as settings_module
from myphr.portal import Portal
from myphr.records.opening import open_item
from myphr.sharing import shared_with_me
from myphr.sharing.record_models import CompartmentKey, ItemWrap, RewrapTask
from tests.accessibility import seen
from tests.cast import Person
from tests.e2e.conftest import Screen, login_of, register
from tests.running import RunningPortal
from tests.web.stage import put_many

pytestmark = [pytest.mark.browser, pytest.mark.qemu, pytest.mark.timeout(600)]

FILES = 5000
WORKER = r"myphr worker"
PASSWORD = "linen folded before the dawn"


@pytest.fixture
def portal(running_portal: RunningPortal) -> Iterator[Portal]:
    portal = Portal(settings_module.load(running_portal.environ))
    yield portal
    portal.database.dispose()


def last_task(portal: Portal) -> RewrapTask:
    with portal.database.read() as db:
        task = db.exec(select(RewrapTask).order_by(col(RewrapTask.changed_at).desc())).first()
    assert task
    return task


def signalled(running: RunningPortal, number: signal.Signals) -> None:
    for process in running.processes(WORKER):
        os.kill(process, number)


def held(running: RunningPortal, portal: Portal) -> None:
    """The worker stands still, but not in the middle of a transaction: the pages, too, would wait for that one."""
    with portal.database.write():
        signalled(running, signal.SIGSTOP)


def until_batch(portal: Portal) -> None:
    deadline = time.monotonic() + 60
    while not last_task(portal).done:
        assert time.monotonic() < deadline, "the worker never began"
        time.sleep(0.005)


def test_a_person_taken_out_of_thousands_of_files_with_the_progress_on_the_page(
    running_portal: RunningPortal, portal: Portal, new_screen: Callable[..., Screen]
) -> None:
    def person(name: str) -> Page:
        page = new_screen(tablet_sized=True).page
        register(page, running_portal.url, Person(f"{name.lower()}@rewrap.example", f"{name} Lund", PASSWORD))
        return page

    patient, stays, goes = map(person, ("Pia", "Stina", "Gert"))
    put_many(portal, login_of(portal, patient).account.id, FILES)
    patient.goto(f"{running_portal.url}/share-record/everything")
    patient.get_by_label("What", exact=True).select_option(label="All my documents")
    patient.get_by_label("Family, or a person").check()
    patient.get_by_label("their e-mail addresses").fill("stina@rewrap.example, gert@rewrap.example")
    patient.get_by_role("button", name="Show me who that is today").click()
    patient.get_by_role("button", name="Share", exact=True).click()
    expect(patient.locator("main")).to_contain_text("Shared, and up to date.")
    goes.goto(f"{running_portal.url}/shared-with-me")
    goes.get_by_role("link", name="Open All documents").click()
    expect(goes.get_by_text(f"And {FILES - 200:,} more.")).to_be_visible()
    share = goes.url

    # The worker stands still while somebody looks at the page, so that there is something to see.
    held(running_portal, portal)
    try:
        patient.get_by_role("link", name="Remove Gert Lund").click()
        patient.get_by_role("button", name="Stop sharing").click()
        expect(patient.locator("#notice")).to_contain_text("ccess of Gert Lund ended")
        expect(patient.locator("main")).to_contain_text(f"New keys: 0 of {FILES:,} files")
        seen(patient, "rewrap-waiting")
        answer = goes.goto(share)
        assert answer and answer.status == 404
        patient.evaluate("() => { window.sameDocument = true; }")
        signalled(running_portal, signal.SIGCONT)
        until_batch(portal)
        held(running_portal, portal)
        done = last_task(portal).done
        assert 0 < done < FILES
        expect(patient.locator("main")).to_contain_text(f"New keys: {done:,} of {FILES:,} files")
        seen(patient, "rewrap-under-way")
    finally:
        signalled(running_portal, signal.SIGCONT)
    expect(patient.locator("main")).to_contain_text("Shared, and up to date.", timeout=60_000)
    assert patient.evaluate("() => window.sameDocument"), "the page was loaded anew: htmx did not do it"

    task = last_task(portal)
    assert task.state in ("done", "closed")  # closed: the old half is destroyed, too
    assert (task.done, task.total, task.keys_for_worker) == (FILES, FILES, None)
    with portal.database.read() as db:
        wraps = db.exec(select(ItemWrap.epoch).where(ItemWrap.compartment_id == task.compartment_id)).all()
    assert wraps == [1] * FILES
    opened = shared_with_me.open_shared(portal, login_of(portal, stays), task.compartment_id)
    assert len(opened.items) == FILES
    letters = set()
    for one in opened.items:
        item = open_item(portal.store, one.item, one.dek)
        letters.add(item.read_at(0, 100))
        item.close()
    assert letters == {b"Dear doctor, this is letter %d\n" % number for number in range(FILES)}
    stays.goto(share)
    expect(stays.get_by_text(f"And {FILES - 200:,} more.")).to_be_visible()
    answer = goes.goto(share)
    assert answer and answer.status == 404

    # At the owner's next unlock the old half goes too.
    patient.get_by_role("button", name="Sign out").first.click()
    patient.goto(f"{running_portal.url}/sign-in")
    patient.get_by_label("E-mail address").fill("pia@rewrap.example")
    patient.get_by_label("Password", exact=True).fill(PASSWORD)
    patient.get_by_role("button", name="Sign in").click()
    patient.get_by_role("heading", name="My record").wait_for()
    with portal.database.read() as db:
        epochs = db.exec(select(CompartmentKey.epoch).where(CompartmentKey.compartment_id == task.compartment_id)).all()
    assert epochs == [1]
    assert "every link of the chain holds" in running_portal.command("audit", "verify")
