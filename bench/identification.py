"""Identification of a folder of files with known types: exact, coarse and wrong by format, and milliseconds a file,
beside libmagic through file(1) on the same files.

`MYPHR_SAMPLES=/folder python -m bench identification`: the folder holds a manifest.json, a list of {"path",
"label"}. Coarse means the right family only (xml, json, text, gzip, zip, ole2, tiff) or unknown, where more could
have been said.
"""

import collections
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

from myphr.ingest.identify import HEAD_BYTES, identify

_COARSE = {"xml", "json", "text", "csv", "tsv", "gzip", "zip", "ole2", "tiff", "unknown", "html"}


def main() -> None:
    where = os.environ.get("MYPHR_SAMPLES")
    if not where:
        print("set MYPHR_SAMPLES to a folder with sample files and a manifest.json: skipped")
        return
    folder = Path(where)
    rows = json.loads((folder / "manifest.json").read_text())
    by_label: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    seconds = []
    misses = []
    for row in rows:
        path = folder / row["path"]
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        started = time.perf_counter()
        found = identify(head)
        seconds.append(time.perf_counter() - started)
        exact = found.format == row["label"]
        outcome = "exact" if exact else "coarse" if found.format in _COARSE else "wrong"
        by_label[row["label"]][outcome] += 1
        if not exact:
            misses.append(f"{row['label']:>16} was called {found.format:<12} by rule {found.rule}: {row['path']}")
    started = time.perf_counter()
    subprocess.run(["file", "--brief", "--mime-type", "--files-from", "-"], check=True, capture_output=True,
                   input="\n".join(str(folder / row["path"]) for row in rows).encode())  # fmt: skip
    libmagic = (time.perf_counter() - started) / len(rows)
    print(f"{'format':>18} {'exact':>6} {'coarse':>6} {'wrong':>6}")
    total: collections.Counter[str] = collections.Counter()
    for label, counts in sorted(by_label.items()):
        total += counts
        print(f"{label:>18} {counts['exact']:>6} {counts['coarse']:>6} {counts['wrong']:>6}")
    print("\n".join(misses))
    ordered = sorted(seconds)
    print(f"exact {total['exact']}/{len(rows)} = {total['exact'] / len(rows):.1%}, coarse {total['coarse']}, "
          f"wrong {total['wrong']}")  # fmt: skip
    median, late = statistics.median(ordered) * 1000, ordered[int(len(ordered) * 0.95)] * 1000
    ratio = statistics.fmean(ordered) / libmagic
    print(f"a file: median {median:.3f} ms, p95 {late:.2f} ms, mean {ratio:.2f} of libmagic's")


if __name__ == "__main__":
    main()
