"""The items of a folder as one read-only disk image, made up while it is read.

A guest mounts it and knows 2,000 names and sizes after a few reads, where 9P takes four questions a file
(docs/decisions/0153). EROFS, blocks of 4 KiB, nothing compressed: superblock, inodes and directories are kept in
memory; behind them lie the items, each from a block of its own, and are opened as they are read. Facts from Linux
(Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h). Knows no socket and no key. Made by `files_folder`, served
by `myphr.gateway.ninep` through its `Node` and `Handle`.
"""

import bisect
import collections
import errno
import itertools
import struct
import threading
from collections.abc import Iterable, Iterator

from myphr.gateway import ninep
from myphr.gateway import ninep_wire as wire
from myphr.gateway.files_tree import Directory, FixedFile, ItemFile, ReadHandle

NAME = "\x01items"  # in the root, not listed; a name of an item never holds a control character
BLOCK_BYTES = 4096
BLOCKS_MAX = 2**32 - 1  # block addresses have 32 bits: 16 TiB
HANDLES_MAX = 16  # items that one reader has its place in; a viewer reads a few at a time
_QID = 3
_MAGIC = 0xE0F5E1E2
_SUPERBLOCK_AT = 1024
_SUPERBLOCK = struct.Struct("<III BBHQQIIII 16s16s IHHH 38s")
_INODE = struct.Struct("<HHHHQIIIIQII16s")
_DIRENT = struct.Struct("<QHBB")
_EXTENDED_PLAIN = 1  # i_format: a 64-byte inode, contents in consecutive blocks
_META_BLOCK = 1  # where inodes are counted from
_SLOTS = _INODE.size // 32  # inode numbers are in units of 32 bytes
_REGULAR, _DIRECTORY = 1, 2


class ImageTooBig(Exception):
    """More than 16 TiB, or a folder beyond what an inode can count: the guest reads the items over 9P itself."""


class _Folder:
    """A directory while the image is laid out. Nothing of a foreign directory (results/) is looked at: it is empty."""

    __slots__ = ("children", "node", "number", "parent_number")

    def __init__(self, node: ninep.Node, number: int, parent_number: int) -> None:
        self.node = node
        self.number = number
        self.parent_number = parent_number
        self.children: list[tuple[bytes, int, int]] = []  # name, inode number, type


