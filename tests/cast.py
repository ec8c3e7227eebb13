"""The cast that every test knows: a patient, her caregiver, a practice, a stranger, an operator.

Also builds a portal of their own for a test: SQLite and folders below one directory, cheap Argon2id, a given Redis.
Imports of the upper layers stand inside the functions, so tests of the lower ones do not need them.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from myphr import settings as settings_module
from myphr.settings import Settings

if TYPE_CHECKING:
    from myphr.people.accounts import Login
    from myphr.people.models import Account
    from myphr.portal import Portal


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody a test can name. `password` obeys the rules of myphr.people.password_rules."""

    email: str
    name: str
    password: str


PATIENT = Person("vera@patient.example", "Vera Lindqvist", "blue heron over the quiet mill")
CAREGIVER = Person("tomas@family.example", "Tomas Lindqvist", "three lanterns by the orchard")
PRACTICE = Person("desk@practice.example", "Practice at the Bridge", "seven stairs to the waiting room")
STRANGER = Person("nils@elsewhere.example", "Nils Berger", "a kettle sings in the harbour")
OPERATOR = Person("operator@portal.example", "Oda Perator", "racks hum softly after midnight")


@dataclasses.dataclass(frozen=True)
class SignedIn:
    """A registered member of the cast with one login session."""

    person: Person
    account: "Account"
    login: "Login"
    cookie_value: str = dataclasses.field(repr=False)
    recovery_code: str = dataclasses.field(repr=False)


def cheap_settings(home: Path, redis_url: str = "", **overrides: object) -> Settings:
    """Settings of a test portal below `home`: the environment has no say, passwords cost next to nothing."""
    values: dict[str, object] = {"home": home, "argon2_memory_kib": 8, "argon2_passes": 1, "warm_pool": ""}
    if redis_url:
        values["redis_url"] = redis_url
    return settings_module.load({}, **(values | overrides))


def new_portal(home: Path, redis_url: str = "", **overrides: object) -> "Portal":
    """A portal with service keys and all tables, ready to use. Dispose of `portal.database` at the end."""
    from myphr.people.service_keys import ServiceKeys
    from myphr.portal import Portal

    settings = cheap_settings(home, redis_url, **overrides)
    prepare_home(settings)
    if not (settings.keys_dir / "worker.key").exists():
        ServiceKeys.create(settings.keys_dir)
    portal = Portal(settings)
    database = settings.home / "db" / "myphr.sqlite"
    if settings.database_url == f"sqlite:///{database}" and not database.exists():
        database.write_bytes(_empty_database())
    else:
        portal.database.create_all()
    return portal


@functools.cache
def _empty_database() -> bytes:
    """All tables and nothing in them, made once a process: a hundred statements that thousands of tests share."""
    from myphr.database import Database

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.sqlite"
        database = Database(f"sqlite:///{path}")
        database.create_all()
        database.dispose()  # the last connection moves the log into the file
        assert not path.with_name("empty.sqlite-wal").exists()
        return path.read_bytes()


def prepare_home(settings: Settings) -> None:
    """The folders that `myphr init` makes."""
    for folder in (settings.home, settings.run_dir, settings.spool_dir, settings.home / "db", settings.home / "store"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def enter(portal: "Portal", person: Person, *, device: str = "Firefox on Linux") -> SignedIn:
    """Registers `person` and signs them in. The operator becomes one by being named so in the cast."""
    from myphr.people import accounts

    account, recovery_code = accounts.register(
        portal, person.email, person.name, person.password, is_operator=person is OPERATOR
    )
    _, cookie_value = accounts.sign_in(portal, person.email, person.password, device)
    login = accounts.resolve(portal.database, cookie_value)
    assert login is not None
    return SignedIn(person, account, login, cookie_value, recovery_code)
