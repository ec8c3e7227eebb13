"""What "Simple genome" shows and what IGV is given, tried without a screen on files of several makers."""

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from myphr.viewers import samples
from tests.unit.viewers.guest_modules import guest_module


@pytest.fixture(scope="module")
def genome() -> Iterator[ModuleType]:
    with guest_module("genome_records") as module:
        yield module


@pytest.fixture(scope="module")
def browser(genome: ModuleType) -> Iterator[ModuleType]:
    with guest_module("genome_browser") as module:
        yield module


def written(folder: Path, name: str) -> str:
    bundle = samples.of(name)
    for file, body in bundle.items():
        (folder / file).write_bytes(body)
    return str(folder / next(iter(bundle)))


def test_variants_say_what_is_usual_and_what_is_here(genome, tmp_path: Path) -> None:
    table = genome.read(written(tmp_path, "vcf"))
    rows = list(table.rows())
    assert table.people == ["NA00001", "NA00002", "NA00003"]
    assert [(r.place, r.name, r.usual, r.letters, r.changed) for r in rows] == [
        ("20:14,370", "rs6054257", "G", "G / G", False),
        ("20:17,330", "", "T", "T / T", False),
        ("20:1,110,696", "rs6040355", "A", "G / T", True),
        ("20:1,230,237", "", "T", "T / T", False),
        ("20:1,234,567", "microsat1", "GTC", "GTC / G", True),
    ]
    assert ("Checks of the laboratory", "not passed: q10") in rows[1].more


def test_a_packed_file_gives_the_same_rows(genome, tmp_path: Path) -> None:
    plain = Path(written(tmp_path, "vcf"))
    packed = tmp_path / "v.vcf.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(genome.read(str(packed)).rows()) == list(genome.read(str(plain)).rows())


def test_a_binary_file_gives_what_bcftools_reads(genome, tmp_path: Path) -> None:
    rows = list(genome.read(written(tmp_path, "bcf")).rows())
    assert rows[0].gene == "FAM138A" and rows[0].effect == "behind a gene" and rows[0].place == "chr1:30,548"


@pytest.mark.parametrize(
    ("info", "csq", "said"),
    [
        ("ANN=A|missense_variant|MODERATE|BRCA1|ENSG|", [], ("BRCA1", "changes the protein")),
        ("CSQ=A|stop_gained|CFTR", ["Allele", "Consequence", "SYMBOL"], ("CFTR", "cuts the protein short")),
        ("EFF=INTRON(MODIFIER|||||MIR1302-10|antisense)", [], ("MIR1302-10", "inside a gene, not in the protein")),
        ("GENEINFO=APOE:348;MC=SO:0001583|missense_variant", [], ("APOE", "changes the protein")),
        ("DP=4", [], ("", "")),
    ],
)
def test_gene_and_effect_of_every_usual_annotator_are_in_plain_words(genome, info, csq, said) -> None:
    row = genome.variant(f"7\t100\trs1\tG\tA\t50\tPASS\t{info}\tGT\t0/1", csq)
    assert (row.gene, row.effect) == said


@pytest.mark.parametrize(
    "text",
    [
        "# 23andMe\n# rsid\tchromosome\tposition\tgenotype\nrs1\t1\t101\tAG\nrs2\tMT\t7\t--\n",
        "#AncestryDNA\nrsid\tchromosome\tposition\tallele1\tallele2\nrs1\t1\t101\tA\tG\nrs2\tMT\t7\t0\t0\n",
        'RSID,CHROMOSOME,POSITION,RESULT\n"rs1","1","101","AG"\n"rs2","MT","7","--"\n',
        "# MARKERNAME\tCHROM\tPOS\tGT\nrs1\t1\t101\tA/G\nrs2\tMT\t7\t--\n",
        "rs1\t1\t101\tAG\nrs2\tMT\t7\t--\n",
    ],
)
def test_home_tests_of_every_maker_become_the_same_rows(genome, tmp_path: Path, text: str) -> None:
    path = tmp_path / "test.txt"
    path.write_text(text)
    assert genome.kind_of(str(path)) == "test"
    rows = [(r.place, r.name, r.letters, r.changed) for r in genome.read(str(path)).rows()]
    assert rows == [("1:101", "rs1", "A / G", None), ("MT:7", "rs2", "not read", None)]


