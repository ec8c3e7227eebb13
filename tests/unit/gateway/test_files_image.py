"""The folder as a disk image: what fsck.erofs takes out of it is what was put in, and damage is never zeros."""

import errno
import os
import random
import subprocess
from pathlib import Path

import pytest

from myphr.errors import ContainerError
from myphr.gateway import files_image, files_tree, ninep
from myphr.gateway.files_image import BLOCK_BYTES, Image
from myphr.gateway.files_tree import MemoryBudget, Reading, Source
from myphr.gateway.results import Results, ResultsLimits
from tests.unit.gateway.test_files_tree import SPACE, Counted

MADE_NS = 1_700_000_000_123_456_789


class Stage:
    """A tree of items with its image, and what was said to be damaged."""

    def __init__(self, items: dict[str, bytes], budget: int = 1 << 22, results: ninep.Node | None = None) -> None:
        self.items = {path: Counted(content) for path, content in items.items()}
        self.damaged: list[str] = []
        self.budget = MemoryBudget(budget)
        self.root = files_tree.build(
            [Source(path, path, item.plain_bytes, item.open) for path, item in self.items.items()],
            reading=Reading(self.budget, self.damaged.append), times_ns=MADE_NS, space=lambda: SPACE,
            results=None if results is None else lambda _parent, _qid: results,
        )  # fmt: skip
        self.image = Image(self.root)

    def whole(self, step: int = 1 << 19) -> bytes:
        handle = self.image.open(0)
        found = bytearray()
        while len(found) < self.image.size:
            piece = handle.ready(len(found), step)
            found += handle.read(len(found), step) if piece is None else piece
        handle.close()
        return bytes(found)

    def offset_of(self, path: str) -> int:
        return self.whole().index(self.items[path].content)


def taken_out(image: bytes, folder: Path) -> Path:
    """What the format's own tools read in it."""
    (folder / "image").write_bytes(image)
    out = folder / "out"
    subprocess.run(
        ["fsck.erofs", f"--extract={out}", "--preserve-perms", str(folder / "image")], check=True, capture_output=True
    )
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_foreign_reader_takes_out_what_was_put_in(tmp_path: Path) -> None:
    chance = random.Random(5)
    sizes = [0, 1, 300, 4095, 4096, 4097, 70_000, 600_000, 1_200_000]
    items = {f"CT/series {n}/IM{size}.dcm": chance.randbytes(size) for n in range(3) for size in sizes}
    items |= {"Befund (Köln).pdf": b"%PDF", "!first": b"!", "..x": b"dots", "x" * 251 + ".bin": b"long", "日本": b"8"}
    out = taken_out(Stage(items).whole(), tmp_path)
    assert contents(out) == items
    file = (out / "CT" / "series 0" / "IM300.dcm").stat()
    assert file.st_mode & 0o7777 == 0o444
    assert int(file.st_mtime) == MADE_NS // 10**9
    assert (out / "CT").stat().st_mode & 0o7777 == 0o555


@pytest.mark.parametrize("step", [512, 4096, 70_001, 1 << 19])
def test_the_image_is_the_same_however_it_is_read(step: int) -> None:
    chance = random.Random(6)
    stage = Stage({f"{n}": chance.randbytes(size) for n, size in enumerate([5, 4096, 300_001, 0, 9000])})
    assert stage.whole(step) == stage.whole(1 << 22)


def test_many_names_of_all_lengths_are_found_again(tmp_path: Path) -> None:
    chance = random.Random(7)
    items = {"".join(chance.choices("abcÄ-. 0", k=chance.randint(1, 60))).strip() + f"~{n}": b"" for n in range(3000)}
    assert contents(taken_out(Stage(items).whole(), tmp_path)).keys() == items.keys()


def test_an_empty_folder_has_an_image(tmp_path: Path) -> None:
    assert contents(taken_out(Stage({}).whole(), tmp_path)) == {}


