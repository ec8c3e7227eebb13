"""Every format that a file may have: its words, the ending it gets in a folder, its picture, the type of record it is.

The codes come from `myphr.ingest.identify`, which this layer must not know; a test compares. A code that is
missing here is shown as a file of unknown kind, never an error. Used by views, manifests, labels and pages.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Format:
    """`type` is one of `records.labels.TYPES`. `counted`: how several are called ("12 lab messages")."""

    words: str
    ending: str = ""
    type: str = "other"
    icon: str = "file"
    counted: tuple[str, str] = ("file", "files")


_PICTURE = ("picture", "pictures")
_TEXT = ("text document", "text documents")
_TABLE = ("table", "tables")
_SLIDES = ("presentation", "presentations")
_ECG = ("ECG", "ECGs")
_SUMMARY = ("health record", "health records")
_GENOME = ("genome file", "genome files")
_BRAIN = ("research image", "research images")
_SIGNALS = ("signal recording", "signal recordings")
_CARD = ("health card", "health cards")
_LAB = ("lab message", "lab messages")
_SOUND = ("recording", "recordings")
_FILM = ("video", "videos")
_SLIDE = ("microscope slide", "microscope slides")

FORMATS: Mapping[str, Format] = {
    # Pictures of the body
    "dicom": Format("Medical image", ".dcm", "imaging", "scan", ("image", "images")),
    "dicomdir": Format("Table of contents of a medical CD", "", "imaging", "scan"),
    "dicom-json": Format("Description of medical images (DICOM JSON)", ".json", "imaging"),
    "dicom-xml": Format("Description of medical images (DICOM XML)", ".xml", "imaging"),
    "nifti": Format("Research image (NIfTI)", ".nii", "imaging", "scan", _BRAIN),
    "nifti-gz": Format("Research image (NIfTI, packed)", ".nii.gz", "imaging", "scan", _BRAIN),
    "analyze": Format("Research image (Analyze)", ".hdr", "imaging", "scan", _BRAIN),
    "mgh": Format("Research image (FreeSurfer)", ".mgh", "imaging", "scan", _BRAIN),
    "mgh-gz": Format("Research image (FreeSurfer, packed)", ".mgz", "imaging", "scan", _BRAIN),
    "minc": Format("Research image (MINC)", ".mnc", "imaging", "scan", _BRAIN),
    "nrrd": Format("Research image (NRRD)", ".nrrd", "imaging", "scan", _BRAIN),
    "metaimage": Format("Research image (MetaImage)", ".mha", "imaging", "scan", _BRAIN),
    "par": Format("Research image (Philips PAR)", ".par", "imaging", "scan", _BRAIN),
    "trk": Format("Nerve tracts (TrackVis)", ".trk", "imaging", "scan", _BRAIN),
    "tck": Format("Nerve tracts (MRtrix)", ".tck", "imaging", "scan", _BRAIN),
    "gifti": Format("Surface of a brain (GIFTI)", ".gii", "imaging", "scan", _BRAIN),
    "ome-tiff": Format("Microscope picture (OME-TIFF)", ".ome.tif", "imaging", "picture", _SLIDE),
    "ome-xml": Format("Description of microscope pictures (OME-XML)", ".ome", "imaging", "file", _SLIDE),
    "svs": Format("Microscope slide (Aperio)", ".svs", "imaging", "picture", _SLIDE),
    "ndpi": Format("Microscope slide (Hamamatsu)", ".ndpi", "imaging", "picture", _SLIDE),
    "philips-tiff": Format("Microscope slide (Philips)", ".tiff", "imaging", "picture", _SLIDE),
    # Pictures
    "jpeg": Format("Photo (JPEG)", ".jpg", "photo", "picture", ("photo", "photos")),
    "png": Format("Picture (PNG)", ".png", "photo", "picture", _PICTURE),
    "gif": Format("Picture (GIF)", ".gif", "photo", "picture", _PICTURE),
    "webp": Format("Picture (WebP)", ".webp", "photo", "picture", _PICTURE),
    "bmp": Format("Picture (BMP)", ".bmp", "photo", "picture", _PICTURE),
    "tiff": Format("Picture (TIFF)", ".tif", "photo", "picture", ("scan", "scans")),
    "heif": Format("Photo (HEIF)", ".heic", "photo", "picture", ("photo", "photos")),
    "avif": Format("Picture (AVIF)", ".avif", "photo", "picture", _PICTURE),
    "jp2": Format("Picture (JPEG 2000)", ".jp2", "photo", "picture", _PICTURE),
    "j2k": Format("Picture (JPEG 2000)", ".j2k", "photo", "picture", _PICTURE),
    "jxl": Format("Picture (JPEG XL)", ".jxl", "photo", "picture", _PICTURE),
    "svg": Format("Drawing (SVG)", ".svg", "document", "picture", _PICTURE),
    # Letters and tables
    "pdf": Format("PDF", ".pdf", "document", "file", ("PDF document", "PDF documents")),
    "ps": Format("PostScript", ".ps", "document"),
    "docx": Format("Word document", ".docx", "document", "file", _TEXT),
    "doc": Format("Word document", ".doc", "document", "file", _TEXT),
    "odt": Format("Text document", ".odt", "document", "file", _TEXT),
    "rtf": Format("Text document", ".rtf", "document", "file", _TEXT),
    "epub": Format("Book (EPUB)", ".epub", "document", "file", _TEXT),
    "xlsx": Format("Spreadsheet", ".xlsx", "document", "file", _TABLE),
    "xls": Format("Spreadsheet", ".xls", "document", "file", _TABLE),
    "ods": Format("Spreadsheet", ".ods", "document", "file", _TABLE),
    "csv": Format("Table (CSV)", ".csv", "document", "file", _TABLE),
    "tsv": Format("Table (TSV)", ".tsv", "document", "file", _TABLE),
    "pptx": Format("Slides", ".pptx", "document", "file", _SLIDES),
    "ppt": Format("Slides", ".ppt", "document", "file", _SLIDES),
    "odp": Format("Slides", ".odp", "document", "file", _SLIDES),
    "ole2": Format("Older office document", "", "document"),
    "text": Format("Plain text", ".txt", "document", "file", ("text file", "text files")),
    "html": Format("Web page", ".html", "document", "file", ("web page", "web pages")),
    "xml": Format("Data (XML)", ".xml", "document"),
    "json": Format("Data (JSON)", ".json", "document"),
    "eml": Format("E-mail", ".eml", "document", "file", ("e-mail", "e-mails")),
    "msg": Format("E-mail (Outlook)", ".msg", "document", "file", ("e-mail", "e-mails")),
    "ics": Format("Appointment", ".ics", "document", "file", ("appointment", "appointments")),
    "vcard": Format("Address card", ".vcf", "document", "file", ("address card", "address cards")),
    # What hospitals and practices hand out
    "cda-xml": Format("Health record of a practice or hospital (CDA)", ".xml", "document", "file", _SUMMARY),
    "ccr-xml": Format("Health record of a practice (CCR)", ".xml", "document", "file", _SUMMARY),
    "fhir-json": Format("Health record (FHIR)", ".json", "document", "file", _SUMMARY),
    "fhir-ndjson": Format("Health records, one a line (FHIR)", ".ndjson", "document", "file", _SUMMARY),
    "fhir-xml": Format("Health record (FHIR XML)", ".xml", "document", "file", _SUMMARY),
    "openehr-json": Format("Health record (openEHR)", ".json", "document", "file", _SUMMARY),
    "openehr-xml": Format("Health record (openEHR XML)", ".xml", "document", "file", _SUMMARY),
    "smart-health-card": Format("Health card (SMART)", ".smart-health-card", "document", "file", _CARD),
    "text-bluebutton": Format("Health record (Blue Button)", ".txt", "document", "file", _SUMMARY),
    "hl7v2": Format("Message of a laboratory or hospital (HL7)", ".hl7", "laboratory", "file", _LAB),
    # Heart and nerves
    "scp-ecg": Format("ECG (SCP)", ".scp", "ecg", "heart", _ECG),
    "aecg-xml": Format("ECG (HL7 aECG)", ".xml", "ecg", "heart", _ECG),
    "philips-ecg-xml": Format("ECG (Philips)", ".xml", "ecg", "heart", _ECG),
    "muse-ecg-xml": Format("ECG (GE MUSE)", ".xml", "ecg", "heart", _ECG),
    "ge-ecg-xml": Format("Stress ECG (GE)", ".xml", "ecg", "heart", _ECG),
    "ishne-ecg": Format("Long-time ECG (ISHNE)", ".ecg", "ecg", "heart", _ECG),
    "mfer": Format("ECG (MFER)", ".mwf", "ecg", "heart", _ECG),
    "edf": Format("Signals: ECG, EEG, sleep (EDF)", ".edf", "ecg", "heart", _SIGNALS),
    "bdf": Format("Signals: EEG (BDF)", ".bdf", "ecg", "heart", _SIGNALS),
    "fiff": Format("Signals of the brain: MEG, EEG (FIFF)", ".fif", "ecg", "heart", _SIGNALS),
    "gdf": Format("Signals (GDF)", ".gdf", "ecg", "heart", _SIGNALS),
    "brainvision": Format("Signals: EEG (BrainVision)", ".vhdr", "ecg", "heart", _SIGNALS),
    "wfdb-hea": Format("Signals: what is recorded (WFDB)", ".hea", "ecg", "heart", _SIGNALS),
    "mat": Format("Data (MATLAB)", ".mat", "other"),
    # Genome
    "vcf": Format("Gene variants (VCF)", ".vcf", "genome", "file", _GENOME),
    "vcf-gz": Format("Gene variants (VCF, packed)", ".vcf.gz", "genome", "file", _GENOME),
    "bcf": Format("Gene variants (BCF)", ".bcf", "genome", "file", _GENOME),
    "bam": Format("Genome, aligned (BAM)", ".bam", "genome", "file", _GENOME),
    "cram": Format("Genome, aligned (CRAM)", ".cram", "genome", "file", _GENOME),
    "sam": Format("Genome, aligned (SAM)", ".sam", "genome", "file", _GENOME),
    "sam-gz": Format("Genome, aligned (SAM, packed)", ".sam.gz", "genome", "file", _GENOME),
    "bai": Format("Index of a genome file", ".bai", "genome", "file", _GENOME),
    "crai": Format("Index of a genome file", ".crai", "genome", "file", _GENOME),
    "tabix-index": Format("Index of a genome file", ".tbi", "genome", "file", _GENOME),
    "fasta": Format("Genome sequence (FASTA)", ".fa", "genome", "file", _GENOME),
    "genbank": Format("Genome sequence (GenBank)", ".gb", "genome", "file", _GENOME),
    "genbank-gz": Format("Genome sequence (GenBank, packed)", ".gb.gz", "genome", "file", _GENOME),
    "embl": Format("Genome sequence (EMBL)", ".embl", "genome", "file", _GENOME),
    "embl-gz": Format("Genome sequence (EMBL, packed)", ".embl.gz", "genome", "file", _GENOME),
    "abif": Format("Trace of a sequencer (ABIF)", ".ab1", "genome", "file", _GENOME),
    "fasta-gz": Format("Genome sequence (FASTA, packed)", ".fa.gz", "genome", "file", _GENOME),
    "fastq": Format("Genome, raw reads (FASTQ)", ".fastq", "genome", "file", _GENOME),
    "fastq-gz": Format("Genome, raw reads (FASTQ, packed)", ".fastq.gz", "genome", "file", _GENOME),
    "gff": Format("Notes on a genome (GFF)", ".gff", "genome", "file", _GENOME),
    "gff-gz": Format("Notes on a genome (GFF, packed)", ".gff.gz", "genome", "file", _GENOME),
    "gtf": Format("Notes on a genome (GTF)", ".gtf", "genome", "file", _GENOME),
    "gtf-gz": Format("Notes on a genome (GTF, packed)", ".gtf.gz", "genome", "file", _GENOME),
    "bed": Format("Regions of a genome (BED)", ".bed", "genome", "file", _GENOME),
    "bed-gz": Format("Regions of a genome (BED, packed)", ".bed.gz", "genome", "file", _GENOME),
    "bigwig": Format("Values along a genome (bigWig)", ".bw", "genome", "file", _GENOME),
    "bigbed": Format("Regions of a genome (bigBed)", ".bb", "genome", "file", _GENOME),
    "2bit": Format("Genome sequence (2bit)", ".2bit", "genome", "file", _GENOME),
    "dtc-genotype": Format("Genes from a home test", ".txt", "genome", "file", _GENOME),
    "dtc-genotype-gz": Format("Genes from a home test (packed)", ".txt.gz", "genome", "file", _GENOME),
    # Watches
    "fit": Format("Activity of a watch (FIT)", ".fit", "wearable", "heart", _SOUND),
    "tcx": Format("Activity of a watch (TCX)", ".tcx", "wearable", "heart", _SOUND),
    "gpx": Format("Way walked (GPX)", ".gpx", "wearable", "file", _SOUND),
    "apple-health-xml": Format("Health data of an iPhone (Apple Health)", ".xml", "wearable", "heart", _SOUND),
    # Sound and film
    "mp3": Format("Sound (MP3)", ".mp3", "other", "file", _SOUND),
    "wav": Format("Sound (WAV)", ".wav", "other", "file", _SOUND),
    "m4a": Format("Sound (M4A)", ".m4a", "other", "file", _SOUND),
    "aac": Format("Sound (AAC)", ".aac", "other", "file", _SOUND),
    "flac": Format("Sound (FLAC)", ".flac", "other", "file", _SOUND),
    "ogg": Format("Sound (Ogg)", ".ogg", "other", "file", _SOUND),
    "aiff": Format("Sound (AIFF)", ".aiff", "other", "file", _SOUND),
    "amr": Format("Sound (AMR)", ".amr", "other", "file", _SOUND),
    "mp4": Format("Video (MP4)", ".mp4", "other", "file", _FILM),
    "mov": Format("Video (QuickTime)", ".mov", "other", "file", _FILM),
    "3gp": Format("Video (3GP)", ".3gp", "other", "file", _FILM),
    "avi": Format("Video (AVI)", ".avi", "other", "file", _FILM),
    "ogv": Format("Video (Ogg)", ".ogv", "other", "file", _FILM),
    "mkv": Format("Video (Matroska)", ".mkv", "other", "file", _FILM),
    "webm": Format("Video (WebM)", ".webm", "other", "file", _FILM),
    "mpeg": Format("Video (MPEG)", ".mpg", "other", "file", _FILM),
    "wmv": Format("Video (Windows Media)", ".wmv", "other", "file", _FILM),
    # Packed, and what is not for eyes
    "zip": Format("Zip archive", ".zip", "other", "zip", ("zip archive", "zip archives")),
    "gzip": Format("Packed file", ".gz", "other", "zip"),
    "7z": Format("Archive (7z)", ".7z", "other", "zip"),
    "rar": Format("Archive (RAR)", ".rar", "other", "zip"),
    "xz": Format("Packed file (xz)", ".xz", "other", "zip"),
    "bzip2": Format("Packed file (bzip2)", ".bz2", "other", "zip"),
    "zstd": Format("Packed file (Zstandard)", ".zst", "other", "zip"),
    "tar": Format("Archive (tar)", ".tar", "other", "zip"),
    "tar-gz": Format("Archive (tar, packed)", ".tar.gz", "other", "zip"),
    "iso9660": Format("Image of a CD", ".iso", "imaging", "zip", ("CD image", "CD images")),
    "program": Format("Program (never run)", ""),
    "unknown": Format("File of unknown kind", ""),
}  # fmt: skip
UNKNOWN = FORMATS["unknown"]


def of(code: str) -> Format:
    return FORMATS.get(code, UNKNOWN)
