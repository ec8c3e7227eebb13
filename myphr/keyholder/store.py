"""The keyholder's own SQLite file: identities, certificates, authorities, memberships, compartments, blocks.

Secrets are in it only sealed under the master key. Every change is one transaction that is on disk (WAL,
synchronous=FULL) before it is acknowledged; triggers keep what may never go back (epochs, revocations, fixed keys).
One connection behind one lock: calls take well under a millisecond. Safe to share between threads.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from myphr.errors import ConfigurationError, KeyholderFull
from myphr.keyholder.master import MasterKey

FILE = "store.sqlite"
VERSION = 1

_TABLES = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE nonce (gid TEXT, nonce BLOB, until INTEGER NOT NULL, PRIMARY KEY (gid, nonce)) WITHOUT ROWID;
CREATE INDEX nonce_until ON nonce (until);

CREATE TABLE identity (
    gid TEXT PRIMARY KEY, kind TEXT NOT NULL, public_key BLOB NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'active', registered_at INTEGER NOT NULL, revoked_at INTEGER) WITHOUT ROWID;
CREATE TABLE operator (gid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE peer (gid TEXT PRIMARY KEY, address TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE issuer (
    id INTEGER PRIMARY KEY, certificate BLOB NOT NULL, sealed_key BLOB NOT NULL, until INTEGER NOT NULL,
    crl BLOB NOT NULL, crl_number INTEGER NOT NULL, crl_made_at INTEGER NOT NULL);
CREATE TABLE certificate (
    serial TEXT PRIMARY KEY, issuer INTEGER NOT NULL, gid TEXT NOT NULL, until INTEGER NOT NULL,
    revoked_at INTEGER) WITHOUT ROWID;
CREATE INDEX certificate_gid ON certificate (gid);

CREATE TABLE certified (
    authority TEXT PRIMARY KEY, host TEXT NOT NULL, public BLOB NOT NULL, statement BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE authority (
    gid TEXT PRIMARY KEY, state TEXT NOT NULL, statement BLOB NOT NULL, certificate BLOB NOT NULL,
    sealed_secret BLOB NOT NULL, sealed_signing BLOB NOT NULL, version INTEGER NOT NULL, epochs BLOB NOT NULL,
    certificate_until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE officer (authority TEXT, gid TEXT, PRIMARY KEY (authority, gid)) WITHOUT ROWID;
CREATE TABLE epoch (
    authority TEXT, name TEXT, value TEXT, epoch INTEGER NOT NULL, PRIMARY KEY (authority, name, value)) WITHOUT ROWID;
CREATE TABLE membership (
    authority TEXT, member TEXT, name TEXT, value TEXT, granted_at INTEGER NOT NULL, until INTEGER NOT NULL,
    epoch INTEGER NOT NULL, PRIMARY KEY (authority, member, name, value)) WITHOUT ROWID;
CREATE INDEX membership_until ON membership (until);
CREATE INDEX membership_member ON membership (member);

CREATE TABLE compartment (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, rule TEXT NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX compartment_owner ON compartment (owner);
CREATE TABLE half (
    compartment TEXT, epoch INTEGER, sealed BLOB NOT NULL, PRIMARY KEY (compartment, epoch)) WITHOUT ROWID;
CREATE TABLE block (
    owner TEXT, compartment TEXT, kind TEXT, target TEXT, PRIMARY KEY (owner, compartment, kind, target)) WITHOUT ROWID;
CREATE TABLE opening (
    id INTEGER PRIMARY KEY, compartment TEXT NOT NULL, owner TEXT NOT NULL, member TEXT NOT NULL,
    reason_sha256 BLOB NOT NULL, opened_at INTEGER NOT NULL, until INTEGER NOT NULL);
CREATE INDEX opening_compartment ON opening (compartment, member, until);
CREATE INDEX opening_owner ON opening (owner);

CREATE TRIGGER epoch_only_grows BEFORE UPDATE ON epoch
    WHEN NEW.epoch <= OLD.epoch BEGIN SELECT RAISE(ABORT, 'an epoch never goes back'); END;
CREATE TRIGGER epoch_stays BEFORE DELETE ON epoch BEGIN SELECT RAISE(ABORT, 'an epoch never goes back'); END;
CREATE TRIGGER version_only_grows BEFORE UPDATE OF version ON authority
    WHEN NEW.version < OLD.version BEGIN SELECT RAISE(ABORT, 'a version never goes back'); END;
CREATE TRIGGER authority_stays BEFORE DELETE ON authority
    WHEN OLD.state <> 'pending' BEGIN SELECT RAISE(ABORT, 'an authority is never forgotten'); END;
CREATE TRIGGER authority_stays_closed BEFORE UPDATE OF state ON authority
    WHEN OLD.state = 'closed' AND NEW.state <> 'closed' BEGIN SELECT RAISE(ABORT, 'closed is for good'); END;
CREATE TRIGGER identity_stays BEFORE DELETE ON identity BEGIN SELECT RAISE(ABORT, 'a GID is never used again'); END;
CREATE TRIGGER identity_key_stays BEFORE UPDATE OF gid, public_key, kind ON identity
    BEGIN SELECT RAISE(ABORT, 'a GID keeps its key'); END;
CREATE TRIGGER revoked_stays BEFORE UPDATE OF state ON identity
    WHEN OLD.state = 'revoked' AND NEW.state <> 'revoked' BEGIN SELECT RAISE(ABORT, 'revoked is for good'); END;
CREATE TRIGGER compartment_keeps_owner BEFORE UPDATE OF id, owner ON compartment
    BEGIN SELECT RAISE(ABORT, 'a compartment keeps its owner'); END;
CREATE TRIGGER crl_only_grows BEFORE UPDATE OF crl_number ON issuer
    WHEN NEW.crl_number <= OLD.crl_number BEGIN SELECT RAISE(ABORT, 'a CRL number never goes back'); END;
"""


