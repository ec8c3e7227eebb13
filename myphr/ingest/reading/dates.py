"""Dates as files write them, as people read them. Pure."""

import dataclasses
import datetime as dt
import re

from myphr.records.summaries import date_words

_COMPACT = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?")
_ISO = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d))?)?)?")


@dataclasses.dataclass(frozen=True)
class Moment:
    """As exact as the file: year, month, day, perhaps with a time of day."""

    iso: str
    words: str
    time_words: str = ""


def moment_of(value: dt.date | dt.datetime) -> Moment | None:
    if not 1800 < value.year < 2200:
        return None
    time_words = f"{value:%H:%M}" if isinstance(value, dt.datetime) and (value.hour or value.minute) else ""
    day = value.date() if isinstance(value, dt.datetime) else value
    return Moment(day.isoformat(), date_words(day), time_words)


def compact(text: object) -> Moment | None:
    """20210203, 202102031415-0500, 2021: HL7 v2 and v3 (TS), DICOM (DA, DT)."""
    return _from(_COMPACT.match(str(text or "").strip()))


def iso(text: object) -> Moment | None:
    """2021-02-03T14:15:00Z, 2021-02, 2021: FHIR, ISO 8601."""
    return _from(_ISO.match(str(text or "").strip()))


def _from(found: re.Match[str] | None) -> Moment | None:
    if found is None:
        return None
    year, month, day, hour, minute = (int(part) if part else None for part in found.groups())
    if year is None or not 1800 < year < 2200:
        return None
    if not month:
        return Moment(f"{year}", f"{year}")
    try:
        if not day:
            return Moment(f"{year}-{month:02}", f"{dt.date(year, month, 1):%B} {year}")
        date = dt.date(year, month, day)
    except ValueError:
        return None
    has_time = hour is not None and minute is not None and (hour or minute) and hour < 24 and minute < 60
    return Moment(date.isoformat(), date_words(date), f"{hour:02}:{minute:02}" if has_time else "")
