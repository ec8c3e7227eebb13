"""`myphr up`: starts every process of the portal, keeps them running, stops them in reverse order.

One supervisor per home (a lock file says so). Each child gets a parent-death signal, so that even `kill -9` of
the supervisor leaves no orphan. A child that dies is started again after 1, 2, 4 ... 30 s; the others go on, since
every process of the portal can be restarted at any point. Knows commands and readiness, nothing of what they do.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import pwd
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TextIO

from myphr.errors import ConfigurationError
from myphr.settings import Settings

READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20
FREE_SECONDS_MAX = STOP_SECONDS_MAX + 5  # an earlier run's process has stopped by then
RESTART_WAIT_SECONDS_MAX = 30
STEADY_SECONDS = 10  # who ran for so long does not crash in a loop: it starts again after 1 s, as after the first death
LOG_BYTES_MAX = 16 * 1024 * 1024  # a log larger than this is moved aside at the next start of its process

Report = Callable[[str], None]


@dataclasses.dataclass
class Service:
    """One process: its command and how to tell that it answers."""

    name: str
    command: Sequence[str]
    ready: Callable[[], Awaitable[bool]]
    address: str = ""  # "host:port" or "unix:path" where it will listen
    stop_signal: int = signal.SIGTERM
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False


async def _answers_on(address: str) -> bool:
    """Does something accept connections on "host:port" or "unix:path"?"""
    try:
        if address.startswith("unix:"):
            _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return True


def services(settings: Settings) -> list[Service]:
    """The processes of one installation, in the order in which they start."""
    python = sys.executable
    found: list[Service] = []

    async def at_once() -> bool:
        return True

    def add(name: str, command: Sequence[str], address: str = "", **options) -> None:
        async def listening() -> bool:
            return await _answers_on(address)

        found.append(Service(name, command, listening if address else at_once, address, **options))

    redis_socket = settings.run_dir / "redis.sock"
    if settings.redis_url == f"unix://{redis_socket}":
        add("redis", redis_command(settings, redis_socket), f"unix:{redis_socket}")
    if settings.embedded_hypervisor:
        add("localpve", localpve_command(settings), settings.localpve_bind)
    if settings.embedded_keyholder:
        add("keyholder", keyholder_command(settings), settings.keyholder_address)
    add("files", [python, "-m", "myphr.gateway", "files"])
    add("screen", [python, "-m", "myphr.gateway", "screen"], settings.screen_bind)
    if settings.receiver_bind:
        add("receiver", [python, "-m", "myphr.receiver"], settings.receiver_bind)
    for number in range(1, settings.workers + 1):
        scheduler = ["--scheduler"] if number == 1 else []
        add(f"worker-{number}", [python, "-m", "myphr", "worker", *scheduler])
    add("web", web_command(settings), settings.web_bind)
    return found


def redis_command(settings: Settings, socket: Path) -> list[str]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if not binary:
        raise ConfigurationError("redis-server is not installed (Debian package redis-server)")
    data = settings.home / "redis"
    data.mkdir(mode=0o700, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [binary, *(part for key, value in options.items() for part in (f"--{key}", value))]


def localpve_command(settings: Settings) -> list[str]:
    listen = settings.files_listen
    return [
        sys.executable, "-m", "myphr.localpve", "--home", str(settings.home / "localpve"),
        "--bind", settings.localpve_bind,
        "--accelerator", settings.localpve_accelerator, "--token-file", settings.proxmox_token_secret_file,
        "--forward", f"{settings.proxmox_bridge}={settings.guest_files_address}={listen}",
        *([] if settings.localpve_sealing else ["--no-sealing"]),
    ]  # fmt: skip


def keyholder_command(settings: Settings) -> list[str]:
    """The keyholder, as the unix user its folder belongs to: whom `init` gave it to."""
    folder = settings.home / "keyholder"
    owner = folder.stat().st_uid if folder.exists() else os.geteuid()
    listen = settings.keyholder_listen_tls
    return [
        sys.executable, "-m", "myphr.keyholder", "serve", "--folder", str(folder),
        "--socket", settings.keyholder_address.removeprefix("unix:"),
        "--passphrase-file", settings.keyholder_passphrase_file,
        *(["--user", pwd.getpwuid(owner).pw_name] if owner != os.geteuid() else []),
        *(["--listen-tls", listen] if listen else []),
    ]  # fmt: skip


def web_command(settings: Settings) -> list[str]:
    # One process, many threads: a slow upload holds a thread, never the page of another patient. No access log:
    # upload URLs carry a token.
    return [
        sys.executable, "-m", "gunicorn", "app:app", "--bind", settings.web_bind, "--worker-class", "gthread",
        "--workers", "1", "--threads", str(settings.web_threads), "--timeout", "120", "--graceful-timeout", "10",
        "--no-control-socket", "--log-level", "warning", "--worker-tmp-dir", str(settings.run_dir),
    ]  # fmt: skip


class Supervisor:
    """Runs a list of services until told to stop."""

    def __init__(self, settings: Settings, found: list[Service], report: Report = print) -> None:
        self.settings = settings
        self.services = found
        self.report = report
        self.stop_asked = asyncio.Event()
        self._watchers: list[asyncio.Task] = []
        self._lock_file: TextIO | None = None

    async def wait_until_free(self, wanted: Sequence[Service]) -> None:
        """Nobody may listen yet where these services will: a stranger who stays would be taken for the service. A
        process of an earlier run may still be stopping: it gets the time for it.

        Raises ConfigurationError if somebody stays."""
        self._lock()
        deadline = time.monotonic() + FREE_SECONDS_MAX
        for service in wanted:
            told = False
            while service.address and not self.stop_asked.is_set() and await _answers_on(service.address):
                if time.monotonic() > deadline:
                    setting = f", or set MYPHR_{service.name.upper()}_BIND"
                    raise ConfigurationError(
                        f"another program listens on {service.address}, where {service.name} should: stop it"
                        + ("" if service.address.startswith("unix:") else setting)
                    )
                if not told:
                    self.report(f"waiting for {service.address}, which another program holds, for {service.name}")
                    told = True
                await asyncio.sleep(0.1)

    async def start(self, wanted: Sequence[Service]) -> None:
        """Start these services in order, each ready before the next.

        Raises ConfigurationError if one does not come up."""
        self._lock()
        for service in wanted:
            if self.stop_asked.is_set():
                return
            await self._start_one(service)
            self._watchers.append(asyncio.create_task(self._keep_running(service)))

    async def stop(self) -> None:
        """Stop in reverse order; a process that ignores the signal for 20 s is killed."""
        for service in reversed(self.services):
            service.stopping = True
            process = service.process
            if process is None or process.returncode is not None:
                continue
            process.send_signal(service.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
            except TimeoutError:
                self.report(f"{service.name} did not stop in {STOP_SECONDS_MAX} s and was killed")
                process.kill()
                await process.wait()
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def _lock(self) -> None:
        if self._lock_file is not None:
            return
        self.settings.need_short_home()
        self.settings.run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._lock_file = open(self.settings.run_dir / "supervisor.lock", "w")  # noqa: SIM115 - held for our lifetime
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError("the portal is already running on this home") from None
        self._lock_file.write(str(os.getpid()))
        self._lock_file.flush()

    async def _start_one(self, service: Service) -> None:
        await self._launch(service)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not await service.ready():
            assert service.process is not None
            if service.process.returncode is not None or time.monotonic() > deadline:
                raise ConfigurationError(f"{service.name} did not start; its log is log/{service.name}.log")
            await asyncio.sleep(0.05)

    async def _launch(self, service: Service) -> None:
        directory = self.settings.home / "log"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / f"{service.name}.log"
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        with open(path, "ab") as log:
            service.process = await asyncio.create_subprocess_exec(
                "setpriv", "--pdeathsig", "TERM", *service.command,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def _keep_running(self, service: Service) -> None:
        wait_seconds = 0.0
        while not service.stopping:
            assert service.process is not None
            started = time.monotonic()
            code = await service.process.wait()
            if service.stopping or self.stop_asked.is_set():
                return
            wait_seconds = restart_wait(wait_seconds, time.monotonic() - started)
            self.report(f"{service.name} ended (code {code}); starting it again in {wait_seconds:.0f} s")
            await asyncio.sleep(wait_seconds)
            if not service.stopping:
                await self._launch(service)


def restart_wait(last_seconds: float, ran_seconds: float) -> float:
    """Seconds before a process that ran for `ran_seconds` starts again, when the wait before was `last_seconds`."""
    if last_seconds == 0 or ran_seconds > STEADY_SECONDS:
        return 1.0
    return min(last_seconds * 2, RESTART_WAIT_SECONDS_MAX)


async def run(settings: Settings, *, before_web: Callable[[], None] | None = None, report: Report = print) -> None:
    """Start everything, print the address, serve until SIGINT or SIGTERM. `before_web` runs once the hypervisor and
    the queue answer (it publishes the templates)."""
    supervisor = Supervisor(settings, services(settings), report)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, supervisor.stop_asked.set)
    base = [s for s in supervisor.services if s.name in ("redis", "localpve")]
    try:
        await supervisor.wait_until_free(supervisor.services)
        await supervisor.start(base)
        if before_web and not supervisor.stop_asked.is_set():
            await asyncio.to_thread(before_web)
        await supervisor.start([s for s in supervisor.services if s not in base])
        if not supervisor.stop_asked.is_set():
            report(f"\n  MyPHRMachines is ready:  {settings.public_url}")
            report(f"  Stop it with Ctrl+C. Logs are in {settings.home}/log.\n")
        await supervisor.stop_asked.wait()
        report("stopping ...")
    finally:
        await supervisor.stop()
