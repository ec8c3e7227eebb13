"""What the viewers share that show one file of a folder at a time: the files that they know, a card for each, and what
is said when one cannot be shown. What a file becomes is the viewer's. Runs in the guest as the viewer user.
"""

import abc
import itertools
import os
from collections.abc import Callable

from folder_files import CannotShow, files_below
from touch_ui import Card
from viewer_window import ViewerWindow

FILES_MAX = 500


class FileWindow(ViewerWindow):
    opening = "Opening this file …"
    none_here = ("", "")  # what is said when the folder has nothing for this viewer, and what it opens

    def __init__(self) -> None:
        self.files: list[tuple[str, str]] = []  # path and kind
        super().__init__()

    def clear(self) -> None:
        super().clear()
        self.chosen = -1
        self.failed = False  # of the chosen one: it cannot be shown

    # -- what a viewer brings ---------------------------------------------------------------------------------------
    @abc.abstractmethod
    def kind_of(self, path: str) -> str:
        """Empty for what is not listed."""

    @abc.abstractmethod
    def read(self, path: str, kind: str) -> None:
        """Makes ready what `draw` shows. Raises CannotShow or OSError."""

    @abc.abstractmethod
    def card_of(self, path: str, kind: str) -> Card: ...

    def in_order(self, files: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return files

    # -- files ------------------------------------------------------------------------------------------------------
    def open(self, path: str) -> None:
        self.clear()
        self.message("Opening your files …")
        found = [(file, self.kind_of(file)) for file in itertools.islice(files_below(path), FILES_MAX)]
        self.files = self.in_order([one for one in found if one[1]])
        if self.files:
            self.choose(0)
        else:
            self.nothing(*self.none_here)

    def choose(self, number: int) -> None:
        self.clear()
        self.chosen = number
        self.message(self.opening)
        self.draw_list()
        self.draw_words()
        self.window.update_idletasks()
        self.try_to(lambda: self.read(*self.files[number]))

    def try_to(self, read: Callable[[], None]) -> None:
        """Reads and draws, or says why not."""
        try:
            read()
        except (CannotShow, OSError) as reason:
            self.failed = True
            self.cannot(reason, len(self.files) > 1)
            return
        self.draw()
        self.draw_list()

    def choose_card(self, number: int) -> None:
        self.choose(number)

    def cards(self) -> list[Card]:
        return [self.card_of(*file) for file in self.files]

    def is_chosen(self, path: str) -> bool:
        return self.chosen >= 0 and self.files[self.chosen][0] == path

    @property
    def name(self) -> str:
        """Of the file that is shown."""
        return os.path.basename(self.files[self.chosen][0])
