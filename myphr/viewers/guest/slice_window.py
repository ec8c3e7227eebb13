"""What the viewers of scans share: one picture of many, gone through with a finger, lighter or darker, with more
contrast, larger. Which pictures there are and how they are drawn is the viewer's. Runs in the guest as the viewer user.
"""

import abc
import tkinter as tk
from collections.abc import Collection

from touch_ui import WARN
from viewer_window import ViewerWindow

DRAG_PIXELS = 14  # of finger for one picture onwards


class SliceWindow(ViewerWindow):
    kept = "picture"
    back = "black"

    def clear(self) -> None:
        super().clear()
        self.plain_look()

    def plain_look(self) -> None:
        self.lighter, self.contrast, self.zoom, self.offset = 0.0, 1.0, 1.0, [0.0, 0.0]

    # -- what a viewer brings ---------------------------------------------------------------------------------------
    @abc.abstractmethod
    def own_button(self) -> None:
        """The one that the other viewer does not have."""

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """Of the pictures that one goes through; 0 while nothing is shown."""

    @property
    @abc.abstractmethod
    def position(self) -> int:
        """Of the one that is shown, from 0."""

    @abc.abstractmethod
    def go_to(self, position: int) -> None: ...

    # -- buttons ----------------------------------------------------------------------------------------------------
    def controls(self) -> None:
        self.add_button("◀", "Previous", lambda: self.step(-1), 116)
        self.add_button("▶", "Next", lambda: self.step(1), 116)
        self.own_button()
        self.add_button("☀", "Lighter", lambda: self.shade(0.08), 96)
        self.add_button("☾", "Darker", lambda: self.shade(-0.08), 96)
        self.add_button("◐", "Contrast", self.harden, 96)
        self.add_zoom_buttons()
        back = {"<Left>": -1, "<Up>": -1, "<Prior>": -10}
        self.on_keys(self.step, {**back, "<Right>": 1, "<Down>": 1, "<Next>": 10, "<space>": 1})

    def step(self, by: int) -> None:
        wanted = min(max(self.position + by, 0), self.count - 1)
        if self.count and wanted != self.position:
            self.go_to(wanted)
            self.draw_soon(0)

    def shade(self, by: float) -> None:
        self.lighter = min(max(self.lighter + by, -1.5), 1.5)
        self.draw_soon(0)

    def harden(self) -> None:
        self.contrast = 1.0 if self.contrast > 3 else self.contrast * 1.4
        self.draw_soon(0)

    def reset(self) -> None:
        self.plain_look()
        self.draw_soon(0)

    def wheel(self, up: bool) -> None:
        self.step(-1 if up else 1)

    def number_shown(self) -> int:
        return self.position + 1

    def touch(self, event: tk.Event) -> None:
        super().touch(event)
        self.position_touched = self.position

    def drag(self, event: tk.Event) -> None:
        if self.zoom > 1:
            self.drag_picture(event)
        elif self.touched_at is not None:
            wanted = self.position_touched + int((event.y - self.touched_at[1]) / DRAG_PIXELS)
            self.step(wanted - self.position)

    # -- words ------------------------------------------------------------------------------------------------------
    def marks(self) -> str:
        """What was changed about the picture."""
        marks = [
            f"{self.zoom:g} times larger" if self.zoom > 1 else "",
            "lighter" if self.lighter > 0 else "darker" if self.lighter < 0 else "",
            "more contrast" if self.contrast != 1 else "",
        ]
        return ", ".join(filter(None, marks))

    def warn_of_several(self, patients: Collection[object]) -> None:
        if len(patients) > 1:
            self.plate(16, 66, "Attention: this folder holds pictures of more than one person", "w", WARN)
