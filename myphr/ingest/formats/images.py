"""Pictures: JPEG, PNG, GIF, WebP, BMP, TIFF with its medical kinds (OME-TIFF, whole slides), JPEG 2000, HEIF.

A TIFF's kind stands in its first directory (TIFF 6.0, section 2), which a writer may put anywhere, and scanners of
slides put behind the picture: it is looked for where it is (`CLOSER`); where that cannot be read, it is a plain TIFF.
Sizes and other metadata are not looked at here.
"""

import struct

from myphr.ingest.formats import Identified, Rule, magic
from myphr.ingest.formats.elsewhere import Elsewhere

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"miaf"}
_IMAGE_DESCRIPTION, _SOFTWARE, _NDPI_FORMAT = 270, 305, 65420
_DIRECTORY_ENTRIES_MAX = 512
_VALUE_BYTES_MAX = 4096
_BIG = (b"\x2b\0", b"\0\x2b")  # BigTIFF: offsets of 64 bits


def _webp(head: bytes) -> Identified | None:
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    puid = {b"VP8 ": "fmt/566", b"VP8L": "fmt/567", b"VP8X": "fmt/568"}.get(head[12:16], "")
    return Identified("webp", "image/webp", "webp", puid=puid)


def _heif(head: bytes) -> Identified | None:
    """ISO base media file (ISO/IEC 14496-12, 4.3): the major brand, then the compatible ones."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if b"avif" in brands or b"avis" in brands:
        return Identified("avif", "image/avif", "avif")
    return Identified("heif", "image/heif", "heif", puid="fmt/1101") if brands & _HEIF_BRANDS else None


def _jpeg(head: bytes) -> Identified | None:
    if head[:3] != b"\xff\xd8\xff":
        return None
    puid = "fmt/41"
    if head[6:11] == b"JFIF\0":
        puid = {b"\1\0": "fmt/42", b"\1\1": "fmt/43", b"\1\2": "fmt/44"}.get(head[11:13], "fmt/41")
    return Identified("jpeg", "image/jpeg", "jpeg", puid=puid)


def _bmp(head: bytes) -> Identified | None:
    """BITMAPFILEHEADER: reserved words are zero, and a header of a known size follows."""
    known = int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    return Identified("bmp", "image/bmp", "bmp") if head[:2] == b"BM" and head[6:10] == bytes(4) and known else None


def _tiff(head: bytes) -> Identified | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack_from(order + "H", head, 2)[0] if order and len(head) >= 8 else 0
    if version not in (42, 43):
        return None
    return Identified("tiff", "image/tiff", "tiff", puid="fmt/353" if version == 42 else "fmt/1917")


def _kind_of_tiff(found: Identified, elsewhere: Elsewhere) -> Identified | None:
    """The makers of microscopes say in the first directory that it is theirs."""
    tags = _first_directory(elsewhere, "<" if elsewhere.head[:2] == b"II" else ">", big=elsewhere.head[2:4] in _BIG)
    description, software = tags.get(_IMAGE_DESCRIPTION, b""), tags.get(_SOFTWARE, b"")
    if b"<OME" in description and b"openmicroscopy.org" in description:
        return Identified("ome-tiff", "image/tiff", "tiff-ome", puid="fmt/353")
    if description.startswith(b"Aperio"):
        return Identified("svs", "image/tiff", "tiff-aperio", puid="fmt/353")
    if _NDPI_FORMAT in tags:
        return Identified("ndpi", "image/tiff", "tiff-hamamatsu", puid="fmt/353")
    if software.startswith((b"Philips DP", b"ScanOutputManager")):
        return Identified("philips-tiff", "image/tiff", "tiff-philips", puid="fmt/353")
    return found


def _first_directory(elsewhere: Elsewhere, order: str, *, big: bool) -> dict[int, bytes]:
    """Tags of the first directory; the values of the two texts that are asked for, at most 4 KiB of each."""
    count_type, entry_bytes, value_at = ("Q", 20, 12) if big else ("H", 12, 8)
    offset_type = "Q" if big else "I"
    inline = struct.calcsize(order + offset_type)
    found: dict[int, bytes] = {}
    try:
        at = struct.unpack_from(order + offset_type, elsewhere.head, 8 if big else 4)[0]
        count_bytes = struct.calcsize(order + count_type)
        count = struct.unpack(order + count_type, elsewhere.at(at, count_bytes))[0]
        entries = elsewhere.at(at + count_bytes, min(count, _DIRECTORY_ENTRIES_MAX) * entry_bytes)
        for start in range(0, len(entries) - entry_bytes + 1, entry_bytes):
            tag, kind = struct.unpack_from(order + "HH", entries, start)
            value = b""
            if tag in (_IMAGE_DESCRIPTION, _SOFTWARE) and kind == 2:
                length = struct.unpack_from(order + offset_type, entries, start + 4)[0]
                value = entries[start + value_at : start + value_at + min(length, inline)]
                if length > inline:
                    value = elsewhere.at(struct.unpack(order + offset_type, value)[0], min(length, _VALUE_BYTES_MAX))
            found.setdefault(tag, value)
    except (struct.error, OverflowError):
        pass  # the rest lies out of reach, or nowhere; a BigTIFF's offsets of 64 bits reach beyond any file
    return found


def _jxl_codestream(head: bytes) -> Identified | None:
    """ISO/IEC 18181-1: FF 0A and then the sizes. Two bytes are little: what follows must not be text."""
    fits = head[:2] == b"\xff\n" and len(head) > 16 and any(byte < 9 or byte > 126 for byte in head[2:16])
    return Identified("jxl", "image/jxl", "jpeg-xl-codestream", "likely") if fits else None


RULES = (
    Rule("jpeg", _jpeg),
    magic("png", "png", "image/png", b"\x89PNG\r\n\x1a\n", puid="fmt/11"),
    magic("gif-87", "gif", "image/gif", b"GIF87a", puid="fmt/3"),
    magic("gif-89", "gif", "image/gif", b"GIF89a", puid="fmt/4"),
    Rule("webp", _webp),
    Rule("tiff", _tiff),
    Rule("heif", _heif),
    Rule("bmp", _bmp),
    magic("jpeg-2000", "jp2", "image/jp2", b"\0\0\0\x0cjP  \r\n\x87\n", puid="x-fmt/392"),
    magic("jpeg-2000-stream", "j2k", "image/jp2", b"\xff\x4f\xff\x51\x00"),
    magic("jpeg-xl", "jxl", "image/jxl", b"\0\0\0\x0cJXL \r\n\x87\n"),
    Rule("jpeg-xl-codestream", _jxl_codestream),
)
CLOSER = {"tiff": _kind_of_tiff}
