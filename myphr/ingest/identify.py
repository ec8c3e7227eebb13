"""What is this file? Ordered signature rules over at most the first 64 KiB; content only, the name never decides.
Formats that keep their table of contents elsewhere in the file are looked at there (`CLOSER`), if it can be read: of
such a file the head is shorter, so that no more than 64 KiB are read in all.

One module per family below `ingest/formats`. DICOM is asked before any rule for offset 0, because its preamble may hold
another format's magic; HTML before a late PDF header; office before zip. Called while bytes stream in (`describe`).
"""

import dataclasses
from collections.abc import Callable, Mapping

from myphr.ingest import dicom, plain_text
from myphr.ingest.formats import (
    Identified,
    Rule,
    genome,
    images,
    markup,
    media,
    messages,
    neuro,
    objects,
    office,
    packed,
    pdf,
    programs,
    signals,
)
from myphr.ingest.formats import dicom as dicom_rules
from myphr.ingest.formats import text as text_rules
from myphr.ingest.formats.elsewhere import Elsewhere, ReadAt
from myphr.ingest.reading import FORMATS as READABLE
from myphr.records.facts import Facts

HEAD_BYTES = 64 * 1024
_ELSEWHERE_BYTES = 32 * 1024  # of HEAD_BYTES, for what starts like a format of `CLOSER`
_TAIL_BYTES = 1024  # of HEAD_BYTES, for the last members of a JSON object
_SEEKING = (b"\xd0\xcf\x11\xe0", b"II*\0", b"II\x2b\0", b"MM\0*", b"MM\0\x2b", b"PK\x03\x04")
UNKNOWN = Identified("unknown", "application/octet-stream", "none", "guess")

# Signatures first, then what has to be looked at more closely, then text; within text the stricter rule first.
RULES: tuple[Rule, ...] = (
    *dicom_rules.RULES,
    *pdf.RULES,
    *images.RULES,
    *media.RULES,
    *signals.RULES,
    *neuro.RULES,
    *genome.RULES,
    *office.RULES,
    *packed.RULES,
    *programs.RULES,
    *text_rules.HTML_RULES,
    *markup.RULES,
    *objects.RULES,
    *messages.RULES,
    *pdf.LATE_RULES,
    *genome.TEXT_RULES,
    *signals.LATE_RULES,
    *text_rules.RULES,
)

_PERHAPS_TEXT = frozenset({"text-utf16", "text-utf8", "text-8bit", "table", UNKNOWN.rule})
_TEXT_RULES: tuple[Rule, ...] = (
    *signals.TEXT_RULES,
    *text_rules.HTML_RULES,
    *objects.RULES,
    *messages.RULES,
    *genome.TEXT_RULES,
    *signals.LATE_TEXT_RULES,
    *text_rules.RULES,
)

# rule -> what looks closer at what that rule found: it may read at other places of the file, within a budget.
CLOSER: Mapping[str, Callable[[Identified, Elsewhere], Identified | None]] = {
    **images.CLOSER,
    **media.CLOSER,
    **objects.CLOSER,
    **office.CLOSER,
}


def identify(head: bytes, name_hint: str | None = None) -> Identified:
    """What the file is, judged by its first bytes. `name_hint` is accepted for callers that have one and not used: a
    name is the sender's claim, and a wrong one would choose a wrong viewer."""
    head = bytes(head[:HEAD_BYTES])
    return _closer(_by_rules(head), Elsewhere(head))


def identify_stored(read_at: ReadAt, size: int) -> tuple[Identified, bytes]:
    """The same of a file of `size` bytes that can be read anywhere, and the head that was read: at most 64 KiB are read
    in all. `read_at(at, length)` raises what it raises."""
    head = bytes(read_at(0, HEAD_BYTES - _ELSEWHERE_BYTES))
    seeks = head.startswith(_SEEKING) or head[4:8] == b"ftyp"
    kept_back = _ELSEWHERE_BYTES if seeks else _TAIL_BYTES if head.lstrip()[:1] == b"{" else 0
    if len(head) == HEAD_BYTES - _ELSEWHERE_BYTES and kept_back < _ELSEWHERE_BYTES:
        head += bytes(read_at(len(head), _ELSEWHERE_BYTES - kept_back))
    return _closer(_by_rules(head), Elsewhere(head, read_at if kept_back else None, size, kept_back)), head


def _by_rules(head: bytes) -> Identified:
    found = next((found for rule in RULES if (found := rule.test(head)) is not None), UNKNOWN)
    return _as_plain_text(head, found) if found.rule in _PERHAPS_TEXT else found


def _as_plain_text(head: bytes, found: Identified) -> Identified:
    """Tables, messages and genotypes that a program saved as "Unicode", behind a byte order mark or with lone CRs: by
    the rules for text."""
    text = plain_text.plain(head)
    if text is head:
        return found
    suffix = "utf16" if plain_text.wide_codec(head) else "plain"
    for rule in _TEXT_RULES:
        inside = rule.test(text)
        if inside is not None:
            return dataclasses.replace(inside, rule=f"{inside.rule}-{suffix}")
    return found


def _closer(found: Identified, elsewhere: Elsewhere) -> Identified:
    look = CLOSER.get(found.rule)
    return (look(found, elsewhere) or UNKNOWN) if look else found


def pronom_of(head: bytes, format: str) -> str:
    """The PRONOM id of a file of this format, or "" where there is none or its owner said that it is something else."""
    found = identify(head)
    return found.puid if found.format == format else ""


def describe(head: bytes, read_at: ReadAt | None = None, size: int | None = None) -> Facts:
    """What an item's sealed details and its place in the record need, from the first 256 KiB (`items.HEAD_BYTES`), and
    from other places of a file that can be read there."""
    found = _closer(_by_rules(bytes(head[:HEAD_BYTES])), Elsewhere(head, read_at, size, HEAD_BYTES))
    headers = dicom.read_headers(head) if found.format == "dicom" else None
    return Facts(found.format, found.media_type, found.rule, headers, readable=found.format in READABLE)
