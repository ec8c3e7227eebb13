"""DICOM objects that are drawn: waveforms (PS3.3, C.10.9) as a strip, areas of radiotherapy (C.8.8.6) as outlines."""

import collections
import dataclasses

import numpy
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from myphr.ingest.reading import ecg_paper, pictures
from myphr.ingest.reading.dicom_values import number, sequence, text
from myphr.ingest.reading.ecg_paper import Lead
from myphr.records.reading import FullReading, Reading

CONTOUR_POINTS_MAX = 200_000
_MILLIVOLTS = {"mV": 1.0, "uV": 0.001, "nV": 1e-6, "V": 1000.0}
_SIDE = 768


def waveform(dataset: Dataset, words: Reading) -> FullReading:
    groups = sequence(dataset, "WaveformSequence")[:16]
    index = max(range(len(groups)), key=lambda at: number(groups[at], "NumberOfWaveformSamples") or 0)
    group = groups[index]
    rate = float(group.SamplingFrequency)
    count, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    bits = int(group.WaveformBitsAllocated)
    kind = {(8, "SB"): "i1", (8, "UB"): "u1", (16, "SS"): "i2", (16, "US"): "u2", (32, "SL"): "i4", (32, "UL"): "u4"}
    code = kind.get((bits, str(group.WaveformSampleInterpretation)))
    if code is None or not 0 < count <= 256 or rate <= 0:
        return FullReading(words)
    order = ">" if dataset.original_encoding[1] is False else "<"
    raw = numpy.frombuffer(bytes(group.WaveformData), order + code)
    raw = raw[: len(raw) // count * count].reshape(-1, count)[: min(samples, int(rate * ecg_paper.SECONDS_MAX))]
    leads = []
    for at, channel in enumerate(group.ChannelDefinitionSequence[:count]):
        sensitivity = float(channel.get("ChannelSensitivity") or 1)
        sensitivity *= float(channel.get("ChannelSensitivityCorrectionFactor") or 1)
        unit = _first(channel, "ChannelSensitivityUnitsSequence", "CodeValue")
        name = _first(channel, "ChannelSourceSequence", "CodeMeaning")
        name = name or text(channel, "ChannelLabel")
        # Baseline plus sample times sensitivity (C.10.9.1.4.1); without a unit it is drawn to fit
        values = raw[:, at].astype("float32") * sensitivity + float(channel.get("ChannelBaseline") or 0)
        scale = _MILLIVOLTS.get(unit)
        leads.append(Lead(ecg_paper.short_name(name), values * scale if scale else values, rate, scale is not None))
    facts = (*words.facts, ("Leads", ", ".join(lead.name for lead in leads[:24])),
             ("Length", ecg_paper.length_words(samples / rate)))  # fmt: skip
    notes = [text(one, "UnformattedTextValue") or _measured(one)
             for one in sequence(dataset, "WaveformAnnotationSequence")[:200]]  # fmt: skip
    all_text = "\n".join(filter(None, (words.text, *notes)))
    told = "; ".join(filter(None, notes))
    facts += (("The device notes", told),) if told else ()
    return FullReading(dataclasses.replace(words, facts=facts, text=all_text), pictures.png_of(ecg_paper.draw(leads)))


def _measured(annotation: Dataset) -> str:
    """ "QT Interval: 390 ms"."""
    name = _first(annotation, "ConceptNameCodeSequence", "CodeMeaning")
    unit = _first(annotation, "MeasurementUnitsCodeSequence", "CodeValue")
    value = text(annotation, "NumericValue")
    return f"{name}: {value} {unit}".strip() if name and value else ""


def _first(dataset: Dataset, of: str, keyword: str) -> str:
    return next((text(one, keyword) for one in sequence(dataset, of)), "")


def contours(dataset: Dataset, words: Reading) -> FullReading:
    """The outlines of the plane that has most of them."""
    planes: dict[float, list[tuple[list[tuple[float, float]], tuple[int, int, int]]]] = collections.defaultdict(list)
    points_left = CONTOUR_POINTS_MAX
    for roi in dataset.ROIContourSequence:
        red, green, blue = [int(value) for value in roi.get("ROIDisplayColor") or (255, 200, 0)][:3]
        for contour in roi.get("ContourSequence") or ():
            numbers = [float(value) for value in contour.get("ContourData") or ()]
            points_left -= len(numbers) // 3
            if points_left < 0:
                break
            if len(numbers) >= 9:
                outline = list(zip(numbers[0::3], numbers[1::3], strict=False))
                planes[round(numbers[2], 1)].append((outline, (red, green, blue)))
    if not planes:
        return FullReading(words)
    shapes = max(planes.values(), key=len)
    xs = [x for outline, _ in shapes for x, _ in outline]
    ys = [y for outline, _ in shapes for _, y in outline]
    size = max(max(xs) - min(xs), max(ys) - min(ys)) or 1
    image = Image.new("RGB", (_SIDE, _SIDE), "black")
    draw = ImageDraw.Draw(image)
    scale, left, top = (_SIDE - 40) / size, (max(xs) + min(xs) - size) / 2, (max(ys) + min(ys) - size) / 2
    for outline, colour in shapes:
        placed = [((x - left) * scale + 20, (y - top) * scale + 20) for x, y in outline]
        draw.line([*placed, placed[0]], fill=colour, width=3)
    return FullReading(words, pictures.png_of(_small(image)))


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((pictures.SIDE_PIXELS_MAX, pictures.SIDE_PIXELS_MAX), Image.Resampling.LANCZOS)
    return image
