"""Which files of the folder a viewer of ours opens, and which one first. Runs in the guest and in the unit tests; knows
no window and no format.
"""

import os
from collections.abc import Iterator, Sequence


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
