"""The 9P core as a script: receive this, expect that. No socket, no thread."""

import errno
import random
import struct

import pytest

from myphr.errors import ContainerError
from myphr.gateway import files_tree, ninep
from myphr.gateway import ninep_wire as wire
from myphr.gateway.files_tree import MemoryBudget, Reading, Source

FILES = {"CT/0001.dcm": b"slice one" * 1000, "CT/0002.dcm": b"", "report.pdf": bytes(range(256)) * 5000}


class InMemory:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.plain_bytes = len(content)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if self.content == b"damaged":
            raise ContainerError
        piece = self.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        pass


def tree(files: dict[str, bytes], damaged: list[str] | None = None) -> ninep.Node:
    return files_tree.build(
        [
            Source(path, f"item-{n}", len(content), lambda content=content: InMemory(content))
            for n, (path, content) in enumerate(files.items())
        ],
        reading=Reading(MemoryBudget(1 << 20), (damaged if damaged is not None else []).append), times_ns=10**18,
        space=lambda: ninep.Space(1 << 20, 1 << 19, 10, 5), results=None,
    )  # fmt: skip


class Talk:
    """Feeds a core and does its work at once."""

    def __init__(self, root: ninep.Node, **limits: int) -> None:
        self.core = ninep.Core(**limits)
        self.root = root
        self.held: list[ninep.Work] = []
        self.hold = False

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        self.core.receive(data)
        return self.drain()

    def drain(self) -> list[tuple[int, int, bytes]]:
        replies: list[bytes] = []
        while (output := self.core.step()) is not None:
            replies += self.take(output)
        return split(b"".join(replies))

    def take(self, output: ninep.Output) -> list[bytes]:
        if not isinstance(output, ninep.Work):
            return [bytes(part) for part in output]
        if self.hold and not isinstance(output, ninep.Attach):
            self.held.append(output)
            return []
        return self.do(output)

    def do(self, work: ninep.Work) -> list[bytes]:
        try:
            value = self.root if isinstance(work, ninep.Attach) else work.run()
        except OSError as error:
            outputs = self.core.fail(work, error.errno or errno.EIO)
        else:
            outputs = self.core.finish(work, value)
        return [part for output in outputs for part in self.take(output)]

    def call(self, kind: int, *fields: object, tag: int = 1) -> bytes:
        [(got, got_tag, body)] = self.feed(wire.encode(kind, tag, *fields))
        assert got_tag == tag
        if got == wire.RLERROR:
            raise OSError(struct.unpack("<I", body)[0], "refused")
        assert got == kind + 1
        return body

    def refused(self, kind: int, *fields: object) -> int:
        with pytest.raises(OSError) as caught:
            self.call(kind, *fields)
        return caught.value.errno or 0

    def mount(self) -> "Talk":
        self.call(wire.TVERSION, wire.MSIZE_MAX, wire.VERSION, tag=wire.NO_TAG)
        self.call(wire.TATTACH, 0, wire.NO_FID, "session", "secret", wire.NO_FID)
        return self

    def opened(self, *names: str, fid: int = 7) -> "Talk":
        self.call(wire.TWALK, 0, fid, names)
        self.call(wire.TLOPEN, fid, wire.O_RDONLY)
        return self


