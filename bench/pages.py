"""Page latency under 50 people at once: our signed-in pages against a bare Flask page of the same size.

Both are served by gunicorn gthread with the same threads on this machine, one after the other and interleaved, by wrk
with 50 connections. The peer does no database, no keys and no templates: it is the floor of this server.
"""

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from tests.person import Person
from tests.running import ROOT, RunningPortal, free_port

PEOPLE = 50
SECONDS = 6
ROUNDS = 3

PEER = """
from flask import Flask
app = Flask(__name__)
BODY = "x" * int({size})
@app.get("/")
def page():
    return BODY
"""


def _wrk(url: str, cookie: str = "") -> dict[str, float]:
    """p50 and p99 in ms, requests per second, and how many answers were not 2xx or 3xx."""
    command = ["wrk", "-t2", f"-c{PEOPLE}", f"-d{SECONDS}s", "--latency", "--timeout", "30s"]
    if cookie:
        command += ["-H", f"Cookie: {cookie}"]
    text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}

    def latency(percent: str) -> float:
        found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.M)
        assert found, text
        return float(found[1]) * units[found[2]]

    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: (.*)", text)
    assert rate and not errors, text
    return {"p50": latency("50"), "p99": latency("99"), "rate": float(rate[1]), "bad": float(bad[1]) if bad else 0.0}


def _median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def main() -> None:
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is not installed (make setup-test)")
    with (
        tempfile.TemporaryDirectory(prefix="myphr-bench-") as folder,
        RunningPortal(Path(folder)) as portal,
    ):
        person = Person(portal.url)
        person.register("bench@example.org", "Bench Person")
        portal.command("demo-data", "bench@example.org")
        cookie = "; ".join(f"{c.name}={c.value}" for c in person.http.cookies)
        pages = {
            "My record": "/record",
            "a study": person.studies()[0],
            "Who looked": "/who-looked",
            "account": "/account",
        }
        size = len(person.http.get(portal.url + "/record").content)
        port = free_port()
        (Path(folder) / "peer.py").write_text(PEER.format(size=size))
        peer = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "peer:app", "--chdir", folder, "--bind", f"127.0.0.1:{port}",
             "--worker-class",
             "gthread", "--threads", "64", "--no-control-socket", "--log-level", "error"], cwd=ROOT,
        )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{port}/")
            floor: list[dict[str, float]] = []
            ours: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
            for _ in range(ROUNDS):
                floor.append(_wrk(f"http://127.0.0.1:{port}/"))
                for name, path in pages.items():
                    ours[name].append(_wrk(portal.url + path, cookie))
        finally:
            peer.terminate()
            peer.wait()
    print(f"{PEOPLE} connections, median of {ROUNDS} interleaved rounds of {SECONDS} s, page of {size} bytes")
    print(f"{'page':14} {'p50 ms':>8} {'p99 ms':>8} {'req/s':>8} {'p50 ratio':>10} {'p99 ratio':>10}")
    p50, p99 = _median(floor, "p50"), _median(floor, "p99")
    print(f"{'bare Flask':14} {p50:8.1f} {p99:8.1f} {_median(floor, 'rate'):8.0f} {1:10.1f} {1:10.1f}")
    for name, runs in ours.items():
        mine50, mine99 = _median(runs, "p50"), _median(runs, "p99")
        print(
            f"{name:14} {mine50:8.1f} {mine99:8.1f} {_median(runs, 'rate'):8.0f}"
            f" {mine50 / p50:10.1f} {mine99 / p99:10.1f}"
        )
        if any(run["bad"] for run in runs):
            print(f"  {name}: {sum(run['bad'] for run in runs):.0f} answers were errors")


def _wait(url: str) -> None:
    for _ in range(200):
        try:
            requests.get(url, timeout=1)
            return
        except requests.RequestException:
            time.sleep(0.05)
    raise TimeoutError(url)


if __name__ == "__main__":
    main()
