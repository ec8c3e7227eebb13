"""Which module reads which format. Loaded in the reader process only."""

import dataclasses
from collections.abc import Iterator, Mapping

from myphr.ingest import plain_text
from myphr.ingest.reading import activity, brain, clinical, dicom, ecg, fhir, genome, hl7v2, office, pdf, photo, text
from myphr.ingest.reading.content import Content, Read
from myphr.records.reading import FullReading

_MODULES = (photo, dicom, pdf, clinical, fhir, hl7v2, ecg, text, office, genome, activity, brain)
# What is text and has no encoding of its own to declare, as XML and HTML have
_TEXTS = frozenset({
    "text", "text-bluebutton", "csv", "tsv", "eml", "ics", "vcard", "fhir-json", "fhir-ndjson", "hl7v2", "wfdb-hea",
    "vcf", "sam", "fasta", "fastq", "gff", "gtf", "bed", "dtc-genotype",
})  # fmt: skip


def _of_plain_text(read: Read) -> Read:
    """Readers of text get UTF-8 with LF; HL7 version 2 keeps its CRs."""

    def read_plain(content: Content) -> Iterator[FullReading]:
        data = plain_text.plain(content.data, ends=content.format != "hl7v2")
        if data is not content.data:
            content = dataclasses.replace(content, data=data, total_bytes=len(data) + (not content.whole))
        yield from read(content)

    return read_plain


READERS: Mapping[str, Read] = {
    format_: _of_plain_text(module.read) if format_ in _TEXTS else module.read
    for module in _MODULES
    for format_ in module.FORMATS
}


def warm_up() -> None:
    """Load what the libraries load late: later there are no rights to, and each fork would do it again."""
    from myphr.ingest import identify  # noqa: F401 - documents inside others are told by it

    for module in _MODULES:
        module.warm_up()
