"""What is to be opened, as a recommender sees it: how many of which format, modality, SOP family and transfer syntax,
how large, and the coarse kind under which outcomes are counted. Pure. SOP classes: DICOM PS3.4, B.5 and PS3.6, A.

Knows no names and no dates. Called by `suggest`, `outcomes` and the pages.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from myphr.records import formats as all_formats

FAMILIES = ("image", "rt", "seg", "sr", "waveform", "encapsulated", "state", "other")
MODALITY_WORDS = {
    "CT": "CT",
    "MR": "MR",
    "US": "ultrasound",
    "IVUS": "ultrasound",
    "CR": "X-ray",
    "DX": "X-ray",
    "RG": "X-ray",
    "IO": "dental X-ray",
    "PX": "dental X-ray",
    "MG": "mammography",
    "NM": "nuclear",
    "PT": "PET",
    "XA": "vessel X-ray",
    "RF": "X-ray",
    "OP": "eye",
    "OPT": "eye",
    "SM": "microscope",
    "GM": "microscope",
    "ES": "endoscopy",
    "XC": "photo",
}
_FAMILY_WORDS = {  # how one and several are counted; images are counted by their modality
    "rt": ("radiotherapy file", "radiotherapy files"),
    "seg": ("set of marked areas", "sets of marked areas"),
    "sr": ("report", "reports"),
    "waveform": ("signal recording", "signal recordings"),
    "encapsulated": ("document in DICOM", "documents in DICOM"),
    "state": ("viewing setting", "viewing settings"),
    "other": ("file", "files"),
}
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_CLASSES = {  # the part behind _STORAGE, longest first when they overlap
    "481.": "rt", "246.": "rt",
    "66.4": "seg", "66.5": "seg", "66.": "other", "68.": "other",
    "88.": "sr",
    "9.": "waveform",
    "104.": "encapsulated",
    "11.": "state",
}  # fmt: skip
_RT_PICTURES = (_STORAGE + "481.1", _STORAGE + "481.2")
_BY_MODALITY = {  # where the file does not tell its class
    "RTIMAGE": "rt", "RTDOSE": "rt", "RTSTRUCT": "rt", "RTPLAN": "rt", "RTRECORD": "rt", "SEG": "seg",
    "SR": "sr", "KO": "sr", "ECG": "waveform", "EPS": "waveform", "HD": "waveform", "EEG": "waveform",
    "EMG": "waveform", "EOG": "waveform",
    "RESP": "waveform", "DOC": "encapsulated", "PR": "state", "REG": "other",
}  # fmt: skip
_RARE = ("rt", "seg")  # a few of these among many images decide what the whole is opened with
_NOT_COUNTED = frozenset({"dicomdir"})  # a CD's table of contents: nobody opens it for itself
_OF_ONE_KIND = {  # formats that are opened by the same programs: counted together, so that counts grow at all
    "nifti-gz": "nifti", "vcf-gz": "vcf", "sam-gz": "sam", "fasta-gz": "fasta", "fastq-gz": "fastq", "gff-gz": "gff",
    "gtf-gz": "gtf", "bed-gz": "bed", "dtc-genotype-gz": "dtc-genotype",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """Items that are alike for a viewer. Of DICOM: `modality`, `sop_class` and `transfer_syntax` as the headers say
    them, empty where unknown."""

    format: str
    modality: str = ""
    sop_class: str = ""
    transfer_syntax: str = ""

    @property
    def family(self) -> str:
        """One of FAMILIES; empty for what is not DICOM."""
        return family_of(self.sop_class, self.modality) if self.format == "dicom" else ""

    @property
    def has_pictures(self) -> bool:
        """Whether such an object has pictures of its own: of a radiotherapy, images and doses have, plans have not."""
        if self.family == "rt":
            return self.sop_class in _RT_PICTURES or (not self.sop_class and self.modality in ("RTIMAGE", "RTDOSE"))
        return self.family in ("image", "seg")


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a person wants to open. `file_bytes_max`: the largest single file, 0 where unknown."""

    parts: Mapping[Part, int]
    bytes_total: int = 0
    file_bytes_max: int = 0

    @property
    def count(self) -> int:
        return sum(self.parts.values())

    @property
    def kind(self) -> str:
        return kind_of(self.parts)


