"""Pictures: JPEG, PNG, GIF, WebP, TIFF and HEIC. Sizes and metadata are not looked at here."""

from myphr.ingest.formats import Identified, Rule, magic

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def _webp(head: bytes) -> Identified | None:
    return Identified("webp", "image/webp", "webp") if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def _heic(head: bytes) -> Identified | None:
    """ISO base media file (ISO/IEC 14496-12, 4.3): the major brand, then the compatible ones."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if b"avif" in brands:
        return Identified("avif", "image/avif", "avif")
    return Identified("heic", "image/heic", "heic") if brands & _HEIC_BRANDS else None


RULES = (
    magic("jpeg", "jpeg", "image/jpeg", b"\xff\xd8\xff"),
    magic("png", "png", "image/png", b"\x89PNG\r\n\x1a\n"),
    magic("gif", "gif", "image/gif", b"GIF87a", b"GIF89a"),
    Rule("webp", _webp),
    magic("tiff", "tiff", "image/tiff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    Rule("heic", _heic),
)
