"""What "Simple images" shows, without a screen: DICOM files become series of pictures, and pictures become grey or
colour bytes in the brightness asked for (DICOM PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.5 for the transfer syntaxes). Runs
in the guest (Debian's pydicom 2.3) and in the unit tests (pydicom 3). Knows no window system.
"""

import bisect
import dataclasses
import io
import itertools
import os
import signal
import struct
import zlib
from typing import BinaryIO

import numpy as np
import pydicom
from folder_files import CannotShow, said_in_a_sentence
from pydicom import encaps
from pydicom.errors import InvalidDicomError
from pydicom.pixel_data_handlers.util import apply_color_lut, apply_modality_lut, convert_color_space
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

HEADER_TAGS = [
    "PatientName",
    "PatientBirthDate",
    "StudyDate",
    "StudyDescription",
    "InstitutionName",
    "Modality",
    "BodyPartExamined",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "FrameOfReferenceUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SOPClassUID",
    "SOPInstanceUID",
    "FrameTime",
    "CineRate",
    "SpecificCharacterSet",
    "PhotometricInterpretation",
    "SamplesPerPixel",
]
MODALITIES = {
    "CT": "CT scan",
    "MR": "MR scan",
    "CR": "X-ray",
    "DX": "X-ray",
    "RG": "X-ray",
    "RF": "X-ray film",
    "US": "Ultrasound",
    "MG": "Mammogram",
    "NM": "Nuclear scan",
    "PT": "PET scan",
    "XA": "Vessel X-ray",
    "ES": "Endoscopy",
    "XC": "Photo",
    "GM": "Microscope",
    "SM": "Microscope",
    "OP": "Eye photo",
    "OPT": "Eye scan",
    "IO": "Dental X-ray",
    "PX": "Dental X-ray",
    "ECG": "ECG",
    "SR": "Report",
    "PR": "Notes",
    "KO": "Notes",
    "DOC": "Document",
    "SC": "Picture",
    "OT": "Picture",
    "RTIMAGE": "Treatment picture",
    "RTDOSE": "Treatment dose",
    "RTPLAN": "Treatment plan",
    "RTSTRUCT": "Treatment plan",
    "SEG": "Marked regions",
    "BI": "Picture",
    "BMD": "Bone density",
}
PIXELS_MAX = 100_000_000  # of one picture; a header may claim more than this machine has memory
INFLATED_BYTES_MAX = 200_000_000  # of a deflated file: deflate grows by up to 1,032
INFLATED_HEADER_BYTES_MAX = 4_000_000  # enough for what stands before the pixels
HEAD_BYTES = 4096
DEFLATED = b"1.2.840.10008.1.2.1.99"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # of Supplement 244; pydicom 2 does not know it
# Of an element with explicit VR (PS3.5, 7.1.2): those with a length of 16 and of 32 bits.
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
DECODE_SECONDS_MAX = 60
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


@dataclasses.dataclass(order=True)
class Instance:
    """One file of a series."""

    order: tuple[float, float, str]
    path: str = dataclasses.field(compare=False)
    frames: int = dataclasses.field(compare=False, default=1)
    has_pixels: bool = dataclasses.field(compare=False, default=True)
    axes: tuple[float, ...] = dataclasses.field(compare=False, default=())


@dataclasses.dataclass
class Study:
    """Who and when, in plain words; empty where the file does not say."""

    patient: str = ""
    born: str = ""
    date: str = ""
    description: str = ""
    hospital: str = ""


@dataclasses.dataclass
class Series:
    uid: str
    number: float
    modality: str
    description: str
    body_part: str
    study: Study
    cine: bool = False
    instances: list[Instance] = dataclasses.field(default_factory=list)

    @property
    def pictures(self) -> int:
        return sum(i.frames for i in self.instances)

    @property
    def title(self) -> str:
        return MODALITIES.get(self.modality, "Picture") + (f", {self.body_part}" if self.body_part else "")

    @property
    def words(self) -> str:
        count = self.pictures
        if not self.has_pictures:
            return "no picture inside"
        return "1 picture" if count == 1 else f"{count} pictures"

    @property
    def has_pictures(self) -> bool:
        return any(i.has_pixels for i in self.instances)

    @property
    def middle(self) -> int:
        """The number of the picture that tells most."""
        return self.pictures // 2

    def add(self, instance: Instance) -> int:
        """Puts it in its place; returns how many pictures stand before it."""
        at = bisect.bisect(self.instances, instance)
        self.instances.insert(at, instance)
        return sum(i.frames for i in self.instances[:at])

    def at(self, picture: int) -> tuple[Instance, int]:
        """The file and the frame in it."""
        for instance in self.instances:
            if picture < instance.frames:
                return instance, picture
            picture -= instance.frames
        raise IndexError(picture)


