"""What our own viewers have in common on the screen: colours, big buttons, cards, short notices. Made for a finger on a
tablet: nothing to hit is smaller than 54 pixels. Runs in the guest.
"""

import tkinter as tk
from tkinter import font as tkfont

BACK, PANEL, CARD, CARD_ON = "#0d1014", "#171c22", "#212932", "#1f4e8c"
TEXT, SOFT, LINE = "#f2f5f8", "#a9b4c0", "#323c47"
BUTTON, BUTTON_DOWN, KEEP, WARN = "#2b3540", "#3d8bfd", "#1f7a4d", "#8a5a00"
LIST_WIDTH, BAR_HEIGHT, TOP_HEIGHT = 292, 104, 60
CARD_HEIGHT, THUMBNAIL = 92, 72
RESULTS = "/data/results"


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


def fit(text: str, font: tkfont.Font, room: int) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if font.measure(text) <= room:
        return text
    while text and font.measure(text + "…") > room:
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

    def __init__(self, canvas: tk.Canvas, width: int, font: tkfont.Font) -> None:
        self.canvas, self.width, self.font = canvas, width, font

    def show(self, text: str) -> None:
        self.canvas.delete("toast")
        wide = self.font.measure(text) + 56
        x, y = self.width // 2, 50
        self.canvas.create_rectangle(x - wide // 2, y - 24, x + wide // 2, y + 24, fill=KEEP, width=0, tags="toast")
        self.canvas.create_text(x, y, text=text, fill=TEXT, font=self.font, tags="toast")
        self.canvas.after(3500, lambda: self.canvas.delete("toast"))
