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
from folder_files import files_below
from PIL import Image, ImageDraw, ImageFont, ImageTk
from touch_ui import BACK, BUTTON, BUTTON_DOWN, CARD_HEIGHT, LINE, LIST_WIDTH, PANEL, SOFT, TEXT, TOP_HEIGHT, fit
from viewer_window import ViewerWindow

FILES_MAX = 300
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
NOTE = "For looking, not for diagnosis"
SIGNS = {"vcf": "≠", "bcf": "≠", "test": "⌂"}


class SimpleGenome(ViewerWindow):
    title = "Simple genome"
    kept = "page"

    def __init__(self) -> None:
        self.files: list[tuple[str, str]] = []
        self.clear()
        super().__init__()
        self.face = ImageFont.truetype(FONT, 16)
        self.message("Your gene files will appear here", "This machine is ready and waits for you.")

    def clear(self) -> None:
        self.chosen = -1
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

    def build(self) -> None:
        super().build()
        self.add_button("▲", "Page up", lambda: self.page(-1), 128)
        self.add_button("▼", "Page down", lambda: self.page(1), 128)
        self.add_button("⌕", "Look for", self.show_keys, 128)
        self.changes_button = self.add_button("≠", "Only changes", self.toggle_changes, 148)
        self.add_button("↺", "Start over", self.reset, 128)
        for key, by in {"<Prior>": -1, "<Next>": 1}.items():
            self.on_key(key, lambda by=by: self.page(by))
        for key, by in {"<Up>": -1, "<Down>": 1}.items():
            self.on_key(key, lambda by=by: self.scroll(by))
        self.window.bind("<Key>", self.key)
        self.view.bind("<ButtonRelease-1>", self.released)

    def enlarge(self, by: int) -> None:
        pass

    def wheel(self, up: bool) -> None:
        self.scroll(-3 if up else 3)

    def number_shown(self) -> int:
        return self.first + 1

    @property
    def page_rows(self) -> int:
        return (self.view_height - HEAD_HEIGHT - 56) // ROW_HEIGHT

    # -- files ------------------------------------------------------------------------------------------------------
    def open(self, path: str) -> None:
        self.clear()
        self.message("Opening your files …")
        found = [(file, records.kind_of(file)) for file in itertools.islice(files_below(path), FILES_MAX)]
        self.files = [one for one in found if one[1]]
        if not self.files:
            self.draw_list()
            self.message(
                "There are no gene variants here that this viewer knows",
                "It opens VCF and BCF files and home tests of genes. For aligned reads use IGV.",
            )
            self.tell("failed nothing-to-show")
            return
        self.choose(0)

    def choose_card(self, number: int) -> None:
        if 0 <= number < len(self.files):
            self.choose(number)

    def choose(self, number: int) -> None:
        self.clear()
        self.chosen = number
        self.message("Opening this file …")
        self.draw_list()
        self.window.update_idletasks()
        try:
            self.table = records.read(self.files[number][0])
            self.start()
            # A file of a whole genome that also lists what is as usual starts with its changes alone.
            self.fill(200)
            if any(row.changed for row in self.rows) and any(row.changed is False for row in self.rows):
                self.only_changes = True
                self.start()
        except (records.CannotShow, OSError) as reason:
            sentence = str(reason) if isinstance(reason, records.CannotShow) else "This file cannot be read."
            self.message(sentence, "The other files of this folder are not affected." if len(self.files) > 1 else "")
            self.draw_words()
            self.tell("ready")
            return
        self.draw()

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
        rows = int((self.touched_at[1] - event.y) / ROW_HEIGHT)
        if rows != self.dragged_rows:
            moved, self.dragged_rows = rows - self.dragged_rows, rows
            self.scroll(moved)

    def touch(self, event: tk.Event) -> None:
        super().touch(event)
        self.dragged_rows = 0

    def released(self, event: tk.Event) -> None:
        if not hasattr(self, "touched_at") or abs(event.y - self.touched_at[1]) > 12 or self.table is None:
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
        self.photo = ImageTk.PhotoImage(self.image)
        self.view.delete("all")
        self.view.create_image(0, 0, anchor="nw", image=self.photo)
        self.draw_words()
        self.draw_list()
        self.tell("ready")

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
        text = "".join(c for c in text[:200] if c.isprintable())
        if self.face.getlength(text) <= room:
            return text
        while text and self.face.getlength(text + "…") > room:
            text = text[:-1]
        return text + "…"

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

    def draw_words(self) -> None:
        self.clear_top()
        self.view.delete("words")
        if self.chosen < 0:
            return
        name = fit(os.path.basename(self.files[self.chosen][0]), self.big, self.width // 2)
        middle = TOP_HEIGHT // 2
        self.top.create_text(18, middle, anchor="w", text=name, fill=TEXT, font=self.big)
        if self.table is None:
            return
        x = 18 + self.big.measure(name) + 22
        people = self.table.people
        who = f"{people[0]}, the first of {len(people)} people" if len(people) > 1 else (people[0] if people else "")
        words = "  ·  ".join(word for word in (self.table.title, "".join(c for c in who if c.isprintable())) if word)
        self.top.create_text(
            x, middle + 2, anchor="w", text=fit(words, self.normal, self.width - 230 - x), fill=SOFT, font=self.normal
        )
        if self.typed is not None or self.detail is not None:
            return
        count = f"{len(self.rows):,}" if self.ended else f"{len(self.rows):,} and more"
        last = min(self.first + self.page_rows, len(self.rows))
        words = f"{self.first + 1:,} to {last:,} of {count}" if self.rows else "none"
        self.plate(16, self.view_height - 30, words)
        marks = [f"looking for {self.looking_for}"] if self.looking_for else []
        if self.searching:
            marks.append(f"{self.seen:,} looked through …")
        if self.table.kind == "vcf":
            marks.append("only what differs from usual" if self.only_changes else "all that the file lists")
        if marks:
            self.plate(self.view_width - 16, self.view_height - 30, ", ".join(marks), "e")
        self.changes_button.say("≠", "Show all" if self.only_changes else "Only changes")

    def draw_list(self) -> None:
        self.list.delete("all")
        room = LIST_WIDTH - 96
        kinds = {"vcf": "gene variants", "bcf": "gene variants", "test": "home test of genes"}
        for at, (path, kind) in enumerate(self.files):
            on = at == self.chosen
            y = self.card(at, on)
            self.list.create_text(42, y + 42, text=SIGNS[kind], fill=TEXT if on else SOFT, font=self.big)
            name = fit(os.path.basename(path), self.normal, room)
            self.list.create_text(74, y + 30, anchor="w", text=name, fill=TEXT, font=self.normal)
            self.list.create_text(74, y + 55, anchor="w", text=kinds[kind], fill=TEXT if on else SOFT, font=self.small)
        height = 10 + len(self.files) * CARD_HEIGHT
        foot = max(height + 24, self.height - TOP_HEIGHT - 22)
        self.list.create_text(LIST_WIDTH // 2, foot, text=NOTE, fill=SOFT, font=self.small)
        self.end_list(max(height, foot + 12))


if __name__ == "__main__":
    SimpleGenome().run()
