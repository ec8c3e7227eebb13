"""kill -9 of web, worker, keyholder and Redis in the middle of sharing the record: while a share is made, while a
person is removed, while keys are wrapped anew; and the same of shares by kind.

After each: nobody is let in who should not be, whoever should be opens everything, doing it again completes it, the
page says something that helps, and the audit trail holds. One portal goes through all of it; no machine runs in it.
"""

import dataclasses
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from bs4 import BeautifulSoup
from sqlmodel import select

from myphr.portal import Portal
from myphr.settings import load
from myphr.sharing.record_models import Compartment, CompartmentKey, ItemWrap, LabelClassKey, RewrapTask
from tests.integration.portal.test_faults import eventually
from tests.person import Person
from tests.running import RunningPortal
from tests.web.stage import put_many, put_study

pytestmark = pytest.mark.timeout(900)

PROCESSES = {
    "web": r"gunicorn", "worker": r"myphr worker", "keyholder": r"myphr\.keyholder", "redis": r"redis-server",
}  # fmt: skip
# Of the time that it takes undisturbed. Each costs a restart and a sweep: MYPHR_FAULTS=all takes two more.
MOMENTS = (0.2, 0.5, 0.8) if os.environ.get("MYPHR_FAULTS") == "all" else (0.5,)
FILES = 2000
SHOWN = 200  # lines of a page; it counts the rest
EVERYTHING = "/share-record/everything"
BY_KIND = "/share-record/by-kind"
SCANS = ("20240303", "20240405")  # a study each, which is one line of a page, and a class
BY_KIND_SHOWN = FILES + len(SCANS)


@dataclasses.dataclass(frozen=True)
class House:
    """A patient with many letters; two whom she shares them with, one whom she does not."""

    running: RunningPortal
    portal: Portal
    ada: Person
    goes: Person
    stays: Person
    nobody: Person
    share_seconds: float
    remove_seconds: float

    # -- what the pages say -----------------------------------------------------------------------
    def cards(self) -> list[BeautifulSoup]:
        return self.ada.get("/sharing").find_all("section", class_="card")

    def shares(self) -> list[str]:
        """Ids of the shares on the owner's page."""
        return re.findall(r"/sharing/([0-9a-f-]{36})/stop", str(self.ada.get("/sharing")))

    def person(self, name: str) -> str | None:
        """The address that removes this person, where the page lists them."""
        link = self.ada.get("/sharing").find("a", attrs={"aria-label": f"Remove {name}"})
        return str(link["href"]) if link else None

    # -- what people can do -----------------------------------------------------------------------
    def opens(self, who: Person, share_id: str) -> int:
        """How many files this person's page really opened; 0 for who is not let in."""
        answer = who.http.get(f"{who.url}/shared-with-me/{share_id}", timeout=60)
        if answer.status_code == 404:
            return 0
        assert answer.status_code == 200, answer.text[:500]
        more = re.search(r"And ([0-9,]+) more", answer.text)
        return SHOWN + int(more[1].replace(",", "")) if more else answer.text.count('class="row"')

    def make(self) -> requests.Response:
        return self.ada.submit(EVERYTHING, EVERYTHING, everything="documents", who="named",
                               people="goes@house.example stays@house.example", sure="yes")  # fmt: skip

    def remove(self, address: str) -> requests.Response:
        return self.ada.submit(address, address)

    def give(self, name: str) -> requests.Response:
        """Letters and scans, by kind."""
        person = f"{name}@house.example"
        return self.ada.submit(BY_KIND, BY_KIND, type=["document", "imaging"], person=person, sure="yes")

    def given_to(self, name: str) -> str | None:
        """The id of what is shared by kind with this person, where the owner's page lists it."""
        for card in self.cards():
            if f"{name} Lund" in card.get_text(" ", strip=True):
                return re.findall(r"/sharing/([0-9a-f-]{36})/stop", str(card))[0]
        return None

    def stop(self, share_id: str) -> requests.Response:
        return self.ada.submit(f"/sharing/{share_id}/stop", f"/sharing/{share_id}/stop")

    def give_both(self) -> tuple[str, str]:
        """(Goes's share, Stays's)"""
        for name in ("goes", "stays"):
            self.give(name).raise_for_status()
        goes, stays = self.given_to("Goes"), self.given_to("Stays")
        assert goes and stays
        return goes, stays

    def up_to_date(self) -> bool:
        return "Shared, and up to date." in self.ada.get("/sharing").get_text(" ", strip=True)

    def killed_in(self, work: Callable[[], requests.Response], victim: str, seconds: float) -> requests.Response | None:
        """What the browser got from `work`, in the middle of which the process is killed; None: the line was cut."""
        got: list[requests.Response] = []

        def go() -> None:
            try:
                got.append(work())
            except (requests.RequestException, AssertionError):
                pass  # the browser says that the site does not answer

        thread = threading.Thread(target=go)
        thread.start()
        time.sleep(seconds)
        assert self.running.kill(PROCESSES[victim]) >= 1
        thread.join(120)
        assert not thread.is_alive(), "the request never came to an end"
        return got[0] if got else None

    def is_back(self) -> None:
        """The portal answers again, sharing included."""
        eventually(lambda: self.ada.http.get(f"{self.running.url}/healthz", timeout=10).ok, "the portal stays away")
        eventually(
            lambda: self.stays.http.get(f"{self.running.url}/shared-with-me", timeout=30).status_code == 200,
            "sharing stays away",
        )

    def unlock(self) -> None:
        """The owner signs in, with another browser."""
        Person(self.running.url).sign_in("ada@house.example")

    def clear(self) -> None:
        for share_id in self.shares():
            self.stop(share_id).raise_for_status()

    def verified(self) -> None:
        assert "every link of the chain holds" in self.running.command("audit", "verify")


