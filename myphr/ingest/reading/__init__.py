"""Reading files for their owner: what, when, where, by whom, and a picture. One module per kind; each gets bytes and
yields readings. They run only in a capped child process (`child`), started by `capped`, asked by `work`, which the job
calls. Nothing here decides what a file is: `identify` did.
"""

# Formats that some module here reads; the others get no order to be read.
FORMATS = frozenset(
    {
        "dicom",
        "jpeg", "png", "gif", "webp", "bmp", "tiff", "heif", "jp2", "j2k", "ome-tiff",
    }
)  # fmt: skip
