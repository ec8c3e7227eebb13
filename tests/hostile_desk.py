"""One hostile file's whole way through a real portal, and what it cost.

A patient uploads it, the jobs that this queues run as the worker runs them (archives, then readings in the capped
reader process), and every page that shows it is asked for by a browser that checks each answer. Used by the test of
the forty (`tests.hostile_demands`) and by `bench hostile`.
"""

import base64
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from sqlmodel import col, select
from werkzeug.test import TestResponse

from myphr.ingest import archives
from myphr.ingest.reading import capped, child, work
from myphr.records.models import ArchiveTask, Item
from myphr.web.application import create_app
from tests import cast, hostile_reader
from tests.cast import Person, SignedIn
from tests.hostile_reader import TOLD_AT, peak_mib
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient

JOBS: dict[str, Callable] = {
    archives.JOB: archives.expand,
    work.JOB: work.run,
    work.JOB_FURTHER: lambda portal, account_id: work.run(portal, account_id, again=work.JOB),
}
ITEMS_LOOKED_AT = 20
UPLOAD = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}


@dataclasses.dataclass
class Cost:
    """CPU seconds are those of all processes together. `portal_mib`: the peak of this process, which is web server and
    worker at once; `reader_mib`: of the reader process; `fork_mib`: of the fork that had the file, or what it started.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    slowest_page_seconds: float = 0.0
    portal_mib: int = 0
    reader_mib: int = 0
    fork_mib: int = 0

    @property
    def largest_mib(self) -> int:
        return max(self.portal_mib, self.reader_mib, self.fork_mib)


@dataclasses.dataclass
class Outcome:
    """`items`: what is in the record now, the uploaded one first. `pages`: by address, with pictures, narratives and
    downloads that are there."""

    desk: "Desk"
    owner: SignedIn
    content: bytes
    answer: TestResponse
    cost: Cost
    items: list[Item]
    tasks: list[ArchiveTask]
    pages: dict[str, TestResponse]

    def page(self, what: str = "", item: int = 0) -> TestResponse | None:
        """The page of an item, or its `preview`, `narrative` or `download`; None if it has none."""
        return self.pages.get(f"/item/{self.items[item].id}" + (f"/{what}" if what else ""))


class Desk:
    """A portal for one file after the other, each in the record of a patient of its own."""

    def __init__(self, home: Path, redis_url: str) -> None:
        self.home = home
        self.portal = cast.new_portal(home, redis_url)
        self.app = create_app(self.portal)
        self._patients = 0

    def __enter__(self) -> "Desk":
        self._until_exit = contextlib.ExitStack()
        self._told = self._until_exit.enter_context(readers_that_tell(self.home))
        return self

    def __exit__(self, *_: object) -> None:
        self._until_exit.close()
        self.portal.database.dispose()
        self.portal.redis.close()

    def put(self, name: str, content: bytes) -> Outcome:
        self._patients += 1
        person = Person(f"vera{self._patients}@patient.example", cast.PATIENT.name, cast.PATIENT.password)
        owner = cast.enter(self.portal, person)
        browser = sign_in(PageClient(self.app), person)
        with _Watch(self._told) as watch:
            answer = self._upload(browser, name, content)
            self._run_jobs()
            items = self._items(owner, answer.headers.get("MyPHR-Item", ""))
            pages = dict(_pages(browser, items, watch.cost))
        with self.portal.database.read() as db:
            tasks = db.exec(select(ArchiveTask).where(ArchiveTask.account_id == owner.account.id)).all()
        return Outcome(self, owner, content, answer, watch.cost, items, list(tasks), pages)

    def _upload(self, browser: PageClient, name: str, content: bytes) -> TestResponse:
        said = base64.b64encode(name.encode()).decode()
        headers = UPLOAD | {"Upload-Length": str(len(content)), "Upload-Metadata": f"filename {said}",
                            "X-CSRF-Token": browser.token()}  # fmt: skip
        return browser.browser.post("/uploads", headers=headers, data=content)

    def _run_jobs(self) -> None:
        queue = self.portal.queue.rq
        while jobs := queue.jobs:
            for job in jobs:
                queue.remove(job)
                job.delete()
                JOBS[job.func_name](self.portal, *job.args)

    def _items(self, owner: SignedIn, first: str) -> list[Item]:
        with self.portal.database.read() as db:
            found = db.exec(
                select(Item).where(Item.account_id == owner.account.id).order_by(col(Item.created_at), col(Item.id))
            ).all()
        return sorted(found, key=lambda item: item.id != first)


def _pages(browser: PageClient, items: list[Item], cost: Cost) -> Iterator[tuple[str, TestResponse]]:
    studies = {item.study_id for item in items if item.study_id}
    addresses = ["/record", "/record/items", "/record/find", "/record/timeline", "/who-looked", "/everything"]
    addresses += [f"/study/{study_id}" for study_id in studies]
    for item in items[:ITEMS_LOOKED_AT]:
        addresses += [f"/item/{item.id}", f"/share-record/item/{item.id}", f"/item/{item.id}/delete"]
    may_be_missing = [f"/item/{item.id}/{what}" for item in items[:ITEMS_LOOKED_AT]
                      for what in ("preview", "narrative", "download")]  # fmt: skip
    for address in addresses + may_be_missing:
        began = time.perf_counter()
        answer = browser.get(address)
        cost.slowest_page_seconds = max(cost.slowest_page_seconds, time.perf_counter() - began)
        if answer.status_code == 404 and address in may_be_missing:
            continue
        assert answer.status_code == 200, (address, answer.status_code)
        yield address, answer


class _Watch:
    """What this process and the reader's processes take while the file is on its way."""

    def __init__(self, told: int) -> None:
        self.cost = Cost()
        self._told = told

    def __enter__(self) -> "_Watch":
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))
        self._began, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        cost = self.cost
        cost.seconds = time.perf_counter() - self._began
        cost.cpu_seconds = time.process_time() - self._cpu
        cost.portal_mib = peak_mib()
        note_readers(self._told, cost)


@contextlib.contextmanager
def readers_that_tell(folder: Path) -> Iterator[int]:
    """Every reader process started meanwhile tells what it took, in the pipe behind the descriptor."""
    pipe = folder / "forks"
    os.mkfifo(pipe)
    told = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with (
            mock.patch.object(child, "__name__", hostile_reader.__name__),
            mock.patch.dict(capped.ENVIRONMENT, {TOLD_AT: str(pipe)}),
        ):
            yield told
    finally:
        os.close(told)


def note_readers(told: int, cost: Cost) -> int:
    """Adds what ended reader processes told; returns how many forks there were."""
    try:
        lines = os.read(told, 1024**2).decode().splitlines()
    except BlockingIOError:  # nothing was read
        lines = []
    for line in lines:
        what, mib, cpu_seconds = line.split()
        cost.cpu_seconds += float(cpu_seconds)
        setattr(cost, f"{what}_mib", max(int(mib), getattr(cost, f"{what}_mib")))
    return sum(line.startswith("fork") for line in lines)
