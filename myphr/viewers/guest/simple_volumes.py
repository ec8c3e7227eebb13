#!/usr/bin/python3 -B
"""Simple volumes: brain images of research, scans in three planes, and what is drawn over them (marked regions,
contours and dose of a radiotherapy), for a finger. Kept running before the claim; reads "open <path>" on its input,
says "warm", "ready" or "failed <code>" on its output. What it shows is made in volumes.py. Runs in the guest as the
viewer user.
"""

import tkinter as tk

import dicom_pictures as dicom
import numpy as np
import volumes
from folder_files import files_below
from PIL import Image, ImageTk
from touch_ui import CARD_HEIGHT, LIST_WIDTH, SOFT, TEXT, TOP_HEIGHT, WARN, fit
from viewer_window import ViewerWindow

FILES_MAX = 5000
NOTE = "For looking, not for diagnosis"
SIDE_SHARE = 0.36  # of the width belongs to the two smaller planes
GAP = 6


class SimpleVolumes(ViewerWindow):
    title = "Simple volumes"
    kept = "picture"
    back = "black"
    zooms = (1.0, 1.5, 2.0, 3.0, 4.0)

    def __init__(self) -> None:
        self.clear()
        super().__init__()
        self.message("Your volumes will appear here", "This machine is ready and waits for you.")

    def clear(self) -> None:
        self.sources: list[tuple[str, object]] = []  # name, and a path or a DICOM series
        self.read: dict[int, volumes.Volume] = {}
        self.overlays: list[volumes.Overlay] = []
        self.chosen = -1
        self.volume: volumes.Volume | None = None
        self.plane = "axial"
        self.at = [0, 0, 0]
        self.lighter, self.contrast = 0.0, 1.0
        self.sentences: list[str] = []
        self.patients: set[tuple[str, str]] = set()

    def build(self) -> None:
        super().build()
        self.add_button("◀", "Previous", lambda: self.step(-1), 116)
        self.add_button("▶", "Next", lambda: self.step(1), 116)
        self.add_button("▣", "Other side", self.turn, 108)
        self.add_button("☀", "Lighter", lambda: self.shade(0.08), 96)
        self.add_button("☾", "Darker", lambda: self.shade(-0.08), 96)
        self.add_button("◐", "Contrast", self.harden, 96)
        self.add_button("+", "Larger", lambda: self.enlarge(1), 88)
        self.add_button("−", "Smaller", lambda: self.enlarge(-1), 88)
        self.add_button("↺", "Start over", self.reset, 104)
        for key, by in {"<Left>": -1, "<Up>": -1, "<Prior>": -10, "<Right>": 1, "<Down>": 1, "<Next>": 10}.items():
            self.on_key(key, lambda by=by: self.step(by))
        self.view.bind("<ButtonRelease-1>", self.released)

    def wheel(self, up: bool) -> None:
        self.step(-1 if up else 1)

    def number_shown(self) -> int:
        return self.at[volumes.PLANES[self.plane]] + 1

    # -- the folder -------------------------------------------------------------------------------------------------
    def open(self, path: str) -> None:
        self.clear()
        self.message("Opening your files …")
        self.window.update_idletasks()
        collection = dicom.Collection()
        for number, file in enumerate(files_below(path)):
            if number >= FILES_MAX:
                break
            if volumes.is_research(file):
                self.sources.append((volumes.name_of(file), file))
            else:
                collection.add_file(file)
        self.patients = collection.patients
        for series in collection.series:
            if series.modality in ("SEG", "RTSTRUCT", "RTDOSE"):
                for instance in series.instances:
                    self.add_overlay(instance.path)
            elif series.has_pictures:
                self.sources.append((series.description or series.title, series))
        # What has most slices tells most.
        self.sources.sort(key=lambda one: -getattr(one[1], "pictures", 0))
        for number in range(len(self.sources)):
            if self.choose(number):
                break
        else:
            if self.overlays:
                self.volume = volumes.alone(self.overlays[0])
                self.start()
            else:
                self.nothing()

    def add_overlay(self, path: str) -> None:
        try:
            overlay = volumes.read_overlay(path)
            if overlay is not None:
                self.overlays.append(overlay)
        except volumes.CannotShow as sentence:
            self.sentences.append(str(sentence))

    def nothing(self) -> None:
        self.draw_list()
        if self.sentences:
            self.message(self.sentences[0])
            self.draw_words()
            self.tell("ready")
            return
        self.message(
            "There are no volumes here that this viewer knows",
            "It opens NIfTI, Analyze, MGH, scans of several slices, SEG, RTSTRUCT and RTDOSE.",
        )
        self.tell("failed nothing-to-show")

    def choose(self, number: int) -> bool:
        """Whether it can be shown. A label map beside its scan becomes an overlay of it."""
        try:
            if number not in self.read:
                source = self.sources[number][1]
                made = volumes.read_research(source) if isinstance(source, str) else volumes.from_series(source)
                self.read[number] = made
        except volumes.CannotShow as sentence:
            self.sentences.append(str(sentence))
            return False
        self.chosen, self.volume = number, self.read[number]
        self.add_label_maps()
        self.start()
        return True

    def add_label_maps(self) -> None:
        for number, (name, source) in enumerate(self.sources):
            if number == self.chosen or number in self.read or not isinstance(source, str):
                continue
            if any(word in name.casefold() for word in ("seg", "mask", "label", "roi", "lesion", "aparc", "aseg")):
                try:
                    self.read[number] = volumes.read_research(source)
                except volumes.CannotShow as sentence:
                    self.sentences.append(str(sentence))
                    continue
                if volumes.looks_like_labels(self.read[number]):
                    self.overlays.append(volumes.labels(self.read[number]))

    def start(self) -> None:
        assert self.volume is not None
        self.plane = "axial"
        shape = self.volume.values.shape
        self.at = [n // 2 for n in shape]
        self.to_what_is_drawn()
        self.lighter, self.contrast, self.zoom, self.offset = 0.0, 1.0, 1.0, [0.0, 0.0]
        self.draw()
        self.draw_list()

    def to_what_is_drawn(self) -> None:
        """The middle of the first overlay that lies within this volume: that is what one came for."""
        assert self.volume is not None
        for overlay in self.fitting():
            marked = np.argwhere(overlay.values[::2, ::2, :] > 0) * (2, 2, 1)
            if len(marked):
                centre = overlay.affine @ np.append(np.median(marked, axis=0), 1.0)
                at = np.rint(np.linalg.inv(self.volume.affine) @ centre).astype(int)[:3]
                if all(0 <= n < size for n, size in zip(at, self.volume.values.shape, strict=True)):
                    self.at = [int(n) for n in at]
                    return

    def fitting(self) -> list[volumes.Overlay]:
        """What may be drawn over this volume: of the same space, where both say in which they are."""
        frame = self.volume.frame if self.volume else ""
        return [one for one in self.overlays if not (one.frame and frame) or one.frame == frame]

    # -- buttons -----------------------------------------------------------------------------------------------------
    def step(self, by: int) -> None:
        if self.volume is not None:
            axis = volumes.PLANES[self.plane]
            self.at[axis] = min(max(self.at[axis] + by, 0), self.volume.values.shape[axis] - 1)
            self.draw_soon(0)

    def turn(self) -> None:
        planes = list(volumes.PLANES)
        self.plane = planes[(planes.index(self.plane) + 1) % len(planes)]
        self.offset = [0.0, 0.0]
        self.draw_soon(0)

    def shade(self, by: float) -> None:
        self.lighter = min(max(self.lighter + by, -1.5), 1.5)
        self.draw_soon(0)

    def harden(self) -> None:
        self.contrast = 1.0 if self.contrast > 3 else self.contrast * 1.4
        self.draw_soon(0)

    def reset(self) -> None:
        if self.volume is not None:
            self.start()

    def touch(self, event: tk.Event) -> None:
        super().touch(event)
        self.at_touched = list(self.at)

    def drag(self, event: tk.Event) -> None:
        if self.volume is None:
            return
        if self.zoom > 1:
            self.drag_picture(event)
            return
        axis = volumes.PLANES[self.plane]
        self.step(self.at_touched[axis] + int((event.y - self.touched_at[1]) / 10) - self.at[axis])

    def released(self, event: tk.Event) -> None:
        """A touch on one of the two smaller planes makes it the large one."""
        if self.volume is None or not hasattr(self, "touched_at"):
            return
        if abs(event.x - self.touched_at[0]) > 12 or abs(event.y - self.touched_at[1]) > 12:
            return
        if event.x > self.main_width:
            others = [plane for plane in volumes.PLANES if plane != self.plane]
            self.plane = others[0 if event.y < self.view_height // 2 else 1]
            self.offset = [0.0, 0.0]
            self.draw_soon(0)

    @property
    def main_width(self) -> int:
        return int(self.view_width * (1 - SIDE_SHARE))

    # -- what is shown ----------------------------------------------------------------------------------------------
    def draw(self) -> None:
        if self.volume is None:
            return
        sheet = Image.new("RGB", (self.view_width, self.view_height), "black")
        high = self.view_height
        main = (0, 0, self.main_width - GAP, high - 60)
        self.place(sheet, self.plane, main, self.zoom)
        others = [plane for plane in volumes.PLANES if plane != self.plane]
        for number, plane in enumerate(others):
            top = number * (high // 2) + (GAP if number else 0)
            self.place(sheet, plane, (self.main_width, top, self.view_width, (number + 1) * (high // 2) - 28), 1.0)
        self.image = sheet
        self.photo = ImageTk.PhotoImage(sheet)
        self.view.delete("all")
        self.view.create_image(0, 0, anchor="nw", image=self.photo)
        self.draw_words()
        self.tell("ready")

    def place(self, sheet: Image.Image, plane: str, box: tuple[int, int, int, int], zoom: float) -> None:
        assert self.volume is not None
        axis = volumes.PLANES[plane]
        rgb = volumes.picture(self.volume, self.fitting(), plane, self.at[axis], self.lighter, self.contrast)
        picture = Image.fromarray(rgb)
        across, down = (self.volume.spacing[n] for n in range(3) if n != axis)
        wide, high = picture.width * across, picture.height * down
        left, top, right, bottom = box
        scale = min((right - left) / wide, (bottom - top) / high) * zoom
        size = (max(1, round(wide * scale)), max(1, round(high * scale)))
        # Voxels stay visible as such where they are few: smoothing would invent what is not there.
        way = Image.Resampling.BILINEAR if picture.width > 96 else Image.Resampling.NEAREST
        room_x, room_y = max(0, size[0] - (right - left)) // 2, max(0, size[1] - (bottom - top)) // 2
        if zoom > 1:
            self.offset = [min(max(self.offset[0], -room_x), room_x), min(max(self.offset[1], -room_y), room_y)]
        shift = (int(self.offset[0]), int(self.offset[1])) if zoom > 1 else (0, 0)
        whole = picture.resize(size, way)
        part = Image.new("RGB", (right - left, bottom - top), "black")
        part.paste(whole, ((part.width - size[0]) // 2 + shift[0], (part.height - size[1]) // 2 + shift[1]))
        sheet.paste(part, (left, top))

    def draw_words(self) -> None:
        self.clear_top()
        self.view.delete("words")
        middle = TOP_HEIGHT // 2
        if self.volume is None:
            return
        name = fit(self.volume.name, self.big, self.width // 2)
        self.top.create_text(18, middle, anchor="w", text=name, fill=TEXT, font=self.big)
        x = 18 + self.big.measure(name) + 22
        words = fit(self.volume.words, self.normal, self.width - 230 - x)
        self.top.create_text(x, middle + 2, anchor="w", text=words, fill=SOFT, font=self.normal)
        if len(self.patients) > 1:
            self.plate(16, 32, "Attention: this folder holds pictures of more than one person", "w", WARN)
        axis = volumes.PLANES[self.plane]
        count = self.volume.values.shape[axis]
        self.plate(16, self.view_height - 34, f"{volumes.WORDS[self.plane]}: {self.at[axis] + 1} of {count}")
        if self.zoom > 1:
            self.plate(self.main_width - 20, self.view_height - 34, f"{self.zoom:g} times larger", "e")
        left, right, top, bottom = volumes.EDGES[self.plane]
        half_x, half_y = self.main_width // 2, (self.view_height - 60) // 2
        self.plate(16, half_y, left)
        self.plate(self.main_width - 20, half_y, right, "e")
        self.plate(half_x - 15, 24, top)
        self.plate(half_x - 15, self.view_height - 34, bottom)
        others = [plane for plane in volumes.PLANES if plane != self.plane]
        for number, plane in enumerate(others):
            y = (number + 1) * (self.view_height // 2) - 16
            self.plate(self.main_width + 4, y, volumes.WORDS[plane])

    # -- the list -----------------------------------------------------------------------------------------------------
    def cards(self) -> list[tuple[str, int, int]]:
        found = [("volume", number, 0) for number in range(len(self.sources))]
        for number, overlay in enumerate(self.overlays):
            if overlay in self.fitting():
                found += [("region", number, at) for at in range(len(overlay.regions))]
        return found

    def choose_card(self, number: int) -> None:
        cards = self.cards()
        if not 0 <= number < len(cards):
            return
        kind, first, second = cards[number]
        if kind == "region":
            region = self.overlays[first].regions[second]
            region.shown = not region.shown
            self.draw_list()
            self.draw_soon(0)
        elif first != self.chosen:
            self.message("Opening this volume …")
            self.window.update_idletasks()
            if not self.choose(first):
                self.message(self.sentences[-1], "The others of this folder are not affected.")

    def draw_list(self) -> None:
        self.list.delete("all")
        room = LIST_WIDTH - 96
        cards = self.cards()
        for at, (kind, first, second) in enumerate(cards):
            on = kind == "volume" and first == self.chosen
            y = self.card(at, on)
            if kind == "volume":
                name = self.sources[first][0]
                words = self.read[first].words if first in self.read else "tap to open"
                self.list.create_text(42, y + 42, text="▦", fill=TEXT if on else SOFT, font=self.big)
            else:
                region = self.overlays[first].regions[second]
                name, words = region.name, "shown: tap to hide" if region.shown else "hidden: tap to show"
                colour = "#{:02x}{:02x}{:02x}".format(*region.colour)
                fill = colour if region.shown else ""
                self.list.create_oval(28, y + 28, 56, y + 56, fill=fill, outline=colour, width=3)
            name = fit(name, self.normal, room)
            self.list.create_text(74, y + 30, anchor="w", text=name, fill=TEXT, font=self.normal)
            words = fit(words, self.small, room)
            self.list.create_text(74, y + 55, anchor="w", text=words, fill=TEXT if on else SOFT, font=self.small)
        height = 10 + len(cards) * CARD_HEIGHT
        foot = max(height + 24, self.height - TOP_HEIGHT - 22)
        self.list.create_text(LIST_WIDTH // 2, foot, text=NOTE, fill=SOFT, font=self.small)
        self.end_list(max(height, foot + 12))


if __name__ == "__main__":
    SimpleVolumes().run()
