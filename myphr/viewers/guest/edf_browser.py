#!/usr/bin/python3 -IB
"""Starts EDFbrowser with all lines of the recording on the screen. By itself it asks first which of them to show; a
montage file (its manual, "Montage") answers that. Runs in the guest as the viewer user.
"""

import os
import sys
import tempfile
from xml.sax.saxutils import escape

SIGNALS_MAX = 40
LOOK_SECONDS = 10.0  # of the recording decide how high it is drawn: headers often claim a range far beyond it
SAMPLES_LOOKED_AT = 500
HEIGHT_CM = 18.0  # of all lines together on a screen of 800 pixels, about
COLOURS = (12, 10, 3, 11, 8)  # yellow, cyan, white, magenta, green of Qt::GlobalColor


def montage(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(256)
        signals = int(head[252:256])
        table = file.read(256 * signals)
        width = 3 if head[:1] == b"\xff" else 2

        def column(start: int, size: int) -> list[bytes]:
            body = table[start * signals : (start + size) * signals]
            return [body[i * size : (i + 1) * size] for i in range(signals)]

        samples = [int(text) for text in column(216, 8)]
        record_bytes = sum(samples) * width
        records = max(1, min(100, int(LOOK_SECONDS / float(head[244:252]))))
        body = file.read(record_bytes * records)
    lines, at = [], 0
    scales = zip(*(map(float, column(start, 8)) for start in (104, 112, 120, 128)), strict=True)
    for label, count, (low, high, dig_low, dig_high) in zip(column(0, 16), samples, scales, strict=True):
        start, at = at, at + count * width
        if label.startswith((b"EDF Annotations", b"BDF Annotations")) or count == 0 or dig_high == dig_low:
            continue
        step = max(1, count * records // SAMPLES_LOOKED_AT)
        seen = [
            int.from_bytes(body[place : place + width], "little", signed=True)
            for place in (
                record * record_bytes + start + number * width
                for record in range(len(body) // max(record_bytes, 1))
                for number in range(0, count, step)
            )
        ]
        spread = (max(seen) - min(seen) if seen else 0) * abs((high - low) / (dig_high - dig_low))
        lines.append((label.decode("latin-1"), spread or abs(high - low)))
    lines = lines[:SIGNALS_MAX]
    words = ['<?xml version="1.0"?>', "<EDFbrowser_montage>", "<pagetime>100000000</pagetime>"]
    room = HEIGHT_CM / max(len(lines), 1)
    for number, (label, spread) in enumerate(lines):
        words += [
            "<signalcomposition>",
            "<num_of_signals>1</num_of_signals>",
            f"<voltpercm>{max(abs(spread) / room, 1e-6):.6f}</voltpercm>",
            "<screen_offset>0.000000</screen_offset>",
            "<polarity>1</polarity>",
            f"<color>{COLOURS[number % len(COLOURS)]}</color>",
            "<filter_cnt>0</filter_cnt>",
            f"<signal><label>{escape(label)}</label><factor>1.000000</factor></signal>",
            "</signalcomposition>",
        ]
    return "\n".join([*words, "</EDFbrowser_montage>", ""])


def main(files: list[str]) -> None:
    words = ["edfbrowser", *files[:1]]
    try:
        text = montage(files[0])
        with tempfile.NamedTemporaryFile("w", suffix=".mtg", delete=False, encoding="latin-1") as file:
            file.write(text)
        words.append(file.name)
    except (OSError, ValueError, IndexError):
        pass  # then EDFbrowser says itself what is wrong with the file
    os.execvp("edfbrowser", words)  # noqa: S606 - no shell in between


if __name__ == "__main__":
    main(sys.argv[1:])
