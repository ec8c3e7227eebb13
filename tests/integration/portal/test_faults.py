"""kill -9 of every process in the middle of a start, a live screen, an upload and an end.

After each: nothing acknowledged is lost, the VM session comes to an end that the page explains, no machine is left
over, and the audit trail holds. One portal goes through all of it, as an installation would.
"""

import contextlib
import hashlib
import re
import time

import pytest
import requests
from websockets.exceptions import WebSocketException

from tests.person import Person, Screen
from tests.running import RunningPortal

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]

# What `myphr up` runs, by command line.
PROCESSES = {
    "web": r"gunicorn", "worker": r"myphr worker", "screen": r"gateway screen", "files": r"gateway files",
    "localpve": r"myphr\.localpve", "redis": r"redis-server",
}  # fmt: skip
MACHINE = r"qemu-system"


def eventually(condition, words: str, seconds_max: float = 120):
    deadline = time.monotonic() + seconds_max
    last = None
    while True:
        try:
            if found := condition():
                return found
        except (requests.RequestException, WebSocketException, AssertionError, OSError) as error:
            last = error  # a process is just being started again
        assert time.monotonic() < deadline, f"{words} (last: {last!r})"
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def ended_whatever_happens(running: RunningPortal, ada: Person):
    """A test that fails half-way leaves no VM session behind for the next one, and shows what the processes said."""
    yield
    for row in rows(running, "live", "opening", "connecting", "starting", "requested"):
        print(f"left by a failed test: {row}\n{running.logs()}")
        with contextlib.suppress(requests.RequestException, AssertionError):
            ada.end(f"/machine/{row['id']}")


def rows(running: RunningPortal, *states: str) -> list[dict]:
    """The VM sessions in these states (all without any), each with its machine's state."""
    from sqlmodel import select

    from myphr.database import Database
    from myphr.machines.models import Machine, VmSession

    database = Database(f"sqlite:///{running.home}/db/myphr.sqlite")
    try:
        with database.read() as db:
            machines = {machine.id: machine for machine in db.exec(select(Machine))}
            return [
                {"id": row.id, "state": row.state, "end_reason": row.end_reason, "failure": row.failure,
                 "tries": row.tries, "machine": machines[row.machine_id].state if row.machine_id else "destroyed"}
                for row in db.exec(select(VmSession))
                if not states or row.state in states
            ]  # fmt: skip
    finally:
        database.dispose()


def left_over(running: RunningPortal) -> list[dict]:
    """VM sessions whose machine is not destroyed."""
    return [row for row in rows(running) if row["machine"] != "destroyed"]


def goes_on(running: RunningPortal, ada: Person, machine: str) -> None:
    """The VM session reaches a state that makes sense, ends when asked, and leaves nothing behind."""
    phase = eventually(
        lambda: (p := ada.phase(machine)) in ("live", "ended", "failed") and p, "the start never came to an end"
    )
    if phase == "live":
        eventually(lambda: ada.end(machine) or True, "End was never accepted")
    phase = eventually(lambda: (p := ada.phase(machine)) in ("ended", "failed") and p, "the session never ended")
    page = ada.get(machine).get_text(" ", strip=True)
    assert "record" in page and "Traceback" not in page  # a sentence that helps, and a way on
    eventually(lambda: not left_over(running), f"a machine was left over: {left_over(running)}")
    assert "every link of the chain holds" in running.command("audit", "verify")


@pytest.mark.parametrize("victim", sorted(PROCESSES))
def test_process_killed_while_a_machine_starts(running: RunningPortal, ada: Person, victim: str):
    machine = ada.open(ada.studies()[0])
    assert running.kill(PROCESSES[victim]) >= 1
    goes_on(running, ada, machine)


@pytest.mark.parametrize("victim", sorted(PROCESSES))
def test_process_killed_while_a_screen_is_live(running: RunningPortal, ada: Person, victim: str):
    machine = ada.open(ada.studies()[0])
    assert ada.wait_for(machine, "live", "failed") == "live"
    assert running.kill(PROCESSES[victim]) >= 1

    def picture() -> bool:
        with ada.screen(f"{machine}/ticket") as socket:
            return len(Screen(socket).picture()) > 0

    eventually(picture, "the screen never came back")
    goes_on(running, ada, machine)


def test_machine_killed_while_its_screen_is_live_ends_the_session_with_a_sentence(running: RunningPortal, ada: Person):
    machine = ada.open(ada.studies()[0])
    assert ada.wait_for(machine, "live", "failed") == "live"
    assert running.kill(MACHINE) >= 1
    eventually(lambda: ada.phase(machine) in ("ended", "failed"), "nobody noticed that the machine is gone")
    goes_on(running, ada, machine)


@pytest.mark.parametrize("victim", ["worker", "files", "localpve", "redis"])
def test_process_killed_while_a_session_ends(running: RunningPortal, ada: Person, victim: str):
    machine = ada.open(ada.studies()[0])
    assert ada.wait_for(machine, "live", "failed") == "live"
    ada.end(machine)
    running.kill(PROCESSES[victim])
    goes_on(running, ada, machine)


@pytest.mark.parametrize("victim", ["web", "worker", "redis"])
def test_acknowledged_upload_survives(running: RunningPortal, ada: Person, victim: str):
    content = f"acknowledged before {victim} was killed\n".encode() * 5000
    ada.upload(f"kept-{victim}.txt", content)
    running.kill(PROCESSES[victim])

    def downloaded() -> bool:
        for path in ada.documents():
            page = ada.get(path)
            if f"kept-{victim}.txt" not in page.get_text():
                continue
            link = next(a["href"] for a in page.find_all("a", href=re.compile("download")))
            got = ada.http.get(running.url + link, timeout=30).content
            return hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
        return False

    eventually(downloaded, "what was acknowledged is not there")
