"""A real localpve in its own process, and a client that speaks to it as the portal does. Used by the tests beside
it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.running import ROOT, TEMPLATES, built_template

TEMPLATE = 9000
SECONDS_MAX = 60


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS_MAX) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"in vain: {what}")


class Hypervisor:
    """One localpve below a short folder. `kill()` is kill -9; `start()` again finds what was left."""

    def __init__(self, *arguments: str, environ: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lp-"))
        self.folder.chmod(0o711)
        self.home = self.folder / "h"
        self.run_dir = self.folder / "myphr-localpve-r"
        self.sockets = self.folder / "s"
        self.sockets.mkdir()
        self.arguments = arguments
        self.environ = {**os.environ, **(environ or {})}
        self.prefix = prefix
        self.port = 0
        self.process: subprocess.Popen | None = None
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> "Hypervisor":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(Exception):
            for vmid in self.machines():
                self.task("POST", f"/nodes/pve/qemu/{vmid}/status/stop")
        self.kill()
        for pid in self.qemu_pids():
            os.kill(pid, signal.SIGKILL)
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [
            *self.prefix, sys.executable, "-m", "myphr.localpve", "--home", str(self.home), "--bind",
            f"127.0.0.1:{self.port}", "--accelerator", "tcg", "--unauthorised-seconds", "0", "--run-dir",
            str(self.run_dir), "--forward", f"vmbr1=10.0.2.100:564=unix:{self.sockets}/{{vmid}}.sock", *self.arguments,
        ]  # fmt: skip
        self.log = open(self.folder / "log", "ab")  # noqa: SIM115 - the child keeps it
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environ, stderr=self.log)

        def up() -> bool:
            assert self.process and self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            return False

        wait_for(up, "localpve listens")
        self.session.verify = str(self.home / "ca.pem")
        password = (self.home / "root.password").read_text().strip()
        signed_in = self.call("POST", "/access/ticket", username="root@pam", password=password)
        self.session.cookies.clear()
        self.session.cookies.set("PVEAuthCookie", signed_in["ticket"])
        self.session.headers["CSRFPreventionToken"] = signed_in["CSRFPreventionToken"]

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, path: str, **given: Any) -> Any:
        """Data of a call. Raises AssertionError with the reason phrase of a refusal."""
        where = {"params": given} if method in ("GET", "DELETE") else {"data": given}
        answer = self.session.request(method, f"https://127.0.0.1:{self.port}/api2/json{path}", **where, timeout=60)
        assert answer.status_code == 200, f"{answer.status_code} {answer.reason}"
        return answer.json()["data"]

    def finish(self, upid: str) -> str:
        def ended() -> dict | None:
            status = self.call("GET", f"/nodes/pve/tasks/{upid}/status")
            return status if status["status"] == "stopped" else None

        return wait_for(ended, "task ends", 320)["exitstatus"]

    def task(self, method: str, path: str, **given: Any) -> str:
        return self.finish(self.call(method, path, **given))

    def log_of(self, upid: str) -> list[str]:
        return [line["t"] for line in self.call("GET", f"/nodes/pve/tasks/{upid}/log", limit=500)]

    def machines(self) -> set[int]:
        return {entry["vmid"] for entry in self.call("GET", "/nodes/pve/qemu")}

    def qemu_pids(self) -> list[int]:
        """Processes that were started for this run directory, by whoever."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if line.startswith(b"qemu-system") and str(self.run_dir).encode() in line:
                        found.append(int(entry.name))
        return found

    def plain_machine(self, vmid: int, **more: Any) -> None:
        """A machine with an empty disk: real QEMU, no guest."""
        given = {"vmid": vmid, "memory": 32, "virtio0": "local:1", "net0": "virtio,bridge=vmbr1", **more}
        assert self.task("POST", "/nodes/pve/qemu", **given) == "OK"

    def probe_template(self, tags: str = "sealable") -> list[str]:
        """Publishes the probe guest as a template; the lines of the template task."""
        built_template("probe")
        with open(TEMPLATES / "probe.qcow2", "rb") as image:
            url = f"https://127.0.0.1:{self.port}/api2/json/nodes/pve/storage/local/upload"
            answer = self.session.post(url, data={"content": "import"}, files={"filename": ("probe.qcow2", image)})
        assert answer.status_code == 200, answer.reason
        assert self.finish(answer.json()["data"]) == "OK"
        facts = json.loads((TEMPLATES / "probe.json").read_text())["proxmox"]
        source = "local:0,import-from=local:import/probe.qcow2"
        given = {**facts, "vmid": TEMPLATE, "virtio0": source, "net0": "virtio,bridge=vmbr1", "tags": tags}
        assert self.task("POST", "/nodes/pve/qemu", **given) == "OK"
        upid = self.call("POST", f"/nodes/pve/qemu/{TEMPLATE}/template")
        assert self.finish(upid) == "OK"
        return self.log_of(upid)

    def clone(self, vmid: int, source: int = TEMPLATE) -> None:
        assert self.task("POST", f"/nodes/pve/qemu/{source}/clone", newid=vmid, pool="phr-sessions") == "OK"

    def start_machine(self, vmid: int) -> None:
        assert self.task("POST", f"/nodes/pve/qemu/{vmid}/status/start") == "OK"

    def agent_answers(self, vmid: int) -> bool:
        with contextlib.suppress(AssertionError):
            self.call("POST", f"/nodes/pve/qemu/{vmid}/agent/ping")
            return True
        return False

    def state_in_guest(self, vmid: int) -> str:
        wait_for(lambda: self.agent_answers(vmid), "the guest agent answers")
        content = self.call("GET", f"/nodes/pve/qemu/{vmid}/agent/file-read", file="/run/myphr/status.json")["content"]
        return json.loads(content)["state"]

    def disks(self) -> set[str]:
        return {str(p.relative_to(self.home / "local/images")) for p in (self.home / "local/images").glob("*/*")}
