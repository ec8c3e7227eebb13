"""What "Simple signals" shows, tried without a screen: the same ECG in two formats, and what other libraries read."""

import dataclasses
import io
import itertools
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import edfio
import numpy as np
import pydicom
import pytest

from myphr.viewers import samples
from tests.unit.viewers.guest_modules import guest_module

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def signals() -> Iterator[SimpleNamespace]:
    names = ("signal_records", "signal_scp", "signal_paper")
    with ExitStack() as stack:
        yield SimpleNamespace(**{name[7:]: stack.enter_context(guest_module(name)) for name in names})


def written(folder: Path, name: str) -> str:
    """The first file of a sample, with its others beside it."""
    bundle = samples.of(name)
    for file, body in bundle.items():
        (folder / file.removesuffix(".packed")).write_bytes(body)
    return str(folder / next(iter(bundle)))


def values(channel) -> np.ndarray:
    return channel.piece(0, channel.count)


def test_one_ecg_has_the_same_values_in_two_formats(signals, tmp_path: Path) -> None:
    scp = signals.records.read(written(tmp_path, "scp-ecg"))
    aecg = signals.records.read(written(tmp_path, "aecg-xml"))
    leads = {channel.name: channel for channel in aecg.channels}
    assert [c.name for c in scp.twelve] == list(signals.records.LEADS_12) and aecg.twelve and aecg.is_ecg
    for channel in scp.channels:
        assert np.abs(values(channel) - values(leads[channel.name])).max() < 0.01, channel.name


