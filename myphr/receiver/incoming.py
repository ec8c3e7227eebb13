"""One object of a C-STORE on its way into a sealed container. Knows the drop-off, not the protocol's bytes.

What goes wrong is kept until the object has ended, since only then can an answer say so; an object that passes its
limit is not waited for. Called by `association`.
"""

import logging
from collections.abc import Callable

from myphr.errors import DropOffFull, OtherStudy, PortalError, UploadTooLarge
from myphr.ingest.drop_offs import Delivery
from myphr.ingest.stow import REASONS, Names, check_image, names_in
from myphr.records.items import Facts

log = logging.getLogger(__name__)

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110


class Aborted(Exception):
    """The association must end now."""


class Incoming:
    """The data set of one C-STORE. `write`, then `finish`; or `close`."""

    def __init__(self, begin: Callable[[], Delivery], names: Names, bytes_max: int) -> None:
        """`begin` may refuse, and is asked at once."""
        self._names = names
        self._bytes_left = bytes_max
        self._delivery: Delivery | None = None
        self._error: PortalError | None = None
        try:
            self._delivery = begin()
        except PortalError as error:
            self._error = error

    def write(self, data: memoryview) -> None:
        """Raises Aborted for an object without end."""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise Aborted("an object passes its limit")
        if self._delivery is None:
            return
        try:
            self._delivery.write(data)
        except (UploadTooLarge, DropOffFull):
            self.close()
            raise Aborted("an object passes its limit") from None
        except PortalError as error:
            self._error = error
            self.close()

    def finish(self) -> int:
        """The status to answer; success only once the item is durable. Never raises."""
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            return _status_of(self._error)
        try:
            delivery.finish(self._check)
        except PortalError as error:
            return _status_of(error)
        except Exception as error:  # the class only: a message may quote the object
            log.error("an object could not be stored: %s", type(error).__name__)
            return PROCESSING_FAILURE
        finally:
            delivery.abort()
        return SUCCESS

    def close(self) -> None:
        """Nothing of it stays, unless it is stored already."""
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.abort()

    def _check(self, facts: Facts) -> None:
        check_image(facts)
        if names_in(facts) != self._names:
            raise OtherStudy()


def _status_of(error: PortalError | None) -> int:
    return REASONS.get(type(error), PROCESSING_FAILURE) if error is not None else PROCESSING_FAILURE
