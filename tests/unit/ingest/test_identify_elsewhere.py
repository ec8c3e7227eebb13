"""Formats whose table of contents stands behind the head: found there, with at most 64 KiB read of any file."""

import io
import json
import random
import struct
import zipfile
from pathlib import Path

import pytest

from myphr import cli
from myphr.ingest import identify
from tests.unit.ingest.compound_files import compound
from tests.unit.ingest.test_identify import EXAMPLES, box, film


class Counted:
    """A file that counts what is read of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read = 0

    def __call__(self, at: int, length: int) -> bytes:
        got = self.content[at : at + length]
        self.read += len(got)
        return got


def told(content: bytes) -> str:
    file = Counted(content)
    found, _head = identify.identify_stored(file, len(content))
    assert file.read <= identify.HEAD_BYTES
    return found.format


def tiff_with_directory_behind(*tags: tuple[int, bytes], big: bool = False, pixels: int = 200_000) -> bytes:
    """As libtiff writes it: the picture first, then the directory, then the texts."""
    head, count, offset, entry_bytes = (16, "Q", "Q", 20) if big else (8, "H", "I", 12)
    at = head + pixels
    texts_at = at + struct.calcsize("<" + count) + len(tags) * entry_bytes + 8
    entries, texts = b"", b""
    for tag, text in tags:
        entries += struct.pack("<HH" + offset * 2, tag, 2, len(text), texts_at + len(texts))
        texts += text
    start = struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if big else struct.pack("<2sHI", b"II", 42, at)
    return start + bytes(pixels) + struct.pack("<" + count, len(tags)) + entries + bytes(8) + texts


def packed(*members: tuple[str, int | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, random.Random(1).randbytes(content) if isinstance(content, int) else content)
    return out.getvalue()


OME = b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"></OME>'
TYPES = (
    b'<Types><Override PartName="/workbook.xml" '
    b'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>'
)
FAR = {
    "ppt": [compound("Pictures", "PowerPoint Document", directory=(700, 701)),
            compound("Pictures", "a", "b", "c", "d", "PowerPoint Document", directory=(100, 7, 90))],
    "doc": [compound("WordDocument", embedded=("Workbook",), directory=(60_000, 60_001)),
            compound("Data", "WordDocument", directory=(40,), sector_bytes=4096)],
    "xls": [compound("Workbook", directory=(127, 126))],
    "svs": [tiff_with_directory_behind((270, b"Aperio Image Library v11.2.1 \r\n2220x2967"))],
    "ome-tiff": [tiff_with_directory_behind((270, OME), big=True)],
    "philips-tiff": [tiff_with_directory_behind((305, b"Philips DP v1.0\0"))],
    "tiff": [tiff_with_directory_behind((270, b"a letter, scanned\0"))],
    "fhir-json": [json.dumps({"content": [{"data": "A" * 90_000}], "resourceType": "DocumentReference"}).encode()],
    "json": [json.dumps({"content": "A" * 90_000, "note": '{"resourceType": "Patient"}'}).encode()],
    "docx": [packed(("word/media/image1.png", 90_000), ("word/document.xml", 100), ("[Content_Types].xml", 100))],
    "xlsx": [packed(("sheet1.xml", 90_000), ("workbook.xml", 100), ("[Content_Types].xml", TYPES))],
    "zip": [packed(("letters/word.png", 90_000), ("word/a.xml", 9)),
            packed(("word/a.xml", 9), ("word/b.xml", 9), ("word/c.xml", 9), ("word/photo.png", 90_000))],
    "m4a": [film(b"soun").replace(b"moov", b"free") + box(b"mdat", bytes(200_000)) + film(b"soun")[24:]],
    "mp4": [box(b"ftyp", b"isom", bytes(4), b"isom") + box(b"mdat", bytes(200_000)) + film(b"soun", b"vide")[24:]],
}  # fmt: skip


@pytest.mark.parametrize(("code", "at"), [(code, at) for code, many in FAR.items() for at in range(len(many))])
def test_what_stands_behind_the_head_is_found_there(code: str, at: int) -> None:
    assert told(FAR[code][at]) == code


@pytest.mark.parametrize("code", sorted(EXAMPLES))
def test_a_stored_file_is_told_as_its_head_is(code: str) -> None:
    for content in EXAMPLES[code]:
        assert told(content) == code


def test_where_only_the_head_is_at_hand_streams_are_told_by_how_they_begin() -> None:
    for first, code in ((b"\xec\xa5\xc1\0" + bytes(8), "doc"), (b"\x09\x08\x10\0\0\x06\x05\0" + bytes(8), "xls"),
                        (b"\x0f\0\xe8\x03" + bytes(8), "ppt")):  # fmt: skip
        head = compound("WordDocument", directory=(700,), first=first)[: identify.HEAD_BYTES]
        found = identify.identify(head)
        assert (found.format, found.rule, found.confidence) == (code, "ole2-stream", "likely")
    picture = struct.pack("<HHI", 0x6E00, 0xF01E, 300_000) + bytes(504)
    head = compound("PowerPoint Document", directory=(700,), first=picture)[: identify.HEAD_BYTES]
    assert identify.identify(head).format == "ppt"
    for other in (b"CHNKINK ".ljust(512, b"\0"), b"\xec\xa5\xc1\0".ljust(512, b"\0")):  # Publisher; a letter
        head = compound("x", directory=(700,), first=picture + other)[: identify.HEAD_BYTES]
        assert identify.identify(head).format == "ole2"
    for wrong in ((0x6E01, 0xF01E, 300_000), (0x1230, 0xF01E, 300_000), (0x6E00, 0xF01E, 3)):
        head = compound("x", directory=(700,), first=struct.pack("<HHI", *wrong).ljust(512, b"\0"))
        assert identify.identify(head[: identify.HEAD_BYTES]).format == "ole2"
    two = b"\xec\xa5\xc1\0".ljust(512, b"\0") + b"\x09\x08\x10\0\0\x06\x05\0"
    head = compound("WordDocument", directory=(700,), first=two)[: identify.HEAD_BYTES]
    assert identify.identify(head).format == "ole2"  # a letter with a table in it, or the other way round


def test_who_files_a_file_tells_it_by_all_of_it() -> None:
    content = FAR["ppt"][0]
    head = content[: 256 * 1024]
    assert identify.describe(head[: identify.HEAD_BYTES]).format == "ole2"
    assert identify.describe(head[: identify.HEAD_BYTES], Counted(content), len(content)).format == "ppt"
    assert identify.describe(compound("WordDocument", directory=(300,))).format == "doc"  # within 256 KiB


@pytest.mark.parametrize(
    "content",
    [
        compound("a", "b", "c", directory=(1, 2, 3, 4)).replace(struct.pack("<I", 0xFFFFFFFE), struct.pack("<I", 1)),
        tiff_with_directory_behind(*[(270, b"x" * 5000)] * 500),
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, 1 << 63) + bytes(60_000),
        box(b"ftyp", b"isom", bytes(4)) + (b"\0\0\0\x08moov" * 30_000),
        box(b"ftyp", b"isom", bytes(4)) + struct.pack(">I4sQ", 1, b"moov", 1 << 63) + bytes(90_000),
        b"PK\x03\x04" + bytes(90_000) + b"PK\x05\x06" + struct.pack("<8xIIH", 0xFFFFFFFF, 0, 0),
        b"PK\x03\x04" + bytes(90_000) + b"PK\x05\x06" + struct.pack("<8xIIH", 50_000, 0xFFFFFFF0, 0),
    ],
    ids=range(7),
)
def test_places_that_lie_cost_no_more_than_the_budget(content: bytes) -> None:
    assert told(content) in ("ole2", "tiff", "mp4", "zip")


@pytest.mark.parametrize("seed", range(8))
def test_no_bytes_break_it(seed: int) -> None:
    chance = random.Random(seed)
    for many in FAR.values():
        for content in many:
            mutated = bytearray(content[: chance.randint(0, len(content))])
            for _ in range(chance.randint(0, 40)):
                if mutated:
                    mutated[chance.randrange(min(len(mutated), 2048))] = chance.randrange(256)
            told(bytes(mutated))


def test_the_command_looks_there_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "talk").write_bytes(FAR["ppt"][0])
    assert cli.main(["identify", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "ppt"
