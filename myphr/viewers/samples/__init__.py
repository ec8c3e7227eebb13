"""A small true file of each format that a viewer claims, so that somebody can look whether it still opens. Where they
come from is in README.md beside them; what Pillow and pydicom can write or bring along is made here. Called by the
check of the viewers and by their tests; knows no viewer and no machine. A format without a sample is not promised
to open.
"""

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

from myphr.viewers.samples import made, papers

FILES = Path(__file__).parent / "files"
BED = b"""chr7\t117120016\t117308718\tCFTR\t0\t+
chr7\t117120016\t117120201\texon_1\t0\t+
chr7\t117144306\t117144417\texon_2\t0\t+
chr7\t117149087\t117149196\texon_3\t0\t+
"""
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


def _brain() -> bytes:
    return gzip.decompress(_content("brain.nii.gz"))


# By format, and for DICOM by its kind too: "dicom ECG".
_SAMPLES: Mapping[str, Callable[[], Bundle]] = {
    "edf": _kept("eeg.edf"),
    "bdf": _kept("signals.bdf.packed"),
    "scp-ecg": _kept("ecg.scp"),
    "aecg-xml": _kept("ecg.xml.packed"),
    "wfdb-hea": _kept("monitor.hea", "monitor.dat"),
    "dicom ECG": _pydicom("waveform_ecg.dcm"),
    "vcf": _kept("variants.vcf"),
    "vcf-gz": _kept("variants.vcf.gz"),
    "bcf": _kept("variants.bcf"),
    "dtc-genotype": _kept("home-test.txt"),
    "dtc-genotype-gz": lambda: {"home-test.txt.gz": gzip.compress(_content("home-test.txt"), mtime=0)},
    "bam": _kept("reads.bam", "reads.bam.bai"),
    "cram": _kept("reads.cram"),
    "sam": _kept("reads.sam"),
    "gff": _kept("genes.gff"),
    "bed": lambda: {"regions.bed": BED},
    "fasta": _kept("piece.fa"),
    "fastq": _kept("reads.fastq"),
    "nifti": lambda: {"brain.nii": _brain()},
    "nifti-gz": _kept("brain.nii.gz"),
    # The same voxels under the headers that nibabel writes for these.
    "analyze": lambda: {"brain.hdr": _content("brain.hdr"), "brain.img": _brain()[352:]},
    "mgh": lambda: {"brain.mgh": _content("brain.mgh.head") + _brain()[352:] + b"\0" * 20},
    "dicom CT": made.phantom,
    "dicom MR": _pydicom("MR_small.dcm"),
    "dicom SEG": _pydicom("liver_1frame.dcm"),
    "dicom RTDOSE": _pydicom("rtdose.dcm"),
    "dicom RTSTRUCT": made.contours,
    **{f"dicom {modality}": made.picture_of(modality) for modality in made.KINDS},
    "dicom DOC": papers.wrapped_pdf,
    "pdf": papers.pdf,
    "ps": papers.postscript,
    "text": papers.text,
    "csv": papers.csv,
    "xml": papers.xml,
    "json": papers.json_,
    "html": papers.html,
    "jpeg": papers.picture("jpeg", "jpg"),
    **{kind: papers.picture(kind, kind) for kind in ("png", "gif", "tiff", "webp", "bmp")},
    "rtf": _kept("letter.rtf"),
    "docx": _kept("letter.docx"),
    "doc": _kept("letter.doc.packed"),
    "xlsx": _kept("table.xlsx"),
    "xls": _kept("table.xls.packed"),
    "pptx": _kept("slide.pptx"),
    "ppt": _kept("slide.ppt.packed"),
    "odt": papers.letter,
    "ods": papers.table,
    "odp": papers.slide,
}


def names() -> list[str]:
    return sorted(_SAMPLES)


def of(name: str) -> Bundle:
    """The files of one sample. Raises KeyError when there is none of this kind."""
    return _SAMPLES[name]()