def helps(answer: requests.Response | None) -> None:
    """Whatever page came, it says in words what to do, and nothing of the machinery."""
    if answer is None:
        return
    words = BeautifulSoup(answer.text, "html.parser").get_text(" ", strip=True)
    assert "Traceback" not in words and "Error" not in words
    if answer.status_code >= 500:
        assert re.search(r"again|in a minute|soon", words), words[:600]


def newcomer(running: RunningPortal, name: str) -> Person:
    person = Person(running.url)
    person.register(f"{name.lower()}@house.example", name=f"{name} Lund")
    return person


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="myphr-house-"))
    folder.chmod(0o711)
    try:
        with RunningPortal(folder, warm_pool="") as running:
            portal = Portal(load({k: v for k, v in running.environ.items() if k.startswith("MYPHR_")}))
            people = [newcomer(running, name) for name in ("Ada", "Goes", "Stays", "Nobody")]
            from myphr.people.models import Account

            with portal.database.read() as db:
                account_id = db.exec(select(Account.id).where(Account.email == "ada@house.example")).one()
            put_many(portal, account_id, FILES)
            for day in SCANS:
                put_study(portal, account_id, StudyDate=day)
            house = House(running, portal, *people, share_seconds=0, remove_seconds=0)
            # Undisturbed first: how long each takes here, and that it works.
            started = time.monotonic()
            house.make().raise_for_status()
            share_seconds = time.monotonic() - started
            [share_id] = house.shares()
            assert house.opens(house.goes, share_id) == house.opens(house.stays, share_id) == FILES
            address = house.person("Goes Lund")
            assert address
            started = time.monotonic()
            house.remove(address).raise_for_status()
            remove_seconds = time.monotonic() - started
            eventually(house.up_to_date, "the worker never wrapped the keys anew")
            house.clear()
            print(f"undisturbed: share {share_seconds:.2f} s, remove {remove_seconds:.2f} s")
            yield dataclasses.replace(house, share_seconds=share_seconds, remove_seconds=remove_seconds)
            portal.database.dispose()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def cleared(house: House) -> Iterator[None]:
    """Each test begins with nothing shared; one that fails shows what the processes said."""
    yield
    for task in left_tasks(house.portal):
        print(f"left by a failed test: {task}\n{house.running.logs()}")
    house.is_back()
    eventually(lambda: house.clear() or True, "the share was never taken back")


def left_tasks(portal: Portal) -> list[dict]:
    with portal.database.read() as db:
        rows = db.exec(select(RewrapTask).where(RewrapTask.state == "waiting")).all()
    return [row.model_dump(exclude={"keys_for_worker"}) for row in rows]


def readers(portal: Portal, share_id: str) -> tuple[int, list[int]]:
    """(the epoch of the share, the epochs that there are keys for)"""
    with portal.database.read() as db:
        row = db.get(Compartment, share_id)
        epochs = db.exec(select(CompartmentKey.epoch).where(CompartmentKey.compartment_id == share_id)).all()
    assert row
    return row.epoch, sorted(epochs)


