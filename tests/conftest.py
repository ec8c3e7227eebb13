"""Fixtures for all tests: a private Redis on a Unix socket, a portal below a fresh folder, and the cast in it."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `from tests.cast import ...` from any start folder

from tests import cast as cast_module
from tests.cast import OPERATOR, PATIENT, PRACTICE, STRANGER, Person, SignedIn

if TYPE_CHECKING:
    from myphr.portal import Portal


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a Redis of this test run's own. Keeps nothing; ends with the run."""
    folder = Path(tempfile.mkdtemp(prefix="myphr-redis-"))  # a socket's path has room for 107 bytes only
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--save", "",
         "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "log")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_redis(f"unix://{socket}", process)
        yield f"unix://{socket}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_redis(url: str, process: subprocess.Popen) -> None:
    with redis.Redis.from_url(url) as client:
        while process.poll() is None:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)
    raise RuntimeError("redis-server did not start")


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The private Redis, emptied."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def portal(tmp_path: Path, redis_url: str) -> Iterator["Portal"]:
    """A whole portal below `tmp_path`, with tables and service keys, and nobody in it."""
    portal = cast_module.new_portal(tmp_path / "home", redis_url)
    yield portal
    portal.database.dispose()
    portal.redis.close()


@pytest.fixture
def enter(portal: "Portal") -> Callable[..., SignedIn]:
    """`enter(PATIENT)` registers a member of the cast in this test's portal and signs them in."""

    def enter_portal(person: Person, **options: str) -> SignedIn:
        return cast_module.enter(portal, person, **options)

    return enter_portal


@pytest.fixture
def patient(enter: Callable[..., SignedIn]) -> SignedIn:
    return enter(PATIENT)


@pytest.fixture
def practice(enter: Callable[..., SignedIn]) -> SignedIn:
    return enter(PRACTICE)


@pytest.fixture
def stranger(enter: Callable[..., SignedIn]) -> SignedIn:
    """Signed in, but nothing is shared with them."""
    return enter(STRANGER)


@pytest.fixture
def operator(enter: Callable[..., SignedIn]) -> SignedIn:
    return enter(OPERATOR)