def split(stream: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while stream:
        size, kind, tag = wire.HEADER.unpack_from(stream)
        found.append((kind, tag, stream[wire.HEADER_BYTES : size]))
        stream = stream[size:]
    return found


def names_in(listing: bytes) -> list[str]:
    names, at = [], 4
    while at < len(listing):
        length = struct.unpack_from("<H", listing, at + 22)[0]
        names.append(listing[at + 24 : at + 24 + length].decode())
        at += 24 + length
    return names


@pytest.fixture
def talk() -> Talk:
    return Talk(tree(FILES)).mount()


def test_a_mounted_guest_reads_the_exact_bytes_of_an_item(talk: Talk) -> None:
    talk.opened("report.pdf")
    body = talk.call(wire.TREAD, 7, 1000, 300_000)
    assert body == struct.pack("<I", 300_000) + FILES["report.pdf"][1000:301_000]


def test_reading_past_the_end_gives_nothing(talk: Talk) -> None:
    talk.opened("CT", "0002.dcm")
    assert talk.call(wire.TREAD, 7, 0, 4096) == struct.pack("<I", 0)
    assert talk.call(wire.TREAD, 7, 2**64 - 1, 0xFFFFFFFF) == struct.pack("<I", 0)


def test_version_settles_on_the_smaller_msize() -> None:
    talk = Talk(tree(FILES))
    assert struct.unpack_from("<I", talk.call(wire.TVERSION, 8192, wire.VERSION))[0] == 8192
    assert struct.unpack_from("<I", talk.call(wire.TVERSION, 2**31, wire.VERSION))[0] == wire.MSIZE_MAX


def test_another_dialect_is_answered_unknown_and_gets_nothing() -> None:
    talk = Talk(tree(FILES))
    assert talk.call(wire.TVERSION, 8192, "9P2000")[4:] == wire.text("unknown")
    assert talk.refused(wire.TATTACH, 0, wire.NO_FID, "", "", 0) == errno.EIO


def test_a_huge_read_count_is_cut_to_one_message(talk: Talk) -> None:
    talk.opened("report.pdf")
    body = talk.call(wire.TREAD, 7, 0, 0xFFFFFFFF)
    assert len(body) + wire.HEADER_BYTES == wire.MSIZE_MAX


def test_nothing_is_served_before_an_attach() -> None:
    talk = Talk(tree(FILES))
    assert talk.refused(wire.TGETATTR, 0, 0x7FF) == errno.EIO
    talk.call(wire.TVERSION, 8192, wire.VERSION)
    assert talk.refused(wire.TGETATTR, 0, 0x7FF) == errno.EBADF


def test_a_refused_attach_leaves_no_fid() -> None:
    talk = Talk(tree(FILES))
    talk.call(wire.TVERSION, 8192, wire.VERSION)
    talk.core.receive(wire.encode(wire.TATTACH, 1, 0, wire.NO_FID, "s", "wrong", 0))
    work = talk.core.step()
    assert isinstance(work, ninep.Attach)
    assert (work.uname, work.aname) == ("s", "wrong")
    assert "wrong" not in repr(work)
    talk.core.fail(work, errno.EACCES)
    assert talk.core.fids == 0


def test_version_in_the_middle_starts_over_and_frees_fids(talk: Talk) -> None:
    talk.opened("report.pdf")
    talk.call(wire.TVERSION, 8192, wire.VERSION)
    assert talk.core.fids == 0
    assert talk.refused(wire.TREAD, 7, 0, 10) == errno.EBADF


# -- walking ---------------------------------------------------------------------------------------
def test_walking_up_never_leaves_the_root(talk: Talk) -> None:
    root = talk.call(wire.TWALK, 0, 1, ())
    assert root == struct.pack("<H", 0)
    body = talk.call(wire.TWALK, 0, 2, ("..", "..", "CT", "..", "..", ".."))
    qids = [body[2 + 13 * n : 15 + 13 * n] for n in range(6)]
    assert {qids[0], qids[1], qids[3], qids[5]} == {talk.root.qid}


@pytest.mark.parametrize("name", [".", "", "CT/0001.dcm", "\0", "../CT", "/etc/passwd", "CT\0", "/"])
def test_walking_to_a_trick_name_finds_nothing(talk: Talk, name: str) -> None:
    assert talk.refused(wire.TWALK, 0, 1, (name,)) == errno.ENOENT


def test_a_walk_that_fails_half_way_makes_no_fid(talk: Talk) -> None:
    body = talk.call(wire.TWALK, 0, 3, ("CT", "missing", "x"))
    assert struct.unpack_from("<H", body)[0] == 1
    assert talk.refused(wire.TGETATTR, 3, 0x7FF) == errno.EBADF


def test_walking_through_a_file_is_refused(talk: Talk) -> None:
    talk.call(wire.TWALK, 0, 1, ("report.pdf",))
    assert talk.refused(wire.TWALK, 1, 2, ("x",)) == errno.ENOTDIR


def test_a_fid_number_in_use_is_not_taken_twice(talk: Talk) -> None:
    talk.call(wire.TWALK, 0, 1, ())
    assert talk.refused(wire.TWALK, 0, 1, ("CT",)) == errno.EBADF
    assert talk.refused(wire.TATTACH, 1, wire.NO_FID, "", "", 0) == errno.EBADF


def test_fids_are_bounded() -> None:
    talk = Talk(tree(FILES), fids_max=10).mount()
    for number in range(1, 10):
        talk.call(wire.TWALK, 0, number, ())
    assert talk.refused(wire.TWALK, 0, 10, ()) == errno.ENFILE
    talk.call(wire.TCLUNK, 5)
    talk.call(wire.TWALK, 0, 10, ())


# -- directories -----------------------------------------------------------------------------------
def test_a_listing_in_small_pieces_misses_and_repeats_nothing() -> None:
    files = {f"{n:04}.dcm": b"x" for n in range(500)}
    talk = Talk(tree(files)).mount().opened()
    seen: list[str] = []
    offset = 0
    while names := names_in(body := talk.call(wire.TREADDIR, 7, offset, 300)):
        seen += names
        last = len(body) - 24 - len(names[-1].encode())
        offset = struct.unpack_from("<Q", body, last + 13)[0]
    assert seen == [".", "..", *sorted(files)]


def test_a_listing_with_no_room_for_one_name_is_refused(talk: Talk) -> None:
    talk.opened()
    assert talk.refused(wire.TREADDIR, 7, 0, 10) == errno.EINVAL


def test_an_offset_beyond_the_listing_ends_it(talk: Talk) -> None:
    talk.opened()
    assert names_in(talk.call(wire.TREADDIR, 7, 2**64 - 1, 8000)) == []


def test_a_directory_is_not_read_as_a_file_nor_a_file_listed(talk: Talk) -> None:
    talk.opened("CT")
    assert talk.refused(wire.TREAD, 7, 0, 10) == errno.EISDIR
    talk.call(wire.TWALK, 0, 8, ("report.pdf",))
    talk.call(wire.TLOPEN, 8, wire.O_RDONLY)
    assert talk.refused(wire.TREADDIR, 8, 0, 1000) == errno.ENOTDIR


def test_attributes_say_size_and_read_only(talk: Talk) -> None:
    talk.call(wire.TWALK, 0, 1, ("report.pdf",))
    body = talk.call(wire.TGETATTR, 1, wire.GETATTR_BASIC)
    valid, _, mode, _, _, links, _, size = struct.unpack_from("<Q13sIIIQQQ", body)
    assert (valid, mode, links, size) == (0x7FF, 0o100444, 1, len(FILES["report.pdf"]))


# -- what a read-only folder refuses -----------------------------------------------------------------
@pytest.mark.parametrize("flags", [wire.O_WRONLY, wire.O_RDWR, wire.O_RDONLY | wire.O_TRUNC])
def test_items_cannot_be_opened_for_writing(talk: Talk, flags: int) -> None:
    talk.call(wire.TWALK, 0, 1, ("report.pdf",))
    assert talk.refused(wire.TLOPEN, 1, flags) == errno.EROFS


def test_items_cannot_be_changed_made_moved_or_removed(talk: Talk) -> None:
    talk.call(wire.TWALK, 0, 1, ("report.pdf",))
    talk.call(wire.TWALK, 0, 2, ())
    assert talk.refused(wire.TSETATTR, 1, wire.SETATTR_SIZE, 0, 0, 0, 0, 0, 0, 0, 0) == errno.EROFS
    assert talk.refused(wire.TLCREATE, 2, "new", 0, 0, 0) == errno.EROFS
    assert talk.refused(wire.TMKDIR, 2, "new", 0, 0) == errno.EROFS
    assert talk.refused(wire.TUNLINKAT, 2, "report.pdf", 0) == errno.EROFS
    assert talk.refused(wire.TRENAMEAT, 2, "report.pdf", 2, "x") == errno.EROFS
    assert talk.refused(wire.TRENAME, 1, 2, "x") == errno.EROFS
    assert talk.refused(wire.TREMOVE, 1) == errno.EROFS
    assert talk.refused(wire.TGETATTR, 1, 0) == errno.EBADF  # remove clunks even when it fails
    talk.opened("report.pdf")
    assert talk.refused(wire.TWRITE, 7, 0, b"x") == errno.EBADF


def test_links_devices_attributes_and_authentication_are_refused(talk: Talk) -> None:
    assert talk.refused(wire.TSYMLINK, 0, "a", "/etc/passwd", 0) == errno.EPERM
    assert talk.refused(wire.TLINK, 0, 0, "a") == errno.EPERM
    assert talk.refused(wire.TMKNOD, 0, "a", 0o20666, 1, 3, 0) == errno.EPERM
    assert talk.refused(wire.TREADLINK, 0) == errno.EPERM
    assert talk.refused(wire.TXATTRWALK, 0, 5, "security.capability") == errno.EOPNOTSUPP
    assert talk.refused(wire.TXATTRCREATE, 0, "user.x", 1, 0) == errno.EOPNOTSUPP
    assert talk.refused(wire.TAUTH, 9, "", "", 0) == errno.EOPNOTSUPP


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "\0", "a\0b", "../x"])
def test_no_entry_gets_a_trick_name(talk: Talk, name: str) -> None:
    assert talk.refused(wire.TMKDIR, 0, name, 0, 0) == errno.EINVAL
    assert talk.refused(wire.TLCREATE, 0, name, 0, 0, 0) == errno.EINVAL
    assert talk.refused(wire.TRENAMEAT, 0, name, 0, "x") == errno.EINVAL
    assert talk.refused(wire.TRENAMEAT, 0, "x", 0, name) == errno.EINVAL


