"""A TLS endpoint with Proxmox's console rules in front of real VNC servers on Unix sockets.

A port is single use and dies with its first connection; a ticket fits one port; the right token must be shown; a
fragmented or oversized frame cuts the connection. Built on the `websockets` package, so that two independent
implementations of the protocol meet.
"""

import asyncio
import contextlib
import datetime as dt
import http
import ipaddress
import json
import secrets
import ssl
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1: (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pve")])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start).not_valid_after(start + dt.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate_file, key_file = folder / "pve.pem", folder / "pve.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


class PveLike:
    """`machines` maps a vmid to (path of its VNC socket, password)."""

    def __init__(self, folder: Path, machines: dict[int, tuple[str, str]]) -> None:
        self.machines = machines
        self.ca_file, key_file = make_certificate(folder)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.ca_file, key_file)
        self._pending: dict[str, tuple[str, int]] = {}
        self.violations: list[str] = []  # what would have killed a Proxmox worker
        self.consoles = 0
        self.connections = 0
        self.address = ""
        self._open: set[ServerConnection] = set()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "PveLike":
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def cut_all(self) -> None:
        """What a stopped machine looks like: the TCP connection drops without a close frame."""

        def abort() -> None:
            for connection in list(self._open):
                connection.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with serve(
            self._handle, "127.0.0.1", 0, ssl=self._tls, process_request=self._request, compression=None,
            ping_interval=None, max_size=128 * 1024,
            select_subprotocol=lambda _c, offered: offered[0] if offered else None,
        ) as server:  # fmt: skip
            host, port = server.sockets[0].getsockname()[:2]
            self.address = f"{host}:{port}"
            self._started.set()
            await self._stop.wait()

    def _request(self, _connection: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/vncproxy":
            vmid = int(query["vmid"])
            if vmid not in self.machines:
                return _answer(http.HTTPStatus.INTERNAL_SERVER_ERROR, {"message": "no such VM"})
            self.consoles += 1
            port, ticket = str(5900 + self.consoles), secrets.token_hex(20)
            self._pending[port] = (ticket, vmid)
            return _answer(http.HTTPStatus.OK, {"port": port, "ticket": ticket, "password": self.machines[vmid][1]})
        if request.headers.get("Authorization") != "PVEAPIToken=portal@pve!web=secret":
            return _answer(http.HTTPStatus.UNAUTHORIZED, {})
        found = self._pending.pop(query.get("port", ""), None)
        if found is None:
            self.violations.append("a port was dialled twice, or never handed out")
            return _answer(http.HTTPStatus.UNAUTHORIZED, {})
        if found[0] != query.get("vncticket"):
            return _answer(http.HTTPStatus.UNAUTHORIZED, {})
        _connection.vmid = found[1]  # type: ignore[attr-defined]
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        self._open.add(connection)
        reader, writer = await asyncio.open_unix_connection(self.machines[connection.vmid][0])  # type: ignore[attr-defined]

        async def to_machine() -> None:
            with contextlib.suppress(Exception):
                while True:
                    fragments = [part async for part in connection.recv_streaming(decode=False)]
                    if len(fragments) > 1 or any(len(part) > 65_536 for part in fragments):
                        self.violations.append("a fragmented or oversized frame")
                        break
                    for part in fragments:
                        writer.write(part)
                    await writer.drain()
            writer.close()

        async def to_browser() -> None:
            with contextlib.suppress(Exception):
                while data := await reader.read(65_536):
                    await connection.send(data)
            connection.transport.abort()

        await asyncio.gather(to_machine(), to_browser())
        self._open.discard(connection)


def _answer(status: http.HTTPStatus, body: dict) -> Response:
    text = json.dumps(body).encode()
    headers = Headers(
        [("Content-Type", "application/json"), ("Content-Length", str(len(text))), ("Connection", "close")]
    )
    return Response(status.value, status.phrase, headers, text)
