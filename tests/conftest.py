"""Fixtures for all tests: a private Redis on a Unix socket, a portal below a fresh folder, and the cast in it."""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `from tests.cast import ...` from any start folder

from tests import cast as cast_module
from tests.cast import OPERATOR, PATIENT, PRACTICE, STRANGER, Person, SignedIn

MEMORY, MEMORY_BYTES_MIN = Path("/dev/shm"), 4 * 1024**3
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
    # A store has 256 folders: on a disk, thousands of tests spend minutes on making and removing them. Portals that run
    # whole (tests/running.py) have their home on the disk.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

if TYPE_CHECKING:
    from myphr.portal import Portal
    from tests.running_keyholder import RunningKeyholder


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


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL cluster of this test run's own, on a Unix socket; skips where none is installed."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not binaries:
        pytest.skip("no PostgreSQL on this machine")
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a database a test: thousands of files
    folder = Path(tempfile.mkdtemp(prefix="myphr-pg-", dir=in_memory))
    options: dict = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    user = getpass.getuser()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "nobody"
        shutil.chown(folder, user)
        options |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    process = None
    try:
        subprocess.run([binaries[-1], "-D", folder / "data", "-A", "trust", "-U", user, "--no-sync", "-E", "UTF8",
                        "--locale=C"], check=True, **options)
        process = subprocess.Popen(
            [binaries[-1].with_name("postgres"), "-D", folder / "data", "-k", folder, "-c", "listen_addresses=",
             "-c", "fsync=off", "-c", "max_connections=60", "-c", "max_wal_size=64MB"], **options,
        )
        url = f"postgresql://{user}@/postgres?host={folder}"
        _wait_for_postgresql(url, process)
        yield url
    finally:
        if process:
            process.send_signal(signal.SIGQUIT)  # "immediate": what nobody keeps need not be written
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_postgresql(url: str, process: subprocess.Popen) -> None:
    import psycopg

    while process.poll() is None:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise RuntimeError("PostgreSQL did not start")


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """A new, empty database on the private PostgreSQL."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgresql_server.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def keyholder_server() -> Iterator["RunningKeyholder"]:
    """A keyholder of this test run's own, with its CA. Every test takes fresh GIDs, so that it can be shared."""
    from tests.running_keyholder import RunningKeyholder

    folder = Path(tempfile.mkdtemp(prefix="myphr-keyholder-"))
    try:
        with RunningKeyholder(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The private Redis, emptied."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def full_redis(redis_url: str) -> Iterator[redis.Redis]:
    """The same Redis as long as it takes nothing more: each write is answered with an error. `config_set("maxmemory",
    0)` ends that."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", 1)
        yield client
        client.config_set("maxmemory", 0)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """As `tmp_path`, for a home in which processes listen: a socket's path has room for 107 bytes only."""
    with tempfile.TemporaryDirectory(prefix="myphr-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def portal(tmp_path: Path, redis_url: str) -> Iterator["Portal"]:
    """A whole portal below `tmp_path`, with tables and service keys, and nobody in it."""
    portal = cast_module.new_portal(tmp_path / "home", redis_url)
    yield portal
    portal.database.dispose()
    portal.redis.close()


@pytest.fixture
def keyholder(portal: "Portal", keyholder_server: "RunningKeyholder") -> "RunningKeyholder":
    """A real keyholder behind this test's portal. Ask for it before anybody signs in."""
    portal.__dict__["keyholder"] = keyholder_server.client
    return keyholder_server


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
