#!/usr/bin/python3 -B
"""Simple signals: ECG, EEG and sleep recordings for a finger. An ECG lies on its paper as doctors know it; large
buttons go on in time, closer and higher; a card for each lead shows it alone. Kept running before the claim; reads
"open <path>" on its input, says "warm", "ready" or "failed <code>" on its output. What it shows is made in
signal_records.py and signal_paper.py. Runs in the guest as the viewer user.
"""

import dataclasses
import itertools
import os
import tkinter as tk

import signal_paper as paper
import signal_records as records
from folder_files import files_below
from PIL import ImageTk
from touch_ui import CARD_HEIGHT, LIST_WIDTH, SOFT, TEXT, TOP_HEIGHT, fit
from viewer_window import ViewerWindow

FILES_MAX = 500
FOOT = 60  # pixels below the lines, for words
WINDOWS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)  # seconds on the screen
TALLS = (0.25, 0.5, 1.0, 2.0, 4.0)
NOTE = "For looking, not for diagnosis"


class SimpleSignals(ViewerWindow):
    title = "Simple signals"
    kept = "picture"

    def __init__(self) -> None:
        self.files: list[str] = []
        self.others = 0
        self.chosen = -1
        self.recording: records.Recording | None = None
        self.look = paper.Look()
        super().__init__()
        self.message("Your recordings will appear here", "This machine is ready and waits for you.")

    def build(self) -> None:
        super().build()
        self.add_button("◀", "Back", lambda: self.go(-0.5), 116)
        self.add_button("▶", "Onwards", lambda: self.go(0.5), 116)
        self.add_button("+", "Closer", lambda: self.widen(-1), 96)
        self.add_button("−", "Wider", lambda: self.widen(1), 96)
        self.add_button("↕", "Higher", lambda: self.stretch(1), 96)
        self.add_button("↔", "Flatter", lambda: self.stretch(-1), 96)
        self.add_button("▲", "Lines up", lambda: self.rows(-1), 100)
        self.add_button("▼", "Lines down", lambda: self.rows(1), 108)
        self.add_button("↺", "Start over", self.reset, 108)
        for key, by in {"<Left>": -0.5, "<Right>": 0.5, "<Prior>": -1, "<Next>": 1}.items():
            self.on_key(key, lambda by=by: self.go(by))

    def enlarge(self, by: int) -> None:
        self.widen(-by)

    def wheel(self, up: bool) -> None:
        self.go(-0.1 if up else 0.1)

    def number_shown(self) -> int:
        return int(self.look.start) + 1

    # -- files and lines --------------------------------------------------------------------------------------------
    def open(self, path: str) -> None:
        self.chosen, self.recording = -1, None
        found = list(itertools.islice(files_below(path), FILES_MAX))
        self.files = [file for file in found if records.kind_of(file)]
        if not self.files:
            self.draw_list()
            self.message(
                "There are no recordings here that this viewer knows",
                "It opens ECG, EEG and sleep recordings: EDF, BDF, SCP, aECG, WFDB and DICOM.",
            )
            self.tell("failed nothing-to-show")
            return
        self.choose(0)

    def cards(self) -> list[tuple[int, int | None]]:
        """File and line of each card: the lines of the chosen file stand below it."""
        found: list[tuple[int, int | None]] = []
        for number in range(len(self.files)):
            found.append((number, None))
            if number == self.chosen and self.recording is not None and len(self.recording.channels) > 1:
                found += [(number, line) for line in range(len(self.recording.channels))]
        return found

    def choose_card(self, number: int) -> None:
        cards = self.cards()
        if not 0 <= number < len(cards):
            return
        file, line = cards[number]
        if file != self.chosen:
            self.choose(file)
            return
        self.look = dataclasses.replace(self.look, only=line)
        self.draw_list()
        self.draw_soon(0)

    def choose(self, number: int) -> None:
        self.chosen, self.recording, self.look = number, None, paper.Look()
        self.message("Opening this recording …")
        self.draw_words()
        self.window.update_idletasks()
        try:
            self.recording = records.read(self.files[number])
        except records.CannotShow as sentence:
            more = "The other recordings of this folder are not affected." if len(self.files) > 1 else ""
            self.message(str(sentence), more)
            self.draw_list()
            self.tell("ready")
            return
        self.look = self.first_look()
        self.draw()
        self.draw_list()

    def first_look(self) -> paper.Look:
        assert self.recording is not None
        return paper.Look(seconds=10.0 if self.recording.seconds > 4 else 2.5)

    # -- moving -------------------------------------------------------------------------------------------------------
    def go(self, windows: float) -> None:
        self.go_to(self.look.start + windows * self.look.seconds)

    def go_to(self, start: float) -> None:
        if self.recording is not None:
            last = max(0.0, self.recording.seconds - self.look.seconds)
            self.look = dataclasses.replace(self.look, start=min(max(start, 0.0), last))
            self.draw_soon(0)

    def widen(self, by: int) -> None:
        if self.recording is not None:
            at = min(range(len(WINDOWS)), key=lambda i: abs(WINDOWS[i] - self.look.seconds))
            seconds = WINDOWS[min(max(at + by, 0), len(WINDOWS) - 1)]
            middle = self.look.start + self.look.seconds / 2
            self.look = dataclasses.replace(self.look, seconds=seconds)
            self.go_to(middle - seconds / 2)

    def stretch(self, by: int) -> None:
        at = TALLS.index(self.look.tall)
        self.look = dataclasses.replace(self.look, tall=TALLS[min(max(at + by, 0), len(TALLS) - 1)])
        self.draw_soon(0)

    def rows(self, pages: int) -> None:
        if self.recording is not None:
            last = max(0, len(self.recording.channels) - paper.ROWS_MAX)
            first = min(max(self.look.first + pages * paper.ROWS_MAX, 0), last)
            self.look = dataclasses.replace(self.look, first=first, only=None)
            self.draw_list()
            self.draw_soon(0)

    def reset(self) -> None:
        if self.recording is not None:
            self.look = self.first_look()
            self.draw_list()
            self.draw_soon(0)

    def touch(self, event: tk.Event) -> None:
        super().touch(event)
        self.start_touched = self.look.start

    def drag(self, event: tk.Event) -> None:
        moved = (event.x - self.touched_at[0]) / self.view_width * self.look.seconds
        self.go_to(self.start_touched - moved)

    # -- what is shown ----------------------------------------------------------------------------------------------
    def draw(self) -> None:
        if self.recording is None:
            return
        self.image = paper.draw(self.recording, self.look, self.view_width, self.view_height - FOOT)
        self.photo = ImageTk.PhotoImage(self.image)
        self.view.delete("all")
        self.view.create_image(0, 0, anchor="nw", image=self.photo)
        self.draw_words()
        self.tell("ready")

    def draw_words(self) -> None:
        self.clear_top()
        self.view.delete("words")
        if self.chosen < 0:
            return
        recording = self.recording
        middle = TOP_HEIGHT // 2
        name = (recording.patient if recording else "") or os.path.basename(self.files[self.chosen])
        name = fit(name, self.big, self.width // 2)
        self.top.create_text(18, middle, anchor="w", text=name, fill=TEXT, font=self.big)
        if recording is None:
            return
        x = 18 + self.big.measure(name) + 22
        words = "  ·  ".join(w for w in (records.WORDS[recording.kind], recording.date) if w)
        words = fit(words, self.normal, self.width - 230 - x)
        self.top.create_text(x, middle + 2, anchor="w", text=words, fill=SOFT, font=self.normal)
        end = min(self.look.start + self.look.seconds, recording.seconds)
        self.plate(16, self.view_height - 34, f"{clock(self.look.start)} to {clock(end)} of {clock(recording.seconds)}")
        if recording.is_ecg and self.look.seconds <= 30:
            speed = f"25 mm a second, {10 * self.look.tall:g} mm a millivolt"
            usual = paper.shows_page(recording, self.look) or self.look.only is not None
            if usual:
                self.plate(self.view_width - 16, self.view_height - 34, speed, "e")
        elif len(recording.channels) > paper.ROWS_MAX and self.look.only is None:
            first = self.look.first + 1
            last = min(self.look.first + paper.ROWS_MAX, len(recording.channels))
            words = f"lines {first} to {last} of {len(recording.channels)}"
            self.plate(self.view_width - 16, self.view_height - 34, words, "e")
        self.progress(round(end * 10), round(recording.seconds * 10))

    def draw_list(self) -> None:
        self.list.delete("all")
        room = LIST_WIDTH - 96
        cards = self.cards()
        for at, (number, line) in enumerate(cards):
            on = number == self.chosen and (line == self.look.only or (line is None and self.recording is None))
            y = self.card(at, on)
            soft = TEXT if on else SOFT
            if line is None:
                name, words = os.path.basename(self.files[number]), "tap to open"
                if number == self.chosen:
                    words = "all lines together" if self.recording else "cannot be shown"
                sign = "♥" if number == self.chosen and self.recording and self.recording.is_ecg else "∿"
            else:
                assert self.recording is not None
                channel = self.recording.channels[line]
                name, words, sign = channel.lead or channel.name, "this line alone", "·"
            self.list.create_text(42, y + 42, text=sign, fill=soft, font=self.big)
            name = fit(name, self.normal, room)
            self.list.create_text(74, y + 30, anchor="w", text=name, fill=TEXT, font=self.normal)
            self.list.create_text(74, y + 55, anchor="w", text=words, fill=soft, font=self.small)
        height = 10 + len(cards) * CARD_HEIGHT
        foot = max(height + 24, self.height - TOP_HEIGHT - 22)
        self.list.create_text(LIST_WIDTH // 2, foot, text=NOTE, fill=SOFT, font=self.small)
        self.end_list(max(height, foot + 12))


def clock(seconds: float) -> str:
    whole = int(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    short = f"{whole // 60 % 60}:{whole % 60:02}"
    return f"{whole // 3600}:{short:0>5}" if whole >= 3600 else short


if __name__ == "__main__":
    SimpleSignals().run()