@pytest.mark.parametrize("victim", sorted(PROCESSES))
def test_process_killed_while_a_share_is_made(house: House, victim: str) -> None:
    for moment in MOMENTS:
        answer = house.killed_in(house.make, victim, moment * house.share_seconds)
        helps(answer)
        house.is_back()
        before = house.shares()
        assert len(before) <= 1
        for share_id in before:  # whole, or not there
            assert house.opens(house.goes, share_id) == house.opens(house.stays, share_id) == FILES
        if answer is not None and answer.ok and "Shared with" in answer.text:
            assert before, "the page said that it is shared"

        house.make().raise_for_status()
        [share_id] = house.shares()
        assert before in ([], [share_id])
        assert house.opens(house.goes, share_id) == house.opens(house.stays, share_id) == FILES
        assert house.opens(house.nobody, share_id) == 0
        house.clear()
    house.verified()


@pytest.mark.parametrize("victim", sorted(PROCESSES))
def test_process_killed_while_a_person_is_removed(house: House, victim: str) -> None:
    for moment in MOMENTS:
        house.make().raise_for_status()
        [share_id] = house.shares()
        address = house.person("Goes Lund")
        assert address
        answer = house.killed_in(lambda address=address: house.remove(address), victim, moment * house.remove_seconds)
        helps(answer)
        house.is_back()
        assert house.opens(house.stays, share_id) == FILES
        if answer is not None and answer.ok and "ccess of Goes Lund ended" in answer.text:
            assert house.opens(house.goes, share_id) == 0, "the page said that the access has ended"

        if address := house.person("Goes Lund"):
            house.remove(address).raise_for_status()
        assert house.opens(house.goes, share_id) == house.opens(house.nobody, share_id) == 0
        if not house.up_to_date():
            house.unlock()  # "it gets new keys when you sign in the next time"
        eventually(house.up_to_date, "the keys were never replaced", seconds_max=240)
        assert house.opens(house.stays, share_id) == FILES and house.opens(house.goes, share_id) == 0
        assert readers(house.portal, share_id)[0] >= 1
        house.clear()
    house.verified()


@pytest.mark.parametrize("victim", sorted(PROCESSES))
def test_process_killed_while_keys_are_wrapped_anew(house: House, victim: str) -> None:
    house.make().raise_for_status()
    [share_id] = house.shares()
    address = house.person("Goes Lund")
    assert address
    house.remove(address).raise_for_status()
    task = under_way(house.portal, share_id)
    assert house.running.kill(PROCESSES[victim]) >= 1
    house.is_back()
    assert house.opens(house.stays, share_id) == FILES and house.opens(house.goes, share_id) == 0
    eventually(house.up_to_date, "the keys were never replaced", seconds_max=240)
    with house.portal.database.read() as db:
        done = db.get(RewrapTask, task.id)
    # Closed: the vault has destroyed the old half, too, which is tried again while the keyholder is away.
    assert done and done.state in ("done", "closed") and done.keys_for_worker is None
    assert house.opens(house.stays, share_id) == FILES and house.opens(house.goes, share_id) == 0

    # The owner's next unlock takes the old half away; it opens nothing any more, for nobody.
    house.unlock()
    epoch, epochs = readers(house.portal, share_id)
    assert epochs == [epoch] and epoch == 1
    assert house.opens(house.stays, share_id) == FILES and house.opens(house.goes, share_id) == 0
    house.verified()


def test_workers_killed_in_a_sweep_do_not_hold_up_the_next_ones_for_a_minute(house: House) -> None:
    def sweep() -> dict[bytes, bytes]:
        return house.portal.redis.hgetall("rq:job:jobs-sweep-sweep")

    deadline = time.monotonic() + 60
    while (killed := sweep()).get(b"status") != b"started":
        assert time.monotonic() < deadline, "no sweep began"
        time.sleep(0.001)
    assert house.running.kill(PROCESSES["worker"]) >= 1
    assert sweep().get(b"started_at") == killed[b"started_at"], "that one was over before"
    eventually(lambda: sweep().get(b"started_at", killed[b"started_at"]) != killed[b"started_at"],
               "no sweep began again", seconds_max=180)  # fmt: skip


def under_way(portal: Portal, share_id: str) -> RewrapTask:
    """The task, once some of the keys are wrapped anew and before all are."""
    deadline = time.monotonic() + 120
    while True:
        with portal.database.read() as db:
            task = db.exec(select(RewrapTask).where(RewrapTask.compartment_id == share_id)).first()
        if task is not None and task.done:
            assert task.state == "waiting", "it was done before anybody could be killed"
            return task
        assert time.monotonic() < deadline, "the worker never began"
        time.sleep(0.002)


