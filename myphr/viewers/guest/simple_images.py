#!/usr/bin/python3 -B
"""Simple images: a DICOM viewer for a finger. Big buttons, a list of series, drag to go through the pictures.
Kept running before the claim; reads "open <path>" on its input, says "warm", "ready" or "failed <code>" on its output.
The first picture is shown as soon as it is read, the rest of the folder comes in while one looks. What it shows is made
in dicom_pictures.py. Runs in the guest as the viewer user.
"""

import os
import sys
import time
import tkinter as tk
from tkinter import font as tkfont

import dicom_pictures as dicom
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
    THUMBNAIL,
    TOP_HEIGHT,
    WARN,
    Button,
    KeepButton,
    Toast,
    fit,
    rounded,
)

READ_SECONDS = 0.03  # of every turn go to reading the folder; the rest belongs to the finger
CACHE_PICTURES = 48
DRAG_PIXELS = 14  # of finger for one picture onwards
ZOOMS = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


class SimpleImages:
    def __init__(self) -> None:
        self.window = tk.Tk()
        self.window.title("Simple images")
        self.window.configure(bg=BACK)
        self.width, self.height = self.window.winfo_screenwidth(), self.window.winfo_screenheight()
        self.window.geometry(f"{self.width}x{self.height}+0+0")
        self.big = tkfont.Font(family="DejaVu Sans", size=17)
        self.normal = tkfont.Font(family="DejaVu Sans", size=12)
        self.small = tkfont.Font(family="DejaVu Sans", size=10)
        self.clear()
        self.build()
        self.pending = b""
        self.window.tk.createfilehandler(sys.stdin, tk.READABLE, self.command)  # type: ignore[attr-defined]

    def clear(self) -> None:
        self.collection = dicom.Collection()
        self.decoder = dicom.Decoder()
        self.cache: dict[tuple[str, int], dicom.Picture] = {}
        self.files = iter(())
        self.reading = False
        self.told = False
        self.series: dicom.Series | None = None
        self.index = 0
        self.lighter, self.contrast, self.zoom = 0.0, 1.0, 1.0
        self.offset = [0.0, 0.0]
        self.thumbnails: dict[str, ImageTk.PhotoImage] = {}
        self.playing = False
        self.draw_wanted: str | None = None
        self.current: Image.Image | None = None

    # -- the window -----------------------------------------------------------------------------------------------
    def build(self) -> None:
        self.top = tk.Canvas(self.window, height=TOP_HEIGHT, bg=PANEL, highlightthickness=0)
        self.top.place(x=0, y=0, width=self.width, height=TOP_HEIGHT)
        self.list = tk.Canvas(self.window, bg=PANEL, highlightthickness=0)
        self.list.place(x=0, y=TOP_HEIGHT, width=LIST_WIDTH, height=self.height - TOP_HEIGHT)
        self.view_width = self.width - LIST_WIDTH
        self.view_height = self.height - TOP_HEIGHT - BAR_HEIGHT
        self.view = tk.Canvas(self.window, bg="black", highlightthickness=0)
        self.view.place(x=LIST_WIDTH, y=TOP_HEIGHT, width=self.view_width, height=self.view_height)
        bar = tk.Frame(self.window, bg=PANEL)
        bar.place(x=LIST_WIDTH, y=self.height - BAR_HEIGHT, width=self.view_width, height=BAR_HEIGHT)
        inner = tk.Frame(bar, bg=PANEL)
        inner.place(relx=0.5, rely=0.5, anchor="center")
        buttons = [
            ("◀", "Previous", lambda: self.step(-1), 116, BUTTON),
            ("▶", "Next", lambda: self.step(1), 116, BUTTON),
            ("▷", "Play", self.play, 84, BUTTON),
            ("☀", "Lighter", lambda: self.shade(0.08), 96, BUTTON),
            ("☾", "Darker", lambda: self.shade(-0.08), 96, BUTTON),
            ("◐", "Contrast", self.harden, 96, BUTTON),
            ("+", "Larger", lambda: self.enlarge(1), 84, BUTTON),
            ("−", "Smaller", lambda: self.enlarge(-1), 84, BUTTON),
            ("↺", "Start over", self.reset, 100, BUTTON),
        ]
        for sign, word, action, width, colour in buttons:
            button = Button(inner, sign, word, action, width, colour)
            button.pack(side="left", padx=2)
            if word == "Play":
                self.play_button = button
        KeepButton(self.window, "Keep this picture", self.keep).place(x=self.width - 208, y=3, width=196, height=54)
        self.toast = Toast(self.view, self.view_width, self.normal)
        self.view.bind("<ButtonPress-1>", self.touch)
        self.view.bind("<B1-Motion>", self.drag)
        self.view.bind("<ButtonRelease-1>", lambda _e: self.draw_soon(0))
        self.view.bind("<Double-Button-1>", lambda _e: self.enlarge(1))
        self.list.bind("<ButtonPress-1>", self.list_touch)
        self.list.bind("<B1-Motion>", self.list_drag)
        self.list.bind("<ButtonRelease-1>", self.list_release)
        for widget in (self.view, self.window):
            widget.bind("<Button-4>", lambda _e: self.step(-1))
            widget.bind("<Button-5>", lambda _e: self.step(1))
        keys = {"<Left>": -1, "<Up>": -1, "<Prior>": -10, "<Right>": 1, "<Down>": 1, "<Next>": 10, "<space>": 1}
        for key, step in keys.items():
            self.window.bind(key, lambda _e, step=step: self.step(step))
        self.window.bind("<plus>", lambda _e: self.enlarge(1))
        self.window.bind("<minus>", lambda _e: self.enlarge(-1))
        self.idle_screen()

    def idle_screen(self) -> None:
        self.message("Your pictures will appear here", "This machine is ready and waits for you.")

    def message(self, title: str, more: str = "") -> None:
        self.current = None
        self.view.delete("all")
        x, y = self.view_width // 2, self.view_height // 2
        room = self.view_width - 160
        self.view.create_text(x, y - 16, text=title, fill=TEXT, font=self.big, width=room, justify="center")
        if more:
            self.view.create_text(x, y + 34, text=more, fill=SOFT, font=self.normal, width=room, justify="center")

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

    def say(self, word: str) -> None:
        print(word, flush=True)

    def open(self, path: str) -> None:
        self.clear()
        self.message("Opening your pictures …")
        self.files = dicom.walk(path)
        self.reading = True
        self.read_some()

    def read_some(self) -> None:
        """A slice of time for the folder: the first file is shown before the second is read."""
        deadline = time.monotonic() + READ_SECONDS
        changed = False
        while self.reading:
            path = next(self.files, None)
            if path is None:
                self.reading = False
                break
            found = self.collection.add_file(path)
            if found:
                changed = True
                series, at = found
                if self.series is None:
                    self.choose(series)
                    break
                if series is self.series and at <= self.index and series.pictures > 1:
                    self.index += series.at(at)[0].frames  # the picture on the screen stays the same
            # A finger on the screen goes first.
            if time.monotonic() > deadline:
                break
        if changed or not self.reading:
            self.draw_list()
            self.draw_words()
        if self.reading:
            self.window.after(1, self.read_some)
        elif self.series is None:
            self.message(
                "There are no pictures here that this viewer knows", "It opens DICOM files, as hospitals make them."
            )
            self.tell("failed nothing-to-show")
        else:
            self.window.after(200, self.make_thumbnails)

    def tell(self, word: str) -> None:
        if not self.told:
            self.told = True
            self.window.update()
            self.say(word)

    # -- choosing ---------------------------------------------------------------------------------------------------
    def choose(self, series: dicom.Series) -> None:
        self.series, self.index = series, 0
        self.lighter, self.contrast, self.zoom, self.offset = 0.0, 1.0, 1.0, [0.0, 0.0]
        self.stop()
        self.draw()
        self.draw_list()

    def step(self, by: int) -> None:
        if self.series is None:
            return
        wanted = min(max(self.index + by, 0), self.series.pictures - 1)
        if wanted != self.index:
            self.index = wanted
            self.draw_soon(0)

    def shade(self, by: float) -> None:
        self.lighter = min(max(self.lighter + by, -1.5), 1.5)
        self.draw_soon(0)

    def harden(self) -> None:
        self.contrast = 1.0 if self.contrast > 3 else self.contrast * 1.4
        self.draw_soon(0)

    def enlarge(self, by: int) -> None:
        at = min(range(len(ZOOMS)), key=lambda i: abs(ZOOMS[i] - self.zoom))
        self.zoom = ZOOMS[min(max(at + by, 0), len(ZOOMS) - 1)]
        if self.zoom == 1.0:
            self.offset = [0.0, 0.0]
        self.draw_soon(0)

    def reset(self) -> None:
        self.lighter, self.contrast, self.zoom, self.offset = 0.0, 1.0, 1.0, [0.0, 0.0]
        self.draw_soon(0)

    def play(self) -> None:
        if self.playing:
            self.stop()
        elif self.series is not None and self.series.pictures > 1:
            self.playing = True
            self.play_button.say("■", "Stop")
            self.play_on()

    def stop(self) -> None:
        self.playing = False
        self.play_button.say("▷", "Play")

    def play_on(self) -> None:
        if self.playing and self.series is not None:
            self.index = (self.index + 1) % self.series.pictures
            self.draw()
            self.window.after(60, self.play_on)

    # -- the picture ------------------------------------------------------------------------------------------------
    def draw_soon(self, milliseconds: int) -> None:
        """Many moves of a finger become one drawing."""
        if self.draw_wanted is None:
            self.draw_wanted = self.window.after(milliseconds, self.draw)

    def picture(self, path: str, frame: int) -> dicom.Picture:
        key = (path, frame)
        if key not in self.cache:
            picture = self.decoder.picture(path, frame)
            while len(self.cache) >= CACHE_PICTURES:
                self.cache.pop(next(iter(self.cache)))
            self.cache[key] = picture
        return self.cache[key]

    def draw(self) -> None:
        self.draw_wanted = None
        if self.series is None:
            return
        instance, frame = self.series.at(self.index)
        try:
            picture = self.picture(instance.path, frame)
            self.current = Image.fromarray(dicom.shown(picture, self.lighter, self.contrast))
        except dicom.CannotShow as sentence:
            self.message(str(sentence), "The other pictures of this folder are not affected.")
            self.draw_words()
            self.tell("ready")
            return
        wide, high = self.current.width, self.current.height * picture.aspect
        fit = min(self.view_width / wide, self.view_height / high) * self.zoom
        self.view.delete("all")
        shown = self.cut_out(self.current, fit, fit * picture.aspect)
        self.photo = ImageTk.PhotoImage(shown)
        self.view.create_image(self.view_width // 2, self.view_height // 2, image=self.photo)
        self.draw_words()
        self.tell("ready")

    def cut_out(self, image: Image.Image, across: float, down: float) -> Image.Image:
        """The part of the picture that fits the window, enlarged. Only what is seen is computed."""
        wide, high = image.width * across, image.height * down
        show_wide, show_high = min(wide, self.view_width), min(high, self.view_height)
        for axis, (whole, part) in enumerate(((wide, show_wide), (high, show_high))):
            room = (whole - part) / 2
            self.offset[axis] = min(max(self.offset[axis], -room), room)
        left = ((wide - show_wide) / 2 - self.offset[0]) / across
        top = ((high - show_high) / 2 - self.offset[1]) / down
        box = (left, top, left + show_wide / across, top + show_high / down)
        box = (max(0.0, box[0]), max(0.0, box[1]), min(float(image.width), box[2]), min(float(image.height), box[3]))
        return image.resize((max(1, round(show_wide)), max(1, round(show_high))), Image.BILINEAR, box=box)

    def draw_words(self) -> None:
        study = self.series.study if self.series else self.collection.study
        self.top.delete("all")
        middle = TOP_HEIGHT // 2
        self.top.create_line(0, TOP_HEIGHT - 1, self.width, TOP_HEIGHT - 1, fill=LINE)
        name = fit(study.patient or "No name in these pictures", self.big, self.width // 2)
        x = 18
        self.top.create_text(x, middle, anchor="w", text=name, fill=TEXT, font=self.big)
        x += self.big.measure(name) + 22
        facts = [study.description, study.date, study.hospital]
        room = self.width - 230 - x
        text = "  ·  ".join(f for f in facts if f)
        self.top.create_text(x, middle + 2, anchor="w", text=fit(text, self.normal, room), fill=SOFT, font=self.normal)
        self.view.delete("words")
        if self.series is None:
            return
        if len(self.collection.patients) > 1:
            self.plate(16, 32, "Attention: this folder holds pictures of more than one person", "w", WARN)
        self.edges()
        count = self.series.pictures
        here = f"{self.index + 1} of {count}" + (" …" if self.reading else "")
        self.plate(16, self.view_height - 40, here, "w")
        marks = []
        if self.zoom != 1:
            marks.append(f"{self.zoom:g} times larger")
        if self.lighter:
            marks.append("lighter" if self.lighter > 0 else "darker")
        if self.contrast != 1:
            marks.append("more contrast")
        if marks:
            self.plate(self.view_width - 16, self.view_height - 40, ", ".join(marks), "e")
        if count > 1:  # where in the series: a thin line that fills
            y = self.view_height - 8
            self.view.create_rectangle(16, y, self.view_width - 16, y + 4, fill=LINE, width=0, tags="words")
            end = 16 + (self.view_width - 32) * (self.index + 1) / count
            self.view.create_rectangle(16, y, end, y + 4, fill=BUTTON_DOWN, width=0, tags="words")

    def edges(self) -> None:
        """Which side of the body is where: left and right in a picture are easily confused."""
        instance, _ = self.series.at(self.index)
        right, bottom = dicom.sides(instance.axes)
        if right and self.current is not None:
            opposite = dicom.OPPOSITE
            middle_x, middle_y = self.view_width // 2, self.view_height // 2
            self.plate(self.view_width - 16, middle_y, right, "e")
            self.plate(16, middle_y, opposite[right], "w")
            wide = self.normal.measure(bottom) + 20
            self.plate(middle_x - wide // 2, self.view_height - 40, bottom, "w")
            self.plate(middle_x - wide // 2, 24, opposite[bottom], "w")

    def plate(self, x: int, y: int, text: str, anchor: str, back: str = "#000000") -> None:
        """White on black, readable over any picture."""
        wide = self.normal.measure(text) + 20
        left = x if anchor == "w" else x - wide
        self.view.create_rectangle(left, y - 16, left + wide, y + 16, fill=back, outline=LINE, tags="words")
        self.view.create_text(left + wide // 2, y, text=text, fill=TEXT, font=self.normal, tags="words")

    def touch(self, event: tk.Event) -> None:
        self.touched = (event.x, event.y, self.index, *self.offset)

    def drag(self, event: tk.Event) -> None:
        if not hasattr(self, "touched"):
            return
        x, y, index, left, top = self.touched
        if self.zoom > 1:
            self.offset = [left + event.x - x, top + event.y - y]
            self.draw_soon(15)
        elif self.series is not None:
            wanted = index + int((event.y - y) / DRAG_PIXELS)
            self.step(wanted - self.index)

    # -- the list of series -------------------------------------------------------------------------------------------
    def draw_list(self) -> None:
        self.list.delete("all")
        room = LIST_WIDTH - THUMBNAIL - 52
        y = 10
        for series in self.collection.series:
            on = series is self.series
            rounded(self.list, 10, y, LIST_WIDTH - 10, y + CARD_HEIGHT - 8, 12, CARD_ON if on else CARD)
            thumbnail = self.thumbnails.get(series.uid)
            if thumbnail:
                self.list.create_image(16 + THUMBNAIL // 2 + 2, y + (CARD_HEIGHT - 8) // 2, image=thumbnail)
            else:
                centre = 16 + THUMBNAIL // 2 + 2
                self.list.create_text(centre, y + 42, text="▦", fill=SOFT, font=self.big)
            left = 16 + THUMBNAIL + 14
            self.list.create_text(
                left, y + 20, anchor="w", text=fit(series.title, self.normal, room), fill=TEXT, font=self.normal
            )
            words = fit(series.description, self.small, room)
            self.list.create_text(left, y + 43, anchor="w", text=words, fill=TEXT if on else SOFT, font=self.small)
            self.list.create_text(
                left, y + 65, anchor="w", text=series.words, fill=TEXT if on else SOFT, font=self.small
            )
            y += CARD_HEIGHT
        if self.reading:
            self.list.create_text(LIST_WIDTH // 2, y + 16, text="reading the folder …", fill=SOFT, font=self.small)
            y += 40
        foot = max(y + 24, self.height - TOP_HEIGHT - 22)
        note = "For looking at pictures, not for diagnosis"
        self.list.create_text(LIST_WIDTH // 2, foot, text=note, fill=SOFT, font=self.small)
        y = max(y, foot + 12)
        self.list.configure(scrollregion=(0, 0, LIST_WIDTH, max(y + 10, self.height - TOP_HEIGHT)))
        self.list.create_line(LIST_WIDTH - 1, 0, LIST_WIDTH - 1, max(y + 10, self.height), fill=LINE)

    def list_touch(self, event: tk.Event) -> None:
        self.list_from = event.y
        self.list_moved = False
        self.list.scan_mark(0, event.y)

    def list_drag(self, event: tk.Event) -> None:
        if abs(event.y - self.list_from) > 12:
            self.list_moved = True
            self.list.scan_dragto(0, event.y, gain=1)

    def list_release(self, event: tk.Event) -> None:
        if self.list_moved:
            return
        at = int((self.list.canvasy(event.y) - 10) // CARD_HEIGHT)
        if 0 <= at < len(self.collection.series):
            self.choose(self.collection.series[at])

    def make_thumbnails(self) -> None:
        """One a turn, from the middle of each series, after everything that somebody waits for."""
        for series in self.collection.series:
            if series.uid in self.thumbnails or not any(i.has_pixels for i in series.instances):
                continue
            instance, frame = series.at(series.pictures // 2)
            try:
                picture = dicom.Decoder().picture(instance.path, frame)
                image = Image.fromarray(dicom.shown(picture))
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                self.thumbnails[series.uid] = ImageTk.PhotoImage(image)
            except dicom.CannotShow:
                blank = Image.new("RGB", (THUMBNAIL, THUMBNAIL), LINE)
                self.thumbnails[series.uid] = ImageTk.PhotoImage(blank)
            self.draw_list()
            self.window.after(60, self.make_thumbnails)
            return

    # -- results ------------------------------------------------------------------------------------------------------
    def keep(self) -> None:
        if self.current is None or self.series is None:
            return
        name = f"picture-{time.strftime('%Y%m%d-%H%M%S')}-{self.index + 1}.png"
        try:
            self.current.save(os.path.join(RESULTS, name))
            self.toast.show("Kept. You will find it in your record when this ends.")
        except OSError:
            self.toast.show("The picture could not be kept. Please try again.")


if __name__ == "__main__":
    viewer = SimpleImages()
    viewer.window.update()
    viewer.say("warm")
    viewer.window.mainloop()
