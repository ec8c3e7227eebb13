#!/usr/bin/python3 -B
"""Simple genome: gene variants and home tests of genes as a table with large rows, for a finger. One looks for a
gene, an rs number or a place with large keys; a row tapped tells all that the file says about it. Kept running before
the claim; reads "open <path>" on its input, says "warm", "ready" or "failed <code>" on its output. What it shows is
made in genome_records.py. Runs in the guest as the viewer user.
"""

import itertools
import os
import time
import tkinter as tk
from collections.abc import Iterator

import genome_records as records
from file_window import FileWindow
from PIL import Image, ImageDraw, ImageFont
from touch_ui import BACK, BUTTON, BUTTON_DOWN, LINE, PANEL, SOFT, TEXT, Card, fit

READ_SECONDS = 0.05  # of every turn go to searching; the rest belongs to the finger
HITS_MAX = 2000
ROW_HEIGHT, HEAD_HEIGHT = 46, 44
COLUMNS = {  # title, share of the width
    "vcf": (("Place", 0.19), ("Name", 0.15), ("Usual", 0.1), ("Here", 0.16), ("Gene", 0.12), ("What it may do", 0.28)),
    "test": (("Place", 0.3), ("Name", 0.35), ("Here", 0.35)),
}
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
CHANGED, ROW_EVEN = "#ffd37f", "#131920"
KEYS = ("1234567890", "QWERTYUIOP", "ASDFGHJKL:", "ZXCVBNM-,.")
KINDS = {  # of files: their sign and word
    "vcf": ("≠", "gene variants"),
    "bcf": ("≠", "gene variants"),
    "test": ("⌂", "home test of genes"),
}


