"""Which module reads which format. Loaded in the reader process only."""

from collections.abc import Mapping

from myphr.ingest.reading import activity, brain, clinical, dicom, ecg, fhir, genome, hl7v2, office, pdf, photo, text
from myphr.ingest.reading.content import Read

_MODULES = (photo, dicom, pdf, clinical, fhir, hl7v2, ecg, text, office, genome, activity, brain)
READERS: Mapping[str, Read] = {format_: module.read for module in _MODULES for format_ in module.FORMATS}


def warm_up() -> None:
    """Load what the libraries load late: later there are no rights to, and each fork would do it again."""
    from myphr.ingest import identify  # noqa: F401 - documents inside others are told by it

    for module in _MODULES:
        module.warm_up()
