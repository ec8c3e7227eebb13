"""What a study says about itself, in plain words: merges the headers of its items, names modalities, dates and places.

Pure: headers in (as `ingest.dicom` reads them), words out. Knows no keys and no tables. Called when an item is filed
and when the owner looks. Modality codes: DICOM PS3.16, CID 29 and 33.
"""

import collections
import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Any

SERIES_MAX = 500  # series told apart in one summary; more are counted together
KINDS_MAX = 64  # of objects, for the suggestion of a viewer

_MODALITIES = {
    "CT": "CT scan", "MR": "MR scan", "CR": "X-ray", "DX": "X-ray", "IO": "Dental X-ray", "PX": "Dental X-ray",
    "MG": "Mammogram", "US": "Ultrasound", "IVUS": "Ultrasound of a vessel", "NM": "Nuclear medicine scan",
    "PT": "PET scan", "XA": "Angiogram", "RF": "X-ray video", "ECG": "ECG", "EPS": "Heart rhythm study",
    "HD": "Heart pressure curves", "ES": "Endoscopy", "XC": "Photographs", "OP": "Eye photographs",
    "OPT": "Eye scan", "OCT": "Vessel scan", "GM": "Microscope images", "SM": "Microscope slides",
    "BMD": "Bone density", "OT": "Images", "SC": "Images", "DOC": "Documents", "SR": "Reports",
    "PR": "Viewing settings", "KO": "Marked key images", "SEG": "Marked areas", "REG": "Alignments",
    "RTIMAGE": "Radiotherapy images", "RTDOSE": "Radiotherapy dose", "RTSTRUCT": "Radiotherapy areas",
    "RTPLAN": "Radiotherapy plan", "RTRECORD": "Radiotherapy record",
    "M3D": "Model for 3D printing",
}  # fmt: skip
# Said last in a title: they come along with images and are not what the study is about.
_COMPANIONS = frozenset({"SR", "PR", "KO", "SEG", "REG", "DOC"})
_BODY_PARTS = {
    "CSPINE": "neck spine", "TSPINE": "upper back spine", "LSPINE": "lower back spine", "LSSPINE": "lower back spine",
    "TLSPINE": "back spine", "CTSPINE": "neck and upper back spine", "IAC": "inner ear", "SSPINE": "sacrum",
    "ABDOMENPELVIS": "abdomen and pelvis", "CHESTABDOMEN": "chest and abdomen",
    "CHESTABDPELVIS": "chest, abdomen and pelvis",
    "HEADNECK": "head and neck", "WHOLEBODY": "whole body", "TMJ": "jaw joint", "EXTREMITY": "arm or leg",
    "LEXTREMITY": "leg", "UEXTREMITY": "arm", "PHANTOM": "test object", "CSKULL": "skull",
}  # fmt: skip


def merge(headers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of a study from its items' headers: the JSON that is sealed to the owner. Texts are the most
    frequent ones, so that one odd slice does not rename a study."""
    votes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    modalities: collections.Counter[str] = collections.Counter()
    series: dict[str, dict[str, Any]] = {}
    kinds: collections.Counter[tuple[str, str, str]] = collections.Counter()
    counted = 0
    for one in headers:
        counted += 1
        for key in (
            "study_uid",
            "study_date",
            "study_description",
            "hospital",
            "patient_name",
            "patient_id",
            "patient_birth_date",
            "body_part",
            "accession",
        ):
            if one.get(key):
                votes[key][str(one[key])] += 1
        modality = str(one.get("modality") or "OT").upper()[:16]
        modalities[modality] += 1
        told = str(one.get("modality") or "").upper()[:16]
        kinds[told, str(one.get("sop_class") or ""), str(one.get("transfer_syntax") or "")] += 1
        uid = str(one.get("series_uid") or "")
        if uid not in series:
            if len(series) >= SERIES_MAX:
                uid = next(reversed(series))
            else:
                series[uid] = {"number": one.get("series_number"), "description": "", "modality": modality, "count": 0}
        series[uid]["count"] += 1
        series[uid]["description"] = series[uid]["description"] or str(one.get("series_description") or "")
    ordered = sorted(series.values(), key=lambda s: (s["number"] is None, s["number"] or 0))
    summary: dict[str, Any] = {key: seen.most_common(1)[0][0] for key, seen in votes.items()}
    most = sorted(kinds.items(), key=lambda one: (-one[1], one[0]))[:KINDS_MAX]
    return summary | {
        "version": 1, "modalities": dict(modalities), "series": ordered, "counted": counted,
        "kinds": [[*kind, count] for kind, count in most],
    }  # fmt: skip


def modality_words(code: str) -> str:
    """ "MR" is "MR scan"; an unknown code stands for itself."""
    return _MODALITIES.get(code.upper(), code.upper() or "Images")


def title(summary: Mapping[str, Any]) -> str:
    """What to call the study: "MR scan, head" or "CT scan and PET scan, whole body"."""
    codes = list(summary.get("modalities") or {})
    main = [code for code in codes if code not in _COMPANIONS] or codes
    words = list(dict.fromkeys(modality_words(code) for code in main)) or ["Images"]
    text = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    part = body_part_words(str(summary.get("body_part") or ""))
    return f"{text}, {part}" if part else text


def body_part_words(code: str) -> str:
    """ "CSPINE" is "neck spine"; others in lower case."""
    code = code.strip()
    return _BODY_PARTS.get(re.sub("[^A-Z]", "", code.upper()), code.replace("_", " ").lower())


def date_of(text: str) -> dt.date | None:
    """A DICOM DA value (also the older 1997.08.24), or None."""
    digits = text.replace(".", "")[:8]
    try:
        found = dt.datetime.strptime(digits, "%Y%m%d").date() if len(digits) == 8 else None
    except ValueError:
        return None
    return found if found and found.year > 1800 else None


def date_words(date: dt.date | None) -> str:
    """3 February 2021: no order of numbers to mistake."""
    return f"{date.day} {date:%B} {date.year}" if date else "Date not known"


def person_words(name: str) -> str:
    """A PN value (PS3.5, 6.2) as people write it: "Doe^Jane^^Dr" is "Dr Jane Doe". The first way of writing that is
    not empty is taken."""
    written = next((part for part in name.split("=") if part.strip("^ ")), "")
    family, given, middle, prefix, suffix = ([part.strip() for part in written.split("^")] + [""] * 5)[:5]
    return " ".join(part for part in (prefix, given, middle, family, suffix) if part)


def count_words(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_words(size: int) -> str:
    """Bytes as a person says them: 1 KB is 1,000 bytes, as the browser's file picker shows."""
    if size < 1000:
        return count_words(size, "byte")
    value = float(size)
    for unit in ("KB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
    raise AssertionError
