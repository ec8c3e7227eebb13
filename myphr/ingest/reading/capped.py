"""Our side of the reader process: hands it one file after the other and believes nothing it answers.

An answer is parsed, limited and typed anew, because a file may have taken its decoder over. Memory here: one block of
the file. Called by `work`; knows no row and no key.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import myphr
from myphr.ingest.reading import child
from myphr.records.reading import (
    NARRATIVE_BYTES_MAX,
    PREVIEW_BYTES_MAX,
    TEXT_BYTES_MAX,
    FullReading,
    from_fields,
    within_limits,
)

log = logging.getLogger(__name__)

MIB = 1024**2
BLOCK_BYTES = MIB
START_SECONDS_MAX = 60  # 0.7 s alone; a machine that boots guests beside it takes its time
ANSWER_SECONDS_MAX = child.WALL_SECONDS + 5
WORDS_BYTES_MAX = 8 * TEXT_BYTES_MAX  # JSON may write one character as twelve
ANSWERS_MAX = 8

# How much of a file is handed over. Of a larger one a picture may be missing, never the file.
BYTES_MAX = 64 * MIB
BYTES_MAX_BY_FORMAT = {
    "dicom": 192 * MIB,
    **dict.fromkeys(("text", "text-bluebutton", "csv", "tsv", "html", "rtf"), 2 * MIB),
    **dict.fromkeys(("apple-health-xml",), 8 * MIB),
    **dict.fromkeys(("vcf", "vcf-gz", "bcf", "bam", "sam", "sam-gz", "fasta", "fasta-gz", "fastq", "fastq-gz", "gff",
                     "gff-gz", "gtf", "gtf-gz", "bed", "bed-gz", "dtc-genotype", "dtc-genotype-gz"), 4 * MIB),
}  # fmt: skip

# Decoders' own threads would take address space by the dozen
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

ReadAt = Callable[[int, int], bytes]


class ReaderGone(Exception):
    """The reader process does not start or ended as a whole: not the file's fault."""


class Begun:
    """A file that was handed over."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER_SECONDS_MAX)
        self._connection = connection

    def result(self) -> FullReading | None:
        """What the file says, or None if nothing could be read. Once."""
        with self._connection as connection:
            return _last_answer(connection)


class Reader:
    """One reader process. Not for several threads. Ends with `close`, or by itself with this process."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", child.__name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], cwd=Path(myphr.__file__).parents[1],
                env=ENVIRONMENT,
                # No tracebacks: they may hold what stands in a file
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._control.settimeout(START_SECONDS_MAX)
        try:
            if self._control.recv(16) != b"ready":
                raise ReaderGone("the reader ended at its start")
        except OSError:
            self.close()
            raise ReaderGone("the reader does not start") from None
        except ReaderGone:
            self.close()
            raise

    def read(self, format_: str, total_bytes: int, read_at: ReadAt) -> FullReading | None:
        """What the file says, or None if nothing could be read. Raises ReaderGone, and whatever `read_at` raises."""
        return self.begin(format_, total_bytes, read_at).result()

    def begin(self, format_: str, total_bytes: int, read_at: ReadAt) -> "Begun":
        """Hands the file over; it is read while the caller does something else, such as handing over the next one.
        Raises ReaderGone, and whatever `read_at` raises."""
        length = min(total_bytes, BYTES_MAX_BY_FORMAT.get(format_, BYTES_MAX))
        ours, theirs = socket.socketpair()
        begun = Begun(ours)
        try:
            with theirs:
                try:
                    socket.send_fds(self._control, [b"file"], [theirs.fileno()])
                except OSError:
                    raise ReaderGone("the reader is gone") from None
            try:
                ours.sendall(child.REQUEST.pack(format_.encode(), total_bytes, length))
                for offset in range(0, length, BLOCK_BYTES):
                    ours.sendall(read_at(offset, min(BLOCK_BYTES, length - offset)))
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                pass  # it died of what it had seen: there may be words of it
        except BaseException:
            ours.close()
            raise
        return begun

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _last_answer(connection: socket.socket) -> FullReading | None:
    """The last whole answer before the fork ended. Broken ones count as its end."""
    best: FullReading | None = None
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    with connection.makefile("rb") as file:
        for _ in range(ANSWERS_MAX):
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                head = file.read(child.ANSWER.size)
                if len(head) != child.ANSWER.size:
                    break
                words, preview, narrative = child.ANSWER.unpack(head)
                if words > WORDS_BYTES_MAX or preview > PREVIEW_BYTES_MAX or narrative > NARRATIVE_BYTES_MAX:
                    break
                body = file.read(words + preview + narrative)
                if len(body) != words + preview + narrative:
                    break
                reading = from_fields(json.loads(body[:words]))
            except (OSError, ValueError, RecursionError):
                break
            best = within_limits(FullReading(
                reading, body[words : words + preview], body[words + preview :].decode("utf-8", "replace")
            ))  # fmt: skip
    return best
