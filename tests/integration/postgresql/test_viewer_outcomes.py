"""What people say of viewers, on PostgreSQL: the ordinary tests, and two workers that count at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from myphr.database import Database
from myphr.people.service_keys import ServiceKeys
from myphr.viewers import outcomes
from myphr.viewers.belief import PEOPLE_MIN, Tally
from myphr.viewers.models import ViewerAnswer, ViewerVoice
from tests.integration.postgresql.test_shares_of_the_record import at_once
from tests.unit.viewers.test_outcomes import *  # noqa: F403 - all of them, and their fixtures
from tests.unit.viewers.test_outcomes import KIND, VIEWER, Parts, many_say

del test_the_order_of_rows_does_not_tell_the_order_of_answers  # noqa: F821 - it reads SQLite's file


@pytest.fixture
def parts(tmp_path: Path, postgresql_url: str) -> Iterator[Parts]:
    database = Database(postgresql_url)
    database.create_all()
    yield Parts(database, ServiceKeys.create(tmp_path / "keys"))
    database.dispose()


def test_two_workers_at_once_count_each_answer_once(somebody, parts):
    many_say(somebody, 3 * PEOPLE_MIN, True)
    counted = at_once(*[lambda: outcomes.count(parts)] * 2)
    with parts.database.read() as db:
        assert db.exec(select(ViewerAnswer)).all() == [] and len(db.exec(select(ViewerVoice)).all()) == 3 * PEOPLE_MIN
    assert sum(counted) == 3 * PEOPLE_MIN
    assert outcomes.tallies(parts.database, KIND) == {VIEWER: Tally(3 * PEOPLE_MIN, 0)}


def test_two_tabs_that_open_at_once_are_both_remembered(somebody, parts):
    vera = somebody()
    at_once(*[vera.opens] * 4)
    assert len(vera.memory.openings) == 4
