#!/usr/bin/python3 -B
"""Simple images: a DICOM viewer for a finger. Big buttons, a list of series, drag to go through the pictures.
Kept running before the claim; reads "open <path>" on its input, says "warm", "ready" or "failed <code>" on its output.
One picture from the middle is shown as soon as it is read, the rest of the folder comes in while one looks. What it
shows is made in dicom_pictures.py. Runs in the guest as the viewer user.
"""

import time
import tkinter as tk

import dicom_pictures as dicom
from folder_files import files_below, middle_first
from PIL import Image, ImageTk
from touch_ui import CARD_HEIGHT, LINE, LIST_WIDTH, SOFT, TEXT, THUMBNAIL, TOP_HEIGHT, WARN, fit
from viewer_window import ViewerWindow

READ_SECONDS = 0.03  # of every turn go to reading the folder; the rest belongs to the finger
CACHE_PICTURES = 48
DRAG_PIXELS = 14  # of finger for one picture onwards


class SimpleImages(ViewerWindow):
    title = "Simple images"
    kept = "picture"
    back = "black"
    zooms = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

    def __init__(self) -> None:
        self.clear()
        super().__init__()
        self.message("Your pictures will appear here", "This machine is ready and waits for you.")

    def clear(self) -> None:
        self.collection = dicom.Collection()
        self.decoder = dicom.Decoder()
        self.cache: dict[tuple[str, int], dicom.Picture] = {}
        self.files = iter(())
        self.reading = False
        self.series: dicom.Series | None = None
        self.index = 0
        self.lighter, self.contrast = 0.0, 1.0
        self.thumbnails: dict[str, ImageTk.PhotoImage] = {}
        self.playing = False

    # -- the window -----------------------------------------------------------------------------------------------
    def build(self) -> None:
        super().build()
        self.add_button("◀", "Previous", lambda: self.step(-1), 116)
        self.add_button("▶", "Next", lambda: self.step(1), 116)
        self.play_button = self.add_button("▷", "Play", self.play, 84)
        self.add_button("☀", "Lighter", lambda: self.shade(0.08), 96)
        self.add_button("☾", "Darker", lambda: self.shade(-0.08), 96)
        self.add_button("◐", "Contrast", self.harden, 96)
        self.add_button("+", "Larger", lambda: self.enlarge(1), 84)
        self.add_button("−", "Smaller", lambda: self.enlarge(-1), 84)
        self.add_button("↺", "Start over", self.reset, 100)
        self.view.bind("<ButtonRelease-1>", lambda _e: self.draw_soon(0))
        self.view.bind("<Double-Button-1>", lambda _e: self.enlarge(1))
        keys = {"<Left>": -1, "<Up>": -1, "<Prior>": -10, "<Right>": 1, "<Down>": 1, "<Next>": 10, "<space>": 1}
        for key, by in keys.items():
            self.on_key(key, lambda by=by: self.step(by))

    def wheel(self, up: bool) -> None:
        self.step(-1 if up else 1)

    def number_shown(self) -> int:
        return self.index + 1

    # -- the folder -------------------------------------------------------------------------------------------------
    def open(self, path: str) -> None:
        self.clear()
        self.message("Opening your pictures …")
        self.files = iter(middle_first(list(files_below(path))))
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
                if self.series is None and series.has_pictures:
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
        elif self.series is None and self.collection.series:
            self.choose(self.collection.series[0])  # a report, notes: it says so
        elif self.series is None:
            self.message(
                "There are no pictures here that this viewer knows", "It opens DICOM files, as hospitals make them."
            )
            self.tell("failed nothing-to-show")
        else:
            self.window.after(200, self.make_thumbnails)

    # -- choosing ---------------------------------------------------------------------------------------------------
    def choose(self, series: dicom.Series) -> None:
        self.series, self.index = series, series.middle
        self.lighter, self.contrast, self.zoom, self.offset = 0.0, 1.0, 1.0, [0.0, 0.0]
        self.stop()
        self.draw()
        self.draw_list()

    def choose_card(self, number: int) -> None:
        if 0 <= number < len(self.collection.series):
            self.choose(self.collection.series[number])

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
    def picture(self, path: str, frame: int) -> dicom.Picture:
        key = (path, frame)
        if key not in self.cache:
            picture = self.decoder.picture(path, frame)
            while len(self.cache) >= CACHE_PICTURES:
                self.cache.pop(next(iter(self.cache)))
            self.cache[key] = picture
        return self.cache[key]

    def draw(self) -> None:
        if self.series is None:
            return
        instance, frame = self.series.at(self.index)
        try:
            picture = self.picture(instance.path, frame)
            self.image = Image.fromarray(dicom.shown(picture, self.lighter, self.contrast))
        except dicom.CannotShow as sentence:
            self.message(str(sentence), "The other pictures of this folder are not affected.")
            self.draw_words()
            self.tell("ready")
            return
        wide, high = self.image.width, self.image.height * picture.aspect
        fit = min(self.view_width / wide, self.view_height / high) * self.zoom
        self.view.delete("all")
        shown = self.cut_out(self.image, fit, fit * picture.aspect)
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
        self.clear_top()
        middle = TOP_HEIGHT // 2
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
        self.progress(self.index + 1, count)

    def edges(self) -> None:
        """Which side of the body is where: left and right in a picture are easily confused."""
        instance, _ = self.series.at(self.index)
        right, bottom = dicom.sides(instance.axes)
        if right and self.image is not None:
            opposite = dicom.OPPOSITE
            middle_x, middle_y = self.view_width // 2, self.view_height // 2
            self.plate(self.view_width - 16, middle_y, right, "e")
            self.plate(16, middle_y, opposite[right], "w")
            wide = self.normal.measure(bottom) + 20
            self.plate(middle_x - wide // 2, self.view_height - 40, bottom, "w")
            self.plate(middle_x - wide // 2, 24, opposite[bottom], "w")

    def touch(self, event: tk.Event) -> None:
        super().touch(event)
        self.index_touched = self.index

    def drag(self, event: tk.Event) -> None:
        if self.zoom > 1:
            self.drag_picture(event)
        elif self.series is not None:
            wanted = self.index_touched + int((event.y - self.touched_at[1]) / DRAG_PIXELS)
            self.step(wanted - self.index)

    # -- the list of series -------------------------------------------------------------------------------------------
    def draw_list(self) -> None:
        self.list.delete("all")
        room = LIST_WIDTH - THUMBNAIL - 52
        for number, series in enumerate(self.collection.series):
            on = series is self.series
            y = self.card(number, on)
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
        y = 10 + len(self.collection.series) * CARD_HEIGHT
        if self.reading:
            self.list.create_text(LIST_WIDTH // 2, y + 16, text="reading the folder …", fill=SOFT, font=self.small)
            y += 40
        foot = max(y + 24, self.height - TOP_HEIGHT - 22)
        note = "For looking at pictures, not for diagnosis"
        self.list.create_text(LIST_WIDTH // 2, foot, text=note, fill=SOFT, font=self.small)
        self.end_list(max(y, foot + 12))

    def make_thumbnails(self) -> None:
        """One a turn, from the middle of each series, after everything that somebody waits for."""
        for series in self.collection.series:
            if series.uid in self.thumbnails or not series.has_pictures:
                continue
            instance, frame = series.at(series.middle)
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


if __name__ == "__main__":
    SimpleImages().run()
