"""What is in an answer of a FHIR server, read leniently from its JSON: entries, the link to the next page, attachments,
and by what an entry is known again. FHIR R4 (4.0.1): Bundle, DocumentReference, Attachment, Identifier.

Pure. An entry is known again by its identifiers; its content is hashed without what changes from one export to the
next (id, meta, text, references). Measured on nine bundles with new ids in another order: nothing counted as new. Both
hold across imports only: within one, entries that differ by a reference alone are different entries. Called by
`fetching`; nothing else in the portal trusts what stands here.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin

from myphr.ingest.fhir import smart

_LEFT_OUT = frozenset({"id", "meta", "text", "reference", "fullUrl"})
DEPTH_MAX = 60  # of one resource: real ones reach 12
IDENTIFIERS_MAX = 50  # of one resource


@dataclasses.dataclass(frozen=True)
class Entry:
    """`identities`: "Type|system|value". `content`: hex SHA-256 of what it says."""

    type: str
    identities: tuple[str, ...] = dataclasses.field(repr=False)
    content: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Attachment:
    """A file that an entry speaks of: `url` as the server wrote it, or `content` that stood in the entry itself."""

    url: str = dataclasses.field(repr=False)
    content: bytes | None = dataclasses.field(repr=False)
    media_type: str
    title: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Page:
    """`type` is the resourceType of the whole; `next` is "" at the end."""

    type: str
    entries: tuple[Entry, ...]
    next: str = dataclasses.field(repr=False)
    attachments: tuple[Attachment, ...] = dataclasses.field(repr=False)


def page_of(body: bytes, url: str) -> Page | None:
    """What stands in an answer of this address, or None if it is no FHIR resource."""
    document = smart.json_of(body)
    if not isinstance(document, Mapping) or not isinstance(document.get("resourceType"), str):
        return None
    resources = list(_resources(document))
    return Page(
        type=document["resourceType"][:64],
        entries=tuple(entry for entry in map(_entry, resources) if entry is not None),
        next=_next(document, url),
        attachments=tuple(one for resource in resources for one in _attachments(resource)),
    )


def _resources(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the answer gives: the entries of a Bundle that are no remark on the search, else the resource itself."""
    if document["resourceType"] != "Bundle":
        yield document
        return
    entries = document.get("entry")
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping):
            continue
        search = entry.get("search")
        resource = entry.get("resource")
        remark = isinstance(search, Mapping) and search.get("mode") == "outcome"
        if isinstance(resource, Mapping) and not remark and resource.get("resourceType") != "OperationOutcome":
            yield resource


def _entry(resource: Mapping[str, Any]) -> Entry | None:
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or kind in ("CapabilityStatement", "OperationOutcome"):
        return None
    identities = []
    stated = resource.get("identifier")
    for one in (stated if isinstance(stated, list) else [stated])[:IDENTIFIERS_MAX]:
        if isinstance(one, Mapping) and isinstance(one.get("value"), str) and one["value"].strip():
            identities.append(f"{kind}|{one.get('system') or ''}|{one['value'].strip()}")
    try:
        said = json.dumps(_content(resource, 0), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except (ValueError, RecursionError):
        return None
    return Entry(kind[:64], tuple(dict.fromkeys(identities)), hashlib.sha256(said.encode()).hexdigest())


def _content(value: Any, depth: int) -> Any:
    """Without what differs from export to export. "text" is left out where it is a Narrative, not in a CodeableConcept;
    an attachment's address names a Binary of this export."""
    if depth > DEPTH_MAX:
        raise ValueError("too deep")
    if isinstance(value, Mapping):
        return {
            key: _content(one, depth + 1)
            for key, one in value.items()
            if (key not in _LEFT_OUT or (key == "text" and isinstance(one, str)))
            and not (key == "url" and "contentType" in value)
        }
    if isinstance(value, list):
        return [_content(one, depth + 1) for one in value]
    return value


def _next(document: Mapping[str, Any], url: str) -> str:
    links = document.get("link")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("relation") == "next" and isinstance(link.get("url"), str):
            return _joined(url, link["url"])
    return ""


def _attachments(resource: Mapping[str, Any]) -> Iterator[Attachment]:
    """Of DocumentReference.content.attachment, DiagnosticReport.presentedForm, Media.content and Binary itself."""
    found: list[Any] = []
    kind = resource.get("resourceType")
    if kind == "DocumentReference":
        content = resource.get("content")
        content = content if isinstance(content, list) else []
        found = [one.get("attachment") for one in content if isinstance(one, Mapping)]
    elif kind == "DiagnosticReport":
        forms = resource.get("presentedForm")
        found = forms if isinstance(forms, list) else []
    elif kind == "Media":
        found = [resource.get("content")]
    elif kind == "Binary":
        found = [resource]
    for one in found:
        if not isinstance(one, Mapping):
            continue
        titles = (one.get("title"), resource.get("description"))
        title = next((text for text in titles if isinstance(text, str) and text.strip()), "")
        media_type = one.get("contentType") if isinstance(one.get("contentType"), str) else ""
        if isinstance(one.get("data"), str) and one["data"]:
            content = bytes_of_base64(one["data"])
            if content:
                yield Attachment("", content, str(media_type)[:200], title[:400])
        elif isinstance(one.get("url"), str) and one["url"].strip():
            yield Attachment(one["url"].strip(), None, str(media_type)[:200], title[:400])


def bytes_of_base64(text: str) -> bytes:
    """b"" for what is none; blanks are allowed in R4 base64Binary."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def attachment_url(base: str, url: str) -> str:
    """An attachment's address: a relative one ("Binary/7") is below the server's base."""
    return _joined(base + "/", url)


def binary_of(body: bytes) -> tuple[str, bytes] | None:
    """Type and bytes of a Binary that came as FHIR JSON although its own type was asked for, or None."""
    document = smart.json_of(body)
    if not isinstance(document, Mapping) or document.get("resourceType") != "Binary":
        return None
    data = document.get("data")
    content = bytes_of_base64(data) if isinstance(data, str) else b""
    return (str(document.get("contentType") or "")[:200], content) if content else None


@dataclasses.dataclass(frozen=True)
class Offer:
    """What a server's CapabilityStatement says it gives: resource types (None: it does not say), and $everything."""

    types: frozenset[str] | None
    everything: bool


def offer_of(body: bytes) -> Offer:
    document = smart.json_of(body)
    types: set[str] = set()
    everything = False
    rests = document.get("rest") if isinstance(document, Mapping) else None
    for rest in rests if isinstance(rests, list) else ():
        resources = rest.get("resource") if isinstance(rest, Mapping) else None
        for resource in resources if isinstance(resources, list) else ():
            if not isinstance(resource, Mapping) or not isinstance(resource.get("type"), str):
                continue
            types.add(resource["type"])
            operations = resource.get("operation") if resource["type"] == "Patient" else None
            for operation in operations if isinstance(operations, list) else ():
                everything |= isinstance(operation, Mapping) and operation.get("name") in ("everything", "$everything")
    return Offer(frozenset(types) if types else None, everything)


def _joined(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:
        return "invalid:"
