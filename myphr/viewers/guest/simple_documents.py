#!/usr/bin/python3 -B
"""Simple documents: letters, reports, scans, photos and office files, page by page, for a finger. Kept running before
the claim; reads "open <path>" on its input, says "warm", "ready" or "failed <code>" on its output. What it shows is
made in document_pages.py. Runs in the guest as the viewer user.
"""

import functools
import os
import tkinter as tk

import document_pages as documents
from file_window import FileWindow
from touch_ui import Card

PAGES_KEPT = 6
SIGNS = {"pdf": "▤", "picture": "▣", "text": "≡", "office": "▦", "unknown": "?"}
OFFICE = "/usr/lib/myphr/office"
LOOK_MILLISECONDS = 100


class SimpleDocuments(FileWindow):
    title = "Simple documents"
    welcome = "Your documents will appear here"
    kept = "page"
    note = ""
    zooms = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
    none_here = ("There are no files here", "")

    def __init__(self) -> None:
        self.office = documents.Office([OFFICE])
        super().__init__()

    def clear(self) -> None:
        super().clear()
        self.document: documents.Document | None = None
        self.page, self.turns = 0, 0

    def controls(self) -> None:
        self.add_button("◀", "Page back", lambda: self.step(-1), 128)
        self.add_button("▶", "Next page", lambda: self.step(1), 128)
        self.add_button("▲", "Up", lambda: self.scroll(300), 96)
        self.add_button("▼", "Down", lambda: self.scroll(-300), 96)
        self.add_zoom_buttons()
        self.add_button("↻", "Turn", self.turn, 96)
        self.on_keys(self.scroll, {"<Up>": 90, "<Down>": -90})
        self.on_keys(self.step, {"<Left>": -1, "<Prior>": -1, "<Right>": 1, "<Next>": 1, "<space>": 1})

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
    def kind_of(self, path: str) -> str:
        return documents.kind_of(path)

    def card_of(self, path: str, kind: str) -> Card:
        return Card(os.path.basename(path), (documents.KINDS[kind],), SIGNS[kind], chosen=self.is_chosen(path))

    def in_order(self, files: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """What can be shown stands first; the order of names is kept within."""
        return sorted(files, key=lambda one: one[1] == "unknown")

    def read(self, path: str, kind: str) -> None:
        self.office.forget()
        if kind == "office":
            self.message("Preparing this document …", "A long one takes a little while.")
            self.office.begin(path)
            self.window.after(LOOK_MILLISECONDS, self.look_at_office, self.chosen)
        else:
            self.take(documents.open_document(path))

    def look_at_office(self, chosen: int) -> None:
        if chosen == self.chosen and self.document is None:  # else another one was chosen meanwhile
            self.try_to(self.take_from_office)

    def take_from_office(self) -> None:
        made = self.office.result()
        if made is None:
            self.window.after(LOOK_MILLISECONDS, self.look_at_office, self.chosen)
            return
        self.take(documents.Pdf(made))
        os.unlink(made)  # it is open, and this machine's memory is small

    def take(self, document: documents.Document) -> None:
        self.document = document
        self.rendered = functools.lru_cache(PAGES_KEPT)(document.page)

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

    def draw(self) -> None:
        if self.document is None:
            return
        width = int(self.document.start_width(self.view_width - 32, self.view_height - 32) * self.zoom)
        try:
            self.image = self.rendered(self.page, width, self.turns)
        except documents.CannotShow as reason:
            self.cannot(reason, len(self.files) > 1)
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
        self.show(image.crop(box), max(left, 0), max(top, 0))

    def write(self) -> None:
        if self.chosen < 0:
            return
        self.head(self.name)
        if self.document is not None:
            self.foot(f"Page {self.page + 1} of {self.document.pages}")
            self.progress(self.page + 1, self.document.pages)


if __name__ == "__main__":
    SimpleDocuments().run()
