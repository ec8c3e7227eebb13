"""`results/`: the one place of a VM session's folder that its guest can write to, and how its files become items.

Bounded in bytes, entries, depth and name length; sealed on its way to disk (`results_spool`); what stands here when the
session ends is what the record gets. Knows no socket and no database: `collect` is handed the function that makes an
item. Nodes are used from the event loop, handles and `collect` from worker threads. Called by `ninep`, `files_folder`.
"""

import dataclasses
import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from myphr.gateway import ninep
from myphr.gateway import ninep_wire as wire
from myphr.gateway.results_spool import BLOCK_BYTES, Dirty, Journal, SealedFile, SpoolDamaged

ENTRIES_MAX = 1000  # files and directories together
DEPTH_MAX = 16
_QID_BASE = 1 << 32
_JOURNAL_BYTES_MAX = 4 * 1024 * 1024  # then it is rewritten; a guest that renames in a loop must not fill the disk
_ROOT = 0


class MakeItem(Protocol):
    """Seals a result to its owner. Returns the item's id; that of the item there is, if the bytes are the same."""

    def __call__(self, path: str, chunks: Iterator[bytes]) -> str: ...


def _refuse(number: int) -> OSError:
    return OSError(number, "refused")


@dataclasses.dataclass(frozen=True, slots=True)
class ResultsLimits:
    bytes_max: int
    entries_max: int = ENTRIES_MAX
    depth_max: int = DEPTH_MAX


class _ChangedMeanwhile(Exception):
    pass


class _Node:
    is_directory = False

    def __init__(self, owner: "Results", number: int, name: str, parent: "ResultsDirectory | None") -> None:
        self.owner = owner
        self.number = number
        self.name = name
        self.holder: ResultsDirectory | None = parent
        self.version = 0
        self.mtime_ns = owner.clock_ns()
        self.removed = False

    @property
    def qid(self) -> bytes:
        kind = wire.QTDIR if self.is_directory else wire.QTFILE
        return wire.QID.pack(kind, self.version & 0xFFFFFFFF, _QID_BASE + self.number)

    @property
    def parent(self) -> ninep.Node:
        return self.holder or self.owner.above

    def space(self) -> ninep.Space:
        return self.owner.space()

    @property
    def path(self) -> str:
        """Relative to results/."""
        parts = []
        node: _Node | None = self
        while node is not None and node.number != _ROOT:
            parts.append(node.name)
            node = node.holder
        return "/".join(reversed(parts))

    @property
    def depth(self) -> int:
        node, depth = self.holder, 0
        while node is not None:
            node, depth = node.holder, depth + 1
        return depth

    def _set_times(self, changes: ninep.Changes) -> None:
        if changes.mtime_ns is not None:
            self.mtime_ns = self.owner.clock_ns() if changes.mtime_ns < 0 else changes.mtime_ns


