"""A small true file of each format that a viewer claims, so that somebody can look whether it still opens. Where they
come from is in README.md beside them; what Pillow and pydicom can write or bring along is made here. Called by the
check of the viewers and by their tests; knows no viewer and no machine. A format without a sample is not promised
to open.
"""

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

FILES = Path(__file__).parent / "files"
Bundle = Mapping[str, bytes]  # names in the machine's folder, and contents: some formats are more than one file


def _kept(*names: str) -> Callable[[], Bundle]:
    """Files beside this module; `.packed` (gzip) is how we keep the larger ones, not what the viewer gets."""
    return lambda: {name.removesuffix(".packed"): _content(name) for name in names}


def _content(name: str) -> bytes:
    body = (FILES / name).read_bytes()
    return gzip.decompress(body) if name.endswith(".packed") else body


def _pydicom(*names: str) -> Callable[[], Bundle]:
    """Files that pydicom brings along (MIT)."""

    def load() -> Bundle:
        from pydicom.data import get_testdata_file

        paths = {name: get_testdata_file(name, download=False) for name in names}
        return {name: Path(str(path)).read_bytes() for name, path in paths.items()}

    return load


# By format, and for DICOM by its kind too: "dicom ECG".
_SAMPLES: Mapping[str, Callable[[], Bundle]] = {
    "edf": _kept("eeg.edf"),
    "bdf": _kept("signals.bdf.packed"),
    "scp-ecg": _kept("ecg.scp"),
    "aecg-xml": _kept("ecg.xml.packed"),
    "wfdb-hea": _kept("monitor.hea", "monitor.dat"),
    "dicom ECG": _pydicom("waveform_ecg.dcm"),
}


def names() -> list[str]:
    return sorted(_SAMPLES)


def of(name: str) -> Bundle:
    """The files of one sample. Raises KeyError when there is none of this kind."""
    return _SAMPLES[name]()
