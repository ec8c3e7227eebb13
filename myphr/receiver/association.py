"""One association: pynetdicom's, with four of its parts replaced.

- The socket refuses a PDU longer than a real one before memory is asked for it (pynetdicom would collect 4 GiB of an
  A-ASSOCIATE-RQ from a stranger), and a peer that dribbles.
- The ACSE asks the drop-off whose AE title is called.
- The DIMSE provider hands each fragment of a C-STORE on to be sealed, and takes no other message with a data set.
- The thread sees to it that nothing half-received outlives it.
Called by `server`. Knows no settings but those it is handed.
"""

import logging
import ssl
import time
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA
from pynetdicom.transport import AssociationSocket

from myphr.errors import DropOffClosed, DropOffFull, NotDicom
from myphr.ingest import drop_offs
from myphr.ingest.drop_offs import Delivery, Grant
from myphr.ingest.stow import Names
from myphr.portal import Portal
from myphr.receiver.incoming import Aborted, Incoming
from myphr.receiver.part10 import head_of_file

log = logging.getLogger(__name__)

PDU_BYTES_MAX = 1024**2  # we announce 128 KiB; an association request of a big archive has some 20 KiB
COMMAND_BYTES_MAX = 64 * 1024
WAITING_OBJECTS_MAX = 1  # a sender waits for each answer (PS3.7, D.3.3.3: no asynchronous operations were agreed)
LOGIN_SECONDS_MAX = 10.0  # until the drop-off is known: TLS, and the association request
PDU_SECONDS_MAX = 60.0
# (result, source, reason): PS3.8 table 9-21
CALLED_AE_TITLE_NOT_RECOGNISED = (1, 1, 7)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
TEMPORARY_CONGESTION = (2, 3, 1)


class GuardedSocket(AssociationSocket):
    def recv(self, nr_bytes: int) -> bytearray:
        """Raises OSError for a PDU that nobody sends, and for a peer that takes too long over one."""
        if nr_bytes > PDU_BYTES_MAX:
            raise OSError("the announced PDU passes the limit")
        sock = self.socket
        assert sock is not None
        known = self.assoc.is_established
        deadline = time.monotonic() + (PDU_SECONDS_MAX if known else LOGIN_SECONDS_MAX)
        buffer = bytearray(nr_bytes)
        view, got = memoryview(buffer), 0
        while got < nr_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise OSError("the peer takes too long")
            sock.settimeout(left)
            received = sock.recv_into(view[got:])
            if not received:
                break
            got += received
        view.release()
        del buffer[got:]
        return buffer


class DropOffAcse(ACSE):
    """Lets in who calls the AE title of a drop-off that takes files now."""

    def _negotiate_as_acceptor(self) -> None:
        assoc = cast(DropOffAssociation, self.assoc)
        request = cast(A_ASSOCIATE, self.requestor.primitive)
        try:
            assoc.grant = drop_offs.by_ae_title(assoc.parts, (request.called_ae_title or "").strip())
        except DropOffClosed:
            self._reject(CALLED_AE_TITLE_NOT_RECOGNISED)
        except DropOffFull:
            self._reject(LOCAL_LIMIT_EXCEEDED)
        except Exception as error:  # the database is away: the sender may come again
            log.error("no association: %s", type(error).__name__)
            self._reject(TEMPORARY_CONGESTION)
        else:
            super()._negotiate_as_acceptor()

    def _reject(self, answer: tuple[int, int, int]) -> None:
        self.requestor.ae_title = cast(A_ASSOCIATE, self.requestor.primitive).calling_ae_title
        self.send_reject(*answer)
        evt.trigger(self.assoc, evt.EVT_REJECTED, {})
        self.assoc.kill()


