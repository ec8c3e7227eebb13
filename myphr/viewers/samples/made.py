"""Samples that are made when they are wanted: a phantom of a few CT slices, and contours of a treatment plan on it.
True files of their formats, written by pydicom.
"""

import io
from collections.abc import Mapping

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "2.25.30081932112411"  # of these samples alone
CT_CLASS, STRUCTURES_CLASS = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.481.3"
SIZE, SLICES, SPACING, STEP = 96, 12, 2.5, 5.0
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
    dataset = _dataset(CT_CLASS, f"{ROOT}.2.{number + 1}", "CT", f"{ROOT}.1.1")
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
    return _written(dataset)


def contours() -> Mapping[str, bytes]:
    """The phantom with a treatment plan that marks its ball, red, and its spine, green."""
    dataset = _dataset(STRUCTURES_CLASS, f"{ROOT}.3.1", "RTSTRUCT", f"{ROOT}.1.2")
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
    return {"plan.dcm": _written(dataset), **phantom()}


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


def _dataset(kind: str, uid: str, modality: str, series: str) -> FileDataset:
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


def _written(dataset: FileDataset) -> bytes:
    body = io.BytesIO()
    dataset.save_as(body, enforce_file_format=True)
    return body.getvalue()
