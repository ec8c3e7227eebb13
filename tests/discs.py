"""Discs for the tests: a patient's CD as files, as an ISO image (written by libarchive) and as a DICOMDIR of pydicom's.

Images with UDF, Joliet or odd names come from genisoimage, where it is installed."""

import io
import subprocess
from pathlib import Path

import libarchive
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests import hostile

AUTORUN = (
    b"[AutoRun]\r\nOPEN=eFilmLite\\eFilmLT.exe -autoplay\r\nicon=efilm.ico,0\r\nlabel=Harbour Hospital\r\n"
    b"[x]\r\nopen=no\r\n"
)
PE = b"MZ\x90\0" + bytes(200)
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


def image(number: int, study: int = 1, text: bytes = b"") -> bytes:
    """One small MR image; `text` makes another version of it."""
    values = (
        (0x00080018, b"UI", b"1.2.9.%d.%d" % (study, number)), (0x00080060, b"CS", b"MR"),
        (0x00080080, b"LO", b"Harbour Hospital"), (0x00081030, b"LO", b"Brain"), (0x00100010, b"PN", b"Doe^Jane"),
        (0x0020000D, b"UI", b"1.2.9.%d" % study), (0x0020000E, b"UI", b"1.2.9.%d.0" % study),
        (0x00200011, b"IS", b"1"), (0x00200013, b"IS", b"%d" % number), (0x00204000, b"LT", text),
    )  # fmt: skip
    return hostile.dicom(*(hostile.element(tag, vr, value) for tag, vr, value in values))


def dicomdir(paths: dict[str, str]) -> bytes:
    """A table of contents that lists these paths with these SOP instance UIDs."""
    table = Dataset()
    table.file_meta = FileMetaDataset()
    table.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    table.file_meta.MediaStorageSOPClassUID = _DIRECTORY_CLASS
    table.file_meta.MediaStorageSOPInstanceUID = "1.2.9.99"
    table.FileSetID = "DISC"
    records = [_record("PATIENT"), _record("STUDY"), _record("SERIES")]
    for path, uid in paths.items():
        record = _record("IMAGE")
        record.ReferencedFileID = path.split("/")
        record.ReferencedSOPInstanceUIDInFile = uid
        records.append(record)
    table.DirectoryRecordSequence = records
    out = io.BytesIO()
    table.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _record(kind: str) -> Dataset:
    record = Dataset()
    record.OffsetOfTheNextDirectoryRecord = 0
    record.RecordInUseFlag = 0xFFFF
    record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.DirectoryRecordType = kind
    return record


def patient_cd(images: int = 12, missing: int = 3, programs: int = 8) -> dict[str, bytes]:
    """What a hospital hands out: images, their table of contents, which lists `missing` more, a viewer, a letter."""
    files = {f"DICOM/IM{number:05}": image(number) for number in range(1, images + 1)}
    listed = {path: f"1.2.9.1.{number}" for number, path in enumerate(files, 1)}
    listed |= {f"DICOM/GONE{number}": f"1.2.9.1.{images + number}" for number in range(1, missing + 1)}
    files["DICOMDIR"] = dicomdir(listed)
    files["AUTORUN.INF"] = AUTORUN
    files["EFILM.ICO"] = b"\0\0\1\0\1\0" + bytes(40)
    files["EFILMLITE/EFILMLT.EXE"] = PE
    for number in range(programs - 1):
        files[f"EFILMLITE/LIB{number}.DLL"] = PE + b"%d" % number
    files["EFILMLITE/HELP/INDEX.HTM"] = b"<!doctype html><html><body>How to look at images</body></html>"
    files["EFILMLITE/HELP/MANUAL.PDF"] = b"%PDF-1.4\n" + bytes(300)
    files["LETTER.PDF"] = b"%PDF-1.4\nDear patient\n" + bytes(300)
    return files


def iso_of(files: dict[str, bytes], volume: str = "PATIENT_CD") -> bytes:
    """An ISO 9660 image with Joliet and Rock Ridge, as libarchive writes it."""
    out = io.BytesIO()

    def write(data: bytes) -> int:
        return out.write(data)

    with libarchive.custom_writer(write, "iso9660", options=f"volume-id={volume}") as archive:
        for path, content in files.items():
            archive.add_file_from_memory(path, len(content), content)
    return out.getvalue()


def write_tree(files: dict[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def genisoimage(folder: Path, *options: str, volume: str = "PATIENT_CD") -> bytes:
    """The image that genisoimage makes of a folder."""
    out = folder.parent / f"{folder.name}.iso"
    subprocess.run(["genisoimage", "-quiet", "-V", volume, *options, "-o", out, folder], check=True)
    return out.read_bytes()


def without_iso(bridge: bytes) -> bytes:
    """A disc with UDF alone: the ISO 9660 descriptors of a disc that has both are taken away."""
    whole = bytearray(bridge)
    for sector in range(16, 32):
        if whole[sector * 2048 + 1 : sector * 2048 + 6] == b"CD001":
            whole[sector * 2048 : sector * 2048 + 7] = b"\0BEA01\1"
    return bytes(whole)


def raw_sectors(plain: bytes) -> bytes:
    """The same image with sync, address and error correction around each sector (ECMA-130, mode 1)."""
    sync = b"\0" + b"\xff" * 10 + b"\0" + bytes(3) + b"\1"
    return b"".join(sync + plain[at : at + 2048] + bytes(288) for at in range(0, len(plain), 2048))