def test_names_over_255_bytes_are_refused(talk: Talk) -> None:
    assert talk.refused(wire.TMKDIR, 0, "ä" * 128, 0, 0) == errno.ENAMETOOLONG


def test_locks_are_granted(talk: Talk) -> None:
    assert talk.call(wire.TLOCK, 0, 1, 0, 0, 0, 4711, "guest") == b"\0"
    assert talk.call(wire.TGETLOCK, 0, 1, 5, 6, 4711, "guest")[0] == wire.LOCK_UNLOCKED


def test_statfs_and_fsync_answer(talk: Talk) -> None:
    assert struct.unpack_from("<II", talk.call(wire.TSTATFS, 0)) == (wire.FS_MAGIC, 4096)
    talk.opened("report.pdf")
    talk.call(wire.TFSYNC, 7, 0)
    assert talk.feed(wire.message(wire.TFSYNC, 1, struct.pack("<I", 7))) == [(wire.TFSYNC + 1, 1, b"")]


def test_a_damaged_item_gives_eio_and_the_others_go_on() -> None:
    damaged: list[str] = []
    talk = Talk(tree({"bad": b"damaged", "good": b"fine"}, damaged)).mount()
    talk.opened("bad").opened("good", fid=8)
    assert talk.refused(wire.TREAD, 7, 0, 100) == errno.EIO
    assert damaged == ["item-0"]
    assert talk.call(wire.TREAD, 8, 0, 100)[4:] == b"fine"


