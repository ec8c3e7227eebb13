"""What is this file? Ordered signature rules over at most the first 64 KiB; content only, the name never decides.

One module per family below `ingest/formats`. DICOM is asked before any rule for offset 0, because its preamble may hold
another format's magic; HTML before a late PDF header; office before zip. Called while bytes stream in (`describe`).
"""

from myphr.ingest import dicom
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
    text,
)
from myphr.ingest.formats import dicom as dicom_rules
from myphr.ingest.reading import FORMATS as READABLE
from myphr.records.facts import Facts

HEAD_BYTES = 64 * 1024
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
    *text.HTML_RULES,
    *markup.RULES,
    *objects.RULES,
    *messages.RULES,
    *pdf.LATE_RULES,
    *genome.TEXT_RULES,
    *signals.LATE_RULES,
    *text.RULES,
)


def identify(head: bytes, name_hint: str | None = None) -> Identified:
    """What the file is, judged by its first bytes. `name_hint` is accepted for callers that have one and not used: a
    name is the sender's claim, and a wrong one would choose a wrong viewer."""
    head = bytes(head[:HEAD_BYTES])
    for rule in RULES:
        found = rule.test(head)
        if found is not None:
            return found
    return UNKNOWN


def pronom_of(head: bytes, format: str) -> str:
    """The PRONOM id of a file of this format, or "" where there is none or its owner said that it is something else."""
    found = identify(head)
    return found.puid if found.format == format else ""


def describe(head: bytes) -> Facts:
    """What an item's sealed details and its place in the record need, from the first 256 KiB (`items.HEAD_BYTES`)."""
    found = identify(head)
    headers = dicom.read_headers(head) if found.format == "dicom" else None
    return Facts(found.format, found.media_type, found.rule, headers, readable=found.format in READABLE)
