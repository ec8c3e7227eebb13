"""What a file's first bytes say, as `ingest.identify` tells it to who files it. Pure: the reader loads it too."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file's first bytes say (`ingest.identify.describe`): format code, media type, the rule that told,
    the DICOM headers if it has any, and whether the worker can read more of the whole file."""

    format: str
    media_type: str = "application/octet-stream"
    rule: str = ""
    headers: dict[str, Any] | None = None
    readable: bool = False


Describe = Callable[[bytes], Facts]
