"""A template woken from one memory state with a folder of files, for the tests that look at what its viewers show.

Booting takes half a minute under software emulation, waking a second: each test gets a machine of its own that way.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from myphr.still_opens import Rest
from myphr.viewers import builder, catalogue
from tests.integration.templates.folder_server import FolderServer
from tests.integration.templates.machine import GuestMachine

BOOT_SECONDS_MAX = 1200  # a busy machine took 7 minutes for what is half a one alone
READY_SECONDS_MAX = 480  # IGV took 210 s with 19 others at work on two cores, 65 s alone
REST_SECONDS, REST_SECONDS_MAX = 8, 240


class Sealed:
    """A template that stands in `waiting`, and a machine of it for everybody who asks."""

    def __init__(self, name: str, templates: Path) -> None:
        self.built = builder.build(name, templates, print)
        self.memory_mib = builder.read_recipe(name).memory_mib
        self.folder = Path(tempfile.mkdtemp(prefix="seal-"))
        self.number = 0
        ram = self.folder / "ram"
        machine = GuestMachine(self.folder / "boot", self.built.image, self.memory_mib, files=None, ram=ram)
        try:
            machine.wait_state("waiting", seconds_max=BOOT_SECONDS_MAX)
            time.sleep(1)
            self.desk = Image.open(machine.picture()).convert("RGB")
            machine.save_state(self.folder / "state")
        finally:
            machine.close()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def opened(self, viewer: str, files: Mapping[str, bytes]) -> Iterator[GuestMachine]:
        """A machine in which this viewer of the catalogue shows these files. Raises AssertionError when it fails."""
        self.number += 1
        here = self.folder / str(self.number)
        (here / "export").mkdir(parents=True)
        for name, body in files.items():
            path = here / "export" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        server = FolderServer(here / "f.sock", here / "export")
        machine = GuestMachine(
            here / "m", self.built.image, self.memory_mib, ram=self.folder / "ram", ram_shared=False,
            incoming=self.folder / "state",
            netdev="user,id=net0,restrict=on,ipv6=off,guestfwd=tcp:10.0.2.100:564-chardev:files",
            extra=("-chardev", f"socket,id=files,path={here / 'f.sock'},reconnect=1"),
        )  # fmt: skip
        try:
            known = catalogue.load()[viewer]
            asked = {"name": viewer, "command": list(known.command)}
            machine.claim(str(here / "export"), asked, vm_session="root")
            status = machine.wait_state("ready", "failed", seconds_max=READY_SECONDS_MAX)
            said: Any = status.get("error")
            assert status["state"] == "ready", f"{viewer}: {said}\n{log_of(machine)}"
            yield machine
        finally:
            machine.close()
            server.close()


def log_of(machine: GuestMachine) -> str:
    try:
        return machine.read_file("/run/viewer/viewer.log").decode(errors="replace")[-2000:]
    except (RuntimeError, TimeoutError, ConnectionError):
        return ""


def screen(machine: GuestMachine) -> Image.Image:
    return Image.open(machine.picture()).convert("RGB")


def screen_at_rest(machine: GuestMachine) -> Image.Image:
    """The screen once it does not change any more. Raises TimeoutError."""
    rest, deadline = Rest(REST_SECONDS), time.monotonic() + REST_SECONDS_MAX
    while time.monotonic() < deadline:
        image = screen(machine)
        if rest.reached(image, time.monotonic()):
            return image
        time.sleep(0.5)
    raise TimeoutError(f"the screen went on changing for {REST_SECONDS_MAX} s")
