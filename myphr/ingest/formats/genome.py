"""Genomes: BAM, CRAM, SAM and their indexes, VCF and BCF (samtools/hts-specs), FASTA, FASTQ, GFF and GTF, BED, GenBank
and EMBL, ABIF traces, and the texts that direct-to-consumer laboratories send. BGZF, the blocked gzip of hts-specs, is
opened for its first bytes.
"""

import re

from myphr.ingest.formats import Identified, Rule, magic
from myphr.ingest.formats.inflate import first_bytes

_VCF_COLUMNS = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
_SAM_HEADER = re.compile(rb"@(?:HD\t(?:\S+\t)*VN:\d|SQ\t(?:\S+\t)*SN:|RG\t(?:\S+\t)*ID:|PG\t(?:\S+\t)*ID:|CO\t)")
_SAM_RECORD = re.compile(
    rb"[!-?A-~]{1,254}\t\d{1,5}\t[!-~]+\t\d+\t\d{1,3}\t(?:\*|(?:\d+[MIDNSHP=X])+)\t"
    rb"[!-~]+\t\d+\t-?\d+\t(?:\*|[A-Za-z=.]+)\t[!-~]+"
)
_BASES = re.compile(rb"[ACGTUNRYSWKMBDHVXacgtunryswkmbdhvx.*-]+")
_COLOURS = re.compile(rb"[ACGTacgt][0-3.]+")  # SOLiD: a base, then the changes from base to base
_RESIDUES = re.compile(rb"[A-Za-z*.-]+")
# GFF3 and GTF 2.2: nine columns, in GFF2 and GTF perhaps one of comments. A feature across an edge may start before it.
_GFF = re.compile(
    rb"[^\t]+\t[^\t]+\t[^\t]+\t-?\d+\t-?\d+\t[0-9.eE+-]+\t[+.?-]\t[012.](?:\t[^\t]*){0,2}"
)
_GTF_ATTRIBUTES = re.compile(rb'(?:^|[\s;])(?:gene|transcript)_id "')  # the two that GTF demands; GFF2 has others
_BED_NAME, _BED_PLACE = re.compile(rb"[A-Za-z0-9_.|-]{1,255}"), re.compile(rb"\d{1,19}")
_CHROMOSOME = re.compile(rb"(?:chr)?(?:\d{1,2}|X|Y|M|MT|Un\w*|\w+_random)|chr.*|(?:N[CTWGZ]|[GK][LI]|CM)_?\d{5,}.*")
_BED_COLUMNS = re.compile(rb"#?chrom\w*[\t ]+(?:chrom)?start[\t ]+(?:chrom)?(?:end|stop)\b", re.IGNORECASE)
_PLACE_MIN = 10_000
_TITLES = (b"track", b"browser")  # lines for a genome browser, above the rows of BED
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
# Below a line of columns the markers may be called otherwise: by their place, by the laboratory's own numbers.
_ANY_MARKER = re.compile(
    rb'"?[A-Za-z0-9_.:-]{1,60}"?([,\t;])"?(?:\d{1,2}|X|Y|XY|MT|M|PAR\d?)"?\1"?\d{1,9}"?\1'
    rb'"?[ACGTDI0-]{1,2}"?(?:\1"?[ACGTDI0-]{0,2}"?)?'
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
        below = next((line for line in _lines(head, 4096) if not line.startswith(b"@")), b"")
        # The same header stands above lists of intervals.
        return None if below and below.count(b"\t") < 10 else Identified("sam", "text/x-sam", "sam-header")
    lines = _lines(head, 4)
    if b"\t" in lines[0] and _SAM_RECORD.match(lines[0]):
        return Identified("sam", "text/x-sam", "sam-record", "likely")
    return None


def _fasta(head: bytes) -> Identified | None:
    """`>` and a name, then only letters of bases or residues (IUPAC), up to the next `>`."""
    lines = [line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 64)[:64]]
    lines = [line for line in lines if line and not line.startswith(b";")]
    if len(lines) < 2 or lines[0][:1] != b">" or len(lines[0]) < 2 or lines[1].startswith(b">"):
        return None
    sequence = [line for line in lines[1:] if not line.startswith(b">")]
    return Identified("fasta", "text/x-fasta", "fasta", "likely") if all(map(_is_sequence, sequence)) else None


def _is_sequence(line: bytes) -> bool:
    """A quoted line of a mail stands above words, too, and "Thanks" is six bases."""
    if _BASES.fullmatch(line):
        return line.isupper() or line.islower() or len(line) >= 12 or not line.strip(b"ACGTNacgtn.*-")
    return _RESIDUES.fullmatch(line) is not None and (line.isupper() or len(line) >= 30)


def _fastq(head: bytes) -> Identified | None:
    """Each read: @name, bases, +, as many qualities; bases and qualities may be broken into lines (Cock et al. 2010).
    A read that is longer than the head (nanopore) is told by its bases."""
    name, _, rest = head.partition(b"\n")
    bases, plus, after = rest.partition(b"\n+")
    found = bases.replace(b"\r", b"").replace(b"\n", b"")
    if name[:1] != b"@" or len(name) < 2 or not found or not (_BASES.fullmatch(found) or _COLOURS.fullmatch(found)):
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
    comments, rows = _rows(head)
    if rows and all(_GFF.fullmatch(row) for row in rows):
        gtf = any(_GTF_ATTRIBUTES.search(b" ".join(row.split(b"\t")[8:])) for row in rows)
        return Identified("gtf" if gtf else "gff", "text/x-gff", "gff-columns", "likely")
    return Identified("bed", "text/x-bed", "bed", "likely") if _bed(comments, rows) else None


