"""DICOM objects (PS3.3, PS3.5, PS3.10): what, when, where, by whom; then a picture, a report, a strip, a document.

Reads everything but the pixels first; of the pixels one frame. A preamble's words are never looked at. Damaged files
still tell what the flat walk of `ingest.dicom` finds.
"""

import dataclasses
import functools
import io
import zlib
from collections.abc import Iterator
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from myphr.ingest import dicom as headers_of
from myphr.ingest.reading import dicom_drawn, dicom_pixels, dicom_report, pictures
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import Moment, compact
from myphr.ingest.reading.dicom_values import number, person, sequence, text
from myphr.records import summaries
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"dicom"})
INFLATED_BYTES_MAX = 80 * 1024**2
PIECE_BYTES = 64 * 1024
META_BYTES_MAX = 64 * 1024  # the file meta group is some 400 bytes, whoever wrote it
DEPTH_MAX = 3  # an encapsulated document in an encapsulated document

_KINDS = {  # SOP classes that a modality does not tell (PS3.4, B.5)
    "1.2.840.10008.5.1.4.1.1.11": "Viewing settings", "1.2.840.10008.5.1.4.1.1.66.1": "Alignment of images",
    "1.2.840.10008.5.1.4.1.1.66.4": "Marked areas", "1.2.840.10008.5.1.4.1.1.66": "Raw data of a scan",
    "1.2.840.10008.5.1.4.1.1.66.5": "Marked surfaces", "1.2.840.10008.5.1.4.1.1.481.1": "Radiotherapy image",
    "1.2.840.10008.5.1.4.1.1.481.2": "Radiotherapy dose", "1.2.840.10008.5.1.4.1.1.481.3": "Radiotherapy areas",
    "1.2.840.10008.5.1.4.1.1.481.5": "Radiotherapy plan", "1.2.840.10008.5.1.4.1.1.88.59": "Marked key images",
    "1.2.840.10008.5.1.4.1.1.104.1": "Document in a scan (PDF)",
    "1.2.840.10008.5.1.4.1.1.104.2": "Document in a scan (CDA)",
}  # fmt: skip
_AUTHORS = ("NameOfPhysiciansReadingStudy", "PerformingPhysicianName", "ContentCreatorName", "OperatorsName")
_PLANES = {"AXIAL": "across the body", "SAGITTAL": "from the side", "CORONAL": "from the front"}


def warm_up() -> None:
    dicom_pixels.warm_up()


def read(content: Content) -> Iterator[FullReading]:
    """As `content.Read`."""
    try:
        dataset, pixels_at, data = _parse(content.data)
    except NotRead as reason:
        yield FullReading(_from_headers(content, str(reason)))
        return
    except Exception:  # a foreign parser on a damaged file: the flat walk says what it can
        yield FullReading(_from_headers(content, "The file is damaged: not all of it can be read"))
        return
    words = words_of(dataset)
    yield FullReading(words)
    if "EncapsulatedDocument" in dataset:
        yield from _inside(dataset, words)
    elif "ContentSequence" in dataset:
        yield dicom_report.read(dataset, words)
    elif "WaveformSequence" in dataset:
        yield dicom_drawn.waveform(dataset, words)
    elif "ROIContourSequence" in dataset:
        yield dicom_drawn.contours(dataset, words)
    elif pixels_at is not None:
        if (note := dicom_pixels.why_not(dataset)) is not None:
            yield FullReading(_with(words, note=note))
            return
        try:
            image = dicom_pixels.image_of(dataset, data, pixels_at)
        except Exception:  # whatever the decoders raise
            image = dicom_pixels.by_dcmtk(dataset, content.data)
        yield FullReading(words, pictures.jpeg_of(image))


def _parse(data: bytes) -> tuple[Dataset, int | None, bytes]:
    """The data set without its pixels, and where they begin in which bytes. Of a deflated one no more is
    inflated than the data set and its frame take: one of 815 kB was made to inflate to 800 MiB."""
    file: Any = io.BytesIO(data)
    if (meta := _meta_if_deflated(file, data)) is not None:  # asked first: pydicom would inflate all of it
        dataset, data, file = _inflated(file, meta)
    else:
        dataset = read_partial(file, stop_when=_is_pixels, force=True)
    if not len(dataset):
        raise NotRead
    at: int | None = file.tell()
    return dataset, at if at is not None and at < len(data) - 8 else None, data


