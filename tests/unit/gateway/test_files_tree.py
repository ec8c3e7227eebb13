"""The read-only tree: names that the guest may see, reading ahead within a budget, containers kept open."""

import errno
import threading

import pytest

from myphr.errors import ContainerError
from myphr.gateway import files_tree, ninep
from myphr.gateway.files_tree import MemoryBudget, Reading, Source, shown_parts

SPACE = ninep.Space(0, 0, 0, 0)


class Counted:
    """An item that counts how often it is opened, read and closed."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.plain_bytes = len(content)
        self.opened = self.reads = self.open_now = 0
        self.failure: Exception | None = None

    def open(self) -> "Counted":
        self.opened += 1
        self.open_now += 1
        return self

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.reads += 1
        if self.failure:
            raise self.failure
        piece = self.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self.open_now -= 1


def build(paths: list[str], items: list[Counted] | None = None, budget: int = 1 << 20) -> files_tree.Directory:
    items = items or [Counted(b"x") for _ in paths]
    return files_tree.build(
        [Source(p, f"i{n}", item.plain_bytes, item.open) for n, (p, item) in enumerate(zip(paths, items, strict=True))],
        reading=Reading(MemoryBudget(budget), lambda _: None), times_ns=0, space=lambda: SPACE, results=None,
    )  # fmt: skip


def names(directory: ninep.Node) -> list[str]:
    return [name for _, name, _ in directory.entries(0)]


def everything(node: ninep.Node, prefix: str = "") -> list[str]:
    found = []
    for _, name, child in node.entries(0):
        found += everything(child, f"{prefix}{name}/") if child.is_directory else [prefix + name]
    return found


@pytest.mark.parametrize("path", [
    "../../etc/passwd", "/etc/passwd", "a/../../b", "..", "a\0b", "a\nb", "\\..\\x", "//", "", ".", "./..", "a/./b",
    "\ud800", "x" * 4000, "/".join("d" * 300),
])  # fmt: skip
def test_no_path_of_an_item_becomes_a_trick_name(path: str) -> None:
    for part in shown_parts(path):
        assert ninep.checked_name(part) == part
        assert part.isprintable()
        part.encode("utf-8")
    assert everything(build([path]))


def test_equal_paths_get_numbers_before_the_ending() -> None:
    root = build(["CT/a.dcm", "CT/a.dcm", "CT/a.dcm"])
    assert everything(root) == ["CT/a.dcm", "CT/a (2).dcm", "CT/a (3).dcm"]


def test_twenty_thousand_equal_names_are_all_shown() -> None:
    root = build(["IM"] * 20_000)
    assert len(set(names(root))) == 20_000


def test_a_folder_whose_name_a_file_has_stands_beside_it() -> None:
    root = build(["a", "a/b", "a/c"])
    assert everything(root) == ["a", "a (2)/b", "a (2)/c"]


def test_a_long_name_keeps_its_ending() -> None:
    [name] = names(build(["ü" * 300 + ".dcm"]))
    assert name.endswith(".dcm")
    assert len(name.encode()) <= 255


def test_qids_differ() -> None:
    root = build([f"{n}/x" for n in range(100)])
    qids = [child.qid for _, _, child in root.entries(0)] + [root.qid]
    assert len(set(qids)) == 101


def test_small_reads_in_a_row_open_each_chunk_once() -> None:
    item = Counted(bytes(range(256)) * 4096)
    handle = build(["a"], [item]).find("a").open(0)
    out = b""
    while len(out) < item.plain_bytes:
        got = handle.ready(len(out), 4096)
        out += bytes(got if got is not None else handle.read(len(out), 4096))
    assert out == item.content
    assert item.reads == item.plain_bytes // files_tree.WINDOW_BYTES
    assert item.opened == 1


def test_reads_here_and_there_open_no_more_than_was_asked() -> None:
    item = Counted(b"z" * (2 << 20))
    handle = build(["a"], [item]).find("a").open(0)
    for offset in (1_500_000, 100_000, 900_000):
        assert handle.ready(offset, 1000) is None
        assert handle.read(offset, 1000) == b"z" * 1000
        assert handle.ready(offset + 1000, 1) is None


def test_the_budget_bounds_what_is_kept_and_closing_gives_it_back() -> None:
    items = [Counted(b"z" * 200_000) for _ in range(10)]
    root = build([f"{n}" for n in range(10)], items, budget=700_000)
    budget = root.find("0").reading.budget
    handles = [root.find(f"{n}").open(0) for n in range(10)]
    for handle in handles:
        assert len(handle.read(0, 10)) == 10
    assert budget.left == 100_000
    for handle in handles:
        handle.close()
    assert budget.left == 700_000


def test_a_handle_closed_during_a_read_keeps_nothing() -> None:
    item = Counted(b"z" * 200_000)
    root = build(["a"], [item], budget=700_000)
    handle = root.find("a").open(0)
    read_into, started, go = item.read_into, threading.Event(), threading.Event()

    def slow(offset: int, buffer: memoryview) -> int:
        started.set()
        go.wait(5)
        return read_into(offset, buffer)

    item.read_into = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=handle.read, args=(0, 10))
    thread.start()
    started.wait(5)
    handle.close()
    go.set()
    thread.join(5)
    assert root.find("a").reading.budget.left == 700_000


def test_few_containers_stay_open_however_many_files_are_read() -> None:
    items = [Counted(b"z") for _ in range(300)]
    root = build([f"{n}" for n in range(300)], items)
    handles = [root.find(f"{n}").open(0) for n in range(300)]
    for handle in handles:
        handle.read(0, 1)
    assert sum(item.open_now for item in items) == files_tree.OPEN_ITEMS_MAX
    root.find("0").reading.opened.close()
    assert sum(item.open_now for item in items) == 0
    with pytest.raises(OSError) as caught:
        handles[0].read(1, 1) if handles[0].ready(0, 1) is None else root.find("1").open(0).read(0, 1)
    assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("failure", [ContainerError(), FileNotFoundError(), OSError(errno.EIO, "disk")])
def test_what_cannot_be_opened_is_eio_and_reported(failure: Exception) -> None:
    item = Counted(b"zzz")
    item.failure = failure
    root = build(["a"], [item])
    told: list[str] = []
    root.find("a").reading.damaged = told.append
    with pytest.raises(OSError) as caught:
        root.find("a").open(0).read(0, 3)
    assert caught.value.errno == errno.EIO
    assert told == ["i0"]
    assert item.open_now == 0


def test_an_item_shorter_than_its_manifest_says_is_eio() -> None:
    item = Counted(b"zzz")
    item.plain_bytes = 10
    with pytest.raises(OSError):
        build(["a"], [item]).find("a").open(0).read(0, 10)
