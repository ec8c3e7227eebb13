"""The receiver's process: listens, counts its peers, speaks TLS where it is set up, keeps its memory bounded.

Called by `__main__`; the supervisor starts it when MYPHR_RECEIVER_BIND names an address.
"""

import collections
import ipaddress
import logging
import resource
import signal
import socket
import ssl
import threading
from copy import deepcopy
from typing import Any, cast

from pynetdicom import AE, _config, build_context, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AddressInformation, AssociationServer, RequestHandler

from myphr.errors import ConfigurationError
from myphr.portal import Portal
from myphr.receiver.association import LOGIN_SECONDS_MAX, DropOffAssociation, GuardedSocket
from myphr.receiver.incoming import PROCESSING_FAILURE, Incoming
from myphr.receiver.part10 import IMPLEMENTATION_NAME, IMPLEMENTATION_UID
from myphr.settings import Settings, load

log = logging.getLogger(__name__)

ANNOUNCED_PDU_BYTES = 128 * 1024
IDLE_SECONDS_MAX = 120.0
THREAD_STACK_BYTES = 1024**2  # two threads an association; the default of 8 MiB would count against the memory limit
OWN_AE_TITLE = "MYPHR"  # in logs and nowhere else: peers call the AE title of a drop-off


class Server(AssociationServer):
    """Listens, and lets so many peers connect: in all, and from one address."""

    request_queue_size = 64

    def __init__(self, parts: Portal, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        settings = parts.settings
        self.parts = parts
        self._guard = threading.Lock()
        self._peers: dict[DropOffAssociation, str] = {}
        self._most, self._most_of_one = settings.receiver_associations_max, settings.receiver_associations_per_address
        ae = AE(OWN_AE_TITLE)
        ae.maximum_associations = 2 * self._most  # ours counts connections, and earlier
        ae.maximum_pdu_size = ANNOUNCED_PDU_BYTES
        ae.acse_timeout = LOGIN_SECONDS_MAX
        ae.network_timeout = ae.dimse_timeout = IDLE_SECONDS_MAX
        ae.implementation_class_uid = IMPLEMENTATION_UID
        ae.implementation_version_name = IMPLEMENTATION_NAME
        super().__init__(
            ae, address, OWN_AE_TITLE, [build_context(Verification)], tls,
            evt_handlers=[(evt.EVT_C_STORE, _store)], request_handler=Handler,
        )  # fmt: skip

    def get_request(self) -> tuple[socket.socket, Any]:
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(LOGIN_SECONDS_MAX)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._guard:
            of_address = collections.Counter(self._peers.values())[client_address[0]]
            return len(self._peers) < self._most and of_address < self._most_of_one

    def came(self, association: DropOffAssociation, address: str) -> None:
        with self._guard:
            self._peers[association] = address

    def went(self, association: DropOffAssociation) -> None:
        with self._guard:
            self._peers.pop(association, None)

    def stop(self) -> None:
        """Let nobody in any more, and nothing half-received stay."""
        super(AssociationServer, self).shutdown()
        self.server_close()
        with self._guard:
            left = list(self._peers)
        for association in left:
            association.dimse.drop()
            association.abort(block=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("a connection could not be taken")


class Handler(RequestHandler):
    def _create_association(self) -> DropOffAssociation:
        server = cast(Server, self.server)
        association = DropOffAssociation(self.ae, server.parts, server.went)
        association._server = server
        association.name = f"AcceptorThread-{id(association)}"  # pynetdicom finds its threads by this word
        association.set_socket(GuardedSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(server.contexts)
        association.requestor.address_info = AddressInformation.from_tuple(self.client_address)
        handler, arguments = cast(tuple, server.get_handlers(evt.EVT_C_STORE))
        association.bind(evt.EVT_C_STORE, handler, arguments)
        server.came(association, self.client_address[0])
        return association


def _store(event: evt.Event) -> int:
    incoming = getattr(event.request, "DataSet", None)
    return incoming.finish() if isinstance(incoming, Incoming) else PROCESSING_FAILURE


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS as it is set up, or None. Raises ConfigurationError, also for a line that others could read."""
    host = settings.receiver_bind.rpartition(":")[0].strip("[]")
    if not settings.receiver_tls_cert_file:
        if settings.receiver_tls_key_file or settings.receiver_tls_ca_file:
            raise ConfigurationError("MYPHR_RECEIVER_TLS_KEY_FILE and _CA_FILE need MYPHR_RECEIVER_TLS_CERT_FILE")
        if not settings.receiver_plain and not _is_loopback(host):
            raise ConfigurationError(
                "MYPHR_RECEIVER_BIND is reachable from elsewhere: set MYPHR_RECEIVER_TLS_CERT_FILE, or"
                " MYPHR_RECEIVER_PLAIN=1 if only a VPN leads there"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.receiver_tls_cert_file, settings.receiver_tls_key_file or None)
        if settings.receiver_tls_ca_file:
            context.load_verify_locations(settings.receiver_tls_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ConfigurationError(f"the receiver's TLS files cannot be used: {error.strerror or error}") from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    if not port.isdecimal():
        raise ConfigurationError("MYPHR_RECEIVER_BIND must read like 127.0.0.1:11112")
    return host.strip("[]"), int(port)


def _tell_class(end: threading.ExceptHookArgs) -> None:
    """The class only: a message may quote what was sent."""
    log.error("a thread ended: %s", end.exc_type.__name__)


def main() -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigurationError."""
    settings = load()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # its lines quote names and UIDs
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    threading.excepthook = _tell_class
    _config.LOG_HANDLER_LEVEL = "none"
    _config.UNRESTRICTED_STORAGE_SERVICE = True  # an unknown kind of image must not cost the others of its study
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = settings.receiver_memory_bytes_max
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    threading.stack_size(THREAD_STACK_BYTES)
    server = Server(Portal(settings), address_of(settings.receiver_bind), tls_context(settings))
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stopped.wait()
    server.stop()