class SimpleGenome(FileWindow):
    title = "Simple genome"
    welcome = "Your gene files will appear here"
    kept = "page"
    none_here = (
        "There are no gene variants here that this viewer knows",
        "It opens VCF and BCF files and home tests of genes. For aligned reads use IGV.",
    )

    def __init__(self) -> None:
        self.face = ImageFont.truetype(FONT, 16)
        super().__init__()

    def clear(self) -> None:
        super().clear()
        self.table: records.Table | None = None
        self.source: Iterator[records.Row] = iter(())
        self.rows: list[records.Row] = []
        self.ended = True
        self.first = 0
        self.only_changes = False
        self.looking_for = ""
        self.searching = False
        self.typed: str | None = None  # while the keys are shown
        self.detail: records.Row | None = None

    def controls(self) -> None:
        self.add_button("▲", "Page up", lambda: self.page(-1), 128)
        self.add_button("▼", "Page down", lambda: self.page(1), 128)
        self.add_button("⌕", "Look for", self.show_keys, 128)
        self.changes_button = self.add_button("≠", "Only changes", self.toggle_changes, 148)
        self.on_keys(self.page, {"<Prior>": -1, "<Next>": 1})
        self.on_keys(self.scroll, {"<Up>": -1, "<Down>": 1})
        self.window.bind("<Key>", self.key)

    def wheel(self, up: bool) -> None:
        self.scroll(-3 if up else 3)

    def number_shown(self) -> int:
        return self.first + 1

    @property
    def page_rows(self) -> int:
        return (self.view_height - HEAD_HEIGHT - 56) // ROW_HEIGHT

    # -- files ------------------------------------------------------------------------------------------------------
    def kind_of(self, path: str) -> str:
        return records.kind_of(path)

    def card_of(self, path: str, kind: str) -> Card:
        sign, words = KINDS[kind]
        return Card(os.path.basename(path), (words,), sign, chosen=self.is_chosen(path))

    def read(self, path: str, kind: str) -> None:
        self.table = records.read(path)
        self.start()
        # A file of a whole genome that also lists what is as usual starts with its changes alone.
        self.fill(200)
        if any(row.changed for row in self.rows) and any(row.changed is False for row in self.rows):
            self.only_changes = True
            self.start()

    def start(self) -> None:
        """From the first row on, of all or of what is looked for."""
        assert self.table is not None
        self.rows, self.first, self.ended, self.detail = [], 0, False, None
        wanted = records.wanted(self.looking_for) if self.looking_for else None
        self.source = iter(self.table.rows())
        self.matches = lambda row: (wanted is None or wanted(row)) and (not self.only_changes or bool(row.changed))
        self.seen = 0

    def fill(self, count: int, seconds: float = 20.0) -> bool:
        """Reads on until there are so many rows; whether there are, or there are no more."""
        deadline = time.monotonic() + seconds
        try:
            while len(self.rows) < min(count, records.ROWS_MAX) and not self.ended:
                row = next(self.source, None)
                if row is None:
                    self.ended = True
                    break
                self.seen += 1
                if self.matches(row):
                    self.rows.append(row)
                if self.seen % 64 == 0 and time.monotonic() > deadline:
                    return False
        except records.CannotShow as sentence:
            self.ended = True
            self.toast.show(str(sentence))
        return True

    # -- moving -------------------------------------------------------------------------------------------------------
    def page(self, by: int) -> None:
        self.scroll(by * self.page_rows)

    def scroll(self, by: int) -> None:
        if self.table is None or self.typed is not None:
            return
        self.detail = None
        self.first = max(0, self.first + by)
        self.draw_soon(0)

    def toggle_changes(self) -> None:
        if self.table is not None and self.table.kind == "vcf":
            self.only_changes = not self.only_changes
            self.start()
            self.draw_soon(0)

    def reset(self) -> None:
        if self.table is not None:
            self.looking_for, self.typed = "", None
            self.start()
            self.draw_soon(0)

    def drag(self, event: tk.Event) -> None:
        if self.touched_at is None:
            return
        rows = int((self.touched_at[1] - event.y) / ROW_HEIGHT)
        if rows != self.dragged_rows:
            moved, self.dragged_rows = rows - self.dragged_rows, rows
            self.scroll(moved)

    def touch(self, event: tk.Event) -> None:
        super().touch(event)
        self.dragged_rows = 0

    def tapped(self, event: tk.Event) -> None:
        if self.table is None:
            return
        if self.typed is not None:
            self.key_touched(event.x, event.y)
            return
        if self.detail is not None:
            self.detail = None
        else:
            number = self.first + (event.y - HEAD_HEIGHT) // ROW_HEIGHT
            if event.y < HEAD_HEIGHT or number >= len(self.rows) or number >= self.first + self.page_rows:
                return
            self.detail = self.rows[number]
        self.draw_soon(0)

    # -- looking for something ----------------------------------------------------------------------------------------
    def show_keys(self) -> None:
        if self.table is not None:
            self.typed = ""
            self.draw_soon(0)

    def key(self, event: tk.Event) -> None:
        printable = bool(event.char) and event.char.isprintable()
        if self.table is None or not (printable or event.keysym in ("Return", "BackSpace")):
            return
        if event.keysym == "Return":
            self.look_for()
        elif event.keysym == "BackSpace":
            self.typed = (self.typed or "")[:-1]
        else:
            self.typed = (self.typed or "") + event.char.upper()
        self.draw_soon(0)

    def key_places(self) -> Iterator[tuple[str, int, int, int, int]]:
        """Each key with its corners."""
        wide, high, top = self.view_width // 11, 78, 170
        for row, keys in enumerate(KEYS):
            for column, key in enumerate(keys):
                x, y = 16 + column * (wide + 6), top + row * (high + 6)
                yield key, x, y, x + wide, y + high
        y = top + len(KEYS) * (high + 6)
        third = (self.view_width - 48) // 4
        for number, key in enumerate(("RS", "⌫", "Cancel", "Look for")):
            x = 16 + number * (third + 6)
            yield key, x, y, x + third - 6, y + high - 10

    def key_touched(self, x: int, y: int) -> None:
        for key, left, top, right, bottom in self.key_places():
            if left <= x <= right and top <= y <= bottom:
                if key == "Look for":
                    self.look_for()
                elif key == "Cancel":
                    self.typed = None
                elif key == "⌫":
                    self.typed = (self.typed or "")[:-1]
                else:
                    self.typed = ((self.typed or "") + key)[:40]
        self.draw_soon(0)

    def look_for(self) -> None:
        self.looking_for, self.typed = (self.typed or "").strip(), None
        self.start()
        self.searching = bool(self.looking_for)
        self.search_on()

    def search_on(self) -> None:
        """A slice of time; what was found is shown while the rest is looked through."""
        if not self.searching or self.table is None:
            return
        before = len(self.rows)
        self.fill(HITS_MAX, READ_SECONDS)
        self.searching = not self.ended and len(self.rows) < HITS_MAX
        if len(self.rows) != before or not self.searching or self.seen % 2000 < 64:
            self.draw()
        if self.searching:
            self.window.after(5, self.search_on)

    # -- what is shown ----------------------------------------------------------------------------------------------
    def draw(self) -> None:
        if self.table is None:
            return
        if self.typed is not None:
            self.image = self.keys_picture()
        elif self.detail is not None:
            self.image = self.detail_picture(self.detail)
        else:
            if not self.searching:
                self.fill(self.first + self.page_rows)
            self.first = min(self.first, max(0, len(self.rows) - self.page_rows))
            self.image = self.table_picture()
        self.show(self.image)

    def sheet(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.new("RGB", (self.view_width, self.view_height), BACK)
        return image, ImageDraw.Draw(image)

    def table_picture(self) -> Image.Image:
        assert self.table is not None
        image, pen = self.sheet()
        columns = COLUMNS[self.table.kind]
        edges = list(itertools.accumulate((share for _, share in columns), initial=0.0))
        lefts = [16 + int(edge * (self.view_width - 16)) for edge in edges]
        pen.rectangle((0, 0, self.view_width, HEAD_HEIGHT), fill=PANEL)
        for (title, _), left in zip(columns, lefts, strict=False):
            pen.text((left, 13), title, fill=SOFT, font=self.face)
        for number, row in enumerate(self.rows[self.first : self.first + self.page_rows]):
            y = HEAD_HEIGHT + number * ROW_HEIGHT
            if number % 2:
                pen.rectangle((0, y, self.view_width, y + ROW_HEIGHT), fill=ROW_EVEN)
            words = (row.place, row.name, row.usual, row.letters, row.gene, row.effect)
            if self.table.kind == "test":
                words = (row.place, row.name, row.letters)
            for at, word in enumerate(words):
                here = columns[at][0] == "Here"
                ink = CHANGED if here and row.changed else TEXT
                room = lefts[at + 1] - lefts[at] - 12
                pen.text((lefts[at], y + 13), self.cut(word, room), fill=ink, font=self.face)
        if not self.rows:
            words = "Looking …" if self.searching else "There is nothing of this kind in this file."
            pen.text((16, HEAD_HEIGHT + 20), words, fill=SOFT, font=self.face)
        return image

    def cut(self, text: str, room: int) -> str:
        return fit("".join(c for c in text[:200] if c.isprintable()), self.face.getlength, room)

    def detail_picture(self, row: records.Row) -> Image.Image:
        image, pen = self.sheet()
        facts = [("Place", row.place), ("Name", row.name), ("Here", row.letters), ("Gene", row.gene)]
        facts.append(("What it may do", row.effect))
        y = 24
        for word, value in [*facts, *row.more]:
            if value:
                pen.text((24, y), self.cut(word, 300), fill=SOFT, font=self.face)
                ink = CHANGED if word == "Here" and row.changed else TEXT
                pen.text((330, y), self.cut(value, self.view_width - 350), fill=ink, font=self.face)
                y += 42
        advice = "A change is not an illness. Talk to a doctor before you act on it."
        pen.text((24, y + 12), advice, fill=SOFT, font=self.face)
        pen.text((24, y + 44), "Tap to go back to the table.", fill=SOFT, font=self.face)
        return image

    def keys_picture(self) -> Image.Image:
        image, pen = self.sheet()
        hint = "A gene (BRCA1), an rs number (RS6054257) or a place (7:117559590)"
        pen.text((16, 20), hint, fill=SOFT, font=self.face)
        pen.rounded_rectangle((16, 60, self.view_width - 16, 130), 10, fill=PANEL, outline=LINE)
        pen.text((32, 84), f"{self.typed}▏", fill=TEXT, font=self.face)
        for key, left, top, right, bottom in self.key_places():
            colour = BUTTON_DOWN if key == "Look for" else BUTTON
            pen.rounded_rectangle((left, top, right, bottom), 10, fill=colour)
            at = ((left + right) // 2, (top + bottom) // 2)
            pen.text(at, key, fill=TEXT, font=self.face, anchor="mm")
        return image

    def write(self) -> None:
        if self.chosen < 0:
            return
        if self.table is None:
            self.head(self.name)
            return
        people = self.table.people
        who = f"{people[0]}, the first of {len(people)} people" if len(people) > 1 else "".join(people)
        self.head(self.name, self.table.title, "".join(c for c in who if c.isprintable()))
        if self.typed is not None or self.detail is not None:
            return
        count = f"{len(self.rows):,}" if self.ended else f"{len(self.rows):,} and more"
        last = min(self.first + self.page_rows, len(self.rows))
        marks = [f"looking for {self.looking_for}"] if self.looking_for else []
        if self.searching:
            marks.append(f"{self.seen:,} looked through …")
        if self.table.kind == "vcf":
            marks.append("only what differs from usual" if self.only_changes else "all that the file lists")
        self.foot(f"{self.first + 1:,} to {last:,} of {count}" if self.rows else "none", ", ".join(marks))
        self.changes_button.say("≠", "Show all" if self.only_changes else "Only changes")


if __name__ == "__main__":
    SimpleGenome().run()
