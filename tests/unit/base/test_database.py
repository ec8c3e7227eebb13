"""Several processes write to one SQLite file: in turn, also when one of them never stops, is killed or forks."""

import fcntl
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from sqlalchemy import text

from myphr.database import Database

fresh = multiprocessing.get_context("spawn")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/turns.sqlite")
    with database.write() as db:
        db.execute(text("CREATE TABLE row (number INTEGER)"))
        db.execute(text("INSERT INTO row VALUES (0)"))
    yield database
    database.dispose()


def count_up(url: str, begun: Event, seconds: float) -> None:
    """Writes without a pause, each time for `seconds`, for ever."""
    database = Database(url)
    while True:
        with database.write() as db:
            db.execute(text("UPDATE row SET number = number + 1"))
            begun.set()
            time.sleep(seconds)


def number(database: Database) -> int:
    with database.read() as db:
        return db.execute(text("SELECT number FROM row")).scalar_one()


def write(database: Database) -> None:
    with database.write() as db:
        db.execute(text("UPDATE row SET number = number"))


@pytest.fixture
def busy(database: Database) -> Iterator[multiprocessing.process.BaseProcess]:
    begun = fresh.Event()
    process = fresh.Process(target=count_up, args=(database.url, begun, 0.1), daemon=True)
    process.start()
    assert begun.wait(60)
    yield process
    process.kill()
    process.join()


def test_who_writes_without_a_pause_lets_others_in(
    database: Database, busy: multiprocessing.process.BaseProcess
) -> None:
    for _turn in range(10):
        before = number(database)
        write(database)
        assert number(database) - before <= 3  # the one under way when we asked, one seen late, the one after ours


def test_who_is_killed_while_writing_keeps_nobody_out(
    database: Database, busy: multiprocessing.process.BaseProcess
) -> None:
    busy.kill()
    busy.join()
    at = number(database)
    write(database)
    assert number(database) == at


def stand(path: str, begun: Event) -> None:
    with open(path, "r+b") as turnstile:
        fcntl.lockf(turnstile, fcntl.LOCK_EX, 2)
        begun.set()
        time.sleep(3600)


def test_who_stands_still_in_the_gate_only_delays(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = fresh.Event()
    process = fresh.Process(target=stand, args=(f"{database.engine.url.database}-turn", begun), daemon=True)
    process.start()
    assert begun.wait(60)
    monkeypatch.setattr(type(database._turnstile), "SECONDS_MAX", 0.2)
    write(database)
    assert process.is_alive()
    process.kill()
    process.join()


def test_without_a_place_for_the_turnstile_sqlite_alone_decides(tmp_path: Path) -> None:
    (tmp_path / "turns.sqlite-turn").mkdir()
    database = Database(f"sqlite:///{tmp_path}/turns.sqlite")
    with database.write() as db:
        db.execute(text("CREATE TABLE row (number INTEGER)"))
    write(database)
    database.dispose()
