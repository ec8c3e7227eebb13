#!/usr/bin/python3 -B
"""Simple documents: letters, reports, scans, photos and office files, page by page, for a finger. Kept running before
the claim; reads "open <path>" on its input, says "warm", "ready" or "failed <code>" on its output. What it shows is
made in document_pages.py. Runs in the guest as the viewer user.
"""

import itertools
import os
import tkinter as tk

import document_pages as documents
from folder_files import files_below
from PIL import Image, ImageTk
from touch_ui import CARD_HEIGHT, LIST_WIDTH, SOFT, TEXT, TOP_HEIGHT, fit
from viewer_window import ViewerWindow

FILES_MAX = 500
PAGES_KEPT = 6
SIGNS = {"pdf": "▤", "picture": "▣", "text": "≡", "office": "▦", "unknown": "?"}
OFFICE = "/usr/lib/myphr/office"
LOOK_MILLISECONDS = 100


class SimpleDocuments(ViewerWindow):
    title = "Simple documents"
    kept = "page"
    zooms = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)

    def __init__(self) -> None:
        self.files: list[tuple[str, str]] = []  # path, kind
        self.chosen = -1
        self.document: documents.Document | None = None
        self.office = documents.Office([OFFICE])
        self.page, self.turns = 0, 0
        self.pages: dict[tuple, Image.Image] = {}
        super().__init__()
        self.message("Your documents will appear here", "This machine is ready and waits for you.")

    def build(self) -> None:
        super().build()
        self.add_button("◀", "Page back", lambda: self.step(-1), 128)
        self.add_button("▶", "Next page", lambda: self.step(1), 128)
        self.add_button("▲", "Up", lambda: self.scroll(300), 96)
        self.add_button("▼", "Down", lambda: self.scroll(-300), 96)
        self.add_button("+", "Larger", lambda: self.enlarge(1), 96)
        self.add_button("−", "Smaller", lambda: self.enlarge(-1), 96)
        self.add_button("↻", "Turn", self.turn, 96)
        self.add_button("↺", "Start over", self.reset, 116)
        self.on_key("<Up>", lambda: self.scroll(90))
        self.on_key("<Down>", lambda: self.scroll(-90))
        for key, by in {"<Left>": -1, "<Prior>": -1, "<Right>": 1, "<Next>": 1, "<space>": 1}.items():
            self.on_key(key, lambda by=by: self.step(by))

    def wheel(self, up: bool) -> None:
        self.scroll(90 if up else -90)

    def drag(self, event: tk.Event) -> None:
        self.drag_picture(event)

    def number_shown(self) -> int:
        return self.page + 1

    def run(self) -> None:
        """LibreOffice is loaded while the machine waits for its claim, when nobody waits for the machine."""
        self.window.update()
        self.office.start()
        self.office.wait_until_warm(documents.OFFICE_WARM_SECONDS_MAX)
        super().run()

    # -- the folder -------------------------------------------------------------------------------------------------
    def open(self, path: str) -> None:
        found = itertools.islice(files_below(path), FILES_MAX)
        self.files = [(file, documents.kind_of(file)) for file in found]
        # What can be shown stands first; the order of names is kept within.
        self.files.sort(key=lambda one: one[1] == "unknown")
        self.draw_list()
        if not self.files:
            self.message("There are no files here")
            self.tell("failed nothing-to-show")
            return
        self.choose(0)

    def choose_card(self, number: int) -> None:
        if 0 <= number < len(self.files):
            self.choose(number)

    def choose(self, at: int) -> None:
        self.office.forget()
        self.chosen, self.document, self.page, self.pages = at, None, 0, {}
        self.zoom, self.turns, self.offset = 1.0, 0, [0.0, 0.0]
        path, kind = self.files[at]
        self.draw_list()
        self.draw_words()
        try:
            if kind == "office":
                self.message("Preparing this document …", "A long one takes a little while.")
                self.office.begin(path)
                self.window.after(LOOK_MILLISECONDS, self.look_at_office, at)
                return
            self.document = documents.open_document(path)
        except (documents.CannotShow, OSError) as reason:
            self.cannot(reason)
            return
        self.draw()

    def look_at_office(self, at: int) -> None:
        if at != self.chosen or self.document is not None:
            return  # another one was chosen meanwhile
        try:
            made = self.office.result()
            if made is None:
                self.window.after(LOOK_MILLISECONDS, self.look_at_office, at)
                return
            self.document = documents.Pdf(made)
            os.unlink(made)  # it is open, and this machine's memory is small
        except (documents.CannotShow, OSError) as reason:
            self.cannot(reason)
            return
        self.draw()

    def cannot(self, reason: Exception) -> None:
        sentence = str(reason) if isinstance(reason, documents.CannotShow) else "This file cannot be read."
        more = "The other files of this folder are not affected." if len(self.files) > 1 else ""
        self.message(sentence, more)
        self.draw_words()
        self.tell("ready")

    # -- pages ------------------------------------------------------------------------------------------------------
    def step(self, by: int) -> None:
        if self.document is None:
            return
        wanted = min(max(self.page + by, 0), self.document.pages - 1)
        if wanted != self.page:
            self.page, self.offset = wanted, [0.0, 0.0]
            self.draw_soon(0)

    def scroll(self, by: float) -> None:
        """Down at the end of a page goes to the next one."""
        if self.image is None or self.document is None:
            return
        lowest = min(0, self.view_height - self.image.height - 32)
        if by < 0 and self.offset[1] <= lowest + 1:
            self.step(1)
            return
        if by > 0 and self.offset[1] >= -1 and self.page > 0:
            self.page -= 1
            self.offset = [0.0, -1e9]  # the end of the page before
            self.draw_soon(0)
            return
        self.offset[1] += by
        self.draw_soon(0)

    def turn(self) -> None:
        self.turns = (self.turns + 1) % 4
        self.offset = [0.0, 0.0]
        self.draw_soon(0)

    def reset(self) -> None:
        self.zoom, self.turns, self.offset = 1.0, 0, [0.0, 0.0]
        self.draw_soon(0)

    def rendered(self) -> Image.Image:
        assert self.document is not None
        width = int(self.document.start_width(self.view_width - 32, self.view_height - 32) * self.zoom)
        key = (self.page, width, self.turns)
        if key not in self.pages:
            image = self.document.page(self.page, width, self.turns)
            while len(self.pages) >= PAGES_KEPT:
                self.pages.pop(next(iter(self.pages)))
            self.pages[key] = image
        return self.pages[key]

    def draw(self) -> None:
        if self.document is None:
            return
        try:
            self.image = self.rendered()
        except documents.CannotShow as reason:
            self.cannot(reason)
            return
        image = self.image
        room_x, room_y = max(0, image.width + 32 - self.view_width), max(0, image.height + 32 - self.view_height)
        self.offset[0] = min(max(self.offset[0], -room_x), 0) if room_x else 0
        self.offset[1] = min(max(self.offset[1], -room_y), 0) if room_y else 0
        left = 16 + int(self.offset[0]) if room_x else (self.view_width - image.width) // 2
        top = 16 + int(self.offset[1]) if room_y else max(16, (self.view_height - image.height) // 2)
        box = (
            max(0, -left),
            max(0, -top),
            min(image.width, self.view_width - left),
            min(image.height, self.view_height - top),
        )
        self.photo = ImageTk.PhotoImage(image.crop(box))
        self.view.delete("all")
        self.view.create_image(max(left, 0), max(top, 0), anchor="nw", image=self.photo)
        self.draw_words()
        self.tell("ready")

    def draw_words(self) -> None:
        self.clear_top()
        if self.chosen < 0:
            return
        name = os.path.basename(self.files[self.chosen][0])
        name = fit(name, self.big, self.width - 260)
        self.top.create_text(18, TOP_HEIGHT // 2, anchor="w", text=name, fill=TEXT, font=self.big)
        self.view.delete("words")
        if self.document is not None:
            self.plate(16, self.view_height - 34, f"Page {self.page + 1} of {self.document.pages}")
            self.progress(self.page + 1, self.document.pages)

    # -- the list of files --------------------------------------------------------------------------------------------
    def draw_list(self) -> None:
        self.list.delete("all")
        room = LIST_WIDTH - 96
        for at, (path, kind) in enumerate(self.files):
            on = at == self.chosen
            y = self.card(at, on)
            self.list.create_text(42, y + 42, text=SIGNS[kind], fill=TEXT if on else SOFT, font=self.big)
            name = fit(os.path.basename(path), self.normal, room)
            self.list.create_text(74, y + 30, anchor="w", text=name, fill=TEXT, font=self.normal)
            words = documents.KINDS[kind]
            self.list.create_text(74, y + 55, anchor="w", text=words, fill=TEXT if on else SOFT, font=self.small)
        self.end_list(10 + len(self.files) * CARD_HEIGHT)


if __name__ == "__main__":
    SimpleDocuments().run()
