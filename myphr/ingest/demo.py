"""Sample studies for trying the portal out: a CT and an MR of a drawn head, a letter and an ECG strip. No real person.

Everything is computed here from ellipsoids (after Shepp and Logan, IEEE Trans. Nucl. Sci. 21, 1974) with a fixed seed,
so two runs give the same bytes and the second one adds nothing. Called by `make demo-data` and the page's button.
"""

import array
import datetime as dt
import io
import math
import random
import struct
import uuid
import zlib
from collections.abc import Iterator

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from sqlmodel import select

from myphr.audit import trail
from myphr.audit.trail import Actor
from myphr.errors import NotFound
from myphr.ingest import identify
from myphr.ingest.archives import IngestParts
from myphr.people.models import Account, StoredKeyRing
from myphr.records.filing import SealedFile, file_sealed
from myphr.records.item_writer import ItemWriter

SIZE = 256  # pixels a side
FIELD_MM = 240.0
_BATCH = 50
_GRAIN = 16_384  # pixels of noise drawn per tissue
_IDS = uuid.UUID("6e0b2b52-8d0e-4f3a-9c57-3d7a0f9d2c11")

# (tissue, centre x y z, half axes x y z) in mm; x to the left, y to the back, z to the top. Later ones cover earlier.
_HEAD: tuple[tuple[str, float, float, float, float, float, float], ...] = (
    ("skin", 0, 0, 0, 79, 99, 96), ("skull", 0, 0, 2, 73, 93, 90), ("fluid", 0, 0, 3, 67, 87, 84),
    ("gray", 0, 2, 4, 62, 81, 78), ("fluid", 0, -46, 18, 1.7, 32, 50),
    ("fluid", 0, 52, 18, 1.7, 27, 46), ("white", -28, 0, 14, 21, 60, 50), ("white", 28, 0, 14, 21, 60, 50),
    ("white", 0, 2, 22, 14, 30, 10), ("gray", -18, -2, 6, 9, 17, 13),
    ("gray", 18, -2, 6, 9, 17, 13), ("fluid", -11, -16, 16, 6, 20, 11), ("fluid", 11, -16, 16, 6, 20, 11),
    ("fluid", -15, 24, 14, 6, 20, 11), ("fluid", 15, 24, 14, 6, 20, 11), ("fluid", 0, -2, 4, 2.5, 13, 11),
    ("calcium", 0, 18, 6, 2.6, 2.6, 2.6), ("gray", -22, 50, -44, 23, 24, 20), ("gray", 22, 50, -44, 23, 24, 20),
    ("white", 0, 22, -40, 13, 13, 34), ("fluid", 0, 40, -38, 4, 4, 8), ("bone", 0, -46, -58, 52, 34, 16),
    ("air", 0, -70, -56, 15, 16, 18), ("air", -26, -62, -66, 11, 12, 12), ("air", 26, -62, -66, 11, 12, 12),
    ("fat", -31, -72, -34, 17, 19, 15), ("fat", 31, -72, -34, 17, 19, 15), ("eye", -31, -79, -34, 12, 12, 12),
    ("eye", 31, -79, -34, 12, 12, 12), ("lens", -31, -89, -34, 4, 2.2, 4), ("lens", 31, -89, -34, 4, 2.2, 4),
)  # fmt: skip
_CT = {"air": -1000, "skin": 45, "skull": 980, "bone": 480, "fluid": 6, "gray": 38, "white": 27, "calcium": 210,
       "fat": -90, "eye": 12, "lens": 75}  # Hounsfield units  # fmt: skip
_T1 = {"air": 8, "skin": 720, "skull": 55, "bone": 190, "fluid": 110, "gray": 390, "white": 545, "calcium": 150,
       "fat": 820, "eye": 130, "lens": 420}  # fmt: skip
_T2 = {"air": 8, "skin": 420, "skull": 45, "bone": 130, "fluid": 950, "gray": 470, "white": 330, "calcium": 90,
       "fat": 560, "eye": 900, "lens": 180}  # fmt: skip