class ResultsDirectory(_Node):
    """A directory below (or at) results/."""

    is_directory = True

    def __init__(self, owner: "Results", number: int, name: str, parent: "ResultsDirectory | None") -> None:
        super().__init__(owner, number, name, parent)
        self.children: dict[str, ResultsDirectory | ResultsFile] = {}
        self._cookies: dict[int, int] = {}  # node number -> cookie, rising with insertion
        self._next_cookie = 3

    def attributes(self) -> ninep.Attributes:
        at = self.mtime_ns
        return ninep.Attributes(0o040777, 4096, links=2, atime_ns=at, mtime_ns=at, ctime_ns=at)

    def find(self, name: str) -> "ResultsDirectory | ResultsFile | None":
        return self.children.get(name)

    def entries(self, after: int) -> Iterator[tuple[int, str, ninep.Node]]:
        for name, child in self.children.items():
            cookie = self._cookies[child.number]
            if cookie > after:
                yield cookie, name, child

    def name_of(self, child: ninep.Node) -> str:
        if not isinstance(child, _Node) or child.holder is not self or child.removed:
            raise _refuse(errno.ENOENT)
        return child.name

    def put(self, name: str, child: "ResultsDirectory | ResultsFile") -> None:
        self.children[name] = child
        self._cookies[child.number] = self._next_cookie
        self._next_cookie += 1
        child.name, child.holder = name, self
        self._changed()

    def take(self, name: str) -> "ResultsDirectory | ResultsFile":
        child = self.children.pop(name)
        del self._cookies[child.number]
        self._changed()
        return child

    def _changed(self) -> None:
        self.version += 1
        self.mtime_ns = self.owner.clock_ns()

    def _alive(self) -> None:
        self.owner.alive()
        if self.removed:
            raise _refuse(errno.ENOENT)

    def open(self, flags: int) -> None:
        return None

    def create(self, name: str, flags: int) -> "tuple[ninep.Node, ninep.Handle]":
        self._alive()
        there = self.children.get(name)
        if there is not None:
            if flags & wire.O_EXCL:
                raise _refuse(errno.EEXIST)
            if isinstance(there, ResultsDirectory):
                raise _refuse(errno.EISDIR)
            return there, there.open(flags)
        file = self.owner.add(ResultsFile, self, name)
        return file, file.open(flags & ~wire.O_TRUNC)

    def make_directory(self, name: str) -> ninep.Node:
        self._alive()
        if name in self.children:
            raise _refuse(errno.EEXIST)
        if self.depth + 1 >= self.owner.limits.depth_max:
            raise _refuse(errno.EDQUOT)
        return self.owner.add(ResultsDirectory, self, name)

    def remove(self, name: str, *, directory: bool | None) -> None:
        self._alive()
        child = self.children.get(name)
        if child is None:
            raise _refuse(errno.ENOENT)
        if directory is not None and directory != child.is_directory:
            raise _refuse(errno.ENOTDIR if directory else errno.EISDIR)
        if isinstance(child, ResultsDirectory) and child.children:
            raise _refuse(errno.ENOTEMPTY)
        with self.owner.tree:
            self.owner.journal.append({"op": "remove", "n": child.number})
            self.take(name)
            self.owner.discard(child)
        self.owner.compact_if_long()

    def rename(self, name: str, target: ninep.Node, new_name: str) -> None:
        self._alive()
        child = self.children.get(name)
        if child is None:
            raise _refuse(errno.ENOENT)
        if not isinstance(target, ResultsDirectory) or target.owner is not self.owner:
            raise _refuse(errno.EXDEV)
        target._alive()
        step: ResultsDirectory | None = target
        while step is not None:
            if step is child:
                raise _refuse(errno.EINVAL)
            step = step.holder
        if isinstance(child, ResultsDirectory) and target.depth + child.height >= self.owner.limits.depth_max:
            raise _refuse(errno.EDQUOT)
        there = target.children.get(new_name)
        if there is child:
            return
        if there is not None:
            if there.is_directory != child.is_directory:
                raise _refuse(errno.EISDIR if there.is_directory else errno.ENOTDIR)
            if isinstance(there, ResultsDirectory) and there.children:
                raise _refuse(errno.ENOTEMPTY)
        with self.owner.tree:
            self.owner.journal.append({"op": "rename", "n": child.number, "p": target.number, "name": new_name})
            self.owner.move(child, target, new_name)
        self.owner.compact_if_long()

    @property
    def height(self) -> int:
        return 1 + max((c.height for c in self.children.values() if isinstance(c, ResultsDirectory)), default=0)

    def change(self, changes: ninep.Changes) -> None:
        self._alive()
        if changes.size is not None:
            raise _refuse(errno.EISDIR)
        self._set_times(changes)


