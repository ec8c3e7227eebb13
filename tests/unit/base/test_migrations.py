"""Migrations: models equal the migrated schema, and every migration goes up and down."""

from pathlib import Path

from alembic import command
from sqlalchemy import inspect

from myphr.database import Database
from myphr.migrations import configuration, downgrade, is_current, upgrade


def test_models_equal_the_migrated_schema(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/db.sqlite"
    upgrade(url)
    command.check(configuration(url))  # raises when autogenerate would add anything
    assert is_current(url)


def test_every_migration_goes_down_again(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/db.sqlite"
    upgrade(url)
    downgrade(url, "base")
    assert not is_current(url)
    assert inspect(Database(url).engine).get_table_names() == ["alembic_version"]


def test_upgrading_twice_changes_nothing(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/db.sqlite"
    upgrade(url)
    upgrade(url)
    assert is_current(url)
