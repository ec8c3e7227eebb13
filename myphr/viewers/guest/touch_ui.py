"""What our own viewers have in common on the screen: colours, big buttons, a list of cards, short notices. Made for a
finger on a tablet: nothing to hit is smaller than 54 pixels. Runs in the guest.
"""

import dataclasses
import tkinter as tk
from collections.abc import Callable, Sequence
from tkinter import font as tkfont

from PIL import ImageTk

BACK, PANEL, CARD, CARD_ON = "#0d1014", "#171c22", "#212932", "#1f4e8c"
TEXT, SOFT, LINE = "#f2f5f8", "#a9b4c0", "#323c47"
BUTTON, BUTTON_DOWN, KEEP, WARN = "#2b3540", "#3d8bfd", "#1f7a4d", "#8a5a00"
LIST_WIDTH, BAR_HEIGHT, TOP_HEIGHT = 292, 104, 60
CARD_HEIGHT, THUMBNAIL, SIGN_WIDTH = 92, 72, 44
TAP_PIXELS = 12  # a finger that moved less than this meant what lies below it
BIG, NORMAL, SMALL = (("DejaVu Sans", size) for size in (17, 12, 10))


def rounded(canvas: tk.Canvas, x0: int, y0: int, x1: int, y1: int, r: int, colour: str) -> int:
    """A rectangle with round corners."""
    points = [
        x0 + r,
        y0,
        x1 - r,
        y0,
        x1,
        y0,
        x1,
        y0 + r,
        x1,
        y1 - r,
        x1,
        y1,
        x1 - r,
        y1,
        x0 + r,
        y1,
        x0,
        y1,
        x0,
        y1 - r,
    ]
    return canvas.create_polygon([*points, x0, y0 + r, x0, y0], smooth=True, fill=colour)


