"""Reading files for their owner: what, when, where, by whom, and a picture. One module per kind; each gets bytes and
yields readings. They run only in a capped child process (`child`), started by `capped`, asked by `work`, which the job
calls. Nothing here decides what a file is: `identify` did.
"""

# Formats that some module here reads; the others get no order to be read.
FORMATS = frozenset(
    {
        "dicom",
        "jpeg", "png", "gif", "webp", "bmp", "tiff", "heif", "jp2", "j2k", "ome-tiff",
        "pdf", "docx", "xlsx", "pptx", "odt", "ods", "odp",
        "text", "text-bluebutton", "csv", "tsv", "html", "rtf", "eml", "ics", "vcard",
        "cda-xml", "fhir-json", "fhir-xml", "fhir-ndjson", "hl7v2",
        "edf", "bdf", "aecg-xml", "philips-ecg-xml", "muse-ecg-xml", "scp-ecg", "wfdb-hea",
        "vcf", "vcf-gz", "bcf", "bam", "sam", "sam-gz", "fasta", "fasta-gz", "fastq", "fastq-gz", "gff", "gff-gz",
        "gtf", "gtf-gz", "bed", "bed-gz", "dtc-genotype", "dtc-genotype-gz",
        "fit", "tcx", "gpx", "apple-health-xml",
        "nifti", "nifti-gz",
    }
)  # fmt: skip
