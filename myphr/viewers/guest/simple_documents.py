#!/usr/bin/python3 -B
"""Simple documents: letters, reports, scans, photos and office files, page by page, for a finger. Kept running before
the claim; reads "open <path>" on its input, says "warm", "ready" or "failed <code>" on its output. What it shows is
made in document_pages.py. Runs in the guest as the viewer user.
"""

import os
import sys
import time
import tkinter as tk
from tkinter import font as tkfont

import document_pages as documents
from PIL import Image, ImageTk
from touch_ui import (
    BACK,
    BAR_HEIGHT,
    BUTTON,
    BUTTON_DOWN,
    CARD,
    CARD_HEIGHT,
    CARD_ON,
    LINE,
    LIST_WIDTH,
    PANEL,
    RESULTS,
    SOFT,
    TEXT,
    TOP_HEIGHT,
    Button,
    KeepButton,
    Toast,
    fit,
    rounded,
)

ZOOMS = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0]
FILES_MAX = 500
PAGES_KEPT = 6
SIGNS = {"pdf": "▤", "picture": "▣", "text": "≡", "office": "▦", "unknown": "?"}
PROFILE = "/home/viewer/office"


class SimpleDocuments:
    def __init__(self) -> None:
        self.window = tk.Tk()
        self.window.title("Simple documents")
        self.window.configure(bg=BACK)
        self.width, self.height = self.window.winfo_screenwidth(), self.window.winfo_screenheight()
        self.window.geometry(f"{self.width}x{self.height}+0+0")
        self.big = tkfont.Font(family="DejaVu Sans", size=17)
        self.normal = tkfont.Font(family="DejaVu Sans", size=12)
        self.small = tkfont.Font(family="DejaVu Sans", size=10)
        self.pending = b""
        self.files: list[tuple[str, str]] = []  # path, kind
        self.chosen = -1
        self.document: documents.Document | None = None
        self.conversion: documents.Conversion | None = None
        self.page, self.zoom, self.turns, self.offset = 0, 1.0, 0, [0.0, 0.0]
        self.kept: dict[tuple, Image.Image] = {}
        self.image: Image.Image | None = None
        self.told = False
        self.draw_wanted: str | None = None
        self.build()
        self.window.tk.createfilehandler(sys.stdin, tk.READABLE, self.command)  # type: ignore[attr-defined]

    def build(self) -> None:
        self.top = tk.Canvas(self.window, height=TOP_HEIGHT, bg=PANEL, highlightthickness=0)
        self.top.place(x=0, y=0, width=self.width, height=TOP_HEIGHT)
        self.list = tk.Canvas(self.window, bg=PANEL, highlightthickness=0)
        self.list.place(x=0, y=TOP_HEIGHT, width=LIST_WIDTH, height=self.height - TOP_HEIGHT)
        self.view_width = self.width - LIST_WIDTH
        self.view_height = self.height - TOP_HEIGHT - BAR_HEIGHT
        self.view = tk.Canvas(self.window, bg=BACK, highlightthickness=0)
        self.view.place(x=LIST_WIDTH, y=TOP_HEIGHT, width=self.view_width, height=self.view_height)
        bar = tk.Frame(self.window, bg=PANEL)
        bar.place(x=LIST_WIDTH, y=self.height - BAR_HEIGHT, width=self.view_width, height=BAR_HEIGHT)
        inner = tk.Frame(bar, bg=PANEL)
        inner.place(relx=0.5, rely=0.5, anchor="center")
        buttons = [
            ("◀", "Page back", lambda: self.step(-1), 128),
            ("▶", "Next page", lambda: self.step(1), 128),
            ("▲", "Up", lambda: self.scroll(300), 96),
            ("▼", "Down", lambda: self.scroll(-300), 96),
            ("+", "Larger", lambda: self.enlarge(1), 96),
            ("−", "Smaller", lambda: self.enlarge(-1), 96),
            ("↻", "Turn", self.turn, 96),
            ("↺", "Start over", self.reset, 116),
        ]
        for sign, word, action, width in buttons:
            Button(inner, sign, word, action, width, BUTTON).pack(side="left", padx=2)
        KeepButton(self.window, "Keep this page", self.keep).place(x=self.width - 208, y=3, width=196, height=54)
        self.toast = Toast(self.view, self.view_width, self.normal)
        self.view.bind("<ButtonPress-1>", self.touch)
        self.view.bind("<B1-Motion>", self.drag)
        self.list.bind("<ButtonPress-1>", self.list_touch)
        self.list.bind("<B1-Motion>", self.list_drag)
        self.list.bind("<ButtonRelease-1>", self.list_release)
        for widget in (self.view, self.window):
            widget.bind("<Button-4>", lambda _e: self.scroll(90))
            widget.bind("<Button-5>", lambda _e: self.scroll(-90))
        self.window.bind("<Up>", lambda _e: self.scroll(90))
        self.window.bind("<Down>", lambda _e: self.scroll(-90))
        for key, by in {"<Left>": -1, "<Prior>": -1, "<Right>": 1, "<Next>": 1, "<space>": 1}.items():
            self.window.bind(key, lambda _e, by=by: self.step(by))
        self.window.bind("<plus>", lambda _e: self.enlarge(1))
        self.window.bind("<minus>", lambda _e: self.enlarge(-1))
        self.message("Your documents will appear here", "This machine is ready and waits for you.")

    def message(self, title: str, more: str = "") -> None:
        self.image = None
        self.view.delete("all")
        x, y = self.view_width // 2, self.view_height // 2
        room = self.view_width - 160
        self.view.create_text(x, y - 16, text=title, fill=TEXT, font=self.big, width=room, justify="center")
        if more:
            self.view.create_text(x, y + 40, text=more, fill=SOFT, font=self.normal, width=room, justify="center")

    # -- orders ---------------------------------------------------------------------------------------------------
    def command(self, _file, _mask) -> None:
        piece = os.read(0, 65536)
        if not piece:
            self.window.destroy()
            return
        self.pending += piece
        while b"\n" in self.pending:
            line, _, self.pending = self.pending.partition(b"\n")
            word, _, path = line.decode(errors="surrogateescape").partition(" ")
            if word == "open":
                self.window.after(0, self.open, path)  # not from here: an error in a file handler would end Tk's loop

    def tell(self, word: str) -> None:
        if not self.told:
            self.told = True
            self.window.update()
            print(word, flush=True)

    def open(self, path: str) -> None:
        self.told = False
        self.files = [(found, documents.kind_of(found)) for found in files_below(path)]
        # What can be shown stands first; the order of names is kept within.
        self.files.sort(key=lambda one: one[1] == "unknown")
        self.draw_list()
        if not self.files:
            self.message("There are no files here")
            self.tell("failed nothing-to-show")
            return
        self.choose(0)

    def choose(self, at: int) -> None:
        if self.conversion is not None:
            self.conversion.stop()
            self.conversion = None
        self.chosen, self.document, self.page, self.kept = at, None, 0, {}
        self.zoom, self.turns, self.offset = 1.0, 0, [0.0, 0.0]
        path, kind = self.files[at]
        self.draw_list()
        self.draw_words()
        try:
            if kind == "office":
                self.message("Preparing this document …", "Office files take a little longer the first time.")
                self.conversion = documents.Conversion(path, PROFILE)
                self.conversion_since = time.monotonic()
                self.window.after(200, self.look_at_conversion)
                return
            self.document = documents.open_document(path)
        except (documents.CannotShow, OSError) as reason:
            self.cannot(reason)
            return
        self.draw()

    def look_at_conversion(self) -> None:
        if self.conversion is None:
            return
        try:
            self.document = self.conversion.result()
            if self.document is None:
                if time.monotonic() - self.conversion_since > documents.OFFICE_SECONDS_MAX:
                    self.conversion.stop()
                    self.conversion = None
                    self.cannot(documents.CannotShow("This file took too long to prepare. Open it with LibreOffice."))
                    return
                self.window.after(200, self.look_at_conversion)
                return
        except documents.CannotShow as reason:
            self.conversion = None
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

    def enlarge(self, by: int) -> None:
        at = min(range(len(ZOOMS)), key=lambda i: abs(ZOOMS[i] - self.zoom))
        self.zoom = ZOOMS[min(max(at + by, 0), len(ZOOMS) - 1)]
        self.draw_soon(0)

    def turn(self) -> None:
        self.turns = (self.turns + 1) % 4
        self.offset = [0.0, 0.0]
        self.draw_soon(0)

    def reset(self) -> None:
        self.zoom, self.turns, self.offset = 1.0, 0, [0.0, 0.0]
        self.draw_soon(0)

    def draw_soon(self, milliseconds: int) -> None:
        if self.draw_wanted is None:
            self.draw_wanted = self.window.after(milliseconds, self.draw)

    def rendered(self) -> Image.Image:
        assert self.document is not None
        width = int(self.document.start_width(self.view_width - 32, self.view_height - 32) * self.zoom)
        key = (self.page, width, self.turns)
        if key not in self.kept:
            image = self.document.page(self.page, width, self.turns)
            while len(self.kept) >= PAGES_KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[key] = image
        return self.kept[key]

    def draw(self) -> None:
        self.draw_wanted = None
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
        self.top.delete("all")
        self.top.create_line(0, TOP_HEIGHT - 1, self.width, TOP_HEIGHT - 1, fill=LINE)
        if self.chosen < 0:
            return
        name = os.path.basename(self.files[self.chosen][0])
        name = fit(name, self.big, self.width - 260)
        self.top.create_text(18, TOP_HEIGHT // 2, anchor="w", text=name, fill=TEXT, font=self.big)
        self.view.delete("words")
        if self.document is None:
            return
        text = f"Page {self.page + 1} of {self.document.pages}"
        wide = self.normal.measure(text) + 20
        y = self.view_height - 34
        self.view.create_rectangle(16, y - 16, 16 + wide, y + 16, fill="#000000", outline=LINE, tags="words")
        self.view.create_text(16 + wide // 2, y, text=text, fill=TEXT, font=self.normal, tags="words")
        if self.document.pages > 1:
            y = self.view_height - 8
            self.view.create_rectangle(16, y, self.view_width - 16, y + 4, fill=LINE, width=0, tags="words")
            end = 16 + (self.view_width - 32) * (self.page + 1) / self.document.pages
            self.view.create_rectangle(16, y, end, y + 4, fill=BUTTON_DOWN, width=0, tags="words")

    def touch(self, event: tk.Event) -> None:
        self.touched = (event.x, event.y, *self.offset)

    def drag(self, event: tk.Event) -> None:
        if hasattr(self, "touched"):
            x, y, left, top = self.touched
            self.offset = [left + event.x - x, top + event.y - y]
            self.draw_soon(15)

    # -- the list of files --------------------------------------------------------------------------------------------
    def draw_list(self) -> None:
        self.list.delete("all")
        y, room = 10, LIST_WIDTH - 96
        for at, (path, kind) in enumerate(self.files):
            on = at == self.chosen
            rounded(self.list, 10, y, LIST_WIDTH - 10, y + CARD_HEIGHT - 8, 12, CARD_ON if on else CARD)
            self.list.create_text(42, y + 42, text=SIGNS[kind], fill=TEXT if on else SOFT, font=self.big)
            name = fit(os.path.basename(path), self.normal, room)
            self.list.create_text(74, y + 30, anchor="w", text=name, fill=TEXT, font=self.normal)
            words = documents.KINDS[kind]
            self.list.create_text(74, y + 55, anchor="w", text=words, fill=TEXT if on else SOFT, font=self.small)
            y += CARD_HEIGHT
        self.list.configure(scrollregion=(0, 0, LIST_WIDTH, max(y + 10, self.height - TOP_HEIGHT)))
        self.list.create_line(LIST_WIDTH - 1, 0, LIST_WIDTH - 1, max(y + 10, self.height), fill=LINE)

    def list_touch(self, event: tk.Event) -> None:
        self.list_from, self.list_moved = event.y, False
        self.list.scan_mark(0, event.y)

    def list_drag(self, event: tk.Event) -> None:
        if abs(event.y - self.list_from) > 12:
            self.list_moved = True
            self.list.scan_dragto(0, event.y, gain=1)

    def list_release(self, event: tk.Event) -> None:
        at = int((self.list.canvasy(event.y) - 10) // CARD_HEIGHT)
        if not self.list_moved and 0 <= at < len(self.files):
            self.choose(at)

    # -- results ------------------------------------------------------------------------------------------------------
    def keep(self) -> None:
        if self.image is None:
            return
        try:
            self.image.save(os.path.join(RESULTS, f"page-{time.strftime('%Y%m%d-%H%M%S')}-{self.page + 1}.png"))
            self.toast.show("Kept. You will find it in your record when this ends.")
        except OSError:
            self.toast.show("The page could not be kept. Please try again.")


def files_below(path: str) -> list[str]:
    """Files in the order of their paths, without what viewers wrote."""
    if os.path.isfile(path):
        return [path]
    found: list[str] = []
    for here, folders, names in os.walk(path):
        if here == path and "results" in folders:
            folders.remove("results")
        folders.sort()
        found += [os.path.join(here, name) for name in sorted(names) if not name.startswith(".")]
        if len(found) >= FILES_MAX:
            break
    return found[:FILES_MAX]


if __name__ == "__main__":
    viewer = SimpleDocuments()
    viewer.window.update()
    print("warm", flush=True)
    viewer.window.mainloop()
