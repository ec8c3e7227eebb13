"""Imaging research: NIfTI-1 and -2, Analyze 7.5, MGH, MINC, NRRD, MetaImage, Philips PAR, tracts of
TrackVis and MRtrix. GIFTI is XML: `markup`."""

import re
import struct

from myphr.ingest.formats import Identified, Rule, magic

NIFTI = Identified("nifti", "application/x-nifti", "nifti-1", puid="fmt/798")
_NIFTI_2 = Identified("nifti", "application/x-nifti", "nifti-2")


def nifti(head: bytes) -> Identified | None:
    """NIfTI-1: 348 and "n+1" or "ni1" at its end; NIfTI-2: 540 and "n+2" or "ni2" at its start."""
    if head[344:348] in (b"n+1\0", b"ni1\0") and 348 in _both(head, "i", 0):
        return NIFTI
    if head[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n") and 540 in _both(head, "i", 0):
        return _NIFTI_2
    return None


def _both(head: bytes, kind: str, at: int) -> tuple[int, ...]:
    """The number at this place, read in both byte orders."""
    size = struct.calcsize(kind)
    if len(head) < at + size:
        return ()
    return tuple(struct.unpack_from(order + kind, head, at)[0] for order in "<>")


_ANALYZE_BITS = {1: 1, 2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24}  # datatype -> bitpix


def _analyze(head: bytes) -> Identified | None:
    """Analyze 7.5: 348, and 1 to 7 dimensions; then the letter `r`, or, where a writer left it out, a data type with
    the bits it takes."""
    if len(head) < 348 or 348 not in _both(head, "i", 0) or not any(1 <= n <= 7 for n in _both(head, "h", 40)):
        return None
    kinds = zip(_both(head, "h", 70), _both(head, "h", 72), strict=True)
    sound = head[38:39] == b"r" or any(_ANALYZE_BITS.get(kind) == bits for kind, bits in kinds)
    return Identified("analyze", "application/x-analyze", "analyze", "likely") if sound else None


def mgh(head: bytes) -> Identified | None:
    """FreeSurfer: version 1, four dimensions, a known type, all big-endian."""
    if len(head) < 284:
        return None
    version, width, height, depth, frames, kind = struct.unpack_from(">6i", head)
    fits = version == 1 and all(0 < n <= 65_536 for n in (width, height, depth, frames)) and kind in (0, 1, 3, 4)
    return Identified("mgh", "application/x-mgh", "mgh", "likely") if fits and not any(head[90:284]) else None


def _minc(head: bytes) -> Identified | None:
    """netCDF (version 1) or HDF5 (version 2) with MINC's own names in it."""
    if head[:3] == b"CDF" and head[3:4] in (b"\1", b"\2") and b"xspace" in head:
        return Identified("minc", "application/x-minc", "minc-1")
    if head[:8] == b"\x89HDF\r\n\x1a\n" and b"minc-2.0" in head:
        return Identified("minc", "application/x-minc", "minc-2")
    return None


def _par(head: bytes) -> Identified | None:
    start = head[:4096]
    fits = b"DATA DESCRIPTION FILE" in start[:200] and (b"image export tool" in start or b"Patient name" in start)
    return Identified("par", "text/plain", "philips-par") if start.startswith(b"#") and fits else None


_META_LINE = re.compile(rb"[A-Za-z][A-Za-z0-9_]*[ \t]*=")


def _metaimage(head: bytes) -> Identified | None:
    """MetaIO: lines `name = value`, in no demanded order but that ElementDataFile is last; an image has these two."""
    if not _META_LINE.match(head):
        return None
    named = {line.split(b"=", 1)[0].strip() for line in head[:4096].split(b"\n")[:60] if _META_LINE.match(line)}
    fits = {b"NDims", b"DimSize"} <= named
    return Identified("metaimage", "application/x-metaimage", "metaimage") if fits else None


RULES = (
    Rule("nifti", nifti),
    Rule("minc", _minc),
    magic("nrrd", "nrrd", "application/x-nrrd", b"NRRD000"),
    Rule("metaimage", _metaimage),
    magic("mrtrix-tracks", "tck", "application/x-mrtrix-tracks", b"mrtrix tracks"),
    magic("trackvis", "trk", "application/x-trackvis", b"TRACK\0"),
    Rule("philips-par", _par),
    Rule("analyze", _analyze),
    Rule("mgh", mgh),
)
