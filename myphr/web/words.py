"""Plain words for pages: sizes, times, scans, body parts. No page shows a raw UID or DICOM code first.

Functions of their arguments alone; unknown codes fall back to something readable, never to an error. Registered as template filters.
"""

import datetime as dt
import re

from flask import Flask

from myphr.web.zones import local

# DICOM PS3.3 C.7.3.1.1.1, the modalities a patient is likely to meet.
_MODALITIES = {
    "CR": "X-ray", "CT": "CT scan", "DX": "X-ray", "DG": "Imaging", "ECG": "Heart recording", "EPS": "Heart recording",
    "ES": "Endoscopy", "GM": "Microscopy", "IO": "Dental X-ray", "IVUS": "Ultrasound", "KO": "Marked pictures", "MG": "Mammogram",
    "MR": "MRI scan", "NM": "Nuclear medicine scan", "OCT": "Eye scan", "OP": "Eye photograph", "OPT": "Eye scan",
    "OT": "Pictures", "PR": "Marked pictures", "PT": "PET scan", "PX": "Dental X-ray", "RF": "X-ray film",
    "RTDOSE": "Radiation plan", "RTIMAGE": "Radiation plan", "RTPLAN": "Radiation plan", "RTSTRUCT": "Radiation plan",
    "SC": "Pictures", "SEG": "Marked pictures", "SM": "Tissue slide", "SR": "Report", "DOC": "Report", "US": "Ultrasound",
    "XA": "X-ray film of vessels", "XC": "Photograph",
}  # fmt: skip

_BODY_PARTS = {
    "ABDOMENPELVIS": "abdomen and pelvis", "BREAST": "breast", "CSPINE": "neck (spine)", "CERVIX": "cervix",
    "CHESTABDPELVIS": "chest, abdomen and pelvis", "CHESTABDOMEN": "chest and abdomen", "EXTREMITY": "arm or leg",
    "LSPINE": "lower back (spine)", "SSPINE": "lower back (spine)", "TSPINE": "upper back (spine)", "TLSPINE": "back (spine)",
    "WHOLEBODY": "whole body", "HEADNECK": "head and neck", "IAC": "inner ear", "TMJ": "jaw joint", "UNKNOWN": "",
}  # fmt: skip

_ICONS = {"SR": "file", "DOC": "file", "ECG": "heart", "EPS": "heart", "CR": "bone", "DX": "bone", "XC": "picture"}

_FORMATS = {
    "dicom": "Medical picture (DICOM)", "dicomdir": "Table of contents of a disc", "pdf": "PDF document", "jpeg": "Photo (JPEG)", "png": "Picture (PNG)",
    "tiff": "Picture (TIFF)", "gif": "Picture (GIF)", "zip": "Archive (zip)", "text": "Text", "html": "Web page", "xml": "XML file",
    "json": "JSON file", "docx": "Word document", "xlsx": "Spreadsheet", "odt": "Text document", "ods": "Spreadsheet",
    "ccda": "Clinical summary (C-CDA)", "fhir": "Health record file (FHIR)", "nifti": "Brain scan volume (NIfTI)", "unknown": "Unknown kind of file",
}  # fmt: skip

_DEVICE_ICON = {"iPad": "device", "Android": "device", "iPhone": "device"}


def modality_words(codes: list[str] | tuple[str, ...] | str | None) -> str:
    """ "CT scan" for CT, "CT scan and PET scan" for both, "Pictures" when nothing is known."""
    if isinstance(codes, str):
        codes = re.split(r"[\\/,; ]+", codes)
    words = list(dict.fromkeys(_MODALITIES.get(code.strip().upper(), f"Pictures ({code.strip()[:16]})") for code in codes or () if code.strip()))
    main = [word for word in words if word not in ("Marked pictures", "Report")] or words
    return joined(main) or "Pictures"


def body_part_words(code: str | None) -> str:
    """ "upper back (spine)" for TSPINE; other codes in lower case; empty when unknown."""
    text = re.sub(r"[^\w ]+", " ", code or "").strip()
    key = text.upper().replace(" ", "").replace("_", "")
    return _BODY_PARTS.get(key, text.replace("_", " ").lower())[:60]


def icon_of(codes: list[str] | None) -> str:
    return next((_ICONS[code] for code in codes or () if code in _ICONS), "scan")


def format_words(code: str | None) -> str:
    return _FORMATS.get(code or "unknown", (code or "file").replace("_", " ").replace("-", " ").capitalize())


def format_icon(code: str | None) -> str:
    if code in ("jpeg", "png", "tiff", "gif", "bmp"):
        return "picture"
    return {"zip": "zip", "dicom": "scan", "nifti": "scan"}.get(code or "", "file")


def person_words(name: str | None) -> str:
    """A DICOM person name (PS3.5 6.2.1) as people write it: "Family^Given^Middle^Prefix^Suffix"."""
    family, given, middle, prefix, suffix = ((name or "").split("=")[0].split("^") + [""] * 5)[:5]
    return " ".join(part.strip() for part in (prefix, given, middle, family, suffix) if part.strip())


def date_words(text: str | dt.date | None) -> str:
    """ "26 August 2004" from a DICOM date (PS3.5 DA) or a date; empty when there is none or it is nonsense."""
    if isinstance(text, str):
        digits = re.sub(r"\D", "", text)[:8]
        try:
            text = dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
        except ValueError:
            return ""
    return f"{text.day} {text:%B} {text.year}" if text else ""


def bytes_words(count: int) -> str:
    """ "12.3 MB"; a unit is 1,000 of the one before, as shops and phones count."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{int(size)} {unit}" if unit == "bytes" else f"{size:.1f} {unit}" if size < 100 else f"{size:,.0f} {unit}"


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
        modality_words, body_part_words, icon_of, format_words, format_icon, person_words, date_words, bytes_words,
        duration_words, counted, joined, iso_time, device_icon,
    ):  # fmt: skip
        app.jinja_env.filters[function.__name__] = function
    app.jinja_env.filters["plain_time"] = lambda at, style="full": plain_time(local(at), style)
