"""Health records by HL7 CDA Release 2 (C-CDA, C32, eHDSI): header in plain words, sections as safe HTML (CDA 4.3.5).

The narrative block of a section is what its author signed; coded entries are not looked at. A body that is another file
(nonXMLBody) is taken out and read as what it is.
"""

import base64
import binascii
import dataclasses
from collections.abc import Iterator

from myphr.ingest.reading import safe_html
from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import compact
from myphr.ingest.reading.xml_tree import Element, each, find, name_of, parse, value, words
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({"cda-xml"})
SECTIONS_MAX = 200
_PLAIN = {"paragraph": "p", "sub": "sub", "sup": "sup", "br": "br", "table": "table", "thead": "thead",
          "tbody": "tbody", "tfoot": "tfoot", "tr": "tr", "th": "th", "td": "td", "item": "li", "caption": "caption",
          "footnote": "small"}  # fmt: skip
_DRAWN_EMPTY = frozenset({"colgroup", "col", "renderMultiMedia", "footnoteRef",
                          "script", "style"})  # the last two are no words of a doctor


def warm_up() -> None:
    list(read(Content("cda-xml", b'<ClinicalDocument xmlns="urn:hl7-org:v3"><title>x</title></ClinicalDocument>', 1)))


def read(content: Content) -> Iterator[FullReading]:
    if not content.whole:
        raise NotRead("The document is too large for a preview")
    root = parse(content.data)
    header = _header(root)
    yield FullReading(header)
    body = find(root, "component/nonXMLBody/text")
    if body is not None:
        yield from _other_body(body, header)
        return
    sections = [find(one, "section") for one in each(root, "component/structuredBody/component")]
    markup = "".join(_section(one, 2) for one in sections[:SECTIONS_MAX] if one is not None)
    if not markup:
        return
    narrative = safe_html.clean(f"<h1>{safe_html.escape(header.title)}</h1>{markup}")
    titles = [words(find(one, "title")) for one in sections if one is not None]
    facts = (*header.facts, ("Sections", ", ".join(filter(None, titles))))
    yield FullReading(
        dataclasses.replace(header, facts=facts, text=safe_html.text_of(narrative)), None, narrative
    )  # fmt: skip


def _header(root: Element) -> Reading:
    title = words(find(root, "title")) or value(root, "code", "displayName") or "Health record"
    kind = value(root, "code", "displayName") or "Health record"
    moment = compact(value(root, "effectiveTime"))
    patient = find(root, "recordTarget/patientRole/patient")
    born = compact(value(patient, "birthTime"))
    author = organisation = ""
    for one in each(root, "author/assignedAuthor"):
        author = author or person(find(one, "assignedPerson/name"))
        organisation = organisation or words(find(one, "representedOrganization/name"))
        organisation = organisation or words(find(one, "assignedAuthoringDevice/softwareName"))
    author = author or person(find(root, "legalAuthenticator/assignedEntity/assignedPerson/name"))
    custodian = words(find(root, "custodian/assignedCustodian/representedCustodianOrganization/name"))
    visit = find(root, "componentOf/encompassingEncounter")
    place = words(find(visit, "location/healthCareFacility/location/name")) or words(
        find(visit, "location/healthCareFacility/serviceProviderOrganization/name")
    )
    where = place or organisation or custodian
    facts = [("Kind", kind), ("Practice or hospital", organisation), ("Kept by", custodian)]
    if born:
        facts.append(("Born", born.words))
    for label, element in (("Visit", visit), ("Covers", find(root, "documentationOf/serviceEvent"))):
        if period := _period(element):
            facts.append((label, period))
    return Reading(
        kind_words="Health record", title=title, date=moment.iso if moment else "",
        date_words=moment.words if moment else "", place=where, author=author,
        patient=person(find(patient, "name")), text=title,
        facts=tuple((name, words) for name, words in facts if words and words not in (where, title)),
    )  # fmt: skip


def person(name: Element | None) -> str:
    """A name of parts (PN) in the order written, or as plain text; a maiden name or nickname beside it left out."""
    if name is None:
        return ""
    parts = [words(part) for part in name if isinstance(part.tag, str) and name_of(part) != "validTime"]
    return " ".join(filter(None, parts)) if parts else words(name)


