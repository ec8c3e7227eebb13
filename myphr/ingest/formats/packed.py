"""Archives, disc images and packed files. Office documents are zips too and are asked first, blocked gzips before."""

from myphr.ingest.formats import Identified, Rule, genome, magic, neuro
from myphr.ingest.formats.inflate import first_bytes

# Where the first volume descriptor lies (ECMA-119, 6.2.1): plain, and in raw sectors of mode 1 and mode 2 (ECMA-130)
_ISO_SECTORS = (16 * 2048, 16 * 2352 + 16, 16 * 2352 + 24)


def _gzip(head: bytes) -> Identified | None:
    if head[:3] != b"\x1f\x8b\x08":
        return None
    inside = first_bytes(head)
    if neuro.nifti(inside):
        return Identified("nifti-gz", "application/gzip", "nifti-gz", puid="x-fmt/266")
    if neuro.mgh(inside):
        return Identified("mgh-gz", "application/gzip", "mgh-gz", "likely", "x-fmt/266")
    if inside[257:262] == b"ustar":
        return Identified("tar-gz", "application/gzip", "tar-gz", puid="x-fmt/266")
    return genome.packed(inside) or Identified("gzip", "application/gzip", "gzip", puid="x-fmt/266")


def _zstd(head: bytes) -> Identified | None:
    """RFC 8878, 3.1.1; a frame that decoders skip may stand before (3.1.2)."""
    if head[:1] and 0x50 <= head[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18":
        head = head[8 + int.from_bytes(head[4:8], "little") :]
    return Identified("zstd", "application/zstd", "zstd") if head[:4] == b"\x28\xb5\x2f\xfd" else None


def _iso(head: bytes) -> Identified | None:
    """ISO 9660 or UDF: descriptors from sector 16 on, each with its name behind one byte."""
    if any(head[at + 1 : at + 6] in (b"CD001", b"BEA01", b"NSR02", b"NSR03") for at in _ISO_SECTORS):
        return Identified("iso9660", "application/x-iso9660-image", "iso-9660", puid="fmt/468")
    return None


RULES = (
    magic("zip", "zip", "application/zip", b"PK\x03\x04", b"PK\x05\x06", puid="x-fmt/263"),
    Rule("gzip", _gzip),
    magic("7z", "7z", "application/x-7z-compressed", b"7z\xbc\xaf\x27\x1c", puid="fmt/484"),
    magic("rar", "rar", "application/vnd.rar", b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00"),
    magic("xz", "xz", "application/x-xz", b"\xfd7zXZ\0", puid="fmt/1098"),
    magic("bzip2", "bzip2", "application/x-bzip2", *(b"BZh%d1AY&SY" % n for n in range(1, 10)), puid="x-fmt/268"),
    Rule("zstd", _zstd),
    magic("tar", "tar", "application/x-tar", b"ustar\0", b"ustar  \0", offset=257, puid="x-fmt/265"),
    Rule("iso", _iso),
)
