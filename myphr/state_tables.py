"""Lifecycles as tables: (state, event) -> (action, next). `move` is the only code that changes a state.

A move is one conditional UPDATE that must change exactly one row, so two workers never take the same step: the
slower one gets `StateConflict` and looks again. The action is a plain sentence for docs/states.md and for readers;
the code that takes the step does it. Knows no lifecycle itself: `ingest.states`, `machines.states` and
`sharing.states` hold the tables.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Update, bindparam, update
from sqlmodel import Session

from myphr.database import now
from myphr.errors import PortalError
from myphr.prepared import Prepared


class StateConflict(PortalError):
    """The row is not (or no longer) in a state that allows this event: somebody else was first, or it never was."""

    code = "state-conflict"
    sentence = "This has changed in the meantime. Reload the page."
    status = 409


@dataclasses.dataclass(frozen=True)
class StateTable:
    """One lifecycle. `rows` maps (state, event) to (action, next state)."""

    name: str
    model: type
    first: str
    rows: Mapping[tuple[str, str], tuple[str, str]]

    @property
    def states(self) -> list[str]:
        return list(dict.fromkeys([self.first, *(s for s, _ in self.rows), *(n for _, n in self.rows.values())]))

    @property
    def events(self) -> list[str]:
        return list(dict.fromkeys(event for _, event in self.rows))

    @property
    def final(self) -> frozenset[str]:
        """States that nothing leaves."""
        return frozenset(self.states) - {state for state, _ in self.rows}

    def states_of(self, event: str) -> list[str]:
        """The states in which `event` may happen."""
        return [state for (state, name) in self.rows if name == event]

    def next(self, state: str, event: str) -> str:
        """Raises StateConflict when the table has no such row."""
        try:
            return self.rows[state, event][1]
        except KeyError:
            raise StateConflict(f"{self.name}: {event} in {state}") from None

    def move(
        self, db: Session, row: Any, event: str, *, only_if: Sequence[ColumnElement[bool]] = (), **values: Any
    ) -> Any:
        """Take `event` on this row and set `values` with it, in one UPDATE that checks the state it was read in.

        Raises StateConflict when the table forbids it, when another worker moved the row since it was read, or when
        one of `only_if` does not hold. The row object carries the new state and values afterwards."""
        changes = self.step(db, row.id, row.state, event, only_if=only_if, **values)
        if row in db:
            db.refresh(row)
        else:
            for key, value in changes.items():
                setattr(row, key, value)
        return row

    def step(
        self, db: Session, row_id: str, state: str, event: str, *, only_if: Sequence[ColumnElement[bool]] = (),
        **values: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """`move` for who has read the row's state and no object of it. Returns what was set; raises as `move`."""
        columns = self.model.__table__.columns  # type: ignore[attr-defined]
        changes = {"state": self.next(state, event), "changed_at": now(), **values}
        if changes["state"] == state:
            del changes["state"]  # the row is asked for it all the same; written again, its index would be too
        changes = {key: value for key, value in changes.items() if key in columns}
        values = {"seen_id": row_id, "seen_state": state} | changes
        if only_if:
            moved = db.connection().execute(_one_move(self.model, changes).where(*only_if), values).rowcount
        else:
            moved = _made_move(self.model, tuple(changes)).run(db.connection(), values)
        if moved != 1:
            raise StateConflict(f"{self.name} {row_id}: {event} came too late in {state}")
        return changes


def _one_move(model: type, changed: Iterable[str]) -> Update:
    columns = model.__table__.columns  # type: ignore[attr-defined]
    return (
        update(model)
        .where(columns["id"] == bindparam("seen_id"), columns["state"] == bindparam("seen_state"))
        .values({name: bindparam(name) for name in changed})
    )


@functools.lru_cache(maxsize=256)
def _made_move(model: type, changed: tuple[str, ...]) -> Prepared:
    return Prepared(_one_move(model, changed))


def as_markdown(tables: Sequence[StateTable]) -> str:
    """docs/states.md: one diagram and one table a lifecycle. A test compares it with the file."""
    lines = [
        "# States",
        "",
        "Generated from the tables in the `states.py` of `myphr/ingest`, `machines`, `records` and `sharing`",
        "by `python -m myphr.sharing.states > docs/states.md`; a test compares. No other code changes a state.",
    ]
    for table in tables:
        lines += ["", f"## {table.name[0].upper()}{table.name[1:]}", ""]
        lines += ["```mermaid", "stateDiagram-v2", f"    [*] --> {table.first}"]
        lines += [f"    {state} --> {following}: {event}" for (state, event), (_, following) in table.rows.items()]
        lines += [f"    {state} --> [*]" for state in table.states if state in table.final]
        lines += ["```", "", "| state | event | action | next |", "|---|---|---|---|"]
        lines += [f"| {s} | {e} | {action} | {following} |" for (s, e), (action, following) in table.rows.items()]
    return "\n".join(lines) + "\n"