class SealingDimse(DIMSEServiceProvider):
    """Hands the data set of a C-STORE on while it comes, and holds every other message to its limits."""

    _command_bytes = 0
    _incoming: Incoming | None = None
    _closed = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Whatever goes wrong in here ends the association: an exception would end pynetdicom's thread instead, and
        leave the peer waiting."""
        try:
            self._receive(primitive)
        except Exception as error:  # the class only: a message may quote what was sent
            log.warning("an association was aborted: %s", error if type(error) is Aborted else type(error).__name__)
            self.drop()
            self.dul.event_queue.put("Evt19")  # "invalid PDU": A-ABORT by the provider, PS3.8 9.2.3

    def _receive(self, primitive: P_DATA) -> None:
        """Raises Aborted."""
        for context_id, value in primitive.presentation_data_value_list:
            is_command = value[0] & 1
            if is_command:
                self._command_bytes += len(value)
                if self._command_bytes > COMMAND_BYTES_MAX or self._incoming is not None:
                    raise Aborted("a command passes its limit")
            elif self._incoming is None:
                raise Aborted("a data set that belongs to no C-STORE")
            one = P_DATA()
            one.presentation_data_value_list = [[context_id, value]]  # type: ignore[list-item]  # it wants lists
            super().receive_primitive(one)
            if self.message is None:  # it was the last fragment of its message
                self._command_bytes, self._incoming = 0, None
                if self.msg_queue.qsize() > WAITING_OBJECTS_MAX:
                    raise Aborted("a sender that does not wait")
            elif is_command and isinstance(self.message, C_STORE_RQ):
                self._begin(self.message, context_id)

    def drop(self) -> None:
        """Nothing of an object that has not ended stays, nor of one that waits."""
        self._closed = True
        incoming = self._incoming
        if incoming is not None:
            incoming.close()
        for _, message in list(self.msg_queue.queue):
            if isinstance(waiting := getattr(message, "DataSet", None), Incoming):
                waiting.close()

    def _begin(self, message: DIMSEMessage, context_id: int) -> None:
        assoc = cast(DropOffAssociation, self.assoc)
        context = assoc._accepted_cx.get(context_id)
        if context is None or self._closed:
            raise Aborted("a context that was not agreed")
        command = message.command_set
        names = Names(str(command.get("AffectedSOPClassUID", "")), str(command.get("AffectedSOPInstanceUID", "")))
        syntax = str(context.transfer_syntax[0])

        def begin() -> Delivery:
            head = head_of_file(names.sop_class, names.instance, syntax)
            delivery = Delivery(assoc.parts, drop_offs.still(assoc.parts, assoc.the_grant))
            delivery.write(head)
            return delivery

        self._incoming = Incoming(begin, names, assoc.parts.settings.drop_off_object_bytes_max)
        message.data_set = self._incoming
        if self._closed:  # the association ended meanwhile
            self._incoming.close()


class DropOffAssociation(Association):
    """An association as acceptor, with our parts in it."""

    def __init__(self, ae: ApplicationEntity, parts: Portal, on_end: Any) -> None:
        super().__init__(ae, "acceptor")
        self.parts = parts
        self.grant: Grant | None = None
        self._on_end = on_end
        self.acse = DropOffAcse(self)
        self.dimse: SealingDimse = SealingDimse(self)

    @property
    def the_grant(self) -> Grant:
        if self.grant is None:
            raise NotDicom("no drop-off")
        return self.grant

    def run_reactor(self) -> None:
        try:
            if self._shake_hands():
                super().run_reactor()
        finally:
            self.dimse.drop()
            if self.dul.is_alive():
                self.dul.kill_dul()
            self._on_end(self)

    def _shake_hands(self) -> bool:
        """TLS in this association's own thread: a peer that says nothing keeps nobody else waiting."""
        wrapped = cast(AssociationSocket, self.dul.socket)
        if isinstance(wrapped.socket, ssl.SSLSocket):
            try:
                wrapped.socket.settimeout(LOGIN_SECONDS_MAX)
                wrapped.socket.do_handshake()
            except OSError as error:
                log.info("no TLS with a peer: %s", getattr(error, "reason", None) or type(error).__name__)
                wrapped.close()
                return False
        return True
