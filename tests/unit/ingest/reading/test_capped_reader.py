"""The reader process: what it may not do, what a file costs that takes too much, and that the next one is read."""

import io
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from myphr.ingest.reading import capped, child
from myphr.ingest.reading.capped import Reader
from myphr.records.reading import FullReading, Reading


def png(width: int = 40, height: int = 30) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(out, "PNG")
    return out.getvalue()


class Misbehaving(Reader):
    """A reader process whose only "format" runs a piece of Python in the fork, as a file that took it over would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(child, "__name__", "tests.unit.ingest.reading.misbehaving")
        super().__init__()

    def run(self, program: str) -> FullReading | None:
        code = program.encode()
        return self.read("python", len(code), lambda offset, length: code[offset : offset + length])


@pytest.fixture
def attacker(monkeypatch):
    with Misbehaving(monkeypatch) as running:
        yield running


def test_a_picture_is_read(read):
    full = read(png())
    assert full.reading.has_preview and ("Size", "40 × 30 pixels") in full.reading.facts
    assert Image.open(io.BytesIO(full.preview)).size == (40, 30)


def test_bytes_that_are_none_of_the_format_give_nothing_or_words_only(read):
    for content in (b"", b"\x89PNG\r\n\x1a\n", png()[:50], bytes(1000)):
        full = read(content, "png")
        assert full is None or full.preview is None


def test_a_file_that_asks_for_too_much_memory_costs_only_itself(attacker):
    assert attacker.run("say('before'); keep = bytearray(2 * 1024**3); say('after')").reading.title == "before"
    assert attacker.run("say('next')").reading.title == "next"


GREEDY = """
keep = []
try:
    while True: keep.append(bytearray(b"x" * 2**20))
except MemoryError:
    del keep[-8:]
say(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


def test_a_small_file_stays_below_300_mib_and_a_large_one_may_take_more(attacker):
    small = int(attacker.run(GREEDY).reading.title) // 1024
    large = int(attacker.run(GREEDY + "#" * 8 * 1024**2).reading.title) // 1024
    assert 200 < small < 300 < large < 600


def test_what_a_fork_starts_has_the_time_that_is_left_and_less_memory(attacker):
    program = """
from myphr.ingest.reading import dicom_pixels
dicom_pixels._lower_limits(3)
say(f"{resource.getrlimit(resource.RLIMIT_CPU)[0]} {resource.getrlimit(resource.RLIMIT_DATA)[0] // 2**20}")
"""
    cpu_seconds, data_mib = map(int, attacker.run(program).reading.title.split())
    assert cpu_seconds == 3 and data_mib <= 256


def test_a_killed_fork_takes_with_it_what_it_started():
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], process_group=0, stdout=subprocess.PIPE) as fork:
        started = int(fork.stdout.readline())
        child._kill(fork.pid)
    stat = Path(f"/proc/{started}/stat")
    deadline = time.monotonic() + 5
    while stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z":  # dead, if perhaps not yet buried
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_that_never_ends_is_killed(attacker, monkeypatch):
    began = time.monotonic()
    assert attacker.run("resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass") is None
    assert time.monotonic() - began < child.WALL_SECONDS
    assert attacker.run("say('next')").reading.title == "next"


def test_a_file_that_crashes_its_decoder_costs_only_itself(attacker):
    assert attacker.run("say('words'); os.kill(os.getpid(), 11)").reading.title == "words"
    assert attacker.run("say('next')").reading.title == "next"


def test_the_reader_has_no_network_and_writes_no_file(attacker):
    program = """
import socket
seen = []
try:
    socket.create_connection(('127.0.0.1', 22), 1)
    seen.append('connected')
except OSError as error:
    seen.append('net ' + type(error).__name__ + str(error.errno))
try:
    with open('/dev/shm/myphr-reader-test', 'w') as file: file.write('x' * 10)
    seen.append('wrote')
except OSError as error:
    seen.append('file')
say(' '.join(seen) + f' uid {os.geteuid()} core {resource.getrlimit(resource.RLIMIT_CORE)[0]}')
"""
    said = attacker.run(program).reading.title
    assert "wrote" not in said and "connected" not in said and "core 0" in said
    # refused by a listening-less loopback would be 111: there is no network at all
    assert "OSError101" in said, said


def test_the_reader_inherits_no_descriptor_and_no_environment(attacker):
    said = attacker.run("say(f\"{sorted(os.listdir('/proc/self/fd'))} {sorted(os.environ)}\")").reading.title
    assert "HOME" not in said and "MYPHR" not in said
    assert said.startswith("['0', '1', '2', '3', '4'"), said


@pytest.mark.parametrize("answer", [
    b"", b"\0", child.ANSWER.pack(2**32 - 1, 0, 0), child.ANSWER.pack(2, 0, 0) + b"[]",
    child.ANSWER.pack(17, 0, 0) + b'{"facts": [[1]] }', child.ANSWER.pack(10, 0, 0) + b"{",
    child.ANSWER.pack(60_000, 0, 0) + b"[" * 60_000, child.ANSWER.pack(13, 0, 0) + b'{"title": [] }'[:13],
])  # fmt: skip
def test_an_answer_that_is_none_is_not_believed(attacker, answer):
    assert attacker.run(f"connection.sendall({answer!r}); os._exit(0)") is None


def test_an_answer_beyond_the_limits_is_cut_or_left_out(attacker):
    full = attacker.run(
        "import json\n"
        "words = {'title': 'x' * 1000 + chr(0x202e), 'has_preview': True, 'facts': [['a', 'b']] * 400}\n"
        "words = json.dumps(words).encode()\n"
        "connection.sendall(child.ANSWER.pack(len(words), 6, 0) + words + b'<html>')"
    )
    assert len(full.reading.title) == 300 and len(full.reading.facts) == 40
    assert full.preview is None and not full.reading.has_preview


def test_the_reader_itself_may_end_and_is_said_to(attacker):
    attacker.run("say('x')")
    attacker._process.kill()
    attacker._process.wait()
    with pytest.raises(capped.ReaderGone):
        attacker.run("say('y')")


def test_what_is_sent_is_what_arrives():
    sent = FullReading(Reading(title="Größe", facts=(("a", "b"),), text="line\nline"), png(), "<p>ä</p>")
    head, body = child.encode(sent)[:12], child.encode(sent)[12:]
    assert sum(child.ANSWER.unpack(head)) == len(body)