def counted(formats: Mapping[str, int], modalities: Mapping[str, int] | None = None) -> Contents:
    """Contents of which only formats are known, and of the DICOM files only the modalities."""
    parts: Counter[Part] = Counter({Part(code): n for code, n in formats.items() if n > 0 and code != "dicom"})
    left = max(0, formats.get("dicom", 0))
    for modality, count in (modalities or {}).items():
        taken = min(left, max(0, count))
        parts[Part("dicom", modality)] += taken
        left -= taken
    parts[Part("dicom")] += left
    return Contents(+parts)


def of_study(kinds: Iterable[Iterable[Any]], items_count: int, bytes_total: int) -> Contents:
    """Of a study's summary: `kinds` are its (modality, SOP class, transfer syntax, how many)."""
    parts: Counter[Part] = Counter()
    for modality, sop_class, syntax, count in kinds:
        parts[Part("dicom", str(modality), str(sop_class), str(syntax))] += int(count)
    missing = items_count - sum(parts.values())
    if missing > 0:  # a summary may be older than the newest slices: those are like the others
        most = parts.most_common(1)
        parts[most[0][0] if most else Part("dicom")] += missing
    return Contents(+parts, bytes_total, bytes_total // items_count if items_count else 0)


def of_files(files: Iterable[tuple[str, Mapping[str, Any] | None, int]]) -> Contents:
    """Of single files: (format, DICOM headers or None, bytes) each."""
    parts: Counter[Part] = Counter()
    total = largest = 0
    for code, headers, size in files:
        told = headers or {}
        dicom = (str(told.get(key) or "") for key in ("modality", "sop_class", "transfer_syntax"))
        parts[Part(code, *dicom) if code == "dicom" else Part(code)] += 1
        total, largest = total + size, max(largest, size)
    return Contents(parts, total, largest)


def family_of(sop_class: str, modality: str = "") -> str:
    """What sort of DICOM object this is, by its SOP class; by the modality where the class is missing or private."""
    if sop_class.startswith(_STORAGE):
        rest = sop_class[len(_STORAGE) :] + "."
        for beginning, family in _CLASSES.items():
            if rest.startswith(beginning if beginning.endswith(".") else beginning + "."):
                return family
        return "image"
    if sop_class.startswith("1.2.840.10008.5.1.4.39.") or sop_class.startswith("1.2.840.10008.5.1.4.38."):
        return "state"  # colour palettes, hanging protocols
    return _BY_MODALITY.get(modality.upper(), "image")


def kind_of(parts: Mapping[Part, int]) -> str:
    """The coarse class that outcomes are counted by: "dicom/MR/image", "pdf". Made of known words only, so that no
    text of a file enters a table that everybody's answers share."""
    coarse: Counter[tuple[str, str, str]] = Counter()
    for part, count in parts.items():
        if part.format not in _NOT_COUNTED or len(parts) == 1:
            code = part.format if part.format in all_formats.FORMATS else "unknown"
            modality = part.modality.upper() if part.format == "dicom" else ""
            coarse[_OF_ONE_KIND.get(code, code), _known_modality(modality) if modality else "", part.family] += count
    if not coarse:
        return "unknown"
    (code, modality, family), _ = min(coarse.items(), key=lambda entry: (-entry[1], entry[0]))
    if code != "dicom":
        return code
    families = {entry[2] for entry in coarse}
    family = next((rare for rare in _RARE if rare in families), family)
    return f"dicom/{modality or 'OT'}/{family}"


def _known_modality(code: str) -> str:
    if code in MODALITY_WORDS or code in _BY_MODALITY:
        return code
    return "OT"


def words(contents: Contents) -> str:
    """ "12 MR images", "2 photos and 1 table", "5 files"."""
    of_all: Counter[tuple[str, str]] = Counter()
    for part, count in contents.parts.items():
        if part.format not in _NOT_COUNTED or len(contents.parts) == 1:
            of_all[_counted_as(part, contents)] += count
    if not of_all:
        return "No files"
    if len(of_all) > 2:
        return how_many(contents.count, "file", "files")
    return " and ".join(how_many(count, *names) for names, count in of_all.most_common())


def _counted_as(part: Part, contents: Contents) -> tuple[str, str]:
    if part.format != "dicom":
        return all_formats.of(part.format).counted
    if part.family != "image":
        return _FAMILY_WORDS[part.family]
    known = {MODALITY_WORDS.get(other.modality.upper(), "") for other in contents.parts if other.family == "image"}
    kind = f"{known.pop()} " if len(known) == 1 and "" not in known else ""
    return f"{kind}image", f"{kind}images"


def how_many(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
