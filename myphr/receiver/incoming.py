"""One object of a C-STORE on its way into a sealed container. Knows neither whose it is nor the protocol's bytes.

What goes wrong is kept until the object has ended, since only then can an answer say so; an object that passes its
limit is not waited for. Called by `association`.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from myphr.errors import DropOffFull, OtherStudy, PortalError, UploadTooLarge
from myphr.ingest.stow import REASONS, Names, check_image, names_in
from myphr.records.items import Facts

log = logging.getLogger(__name__)

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110


class Aborted(Exception):
    """The association must end now."""


class Coming(Protocol):
    """`deliveries.Delivery`, for a drop-off; `pacs.arrivals.Arrival`, for a fetch."""

    def write(self, plaintext: memoryview, /) -> None: ...
    def finish(self, check: Callable[[Facts], None], /) -> object: ...
    def abort(self) -> None: ...


class Incoming:
    """The data set of one C-STORE. `write`, then `finish`; or `close`."""

    def __init__(self, begin: Callable[[], Coming], names: Names, bytes_max: int) -> None:
        """`begin` may refuse, and is asked at once."""
        self._names = names
        self._bytes_left = bytes_max
        self._delivery: Coming | None = None
        self._failure = PROCESSING_FAILURE
        try:
            self._delivery = begin()
        except Exception as error:
            self._refuse(error)

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
        except Exception as error:
            self._refuse(error)
            self.close()

    def finish(self) -> int:
        """The status to answer; success only once the item is durable. Never raises."""
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            return self._failure
        try:
            delivery.finish(self._check)
        except Exception as error:
            self._refuse(error)
            return self._failure
        finally:
            delivery.abort()
        return SUCCESS

    def close(self) -> None:
        """Nothing of it stays, unless it is stored already."""
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.abort()

    def _refuse(self, error: Exception) -> None:
        """Also what nobody foresaw, an absent database or a failing disk, gets a status: the sender keeps its
        association and knows which object it is."""
        if isinstance(error, PortalError):
            self._failure = REASONS.get(type(error), PROCESSING_FAILURE)
        else:  # the class only: a message may quote the object
            log.error("an object could not be stored: %s", type(error).__name__)

    def _check(self, facts: Facts) -> None:
        check_image(facts)
        if names_in(facts) != self._names:
            raise OtherStudy()
