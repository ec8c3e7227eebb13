"""One association as acceptor: a socket, one thread, and the bounds of both.

- A PDU longer than a real one is refused before memory is asked for it; a peer that dribbles is cut off.
- The drop-off whose AE title is called is asked at the door; before it, whether a PACS was asked to send something here
  (C-MOVE), and then of each object by which fetch.
- Each fragment of a C-STORE is handed on to be sealed while it comes; no other message with a data set is taken.
- Whatever ends it, nothing half-received outlives it.
One after the other: what a sender sends ahead waits in its own kernel, not in our memory. Called by `server`.
"""

import logging
import socket
import ssl
import time

from myphr.errors import DropOffClosed, DropOffFull
from myphr.ingest import drop_offs
from myphr.ingest.deliveries import Delivery, FilingTogether
from myphr.ingest.dimse import upper_layer
from myphr.ingest.dimse.line import ANNOUNCED_PDU_BYTES, PDU_SECONDS_MAX, Line
from myphr.ingest.dimse.part10 import IMPLEMENTATION_NAME, IMPLEMENTATION_UID, head_of_file
from myphr.ingest.dimse.upper_layer import Command, Malformed
from myphr.ingest.drop_offs import Grant
from myphr.ingest.pacs import arrivals
from myphr.ingest.pacs.arrivals import Arrival, Expected
from myphr.ingest.stow import Names
from myphr.portal import Portal
from myphr.receiver.incoming import SUCCESS, Aborted, Coming, Incoming

log = logging.getLogger(__name__)

COMMAND_BYTES_MAX = 64 * 1024
LOGIN_SECONDS_MAX = 10.0  # until the drop-off is known: TLS, and the association request
IDLE_SECONDS_MAX = 120.0
GOODBYE_SECONDS_MAX = 2.0  # for the other side to read our last words
GRANT_SECONDS_MAX = 1.0  # how long a look at the drop-off holds; the commit looks again in any case


