"""The right viewer first: hit@1 and hit@3 on a folder of files with known types, and the time a suggestion takes.

`MYPHR_SAMPLES=/folder python -m bench suggestions`: the folder holds a manifest.json, a list of {"path", "label"}. The
label says which viewers are right for a file by the table below, made by hand from what the viewers are for; of a
DICOM file pydicom reads the class. Each file goes the whole way: identified by its content, described, ranked.
Compared: the order by {format: how many} alone, as emulation frameworks offer it; our content order; content with
what people said.
"""

import collections
import dataclasses
import json
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from myphr.ingest.identify import HEAD_BYTES, describe
from myphr.viewers import belief, catalogue, contents, outcomes, suggest
from myphr.viewers.belief import Tally
from myphr.viewers.catalogue import Viewer
from myphr.viewers.contents import Contents
from myphr.viewers.suggest import Known

_IMAGES = ("simple-images", "aeskulap", "simple-volumes")
_VOLUMES = ("simple-volumes", "mricron", "amide")
_SIGNALS = ("simple-signals", "edfbrowser")
_READS = ("igv", "genome-tools", "simple-genome")
_VARIANTS = ("simple-genome", "igv", "genome-tools")
_PAGES = ("simple-documents",)
_OFFICE = ("simple-documents", "office")
# Which viewers are right for a file of this type, in the catalogue or not, the best for a patient first.
RIGHT: Mapping[str, tuple[str, ...]] = {
    "pdf": ("simple-documents", "qpdfview"), "jpeg": _PAGES, "png": _PAGES, "tiff": _PAGES,
    "rtf": _OFFICE, "docx": _OFFICE, "odt": _OFFICE, "ods": _OFFICE, "csv": _OFFICE,
    "edf": _SIGNALS, "bdf": _SIGNALS, "scp-ecg": _SIGNALS, "aecg-xml": _SIGNALS, "wfdb-hea": _SIGNALS,
    "nifti": _VOLUMES, "nifti-gz": _VOLUMES,
    "vcf": _VARIANTS, "vcf-gz": _VARIANTS, "bcf": _VARIANTS, "dtc-genotype": ("simple-genome",),
    "bam": _READS, "gff": _READS, "cram": ("genome-tools", "igv"), "sam": ("genome-tools", "igv"),
    "fasta": ("genome-tools",), "fastq": ("genome-tools",),
}  # fmt: skip
_RESEARCH = ("simple-volumes",)
_BY_CLASS = (  # beginning of the SOP class, right viewers
    ("1.2.840.10008.5.1.4.1.1.66.4", _RESEARCH), ("1.2.840.10008.5.1.4.1.1.481.2", _RESEARCH),
    ("1.2.840.10008.5.1.4.1.1.481.3", _RESEARCH), ("1.2.840.10008.5.1.4.1.1.481", ()),
    ("1.2.840.10008.5.1.4.1.1.9.", ("simple-signals",)), ("1.2.840.10008.5.1.4.1.1.104.1", _PAGES),
    ("1.2.840.10008.5.1.4.1.1.88", ()), ("1.2.840.10008.5.1.4.1.1.11.", ()), ("1.2.840.10008.5.1.4.39", ()),
    ("", _IMAGES),
)  # fmt: skip
_HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
_J2K = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
PEOPLE = 40
BROKEN = 0.25  # of the viewers that come first, in the world in which the catalogue is wrong

Rank = Callable[[Contents], list[str]]


@dataclasses.dataclass(frozen=True)
class Sample:
    what: Contents
    right: tuple[str, ...]  # of the viewers in the catalogue; the best one for a patient first


def right_viewers(label: str, path: Path) -> tuple[str, ...]:
    if label != "dicom":
        return RIGHT.get(label, ())
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            told = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"])
        except Exception:  # damaged samples are samples too: an image, as far as anybody can tell
            return _IMAGES
    syntax, sop_class = str(getattr(told.file_meta, "TransferSyntaxUID", "")), str(told.get("SOPClassUID", ""))
    if syntax in _HTJ2K:
        return ()
    right = next(viewers for beginning, viewers in _BY_CLASS if sop_class.startswith(beginning))
    return tuple(name for name in right if name != "aeskulap" or syntax not in _J2K)  # Debian's dcmtk has no JPEG 2000


def samples_of(folder: Path, viewers: Mapping[str, Viewer]) -> list[Sample]:
    found = []
    for row in json.loads((folder / "manifest.json").read_text()):
        path = folder / row["path"]
        if row["label"] == "dicomdir":
            continue  # never opened for itself
        with path.open("rb") as file:
            facts = describe(file.read(HEAD_BYTES))
        size = path.stat().st_size
        what = contents.of_files([(facts.format, facts.headers, size)])
        found.append(Sample(what, tuple(one for one in right_viewers(row["label"], path) if one in viewers)))
    return found


