"""ECGs and other signals drawn as a strip: 25 mm/s and 10 mm/mV on paper where units are known, to fit where not. Pure.

Twelve leads stand as three rows of four times 2.5 s with lead II below, as on the sheet of a practice; fewer stand one
below the other.
"""

import dataclasses

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SECONDS_MAX = 10.0
LEADS_MAX = 8  # one below the other
MM = 4  # pixels a millimetre while drawing; half of it in the picture
_WIDTH_MM = 256
_ROW_MM = 24
_PAPER, _FINE, _BOLD, _INK = (255, 251, 249), (250, 226, 224), (240, 190, 188), (16, 24, 32)
_TWELVE = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))


@dataclasses.dataclass(frozen=True)
class Lead:
    """`values` in millivolts if `known`; whatever they are if not."""

    name: str
    values: NDArray
    rate: float
    known: bool = True


def short_name(name: str) -> str:
    """ "Lead II (Einthoven)", "MDC_ECG_LEAD_AVR" and "EKG II" as an ECG sheet has them: II, aVR, II."""
    words = name.strip().replace("MDC_ECG_LEAD_", "").replace("LEAD_", "")
    for prefix in ("Lead ", "lead ", "EKG ", "ECG ", "EEG "):
        words = words.removeprefix(prefix)
    short = words.split("(")[0].strip()
    known = {one.upper(): one for row in _TWELVE for one in row}
    return known.get(short.upper(), short[:16])


def length_words(seconds: float) -> str:
    if seconds < 0.5:
        return ""
    if seconds < 120:
        return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"


def draw(leads: list[Lead]) -> Image.Image:
    """The strip, at most 512 pixels wide."""
    named = {lead.name: lead for lead in reversed(leads)}
    twelve = all(name in named for row in _TWELVE for name in row)
    shown = leads[:LEADS_MAX]
    rows = len(_TWELVE) + 1 if twelve else max(1, len(shown))
    image = Image.new("RGB", (_WIDTH_MM * MM, (rows * _ROW_MM + 6) * MM), _PAPER)
    pen = ImageDraw.Draw(image)
    if all(lead.known for lead in shown):
        _grid(pen, image.size)
    if twelve:
        for row, names in enumerate(_TWELVE):
            for column, name in enumerate(names):
                _trace(pen, named[name], row, from_mm=3 + column * 62.5, seconds=(column * 2.5, column * 2.5 + 2.5))
        _trace(pen, named["II"], 3, from_mm=3, seconds=(0, SECONDS_MAX))
    else:
        for row, lead in enumerate(shown):
            _trace(pen, lead, row, from_mm=3, seconds=(0, SECONDS_MAX))
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def _grid(pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    for each, colour in ((1, _FINE), (5, _BOLD)):
        for x in range(0, size[0], each * MM):
            pen.line((x, 0, x, size[1]), fill=colour)
        for y in range(0, size[1], each * MM):
            pen.line((0, y, size[0], y), fill=colour)


def _trace(pen: ImageDraw.ImageDraw, lead: Lead, row: int, *, from_mm: float, seconds: tuple[float, float]) -> None:
    values = lead.values[int(seconds[0] * lead.rate) : int(seconds[1] * lead.rate)].astype("float32")
    values = numpy.nan_to_num(values)
    middle = (row * _ROW_MM + _ROW_MM / 2 + 3) * MM
    if len(values) > 1:
        base = float(numpy.median(values))
        height = 10.0 if lead.known else (_ROW_MM * 0.8) / (float(numpy.ptp(values)) or 1)
        x = (from_mm + numpy.arange(len(values)) / lead.rate * 25) * MM
        if not lead.known:  # as wide as the paper, whatever it lasts
            x = (from_mm + numpy.arange(len(values)) / len(values) * (_WIDTH_MM - 6)) * MM
        y = middle - numpy.clip((values - base) * height, -_ROW_MM, _ROW_MM) * MM
        step = max(1, len(values) // 20_000)
        pen.line(list(zip(x[::step].tolist(), y[::step].tolist(), strict=True)), fill=_INK, width=3, joint="curve")
    place = (from_mm * MM + 4, (row * _ROW_MM + 3) * MM)
    pen.text(place, lead.name, fill=_INK, font=_font(), stroke_width=3, stroke_fill=_PAPER)


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=24)
