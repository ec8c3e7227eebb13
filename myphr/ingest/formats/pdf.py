"""PDF (ISO 32000-1, 7.5.2). The header may stand anywhere in the first KiB, but a page of HTML that merely mentions it
is HTML: `identify` asks the HTML rule first."""

from myphr.ingest.formats import Identified, Rule, magic

MEDIA_TYPE = "application/pdf"


def _late_header(head: bytes) -> Identified | None:
    return Identified("pdf", MEDIA_TYPE, "pdf-late-header", "likely") if b"%PDF-" in head[:1024] else None


RULES = (magic("pdf", "pdf", MEDIA_TYPE, b"%PDF-", b"\xef\xbb\xbf%PDF-"),)
LATE_RULES = (Rule("pdf-late-header", _late_header),)
