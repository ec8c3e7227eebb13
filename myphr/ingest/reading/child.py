"""The reader process: decoders made for friendly files meet a stranger's file here, and nowhere else.

`python -m myphr.ingest.reading.child FD` loads every decoder once, gives up what it does not need (network, files,
core dumps, root), and then forks for each file: content comes over a socket, readings go back over it, nothing touches
a disk. A fork that takes too much memory, CPU or time ends and costs that one file. Holds no key. Started by `capped`.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import warnings
from collections.abc import Mapping

from myphr.ingest.reading.content import Content, NotRead, Read
from myphr.records.reading import FullReading, Reading, as_fields, within_limits

# What a fork may add to the 60 MiB it begins with. A small file stays below 300 MiB, whatever it claims; a large one
# may take more, as a mammogram of 19 MB takes 350. Addresses alone would not do: libraries reserve 200 MiB for nothing.
MORE_BYTES = 216 * 1024**2
MORE_BYTES_PER_BYTE = 16
MORE_BYTES_MAX = 512 * 1024**2
ADDRESS_SPACE_BYTES = 1024**3
CPU_SECONDS = 8  # with what a decoder started by it takes: a hostile file costs 10 s at most
WALL_SECONDS = 30  # for what waits instead of working: a busy machine makes 2 s of CPU last as long as that
NOBODY = 65534

NO_PREVIEW = "No preview could be made of this file"
TOO_LARGE = "It takes too much memory for a preview"
REQUEST = struct.Struct(">16sQQ")  # format, bytes of the file, bytes that follow
ANSWER = struct.Struct(">III")  # bytes of JSON, of the picture, of the narrative

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def main(descriptor: int) -> None:
    control = socket.socket(fileno=descriptor)
    table = _decoders()
    _give_up()
    gc.collect()
    gc.freeze()  # the forks share our pages: the collector must not touch them
    own_bytes = _own_bytes()
    control.send(b"ready")
    running: dict[int, tuple[int, float]] = {}  # pidfd: (pid, until)
    while True:
        _reap(running)
        with contextlib.suppress(InterruptedError):
            select.select([control.fileno(), *running], [], [], 0.2 if running else None)
        if not select.select([control], [], [], 0)[0]:
            continue
        message, descriptors, _flags, _address = socket.recv_fds(control, 16, 1)
        if not message:
            for pid, _until in running.values():
                _kill(pid)
            return
        [connection] = descriptors
        pid = os.fork()
        if pid == 0:
            _read_one(control, connection, table, own_bytes)
        os.close(connection)
        running[os.pidfd_open(pid)] = (pid, time.monotonic() + WALL_SECONDS)


def _reap(running: dict[int, tuple[int, float]]) -> None:
    for pidfd, (pid, until) in list(running.items()):
        if time.monotonic() > until:
            _kill(pid)
            os.waitpid(pid, 0)
        elif os.waitpid(pid, os.WNOHANG) == (0, 0):
            continue
        os.close(pidfd)
        del running[pidfd]


def _kill(pid: int) -> None:
    """The fork, and a decoder that it started."""
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it had not come so far as to lead a group
        os.killpg(pid, signal.SIGKILL)


def _own_bytes() -> int:
    """What this process holds for itself alone, as RLIMIT_DATA counts it (VmData, proc(5))."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def _decoders() -> Mapping[str, Read]:
    """All modules that read, and by loading them all that they need."""
    # pydicom would load an HTTP client for its sample files: 0.3 s, and nothing here has a use for one
    sys.modules.setdefault("requests", None)  # type: ignore[arg-type]
    from myphr.ingest.reading import kinds

    warnings.simplefilter("ignore")
    kinds.warm_up()
    return kinds.READERS


def _give_up() -> None:
    """No network, no files to write, no dumps of memory, no way back. Each where the kernel lets us."""
    os.nice(5)  # pages and machines go first: nobody waits for a preview
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(what, (most, most))
    if os.geteuid() == 0:
        libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # last: a change of user clears it (prctl(2))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _read_one(control: socket.socket, descriptor: int, table: Mapping[str, Read], own_bytes: int) -> None:
    """In the fork: one file, then the end, whatever happens."""
    try:
        os.setpgid(0, 0)
        gc.disable()  # it would copy pages, and this process ends with the file
        control.close()
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        with socket.socket(fileno=descriptor) as connection:
            _serve(connection, table, own_bytes)
    except BaseException:  # also MemoryError and RecursionError: the words that were sent already stand
        os._exit(1)
    os._exit(0)


def _serve(connection: socket.socket, table: Mapping[str, Read], own_bytes: int) -> None:
    with connection.makefile("rb") as file:
        code, total_bytes, follows = REQUEST.unpack(file.read(REQUEST.size))
        most = own_bytes + min(MORE_BYTES + MORE_BYTES_PER_BYTE * follows, MORE_BYTES_MAX)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        data = file.read(follows)
    if len(data) != follows:
        return
    content = Content(code.rstrip(b"\0").decode("ascii"), data, total_bytes)
    del data
    last = FullReading(Reading())
    note = NO_PREVIEW
    try:
        for last in table[content.format](content):
            connection.sendall(encode(last))
        return
    except NotRead as reason:
        note = str(reason)
    except Exception as error:  # whatever a decoder raises on a stranger's bytes; its words may hold some of them
        if last.reading == Reading():
            return
        if isinstance(error, MemoryError):
            note = TOO_LARGE
    if not last.preview:
        connection.sendall(encode(FullReading(dataclasses.replace(last.reading, note=note), None, last.narrative)))


def encode(full: FullReading) -> bytes:
    full = within_limits(full)
    words = json.dumps(as_fields(full.reading)).encode()
    preview, narrative = full.preview or b"", (full.narrative or "").encode("utf-8", "replace")
    return ANSWER.pack(len(words), len(preview), len(narrative)) + words + preview + narrative


if __name__ == "__main__":
    main(int(sys.argv[1]))
