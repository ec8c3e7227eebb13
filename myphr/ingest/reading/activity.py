"""Activities of watches and phones: when, how long, how far (FIT 21, TCX 2, GPX 1.1, Apple Health). Never the way.

A way walked shows where somebody lives: it is told that there is one, not where.
"""

import datetime as dt
import re
import struct
from collections.abc import Iterator

from myphr.ingest.reading import xml_tree
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import Moment, iso, moment_of
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"fit", "tcx", "gpx", "apple-health-xml"})
RECORDS_MAX = 200_000
_EPOCH = dt.datetime(1989, 12, 31, tzinfo=dt.UTC)
_SPORTS = {0: "Activity", 1: "Run", 2: "Ride", 3: "Transition", 4: "Fitness", 5: "Swim", 10: "Training", 11: "Walk",
           12: "Ski", 13: "Ski", 15: "Row", 17: "Hike", 41: "Kayak"}  # fmt: skip
_FILES = {1: "Device", 2: "Settings", 4: "Activity", 5: "Workout", 6: "Course", 9: "Weight", 15: "Daily monitoring",
          20: "Activities", 28: "Segment", 32: "Daily monitoring", 49: "Sleep"}  # fmt: skip
_WHERE = ("Where", "The file holds the way. Whoever gets the file can read the places.")


def warm_up() -> None:
    list(read(Content("gpx", b'<gpx xmlns="x"><trk/></gpx>', 30)))


def read(content: Content) -> Iterator[FullReading]:
    yield FullReading({"fit": _fit, "apple-health-xml": _apple}.get(content.format, _track)(content))


def _told(
    title: str, moment: Moment | None, facts: list[tuple[str, str]], kind: str = "Activity of a watch"
) -> Reading:
    return Reading(
        kind_words=kind, title=title, text=title, date=moment.iso if moment else "",
        date_words=moment.words if moment else "", facts=tuple((name, value) for name, value in facts if value),
    )  # fmt: skip


def _length(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else ""


def _far(metres: float) -> str:
    return f"{metres / 1000:.1f} km" if metres >= 100 else ""


def _fit(content: Content) -> Reading:
    """Messages by their definitions: file id (0) says what it is, session (18) how long and how far."""
    data = content.data
    if len(data) < 12 or data[8:12] != b".FIT":
        raise NotRead("The file is damaged")
    found: dict[int, dict[int, int]] = {}
    definitions: dict[int, tuple[int, str, list[tuple[int, int]], int]] = {}
    at, records, has_way = data[0], 0, False
    end = min(len(data), data[0] + struct.unpack_from("<I", data, 4)[0])
    while at < end and records < RECORDS_MAX:
        records += 1
        head = data[at]
        local = (head >> 5) & 3 if head & 0x80 else head & 15
        at += 1
        if not head & 0x80 and head & 0x40:
            if at + 5 > end:
                break
            order = ">" if data[at + 1] else "<"
            [message] = struct.unpack_from(order + "H", data, at + 2)
            count = data[at + 4]
            fields = [(data[at + 5 + 3 * n], data[at + 6 + 3 * n]) for n in range(count) if at + 7 + 3 * n < end]
            at += 5 + 3 * count
            extra = 0
            if head & 0x20 and at < end:  # developer fields: their sizes only
                extra = sum(data[at + 2 + 3 * n] for n in range(data[at]) if at + 2 + 3 * n < end)
                at += 1 + 3 * data[at]
            definitions[local] = (message, order, fields, extra)
            continue
        if local not in definitions:
            break
        message, order, fields, extra = definitions[local]
        for number, size in fields:
            code = {1: "B", 2: "H", 4: "I"}.get(size)
            if code and at + size <= end:
                [value] = struct.unpack_from(order + code, data, at)
                if value != (1 << (8 * size)) - 1 and (message in (0, 18) or (message == 55 and number == 253)):
                    found.setdefault(message, {}).setdefault(number, value)
                has_way = has_way or (message == 20 and number == 0 and value != 0x7FFFFFFF)
            at += size
        at += extra
    about, session = found.get(0, {}), found.get(18, {})
    stamp = session.get(2) or about.get(4) or found.get(55, {}).get(253)
    moment = moment_of(_EPOCH + dt.timedelta(seconds=stamp)) if stamp and stamp > 0x10000000 else None
    title = _SPORTS.get(session.get(5, 0), "Activity") if session else _FILES.get(about.get(0, 4), "Activity")
    return _told(title, moment, [
        ("Time", moment.time_words if moment else ""), ("Length", _length(session.get(7, 0) / 1000)),
        ("Distance", _far(session.get(9, 0) / 100)),
        ("Heart rate", f"{session[16]} on average" if session.get(16) else ""), _WHERE if has_way else ("", ""),
    ])  # fmt: skip


def _track(content: Content) -> Reading:
    """GPX and TCX: the first and the last time, the distance where it is said. A GPX may also say when the file was
    made (1.1: `metadata`; 1.0: below the root): that counts only where no point has a time."""
    root = xml_tree.parse(content.data)
    if content.format == "gpx":
        points = (point for name in ("trkpt", "rtept", "wpt") for point in root.iter(f"{{*}}{name}"))
        times = [xml_tree.words(time) for point in points if (time := xml_tree.find(point, "time")) is not None]
        times = times or [xml_tree.words(one) for one in root.iter("{*}time")][:1]
    else:
        times = [xml_tree.words(one) for one in root.iter("{*}Time")]
    moment = iso(times[0]) if times else None
    seconds = 0.0
    try:
        first, last = (dt.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (times[0], times[-1]))
        seconds = max(0.0, (last - first).total_seconds())
    except (ValueError, IndexError, TypeError):
        pass
    metres = 0.0
    for lap in root.iter("{*}Lap"):
        try:
            metres += float(xml_tree.words(xml_tree.find(lap, "DistanceMeters")) or 0)
        except ValueError:
            continue
    sport = next((str(one.get("Sport") or "") for one in root.iter("{*}Activity")), "")
    title = xml_tree.words(xml_tree.find(root, "trk/name"))
    title = title or {"Running": "Run", "Biking": "Ride"}.get(sport, "Activity")
    return _told(title, moment, [
        ("Time", moment.time_words if moment else ""), ("Length", _length(seconds)), ("Distance", _far(metres)),
        _WHERE if times else ("", ""),
    ])  # fmt: skip


def _apple(content: Content) -> Reading:
    """The export is one long list: its head and what kinds of values its first part has."""
    text = content.data[: 8 * 1024**2].decode("utf-8", "replace")
    made = re.search(r'<ExportDate value="([^"]{1,40})"', text)
    born = re.search(r'HKCharacteristicTypeIdentifierDateOfBirth="([^"]{1,20})"', text)
    kinds = dict.fromkeys(re.findall(r'<Record type="HK\w+?TypeIdentifier(\w{1,60})"', text))
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower() for kind in kinds][:30]
    day = iso(born.group(1)) if born else None
    return _told("Health data of a phone", iso(made.group(1)) if made else None, [
        ("Measured", ", ".join(words)), ("Born", day.words if day else ""),
    ], "Health data of a phone")  # fmt: skip
