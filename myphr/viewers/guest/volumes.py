"""What "Simple volumes" shows, without a screen: volumes of research (NIfTI, Analyze, FreeSurfer MGH, by nibabel) and
DICOM series, in three planes; and what is drawn over them: regions of a SEG (PS3.3 C.8.20), contours of an RTSTRUCT
(C.8.8.6), the dose of an RTDOSE (C.8.8.3), label maps beside a NIfTI file. All in millimetres of the patient, towards
right, front and head (RAS). Runs in the guest and in the unit tests; knows no window system.
"""

import colorsys
import dataclasses
import os
import re
from collections.abc import Iterable

import dicom_pictures as dicom
import nibabel
import numpy as np
from folder_files import CannotShow, said_in_a_sentence
from PIL import Image, ImageDraw

VOXELS_MAX = 30_000_000  # of a volume on the screen; larger ones are thinned out, which no screen shows
FILE_VOXELS_MAX = 400_000_000
REGIONS_MAX = 31  # bits of a mask
LABELS_MAX = 31
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis that is gone through
WORDS = {"axial": "from below", "coronal": "from the front", "sagittal": "from the side"}
EDGES = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}  # left, right, top, bottom of the picture
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DAMAGED = "This file is damaged, or of a kind this viewer does not know."
TOO_LARGE = "This volume is larger than this machine can hold."
ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".mgh", ".mgz")


@dataclasses.dataclass
class Volume:
    """Values on a grid: `values[x, y, z]`, each axis growing towards right, front, head; `affine` gives millimetres."""

    name: str
    words: str
    values: np.ndarray
    affine: np.ndarray
    low: float = 0.0
    high: float = 1.0
    frame: str = ""  # DICOM's frame of reference: what shares it, lies in one space

    @property
    def spacing(self) -> np.ndarray:
        return np.sqrt((self.affine[:3, :3] ** 2).sum(0))


@dataclasses.dataclass
class Overlay:
    """Drawn over a volume: regions (a bit each, or a number each), or a dose."""

    name: str
    kind: str  # regions or dose
    values: np.ndarray
    affine: np.ndarray
    regions: list["Region"]
    frame: str = ""
    unit: str = ""


@dataclasses.dataclass
class Region:
    name: str
    colour: tuple[int, int, int]
    shown: bool = True


# -- files -----------------------------------------------------------------------------------------------------------
def is_research(path: str) -> bool:
    """NIfTI, Analyze or MGH, by content: names are not to be trusted alone, nor is nibabel with any file."""
    low = path.casefold()
    if not low.endswith(ENDINGS):
        return False
    return not (low.endswith(".img") and os.path.exists(path[:-4] + ".hdr"))  # else it belongs to its header


