"""Draws a recording for "Simple signals": ECG on its paper (25 mm a second, 10 mm a millivolt), all else as lines
below each other, each in a height of its own. Runs in the guest and in the unit tests; knows no window system.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from signal_records import Channel, Recording

PAPER, FINE, COARSE, INK, WORD = "#fff6f4", "#f9d5d0", "#eda79f", "#10131a", "#5b2a24"
DARK, DARK_LINE, TRACES, DARK_WORD = "#0d1014", "#2a333d", ("#7fd1ff", "#ffd37f", "#9be7a0", "#ff9f9f"), "#f2f5f8"
MM_PER_SECOND, MM_PER_MILLIVOLT = 25.0, 10.0
ROWS_MAX = 10  # lines below each other; more are hard to tell apart
COLUMNS_12 = 4  # of an ECG's page: I II III | aVR aVL aVF | V1-V3 | V4-V6, and the rhythm below
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"


@dataclasses.dataclass(frozen=True)
class Look:
    """What of a recording is shown, and how large."""

    start: float = 0.0  # seconds
    seconds: float = 10.0
    tall: float = 1.0  # times the usual height
    first: int = 0  # of the channels, from which on rows are drawn
    only: int | None = None  # this channel alone


def font(size: int) -> ImageFont.ImageFont:
    try:
        return ImageFont.truetype(FONT, size)
    except OSError:
        return ImageFont.load_default()


def shows_page(recording: Recording, look: Look) -> bool:
    """Whether it is the page with twelve leads that doctors know: only at its usual speed."""
    return look.only is None and recording.twelve is not None and look.seconds == 10.0


def draw(recording: Recording, look: Look, width: int, height: int) -> Image.Image:
    if shows_page(recording, look):
        return _page(recording, look, width, height)
    channels = chosen(recording, look)
    return _rows(recording, channels, look, width, height)


def chosen(recording: Recording, look: Look) -> list[Channel]:
    if look.only is not None:
        return [recording.channels[look.only]]
    return recording.channels[look.first : look.first + ROWS_MAX]


def _page(recording: Recording, look: Look, width: int, height: int) -> Image.Image:
    leads = recording.twelve
    assert leads is not None
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    mm = width / (look.seconds * MM_PER_SECOND)
    _grid(pen, width, height, mm)
    rows = len(leads) // COLUMNS_12 + 1
    high, part = height / rows, look.seconds / COLUMNS_12
    for number, lead in enumerate(leads):
        column, row = divmod(number, rows - 1)
        left = column * width / COLUMNS_12
        start = look.start + column * part
        _ecg_line(pen, lead, start, part, left, width / COLUMNS_12, (row + 0.5) * high, mm, look.tall)
        if column:
            pen.line([(left, row * high + high * 0.3), (left, row * high + high * 0.7)], fill=COARSE, width=2)
    rhythm = leads[1]
    _ecg_line(pen, rhythm, look.start, look.seconds, 0, width, (rows - 0.5) * high, mm, look.tall)
    return image


def _ecg_line(
    pen: ImageDraw.ImageDraw, lead: Channel, start: float, seconds: float, left: float, width: float, middle: float,
    mm: float, tall: float,
) -> None:  # fmt: skip
    values = _samples(lead, start, seconds)
    if len(values):
        scale = (lead.millivolts or 1.0) * MM_PER_MILLIVOLT * mm * tall
        _trace(pen, (values - np.median(values)) * scale, _shown_width(lead, values, seconds, width), left, middle, INK)
    _word(pen, lead.lead or lead.name, left + 8, middle - 5.5 * MM_PER_MILLIVOLT * mm * 0.25 - 14, WORD, PAPER)


def _rows(recording: Recording, channels: list[Channel], look: Look, width: int, height: int) -> Image.Image:
    paper = recording.is_ecg
    image = Image.new("RGB", (width, height), PAPER if paper else DARK)
    pen = ImageDraw.Draw(image)
    mm = width / (look.seconds * MM_PER_SECOND)
    if paper and mm >= 0.8:
        _grid(pen, width, height, mm)
    else:
        _seconds(pen, look, width, height, COARSE if paper else DARK_LINE)
    high = height / max(len(channels), 1)
    for number, channel in enumerate(channels):
        middle = (number + 0.5) * high
        if number and not paper:
            pen.line([(0, number * high), (width, number * high)], fill=DARK_LINE)
        values = _samples(channel, look.start, look.seconds)
        ink = INK if paper else TRACES[(number + look.first) % len(TRACES)]
        if len(values):
            scale = _scale(channel, values, paper, mm, high, look)
            values = (values - _zero(values, paper)) * scale
            _trace(pen, values, _shown_width(channel, values, look.seconds, width), 0, middle, ink)
        words = channel.name if paper else f"{channel.name}  {_range(channel, look)}"
        _word(pen, words, 8, number * high + 6, WORD if paper else DARK_WORD, PAPER if paper else DARK)
    return image


def _scale(channel: Channel, values: np.ndarray, paper: bool, mm: float, high: float, look: Look) -> float:
    """Pixels a unit. On paper as doctors are used to, unless that would leave its row."""
    low, top = (float(v) for v in np.percentile(values, (1, 99)))
    spread = max(top - low, 1e-9)
    fitting = high * 0.62 / spread * look.tall
    if paper and channel.millivolts and mm >= 0.8:
        usual = channel.millivolts * MM_PER_MILLIVOLT * mm * look.tall
        return usual if look.only is not None else min(usual, max(fitting, usual / 4))
    return fitting


def _zero(values: np.ndarray, paper: bool) -> float:
    """What lies in the middle of a row: an ECG's quiet line, else the middle between the lowest and the highest."""
    if paper:
        return float(np.median(values))
    low, top = np.percentile(values, (1, 99))
    return float(low + top) / 2