def files() -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every sample file, the same in every run."""
    yield from _ct_study()
    yield from _mr_study()
    yield "Discharge letter.pdf", _letter()
    yield "ECG strip.png", _ecg_strip()


def load(parts: IngestParts, email: str) -> int:
    """Put the samples into the record of the account with this address. Returns how many were new: a second run adds
    none. Raises NotFound for an unknown address."""
    with parts.database.read() as db:
        account = db.exec(select(Account).where(Account.email == email.strip().casefold())).first()
        ring = db.get(StoredKeyRing, account.id) if account is not None else None
    if account is None or ring is None:
        raise NotFound("account")
    new = 0
    batch: list[SealedFile] = []
    for path, content in files():
        writer = ItemWriter(
            parts, account.id, owner_public_key=ring.public_key, source="upload", source_id=None,
            describe=identify.describe,
        )  # fmt: skip
        with writer:
            writer.write(content)
            batch.append(writer.seal_up(path.rsplit("/", 1)[-1], path))
        if len(batch) == _BATCH:
            new += _file(parts, batch, ring.public_key)
            batch = []
    return new + (_file(parts, batch, ring.public_key) if batch else 0)


def _file(parts: IngestParts, batch: list[SealedFile], owner_public_key: bytes) -> int:
    def note(db, filed) -> None:  # type: ignore[no-untyped-def]
        fresh = [one.item for one in filed if not one.duplicate]
        if fresh:
            account_id = fresh[0].account_id
            size = sum(item.plain_bytes for item in fresh)
            actor = Actor("patient", account_id)
            trail.record(db, "items-uploaded", account_id=account_id, actor=actor, items=len(fresh), bytes=size)

    filed = file_sealed(parts, batch, owner_public_key=owner_public_key, also=note)
    return sum(not one.duplicate for one in filed)


# -- pictures -------------------------------------------------------------------------------------
def _tissues(values: dict[str, int], noise: float, seed: int) -> dict[str, array.array]:
    """A long line of noisy pixels for each tissue, to paint with."""
    chance = random.Random(seed)  # noqa: S311 - drawn noise, no secret
    return {
        tissue: array.array(
            "h", (round(value + chance.gauss(0, noise / 4 if tissue == "air" else noise)) for _ in range(_GRAIN))
        )
        for tissue, value in values.items()
    }


def _slice(z: float, tiles: dict[str, array.array], seed: int) -> array.array:
    """One slice of the head as signed 16-bit pixels, row by row: each ellipsoid paints its run of pixels."""
    chance = random.Random(seed)  # noqa: S311 - drawn noise, no secret
    step = FIELD_MM / SIZE
    picture = array.array("h")
    for row in range(SIZE):
        y = (row + 0.5) * step - FIELD_MM / 2
        start = chance.randrange(_GRAIN - SIZE)
        line = tiles["air"][start : start + SIZE]
        for tissue, cx, cy, cz, ax, ay, az in _HEAD:
            inside = 1 - ((y - cy) / ay) ** 2 - ((z - cz) / az) ** 2
            if inside <= 0:
                continue
            half = ax * math.sqrt(inside)
            # The folds of the brain's surface: the edge of gray matter goes in and out.
            if (tissue == "gray" and ax > 30) or (tissue == "white" and ay > 50):
                half += min(half, 2.6 * math.sin(y * 0.55 + z * 0.2) + 1.6 * math.sin(y * 0.23 + cx + z * 0.1))
            left = max(0, round((cx - half + FIELD_MM / 2) / step))
            right = min(SIZE, round((cx + half + FIELD_MM / 2) / step))
            if right > left:
                start = chance.randrange(_GRAIN - SIZE)
                line[left:right] = tiles[tissue][start : start + right - left]
        picture.extend(line)
    return picture


def _uid(*names: object) -> UID:
    return UID(f"2.25.{uuid.uuid5(_IDS, '/'.join(map(str, names))).int}")


def _image(study: str, series: int, number: int, z: float, date: dt.date, sop_class: UID) -> Dataset:
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 192"
    one.SOPClassUID, one.SOPInstanceUID = sop_class, _uid(study, series, number)
    one.StudyInstanceUID, one.SeriesInstanceUID = _uid(study), _uid(study, series)
    one.FrameOfReferenceUID = _uid(study, "frame")
    one.StudyID = one.AccessionNumber = ""
    one.StudyDate = one.SeriesDate = one.ContentDate = date.strftime("%Y%m%d")
    one.StudyTime = one.SeriesTime = one.ContentTime = "101500"
    one.PatientName, one.PatientID = "Sample^Robin", "SAMPLE-1"
    one.PatientBirthDate, one.PatientSex = "19700101", "O"
    one.ReferringPhysicianName = ""
    one.Manufacturer = "MyPHRMachines sample"
    one.InstitutionName = "Riverside Hospital (sample)"
    one.SeriesNumber, one.InstanceNumber = series, number
    one.BodyPartExamined = "HEAD"
    one.PatientPosition = "HFS"
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    step = FIELD_MM / SIZE
    one.ImagePositionPatient = [round(step / 2 - FIELD_MM / 2, 4), round(step / 2 - FIELD_MM / 2, 4), round(z, 2)]
    one.SliceLocation = round(z, 2)
    one.PixelSpacing = [step, step]
    one.Rows = one.Columns = SIZE
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    return one


def _bytes_of(one: Dataset, pixels: array.array) -> bytes:
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        pixels.byteswap()
    one.PixelData = pixels.tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("implementation")
    one.file_meta = meta
    out = io.BytesIO()
    one.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _ct_study() -> Iterator[tuple[str, bytes]]:
    date = dt.date(2024, 3, 12)
    tissues = _tissues(_CT, 5.0, 1)
    for number in range(1, 33):
        z = -62 + (number - 1) * 4.5
        one = _image("ct", 2, number, z, date, CTImageStorage)
        one.Modality, one.StudyDescription, one.SeriesDescription = "CT", "CT head without contrast", "Axial 4.5 mm"
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.SliceThickness, one.KVP = 4.5, 120
        one.RescaleIntercept, one.RescaleSlope, one.RescaleType = 0, 1, "HU"
        one.WindowCenter, one.WindowWidth = 40, 100
        yield f"CT head/{number:03d}.dcm", _bytes_of(one, _slice(z, tissues, 1000 + number))


def _mr_study() -> Iterator[tuple[str, bytes]]:
    date = dt.date(2025, 1, 28)
    for series, name, values, echo, repeat, centre in (
        (2, "T1 axial", _T1, 12.0, 520.0, 380), (3, "T2 axial", _T2, 98.0, 4200.0, 480),
    ):  # fmt: skip
        tissues = _tissues(values, 14.0, series)
        for number in range(1, 25):
            z = -58 + (number - 1) * 5.5
            one = _image("mr", series, number, z, date, MRImageStorage)
            one.Modality, one.StudyDescription, one.SeriesDescription = "MR", "MR brain", name
            one.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
            one.ScanningSequence, one.SequenceVariant, one.ScanOptions, one.MRAcquisitionType = "SE", "NONE", "", "2D"
            one.SliceThickness, one.SpacingBetweenSlices = 5.0, 5.5
            one.EchoTime, one.RepetitionTime, one.EchoTrainLength, one.MagneticFieldStrength = echo, repeat, 1, 1.5
            one.WindowCenter, one.WindowWidth = centre, centre * 2
            yield f"MR brain/{name}/{number:03d}.dcm", _bytes_of(one, _slice(z, tissues, series * 1000 + number))


# -- documents ------------------------------------------------------------------------------------
_LETTER = (
    (18, "Riverside Hospital (sample)"), (11, "Department of Neurology"), (11, ""), (11, "28 January 2025"), (11, ""),
    (14, "Letter of discharge: Robin Sample, born 1 January 1970"), (11, ""),
    (11, "Dear colleague,"), (11, ""),
    (11, "we report on our patient, who came to us for headaches that had lasted for six weeks."), (11, ""),
    (11, "MR of the brain on 28 January 2025: no sign of bleeding or swelling. The ventricles are of"),
    (11, "normal size. The small bright spot in the midline on the CT of 12 March 2024 is a calcified"),
    (11, "pineal gland, which is a common and harmless finding."), (11, ""),
    (11, "We advise a headache diary and a visit in three months."), (11, ""),
    (11, "With kind regards"), (11, "The sample team"), (11, ""),
    (9, "This letter was made for trying out MyPHRMachines. It is about nobody."),
)  # fmt: skip


def _letter() -> bytes:
    """A one-page PDF 1.4 with a standard font (ISO 32000-1, 7.5)."""
    lines, y = [], 780
    for size, text in _LETTER:
        safe = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        lines.append(f"BT /F1 {size} Tf 60 {y} Td ({safe}) Tj ET")
        y -= round(size * 1.6)
    stream = "\n".join(lines).encode("ascii")
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(out + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, start))


def _heart(t: float) -> float:
    """One beat in mV, t from 0 to 1: P, QRS and T waves as bumps."""
    waves = ((0.18, 0.025, 0.12), (0.36, 0.009, -0.12), (0.385, 0.011, 1.15), (0.41, 0.010, -0.26), (0.62, 0.045, 0.30))
    return sum(height * math.exp(-(((t - at) / width) ** 2)) for at, width, height in waves)


def _ecg_strip() -> bytes:
    """Ten seconds of one lead on pink paper, as a PNG (RFC 2083)."""
    width, height, small = 1250, 320, 5  # 1 mm is 5 pixels: 25 mm/s, 10 mm/mV
    paper, thin, thick, ink = (255, 250, 248), (250, 222, 218), (236, 170, 164), (20, 24, 60)
    rows = [bytearray() for _ in range(height)]
    for y, row in enumerate(rows):
        for x in range(width):
            fine = x % small == 0 or y % small == 0
            row += bytes(thick if x % 25 == 0 or y % 25 == 0 else thin if fine else paper)
    previous = None
    for x in range(width):
        y = round(height * 0.62 - _heart((x / 125 * 1.15) % 1.0) * 50 - 3 * math.sin(x / 90))
        for filled in range(min(y, previous or y), max(y, previous or y) + 2):
            if 0 <= filled < height:
                rows[filled][x * 3 : x * 3 + 3] = bytes(ink)
        previous = y
    packed = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
