"""The supervisor with small real processes: restarts, orderly stop, and no orphan after kill -9."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from myphr.errors import ConfigurationError
from myphr.settings import load
from myphr.supervisor import RESTART_WAIT_SECONDS_MAX, STEADY_SECONDS, Service, Supervisor, restart_wait, run

# Announces its process id in the file it is told, then sleeps.
SLEEPER = "import os,sys,time; open(sys.argv[1],'w').write(str(os.getpid())); time.sleep(600)"


def sleeper(name: str, folder: Path) -> Service:
    path = folder / name

    async def ready() -> bool:
        return path.exists() and path.read_text() != ""

    return Service(name, [sys.executable, "-c", SLEEPER, str(path)], ready)


def alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def eventually(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s"
        await asyncio.sleep(0.02)


def settings_in(folder: Path):
    return load({"MYPHR_HOME": str(folder)})


def test_killed_process_is_started_again(tmp_path: Path):
    async def scenario() -> None:
        supervisor = Supervisor(settings_in(tmp_path), [one := sleeper("one", tmp_path)], report=lambda _: None)
        await supervisor.start([one])
        first = int((tmp_path / "one").read_text())
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: (tmp_path / "one").read_text() not in ("", str(first)))
        second = int((tmp_path / "one").read_text())
        assert alive(second)
        await supervisor.stop()
        await eventually(lambda: not alive(second))

    asyncio.run(scenario())


def test_wait_grows_for_who_dies_at_once_and_only_for_them():
    waits = [0.0]
    for _ in range(7):
        waits.append(restart_wait(waits[-1], 0.5))
    assert waits[1:] == [1, 2, 4, 8, 16, RESTART_WAIT_SECONDS_MAX, RESTART_WAIT_SECONDS_MAX]
    # A worker that Redis took with it once more was no crash loop: its patients wait for it.
    assert restart_wait(RESTART_WAIT_SECONDS_MAX, STEADY_SECONDS + 1) == 1


def test_process_that_cannot_start_is_named(tmp_path: Path):
    async def never() -> bool:
        return False

    async def scenario() -> None:
        broken = Service("broken", [sys.executable, "-c", "raise SystemExit(3)"], never)
        supervisor = Supervisor(settings_in(tmp_path), [broken], report=lambda _: None)
        with pytest.raises(ConfigurationError, match="broken did not start"):
            await supervisor.start([broken])
        await supervisor.stop()

    asyncio.run(scenario())


def test_stranger_on_a_service_s_address_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("myphr.supervisor.FREE_SECONDS_MAX", 0.3)

    async def scenario() -> None:
        stranger = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        address = f"127.0.0.1:{stranger.sockets[0].getsockname()[1]}"
        web = dataclasses.replace(sleeper("web", tmp_path), address=address)
        heard: list[str] = []
        supervisor = Supervisor(settings_in(tmp_path), [web], report=heard.append)
        with pytest.raises(ConfigurationError, match=f"another program listens on {address}.*MYPHR_WEB_BIND"):
            await supervisor.wait_until_free([web])
        assert heard == [f"waiting for {address}, which another program holds, for web"]
        stranger.close()
        await stranger.wait_closed()
        await supervisor.wait_until_free([web])

    asyncio.run(scenario())


def test_nothing_starts_beside_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("myphr.supervisor.FREE_SECONDS_MAX", 0)

    async def scenario() -> None:
        stranger = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        address = f"127.0.0.1:{stranger.sockets[0].getsockname()[1]}"
        settings = load({"MYPHR_HOME": str(tmp_path), "MYPHR_WEB_BIND": address})
        heard: list[str] = []
        with pytest.raises(ConfigurationError, match="where web should"):
            await run(settings, report=heard.append)
        assert not (tmp_path / "redis").exists() or not list((tmp_path / "redis").iterdir())
        assert not (tmp_path / "log").exists()
        stranger.close()

    asyncio.run(scenario())


def test_second_supervisor_on_one_home_is_refused(tmp_path: Path):
    async def scenario() -> None:
        first = Supervisor(settings_in(tmp_path), [], report=lambda _: None)
        await first.start([])
        second = Supervisor(settings_in(tmp_path), [], report=lambda _: None)
        with pytest.raises(ConfigurationError, match="already running"):
            await second.start([])

    asyncio.run(scenario())


def test_killed_supervisor_leaves_no_process_behind(tmp_path: Path):
    script = (
        "import asyncio,sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from tests.unit.base.test_supervisor import sleeper, settings_in\n"
        "from myphr.supervisor import Supervisor\n"
        "async def main():\n"
        "    folder = Path(sys.argv[1]); one = sleeper('one', folder)\n"
        "    supervisor = Supervisor(settings_in(folder), [one], report=lambda _: None)\n"
        "    await supervisor.start([one]); await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(root)], cwd=root)
    try:
        asyncio.run(eventually(lambda: (tmp_path / "one").exists() and (tmp_path / "one").read_text() != ""))
        child = int((tmp_path / "one").read_text())
        process.kill()
        asyncio.run(eventually(lambda: not alive(child)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
