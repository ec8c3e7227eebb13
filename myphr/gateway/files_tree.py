"""The read-only part of a VM session's folder: a tree of items, opened on the fly, each read checked.

Byte-exact: what the guest reads is what was uploaded, preambles and all (docs/decisions/0152). Knows no socket, no
database and no secret; it is handed an opener that returns an item's `OpenItem`. Called by `myphr.gateway.ninep`
through its `Node` and `Handle`, reads from worker threads, everything else from the event loop.
"""

import collections
import contextlib
import dataclasses
import errno
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from myphr.errors import PortalError
from myphr.gateway import ninep
from myphr.gateway import ninep_wire as wire

WINDOW_BYTES = 256 * 1024  # read ahead for readers of small pieces: four chunks are opened once, not once per piece
OPEN_ITEMS_MAX = 64  # open containers kept per folder; the guest may hold thousands of files open
NAME_BYTES_MAX = 255
RESULTS = "results"
_ROOT_QID = 1
_RESULTS_QID = 2
_FIRST_QID = 16


class OpenItem(Protocol):
    """See myphr.records.items.OpenItem."""

    @property
    def plain_bytes(self) -> int: ...
    def read_into(self, offset: int, buffer: memoryview) -> int: ...
    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One item of the folder: where it stands, how big it is, and how to open it (may block)."""

    path: str
    item_id: str
    plain_bytes: int
    open: Callable[[], OpenItem] = dataclasses.field(repr=False)


class MemoryBudget:
    """Bounds the unsealed bytes kept for reading ahead, over all machines. Thread-safe."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        return self._left

    def take(self, count: int) -> bool:
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give(self, count: int) -> None:
        with self._lock:
            self._left += count


class _OpenItems:
    """Keeps a few containers open between reads. One reader at a time has each; a second one opens its own."""

    def __init__(self, idle_max: int) -> None:
        self._idle: collections.OrderedDict[int, OpenItem] = collections.OrderedDict()
        self._idle_max = idle_max
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def use(self, number: int, source: Source) -> Iterator[OpenItem]:
        with self._lock:
            if self._closed:
                raise OSError(errno.ESTALE, "refused")
            opened = self._idle.pop(number, None)
        if opened is None:
            opened = source.open()
        try:
            yield opened
        except BaseException:
            opened.close()
            raise
        surplus: list[OpenItem] = []
        with self._lock:
            if self._closed or number in self._idle:
                surplus.append(opened)
            else:
                self._idle[number] = opened
                if len(self._idle) > self._idle_max:
                    surplus.append(self._idle.popitem(last=False)[1])
        for item in surplus:
            item.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, collections.OrderedDict()
        for opened in idle.values():
            opened.close()


@dataclasses.dataclass(slots=True)
class Reading:
    """What all files of one folder share."""

    budget: MemoryBudget
    damaged: Callable[[str], None]  # told an item id, from a worker thread
    opened: _OpenItems = dataclasses.field(default_factory=lambda: _OpenItems(OPEN_ITEMS_MAX))


def _read_only() -> OSError:
    return OSError(errno.EROFS, "refused")