def _range(channel: Channel, look: Look) -> str:
    values = _samples(channel, look.start, look.seconds)
    if not len(values):
        return ""
    low, top = float(values.min()), float(values.max())
    return f"{low:.4g} to {top:.4g} {channel.unit.replace('uV', 'µV')}"


def _samples(channel: Channel, start: float, seconds: float) -> np.ndarray:
    first = round(start * channel.rate)
    return np.nan_to_num(channel.piece(first, first + math.ceil(seconds * channel.rate)))


def _shown_width(channel: Channel, values: np.ndarray, seconds: float, width: float) -> float:
    """Of what is there: a recording may end within the window."""
    return width * min(1.0, len(values) / (seconds * channel.rate))


def _trace(pen: ImageDraw.ImageDraw, values: np.ndarray, width: float, left: float, middle: float, ink: str) -> None:
    """`values` in pixels, upwards. Of more samples than columns the lowest and the highest of each column are joined:
    no spike is lost."""
    columns = max(1, int(width))
    if len(values) > 2 * columns:
        edges = np.linspace(0, len(values), columns + 1).astype(int)[:-1]
        low, top = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
        ys = np.stack([low, top], axis=1)
        ys[1::2] = ys[1::2, ::-1]
        xs = np.repeat(np.arange(columns) + left, 2)
        points = np.stack([xs, middle - ys.ravel()], axis=1)
    else:
        xs = left + np.arange(len(values)) * (width / max(len(values), 1))
        points = np.stack([xs, middle - values], axis=1)
    points = np.clip(points, -4000, 8000)
    if len(points) > 1:
        pen.line([tuple(p) for p in points.tolist()], fill=ink, width=2)


def _grid(pen: ImageDraw.ImageDraw, width: int, height: int, mm: float) -> None:
    """Small squares of a millimetre, large ones of five: 0.04 s and 0.2 s across, 0.1 and 0.5 mV up at usual height."""
    for colour, step in ((FINE, mm), (COARSE, 5 * mm)):
        if step < 3:
            continue
        for number in range(int(width / step) + 1):
            pen.line([(number * step, 0), (number * step, height)], fill=colour)
        for number in range(int(height / step) + 1):
            pen.line([(0, number * step), (width, number * step)], fill=colour)


def _seconds(pen: ImageDraw.ImageDraw, look: Look, width: int, height: int, colour: str) -> None:
    step = next(s for s in (1, 2, 5, 10, 30, 60, 300, 600, 3600, 36_000) if look.seconds / s <= 12 or s == 36_000)
    at = math.ceil(look.start / step) * step
    while at < look.start + look.seconds:
        x = (at - look.start) / look.seconds * width
        pen.line([(x, 0), (x, height)], fill=colour)
        at += step


def _word(pen: ImageDraw.ImageDraw, text: str, x: float, y: float, ink: str, back: str) -> None:
    face = font(15)
    pen.rectangle(pen.textbbox((x, y), text, font=face), fill=back)
    pen.text((x, y), text, fill=ink, font=face)