# -- several requests at once --------------------------------------------------------------------------
def test_requests_under_way_are_bounded_and_go_on_when_one_ends() -> None:
    talk = Talk(tree(FILES), requests_max=3).mount().opened("report.pdf")
    talk.hold = True
    for tag in range(10, 15):
        assert talk.feed(wire.encode(wire.TREAD, tag, 7, 0, 400_000)) == []
    assert talk.core.outstanding == 3
    assert [kind for kind, _, _ in split(b"".join(talk.do(talk.held.pop(0))))] == [wire.TREAD + 1]
    talk.drain()
    assert talk.core.outstanding == 3


def test_a_flush_is_answered_after_the_request_it_is_about(talk: Talk) -> None:
    talk.opened("report.pdf")
    talk.hold = True
    talk.feed(wire.encode(wire.TREAD, 10, 7, 0, 400_000))
    assert talk.feed(wire.encode(wire.TFLUSH, 11, 10)) == []
    replies = split(b"".join(talk.do(talk.held[0])))
    assert [(kind, tag) for kind, tag, _ in replies] == [(wire.TREAD + 1, 10), (wire.TFLUSH + 1, 11)]


def test_a_flush_of_nothing_is_answered_at_once(talk: Talk) -> None:
    assert talk.call(wire.TFLUSH, 4711) == b""


