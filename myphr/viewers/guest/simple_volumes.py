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
from PIL import Image
from slice_window import SliceWindow
from touch_ui import Card

FILES_MAX = 5000
SIDE_SHARE = 0.36  # of the width belongs to the two smaller planes
GAP = 6


class SimpleVolumes(SliceWindow):
    title = "Simple volumes"
    welcome = "Your volumes will appear here"
    things = "volumes"
    zooms = (1.0, 1.5, 2.0, 3.0, 4.0)

    def clear(self) -> None:
        super().clear()
        self.sources: list[tuple[str, object]] = []  # name, and a path or a DICOM series
        self.read: dict[int, volumes.Volume] = {}
        self.overlays: list[volumes.Overlay] = []
        self.chosen = -1
        self.volume: volumes.Volume | None = None
        self.plane = "axial"
        self.at = [0, 0, 0]
        self.sentences: list[str] = []
        self.patients: set[tuple[str, str]] = set()

    def own_button(self) -> None:
        self.add_button("▣", "Other side", lambda: self.look_from(self.other_planes[0]), 108)

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
                self.none_shown()

    def add_overlay(self, path: str) -> None:
        try:
            overlay = volumes.read_overlay(path)
            if overlay is not None:
                self.overlays.append(overlay)
        except volumes.CannotShow as sentence:
            self.sentences.append(str(sentence))

    def none_shown(self) -> None:
        if self.sentences:
            self.cannot(volumes.CannotShow(self.sentences[0]), False)
            return
        self.nothing(
            "There are no volumes here that this viewer knows",
            "It opens NIfTI, Analyze, MGH, scans of several slices, SEG, RTSTRUCT and RTDOSE.",
        )

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
        self.plain_look()
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

    # -- moving -------------------------------------------------------------------------------------------------------
    @property
    def count(self) -> int:
        return self.volume.values.shape[volumes.PLANES[self.plane]] if self.volume is not None else 0

    @property
    def position(self) -> int:
        return self.at[volumes.PLANES[self.plane]]

    def go_to(self, position: int) -> None:
        self.at[volumes.PLANES[self.plane]] = position

    @property
    def other_planes(self) -> list[str]:
        """Those that are small now, in the order that "Other side" brings them."""
        planes = list(volumes.PLANES)
        return planes[planes.index(self.plane) + 1 :] + planes[: planes.index(self.plane)]

    def look_from(self, plane: str) -> None:
        if self.volume is not None:
            self.plane, self.offset = plane, [0.0, 0.0]
            self.draw_soon(0)

    def reset(self) -> None:
        if self.volume is not None:
            self.start()

    def tapped(self, event: tk.Event) -> None:
        """A touch on one of the two smaller planes makes it the large one."""
        if event.x > self.main_width:
            self.look_from(self.other_planes[0 if event.y < self.view_height // 2 else 1])

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
        for number, plane in enumerate(self.other_planes):
            top = number * (high // 2) + (GAP if number else 0)
            self.place(sheet, plane, (self.main_width, top, self.view_width, (number + 1) * (high // 2) - 28), 1.0)
        self.image = sheet
        self.show(sheet)

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

    def write(self) -> None:
        if self.volume is None:
            return
        self.head(self.volume.name, self.volume.words)
        self.warn_of_several(self.patients)
        self.foot(f"{volumes.WORDS[self.plane]}: {self.position + 1} of {self.count}")
        if marks := self.marks():
            self.plate(self.main_width - 20, self.view_height - 72, marks, "e")
        self.sides(volumes.EDGES[self.plane], self.main_width - 4, self.view_height - 60)
        for number, plane in enumerate(self.other_planes, 1):
            self.plate(self.main_width + 4, number * (self.view_height // 2) - 16, volumes.WORDS[plane])

    # -- the list -----------------------------------------------------------------------------------------------------
    def listed(self) -> list[tuple[int, volumes.Region | None]]:
        """Number of a volume, or a region that is drawn over the one that is shown."""
        found: list[tuple[int, volumes.Region | None]] = [(number, None) for number in range(len(self.sources))]
        return found + [(-1, region) for overlay in self.fitting() for region in overlay.regions]

    def cards(self) -> list[Card]:
        return [self.card_of(number) if region is None else region_card(region) for number, region in self.listed()]

    def card_of(self, number: int) -> Card:
        words = self.read[number].words if number in self.read else "tap to open"
        return Card(self.sources[number][0], (words,), "▦", chosen=number == self.chosen)

    def choose_card(self, number: int) -> None:
        number, region = self.listed()[number]
        if region is not None:
            region.shown = not region.shown
            self.draw_list()
            self.draw_soon(0)
        elif number != self.chosen:
            self.message("Opening this volume …")
            self.window.update_idletasks()
            if not self.choose(number):
                self.cannot(volumes.CannotShow(self.sentences[-1]), len(self.sources) > 1)


def region_card(region: volumes.Region) -> Card:
    colour = "#{:02x}{:02x}{:02x}".format(*region.colour)
    words = "shown: tap to hide" if region.shown else "hidden: tap to show"
    return Card(region.name, (words,), ring=colour, filled=region.shown)


if __name__ == "__main__":
    SimpleVolumes().run()
