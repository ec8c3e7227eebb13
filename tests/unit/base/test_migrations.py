"""Migrations: models equal the migrated schema, and every migration goes up and down; on both databases."""

from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect

from myphr.database import Database
from myphr.migrations import configuration, downgrade, is_current, upgrade


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db.sqlite"
    return request.getfixturevalue("postgresql_url")


def test_models_equal_the_migrated_schema(url: str):
    upgrade(url)
    command.check(configuration(url))  # raises when autogenerate would add anything
    assert is_current(url)


def test_every_migration_goes_down_again(url: str):
    upgrade(url)
    downgrade(url, "base")
    assert not is_current(url)
    database = Database(url)
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.dispose()


def test_upgrading_twice_changes_nothing(url: str):
    upgrade(url)
    upgrade(url)
    assert is_current(url)
