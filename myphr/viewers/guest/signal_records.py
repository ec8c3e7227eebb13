"""What "Simple signals" shows, without a screen: files of ECG, EEG and sleep laboratories become channels in physical
units. EDF, EDF+ and BDF (edfplus.info), HL7 aECG (2003-12), WFDB headers with their signals (physionet.org,
header(5), signal(5)), DICOM waveforms (PS3.3, C.10.9); SCP-ECG is in signal_scp.py. Long recordings stay in their
file and are read piece by piece. Runs in the guest and in the unit tests; knows no window system.
"""

import dataclasses
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pydicom
from folder_files import CannotShow, first_bytes, said_in_a_sentence

CHANNELS_MAX = 512
RATE_MAX = 1e7  # samples a second
SAMPLES_MAX = 200_000_000  # of one channel that has to be held in memory; a header may claim anything
HELD_BYTES_MAX = 200_000_000  # of a file that is read at once
LEADS_12 = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_LEADS = {lead.casefold(): lead for lead in LEADS_12}
_OTHER_LEADS = re.compile(r"(MLI{1,3}|V|MCL\d?|V\d{1,2}R?|X|Y|Z|ES|AS|AI|D[123])", re.I)
_MILLIVOLT = {"mv": 1.0, "uv": 0.001, "µv": 0.001, "μv": 0.001, "v": 1000.0, "nv": 1e-6}
WORDS = {
    "edf": "Recording (EDF)",
    "bdf": "Recording (BDF)",
    "scp": "ECG (SCP)",
    "aecg": "ECG (aECG)",
    "wfdb": "Recording (WFDB)",
    "dicom": "ECG (DICOM)",
}


@dataclasses.dataclass
class Channel:
    """One line of a recording. `piece(first, end)` gives its samples in `unit`, as 32-bit floats."""

    name: str
    unit: str
    rate: float  # samples a second
    count: int
    piece: Callable[[int, int], np.ndarray]

    @property
    def seconds(self) -> float:
        return self.count / self.rate

    @property
    def millivolts(self) -> float | None:
        """What one of its units is in millivolts; None when it measures something else."""
        return _MILLIVOLT.get(self.unit.casefold())

    @property
    def lead(self) -> str:
        """The lead of an ECG that this is, as doctors write it; empty for all else."""
        return lead_of(self.name) if self.millivolts else ""


@dataclasses.dataclass
class Recording:
    """One file. `patient` and `date` are empty where it does not say."""

    kind: str
    channels: list[Channel]
    patient: str = ""
    date: str = ""

    @property
    def seconds(self) -> float:
        return max((channel.seconds for channel in self.channels), default=0.0)

    @property
    def is_ecg(self) -> bool:
        """Whether it is drawn on ECG paper: most of its lines are leads."""
        leads = sum(bool(channel.lead) for channel in self.channels)
        return leads > 0 and leads * 2 > len(self.channels)

    @property
    def twelve(self) -> list[Channel] | None:
        """The twelve leads in the order of an ECG's page, when all are there and simultaneous."""
        by_name = {channel.lead: channel for channel in self.channels}
        found = [by_name[lead] for lead in LEADS_12 if lead in by_name]
        return found if len(found) == 12 and len({c.rate for c in found}) == 1 else None


def lead_of(name: str) -> str:
    text = re.sub(r"^(lead|ecg|ekg|mdc_ecg_lead)[\s:_-]+", "", name.strip(), flags=re.I)
    text = re.sub(r"\s*\(.*\)$", "", text)
    if text.casefold() in _LEADS:
        return _LEADS[text.casefold()]
    if _OTHER_LEADS.fullmatch(text):
        return text
    return text if re.search(r"\b(ecg|ekg)", name, re.I) else ""


def plain(text: str) -> str:
    """Without what cannot be drawn: fonts refuse some of it."""
    return "".join(c for c in text if c.isprintable() and c < "\uffff").strip()[:60]


def held(values: np.ndarray) -> Callable[[int, int], np.ndarray]:
    kept = np.asarray(values, np.float32)
    return lambda first, end: kept[max(first, 0) : max(end, 0)]


def kind_of(path: str) -> str:
    """By its first bytes; empty for what we do not know."""
    head = first_bytes(path, 16_384)
    if head[:8] == b"0       " and len(head) >= 256:
        return "edf"
    if head[:8] == b"\xffBIOSEMI":
        return "bdf"
    if head[128:132] == b"DICM":
        return "dicom"
    if head[8:10] == b"\0\0" and (head[16:22] == b"SCPECG" or path.lower().endswith(".scp")):
        return "scp"
    if b"<AnnotatedECG" in head:
        return "aecg"
    if path.lower().endswith(".hea") and re.search(rb"^[A-Za-z0-9_-]+(/\d+)? \d+", head, re.M):
        return "wfdb"
    return ""


