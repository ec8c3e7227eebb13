"""DICOM: with the 128-byte preamble (PS3.10, 7.1) and, as old devices write it, without.

Comes before all rules that look at offset 0: the preamble may hold any other magic (TIFF, PE, HTML), and a file that is
DICOM for a viewer must be DICOM for us.
"""

from myphr.ingest import dicom
from myphr.ingest.formats import Identified, Rule

MEDIA_TYPE = "application/dicom"
PUID = "fmt/574"
_DIRECTORY_CLASS = b"1.2.840.10008.1.3.10"  # Media Storage Directory Storage (PS3.3, F)


def _with_preamble(head: bytes) -> Identified | None:
    if head[128:132] != b"DICM":
        return None
    if _DIRECTORY_CLASS in head[132:512]:
        return Identified("dicomdir", MEDIA_TYPE, "dicom-directory", puid=PUID)
    return Identified("dicom", MEDIA_TYPE, "dicom-preamble", puid=PUID)


def _without_preamble(head: bytes) -> Identified | None:
    if head[:4] == b"DICM" and head[4:6] == b"\2\0" and head[8:10] == b"UL":  # the preamble was cut off
        return Identified("dicom", MEDIA_TYPE, "dicom-prefix-only", "likely", PUID)
    if dicom.looks_like_elements(head):
        if head[:2] == b"\x04\0":  # the group of directories (PS3.3, F.3.2.2)
            return Identified("dicomdir", MEDIA_TYPE, "dicom-elements", "likely", PUID)
        return Identified("dicom", MEDIA_TYPE, "dicom-elements", "likely", PUID)
    return None


RULES = (Rule("dicom-preamble", _with_preamble), Rule("dicom-elements", _without_preamble))
