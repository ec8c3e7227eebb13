"""results/: limits, names, durability across kill -9, and becoming items. The guest's side through the real core."""

import errno
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.crypto import envelope
from myphr.errors import EnvelopeError
from myphr.gateway import files_folder, files_tree
from myphr.gateway import ninep_wire as wire
from myphr.gateway.files_tree import MemoryBudget
from myphr.gateway.results import Results, ResultsLimits
from myphr.gateway.results_spool import BLOCK_BYTES, SpoolDamaged
from myphr.machines import left_over
from myphr.people.keyring import KeyRing
from tests.unit.gateway.test_ninep import InMemory, Talk, names_in

KEY = bytes(range(32))
VM_SESSION = "6f9b1a52-55a2-4d8c-9a57-0d6a5a7e0001"
MARKER = b"MARKER-of-a-patient"


class Clock:
    def __init__(self) -> None:
        self.ns = 10**18

    def __call__(self) -> int:
        return self.ns


class Guest(Talk):
    """A mounted folder with results/, over a spool below `where`."""

    def __init__(self, where: Path, *, bytes_max: int = 10 << 20, entries_max: int = 50, key: bytes = KEY) -> None:
        self.clock = Clock()
        self.results = Results(
            where, key, VM_SESSION, limits=ResultsLimits(bytes_max, entries_max), clock_ns=self.clock
        )
        root = files_tree.build(
            [files_tree.Source("scan.dcm", "item-1", 4, lambda: InMemory(b"scan"))],
            reading=files_tree.Reading(MemoryBudget(1 << 20), lambda _: None), times_ns=10**18,
            space=self.results.space, results=lambda parent, _: self._place(parent),
        )  # fmt: skip
        super().__init__(root)
        self.mount()
        self.call(wire.TWALK, 0, 1, ("results",))
        self.next_fid = 100

    def _place(self, parent: files_tree.Directory):
        self.results.above = parent
        return self.results.root

    def fid(self, *names: str) -> int:
        self.next_fid += 1
        found = struct.unpack_from("<H", self.call(wire.TWALK, 1, self.next_fid, names))[0]
        if found != len(names):
            raise FileNotFoundError(errno.ENOENT, "not there")
        return self.next_fid

    def create(self, *names: str, flags: int = wire.O_RDWR) -> int:
        fid = self.fid(*names[:-1])
        self.call(wire.TLCREATE, fid, names[-1], flags, 0o644, 0)
        return fid

    def open(self, *names: str, flags: int = wire.O_RDWR) -> int:
        fid = self.fid(*names)
        self.call(wire.TLOPEN, fid, flags)
        return fid

    def write(self, fid: int, offset: int, payload: bytes) -> None:
        assert struct.unpack("<I", self.call(wire.TWRITE, fid, offset, payload))[0] == len(payload)

    def read(self, *names: str) -> bytes:
        fid = self.open(*names, flags=wire.O_RDONLY)
        out = b""
        while piece := self.call(wire.TREAD, fid, len(out), 300_000)[4:]:
            out += piece
        self.call(wire.TCLUNK, fid)
        return out

    def save(self, content: bytes, *names: str) -> None:
        fid = self.create(*names)
        for at in range(0, len(content), 200_000):
            self.write(fid, at, content[at : at + 200_000])
        self.call(wire.TCLUNK, fid)

    def mkdir(self, *names: str) -> None:
        self.call(wire.TMKDIR, self.fid(*names[:-1]), names[-1], 0o755, 0)

    def unlink(self, *names: str, directory: bool = False) -> None:
        self.call(wire.TUNLINKAT, self.fid(*names[:-1]), names[-1], wire.UNLINK_DIRECTORY if directory else 0)

    def rename(self, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        self.call(wire.TRENAMEAT, self.fid(*old[:-1]), old[-1], self.fid(*new[:-1]), new[-1])

    def truncate(self, size: int, *names: str) -> None:
        self.call(wire.TSETATTR, self.fid(*names), wire.SETATTR_SIZE, 0, 0, 0, size, 0, 0, 0, 0)

    def listed(self, *names: str) -> list[str]:
        return names_in(self.call(wire.TREADDIR, self.open(*names, flags=wire.O_RDONLY), 0, 100_000))[2:]

    def failing(self, action, *arguments, **named) -> int:
        with pytest.raises(OSError) as caught:
            action(*arguments, **named)
        return caught.value.errno or 0


class Record:
    """Stands in for the record: keeps what items were made of, one per content, as the real one does."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[str, bytes]] = {}
        self.made = 0

    def make(self, path: str, chunks: Iterator[bytes]) -> str:
        content = b"".join(chunks)
        for item_id, (_, there) in self.items.items():
            if there == content:
                return item_id
        self.made += 1
        self.items[f"item-{self.made}"] = (path, content)
        return f"item-{self.made}"

    def withdraw(self, item_ids: list[str]) -> None:
        for item_id in item_ids:
            self.items.pop(item_id, None)

    def collect(self, guest: Guest, quiet_ns: int | None = None) -> None:
        for file in guest.results.due(quiet_ns):
            assert guest.results.collect(file, self.make, self.withdraw)
        guest.results.withdraw(self.withdraw)

    @property
    def files(self) -> dict[str, bytes]:
        return dict(self.items.values())


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def guest(spool: Path) -> Guest:
    return Guest(spool)


# -- what a viewer does --------------------------------------------------------------------------------
def test_what_is_written_is_read_back(guest: Guest) -> None:
    content = random.Random(1).randbytes(300_001)
    guest.save(content, "report.pdf")
    assert guest.read("report.pdf") == content
    assert guest.listed() == ["report.pdf"]


def test_writing_anywhere_in_a_file_behaves_as_a_file(guest: Guest) -> None:
    chance = random.Random(2)
    model = bytearray()
    fid = guest.create("model.bin")
    for _ in range(300):
        if chance.random() < 0.8:
            offset = chance.randrange(400_000)
            payload = chance.randbytes(chance.choice([1, 100, 5000, BLOCK_BYTES, 150_000]))
            guest.write(fid, offset, payload)
            model.extend(bytes(max(0, offset + len(payload) - len(model))))
            model[offset : offset + len(payload)] = payload
        elif chance.random() < 0.5:
            size = chance.randrange(400_000)
            guest.truncate(size, "model.bin")
            model = model[:size] + bytes(max(0, size - len(model)))
        else:
            guest.call(wire.TFSYNC, fid, 0)
        if chance.random() < 0.1:
            assert guest.read("model.bin") == model
    assert guest.read("model.bin") == model


def test_appending_writes_at_the_end_whatever_the_offset(guest: Guest) -> None:
    guest.save(b"one", "log")
    fid = guest.open("log", flags=wire.O_WRONLY | wire.O_APPEND)
    guest.write(fid, 0, b" two")
    assert guest.read("log") == b"one two"


def test_opening_with_truncate_empties_the_file(guest: Guest) -> None:
    guest.save(b"x" * 100_000, "a")
    guest.call(wire.TCLUNK, guest.open("a", flags=wire.O_WRONLY | wire.O_TRUNC))
    assert guest.read("a") == b""
    assert guest.results.space().bytes_free == 10 << 20


def test_folders_come_and_go(guest: Guest) -> None:
    guest.mkdir("export")
    guest.save(b"1", "export", "one")
    assert guest.failing(guest.unlink, "export", directory=True) == errno.ENOTEMPTY
    assert guest.failing(guest.unlink, "export") == errno.EISDIR
    guest.unlink("export", "one")
    guest.unlink("export", directory=True)
    assert guest.listed() == []
    assert guest.failing(guest.unlink, "export") == errno.ENOENT


def test_an_existing_file_is_opened_by_create_unless_it_must_be_new(guest: Guest) -> None:
    guest.save(b"there", "a")
    assert guest.failing(guest.create, "a", flags=wire.O_RDWR | wire.O_EXCL) == errno.EEXIST
    guest.create("a")
    assert guest.read("a") == b"there"


def test_renaming_over_a_file_replaces_it(guest: Guest) -> None:
    guest.save(b"old", "report.pdf")
    guest.save(b"new", "report.pdf.tmp")
    guest.rename(("report.pdf.tmp",), ("report.pdf",))
    assert guest.listed() == ["report.pdf"]
    assert guest.read("report.pdf") == b"new"


def test_a_folder_cannot_be_moved_into_itself_or_out_of_results(guest: Guest) -> None:
    guest.mkdir("a")
    guest.mkdir("a", "b")
    assert guest.failing(guest.rename, ("a",), ("a", "b", "c")) == errno.EINVAL
    assert guest.failing(guest.call, wire.TRENAMEAT, guest.fid(), "a", 0, "a") == errno.EXDEV
    assert guest.failing(guest.call, wire.TRENAMEAT, 0, "scan.dcm", guest.fid(), "scan.dcm") == errno.EROFS


def test_results_itself_stays(guest: Guest) -> None:
    assert guest.failing(guest.call, wire.TREMOVE, guest.fid()) == errno.EROFS
    assert guest.failing(guest.call, wire.TUNLINKAT, 0, "results", wire.UNLINK_DIRECTORY) == errno.EROFS
    body = guest.call(wire.TWALK, 1, 50, ("..",))
    assert body[2:] == guest.root.qid


def test_a_removed_file_that_is_open_goes_on_until_it_is_closed(guest: Guest) -> None:
    fid = guest.create("scratch")
    guest.write(fid, 0, b"x" * 200_000)
    guest.unlink("scratch")
    assert guest.call(wire.TREAD, fid, 100_000, 10)[4:] == b"x" * 10
    assert guest.results.space().bytes_free < 10 << 20
    guest.call(wire.TCLUNK, fid)
    assert guest.results.space().bytes_free == 10 << 20


def test_a_file_opened_for_reading_is_not_written_and_the_other_way_round(guest: Guest) -> None:
    guest.save(b"abc", "a")
    assert guest.failing(guest.call, wire.TWRITE, guest.open("a", flags=wire.O_RDONLY), 0, b"x") == errno.EBADF
    assert guest.failing(guest.call, wire.TREAD, guest.open("a", flags=wire.O_WRONLY), 0, 3) == errno.EBADF


# -- limits ----------------------------------------------------------------------------------------------
def test_bytes_are_limited_and_come_back_when_freed(spool: Path) -> None:
    guest = Guest(spool, bytes_max=200_000)
    fid = guest.create("a")
    guest.write(fid, 0, b"x" * 200_000)
    assert guest.failing(guest.write, fid, 199_999, b"xy") == errno.ENOSPC
    assert guest.failing(guest.save, b"y", "b") == errno.ENOSPC
    guest.truncate(100_000, "a")
    guest.save(b"y" * 100_000, "c")
    assert guest.failing(guest.truncate, 100_001, "a") == errno.ENOSPC
    assert guest.results.space().bytes_free == 0


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1, 2**40])
def test_a_write_far_beyond_the_limit_is_refused(guest: Guest, offset: int) -> None:
    fid = guest.create("a")
    assert guest.failing(guest.write, fid, offset, b"x") == errno.EFBIG
    assert guest.failing(guest.truncate, offset, "a") == errno.ENOSPC


def test_entries_are_limited(spool: Path) -> None:
    guest = Guest(spool, entries_max=5)
    for n in range(4):
        guest.save(b"", f"{n}")
    guest.mkdir("d")
    assert guest.failing(guest.create, "d", "x") == errno.EDQUOT
    assert guest.failing(guest.mkdir, "e") == errno.EDQUOT
    guest.unlink("0")
    guest.create("d", "x")


def test_depth_is_limited_also_by_moving(guest: Guest) -> None:
    path: tuple[str, ...] = ()
    for _ in range(15):
        path = (*path, "d")
        guest.mkdir(*path)
    assert guest.failing(guest.mkdir, *path, "d") == errno.EDQUOT
    guest.mkdir("t")
    guest.mkdir("t", "t")
    assert guest.failing(guest.rename, ("t",), (*path[:14], "t")) == errno.EDQUOT


def test_unsealed_blocks_in_memory_are_bounded(spool: Path) -> None:
    guest = Guest(spool, bytes_max=64 << 20)
    fids = [guest.create(f"f{n}") for n in range(40)]
    for offset in range(0, 10):
        for fid in fids:
            guest.write(fid, offset * BLOCK_BYTES + 7, b"piece of a block")
            assert guest.results.dirty_blocks <= 65


def test_a_guest_that_renames_in_a_loop_does_not_fill_the_disk(
    guest: Guest, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("myphr.gateway.results._JOURNAL_BYTES_MAX", 20_000)
    guest.results._journal_bytes_max = 20_000
    guest.save(b"kept", "a")
    for n in range(500):
        guest.rename((f"{'a' if n % 2 == 0 else 'b'}",), (f"{'b' if n % 2 == 0 else 'a'}",))
    assert (spool / "journal").stat().st_size < 25_000
    assert Guest(spool).read("a") == b"kept"


# -- kill -9 -----------------------------------------------------------------------------------------------
def killed(guest: Guest, spool: Path) -> Guest:
    """What a new gateway finds when the old one is gone without a word."""
    after = spool.with_name(f"{spool.name}-after")
    shutil.rmtree(after, ignore_errors=True)
    shutil.copytree(spool, after)
    return Guest(after)


def test_what_was_closed_survives_kill_9(guest: Guest, spool: Path) -> None:
    content = random.Random(3).randbytes(500_000)
    guest.mkdir("export")
    guest.save(content, "export", "scan.nii")
    guest.rename(("export", "scan.nii"), ("export", "final.nii"))
    assert killed(guest, spool).read("export", "final.nii") == content


def test_what_was_fsynced_survives_kill_9(guest: Guest, spool: Path) -> None:
    fid = guest.create("a")
    guest.write(fid, 10, b"abc")
    guest.call(wire.TFSYNC, fid, 0)
    assert killed(guest, spool).read("a") == bytes(10) + b"abc"


def test_rewriting_after_an_fsync_never_harms_what_the_fsync_promised(guest: Guest, spool: Path) -> None:
    before = random.Random(4).randbytes(4 * BLOCK_BYTES)
    fid = guest.create("a")
    guest.write(fid, 0, before)
    guest.call(wire.TFSYNC, fid, 0)
    for n in range(3):  # each round seals blocks anew, and is never acknowledged
        guest.write(fid, 0, bytes([n]) * 4 * BLOCK_BYTES)
        assert killed(guest, spool).read("a") == before
    guest.truncate(BLOCK_BYTES, "a")
    assert killed(guest, spool).read("a") == before
    guest.call(wire.TFSYNC, fid, 0)
    assert killed(guest, spool).read("a") == b"\2" * BLOCK_BYTES


def test_at_any_moment_a_kill_leaves_each_file_as_last_acknowledged(guest: Guest, spool: Path) -> None:
    chance = random.Random(5)
    now: dict[str, bytearray] = {}
    safe: dict[str, bytes] = {}
    fids: dict[str, int] = {}
    for step in range(250):
        name = chance.choice("abc")
        if name not in fids:
            fids[name] = guest.create(name)
            now[name], safe[name] = bytearray(), b""
        match chance.randrange(6):
            case 0 | 1 | 2:
                offset = chance.randrange(200_000)
                payload = chance.randbytes(chance.choice([3, 70_000, 2 * BLOCK_BYTES]))
                guest.write(fids[name], offset, payload)
                now[name].extend(bytes(max(0, offset + len(payload) - len(now[name]))))
                now[name][offset : offset + len(payload)] = payload
            case 3:
                guest.call(wire.TFSYNC, fids[name], 0)
                safe[name] = bytes(now[name])
            case 4:
                size = chance.randrange(200_000)
                guest.truncate(size, name)
                now[name] = now[name][:size] + bytes(max(0, size - len(now[name])))
            case 5:
                guest.unlink(name)
                guest.call(wire.TCLUNK, fids.pop(name))
                del now[name], safe[name]
        if step % 10 == 0:
            after = killed(guest, spool)
            assert sorted(after.listed()) == sorted(safe)
            for kept, content in safe.items():
                assert after.read(kept) == content


def test_a_torn_last_record_is_dropped_and_the_rest_kept(guest: Guest, spool: Path) -> None:
    guest.save(b"kept", "a")
    size = (spool / "journal").stat().st_size
    guest.save(b"lost", "b")
    for cut in (size + 1, size + 3, size + 50):
        copy = spool.with_name("torn")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(spool, copy)
        with (copy / "journal").open("r+b") as journal:
            journal.truncate(cut)
        again = Guest(copy)
        assert again.listed() == ["a"]
        again.save(b"more", "c")
        assert Guest(copy).listed() == ["a", "c"]


def test_a_changed_journal_is_refused(guest: Guest, spool: Path) -> None:
    guest.save(b"1", "a")
    guest.save(b"2", "b")
    raw = bytearray((spool / "journal").read_bytes())
    raw[40] ^= 1
    (spool / "journal").write_bytes(raw)
    with pytest.raises(SpoolDamaged):
        Guest(spool)


def test_a_changed_swapped_or_cut_block_gives_eio_and_no_bytes(guest: Guest, spool: Path) -> None:
    guest.save(b"a" * 3 * BLOCK_BYTES, "a")
    blocks = spool / "1.blocks"
    whole = blocks.read_bytes()
    stride = 2 * (len(b"") + 4 + envelope.WRAP_OVERHEAD_BYTES + BLOCK_BYTES)
    flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    swapped = whole[stride : 2 * stride] + whole[:stride] + whole[2 * stride :]
    for bad in (flipped, swapped, b"", whole[:100]):
        blocks.write_bytes(bad)
        assert guest.failing(guest.read, "a") == errno.EIO
    blocks.write_bytes(whole)
    assert guest.read("a") == b"a" * 3 * BLOCK_BYTES


def test_nothing_on_disk_is_in_clear(guest: Guest, spool: Path) -> None:
    name = "name-of-a-patient.txt"
    guest.save(MARKER * 10_000, name)
    fid = guest.create("small")
    guest.write(fid, 5, MARKER)
    guest.call(wire.TFSYNC, fid, 0)
    for path in spool.rglob("*"):
        raw = path.read_bytes()
        assert MARKER not in raw
        assert b"name-of" not in raw
        assert path.stat().st_mode & 0o077 == 0


def test_the_same_block_is_never_sealed_alike_twice(guest: Guest, spool: Path) -> None:
    fid = guest.create("a")
    seen = set()
    for _ in range(4):
        guest.write(fid, 0, b"a" * BLOCK_BYTES)
        guest.call(wire.TFSYNC, fid, 0)
        raw = (spool / "1.blocks").read_bytes()
        seen |= {raw[at + 5 : at + 37] for at in (0, len(raw) // 2)}
    assert len(seen - {bytes(32)}) >= 4


# -- keys ---------------------------------------------------------------------------------------------------
def test_the_secret_opens_the_spool_again_and_another_does_not(tmp_path: Path) -> None:
    pair = envelope.new_key_pair()
    options = {
        "created_ns": 0, "budget": MemoryBudget(0), "damaged": lambda _: None, "spool": tmp_path,
        "owner_public_key": pair.public, "results_bytes_max": 1 << 20, "later": lambda work: work(),
    }  # fmt: skip
    first = files_folder.open_folder(VM_SESSION, b"s" * 43, [], **options)
    assert first.results is not None
    first.results.root.create("a", wire.O_RDWR)[1].close()
    again = files_folder.open_folder(VM_SESSION, b"s" * 43, [], **options)
    assert again.results is not None
    assert again.results.root.find("a") is not None
    wrong = files_folder.open_folder(VM_SESSION, b"t" * 43, [], **options)
    assert wrong.results is None
    assert wrong.root.find("results") is None


def test_the_owner_opens_what_was_left_over_and_nobody_else(tmp_path: Path) -> None:
    pair = envelope.new_key_pair()
    folder = files_folder.open_folder(
        VM_SESSION, b"s" * 43, [], created_ns=0, budget=MemoryBudget(0), damaged=lambda _: None, spool=tmp_path,
        owner_public_key=pair.public, results_bytes_max=1 << 20, later=lambda work: work(),
    )  # fmt: skip
    assert folder.results is not None
    _, handle = folder.results.root.create("a", wire.O_RDWR)
    handle.write(0, b"left over")
    handle.close()
    with pytest.raises(EnvelopeError):
        left_over.owner_opens(tmp_path, VM_SESSION, KeyRing(envelope.new_key_pair()))
    with pytest.raises(SpoolDamaged):
        files_folder.open_left_over(tmp_path, VM_SESSION, bytes(32))
    key = left_over.owner_opens(tmp_path, VM_SESSION, KeyRing(pair))
    found = files_folder.open_left_over(tmp_path, VM_SESSION, key)
    record = Record()
    [file] = found.due(None)
    found.collect(file, record.make, record.withdraw)
    assert record.files == {"results/a": b"left over"}


# -- becoming items -------------------------------------------------------------------------------------------
def test_a_saved_file_becomes_an_item_once(guest: Guest) -> None:
    record = Record()
    guest.save(b"a report" * 50_000, "report.pdf")
    record.collect(guest)
    record.collect(guest)
    assert record.files == {"results/report.pdf": b"a report" * 50_000}
    assert record.made == 1


def test_only_quiet_closed_files_are_due(guest: Guest) -> None:
    fid = guest.create("a")
    guest.write(fid, 0, b"x")
    guest.clock.ns += 10 * 10**9
    assert guest.results.due(5 * 10**9) == []
    guest.call(wire.TCLUNK, fid)
    assert guest.results.due(5 * 10**9) == []
    guest.clock.ns += 6 * 10**9
    assert [file.name for file in guest.results.due(5 * 10**9)] == ["a"]


def test_everything_is_due_at_the_end_also_what_is_open(guest: Guest) -> None:
    record = Record()
    fid = guest.create("a")
    guest.write(fid, 0, b"still open")
    guest.results.freeze()
    assert guest.failing(guest.write, fid, 0, b"too late") == errno.ESTALE
    assert guest.failing(guest.create, "b") == errno.ESTALE
    record.collect(guest)
    assert record.files == {"results/a": b"still open"}


def test_a_later_state_replaces_the_earlier_item(guest: Guest) -> None:
    record = Record()
    for content in (b"draft", b"final"):
        fid = guest.create("a", flags=wire.O_RDWR | wire.O_TRUNC)
        guest.write(fid, 0, content)
        guest.call(wire.TCLUNK, fid)
        record.collect(guest)
    assert record.files == {"results/a": b"final"}


def test_a_saver_that_writes_aside_and_renames_leaves_one_item(guest: Guest) -> None:
    record = Record()
    guest.save(b"v1", "a.pdf")
    record.collect(guest)
    guest.save(b"v2", "a.pdf.tmp")
    guest.rename(("a.pdf.tmp",), ("a.pdf",))
    record.collect(guest)
    assert record.files == {"results/a.pdf": b"v2"}


def test_a_rename_after_the_item_was_made_renames_the_item(guest: Guest) -> None:
    record = Record()
    guest.mkdir("d")
    guest.save(b"v1", "d", "untitled")
    record.collect(guest)
    guest.rename(("d", "untitled"), ("d", "a"))
    record.collect(guest)
    guest.rename(("d",), ("export",))
    record.collect(guest)
    assert record.files == {"results/export/a": b"v1"}


def test_a_removed_result_is_taken_back(guest: Guest) -> None:
    record = Record()
    guest.save(b"v1", "a")
    record.collect(guest)
    guest.unlink("a")
    record.collect(guest)
    assert record.files == {}


def test_removing_one_of_two_equal_files_keeps_the_item(guest: Guest) -> None:
    record = Record()
    guest.save(b"same", "a")
    guest.save(b"same", "b")
    record.collect(guest)
    guest.unlink("b")
    record.collect(guest)
    assert record.files == {"results/a": b"same"}


def test_empty_files_and_hidden_names_stay_out(guest: Guest) -> None:
    record = Record()
    guest.save(b"", "empty")
    guest.save(b"lock", ".~lock.a.odt#")
    record.collect(guest)
    assert record.files == {}


def test_after_kill_9_nothing_is_made_twice_and_nothing_forgotten(guest: Guest, spool: Path) -> None:
    record = Record()
    guest.save(b"one", "a")
    record.collect(guest)
    guest.save(b"two", "b")
    fid = guest.open("a")
    guest.write(fid, 0, b"ONE")
    guest.call(wire.TCLUNK, fid)
    after = killed(guest, spool)
    record.collect(after)
    assert record.files == {"results/a": b"ONE", "results/b": b"two"}
    assert record.made == 3
    assert killed(after, spool.with_name(f"{spool.name}-after")).results.due(None) == []


def test_a_file_written_while_it_is_collected_is_done_later(guest: Guest) -> None:
    record = Record()
    guest.save(b"x" * 600_000, "a")
    [file] = guest.results.due(None)

    def make(path: str, chunks: Iterator[bytes]) -> str:
        next(chunks)
        fid = guest.open("a")
        guest.write(fid, 0, b"y")
        guest.call(wire.TCLUNK, fid)
        return record.make(path, chunks)

    assert guest.results.collect(file, make, record.withdraw) is False
    assert record.files == {}
    record.collect(guest)
    assert record.files == {"results/a": b"y" + b"x" * 599_999}


def test_compaction_keeps_everything_the_journal_said(guest: Guest, spool: Path) -> None:
    record = Record()
    guest.mkdir("d")
    guest.save(b"one" * 30_000, "d", "a")
    guest.save(b"gone", "b")
    record.collect(guest)
    guest.save(b"later", "c")
    guest.unlink("b")
    guest.results._journal_bytes_max = 0
    guest.results.compact_if_long()
    after = killed(guest, spool)
    assert after.read("d", "a") == b"one" * 30_000
    record.collect(after)
    assert record.files == {"results/d/a": b"one" * 30_000, "results/c": b"later"}