def _period(element: Element | None) -> str:
    time = find(element, "effectiveTime")
    if time is None:
        return ""
    begin = compact(value(time, "low") or value(time, ""))
    end = compact(value(time, "high"))
    said = list(dict.fromkeys(moment.words for moment in (begin, end) if moment))
    return " to ".join(said)


def _section(section: Element, level: int) -> str:
    title = words(find(section, "title")) or value(section, "code", "displayName")
    heading = f"<h{min(level, 5)}>{safe_html.escape(title)}</h{min(level, 5)}>" if title else ""
    text = find(section, "text")
    inner = _blocks(text) if text is not None else ""
    for one in each(section, "component/section"):
        if level < 12:
            inner += _section(one, level + 1)
    return heading + (inner or "<p>Nothing is written here.</p>")


def _blocks(element: Element) -> str:
    """The children of a narrative block as HTML (CDA 4.3.5.1 to 4.3.5.9), everything escaped."""
    out = [safe_html.escape(element.text or "")]
    for child in element:
        if isinstance(child.tag, str):
            out.append(_block(child))
        out.append(safe_html.escape(child.tail or ""))
    return "".join(out)


def _block(element: Element) -> str:
    name = name_of(element)
    if name in _DRAWN_EMPTY:
        return ""
    inner = _blocks(element)
    if name == "br":
        return "<br>"
    if name == "list":
        tag = "ol" if element.get("listType") == "ordered" else "ul"
        caption = find(element, "caption")
        if caption is not None:
            inner = "".join(_block(one) for one in each(element, "item"))
            return f"<p><b>{safe_html.escape(words(caption))}</b></p><{tag}>{inner}</{tag}>"
        return f"<{tag}>{inner}</{tag}>"
    holder = element.getparent()
    if name == "caption" and (holder is None or name_of(holder) != "table"):
        return f"<p><b>{inner}</b></p>"
    if name in ("th", "td"):
        spans = "".join(f' {key}="{int(said)}"' for key in ("colspan", "rowspan")
                        if (said := str(element.get(key) or "")[:4]).isdecimal())  # fmt: skip
        return f"<{name}{spans}>{inner}</{name}>"
    if name in _PLAIN:
        return f"<{_PLAIN[name]}>{inner}</{_PLAIN[name]}>"
    styles = str(element.get("styleCode") or "")
    for code, tag in (("Bold", "b"), ("Italics", "i"), ("Underline", "u")):
        if code in styles:
            inner = f"<{tag}>{inner}</{tag}>"
    return inner  # content, linkHtml and what no standard knows: their words


def _other_body(body: Element, header: Reading) -> Iterator[FullReading]:
    """The document itself, in base64 or as text (CDA 4.3.1)."""
    from myphr.ingest import identify
    from myphr.ingest.reading import kinds

    raw = "".join(body.itertext())
    if str(body.get("representation") or "") != "B64":
        yield FullReading(dataclasses.replace(header, text=f"{header.text}\n{raw.strip()}"), None,
                          safe_html.clean(f"<pre>{safe_html.escape(raw)}</pre>") if raw.strip() else None)  # fmt: skip
        if not raw.strip():
            raise NotRead("What it is about stands in another file")
        return
    try:
        inner = base64.b64decode("".join(raw.split()), validate=False)
    except (binascii.Error, ValueError):
        raise NotRead("The document inside is damaged") from None
    found = identify.identify(inner[: identify.HEAD_BYTES])
    read_as = kinds.READERS.get(found.format)
    if read_as is None or found.format in FORMATS:
        return
    for one in read_as(Content(found.format, inner, len(inner))):
        yield inside(header, one)


def inside(outer: Reading, inner: FullReading) -> FullReading:
    """What an envelope says about what it holds goes first; the rest is what it holds."""
    one = inner.reading
    return FullReading(
        Reading(
            kind_words=outer.kind_words, title=outer.title or one.title, date=outer.date or one.date,
            date_words=outer.date_words or one.date_words, place=outer.place or one.place,
            author=outer.author or one.author, patient=outer.patient or one.patient, facts=outer.facts + one.facts,
            text="\n".join(filter(None, (outer.text, one.text))), note=one.note,
        ),
        inner.preview, inner.narrative,
    )  # fmt: skip
