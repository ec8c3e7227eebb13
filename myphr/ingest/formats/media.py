"""Sound and film: dictations, heart sounds, ultrasound clips, videos of a gait. ISO base media (ISO/IEC 14496-12),
RIFF, AIFF, Ogg (RFC 3533), FLAC (RFC 9639), MPEG audio (ISO/IEC 11172-3), Matroska, MPEG streams. HEIF is asked before:
it shares `ftyp`.
"""

from collections.abc import Iterator

from myphr.ingest.formats import Identified, Rule, magic
from myphr.ingest.formats.elsewhere import Elsewhere

_SOUND_BRANDS = {b"M4A ", b"M4B ", b"M4P "}
_FILM_BRANDS = {
    b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8", b"iso9", b"mp41", b"mp42", b"mp71", b"avc1",
    b"avc3", b"hvc1", b"hev1", b"M4V ", b"M4VH", b"M4VP", b"dash", b"f4v ", b"MSNV", b"XAVC", b"NDSC", b"NDSH", b"NDSM",
    b"NDSP", b"NDSS", b"NDXC", b"NDXH", b"NDXM", b"NDXP", b"NDXS", b"mmp4", b"mqt ", b"cmfc", b"piff",
}  # fmt: skip
_OTHER_BRANDS = {b"crx "}  # photos of Canon: not a film, though compatible with one
# Sound that is no format of ours
_NOT_MPEG = (b"MP+", b"MPCK", b"MAC ", b"TTA1", b"wvpk", b"OFR ", b"tBaK", b"DSD ", b"FRM8", b"ajkg")
_BOXES_MAX = 64
_QUICKTIME_ATOMS = {b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_RATES = (44_100, 48_000, 32_000)
_KILOBITS = {  # by layer III of MPEG 1, and of MPEG 2 and 2.5
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _iso(head: bytes) -> Identified | None:
    """The major brand decides; where it is nobody's we know, the compatible ones do (4.3)."""
    if head[4:8] != b"ftyp":
        return _quicktime(head)
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
    if brands[0] in _OTHER_BRANDS:
        return None
    for brand in brands:
        if brand in _SOUND_BRANDS:
            return Identified("m4a", "audio/mp4", "mp4-sound", puid="fmt/596")
        if brand == b"qt  ":
            return Identified("mov", "video/quicktime", "quicktime", puid="x-fmt/384")
        if brand[:3] == b"3gp" or brand[:3] == b"3g2" or brand[:3] == b"3ge":
            return Identified("3gp", "video/3gpp", "3gpp", puid="fmt/357")
        if brand in _FILM_BRANDS:
            return Identified("mp4", "video/mp4", "mp4", puid="fmt/199")
    return None


def _quicktime(head: bytes) -> Identified | None:
    """QuickTime before it had `ftyp` (QuickTime File Format, Overview): an atom of its own first, another behind it."""
    size, atom = int.from_bytes(head[:4], "big"), head[4:8]
    if atom not in _QUICKTIME_ATOMS or size < 8:
        return None
    inside, behind = head[12:16] if atom == b"moov" else b"", head[size + 4 : size + 8]
    if inside in (b"mvhd", b"cmov", b"rmra") or behind in _QUICKTIME_ATOMS:
        return Identified("mov", "video/quicktime", "quicktime-atoms", "likely", "x-fmt/384")
    return None


def _tracks(found: Identified, elsewhere: Elsewhere) -> Identified | None:
    """An MP4 with sound and no pictures is sound: recorders write it with a film's brand."""
    kinds = set()
    try:
        movie = next(_boxes(elsewhere, 0, elsewhere.size or 1 << 62, b"moov"), (0, 0))
        for track in _boxes(elsewhere, *movie, b"trak"):
            for media in _boxes(elsewhere, *track, b"mdia"):
                for at, _end in _boxes(elsewhere, *media, b"hdlr"):
                    kinds.add(elsewhere.at(at + 8, 4))  # 8.4.3: version and flags, pre_defined, then what it is
    except _OutOfReach:
        return found
    if b"soun" in kinds and b"vide" not in kinds:
        return Identified("m4a", "audio/mp4", "mp4-sound-tracks", puid="fmt/596")
    return found


class _OutOfReach(Exception):
    """There is more than can be read."""


def _boxes(elsewhere: Elsewhere, at: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of what the boxes of this kind between `at` and `end` hold (4.2). Raises _OutOfReach."""
    for _ in range(_BOXES_MAX):
        if at + 8 > end:
            return
        start = elsewhere.at(at, 16)
        size, header_bytes = int.from_bytes(start[:4], "big"), 8
        if size == 1:
            size, header_bytes = int.from_bytes(start[8:16], "big"), 16
        size = size or end - at  # 0: up to the end
        if len(start) < 8 or size < header_bytes:
            break
        if start[4:8] == kind:
            yield at + header_bytes, min(at + size, end)
        at += size
    raise _OutOfReach


def _riff(head: bytes) -> Identified | None:
    if head[:4] not in (b"RIFF", b"RF64", b"BW64", b"RIFX"):  # beyond 4 GiB (EBU 3306, ITU-R BS.2088); big-endian
        return None
    if head[8:12] == b"WAVE":
        return Identified("wav", "audio/wav", "wave", puid="fmt/141")
    return Identified("avi", "video/x-msvideo", "avi", puid="fmt/5") if head[8:12] == b"AVI " else None


def _aiff(head: bytes) -> Identified | None:
    """Audio Interchange File Format 1.3: a FORM chunk of type AIFF, or AIFC if packed."""
    if head[:4] != b"FORM" or head[8:12] not in (b"AIFF", b"AIFC"):
        return None
    return Identified("aiff", "audio/aiff", "aiff", puid="fmt/414" if head[11:12] == b"F" else "x-fmt/136")


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
        return _behind_id3(head)
    size = _frame_bytes(head, 0)
    if size and _frame_bytes(head, size):
        return Identified("mp3", "audio/mpeg", "mp3-frames", "likely", "fmt/134")
    return None


def _behind_id3(head: bytes) -> Identified | None:
    """ID3v2 stands before MPEG audio, but other sound wears it, too: what follows it, if the head holds that (ID3v2.4,
    3.1: seven bits a byte; a footer is ten bytes more)."""
    size = sum((byte & 0x7F) << 7 * (3 - at) for at, byte in enumerate(head[6:10]))
    follows = head[10 + size + (10 if head[5] & 0x10 else 0) :].lstrip(b"\0")
    if follows.startswith(b"fLaC"):
        return Identified("flac", "audio/flac", "flac-id3", puid="fmt/279")
    if follows.startswith(_NOT_MPEG):
        return None
    return _aac(follows) or Identified("mp3", "audio/mpeg", "mp3-id3", puid="fmt/134")


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


_PACKETS = ((188, 0), (192, 4))  # plain, and with the times of arrival that cameras (AVCHD) and discs put before each


def _transport_stream(head: bytes) -> Identified | None:
    """ISO/IEC 13818-1, 2.4.3.2: packets of 188 bytes, each begins with 47h: five of them, one alone is the letter G."""
    for packet_bytes, at in _PACKETS:
        signs = head[at : at + 5 * packet_bytes : packet_bytes]
        # No text: the second byte's error bit, and the third's two bits of scrambling, are seldom all letters
        if signs == b"G" * 5 and any(byte < 9 or byte > 126 for byte in head[at + 1 : at + 16]):
            return Identified("mpeg", "video/mp2t", "mpeg-transport", "likely", "fmt/585")
    return None


RULES = (
    Rule("iso-media", _iso),
    Rule("riff", _riff),
    magic("flac", "flac", "audio/flac", b"fLaC", puid="fmt/279"),
    Rule("ogg", _ogg),
    magic("aac-adif", "aac", "audio/aac", b"ADIF"),  # ISO/IEC 13818-7, 6.2: the header of a whole file
    Rule("aiff", _aiff),
    magic("amr", "amr", "audio/amr", b"#!AMR", puid="fmt/356"),
    Rule("matroska", _matroska),
    magic("mpeg-program", "mpeg", "video/mpeg", b"\0\0\1\xba", b"\0\0\1\xb3", puid="x-fmt/386"),
    magic(
        "windows-media", "wmv", "video/x-ms-wmv", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
    ),
    Rule("mpeg-transport", _transport_stream),
    Rule("mp3", _mp3),
    Rule("aac", _aac),
)
CLOSER = {"mp4": _tracks}