def fit(text: str, width_of: Callable[[str], float], room: float) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if width_of(text) <= room:
        return text
    while text and width_of(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


class Button(tk.Canvas):
    """A flat button with round corners, a sign and a word: at least 64 pixels high, which a thumb can hit."""

    def __init__(self, parent: tk.Misc, sign: str, word: str, action, width: int = 108, colour: str = BUTTON) -> None:
        super().__init__(parent, width=width, height=80, bg=PANEL, highlightthickness=0)
        self.action, self.colour, self.width_wanted = action, colour, width
        self.word = word
        self.shape = rounded(self, 3, 3, width - 3, 77, 14, colour)
        self.sign = self.create_text(width // 2, 28, text=sign, fill=TEXT, font=("DejaVu Sans", 20))
        self.label = self.create_text(width // 2, 58, text=word, fill=TEXT, font=("DejaVu Sans", 11))
        self.bind("<ButtonPress-1>", self.down)
        self.bind("<ButtonRelease-1>", self.up)
        self.repeat: str | None = None

    def down(self, _event: tk.Event) -> None:
        self.itemconfigure(self.shape, fill=BUTTON_DOWN)
        self.action()
        self.repeat = self.after(450, self.again)

    def again(self) -> None:
        self.action()
        self.repeat = self.after(160, self.again)

    def up(self, _event: tk.Event) -> None:
        self.itemconfigure(self.shape, fill=self.colour)
        if self.repeat:
            self.after_cancel(self.repeat)
            self.repeat = None

    def say(self, sign: str, word: str) -> None:
        self.itemconfigure(self.sign, text=sign)
        self.itemconfigure(self.label, text=word)


class KeepButton(Button):
    """Wide and low, for the top bar; acts once per touch."""

    def __init__(self, parent: tk.Misc, word: str, action) -> None:
        super().__init__(parent, "✓", word, action, 196, KEEP)
        self.configure(height=54)
        self.delete(self.shape)
        self.shape = rounded(self, 3, 4, 193, 50, 12, KEEP)
        self.tag_lower(self.shape)
        self.coords(self.sign, 22, 28)
        self.coords(self.label, 112, 28)

    def again(self) -> None:
        pass


class Toast:
    """A notice that goes away by itself."""

    def __init__(self, canvas: tk.Canvas, width: int) -> None:
        self.canvas, self.width, self.font = canvas, width, tkfont.Font(font=NORMAL)

    def show(self, text: str) -> None:
        self.canvas.delete("toast")
        wide = self.font.measure(text) + 56
        x, y = self.width // 2, 50
        self.canvas.create_rectangle(x - wide // 2, y - 24, x + wide // 2, y + 24, fill=KEEP, width=0, tags="toast")
        self.canvas.create_text(x, y, text=text, fill=TEXT, font=self.font, tags="toast")
        self.canvas.after(3500, lambda: self.canvas.delete("toast"))


@dataclasses.dataclass(frozen=True)
class Card:
    """What one can choose at the side: a name, lines of smaller words, and before them a picture, a coloured ring
    (filled or not), or a sign."""

    name: str
    lines: Sequence[str] = ()
    sign: str = ""
    picture: ImageTk.PhotoImage | None = None
    ring: str = ""
    filled: bool = False
    chosen: bool = False


class CardList(tk.Canvas):
    """The list at the side: a finger drags it, or taps a card."""

    def __init__(self, parent: tk.Misc, height: int, mark_width: int, choose: Callable[[int], None]) -> None:
        super().__init__(parent, bg=PANEL, highlightthickness=0)
        self.height, self.mark_width, self.choose, self.count = height, mark_width, choose, 0
        self.normal, self.small = tkfont.Font(font=NORMAL), tkfont.Font(font=SMALL)
        self.touched_at, self.moved = 0, False
        self.bind("<ButtonPress-1>", self.touch)
        self.bind("<B1-Motion>", self.drag)
        self.bind("<ButtonRelease-1>", self.release)

    def show(self, cards: Sequence[Card], note: str = "", busy: str = "") -> None:
        """All of them; below them what the viewer is busy with, at the foot the note."""
        self.delete("all")
        self.count = len(cards)
        for number, card in enumerate(cards):
            self.draw(card, 10 + number * CARD_HEIGHT)
        end = 10 + len(cards) * CARD_HEIGHT
        if busy:
            self.create_text(LIST_WIDTH // 2, end + 16, text=busy, fill=SOFT, font=SMALL)
            end += 40
        if note:
            foot = max(end + 24, self.height - 22)
            self.create_text(LIST_WIDTH // 2, foot, text=note, fill=SOFT, font=SMALL)
            end = foot + 12
        end = max(end + 10, self.height)
        self.configure(scrollregion=(0, 0, LIST_WIDTH, end))
        self.create_line(LIST_WIDTH - 1, 0, LIST_WIDTH - 1, end, fill=LINE)

    def draw(self, card: Card, y: int) -> None:
        rounded(self, 10, y, LIST_WIDTH - 10, y + CARD_HEIGHT - 8, 12, CARD_ON if card.chosen else CARD)
        soft = TEXT if card.chosen else SOFT
        x, middle = 16 + self.mark_width // 2, y + (CARD_HEIGHT - 8) // 2
        if card.picture:
            self.create_image(x, middle, image=card.picture)
        elif card.ring:
            inside = card.ring if card.filled else ""
            self.create_oval(x - 14, middle - 14, x + 14, middle + 14, fill=inside, outline=card.ring, width=3)
        else:
            self.create_text(x, middle, text=card.sign, fill=soft, font=BIG)
        left = 16 + self.mark_width + 14
        room = LIST_WIDTH - left - 22
        lines = [line for line in card.lines if line]
        y = middle - 12 * len(lines)
        self.create_text(left, y, anchor="w", text=fit(card.name, self.normal.measure, room), fill=TEXT, font=NORMAL)
        for number, line in enumerate(lines, 1):
            words = fit(line, self.small.measure, room)
            self.create_text(left, y + 24 * number, anchor="w", text=words, fill=soft, font=SMALL)

    def touch(self, event: tk.Event) -> None:
        self.touched_at, self.moved = event.y, False
        self.scan_mark(0, event.y)

    def drag(self, event: tk.Event) -> None:
        if abs(event.y - self.touched_at) > TAP_PIXELS:
            self.moved = True
            self.scan_dragto(0, event.y, gain=1)

    def release(self, event: tk.Event) -> None:
        number = int((self.canvasy(event.y) - 10) // CARD_HEIGHT)
        if not self.moved and 0 <= number < self.count:
            self.choose(number)