class ResultsFile(_Node):
    """One file below results/. `revision` counts what a new item would have to show: contents and path."""

    def __init__(self, owner: "Results", number: int, name: str, parent: ResultsDirectory) -> None:
        super().__init__(owner, number, name, parent)
        self.sealed = owner.sealed_file(number)
        self.writers = 0
        self.handles = 0
        self.revision = 0
        self.collected = -1
        self.item_id: str | None = None
        self.item_sha256 = ""
        self.item_path = ""
        self.quiet_since_ns = self.mtime_ns

    def attributes(self) -> ninep.Attributes:
        at = self.mtime_ns
        return ninep.Attributes(0o100666, self.sealed.size, atime_ns=at, mtime_ns=at, ctime_ns=at)

    def find(self, name: str) -> None:
        return None

    def entries(self, after: int) -> Iterator[tuple[int, str, ninep.Node]]:
        return iter(())

    def name_of(self, child: ninep.Node) -> str:
        raise _refuse(errno.ENOTDIR)

    def _not_here(self) -> OSError:
        return _refuse(errno.ENOTDIR)

    def create(self, name: str, flags: int) -> "tuple[ninep.Node, ninep.Handle]":
        raise self._not_here()

    def make_directory(self, name: str) -> ninep.Node:
        raise self._not_here()

    def remove(self, name: str, *, directory: bool | None) -> None:
        raise self._not_here()

    def rename(self, name: str, target: ninep.Node, new_name: str) -> None:
        raise self._not_here()

    def open(self, flags: int) -> "ResultsHandle":
        writes = bool(flags & wire.O_ACCMODE)
        if writes or flags & wire.O_TRUNC:
            self.owner.alive()
        if flags & wire.O_TRUNC:
            self.resize(0)
        return ResultsHandle(self, readable=flags & wire.O_ACCMODE != wire.O_WRONLY, writes=writes,
                             appends=bool(flags & wire.O_APPEND))  # fmt: skip

    def change(self, changes: ninep.Changes) -> Callable[[], None] | None:
        self.owner.alive()
        self._set_times(changes)
        size = changes.size
        if size is None:
            return None

        def work() -> None:
            self.resize(size)
            if not self.writers:  # nobody will close it: make it durable now
                self.settle()

        return work

    def resize(self, size: int) -> None:
        with self.sealed.lock:
            self.owner.alive()
            self.owner.take_bytes(size - self.sealed.size)
            before = self.sealed.size
            try:
                self.sealed.truncate(size)
            finally:
                self.owner.take_bytes(self.sealed.size - size)
            if size != before:
                self.touched()

    def touched(self) -> None:
        self.version += 1
        self.revision += 1
        self.mtime_ns = self.quiet_since_ns = self.owner.clock_ns()

    def settle(self) -> None:
        """Blocks, then the journal: what was written is now acknowledged for good."""
        with self.sealed.lock:
            if self.removed or self.owner.forgotten:
                return
            record = self.sealed.flush()
            if record is None:
                return
            with self.owner.tree:  # the record and what we believe is in the journal change together
                if self.removed:
                    return
                self.owner.journal.append({"op": "blocks", "n": self.number, "at": self.mtime_ns, **record})
                self.sealed.flushed()
        self.owner.journal.sync()
        self.owner.compact_if_long()


class ResultsHandle:
    """An open result."""

    def __init__(self, file: ResultsFile, *, readable: bool, writes: bool, appends: bool) -> None:
        self._file = file
        self._readable = readable
        self._appends = appends
        self.writes = writes
        self._closed = False
        file.owner.opened_handle(file, writes)

    def ready(self, offset: int, count: int) -> bytes | None:
        if self._readable and offset >= self._file.sealed.size:
            return b""
        return None

    def read(self, offset: int, count: int) -> bytes:
        if not self._readable:
            raise _refuse(errno.EBADF)
        with self._file.sealed.lock:
            self._file.owner.usable()
            return self._file.sealed.read(offset, count)

    def write(self, offset: int, payload: bytes) -> int:
        if not self.writes:
            raise _refuse(errno.EBADF)
        file = self._file
        with file.sealed.lock:
            file.owner.alive()
            if self._appends:
                offset = file.sealed.size
            if offset + len(payload) > file.owner.limits.bytes_max:
                raise _refuse(errno.EFBIG if offset > file.owner.limits.bytes_max else errno.ENOSPC)
            before = file.sealed.size
            growth = max(0, offset + len(payload) - before)
            file.owner.take_bytes(growth)
            try:
                file.sealed.write(offset, payload)
            finally:
                file.owner.take_bytes(file.sealed.size - before - growth)  # nothing, unless it failed half way
            file.touched()
        return len(payload)

    def sync(self) -> None:
        self._file.settle()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        file = self._file
        try:
            if self.writes:
                file.settle()
        finally:
            file.owner.closed_handle(file, self.writes)