@said_in_a_sentence(DAMAGED, TOO_LARGE)
def read_research(path: str) -> Volume:
    """Raises CannotShow."""
    image = nibabel.load(path)
    shape = tuple(int(n) for n in image.shape)
    if not 2 <= len(shape) <= 7 or not 0 < np.prod(shape, dtype=float) <= FILE_VOXELS_MAX:
        raise CannotShow("This volume says that it is larger than this machine can hold.")
    if len(shape) > 3:
        middle = (shape[n] // 2 for n in range(3, len(shape)))
        image = image.slicer[(slice(None), slice(None), slice(None), *middle)]
    values = np.asanyarray(image.dataobj)
    if values.dtype.names:  # RGB voxels
        values = sum(values[name].astype(np.float32) for name in values.dtype.names[:3]) / 3
    while values.ndim < 3:
        values = values[..., None]
    values = values.reshape(values.shape[:3])
    affine = np.asarray(image.affine, float)
    return ready(name_of(path), describe(shape), values, affine)


def name_of(path: str) -> str:
    name = re.sub(r"\.(nii(\.gz)?|hdr|img|mgh|mgz)$", "", os.path.basename(path), flags=re.I)
    return "".join(c for c in name if c.isprintable())


def describe(shape: tuple[int, ...]) -> str:
    words = " × ".join(str(n) for n in shape[:3])
    return f"{words}, moment {shape[3] // 2 + 1} of {shape[3]}" if len(shape) > 3 and shape[3] > 1 else words


def ready(name: str, words: str, values: np.ndarray, affine: np.ndarray, frame: str = "") -> Volume:
    """Axes turned to right, front, head; thinned out when large; brightness that shows 98 of 100 voxels."""
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        affine = np.eye(4)
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.asarray(values, np.float32), affine))
    values, affine = np.asarray(turned.dataobj, np.float32), np.asarray(turned.affine, float)
    step = 1
    while np.prod([-(-n // step) for n in values.shape]) > VOXELS_MAX:
        step += 1
    if step > 1:
        values = np.ascontiguousarray(values[::step, ::step, ::step])
        affine = affine @ np.diag([step, step, step, 1.0])
    values = np.nan_to_num(values, posinf=0, neginf=0)
    sample = values[tuple(slice(None, None, max(1, n // 64)) for n in values.shape)]
    low, high = (float(v) for v in np.percentile(sample, (1, 99)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return Volume(name, words, values, affine, low, max(high, low + 1e-6), frame)


def looks_like_labels(volume: Volume) -> bool:
    """Few whole numbers from 0: regions that somebody marked."""
    values = volume.values
    if values.min() < 0 or values.max() > LABELS_MAX or values.max() < 1:
        return False
    return bool((values == np.rint(values)).all())


def labels(volume: Volume) -> Overlay:
    one = np.uint32(1) << np.clip(volume.values - 1, 0, 31).astype(np.uint32)
    bits = np.where(volume.values > 0, one, np.uint32(0))
    count = int(volume.values.max())
    regions = [Region(f"{volume.name}: {n + 1}" if count > 1 else volume.name, colour_of(n)) for n in range(count)]
    return Overlay(volume.name, "regions", bits, volume.affine, regions)


def colour_of(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((number * 0.381966) % 1.0, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


# -- DICOM -----------------------------------------------------------------------------------------------------------
def geometry(dataset, position: Iterable[float], orientation: Iterable[float], spacing: Iterable[float]) -> np.ndarray:
    """From (column, row) of a slice to millimetres, as PS3.3 C.7.6.2.1.1 has it, without the third axis."""
    across, down = np.array(list(orientation), float).reshape(2, 3)
    rows, columns = (float(v) for v in spacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * columns, down * rows
    affine[:3, 2] = np.cross(across, down)
    affine[:3, 3] = list(position)
    return affine


@said_in_a_sentence(DAMAGED, TOO_LARGE)
def from_series(series: "dicom.Series") -> Volume:
    """A series of slices as one volume. Raises CannotShow when its slices do not lie behind each other."""
    slices = []
    decoder = dicom.Decoder()
    frame = ""
    for instance in series.instances:
        if not instance.has_pixels:
            continue
        dataset = dicom.read(instance.path, header_only=True)
        position, orientation = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
        spacing = dataset.get("PixelSpacing")
        if position is None or orientation is None or spacing is None:
            continue
        frame = str(dataset.get("FrameOfReferenceUID") or "")
        slices.append((geometry(dataset, position, orientation, spacing), instance.path, dataset))
    if len(slices) < 2:
        raise CannotShow("These pictures do not say where in the body they lie.")
    normal = slices[0][0][:3, 2]
    slices.sort(key=lambda one: float(one[0][:3, 3] @ normal))
    depths = np.array([float(one[0][:3, 3] @ normal) for one in slices])
    keep = np.concatenate(([True], np.diff(depths) > 1e-3))  # of several at one place the first
    slices = [one for one, kept in zip(slices, keep, strict=True) if kept]
    steps = np.diff(depths[keep])
    if not len(steps):
        raise CannotShow("These pictures do not lie behind each other.")
    pictures = [decoder.picture(path, 0).values for _, path, _ in slices]
    if len({p.shape for p in pictures}) != 1 or pictures[0].ndim != 2:
        raise CannotShow("The pictures of this series do not fit together.")
    affine = slices[0][0].copy()
    affine[:3, 2] = normal * float(np.median(steps))
    values = np.stack([p.T for p in pictures], axis=2)
    words = f"{dicom.MODALITIES.get(series.modality, 'Pictures')}, {len(pictures)} slices"
    volume = ready(series.description or series.title, words, values, LPS_TO_RAS @ affine, frame)
    first = decoder.picture(slices[0][1], 0)
    if series.modality == "CT" and first.width > 1:
        volume.low, volume.high = first.centre - first.width / 2, first.centre + first.width / 2
    return volume


def from_frames(dataset, values: np.ndarray, affines: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Frames that lie anywhere along one axis, as a volume and its affine (of DICOM, towards left, back, head)."""
    normal = affines[0][:3, 2]
    depths = np.array([float(a[:3, 3] @ normal) for a in affines])
    places = np.unique(np.round(depths, 3))
    step = float(np.median(np.diff(places))) if len(places) > 1 else 1.0
    count = round(float(places[-1] - places[0]) / step) + 1
    if not 0 < count <= 5000 or count * values[0].size > FILE_VOXELS_MAX:
        raise CannotShow("This volume says that it is larger than this machine can hold.")
    whole = np.zeros((values.shape[2], values.shape[1], count), np.uint32 if values.dtype != np.float32 else np.float32)
    for picture, depth in zip(values, depths, strict=True):
        at = round(float(depth - places[0]) / step)
        merge = np.maximum if whole.dtype == np.float32 else np.bitwise_or
        whole[:, :, at] = merge(whole[:, :, at], picture.T)
    affine = affines[int(np.argmin(depths))].copy()
    affine[:3, 2] = normal * step
    return whole, LPS_TO_RAS @ affine


@said_in_a_sentence(DAMAGED, TOO_LARGE)
def read_overlay(path: str) -> Overlay | None:
    """SEG, RTSTRUCT or RTDOSE; None for all other files. Raises CannotShow."""
    dataset = dicom.read(path)
    modality = str(dataset.get("Modality") or "")
    if modality == "SEG":
        return segmentation(dataset)
    if modality == "RTDOSE":
        return dose(dataset)
    if modality == "RTSTRUCT":
        return structures(dataset)
    return None


def segmentation(dataset) -> Overlay:
    pixels = np.asarray(dicom.decode(dataset))
    frames = pixels.reshape((-1, int(dataset.Rows), int(dataset.Columns)))
    shared = dataset.get("SharedFunctionalGroupsSequence")
    numbers = [int(one.SegmentNumber) for one in dataset.SegmentSequence][:REGIONS_MAX]
    bits = {number: np.uint32(1) << np.uint32(at) for at, number in enumerate(numbers)}
    masks, affines = [], []
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=False):
        number = int(group(groups, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        if number not in bits:
            continue
        measures = group(groups, shared, "PixelMeasuresSequence")
        orientation = group(groups, shared, "PlaneOrientationSequence").ImageOrientationPatient
        position = group(groups, shared, "PlanePositionSequence").ImagePositionPatient
        affines.append(geometry(dataset, position, orientation, measures.PixelSpacing))
        limit = float(dataset.get("MaximumFractionalValue") or 1) / 2
        masks.append(np.where(frame > (limit if limit > 1 else 0), bits[number], np.uint32(0)))
    if not masks:
        raise CannotShow("There are no marked regions in this file.")
    values, affine = from_frames(dataset, np.stack(masks), affines)
    regions = []
    for at, one in enumerate(dataset.SegmentSequence[:REGIONS_MAX]):
        lab = one.get("RecommendedDisplayCIELabValue")
        colour = from_lab([int(v) for v in lab]) if lab is not None and len(lab) == 3 else colour_of(at)
        regions.append(Region(plain(one.get("SegmentLabel")) or f"Region {at + 1}", colour))
    return Overlay("Marked regions", "regions", values, affine, regions, str(dataset.get("FrameOfReferenceUID") or ""))


def group(own, shared, name: str):
    """A functional group of a frame, its own or that of all frames."""
    found = own.get(name) or (shared[0].get(name) if shared else None)
    if not found:
        raise CannotShow("This file does not say where its regions lie.")
    return found[0]


def from_lab(stored: list[int]) -> tuple[int, int, int]:
    """CIELab as DICOM stores it (PS3.3 C.10.7.1.1), as sRGB."""
    light, a, b = stored[0] * 100 / 65535, stored[1] * 255 / 65535 - 128, stored[2] * 255 / 65535 - 128
    fy = (light + 16) / 116
    xyz = [f**3 if f**3 > 0.008856 else (f - 16 / 116) / 7.787 for f in (fy + a / 500, fy, fy - b / 200)]
    x, y, z = (v * white for v, white in zip(xyz, (0.9505, 1.0, 1.089), strict=True))
    linear = (
        3.2406 * x - 1.5372 * y - 0.4986 * z,
        -0.9689 * x + 1.8758 * y + 0.0415 * z,
        0.0557 * x - 0.204 * y + 1.057 * z,
    )
    out = [255 * (12.92 * v if v <= 0.0031308 else 1.055 * max(v, 0) ** (1 / 2.4) - 0.055) for v in linear]
    red, green, blue = (min(255, max(0, round(v))) for v in out)
    return red, green, blue


def dose(dataset) -> Overlay:
    frames = np.asarray(dicom.decode(dataset), np.float32).reshape((-1, int(dataset.Rows), int(dataset.Columns)))
    frames *= float(dataset.get("DoseGridScaling") or 1)
    base = geometry(dataset, dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)
    offsets = [float(v) for v in dataset.get("GridFrameOffsetVector") or range(len(frames))]
    # Either offsets from the first frame, or places along the z axis (C.8.8.3.2).
    if offsets and abs(offsets[0]) > 1e-3:
        offsets = [v - offsets[0] for v in offsets]
    affines = []
    for offset in offsets[: len(frames)]:
        affine = base.copy()
        affine[:3, 3] += base[:3, 2] * offset
        affines.append(affine)
    values, affine = from_frames(dataset, frames[: len(affines)], affines)
    unit = {"GY": "Gy", "RELATIVE": "of the prescribed"}.get(str(dataset.get("DoseUnits") or ""), "")
    region = Region(f"Dose, up to {float(values.max()):.3g} {unit}".strip(), (255, 120, 0))
    return Overlay("Dose", "dose", values, affine, [region], str(dataset.get("FrameOfReferenceUID") or ""), unit)


def structures(dataset) -> Overlay:
    """Contours, filled on a grid of their own: slices where there are contours, a millimetre within them."""
    names = {int(one.ROINumber): plain(one.get("ROIName")) for one in dataset.get("StructureSetROISequence") or ()}
    found: list[tuple[Region, list[np.ndarray]]] = []
    frame = ""
    for one in dataset.get("StructureSetROISequence") or ():
        frame = frame or str(one.get("ReferencedFrameOfReferenceUID") or "")
    for at, one in enumerate(list(dataset.get("ROIContourSequence") or ())[:REGIONS_MAX]):
        colour = one.get("ROIDisplayColor")
        named = colour is not None and len(colour) == 3
        rgb = tuple(min(255, max(0, int(v))) for v in colour) if named else colour_of(at)
        contours = []
        for contour in one.get("ContourSequence") or ():
            points = np.array([float(v) for v in contour.get("ContourData") or ()], float)
            if len(points) >= 9 and len(points) % 3 == 0 and str(contour.get("ContourGeometricType")) != "POINT":
                contours.append(points.reshape(-1, 3) * (-1, -1, 1))  # towards right, front, head
        if contours:
            found.append((Region(names.get(int(one.ReferencedROINumber)) or f"Region {at + 1}", rgb), contours))
    if not found:
        raise CannotShow("There are no contours in this treatment plan.")
    everything = np.concatenate([points for _, contours in found for points in contours])
    if not np.isfinite(everything).all() or np.abs(everything).max() > 10_000:
        raise CannotShow("This file is damaged and cannot be read.")
    depths = np.unique(np.round([points[:, 2].mean() for _, contours in found for points in contours], 2))
    step = float(np.median(np.diff(depths))) if len(depths) > 1 else 1.0
    low, high = everything.min(0) - 2, everything.max(0) + 2
    pixel = max(1.0, float((high - low)[:2].max()) / 1024)
    shape = [int((high - low)[n] / pixel) + 1 for n in (0, 1)] + [round(float(depths[-1] - depths[0]) / step) + 1]
    if np.prod(shape, dtype=float) > FILE_VOXELS_MAX:
        raise CannotShow("This volume says that it is larger than this machine can hold.")
    values = np.zeros(shape, np.uint32)
    for at, (_, contours) in enumerate(found):
        for points in contours:
            level = round(float(points[:, 2].mean() - depths[0]) / step)
            sheet = Image.new("1", (shape[0], shape[1]))
            flat = [tuple(p) for p in ((points[:, :2] - low[:2]) / pixel).tolist()]
            ImageDraw.Draw(sheet).polygon(flat, fill=1, outline=1)
            # A contour within another one is a hole (C.8.8.6.3, "keyhole" apart).
            values[:, :, level] ^= np.where(np.asarray(sheet).T, np.uint32(1) << np.uint32(at), np.uint32(0))
    affine = np.diag([pixel, pixel, step, 1.0])
    affine[:3, 3] = (low[0], low[1], depths[0])
    return Overlay("Treatment plan", "regions", values, affine, [region for region, _ in found], frame)


def plain(value: object) -> str:
    return "".join(c for c in str(value or "") if c.isprintable()).strip()[:60]


def alone(overlay: Overlay) -> Volume:
    """A black volume of the overlay's own extent, for one that came without its scan."""
    empty = np.zeros(overlay.values.shape, np.float32)
    volume = ready(overlay.name, "without its scan", empty, overlay.affine, overlay.frame)
    volume.low, volume.high = 0.0, 1.0
    return volume


# -- planes ----------------------------------------------------------------------------------------------------------
def picture(
    volume: Volume, overlays: list[Overlay], plane: str, at: int, lighter: float = 0.0, contrast: float = 1.0
) -> np.ndarray:
    """One slice as RGB, as radiologists look at it: the patient's right on the left, from below, from the front, from
    the side with the face to the left."""
    axis = PLANES[plane]
    at = min(max(at, 0), volume.values.shape[axis] - 1)
    values = np.take(volume.values, at, axis)
    width = (volume.high - volume.low) / max(contrast, 0.05)
    centre = (volume.high + volume.low) / 2 - lighter * (volume.high - volume.low)
    grey = np.clip((values - (centre - width / 2)) * (255 / width), 0, 255)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for overlay in overlays:
        paint(rgb, overlay, sampled(volume, overlay, axis, at))
    return np.ascontiguousarray(rgb[::-1, ::-1].transpose(1, 0, 2)).astype(np.uint8)


def sampled(volume: Volume, overlay: Overlay, axis: int, at: int) -> np.ndarray:
    """The overlay's values at each voxel of this slice: the nearest ones, zero outside."""
    others = [n for n in range(3) if n != axis]
    first, second = (np.arange(volume.values.shape[n], dtype=np.float32) for n in others)
    move = np.linalg.inv(overlay.affine) @ volume.affine
    start = move[:3, 3] + move[:3, axis] * at
    inside = None
    indexes = []
    for n in range(3):
        way = first[:, None] * move[n, others[0]] + second[None, :] * move[n, others[1]]
        index = np.rint(start[n] + way).astype(int)
        there = (index >= 0) & (index < overlay.values.shape[n])
        inside = there if inside is None else inside & there
        indexes.append(np.clip(index, 0, overlay.values.shape[n] - 1))
    return np.where(inside, overlay.values[tuple(indexes)], 0)


def paint(rgb: np.ndarray, overlay: Overlay, values: np.ndarray) -> None:
    if overlay.kind == "dose":
        most = float(overlay.values.max())
        if most > 0 and overlay.regions[0].shown:
            share = values / most
            red, green, blue = np.clip(2 * share - 0.6, 0, 1), 1 - np.abs(2 * share - 1), 1 - share
            wash = 255 * np.stack([red, green, blue], axis=2)
            seen = share > 0.1
            rgb[seen] = rgb[seen] * 0.55 + wash[seen] * 0.45
        return
    for number, region in enumerate(overlay.regions):
        if region.shown:
            mask = (values.astype(np.uint32) >> np.uint32(number)) & 1 == 1
            around = np.pad(mask, 1)
            inner = mask & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
            edge = mask & ~inner
            colour = np.array(region.colour, float)
            rgb[inner] = rgb[inner] * 0.68 + colour * 0.32
            rgb[edge] = colour
