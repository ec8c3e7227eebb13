"""The machine room of the integration tests: a real Redis, a real localpve with the probe template, a real files
gateway and, where asked, real worker processes, all below one short folder."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from myphr.machines import templates
from myphr.machines.models import Machine, VmSession
from tests import cast
from tests.running import ROOT, TEMPLATES, built_template, free_port

SECONDS_MAX = 120


def wait_for(condition: Callable[[], object], what: str, seconds_max: float = SECONDS_MAX) -> object:
    """The first true value of `condition`. Raises AssertionError after `seconds_max`."""
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"in vain: {what}")


class Room:
    """Everything a machine needs. `portal` is the web side, in this process."""

    def __init__(self, **settings: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mm-"))
        self.folder.chmod(0o711)
        self.home = self.folder / "h"
        port = free_port()
        self.processes: dict[str, subprocess.Popen] = {}
        self._settings = {"localpve_bind": f"127.0.0.1:{port}", **settings}
        cast.prepare_home(cast.cheap_settings(self.home, **self._settings))
        for folder in (self.home, self.home / "run"):
            folder.chmod(0o711)
        self.portal = cast.new_portal(self.home, **self._settings)

    @property
    def environ(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MYPHR_")}
        values = {"home": self.home, "argon2_memory_kib": 8, "argon2_passes": 1, "warm_pool": "", **self._settings}
        return clean | {"PYTHONPATH": str(ROOT)} | {f"MYPHR_{key.upper()}": str(value) for key, value in values.items()}

    def launch(self, name: str, command: list[str]) -> subprocess.Popen:
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115 - the child keeps it
        process = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=log, stderr=log, start_new_session=True)
        log.close()
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def start(self) -> None:
        from myphr.supervisor import localpve_command, redis_command

        settings = self.portal.settings
        self.launch("redis", redis_command(settings, settings.run_dir / "redis.sock"))
        self.start_localpve(localpve_command(settings))
        self.launch("files", [sys.executable, "-m", "myphr.gateway", "files"])
        wait_for(self._redis_answers, "redis", 20)
        built_template("probe")
        templates.publish(self.portal, "probe", TEMPLATES / "probe.qcow2", report=lambda line: None)

    def start_localpve(self, command: list[str] | None = None) -> None:
        from myphr.supervisor import localpve_command

        sealing = [] if importlib.util.find_spec("myphr.localpve.sealing") else ["--no-sealing"]
        command = command or localpve_command(self.portal.settings)
        self.launch("localpve", [*command, "--end-machines", *sealing])
        host, _, port = self.portal.settings.localpve_bind.rpartition(":")

        def listens() -> bool:
            if self.processes["localpve"].poll() is not None:
                raise AssertionError(self.log("localpve"))
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        wait_for(listens, "localpve", 60)

    def _redis_answers(self) -> bool:
        with contextlib.suppress(redis.exceptions.RedisError):
            return bool(self.portal.redis.ping())
        return False

    def worker(self, name: str = "worker", *, die: str = "", scheduler: bool = True) -> subprocess.Popen:
        """A real worker process. `die` is "<method>:<before|after>" of the hypervisor client: there, the job's
        process and its worker are killed with SIGKILL."""
        command = [sys.executable, str(Path(__file__).with_name("dying_worker.py")), die, "1" if scheduler else ""]
        return self.launch(name, command)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in ("files", "localpve", "redis"):
            process = self.processes.get(name)
            if process is not None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
        for name in list(self.processes):
            self.kill(name)
        self.portal.database.dispose()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- looking
    def vm_session(self, vm_session_id: str) -> VmSession:
        with self.portal.database.read() as db:
            return db.get(VmSession, vm_session_id)

    def machine(self, machine_id: str) -> Machine:
        with self.portal.database.read() as db:
            return db.get(Machine, machine_id)

    def qemus(self) -> list[int]:
        """Process ids of machines of this room: those with one of its files open."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and b"qemu-system" in (entry / "cmdline").read_bytes():
                    files = {os.readlink(link) for link in (entry / "fd").iterdir()}
                    if any(name.startswith(f"{self.folder}/") for name in files):
                        found.append(int(entry.name))
        return found


@contextlib.contextmanager
def room(**settings: object) -> Iterator[Room]:
    found = Room(**settings)
    try:
        found.start()
        yield found
    finally:
        found.stop()


