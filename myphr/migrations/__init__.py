"""Alembic migrations of the portal's database, run by `myphr init`. Every migration goes up and down."""

from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration(database_url: str) -> Config:
    """An Alembic configuration without an ini file; `%` is escaped because Alembic interpolates."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the schema to `revision`. Safe to run again."""
    command.upgrade(configuration(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    command.downgrade(configuration(database_url), revision)


def is_current(database_url: str) -> bool:
    """Does the database have the newest schema?"""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from myphr.database import Database

    head = ScriptDirectory.from_config(configuration(database_url)).get_current_head()
    database = Database(database_url)
    try:
        with database.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head
    finally:
        database.dispose()
