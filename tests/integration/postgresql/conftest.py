"""The same portal as everywhere, with its database on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.portal import Portal
from tests.cast import new_portal


@pytest.fixture
def portal(tmp_path: Path, redis_url: str, postgresql_url: str) -> Iterator[Portal]:
    portal = new_portal(tmp_path / "home", redis_url, database_url=postgresql_url)
    assert not portal.database.is_sqlite
    yield portal
    portal.database.dispose()
    portal.redis.close()
