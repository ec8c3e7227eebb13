"""FHIR resources and bundles (DSTU2 to R5), JSON, XML or one a line: read leniently, in plain words and counts.

A fifth of the real bundles fail a strict parser and are readable all the same, so nothing is validated here. A document
(Composition) is shown by its narratives; what has none is listed from its fields.
"""

import collections
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from lxml import etree

from myphr.ingest.reading import safe_html, xml_tree
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import Moment, iso
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"fhir-json", "fhir-xml", "fhir-ndjson"})
RESOURCES_MAX = 20_000
LISTED_MAX = 60  # of one kind
SECTION_DEPTH_MAX = 6

_KINDS = {  # as a heading, one of them, several
    "AllergyIntolerance": ("Allergies", "allergy", "allergies"),
    "Condition": ("Illnesses", "illness", "illnesses"),
    "MedicationStatement": ("Medicines taken", "medicine taken", "medicines taken"),
    "MedicationRequest": ("Prescriptions", "prescription", "prescriptions"),
    "MedicationOrder": ("Prescriptions", "prescription", "prescriptions"),
    "MedicationAdministration": ("Medicines given", "medicine given", "medicines given"),
    "MedicationDispense": ("Medicines handed out", "medicine handed out", "medicines handed out"),
    "Medication": ("Medicines", "medicine", "medicines"),
    "Immunization": ("Vaccinations", "vaccination", "vaccinations"),
    "Procedure": ("Procedures", "procedure", "procedures"),
    "Encounter": ("Visits", "visit", "visits"),
    "Observation": ("Measurements and findings", "measurement", "measurements"),
    "DiagnosticReport": ("Reports", "report", "reports"),
    "DocumentReference": ("Documents", "document", "documents"),
    "ImagingStudy": ("Scans", "scan", "scans"),
    "CarePlan": ("Care plans", "care plan", "care plans"),
    "Goal": ("Goals", "goal", "goals"),
    "ServiceRequest": ("Orders", "order", "orders"),
    "Device": ("Devices", "device", "devices"),
    "DeviceUseStatement": ("Devices used", "device used", "devices used"),
    "FamilyMemberHistory": ("Family history", "entry of family history", "entries of family history"),
    "Appointment": ("Appointments", "appointment", "appointments"),
    "Claim": ("Bills", "bill", "bills"),
    "ExplanationOfBenefit": ("Insurance statements", "insurance statement", "insurance statements"),
    "Patient": ("Person", "person", "persons"),
    "Practitioner": ("Doctors and others", "doctor or other", "doctors and others"),
    "Organization": ("Organisations", "organisation", "organisations"),
    "Coverage": ("Insurance", "insurance", "insurances"),
    "Consent": ("Consents", "consent", "consents"),
    "Specimen": ("Samples", "sample", "samples"),
    "MolecularSequence": ("Gene sequences", "gene sequence", "gene sequences"),
    "Media": ("Pictures", "picture", "pictures"),
    "Binary": ("Attached files", "attached file", "attached files"),
    "CareTeam": ("Care teams", "care team", "care teams"),
    "QuestionnaireResponse": ("Questionnaires", "questionnaire", "questionnaires"),
    "Composition": ("Health record", "health record", "health records"),
}
_LISTED = ("AllergyIntolerance", "Condition", "MedicationStatement", "MedicationRequest", "MedicationOrder",
           "MedicationAdministration", "MedicationDispense", "Immunization", "Procedure", "DiagnosticReport",
           "Observation", "ImagingStudy", "DocumentReference", "Encounter", "CarePlan", "Goal", "ServiceRequest",
           "Device", "FamilyMemberHistory", "Appointment", "QuestionnaireResponse")  # fmt: skip
_DATES = ("effectiveDateTime", "occurrenceDateTime", "performedDateTime", "onsetDateTime", "date", "dateTime", "issued",
          "started", "recordedDate", "recorded", "authoredOn", "dateAsserted", "assertedDate", "dateWritten",
          "created", "start", "timestamp", "authored", "statusDate", "startDate")  # fmt: skip
_PERIODS = ("effectivePeriod", "performedPeriod", "occurrencePeriod", "period", "onsetPeriod", "context")
_TITLES = ("code", "vaccineCode", "medicationCodeableConcept", "medicationCode", "type", "category", "relationship",
           "serviceType", "class", "reasonCode", "procedureCode")  # fmt: skip


