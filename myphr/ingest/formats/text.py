"""HTML and plain text. Both are served as download only, so a wrong guess cannot run anything."""

import codecs
import re

from myphr.ingest.formats import Identified, Rule

_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html|head|body|script|iframe|title)\b",
    re.IGNORECASE | re.DOTALL,
)
_CONTROL = frozenset(range(32)) - {9, 10, 12, 13, 27}


def _html(head: bytes) -> Identified | None:
    return Identified("html", "text/html", "html") if _HTML.match(head[:4096]) else None


def _text(head: bytes) -> Identified | None:
    if not head:
        return None
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return Identified("text", "text/plain", "text-utf16", "likely")
    sample = head[:8192]
    if any(byte in _CONTROL for byte in sample):
        return None
    try:  # a character may be cut at the end of the sample: the incremental decoder waits for its rest
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return Identified("text", "text/plain", "text-utf8", "likely")
    except UnicodeDecodeError:
        return Identified("text", "text/plain", "text-8bit", "guess") if sample.count(b"\n") >= 2 else None


HTML_RULES = (Rule("html", _html),)
RULES = (Rule("text", _text),)