class ReadHandle:
    """An open item. Keeps at most one window of opened bytes, within the budget; never any on disk."""

    __slots__ = ("_closed", "_file", "_lock", "_next", "_window", "_window_at")
    writes = False

    def __init__(self, file: "ItemFile") -> None:
        self._file = file
        self._lock = threading.Lock()
        self._window: bytes | bytearray = b""
        self._window_at = 0
        self._next = 0
        self._closed = False

    def ready(self, offset: int, count: int) -> memoryview | bytes | None:
        size = self._file.source.plain_bytes
        if offset >= size or count == 0:
            return b""
        end = min(offset + count, size)
        with self._lock:
            at, window = self._window_at, self._window
        if at <= offset and end <= at + len(window):
            self._next = end
            return memoryview(window)[offset - at : end - at]
        return None

    def read(self, offset: int, count: int) -> bytes | memoryview:
        """May block. Raises OSError(EIO) when what is stored is not what was sealed."""
        source = self._file.source
        end = min(offset + count, source.plain_bytes)
        whole = source.plain_bytes <= WINDOW_BYTES
        ahead = count < WINDOW_BYTES and (whole or offset == self._next)
        start, length = offset, end - offset
        if ahead:
            start = 0 if whole else offset
            length = min(WINDOW_BYTES, source.plain_bytes - start)
        self._next = end
        reading = self._file.reading
        try:
            with reading.opened.use(self._file.number, source) as opened:
                found = bytearray(length)  # opened right into what is sent: no copy on the way
                got = opened.read_into(start, memoryview(found))
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise
            reading.damaged(source.item_id)
            raise OSError(errno.EIO, "refused") from None
        except PortalError:  # changed in storage, or gone from it
            reading.damaged(source.item_id)
            raise OSError(errno.EIO, "refused") from None
        if got != length:
            reading.damaged(source.item_id)
            raise OSError(errno.EIO, "refused")
        if ahead:
            self._keep(start, found)
        return memoryview(found)[offset - start : end - start]

    def _keep(self, at: int, window: bytearray) -> None:
        budget = self._file.reading.budget
        if not budget.take(len(window)):
            return
        with self._lock:
            if self._closed:
                budget.give(len(window))
                return
            budget.give(len(self._window))
            self._window_at, self._window = at, window

    def write(self, offset: int, payload: bytes) -> int:
        raise OSError(errno.EBADF, "refused")

    def sync(self) -> None:
        return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._file.reading.budget.give(len(self._window))
            self._window = b""


class Fixed:
    """What files and directories of the read-only part have in common: nothing can be changed."""

    __slots__ = ()
    space_of: "Callable[[], ninep.Space]"

    def create(self, name: str, flags: int) -> tuple[ninep.Node, ninep.Handle]:
        raise _read_only()

    def make_directory(self, name: str) -> ninep.Node:
        raise _read_only()

    def remove(self, name: str, *, directory: bool | None) -> None:
        raise _read_only()

    def rename(self, name: str, target: ninep.Node, new_name: str) -> None:
        raise _read_only()

    def change(self, changes: ninep.Changes) -> None:
        raise _read_only()


class FixedFile(Fixed):
    """A file that nobody writes to: there is nothing in it to find."""

    __slots__ = ()
    parent: ninep.Node

    def space(self) -> ninep.Space:
        return self.parent.space()

    def find(self, name: str) -> None:
        return None

    def entries(self, after: int) -> Iterator[tuple[int, str, ninep.Node]]:
        return iter(())

    def name_of(self, child: ninep.Node) -> str:
        raise OSError(errno.ENOTDIR, "refused")


class ItemFile(FixedFile):
    """One item."""

    __slots__ = ("number", "parent", "qid", "reading", "source", "times_ns")
    is_directory = False

    def __init__(self, source: Source, parent: "Directory", number: int, reading: Reading, times_ns: int) -> None:
        self.source = source
        self.parent: ninep.Node = parent
        self.number = number
        self.reading = reading
        self.times_ns = times_ns
        self.qid = wire.QID.pack(wire.QTFILE, 0, number)

    def attributes(self) -> ninep.Attributes:
        at = self.times_ns
        return ninep.Attributes(0o100444, self.source.plain_bytes, atime_ns=at, mtime_ns=at, ctime_ns=at)

    def open(self, flags: int) -> ReadHandle:
        if flags & wire.O_ACCMODE or flags & wire.O_TRUNC:
            raise _read_only()
        return ReadHandle(self)


