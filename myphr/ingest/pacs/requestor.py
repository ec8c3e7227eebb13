"""One association as requestor: a socket, and the bounds of everything that comes over it.

C-ECHO, C-FIND, C-GET and C-MOVE, one after the other. A C-GET's objects come on the same association (C-STORE
sub-operations), fragment by fragment into a `Sink`; none is kept in memory here. Nothing that the other side says is
logged or quoted. Called by `servers` (echo) and `fetching`.
"""

import contextlib
import dataclasses
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from myphr.ingest import dicom
from myphr.ingest.dimse import asking, upper_layer
from myphr.ingest.dimse.line import ANNOUNCED_PDU_BYTES, Line
from myphr.ingest.dimse.part10 import IMPLEMENTATION_NAME, IMPLEMENTATION_UID
from myphr.ingest.dimse.upper_layer import Malformed
from myphr.ingest.pacs.reasons import refused

CONNECT_SECONDS = 10.0
GOODBYE_SECONDS = 5.0
TICK_SECONDS = 2.0
COMMAND_BYTES_MAX = 2 * 1024**2  # Orthanc puts UIDs of what it did not send into it: 66 bytes each
ANSWER_BYTES_MAX = 64 * 1024  # of one answer to a C-FIND; real ones have some hundred
FAILED_LIST_BYTES_MAX = 16 * 1024**2  # UIDs of what a C-GET did not send
_REJECTED_FOR_NOW = 2  # result of an A-ASSOCIATE-RJ (PS3.8, table 9-21)


@dataclasses.dataclass(frozen=True)
class Peer:
    """Whom we call, and as whom. `tls` is None for a line in clear."""

    host: str
    port: int
    called: str
    calling: str
    tls: ssl.SSLContext | None


@dataclasses.dataclass(frozen=True)
class Names:
    """One object as it is announced."""

    sop_class: str
    instance: str
    transfer_syntax: str


class Sink(Protocol):
    """Where one object goes. `finish` gives the status to answer with; `close` after an end in the middle."""

    def write(self, data: memoryview) -> None: ...
    def finish(self) -> int: ...
    def close(self) -> None: ...


