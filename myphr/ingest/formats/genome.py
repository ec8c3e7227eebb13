"""Genomes: BAM, CRAM, SAM and their indexes, VCF and BCF (samtools/hts-specs), FASTA, FASTQ, GFF and GTF, BED, GenBank
and EMBL, ABIF traces, and the texts that direct-to-consumer laboratories send. BGZF, the blocked gzip of hts-specs, is
opened for its first bytes.
"""

import re

from myphr.ingest.formats import Identified, Rule, magic
from myphr.ingest.formats.inflate import first_bytes

_VCF_COLUMNS = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
_SAM_HEADER = re.compile(rb"@(?:HD\tVN:\d|SQ\t(?:\S+\t)*SN:|RG\t(?:\S+\t)*ID:|PG\t(?:\S+\t)*ID:|CO\t)")
_SAM_RECORD = re.compile(
    rb"[!-?A-~]{1,254}\t\d{1,5}\t[!-~]+\t\d+\t\d{1,3}\t(?:\*|(?:\d+[MIDNSHP=X])+)\t"
    rb"[!-~]+\t\d+\t-?\d+\t(?:\*|[A-Za-z=.]+)\t[!-~]+"
)
_BASES = re.compile(rb"[ACGTUNRYSWKMBDHVacgtunryswkmbdhv.*-]+")
_RESIDUES = re.compile(rb"[A-Za-z*.-]+")
_GTF = re.compile(rb"[^\t]+\t[^\t]+\t[^\t]+\t\d+\t\d+\t[0-9.eE+-]+\t[+.?-]\t[012.]\t[^\t]*")
_BED = re.compile(rb"(?:chr)?(?:\d{1,2}|X|Y|M|MT|Un\w*|\w+_random)\t\d+\t\d+(?:\t[^\t]*){0,9}")
_LONG_READ_BASES = 4096  # no text has a line of so many letters that are all bases
_HEAD_FULL_BYTES = 60 * 1024  # a head of this size may be cut in a read
_CRAI = re.compile(rb"-?\d+\t-?\d+\t-?\d+\t\d+\t\d+\t\d+")
_LABORATORIES = (
    b"23andMe", b"AncestryDNA", b"MyHeritage", b"Living DNA", b"Genes for Good", b"FamilyTreeDNA", b"Family Tree DNA",
    b"# Circle", b"tellmeGen", b"SelfDecode", b"24Genetics", b"Sano Genetics", b"deCODEme", b"Nebula Genomics",
    b"Dante Labs",
    b"MeuDNA", b"Mapmygenome", b"WeGene", b"GenoPalate", b"Genotek", b"Atlas Biomed",
)  # fmt: skip
_MARKER = re.compile(
    rb'"?(?:rs|i|VGXS?)\d{1,10}"?[,\t ]"?(?:\d{1,2}|X|Y|XY|MT|M|PAR)"?[,\t ]'
    rb'"?\d{1,9}"?[,\t ]"?[ACGTDI0-]{1,2}"?(?:[,\t ]"?[ACGTDI0-]"?)?'
)
_COLUMNS = re.compile(rb"#?\s*\"?(?:rsid|snp name|markername|marker|name|snpid|snp)\b", re.IGNORECASE)


def _lines(text: bytes, most: int = 64) -> list[bytes]:
    """Whole lines of the start; the last may be cut and is left out unless it is all there is."""
    lines = text.split(b"\n", most)
    lines = lines[:-1] if len(lines) > 1 else lines
    return [line.rstrip(b"\r") for line in lines]


def _vcf(head: bytes) -> Identified | None:
    """VCF 4.x, 1.1: the first line; gVCF is VCF. Some tools leave out all but the line of columns (1.3)."""
    start = head.removeprefix(b"\xef\xbb\xbf")
    if start.startswith(b"##fileformat=VCF"):
        return Identified("vcf", "text/x-vcf", "vcf", puid="fmt/908")
    columns = start.startswith(_VCF_COLUMNS) or (start.startswith(b"##") and b"\n" + _VCF_COLUMNS in start)
    return Identified("vcf", "text/x-vcf", "vcf-columns", "likely", "fmt/908") if columns else None


def _sam(head: bytes) -> Identified | None:
    if _SAM_HEADER.match(head):
        return Identified("sam", "text/x-sam", "sam-header")
    lines = _lines(head, 4)
    if b"\t" in lines[0] and _SAM_RECORD.match(lines[0]):
        return Identified("sam", "text/x-sam", "sam-record", "likely")
    return None


def _fasta(head: bytes) -> Identified | None:
    """`>` and a name, then only letters of bases or residues (IUPAC), up to the next `>`."""
    lines = [line for line in _lines(head) if line and not line.startswith(b";")]
    if len(lines) < 2 or lines[0][:1] != b">" or len(lines[0]) < 2:
        return None
    sequence = [line.strip() for line in lines[1:] if not line.startswith(b">")]
    if sequence and not lines[1].startswith(b">") and all(_RESIDUES.fullmatch(line) for line in sequence):
        return Identified("fasta", "text/x-fasta", "fasta", "likely")
    return None


