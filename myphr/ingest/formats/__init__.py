"""One file per format family: ordered signature rules over the first 64 KiB of a file.

Each module exports `RULES`; `myphr.ingest.identify` puts them in order. A rule sees content only, never a name.
"""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Identified:
    """What a file is, and by which rule we know. `confidence`: certain, likely or guess."""

    format: str  # code used everywhere: dicom, pdf, jpeg, zip, unknown ...
    media_type: str
    rule: str
    confidence: str = "certain"
    puid: str = ""  # the PRONOM id of that format (nationalarchives.gov.uk/PRONOM), where it has one


@dataclasses.dataclass(frozen=True)
class Rule:
    """`test(head)` says what the file is, or None. `head` is at most 64 KiB, from the start of the file."""

    name: str
    test: Callable[[bytes], Identified | None]


def magic(name: str, format: str, media_type: str, *signatures: bytes, offset: int = 0, puid: str = "") -> Rule:
    """The common case: fixed bytes at a fixed place."""
    found = Identified(format, media_type, name, puid=puid)

    def test(head: bytes) -> Identified | None:
        return found if any(head.startswith(signature, offset) for signature in signatures) else None

    return Rule(name, test)
