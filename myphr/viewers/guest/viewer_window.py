"""The window that our own viewers share: a bar on top, a list of cards, the picture, big buttons below, a finger that
drags; how it says what is shown, what cannot be shown and that there is nothing; and how the desk speaks to a viewer
that is kept running. What is listed and drawn is the viewer's. Runs in the guest as the viewer user; its looks come
from touch_ui.py.
"""

import abc
import os
import sys
import time
import tkinter as tk
from collections.abc import Callable, Mapping, Sequence
from tkinter import font as tkfont

from folder_files import CannotShow
from PIL import Image, ImageTk
from touch_ui import (
    BACK,
    BAR_HEIGHT,
    BIG,
    BUTTON,
    BUTTON_DOWN,
    LINE,
    LIST_WIDTH,
    NORMAL,
    PANEL,
    SIGN_WIDTH,
    SOFT,
    TAP_PIXELS,
    TEXT,
    TOP_HEIGHT,
    Button,
    Card,
    CardList,
    KeepButton,
    Toast,
    fit,
)

RESULTS = "/data/results"


class ViewerWindow(abc.ABC):
    """A viewer in this window ends its `open` with `tell("ready")` or `tell("failed <code>")`, once; `show`, `cannot`
    and `nothing` do it."""

    title = ""
    welcome = ""
    kept = ""  # what the button keeps: "page"
    things = "files"  # what the folder holds several of
    note = "For looking, not for diagnosis"
    back = BACK
    mark_width = SIGN_WIDTH  # of what stands before the words of a card
    zooms: tuple[float, ...] = (1.0,)

    def __init__(self) -> None:
        self.window = tk.Tk()
        self.window.title(self.title)
        self.window.configure(bg=BACK)
        self.width, self.height = self.window.winfo_screenwidth(), self.window.winfo_screenheight()
        self.window.geometry(f"{self.width}x{self.height}+0+0")
        self.big, self.normal = tkfont.Font(font=BIG), tkfont.Font(font=NORMAL)
        self.pending = b""
        self.told = False
        self.touched_at: tuple[float, float, float, float] | None = None  # and the offset then
        self.draw_wanted: str | None = None
        self.clear()
        self.build()
        self.message(self.welcome, "This machine is ready and waits for you.")
        self.window.tk.createfilehandler(sys.stdin, tk.READABLE, self.command)  # type: ignore[attr-defined]

    # -- what a viewer brings ---------------------------------------------------------------------------------------
    def clear(self) -> None:
        """As it stands before anything was opened."""
        self.zoom, self.offset = 1.0, [0.0, 0.0]
        self.image: Image.Image | None = None  # what is shown, and what would be kept

    @abc.abstractmethod
    def controls(self) -> None:
        """The viewer's own buttons and keys; "Start over" comes behind them."""

    @abc.abstractmethod
    def open(self, path: str) -> None: ...

    @abc.abstractmethod
    def draw(self) -> None: ...

    @abc.abstractmethod
    def write(self) -> None:
        """The words on the top bar and over the picture; both are empty before."""

    @abc.abstractmethod
    def cards(self) -> list[Card]: ...

    @abc.abstractmethod
    def choose_card(self, number: int) -> None: ...

    @abc.abstractmethod
    def reset(self) -> None: ...

    @abc.abstractmethod
    def drag(self, event: tk.Event) -> None: ...

    @abc.abstractmethod
    def wheel(self, up: bool) -> None: ...

    @abc.abstractmethod
    def number_shown(self) -> int:
        """Of the page or picture that is shown, from 1: it becomes part of a kept picture's name."""

    def tapped(self, event: tk.Event) -> None:  # noqa: B027 - most do nothing then
        """A finger touched the picture and did not move."""

    def busy_with(self) -> str:
        """What is still going on, for the foot of the list."""
        return ""

    # -- the window -------------------------------------------------------------------------------------------------
    def build(self) -> None:
        self.top = tk.Canvas(self.window, height=TOP_HEIGHT, bg=PANEL, highlightthickness=0)
        self.top.place(x=0, y=0, width=self.width, height=TOP_HEIGHT)
        self.list = CardList(self.window, self.height - TOP_HEIGHT, self.mark_width, self.choose_card)
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
        self.toast = Toast(self.view, self.view_width)
        self.view.bind("<ButtonPress-1>", self.touch)
        self.view.bind("<B1-Motion>", self.dragged)
        self.view.bind("<ButtonRelease-1>", self.released)
        for widget in (self.view, self.window):
            widget.bind("<Button-4>", lambda _e: self.wheel(True))
            widget.bind("<Button-5>", lambda _e: self.wheel(False))
        self.on_keys(self.enlarge, {"<plus>": 1, "<minus>": -1})
        self.controls()
        self.add_button("↺", "Start over", self.reset, 108)

    def add_button(self, sign: str, word: str, action: Callable[[], None], width: int) -> Button:
        button = Button(self.bar, sign, word, action, width, BUTTON)
        button.pack(side="left", padx=2)
        return button

    def add_zoom_buttons(self) -> None:
        self.add_button("+", "Larger", lambda: self.enlarge(1), 88)
        self.add_button("−", "Smaller", lambda: self.enlarge(-1), 88)

    def on_keys(self, action: Callable[[int], None], keys: Mapping[str, int]) -> None:
        for key, by in keys.items():
            self.window.bind(key, lambda _e, by=by: action(by))

    def message(self, title: str, more: str = "") -> None:
        self.image = None
        self.view.delete("all")
        x, y = self.view_width // 2, self.view_height // 2
        room = self.view_width - 160
        self.view.create_text(x, y - 16, text=title, fill=TEXT, font=BIG, width=room, justify="center")
        if more:
            self.view.create_text(x, y + 40, text=more, fill=SOFT, font=NORMAL, width=room, justify="center")

    def nothing(self, title: str, more: str = "") -> None:
        """The folder holds nothing that this viewer opens."""
        self.draw_list()
        self.message(title, more)
        self.tell("failed nothing-to-show")

    def cannot(self, reason: Exception, others: bool) -> None:
        """One of them cannot be shown; `others` when there are more to choose from."""
        sentence = str(reason) if isinstance(reason, CannotShow) else "This file cannot be read."
        self.message(sentence, f"The other {self.things} of this folder are not affected." if others else "")
        self.draw_words()
        self.draw_list()
        self.tell("ready")

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
            self.window.winfo_pointerxy()  # an answer of the X server: what was sent before it has been drawn
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

    def show(self, picture: Image.Image, left: int = 0, top: int = 0) -> None:
        """Puts it where the picture belongs, with its words, and says that something is there."""
        self.photo = ImageTk.PhotoImage(picture)
        self.view.delete("all")
        self.view.create_image(left, top, anchor="nw", image=self.photo)
        self.draw_words()
        self.tell("ready")

    def enlarge(self, by: int) -> None:
        at = min(range(len(self.zooms)), key=lambda i: abs(self.zooms[i] - self.zoom))
        self.zoom = self.zooms[min(max(at + by, 0), len(self.zooms) - 1)]
        self.draw_soon(0)

    # -- words --------------------------------------------------------------------------------------------------------
    def draw_words(self) -> None:
        self.top.delete("all")
        self.top.create_line(0, TOP_HEIGHT - 1, self.width, TOP_HEIGHT - 1, fill=LINE)
        self.view.delete("words")
        self.write()

    def head(self, name: str, *facts: str) -> None:
        """Whose or what it is, large, and beside it what else is known."""
        middle, left = TOP_HEIGHT // 2, 18
        words = "  ·  ".join(fact for fact in facts if fact)
        name = fit(name, self.big.measure, self.width // 2 if words else self.width - 260)
        self.top.create_text(left, middle, anchor="w", text=name, fill=TEXT, font=BIG)
        left += self.big.measure(name) + 22
        words = fit(words, self.normal.measure, self.width - 230 - left)
        self.top.create_text(left, middle + 2, anchor="w", text=words, fill=SOFT, font=NORMAL)

    def foot(self, here: str, how: str = "") -> None:
        """Where one is; at the other side how it is shown."""
        y = self.view_height - 34
        self.plate(16, y, here)
        if how:
            self.plate(self.view_width - 16, y, how, "e")

    def plate(self, x: int, y: int, text: str, anchor: str = "w", back: str = "#000000") -> None:
        """White on black, readable over any picture."""
        wide = self.normal.measure(text) + 20
        left = {"w": x, "e": x - wide, "center": x - wide // 2}[anchor]
        self.view.create_rectangle(left, y - 16, left + wide, y + 16, fill=back, outline=LINE, tags="words")
        self.view.create_text(left + wide // 2, y, text=text, fill=TEXT, font=NORMAL, tags="words")

    def sides(self, words: Sequence[str], width: int, height: int) -> None:
        """Which side of the body is left, right, top and bottom of the picture: they are easily confused."""
        left, right, top, bottom = words
        self.plate(16, height // 2, left)
        self.plate(width - 16, height // 2, right, "e")
        self.plate(width // 2, 24, top, "center")
        self.plate(width // 2, self.view_height - 34, bottom, "center")

    def progress(self, number: int, count: int) -> None:
        """Where in all of them this one is: a thin line that fills."""
        if count > 1:
            y = self.view_height - 8
            self.view.create_rectangle(16, y, self.view_width - 16, y + 4, fill=LINE, width=0, tags="words")
            end = 16 + (self.view_width - 32) * number / count
            self.view.create_rectangle(16, y, end, y + 4, fill=BUTTON_DOWN, width=0, tags="words")

    def draw_list(self) -> None:
        self.list.show(self.cards(), self.note, self.busy_with())

    # -- a finger on the picture --------------------------------------------------------------------------------------
    def touch(self, event: tk.Event) -> None:
        self.touched_at = (event.x, event.y, *self.offset)

    def dragged(self, event: tk.Event) -> None:
        if self.touched_at is not None:
            self.drag(event)

    def released(self, event: tk.Event) -> None:
        if self.touched_at is None:
            return
        x, y, *_ = self.touched_at
        if abs(event.x - x) <= TAP_PIXELS and abs(event.y - y) <= TAP_PIXELS:
            self.tapped(event)

    def drag_picture(self, event: tk.Event) -> None:
        assert self.touched_at is not None
        x, y, left, top = self.touched_at
        self.offset = [left + event.x - x, top + event.y - y]
        self.draw_soon(15)

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
