"""Sound and film: dictations, heart sounds, ultrasound clips, videos of a gait. ISO base media (ISO/IEC 14496-12),
RIFF, Ogg (RFC 3533), FLAC (RFC 9639), MPEG audio (ISO/IEC 11172-3), Matroska, MPEG streams. HEIF is asked before: it
shares `ftyp`.
"""

from myphr.ingest.formats import Identified, Rule, magic

_SOUND_BRANDS = {b"M4A ", b"M4B ", b"M4P "}
_FILM_BRANDS = {
    b"isom",
    b"iso2",
    b"iso4",
    b"iso5",
    b"iso6",
    b"mp41",
    b"mp42",
    b"avc1",
    b"M4V ",
    b"dash",
    b"f4v ",
    b"MSNV",
}
_RATES = (44_100, 48_000, 32_000)
_KILOBITS = {  # by layer III of MPEG 1, and of MPEG 2 and 2.5
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _iso(head: bytes) -> Identified | None:
    if head[4:8] != b"ftyp":
        return None
    brand = head[8:12]
    if brand in _SOUND_BRANDS:
        return Identified("m4a", "audio/mp4", "mp4-sound", puid="fmt/596")
    if brand == b"qt  ":
        return Identified("mov", "video/quicktime", "quicktime", puid="x-fmt/384")
    if brand[:3] == b"3gp" or brand[:3] == b"3g2":
        return Identified("3gp", "video/3gpp", "3gpp", puid="fmt/357")
    if brand in _FILM_BRANDS:
        return Identified("mp4", "video/mp4", "mp4", puid="fmt/199")
    return None


def _riff(head: bytes) -> Identified | None:
    if head[:4] not in (b"RIFF", b"RF64"):
        return None
    if head[8:12] == b"WAVE":
        return Identified("wav", "audio/wav", "wave", puid="fmt/141")
    return Identified("avi", "video/x-msvideo", "avi", puid="fmt/5") if head[8:12] == b"AVI " else None


def _ogg(head: bytes) -> Identified | None:
    if head[:4] != b"OggS":
        return None
    if b"\x80theora" in head[:512]:
        return Identified("ogv", "video/ogg", "ogg-theora", puid="fmt/945")
    puid = "fmt/203" if b"\x01vorbis" in head[:512] else "fmt/946" if b"OpusHead" in head[:512] else ""
    return Identified("ogg", "audio/ogg", "ogg", puid=puid)


def _frame_bytes(head: bytes, at: int) -> int:
    """Length of the MPEG audio frame at `at` (layer III), or 0."""
    four = int.from_bytes(head[at : at + 4], "big")
    version, layer, bitrate, rate, padding = (
        four >> 19 & 3,
        four >> 17 & 3,
        four >> 12 & 15,
        four >> 10 & 3,
        four >> 9 & 1,
    )
    if four >> 21 != 0x7FF or version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return 0
    hertz = _RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    kilobits = _KILOBITS[3 if version == 3 else 2][bitrate]
    return (144 if version == 3 else 72) * kilobits * 1000 // hertz + padding


def _mp3(head: bytes) -> Identified | None:
    """An ID3 tag, or two frames one behind the other: one sync word alone is chance."""
    if head[:3] == b"ID3" and len(head) > 10 and head[3] in (2, 3, 4) and max(head[6:10]) < 128:
        return Identified("mp3", "audio/mpeg", "mp3-id3", puid="fmt/134")
    size = _frame_bytes(head, 0)
    if size and _frame_bytes(head, size):
        return Identified("mp3", "audio/mpeg", "mp3-frames", "likely", "fmt/134")
    return None


def _aac(head: bytes) -> Identified | None:
    """Two ADTS frames (ISO/IEC 13818-7, 6.2)."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    follows = head[size : size + 2]
    if size > 7 and len(follows) == 2 and follows[0] == 0xFF and follows[1] & 0xF6 == 0xF0:
        return Identified("aac", "audio/aac", "aac-frames", "likely")
    return None


def _matroska(head: bytes) -> Identified | None:
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return None
    if b"webm" in head[:64]:
        return Identified("webm", "video/webm", "webm", puid="fmt/573")
    return Identified("mkv", "video/x-matroska", "matroska", puid="fmt/569")


RULES = (
    Rule("iso-media", _iso),
    Rule("riff", _riff),
    magic("flac", "flac", "audio/flac", b"fLaC", puid="fmt/279"),
    Rule("ogg", _ogg),
    magic("amr", "amr", "audio/amr", b"#!AMR", puid="fmt/356"),
    Rule("matroska", _matroska),
    magic("mpeg-program", "mpeg", "video/mpeg", b"\0\0\1\xba", b"\0\0\1\xb3", puid="x-fmt/386"),
    magic(
        "windows-media", "wmv", "video/x-ms-wmv", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
    ),
    Rule("mp3", _mp3),
    Rule("aac", _aac),
)
