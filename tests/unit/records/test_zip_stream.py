"""The zip that is made while it is sent: right for a foreign program, of any size, and ended when nobody takes it."""

import datetime as dt
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from myphr.errors import ContainerError
from myphr.records import zip_stream
from myphr.records.zip_stream import BLOCK_BYTES, ZipMember

MOMENT = dt.datetime(2024, 8, 26, 10, 30, 42, tzinfo=dt.UTC)
NAMES = ("CT/1 - Scout/0001.dcm", "CT/2 - Schädel/0001.dcm", "CT/2 - Schädel/日本.dcm", "leer.txt")


class Content:
    """Stands for an open item: counts what is read, knows whether it was closed."""

    def __init__(self, content: bytes) -> None:
        self.content, self.plain_bytes, self.reads, self.is_closed = content, len(content), 0, False

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads += 1
        assert not self.is_closed and length <= BLOCK_BYTES
        return self.content[offset : offset + length]

    def close(self) -> None:
        self.is_closed = True


class Zeros(Content):
    """As large as one likes, of nothing."""

    block = bytes(BLOCK_BYTES)

    def __init__(self, size: int) -> None:
        super().__init__(b"")
        self.plain_bytes = size

    def read_at(self, offset: int, length: int) -> bytes:
        return self.block[: min(length, self.plain_bytes - offset)]


def member(path: str, content: Content) -> ZipMember:
    return ZipMember(path, content.plain_bytes, MOMENT, lambda: content)  # type: ignore[arg-type,return-value]


@pytest.fixture
def contents() -> list[Content]:
    bodies = (b"scout", bytes(range(256)) * 9000, b"\x93NUMPY" * 100, b"")
    return [Content(body) for body in bodies]


@pytest.fixture
def members(contents: list[Content]) -> list[ZipMember]:
    return [member(name, content) for name, content in zip(NAMES, contents, strict=True)]


def test_a_foreign_program_finds_every_file_byte_by_byte(members, contents, tmp_path: Path):
    (tmp_path / "x.zip").write_bytes(b"".join(zip_stream.stream(members)))
    done = subprocess.run(["unzip", "-q", "x.zip"], cwd=tmp_path, capture_output=True, env={"LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    for name, content in zip(NAMES, contents, strict=True):
        assert (tmp_path / name).read_bytes() == content.content


def test_files_are_stored_and_keep_their_day(members):
    archive = zipfile.ZipFile(io.BytesIO(b"".join(zip_stream.stream(members))))
    assert archive.testzip() is None
    assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in archive.infolist()} == {(2024, 8, 26, 10, 30, 42)}


def test_the_size_is_known_before_anything_is_read(members, contents):
    told = zip_stream.size_of(members)
    assert sum(content.reads for content in contents) == 0
    assert told == sum(len(piece) for piece in zip_stream.stream(members))


def test_of_a_very_large_zip_the_size_is_not_promised():
    assert zip_stream.size_of([member("a", Zeros(zip_stream.PLAIN_ZIP_BYTES_MAX + 1))]) is None


def test_at_most_one_block_waits_to_be_taken(members):
    assert max(len(piece) for piece in zip_stream.stream(members)) < BLOCK_BYTES + 1000


def test_one_file_is_open_at_a_time_and_each_is_closed(members, contents):
    for _ in zip_stream.stream(members):
        assert sum(bool(c.reads) and not c.is_closed for c in contents) <= 1
    assert all(content.is_closed for content in contents)


def test_who_goes_away_ends_the_work(members, contents):
    pieces = zip_stream.stream(members)
    next(pieces)
    next(pieces)
    assert not contents[1].is_closed
    pieces.close()
    assert contents[1].is_closed and contents[1].reads == 1
    assert contents[2].reads == 0


def test_a_damaged_file_breaks_the_zip_off_instead_of_filling_it(members, contents, monkeypatch):
    def damaged(offset: int, length: int) -> bytes:
        raise ContainerError("chunk 1")

    monkeypatch.setattr(contents[1], "read_at", damaged)
    got = []
    with pytest.raises(ContainerError):
        for piece in zip_stream.stream(members):
            got.append(piece)
    assert contents[1].is_closed
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(got)))


def test_more_than_four_gigabytes_in_one_file_and_after_it(tmp_path: Path):
    """zip64 for a size, and for an offset behind it. Zeros become holes, so that the disk holds next to nothing."""
    small = Content(b"behind it")
    pieces = zip_stream.stream([member("large", Zeros(4 * 1024**3 + 5)), member("small", small)])
    with (tmp_path / "x.zip").open("wb") as file:
        for piece in pieces:
            if piece == Zeros.block:
                file.seek(len(piece), io.SEEK_CUR)
            else:
                file.write(piece)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert [info.file_size for info in archive.infolist()] == [4 * 1024**3 + 5, 9]
        assert archive.read("small") == b"behind it"
        with archive.open("large") as large:
            assert large.read(100) == bytes(100)
    listed = subprocess.run(["unzip", "-l", tmp_path / "x.zip"], capture_output=True, text=True)
    assert listed.returncode == 0 and "4294967301" in listed.stdout
