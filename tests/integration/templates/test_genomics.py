"""Gene files in the machine of the genomics template: what stands on its screen is what the files say.

The table of "Simple genome" is searched for letters drawn here in the same font; IGV's coverage is compared with reads
counted here from the BAM file itself. What must not be there is searched for in the same way. `make test-viewers`.
"""

import gzip
import itertools
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from myphr.viewers import samples
from tests.e2e.kept import keep
from tests.e2e.test_viewers import alike
from tests.integration.templates.conftest import TEMPLATES
from tests.integration.templates.opened import Sealed, screen, screen_at_rest

pytestmark = [pytest.mark.viewers, pytest.mark.qemu, pytest.mark.timeout(1800)]
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
SURE = 0.97  # words that are there score 1.000; others that differ in a letter or two up to 0.93


@pytest.fixture(scope="module")
def genomics() -> Iterator[Sealed]:
    sealed = Sealed("genomics", TEMPLATES)
    yield sealed
    sealed.close()


def found(image: Image.Image, words: str) -> float:
    """How alike the most similar place of the screen is to these words, 16 pixels high, light on dark."""
    face = ImageFont.truetype(FONT, 16)
    left, top, right, bottom = (int(n) for n in face.getbbox(words))
    drawn = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(drawn).text((1 - left, 1 - top), words, fill=255, font=face)
    return float(alike(np.asarray(image.convert("L"), float), np.asarray(drawn, float)).max())


@pytest.mark.parametrize(
    ("name", "there", "not_there"),
    [
        ("vcf", ["20:1,110,696", "rs6040355", "20:1,234,567", "microsat1"], ["20:1,110,969", "rs7050355"]),
        ("vcf-gz", ["chr1:5,393,259", "chr1:17,284,494"], ["chr1:5,939,259", "chr4:17,284,494"]),
        ("bcf", ["FAM138A", "behind a gene"], ["FAM831A", "between genes"]),
        ("dtc-genotype", ["1:102", "rs2", "C / C", "not read"], ["7:102", "rs9", "A / G"]),
        ("dtc-genotype-gz", ["1:107", "T / C"], ["7:107", "A / C"]),
    ],
)
def test_the_table_says_what_the_file_says(genomics: Sealed, name: str, there: list[str], not_there: list[str]) -> None:
    with genomics.opened("simple-genome", samples.of(name)) as machine:
        image = screen(machine)
        keep(image, f"simple-genome {name}")
    right, wrong = {word: found(image, word) for word in there}, {word: found(image, word) for word in not_there}
    print(f"\n  {name}: {right}, not there {wrong}")
    assert min(right.values()) > SURE > max(wrong.values())


def depth_of(bam: bytes, first: int, last: int) -> np.ndarray:
    """Reads over each place, straight from the file (SAMv1, 4.2): its reads have no gaps."""
    body = gzip.decompress(bam)
    text_bytes = struct.unpack_from("<i", body, 4)[0]
    at = 12 + text_bytes
    for _ in range(struct.unpack_from("<i", body, 8 + text_bytes)[0]):
        at += 8 + struct.unpack_from("<i", body, at)[0]
    depth = np.zeros(last - first)
    while at < len(body):
        size, _, position, _, _, _, _, flag, letters = struct.unpack_from("<iiiBBHHHi", body, at)
        if not flag & 0x704:
            depth[max(0, position + 1 - first) : max(0, position + 1 + letters - first)] += 1
        at += 4 + size
    return depth


def coverage(image: Image.Image) -> np.ndarray:
    """Heights of the bars of IGV's coverage track, by column of the panel."""
    pixels = np.asarray(image.convert("RGB"), int)
    panel = pixels[:, 173:1261]
    grey = (np.abs(panel - 175).max(2) < 4) | (np.abs(panel - 160).max(2) < 4)
    base = next(y for y in range(200, 500) if (panel[y].max(1) < 60).mean() > 0.3)  # the line below the bars
    return grey[base - 60 : base].sum(0)


def test_igv_shows_as_many_reads_as_the_file_has_at_each_place(genomics: Sealed) -> None:
    bundle = samples.of("bam")
    with genomics.opened("igv", bundle) as machine:
        image = screen(machine)
        keep(image, "igv bam")
    check_coverage(image, bundle["reads.bam"])


def check_coverage(image: Image.Image, bam: bytes) -> None:
    first, last = 24_376_081, 24_376_458  # where genome_browser.py goes
    depth = depth_of(bam, first, last)
    bars = coverage(image)
    edges = np.linspace(0, len(bars), len(depth) + 1).astype(int)
    shown = np.array([bars[a:b].max() for a, b in itertools.pairwise(edges)])  # there are gaps between bars
    right, wrong = np.corrcoef(shown, depth)[0, 1], np.corrcoef(shown, depth[::-1])[0, 1]
    print(f"\n  coverage {right:.3f}, turned round {wrong:.3f}")
    assert right > 0.95 > wrong + 0.3


@pytest.mark.parametrize(
    ("name", "window", "first", "last"),
    [
        ("vcf", (1_109_696, 1_111_696), 1_110_696, 1_110_696),
        ("bed", (117_119_016, 117_309_718), 117_120_017, 117_308_718),  # BED counts from 0, the end is behind
    ],
)
def test_igv_draws_variants_and_regions_where_the_file_has_them(
    genomics: Sealed, name: str, window: tuple[int, int], first: int, last: int
) -> None:
    with genomics.opened("igv", samples.of(name)) as machine:
        image = screen_at_rest(machine)
        keep(image, f"igv {name}")
    check_colours(image, window, first, last)


def check_colours(image: Image.Image, window: tuple[int, int], first: int, last: int) -> None:
    """The coloured columns of the first track begin and end where these places lie; `window` is where
    genome_browser.py goes."""
    left, right = 173, 1251
    track = np.asarray(image.convert("RGB"), int)[194:262, left:right]
    columns = np.flatnonzero((track.max(2) - track.min(2) > 100).any(0))
    one = (right - left) / (window[1] - window[0] + 1)
    wanted = ((first - window[0]) * one, (last - window[0] + 1) * one)
    print(f"\n  coloured from {columns.min()} to {columns.max() + 1}, wanted {wanted[0]:.1f} to {wanted[1]:.1f}")
    assert abs(columns.min() - wanted[0]) < 4 and abs(columns.max() + 1 - wanted[1]) < 4
