"""Statements made once say and find what SQLAlchemy's own say and find."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Boolean, Column, Integer, LargeBinary, MetaData, String, Table, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel.sql.sqltypes import UTCDateTime

from myphr.database import Database
from myphr.prepared import Prepared

TABLE = Table(
    "thing", MetaData(), Column("id", String, primary_key=True), Column("at", UTCDateTime), Column("open", Boolean),
    Column("sealed", LargeBinary), Column("count", Integer),
)  # fmt: skip
WHOLE = dt.datetime(2026, 3, 1, 12, 0, 0, 0, dt.UTC)  # no microseconds: written all the same
ELSEWHERE = dt.datetime(2026, 3, 1, 12, 0, 0, 5, dt.timezone(dt.timedelta(hours=2)))
ROWS: list[dict[str, Any]] = [
    {"id": "a", "at": WHOLE, "open": True, "sealed": b"\x00\xff", "count": 2**40},
    {"id": "b", "at": ELSEWHERE, "open": False, "sealed": b"", "count": 0},
    {"id": "c", "at": None, "open": None, "sealed": None, "count": None},
]
ALL = select(TABLE).order_by(TABLE.c.id)
ADD = Prepared(insert(TABLE))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'things.sqlite'}")
    TABLE.metadata.create_all(database.engine)
    yield database
    database.dispose()


def as_stored(database: Database) -> list[Any]:
    with database.read() as db:
        return db.connection().exec_driver_sql("SELECT *, typeof(at), typeof(open), typeof(sealed) FROM thing").all()


def test_rows_are_stored_as_sqlalchemy_stores_them(database: Database) -> None:
    with database.write() as db:
        db.connection().execute(insert(TABLE), ROWS)
    wanted = as_stored(database)
    with database.write() as db:
        db.connection().execute(TABLE.delete())
        ADD.run_each(db.connection(), ROWS)
        ADD.run_each(db.connection(), [])
    assert as_stored(database) == wanted and len(wanted) == 3


def test_rows_are_found_as_sqlalchemy_finds_them(database: Database) -> None:
    with database.write() as db:
        ADD.run_each(db.connection(), ROWS)
        found, wanted = Prepared(ALL).rows(db.connection(), {}), db.connection().execute(ALL).all()
    assert [tuple(row) for row in found] == [tuple(row) for row in wanted]
    assert [found[0].id, found[0].at, found[0].open, found[0].sealed] == ["a", WHOLE, True, b"\x00\xff"]


def test_lists_of_any_length_and_the_statements_own_values(database: Database) -> None:
    some = Prepared(
        select(TABLE.c.id)
        .where(TABLE.c.id.in_(bindparam("ids", expanding=True)), TABLE.c.open.in_((True, False)), TABLE.c.sealed != b"")
        .order_by(TABLE.c.id)
    )
    with database.write() as db:
        ADD.run_each(db.connection(), ROWS)
        for ids in (["a"], [], ["c", "b", "a"], ["x", "a"], ["b"]):
            assert [row.id for row in some.rows(db.connection(), {"ids": ids})] == [one for one in ("a",) if one in ids]
        assert some.first(db.connection(), {"ids": ["b"]}) is None


def test_an_update_says_how_many_rows_it_changed_and_compares_times(database: Database) -> None:
    later = Prepared(
        update(TABLE).where(TABLE.c.at == bindparam("then")).values(at=bindparam("moment"), count=TABLE.c.count + 1)
    )
    moment = WHOLE + dt.timedelta(days=1)
    with database.write() as db:
        ADD.run_each(db.connection(), ROWS)
        assert [later.run(db.connection(), {"then": WHOLE, "moment": moment}) for _ in range(2)] == [1, 0]
        assert tuple(db.connection().execute(select(TABLE.c.at, TABLE.c.count)).first()) == (moment, 2**40 + 1)


def test_it_belongs_to_the_unit_of_work(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as db:
        ADD.run_each(db.connection(), ROWS)
        raise ZeroDivisionError
    assert as_stored(database) == []


def test_errors_are_sqlalchemys_and_quote_no_values(database: Database) -> None:
    with pytest.raises(IntegrityError) as told, database.write() as db:
        ADD.run_each(db.connection(), [ROWS[0], ROWS[0] | {"sealed": b"secret-marker"}])
    assert "secret-marker" not in str(told.value)
    with pytest.raises(OperationalError), database.read() as db:
        db.connection().exec_driver_sql("DROP TABLE thing")
        Prepared(ALL).rows(db.connection(), {})


def test_a_value_that_was_left_out_is_an_error(database: Database) -> None:
    with pytest.raises(KeyError), database.write() as db:
        ADD.run_each(db.connection(), [{"id": "a"}])
