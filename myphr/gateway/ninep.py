"""A 9P2000.L server without sockets, threads or clock: bytes in, replies and pieces of work out.

Sources of facts: diod's protocol.md (chaos/diod), Plan 9 manual section 5, the Linux client (net/9p, fs/9p).
It keeps the fids and the rules of the protocol; a `Node` tree is handed in, and whoever owns the socket
(`myphr.gateway.files`) runs the pieces of work that may block and reports their end. Knows no record, key or session.
"""

import dataclasses
import errno
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from myphr.gateway import ninep_wire as wire
from myphr.gateway.ninep_wire import ProtocolError

__all__ = ["Attach", "Attributes", "Changes", "Core", "Handle", "Node", "Output", "ProtocolError", "Space", "Work"]

FIDS_MAX = 65_536  # the Linux client may keep a fid for every name it has seen: a session has up to 50,000 files
REQUESTS_MAX = 64  # under way on one connection; the Linux client rarely has more than its number of processes

@dataclasses.dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` shows. Times in nanoseconds since 1970."""

    mode: int
    size: int
    links: int = 1
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """What Tsetattr asks for; None leaves a value as it is, and a time of -1 means now."""

    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    mode: bool = False
    owner: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """What `df` shows."""

    bytes_max: int
    bytes_free: int
    files: int
    files_free: int


class Handle(Protocol):
    """An open file. `ready` never blocks; `read`, `write` and `sync` may, and run elsewhere; so does `close` of a
    handle that `writes`."""

    def ready(self, offset: int, count: int) -> bytes | memoryview | None:
        """The bytes, when they can be had at once."""

    def read(self, offset: int, count: int) -> bytes | memoryview: ...
    def write(self, offset: int, payload: bytes) -> int: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...

    @property
    def writes(self) -> bool:
        """Whether closing has something to make durable, so that Rclunk must wait for it."""


class Node(Protocol):
    """A file or directory. Everything here is quick and raises OSError with a Linux errno to refuse."""

    @property
    def qid(self) -> bytes: ...
    @property
    def is_directory(self) -> bool: ...
    @property
    def parent(self) -> "Node":
        """The directory it is in; the root is its own parent."""

    def attributes(self) -> Attributes: ...
    def space(self) -> Space: ...
    def find(self, name: str) -> "Node | None": ...
    def entries(self, after: int) -> Iterator[tuple[int, str, "Node"]]:
        """(cookie, name, node) with cookies above `after`, rising, stable while names come and go; from 3 on."""

    def open(self, flags: int) -> Handle | None:
        """None for a directory."""

    def create(self, name: str, flags: int) -> "tuple[Node, Handle]": ...
    def make_directory(self, name: str) -> "Node": ...
    def remove(self, name: str, *, directory: bool | None) -> None:
        """`directory` tells what the caller believes it removes; None is either."""

    def rename(self, name: str, target: "Node", new_name: str) -> None: ...
    def name_of(self, child: "Node") -> str: ...
    def change(self, changes: Changes) -> Callable[[], None] | None:
        """Work that remains (a new size), or None when done."""


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """One request that may block. Call `run` wherever blocking is fine, then `Core.finish` or `Core.fail`."""

    tag: int | None  # None: nobody waits for a reply
    run: Callable[[], Any]
    reply: Callable[[Any], tuple[bytes, ...]]
    reply_bytes: int = 0  # memory the reply may take
    fid: "_Fid | None" = None
    generation: int = 0


Output = tuple[bytes, ...] | Work  # what a step yields: the parts of one reply, or work to be run


@dataclasses.dataclass(slots=True, eq=False)
class Attach(Work):
    """A guest shows its secret (`aname`). `run` is not used: the result is the root node it may see."""

    uname: str = ""
    aname: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(slots=True, eq=False)
class _Fid:
    node: Node
    handle: Handle | None = None
    opened: bool = False
    attached: bool = False  # by its own Tattach
    busy: int = 0  # work under way on the handle
    gone: bool = False


def _refuse(number: int) -> OSError:
    return OSError(number, "refused")


def _no_work() -> None:
    return None


def checked_name(name: str) -> str:
    """A name for a new entry. Raises OSError for anything that is not one plain path component."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise _refuse(errno.EINVAL)
    if len(name.encode()) > wire.NAME_BYTES_MAX:
        raise _refuse(errno.ENAMETOOLONG)
    return name


class Core:
    """One connection's side of the protocol. Feed it with `receive`, then call `step` until it yields None.

    `outstanding` counts requests whose work is under way; at REQUESTS_MAX, `step` yields None until one ends, so the
    caller stops reading and the guest waits. Not thread-safe: one event loop owns it."""

    def __init__(self, *, fids_max: int = FIDS_MAX, requests_max: int = REQUESTS_MAX) -> None:
        self._frames = wire.Frames()
        self._fids: dict[int, _Fid] = {}
        self._outstanding: dict[int, list[int]] = {}  # tag -> tags of the flushes that wait for it
        self._fids_max = fids_max
        self._requests_max = requests_max
        self._generation = 0
        self._agreed = False
        self._handlers: dict[int, Callable[[int, Any], Output]] = {
            wire.TATTACH: self._attach, wire.TWALK: self._walk, wire.TLOPEN: self._open, wire.TLCREATE: self._create,
            wire.TREAD: self._read, wire.TWRITE: self._write, wire.TREADDIR: self._readdir,
            wire.TGETATTR: self._getattr, wire.TSETATTR: self._setattr, wire.TCLUNK: self._clunk,
            wire.TREMOVE: self._remove, wire.TUNLINKAT: self._unlinkat, wire.TRENAME: self._rename,
            wire.TRENAMEAT: self._renameat, wire.TMKDIR: self._mkdir, wire.TFSYNC: self._fsync,
            wire.TSTATFS: self._statfs, wire.TLOCK: self._lock, wire.TGETLOCK: self._getlock,
        }  # fmt: skip
        # Links and devices would let a guest point outside its folder; attributes beyond POSIX are not kept.
        self._refusals = {
            wire.TAUTH: errno.EOPNOTSUPP, wire.TSYMLINK: errno.EPERM, wire.TMKNOD: errno.EPERM,
            wire.TLINK: errno.EPERM, wire.TREADLINK: errno.EPERM, wire.TXATTRWALK: errno.EOPNOTSUPP,
            wire.TXATTRCREATE: errno.EOPNOTSUPP,
        }  # fmt: skip

    # -- towards the socket -----------------------------------------------------------------------
    @property
    def outstanding(self) -> int:
        return len(self._outstanding)

    @property
    def fids(self) -> int:
        return len(self._fids)

    @property
    def mid_message(self) -> bool:
        """Whether part of a message is here and its rest is not (after `step` yielded None)."""
        return self._frames.waiting_bytes > 0

    @property
    def waiting_bytes(self) -> int:
        return self._frames.waiting_bytes

    def receive(self, received: bytes | bytearray | memoryview) -> None:
        self._frames.receive(received)

    def step(self) -> Output | None:
        """Handle the next whole message. None: more bytes, or the end of some work, are needed first.

        Raises ProtocolError; the connection must then be closed."""
        if len(self._outstanding) >= self._requests_max:
            return None
        frame = self._frames.next()
        if frame is None:
            return None
        kind, tag, body = frame
        with body:
            if kind != wire.TVERSION and (tag in self._outstanding or tag == wire.NO_TAG):
                raise ProtocolError("tag in use")
            try:
                if kind not in wire.KNOWN_TYPES:
                    if kind & 1:
                        raise ProtocolError("a reply from a client")
                    raise _refuse(errno.EOPNOTSUPP)
                request = wire.decode(kind, body)
                if kind == wire.TVERSION:
                    return self._version(tag, request)
                if not self._agreed:
                    raise _refuse(errno.EIO)  # the guest of a restarted gateway: it mounts again
                if kind == wire.TFLUSH:
                    return self._flush(tag, request)
                if kind in self._refusals:
                    raise _refuse(self._refusals[kind])
                output = self._handlers[kind](tag, request)
            except OSError as error:
                return (wire.error(tag, error.errno or errno.EIO),)
        if isinstance(output, Work):
            output.generation = self._generation
            if output.tag is not None:
                self._outstanding[tag] = []
        return output

    def finish(self, work: Work, value: Any) -> list[Output]:
        """`work.run()` returned `value`: the reply, the flushes that waited for it, and what remains to be done."""
        if work.generation != self._generation:
            return self._idle(work, [])
        try:
            reply = work.reply(value)
        except OSError as error:
            return self.fail(work, error.errno or errno.EIO)
        return self._end(work, reply)

    def fail(self, work: Work, number: int) -> list[Output]:
        """`work.run()` failed; `number` is a Linux errno."""
        if work.generation != self._generation or work.tag is None:
            return self._idle(work, [])
        return self._end(work, (wire.error(work.tag, number),))

    def close(self) -> list[Work]:
        """The connection is gone: what its open files still need to have done."""
        self._generation += 1
        self._agreed = False
        self._outstanding.clear()
        fids, self._fids = self._fids, {}
        return [work for fid in fids.values() if (work := self._release(fid, None)) is not None]

    def _end(self, work: Work, reply: tuple[bytes, ...]) -> list[Output]:
        outputs: list[Output] = []
        if work.tag is not None:
            outputs.append(reply)
            outputs += [(wire.message(wire.TFLUSH + 1, tag),) for tag in self._outstanding.pop(work.tag, [])]
        return self._idle(work, outputs)

    def _idle(self, work: Work, outputs: list[Output]) -> list[Output]:
        fid = work.fid
        if fid is not None:
            fid.busy -= 1
            if fid.gone and not fid.busy:
                closing = self._release(fid, None)
                if closing is not None:
                    outputs.append(closing)
        return outputs

    def _work(self, tag: int, fid: _Fid, run: Callable[[], Any], reply: Callable[[Any], tuple[bytes, ...]],
              reply_bytes: int = 0) -> Work:  # fmt: skip
        fid.busy += 1
        return Work(tag, run, reply, reply_bytes, fid)

    # -- fids ---------------------------------------------------------------------------------------
    def _get(self, number: int) -> _Fid:
        fid = self._fids.get(number)
        if fid is None:
            raise _refuse(errno.EBADF)
        return fid

    def _put(self, number: int, fid: _Fid) -> None:
        if number in self._fids or number == wire.NO_FID:
            raise _refuse(errno.EBADF)
        if len(self._fids) >= self._fids_max:
            raise _refuse(errno.ENFILE)
        self._fids[number] = fid

    def _release(self, fid: _Fid, tag: int | None) -> Work | None:
        """Forget a fid. Returns the work of closing its file, if that may take time."""
        fid.gone = True
        handle = fid.handle
        if handle is None or fid.busy:  # busy: closed when the last work ends
            return None
        fid.handle = None
        if not handle.writes:
            handle.close()
            return None
        return Work(tag, handle.close, lambda _: (), generation=self._generation)

    # -- requests -------------------------------------------------------------------------------------
    def _version(self, tag: int, asked: wire.Version) -> tuple[bytes, ...] | Work:
        """Starts over: fids, and replies under way, of the time before are void."""
        if asked.msize < wire.MSIZE_MIN:
            raise ProtocolError("msize too small")
        closing = self.close()
        self._frames.msize = min(asked.msize, wire.MSIZE_MAX)
        self._agreed = asked.version == wire.VERSION
        reply = (wire.version(tag, self._frames.msize, wire.VERSION if self._agreed else "unknown"),)
        if not closing:
            return reply

        def close_all() -> None:
            for work in closing:
                work.run()

        if tag != wire.NO_TAG:
            self._outstanding[tag] = []
        return Work(tag, close_all, lambda _: reply, generation=self._generation)

    def _flush(self, tag: int, asked: wire.Flush) -> tuple[bytes, ...]:
        """Answered after the request it is about: always allowed, and no work is left half done."""
        waiting = self._outstanding.get(asked.oldtag)
        if waiting is None:
            return (wire.message(wire.TFLUSH + 1, tag),)
        if len(waiting) >= self._requests_max:
            raise ProtocolError("too many flushes of one request")
        waiting.append(tag)
        return ()

    def _attach(self, tag: int, asked: wire.Attach) -> Output:
        if asked.afid != wire.NO_FID:
            raise _refuse(errno.EINVAL)
        if asked.fid in self._fids:
            raise _refuse(errno.EBADF)

        def attached(root: Node) -> tuple[bytes, ...]:
            self._put(asked.fid, _Fid(root, attached=True))
            return (wire.message(wire.TATTACH + 1, tag, root.qid),)

        return Attach(tag, _no_work, attached, uname=asked.uname, aname=asked.aname)

    def _walk(self, tag: int, asked: wire.Walk) -> tuple[bytes, ...]:
        fid = self._get(asked.fid)
        node = fid.node
        found: list[bytes] = []
        for name in asked.names:
            if name == "..":
                node = node.parent
            else:
                child = node.find(name) if node.is_directory and name != "." else None
                if child is None:
                    if not found:
                        raise _refuse(errno.ENOENT if node.is_directory else errno.ENOTDIR)
                    return (wire.qids(tag, found),)  # as far as it went; newfid is not made
                node = child
            found.append(node.qid)
        if asked.newfid == asked.fid:
            if fid.opened or fid.busy:
                raise _refuse(errno.EBUSY)
            fid.node = node
        else:
            self._put(asked.newfid, _Fid(node))
        return (wire.qids(tag, found),)

    def _open(self, tag: int, asked: wire.Open) -> tuple[bytes, ...]:
        fid = self._get(asked.fid)
        if fid.opened:
            raise _refuse(errno.EBUSY)
        node = fid.node
        if node.is_directory:
            if asked.flags & wire.O_ACCMODE or asked.flags & (wire.O_TRUNC | wire.O_CREAT):
                raise _refuse(errno.EISDIR)
        elif asked.flags & wire.O_DIRECTORY:
            raise _refuse(errno.ENOTDIR)
        fid.handle = node.open(asked.flags)
        fid.opened = True
        return (wire.opened(wire.TLOPEN + 1, tag, node.qid),)

    def _create(self, tag: int, asked: wire.Create) -> tuple[bytes, ...]:
        fid = self._get(asked.fid)
        if fid.opened:
            raise _refuse(errno.EBUSY)
        fid.node, fid.handle = self._directory(fid).create(checked_name(asked.name), asked.flags)
        fid.opened = True
        return (wire.opened(wire.TLCREATE + 1, tag, fid.node.qid),)

    @staticmethod
    def _directory(fid: _Fid) -> Node:
        if not fid.node.is_directory:
            raise _refuse(errno.ENOTDIR)
        return fid.node

    @staticmethod
    def _handle(fid: _Fid) -> Handle:
        if fid.handle is None:
            raise _refuse(errno.EISDIR if fid.node.is_directory else errno.EBADF)
        return fid.handle

    def _read(self, tag: int, asked: wire.Read) -> Output:
        fid = self._get(asked.fid)
        handle = self._handle(fid)
        count = min(asked.length, self._frames.msize - wire.READ_HEADER_BYTES)
        kind = wire.TREAD + 1

        def reply(found: bytes) -> tuple[bytes, ...]:
            return (wire.read_header(kind, tag, len(found)), found)

        found = handle.ready(asked.offset, count)
        if found is not None:
            return reply(found)  # type: ignore[arg-type]
        return self._work(tag, fid, lambda: handle.read(asked.offset, count), reply, count)

    def _write(self, tag: int, asked: wire.Write) -> Work:
        fid = self._get(asked.fid)
        handle = self._handle(fid)
        return self._work(
            tag, fid, lambda: handle.write(asked.offset, asked.payload), lambda count: (wire.wrote(tag, count),),
            len(asked.payload),
        )  # fmt: skip

    def _readdir(self, tag: int, asked: wire.Read) -> tuple[bytes, ...]:
        fid = self._get(asked.fid)
        if not fid.opened:
            raise _refuse(errno.EBADF)
        directory = self._directory(fid)
        room = min(asked.length, self._frames.msize - wire.READ_HEADER_BYTES)
        found: list[bytes] = []
        for cookie, name, node in self._with_dots(directory, asked.offset):
            entry = wire.directory_entry(node.qid, cookie, name)
            if len(entry) > room:
                if not found:
                    raise _refuse(errno.EINVAL)  # count too small for even one
                break
            room -= len(entry)
            found.append(entry)
        listing = b"".join(found)
        return (wire.read_header(wire.TREADDIR + 1, tag, len(listing)), listing)

    @staticmethod
    def _with_dots(directory: Node, after: int) -> Iterator[tuple[int, str, Node]]:
        if after < 1:
            yield 1, ".", directory
        if after < 2:
            yield 2, "..", directory.parent
        yield from directory.entries(after)

    def _getattr(self, tag: int, asked: wire.Getattr) -> tuple[bytes, ...]:
        node = self._get(asked.fid).node
        found = node.attributes()
        return (
            wire.attributes(
                tag, node.qid, mode=found.mode, links=found.links, size=found.size,
                atime_ns=found.atime_ns, mtime_ns=found.mtime_ns, ctime_ns=found.ctime_ns,
            ),
        )  # fmt: skip

    def _setattr(self, tag: int, asked: wire.Setattr) -> Output:
        fid = self._get(asked.fid)
        valid = asked.valid

        def time(bit: int, set_bit: int, seconds: int, nanoseconds: int) -> int | None:
            if not valid & bit:
                return None
            return min(seconds * 10**9 + min(nanoseconds, 10**9 - 1), 2**63 - 1) if valid & set_bit else -1

        work = fid.node.change(Changes(
            size=asked.size if valid & wire.SETATTR_SIZE else None,
            atime_ns=time(wire.SETATTR_ATIME, wire.SETATTR_ATIME_SET, asked.atime_sec, asked.atime_nsec),
            mtime_ns=time(wire.SETATTR_MTIME, wire.SETATTR_MTIME_SET, asked.mtime_sec, asked.mtime_nsec),
            mode=bool(valid & wire.SETATTR_MODE),
            owner=bool(valid & (wire.SETATTR_UID | wire.SETATTR_GID)),
        ))  # fmt: skip
        done = (wire.message(wire.TSETATTR + 1, tag),)
        return done if work is None else self._work(tag, fid, work, lambda _: done)

    def _clunk(self, tag: int, asked: wire.Fid) -> Output:
        fid = self._get(asked.fid)
        del self._fids[asked.fid]
        reply = (wire.message(wire.TCLUNK + 1, tag),)
        work = self._release(fid, tag)
        if work is None:
            return reply
        work.reply = lambda _: reply
        return work

    def _remove(self, tag: int, asked: wire.Fid) -> Output:
        """Clunks the fid whether or not the removal succeeds (remove(5))."""
        fid = self._get(asked.fid)
        del self._fids[asked.fid]
        failure = 0
        try:
            parent = fid.node.parent
            parent.remove(parent.name_of(fid.node), directory=None)
        except OSError as error:
            failure = error.errno or errno.EIO
        reply = (wire.error(tag, failure) if failure else wire.message(wire.TREMOVE + 1, tag),)
        work = self._release(fid, tag)
        if work is None:
            return reply
        work.reply = lambda _: reply
        return work

    def _unlinkat(self, tag: int, asked: wire.Unlinkat) -> tuple[bytes, ...]:
        directory = self._directory(self._get(asked.fid))
        directory.remove(checked_name(asked.name), directory=bool(asked.flags & wire.UNLINK_DIRECTORY))
        return (wire.message(wire.TUNLINKAT + 1, tag),)

    def _rename(self, tag: int, asked: wire.Rename) -> tuple[bytes, ...]:
        node = self._get(asked.fid).node
        target = self._directory(self._get(asked.directory_fid))
        node.parent.rename(node.parent.name_of(node), target, checked_name(asked.name))
        return (wire.message(wire.TRENAME + 1, tag),)

    def _renameat(self, tag: int, asked: wire.Renameat) -> tuple[bytes, ...]:
        source = self._directory(self._get(asked.old_fid))
        target = self._directory(self._get(asked.new_fid))
        source.rename(checked_name(asked.old_name), target, checked_name(asked.new_name))
        return (wire.message(wire.TRENAMEAT + 1, tag),)

    def _mkdir(self, tag: int, asked: wire.Mkdir) -> tuple[bytes, ...]:
        made = self._directory(self._get(asked.fid)).make_directory(checked_name(asked.name))
        return (wire.message(wire.TMKDIR + 1, tag, made.qid),)

    def _fsync(self, tag: int, asked: wire.Fsync) -> Output:
        fid = self._get(asked.fid)
        done = (wire.message(wire.TFSYNC + 1, tag),)
        if fid.handle is None or not fid.handle.writes:
            return done
        return self._work(tag, fid, fid.handle.sync, lambda _: done)

    def _statfs(self, tag: int, asked: wire.Fid) -> tuple[bytes, ...]:
        space = self._get(asked.fid).node.space()
        return (
            wire.statfs(
                tag, blocks=-(-space.bytes_max // 4096), blocks_free=space.bytes_free // 4096,
                files=space.files, files_free=space.files_free, fsid=0,
            ),
        )  # fmt: skip

    def _lock(self, tag: int, asked: wire.Lock) -> tuple[bytes, ...]:
        """Always granted: one machine, one user; the kernel in it arbitrates between its own processes."""
        self._get(asked.fid)
        return (wire.message(wire.TLOCK + 1, tag, bytes((wire.LOCK_SUCCESS,))),)

    def _getlock(self, tag: int, asked: wire.Getlock) -> tuple[bytes, ...]:
        self._get(asked.fid)
        return (wire.getlock(tag, asked),)
