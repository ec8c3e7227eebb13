"""Statements made once for the driver, for what is asked with every image that comes.

SQLAlchemy takes twenty times as long over a small statement as SQLite does, so there the text that it made goes to the
driver at once, inside the unit of work of the connection it is given (a session's is `db.connection()`). Elsewhere the
way to the server takes longer than both, and SQLAlchemy does it all. Knows no table. Called by `database`,
`state_tables`, `audit.trail`, `records`, `ingest`.
"""

import collections
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.exc import DBAPIError


def to_driver(connection: Connection, text: str, values: Sequence[Any]) -> tuple[list[Any], int]:
    """What SQLite finds for this text, and how many rows it changed. Raises what SQLAlchemy raises, without values."""
    try:
        cursor = connection.connection.driver_connection.execute(text, values)  # type: ignore[union-attr]
        return cursor.fetchall(), cursor.rowcount
    except sqlite3.Error as error:
        raise DBAPIError.instance(text, None, error, sqlite3.Error, hide_parameters=True) from error


class Prepared:
    """One statement of columns, not of objects; its values go by the names of its `bindparam`s, those of an expanding
    one as a list. What the session's objects hold must be flushed before. Raises what SQLAlchemy raises."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._made: dict[tuple[int, ...], _Made] = {}  # by the lengths of the lists, as each has a text of its own

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Any]:
        """What it finds; columns by place and by name."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, values).all()
        made = self._made_for(connection, values)
        return made.read(made.execute(connection, values)[0])

    def first(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The first row, or None."""
        return next(iter(self.rows(connection, values)), None)

    def run(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """How many rows it changed."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, values).rowcount
        return self._made_for(connection, values).execute(connection, values)[1]

    def run_each(self, connection: Connection, several: Sequence[Mapping[str, Any]]) -> None:
        """`run` for each of these values, of which there may be none."""
        if connection.dialect.name == "sqlite":
            for values in several:
                self._made_for(connection, values).execute(connection, values)
        elif several:
            connection.execute(self._statement, several)

    def _made_for(self, connection: Connection, values: Mapping[str, Any]) -> "_Made":
        lengths = tuple(len(value) for value in values.values() if isinstance(value, list))
        made = self._made.get(lengths)
        if made is None:
            made = self._made[lengths] = _Made(self._statement, connection, values)
        return made


class _Made:
    """The text for SQLite, and what its values and its rows pass through."""

    def __init__(self, statement: Any, connection: Connection, values: Mapping[str, Any]) -> None:
        dialect = connection.dialect
        compiled = statement.compile(dialect=dialect)
        state = compiled.construct_expanded_state(values)
        self._text = state.statement
        self._lists = {name: state.parameter_expansion[name] for name in values if name in state.parameter_expansion}
        own = set(values) | {one for names in self._lists.values() for one in names}
        self._constants = {name: value for name, value in state.parameters.items() if name not in own}
        processes = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect) for bind, name in compiled.bind_names.items()
        } | state.processors
        self._places = [(name, processes.get(name)) for name in state.positiontup]
        columns = list(statement.selected_columns) if isinstance(statement, Select) else []
        self._row: Any = collections.namedtuple("Row", [column.name for column in columns], rename=True)  # type: ignore[misc]
        of_columns = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._to_process = [(place, process) for place, process in enumerate(of_columns) if process is not None]

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> tuple[list[Any], int]:
        """As `to_driver`."""
        named = self._constants | dict(values)
        for name, places in self._lists.items():
            named.update(zip(places, values[name], strict=True))
        given = [process(named[name]) if process else named[name] for name, process in self._places]
        return to_driver(connection, self._text, given)

    def read(self, rows: Sequence[Any]) -> list[Any]:
        """The driver's rows as SQLAlchemy reads them."""
        found = []
        for row in rows:
            if self._to_process:
                row = list(row)
                for place, process in self._to_process:
                    row[place] = process(row[place])
            found.append(self._row._make(row))
        return found