def _rows(head: bytes, most: int = 8) -> tuple[list[bytes], list[bytes]]:
    """(comments and titles, the first rows below them). A row that the head may cut is left out."""
    above: list[bytes] = []
    rows: list[bytes] = []
    at = 0
    while at < len(head) and len(rows) < most:
        end = head.find(b"\n", at)
        if end < 0 and len(head) >= _HEAD_FULL_BYTES and (above or rows):
            break
        line = head[at : end if end >= 0 else len(head)].rstrip(b"\r")
        at = end + 1 if end >= 0 else len(head)
        if line.startswith((b"#", *(title + b" " for title in _TITLES))):
            above.append(line)
        elif line:
            rows.append(line)
    return above, rows


def _bed(above: list[bytes], rows: list[bytes]) -> bool:
    """BED 1.0 (hts-specs), 1.1: name, start, end, parted by tabs or blanks; then name, score, strand and what makers
    add. Three columns of a table say little: a title, names of chromosomes or strands say the rest."""
    titles = [line for line in above if line.startswith(_TITLES)]
    if any(b"type=bedGraph" in line or b"type=wiggle" in line for line in titles):
        return False
    named = bool(rows) and _BED_COLUMNS.match(rows[0]) is not None
    found = [row.split(b"\t") if b"\t" in row else row.split() for row in rows[named:]]
    if not found or not all(map(_is_region, found)):
        return False
    if titles or named or any(_BED_COLUMNS.match(line) for line in above):
        return True
    if all(len(cells) > 5 and cells[5].strip() in (b"+", b"-", b".", b"*") for cells in found):
        return True
    if all(cells[0].startswith(b"chr") for cells in found):
        return True
    if len(found) < 2 or b"\t" not in rows[0] or not all(_CHROMOSOME.fullmatch(cells[0]) for cells in found):
        return False
    # A number in front is a chromosome where what follows are places in a genome: tables of blood pressures are not.
    return any(int(cells[1]) >= _PLACE_MIN for cells in found) or not all(cells[0].isdigit() for cells in found)


def _is_region(cells: list[bytes]) -> bool:
    if len(cells) < 3 or not _BED_NAME.fullmatch(cells[0]):
        return False
    places = [cell.strip() for cell in cells[1:3]]
    return all(map(_BED_PLACE.fullmatch, places)) and int(places[0]) <= int(places[1])


def _genotype(head: bytes) -> Identified | None:
    """A laboratory's name in the comment at the top, or columns of marker, chromosome, position and alleles."""
    lines = [line for line in _lines(head.removeprefix(b"\xef\xbb\xbf"), 200) if line.strip()]
    comments = [line for line in lines[:60] if line.startswith(b"#")]
    rows = [line for line in lines if not line.startswith(b"#")]
    markers = sum(bool(_MARKER.fullmatch(row.strip())) for row in rows[:12])
    named = any(one in comment for comment in comments for one in _LABORATORIES)
    columns = next((line for line in (*comments[::-1], *rows[:12]) if _COLUMNS.match(line)), b"").lower()
    known = b"chr" in columns and any(one in columns for one in (b"result", b"genotype", b"allele", b"\tgt", b",gt"))
    called = known and sum(bool(_ANY_MARKER.fullmatch(row.strip())) for row in rows[1:12])
    nearly_all = markers >= 3 and markers >= len(rows[:12]) - 2
    if (named and (markers or known)) or (known and (markers or called)) or nearly_all:
        return Identified("dtc-genotype", "text/plain", "genotype-rows")
    if any(_is_final_report(line) for line in rows[:30]):
        return Identified("dtc-genotype", "text/plain", "genotype-final-report")
    return None


def _is_final_report(line: bytes) -> bool:
    """The columns of a final report of Illumina's GenomeStudio (its user guide: Final Report), in any order; some
    programs write points for the blanks in their names."""
    cells = [cell.strip(b'" ').replace(b".", b" ").lower() for cell in re.split(rb"[\t,;]", line)]
    marker = b"snp name" in cells
    return marker and all(any(cell.startswith(one) for cell in cells) for one in (b"allele1 ", b"allele2 "))


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
    if inside[:4] in (b"BCF\2", b"BCF\4"):  # 4: the first version, of samtools 0.1
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
    magic("cram", "cram", "application/x-cram", b"CRAM\1", b"CRAM\2", b"CRAM\3", puid="fmt/911"),
    magic("bam-index", "bai", "application/octet-stream", b"BAI\1"),
    magic("index-plain", "tabix-index", "application/octet-stream", b"CSI\1", b"TBI\1"),
    magic("bcf-plain", "bcf", "application/x-bcf", b"BCF\2"),
    magic("abif", "abif", "application/octet-stream", b"ABIF\0"),
    magic("2bit", "2bit", "application/octet-stream", b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43"),
    magic("bigwig", "bigwig", "application/octet-stream", b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26"),
    magic("bigbed", "bigbed", "application/octet-stream", b"\xeb\xf2\x89\x87", b"\x87\x89\xf2\xeb"),
)
TEXT_RULES = tuple(Rule(name, test) for name, test in _TEXT)