def _meta_if_deflated(file: io.BytesIO, data: bytes) -> FileMetaDataset | None:
    """The meta information, if it says that the rest is deflated; `file` stands behind it then."""
    if DeflatedExplicitVRLittleEndian.encode() not in data[:META_BYTES_MAX]:
        return None
    file.seek(132 if data[128:132] == b"DICM" else 0)
    meta: FileMetaDataset = pydicom.filereader._read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return meta
    file.seek(0)
    return None


def _inflated(file: io.BytesIO, meta: FileMetaDataset) -> tuple[Dataset, bytes, "_Inflating"]:
    inner = _Inflating(file)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = read_dataset(inner, False, True, stop_when=_is_pixels)  # type: ignore[arg-type]
    dataset = FileDataset(io.BytesIO(), found, file_meta=meta, is_implicit_VR=False, is_little_endian=True)
    at = inner.tell()
    if not dicom_pixels.why_not(dataset):
        inner.grow(at + dicom_pixels.native_bytes_max(dataset))
    return dataset, bytes(inner.plain), inner


class _Inflating(io.RawIOBase):
    """A deflated data set (PS3.5, A.5) as a file: inflated as far as it is read, and at an end at our limit."""

    def __init__(self, packed: io.BytesIO) -> None:
        self.plain = bytearray()
        self._packed = packed
        self._inflate = zlib.decompressobj(-15)
        self._at = 0

    def grow(self, end: int) -> None:
        """Inflate as much as is before `end`."""
        end = min(end, INFLATED_BYTES_MAX)
        while len(self.plain) < end and not self._inflate.eof:
            if not (piece := self._inflate.unconsumed_tail or self._packed.read(PIECE_BYTES)):
                return
            self.plain += self._inflate.decompress(piece, PIECE_BYTES)

    def read(self, size: int = -1) -> bytes:
        self.grow(self._at + size if size >= 0 else INFLATED_BYTES_MAX)
        got = bytes(memoryview(self.plain)[self._at : self._at + size if size >= 0 else None])
        self._at += len(got)
        return got

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        return self._at


def _is_pixels(tag: Any, _vr: str | None, _length: int) -> bool:
    return tag in (0x7FE00010, 0x7FE00009, 0x7FE00008)


# -- words ----------------------------------------------------------------------------------------
def words_of(dataset: Dataset) -> Reading:
    """In plain words, of any DICOM object."""
    modality = text(dataset, "Modality")
    sop_class = str(dataset.get("SOPClassUID") or "")
    kind = _KINDS.get(sop_class) or "Medical image"
    if kind == "Medical image" and modality not in ("", "OT", "SC"):
        kind = summaries.modality_words(modality)
    part = summaries.body_part_words(text(dataset, "BodyPartExamined"))
    moment = _moment(dataset, "ContentDate", "ContentTime") if "ContentSequence" in dataset else None
    for date, time in (("AcquisitionDate", "AcquisitionTime"), ("AcquisitionDateTime", ""), ("StudyDate", "StudyTime"),
                       ("SeriesDate", "SeriesTime"), ("ContentDate", "ContentTime"),
                       ("InstanceCreationDate", "")):  # fmt: skip
        moment = moment or _moment(dataset, date, time)
    title = f"{kind}, {part}" if part else kind
    return Reading(
        kind_words=kind,
        title=title,
        date=moment.iso if moment else "",
        date_words=moment.words if moment else "",
        place=text(dataset, "InstitutionName"),
        author=next(filter(None, map(functools.partial(person, dataset), _AUTHORS)), ""),
        patient=person(dataset, "PatientName"),
        facts=tuple(_facts(dataset, moment)),
        text="\n".join(filter(None, (title, *(text(dataset, name) for name in (
            "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "RequestedProcedureDescription",
            "ReasonForStudy", "AdmittingDiagnosesDescription", "PatientComments", "InstitutionName",
            "InstitutionalDepartmentName", "ManufacturerModelName", "ContrastBolusAgent",
        ))))),
    )  # fmt: skip


def _facts(dataset: Dataset, moment: Moment | None) -> Iterator[tuple[str, str]]:
    for name, keyword in (("Study", "StudyDescription"), ("Series", "SeriesDescription"),
                          ("Asked for", "RequestedProcedureDescription")):  # fmt: skip
        if words := text(dataset, keyword):
            yield name, words
    if moment and moment.time_words:
        yield "Time", moment.time_words
    born = compact(text(dataset, "PatientBirthDate"))
    if born:
        yield "Born", born.words
    if asked := person(dataset, "ReferringPhysicianName"):
        yield "Asked for by", asked
    side = {"L": "Left", "R": "Right", "B": "Both"}.get(
        text(dataset, "ImageLaterality") or text(dataset, "Laterality")
    )  # fmt: skip
    if side:
        yield "Side", side
    if plane := _PLANES.get(plane_of(dataset)):
        yield "Seen", plane
    maker, model = text(dataset, "Manufacturer"), text(dataset, "ManufacturerModelName")
    if maker or model:
        yield "Machine", " ".join(dict.fromkeys(filter(None, (maker, model))))
    if department := text(dataset, "InstitutionalDepartmentName"):
        yield "Department", department
    if agent := text(dataset, "ContrastBolusAgent"):
        yield "Contrast agent", agent
    frames, rows, columns = (number(dataset, name) for name in ("NumberOfFrames", "Rows", "Columns"))
    if rows and columns:
        yield "Size", f"{columns:,} × {rows:,} pixels" + (f", {frames:,} pictures" if frames and frames > 1 else "")
    yield from _of_radiotherapy(dataset)