def plain_name(value: object) -> str:
    """`Family^Given^^Dr` as people write it."""
    text = str(value or "").split("=")[0]
    parts = ([*text.split("^"), "", "", "", ""])[:5]
    family, given, middle, prefix, suffix = (p.strip() for p in parts)
    return " ".join(p for p in (prefix, given, middle, family, suffix) if p)


def plain_date(value: object) -> str:
    text = str(value or "").replace(".", "").replace("-", "")
    if len(text) < 8 or not text[:8].isdigit() or not 1 <= int(text[4:6]) <= 12:
        return ""
    return f"{int(text[6:8])} {MONTHS[int(text[4:6]) - 1]} {text[:4]}"


def plain_part(value: object) -> str:
    return str(value or "").replace("_", " ").strip().lower()


def number(value: object, otherwise: float) -> float:
    try:
        found = float(str(value))
    except ValueError:
        return otherwise
    return found if np.isfinite(found) else otherwise


def position(header: pydicom.Dataset) -> float:
    """Where a slice lies along the normal of its plane (PS3.3 C.7.6.2.1.1); 0 when it does not say."""
    try:
        place = [float(v) for v in header.ImagePositionPatient]
        axes = [float(v) for v in header.ImageOrientationPatient]
        return float(np.dot(np.cross(axes[:3], axes[3:6]), place))
    except (AttributeError, TypeError, ValueError, IndexError):
        return 0.0


OPPOSITE = {"R": "L", "L": "R", "Front": "Back", "Back": "Front", "Head": "Feet", "Feet": "Head"}


def axes_of(header: pydicom.Dataset) -> tuple[float, ...]:
    try:
        axes = tuple(float(v) for v in header.ImageOrientationPatient)
    except (AttributeError, TypeError, ValueError):
        return ()
    return axes if len(axes) == 6 and all(np.isfinite(axes)) else ()


def sides(axes: tuple[float, ...]) -> tuple[str, str]:
    """What lies at the right edge and at the bottom of the picture (PS3.3 C.7.6.2.1.1: x to the left hand, y to the
    back, z to the head). Empty when the file does not say."""
    if not axes:
        return "", ""
    names = (("L", "R"), ("Back", "Front"), ("Head", "Feet"))

    def edge(direction: tuple[float, ...]) -> str:
        strongest = max(range(3), key=lambda i: abs(direction[i]))
        return names[strongest][0 if direction[strongest] > 0 else 1]

    right, bottom = edge(axes[:3]), edge(axes[3:])
    return (right, bottom) if right != bottom and OPPOSITE[right] != bottom else ("", "")


# -- files ----------------------------------------------------------------------------------------------------------
def read(path: str, *, header_only: bool = False) -> pydicom.Dataset:
    """A DICOM file (PS3.10, 7.1); also without the preamble, as old devices write it, and a deflated one, which is
    inflated here because pydicom would inflate without a bound. Its file meta always name the transfer syntax.

    Raises InvalidDicomError if it is none, CannotShow if it would be too large, whatever pydicom raises if damaged."""
    how: dict = {"stop_before_pixels": True, "specific_tags": HEADER_TAGS} if header_only else {}
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        bare = head[128:132] != b"DICM"
        if bare and not is_bare(head):
            raise InvalidDicomError("neither a preamble nor elements")
        start = 0 if bare else 132
        end = end_of_meta(head, start)
        if DEFLATED in head[start:end]:
            dataset = pydicom.dcmread(io.BytesIO(inflated(file, end, header_only=header_only)), force=True, **how)
        else:
            file.seek(0)
            dataset = pydicom.dcmread(file, force=bare, **how)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = encoding(dataset)
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    return dataset


