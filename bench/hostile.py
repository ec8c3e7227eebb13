"""What becomes of the forty hostile files and what each costs, as a table: of our own making and, with MYPHR_HOSTILE
naming a folder of files that begin with their number, also those. A file that does not end as demanded is marked so.
"""

import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.hostile_demands import FORTY, MIB_MAX
from tests.hostile_desk import Desk
from tests.hostile_forty import GIVEN, OURS, results


def main() -> None:
    logging.disable(logging.WARNING)  # that no keyholder runs here is said of each patient otherwise
    folder = Path(tempfile.mkdtemp(prefix="myphr-bench-"))
    redis_server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(0.5)
        with Desk(folder / "home", f"unix://{folder}/redis.sock") as desk:
            desk.put("letter.txt", b"Dear Vera")  # what is loaded late is not the first file's
            print("of our own making:")
            _table(desk, OURS)
            if GIVEN:
                print("given:")
                _table(desk, GIVEN)
    finally:
        logging.disable(logging.NOTSET)
        redis_server.terminate()
        redis_server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _table(desk: Desk, files: list[tuple[int, str, Callable[[], bytes]]]) -> None:
    print(f"{'':>2} {'file':32} {'outcome':36} {'s':>5} {'CPU s':>5} {'fork':>5} {'portal MiB':>10}")
    largest, slowest, failed = 0, 0.0, 0
    for one in results(desk, files):
        words = "NOT AS DEMANDED" if one.failure else FORTY[one.number].words
        failed += bool(one.failure)
        cost = one.cost
        largest, slowest = max(largest, cost.largest_mib), max(slowest, cost.cpu_seconds)
        print(f"{one.number:>2} {one.name[:32]:32} {words[:36]:36} {cost.seconds:5.1f} {cost.cpu_seconds:5.1f} "
              f"{cost.fork_mib or '-':>5} {cost.portal_mib:>10}")  # fmt: skip
    print(f"{len(files) - failed} of {len(files)} as demanded; largest process {largest} MiB (target {MIB_MAX}), "
          f"most CPU {slowest:.1f} s (target 10)")  # fmt: skip


if __name__ == "__main__":
    main()
