"""Every place in the program that records an audit event names a declared one and gives exactly its fields."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.audit.events import EVENTS

ROOT = Path(__file__).resolve().parents[3]
OF_EVERY_EVENT = {"account_id", "actor"}


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """(place, event, fields) of each `record(db, "event", ...)` and `_note(db, "event", ...)` with a literal name."""
    for path in sorted([*(ROOT / "myphr").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2 or not isinstance(node.args[1], ast.Constant):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            event, fields = node.args[1].value, {keyword.arg for keyword in node.keywords}
            if not isinstance(event, str) or None in fields:
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            if name == "record" and fields >= OF_EVERY_EVENT:
                yield place, event, {field for field in fields if field} - OF_EVERY_EVENT
            elif name == "_note" and path.name == "accounts.py":
                yield place, event, {field for field in fields if field}


CALLS = list(calls())


@pytest.mark.parametrize(("place", "event", "fields"), CALLS, ids=[place for place, _, _ in CALLS])
def test_the_recorded_event_is_declared_with_these_fields(place: str, event: str, fields: set[str]) -> None:
    assert event in EVENTS, f"{place} records the undeclared {event}"
    assert fields == set(EVENTS[event].fields)


def test_the_search_finds_the_calls() -> None:
    assert len(CALLS) >= 15
    assert {"signed-in", "item-uploaded", "screen-watched"} <= {event for _, event, _ in CALLS}