def _fastq(head: bytes) -> Identified | None:
    """Each read: @name, bases, +, as many qualities; bases and qualities may be broken into lines (Cock et al. 2010).
    A read that is longer than the head (nanopore) is told by its bases."""
    name, _, rest = head.partition(b"\n")
    bases, plus, after = rest.partition(b"\n+")
    found = bases.replace(b"\r", b"").replace(b"\n", b"")
    if name[:1] != b"@" or len(name) < 2 or not found or not _BASES.fullmatch(found):
        return None
    if not plus:
        long = len(found) >= _LONG_READ_BASES
        return Identified("fastq", "text/x-fastq", "fastq-long-read", "likely", "fmt/2118") if long else None
    _, _, quality = after.partition(b"\n")
    read, counted = 0, 0
    for line in quality.split(b"\n"):
        if read >= len(found):
            break
        counted += 1
        read += len(line.rstrip(b"\r"))
    if read > len(found) or (read < len(found) and len(head) < _HEAD_FULL_BYTES and counted > 1):
        return None
    return Identified("fastq", "text/x-fastq", "fastq", puid="fmt/2118")


def _annotation(head: bytes) -> Identified | None:
    if head.startswith(b"##gff-version"):
        return Identified("gff", "text/x-gff", "gff")
    rows = [line for line in _lines(head) if line and not line.startswith((b"#", b"track ", b"browser "))][:8]
    if len(rows) >= 1 and all(_GTF.fullmatch(row) for row in rows):
        return Identified("gtf" if b' "' in rows[0] else "gff", "text/x-gff", "gff-columns", "likely")
    if len(rows) >= 2 and all(_BED.fullmatch(row) for row in rows):
        return Identified("bed", "text/x-bed", "bed", "likely")
    return None


def _genotype(head: bytes) -> Identified | None:
    """A laboratory's name in the comment at the top, or columns of marker, chromosome, position and alleles."""
    lines = [line for line in _lines(head, 200) if line.strip()]
    comments = [line for line in lines[:60] if line.startswith(b"#")]
    rows = [line for line in lines if not line.startswith(b"#")]
    markers = sum(bool(_MARKER.fullmatch(row.strip())) for row in rows[:12])
    named = any(one in comment for comment in comments for one in _LABORATORIES)
    columns = next((line for line in (*comments[::-1], *rows[:12]) if _COLUMNS.match(line)), b"").lower()
    known = b"chr" in columns and any(one in columns for one in (b"result", b"genotype", b"allele", b"\tgt", b",gt"))
    if (named and (markers or known)) or (known and markers) or (markers >= 3 and markers >= len(rows[:12]) - 2):
        return Identified("dtc-genotype", "text/plain", "genotype-rows")
    if columns.startswith(b"snp name") and b"allele1" in columns and b"allele2" in columns:
        return Identified("dtc-genotype", "text/plain", "genotype-final-report")
    return None


def _flat_file(head: bytes) -> Identified | None:
    """GenBank and EMBL flat files (INSDC): their first line tells."""
    if re.match(rb"LOCUS {7}\S+ +\d+ (?:bp|aa)\b", head):
        return Identified("genbank", "text/plain", "genbank")
    if re.match(rb"ID {3}\S+; (?:SV \d+|[^;]*);[^\n]* BP\.", head):
        return Identified("embl", "text/plain", "embl")
    return None


_TEXT = (
    ("vcf", _vcf),
    ("sam", _sam),
    ("gff", _annotation),
    ("fastq", _fastq),
    ("fasta", _fasta),
    ("genotype", _genotype),
    ("flat-file", _flat_file),
)


def packed(inside: bytes) -> Identified | None:
    """What a gzip holds, by its first bytes: a format that is read compressed as it is."""
    if inside[:4] == b"BAM\1":
        return Identified("bam", "application/x-bam", "bam")
    if inside[:4] == b"BCF\2":
        return Identified("bcf", "application/x-bcf", "bcf")
    if inside[:4] in (b"TBI\1", b"CSI\1"):
        return Identified("tabix-index", "application/octet-stream", "tabix" if inside[:3] == b"TBI" else "csi")
    if _CRAI.match(inside) and all(_CRAI.fullmatch(line) for line in _lines(inside, 4) if line):
        return Identified("crai", "application/octet-stream", "crai", "likely")
    for _, test in _TEXT:
        if found := test(inside):
            return Identified(
                f"{found.format}-gz", "application/gzip", f"{found.rule}-gz", found.confidence, "x-fmt/266"
            )
    return None


def _blocked(head: bytes) -> Identified | None:
    """BGZF: gzip with the extra field BC (SAM, 4.1)."""
    if head[:4] != b"\x1f\x8b\x08\x04" or b"BC\x02\x00" not in head[12:64]:
        return None
    return packed(first_bytes(head))


RULES = (
    Rule("bgzf", _blocked),
    magic("cram", "cram", "application/x-cram", b"CRAM\2", b"CRAM\3", puid="fmt/911"),
    magic("bam-index", "bai", "application/octet-stream", b"BAI\1"),
    magic("bcf-plain", "bcf", "application/x-bcf", b"BCF\2"),
    magic("abif", "abif", "application/octet-stream", b"ABIF\0"),
    magic("2bit", "2bit", "application/octet-stream", b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43"),
    magic("bigwig", "bigwig", "application/octet-stream", b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26"),
    magic("bigbed", "bigbed", "application/octet-stream", b"\xeb\xf2\x89\x87", b"\x87\x89\xf2\xeb"),
)
TEXT_RULES = tuple(Rule(name, test) for name, test in _TEXT)
