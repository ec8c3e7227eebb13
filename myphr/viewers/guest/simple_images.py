#!/usr/bin/python3 -B
"""Simple images: a DICOM viewer for a finger. Big buttons, a list of series, drag to go through the pictures.
Kept running before the claim; reads "open <path>" on its input, says "warm", "ready" or "failed <code>" on its output.
One picture from the middle is shown as soon as it is read, the rest of the folder comes in while one looks. What it
shows is made in dicom_pictures.py. Runs in the guest as the viewer user.
"""

import functools
import time

import dicom_pictures as dicom
from folder_files import files_below, middle_first
from PIL import Image, ImageTk
from slice_window import SliceWindow
from touch_ui import LINE, THUMBNAIL, Card

READ_SECONDS = 0.03  # of every turn go to reading the folder; the rest belongs to the finger
CACHE_PICTURES = 48


class SimpleImages(SliceWindow):
    title = "Simple images"
    welcome = "Your pictures will appear here"
    things = "pictures"
    mark_width = THUMBNAIL
    zooms = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

    def clear(self) -> None:
        super().clear()
        self.collection = dicom.Collection()
        # Of the last ones; a decoder keeps the last file, because its other frames are likely next.
        self.picture = functools.lru_cache(CACHE_PICTURES)(dicom.Decoder().picture)
        self.files = iter(())
        self.reading = False
        self.series: dicom.Series | None = None
        self.index = 0
        self.thumbnails: dict[str, ImageTk.PhotoImage] = {}
        self.playing = False

    def own_button(self) -> None:
        self.play_button = self.add_button("▷", "Play", self.play, 88)
        self.view.bind("<Double-Button-1>", lambda _e: self.enlarge(1))

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
            self.nothing(
                "There are no pictures here that this viewer knows", "It opens DICOM files, as hospitals make them."
            )
        else:
            self.window.after(200, self.make_thumbnails)

    # -- choosing ---------------------------------------------------------------------------------------------------
    def choose(self, series: dicom.Series) -> None:
        self.series, self.index = series, series.middle
        self.plain_look()
        self.stop()
        self.draw()
        self.draw_list()

    def choose_card(self, number: int) -> None:
        self.choose(self.collection.series[number])

    @property
    def count(self) -> int:
        return self.series.pictures if self.series is not None else 0

    @property
    def position(self) -> int:
        return self.index

    def go_to(self, position: int) -> None:
        self.index = position

    def play(self) -> None:
        if self.playing:
            self.stop()
        elif self.count > 1:
            self.playing = True
            self.play_button.say("■", "Stop")
            self.play_on()

    def stop(self) -> None:
        self.playing = False
        self.play_button.say("▷", "Play")

    def play_on(self) -> None:
        if self.playing and self.count:
            self.index = (self.index + 1) % self.count
            self.draw()
            self.window.after(60, self.play_on)

    # -- the picture ------------------------------------------------------------------------------------------------
    def draw(self) -> None:
        if self.series is None:
            return
        instance, frame = self.series.at(self.index)
        try:
            picture = self.picture(instance.path, frame)
            self.image = Image.fromarray(dicom.shown(picture, self.lighter, self.contrast))
        except dicom.CannotShow as sentence:
            self.cannot(sentence, self.count > 1 or len(self.collection.series) > 1)
            return
        wide, high = self.image.width, self.image.height * picture.aspect
        fit = min(self.view_width / wide, self.view_height / high) * self.zoom
        shown = self.cut_out(self.image, fit, fit * picture.aspect)
        self.show(shown, (self.view_width - shown.width) // 2, (self.view_height - shown.height) // 2)

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

    def write(self) -> None:
        if self.series is None:
            return
        study = self.series.study
        self.head(study.patient or "No name in these pictures", study.description, study.date, study.hospital)
        self.warn_of_several(self.collection.patients)
        right, bottom = dicom.sides(self.series.at(self.index)[0].axes)
        if right and self.image is not None:
            words = (dicom.OPPOSITE[right], right, dicom.OPPOSITE[bottom], bottom)
            self.sides(words, self.view_width, self.view_height)
        self.foot(f"{self.index + 1} of {self.count}" + (" …" if self.reading else ""), self.marks())
        self.progress(self.index + 1, self.count)

    # -- the list of series -------------------------------------------------------------------------------------------
    def cards(self) -> list[Card]:
        return [
            Card(
                series.title, (series.description, series.words), "▦", self.thumbnails.get(series.uid),
                chosen=series is self.series,
            )
            for series in self.collection.series
        ]  # fmt: skip

    def busy_with(self) -> str:
        return "reading the folder …" if self.reading else ""

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