class Store:
    """`with store.write() as db:` and `with store.read() as db:` give the connection, one user at a time."""

    def __init__(self, folder: Path, master: MasterKey) -> None:
        """Raises ConfigurationError for a store that is not there, damaged or of another version, KeyholderFull."""
        path = folder / FILE
        if not path.exists():
            raise ConfigurationError("the keyholder's store is missing")
        self.master = master
        self._lock = threading.RLock()
        with _plainly():
            self._db = _connect(path)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise ConfigurationError("the keyholder's store is of another version")

    @staticmethod
    def create(folder: Path, master: MasterKey) -> "Store":
        """A new, empty store in `folder`. Raises KeyholderFull."""
        path = folder / FILE
        path.touch(mode=0o600, exist_ok=False)
        with _plainly():
            db = _connect(path)
            db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={VERSION}; COMMIT;")
            db.close()
        return Store(folder, master)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on disk when the block has ended, undone when it raises. Raises KeyholderFull."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and _is_full(error):
                    raise KeyholderFull(error.sqlite_errorname) from None
                raise

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A consistent view. Nothing is to be changed in it."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")

    def forget_deleted(self) -> None:
        """Takes what was deleted out of the write-ahead log too, as far as a file system allows."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def copy_to(self, target: Path) -> None:
        """A consistent copy while the keyholder runs, its secrets sealed as in the original. Raises KeyholderFull."""
        with self._lock, _plainly():
            self._db.execute("VACUUM INTO ?", (str(target),))
        target.chmod(0o600)

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    db.row_factory = sqlite3.Row
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY", "foreign_keys=OFF"):
        db.execute(f"PRAGMA {pragma}")
    return db


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """What may befall the file as a whole, in words for who starts the keyholder."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _is_full(error):
            reason = f"the disk under the keyholder's store is full or fails ({error.sqlite_errorname})"
            raise KeyholderFull(reason) from None
        if error.sqlite_errorname.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise ConfigurationError("the keyholder's store is damaged") from None
        raise


def _is_full(error: sqlite3.DatabaseError) -> bool:
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR")


# -- single facts -------------------------------------------------------------------------------------
def fact(db: sqlite3.Connection, name: str) -> bytes:
    """Raises ConfigurationError for one that was never set."""
    row = db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise ConfigurationError(f"the keyholder does not know its {name}: it has not joined yet")
    return row[0]


def set_fact(db: sqlite3.Connection, name: str, value: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))