def _of_radiotherapy(dataset: Dataset) -> Iterator[tuple[str, str]]:
    if plan := text(dataset, "RTPlanLabel") or text(dataset, "RTPlanName"):
        yield "Plan", plan
    for group in sequence(dataset, "FractionGroupSequence")[:1]:
        if fractions := number(group, "NumberOfFractionsPlanned"):
            yield "Sessions planned", f"{fractions:,}"
    if beams := len(sequence(dataset, "BeamSequence")):
        yield "Beams", f"{beams:,}"
    if label := text(dataset, "StructureSetLabel"):
        yield "Set of areas", label
    names = [text(one, "ROIName") for one in sequence(dataset, "StructureSetROISequence")[:60]]
    names += [text(one, "SegmentLabel") for one in sequence(dataset, "SegmentSequence")[:60]]
    if names:
        yield "Areas", ", ".join(filter(None, names))


def plane_of(dataset: Dataset) -> str:
    """AXIAL, SAGITTAL or CORONAL, from the direction the slices face (PS3.3, C.7.6.2)."""
    try:
        values = [float(value) for value in dataset.get("ImageOrientationPatient") or ()]
        if len(values) != 6:
            return ""
        (a, b, c), (d, e, f) = values[:3], values[3:]
        normal = [abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d)]
    except (TypeError, ValueError):
        return ""
    return ("SAGITTAL", "CORONAL", "AXIAL")[normal.index(max(normal))] if max(normal) > 0.9 else ""


def _moment(dataset: Dataset, date: str, time: str) -> Moment | None:
    day = text(dataset, date).replace(".", "")
    return compact(day + text(dataset, time).replace(":", "")[:4]) if time and len(day) == 8 else compact(day)


def _from_headers(content: Content, note: str) -> Reading:
    headers = headers_of.read_headers(content.data[: 256 * 1024])
    if not headers:
        raise NotRead
    flat = {key: str(value) for key, value in headers.items()}
    kind = summaries.modality_words(flat.get("modality", ""))
    moment = compact(flat.get("study_date", ""))
    return Reading(
        kind_words=kind, title=kind, date=moment.iso if moment else "", date_words=moment.words if moment else "",
        place=flat.get("hospital", ""), patient=summaries.person_words(flat.get("patient_name", "")),
        note=note,
    )  # fmt: skip


# -- what is inside -------------------------------------------------------------------------------
def _inside(dataset: Dataset, words: Reading) -> Iterator[FullReading]:
    """An encapsulated document (PS3.3, A.45): taken out, told anew by its content, read as what it is."""
    from myphr.ingest import identify
    from myphr.ingest.reading import kinds

    document = bytes(dataset.EncapsulatedDocument)
    length = number(dataset, "EncapsulatedDocumentLength")
    document = document[:length] if length else document.rstrip(b"\0")
    found = identify.identify(document[: identify.HEAD_BYTES])
    title = text(dataset, "DocumentTitle")
    read_as = kinds.READERS.get(found.format)
    outer = _with(words, title=title or words.title, text="\n".join(filter(None, (title, words.text))))
    yield FullReading(outer)
    if read_as is None or found.format == "dicom":
        return
    for inner in read_as(Content(found.format, document, len(document))):
        one = inner.reading
        yield FullReading(
            Reading(
                kind_words=words.kind_words, title=title or one.title or words.title, date=one.date or words.date,
                date_words=one.date_words or words.date_words, place=words.place or one.place,
                author=words.author or one.author, patient=words.patient or one.patient,
                facts=tuple(dict.fromkeys(words.facts + one.facts)),
                text="\n".join(filter(None, (outer.text, one.text))), note=one.note,
            ),
            inner.preview, inner.narrative,
        )  # fmt: skip


def _with(words: Reading, **changes: Any) -> Reading:
    return dataclasses.replace(words, **changes)