# -- the orders that are compared -----------------------------------------------------------------------
def by_format_alone(viewers: Mapping[str, Viewer]) -> Rank:
    """{format: how many}, nothing else; what fits the same stands by name."""

    def rank(what: Contents) -> list[str]:
        opened = {
            viewer.name: sum(count for part, count in what.parts.items() if part.format in viewer.formats)
            for viewer in viewers.values()
            if not viewer.internal
        }
        return sorted((name for name in opened if opened[name]), key=lambda name: (-opened[name], name))

    return rank


def ours(viewers: Mapping[str, Viewer], tallies: Mapping[str, Mapping[str, Tally]] | None = None) -> Rank:
    def rank(what: Contents) -> list[str]:
        found = suggest.suggest(viewers, what, Known(tallies=(tallies or {}).get(what.kind, {})))
        # Neither "no viewer of ours is made for this" nor "shows only the pictures in it" promises to open it.
        return [one.viewer.name for one in found if "no viewer" not in one.reason and "shows only" not in one.reason]

    return rank


def history(
    samples: list[Sample], viewers: Mapping[str, Viewer], honest: int, liars: int
) -> dict[str, dict[str, Tally]]:
    """So many honest people and liars, one word each on every kind and viewer: what the counting lets through. The
    liars want the best one gone: it did not open for them, all others did."""
    tallies: dict[str, dict[str, Tally]] = collections.defaultdict(dict)
    for sample in samples:
        for name in viewers:
            yes = (honest if name in sample.right else 0) + (liars if sample.right[:1] != (name,) else 0)
            tallies[sample.what.kind][name] = Tally(yes, honest + liars - yes)
    return tallies


def hits(samples: list[Sample], rank: Rank) -> tuple[float, float, float, float]:
    """Of the samples that have a right viewer: how often the best comes first, a right one first (hit@1), a right one
    among three (hit@3). Of the others: how often none is promised."""
    best = first = third = told = 0
    openable = [one for one in samples if one.right]
    for one in openable:
        order = rank(one.what)
        best += order[:1] == [one.right[0]]
        first += bool(set(one.right) & set(order[:1]))
        third += bool(set(one.right) & set(order[:3]))
    none = [one for one in samples if not one.right]
    told = sum(not rank(one.what) for one in none)
    return best / len(openable), first / len(openable), third / len(openable), told / max(1, len(none))


def in_a_world_where_some_viewers_fail(samples: list[Sample], viewers: Mapping[str, Viewer], people: int) -> float:
    """hit@1 when a quarter of the first choices, kind by kind, really do not open; people open what they are shown,
    learn from each other, and answer truly. Only files that another right viewer would open."""
    results = []
    for seed in range(10):
        chance = random.Random(seed)
        open_ones = [one for one in samples if len(one.right) > 1]
        kinds = {one.what.kind: one for one in open_ones}
        content = ours(viewers)
        broken = {
            (kind, order[0])
            for kind, one in kinds.items()
            if (order := content(one.what)) and chance.random() < BROKEN
        }
        tallies: dict[str, dict[str, Tally]] = collections.defaultdict(dict)
        for kind, one in kinds.items():
            for _ in range(people):
                order = ours(viewers, tallies)(one.what)
                for name in order[:2]:  # "It did not" offers the next one
                    opens = name in one.right and (kind, name) not in broken
                    before = tallies[kind].get(name, belief.NOBODY)
                    tallies[kind][name] = Tally(before.opened + opens, before.not_opened + (not opens))
                    if opens:
                        break
        rank = ours(viewers, tallies)
        good = sum(
            bool(order := rank(one.what)) and order[0] in one.right and (one.what.kind, order[0]) not in broken
            for one in open_ones
        )
        results.append(good / len(open_ones))
    return statistics.fmean(results)


