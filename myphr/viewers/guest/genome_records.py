"""What "Simple genome" shows, without a screen: gene variants (VCF 4.5, its binary form BCF by bcftools) and the home
tests of genes that 23andMe, AncestryDNA, MyHeritage and others hand out as text, as rows in plain words. Files of
whole genomes are read on as somebody pages on, never held whole. Runs in the guest and in the unit tests; knows no
window system.
"""

import csv
import dataclasses
import gzip
import io
import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator

from folder_files import CannotShow

LINE_CHARS_MAX = 1_000_000  # of one variant: thousands of samples are longer, and are cut
ROWS_MAX = 50_000  # that are kept to page back; a whole genome has millions
CHANGES = {  # Sequence Ontology, http://www.sequenceontology.org, in plain words
    "missense": "changes the protein",
    "synonymous": "silent: the protein stays the same",
    "stop_gained": "cuts the protein short",
    "stop_lost": "makes the protein longer",
    "start_lost": "the protein may not start",
    "frameshift": "shifts the reading of the gene",
    "inframe": "adds or takes a piece of the protein",
    "splice": "where pieces of the gene are joined",
    "intron": "inside a gene, not in the protein",
    "5_prime_utr": "at the start of a gene",
    "3_prime_utr": "at the end of a gene",
    "utr_5": "at the start of a gene",
    "utr_3": "at the end of a gene",
    "upstream": "before a gene",
    "downstream": "behind a gene",
    "intergenic": "between genes",
    "non_coding": "in a gene that makes no protein",
    "regulatory": "may switch a gene",
    "exon": "in a gene",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One place of the genome. `letters` is what this person has there; `changed` is None when the file cannot tell."""

    chromosome: str
    position: int
    name: str = ""  # rs number
    usual: str = ""
    letters: str = ""
    gene: str = ""
    effect: str = ""
    changed: bool | None = None
    more: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        return f"{self.chromosome}:{self.position:,}"


@dataclasses.dataclass
class Table:
    """One file: who it is about, and its rows from the beginning, each time anew."""

    kind: str  # vcf or test
    title: str
    people: list[str]
    rows: Callable[[], Iterator[Row]]
    size: int  # bytes of the file, for a search's progress; 0 when unknown


def opened(path: str) -> io.BufferedReader:
    """The text within, unpacked (gzip and its blocked kind are the same to a reader)."""
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    if file.read(2) == b"\x1f\x8b":
        file.close()
        return gzip.open(path, "rb")  # type: ignore[return-value]
    file.seek(0)
    return file


def kind_of(path: str) -> str:
    """By content: vcf, bcf, test (a home test) or nothing."""
    try:
        with opened(path) as file:
            head = file.read(65_536)
    except (OSError, EOFError, ValueError):
        return ""
    if head.startswith(b"##fileformat=VCF"):
        return "vcf"
    if head.startswith(b"BCF\2"):
        return "bcf"
    if b"\0" in head:
        return ""
    try:
        columns_of(head.decode("utf-8", "replace"))
    except CannotShow:
        return ""
    return "test"


def read(path: str) -> Table:
    """Raises CannotShow."""
    kind = kind_of(path)
    if kind == "test":
        return home_test(path)
    if kind in ("vcf", "bcf"):
        return variants(path, kind)
    raise CannotShow("This file is of a kind this viewer does not know.")


def lines_of(path: str, kind: str) -> Iterator[str]:
    """Raises CannotShow when the file ends where it should not; what came before has been given out by then."""
    if kind == "bcf":
        run = subprocess.Popen(["bcftools", "view", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert run.stdout is not None
        try:
            yield from _cut(run.stdout)
        finally:
            run.stdout.close()
            run.kill()
            run.wait()
        return
    try:
        with opened(path) as file:
            yield from _cut(file)
    except (OSError, EOFError, ValueError) as reason:
        raise CannotShow("This file is damaged: it ends too early.") from reason


def _cut(file: object) -> Iterator[str]:
    while line := file.readline(LINE_CHARS_MAX):  # type: ignore[attr-defined]
        if not line.endswith(b"\n"):
            while (rest := file.readline(LINE_CHARS_MAX)) and not rest.endswith(b"\n"):  # type: ignore[attr-defined]
                pass
        yield line.decode("utf-8", "replace").rstrip("\r\n")


# -- VCF --------------------------------------------------------------------------------------------------------------
def variants(path: str, kind: str) -> Table:
    people: list[str] = []
    fields: list[str] = []
    for line in itertools.islice(lines_of(path, kind), 200_000):
        if line.startswith("##INFO=<ID=CSQ"):
            found = re.search(r"Format: ?([^\"]+)", line)
            fields = found[1].split("|") if found else []
        elif line.startswith("#CHROM"):
            people = line.split("\t")[9:]
            break
        elif not line.startswith("#"):
            break
    else:
        raise CannotShow("This file is damaged and cannot be read.")

    def rows() -> Iterator[Row]:
        for line in lines_of(path, kind):
            if line and not line.startswith("#"):
                row = variant(line, fields)
                if row is not None:
                    yield row

    return Table("vcf", "Gene variants", people, rows, os.path.getsize(path))


def variant(line: str, csq: list[str]) -> Row | None:
    """A line of a VCF; None when it is none."""
    words = line.split("\t")
    if len(words) < 8 or not words[1].isdigit():
        return None
    chromosome, _, name, usual, others, quality, passed, info = words[:8]
    alternatives = [] if others == "." else others.split(",")
    letters, changed = genotype(words, usual, alternatives)
    facts = dict(part.partition("=")[::2] for part in info.split(";"))
    gene, effect = meaning(facts, csq)
    more = [("Usual letters", usual), ("Letters seen instead", others if alternatives else "none")]
    if quality != ".":
        more.append(("Quality", quality))
    if passed not in (".", ""):
        more.append(("Checks of the laboratory", "passed" if passed == "PASS" else f"not passed: {passed}"))
    for key, word in (("DP", "Reads at this place"), ("AF", "Share of people or reads"), ("CLNSIG", "ClinVar says")):
        if facts.get(key):
            more.append((word, facts[key].replace("_", " ")))
    return Row(
        chromosome, int(words[1]), "" if name == "." else name, usual, letters, gene, effect, changed, tuple(more)
    )  # fmt: skip


def genotype(words: list[str], usual: str, others: list[str]) -> tuple[str, bool | None]:
    """What the first person of the file has: "A / G"; and whether it differs from the usual."""
    if len(words) < 10 or words[8].split(":")[0] != "GT":
        return "", bool(others) or None
    call = words[9].split(":")[0]
    numbers = re.split(r"[/|]", call)
    alleles = [usual, *others]
    shown = []
    for number in numbers:
        if number == ".":
            shown.append("?")
        elif number.isdigit() and int(number) < len(alleles):
            shown.append(alleles[int(number)])
        else:
            return "?", None
    if all(one == "?" for one in shown):
        return "not read", False
    return " / ".join(shown), any(number not in ("0", ".") for number in numbers)


def meaning(facts: dict[str, str], csq: list[str]) -> tuple[str, str]:
    """Gene and effect, as the usual annotators write them: SnpEff (ANN, EFF), VEP (CSQ), ClinVar (GENEINFO, MC)."""
    if facts.get("ANN"):
        parts = facts["ANN"].split(",")[0].split("|")
        return (parts[3] if len(parts) > 3 else ""), plain_effect(parts[1] if len(parts) > 1 else "")
    if facts.get("CSQ") and csq:
        parts = dict(zip(csq, facts["CSQ"].split(",")[0].split("|"), strict=False))
        return parts.get("SYMBOL", ""), plain_effect(parts.get("Consequence", ""))
    if facts.get("EFF"):
        found = re.match(r"(\w+)\(([^)]*)\)", facts["EFF"])
        if found:
            parts = found[2].split("|")
            # Effect_Impact | Class | Codon | Amino_Acid | [length] | Gene | ...: the length came with version 2
            gene = next((p for p in parts[4:6] if p and not p.isdigit()), "")
            return gene, plain_effect(found[1])
    gene = facts.get("GENEINFO", "").split(":")[0] or facts.get("GENE", "") or facts.get("Gene", "")
    return gene, plain_effect(facts.get("MC", "").partition("|")[2])


def plain_effect(word: str) -> str:
    low = word.casefold()
    for key, words in CHANGES.items():
        if key in low:
            return words
    return word.replace("_", " ").replace("&", ", ").casefold()


# -- home tests -------------------------------------------------------------------------------------------------------
NAMES = {
    "rsid": {"rsid", "snp", "markername", "name", "rs"},
    "chromosome": {"chromosome", "chrom", "chr"},
    "position": {"position", "pos"},
    "letters": {"genotype", "result", "gt"},
    "first": {"allele1", "allele1...plus", "allele1...top"},
    "second": {"allele2", "allele2...plus", "allele2...top"},
}


def columns_of(head: str) -> tuple[dict[str, int], str]:
    """Where rs number, chromosome, position and letters stand, and what separates them. Raises CannotShow."""
    named: dict[str, int] = {}
    for line in head.splitlines():
        text = line.lstrip("#").strip()
        separator = "," if text.count(",") >= 3 else "\t"
        words = next(csv.reader([text], delimiter=separator), []) if text else []
        if len(words) < 4:
            continue
        places = {}
        for key, known in NAMES.items():
            for number, word in enumerate(words):
                if word.strip().casefold() in known and key not in places:
                    places[key] = number
        whole = {"letters"} <= set(places) or {"first", "second"} <= set(places)
        if whole and {"chromosome", "position"} <= set(places):
            plus = [n for n, w in enumerate(words) if w.strip().casefold().endswith("...plus")]
            if len(plus) == 2:
                places["first"], places["second"] = plus
            named = places
            continue
        if line.startswith("#"):
            continue
        if not named and re.fullmatch(r'"?\w\S*"?', words[0].strip()) and words[2].strip().isdigit():
            named = {"rsid": 0, "chromosome": 1, "position": 2}
            named |= {"first": 3, "second": 4} if len(words) > 4 and len(words[3].strip()) == 1 else {"letters": 3}
        if not named or not _test_row(words, named):
            break
        return named, separator
    raise CannotShow("This file is of a kind this viewer does not know.")


def _test_row(words: list[str], at: dict[str, int]) -> Row | None:
    if max(at.values()) >= len(words):
        return None
    chromosome, position = words[at["chromosome"]].strip(), words[at["position"]].strip()
    if not position.isdigit() or not re.fullmatch(r"(chr)?(\d{1,2}|X|Y|XY|MT?|PAR)", chromosome, re.I):
        return None
    if "letters" in at:
        letters = words[at["letters"]].strip()
    else:
        letters = words[at["first"]].strip() + words[at["second"]].strip()
    if not re.fullmatch(r"[ACGTDIacgtdi0/|\-]{1,40}", letters):
        return None
    letters = letters.replace("/", "").replace("|", "").upper()
    read_ = bool(letters.strip("-0"))
    name = words[at["rsid"]].strip() if "rsid" in at else ""
    shown = (" / ".join(letters) if len(letters) <= 2 else letters) if read_ else "not read"
    return Row(chromosome, int(position), name, "", shown, more=(("Letters read by the test", shown),))


def home_test(path: str) -> Table:
    with opened(path) as file:
        head = file.read(65_536).decode("utf-8", "replace")
    at, separator = columns_of(head)

    def rows() -> Iterator[Row]:
        for words in csv.reader(lines_of(path, "test"), delimiter=separator):
            row = _test_row(words, at) if words and not words[0].startswith("#") else None
            if row is not None:
                yield row

    maker = next((m for m in MAKERS if m.casefold().replace(" ", "") in head[:2000].casefold().replace(" ", "")), "")
    return Table("test", f"Home test of genes{', ' + maker if maker else ''}", [], rows, os.path.getsize(path))


MAKERS = ("23andMe", "AncestryDNA", "MyHeritage", "Living DNA", "Genes for Good", "FamilyTreeDNA", "Circle")


# -- looking for one --------------------------------------------------------------------------------------------------
def wanted(text: str) -> Callable[[Row], bool]:
    """What somebody typed: an rs number, a gene, or a place (7, chr7, 7:117559590, 7:117,000,000-118,000,000)."""
    text = text.strip().replace(",", "")
    place = re.fullmatch(r"(?:chr)?(\d{1,2}|X|Y|MT?)(?::(\d+)(?:-(\d+))?)?", text, re.I)
    if place:
        chromosome, first, last = place.groups()
        low = int(first) if first else 0
        high = int(last) if last else (low if first else 10**12)
        names = {chromosome.casefold(), f"chr{chromosome}".casefold()}
        return lambda row: low <= row.position <= high and row.chromosome.casefold() in names
    word = text.casefold()
    if re.fullmatch(r"rs\d+", word):
        return lambda row: word in row.name.casefold().split(";")
    return lambda row: row.gene.casefold() == word or row.name.casefold() == word


# -- what IGV needs ---------------------------------------------------------------------------------------------------
def contigs(path: str) -> dict[str, int]:
    """Name and length of each sequence that the file speaks of: from its header, else from its rows."""
    found: dict[str, int] = {}
    low = path.casefold()
    if low.endswith((".bam", ".cram", ".sam")):
        head = subprocess.run(["samtools", "view", "-H", path], capture_output=True, text=True, errors="replace").stdout
        for name, length in re.findall(r"^@SQ\t(?:.*\t)?SN:([^\t\n]+)(?:\t.*)?\tLN:(\d+)", head, re.M):
            found[name] = int(length)
        return found
    if low.endswith((".vcf", ".vcf.gz", ".bcf")):
        kind = "bcf" if low.endswith(".bcf") else "vcf"
        for line in itertools.islice(lines_of(path, kind), 1_000_000):
            if line.startswith("##contig="):
                name, length = re.search(r"ID=([^,>]+)", line), re.search(r"length=(\d+)", line)
                if name and length:
                    found[name[1]] = int(length[1])
            elif not line.startswith("#"):
                words = line.split("\t", 2)
                if len(words) > 2 and words[1].isdigit() and words[0] not in found:
                    found[words[0]] = 0
                if len(words) > 2 and words[1].isdigit() and (found[words[0]] < int(words[1])):
                    found[words[0]] = int(int(words[1]) * 1.05) + 1000
        return found
    ends = {"bed": (0, 2), "gff": (0, 4), "gff3": (0, 4), "gtf": (0, 4)}
    columns = ends.get(low.removesuffix(".gz").rsplit(".", 1)[-1])
    if columns:
        for line in itertools.islice(lines_of(path, "text"), 1_000_000):
            words = line.split("\t")
            if not line.startswith("#") and len(words) > columns[1] and words[columns[1]].isdigit():
                name, end = words[columns[0]], int(words[columns[1]])
                found[name] = max(found.get(name, 0), int(end * 1.05) + 1000)
    return found
