"""What stands in an export beside the files: README, manifest, checksums, FHIR Bundle. Pure: facts in, bytes out.

Format: docs/formats/export.md. The facts are the order that `records.exports` seals for the worker. Knows no keys,
tables or files.
"""

import collections
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

from myphr.records import fhir_bundle, summaries
from myphr.records.fhir_bundle import SOURCES, ItemInBundle, SeriesInBundle, StudyInBundle

VERSION = 1
FILES = "files"  # the folder of the originals
# Stands at the end of the zip: whoever unpacks it into a record again leaves out what we wrote about the files.
COMMENT = b"myphr-export/1"
README, MANIFEST, SUMS, BUNDLE = "README.txt", "manifest.json", "SHA256SUMS", "fhir-bundle.json"


def about(
    order: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], missing: Sequence[Mapping[str, Any]],
    pronom: Mapping[str, str],
) -> list[tuple[str, bytes]]:  # fmt: skip
    """(path, content) of all but the originals and the checksums. `entries`: the files that are in it; `missing`: those
    that could not be read; `pronom`: PRONOM ids by item."""
    return [
        (README, _readme(order, entries, missing).encode()),
        (MANIFEST, _manifest(order, entries, missing, pronom).encode()),
        (BUNDLE, _bundle(order, entries)),
    ]


def sums(rows: Sequence[tuple[str, str]]) -> bytes:
    """(path, SHA-256 in hex) as `sha256sum -c` reads them. No path of ours holds a line end or a backslash."""
    return "".join(f"{digest}  {path}\n" for path, digest in rows).encode()


def _manifest(
    order: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], missing: Sequence[Mapping[str, Any]],
    pronom: Mapping[str, str],
) -> str:  # fmt: skip
    files = [
        {
            "path": entry["path"], "size": entry["bytes"], "sha256": entry["sha256"], "name": entry["name"],
            "original_path": entry["original_path"], "format": entry["format"], "format_words": entry["format_words"],
            "media_type": entry["media_type"], "pronom": pronom.get(entry["item"]) or None,
            "source": entry["source"], "source_words": SOURCES.get(entry["source"], ""), "added_at": entry["added_at"],
            "labels": entry["labels"], "study": entry["study"], "item": entry["item"],
        }
        for entry in entries
    ]  # fmt: skip
    content = {
        "myphr_export": VERSION, "made_at": order["made_at"], "name": order["name"], "files": files,
        "studies": order["studies"],
        "missing": [{"name": entry["name"], "item": entry["item"], "sha256": entry["sha256"]} for entry in missing],
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _readme(
    order: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], missing: Sequence[Mapping[str, Any]]
) -> str:
    made = dt.datetime.fromisoformat(order["made_at"])
    size = summaries.size_words(sum(entry["bytes"] for entry in entries))
    lines = [
        f"The health record of {order['name']}",
        f"as it was on {summaries.date_words(made.date())} at {made:%H:%M} UTC. "
        f"{summaries.count_words(len(entries), 'file')}, {size}.",
        "",
        f'The folder "{FILES}" holds every file exactly as it came, bit by bit.',
        f"{MANIFEST} tells of each file what it is, when and from where it came (for programs).",
        f"{BUNDLE} is the list of the files for other health record systems (FHIR R4).",
        f"{SUMS} proves that nothing was changed. To check: open a command line in this folder and type",
        f"  sha256sum -c {SUMS}",
        "",
        "This copy is NOT sealed. Whoever has it can read it: keep it in a safe place.",
        "To bring it into a record again, put the whole zip in, as it is.",
    ]  # fmt: skip
    if missing:
        lines += ["", "NOT in this copy, because they could not be read in storage. Ask the operator of the portal:"]
        lines += [f"  {entry['name']} (number {entry['item']})" for entry in missing]
    lines += ["", "What is in it:"]
    by_folder: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for entry in entries:
        by_folder[entry["path"].rpartition("/")[0]].append(entry)
    for folder, members in sorted(by_folder.items()):
        if folder == FILES:
            lines += [_line(entry) for entry in sorted(members, key=lambda entry: entry["path"])]
        else:
            lines.append(f"  {folder}/: {summaries.count_words(len(members), 'image')}")
    return "\n".join(lines) + "\n"


def _line(entry: Mapping[str, Any]) -> str:
    added = summaries.date_words(dt.datetime.fromisoformat(entry["added_at"]).date())
    return f"  {entry['path']}: {entry['format_words']}, {summaries.size_words(entry['bytes'])}, added {added}"


def _bundle(order: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> bytes:
    items = [
        ItemInBundle(
            item_id=entry["item"], path=entry["path"], title=entry["name"], media_type=entry["media_type"],
            size=entry["bytes"], sha256=bytes.fromhex(entry["sha256"]),
            added_at=dt.datetime.fromisoformat(entry["added_at"]), kind=entry["format_words"],
            dated=dt.date.fromisoformat(entry["labels"]["day"]) if entry["labels"] and entry["study"] else None,
            brought_in=SOURCES.get(entry["source"], ""), study_id=entry["study"],
        )
        for entry in entries
    ]  # fmt: skip
    studies = [
        StudyInBundle(
            study_id=study["study"], study_uid=study["uid"], title=study["title"],
            date=dt.date.fromisoformat(study["date"]) if study["date"] else None, modalities=study["modalities"],
            instances=study["instances"], series=[SeriesInBundle(**series) for series in study["series"]],
        )
        for study in order["studies"]
    ]  # fmt: skip
    return fhir_bundle.bundle(order["name"], items, studies, dt.datetime.fromisoformat(order["made_at"]))