def test_a_tag_used_twice_ends_the_connection(talk: Talk) -> None:
    talk.opened("report.pdf")
    talk.hold = True
    talk.feed(wire.encode(wire.TREAD, 10, 7, 0, 400_000))
    with pytest.raises(wire.ProtocolError):
        talk.feed(wire.encode(wire.TREAD, 10, 7, 0, 400_000))


def test_a_reply_of_before_a_new_version_is_never_sent(talk: Talk) -> None:
    talk.opened("report.pdf")
    talk.hold = True
    talk.feed(wire.encode(wire.TREAD, 10, 7, 0, 400_000))
    talk.feed(wire.encode(wire.TVERSION, wire.NO_TAG, 8192, wire.VERSION))
    assert talk.do(talk.held[0]) == []
    assert talk.core.outstanding == 0


def test_a_file_clunked_while_it_is_read_is_closed_after_the_read(talk: Talk) -> None:
    talk.opened("report.pdf")
    talk.hold = True
    talk.feed(wire.encode(wire.TREAD, 10, 7, 0, 400_000))
    assert talk.call(wire.TCLUNK, 7, tag=11) == b""
    [(kind, _, body)] = split(b"".join(talk.do(talk.held[0])))
    assert (kind, body[4:]) == (wire.TREAD + 1, FILES["report.pdf"][:400_000])


# -- bytes -------------------------------------------------------------------------------------------
CONVERSATION = b"".join([
    wire.encode(wire.TVERSION, wire.NO_TAG, 8192, wire.VERSION),
    wire.encode(wire.TATTACH, 1, 0, wire.NO_FID, "session", "secret", wire.NO_FID),
    wire.encode(wire.TWALK, 2, 0, 1, ("CT", "0001.dcm")), wire.encode(wire.TLOPEN, 3, 1, 0),
    wire.encode(wire.TREAD, 4, 1, 0, 5000), wire.encode(wire.TGETATTR, 5, 1, 0x7FF), wire.encode(wire.TCLUNK, 6, 1),
    wire.encode(wire.TWALK, 7, 0, 1, ()), wire.encode(wire.TLOPEN, 8, 1, 0), wire.encode(wire.TREADDIR, 9, 1, 0, 4000),
    wire.encode(wire.TSTATFS, 10, 0), wire.encode(wire.TWRITE, 11, 1, 0, b"refused"),
])  # fmt: skip


def test_one_byte_at_a_time_gives_the_same_replies() -> None:
    whole = Talk(tree(FILES)).feed(CONVERSATION)
    talk = Talk(tree(FILES))
    assert [reply for n in range(len(CONVERSATION)) for reply in talk.feed(CONVERSATION[n : n + 1])] == whole
    assert len(whole) == 12
    assert not talk.core.mid_message


@pytest.mark.parametrize("stream", [
    struct.pack("<IBH", 6, 100, 0), struct.pack("<IBH", 0, 100, 0), struct.pack("<I", 2**32 - 1),
    struct.pack("<I", 8193),
    wire.message(wire.TVERSION, 0, b"\0\0"), wire.encode(wire.TVERSION, 0, 100, wire.VERSION),
    wire.message(wire.TVERSION, 0, struct.pack("<IH", 8192, 500) + b"9P2000.L"),
])  # fmt: skip
def test_malformed_messages_end_the_connection(stream: bytes) -> None:
    with pytest.raises(wire.ProtocolError):
        Talk(tree(FILES)).feed(stream)


def test_a_message_without_its_last_byte_waits_for_it() -> None:
    talk = Talk(tree(FILES))
    message = wire.encode(wire.TVERSION, 0, 8192, wire.VERSION)
    assert talk.feed(message[:-1]) == []
    assert talk.core.mid_message
    assert [kind for kind, _, _ in talk.feed(message[-1:])] == [wire.TVERSION + 1]


