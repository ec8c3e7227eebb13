"""Genome files: the little their headers say (VCF 4.5, SAM 1.6, FASTA, FASTQ, GFF3, home tests). Never a sequence.

Only the first part of a file is read, and of what is packed only so much is unpacked: a genome has a hundred gigabytes.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from myphr.ingest.reading.content import Content, NotRead
from myphr.ingest.reading.dates import Moment, compact, iso
from myphr.records.reading import FullReading, Reading

FORMATS = frozenset({
    "vcf", "vcf-gz", "bcf", "bam", "sam", "sam-gz", "fasta", "fasta-gz", "fastq", "fastq-gz", "gff", "gff-gz", "gtf",
    "gtf-gz", "bed", "bed-gz", "dtc-genotype", "dtc-genotype-gz",
})  # fmt: skip
UNPACKED_BYTES_MAX = 4 * 1024**2
LINE_CHARACTERS_MAX = 4000
_ASSEMBLIES = {"grch38": "GRCh38 (2013)", "hg38": "GRCh38 (2013)", "grch37": "GRCh37 (2009)", "hg19": "GRCh37 (2009)",
               "b37": "GRCh37 (2009)", "hs37d5": "GRCh37 (2009)", "build 37": "GRCh37 (2009)",
               "build 36": "NCBI36 (2006)", "hg18": "NCBI36 (2006)", "t2t": "T2T-CHM13 (2022)",
               "chm13": "T2T-CHM13 (2022)"}  # fmt: skip
_COMPANIES = {"23andme": "23andMe", "ancestrydna": "AncestryDNA", "familytreedna": "FamilyTreeDNA",
              "ftdna": "FamilyTreeDNA", "myheritage": "MyHeritage", "livingdna": "Living DNA",
              "living dna": "Living DNA", "genes for good": "Genes for Good"}  # fmt: skip
_ENGLISH_DATE = re.compile(r"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +(\d{1,2})\b.{0,20}?(\d{4})")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def warm_up() -> None:
    list(read(Content("vcf", b"##fileformat=VCFv4.2\n#CHROM\tPOS", 1)))


def read(content: Content) -> Iterator[FullReading]:
    data, whole = _unpacked(content)
    kind = content.format.removesuffix("-gz")
    if kind in ("bam", "bcf"):
        text = _binary_header(kind, data)
        kind, whole = {"bam": "sam", "bcf": "vcf"}[kind], False
    else:
        text = data.decode("utf-8", "replace")
    lines = [line[:LINE_CHARACTERS_MAX] for line in text.splitlines()]
    if not whole and lines and kind not in ("sam", "vcf"):
        lines.pop()  # cut in its middle
    tellers = {"vcf": _variants, "sam": _aligned, "dtc-genotype": _home_test, "fasta": _sequences, "fastq": _reads}
    yield FullReading(tellers.get(kind, _regions)(lines, whole))


def _unpacked(content: Content) -> tuple[bytes, bool]:
    """At most UNPACKED_BYTES_MAX, and whether that is all. bgzip is gzip, member after member (SAM 1.6, 4.1)."""
    packed = content.format.endswith("-gz") or content.format in ("bam", "bcf")
    packed = packed and content.data[:3] != b"BCF"  # between programs BCF goes unpacked
    if not packed:
        return content.data[:UNPACKED_BYTES_MAX], content.whole and len(content.data) <= UNPACKED_BYTES_MAX
    out, rest = bytearray(), content.data
    try:
        while rest and len(out) < UNPACKED_BYTES_MAX:
            inflate = zlib.decompressobj(31)
            out += inflate.decompress(rest, UNPACKED_BYTES_MAX - len(out))
            if not inflate.eof:
                break
            rest = inflate.unused_data
    except zlib.error:
        if not out:
            raise NotRead("The file is damaged") from None
    return bytes(out), not rest and content.whole


def _binary_header(kind: str, data: bytes) -> str:
    """The text header of BAM (4.2) or BCF (6.1)."""
    at = {"bam": 4, "bcf": 5}[kind]
    if len(data) < at + 4:
        raise NotRead("The file is damaged")
    [length] = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + min(length, UNPACKED_BYTES_MAX)].rstrip(b"\0").decode("utf-8", "replace")


def _told(
    kind: str, title: str, facts: list[tuple[str, str]], moment: Moment | None = None, place: str = ""
) -> Reading:
    kept = tuple((name, value) for name, value in facts if value)
    return Reading(
        kind_words=kind, title=title, facts=kept, date=moment.iso if moment else "",
        date_words=moment.words if moment else "", text="\n".join([title, *(value for _, value in kept)]), place=place,
    )  # fmt: skip


def _assembly(text: str) -> str:
    lower = text.lower()
    return next((words for mark, words in _ASSEMBLIES.items() if mark in lower), "")


def _many(count: int, whole: bool) -> str:
    return f"{count:,}" if whole else f"more than {count:,}" if count else ""


def _variants(lines: list[str], whole: bool) -> Reading:
    head = [line for line in lines if line.startswith("##")]
    columns = next((line.split("\t") for line in lines if line.startswith("#CHROM")), [])
    fields = dict(line[2:].split("=", 1) for line in head if "=" in line)
    date = fields.get("fileDate") or fields.get("filedate") or ""
    moment = compact(date.replace("-", "").replace("/", "")) or iso(date)
    count = sum(1 for line in lines if line and not line.startswith("#"))
    facts = [
        ("Samples", ", ".join(columns[9:29])),
        ("Compared with", _assembly("\n".join(head)) or fields.get("reference", "").rpartition("/")[2]),
        ("Differences listed", _many(count, whole)), ("Made by", fields.get("source", "").strip('"')),
    ]  # fmt: skip
    return _told("Gene variants", "Gene variants", facts, moment)


def _aligned(lines: list[str], _whole: bool) -> Reading:
    head = [line for line in lines if line.startswith("@")]
    groups = [dict(part.split(":", 1) for part in line.split("\t")[1:] if ":" in part)
              for line in head if line.startswith("@RG")]  # fmt: skip
    programs = [dict(part.split(":", 1) for part in line.split("\t")[1:] if ":" in part)
                for line in head if line.startswith("@PG")]  # fmt: skip
    moment = next((found for one in groups if (found := iso(one.get("DT")))), None)
    contigs = sum(line.startswith("@SQ") for line in head)
    facts = [
        ("Samples", ", ".join(dict.fromkeys(one["SM"] for one in groups if one.get("SM")))),
        ("Compared with", _assembly("\n".join(head))), ("Parts of the genome", f"{contigs:,}" if contigs else ""),
        ("Machine", ", ".join(dict.fromkeys(one["PL"] for one in groups if one.get("PL")))),
        ("Made by", ", ".join(dict.fromkeys(one["PN"] for one in programs if one.get("PN")))),
    ]  # fmt: skip
    place = next((one["CN"] for one in groups if one.get("CN")), "")
    return _told("Genome, aligned", "Genome, aligned", facts, moment, place)


def _home_test(lines: list[str], whole: bool) -> Reading:
    head = "\n".join(line for line in lines[:200] if line.startswith("#") or "," not in line)[:20_000]
    everything = "\n".join(lines[:60]).lower()
    company = next((words for mark, words in _COMPANIES.items() if mark in everything), "")
    moment = None
    if found := _ENGLISH_DATE.search(head):
        moment = compact(f"{found.group(3)}{_MONTHS.index(found.group(1)) + 1:02}{int(found.group(2)):02}")
    rows = [re.split(r"[\t,]", line) for line in lines if line and not line.startswith("#")]
    count = sum(len(row) >= 4 and any(cell.strip('" ').isdigit() for cell in row) for row in rows)  # not their head
    facts = [("Places in the genome", _many(count, whole)), ("Compared with", _assembly(head))]
    title = f"Home gene test of {company}" if company else "Home gene test"
    return _told("Genes from a home test", title, facts, moment, company)


def _sequences(lines: list[str], whole: bool) -> Reading:
    names = [(line[1:].split() or [""])[0] for line in lines if line.startswith(">")]
    facts = [("Sequences", _many(len(names), whole)), ("Named", ", ".join(filter(None, names[:10])))]
    return _told("Genome sequence", "Genome sequence", facts)


def _reads(lines: list[str], whole: bool) -> Reading:
    return _told("Genome, raw reads", "Genome, raw reads", [("Pieces read", _many(len(lines) // 4, whole))])


def _regions(lines: list[str], whole: bool) -> Reading:
    rows = [line for line in lines if line.strip() and not line.startswith(("#", "track", "browser"))]
    return _told("Notes on a genome", "Notes on a genome", [
        ("Entries", _many(len(rows), whole)), ("Compared with", _assembly("\n".join(lines[:50]))),
    ])  # fmt: skip
