"""XML by its root element and namespace (XML 1.0; Namespaces in XML): CDA, FHIR, ECGs, GIFTI, Apple Health ...

A scanner of our own over the head: no parser, so no entities, no DTD, no depth. A document type declaration is
stepped over.
"""

import re

from myphr.ingest.formats import Identified, Rule

PUID = "fmt/101"
_ENCODED = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"<\0?\0", "utf-16-le"), (b"\0<\0?", "utf-16-be"))
# Atomic groups: what has matched is never tried another way, so hostile nesting costs nothing. What does not end takes
# the rest.
_BEFORE_ROOT = re.compile(
    r"\s+|<\?.*?(?:\?>|\Z)|<!--.*?(?:-->|\Z)|"
    r"<!DOCTYPE\s(?>[^\[>]*)(?:\[(?>(?:<!--.*?(?:-->|\Z)|\"[^\"]*\"|'[^']*'|[^\]\"'])*)\]\s*)?>",
    re.DOTALL | re.IGNORECASE,
)
_ROOT = re.compile(  # a value may hold what ends a tag elsewhere
    r"<(?:([A-Za-z_][\w.-]*):)?([A-Za-z_][\w.-]*)((?:\s(?>(?:[^<>\"']+|\"[^<\"]*\"|'[^<']*')*))?)>", re.DOTALL
)
_NAMESPACE = re.compile(r"\sxmlns(?::([\w.-]+))?\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_HL7, _FHIR, _OPENEHR = "urn:hl7-org:v3", "http://hl7.org/fhir", "http://schemas.openehr.org/"
_OPENEHR_ROOTS = {"composition", "ehr_status", "versioned_composition", "version", "extract", "compositions"}

# What a page or a part of one begins with
_HTML_PARTS = {
    "body", "head", "div", "p", "table", "script", "iframe", "title", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol",
    "span", "br", "hr", "pre", "center", "font", "img",
}  # fmt: skip

# (root, start of its namespace) -> format, media type. An empty namespace: whatever it is.
_ROOTS: dict[tuple[str, str], tuple[str, str]] = {
    ("ClinicalDocument", _HL7): ("cda-xml", "application/xml"),
    ("AnnotatedECG", _HL7): ("aecg-xml", "application/xml"),
    ("restingecgdata", ""): ("philips-ecg-xml", "application/xml"),
    ("RestingECG", ""): ("muse-ecg-xml", "application/xml"),
    ("CardiologyXML", ""): ("ge-ecg-xml", "application/xml"),
    ("GIFTI", ""): ("gifti", "application/xml"),
    ("HealthData", ""): ("apple-health-xml", "application/xml"),
    ("ContinuityOfCareRecord", "urn:astm-org:CCR"): ("ccr-xml", "application/xml"),
    ("TrainingCenterDatabase", ""): ("tcx", "application/vnd.garmin.tcx+xml"),
    ("gpx", ""): ("gpx", "application/gpx+xml"),
    ("svg", ""): ("svg", "image/svg+xml"),
    ("html", ""): ("html", "text/html"),
    ("OME", "http://www.openmicroscopy.org/"): ("ome-xml", "application/xml"),
    ("NativeDicomModel", ""): ("dicom-xml", "application/dicom+xml"),
}


def text_of(head: bytes) -> str:
    """The head as text: XML may be UTF-16, and everything that a root element needs is ASCII."""
    for mark, encoding in _ENCODED:
        if head.startswith(mark):
            return head.decode(encoding, "replace").removeprefix("\ufeff")
    return head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")


def root_of(text: str) -> tuple[str, str] | None:
    """(local name, namespace) of the root element, or None if this is no XML."""
    at = 0
    while found := _BEFORE_ROOT.match(text, at):
        at = found.end()
    root = _ROOT.match(text, at)
    if root is None:
        return None
    prefix, name, attributes = root[1] or "", root[2], root[3]
    for space in _NAMESPACE.finditer(attributes):
        if (space[1] or "") == prefix:
            return name, space[2] or space[3] or ""
    return name, ""


def _xml(head: bytes) -> Identified | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:4]
    if not (start.startswith(b"<") or start[:2] in (b"\xff\xfe", b"\xfe\xff", b"\0<")):
        return None
    text = text_of(head)
    root = root_of(text)
    if root is None:
        declared = text.lstrip().startswith("<?xml")
        return Identified("xml", "application/xml", "xml-declaration", "likely", PUID) if declared else None
    name, namespace = root
    for (known, space), (code, media_type) in _ROOTS.items():
        if name == known and namespace.startswith(space):
            return Identified(code, media_type, f"xml-root-{name.lower()}", puid=PUID if code != "html" else "")
    if name == "ClinicalDocument" and not namespace and "POCD_HD000040" in text[:8192]:  # CDA R2, 4.2.1.2: its typeId
        return Identified("cda-xml", "application/xml", "xml-root-cda-bare", "likely", PUID)
    if namespace == _FHIR and name[:1].isupper():
        return Identified("fhir-xml", "application/fhir+xml", "xml-fhir", puid=PUID)
    if namespace.startswith(_OPENEHR) or (name.lower() in _OPENEHR_ROOTS and "archetype_node_id" in text[:8192]):
        return Identified("openehr-xml", "application/xml", "xml-openehr", puid=PUID)
    if name.lower() in _HTML_PARTS and not namespace and not text.lstrip().startswith("<?xml"):
        return Identified("html", "text/html", "html-fragment", "likely")
    declared = text.lstrip().startswith("<?xml")
    if not declared and not namespace and f"</{name}" not in text and "/>" not in text:
        return None  # a text that begins with something in angle brackets
    return Identified("xml", "application/xml", "xml", "certain" if declared else "likely", PUID)


RULES = (Rule("xml", _xml),)
