"""Brings the front-end files we ship into this folder: noVNC, htmx and tus-js-client, at pinned versions.

`python static/vendor/vendor.py` fetches each package with `npm pack`, checks it against the sha512 recorded in
CHECKSUMS.json, copies only the files the pages need and records each one's SHA-256. `--check` fetches nothing: it
compares the committed files with the record. The files are committed, so an installation needs neither this nor npm.
"""

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORD = HERE / "CHECKSUMS.json"

# package -> (folder here, what of the package is kept: a file, or a folder when it ends in "/")
WANTED = {
    "@novnc/novnc": ("novnc", ["core/", "vendor/pako/", "LICENSE.txt", "AUTHORS", "docs/LICENSE.MPL-2.0"]),
    "htmx.org": ("htmx", ["dist/htmx.min.js", "LICENSE"]),
    "tus-js-client": ("tus", ["dist/tus.min.js", "LICENSE"]),
}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def differences(folder: Path, record: dict) -> list[str]:
    """What is missing, changed or not recorded in `folder`, in plain words; empty when all is as recorded."""
    recorded: dict[str, str] = {}
    for package in record.values():
        recorded |= package["files"]
    found = {
        path.relative_to(folder).as_posix(): path
        for name, _ in WANTED.values()
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }
    wrong = [f"{name} is missing" for name in sorted(recorded.keys() - found.keys())]
    wrong += [f"{name} is not recorded" for name in sorted(found.keys() - recorded.keys())]
    wrong += [
        f"{name} differs from what was recorded"
        for name in sorted(recorded.keys() & found.keys())
        if _sha256(found[name].read_bytes()) != recorded[name]
    ]
    return wrong


def fetch(package: str, version: str, integrity: str, target: Path) -> dict[str, str]:
    """Fetches one package, verifies it and unpacks the wanted files. Returns {file: SHA-256}."""
    folder, wanted = WANTED[package]
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            ["npm", "pack", "--silent", f"{package}@{version}", "--pack-destination", scratch],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (archive,) = Path(scratch).glob("*.tgz")
        found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != integrity:
            raise SystemExit(f"{package}@{version} is not the package that was recorded: {found}")
        written: dict[str, str] = {}
        with tarfile.open(archive) as members:
            for member in members:
                name = member.name.removeprefix("package/")
                if not member.isfile() or not any(
                    name == want or (want.endswith("/") and name.startswith(want)) for want in wanted
                ):
                    continue
                if ".." in Path(name).parts:
                    raise SystemExit(f"{package}@{version} holds a path that leaves its folder")
                # htmx and tus keep their one file in dist/; noVNC's modules import each other by relative path.
                place = target / folder / name.removeprefix("dist/")
                place.parent.mkdir(parents=True, exist_ok=True)
                source = members.extractfile(member)
                assert source is not None
                place.write_bytes(source.read())
                written[place.relative_to(target).as_posix()] = _sha256(place.read_bytes())
    return dict(sorted(written.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the committed files with the record")
    arguments = parser.parse_args()
    record = json.loads(RECORD.read_text())
    if not arguments.check:
        for package, entry in record.items():
            entry["files"] = fetch(package, entry["version"], entry["integrity"], HERE)
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    wrong = differences(HERE, record)
    for line in wrong:
        print(line, file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
