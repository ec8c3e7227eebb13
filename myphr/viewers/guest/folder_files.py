"""Which files of the folder a viewer of ours opens, which one first, and how it is said that one cannot be shown. Runs
in the guest and in the unit tests; knows no window and no format.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence


class CannotShow(Exception):
    """One sentence for the person in front of the screen: what is wrong with a file, and what may help."""


@contextlib.contextmanager
def said_in_a_sentence(damaged: str, too_large: str = "") -> Iterator[None]:
    """Whatever goes wrong in here becomes CannotShow with one of these sentences: a damaged file may fail anywhere in
    a parser, and must not end the viewer."""
    try:
        yield
    except CannotShow:
        raise
    except Exception as reason:
        large = isinstance(reason, MemoryError) and too_large
        raise CannotShow(too_large if large else damaged) from reason


def first_bytes(path: str, count: int) -> bytes:
    """What a file is told by; nothing of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def files_below(path: str) -> Iterator[str]:
    """Files in the order of their paths, without what viewers wrote themselves and without hidden ones.
    Asks each folder once and no file: over the network every question costs."""
    if os.path.isfile(path):
        yield path
        return
    for here, folders, names in os.walk(path):
        if here == path and "results" in folders:
            folders.remove("results")
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(here, name)


def middle_first(paths: Sequence[str]) -> list[str]:
    """The middle file of the largest folder, then all others in their order.

    The portal lays a study out as one folder per series, its files numbered (docs/formats/manifest.md): so the most
    telling picture is known before any file was read. The first slices of a scan mostly show air."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(os.path.dirname(path), []).append(path)
    if not folders:
        return []
    largest = max(folders.values(), key=len)  # of equal ones the first
    middle = largest[len(largest) // 2]
    return [middle, *(path for path in paths if path != middle)]
