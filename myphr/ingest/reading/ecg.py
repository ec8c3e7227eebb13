"""ECGs and signals that are files of their own: EDF/BDF (edfplus.info), HL7 aECG (2004), SCP-ECG (EN 1064), MUSE.

The first ten seconds are drawn, on ECG paper where the file says its units. A strip is a look, never a measurement.
"""

import base64
import binascii
import io
from collections.abc import Iterator
from typing import Any

import edfio
import numpy
from numpy.typing import NDArray

from myphr.ingest.reading import ecg_paper, pictures, scp, xml_tree
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import compact, moment_of
from myphr.ingest.reading.ecg_paper import Lead
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"edf", "bdf", "aecg-xml", "philips-ecg-xml", "muse-ecg-xml", "scp-ecg", "wfdb-hea"})
_MILLIVOLTS = {"mv": 1.0, "uv": 0.001, "µv": 0.001, "μv": 0.001, "nv": 1e-6, "v": 1000.0}
_HEART = ("ecg", "ekg", "heart")


def warm_up() -> None:
    signal = edfio.EdfSignal(numpy.zeros(100), 100, label="ECG II", physical_dimension="mV", physical_range=(-1, 1))
    out = io.BytesIO()
    edfio.Edf([signal]).write(out)
    list(read(Content("edf", out.getvalue(), out.tell())))


def read(content: Content) -> Iterator[FullReading]:
    readers = {"edf": _edf, "bdf": _edf, "aecg-xml": _aecg, "philips-ecg-xml": _philips, "muse-ecg-xml": _muse,
               "scp-ecg": _scp, "wfdb-hea": _wfdb}  # fmt: skip
    yield from readers[content.format](content)


def _drawn(words: Reading, leads: list[Lead]) -> Iterator[FullReading]:
    yield FullReading(words)
    leads = [lead for lead in leads if len(lead.values) > 1]
    if leads:
        yield FullReading(words, pictures.png_of(ecg_paper.draw(leads)))


