"""Recordings in the machine of the signals template: what stands on its screen are the file's own values.

The line on the screen is found by its colour, column by column, and compared with the samples as other libraries read
them. Another line of the same file is compared too and must be less alike. `make test-viewers` runs this.
"""

import gzip
import io
import re
from collections.abc import Iterator

import edfio
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from myphr.viewers import samples
from tests.e2e.kept import keep
from tests.integration.templates.conftest import TEMPLATES
from tests.integration.templates.opened import Sealed, screen

pytestmark = [pytest.mark.viewers, pytest.mark.qemu, pytest.mark.timeout(900)]
LEFT, TOP, WIDTH, HEIGHT = 292, 60, 988, 576  # of the lines in "Simple signals"
WORDS = 90  # pixels on the left of each line, where its name stands


@pytest.fixture(scope="module")
def signals() -> Iterator[Sealed]:
    sealed = Sealed("signals", TEMPLATES)
    yield sealed
    sealed.close()


def expected(values: np.ndarray, columns: int) -> np.ndarray:
    """Of each column the middle between the lowest and the highest sample."""
    edges = np.linspace(0, len(values), columns + 1).astype(int)
    pairs = zip(edges, np.maximum(edges[1:], edges[:-1] + 1), strict=False)
    return np.array([(values[a:b].max() + values[a:b].min()) / 2 for a, b in pairs])


def likeness(line: np.ndarray, values: np.ndarray) -> float:
    """How alike the line (pixels that belong to it, true) runs to these samples: 1 is the same."""
    rows = np.arange(line.shape[0])[:, None]
    low = np.where(line, rows, line.shape[0]).min(0)
    high = np.where(line, rows, -1).max(0)
    there = high >= 0
    middle = np.where(there, -(low + high) / 2, 0.0)
    wanted = expected(values, line.shape[1])
    there[:WORDS] = False
    assert there.mean() > 0.5, "there is hardly any line"
    return float(np.corrcoef(middle[there], wanted[there])[0, 1])


def area(image: Image.Image, top: float, bottom: float) -> np.ndarray:
    box = (LEFT, TOP + int(HEIGHT * top), LEFT + WIDTH, TOP + int(HEIGHT * bottom))
    return np.asarray(image.crop(box).convert("RGB"), int)


def rhythm_strip(image: Image.Image) -> np.ndarray:
    """The lowest quarter of an ECG's page: lead II, ink on paper."""
    return area(image, 0.76, 1).max(2) < 110


def coloured(image: Image.Image, row: int, rows: int, colour: str) -> np.ndarray:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.abs(area(image, row / rows, (row + 1) / rows) - wanted).max(2) < 40


def leads(name: str) -> dict[str, np.ndarray]:
    if name == "dicom ECG":
        columns = pydicom.dcmread(str(get_testdata_file("waveform_ecg.dcm"))).waveform_array(0).T
        return {"II": columns[1], "V1": columns[6]}
    text = gzip.decompress((samples.FILES / "ecg.xml.packed").read_bytes()).decode()
    found = re.findall(r'code="MDC_ECG_LEAD_(\w+)".*?<digits>(.*?)</digits>', text, re.S)
    return {lead: np.array(digits.split(), float) for lead, digits in reversed(found)}


@pytest.mark.parametrize("name", ["scp-ecg", "aecg-xml", "dicom ECG"])
def test_the_rhythm_of_an_ecg_is_on_its_paper(signals: Sealed, name: str) -> None:
    with signals.opened("simple-signals", samples.of(name)) as machine:
        image = screen(machine)
        keep(image, f"simple-signals {name}")
    wanted, other = (leads(name)[lead] for lead in ("II", "V1"))
    found, control = (likeness(rhythm_strip(image), values) for values in (wanted, other))
    print(f"\n  {name}: lead II {found:.3f}, lead V1 {control:.3f}")
    assert found > 0.9 and control < found - 0.1


def test_the_lines_of_an_edf_and_a_bdf_are_those_of_the_file(signals: Sealed) -> None:
    eeg = edfio.read_edf(io.BytesIO(samples.of("edf")["eeg.edf"])).signals[0].data[: 10 * 128]
    with signals.opened("simple-signals", samples.of("edf")) as machine:
        image = screen(machine)
        keep(image, "simple-signals edf")
    assert likeness(coloured(image, 0, 1, "#7fd1ff"), eeg) > 0.9
    peer = edfio.read_bdf(io.BytesIO(next(iter(samples.of("bdf").values()))))
    bdf = [signal.data[: int(10 * signal.sampling_frequency)] for signal in peer.signals]
    with signals.opened("simple-signals", samples.of("bdf")) as machine:
        image = screen(machine)
        keep(image, "simple-signals bdf")
    for number, colour in ((0, "#7fd1ff"), (3, "#ff9f9f")):
        line = coloured(image, number, 5, colour)
        assert likeness(line, bdf[number]) > 0.85 > likeness(line, bdf[2]) + 0.2


def test_a_recording_of_intensive_care_is_read_with_the_file_beside_it(signals: Sealed) -> None:
    raw = np.frombuffer(samples.of("wfdb-hea")["monitor.dat"], np.uint8).astype(int).reshape(-1, 3)
    pairs = np.stack([raw[:, 0] | (raw[:, 1] & 15) << 8, raw[:, 2] | (raw[:, 1] & 240) << 4], 1).ravel()
    frames = np.where(pairs >= 2048, pairs - 4096, pairs).reshape(-1, 6)[: 10 * 125]
    with signals.opened("simple-signals", samples.of("wfdb-hea")) as machine:
        image = screen(machine)
        keep(image, "simple-signals wfdb")
    pressure, breath = frames[:, 4], frames[:, 5]
    line = coloured(image, 1, 3, "#ffd37f")
    assert likeness(line, pressure) > 0.9 > likeness(line, breath) + 0.2


@pytest.mark.parametrize("name", ["edf", "bdf"])
def test_edfbrowser_shows_the_lines_at_once(signals: Sealed, name: str) -> None:
    """By itself it would ask which lines to show. Its first line is yellow."""
    reader = edfio.read_bdf if name == "bdf" else edfio.read_edf
    first = reader(io.BytesIO(next(iter(samples.of(name).values())))).signals[0]
    with signals.opened("edfbrowser", samples.of(name)) as machine:
        image = screen(machine)
        keep(image, f"edfbrowser {name}")
    pixels = np.asarray(image, int)
    yellow = (pixels[..., 0] > 150) & (pixels[..., 1] > 150) & (pixels[..., 2] < 110)
    columns = np.flatnonzero(yellow.sum(0) > 0)
    line = yellow[:, columns.min() : columns.max() + 1]
    found = likeness(line, first.data[: int(10 * first.sampling_frequency)])
    print(f"\n  edfbrowser {name}: {found:.3f}")
    assert found > 0.85