class Image(FixedFile):
    """The file that holds the image of everything below `root`. Raises ImageTooBig."""

    __slots__ = ("_files", "_head", "_starts", "_times_ns", "parent", "qid", "size")
    is_directory = False

    def __init__(self, root: Directory) -> None:
        self.parent: ninep.Node = root
        self.qid = wire.QID.pack(wire.QTFILE, 0, _QID)
        self._times_ns = root.times_ns
        folders, files = _numbered(root)
        directories = [_directory_blocks(folder) for folder in folders]
        inodes = len(folders) + len(files) + 1  # number 0 is left out: some programs take it for "no such entry"
        block = _META_BLOCK + -(-inodes * _INODE.size // BLOCK_BYTES)
        seconds, nanoseconds = divmod(root.times_ns, 10**9)

        def inode(number: int, mode: int, size: int, first_block: int, links: int) -> tuple[int, bytes]:
            if first_block > BLOCKS_MAX:
                raise ImageTooBig
            return number, _INODE.pack(
                _EXTENDED_PLAIN, 0, mode, 0, size, first_block, number, 0, 0, seconds, nanoseconds, links, b""
            )

        packed: list[tuple[int, bytes]] = []
        contents: list[bytes] = []
        for folder, (blocks, size) in zip(folders, directories, strict=True):
            links = 2 + sum(kind == _DIRECTORY for _, _, kind in folder.children)
            packed.append(inode(folder.number, folder.node.attributes().mode, size, block, links))
            contents.append(blocks)
            block += len(blocks) // BLOCK_BYTES
        self._files: list[ItemFile] = []
        self._starts: list[int] = []
        head_bytes = block * BLOCK_BYTES
        for number, file in files:
            size = file.source.plain_bytes
            packed.append(inode(number, file.attributes().mode, size, block if size else 0, 1))
            if size:
                self._files.append(file)
                self._starts.append(block * BLOCK_BYTES)
                block += -(-size // BLOCK_BYTES)
        if block > BLOCKS_MAX:
            raise ImageTooBig
        head = bytearray(BLOCK_BYTES)
        _SUPERBLOCK.pack_into(
            head, _SUPERBLOCK_AT, _MAGIC, 0, 0, BLOCK_BYTES.bit_length() - 1, 0, _SLOTS, len(packed), seconds,
            nanoseconds, block, _META_BLOCK, 0, b"", b"", 0, 0, 0, 0, b"",
        )  # fmt: skip
        head += bytes(_INODE.size) + b"".join(body for _, body in sorted(packed))
        head += bytes(-len(head) % BLOCK_BYTES)
        self._head = memoryview(bytes(head) + b"".join(contents))
        assert len(self._head) == head_bytes
        self.size = block * BLOCK_BYTES

    def pieces(self, offset: int, count: int) -> Iterator[tuple[ItemFile | None, int, int]]:
        """What lies there, in order: (file, offset in it, bytes), or (None, offset in the image's head, bytes), or
        (None, -1, bytes) for the zeros behind a file's end."""
        end = min(offset + count, self.size)
        if offset < len(self._head) and offset < end:
            length = min(end, len(self._head)) - offset
            yield None, offset, length
            offset += length
        index = bisect.bisect_right(self._starts, offset) - 1
        while offset < end:
            file, start = self._files[index], self._starts[index]
            at = offset - start
            length = min(end - offset, max(0, file.source.plain_bytes - at))
            if length:
                yield file, at, length
                offset += length
            index += 1
            next_start = self._starts[index] if index < len(self._starts) else self.size
            if offset < min(end, next_start):
                yield None, -1, min(end, next_start) - offset
                offset = min(end, next_start)

    def head(self, offset: int, count: int) -> memoryview:
        return self._head[offset : offset + count]

    def attributes(self) -> ninep.Attributes:
        at = self._times_ns
        return ninep.Attributes(0o100400, self.size, atime_ns=at, mtime_ns=at, ctime_ns=at)

    def open(self, flags: int) -> "ImageHandle":
        if flags & wire.O_ACCMODE or flags & wire.O_TRUNC:
            raise OSError(errno.EROFS, "refused")
        return ImageHandle(self)


class ImageHandle:
    """A guest's open image. Keeps its place in a few items, so that each chunk is opened once. Thread-safe."""

    __slots__ = ("_closed", "_handles", "_image", "_lock")
    writes = False

    def __init__(self, image: Image) -> None:
        self._image = image
        self._handles: collections.OrderedDict[int, ReadHandle] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def ready(self, offset: int, count: int) -> memoryview | bytes | None:
        found: list[memoryview | bytes] = []
        for file, at, length in self._image.pieces(offset, count):
            if file is None:
                found.append(self._image.head(at, length) if at >= 0 else bytes(length))
                continue
            with self._lock:
                handle = self._handles.get(file.number)
            piece = handle.ready(at, length) if handle is not None else None
            if piece is None:
                return None
            found.append(piece)
        return found[0] if len(found) == 1 else b"".join(found)

    def read(self, offset: int, count: int) -> bytes | memoryview:
        """May block. Raises OSError(EIO) for all of it when one item in it is damaged: never zeros in its place."""
        found: list[memoryview | bytes] = []
        for file, at, length in self._image.pieces(offset, count):
            if file is None:
                found.append(self._image.head(at, length) if at >= 0 else bytes(length))
            else:
                handle = self._handle(file)
                piece = handle.ready(at, length)
                found.append(handle.read(at, length) if piece is None else piece)
        return found[0] if len(found) == 1 else b"".join(found)

    def _handle(self, file: ItemFile) -> ReadHandle:
        surplus: list[ReadHandle] = []
        with self._lock:
            if self._closed:
                raise OSError(errno.ESTALE, "refused")
            handle = self._handles.pop(file.number, None) or file.open(wire.O_RDONLY)
            self._handles[file.number] = handle
            if len(self._handles) > HANDLES_MAX:
                surplus.append(self._handles.popitem(last=False)[1])
        for old in surplus:
            old.close()
        return handle

    def write(self, offset: int, payload: bytes) -> int:
        raise OSError(errno.EBADF, "refused")

    def sync(self) -> None:
        return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            handles, self._handles = self._handles, collections.OrderedDict()
        for handle in handles.values():
            handle.close()


def _numbered(root: Directory) -> tuple[list[_Folder], list[tuple[int, ItemFile]]]:
    """Every directory and file below `root` with its inode number; the root is 1."""
    numbers = itertools.count(1)
    first = next(numbers)
    folders = [_Folder(root, first, first)]
    files: list[tuple[int, ItemFile]] = []
    for folder in folders:  # grows while it is walked
        if not isinstance(folder.node, Directory):
            continue
        for _, name, child in folder.node.entries(0):
            number = next(numbers)
            if isinstance(child, ItemFile):
                files.append((number, child))
                folder.children.append((name.encode(), number, _REGULAR))
            else:
                folders.append(_Folder(child, number, folder.number))
                folder.children.append((name.encode(), number, _DIRECTORY))
    return folders, files


def _directory_blocks(folder: _Folder) -> tuple[bytes, int]:
    """Its entries, sorted by bytes as the kernel searches them, in whole blocks; and its size without the last padding.

    A block is its entries, 12 bytes each, then their names; a name ends where the next begins, or with the block."""
    entries = sorted(
        [(b".", folder.number, _DIRECTORY), (b"..", folder.parent_number, _DIRECTORY), *folder.children]
    )
    if len(entries) * (_DIRENT.size + 255) > 2**31:
        raise ImageTooBig
    blocks: list[bytes] = []
    for block in _filled(entries):
        at = len(block) * _DIRENT.size
        table = bytearray()
        for name, number, kind in block:
            table += _DIRENT.pack(number * _SLOTS, at, kind, 0)
            at += len(name)
        blocks.append(bytes(table) + b"".join(name for name, _, _ in block))
    size = (len(blocks) - 1) * BLOCK_BYTES + len(blocks[-1])
    return b"".join(block.ljust(BLOCK_BYTES, b"\0") for block in blocks), size


def _filled(entries: Iterable[tuple[bytes, int, int]]) -> Iterator[list[tuple[bytes, int, int]]]:
    """Entries by the block that they fit in."""
    block: list[tuple[bytes, int, int]] = []
    used = 0
    for entry in entries:
        need = _DIRENT.size + len(entry[0])
        if used + need > BLOCK_BYTES:
            yield block
            block, used = [], 0
        block.append(entry)
        used += need
    yield block