def warm_up() -> None:
    list(read(Content("fhir-json", b'{"resourceType":"Patient","name":[{"text":"x"}]}', 1)))
    list(read(Content("fhir-xml", b'<Patient xmlns="http://hl7.org/fhir"><birthDate value="2000"/></Patient>', 1)))


def read(content: Content) -> Iterator[FullReading]:
    if not content.whole:
        raise NotRead("The document is too large for a preview")
    root, resources = _load(content)
    book = _Book(resources)
    yield book.reading_of(root)


# -- loading --------------------------------------------------------------------------------------
def _load(content: Content) -> tuple[dict, list[dict]]:
    """The outermost resource, and all of them, a bundle's entries in its place."""
    try:
        if content.format == "fhir-xml":
            root = _from_xml(xml_tree.parse(content.data))
        elif content.format == "fhir-ndjson":
            lines = content.data.decode("utf-8-sig", "replace").splitlines()[:RESOURCES_MAX]
            rows = [json.loads(line) for line in lines if line.strip()]
            root = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": row} for row in rows]}
        else:
            root = json.loads(content.data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise NotRead("The document is damaged") from None
    if not isinstance(root, dict):
        raise NotRead
    if root.get("resourceType") != "Bundle":
        return root, [root, *(one for one in many(root, "contained") if isinstance(one, dict))]
    entries = [entry for entry in many(root, "entry")[:RESOURCES_MAX]
               if isinstance(entry, dict) and isinstance(entry.get("resource"), dict)]  # fmt: skip
    return root, [entry["resource"] | {"_fullUrl": str(entry.get("fullUrl") or "")} for entry in entries]


def _from_xml(element: etree._Element) -> dict:
    """As the JSON of the same resource would be, but that one may stand where a list should (`many` takes both)."""
    made = _fields(element)
    made["resourceType"] = xml_tree.name_of(element)
    return made


def _fields(element: etree._Element) -> dict:
    made: dict[str, Any] = {}
    for child in element:
        if not isinstance(child.tag, str):
            continue
        name = xml_tree.name_of(child)
        if name == "div":
            value: Any = etree.tostring(child, encoding="unicode", with_tail=False)
        elif name in ("resource", "contained") and len(child):
            value = _from_xml(child[0])
        elif len(child):
            value = _fields(child)
        else:
            value = child.get("value") or ""
        if name not in made:
            made[name] = value
        elif isinstance(made[name], list):
            made[name].append(value)
        else:
            made[name] = [made[name], value]
    return made


# -- lenient access -------------------------------------------------------------------------------
def many(resource: Any, key: str) -> list[Any]:
    value = resource.get(key) if isinstance(resource, dict) else None
    return value if isinstance(value, list) else [] if value is None else [value]


def first(resource: Any, *path: str) -> Any:
    """The first value down a path, lists or not, or None."""
    for key in path:
        resource = next(iter(many(resource, key)), None)
        if resource is None:
            return None
    return resource


def said(value: Any) -> str:
    """A text, number, CodeableConcept, Coding, Quantity, Reference or HumanName in words."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return " ".join(str(value).split())
    if isinstance(value, list):
        return ", ".join(filter(None, map(said, value[:10])))
    if not isinstance(value, dict):
        return ""
    if value.get("text") and isinstance(value["text"], str):
        return value["text"]
    if codings := many(value, "coding"):
        named = (str(one["display"]) for one in codings if isinstance(one, dict) and one.get("display"))
        return next(named, "") or str(first(codings[0], "code") or "")
    for key in ("display", "name", "title"):
        if isinstance(value.get(key), str):
            return value[key]
    if "family" in value or "given" in value:
        parts = [*many(value, "prefix"), *many(value, "given"), *many(value, "family"), *many(value, "suffix")]
        return " ".join(str(part) for part in parts if isinstance(part, str))
    if "value" in value:
        unit = value.get("unit") or value.get("code") or ""
        return f"{value['value']} {unit}".strip() if not isinstance(value["value"], dict) else ""
    if "low" in value or "high" in value:
        low, high = said(value.get("low")), said(value.get("high"))
        return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"
    return str(value.get("code") or "") if isinstance(value.get("code"), str) else ""


def when(resource: dict) -> Moment | None:
    for key in _DATES:
        if isinstance(resource.get(key), str) and (moment := iso(resource[key])):
            return moment
    for key in _PERIODS:
        period = first(resource, key)
        found = iso(first(period, "start") or first(period, "end") or first(period, "period", "start"))
        if found:
            return found
    return None


def title_of(resource: dict) -> str:
    for key in ("title", "description"):
        if isinstance(resource.get(key), str) and resource[key].strip():
            return resource[key]
    for key in _TITLES:
        if words := said(first(resource, key)):
            return words
    reference = first(resource, "medicationReference", "display") or first(resource, "medication", "concept")
    return said(reference) or said(first(resource, "name"))


def value_of(resource: dict) -> str:
    for key in ("valueQuantity", "valueCodeableConcept", "valueString", "valueInteger", "valueRange", "valueRatio",
                "valueDateTime"):  # fmt: skip
        if key in resource and (words := said(first(resource, key))):
            return words
    if isinstance(resource.get("valueBoolean"), bool):
        return "yes" if resource["valueBoolean"] else "no"
    parts = [f"{said(first(one, 'code'))}: {value_of(one)}" for one in many(resource, "component")[:12]
             if isinstance(one, dict) and value_of(one)]  # fmt: skip
    if parts:
        return "; ".join(parts)
    return said(first(resource, "dosage", "text") or first(resource, "dosageInstruction", "text")) or said(
        first(resource, "conclusion")
    )


# -- telling --------------------------------------------------------------------------------------
class _Book:
    """The resources of one file, found by their references."""

    def __init__(self, resources: list[dict]) -> None:
        self.resources = resources
        self.by_kind: dict[str, list[dict]] = collections.defaultdict(list)
        self.by_reference: dict[str, dict] = {}
        for one in resources:
            kind, id_ = str(one.get("resourceType") or "Resource"), one.get("id")
            self.by_kind[kind].append(one)
            for key in (one.get("_fullUrl"), f"{kind}/{id_}" if id_ else None, f"#{id_}" if id_ else None):
                if key:
                    self.by_reference[str(key)] = one

    def of(self, reference: Any) -> dict | None:
        text = str(first(reference, "reference") or "")
        return self.by_reference.get(text) or self.by_reference.get("/".join(text.split("/")[-2:]))

    def name(self, reference: Any) -> str:
        found = self.of(reference)
        if found is not None and found.get("resourceType") == "PractitionerRole":
            return self.name(first(found, "practitioner")) or self.name(first(found, "organization"))
        return (said(first(found, "name")) if found else "") or said(first(reference, "display"))

    def reading_of(self, root: dict) -> FullReading:
        composition = next(iter(self.by_kind.get("Composition", [])), None)
        main = composition or (root if root.get("resourceType") != "Bundle" else None) or self._report()
        patient = self._patient(main)
        moment = (when(main) if main else None) or iso(root.get("timestamp"))
        latest = max((found.iso for one in self.resources if (found := when(one))), default="")
        if moment is None and latest:
            moment = iso(latest)
        kind = str((main or root).get("resourceType") or "")
        title = (title_of(main) if main else "") or _KINDS.get(kind, ("Health record", "", ""))[0]
        if kind == "Patient" and len(self.resources) == 1:
            title = "Personal details"
        born = iso(first(patient, "birthDate")) if patient else None
        subject = first(main, "subject") or first(main, "patient")
        facts = [("Born", born.words if born else ""), ("In it", self._counts())]
        if main and kind != "Composition":
            facts += [("Result", value_of(main)), ("State", said(first(main, "status")))]
        words = Reading(
            kind_words="Health record" if root.get("resourceType") == "Bundle" or composition else
            _KINDS.get(kind, ("Health record", "", ""))[0],
            title=title, date=moment.iso if moment else "", date_words=moment.words if moment else "",
            place=self._place(main), author=self._author(main),
            patient=said(first(patient, "name")) if patient else self.name(subject),
            facts=tuple((name, value) for name, value in facts if value),
        )  # fmt: skip
        markup = f"<h1>{safe_html.escape(title)}</h1>" + (self._sections(composition) if composition else "")
        if not composition:
            markup += self._narrative(root) if root.get("resourceType") != "Bundle" else ""
            markup += self._lists()
        narrative = safe_html.clean(markup)
        text = safe_html.text_of(narrative)
        return FullReading(dataclasses.replace(words, text=text), None, narrative if text != title.strip() else None)

    def _report(self) -> dict | None:
        """What a bundle is about when it holds one report and its results."""
        reports = self.by_kind.get("DiagnosticReport", [])
        return reports[0] if len(reports) == 1 and len(self.resources) <= 60 else None

    def _patient(self, main: dict | None) -> dict | None:
        found = self.of(first(main, "subject") or first(main, "patient")) if main else None
        if main and main.get("resourceType") == "Patient":
            return main
        return found or next(iter(self.by_kind.get("Patient", [])), None)

    def _author(self, main: dict | None) -> str:
        for key in ("author", "performer", "recorder", "requester", "asserter", "participant", "practitioner"):
            for one in many(main, key) if main else []:
                one = first(one, "actor") or first(one, "individual") or first(one, "member") or one
                target = self.of(one)
                if target is not None and target.get("resourceType") == "Organization":
                    continue
                if name := self.name(one):
                    return name
        return ""

    def _place(self, main: dict | None) -> str:
        for key in ("custodian", "managingOrganization", "serviceProvider", "organization", "performer", "author"):
            for one in many(main, key) if main else []:
                one = first(one, "actor") or one
                target = self.of(one)
                if key in ("performer", "author") and (target is None or target.get("resourceType") != "Organization"):
                    continue
                if name := self.name(one):
                    return name
        organisations = self.by_kind.get("Organization", [])
        return said(first(organisations[0], "name")) if len(organisations) == 1 else ""

    def _counts(self) -> str:
        if len(self.resources) < 2:
            return ""
        parts = []
        for kind in (*_LISTED, *sorted(self.by_kind)):
            count = len(self.by_kind.get(kind, ()))
            if count and kind in _KINDS and kind not in ("Patient", "Composition"):
                words = f"{count:,} {_KINDS[kind][1 if count == 1 else 2]}"
                if words not in parts:
                    parts.append(words)
        return ", ".join(parts[:12])

    def _narrative(self, resource: dict) -> str:
        div = first(resource, "text", "div")
        return div if isinstance(div, str) else ""

    def _sections(self, holder: dict, level: int = 2) -> str:
        out = []
        for section in many(holder, "section")[:100]:
            if not isinstance(section, dict):
                continue
            title = said(section.get("title")) or said(first(section, "code"))
            heading = f"<h{min(level, 5)}>{safe_html.escape(title)}</h{min(level, 5)}>" if title else ""
            told = self._narrative(section) or self._list([
                found for one in many(section, "entry")[:LISTED_MAX] if (found := self.of(one)) is not None
            ])  # fmt: skip
            inner = self._sections(section, level + 1) if level < SECTION_DEPTH_MAX else ""
            out.append(heading + (told or ("" if inner else "<p>Nothing is written here.</p>")) + inner)
        return "".join(out)

    def _lists(self) -> str:
        """What no narrative tells: each kind with its newest entries."""
        out = []
        for kind in _LISTED:
            rows = self.by_kind.get(kind, [])
            if not rows or (len(self.resources) == 1 and first(rows[0], "text", "div")):
                continue
            rows = sorted(rows, key=lambda one: moment.iso if (moment := when(one)) else "", reverse=True)
            if table := self._list(rows[:LISTED_MAX]):
                more = f"<p>And {len(rows) - LISTED_MAX:,} more.</p>" if len(rows) > LISTED_MAX else ""
                out.append(f"<h2>{_KINDS[kind][0]}</h2>{table}{more}")
        return "".join(out)

    def _list(self, resources: list[dict]) -> str:
        rows = []
        for one in resources:
            moment = when(one)
            title = title_of(one) or self.name(first(one, "medicationReference") or first(one, "medication"))
            state = said(first(one, "clinicalStatus")) or said(first(one, "status"))
            usual = said(first(one, "referenceRange")) if one.get("resourceType") == "Observation" else ""
            rows.append((moment.words if moment else "", title, value_of(one), usual, state))
        return safe_html.table(("When", "What", "Result or dose", "Usual", "State"), rows)
