"""Bodies of several parts, as they stream in (RFC 2046, 5.1; multipart/related: RFC 2387): bytes in, events out.

No socket and no storage here; what the caller does not keep is gone. Everything is bounded before it is believed: the
boundary, what stands before the first part, the headers of a part, the number of parts. Called by `web/dicom_web.py`.
"""

import dataclasses
import enum
import re
from collections.abc import Iterator

BOUNDARY_CHARACTERS_MAX = 200  # RFC 2046 says 70; Orthanc sends 73
PREAMBLE_BYTES_MAX = 8 * 1024
HEADER_BYTES_MAX = 8 * 1024  # of one part
PADDING_BYTES_MAX = 256  # white space behind a delimiter
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? @*&!#$~^|]+")  # RFC 2046's and some more


class Broken(Exception):
    """This is no such body, it passes a limit, or it ended too early."""


@dataclasses.dataclass(frozen=True)
class PartStart:
    """Header names in lower case."""

    headers: dict[str, str]


@dataclasses.dataclass(frozen=True)
class PartData:
    data: bytes


@dataclasses.dataclass(frozen=True)
class PartEnd:
    pass


Event = PartStart | PartData | PartEnd


class _Place(enum.Enum):
    PREAMBLE = 1
    DELIMITER = 2  # right behind one: a line end, or two hyphens
    HEADERS = 3
    CONTENT = 4
    EPILOGUE = 5


class Parser:
    """Feed it pieces of any size, then `finish`."""

    def __init__(self, boundary: str, parts_max: int) -> None:
        """Raises Broken for a boundary that nobody may send."""
        if len(boundary) > BOUNDARY_CHARACTERS_MAX or not _BOUNDARY.fullmatch(boundary) or boundary.endswith(" "):
            raise Broken("boundary")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._place = _Place.PREAMBLE
        self._held = b"\r\n"  # the first delimiter may stand at the very start, without a line end before it
        self._parts_left = parts_max

    def feed(self, piece: bytes) -> Iterator[Event]:
        """What this piece completes. Raises Broken; nothing can be fed then."""
        self._held += piece
        while (found := self._step()) is not None:
            yield from found

    def finish(self) -> None:
        """Raises Broken unless the closing delimiter was there."""
        if self._place is not _Place.EPILOGUE:
            raise Broken("ended too early")

    def _step(self) -> tuple[Event, ...] | None:
        """One step forward, or None if more bytes are needed."""
        match self._place:
            case _Place.PREAMBLE:
                return self._preamble()
            case _Place.DELIMITER:
                return self._behind_delimiter()
            case _Place.HEADERS:
                return self._headers()
            case _Place.CONTENT:
                return self._content()
            case _Place.EPILOGUE:
                self._held = b""
        return None

    def _preamble(self) -> tuple[Event, ...] | None:
        at = self._held.find(self._delimiter)
        if at > PREAMBLE_BYTES_MAX or (at < 0 and len(self._held) > PREAMBLE_BYTES_MAX + len(self._delimiter)):
            raise Broken("too much before the first part")
        if at < 0:
            return None
        self._go_on(at + len(self._delimiter), _Place.DELIMITER)
        return ()

    def _behind_delimiter(self) -> tuple[Event, ...] | None:
        if self._held.startswith(b"--"):
            self._go_on(2, _Place.EPILOGUE)
            return ()
        rest = self._held.lstrip(b" \t")
        padding = len(self._held) - len(rest)
        if padding > PADDING_BYTES_MAX:
            raise Broken("delimiter")
        if rest.startswith(b"\r\n"):
            if self._parts_left == 0:
                raise Broken("too many parts")
            self._parts_left -= 1
            self._go_on(padding, _Place.HEADERS)  # the line end stays: a part may have no headers at all
            return ()
        if rest in (b"", b"\r") or (padding == 0 and rest == b"-"):
            return None
        raise Broken("delimiter")

    def _headers(self) -> tuple[Event, ...] | None:
        end = self._held.find(b"\r\n\r\n")
        if end > HEADER_BYTES_MAX or (end < 0 and len(self._held) > HEADER_BYTES_MAX + 4):
            raise Broken("headers of a part")
        if end < 0:
            return None
        headers = _headers_of(self._held[2:end])
        self._go_on(end + 4, _Place.CONTENT)
        return (PartStart(headers),)

    def _content(self) -> tuple[Event, ...] | None:
        at = self._held.find(self._delimiter)
        if at >= 0:
            data = self._held[:at]
            self._go_on(at + len(self._delimiter), _Place.DELIMITER)
            return (PartData(data), PartEnd()) if data else (PartEnd(),)
        ready = len(self._held) - len(self._delimiter) + 1
        if ready <= 0:
            return None
        data = self._held[:ready]
        self._held = self._held[ready:]
        return (PartData(data),)

    def _go_on(self, consumed: int, place: _Place) -> None:
        self._held = self._held[consumed:]
        self._place = place


def _headers_of(block: bytes) -> dict[str, str]:
    found = {}
    for line in block.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if not line:
            continue
        if not colon or not name.strip():
            raise Broken("header of a part")
        found[name.strip().lower()] = value.strip()
    return found
