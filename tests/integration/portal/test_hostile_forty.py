"""The forty hostile files, each on its whole way through the portal: what becomes of it, and what it costs.

Of our own making; with MYPHR_HOSTILE naming a folder of files that begin with their number ("01_...") also those."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import hostile
from tests.hostile_demands import FORTY, check
from tests.hostile_desk import Cost, Desk

ROOT = Path(__file__).parents[3]
GIVEN = sorted(Path(os.environ["MYPHR_HOSTILE"]).glob("[0-9][0-9]_*")) if "MYPHR_HOSTILE" in os.environ else []
FILES = [(number, one.file, hostile.FILES[one.file][0]) for number, one in FORTY.items()]
FILES += [(int(path.name[:2]), path.name, path.read_bytes) for path in GIVEN]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Desk]:
    with Desk(tmp_path_factory.mktemp("hostile") / "home", redis_server) as desk:
        yield desk


@pytest.mark.parametrize(("number", "name", "make"), FILES, ids=[name for _, name, _ in FILES])
def test_a_hostile_file_ends_as_demanded(desk: Desk, number: int, name: str, make: Callable[[], bytes]) -> None:
    outcome = desk.put(name, make())
    check(outcome)
    FORTY[number].check(outcome)


def test_nothing_of_ours_writes_csv() -> None:
    """A cell that begins with "=" is run by a spreadsheet; what writes a table for one must put an apostrophe first."""
    for path in (ROOT / "myphr").rglob("*.py"):
        assert not re.search(r"csv\.(writer|DictWriter)|text/csv.*mimetype|mimetype.*text/csv", path.read_text()), path


def test_a_process_that_takes_too_much_is_noticed(desk: Desk) -> None:
    outcome = desk.put("letter.txt", b"Dear Vera")
    check(outcome)
    assert 20 < outcome.cost.fork_mib < 100 < outcome.cost.portal_mib and outcome.cost.reader_mib > 50
    outcome.cost = Cost(fork_mib=301)
    with pytest.raises(AssertionError):
        check(outcome)
