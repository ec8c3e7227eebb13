"""Decides between KVM and software emulation by starting a probe guest, because /dev/kvm may exist where no guest runs.

The probe is a boot sector: real mode, page tables, long mode, a check of what the CPU offers, then ring 3 and back by
an interrupt, reporting over the serial port. It must report within 3 s, as the same user that machines run as.
"""

import asyncio
import base64
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PROBE_SECONDS = 3.0
REPORT = b"RLK"
# Assembled from probe.S beside this file (see its head for the commands).
_BOOT_SECTOR = base64.b64decode(
    "+jHAjtiOwI7QvAB8uvgDsFLuZr8AEAAADyLfZjHAZrkAFAAA/Gbzq2bHBgAQByAAAGbHBgAgBzAAAGbHBgAwhwAAAA8g4GaDyCAP"
    "IuBmuYAAAMAPMmYNAAEAAA8wZg8BFlh9DyDAZg0BAACADyLA6nR8CABmuvgDsEzuMcD/wA+i9sEBD4SFAAAAvwBAAAC4En0AAGaJ"
    "h+AAAADHh+IAAAAIAACOuAh9AABmiYcACAAAZseHAggAAAgAZseHBAgAAADuxoflAAAAjsaH5AAAAAAPARwlXn0AAMcEJQRQAAAA"
    "cAAAZrgoAA8A2GojaAB4AABqAmobaP18AABIz7nAxi0A/8l1/M2AigQlAABAAPTr/Wa6+AOwS+7r9A8fRAAAAAAAAAAAAAAAAAAA"
    "AJogAAAAAAAAkgAAAAAAAAD6IAAAAAAAAPIAAGcAAFAAiQAAAAAAAAAAAAA3ACB9AAAAEABA"
)


def boot_sector() -> bytes:
    return _BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa"


def probe(accelerator: str, uid: int | None, gid: int | None, seconds: float = PROBE_SECONDS) -> bool:
    """True when the probe guest reported in time under `accelerator` ("kvm" or "tcg"). Blocks until then."""
    options: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if uid is not None else {}
    with tempfile.TemporaryFile() as image, tempfile.TemporaryFile() as report:
        image.write(boot_sector().ljust(64 * 1024, b"\0"))
        image.flush()
        try:
            process = subprocess.Popen(
                [
                    "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc",
                    "-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max", "-m", "16",
                    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                    "-add-fd", f"fd={image.fileno()},set=1",
                    "-blockdev", "driver=file,filename=/dev/fdset/1,node-name=file",
                    "-blockdev", "driver=raw,file=file,node-name=disk", "-device", "ide-hd,drive=disk",
                    "-serial", "stdio",
                ],
                stdin=subprocess.DEVNULL, stdout=report, stderr=subprocess.DEVNULL, pass_fds=(image.fileno(),),
                start_new_session=True, cwd="/", **options,
            )  # fmt: skip
        except OSError:
            return False
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                if os.pread(report.fileno(), len(REPORT), 0) == REPORT:
                    return True
                if process.poll() is not None:
                    return False
                time.sleep(0.02)
            return False
        finally:
            process.kill()
            process.wait()


async def choose(wish: str, uid: int | None, gid: int | None) -> str:
    """ "kvm" or "tcg". `wish` is "auto", "kvm" or "tcg"; a wish other than auto is taken as it is."""
    if wish in ("kvm", "tcg"):
        return wish
    if not Path("/dev/kvm").exists() or (uid is None and not os.access("/dev/kvm", os.R_OK | os.W_OK)):
        return "tcg"
    return "kvm" if await asyncio.to_thread(probe, "kvm", uid, gid) else "tcg"
