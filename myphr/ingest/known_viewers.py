"""Viewers that hospitals put on discs, told by the names of their files and folders, as they are met in the field.

A name told wrongly does no harm: it is shown, never run. Order decides where several fit: the more special first."""

import re

_PATTERNS: tuple[tuple[str, str], ...] = (
    ("eFilm Lite", r"(^|/)EFILM(LT|LITE|[ _-]?LITE)?(/|\.EXE$)|(^|/)EFLT?\.EXE$"),
    ("OsiriX Lite", r"(^|/)OSIRIX[^/]*(\.APP)?/"),
    ("Horos", r"(^|/)HOROS[^/]*(\.APP)?/"),
    ("Weasis", r"(^|/)(WEASIS|VIEWER-(WIN32|MACOSX|LINUX))[^/]*(/|\.EXE$|\.JAR$)"),
    ("MicroDicom", r"(^|/)(MICRODICOM|MDICOM)[^/]*(/|\.EXE$)"),
    ("RadiAnt", r"(^|/)RADIANT[^/]*(/|\.EXE$)"),
    ("Philips DICOM Viewer", r"(^|/)(PMSDVIEW|PHILIPS|ISITE|DICOMVIEWERPHILIPS)[^/]*(/|\.EXE$)"),
    ("GE Centricity DICOM Viewer", r"(^|/)(CENTRICITY|CDVIEWER|GECDV|GEMS|UVCD)[^/]*(/|\.EXE$)"),
    ("Siemens syngo fastView", r"(^|/)(FASTVIEW|SYNGO)[^/]*(/|\.EXE$)"),
    ("Sectra viewer", r"(^|/)SECTRA[^/]*(/|\.EXE$)"),
    ("Agfa IMPAX CD Viewer", r"(^|/)(IMPAX|AGFA)[^/]*(/|\.EXE$)"),
    ("JiveX viewer", r"(^|/)JIVEX[^/]*(/|\.EXE$|\.JAR$)"),
    ("Visage CD Viewer", r"(^|/)VISAGE[^/]*(/|\.EXE$)"),
    ("synedra View", r"(^|/)SYNEDRA[^/]*(/|\.EXE$)"),
    ("INFINITT viewer", r"(^|/)(INFINITT|PIVIEW)[^/]*(/|\.EXE$)"),
    ("InteleViewer", r"(^|/)INTELEVIEWER[^/]*(/|\.EXE$)"),
    ("Synapse viewer", r"(^|/)SYNAPSE[^/]*(/|\.EXE$)"),
    ("Carestream viewer", r"(^|/)(CARESTREAM|KODAK)[^/]*(/|\.EXE$)"),
    ("ClearCanvas", r"(^|/)CLEARCANVAS[^/]*(/|\.EXE$)"),
    ("K-PACS", r"(^|/)K-?PACS[^/]*(/|\.EXE$)"),
    ("iQ-LITE", r"(^|/)IQ-?(LITE|VIEW)[^/]*(/|\.EXE$)"),
    ("OnDemand3D CD Viewer", r"(^|/)ONDEMAND(3D)?[^/]*(/|\.EXE$)"),
    ("Sante DICOM Viewer", r"(^|/)SANTE[^/]*(/|\.EXE$)"),
    ("DicomWorks", r"(^|/)DICOMWORKS[^/]*(/|\.EXE$)"),
    ("Merge viewer", r"(^|/)(MERGE|CEDARA)[^/]*(/|\.EXE$)"),
    ("Vitrea viewer", r"(^|/)VITREA[^/]*(/|\.EXE$)"),
    ("ImageJ", r"(^|/)(IMAGEJ|IJ)[^/]*(\.JAR|\.EXE)$"),
)
PATTERNS = tuple((name, re.compile(pattern)) for name, pattern in _PATTERNS)


def name_of(path: str) -> str | None:
    """The viewer that a file of this path belongs to."""
    path = path.upper()
    return next((name for name, pattern in PATTERNS if pattern.search(path)), None)