@pytest.mark.parametrize("name", ["edf", "bdf"])
def test_recordings_have_the_values_that_another_library_reads(signals, tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    recording = signals.records.read(path)
    peer = (edfio.read_bdf if name == "bdf" else edfio.read_edf)(io.BytesIO(Path(path).read_bytes()))
    assert len(recording.channels) == len(peer.signals) and not recording.is_ecg
    for ours, theirs in zip(recording.channels, peer.signals, strict=True):
        assert (ours.name, ours.rate) == (theirs.label, theirs.sampling_frequency)
        assert np.allclose(values(ours), theirs.data, atol=1e-2)
        assert np.allclose(ours.piece(37, 1400), theirs.data[37:1400], atol=1e-2)  # across data records


def test_a_dicom_ecg_has_the_values_that_pydicom_reads(signals, tmp_path: Path) -> None:
    path = written(tmp_path, "dicom ECG")
    recording = signals.records.read(path)
    theirs = pydicom.dcmread(path).waveform_array(0)
    assert recording.twelve and recording.seconds == 10
    for number, channel in enumerate(recording.channels):
        assert np.allclose(values(channel), theirs[:, number], atol=1e-3)


def test_a_wfdb_record_is_read_with_the_file_beside_it(signals, tmp_path: Path) -> None:
    path = written(tmp_path, "wfdb-hea")
    recording = signals.records.read(path)
    assert [(c.name, c.rate, c.count) for c in recording.channels] == [
        ("MCL1", 500, 30_000), ("ABP", 125, 7_500), ("RESP", 125, 7_500),
    ]  # fmt: skip
    raw = (tmp_path / "monitor.dat").read_bytes()
    first = raw[0] | (raw[1] & 15) << 8
    first -= 4096 if first >= 2048 else 0
    assert values(recording.channels[0])[0] == pytest.approx(first / 2963.77)
    (tmp_path / "monitor.dat").unlink()
    with pytest.raises(signals.records.CannotShow, match="not beside it"):
        signals.records.read(path)


def test_scp_numbers_of_every_length_are_unpacked(signals) -> None:
    def bits(value: int) -> str:
        if value == 0:
            return "0"
        if abs(value) <= 8:
            # of 1 the zero that ends the ones is the second bit of "10s"
            return "1" * abs(value) + "0" + ("1" if value < 0 else "0")
        wide = 8 if -128 <= value < 128 else 16
        return ("1" * 9 + "0" if wide == 8 else "1" * 10) + format(value & (1 << wide) - 1, f"0{wide}b")

    numbers = [*range(-10, 11), 127, -128, 128, 3000, -32768, 32767, 0, 1]
    text = "".join(bits(n) for n in numbers)
    text += "0" * (-len(text) % 8)
    packed = int(text, 2).to_bytes(len(text) // 8, "big")
    assert signals.scp.unpack(packed, len(numbers)).tolist() == numbers
    assert len(signals.scp.unpack(packed[:9], len(numbers))) < len(numbers)
    squares = np.arange(50) ** 2
    for order, packed_as in ((1, np.diff(squares, prepend=0)), (2, np.concatenate(([0, 1], np.diff(squares, 2))))):
        assert (signals.scp.sums(packed_as, order) == squares).all()


def test_damaged_files_end_in_a_sentence_and_never_in_an_error(signals, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    shown = 0
    for name in ("edf", "bdf", "scp-ecg", "aecg-xml", "wfdb-hea", "dicom ECG"):
        path = Path(written(tmp_path, name))
        whole = path.read_bytes()
        for trial in range(12):
            body = bytearray(whole[: int(len(whole) * rng.random())] if trial % 2 else whole)
            for at in rng.integers(0, max(1, min(len(body), 3000)), 8 if body else 0):
                body[at] = rng.integers(0, 256)
            path.write_bytes(body)
            try:
                recording = signals.records.read(str(path))
                signals.paper.draw(recording, signals.paper.Look(), 400, 300)
                shown += 1
            except signals.records.CannotShow as sentence:
                assert re.fullmatch(r"[A-Z].*\.", str(sentence))
        path.write_bytes(whole)
    assert shown  # else nothing but the sentence was tried


def test_an_edf_header_that_claims_more_than_its_file_is_believed_only_so_far(signals, tmp_path: Path) -> None:
    path = Path(written(tmp_path, "edf"))
    body = bytearray(path.read_bytes())
    body[236:244] = b"99999999"
    path.write_bytes(body)
    assert signals.records.read(str(path)).seconds == 60


def test_the_paper_shows_each_lead_where_it_belongs(signals, tmp_path: Path) -> None:
    recording = signals.records.read(written(tmp_path, "scp-ecg"))
    look = signals.paper.Look()
    assert signals.paper.shows_page(recording, look)
    image = np.asarray(signals.paper.draw(recording, look, 988, 576).convert("L"), float)
    assert image.shape == (576, 988)
    strip = trace_of(image[432:] < 60)
    two, other = (values(recording.twelve[n]) for n in (1, 7))
    assert likeness(strip, two) > 0.9 > likeness(strip, other) + 0.2
    alone = signals.paper.draw(recording, dataclasses.replace(look, only=0), 988, 576)
    assert not signals.paper.shows_page(recording, dataclasses.replace(look, only=0)) and alone.size == (988, 576)


def trace_of(dark: np.ndarray) -> np.ndarray:
    """Of each column the middle of its dark pixels, upwards."""
    rows = np.arange(dark.shape[0])[:, None]
    count = dark.sum(0)
    middle = np.where(count > 0, (rows * dark).sum(0) / np.maximum(count, 1), dark.shape[0] / 2)
    return -middle


def likeness(trace: np.ndarray, samples_: np.ndarray) -> float:
    edges = np.linspace(0, len(samples_), len(trace) + 1).astype(int)
    means = np.array([(samples_[a:b].max() + samples_[a:b].min()) / 2 for a, b in itertools.pairwise(edges)])
    return float(np.corrcoef(trace[80:], means[80:])[0, 1])


def test_the_unpacked_length_of_scp_is_bounded_by_its_header(signals, tmp_path: Path) -> None:
    body = bytearray(samples.of("scp-ecg")["ecg.scp"])
    at = body.index(struct.pack("<IIB", 1, 5000, 1))
    struct.pack_into("<II", body, at, 1, 0xFFFFFFFF)
    (tmp_path / "long.scp").write_bytes(body)
    with pytest.raises(signals.records.CannotShow):
        signals.records.read(str(tmp_path / "long.scp"))