class Requestor:
    """As a context manager: connects, asks for the association, and releases it at the end (aborts it after an error).

    `tick` is called at least every TICK_SECONDS while we wait, and with every PDU; what it raises ends all.
    Every method raises PacsRefused."""

    def __init__(
        self, peer: Peer, services: Sequence[str], classes: Sequence[str] = (), *, ends_at: float,
        silence_seconds: float, tick: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`ends_at`: of time.monotonic, and of everything together."""
        self._peer, self._services, self._classes = peer, services, classes
        self._ends_at, self._silence_seconds, self._tick = ends_at, silence_seconds, tick
        self._socket: socket.socket | None = None
        self._agreed: Mapping[int, str] = {}
        self._context_of: dict[str, int] = {}
        self._pdu_bytes_max = 0
        self._values: Iterator[tuple[int, bool, bool, memoryview]] = iter(())
        self._message_id = 0
        self._silent_since = time.monotonic()

    # -- the association ----------------------------------------------------------------------------
    def __enter__(self) -> "Requestor":
        try:
            with _told():
                self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            with contextlib.suppress(OSError, EOFError, Malformed):
                self._say_goodbye(orderly=kind is None)
        finally:
            self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _open(self) -> None:
        peer = self._peer
        self._socket = socket.create_connection((peer.host, peer.port), timeout=self._left(CONNECT_SECONDS))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if peer.tls is not None:
            self._socket = peer.tls.wrap_socket(self._socket, server_hostname=peer.host)
        self._line = Line(self._socket)
        contexts = asking.contexts_of(self._services, self._classes)
        self._line.send(
            asking.request(peer.called, peer.calling, contexts, ANNOUNCED_PDU_BYTES,
                           (IMPLEMENTATION_UID, IMPLEMENTATION_NAME), self._classes)
        )  # fmt: skip
        kind, body = self._read_pdu()
        if kind == upper_layer.ASSOCIATE_RJ and len(body) >= 4:
            raise refused("busy" if body[1] == _REJECTED_FOR_NOW else "not-let-in")
        if kind == upper_layer.ABORT:
            raise refused("not-let-in")
        if kind != upper_layer.ASSOCIATE_AC:
            raise Malformed("no answer to an association request")
        accepted = asking.acceptance_of(bytes(body), contexts)
        self._agreed, self._pdu_bytes_max = accepted.agreed, accepted.pdu_bytes_max
        for one in contexts[: len(self._services)]:
            if one.number in accepted.agreed:
                self._context_of[one.abstract_syntax] = one.number
        for service in self._services:
            if service not in self._context_of:
                raise refused("no-find" if service == asking.STUDY_ROOT_FIND else "no-get")

    def _say_goodbye(self, *, orderly: bool) -> None:
        if self._socket is None or not hasattr(self, "_line"):
            return
        self._line.send(asking.release() if orderly else asking.abort())
        if orderly:
            self._line.read_pdu(GOODBYE_SECONDS, GOODBYE_SECONDS)

    # -- questions ----------------------------------------------------------------------------------
    def echo(self) -> None:
        with _told():
            self._message_id += 1
            self._line.send(asking.echo(self._context_of[upper_layer.VERIFICATION], self._message_id))
            _, command = self._command()
            answer = asking.answer_of(asking.elements_of(command))
            if answer.field != upper_layer.C_ECHO_RQ | asking.C_ANSWER or answer.has_data_set or answer.status:
                raise refused("said-no")

    def find(self, keys: Mapping[int, str], answers_max: int) -> list[dict[int, bytes]]:
        """The answers to a C-FIND. One that is not over after `answers_max` is refused."""
        found: list[dict[int, bytes]] = []
        with _told():
            self._ask(asking.STUDY_ROOT_FIND, keys)
            while True:
                context, command = self._command()
                answer = asking.answer_of(asking.elements_of(command))
                if answer.field != asking.C_FIND_RQ | asking.C_ANSWER or answer.message_id != self._message_id:
                    raise Malformed("an answer to something else")
                data = self._collected(context, ANSWER_BYTES_MAX) if answer.has_data_set else b""
                if answer.status not in asking.PENDING:
                    if answer.status:
                        raise refused("said-no")
                    return found
                if len(found) >= answers_max:
                    raise refused("too-many")
                found.append(dicom.values_of(data))

    def get(self, keys: Mapping[int, str], take: Callable[[Names], Sink]) -> int:
        """The objects of a C-GET, each into its own sink. Returns the status at its end (0: all were sent)."""
        with _told():
            self._ask(asking.STUDY_ROOT_GET, keys)
            while True:
                context, command = self._command()
                found = asking.elements_of(command)
                if upper_layer.number_in(found, 0x0100) == upper_layer.C_STORE_RQ:
                    self._take_object(context, command, take)
                    continue
                answer = asking.answer_of(found)
                if answer.field != asking.C_GET_RQ | asking.C_ANSWER or answer.message_id != self._message_id:
                    raise Malformed("an answer to something else")
                if answer.has_data_set:
                    self._collected(context, FAILED_LIST_BYTES_MAX, keep=False)
                if answer.status not in asking.PENDING:
                    return answer.status

    def move(self, keys: Mapping[int, str], destination: str, message_id: int) -> int:
        """Have the objects sent to the AE title `destination`. The PACS says `message_id` there with each. Returns the
        status at its end. While they come elsewhere it may say nothing here: see `heard`."""
        with _told():
            self._message_id = message_id - 1
            self._ask(asking.STUDY_ROOT_MOVE, keys, destination)
            while True:
                context, command = self._command()
                answer = asking.answer_of(asking.elements_of(command))
                if answer.field != asking.C_MOVE_RQ | asking.C_ANSWER or answer.message_id != message_id:
                    raise Malformed("an answer to something else")
                if answer.has_data_set:
                    self._collected(context, FAILED_LIST_BYTES_MAX, keep=False)
                if answer.status == asking.DESTINATION_UNKNOWN:
                    raise refused("no-destination")
                if answer.status not in asking.PENDING:
                    return answer.status

    def heard(self) -> None:
        """The other side works, as could be seen elsewhere: its silence here begins anew."""
        self._silent_since = time.monotonic()

    def _take_object(self, context: int, raw: bytes, take: Callable[[Names], Sink]) -> None:
        command = upper_layer.command_of(raw)
        if not command.has_data_set or context not in self._agreed:
            raise Malformed("an object without itself, or of a kind that was not agreed")
        names = (command.sop_class.decode("ascii", "replace"), command.sop_instance.decode("ascii", "replace"))
        sink = take(Names(*names, self._agreed[context]))
        try:
            for fragment in self._data(context):
                sink.write(fragment)
            status = sink.finish()
        except BaseException:
            sink.close()
            raise
        self._line.send(upper_layer.answer_to(context, command, status))

    def _ask(self, service: str, keys: Mapping[int, str], destination: str = "") -> None:
        self._message_id += 1
        identifier = asking.identifier_of(keys)
        self._line.send(
            asking.question(
                self._context_of[service], service, self._message_id, identifier, self._pdu_bytes_max, destination
            )
        )

    # -- what comes -----------------------------------------------------------------------------------
    def _command(self) -> tuple[int, bytes]:
        collected, first = b"", 0
        while True:
            context, is_command, is_last, fragment = self._value()
            first = first or context
            if not is_command or context != first or len(collected) + len(fragment) > COMMAND_BYTES_MAX:
                raise Malformed("no command, or one that passes its limit")
            collected += fragment
            if is_last:
                return context, collected

    def _data(self, of_context: int) -> Iterator[memoryview]:
        while True:
            context, is_command, is_last, fragment = self._value()
            if is_command or context != of_context:
                raise Malformed("a data set that is cut off")
            yield fragment
            if is_last:
                return

    def _collected(self, context: int, bytes_max: int, *, keep: bool = True) -> bytes:
        collected, size = [], 0
        for fragment in self._data(context):
            size += len(fragment)
            if size > bytes_max:
                raise Malformed("an answer that passes its limit")
            if keep:
                collected.append(bytes(fragment))
        return b"".join(collected)

    def _value(self) -> tuple[int, bool, bool, memoryview]:
        while (value := next(self._values, None)) is None:
            kind, body = self._read_pdu()
            if kind == upper_layer.ABORT:
                raise refused("broke-off")
            if kind != upper_layer.DATA:
                raise Malformed("a PDU that has no place here")
            self._values = upper_layer.values_of(body)
        return value

    def _read_pdu(self) -> tuple[int, memoryview]:
        self.heard()
        self._tick()
        while not self._line.comes(self._left(TICK_SECONDS)):
            self._tick()
            if time.monotonic() - self._silent_since > self._silence_seconds:
                raise refused("too-slow")
        return self._line.read_pdu(self._left(self._silence_seconds), self._left(self._silence_seconds))

    def _left(self, seconds: float) -> float:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise refused("too-slow")
        return min(seconds, left)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the line does, as a reason that may be shown."""
    try:
        yield
    except TimeoutError:
        raise refused("too-slow") from None
    except ssl.SSLError:
        raise refused("tls") from None
    except EOFError:
        raise refused("broke-off") from None
    except ConnectionResetError:
        raise refused("broke-off") from None
    except OSError:
        raise refused("unreachable") from None
    except Malformed:
        raise refused("not-dicom") from None
