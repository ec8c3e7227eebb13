"""Plain words for pages: times, durations, counts, and which icon stands for what. What a record says about itself is
put into words by `records.summaries`.

Unknown codes fall back to something readable, never to an error. Registered as template filters.
"""

import datetime as dt
from collections.abc import Iterable

from flask import Flask

from myphr.records import formats, summaries
from myphr.records.views import ArchiveView
from myphr.web.zones import local

_ICON_OF_MODALITY = {
    "SR": "file",
    "DOC": "file",
    "ECG": "heart",
    "EPS": "heart",
    "HD": "heart",
    "CR": "bone",
    "DX": "bone",
    "BMD": "bone",
    "XC": "picture",
}
_DEVICE_ICON = {"iPad": "device", "Android": "device", "iPhone": "device"}


def modality_icon(codes: Iterable[str]) -> str:
    """The picture beside a study or series of these DICOM modalities."""
    return next((_ICON_OF_MODALITY[code] for code in codes if code in _ICON_OF_MODALITY), "scan")


def format_icon(code: str) -> str:
    return formats.of(code).icon


def date_words(date: dt.date) -> str:
    """ "26 August 2004": no order of numbers to mistake."""
    return f"{date.day} {date:%B} {date.year}"


def duration_words(seconds: float) -> str:
    """ "2 hours 5 minutes"; below a minute in seconds."""
    whole = max(0, int(seconds))
    if whole < 60:
        return counted(whole, "second")
    minutes = whole // 60
    days, minutes = divmod(minutes, 1440)
    hours, minutes = divmod(minutes, 60)
    parts = [counted(n, unit) for n, unit in ((days, "day"), (hours, "hour"), (minutes, "minute")) if n]
    return " ".join(parts[:2])


def counted(count: int, thing: str, things: str | None = None) -> str:
    """ "1 file", "2,000 files"."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def unpacked_words(archive: ArchiveView) -> str:
    """What came of an archive: "409 new files, 3 files you had already, 1 file could not be read"."""
    parts = [counted(archive.members_new, "new file")]
    if archive.members_duplicate:
        parts.append(counted(archive.members_duplicate, "file") + " you had already")
    if archive.members_damaged:
        parts.append(counted(archive.members_damaged, "file") + " could not be read")
    if archive.members_left:
        parts.append(counted(archive.members_left, "program file") + " left inside")
    return ", ".join(parts)


def joined(words: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def aware(at: dt.datetime) -> dt.datetime:
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)


def iso_time(at: dt.datetime) -> str:
    return aware(at).astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain_time(at: dt.datetime, style: str = "full") -> str:
    """ "3 March 2026, 14:05" in the zone `at` is in; styles: full, day, time."""
    if style == "time":
        return f"{at:%H:%M}"
    if style == "day":
        return f"{at.day} {at:%B} {at.year}"
    return f"{at.day} {at:%B} {at.year}, {at:%H:%M}" + (" UTC" if at.tzinfo is dt.UTC else "")


def device_icon(device: str) -> str:
    return next((icon for word, icon in _DEVICE_ICON.items() if word in device), "portal")


def init_words(app: Flask) -> None:
    for function in (
        modality_icon, format_icon, date_words, duration_words, counted, joined, iso_time, device_icon,
        unpacked_words,
    ):  # fmt: skip
        app.jinja_env.filters[function.__name__] = function
    app.jinja_env.filters["size_words"] = summaries.size_words
    app.jinja_env.filters["plain_time"] = lambda at, style="full": plain_time(local(at), style)
