"""How the portal makes, starts and examines its keyholder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr import cli, doctor, supervisor
from myphr.errors import ConfigurationError
from myphr.portal import Portal
from myphr.settings import Settings, load
from tests.running_keyholder import RunningKeyholder


@pytest.fixture
def settings(short_path: Path) -> Settings:
    settings = load({}, home=short_path / "home", argon2_memory_kib=64, argon2_passes=1)
    settings.run_dir.mkdir(parents=True)
    return settings


@pytest.fixture
def made(settings: Settings) -> Iterator[RunningKeyholder]:
    """The keyholder that `init` made below the home, not started."""
    cli.init_keyholder(settings)
    running = RunningKeyholder.of_home(settings)
    yield running
    running.__exit__()


def checks(settings: Settings) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor._keyholder(Portal(settings))}


def test_init_makes_it_once_with_keys_for_their_owner_alone(settings: Settings, made: RunningKeyholder) -> None:
    before = (made.folder / "master.sealed").read_bytes()
    cli.init_keyholder(settings)
    assert (made.folder / "master.sealed").read_bytes() == before
    for path in (made.folder, settings.home / "ca-root", made.passphrase_file):
        assert path.stat().st_mode & 0o077 == 0, path
    made.start()
    assert made.client.hello().ca


def test_init_tells_why_it_could_not_make_one(settings: Settings) -> None:
    passphrase = Path(settings.keyholder_passphrase_file)
    passphrase.parent.mkdir()
    passphrase.write_text("short")
    passphrase.chmod(0o600)
    with pytest.raises(ConfigurationError, match="16 characters"):
        cli.init_keyholder(settings)
    assert not (settings.home / "keyholder").exists()


def test_it_starts_before_the_pages_and_only_if_it_is_ours(settings: Settings) -> None:
    names = [service.name for service in supervisor.services(settings)]
    assert names.index("keyholder") < names.index("worker-1") < names.index("web")
    elsewhere = load({}, home=settings.home, keyholder_address="unix:/run/myphr-keyholder/socket")
    assert "keyholder" not in [service.name for service in supervisor.services(elsewhere)]
    cli.init_keyholder(elsewhere)
    assert not (settings.home / "keyholder").exists()


def test_it_gets_its_own_user_only_where_that_user_gets_through(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "KEYHOLDER_USER", "nobody")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings.home.chmod(0o700)
    assert cli._keyholder_user(settings.home) is None
    open_all_the_way = Path("/usr")
    assert cli._keyholder_user(open_all_the_way) == "nobody"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli._keyholder_user(open_all_the_way) is None
    monkeypatch.setattr(cli, "KEYHOLDER_USER", "nobody-of-that-name")
    assert cli._keyholder_user(open_all_the_way) is None


def test_the_doctor_says_what_is_wrong_with_it(settings: Settings, made: RunningKeyholder, short_path: Path) -> None:
    assert "not running" in checks(settings)["keyholder"].sentence and checks(settings)["keyholder"].ok
    made.start()
    found = checks(settings)
    assert found["keyholder"].ok and found["intermediate of the CA"].ok
    assert "take it away" in found["root of the CA"].sentence
    made.kill()
    found = checks(settings)
    assert not found["keyholder"].ok and "log" in found["keyholder"].remedy
    made.folder.rename(short_path / "lost")
    assert "never set up" in checks(settings)["keyholder"].sentence
