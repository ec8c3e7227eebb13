"""The database: one engine, one unit of work at a time, SQLite (WAL) or PostgreSQL by URL.

SQLite gets BEGIN IMMEDIATE for writers behind a fair in-process lock: measured with 50 writer threads, the
default BEGIN fails thousands of times and IMMEDIATE alone lets one writer wait 7 s; with the lock it is 0.2 s.
Tables live in the `models` module of the package that owns them; `import_models` loads them all.
"""

import contextlib
import datetime as dt
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator

from sqlalchemy import Engine, event
from sqlmodel import Session, SQLModel, create_engine

from myphr.prepared import to_driver


def new_id() -> str:
    """A fresh random id (UUID v4, canonical lower case)."""
    return str(uuid.uuid4())


def now() -> dt.datetime:
    """The current time, UTC, aware. All stored times are UTC."""
    return dt.datetime.now(dt.UTC)


class _FairLock:
    """First come, first served: threading.Lock lets one busy thread starve the others."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: list[threading.Event] = []
        self._held = False

    def acquire(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def release(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.pop(0).set()
            else:
                self._held = False


class _Turnstile:
    """Lets processes write to one SQLite file in turn.

    SQLite's own waiting looks again after up to 100 ms and finds no gap between the transactions of a job that writes
    one after the other: a sign-in beside such a job failed after its 30 s. Here, who wants to write stands in the gate
    (byte 0) until the lock (byte 1) is free, and who has just written must go through the gate behind them.

    POSIX record locks: they end with their process, and a forked child does not hold its parent's. Only the order
    hangs on them. That one writes at a time is SQLite's doing, so without the file, or after SECONDS_MAX, it goes on.
    """

    GATE, LOCK = 0, 1
    SECONDS_MAX = 10.0
    PAUSE_SECONDS_MAX = 0.005

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None

    def enter(self) -> None:
        with contextlib.suppress(OSError):
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            deadline = time.monotonic() + self.SECONDS_MAX
            if self._lock(self._fd, self.GATE, deadline):
                try:
                    self._lock(self._fd, self.LOCK, deadline)
                finally:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self.GATE)

    def _lock(self, fd: int, byte: int, deadline: float) -> bool:
        pause = 0.0002
        while True:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return True
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES (POSIX fcntl): somebody else has it
                if time.monotonic() > deadline:
                    return False
            time.sleep(pause)
            pause = min(2 * pause, self.PAUSE_SECONDS_MAX)

    def leave(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self.LOCK)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Database:
    """Hands out units of work. `with database.write() as db:` commits at the end or rolls back on any error;
    `with database.read() as db:` never writes. Do not nest a write inside a write of the same thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        on_sqlite = {"connect_args": {"check_same_thread": False, "timeout": 30}}
        options: dict = on_sqlite if self.is_sqlite else {"pool_size": 20}
        self.engine: Engine = create_engine(url, **options)
        self._write_lock = _FairLock() if self.is_sqlite else None
        path = self.engine.url.database if self.is_sqlite else None
        self._turnstile = _Turnstile(f"{path}-turn") if path and path != ":memory:" else None
        self._writing = self.engine.execution_options(myphr_write=True) if self.is_sqlite else self.engine
        if self.is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        if self._write_lock:
            self._write_lock.acquire()
        try:
            if self._turnstile:
                self._turnstile.enter()
            with Session(self._writing, expire_on_commit=False) as db:
                yield db
                db.commit()
        finally:
            if self._turnstile:
                self._turnstile.leave()
            if self._write_lock:
                self._write_lock.release()

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False, autoflush=False) as db:
            yield db  # closing rolls back; rollback() itself would expire the rows that the caller keeps

    def create_all(self) -> None:
        """All tables without migrations: tests only. An installation runs `myphr init` (Alembic)."""
        import_models()
        SQLModel.metadata.create_all(self.engine)

    def dispose(self) -> None:
        self.engine.dispose()
        if self._turnstile:
            self._turnstile.close()


def _configure_sqlite(connection, _record) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    # FULL: consent, audit and job rows must survive a power cut, not only a crash.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection) -> None:
    immediate = connection.get_execution_options().get("myphr_write")
    to_driver(connection, "BEGIN IMMEDIATE" if immediate else "BEGIN", ())


def import_models() -> None:
    """Import every module that declares tables, so that metadata and migrations see them all."""
    import importlib

    for package in ("audit", "people", "records", "ingest", "viewers", "machines", "sharing"):
        importlib.import_module(f"myphr.{package}.models")
    importlib.import_module("myphr.sharing.record_models")
    importlib.import_module("myphr.sharing.app_key_models")
    importlib.import_module("myphr.sharing.closing_models")
    importlib.import_module("myphr.ingest.fhir.models")
    importlib.import_module("myphr.ingest.pacs.models")