def test_results_are_an_empty_folder_in_the_image(tmp_path: Path) -> None:
    results = Results(tmp_path / "spool", bytes(32), "s", limits=ResultsLimits(1 << 20), clock_ns=lambda: 1)
    node, handle = results.root.create("note.txt", os.O_WRONLY)
    handle.write(0, b"secret")
    handle.close()
    out = taken_out(Stage({"a": b"1"}, results=results.root).whole(), tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ["a", "results"]
    assert not list((out / "results").iterdir())
    assert node.is_directory is False


def test_an_item_that_opens_no_more_is_an_error_and_never_zeros() -> None:
    stage = Stage({"a": b"A" * 5000, "b": b"B" * 5000})
    at_a, at_b = stage.offset_of("a"), stage.offset_of("b")
    stage.items["b"].failure = ContainerError()
    handle = stage.image.open(0)
    for offset, count in ((at_b, 4096), (at_b + 4096, 4096), (at_a, 1 << 19)):
        assert handle.ready(offset, count) is None
        with pytest.raises(OSError) as refused:
            handle.read(offset, count)
        assert refused.value.errno == errno.EIO
    assert stage.damaged[0] == "b"
    assert bytes(handle.read(at_a, 2 * BLOCK_BYTES)) == b"A" * 5000 + bytes(3192)


def test_a_file_ends_in_zeros_and_never_in_another_items_bytes() -> None:
    stage = Stage({"a": b"A" * 4097, "b": b"B"})
    handle = stage.image.open(0)
    assert bytes(handle.read(stage.offset_of("a") + 4096, 4096)) == b"A" + bytes(4095)


def test_reading_past_the_end_gives_nothing() -> None:
    stage = Stage({"a": b"A"})
    handle = stage.image.open(0)
    assert handle.ready(stage.image.size, 4096) == b""
    assert handle.ready(2**63, 4096) == b""
    assert bytes(handle.read(stage.image.size - 10, 4096)) == bytes(10)


def test_small_reads_open_each_window_once_and_give_back_their_memory() -> None:
    stage = Stage({"a": bytes(1 << 20)})
    budget = stage.budget.left
    handle = stage.image.open(0)
    start = stage.image.size - (1 << 20)
    for at in range(start, stage.image.size, 16_384):
        piece = handle.ready(at, 16_384)
        assert len(piece if piece is not None else handle.read(at, 16_384)) == 16_384
    assert stage.items["a"].reads == 4
    handle.close()
    assert stage.budget.left == budget


def test_a_reader_of_many_items_keeps_its_place_in_a_few_only() -> None:
    stage = Stage({f"{n}": b"x" * 5000 for n in range(100)})
    handle = stage.image.open(0)
    for at in range(0, stage.image.size, 4096):
        if handle.ready(at, 4096) is None:
            handle.read(at, 4096)
    assert (1 << 22) - stage.budget.left == files_image.HANDLES_MAX * 5000


def test_the_image_cannot_be_written() -> None:
    image = Stage({"a": b"A"}).image
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
        with pytest.raises(OSError) as refused:
            image.open(flags)
        assert refused.value.errno == errno.EROFS


def test_the_image_is_found_by_its_name_and_not_listed() -> None:
    root = Stage({"a": b"A"}).root
    root.add(files_image.NAME, Image(root), listed=False)
    assert [name for _, name, _ in root.entries(0)] == ["a"]
    assert isinstance(root.find(files_image.NAME), Image)
    assert files_tree.shown_parts(files_image.NAME) != [files_image.NAME]


def test_what_an_address_cannot_reach_has_no_image() -> None:
    class Vast(Counted):
        def __init__(self) -> None:
            super().__init__(b"")
            self.plain_bytes = 2**32 * BLOCK_BYTES

    item = Vast()
    root = files_tree.build(
        [Source("a", "a", item.plain_bytes, item.open)], reading=Reading(MemoryBudget(0), lambda _: None), times_ns=0,
        space=lambda: SPACE, results=None,
    )  # fmt: skip
    with pytest.raises(files_image.ImageTooBig):
        Image(root)