@pytest.mark.parametrize("body", [
    (wire.TWALK, struct.pack("<IIH", 0, 1, 17) + wire.text("a") * 17), (wire.TWALK, struct.pack("<IIH", 0, 1, 1)),
    (wire.TWALK, struct.pack("<IIHH", 0, 1, 1, 0xFFFF)), (wire.TREAD, b"\0" * 15), (wire.TREAD, b"\0" * 17),
    (wire.TWRITE, struct.pack("<IQI", 0, 0, 0xFFFFFFFF)), (wire.TWRITE, struct.pack("<IQI", 0, 0, 2) + b"abc"),
    (wire.TWRITE, b"\0" * 4), (wire.TCLUNK, b""), (wire.TFSYNC, b"\0" * 5), (wire.TREAD + 1, b""),
])  # fmt: skip
def test_a_message_whose_sizes_disagree_ends_the_connection(talk: Talk, body: tuple[int, bytes]) -> None:
    with pytest.raises(wire.ProtocolError):
        talk.feed(wire.message(body[0], 1, body[1]))


def test_an_unknown_message_is_refused_and_the_connection_lives(talk: Talk) -> None:
    [(kind, _, body)] = talk.feed(wire.message(98, 1, b"whatever"))
    assert (kind, struct.unpack("<I", body)[0]) == (wire.RLERROR, errno.EOPNOTSUPP)
    talk.call(wire.TSTATFS, 0)


def test_a_name_that_is_not_utf8_is_refused_and_the_connection_lives(talk: Talk) -> None:
    body = struct.pack("<IIHH", 0, 1, 1, 2) + b"\xff\xfe"
    [(kind, _, reply)] = talk.feed(wire.message(wire.TWALK, 1, body))
    assert (kind, struct.unpack("<I", reply)[0]) == (wire.RLERROR, errno.EILSEQ)
    talk.call(wire.TSTATFS, 0)


@pytest.mark.parametrize("seed", range(20))
def test_random_and_bent_messages_never_crash_it(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        talk = Talk(tree(FILES)).mount()
        stream = bytearray(CONVERSATION[chance.randrange(40) :] if chance.random() < 0.2 else CONVERSATION)
        for _ in range(chance.randrange(1, 6)):
            where = chance.randrange(len(stream))
            if chance.random() < 0.3:
                del stream[where : where + chance.randrange(1, 9)]
            else:
                stream[where] = chance.randrange(256)
        try:
            replies = talk.feed(bytes(stream))
        except wire.ProtocolError:
            continue
        assert all(kind & 1 for kind, _, _ in replies)
        assert talk.core.fids <= 12


@pytest.mark.parametrize("seed", range(10))
def test_random_well_formed_requests_never_crash_it(seed: int) -> None:
    chance = random.Random(1000 + seed)
    talk = Talk(tree(FILES), fids_max=50).mount()
    kinds = sorted(wire.KNOWN_TYPES - {wire.TVERSION, wire.TFLUSH, wire.TWALK, wire.TWRITE, wire.TFSYNC})
    for _ in range(1500):
        kind = chance.choice([*kinds, wire.TWALK, wire.TLOPEN, wire.TREAD])
        if kind == wire.TWALK:
            names = tuple(chance.choices(["CT", "..", "0001.dcm", "report.pdf", "x", "."], k=chance.randrange(4)))
            request = wire.encode(kind, 1, chance.randrange(8), chance.randrange(8), names)
        else:
            fields = []
            for part in wire._COMPILED[kind][1]:
                if part is None:
                    fields.append(chance.choice(["", "CT", "a", "..", "\0", "/", "ü" * 200]))
                else:
                    small = chance.random() < 0.8
                    limits = {"B": 256, "H": 65536, "I": 8 if small else 2**32, "Q": chance.choice([9, 2**64])}
                    fields += [chance.randrange(limits[code]) for code in part.format[1:]]
            request = wire.encode(kind, 1, *fields)
        [(got, tag, _)] = talk.feed(request)
        assert tag == 1
        assert got in (kind + 1, wire.RLERROR)
