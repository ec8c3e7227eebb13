"""The command line: an installation is made once, and made again without harm."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.cli import main
from myphr.people import accounts
from myphr.portal import Portal
from myphr.settings import load
from tests.cast import OPERATOR, PATIENT
from tests.running_keyholder import RunningKeyholder


@pytest.fixture
def home(short_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Iterator[Path]:
    monkeypatch.setenv("MYPHR_HOME", str(short_path / "home"))
    monkeypatch.setenv("MYPHR_REDIS_URL", redis_url)
    monkeypatch.setenv("MYPHR_ARGON2_MEMORY_KIB", "8")
    monkeypatch.setenv("MYPHR_ARGON2_PASSES", "1")
    before = os.umask(0o022)  # `init` sets it for its own process
    yield short_path / "home"
    os.umask(before)


def keys_of(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "keys").iterdir()}


def test_making_it_twice_keeps_the_keys(home: Path) -> None:
    assert main(["init"]) == 0
    first = keys_of(home)
    assert first and main(["init"]) == 0, "the second start of every installation"
    assert keys_of(home) == first


def test_a_missing_key_stops_the_start_and_is_never_made_anew(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init"])
    lost = next((home / "keys").glob("index*"))
    lost.unlink()
    assert main(["init"]) == 2 and "index" in capsys.readouterr().err
    assert not lost.exists()


def test_an_account_is_made_the_operator(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init"])
    portal = Portal(load())
    account, _ = accounts.register(portal, OPERATOR.email, OPERATOR.name, OPERATOR.password)
    other, _ = accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
    assert not account.is_operator
    with RunningKeyholder.of_home(portal.settings):
        assert main(["operator", OPERATOR.email]) == 0
    with portal.database.read() as db:
        rows = [db.get(accounts.Account, one.id) for one in (account, other)]
    assert [row and row.is_operator for row in rows] == [True, False]
    assert main(["operator", "nobody@elsewhere.example"]) == 1 and "not-found" in capsys.readouterr().err
    portal.database.dispose()
