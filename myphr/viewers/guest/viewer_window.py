"""The window that our own viewers share: a bar on top, a list of cards, the picture, big buttons below, a finger that
drags; and how the desk speaks to a viewer that is kept running. What is listed and drawn is the viewer's. Runs in the
guest as the viewer user; its looks come from touch_ui.py.
"""

import abc
import os
import sys
import time
import tkinter as tk
from collections.abc import Callable
from tkinter import font as tkfont

from PIL import Image
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
    rounded,
)

TAP_PIXELS = 12  # a finger that moved less than this meant the card below it


class ViewerWindow(abc.ABC):
    """A viewer in this window has `open(path)`, `draw()`, `draw_words()`, `choose_card(number)`, `drag(event)` and
    `wheel(up)`, and ends its `open` with `tell("ready")` or `tell("failed <code>")`, once."""

    title = ""
    kept = ""  # what the button keeps: "page"
    back = BACK
    zooms: tuple[float, ...] = (1.0,)

    def __init__(self) -> None:
        self.window = tk.Tk()
        self.window.title(self.title)
        self.window.configure(bg=BACK)
        self.width, self.height = self.window.winfo_screenwidth(), self.window.winfo_screenheight()
        self.window.geometry(f"{self.width}x{self.height}+0+0")
        self.big = tkfont.Font(family="DejaVu Sans", size=17)
        self.normal = tkfont.Font(family="DejaVu Sans", size=12)
        self.small = tkfont.Font(family="DejaVu Sans", size=10)
        self.pending = b""
        self.told = False
        self.zoom, self.offset = 1.0, [0.0, 0.0]
        self.image: Image.Image | None = None  # what is shown, and what would be kept
        self.draw_wanted: str | None = None
        self.build()
        self.window.tk.createfilehandler(sys.stdin, tk.READABLE, self.command)  # type: ignore[attr-defined]

    # -- what a viewer brings ---------------------------------------------------------------------------------------
    @abc.abstractmethod
    def open(self, path: str) -> None: ...

    @abc.abstractmethod
    def draw(self) -> None: ...

    @abc.abstractmethod
    def choose_card(self, number: int) -> None: ...

    @abc.abstractmethod
    def drag(self, event: tk.Event) -> None: ...

    @abc.abstractmethod
    def wheel(self, up: bool) -> None: ...

    @abc.abstractmethod
    def number_shown(self) -> int:
        """Of the page or picture that is shown, from 1: it becomes part of a kept picture's name."""

    # -- the window -------------------------------------------------------------------------------------------------
    def build(self) -> None:
        self.top = tk.Canvas(self.window, height=TOP_HEIGHT, bg=PANEL, highlightthickness=0)
        self.top.place(x=0, y=0, width=self.width, height=TOP_HEIGHT)
        self.list = tk.Canvas(self.window, bg=PANEL, highlightthickness=0)
        self.list.place(x=0, y=TOP_HEIGHT, width=LIST_WIDTH, height=self.height - TOP_HEIGHT)
        self.view_width = self.width - LIST_WIDTH
        self.view_height = self.height - TOP_HEIGHT - BAR_HEIGHT
        self.view = tk.Canvas(self.window, bg=self.back, highlightthickness=0)
        self.view.place(x=LIST_WIDTH, y=TOP_HEIGHT, width=self.view_width, height=self.view_height)
        bar = tk.Frame(self.window, bg=PANEL)
        bar.place(x=LIST_WIDTH, y=self.height - BAR_HEIGHT, width=self.view_width, height=BAR_HEIGHT)
        self.bar = tk.Frame(bar, bg=PANEL)
        self.bar.place(relx=0.5, rely=0.5, anchor="center")
        keep = KeepButton(self.window, f"Keep this {self.kept}", self.keep)
        keep.place(x=self.width - 208, y=3, width=196, height=54)
        self.toast = Toast(self.view, self.view_width, self.normal)
        self.view.bind("<ButtonPress-1>", self.touch)
        self.view.bind("<B1-Motion>", self.dragged)
        self.list.bind("<ButtonPress-1>", self.list_touch)
        self.list.bind("<B1-Motion>", self.list_drag)
        self.list.bind("<ButtonRelease-1>", self.list_release)
        for widget in (self.view, self.window):
            widget.bind("<Button-4>", lambda _e: self.wheel(True))
            widget.bind("<Button-5>", lambda _e: self.wheel(False))
        self.on_key("<plus>", lambda: self.enlarge(1))
        self.on_key("<minus>", lambda: self.enlarge(-1))

    def add_button(self, sign: str, word: str, action: Callable[[], None], width: int) -> Button:
        button = Button(self.bar, sign, word, action, width, BUTTON)
        button.pack(side="left", padx=2)
        return button

    def on_key(self, key: str, action: Callable[[], None]) -> None:
        self.window.bind(key, lambda _e: action())

    def message(self, title: str, more: str = "") -> None:
        self.image = None
        self.view.delete("all")
        x, y = self.view_width // 2, self.view_height // 2
        room = self.view_width - 160
        self.view.create_text(x, y - 16, text=title, fill=TEXT, font=self.big, width=room, justify="center")
        if more:
            self.view.create_text(x, y + 40, text=more, fill=SOFT, font=self.normal, width=room, justify="center")

    # -- orders -----------------------------------------------------------------------------------------------------
    def command(self, _file: object, _mask: int) -> None:
        piece = os.read(0, 65536)
        if not piece:
            self.window.destroy()
            return
        self.pending += piece
        while b"\n" in self.pending:
            line, _, self.pending = self.pending.partition(b"\n")
            word, _, path = line.decode(errors="surrogateescape").partition(" ")
            if word == "open":
                # Not from here: an error in a file handler would end Tk's loop.
                self.window.after(0, self.obey, path)

    def obey(self, path: str) -> None:
        self.told = False
        self.open(path)

    def say(self, word: str) -> None:
        print(word, flush=True)

    def tell(self, word: str) -> None:
        """To the desk, after what is shown is on the screen; only the first time after an order."""
        if not self.told:
            self.told = True
            self.window.update()
            self.say(word)

    def run(self) -> None:
        """Says "warm" when the window stands, then serves until the desk goes away."""
        self.window.update()
        self.say("warm")
        self.window.mainloop()

    # -- the picture ------------------------------------------------------------------------------------------------
    def draw_soon(self, milliseconds: int) -> None:
        """Many moves of a finger become one drawing."""
        if self.draw_wanted is None:
            self.draw_wanted = self.window.after(milliseconds, self.draw_now)

    def draw_now(self) -> None:
        self.draw_wanted = None
        self.draw()

    def enlarge(self, by: int) -> None:
        at = min(range(len(self.zooms)), key=lambda i: abs(self.zooms[i] - self.zoom))
        self.zoom = self.zooms[min(max(at + by, 0), len(self.zooms) - 1)]
        self.draw_soon(0)

    def plate(self, x: int, y: int, text: str, anchor: str = "w", back: str = "#000000") -> None:
        """White on black, readable over any picture."""
        wide = self.normal.measure(text) + 20
        left = x if anchor == "w" else x - wide
        self.view.create_rectangle(left, y - 16, left + wide, y + 16, fill=back, outline=LINE, tags="words")
        self.view.create_text(left + wide // 2, y, text=text, fill=TEXT, font=self.normal, tags="words")

    def progress(self, number: int, count: int) -> None:
        """Where in all of them this one is: a thin line that fills."""
        if count > 1:
            y = self.view_height - 8
            self.view.create_rectangle(16, y, self.view_width - 16, y + 4, fill=LINE, width=0, tags="words")
            end = 16 + (self.view_width - 32) * number / count
            self.view.create_rectangle(16, y, end, y + 4, fill=BUTTON_DOWN, width=0, tags="words")

    def clear_top(self) -> None:
        self.top.delete("all")
        self.top.create_line(0, TOP_HEIGHT - 1, self.width, TOP_HEIGHT - 1, fill=LINE)

    def touch(self, event: tk.Event) -> None:
        self.touched_at = (event.x, event.y, *self.offset)

    def dragged(self, event: tk.Event) -> None:
        if hasattr(self, "touched_at"):
            self.drag(event)

    def drag_picture(self, event: tk.Event) -> None:
        x, y, left, top = self.touched_at
        self.offset = [left + event.x - x, top + event.y - y]
        self.draw_soon(15)

    # -- the list of cards ------------------------------------------------------------------------------------------
    def card(self, number: int, chosen: bool) -> int:
        """The empty card of this number, from 0; its upper edge."""
        y = 10 + number * CARD_HEIGHT
        rounded(self.list, 10, y, LIST_WIDTH - 10, y + CARD_HEIGHT - 8, 12, CARD_ON if chosen else CARD)
        return y

    def end_list(self, height: int) -> None:
        self.list.configure(scrollregion=(0, 0, LIST_WIDTH, max(height + 10, self.height - TOP_HEIGHT)))
        self.list.create_line(LIST_WIDTH - 1, 0, LIST_WIDTH - 1, max(height + 10, self.height), fill=LINE)

    def list_touch(self, event: tk.Event) -> None:
        self.list_from, self.list_moved = event.y, False
        self.list.scan_mark(0, event.y)

    def list_drag(self, event: tk.Event) -> None:
        if abs(event.y - self.list_from) > TAP_PIXELS:
            self.list_moved = True
            self.list.scan_dragto(0, event.y, gain=1)

    def list_release(self, event: tk.Event) -> None:
        if not self.list_moved:
            self.choose_card(int((self.list.canvasy(event.y) - 10) // CARD_HEIGHT))

    # -- results ----------------------------------------------------------------------------------------------------
    def keep(self) -> None:
        if self.image is None:
            return
        name = f"{self.kept}-{time.strftime('%Y%m%d-%H%M%S')}-{self.number_shown()}.png"
        try:
            self.image.save(os.path.join(RESULTS, name))
            self.toast.show("Kept. You will find it in your record when this ends.")
        except OSError:
            self.toast.show(f"The {self.kept} could not be kept. Please try again.")