def encoding(dataset: pydicom.Dataset) -> tuple[bool, bool]:
    """Whether it was read as implicit VR, and as little endian: pydicom 3 and 2 tell it in different words."""
    if hasattr(dataset, "original_encoding"):
        implicit, little = dataset.original_encoding
    else:
        implicit, little = dataset.read_implicit_vr, dataset.read_little_endian
    return bool(implicit), bool(little)


def is_bare(head: bytes) -> bool:
    """Whether the bytes begin with a data set and no preamble: three elements in the order of their tags, the first of
    group 2 or 8. Other kinds of files do not pass by accident."""
    order = ">" if head[:1] == b"\0" else "<"
    at, last = 0, -1
    for number in range(3):
        if at + 12 > len(head):
            return number == 2  # two were right, and the second is longer than what we have
        group, element = struct.unpack_from(f"{order}HH", head, at)
        tag, vr = group << 16 | element, head[at + 4 : at + 6]
        if tag <= last or (number == 0 and group not in (2, 8)):
            return False
        if vr in LONG_VRS:
            at += 12 + struct.unpack_from(f"{order}I", head, at + 8)[0]
        elif vr in SHORT_VRS:
            at += 8 + struct.unpack_from(f"{order}H", head, at + 6)[0]
        else:
            at += 8 + struct.unpack_from(f"{order}I", head, at + 4)[0]
        last = tag
    return True


def end_of_meta(head: bytes, start: int) -> int:
    """Where the data set begins. File meta begin with their length (PS3.10, 7.1); without it nothing is deflated."""
    if head[start : start + 8] != b"\x02\x00\x00\x00UL\x04\x00":
        return start
    return start + 12 + int(struct.unpack_from("<I", head, start + 8)[0])


def inflated(file: BinaryIO, at: int, *, header_only: bool) -> bytes:
    """The data set of a deflated file (PS3.5, A.5); of a cut one as much as there is. Raises zlib.error, CannotShow."""
    file.seek(at)
    most = INFLATED_HEADER_BYTES_MAX if header_only else INFLATED_BYTES_MAX
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflate.decompress(file.read(INFLATED_BYTES_MAX), most)
    if not header_only and inflate.unconsumed_tail and not inflate.eof:
        raise CannotShow("This picture is larger than this machine can hold.")
    return body


class Collection:
    """All series of a folder, growing while files are read."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.study = Study()
        self.seen: set[str] = set()
        self.patients: set[tuple[str, str]] = set()
        self.other_files = 0

    def add_file(self, path: str) -> tuple[Series, int] | None:
        """Reads one header. The series and the number of the file's first picture in it, or None when there is none."""
        try:
            header = read(path, header_only=True)
        except (
            CannotShow,
            InvalidDicomError,
            OSError,
            ValueError,
            EOFError,
            AttributeError,
            KeyError,
            NotImplementedError,
            TypeError,
            zlib.error,
        ):
            self.other_files += 1
            return None
        if not header.get("SOPClassUID") and not header.get("Rows"):
            self.other_files += 1  # DICOMDIR and the like
            return None
        uid = str(header.get("SOPInstanceUID", path))
        if uid in self.seen:
            return None
        self.seen.add(uid)
        study = Study(
            plain_name(header.get("PatientName")),
            plain_date(header.get("PatientBirthDate")),
            plain_date(header.get("StudyDate") or header.get("SeriesDate")),
            str(header.get("StudyDescription") or "").strip(),
            str(header.get("InstitutionName") or "").strip(),
        )
        if study.patient:
            self.patients.add((study.patient.casefold(), study.born))
        if not self.study.patient:
            self.study = study
        series_uid = str(header.get("SeriesInstanceUID") or "none")
        series = next((s for s in self.series if s.uid == series_uid), None)
        if series is None:
            series = Series(
                series_uid,
                number(header.get("SeriesNumber"), 1e9),
                str(header.get("Modality") or "OT"),
                str(header.get("SeriesDescription") or "").strip(),
                plain_part(header.get("BodyPartExamined")),
                study,
            )
            bisect.insort(self.series, series, key=lambda s: (s.number, s.uid))
        has_pixels = bool(header.get("Rows")) and bool(header.get("Columns"))
        frames = int(number(header.get("NumberOfFrames"), 1)) if has_pixels else 1
        frames = min(max(frames, 1), 100_000)
        series.cine = series.cine or frames > 1
        order = (number(header.get("InstanceNumber"), 1e9), position(header), path)
        return series, series.add(Instance(order, path, frames, has_pixels, axes_of(header)))


