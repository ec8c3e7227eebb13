"""Previews a second: our capped reader, a fork a file and two at a time, beside dcmtk's dcmj2pnm with Pillow making the
same JPEG of the same files, one process a file; and the whole of the worker's way (unseal, read, seal, commit). CPU
seconds besides, since the machine may be busy. With MYPHR_SAMPLES also the previews and readings of a folder of
samples, by format.
"""

import collections
import io
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pydicom
from PIL import Image
from pydicom.uid import RLELossless, generate_uid

from myphr.ingest import identify
from myphr.ingest.reading import FORMATS, work
from myphr.ingest.reading.capped import Begun, ReadAt, Reader
from myphr.records.filing import file_sealed
from myphr.records.item_writer import ItemWriter

FILES = 100
_SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def _slices(count: int) -> list[bytes]:
    """CT slices of 512 by 512 with noise, every other one RLE: what a CD holds."""
    base = pydicom.dcmread(_SAMPLES / "CT_small.dcm")
    random = numpy.random.default_rng(4)
    study = generate_uid()
    made = []
    for number in range(count):
        y, x = numpy.mgrid[:512, :512] - 256
        body = ((x**2 + y**2) < 200**2) * 1000 + random.integers(0, 60, (512, 512))
        base.Rows = base.Columns = 512
        base.PixelData = body.astype("int16").tobytes()
        base.StudyInstanceUID, base.SOPInstanceUID, base.InstanceNumber = study, generate_uid(), number
        base.file_meta.MediaStorageSOPInstanceUID = base.SOPInstanceUID
        one = pydicom.dcmread(io.BytesIO(_written(base)))
        if number % 2:
            one.compress(RLELossless, generate_instance_uid=False)
        made.append(_written(one))
    return made


def _written(dataset: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def _measured(name: str, count: int, do: Callable[[], None]) -> tuple[float, float]:
    """Files a second, and CPU milliseconds a file (ours and our children's)."""

    def cpu() -> float:
        return sum(usage.ru_utime + usage.ru_stime
                   for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))  # fmt: skip

    began, before = time.perf_counter(), cpu()
    do()
    took, spent = time.perf_counter() - began, (cpu() - before) / count * 1000
    print(f"{name:>34}: {count / took:6.1f} a second, {spent:5.1f} ms of CPU each")
    return count / took, spent


def _reading_of(content: bytes) -> ReadAt:
    return lambda at, length: content[at : at + length]


def _peer(files: list[Path]) -> None:
    for path in files:
        program = ["dcmj2pnm", "--quiet", "+Wm", "--write-raw-pnm", path]
        done = subprocess.run(program, check=True, stdout=subprocess.PIPE)
        image = Image.open(io.BytesIO(done.stdout))
        image.thumbnail((512, 512))
        image.save(io.BytesIO(), "JPEG", quality=82)


def main() -> None:
    slices = _slices(FILES)

    def ours() -> None:
        with Reader() as reader:
            under_way: list[Begun] = []
            for content in [*slices, None]:
                if content is not None:
                    under_way.append(reader.begin("dicom", len(content), _reading_of(content)))
                while len(under_way) >= (work.AT_ONCE if content is not None else 1):
                    full = under_way.pop(0).result()
                    assert full is not None and full.preview

    fast, spent = _measured("our reader, started once", FILES, ours)
    if shutil.which("dcmj2pnm"):
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for number, content in enumerate(slices):
                paths.append(Path(folder) / f"{number}.dcm")
                paths[-1].write_bytes(content)
            peer, peers_cpu = _measured("dcmj2pnm and Pillow", FILES, lambda: _peer(paths))
        print(f"{'ratio':>34}: {fast / peer:.2f} of the peer a second, {spent / peers_cpu:.2f} of its CPU")
    _whole_way(slices)
    if samples := os.environ.get("MYPHR_SAMPLES"):
        _coverage(Path(samples))


def _whole_way(slices: list[bytes]) -> None:
    """From waiting rows to sealed previews, as the worker does it."""
    from tests import cast

    folder = Path(tempfile.mkdtemp(prefix="myphr-bench-"))
    redis_server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(0.5)
        portal = cast.new_portal(folder / "home", f"unix://{folder}/redis.sock")
        owner = cast.enter(portal, cast.PATIENT)
        key = owner.login.ring().public_key
        sealed = []
        for content in slices:
            writer = ItemWriter(portal, owner.account.id, owner_public_key=key, source="upload", source_id=None,
                                describe=identify.describe)  # fmt: skip
            writer.write(content)
            sealed.append(writer.seal_up("slice.dcm"))
        file_sealed(portal, sealed, owner_public_key=key)
        work.TURN_SECONDS = 10_000
        _measured("unseal, read, seal, commit", FILES, lambda: work.run(portal, owner.account.id))
        portal.database.dispose()
    finally:
        redis_server.terminate()
        redis_server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _coverage(folder: Path) -> None:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with Reader() as reader:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.parent == folder:
                continue
            content = path.read_bytes()
            format_ = identify.identify(content[: identify.HEAD_BYTES]).format
            row = counts[format_]
            row["files"] += 1
            if format_ not in FORMATS:
                continue
            full = reader.read(format_, len(content), _reading_of(content))
            if full is not None:
                row["read"] += bool(full.reading.facts or full.reading.title)
                row["preview"] += bool(full.preview)
                row["narrative"] += bool(full.narrative)
                row["date"] += bool(full.reading.date)
    columns = ("files", "read", "preview", "narrative", "date")
    print(f"{'format':>20} " + " ".join(f"{name:>9}" for name in columns))
    for format_, row in sorted(counts.items()):
        print(f"{format_:>20} " + " ".join(f"{row[name] or '-':>9}" for name in columns))


if __name__ == "__main__":
    main()