class Results:
    """The results of one VM session: the tree, its limits, its spool.

    `above` is the directory that holds results/. `later` runs slow clean-up elsewhere. `key` is the session's spool
    key (docs/formats/folder.md). Raises SpoolDamaged when the spool is not what was written."""

    def __init__(
        self, directory: Path, key: bytes, vm_session_id: str, *, limits: ResultsLimits, clock_ns: Callable[[], int],
        later: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:  # fmt: skip
        self.limits = limits
        self.clock_ns = clock_ns
        self.vm_session_id = vm_session_id
        self.above: ninep.Node = None  # type: ignore[assignment]  # set when the tree is built
        self.forgotten = False
        self._frozen = False
        self._later = later
        self._directory = directory
        self._key = key
        self._dirty = Dirty()
        self._used = 0
        self._lock = threading.Lock()  # of the counters
        self.tree = threading.RLock()  # of names, and of what the journal says; taken after a file's lock, never before
        self._nodes: dict[int, ResultsDirectory | ResultsFile] = {}
        self._next = 1
        self._journal_bytes_max = _JOURNAL_BYTES_MAX
        self.withdrawn: list[str] = []  # items of files that were removed since
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.journal = Journal(directory / "journal", key, vm_session_id)
        self.root = ResultsDirectory(self, _ROOT, "results", None)
        self._nodes[_ROOT] = self.root
        for record in self.journal.replay():
            try:
                self._apply(record)
            except (KeyError, TypeError, AttributeError) as error:
                raise SpoolDamaged("journal order") from error

    # -- the journal --------------------------------------------------------------------------------------
    def _apply(self, record: dict[str, Any]) -> None:
        op, number = record["op"], record["n"]
        if op in ("mkdir", "create"):
            kind: Any = ResultsDirectory if op == "mkdir" else ResultsFile
            self._next = max(self._next, number + 1)
            self._insert(kind, number, self._nodes[record["p"]], record["name"])
            return
        node: Any = self._nodes[number]
        if op == "rename":
            self.move(node, self._nodes[record["p"]], record["name"])  # type: ignore[arg-type]
        elif op == "remove":
            node.holder.take(node.name)
            self.discard(node)
        elif op == "blocks":
            self._used -= node.sealed.size
            node.sealed.apply(record)
            self._used += node.sealed.size
            node.touched()
            node.mtime_ns = record["at"]
        elif op == "item":
            if node.item_id not in (None, record["item"]):
                self.withdrawn.append(node.item_id)
            node.item_id, node.item_sha256, node.item_path = record["item"], record["sha256"], record["path"]
            if record.get("current", True) and record["path"] == node.path:
                node.collected = node.revision
        elif op == "removed-items":
            self.withdrawn += record["items"]
        elif op == "withdrawn":
            self.withdrawn = [item for item in self.withdrawn if item not in record["items"]]

    def _snapshot(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []

        def visit(directory: ResultsDirectory) -> None:
            for name, child in directory.children.items():
                op = "mkdir" if child.is_directory else "create"
                records.append({"op": op, "n": child.number, "p": directory.number, "name": name})
                if isinstance(child, ResultsDirectory):
                    visit(child)
                    continue
                records.append({"op": "blocks", "n": child.number, "at": child.mtime_ns, **child.sealed.snapshot()})
                if child.item_id is not None:
                    records.append({
                        "op": "item", "n": child.number, "item": child.item_id, "sha256": child.item_sha256,
                        "path": child.item_path, "current": child.collected == child.revision,
                    })  # fmt: skip

        visit(self.root)
        return records

    def compact_if_long(self) -> None:
        """Keeps the journal from growing with what is no longer there. Files to be withdrawn are noted first."""
        if self.journal.bytes > self._journal_bytes_max:
            with self.tree:
                records = self._snapshot()
                if self.withdrawn:
                    records.append({"op": "removed-items", "n": _ROOT, "items": self.withdrawn})
                self.journal.rewrite(records)
                self._journal_bytes_max = max(_JOURNAL_BYTES_MAX, 4 * self.journal.bytes)

    # -- the tree -----------------------------------------------------------------------------------------
    def _insert(self, kind: Any, number: int, parent: Any, name: str) -> Any:
        node = kind(self, number, name, parent)
        self._nodes[number] = node
        parent.put(name, node)
        return node

    def add(self, kind: Any, parent: ResultsDirectory, name: str) -> Any:
        if len(self._nodes) > self.limits.entries_max:
            raise _refuse(errno.EDQUOT)
        op = "mkdir" if kind is ResultsDirectory else "create"
        with self.tree:
            number = self._next
            self.journal.append({"op": op, "n": number, "p": parent.number, "name": name})
            self._next += 1
            node = self._insert(kind, number, parent, name)
        self.compact_if_long()
        return node

    def move(self, child: "ResultsDirectory | ResultsFile", target: ResultsDirectory, name: str) -> None:
        there = target.children.get(name)
        if there is not None:
            target.take(name)
            self.discard(there)
        assert child.holder is not None
        child.holder.take(child.name)
        target.put(name, child)
        for file in self.files():  # a directory carries its files' paths with it
            node: _Node | None = file
            while node is not None and node is not child:
                node = node.holder
            if node is child and file.item_id is not None:
                file.touched()

    def discard(self, node: "ResultsDirectory | ResultsFile") -> None:
        node.removed = True
        del self._nodes[node.number]
        if isinstance(node, ResultsFile):
            if node.item_id is not None:
                self.withdrawn.append(node.item_id)
            if not node.handles:
                self._drop(node)

    def _drop(self, file: ResultsFile) -> None:
        def drop() -> None:
            with file.sealed.lock:
                size, file.sealed.size = file.sealed.size, 0
                file.sealed.drop()
            self.take_bytes(-size)

        self._later(drop)

    def opened_handle(self, file: ResultsFile, writes: bool) -> None:
        with self._lock:
            file.handles += 1
            file.writers += writes

    def closed_handle(self, file: ResultsFile, wrote: bool) -> None:
        with self._lock:
            file.handles -= 1
            file.writers -= wrote
            last = not file.handles
        if wrote:
            file.quiet_since_ns = self.clock_ns()
        if last and file.removed:
            self._drop(file)

    def files(self) -> list[ResultsFile]:
        return [node for node in list(self._nodes.values()) if isinstance(node, ResultsFile)]

    def sealed_file(self, number: int) -> SealedFile:
        return SealedFile(self._directory / f"{number}.blocks", self._key, self.vm_session_id, number, self._dirty)

    # -- limits -------------------------------------------------------------------------------------------
    def alive(self) -> None:
        """Raises OSError(ESTALE) once the session has ended: nothing may be written any more."""
        if self._frozen or self.forgotten:
            raise _refuse(errno.ESTALE)

    def usable(self) -> None:
        if self.forgotten:
            raise _refuse(errno.ESTALE)

    def take_bytes(self, count: int) -> None:
        with self._lock:
            if count > 0 and self._used + count > self.limits.bytes_max:
                raise _refuse(errno.ENOSPC)
            self._used += count

    def space(self) -> ninep.Space:
        files = len(self._nodes) - 1
        return ninep.Space(
            self.limits.bytes_max, max(0, self.limits.bytes_max - self._used),
            self.limits.entries_max, max(0, self.limits.entries_max - files),
        )  # fmt: skip

    @property
    def dirty_blocks(self) -> int:
        return self._dirty.count

    # -- becoming items -------------------------------------------------------------------------------------
    def freeze(self) -> None:
        """The session has ended: no more writes; what is written can still be collected."""
        self._frozen = True

    def due(self, quiet_ns: int | None) -> list[ResultsFile]:
        """Files whose newest state is not an item yet: closed and untouched for `quiet_ns`; all of them for None.

        Left out: empty files, and names that start with a dot (locks and drafts of viewers)."""
        now = self.clock_ns()
        return [
            file for file in self.files()
            if file.collected != file.revision and file.sealed.size and not file.name.startswith(".")
            and (quiet_ns is None or (not file.writers and now - file.quiet_since_ns >= quiet_ns))
        ]  # fmt: skip

    def collect(self, file: ResultsFile, make_item: MakeItem, withdraw_items: Callable[[list[str]], None]) -> bool:
        """Make an item of the file as it stands. False when it changed meanwhile: try again later. Blocks.

        Safe to run again after a crash at any point: the same bytes make the same item."""
        file.settle()
        revision, path, size = file.revision, file.path, file.sealed.size
        digest = hashlib.sha256()
        try:
            for chunk in self._chunks(file, revision, size):
                digest.update(chunk)
            sha256 = digest.hexdigest()
            # Written again with the same bytes under the same name: the item that is there says it all.
            if file.item_id is None or sha256 != file.item_sha256 or path != file.item_path:
                if file.item_id is not None and sha256 == file.item_sha256 and not self._others_with(file):
                    withdraw_items([file.item_id])  # renamed: the same bytes under the old name would be found again
                item_id = make_item(f"results/{path}", self._chunks(file, revision, size))
                with self.tree:
                    if file.item_id not in (None, item_id):
                        self.withdrawn.append(file.item_id)  # type: ignore[arg-type]
                    file.item_id, file.item_sha256, file.item_path = item_id, sha256, path
                    file.collected = revision
                    record = {"op": "item", "n": file.number, "item": item_id, "sha256": sha256, "path": path}
                    if file.removed:
                        self.withdrawn.append(item_id)
                        record = {"op": "removed-items", "n": _ROOT, "items": [item_id]}
                    self.journal.append({**record, "current": file.revision == revision})
                self.journal.sync()
        except _ChangedMeanwhile:
            return False
        file.collected = revision
        return True

    def _others_with(self, file: ResultsFile) -> bool:
        return any(other.item_id == file.item_id for other in self.files() if other is not file)

    def withdraw(self, withdraw_items: Callable[[list[str]], None]) -> None:
        """Take back the items of files that were removed from results/ since. Blocks."""
        with self.tree:
            items = list(self.withdrawn)
            kept = {file.item_id for file in self.files()}  # two files of the same bytes are one item
        if not items:
            return
        withdraw_items([item for item in items if item not in kept])
        with self.tree:
            self.withdrawn = [item for item in self.withdrawn if item not in items]
            self.journal.append({"op": "withdrawn", "n": _ROOT, "items": items})

    @staticmethod
    def _chunks(file: ResultsFile, revision: int, size: int) -> Iterator[bytes]:
        """The contents, a few blocks at a time, so that the guest can go on meanwhile."""
        for offset in range(0, size, 4 * BLOCK_BYTES):
            with file.sealed.lock:
                if file.revision != revision:
                    raise _ChangedMeanwhile
                chunk = file.sealed.read(offset, 4 * BLOCK_BYTES)
            yield chunk

    # -- the end ------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Make everything durable, whether closed or not: the gateway is about to stop."""
        for file in self.files():
            file.settle()

    def forget(self) -> None:
        """No more key, no more unsealed blocks. What is on disk stays."""
        self.forgotten = True
        for file in self.files():
            with file.sealed.lock:
                file.sealed.forget()
        self.journal.close()
        self._key = b""
