"""Which module reads which format. Loaded in the reader process only."""

from collections.abc import Mapping

from myphr.ingest.reading import photo
from myphr.ingest.reading.content import Read

READERS: Mapping[str, Read] = {
    **dict.fromkeys(photo.FORMATS, photo.read),
}


def warm_up() -> None:
    """Load what the libraries load late: later there are no rights to, and each fork would do it again."""
    for module in (photo,):
        module.warm_up()