# -- by kind ------------------------------------------------------------------------------------------
def by_kind(portal: Portal) -> tuple[Compartment, set[int], set[int]]:
    """(all that is shared by kind, the epochs of its classes' keys, those of its files' keys)"""
    with portal.database.read() as db:
        group = db.exec(select(Compartment).where(Compartment.kind == "labels", Compartment.state == "active")).one()
        keys = set(db.exec(select(LabelClassKey.epoch)))
        files = set(db.exec(select(ItemWrap.epoch).where(ItemWrap.compartment_id == group.id)))
    return group, keys, files


def timed(work: Callable[[], requests.Response]) -> float:
    started = time.monotonic()
    work().raise_for_status()
    return time.monotonic() - started


def test_web_killed_while_something_is_shared_by_kind(house: House) -> None:
    seconds = timed(lambda: house.give("goes"))
    house.clear()
    for moment in MOMENTS:
        answer = house.killed_in(lambda: house.give("goes"), "web", moment * seconds)
        helps(answer)
        house.is_back()
        before = house.shares()
        assert len(before) <= 1
        for share_id in before:  # whole, or not there
            assert house.opens(house.goes, share_id) == BY_KIND_SHOWN
        if answer is not None and answer.ok and "Shared with" in answer.text:
            assert before, "the page said that it is shared"

        goes, stays = house.give_both()
        assert before in ([], [goes]) and sorted(house.shares()) == sorted((goes, stays))
        assert house.opens(house.goes, goes) == house.opens(house.stays, stays) == BY_KIND_SHOWN
        for share_id in (goes, stays):
            assert house.opens(house.nobody, share_id) == 0
        assert house.opens(house.stays, goes) == house.opens(house.goes, stays) == 0
        house.clear()
    house.verified()


@pytest.mark.parametrize("victim", ["keyholder", "web"])
def test_process_killed_while_a_delegate_is_removed(house: House, victim: str) -> None:
    goes, _ = house.give_both()
    seconds = timed(lambda: house.stop(goes))
    house.clear()
    for moment in MOMENTS:
        goes, stays = house.give_both()
        answer = house.killed_in(lambda goes=goes: house.stop(goes), victim, moment * seconds)
        helps(answer)
        house.is_back()
        assert house.opens(house.stays, stays) == BY_KIND_SHOWN
        if answer is not None and answer.ok and "ccess of Goes Lund ended" in answer.text:
            assert house.opens(house.goes, goes) == 0, "the page said that the access has ended"

        if left := house.given_to("Goes"):
            assert left == goes
            house.stop(goes).raise_for_status()
        assert house.opens(house.goes, goes) == house.opens(house.nobody, goes) == 0
        if not house.up_to_date():
            house.unlock()  # "it gets new keys when you sign in the next time"
        eventually(house.up_to_date, "the keys were never replaced", seconds_max=240)
        assert house.opens(house.stays, stays) == BY_KIND_SHOWN and house.opens(house.goes, goes) == 0
        group, _, files = by_kind(house.portal)
        assert group.epoch >= 1 and files == {group.epoch}
        house.clear()
    house.verified()


def test_worker_killed_while_the_keys_of_classes_are_wrapped_anew(house: House) -> None:
    goes, stays = house.give_both()
    house.stop(goes).raise_for_status()
    task = under_way(house.portal, by_kind(house.portal)[0].id)
    assert house.running.kill(PROCESSES["worker"]) >= 1
    house.is_back()
    assert house.opens(house.stays, stays) == BY_KIND_SHOWN and house.opens(house.goes, goes) == 0
    eventually(house.up_to_date, "the keys were never replaced", seconds_max=240)
    with house.portal.database.read() as db:
        done = db.get(RewrapTask, task.id)
    assert done and done.state in ("done", "closed") and done.keys_for_worker is None
    assert house.opens(house.stays, stays) == BY_KIND_SHOWN and house.opens(house.goes, goes) == 0

    house.unlock()  # destroys the old half; it opens nothing any more, for nobody
    group, keys, files = by_kind(house.portal)
    assert keys == files == {group.epoch} and group.epoch == 1
    assert house.opens(house.stays, stays) == BY_KIND_SHOWN and house.opens(house.goes, goes) == 0
    house.verified()
