"""Machines with a screen: a real QEMU with a boot sector of ours, and a VNC server that does what a test says."""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from myphr.gateway import rfb

PIXELS = bytes.fromhex("20180001 00ff00ff00ff 100800 000000".replace(" ", ""))


def wait_for(what: str, condition: Callable[[], object], seconds: float = 30.0):
    """Waits until `condition()` is true and returns its value. The limit only ends a hopeless wait."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)


# A boot sector: 320x200 in 256 colours, a pattern over the whole screen, another one at each key press.
BOOT_SECTOR = bytes.fromhex(
    "b81300 cd10"  # mov ax, 13h; int 10h
    "b800a0 8ec0 30d2"  # mov ax, 0a000h; mov es, ax; xor dl, dl
    "31ff 89f8 c1e804 00d0 aa 09ff 75f4"  # xor di, di; each byte: its address / 16 + dl, until di is 0 again
    "b400 cd16 80c207 ebe9"  # wait for a key; dl += 7; draw again
).ljust(510, b"\0") + bytes.fromhex("55aa")


class Qemu:
    """A machine whose picture stands still until a key is pressed (SeaBIOS's own has a blinking cursor)."""

    password = "s3cret!`"

    def __init__(self, folder: Path) -> None:
        self.vnc, self._qmp_path, self._folder = str(folder / "vnc.sock"), str(folder / "qmp.sock"), folder
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Qemu":
        disk = self._folder / "boot.img"
        disk.write_bytes(BOOT_SECTOR)
        self._process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "32", "-nodefaults", "-vga", "std", "-display",
             "none", "-drive", f"file={disk},format=raw,if=ide", "-object", f"secret,id=pw,data={self.password}",
             "-vnc", f"unix:{self.vnc},password-secret=pw", "-qmp", f"unix:{self._qmp_path},server=on,wait=off",
             "-name", "phr-7"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for("QEMU", lambda: Path(self._qmp_path).exists() and Path(self.vnc).exists())
        self._qmp = socket.socket(socket.AF_UNIX)
        self._qmp.connect(self._qmp_path)
        self._lines = self._qmp.makefile("rw")
        self._lines.readline()
        self.command("qmp_capabilities")
        wait_for("a picture that stands still", self._stands_still)
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._process is not None
        with contextlib.suppress(OSError):
            self._qmp.close()
        self._process.kill()
        self._process.wait()

    def command(self, name: str, **arguments: object) -> object:
        self._lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            answer = json.loads(self._lines.readline())
            if "return" in answer or "error" in answer:
                assert "error" not in answer, answer
                return answer["return"]

    def picture(self) -> tuple[int, int, bytes]:
        """What the machine shows, asked of QEMU itself: width, height, RGB bytes."""
        path = self._folder / "dump.ppm"
        self.command("screendump", filename=str(path))
        data = path.read_bytes()
        match = re.match(rb"P6\n(\d+) (\d+)\n255\n", data)
        assert match
        return int(match[1]), int(match[2]), data[match.end() :]

    def _stands_still(self) -> bool:
        first = self.picture()
        if len(set(first[2])) < 16:
            return False
        time.sleep(0.2)
        return self.picture() == first


class FakeVnc:
    """A VNC server on a Unix socket. `behave(connection)` runs in a thread after the handshake of each client."""

    password = "fake-pw1"

    def __init__(self, path: Path, behave: Callable[["FakeVnc", socket.socket], None] | None = None) -> None:
        self.path = str(path)
        self.behave = behave or FakeVnc.record
        self.received = b""
        self.client_inits: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._stopped = threading.Event()

    def __enter__(self) -> "FakeVnc":
        self._listener.bind(self.path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, AssertionError):
            connection.sendall(b"RFB 003.008\n")
            assert _exactly(connection, 12) == b"RFB 003.008\n"
            connection.sendall(b"\x01\x02")
            assert _exactly(connection, 1) == b"\x02"
            challenge = os.urandom(16)
            connection.sendall(challenge)
            good = _exactly(connection, 16) == rfb.vnc_response(self.password, challenge)
            connection.sendall(struct.pack(">I", 0 if good else 1))
            assert good
            self.client_inits.append(_exactly(connection, 1)[0])
            connection.sendall(struct.pack(">HH", 64, 48) + PIXELS + struct.pack(">I", 12) + b"QEMU (phr-7)")
            self.behave(self, connection)

    def record(self, connection: socket.socket) -> None:
        while data := connection.recv(65_536):
            self.received += data


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        assert more
        data += more
    return data
