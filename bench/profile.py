"""Where a process spends its processor time: the first lines of a profile, for a bench that missed a target.

Takes samples with perf (Debian: linux-perf) of a running process while its load goes on, Python and kernel alike.
Without perf only the split between program and kernel is told. Called by the benches; never by the portal.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

SAMPLES_A_SECOND = 1999
LINES = 12


async def profile(pids: list[int], load: Callable[[], Awaitable[object]]) -> list[str]:
    """Runs `load` once and says in lines of text what the processes did meanwhile."""
    before = _times(pids)
    with tempfile.TemporaryDirectory(prefix="myphr-profile-") as folder:
        samples = Path(folder) / "samples"
        perf = shutil.which("perf")
        recording = perf and subprocess.Popen(
            [perf, "record", "-q", "-F", str(SAMPLES_A_SECOND), "-o", str(samples), "-p", ",".join(map(str, pids))],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await load()
        finally:
            if recording:
                recording.terminate()
                recording.wait()
        user, system = (late - early for late, early in zip(_times(pids), before, strict=True))
        total = max(user + system, 0.001)
        lines = [f"{user:.2f} s in the program ({100 * user / total:.0f} %), {system:.2f} s in the kernel"]
        if not perf or not samples.exists():
            return [*lines, "no samples: perf is missing or not allowed (Debian package linux-perf)"]
        for keys, heading, count in (("dso", "by library", 6), ("symbol", "by function", LINES)):
            lines.append(heading)
            lines += [f"  {line}" for line in _report(perf, samples, keys)[:count]]
        return lines


def _report(perf: str, samples: Path, keys: str) -> list[str]:
    text = subprocess.run(
        [perf, "report", "-i", str(samples), "--stdio", "--no-children", "--sort", keys],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    found = [re.match(r"\s+(\d+\.\d+%)\s+(.*\S)", line) for line in text.splitlines() if not line.startswith("#")]
    return [f"{match[1]:>7} {match[2]}" for match in found if match]


def _times(pids: list[int]) -> tuple[float, float]:
    user, system = 0.0, 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        user, system = user + times.user, system + times.system
    return user, system
