"""JSON (RFC 8259) by the members of its outermost object: FHIR, openEHR, DICOM, SMART Health Cards.

A scanner of our own over the head: it steps through strings and brackets without recursion and builds no values, so
depth and size of what is in them cost nothing.
"""

import re

from myphr.ingest.formats import Identified, Rule
from myphr.ingest.formats.elsewhere import Elsewhere

PUID = "fmt/817"
# A string that does not end takes the rest: tried again at each quote in it, it would take hours.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{},:]|[^\s"\[\]{},:]+', re.DOTALL)
_BRACKET = re.compile(r'(?:[^"\[\]{}]+|"(?:[^"\\]|\\.)*+"?)*+([\[\]{}]|\Z)', re.DOTALL)  # with all before it
_START = re.compile(r"\s*[\[{]\s*(?:[\]}]|[\[{\"]|-?\d|true|false|null)")
_RESOURCE = re.compile(r"[A-Z][A-Za-z]{2,39}")
_RESOURCE_INSIDE = re.compile(r'"resourceType"\s*:\s*"[A-Z][A-Za-z]{2,39}"')
_DICOM_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_JWS = re.compile(rb"(?:shc:/\d{20,}|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,})\s*")
_CONTEXT = re.compile(r'"ctx"\s*:\s*\{[^{}]{0,400}"(?:language|territory)"\s*:')  # openEHR simplified formats, 4.2
# The last member of the outermost object. In a text of a member its quotes would have backslashes before them.
_RESOURCE_LAST = re.compile(rb'(?<!\\)"resourceType"\s*:\s*"[A-Z][A-Za-z]{2,39}"\s*\}\s*\Z')
_TAIL_BYTES = 1024
DEPTH_MAX = 256  # what is nested deeper is no record of anybody, and breaks parsers that recurse
_OPENEHR_TYPES = {"COMPOSITION", "EHR_STATUS", "CONTRIBUTION", "VERSIONED_COMPOSITION", "ORIGINAL_VERSION", "EXTRACT"}


class TooDeep(Exception):
    """Nested beyond DEPTH_MAX."""


def members(text: str) -> dict[str, str]:
    """Members of the outermost object (of the first, in an array of objects): a string's text, for others the first
    sign of their value. As far as the head goes. Raises TooDeep."""
    found: dict[str, str] = {}
    depth, base, name, value_next, fresh = 0, 1, "", False, True
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in "[{":
            if depth == base and value_next:
                found.setdefault(name, sign)
                value_next = False
            if depth == 0 and sign == "[":
                base = 2
            depth += 1
            if depth > DEPTH_MAX:
                raise TooDeep
            fresh = True
        elif sign in "]}":
            depth -= 1
            if depth < base:
                return found
        elif sign == ",":
            fresh = True
        elif sign == ":":
            value_next = depth == base
        elif depth == base:
            if value_next:
                found.setdefault(name, sign[1:].removesuffix('"') if sign[0] == '"' else sign)
                value_next = fresh = False
                if name == "resourceType" and _RESOURCE.fullmatch(found[name]):
                    _check_depth(text, token.end(), depth)
                    return found  # nothing else is asked of a resource
            elif fresh and sign[0] == '"':
                name = sign[1:].removesuffix('"')
                fresh = False
    return found


def _check_depth(text: str, at: int, depth: int) -> None:
    """As far as the outermost bracket ends. Raises TooDeep."""
    for bracket in _BRACKET.finditer(text, at):
        if not bracket[1]:
            return  # the head ends
        depth += 1 if bracket[1] in "[{" else -1
        if depth > DEPTH_MAX:
            raise TooDeep
        if depth <= 0:
            return


def _json(head: bytes) -> Identified | None:
    if _JWS.match(head):
        return Identified("smart-health-card", "application/smart-health-card", "health-card-jws")
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if not _START.match(text):
        return None
    try:
        found = members(text)
    except TooDeep:
        return Identified("unknown", "application/octet-stream", "json-too-deep", "likely")
    if _RESOURCE.fullmatch(found.get("resourceType", "")):
        line = text.split("\n", 1)[0].rstrip()
        rest = text[len(line) :].strip()
        if line.endswith("}") and rest.startswith("{"):
            return Identified("fhir-ndjson", "application/fhir+ndjson", "json-lines-fhir", puid=PUID)
        return Identified("fhir-json", "application/fhir+json", "json-resource-type", puid=PUID)
    if found.get("entry") == "[" and _RESOURCE_INSIDE.search(text):  # its own type may come after all entries
        return Identified("fhir-json", "application/fhir+json", "json-bundle-entries", "likely", PUID)
    simplified = "ctx/language" in found or (found.get("ctx") == "{" and _CONTEXT.search(text) is not None)
    if found.get("_type") in _OPENEHR_TYPES or simplified or "archetype_node_id" in found:
        return Identified("openehr-json", "application/json", "json-openehr", puid=PUID)
    if found.get("verifiableCredential") == "[":
        return Identified("smart-health-card", "application/smart-health-card", "json-health-card", puid=PUID)
    if found and all(_DICOM_TAG.fullmatch(name) for name in list(found)[:4]) and '"vr"' in text:
        return Identified("dicom-json", "application/dicom+json", "json-dicom", puid=PUID)
    first, last = text.lstrip()[0], text.rstrip()[-1:]
    sure = last in "]}" and len(head) < 64 * 1024
    if first == "[" and not sure and not found and '"' not in text:
        return None
    return Identified("json", "application/json", "json", "certain" if sure else "likely", PUID)


def _at_its_end(found: Identified, elsewhere: Elsewhere) -> Identified | None:
    """Members come in any order (RFC 8259, 4), and some servers sort them: behind a long text stands what it is."""
    if elsewhere.size is None or elsewhere.size <= len(elsewhere.head) or elsewhere.head.lstrip()[:1] != b"{":
        return found
    if _RESOURCE_LAST.search(elsewhere.at(elsewhere.size - _TAIL_BYTES, _TAIL_BYTES)):
        return Identified("fhir-json", "application/fhir+json", "json-resource-type-last", "likely", PUID)
    return found


RULES = (Rule("json", _json),)
CLOSER = {"json": _at_its_end}
