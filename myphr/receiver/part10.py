"""The head of a DICOM file (PS3.10, 7.1) before a data set that came without one. Values in, bytes out.

Nothing of the sender and nothing of the moment stands in it: the same image sent twice makes the same file, and is
found to be there already.
"""

import io
import re

from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from myphr.errors import NotDicom

# Of a UUID (PS3.5, B.2), made once for this program.
IMPLEMENTATION_UID = "2.25.301468573926154308972601842795513060477"
IMPLEMENTATION_NAME = "MYPHRMACHINES"
_UID = re.compile(r"[0-9.]{1,64}")


def head_of_file(sop_class: str, instance: str, transfer_syntax: str) -> bytes:
    """Preamble, "DICM" and group 2. Raises NotDicom for a UID that is none."""
    if not all(_UID.fullmatch(uid) for uid in (sop_class, instance, transfer_syntax)):
        raise NotDicom()
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(instance)
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    out = io.BytesIO()
    write_file_meta_info(out, meta)  # type: ignore[arg-type]
    return bytes(128) + b"DICM" + out.getvalue()
