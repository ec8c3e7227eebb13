"""Reading archives and images of discs: every file of every tree, told the same by libarchive; hostile ones refused."""

import gzip
import io
import os
import random
import struct
import tarfile
from pathlib import Path

import libarchive
import pytest

from myphr.errors import ArchiveRefused
from myphr.ingest import identify, packing
from myphr.ingest.packing import Limits, MemberDamaged, iso9660
from tests import discs

LIMITS = Limits(2_000, 2**34)
LONG = "a/b/c/d/e/f/g/h/i/j/k/A name longer than eight and three, äöü.txt"


class Plain:
    """Bytes in place of an open item; counts what is asked at once."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.plain_bytes = len(content)
        self.most = 0

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        self.most = max(self.most, length)
        return self.content[offset : offset + length]

    def read_into(self, offset: int, buffer: memoryview) -> int:
        piece = self.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


def contents(content: bytes, limits: Limits = LIMITS) -> packing.Contents:
    return packing.contents_of(identify.identify(content[: 64 * 1024]).format, Plain(content), limits)


def read(found: packing.Contents) -> dict[str, bytes | None]:
    """Path -> bytes; None for what is damaged."""
    out: dict[str, bytes | None] = {}
    for member in found.members:
        try:
            with found.open_member(member) as stream:
                parts = []
                while block := stream.read(100_000):
                    parts.append(block)
            out[member.path] = b"".join(parts)
            assert len(out[member.path]) == member.plain_bytes
        except MemberDamaged:
            out[member.path] = None
    return out


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    lottery = random.Random(7)
    made = discs.patient_cd() | {LONG: b"deep", "BIG.BIN": lottery.randbytes(700_000), "ONE": b"1"}
    return made | {f"MANY/A file of number {number:03}.dat": lottery.randbytes(3000) for number in range(120)}


@pytest.fixture(scope="module")
def tree(files, tmp_path_factory) -> Path:
    folder = discs.write_tree(files, tmp_path_factory.mktemp("disc") / "cd")
    (folder / "EMPTY").write_bytes(b"")
    (folder / "LINK").symlink_to("/etc/passwd")
    return folder


def test_an_image_gives_every_file_as_libarchive_does(files):
    image = discs.iso_of(files)
    found = contents(image)
    assert found.is_image and found.label == "PATIENT_CD" and found.left_out == {}
    theirs = {}
    with libarchive.memory_reader(image) as archive:
        for entry in archive:
            if entry.isfile:
                theirs[entry.pathname] = b"".join(entry.get_blocks())
    assert read(found) == theirs == files


@pytest.mark.parametrize(
    "options, links, names",
    [
        (["-R"], 1, "all"),
        (["-J", "-joliet-long"], 0, "without the deep one"),
        (["-R", "-J", "-joliet-long"], 1, "all"),
        (["-R", "-D"], 1, "all"),
        ([], 0, "short"),
        (["-udf", "-R", "-J", "-joliet-long"], 1, "all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_images_of_a_foreign_program_give_every_file(files, tree, options, links, names):
    found = contents(discs.genisoimage(tree, *options))
    assert found.left_out.get("link", 0) == links and found.left_out["empty"] == 1
    got = read(found)
    if names == "all":
        assert got == files
    else:  # without Rock Ridge genisoimage leaves out what lies deeper than 8 folders
        assert sorted(got.values()) == sorted(content for path, content in files.items() if path != LONG)
    if names == "short":
        assert all(part == part.upper() and len(part) <= 12 for path in got for part in path.split("/"))


def test_a_disc_with_udf_alone_gives_every_file(files, tree):
    image = discs.without_iso(discs.genisoimage(tree, "-udf", "-R", "-J", "-joliet-long"))
    found = contents(image)
    assert read(found) == files and found.label == "PATIENT_CD"
    with pytest.raises(iso9660.Damaged):
        iso9660.read_disc(lambda offset, length: image[offset : offset + length], 2000)


def test_an_image_of_raw_sectors_is_read(files):
    raw = discs.raw_sectors(discs.iso_of(files))
    assert identify.identify(raw[: 64 * 1024]).format == "iso9660"
    assert read(contents(raw)) == files


def test_a_file_that_only_one_tree_knows_is_found(files, tree):
    """Names of Rock Ridge and of Joliet are kept in trees of their own; makers have hidden files from either."""
    found = contents(discs.genisoimage(tree, "-R", "-J", "-joliet-long", "-hide", "LETTER.PDF"))
    assert read(found)["LETTER.PDF"] == files["LETTER.PDF"]


def test_an_image_cut_short_gives_what_is_there_and_tells_the_rest(files):
    image = discs.iso_of(files)
    got = read(contents(image[: len(image) // 2]))
    assert set(got) == set(files)
    assert any(value is None for value in got.values())
    assert all(value in (None, files[path]) for path, value in got.items())


def directory_record(name: bytes, block: int, size: int, flags: int = 0) -> bytes:
    both = struct.pack("<I", block) + struct.pack(">I", block) + struct.pack("<I", size) + struct.pack(">I", size)
    fixed = b"\0" + both + bytes(7) + bytes([flags, 0, 0]) + b"\1\0\0\1" + bytes([len(name)]) + name
    return bytes([len(fixed) + 1 + (len(fixed) + 1) % 2]) + fixed + b"\0" * ((len(fixed) + 1) % 2)


def bare_iso(records: bytes, size: int = 64 * 2048) -> bytes:
    """An image whose root directory, at block 20, holds these records."""
    whole = bytearray(size)
    descriptor = bytearray(2048)
    descriptor[:7] = b"\1CD001\1"
    descriptor[128:132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    root = directory_record(b"\0", 20, -(-len(records) // 2048) * 2048 or 2048, 2)
    descriptor[156 : 156 + len(root)] = root
    whole[16 * 2048 : 17 * 2048] = descriptor
    whole[17 * 2048 : 17 * 2048 + 7] = b"\xffCD001\1"
    whole[20 * 2048 : 20 * 2048 + len(records)] = records
    return bytes(whole)


def test_folders_in_a_circle_end():
    image = bare_iso(directory_record(b"SELF", 20, 2048, 2) + directory_record(b"A.;1", 30, 5))
    assert list(read(contents(image))) == ["A"]


def test_a_thousand_names_of_one_file_are_refused_as_overlap():
    records = b"".join(directory_record(b"F%03d" % number, 21, 40 * 2048) for number in range(40))
    with pytest.raises(ArchiveRefused) as refused:
        contents(bare_iso(records))
    assert refused.value.detail == "overlap"


def test_a_file_of_four_gigabytes_in_a_small_image_is_damaged_and_costs_nothing():
    opened = Plain(bare_iso(directory_record(b"HUGE", 22, 0xFFFFFFFF) + directory_record(b"A", 30, 5)))
    found = packing.contents_of("iso9660", opened, LIMITS)
    assert read(found) == {"HUGE": None, "A": bytes(5)}
    assert opened.most <= iso9660.FOLDER_BYTES_MAX


def test_a_folder_of_four_gigabytes_is_told_as_damaged():
    image = bare_iso(directory_record(b"DIR", 22, 0xFFFFFFFF, 2) + directory_record(b"A", 30, 5))
    found = contents(image)
    assert [member.path for member in found.members] == ["A"] and found.left_out["folder-damaged"] == 1


def test_more_files_than_allowed_are_refused():
    records = b"".join(directory_record(b"F%02d" % number, 21, 1) for number in range(30))
    with pytest.raises(ArchiveRefused) as refused:
        contents(bare_iso(records), Limits(29, 2**34))
    assert refused.value.detail == "too-many"


def test_names_with_paths_in_them_are_one_name():
    image = bare_iso(directory_record(b"../../../etc/x", 30, 5) + directory_record(b"a\0b", 31, 5))
    assert sorted(read(contents(image))) == [".._.._.._etc_x", "ab"]


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bytes_in_an_image_neither_crash_nor_hang(files, tree, seed):
    """Every descriptor, directory and file entry is hit; whatever comes out is refused, damaged or read."""
    lottery = random.Random(seed)
    small = {path: content for path, content in files.items() if len(content) < 5000 and not path.startswith("MANY")}
    folder = discs.write_tree(small, tree.parent / f"flip{seed}")
    image = discs.genisoimage(folder, "-udf", "-R", "-J") if seed % 2 else discs.iso_of(small)
    if seed == 5:
        image = discs.without_iso(image)
    used = [at for at in range(16 * 2048, len(image)) if image[at]]
    for _ in range(60):
        hurt = bytearray(image)
        for at in lottery.sample(used, lottery.choice((1, 8, 200))):
            hurt[at] = lottery.randrange(256)
        try:
            read(packing.contents_of("iso9660", Plain(bytes(hurt)), LIMITS))
        except ArchiveRefused:
            pass


# -- tar ------------------------------------------------------------------------------------------------
def tar_of(*entries: tuple[str, bytes, bytes], packed: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if packed else "w") as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = "../../etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("packed", [True, False])
def test_a_tar_gives_its_files_and_tells_links_and_devices(packed):
    content = tar_of(
        ("./a/IM1", tarfile.REGTYPE, b"x" * 70_000), ("../../../etc/cron.d/x", tarfile.REGTYPE, b"y"),
        ("link", tarfile.SYMTYPE, b""), ("hard", tarfile.LNKTYPE, b""), ("dev", tarfile.CHRTYPE, b""),
        ("pipe", tarfile.FIFOTYPE, b""), ("folder", tarfile.DIRTYPE, b""), ("none", tarfile.REGTYPE, b""),
        packed=packed,
    )  # fmt: skip
    found = contents(content)
    assert read(found) == {"a/IM1": b"x" * 70_000, "../../../etc/cron.d/x": b"y"}
    assert found.left_out == {"link": 2, "device": 2, "empty": 1}


def test_a_packed_tar_that_is_a_bomb_is_refused_without_inflating_it_all():
    inside = io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = 300 * 2**20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(ArchiveRefused) as refused:
        contents(gzip.compress(inside.getvalue(), 6))
    assert refused.value.detail == "bomb"


def test_a_tar_whose_header_claims_gigabytes_is_refused():
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 4 * 2**30
    for content in (info.tobuf() + bytes(64 * 1024), gzip.compress(info.tobuf() + bytes(64 * 1024))):
        with pytest.raises(ArchiveRefused):
            contents(content)


def test_a_tar_cut_short_gives_what_is_there():
    whole = tar_of(("a", tarfile.REGTYPE, os.urandom(5000)), ("b", tarfile.REGTYPE, os.urandom(50_000)), packed=False)
    try:
        got = read(contents(whole[:30_000]))
    except ArchiveRefused:
        return
    assert got["a"] is not None and got["b"] is None
