#!/usr/bin/python3 -B
"""LibreOffice with a window, for the files of this folder. Of a table in plain text (CSV) it would ask first what
separates the columns and in which letters it is written: that is looked up in the file here and said on the command
line. What is said there holds for all files of one call, so each kind of table takes a call of its own; the later ones
hand their files to the first. Runs in the guest as the viewer user.
"""

import contextlib
import csv
import glob
import io
import os
import socket
import subprocess
import sys
import time
from collections import Counter

from folder_files import first_bytes

PROGRAM = ["libreoffice", "--norestore", "--nologo", "--view"]
PIPE = "/tmp/OSL_PIPE_*"  # noqa: S108 - where a LibreOffice that runs listens for others
HEAD_BYTES, LINES = 65_536, 50
SEPARATORS = ";,\t|"  # the first one wins when two divide the lines as well
UTF_8, UTF_16, WESTERN = 76, 65535, 1  # numbers of LibreOffice's filter options for text


def letters_of(head: bytes) -> tuple[str, int]:
    """Python's and LibreOffice's name of how it is written. What is not UTF-8 is taken for what Windows wrote in the
    west of Europe."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", UTF_16
    try:
        head[: head.rfind(b"\n") + 1].decode()  # whole lines: a letter may be cut at the end of what was read
        return "utf-8-sig", UTF_8
    except UnicodeDecodeError:
        return "cp1252", WESTERN


def separator_of(text: str) -> str:
    """What divides most lines into the same number of columns, and of those what makes most columns."""

    def score(separator: str) -> tuple[float, int]:
        lines = text.splitlines(keepends=True)[:LINES]
        widths = Counter(len(row) for row in csv.reader(io.StringIO("".join(lines)), delimiter=separator) if row)
        columns, count = max(widths.items(), key=lambda one: (one[1], one[0]), default=(1, 0))
        return (count / widths.total(), columns) if columns > 1 else (0.0, 1)

    return max(SEPARATORS, key=score)


def options_of(path: str) -> str:
    """Filter and its options: separator, quotation mark, letters, first line."""
    head = first_bytes(path, HEAD_BYTES)
    name, number = letters_of(head)
    separator = separator_of(head.decode(name, "replace").replace("\0", ""))
    return f"Text - txt - csv (StarCalc):{ord(separator)},{ord(chr(34))},{number},1"


def calls_of(files: list[str]) -> list[list[str]]:
    """The command lines that open these files without a question, the first one first."""
    plain: list[str] = []
    tables: dict[str, list[str]] = {}
    for file in files:
        if file.casefold().endswith(".csv"):
            tables.setdefault(options_of(file), []).append(file)
        else:
            plain.append(file)
    calls = [[*PROGRAM, *plain]] if plain else []
    return calls + [[*PROGRAM, f"--infilter={options}", *group] for options, group in tables.items()]


def listens(pattern: str = PIPE) -> bool:
    """Whether a LibreOffice does; one that was killed leaves its name behind."""
    for path in glob.glob(pattern):
        with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(OSError):
            line.connect(path)
            return True
    return False


def follow(first: int, calls: list[list[str]]) -> None:
    """Hands the later calls to the LibreOffice of the first one, our parent, once it listens and while it is there."""
    while not listens() and os.getppid() == first:
        time.sleep(0.3)
    for call in calls:
        if os.getppid() == first:
            subprocess.run(call, stdin=subprocess.DEVNULL)


def main(files: list[str]) -> None:
    first, *later = calls_of(files) or [PROGRAM]
    here = os.getpid()
    if later and os.fork() == 0:
        follow(here, later)
        os._exit(0)
    os.execvp(first[0], first)  # noqa: S606 - no shell in between


if __name__ == "__main__":
    main(sys.argv[1:])
