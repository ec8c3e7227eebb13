"""PDF (ISO 32000-1, 7.5.2). The header may stand anywhere in the first KiB, but a page of HTML that merely mentions it
is HTML: `identify` asks the HTML rule first."""

import re

from myphr.ingest.formats import Identified, Rule

MEDIA_TYPE = "application/pdf"


_VERSIONS = {  # PRONOM counts the versions one by one
    b"1.0": "fmt/14", b"1.1": "fmt/15", b"1.2": "fmt/16", b"1.3": "fmt/17", b"1.4": "fmt/18", b"1.5": "fmt/19",
    b"1.6": "fmt/20", b"1.7": "fmt/276", b"2.0": "fmt/1129",
}  # fmt: skip


def _found(head: bytes, rule: str, confidence: str) -> Identified:
    at = head.index(b"%PDF-") + 5
    return Identified("pdf", MEDIA_TYPE, rule, confidence, _VERSIONS.get(head[at : at + 3], ""))


def _header(head: bytes) -> Identified | None:
    return _found(head, "pdf", "certain") if head.startswith((b"%PDF-", b"\xef\xbb\xbf%PDF-")) else None


def _in_postscript(head: bytes) -> Identified | None:
    """ISO 32000-1, annex H, note 14: old readers also took this header."""
    found = re.match(rb"%!PS-Adobe-\d\.\d PDF-(\d\.\d)", head)
    return Identified("pdf", MEDIA_TYPE, "pdf-in-postscript", puid=_VERSIONS.get(found[1], "")) if found else None


# Behind a line or behind bytes that are no text: programs and pages that name the header have it in quotes.
_LATE = re.compile(rb"(?<![\x20-\x7e])%PDF-\d\.\d(?!\d)")


def _late_header(head: bytes) -> Identified | None:
    found = _LATE.search(head[:1024])
    return _found(head[found.start() :], "pdf-late-header", "likely") if found else None


RULES = (Rule("pdf", _header), Rule("pdf-in-postscript", _in_postscript))
LATE_RULES = (Rule("pdf-late-header", _late_header),)
