"""Answers of QIDO-RS and metadata (DICOM PS3.18, 10.4, 10.6, annex F) out of headers that were read
before. Values in, values out: no store, key or HTTP. Matching keys as PS3.18, 8.3.4: what we have no value for matches
nothing but the empty key."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RESULTS_MAX = 1000  # of one answer; `limit` and `offset` lead on
# keyword -> (tag, VR, key in the headers)
_STUDY = {
    "StudyDate": ("00080020", "DA", "study_date"), "StudyTime": ("00080030", "TM", "study_time"),
    "AccessionNumber": ("00080050", "SH", "accession"), "StudyDescription": ("00081030", "LO", "study_description"),
    "PatientName": ("00100010", "PN", "patient_name"), "PatientID": ("00100020", "LO", "patient_id"),
    "PatientBirthDate": ("00100030", "DA", "patient_birth_date"), "PatientSex": ("00100040", "CS", "patient_sex"),
    "StudyInstanceUID": ("0020000D", "UI", "study_uid"),
}  # fmt: skip
_SERIES = {
    "Modality": ("00080060", "CS", "modality"), "SeriesDescription": ("0008103E", "LO", "series_description"),
    "BodyPartExamined": ("00180015", "CS", "body_part"), "SeriesInstanceUID": ("0020000E", "UI", "series_uid"),
    "SeriesNumber": ("00200011", "IS", "series_number"),
}  # fmt: skip
_INSTANCE = {
    "SOPClassUID": ("00080016", "UI", "sop_class"), "SOPInstanceUID": ("00080018", "UI", "instance_uid"),
    "InstanceNumber": ("00200013", "IS", "instance_number"), "NumberOfFrames": ("00280008", "IS", "frames"),
    "Rows": ("00280010", "US", "rows"), "Columns": ("00280011", "US", "columns"),
    "AvailableTransferSyntaxUID": ("00083002", "UI", "transfer_syntax"),
}  # fmt: skip
LEVELS: dict[str, Mapping[str, tuple[str, str, str]]] = {
    "studies": _STUDY, "series": _STUDY | _SERIES, "instances": _STUDY | _SERIES | _INSTANCE
}  # fmt: skip
_COMPUTED = {"ModalitiesInStudy": "00080061"}
_NOT_MATCHED = {"limit", "offset", "includefield", "fuzzymatching", "accept", "charset"}

Headers = Mapping[str, Any]


class BadQuery(Exception):
    """A query that PS3.18 does not allow."""


def answer(level: str, groups: Iterable[Sequence[Headers]], query: Mapping[str, str]) -> list[dict[str, Any]]:
    """One element for each group of headers (a study's, a series', an instance's) that matches. Raises BadQuery."""
    matches = _matches_of(level, query)
    limit, offset = _number(query, "limit", RESULTS_MAX), _number(query, "offset", 0)
    found = [group for group in groups if group and all(_fits(group, *one) for one in matches)]
    return [_element(level, group) for group in found[offset : offset + min(limit, RESULTS_MAX)]]


def metadata(headers: Headers) -> dict[str, Any]:
    """What is known of one instance without its pixels."""
    return _element("instances", [headers], counts=False)


def _matches_of(level: str, query: Mapping[str, str]) -> list[tuple[str, str, str]]:
    by_tag = {tag: name for name, (tag, _, _) in LEVELS["instances"].items()} | {v: k for k, v in _COMPUTED.items()}
    found = []
    for key, wanted in query.items():
        if key.lower() in _NOT_MATCHED:
            continue
        name = by_tag.get(key.upper(), key)
        if name not in LEVELS[level] and name not in _COMPUTED:
            raise BadQuery(f"not a matching key of {level}")
        if wanted not in ("", "*"):
            found.append((name, LEVELS[level][name][1] if name in LEVELS[level] else "CS", wanted))
    return found


def _fits(group: Sequence[Headers], name: str, vr: str, wanted: str) -> bool:
    if name in _COMPUTED:
        values = {str(one.get("modality") or "") for one in group}
    else:
        values = {str(group[0].get(LEVELS["instances"][name][2]) or "")}
    if vr == "UI":
        return bool(values & set(wanted.replace("\\", ",").split(",")))
    if vr in ("DA", "TM") and "-" in wanted:
        start, _, end = wanted.partition("-")
        return any(one and (not start or one >= start) and (not end or one[: len(end)] <= end) for one in values)
    patterns = wanted.split("\\") if vr == "CS" else [wanted]
    folded = [(value.upper(), pattern.upper()) for value in values for pattern in patterns]
    # Only * and ? are wild in DICOM: [ is a letter.
    return any(fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")) for value, pattern in folded)


def _element(level: str, group: Sequence[Headers], *, counts: bool = True) -> dict[str, Any]:
    head = group[0]
    found = {}
    for tag, vr, key in LEVELS[level].values():
        value = head.get(key)
        found[tag] = {"vr": vr} if value in (None, "") else {"vr": vr, "Value": [_value(vr, value)]}
    if counts and level == "studies":
        modalities = {str(one["modality"]) for one in group if one.get("modality")}
        found["00080061"] = {"vr": "CS", "Value": sorted(modalities)}
        found["00201206"] = {"vr": "IS", "Value": [len({one.get("series_uid") for one in group})]}
        found["00201208"] = {"vr": "IS", "Value": [len(group)]}
    if counts and level == "series":
        found["00201209"] = {"vr": "IS", "Value": [len(group)]}
    return dict(sorted(found.items()))


def _value(vr: str, value: Any) -> Any:
    if vr == "PN":
        return {"Alphabetic": str(value)}
    return value if vr in ("IS", "US") else str(value)


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise BadQuery(f"{name} is a number")
    return int(text)
