"""The forty hostile files, each on its whole way through the portal: what becomes of it, and what it costs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import hostile_forty
from tests.hostile_demands import check
from tests.hostile_desk import Cost, Desk

pytestmark = pytest.mark.timeout(900)  # the first test waits for all forty

ROOT = Path(__file__).parents[3]
FILES = [name for _, name, _ in hostile_forty.OURS + hostile_forty.GIVEN]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> dict[str, str]:
    """By file: what is not as demanded."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    command = [sys.executable, "-m", "tests.hostile_forty", home, redis_server]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line["failure"] for line in lines}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_ends_as_demanded(failures: dict[str, str], name: str) -> None:
    assert failures[name] == ""


def test_nothing_of_ours_writes_csv() -> None:
    """A cell that begins with "=" is run by a spreadsheet; what writes a table for one must put an apostrophe first."""
    for path in (ROOT / "myphr").rglob("*.py"):
        assert not re.search(r"csv\.(writer|DictWriter)|text/csv.*mimetype|mimetype.*text/csv", path.read_text()), path


def test_a_process_that_takes_too_much_is_noticed(tmp_path: Path, redis_server: str) -> None:
    with Desk(tmp_path / "home", redis_server) as desk:
        outcome = desk.put("letter.txt", b"Dear Vera")
        assert 20 < outcome.cost.fork_mib < 100 < outcome.cost.portal_mib and outcome.cost.reader_mib > 50
        outcome.cost = Cost(fork_mib=300)
        check(outcome)
        outcome.cost = Cost(fork_mib=301)
        with pytest.raises(AssertionError):
            check(outcome)
