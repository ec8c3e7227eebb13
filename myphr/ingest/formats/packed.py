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
    if inside[257:262] == b"ustar" or _tar_v7(inside):
        return Identified("tar-gz", "application/gzip", "tar-gz", puid="x-fmt/266")
    return genome.packed(inside) or Identified("gzip", "application/gzip", "gzip", puid="x-fmt/266")


def _tar_v7(head: bytes) -> Identified | None:
    """The tar of Unix version 7 has no signature (POSIX 1003.1, pax, has added it): its checksum, in octal, is the sum
    of the header's 512 bytes with blanks in its own place."""
    header = head[:512]
    if len(header) < 512 or not header[0]:
        return None
    try:
        told = int(header[148:156].strip(b" \0"), 8)
        int(header[124:136].strip(b" \0"), 8)  # the size of the member
    except ValueError:
        return None
    fits = told == sum(header[:148]) + 8 * 32 + sum(header[156:])
    return Identified("tar", "application/x-tar", "tar-v7", "likely", "x-fmt/265") if fits else None


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
    Rule("tar-v7", _tar_v7),
    Rule("iso", _iso),
)
