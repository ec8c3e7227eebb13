"""Fetching images by C-GET from Orthanc: our worker (sealed, durable, filed) against dcmtk's getscu, in one run.

The same study over the same archive, rounds in turn, medians; each is a process of its own, and what starting ours
costs is told beside it. getscu neither seals nor waits for the disk. Then one image of 200 MB, for memory. TCP_NODELAY
is 1 for all. Prints figures, asserts nothing but that all images came. `python -m bench.fetching [images] [rounds]`.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import CTImageStorage

from myphr.ingest.pacs import fetches
from tests import cast
from tests.conftest import redis_server
from tests.pacs import VERA, Orthanc, as_other_image, linked, looked, study_of

ROOT = Path(__file__).parents[1]
ENVIRON = {key: value for key, value in os.environ.items() if not key.startswith("MYPHR_")} | {"TCP_NODELAY": "1"}
# Runs a command, and says wall seconds, CPU seconds and peak memory in KiB of it alone.
METER = """import os, resource, subprocess, sys, time
begun = time.monotonic(); code = subprocess.call(sys.argv[1:], stdout=2)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss, code)"""


def measured(command: Sequence[str], environ: dict[str, str]) -> tuple[float, float, float]:
    done = subprocess.run(
        [sys.executable, "-c", METER, *command], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    wall, cpu, memory, code = done.stdout.split()
    if code != "0":
        raise RuntimeError(done.stderr[-2000:])
    return float(wall), float(cpu), float(memory) / 1024


def ours(home: Path, redis_url: str, port: int, number: str, uid: str) -> tuple[float, float, float]:
    portal = cast.new_portal(home, redis_url)
    patient, operator = cast.enter(portal, cast.PATIENT), cast.enter(portal, cast.OPERATOR)
    there = looked(portal, patient, linked(portal, patient, operator, port, number))
    fetches.choose(portal, patient.login, there.id, [uid])
    environ = ENVIRON | {"MYPHR_HOME": str(home), "MYPHR_REDIS_URL": redis_url}
    found = measured([sys.executable, "-c", f"from jobs.ingest import fetch_from_pacs; fetch_from_pacs({there.id!r})"],
                     environ)  # fmt: skip
    came = fetches.view(portal, patient.login, there.id)
    if (came.state, came.missing_count, came.refused_count) != ("done", 0, 0):
        raise RuntimeError(f"not all came: {came.state} {came.reason}")
    portal.database.dispose()
    shutil.rmtree(home)
    return found


def getscu(folder: Path, port: int, uid: str, images: int) -> tuple[float, float, float]:
    folder.mkdir()
    found = measured(["getscu", "-S", "-aec", Orthanc.called, "-k", "QueryRetrieveLevel=STUDY", "-k",
                      f"StudyInstanceUID={uid}", "-od", str(folder), "127.0.0.1", str(port)], ENVIRON)  # fmt: skip
    if len(list(folder.iterdir())) != images:
        raise RuntimeError("getscu did not get all")
    shutil.rmtree(folder)
    return found


def main(images: int = 200, rounds: int = 3) -> None:
    redis = redis_server.__wrapped__()  # type: ignore[attr-defined]
    redis_url = next(redis)
    with tempfile.TemporaryDirectory(prefix="myphr-") as name, Orthanc(Path(name) / "archive") as archive:
        folder = Path(name)
        pixels = [os.urandom(512 * 1024) for _ in range(4)]
        study = [as_other_image(one, SOPClassUID=CTImageStorage, Modality="CT", Rows=512, Columns=1024,
                                PixelData=pixels[at % 4])
                 for at, one in enumerate(study_of(VERA, images))]  # fmt: skip
        uid = archive.put(study)
        runs: dict[str, list[tuple[float, float, float]]] = {"ours": [], "getscu": []}
        for at in range(rounds):
            runs["ours"].append(ours(folder / f"home-{at}", redis_url, archive.port, VERA, uid))
            runs["getscu"].append(getscu(folder / f"got-{at}", archive.port, uid, images))
        starts = [measured([sys.executable, "-c", "import jobs.ingest"], ENVIRON) for _ in range(3)]
        start = [statistics.median(one[at] for one in starts) for at in range(3)]
        print(f"{images} CT images, {sum(map(len, study)) / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}")
        for who, found in runs.items():
            wall, cpu, memory = (statistics.median(one[at] for one in found) for at in range(3))
            each = cpu / images * 1000
            print(f"{who:8} {wall:5.2f} s, {cpu:5.2f} s of CPU ({each:.1f} ms an image), {memory:4.0f} MiB")
        print(f"of ours, starting the process: {start[0]:.2f} s, {start[1]:.2f} s of CPU, {start[2]:.0f} MiB")
        big = archive.put([as_other_image(study_of("4713", 1, PatientBirthDate="19780412")[0], Rows=20_000,
                                          Columns=10_000, PixelData=os.urandom(200_000_000))])  # fmt: skip
        before = time.monotonic()
        _, _, memory = ours_of(folder, redis_url, archive, big)
        print(f"one image of 200 MB: {memory:.0f} MiB at most, {time.monotonic() - before:.1f} s")
    redis.close()


def ours_of(folder: Path, redis_url: str, archive: Orthanc, uid: str) -> tuple[float, float, float]:
    from tests import pacs

    pacs.BORN["4713"] = "19780412"
    return ours(folder / "home-big", redis_url, archive.port, "4713", uid)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main(*map(int, sys.argv[1:]))