# -- time -----------------------------------------------------------------------------------------------
def microseconds(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Median and 95th percentile."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1e6)
    taken.sort()
    return statistics.median(taken), taken[int(len(taken) * 0.95)]


def timings(viewers: Mapping[str, Viewer]) -> None:
    kinds = [["MR", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1", 1990], ["SR", "", "", 10]]
    headers = {"modality": "CT", "sop_class": "1.2.840.10008.5.1.4.1.1.2", "transfer_syntax": "1.2.840.10008.1.2.1"}
    codes = ("dicom", "pdf", "jpeg", "fhir-json", "vcf", "edf", "xlsx")
    record = [(codes[n % 7], headers if n % 7 == 0 else None, 1000 + n) for n in range(10_000)]
    study = contents.of_study(kinds, 2000, 2000 * 525_000)
    everything = contents.of_files(record)
    tallies = {name: Tally(37, 3) for name in viewers}
    rows = (
        ("a study of 2,000 items, from its summary, ranked", 300,
         lambda: suggest.suggest(viewers, contents.of_study(kinds, 2000, 10**9), Known(tallies=tallies))),
        ("the same, ranked alone", 300, lambda: suggest.suggest(viewers, study, Known(tallies=tallies))),
        ("a record of 10,000 files, counted and ranked", 20,
         lambda: suggest.suggest(viewers, contents.of_files(record), Known(tallies=tallies))),
        ("the same, ranked alone", 300, lambda: suggest.suggest(viewers, everything, Known(tallies=tallies))),
    )  # fmt: skip
    for words, times, work in rows:
        median, late = microseconds(work, times)
        print(f"{words:>58}: {median:>9,.0f} us, p95 {late:,.0f}")
    stored()


def stored() -> None:
    """What a page asks the database: 10,000 people's words on one kind, and one person's memory of 60 openings."""
    from sqlmodel import insert

    from myphr.crypto.envelope import new_key_pair
    from myphr.database import Database, new_id
    from myphr.people.keyring import KeyRing
    from myphr.people.models import Account
    from myphr.viewers.models import ViewerVoice

    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/db.sqlite")
        database.create_all()
        ring, account = KeyRing(new_key_pair()), Account(email="bench@people.example", name="Bench")
        with database.write() as db:
            db.add(account)
            words = [
                {"token": new_id(), "kind": "dicom/MR/image", "viewer": f"viewer-{n % 3}", "opened": n % 10 > 0}
                for n in range(10_000)
            ]
            db.connection().execute(insert(ViewerVoice), words)
        for _ in range(outcomes.ENTRIES_MAX):
            outcomes.remember(database, ring, account.id, new_id(), "simple-images", "dicom/MR/image")
        for words_, work in (
            ("what 10,000 people said of a kind, from SQLite", lambda: outcomes.tallies(database, "dicom/MR/image")),
            ("one's own memory of 60 openings", lambda: outcomes.memory_of(database, ring, account.id)),
        ):
            median, late = microseconds(work, 100)
            print(f"{words_:>58}: {median:>9,.0f} us, p95 {late:,.0f}")
        database.dispose()


def main() -> None:
    viewers = {name: viewer for name, viewer in catalogue.load().items() if not viewer.internal}
    where = os.environ.get("MYPHR_SAMPLES")
    if where:
        samples = samples_of(Path(where), viewers)
        openable = sum(bool(one.right) for one in samples)
        print(f"{len(samples)} files; a viewer of the catalogue is right for {openable} of them: {', '.join(viewers)}")
        print(f"{'':>58}  {'best':>6} {'hit@1':>6} {'hit@3':>6}  none promised where none is")
        compared = (
            ("by {format: how many} alone", by_format_alone(viewers)),
            ("content", ours(viewers)),
            ("hybrid, no history", ours(viewers, {})),
            (f"hybrid, {PEOPLE} honest people a kind", ours(viewers, history(samples, viewers, PEOPLE, 0))),
            ("hybrid, no history but one account that lies", ours(viewers, history(samples, viewers, 0, 1))),
            (f"hybrid, {PEOPLE} honest people and one liar", ours(viewers, history(samples, viewers, PEOPLE, 1))),
            ("hybrid, no history but five accounts that lie", ours(viewers, history(samples, viewers, 0, 5))),
            (f"hybrid, {PEOPLE} honest people and five liars", ours(viewers, history(samples, viewers, PEOPLE, 5))),
        )
        for words, rank in compared:
            best, one, three, told = hits(samples, rank)
            print(f"{words:>58}: {best:>6.1%} {one:>6.1%} {three:>6.1%}  {told:.1%}")
        fail = f"where {BROKEN:.0%} of the first choices really fail (files with two right viewers; 10 worlds)"
        print(f"\n{fail}, hit@1:")
        for people in (0, 4, 5, 10, 20, 40):
            good = in_a_world_where_some_viewers_fail(samples, viewers, people)
            print(f"{f'{people} people a kind':>58}: {good:>6.1%}")
    else:
        print("set MYPHR_SAMPLES to a folder with sample files and a manifest.json: hits are skipped")
    print()
    timings(viewers)


if __name__ == "__main__":
    main()
