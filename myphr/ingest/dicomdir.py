"""The table of contents of a medical disc (DICOMDIR: PS3.3 Annex F, PS3.10 chapter 8), as a hint: what it lists.

Its records are read one by one, flat and bounded. A library that loads them as a file set drops those whose file is
missing without a word: just what a patient must be told. Nothing named in it is ever opened by that name. Called by
`discs` and the page of such a file.
"""

import dataclasses

from myphr.ingest import dicom

DIRECTORY_BYTES_MAX = 32 * 1024**2  # 60,000 images
RECORDS_MAX = 200_000
_SEQUENCE = 0x00041220
_IN_USE, _TYPE, _FILE_ID, _INSTANCE = 0x00041410, 0x00041430, 0x00041500, 0x00041511


@dataclasses.dataclass(frozen=True)
class Listed:
    """One file that the disc says it has: "IMAGE", "SR DOCUMENT" ..., its path in upper case, its SOP instance UID."""

    kind: str
    path: str
    instance_uid: str


def read(data: bytes) -> list[Listed]:
    """The files it lists, each once, in order; none if it cannot be read."""
    found: dict[str, Listed] = {}
    for record in dicom.items_of(data[:DIRECTORY_BYTES_MAX], _SEQUENCE, RECORDS_MAX):
        if record.get(_IN_USE) in (b"\0\0",):
            continue  # retired: a record that was deleted
        path = "/".join(part.strip() for part in _text(record, _FILE_ID).split("\\"))
        if path.strip("/"):
            path = path.upper()
            found.setdefault(path, Listed(_text(record, _TYPE), path, _text(record, _INSTANCE)))
    return list(found.values())


def _text(record: dict[int, bytes], tag: int) -> str:
    return dicom.clean(record.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace"))