class Directory(Fixed):
    """A folder of the read-only part. Its entries never change once the tree is built."""

    __slots__ = ("_children", "_listed", "_space", "_taken", "parent", "qid", "times_ns")
    is_directory = True

    def __init__(
        self, parent: "Directory | None", number: int, times_ns: int, space: Callable[[], ninep.Space]
    ) -> None:
        self.parent: ninep.Node = self if parent is None else parent
        self.qid = wire.QID.pack(wire.QTDIR, 0, number)
        self.times_ns = times_ns
        self._space = space
        self._children: dict[str, ninep.Node] = {}
        self._listed: list[tuple[int, str, ninep.Node]] = []
        self._taken: dict[str, int] = {}

    def free_name(self, name: str) -> str:
        """The name, or the first free "name (n)". Remembers n: 20,000 files of one name must not take minutes."""
        if name not in self._children:
            return name
        n = self._taken.get(name, 1) + 1
        while (candidate := _shortened(name, f" ({n})")) in self._children:
            n += 1
        self._taken[name] = n
        return candidate

    def add(self, name: str, node: ninep.Node, *, listed: bool = True) -> None:
        """While the tree is built. What is not listed is found by those who know its name."""
        self._children[name] = node
        if listed:
            self._listed.append((len(self._listed) + 3, name, node))

    def attributes(self) -> ninep.Attributes:
        at = self.times_ns
        return ninep.Attributes(0o040555, 4096, links=2, atime_ns=at, mtime_ns=at, ctime_ns=at)

    def space(self) -> ninep.Space:
        return self._space()

    def find(self, name: str) -> ninep.Node | None:
        return self._children.get(name)

    def entries(self, after: int) -> Iterator[tuple[int, str, ninep.Node]]:
        return itertools.islice(self._listed, max(0, min(after - 2, len(self._listed))), None)

    def name_of(self, child: ninep.Node) -> str:
        raise _read_only()

    def open(self, flags: int) -> None:
        return None


def shown_parts(path: str) -> list[str]:
    """The components under which a path is shown: no empty, dot or control-character names, none too long.

    Paths come from a browser or an archive; the guest must be able to trust every name it lists."""
    parts = []
    for part in path.replace("\\", "/").split("/"):
        name = "".join("_" if ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 else c for c in part)
        if name in ("", "."):
            continue
        parts.append(_shortened("__" if name == ".." else name))
    return parts[:64] or ["unnamed"]


def _shortened(name: str, suffix: str = "") -> str:
    """The name with `suffix` before its ending, cut in the middle to 255 bytes."""
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending.encode()) > 16:
        stem, dot, ending = name, "", ""
    tail = f"{suffix}{dot}{ending}"
    room = NAME_BYTES_MAX - len(tail.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + tail


def build(
    sources: Iterable[Source], *, reading: Reading, times_ns: int,
    space: Callable[[], ninep.Space], results: Callable[["Directory", int], ninep.Node] | None,
) -> Directory:
    """The folder's tree. Two items at one path, or a file where a folder must be, get " (2)", " (3)" ... in the name;
    `results` makes the writable directory (given its parent and qid number)."""  # fmt: skip
    numbers = itertools.count(_FIRST_QID)
    root = Directory(None, _ROOT_QID, times_ns, space)
    if results is not None:
        root.add(RESULTS, results(root, _RESULTS_QID))
    for source in sources:
        *folders, name = shown_parts(source.path)
        directory = root
        for folder in folders:
            directory = _subfolder(directory, folder, numbers, times_ns, space)
        directory.add(directory.free_name(name), ItemFile(source, directory, next(numbers), reading, times_ns))
    return root


def _subfolder(
    parent: Directory, name: str, numbers: Iterator[int], times_ns: int, space: Callable[[], ninep.Space]
) -> Directory:
    there = parent.find(name)
    if isinstance(there, Directory):
        return there
    if there is not None:
        # One folder stands in for the name taken by a file, however many items are below it.
        there = parent.find(_shortened(name, " (2)"))
        if isinstance(there, Directory):
            return there
    made = Directory(parent, next(numbers), times_ns, space)
    parent.add(parent.free_name(name), made)
    return made