def read(path: str) -> Recording:
    """Raises CannotShow with a sentence that helps, and nothing else: a hostile file must not end the viewer."""
    import signal_scp

    readers = {"edf": _edf, "bdf": _edf, "aecg": _aecg, "wfdb": _wfdb, "dicom": _dicom, "scp": signal_scp.read}
    kind = kind_of(path)
    if kind not in readers:
        raise CannotShow("This file is of a kind this viewer does not know.")
    with said_in_a_sentence(
        "This file is damaged and cannot be read.", "This recording is larger than this machine can hold."
    ):
        recording = readers[kind](path)
    usable = [c for c in recording.channels if c.count > 0 and 0 < c.rate <= RATE_MAX]
    recording.channels = usable[:CHANNELS_MAX]
    for channel in recording.channels:
        channel.name, channel.unit = plain(channel.name) or "No name", plain(channel.unit)
    recording.patient = plain(recording.patient)
    if not recording.channels:
        raise CannotShow("There is no recording in this file.")
    return recording


def whole(path: str) -> bytes:
    if os.path.getsize(path) > HELD_BYTES_MAX:
        raise CannotShow("This recording is larger than this machine can hold.")
    with open(path, "rb") as file:
        return file.read()


# -- EDF and BDF ------------------------------------------------------------------------------------------------------
def _edf(path: str) -> Recording:
    with open(path, "rb") as file:
        head = file.read(256)
        signals = int(head[252:256])
        if not 0 < signals <= 4096:
            raise CannotShow("There is no recording in this file.")
        table = file.read(256 * signals)
    bdf = head[:1] == b"\xff"
    width = 3 if bdf else 2

    def column(start: int, size: int) -> list[str]:
        body = table[start * signals : (start + size) * signals]
        # EDF asks for ASCII; files in UTF-8 and Latin-1 are common all the same.
        pieces = [body[i * size : (i + 1) * size] for i in range(signals)]
        return [_text(piece) for piece in pieces]

    names, units = column(0, 16), column(96, 8)
    physical = list(zip(map(float, column(104, 8)), map(float, column(112, 8)), strict=True))
    digital = list(zip(map(float, column(120, 8)), map(float, column(128, 8)), strict=True))
    samples = [int(text) for text in column(216, 8)]
    seconds = float(head[244:252])
    per_record = sum(samples)
    if min(samples) < 0 or per_record == 0:
        raise CannotShow("There is no recording in this file.")
    there = (os.path.getsize(path) - 256 * (signals + 1)) // (per_record * width)
    said = int(head[236:244])
    records = there if said < 0 else min(said, there)  # a recording that was cut off is shown as far as it goes
    if records < 1:
        raise CannotShow("There is no recording in this file.")
    shape = (records, per_record * width)
    body = np.memmap(path, np.uint8, "r", offset=256 * (signals + 1), shape=shape)
    channels, at = [], 0
    for name, unit, (low, high), (dig_low, dig_high), count in zip(
        names, units, physical, digital, samples, strict=True
    ):
        start, at = at, at + count
        if name.startswith(("EDF Annotations", "BDF Annotations")) or count == 0 or seconds <= 0 or dig_high == dig_low:
            continue
        scale = (high - low) / (dig_high - dig_low)
        piece = _Columns(body, start * width, count, width, scale, low - dig_low * scale)
        channels.append(Channel(name or "No name", unit, count / seconds, records * count, piece))
    patient = _text(head[8:88])
    if re.search(r"EDF\+|BDF\+", head[192:236].decode("latin-1")):
        parts = patient.split(" ")  # code, sex, birth date, name
        patient = parts[3].replace("_", " ") if len(parts) > 3 and parts[3] != "X" else ""
    patient = "" if re.fullmatch(r"[X ,.]*", patient) else patient
    return Recording("bdf" if bdf else "edf", channels, patient, _edf_date(head))