# -- pixels ---------------------------------------------------------------------------------------------------------
@dataclasses.dataclass
class Picture:
    """Decoded: `values` in the modality's units (grey) or bytes (colour); `centre` and `width` as the file asks."""

    values: np.ndarray
    colour: bool
    inverted: bool
    centre: float
    width: float
    aspect: float = 1.0  # height of a pixel over its width


class Decoder:
    """Reads pictures of files; keeps the last file, because its other frames are likely next."""

    def __init__(self) -> None:
        self.path = ""
        self.dataset: pydicom.Dataset | None = None
        self.pixels: np.ndarray | None = None

    def picture(self, path: str, frame: int) -> Picture:
        """Raises CannotShow with a sentence that helps, and nothing else: a hostile file must not end the viewer."""
        with said_in_a_sentence("This file is damaged, or its picture is of a kind this viewer does not know."):
            return self._picture(path, frame)

    def _picture(self, path: str, frame: int) -> Picture:
        if path != self.path:
            self.path, self.dataset, self.pixels = "", None, None
            with said_in_a_sentence("This file is damaged and cannot be read."):
                self.dataset = read(path)
            self.path = path
        assert self.dataset is not None
        if self.pixels is None:
            self.pixels = decode(self.dataset)
        dataset, pixels = self.dataset, self.pixels
        frames = int(number(dataset.get("NumberOfFrames"), 1))
        if frames > 1 and pixels.ndim >= 3:
            pixels = pixels[min(frame, len(pixels) - 1)]
        return develop(dataset, pixels)


def decode(dataset: pydicom.Dataset) -> np.ndarray:
    if "EncapsulatedDocument" in dataset:
        raise CannotShow("This is a document, not a picture. Open it with the documents viewer.")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise CannotShow("There is no picture in this file. It may be a report or notes about other pictures.")
    rows, columns = number(dataset.get("Rows"), 0), number(dataset.get("Columns"), 0)
    frames, samples = number(dataset.get("NumberOfFrames"), 1), number(dataset.get("SamplesPerPixel"), 1)
    if rows < 1 or columns < 1 or rows * columns * max(frames, 1) * max(samples, 1) > PIXELS_MAX * 4:
        raise CannotShow("This picture says that it is larger than this machine can hold.")
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    damaged = "The picture in this file is damaged or not complete."
    if packed(syntax):
        name = getattr(syntax, "name", str(syntax))
        damaged = f"This picture is damaged, or packed in a way this viewer cannot open ({name})."
    with said_in_a_sentence(damaged, "This picture is larger than this machine can hold."):
        if syntax == DEFLATED_FRAMES:
            return inflated_frames(dataset, int(rows), int(columns), int(frames), int(samples))
        return decode_apart(dataset) if packed(syntax) else dataset.pixel_array


def inflated_frames(dataset: pydicom.Dataset, rows: int, columns: int, frames: int, samples: int) -> np.ndarray:
    """Pixels of which each frame is deflated on its own (PS3.5, A.4: Deflated Image Frame
    Compression), as segmentations are; the data set then says
    that they are plain. Frames of one bit a pixel begin at a byte of their own here, unlike in a plain file."""
    bits = int(dataset.BitsAllocated)
    frame_bytes = -(-rows * columns * samples * bits // 8)
    if hasattr(encaps, "generate_frames"):  # pydicom 3
        pieces = encaps.generate_frames(dataset.PixelData, number_of_frames=frames)
    else:
        pieces = encaps.generate_pixel_data_frame(dataset.PixelData, frames)
    plain = []
    for piece in itertools.islice(pieces, frames):
        plain.append(zlib.decompressobj(-zlib.MAX_WBITS).decompress(piece, frame_bytes))
        if len(plain[-1]) != frame_bytes:
            raise ValueError("a frame is not complete")
    if len(plain) != frames:
        raise ValueError("frames are missing")
    if bits == 1:
        packed_bits = np.frombuffer(b"".join(plain), np.uint8).reshape(frames, frame_bytes)
        pixels = np.unpackbits(packed_bits, axis=1, bitorder="little")[:, : rows * columns]
        return pixels.reshape((frames, rows, columns) if frames > 1 else (rows, columns))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = b"".join(plain) + b"\0" * (frame_bytes * frames % 2)
    dataset["PixelData"].is_undefined_length = False
    return dataset.pixel_array


def decode_apart(dataset: pydicom.Dataset) -> np.ndarray:
    """Decodes compressed pixels in a child process: decoders in C crash on damaged pictures (GDCM 3.0 did, on one of
    pydicom's own test files), and that must cost one picture and not the viewer."""
    come, go = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(come)
            signal.alarm(DECODE_SECONDS_MAX)
            body = io.BytesIO()  # numpy cannot write into a pipe itself
            np.lib.format.write_array(body, np.ascontiguousarray(dataset.pixel_array), allow_pickle=False)
            with os.fdopen(go, "wb") as out:
                out.write(body.getbuffer())
            status = 0
        finally:
            os._exit(status)
    os.close(go)
    try:
        with os.fdopen(come, "rb") as file:
            body = file.read()
    finally:
        _, how = os.waitpid(child, 0)
    if how != 0:
        raise ValueError("the decoder gave up" if os.WIFEXITED(how) else "the decoder crashed")
    return np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)