@pytest.mark.parametrize(
    "text",
    ["", "a,b,c,d\n1,2,3,4\n", "Dear patient,\nall is well.\n", "date\tweight\n2024\t70\n"],
)
def test_other_tables_are_no_home_tests(genome, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert genome.kind_of(str(tmp_path / "x.csv")) == ""


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("rs6040355", ["20:1,110,696"]), ("RS604", []), ("20:17330", ["20:17,330"]), ("chr20:17,330", ["20:17,330"]),
        ("20:17000-1,200,000", ["20:17,330", "20:1,110,696"]), ("7", []), ("microsat1", ["20:1,234,567"]),
    ],
)  # fmt: skip
def test_a_name_or_a_place_is_found(genome, tmp_path: Path, typed: str, found: list[str]) -> None:
    rows = genome.read(written(tmp_path, "vcf")).rows()
    assert [row.place for row in filter(genome.wanted(typed), rows)] == found


def test_a_file_that_was_cut_shows_what_it_has_and_says_so(genome, tmp_path: Path) -> None:
    body = samples.of("vcf-gz")["variants.vcf.gz"]
    (tmp_path / "cut.vcf.gz").write_bytes(body[: len(body) // 2])
    rows = genome.read(str(tmp_path / "cut.vcf.gz")).rows()
    assert next(rows).changed
    with pytest.raises(genome.CannotShow, match="ends too early"):
        list(rows)


def test_rubbish_in_lines_is_passed_over(genome, tmp_path: Path) -> None:
    lines = [
        "##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tme",
        "1\tabc\t.\tA\tG\t.\t.\t.\tGT\t0/1", "1\t5", "1\t7\t.\tA\tG\t.\t.\t.\tGT\t9/9", "\x00\x01",
        "1\t9\t.\tA\tG\t.\t.\t.",
    ]  # fmt: skip
    (tmp_path / "x.vcf").write_text("\n".join(lines))
    rows = list(genome.read(str(tmp_path / "x.vcf")).rows())
    assert [(r.position, r.letters, r.changed) for r in rows] == [(7, "?", None), (9, "", True)]


def test_a_line_of_gigabytes_is_cut_and_the_next_one_is_whole(genome, tmp_path: Path) -> None:
    head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "x.vcf").write_text(head + "1\t1\t.\tA\t" + "G" * 3_000_000 + "\t.\t.\t.\n1\t2\t.\tA\tG\t.\t.\t.\n")
    assert [row.position for row in genome.read(str(tmp_path / "x.vcf")).rows()] == [2]


def test_the_genome_for_igv_has_the_lengths_of_the_file_and_takes_no_room(genome, browser, tmp_path: Path) -> None:
    sizes = genome.contigs(written(tmp_path, "vcf-gz"))
    assert sizes["chr1"] == 249_250_621 and len(sizes) > 20
    path = tmp_path / "all.fa"
    browser.write_genome(str(path), sorted(sizes.items()))
    assert path.stat().st_size > 3_000_000_000 and path.stat().st_blocks * 512 < 1_000_000
    name, length, offset, _, _ = (tmp_path / "all.fa.fai").read_text().splitlines()[1].split("\t")
    with path.open("rb") as file:
        file.seek(int(offset) - len(name) - 2)
        assert file.read(len(name) + 2) == f">{name}\n".encode() and int(length) == sizes[name]


def test_igv_goes_to_where_the_file_has_something(browser, tmp_path: Path) -> None:
    assert browser.first_place(written(tmp_path, "vcf")) == "20:1109696-1111696"
    assert browser.first_place(written(tmp_path, "gff")) == "X:2933816-2936190"
    assert browser.first_place(written(tmp_path, "bed")) == "chr7:117119016-117309718"
    assert browser.first_place(written(tmp_path, "fasta")) == ""
    names = sorted(["chr10", "chr2", "chrX", "chr1"], key=browser.natural)
    assert names == ["chr1", "chr2", "chr10", "chrX"] and list(itertools.chain(names))