class _Columns:
    """The samples of one channel, which lie in pieces, one in each data record."""

    def __init__(self, body: np.memmap, start: int, count: int, width: int, scale: float, offset: float) -> None:
        self.body, self.start, self.count, self.width = body, start, count, width
        self.scale, self.offset = scale, offset

    def __call__(self, first: int, end: int) -> np.ndarray:
        first, end = max(first, 0), min(end, len(self.body) * self.count)
        if end <= first:
            return np.zeros(0, np.float32)
        rows = slice(first // self.count, -(-end // self.count))
        raw = np.ascontiguousarray(self.body[rows, self.start : self.start + self.count * self.width])
        if self.width == 2:
            values = raw.view("<i2").ravel().astype(np.float32)
        else:
            bytes_ = raw.reshape(-1, 3).astype(np.int32)
            values = bytes_[:, 0] | bytes_[:, 1] << 8 | bytes_[:, 2] << 16
            values = np.where(values >= 1 << 23, values - (1 << 24), values).astype(np.float32)
        skipped = rows.start * self.count
        return values[first - skipped : end - skipped] * self.scale + self.offset


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8").strip("\0 ")
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip("\0 ")


def _edf_date(head: bytes) -> str:
    found = re.match(rb"(\d\d)\.(\d\d)\.(\d\d)(\d\d)\.(\d\d)\.(\d\d)", head[168:184])
    if not found:
        return ""
    day, month, year, hour, minute, _ = (int(n) for n in found.groups())
    year += 1900 if year >= 85 else 2000  # as EDF says
    return plain_date(f"{year:04}{month:02}{day:02}", f"{hour:02}:{minute:02}")


MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip


def plain_date(text: str, clock: str = "") -> str:
    """YYYYMMDD... as people write it; empty when it is no date."""
    found = re.match(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d))?", text)
    if not found or not 1 <= int(found[2]) <= 12:
        return ""
    clock = clock or (f"{found[4]}:{found[5]}" if found[4] else "")
    return f"{int(found[3])} {MONTHS[int(found[2]) - 1]} {found[1]}" + (f", {clock}" if clock else "")


# -- HL7 aECG ---------------------------------------------------------------------------------------------------------
def _aecg(path: str) -> Recording:
    # Expat bounds what entities may grow to since 2.4.1, and nothing but this machine would suffer.
    root = ET.fromstring(whole(path))  # noqa: S314
    space = "{urn:hl7-org:v3}"
    channels: list[Channel] = []
    for set_ in root.iter(f"{space}sequenceSet"):
        rate = 0.0
        for sequence in set_.iter(f"{space}sequence"):
            code = sequence.find(f"{space}code")
            value = sequence.find(f"{space}value")
            name = code.get("code", "") if code is not None else ""
            if value is None:
                continue
            if name.startswith("TIME_"):
                step = value.find(f"{space}increment")
                if step is not None:
                    unit = {"s": 1.0, "ms": 1e-3, "us": 1e-6}.get(step.get("unit", "s"), 1.0)
                    rate = 1.0 / (float(step.get("value", "0")) * unit)
                continue
            digits, scale = value.find(f"{space}digits"), value.find(f"{space}scale")
            if digits is None or not digits.text or scale is None or rate <= 0:
                continue
            origin = value.find(f"{space}origin")
            start = float(origin.get("value", "0")) if origin is not None else 0.0
            values = np.array(digits.text.split(), np.float32) * float(scale.get("value", "1")) + start
            channels.append(
                Channel(_mdc(name), scale.get("unit", "uV"), rate, len(values), held(values))
            )
        if channels:
            break  # the first set is the rhythm; those that follow are averages of it
    when = root.find(f"{space}effectiveTime")
    first = next((e for e in when if e.get("value")), None) if when is not None else None
    name = next((" ".join(e.itertext()).strip() for e in root.iter(f"{space}subjectDemographicPerson")), "")
    date = plain_date(first.get("value", "")) if first is not None else ""
    return Recording("aecg", channels, " ".join(name.split()), date)


def _mdc(code: str) -> str:
    text = code.removeprefix("MDC_ECG_LEAD_")
    return _LEADS.get(text.casefold(), text)


# -- WFDB -------------------------------------------------------------------------------------------------------------
_GAIN = re.compile(r"([-+0-9.eE]+)(?:\((-?\d+)\))?(?:/(\S+))?")


