"""A template started in plain QEMU, for the tests of the templates alone: no hypervisor of ours in between.

Speaks QMP and the guest agent's protocol over unix sockets. Used by the tests beside it.
"""

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

IGNORE_SHARED = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}


class Channel:
    """One JSON-per-line conversation over a unix socket (QMP, or qemu-guest-agent)."""

    def __init__(self, path: Path, seconds_max: float = 10) -> None:
        deadline = time.monotonic() + seconds_max
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.pending = b""

    def line(self, seconds_max: float) -> dict[str, Any]:
        self.socket.settimeout(seconds_max)
        while b"\n" not in self.pending:
            got = self.socket.recv(1 << 20)
            if not got:
                raise ConnectionError("the other side closed")
            self.pending += got
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line.lstrip(b"\xff"))

    def ask(self, command: str, arguments: dict[str, Any] | None = None, seconds_max: float = 30) -> Any:
        request: dict[str, Any] = {"execute": command}
        if arguments is not None:
            request["arguments"] = arguments
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self.line(seconds_max)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])


class GuestMachine:
    """One running template. `folder` is a 9P server's unix socket that answers as 10.0.2.100:564, or None."""

    def __init__(
        self,
        folder: Path,
        image: Path,
        memory_mib: int,
        *,
        files: str | None = None,
        ram: Path | None = None,
        ram_shared: bool = True,
        incoming: Path | None = None,
        bus: str = "virtio",
        netdev: str | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.serial = folder / "serial.log"
        network = "user,id=net0,restrict=on,ipv6=off"
        if netdev:
            network = netdev
        elif files:
            network += f",guestfwd=tcp:10.0.2.100:564-{files}"
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "pc,accel=tcg,hpet=off"]
        command += ["-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes", "-smp", "1", "-m", str(memory_mib)]
        command += ["-display", "none", "-no-reboot"]
        if ram:
            share = "on" if ram_shared else "off"
            command += ["-object", f"memory-backend-file,id=ram0,size={memory_mib}M,mem-path={ram},share={share}"]
            command += ["-machine", "memory-backend=ram0"]
        command += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny"]
        command += ["-drive", f"file={image},format=qcow2,if=none,id=disk0,snapshot=on"]
        if bus == "virtio":
            command += ["-device", "virtio-blk-pci,drive=disk0,bootindex=1"]
            command += ["-device", "virtio-vga,xres=1280,yres=800"]
            command += ["-device", "virtio-tablet-pci", "-device", "virtio-keyboard-pci"]
        else:  # as a Proxmox node without virtio input would: SCSI disk, plain VGA, USB tablet
            command += ["-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-hd,drive=disk0,bus=scsi0.0,bootindex=1"]
            command += ["-device", "VGA,xres=1280,yres=800,edid=on"]
            command += ["-usb", "-device", "usb-tablet", "-device", "usb-kbd"]
        command += ["-netdev", network, "-device", "virtio-net-pci,netdev=net0,romfile="]
        command += ["-device", "virtio-serial-pci", "-chardev"]
        command += [f"socket,path={folder}/qga.sock,server=on,wait=off,id=qga0"]
        command += ["-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"]
        command += ["-serial", f"file:{self.serial}", "-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off", *extra]
        if incoming:
            command += ["-incoming", "defer"]
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "qemu.log").open("wb"))
        self.qmp = Channel(folder / "qmp.sock")
        self.qmp.line(10)
        self.qmp.ask("qmp_capabilities")
        if incoming:
            self.qmp.ask("migrate-set-capabilities", IGNORE_SHARED)
            self.qmp.ask("migrate-incoming", {"uri": f"exec:cat {incoming}"})
            self.moved()
            self.qmp.ask("cont")
        self.agent: Channel | None = None

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_at

    # -- guest agent ------------------------------------------------------------------------------------------------
    def guest(self, command: str, arguments: dict[str, Any] | None = None, seconds_max: float = 30) -> Any:
        if self.agent is None:
            agent = Channel(self.folder / "qga.sock")
            number = int(time.monotonic() * 1000) & 0x7FFFFFFF
            sync = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
            agent.socket.sendall(b"\xff" + json.dumps(sync).encode() + b"\n")
            deadline = time.monotonic() + seconds_max
            while True:
                answer = agent.line(max(0.1, deadline - time.monotonic()))
                if answer.get("return") == number:
                    break
            self.agent = agent
        try:
            return self.agent.ask(command, arguments, seconds_max)
        except (TimeoutError, ConnectionError):
            self.agent = None
            raise

    def read_file(self, path: str) -> bytes:
        handle = self.guest("guest-file-open", {"path": path, "mode": "r"})
        try:
            body = b""
            while True:
                piece = self.guest("guest-file-read", {"handle": handle, "count": 1 << 16})
                body += base64.b64decode(piece["buf-b64"])
                if piece["eof"]:
                    return body
        finally:
            self.guest("guest-file-close", {"handle": handle})

    def write_file(self, path: str, body: bytes) -> None:
        handle = self.guest("guest-file-open", {"path": path, "mode": "w"})
        self.guest("guest-file-write", {"handle": handle, "buf-b64": base64.b64encode(body).decode()})
        self.guest("guest-file-close", {"handle": handle})

    def run(self, *words: str, seconds_max: float = 60) -> tuple[int, str]:
        """Exit code and output (standard and error) of a program run as root in the guest."""
        pid = self.guest("guest-exec", {"path": words[0], "arg": list(words[1:]), "capture-output": True})["pid"]
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            state = self.guest("guest-exec-status", {"pid": pid})
            if state["exited"]:
                output = base64.b64decode(state.get("out-data", "")) + base64.b64decode(state.get("err-data", ""))
                return state.get("exitcode", -1), output.decode(errors="replace")
            time.sleep(0.1)
        raise TimeoutError(f"{words[0]} did not end")

    def status(self) -> dict[str, Any] | None:
        """What the guest says about itself; None while it says nothing yet."""
        try:
            return json.loads(self.read_file("/run/myphr/status.json"))
        except (RuntimeError, TimeoutError, ConnectionError):
            return None

    def wait(self, wanted: Callable[[dict[str, Any]], bool], seconds_max: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds_max
        last: dict[str, Any] | None = None
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "qemu.log").read_text())
            try:
                self.guest("guest-ping", seconds_max=2) if self.agent is None else None
                last = self.status()
            except (TimeoutError, ConnectionError):
                self.agent = None
                continue
            if last and wanted(last):
                return last
            time.sleep(0.1)
        raise TimeoutError(f"the guest is not there yet: {last}\n{self.serial.read_text(errors='replace')[-2000:]}")

    def wait_state(self, *states: str, seconds_max: float = 120) -> dict[str, Any]:
        return self.wait(lambda status: status["state"] in states, seconds_max)

    def claim(self, secret: str, viewer: dict[str, Any], *, vm_session: str = "trial", **more: Any) -> None:
        claim = {
            "version": 1,
            "vm_session": vm_session,
            "clock": int(time.time()),
            "entropy": base64.b64encode(os.urandom(64)).decode(),
            "files": {"address": "10.0.2.100", "port": 564, "secret": secret},
            "viewer": viewer,
            "open": ".",
            **more,
        }
        self.write_file("/run/myphr/claim.json", json.dumps(claim).encode())

    # -- screen and input -------------------------------------------------------------------------------------------
    def picture(self) -> Path:
        """The screen as PNG."""
        path = self.folder / f"screen-{time.monotonic_ns()}.png"
        self.qmp.ask("screendump", {"filename": str(path), "format": "png"})
        return path

    def move(self, x: float, y: float) -> None:
        """Pointer to a place given as fractions of the screen."""
        axes = [{"type": "abs", "data": {"axis": axis, "value": int(at * 32767)}} for axis, at in (("x", x), ("y", y))]
        self.qmp.ask("input-send-event", {"events": axes})

    def press(self, button: str = "left") -> None:
        for down in (True, False):
            self.qmp.ask("input-send-event", {"events": [{"type": "btn", "data": {"down": down, "button": button}}]})
            time.sleep(0.05)

    def click(self, x: float, y: float) -> None:
        self.move(x, y)
        time.sleep(0.1)
        self.press()

    def key(self, code: str) -> None:
        self.qmp.ask("send-key", {"keys": [{"type": "qcode", "data": code}]})

    # -- memory state -----------------------------------------------------------------------------------------------
    def save_state(self, path: Path) -> None:
        """Device state without the memory, which lies in the shared file."""
        self.agent = None
        self.qmp.ask("stop")
        self.qmp.ask("migrate-set-capabilities", IGNORE_SHARED)
        self.qmp.ask("migrate", {"uri": f"exec:cat > {path}"})
        self.moved()

    def moved(self) -> None:
        """Waits until a state is written or read."""
        while (state := self.qmp.ask("query-migrate")).get("status") not in ("completed", "failed"):
            time.sleep(0.05)
        assert state["status"] == "completed", state
