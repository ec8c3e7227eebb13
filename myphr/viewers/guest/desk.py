#!/usr/bin/python3 -IB
"""The desk: the unprivileged side of a desktop template. Starts the window manager and the viewer that is kept running
("pre-warmed"), takes one order from the guest agent (descriptor 3, see docs/formats/claim.md) and says when the viewer
shows the data. Runs as the viewer user, without network, inside the guest; knows no secret.
"""

import hashlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from Xlib import X, display, error

SETTINGS = Path("/etc/myphr/desk.json")  # {"prewarmed": {"name": ..., "program": [...]}, "window_seconds_max": 240}
FILES_MAX = 5000  # words on a command line; Linux takes 2 MB of them
LOG = "/run/viewer/viewer.log"  # what viewers complain of holds names: it stays in this machine's memory
STILL_SECONDS = 1.2  # a picture that has not changed for this long, on an idle machine, is there
WINDOW_SECONDS_MAX = 60
SETTLE_SECONDS_MAX = 120
IDLE_SHARE = 0.6
SAMPLE_LINES = 48


class Desk:
    def __init__(self) -> None:
        self.agent = socket.socket(fileno=3)
        self.log = open(LOG, "ab", buffering=0)  # noqa: SIM115 - for as long as the desk lives
        self.settings = json.loads(SETTINGS.read_text())
        self.display = self.open_display()
        self.viewer: subprocess.Popen[str] | None = None
        self.words: list[str] = []
        self.prewarmed = False

    @staticmethod
    def open_display() -> "display.Display":
        for _ in range(600):
            try:
                return display.Display(":0")
            except (error.DisplayConnectionError, OSError):
                time.sleep(0.1)
        sys.exit("the X server did not start")

    def say(self, word: str) -> None:
        self.agent.send(word.encode())

    def start(self, words: list[str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, text=True)

    # -- programs -----------------------------------------------------------------------------------------------
    def start_window_manager(self) -> None:
        command = ["matchbox-window-manager", "-use_titlebar", "no", "-use_cursor", "yes"]
        subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def start_prewarmed(self) -> None:
        program = self.settings["prewarmed"]["program"]
        pipe = subprocess.PIPE
        self.viewer = subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=self.log, text=True, bufsize=1)
        self.prewarmed = True
        self.wait_for_word({"warm"})

    def wait_for_word(self, wanted: set[str]) -> str:
        """The next line of ours that matters from the viewer that is kept running; empty when it ended."""
        assert self.viewer is not None and self.viewer.stdout is not None
        for line in self.viewer.stdout:
            word = line.strip()
            if word in wanted or word.startswith("failed "):
                return word
        return ""

    def open_prewarmed(self, path: str) -> str:
        assert self.viewer is not None and self.viewer.stdin is not None
        self.viewer.stdin.write(f"open {path}\n")
        self.viewer.stdin.flush()
        return self.wait_for_word({"ready"}) or "failed viewer-ended"

    def run_viewer(self, words: list[str]) -> str:
        """Starts a viewer that is not ours; returns when it shows something and has come to rest."""
        if self.viewer is not None and self.prewarmed:
            self.viewer.kill()  # its memory is better used by the one that was chosen
            self.viewer.wait()
        self.prewarmed = False
        self.words = words
        empty = self.sample()
        self.viewer = self.start(words)
        deadline = time.monotonic() + self.settings.get("window_seconds_max", WINDOW_SECONDS_MAX)
        while not self.big_window():
            if self.viewer.poll() is not None:
                return "failed viewer-ended"
            if time.monotonic() > deadline:
                return "failed viewer-silent"
            time.sleep(0.1)
        return self.wait_until_still(empty)

    def wait_until_still(self, empty: bytes) -> str:
        """Until the screen is not the empty one, has not changed for a while, and the machine has nothing to do.

        The work of looking does not count: under software emulation it alone keeps a machine busy, and a study that
        stood on the screen after 10 s was called ready after 22 s, on a loaded host after 120 s."""
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        last = self.sample()
        while time.monotonic() < deadline:
            before = self.ticks()
            time.sleep(STILL_SECONDS)
            after = self.ticks()
            seen = self.sample()
            idle, total = after[0] - before[0], after[1] - before[1]
            if seen == last and seen != empty and idle >= IDLE_SHARE * max(total, 1):
                return "ready"
            last = seen
        return "ready" if self.big_window() else "failed viewer-silent"

    @staticmethod
    def ticks() -> tuple[int, int]:
        """Idle and all processor time since boot (proc(5), /proc/stat)."""
        numbers = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return numbers[3] + numbers[4], sum(numbers)

    # -- the screen ---------------------------------------------------------------------------------------------
    def big_window(self) -> bool:
        root = self.display.screen().root
        todo = list(root.query_tree().children)
        while todo:
            window = todo.pop()
            try:
                attributes, place = window.get_attributes(), window.get_geometry()
                if attributes.map_state == X.IsViewable and place.width >= 400 and place.height >= 300:
                    if window.get_wm_class():
                        return True
                    todo += window.query_tree().children
            except error.XError:
                continue  # it went away while we looked
        return False

    def sample(self) -> bytes:
        """Digest of a few lines of the screen: reading all of it would be the heaviest thing this machine does."""
        root = self.display.screen().root
        place = root.get_geometry()
        digest = hashlib.sha256()
        for i in range(SAMPLE_LINES):
            y = (2 * i + 1) * place.height // (2 * SAMPLE_LINES)
            try:
                digest.update(root.get_image(0, y, place.width, 1, X.ZPixmap, 0xFFFFFFFF).data)
            except error.XError:
                continue
        return digest.digest()

    # -- orders -------------------------------------------------------------------------------------------------
    def obey(self, order: dict) -> str:
        folder = Path(order["folder"])
        opened = os.path.normpath(folder / order["open"])
        if opened != str(folder) and not opened.startswith(f"{folder}/"):
            return "failed open-refused"
        viewer = order["viewer"]
        if viewer["name"] == self.settings["prewarmed"]["name"] and self.viewer is not None:
            return self.open_prewarmed(opened)
        words = expand(viewer["command"], Path(opened))
        return self.run_viewer(words) if words else "failed command-missing"

    def run(self) -> None:
        self.start_window_manager()
        self.start_prewarmed()
        self.say("warm")
        while True:
            select.select([self.agent], [], [], 1.0)
            try:
                text = self.agent.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                text = None
            if text == b"":
                return
            if text:
                try:
                    answer = self.obey(json.loads(text))
                except (KeyError, TypeError, ValueError, OSError):
                    answer = "failed viewer-not-started"
                self.say(answer)
            if self.viewer is not None and self.viewer.poll() is not None:
                if self.prewarmed:
                    return  # the agent starts the desk again, and gives the order again
                time.sleep(1)
                self.viewer = self.start(self.words)


def files_below(path: Path) -> list[str]:
    """Regular files, sorted, without what viewers wrote themselves."""
    if path.is_file():
        return [str(path)]
    found = []
    for folder, folders, names in os.walk(path):
        if Path(folder) == path and "results" in folders:
            folders.remove("results")
        folders.sort()
        found += [os.path.join(folder, name) for name in sorted(names)]
        if len(found) >= FILES_MAX:
            break
    return found[:FILES_MAX]


def expand(command: list[str], opened: Path) -> list[str]:
    """`{files}` becomes all files, `{files:.pdf,.ps}` those whose name ends so (all, when none does), `{file}` the
    first one, `{folder}` the path that is opened."""
    words: list[str] = []
    for word in command:
        if word == "{file}":
            words += files_below(opened)[:1]
        elif word.startswith("{files") and word.endswith("}"):
            files = files_below(opened)
            endings = tuple(filter(None, word[7:-1].split(",")))
            words += [f for f in files if f.lower().endswith(endings)] or files if endings else files
        else:
            words.append(word.replace("{folder}", str(opened)))
    return words


if __name__ == "__main__":
    Desk().run()
