"""A whole portal, started the way an operator starts it (`python -m myphr up`), in its own home on free ports.

Used by the journey, the fault and secrets tests and the benches. Templates are built once into build/templates and
linked into each home, so that only the first run pays for them.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "build" / "templates"
START_SECONDS_MAX = 240


def free_port() -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def built_template(name: str) -> None:
    """Build one template into build/templates unless an up-to-date one is there."""
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "myphr", "template", "build", name, "--out", str(TEMPLATES)], cwd=ROOT, check=True
    )


class RunningPortal:
    """One running portal. `with RunningPortal(tmp_path, templates=("probe",)) as portal: ...`"""

    def __init__(self, folder: Path, templates: tuple[str, ...] = ("probe",), **settings: object) -> None:
        self.home = folder / "home"
        self.templates = templates
        web, screen, localpve = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{web}"
        defaults = {
            "home": self.home, "public_url": self.url, "web_bind": f"127.0.0.1:{web}",
            "screen_url": f"ws://127.0.0.1:{screen}", "screen_bind": f"127.0.0.1:{screen}",
            "localpve_bind": f"127.0.0.1:{localpve}", "receiver_bind": "",
            "warm_pool": ",".join(f"{name}=1" for name in templates),
            "argon2_memory_kib": 8192, "argon2_passes": 1,
        }  # fmt: skip
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("MYPHR_")}
        self.environ |= {f"MYPHR_{key.upper()}": str(value) for key, value in (defaults | settings).items()}
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "RunningPortal":
        for name in self.templates:
            built_template(name)
        (self.home / "templates").mkdir(parents=True, exist_ok=True)
        for name in self.templates:
            for built in TEMPLATES.glob(f"{name}.*"):
                link = self.home / "templates" / built.name
                if not link.exists():
                    link.symlink_to(built)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all processes and wait until the portal says that it is healthy."""
        console = open(self.home.parent / "console.log", "ab")  # noqa: SIM115 - the child keeps it
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "INT", sys.executable, "-m", "myphr", "up"],
            cwd=ROOT, env=self.environ, stdout=console, stderr=console,
            start_new_session=True,
        )  # fmt: skip
        console.close()
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the portal ended with {self.process.returncode}:\n{self.logs()}")
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/healthz", timeout=5).ok:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"the portal was not healthy after {START_SECONDS_MAX} s:\n{self.logs()}")

    def stop(self) -> None:
        """Stop as Ctrl+C does. Whatever ignores it for a minute is killed."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None

    def command(self, *words: str, check: bool = True) -> str:
        """Run `myphr WORDS` on this portal's home and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "myphr", *words],
            cwd=ROOT,
            env=self.environ,
            text=True,
            capture_output=True,
            timeout=300,
        )
        if check and done.returncode:
            raise RuntimeError(f"myphr {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def processes(self, pattern: str) -> list[int]:
        """Process ids, below this portal's home or supervisor, whose command line matches `pattern`."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environ = (entry / "environ").read_bytes().decode(errors="replace")
                mine = str(self.home) in line or f"MYPHR_HOME={self.home}" in environ
                if mine and re.search(pattern, line) and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    def kill(self, pattern: str) -> int:
        """kill -9 every process whose command line matches. Returns how many."""
        victims = self.processes(pattern)
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        return len(victims)

    def logs(self, lines: int = 30) -> str:
        """The ends of all logs, for the message of a failed test."""
        parts = []
        for path in [self.home.parent / "console.log", *sorted((self.home / "log").glob("*.log"))]:
            if path.exists() and path.stat().st_size:
                tail = path.read_text(errors="replace").splitlines()[-lines:]
                parts.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)
