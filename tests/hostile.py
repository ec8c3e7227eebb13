"""Hostile files, made here: what a patient CD, a sender or an attacker may hand us. Small, inert outside a parser.

`write_all(folder)` writes each as a file; the tests say what must become of it.
"""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

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
    body = packer.compress(b"".join(_STUDY) + b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", mebibytes * MIB))
    for _ in range(mebibytes):
        body += packer.compress(bytes(MIB))
    return dicom(body + packer.flush(), syntax=b"1.2.840.10008.1.2.1.99")


def dicom_script() -> bytes:
    return dicom(
        element(0x00080060, b"CS", b"CT"),
        element(0x00081030, b"LO", b"';DROP TABLE study;--{{7*7}}\x1b]0;owned\x07"),
        element(0x00100010, b"PN", b"<script>alert(1)</script>"),
        *_STUDY[2:],
        preamble=b"<html><script>alert(0)</script>",
    )


def gzip_bomb(mebibytes: int = 200) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as packed:
        for _ in range(mebibytes):
            packed.write(bytes(MIB))
    return out.getvalue()


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
    "gzip_bomb.nii.gz": (gzip_bomb, "gzip"),
    "dicom_pe_preamble.dcm": (lambda: dicom(*_STUDY, preamble=b"MZ\x90\0"), "dicom"),
    "dicom_tiff_preamble.dcm": (lambda: dicom(*_STUDY, preamble=b"II*\0\x08\0\0\0"), "dicom"),
    "dicom_script.dcm": (dicom_script, "dicom"),
    "dicom_deep_sequences.dcm": (dicom_deep_sequences, "dicom"),
    "dicom_bad_length.dcm": (lambda: dicom(*_STUDY, b"\x21\x00\x10\x10UN\0\0\xf0\xff\xff\xff" + b"A" * 64), "dicom"),
    "dicom_deflate_bomb.dcm": (dicom_deflate_bomb, "dicom"),
    "dicom_only_magic.dcm": (lambda: bytes(128) + b"DICM", "dicom"),
    "report.pdf": (lambda: b"<!doctype html><html><script>alert(1)</script>%PDF-1.4</html>", "html"),
    "deep.json": (lambda: b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "unknown"),
    "big_number.json": (lambda: json.dumps({"x": 1}).encode()[:-2] + b"9" * 100_000 + b"}", "json"),
    "entities.xml": (
        lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        "xml",
    ),
    "active.svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "svg"),
    "many_pixels.png": (
        lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 50_000, 50_000) + bytes(9),
        "png",
    ),
    "loop.tif": (lambda: b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIII", 1, 256, 4, 1, 10, 8), "tiff"),
    "jpeg_with_zip_end.jpg": (lambda: b"\xff\xd8\xff\xe0" + bytes(100) + b"PK\5\6" + bytes(18), "jpeg"),
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
