"""The forty hostile files on their way, one after the other, and what became of each.

`python -m tests.hostile_forty HOME REDIS_URL` prints a line of JSON a file: the test of the forty runs it as a process
of its own, since the portal's memory is measured, and a test process has that of all the tests before. `bench hostile`
prints the same as a table. With MYPHR_HOSTILE naming a folder of files that begin with their number, also those.
"""

import dataclasses
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests import hostile
from tests.hostile_demands import FORTY, check
from tests.hostile_desk import Cost, Desk

OURS: list[tuple[int, str, Callable[[], bytes]]] = [
    (number, one.file, hostile.FILES[one.file][0]) for number, one in FORTY.items()
]
_FOLDER = os.environ.get("MYPHR_HOSTILE")
GIVEN: list[tuple[int, str, Callable[[], bytes]]] = [
    (int(path.name[:2]), path.name, path.read_bytes)
    for path in (sorted(Path(_FOLDER).glob("[0-9][0-9]_*")) if _FOLDER else [])
]


@dataclasses.dataclass
class Result:
    """`failure`: what is not as demanded, or empty."""

    number: int
    name: str
    failure: str
    cost: Cost


def results(desk: Desk, files: Iterable[tuple[int, str, Callable[[], bytes]]]) -> Iterator[Result]:
    for number, name, make in files:
        cost = Cost()
        try:
            outcome = desk.put(name, make())
            cost = outcome.cost
            check(outcome)
            FORTY[number].check(outcome)
        except Exception:  # of whatever kind: the next file has its turn
            yield Result(number, name, traceback.format_exc(), cost)
        else:
            yield Result(number, name, "", cost)


def main(home: str, redis_url: str) -> None:
    logging.disable(logging.WARNING)  # that no keyholder runs here is said of each patient otherwise
    with Desk(Path(home), redis_url) as desk:
        for result in results(desk, OURS + GIVEN):
            print(json.dumps(dataclasses.asdict(result)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