def packed(syntax: object) -> bool:
    """Whether pixels of this transfer syntax are compressed; one that pydicom does not know counts as such."""
    try:
        return bool(getattr(syntax, "is_compressed", False))
    except ValueError:
        return True


def develop(dataset: pydicom.Dataset, pixels: np.ndarray) -> Picture:
    """From stored to meaningful values."""
    kind = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
    aspect = 1.0
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or dataset.get("PixelAspectRatio")
    try:
        aspect = float(spacing[0]) / float(spacing[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        pass
    aspect = aspect if 0.1 <= aspect <= 10 else 1.0
    try:
        if kind == "PALETTE COLOR":
            coloured = apply_color_lut(pixels, dataset)
            pixels = (coloured >> 8 if coloured.dtype.itemsize > 1 else coloured).astype(np.uint8)
            return Picture(pixels[..., :3], True, False, 127.5, 255.0, aspect)
        if pixels.ndim == 3 and pixels.shape[-1] >= 3:
            syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
            # Decoders of compressed pictures hand out RGB themselves; raw YBR is ours to turn.
            if kind.startswith("YBR_FULL") and not packed(syntax):
                pixels = convert_color_space(pixels, kind, "RGB")
            if pixels.dtype != np.uint8:
                pixels = (pixels >> (8 * pixels.dtype.itemsize - 8)).astype(np.uint8)
            return Picture(pixels[..., :3], True, False, 127.5, 255.0, aspect)
        values = np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float32)
    except Exception as reason:
        raise CannotShow("The colours of this picture are described in a way this viewer does not know.") from reason
    centre, width = window(dataset, values)
    return Picture(values, False, kind == "MONOCHROME1", centre, width, aspect)


def first(value: object) -> object:
    return value[0] if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) and len(value) else value


def window(dataset: pydicom.Dataset, values: np.ndarray) -> tuple[float, float]:
    """The brightness that the file asks for (its first), else one that shows 98 of 100 pixels."""
    centre = number(first(dataset.get("WindowCenter")), np.nan)
    width = number(first(dataset.get("WindowWidth")), np.nan)
    if np.isfinite(centre) and np.isfinite(width) and width >= 1:
        return float(centre), float(width)
    sample = values[:: max(1, values.shape[0] // 256), :: max(1, values.shape[1] // 256)]
    low, high = (float(v) for v in np.percentile(sample, (1, 99)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low + high) / 2, max(high - low, 1.0)


def shown(picture: Picture, lighter: float = 0.0, contrast: float = 1.0) -> np.ndarray:
    """8-bit grey or RGB. `lighter` in widths of the window (positive is lighter), `contrast` above 1 is harder.

    The linear function of PS3.3 C.11.2.1.2, without its half-pixel corrections.
    """
    width = max(picture.width / max(contrast, 0.05), 1.0 if not picture.colour else 0.01)
    direction = 1 if picture.inverted else -1
    centre = picture.centre + direction * lighter * picture.width
    if picture.colour and lighter == 0 and contrast == 1:
        return picture.values
    low = centre - width / 2
    grey = (picture.values.astype(np.float32) - low) * (255.0 / width)
    np.clip(grey, 0, 255, out=grey)
    result = grey.astype(np.uint8)
    return 255 - result if picture.inverted and not picture.colour else result
