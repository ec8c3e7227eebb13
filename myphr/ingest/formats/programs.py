"""Programs, as a patient CD carries them: kept, named as what they are, never offered to a viewer."""

from myphr.ingest.formats import magic

RULES = (
    magic("windows-program", "program", "application/octet-stream", b"MZ"),
    magic("elf-program", "program", "application/octet-stream", b"\x7fELF"),
)
