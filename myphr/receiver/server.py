"""The receiver's process: listens, counts its peers, speaks TLS where it is set up, keeps its memory bounded.

Called by `__main__`; the supervisor starts it when MYPHR_RECEIVER_BIND names an address.
"""

import collections
import contextlib
import ipaddress
import logging
import resource
import signal
import socket
import ssl
import threading
import time

from myphr.errors import ConfigurationError
from myphr.ingest.deliveries import FilingTogether
from myphr.portal import Portal
from myphr.receiver.association import Association
from myphr.settings import Settings, load

log = logging.getLogger(__name__)

WAITING_CONNECTIONS_MAX = 64
THREAD_STACK_BYTES = 1024**2  # a thread an association; the default of 8 MiB would count against the memory limit
STOP_SECONDS_MAX = 8.0  # for what is being filed at the moment; the supervisor waits longer


class Server:
    """Listens, and lets so many peers connect: in all, and from one address."""

    def __init__(self, parts: Portal, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        settings = parts.settings
        self._parts, self._tls = parts, tls
        self._filing = FilingTogether(parts)
        self._guard = threading.Lock()
        self._peers: dict[Association, tuple[str, threading.Thread]] = {}
        self._most, self._most_of_one = settings.receiver_associations_max, settings.receiver_associations_per_address
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listening = socket.create_server(address, family=family, backlog=WAITING_CONNECTIONS_MAX)
        self._stopped = False

    def serve_forever(self) -> None:
        while not self._stopped:
            try:
                connection, address = self._listening.accept()
            except OSError as error:
                if not self._stopped:
                    log.error("a connection could not be taken: %s", type(error).__name__)
                    time.sleep(0.1)  # no descriptor left, say: it comes back
                continue
            try:
                self._take(connection, address[0])
            except Exception as error:  # one peer must not end the server
                log.error("a connection could not be taken: %s", type(error).__name__)
                connection.close()

    def _take(self, connection: socket.socket, address: str) -> None:
        with self._guard:
            of_address = collections.Counter(one for one, _ in self._peers.values())[address]
            if self._stopped or len(self._peers) >= self._most or of_address >= self._most_of_one:
                connection.close()
                return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        association = Association(self._parts, connection, self._filing)
        thread = threading.Thread(target=self._run, args=(association,), daemon=True)
        with self._guard:
            self._peers[association] = address, thread
        try:
            thread.start()
        except RuntimeError:  # no room for one more
            with self._guard:
                del self._peers[association]
            raise

    def _run(self, association: Association) -> None:
        try:
            association.run()
        finally:
            with self._guard:
                self._peers.pop(association, None)

    def stop(self) -> None:
        """Let nobody in any more, and nothing half-received stay."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listening.close()
        with self._guard:
            left = list(self._peers.items())
        for association, _ in left:
            association.stop()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for _, (_, thread) in left:
            thread.join(max(0.0, deadline - time.monotonic()))


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
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its lines quote names and UIDs
    threading.excepthook = _tell_class
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
