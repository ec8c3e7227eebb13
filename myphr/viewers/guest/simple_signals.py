#!/usr/bin/python3 -B
"""Simple signals: ECG, EEG and sleep recordings for a finger. An ECG lies on its paper as doctors know it; large
buttons go on in time, closer and higher; a card for each lead shows it alone. Kept running before the claim; reads
"open <path>" on its input, says "warm", "ready" or "failed <code>" on its output. What it shows is made in
signal_records.py and signal_paper.py. Runs in the guest as the viewer user.
"""

import dataclasses
import os
import tkinter as tk

import signal_paper as paper
import signal_records as records
from file_window import FileWindow
from touch_ui import Card

FOOT = 60  # pixels below the lines, for words
WINDOWS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)  # seconds on the screen
TALLS = (0.25, 0.5, 1.0, 2.0, 4.0)


class SimpleSignals(FileWindow):
    title = "Simple signals"
    welcome = "Your recordings will appear here"
    kept = "picture"
    things = "recordings"
    opening = "Opening this recording …"
    none_here = (
        "There are no recordings here that this viewer knows",
        "It opens ECG, EEG and sleep recordings: EDF, BDF, SCP, aECG, WFDB and DICOM.",
    )

    def clear(self) -> None:
        super().clear()
        self.recording: records.Recording | None = None
        self.look = paper.Look()

    def controls(self) -> None:
        self.add_button("◀", "Back", lambda: self.go(-0.5), 116)
        self.add_button("▶", "Onwards", lambda: self.go(0.5), 116)
        self.add_button("+", "Closer", lambda: self.widen(-1), 96)
        self.add_button("−", "Wider", lambda: self.widen(1), 96)
        self.add_button("↕", "Higher", lambda: self.stretch(1), 96)
        self.add_button("↔", "Flatter", lambda: self.stretch(-1), 96)
        self.add_button("▲", "Lines up", lambda: self.rows(-1), 100)
        self.add_button("▼", "Lines down", lambda: self.rows(1), 108)
        self.on_keys(lambda by: self.go(by / 2), {"<Left>": -1, "<Right>": 1, "<Prior>": -2, "<Next>": 2})

    def enlarge(self, by: int) -> None:
        self.widen(-by)

    def wheel(self, up: bool) -> None:
        self.go(-0.1 if up else 0.1)

    def number_shown(self) -> int:
        return int(self.look.start) + 1

    # -- files and lines --------------------------------------------------------------------------------------------
    def kind_of(self, path: str) -> str:
        return records.kind_of(path)

    def read(self, path: str, kind: str) -> None:
        self.recording = records.read(path)
        self.look = self.first_look()

    def listed(self) -> list[tuple[int, int | None]]:
        """File and line of each card: the lines of the chosen file stand below it."""
        found: list[tuple[int, int | None]] = []
        for number in range(len(self.files)):
            found.append((number, None))
            if number == self.chosen and self.recording is not None and len(self.recording.channels) > 1:
                found += [(number, line) for line in range(len(self.recording.channels))]
        return found

    def choose_card(self, number: int) -> None:
        file, line = self.listed()[number]
        if file != self.chosen:
            self.choose(file)
            return
        self.look = dataclasses.replace(self.look, only=line)
        self.draw_list()
        self.draw_soon(0)

    def cards(self) -> list[Card]:
        return [self.card_of(*self.files[n]) if line is None else self.line_card(line) for n, line in self.listed()]

    def card_of(self, path: str, kind: str) -> Card:
        words, sign = "tap to open", "∿"
        if chosen := self.is_chosen(path):
            words = "all lines together" if self.recording else "cannot be shown" if self.failed else "opening …"
            sign = "♥" if self.recording and self.recording.is_ecg else sign
        return Card(os.path.basename(path), (words,), sign, chosen=chosen and self.look.only is None)

    def line_card(self, line: int) -> Card:
        assert self.recording is not None
        channel = self.recording.channels[line]
        return Card(channel.lead or channel.name, ("this line alone",), "·", chosen=line == self.look.only)

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
        if self.touched_at is not None:
            moved = (event.x - self.touched_at[0]) / self.view_width * self.look.seconds
            self.go_to(self.start_touched - moved)

    # -- what is shown ----------------------------------------------------------------------------------------------
    def draw(self) -> None:
        if self.recording is None:
            return
        self.image = paper.draw(self.recording, self.look, self.view_width, self.view_height - FOOT)
        self.show(self.image)

    def write(self) -> None:
        if self.chosen < 0:
            return
        recording, look = self.recording, self.look
        if recording is None:
            self.head(self.name)
            return
        self.head(recording.patient or self.name, records.WORDS[recording.kind], recording.date)
        end = min(look.start + look.seconds, recording.seconds)
        mark = ""
        if recording.is_ecg and look.seconds <= 30:
            if paper.shows_page(recording, look) or look.only is not None:
                mark = f"25 mm a second, {10 * look.tall:g} mm a millivolt"
        elif len(recording.channels) > paper.ROWS_MAX and look.only is None:
            last = min(look.first + paper.ROWS_MAX, len(recording.channels))
            mark = f"lines {look.first + 1} to {last} of {len(recording.channels)}"
        self.foot(f"{clock(look.start)} to {clock(end)} of {clock(recording.seconds)}", mark)
        self.progress(round(end * 10), round(recording.seconds * 10))


def clock(seconds: float) -> str:
    whole = int(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    short = f"{whole // 60 % 60}:{whole % 60:02}"
    return f"{whole // 3600}:{short:0>5}" if whole >= 3600 else short


if __name__ == "__main__":
    SimpleSignals().run()
