"""From the click on Open to the study on the screen, against a bare `qemu` boot of the same template.

Four ways in the same run: a machine of the warm pool, a cold start resumed from the template's sealed machine, a cold
start that really boots (as on a real node), and the peer: plain qemu with the same image, memory and accelerator until
its desktop stands. Ours ends later than the peer: at the full picture in the caller's hands, the study already open.
"Own" is the time in which no guest works for us: click to claim written, and live page to first picture.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sqlmodel import select

from myphr.database import Database
from myphr.machines.models import Machine, VmSession
from tests.integration.templates.machine import GuestMachine
from tests.person import Person, Screen
from tests.running import TEMPLATES, RunningPortal, built_template

ROUNDS = 3
TEMPLATE, VIEWER = "radiology", "simple-images"
MEMORY_MIB = 640


def bare_boot(folder: Path) -> float:
    """Seconds from starting qemu until the guest says that its desktop stands."""
    machine = GuestMachine(folder, TEMPLATES / f"{TEMPLATE}.qcow2", MEMORY_MIB)
    try:
        machine.wait(lambda status: status.get("state") == "waiting", 300)
        return machine.seconds
    finally:
        machine.close()


class Clicks:
    """Presses Open on the same study, over and over, and keeps what it took."""

    def __init__(self, portal: RunningPortal) -> None:
        self.portal = portal
        self.person = Person(portal.url)
        self.person.register("bench@example.org", "Bench Person")
        portal.command("demo-data", "bench@example.org")
        self.study = self.person.studies()[0]
        self.database = Database(f"sqlite:///{portal.home}/db/myphr.sqlite")

    def wait_warm(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with self.database.read() as db:
                if db.exec(select(Machine).where(Machine.state == "warm")).first():
                    return
            time.sleep(0.2)
        raise TimeoutError("no machine became warm")

    def _state(self, vm_session_id: str) -> str:
        with self.database.read() as db:
            found = db.get(VmSession, vm_session_id)
            assert found is not None
            return found.state

    def click(self) -> dict[str, float]:
        """Seconds from the click to: machine claimed, page live, full picture."""
        started = time.monotonic()
        machine = self.person.open(self.study, VIEWER)
        vm_session_id = machine.rpartition("/")[2]
        seen: dict[str, float] = {}
        while (state := self._state(vm_session_id)) != "live":
            if state in ("failed", "ended"):
                raise RuntimeError(f"the VM session {state}:\n{self.portal.logs()}")
            if state in ("connecting", "opening"):
                seen.setdefault("claimed", time.monotonic() - started)
            time.sleep(0.005)
        seen["live"] = time.monotonic() - started
        seen.setdefault("claimed", seen["live"])
        with self.person.screen(f"{machine}/ticket") as socket:
            Screen(socket).picture()
        seen["picture"] = time.monotonic() - started
        seen["own"] = seen["claimed"] + seen["picture"] - seen["live"]
        self.person.end(machine)
        self.person.wait_for(machine, "ended", "failed")
        return seen


def measured(folder: Path, rounds: int, *, warm: bool, sealing: bool) -> list[dict[str, float]]:
    settings = {"warm_pool": f"{TEMPLATE}={int(warm)}", "localpve_sealing": int(sealing)}
    folder.mkdir(mode=0o711)
    with RunningPortal(folder, templates=(TEMPLATE,), **settings) as portal:
        clicks = Clicks(portal)
        found = []
        for _ in range(rounds):
            if warm:
                clicks.wait_warm()
                time.sleep(3)  # let the refill of the pool come to rest
            found.append(clicks.click())
        clicks.database.dispose()
        return found


def main() -> None:
    built_template(TEMPLATE)
    with tempfile.TemporaryDirectory(prefix="myphr-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        bare = [bare_boot(folder / f"bare{number}") for number in range(ROUNDS)]
        ways = {
            "warm pool": measured(folder / "warm", ROUNDS, warm=True, sealing=True),
            "cold, sealed machine": measured(folder / "sealed", ROUNDS, warm=False, sealing=True),
            "cold, real boot": measured(folder / "cold", 1, warm=False, sealing=False),
        }
    peer = statistics.median(bare)
    print(f"template {TEMPLATE}, viewer {VIEWER}, medians of {ROUNDS} (real boot: 1); seconds")
    print(f"{'':22} {'claimed':>8} {'live':>8} {'picture':>8} {'own':>8} {'picture / bare boot':>20}")
    print(f"{'bare qemu to desktop':22} {'':8} {'':8} {peer:8.2f} {'':8} {1:20.2f}")
    for way, runs in ways.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in ("claimed", "live", "picture", "own")}
        row = " ".join(f"{middle[key]:8.2f}" for key in ("claimed", "live", "picture", "own"))
        print(f"{way:22} {row} {middle['picture'] / peer:20.2f}")
    warm = {key: statistics.median(run[key] for run in ways["warm pool"]) for key in ("picture", "own")}
    verdict = "met" if warm["picture"] <= peer / 10 else "MISSED"
    print(f"target warm start <= 1/10 of the bare boot: {verdict} ({warm['picture'] / peer:.2f})")
    print(f"target <= 2 s of our own time: {'met' if warm['own'] <= 2 else 'MISSED'} ({warm['own']:.2f} s)")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