class Association:
    """`run` returns when it is over; `stop`, from another thread, ends it soon."""

    def __init__(self, parts: Portal, sock: socket.socket, filing: FilingTogether) -> None:
        self._parts, self._filing = parts, filing
        self._socket = sock
        self._line = Line(sock)
        self._grant: Grant | None = None
        self._titles: tuple[str, str] | None = None  # called and calling, of a PACS that was asked to send
        self._expected: tuple[tuple[str, int], float, Expected] | None = None  # the last one, by whom and when found
        self._refused = 0  # objects of that PACS
        self._asked_at = 0.0
        self._agreed: dict[int, str] = {}
        self._command = b""
        self._under_way: tuple[int, Command, Incoming] | None = None  # a C-STORE whose data set is coming

    def run(self) -> None:
        """Never raises."""
        try:
            self._shake_hands()
            if self._open():
                while self._take_pdu():
                    pass
        except EOFError:
            pass
        except OSError as error:  # also what TLS refuses
            log.info("a connection ended: %s", getattr(error, "reason", None) or type(error).__name__)
        except (Aborted, Malformed) as error:
            log.warning("an association was aborted: %s", error)
            self._part(upper_layer.abort())
        except Exception as error:  # the class only: a message may quote what was sent
            log.warning("an association was aborted: %s", type(error).__name__)
            self._part(upper_layer.abort())
        finally:
            if self._under_way is not None:
                self._under_way[2].close()
            self._socket.close()
            if self._grant is not None:
                self._filing.ask_to_read(self._grant.account_id)

    def stop(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself

    def _shake_hands(self) -> None:
        """TLS in this association's own thread: a peer that says nothing keeps nobody else waiting."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(LOGIN_SECONDS_MAX)
            self._socket.do_handshake()

    def _open(self) -> bool:
        """Whether the association stands. Lets in who calls the AE title of a drop-off that takes files now, and a PACS
        of which something is expected under the titles it says."""
        kind, body = self._line.read_pdu(LOGIN_SECONDS_MAX, LOGIN_SECONDS_MAX)
        if kind != upper_layer.ASSOCIATE_RQ:
            raise Malformed("no association request")
        request = upper_layer.request_of(bytes(body))
        titles = request.called, request.calling.decode("ascii", "replace").strip(" \0")
        try:
            if arrivals.is_awaited(self._parts, *titles):
                self._titles = titles
            else:
                self._grant = drop_offs.by_ae_title(self._parts, request.called)
        except DropOffClosed:
            refusal = upper_layer.CALLED_AE_TITLE_NOT_RECOGNISED
        except DropOffFull:
            refusal = upper_layer.LOCAL_LIMIT_EXCEEDED
        except Exception as error:  # the database is away: the sender may come again
            log.error("no association: %s", type(error).__name__)
            refusal = upper_layer.TEMPORARY_CONGESTION
        else:
            self._asked_at = time.monotonic()
            self._agreed = upper_layer.agreed(request)
            self._line.send(
                upper_layer.acceptance(request, ANNOUNCED_PDU_BYTES, IMPLEMENTATION_UID, IMPLEMENTATION_NAME)
            )
            return True
        self._part(upper_layer.rejection(refusal))
        return False

    def _take_pdu(self) -> bool:
        """Whether more may come."""
        kind, body = self._line.read_pdu(IDLE_SECONDS_MAX, PDU_SECONDS_MAX)
        if kind == upper_layer.DATA:
            for context, is_command, is_last, fragment in upper_layer.values_of(body):
                if is_command:
                    self._take_command(context, fragment, is_last)
                else:
                    self._take_data(context, fragment, is_last)
            return True
        if kind == upper_layer.RELEASE_RQ:
            self._part(upper_layer.release_answer())
            return False
        if kind == upper_layer.ABORT:
            return False
        raise Malformed("a PDU that has no place here")

    def _take_command(self, context: int, fragment: memoryview, is_last: bool) -> None:
        if self._under_way is not None or len(self._command) + len(fragment) > COMMAND_BYTES_MAX:
            raise Aborted("a command passes its limit")
        self._command += fragment
        if not is_last:
            return
        command, self._command = upper_layer.command_of(self._command), b""
        if context not in self._agreed:
            raise Aborted("a context that was not agreed")
        if command.field == upper_layer.C_ECHO_RQ and not command.has_data_set:
            self._line.send(upper_layer.answer_to(context, command, 0))
        elif command.field == upper_layer.C_STORE_RQ and command.has_data_set:
            self._under_way = context, command, self._incoming(command, self._agreed[context])
        else:
            raise Aborted("a message that is not for us")

    def _take_data(self, context: int, fragment: memoryview, is_last: bool) -> None:
        if self._under_way is None or context != self._under_way[0]:
            raise Aborted("a data set that belongs to no C-STORE")
        incoming = self._under_way[2]
        incoming.write(fragment)
        if is_last:
            _, command, _ = self._under_way
            status = incoming.finish()
            self._under_way = None
            self._line.send(upper_layer.answer_to(context, command, status))
            if self._titles is not None and status != SUCCESS:
                self._refused += 1
                if self._refused > arrivals.REFUSED_MAX:
                    raise Aborted("a PACS goes on sending what nobody asked for")

    def _incoming(self, command: Command, syntax: str) -> Incoming:
        names = Names(command.sop_class.decode("ascii", "replace"), command.sop_instance.decode("ascii", "replace"))

        def begin() -> Coming:
            head = memoryview(head_of_file(names.sop_class, names.instance, syntax))
            coming: Coming
            if self._titles is None:
                coming = Delivery(self._parts, self._grant_now(), self._filing)
            else:
                coming = Arrival(self._parts, self._expected_now(command, self._titles), names.instance)
            coming.write(head)
            return coming

        settings = self._parts.settings
        if self._titles is None:
            return Incoming(begin, names, settings.drop_off_object_bytes_max)
        # A PDU more than the arrival takes: it is the one to say that the limit was passed.
        return Incoming(begin, names, settings.pacs_object_bytes_max + ANNOUNCED_PDU_BYTES)

    def _expected_now(self, command: Command, titles: tuple[str, str]) -> Expected:
        """By which fetch this object was asked for. Raises OtherStudy."""
        by, moment = (command.move_originator, command.move_message_id), time.monotonic()
        if self._expected is None or self._expected[0] != by or moment - self._expected[1] > GRANT_SECONDS_MAX:
            self._expected = by, moment, arrivals.find(self._parts, *titles, *by)
        return self._expected[2]

    def _grant_now(self) -> Grant:
        """Raises as `drop_offs.by_token`."""
        assert self._grant is not None
        if time.monotonic() - self._asked_at > GRANT_SECONDS_MAX:
            self._grant = drop_offs.still(self._parts, self._grant)
            self._asked_at = time.monotonic()
        return self._grant

    def _part(self, last_words: bytes) -> None:
        """Send, and give the other side the time to read it: closing at once would take it back (TCP's reset)."""
        deadline = time.monotonic() + GOODBYE_SECONDS_MAX
        try:
            self._socket.settimeout(GOODBYE_SECONDS_MAX)
            self._socket.sendall(last_words)
            if not isinstance(self._socket, ssl.SSLSocket):
                self._socket.shutdown(socket.SHUT_WR)
            rest = bytearray(ANNOUNCED_PDU_BYTES)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv_into(rest):
                    break
        except OSError:
            pass  # the other side has gone already
