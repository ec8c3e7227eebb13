"""XML of strangers: no entities, no network, no document type, bounded depth. For CDA, FHIR, aECG, CCR."""

from collections.abc import Iterator

from lxml import etree

from myphr.ingest.reading.content import NotRead

Element = etree._Element


def parse(data: bytes) -> Element:
    """The root. Raises NotRead for a document type definition and for anything that is no XML."""
    if b"<!DOCTYPE" in data[:65536] or "<!DOCTYPE".encode("utf-16-le") in data[:65536]:
        raise NotRead("It asks for a document type, which no health record needs")
    for recover in (False, True):  # the second time what a careless writer left open is closed
        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True,
            remove_pis=True, recover=recover,
        )  # fmt: skip
        try:
            root = etree.fromstring(data, parser)
        except (etree.XMLSyntaxError, ValueError):
            continue
        if root is not None:
            if root.getroottree().docinfo.doctype:
                raise NotRead("It asks for a document type, which no health record needs")
            return root
    raise NotRead("The document is damaged")


def find(element: Element | None, path: str) -> Element | None:
    """The first one at a path of names, whatever their namespace: "author/assignedAuthor"."""
    return next(each(element, path), None)


def each(element: Element | None, path: str) -> Iterator[Element]:
    if element is not None:
        yield from element.iterfind("/".join(f"{{*}}{name}" for name in path.split("/")))


def words(element: Element | None) -> str:
    return " ".join("".join(element.itertext()).split()) if element is not None else ""


def value(element: Element | None, path: str, attribute: str = "value") -> str:
    found = find(element, path) if path else element
    return str(found.get(attribute) or "") if found is not None else ""


def name_of(element: Element) -> str:
    return etree.QName(element).localname
