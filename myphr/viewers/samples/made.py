"""Samples that are made when they are wanted: a phantom of a few CT slices, contours of a treatment plan on it, and
one drawn picture of each other kind of hospital image, in the pixels that this kind comes in. True files of their
formats, written by pydicom.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "2.25.30081932112411"  # of these samples alone
CT_CLASS, STRUCTURES_CLASS = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.481.3"
SIZE, SLICES, SPACING, STEP = 96, 12, 2.5, 5.0
SIDE = 256  # points of a drawn picture
BALL = (0.0, -30.0, 27.5)  # centre of the marked ball in millimetres, towards left, back, head
BALL_MM = 25.0


def phantom() -> Mapping[str, bytes]:
    """A body of water with a spine, a lung on the patient's right and a ball in front."""
    return {f"slice-{n + 1:02}.dcm": _slice(n) for n in range(SLICES)}


def _slice(number: int) -> bytes:
    z = number * STEP
    axis = (np.arange(SIZE) - SIZE / 2 + 0.5) * SPACING
    x, y = np.meshgrid(axis, axis)  # x towards the patient's left, y towards the back
    values = np.full((SIZE, SIZE), -1000.0)
    values[(x / 100) ** 2 + (y / 80) ** 2 < 1] = 0
    values[((x + 50) / 28) ** 2 + (y / 40) ** 2 < 1] = -800
    values[(x / 14) ** 2 + ((y - 55) / 14) ** 2 < 1] = 700
    values[(x - BALL[0]) ** 2 + (y - BALL[1]) ** 2 + (z - BALL[2]) ** 2 < BALL_MM**2] = 120
    dataset = dataset_of(CT_CLASS, f"{ROOT}.2.{number + 1}", "CT", f"{ROOT}.1.1")
    dataset.SeriesDescription, dataset.SeriesNumber, dataset.InstanceNumber = "Phantom", 1, number + 1
    dataset.ImagePositionPatient = [float(axis[0]), float(axis[0]), z]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [SPACING, SPACING], STEP
    dataset.Rows = dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.WindowCenter, dataset.WindowWidth = 40, 700
    dataset.PixelData = values.astype("<i2").tobytes()
    return written(dataset)


def contours() -> Mapping[str, bytes]:
    """The phantom with a treatment plan that marks its ball, red, and its spine, green."""
    dataset = dataset_of(STRUCTURES_CLASS, f"{ROOT}.3.1", "RTSTRUCT", f"{ROOT}.1.2")
    dataset.StructureSetLabel = "Plan"
    named = (("Ball", [255, 40, 40], BALL, BALL_MM), ("Spine", [60, 220, 90], (0.0, 55.0, 27.5), 14.0))
    sets, marks = [], []
    for number, (name, colour, centre, radius) in enumerate(named, 1):
        one, mark = Dataset(), Dataset()
        one.ROINumber, one.ROIName = number, name
        one.ReferencedFrameOfReferenceUID, one.ROIGenerationAlgorithm = f"{ROOT}.4", "MANUAL"
        mark.ReferencedROINumber, mark.ROIDisplayColor = number, colour
        mark.ContourSequence = Sequence(_rings(centre, radius, name == "Ball"))
        sets.append(one)
        marks.append(mark)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(sets), Sequence(marks)
    return {"plan.dcm": written(dataset), **phantom()}


@dataclasses.dataclass(frozen=True)
class Kind:
    """How images of one modality come: SOP class, bits, and whether white is zero, colour, or moving."""

    sop_class: str
    bits: int = 12
    white_is_zero: bool = False
    colour: bool = False
    frames: int = 1


IMAGES = "1.2.840.10008.5.1.4.1.1"
KINDS = {
    "CR": Kind(f"{IMAGES}.1", white_is_zero=True),
    "DX": Kind(f"{IMAGES}.1.1", bits=14),
    "MG": Kind(f"{IMAGES}.1.2"),
    "NM": Kind(f"{IMAGES}.20", bits=16),
    "OT": Kind(f"{IMAGES}.7", bits=8),
    "PT": Kind(f"{IMAGES}.128", bits=16),
    "RF": Kind(f"{IMAGES}.12.2", bits=10, frames=3),
    "US": Kind(f"{IMAGES}.3.1", bits=8, colour=True, frames=3),
    "XA": Kind(f"{IMAGES}.12.1", bits=8, frames=3),
}


def picture_of(modality: str) -> Callable[[], Mapping[str, bytes]]:
    """A shape that differs in each kind and moves over its frames."""
    return lambda: {f"{modality.lower()}.dcm": _picture(modality, KINDS[modality])}


def _picture(modality: str, kind: Kind) -> bytes:
    number = sorted(KINDS).index(modality) + 1
    down, across = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle, far = np.arctan2(down, across), np.hypot(down, across)
    frames = []
    for frame in range(kind.frames):
        petals = 0.55 + 0.25 * np.cos((number + 1) * angle + frame)
        share = np.where(far < petals, 0.9 - 0.6 * far, 0.08 + 0.05 * (down + 1))
        share[-12:, : 12 * number] = 1.0  # a foot that says which kind
        frames.append(1 - share if kind.white_is_zero else share)
    values = np.stack(frames) * (2**kind.bits - 1)
    dataset = dataset_of(kind.sop_class, f"{ROOT}.6.{number}", modality, f"{ROOT}.1.{number + 10}")
    dataset.SeriesDescription, dataset.SeriesNumber, dataset.InstanceNumber = "Sample", 1, 1
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated = 8 if kind.bits == 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = kind.bits, kind.bits - 1, 0
    dataset.SamplesPerPixel = 3 if kind.colour else 1
    dataset.PhotometricInterpretation = "RGB" if kind.colour else f"MONOCHROME{1 if kind.white_is_zero else 2}"
    if kind.colour:
        dataset.PlanarConfiguration = 0
        values = values[..., None] * np.array([1.0, 0.6, 0.3])
    else:
        dataset.WindowCenter, dataset.WindowWidth = 2 ** (kind.bits - 1), 2**kind.bits
    if kind.frames > 1:
        dataset.NumberOfFrames, dataset.FrameTime = kind.frames, "100"
        dataset.FrameIncrementPointer = 0x00181063
    dataset.PixelData = values.astype("u1" if kind.bits == 8 else "<u2").tobytes()
    return written(dataset)


def _rings(centre: tuple[float, float, float], radius: float, ball: bool) -> list[Dataset]:
    rings = []
    for number in range(SLICES):
        z = number * STEP
        wide = np.sqrt(max(0.0, radius**2 - (z - centre[2]) ** 2)) if ball else radius
        if wide < 1:
            continue
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        points = np.stack([centre[0] + wide * np.cos(turn), centre[1] + wide * np.sin(turn), np.full(48, z)], axis=1)
        ring = Dataset()
        ring.ContourGeometricType, ring.NumberOfContourPoints = "CLOSED_PLANAR", 48
        ring.ContourData = [f"{value:.2f}" for value in points.ravel()]
        rings.append(ring)
    return rings


def dataset_of(kind: str, uid: str, modality: str, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(kind), pydicom.uid.UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}.1", series
    dataset.FrameOfReferenceUID = f"{ROOT}.4"
    dataset.Modality, dataset.PatientName, dataset.PatientID = modality, "Sample^Phantom", "SAMPLE"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyDate, dataset.StudyTime = "", "", "20260101", "120000"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.StudyDescription = "Sample"
    return dataset


def written(dataset: FileDataset) -> bytes:
    body = io.BytesIO()
    dataset.save_as(body, enforce_file_format=True)
    return body.getvalue()
