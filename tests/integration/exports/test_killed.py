"""kill -9 of the process that makes an export, while it writes: no zip is there, and the next run makes a whole one."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from myphr.database import now
from myphr.ingest import identify
from myphr.records import exports
from myphr.records.models import Export
from tests.web.stage import put_in

ROOT = Path(__file__).parents[3]
BLOCK = os.urandom(1024 * 1024)


def test_a_killed_worker_leaves_no_zip_and_the_next_makes_a_whole_one(portal, patient) -> None:
    for number in range(3):
        put_in(portal, patient.account.id, bytes([number]) + BLOCK * 40, f"{number}.bin")
    export_id = exports.ask(portal, patient.login)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MYPHR_")}
    environ |= {"MYPHR_HOME": str(portal.settings.home), "MYPHR_REDIS_URL": portal.settings.redis_url}
    program = "import sys; from jobs.exports import make_export; make_export(sys.argv[1])"
    worker = subprocess.Popen([sys.executable, "-c", program, export_id], cwd=ROOT, env=environ)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 20_000_000 for path in portal.store.partial_dir.iterdir()):
        assert time.monotonic() < deadline and worker.poll() is None, "it never wrote"
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    worker.wait(10)
    with portal.database.read() as db:
        assert db.get(Export, export_id).state == "running"
    there = [*portal.store.keys()]
    assert [key.rpartition("-")[0] for key in there if key.startswith(export_id)] == [f"{export_id}.order"]
    with portal.database.write() as db:
        row = db.get(Export, export_id)
        row.changed_at = now() - 2 * exports.STUCK
        db.add(row)
    assert exports.enqueue_stuck(portal) == 1
    exports.run(portal, export_id, identify.pronom_of)
    with contextlib.closing(exports.open_zip(portal, patient.login, export_id)) as opened:
        archive = zipfile.ZipFile(io.BytesIO(opened.read_at(0, opened.plain_bytes)))
    assert archive.testzip() is None and len(archive.namelist()) == 7
