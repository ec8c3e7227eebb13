"""The portal's own key files: made once, refused when open to others, missing or damaged."""

import os
from pathlib import Path

import pytest

from myphr.crypto.envelope import open_with, seal_to
from myphr.errors import ConfigurationError
from myphr.people.service_keys import ServiceKeys

NAMES = ["cookie.key", "index.key", "passcode.key", "ticket.key", "worker.key"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    ServiceKeys.create(tmp_path / "keys")
    return tmp_path / "keys"


def test_keys_come_back_as_they_were_made(tmp_path: Path) -> None:
    made = ServiceKeys.create(tmp_path / "deep" / "keys")
    loaded = ServiceKeys.load(tmp_path / "deep" / "keys")
    assert loaded == made
    assert len({made.index_key, made.cookie_key, made.ticket_key, made.passcode_key}) == 4
    sealed = seal_to(made.worker.public, b"secret", context=b"c")
    assert open_with(loaded.worker.private, sealed, context=b"c") == b"secret"


def test_files_are_for_their_user_only(directory: Path) -> None:
    old = os.umask(0)
    try:
        ServiceKeys.create(directory.with_name("loose"))
    finally:
        os.umask(old)
    for folder in (directory, directory.with_name("loose")):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert sorted(path.name for path in folder.iterdir()) == NAMES
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_keys_are_never_made_over_existing_ones(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(ConfigurationError):
        ServiceKeys.create(directory)
    (directory / "cookie.key").unlink()
    with pytest.raises(ConfigurationError):
        ServiceKeys.create(directory)
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert after == {name: key for name, key in before.items() if name != "cookie.key"}


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_key_stops_the_start(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ConfigurationError, match=name):
        ServiceKeys.load(directory)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_open_to_others_stops_the_start(directory: Path, name: str, mode: int) -> None:
    (directory / name).chmod(mode)
    with pytest.raises(ConfigurationError, match=name):
        ServiceKeys.load(directory)


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_key_directory_open_to_others_stops_the_start(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    with pytest.raises(ConfigurationError):
        ServiceKeys.load(directory)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_a_wrong_size_stops_the_start(directory: Path, name: str) -> None:
    content = (directory / name).read_bytes()
    for damaged in (b"", content[:-1], content + b"\n"):
        (directory / name).write_bytes(damaged)
        with pytest.raises(ConfigurationError, match=name):
            ServiceKeys.load(directory)


def test_a_worker_key_of_an_unknown_suite_stops_the_start(directory: Path) -> None:
    path = directory / "worker.key"
    path.write_bytes(b"\x09" + path.read_bytes()[1:])
    with pytest.raises(ConfigurationError):
        ServiceKeys.load(directory)


def test_links_and_pipes_are_no_key_files(directory: Path) -> None:
    path = directory / "ticket.key"
    path.rename(directory.with_name("elsewhere"))
    path.symlink_to(directory.with_name("elsewhere"))
    with pytest.raises(ConfigurationError):
        ServiceKeys.load(directory)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigurationError):
        ServiceKeys.load(directory)


def test_a_missing_directory_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        ServiceKeys.load(tmp_path / "nowhere")


def test_a_leftover_of_a_crash_does_not_stop_the_making(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "index.new").write_bytes(b"half")
    ServiceKeys.create(tmp_path / "keys")
    assert not list((tmp_path / "keys").glob("*.new"))


def test_printing_the_keys_shows_none(directory: Path) -> None:
    keys = ServiceKeys.load(directory)
    for secret in (keys.index_key, keys.cookie_key, keys.ticket_key, keys.passcode_key, keys.worker.private):
        assert repr(secret)[2:-1] not in repr(keys) and secret.hex() not in repr(keys)
