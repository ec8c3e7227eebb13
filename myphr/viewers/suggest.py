"""Which viewer fits these items best, and why, in one plain sentence each. Pure: counts in, a ranked list out.
Called by the pages of a study or a file before it is opened.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping

from myphr.records import formats as all_formats
from myphr.viewers.catalogue import Viewer

MODALITY_WORDS = {
    "CT": "CT",
    "MR": "MR",
    "US": "ultrasound",
    "CR": "X-ray",
    "DX": "X-ray",
    "RG": "X-ray",
    "MG": "mammography",
    "NM": "nuclear",
    "PT": "PET",
    "XA": "vessel X-ray",
    "RF": "X-ray",
    "OP": "eye",
    "SM": "microscope",
    "ES": "endoscopy",
    "XC": "photo",
}
FITS, MODALITY, TOUCH, RANK = 100.0, 10.0, 3.0, 1.0  # weights: what it opens decides, the rest breaks ties


@dataclasses.dataclass(frozen=True)
class Suggestion:
    viewer: Viewer
    reason: str
    score: float  # the higher, the better it fits; only the order means something


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _words(formats: Counter[str], modalities: Counter[str]) -> str:
    """ "12 MR images", "2 photos and 1 table", "5 files"."""
    total = sum(formats.values())
    if formats.get("dicom", 0) and set(formats) <= {"dicom", "dicomdir"}:
        known = [MODALITY_WORDS.get(m, "") for m in modalities if modalities[m] > 0]
        kind = f"{known[0]} " if known and len(set(known)) == 1 and known[0] else ""
        return _counted(formats["dicom"], f"{kind}image", f"{kind}images")
    kinds: Counter[tuple[str, str]] = Counter()
    for code, count in formats.items():
        kinds[all_formats.of(code).counted] += count
    if len(kinds) > 2:
        return _counted(total, "file", "files")
    return " and ".join(_counted(count, *words) for words, count in kinds.most_common())


def _reason(viewer: Viewer, formats: Counter[str], modalities: Counter[str], opened: int, total: int) -> str:
    what = _words(formats, modalities)
    if opened == total:
        return f"{what}: {viewer.title} {viewer.opens}"
    return f"{what}: {viewer.title} opens {opened:,} of the {total:,}"


def _modality_share(viewer: Viewer, modalities: Counter[str]) -> float:
    total = sum(modalities.values())
    if total == 0 or "*" in viewer.modalities:
        return 1.0
    return sum(count for modality, count in modalities.items() if modality in viewer.modalities) / total


def suggest(
    catalogue: Mapping[str, Viewer], formats: Mapping[str, int], modalities: Mapping[str, int]
) -> list[Suggestion]:
    """Viewers for items of these formats (code: how many) and DICOM modalities, best first. Never empty.

    When no viewer opens anything, those that take whatever comes are offered, and say so. Raises ValueError for an
    empty catalogue.
    """
    if not catalogue:
        raise ValueError("there are no viewers to choose from")
    known_formats = Counter({code: count for code, count in formats.items() if count > 0})
    known_modalities = Counter({code: count for code, count in modalities.items() if count > 0})
    total = sum(known_formats.values())
    offered = [viewer for viewer in catalogue.values() if not viewer.internal] or list(catalogue.values())
    found = []
    for viewer in offered:
        opened = sum(count for code, count in known_formats.items() if code in viewer.formats)
        if opened == 0:
            continue
        share = _modality_share(viewer, known_modalities) if "dicom" in known_formats else 1.0
        score = FITS * opened / total + MODALITY * share + TOUCH * viewer.touch + RANK * viewer.rank
        if "dicom" in known_formats and "dicom" in viewer.formats and share == 0:
            continue  # it opens DICOM, but none of these
        found.append(Suggestion(viewer, _reason(viewer, known_formats, known_modalities, opened, total), score))
    if not found:
        last = [viewer for viewer in offered if viewer.fallback] or offered
        what = _words(known_formats, known_modalities) if total else "No files"
        for viewer in last:
            reason = f"{what}: no viewer of ours is made for this. {viewer.title} shows what it can"
            found.append(Suggestion(viewer, reason, RANK * viewer.rank))
    return sorted(found, key=lambda one: (-one.score, one.viewer.name))
