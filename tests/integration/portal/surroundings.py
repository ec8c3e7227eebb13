"""What a guest could reach if its walls were down: listeners on the host's loopback, on all its addresses and on public
(documentation) addresses, a name server, all of which write down who came.

Stands in a network namespace of its own where it may (root): nothing leaves the computer, no other test sees the
addresses, and a portal and a plain QEMU of the same test live in the very same surroundings. Used by test_isolation.
"""

import contextlib
import ctypes
import os
import socket
import socketserver
import subprocess
import threading
from pathlib import Path
from typing import Any

PUBLIC = ("192.0.2.1", "203.0.113.1")  # RFC 5737: nobody's
OWN_ADDRESS = "198.51.100.7"  # RFC 5737: stands for the node's address in its network
_CLONE_NEWNET = 0x40000000


class Surroundings:
    """`whole` says whether there is a namespace; without one there are only the two listeners on chosen ports."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        self.whole = False
        self.loopback_port = self.all_port = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Surroundings":
        self.whole = self._enter_namespace()
        if self.whole:
            for port in (22, 53, 80, 443):
                self._listen("0.0.0.0", port)
            self._answer_names()
        self.loopback_port = self._listen("127.0.0.1", 0)
        self.all_port = self._listen("0.0.0.0", 0)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    @property
    def targets(self) -> list[str]:
        """As a guest behind QEMU's user-mode network would dial them: 10.0.2.2 is the host's loopback there."""
        found = [f"10.0.2.2:{self.loopback_port}", f"10.0.2.2:{self.all_port}"]
        if self.whole:
            found += [f"{OWN_ADDRESS}:{self.all_port}", f"{PUBLIC[0]}:{self.all_port}"]
        return found

    def _enter_namespace(self) -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if os.geteuid() != 0 or libc.unshare(_CLONE_NEWNET) != 0:
            os.close(before)
            return False

        def back() -> None:
            if libc.setns(before, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "the test's own network did not come back")
            os.close(before)

        self._stack.callback(back)
        # The resolver too: QEMU's user-mode network passes questions on to the one of /etc/resolv.conf.
        for address in (*PUBLIC, OWN_ADDRESS, *_name_servers()):
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=False, capture_output=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        # Lets QEMU's user-mode network send echo requests (icmp(7)): they too must be able to succeed.
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        return True

    def _listen(self, address: str, port: int) -> int:
        visits = self.visits

        class Door(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                here = self.request.getsockname()
                visits.append(f"tcp {here[0]}:{here[1]}")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        return self._serve(Server((address, port), Door))

    def _answer_names(self) -> None:
        visits = self.visits

        class Names(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, sock = self.request
                visits.append("dns")
                sock.sendto(question[:2] + b"\x81\x83" + question[4:], self.client_address)  # "no such name" (RFC 1035)

        self._serve(socketserver.ThreadingUDPServer(("0.0.0.0", 53), Names))

    def _serve(self, server: Any) -> int:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        return server.server_address[1]

    def knock(self, address: str, port: int) -> None:
        """The test itself at a listener's door: what is silent to a guest must not be simply dead."""
        before = len(self.visits)
        with socket.create_connection((address, port), timeout=10) as connection:
            connection.recv(1)
        assert len(self.visits) > before
        del self.visits[before:]


def _name_servers() -> list[str]:
    with contextlib.suppress(OSError):
        lines = Path("/etc/resolv.conf").read_text().splitlines()
        words = [line.split() for line in lines]
        return [word[1] for word in words if len(word) > 1 and word[0] == "nameserver" and "." in word[1]]
    return []
