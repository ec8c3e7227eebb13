"""A real gunicorn that can be killed and started again on the same port, and the real tus-js-client."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NODE_MODULES = ROOT / "build" / "node"
TUS_VERSION = "4.3.1"


class Server:
    """gunicorn with the upload routes, as a process group of its own."""

    def __init__(self, home: Path, redis_url: str, seals: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("MYPHR_")} | {
            "MYPHR_HOME": str(home), "MYPHR_REDIS_URL": redis_url, "MYPHR_PUBLIC_URL": self.url,
            "SEALS_FILE": str(seals),
        }  # fmt: skip
        self.log = home.parent / "gunicorn.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--no-control-socket", "-k", "gthread", "--threads", "16",
             "--timeout", "0", "-b", f"127.0.0.1:{self.port}", "tests.integration.uploads.serving:create_app()"],
            cwd=ROOT, env=self.environ, stdout=self.log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        while True:
            if self._answers():
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of master and worker at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            while self._answers():  # the worker dies a moment after the master
                time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def seals_file(tmp_path: Path) -> Path:
    return tmp_path / "seals"


@pytest.fixture
def server(portal, redis_url: str, seals_file: Path) -> Iterator[Server]:
    server = Server(portal.settings.home, redis_url, seals_file)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def tus_module() -> Path:
    """A folder with the real tus-js-client, fetched once into build/ by npm (development only)."""
    if not (NODE_MODULES / "node_modules" / "tus-js-client" / "package.json").exists():
        npm = shutil.which("npm")
        assert npm, "npm is needed to fetch tus-js-client for this test"
        NODE_MODULES.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [npm, "install", "--prefix", str(NODE_MODULES), "--no-package-lock", "--no-audit", "--no-fund",
             f"tus-js-client@{TUS_VERSION}"],
            check=True, capture_output=True,
        )  # fmt: skip
    return NODE_MODULES


@pytest.fixture
def tus_client(tus_module: Path, server: Server) -> Iterator[Callable[..., subprocess.Popen]]:
    """`tus_client(account_id, file, chunk_bytes)` starts an upload by tus-js-client."""
    started: list[subprocess.Popen] = []

    def start(account_id: str, file: Path, chunk_bytes: int = 0) -> subprocess.Popen:
        process = subprocess.Popen(
            ["node", str(Path(__file__).with_name("client.mjs")), str(tus_module), f"{server.url}/uploads", account_id,
             str(file), str(chunk_bytes)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
