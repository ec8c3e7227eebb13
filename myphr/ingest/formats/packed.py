"""Archives and packed files. Office documents are zips too and are asked first."""

from myphr.ingest.formats import magic

RULES = (
    magic("zip", "zip", "application/zip", b"PK\x03\x04", b"PK\x05\x06"),
    magic("gzip", "gzip", "application/gzip", b"\x1f\x8b\x08"),
)