def _wfdb(path: str) -> Recording:
    lines = [line.strip() for line in whole(path).decode("latin-1").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    first = lines[0].split()
    if "/" in first[0]:
        raise CannotShow("This recording is in several parts, which this viewer cannot put together.")
    signals, rate = int(first[1]), float(re.split(r"[/(]", first[2])[0]) if len(first) > 2 else 250.0
    count = int(first[3]) if len(first) > 3 else 0
    clock = first[4] if len(first) > 4 else ""
    date = "".join(reversed(first[5].split("/"))) if len(first) > 5 else ""
    groups: dict[str, list[tuple[Channel, int, float, int]]] = {}
    order: list[Channel] = []
    formats: dict[str, tuple[int, int]] = {}
    for line in lines[1 : 1 + min(signals, CHANNELS_MAX)]:
        words = line.split(None, 8)
        form = re.fullmatch(r"(\d+)(?:x(\d+))?(?::\d+)?(?:\+(\d+))?", words[1])
        if form is None:
            raise CannotShow("This file is damaged and cannot be read.")
        gain, baseline, unit = 200.0, None, "mV"
        if len(words) > 2:
            found = _GAIN.fullmatch(words[2])
            if found:
                gain = float(found[1]) or 200.0
                baseline = int(found[2]) if found[2] else None
                unit = found[3] or "mV"
        zero = int(words[4]) if len(words) > 4 else 0
        name = words[8] if len(words) > 8 else words[0]
        per_frame = int(form[2] or 1)
        channel = Channel(name, unit, rate * per_frame, 0, held(np.zeros(0)))
        order.append(channel)
        formats[words[0]] = (int(form[1]), int(form[3] or 0))
        groups.setdefault(words[0], []).append((channel, per_frame, gain, zero if baseline is None else baseline))
    for name, members in groups.items():
        format_, skip = formats[name]
        body = _signal_file(path, name)[skip:]
        values = _wfdb_samples(body, format_, len(members))
        per_frame = sum(each for _, each, _, _ in members)
        frames = len(values) // per_frame
        frames = min(frames, count) if count else frames
        table = values[: frames * per_frame].reshape(frames, per_frame)
        at = 0
        for channel, each, gain, zero in members:
            column = table[:, at : at + each].ravel().astype(np.float32)
            at += each
            channel.count, channel.piece = len(column), held((column - zero) / gain)
    return Recording("wfdb", order, "", plain_date(date, clock[:5]))


def _signal_file(header: str, name: str) -> bytes:
    """The file that the header names, beside it; should a folder have renamed it, the one of the header's name."""
    folder = os.path.dirname(header)
    stem = os.path.splitext(os.path.basename(header))[0]
    for candidate in (os.path.basename(name), f"{stem}.dat", f"{stem}.mat", f"{stem}.dat.bin"):
        if os.path.isfile(os.path.join(folder, candidate)):
            return whole(os.path.join(folder, candidate))
    raise CannotShow("This file only describes a recording. The recording itself is not beside it.")


def _wfdb_samples(body: bytes, format_: int, signals: int) -> np.ndarray:
    if format_ == 16:
        return np.frombuffer(body[: len(body) // 2 * 2], "<i2")
    if format_ == 61:
        return np.frombuffer(body[: len(body) // 2 * 2], ">i2")
    if format_ == 32:
        return np.frombuffer(body[: len(body) // 4 * 4], "<i4")
    if format_ == 80:
        return np.frombuffer(body, np.uint8).astype(np.int16) - 128
    if format_ == 212:
        three = np.frombuffer(body[: len(body) // 3 * 3], np.uint8).astype(np.int16).reshape(-1, 3)
        low = three[:, 0] | (three[:, 1] & 0x0F) << 8
        high = three[:, 2] | (three[:, 1] & 0xF0) << 4
        both = np.stack([low, high], axis=1).ravel()
        return np.where(both >= 2048, both - 4096, both)
    raise CannotShow(f"This recording is packed in a way this viewer does not know (WFDB format {format_}).")


# -- DICOM waveforms --------------------------------------------------------------------------------------------------
def _dicom(path: str) -> Recording:
    dataset = pydicom.dcmread(path)
    if "WaveformSequence" not in dataset:
        raise CannotShow("This is a picture, not a recording. Open it with Simple images.")
    channels: list[Channel] = []
    group = dataset.WaveformSequence[0]  # the rhythm; those that follow are averages of it
    values = np.asarray(_dicom_samples(group), np.float32)
    for number, one in enumerate(group.ChannelDefinitionSequence):
        source = one.ChannelSourceSequence[0] if one.get("ChannelSourceSequence") else None
        name = str(one.get("ChannelLabel") or (source.get("CodeMeaning") if source is not None else "") or "")
        units = one.get("ChannelSensitivityUnitsSequence")
        unit = str(units[0].CodeValue) if units else ""
        scale = float(one.get("ChannelSensitivity") or 1) * float(one.get("ChannelSensitivityCorrectionFactor") or 1)
        column = values[:, number] * scale + float(one.get("ChannelBaseline") or 0)
        name = re.sub(r"\s*\(.*", "", name).strip() or f"Channel {number + 1}"
        channels.append(Channel(lead_of(name) or name, unit, float(group.SamplingFrequency), len(column), held(column)))
    family, _, given = str(dataset.get("PatientName") or "").partition("^")
    when = str(dataset.get("AcquisitionDateTime") or dataset.get("StudyDate") or "")
    return Recording("dicom", channels, f"{given.replace('^', ' ')} {family}".strip(), plain_date(when))


def _dicom_samples(group) -> np.ndarray:
    kinds = {"SB": "i1", "UB": "u1", "SS": "<i2", "US": "<u2", "SL": "<i4", "UL": "<u4"}
    kind = kinds.get(str(group.WaveformSampleInterpretation))
    if kind is None:
        raise CannotShow("This recording is packed in a way this viewer does not know.")
    channels = int(group.NumberOfWaveformChannels)
    values = np.frombuffer(group.WaveformData, kind)
    return values[: len(values) // channels * channels].reshape(-1, channels)