def _facts(names: list[str], seconds: float, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    length = ecg_paper.length_words(seconds) if seconds > 0 else ""
    pairs = (("Leads" if len(names) > 1 else "Lead", ", ".join(filter(None, names[:24]))), ("Length", length), *more)
    return tuple((name, value) for name, value in pairs if value)


# -- EDF, BDF -------------------------------------------------------------------------------------
def _edf(content: Content) -> Iterator[FullReading]:
    head = content.data[:256]
    try:
        count, records, seconds_each = int(head[252:256]), int(head[236:244]), float(head[244:252])
        header_bytes = int(head[184:192])
        fields = content.data[256:header_bytes]
        per_record = [int(fields[216 * count + 8 * at : 216 * count + 8 * at + 8]) for at in range(count)]
    except ValueError:
        raise NotRead("The recording is damaged") from None
    width = 3 if content.format == "bdf" else 2
    record_bytes = sum(per_record) * width
    if not (0 < count <= 512) or record_bytes <= 0 or min(per_record) < 0 or header_bytes != 256 * (count + 1):
        raise NotRead("The recording is damaged")
    here = max(0, (len(content.data) - header_bytes) // record_bytes)
    if records > here and content.whole:
        if not here:
            raise NotRead("The recording is damaged: it is shorter than it says")
        records = here
    # Only as many records as are drawn: a night's sleep has 200 MB
    shown = max(1, min(here, records if records > 0 else here, int(ecg_paper.SECONDS_MAX / (seconds_each or 1)) + 1))
    cut = head[:236] + f"{shown:<8}".encode() + head[244:256] + fields
    cut += content.data[header_bytes : header_bytes + shown * record_bytes]
    recording: Any = edfio.read_bdf(cut) if content.format == "bdf" else edfio.read_edf(cut)
    leads, heart = [], False
    for signal in recording.signals[:64]:
        scale = _MILLIVOLTS.get(signal.physical_dimension.strip().lower())
        is_heart = any(word in signal.label.lower() for word in _HEART) or _is_lead(signal.label)
        heart = heart or is_heart
        values = numpy.asarray(signal.data, dtype="float32")
        known = is_heart and scale is not None
        leads.append(Lead(ecg_paper.short_name(signal.label), values * (scale or 1), signal.sampling_frequency, known))
    try:
        moment = moment_of(recording.startdate)
    except (ValueError, AttributeError):  # EDF+ says X where the date was taken out
        moment = None
    patient = recording.patient
    name = patient.name if patient.name not in ("X", "") else ""
    facts = _facts([lead.name for lead in leads], max(0, records) * seconds_each,
                   ("Machine", _edf_word(recording.recording.equipment_code)))  # fmt: skip
    words = Reading(
        kind_words="ECG" if heart else "Signal recording", title="ECG" if heart else "Signal recording",
        date=moment.iso if moment else "", date_words=moment.words if moment else "", patient=name.replace("_", " "),
        author=_edf_word(recording.recording.investigator_technician_code), facts=facts,
        place=_edf_word(recording.recording.hospital_administration_code),
        text="\n".join(filter(None, (*(lead.name for lead in leads), name))),
    )  # fmt: skip
    if not all(lead.known for lead in leads):
        leads = [Lead(lead.name, lead.values, lead.rate, False) for lead in leads]
    yield from _drawn(words, leads)


def _edf_word(text: str) -> str:
    return "" if text in ("X", "") else text.replace("_", " ")


def _is_lead(label: str) -> bool:
    return ecg_paper.short_name(label) in {"I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"}


# -- XML ------------------------------------------------------------------------------------------
def _aecg(content: Content) -> Iterator[FullReading]:
    """HL7 aECG: sequenceSet of one time axis and one value list a lead, as origin plus digits times scale."""
    root = xml_tree.parse(content.data)
    leads: list[Lead] = []
    moment = compact(xml_tree.value(root, "effectiveTime/low") or xml_tree.value(root, "effectiveTime/center"))
    rhythm = xml_tree.find(root, "component/series")
    seconds = 0.0
    for group in [*xml_tree.each(rhythm, "component/sequenceSet")][:1]:
        rate = 500.0
        for sequence in xml_tree.each(group, "component/sequence"):
            code = xml_tree.value(sequence, "code", "code")
            held = xml_tree.find(sequence, "value")
            if held is None:
                continue
            if code.startswith("TIME_"):
                step = float(xml_tree.value(held, "increment") or 0)
                unit = xml_tree.value(held, "increment", "unit")
                rate = 1 / (step * {"s": 1, "ms": 1e-3, "us": 1e-6}.get(unit, 1)) if step else rate
                continue
            digits = numpy.fromstring(xml_tree.words(xml_tree.find(held, "digits")), sep=" ", dtype="float32")
            scale = float(xml_tree.value(held, "scale") or 1)
            unit = xml_tree.value(held, "scale", "unit").lower()
            origin = float(xml_tree.value(held, "origin") or 0)
            millivolts = _MILLIVOLTS.get(unit, 0.001)
            seconds = max(seconds, len(digits) / rate)
            values = (digits[: int(rate * ecg_paper.SECONDS_MAX)] * scale + origin) * millivolts
            leads.append(Lead(ecg_paper.short_name(code), values, rate))
    subject = xml_tree.find(
        root, "componentOf/timepointEvent/componentOf/subjectAssignment/subject/trialSubject/subjectDemographicPerson"
    )
    device = xml_tree.find(rhythm, "author/seriesAuthor/manufacturedSeriesDevice")
    model = xml_tree.words(xml_tree.find(device, "manufacturerModelName"))
    maker = xml_tree.words(xml_tree.find(rhythm, "author/seriesAuthor/manufacturerOrganization/name"))
    born = compact(xml_tree.value(subject, "birthTime"))
    words = Reading(
        kind_words="ECG", title=xml_tree.value(root, "code", "displayName") or "ECG", text="ECG",
        date=moment.iso if moment else "", date_words=moment.words if moment else "",
        patient=xml_tree.words(xml_tree.find(subject, "name")),
        facts=_facts([lead.name for lead in leads], seconds, ("Time", moment.time_words if moment else ""),
                     ("Born", born.words if born else ""), ("Machine", f"{maker} {model}".strip())),
    )  # fmt: skip
    yield from _drawn(words, leads)


def _philips(content: Content) -> Iterator[FullReading]:
    """Philips' own XML packs its leads its own way (XLI): told by its header only."""
    root = xml_tree.parse(content.data)
    moment = compact(_attribute(root, "dataacquisition", "date").replace("-", ""))
    name = " ".join(filter(None, (_deep(root, "firstname"), _deep(root, "lastname"))))
    statements = [xml_tree.words(one) for one in root.iter("{*}leftstatement")][:20]
    yield FullReading(Reading(
        kind_words="ECG", title="ECG", patient=name, date=moment.iso if moment else "",
        date_words=moment.words if moment else "", place=_deep(root, "institutionname") or _deep(root, "facilityname"),
        facts=_facts([], 0, ("The device notes", "; ".join(filter(None, statements))),
                     ("Heart rate", _deep(root, "heartrate"))),
        text="\n".join(["ECG", *statements]),
    ))  # fmt: skip


def _muse(content: Content) -> Iterator[FullReading]:
    """GE MUSE: base64 of 16-bit samples a lead; the four leads that are not kept follow from I and II."""
    root = xml_tree.parse(content.data)
    leads: dict[str, Lead] = {}
    seconds = 0.0
    for wave in root.iter("{*}Waveform"):
        if xml_tree.words(xml_tree.find(wave, "WaveformType")) != "Rhythm":
            continue
        rate = float(xml_tree.words(xml_tree.find(wave, "SampleBase")) or 500)
        exponent = int(xml_tree.words(xml_tree.find(wave, "SampleExponent")) or 0)
        rate *= 10.0**exponent
        for one in xml_tree.each(wave, "LeadData"):
            try:
                raw = base64.b64decode(xml_tree.words(xml_tree.find(one, "WaveFormData")))
            except (binascii.Error, ValueError):
                continue
            unit = float(xml_tree.words(xml_tree.find(one, "LeadAmplitudeUnitsPerBit")) or 4.88)
            values: NDArray = numpy.frombuffer(raw[: len(raw) // 2 * 2], "<i2").astype("float32") * unit / 1000
            seconds = max(seconds, len(values) / rate)
            name = xml_tree.words(xml_tree.find(one, "LeadID"))
            leads[name] = Lead(name, values[: int(rate * ecg_paper.SECONDS_MAX)], rate)
    _derive(leads)
    day = xml_tree.words(next(root.iter("{*}AcquisitionDate"), None)).split("-")
    moment = compact("".join((day[2], day[0], day[1]))) if len(day) == 3 else None
    name = " ".join(filter(None, (_deep(root, "PatientFirstName"), _deep(root, "PatientLastName"))))
    statements = [xml_tree.words(one) for one in root.iter("{*}StmtText")][:20]
    words = Reading(
        kind_words="ECG", title="ECG", patient=name, date=moment.iso if moment else "",
        date_words=moment.words if moment else "", place=_deep(root, "SiteName"),
        facts=_facts(list(leads), seconds, ("The device notes", "; ".join(filter(None, statements)))),
        text="\n".join(["ECG", *statements]),
    )  # fmt: skip
    yield from _drawn(words, list(leads.values()))


def _derive(leads: dict[str, Lead]) -> None:
    """Einthoven and Goldberger: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2."""
    one, two = leads.get("I"), leads.get("II")
    if one is None or two is None or len(one.values) != len(two.values):
        return
    i, ii = one.values, two.values
    for name, values in (("III", ii - i), ("aVR", -(i + ii) / 2), ("aVL", i - ii / 2), ("aVF", ii - i / 2)):
        leads.setdefault(name, Lead(name, values, one.rate))


def _deep(root: xml_tree.Element, name: str) -> str:
    return xml_tree.words(next(root.iter(f"{{*}}{name}"), None))


def _attribute(root: xml_tree.Element, name: str, attribute: str) -> str:
    found = next(root.iter(f"{{*}}{name}"), None)
    return str(found.get(attribute) or "") if found is not None else ""


# -- SCP, WFDB ------------------------------------------------------------------------------------
def _scp(content: Content) -> Iterator[FullReading]:
    record = scp.read(content.data)
    leads = {name: Lead(name, values[: int(record.rate * ecg_paper.SECONDS_MAX)], record.rate)
             for name, values in record.leads.items()}  # fmt: skip
    _derive(leads)
    moment, born = compact(record.date), compact(record.born)
    seconds = max((len(values) for values in record.leads.values()), default=0) / (record.rate or 1)
    words = Reading(
        kind_words="ECG", title="ECG", patient=record.patient, place=record.place, author=record.author, text="ECG",
        date=moment.iso if moment else "", date_words=moment.words if moment else "",
        facts=_facts(list(leads), seconds, ("Born", born.words if born else "")), note=record.note,
    )  # fmt: skip
    yield from _drawn(words, list(leads.values()))


def _wfdb(content: Content) -> Iterator[FullReading]:
    """The header of a PhysioNet record: its signals are in other files."""
    lines = [line for line in content.data[:65536].decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("#")]
    first = told[0].split()
    rate = float(first[2].split("/")[0].split("(")[0]) if len(first) > 2 else 250.0
    samples = int(first[3]) if len(first) > 3 and first[3].isdecimal() else 0
    names = [line.split(maxsplit=8)[-1] for line in told[1:] if len(line.split()) >= 9]
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")][:20]
    yield FullReading(Reading(
        kind_words="Signal recording", title="What a recording holds", text="\n".join([*names, *comments]),
        facts=_facts(names, samples / rate if rate > 0 else 0, ("Notes", "; ".join(comments))),
        note="The recording itself is in the file beside it",
    ))  # fmt: skip
