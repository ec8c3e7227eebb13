"""Ways between keyholders: TLS 1.3 with a certificate of the CA on both sides, GID against GID.

No host names: the other side is who its certificate's GID says, checked against the chain, the CRLs, and what it was
registered as. The private key reaches OpenSSL through a memory file, never a disk. Called by the server.
"""

import os
import socket
import sqlite3
import ssl
import time

from cryptography.hazmat.primitives import serialization

from myphr.crypto import certificates, proofs
from myphr.crypto.certificates import Kind
from myphr.errors import CertificateRefused, KeyholderUnavailable, PortalError
from myphr.keyholder.ca import moment
from myphr.keyholder.desk import Desk, Peer
from myphr.keyholder.store import fact

TIMEOUT_SECONDS = 10


def context(desk: Desk, *, server: bool) -> ssl.SSLContext:
    """A TLS context with this host's own certificate. Raises ConfigurationError on a host that has not joined."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # there is no name in these certificates: `peer_gid` checks the GID
    made.verify_mode = ssl.CERT_REQUIRED
    if server:
        made.num_tickets = 0  # every connection shows its certificate; none is resumed
    refresh(made, desk)
    return made


def refresh(made: ssl.SSLContext, desk: Desk) -> None:
    """Puts today's certificate and chain into a context; connections made from now on use them."""
    with desk.store.read() as db:
        root, intermediates, _ = desk.chain_parts(db)
        own = fact(db, "certificate")
        key = desk.store.master.open("host-key", desk.gid, fact(db, "sealed-host-key"))
    made.load_verify_locations(cadata="".join(map(ssl.DER_cert_to_PEM_cert, (root, *intermediates))))
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, (own, *intermediates))).encode()
    pem += certificates.signing_key_from_bytes(key).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = os.memfd_create("keyholder-tls", os.MFD_CLOEXEC)
    try:
        os.write(handle, pem)
        made.load_cert_chain(f"/proc/self/fd/{handle}")
        os.pwrite(handle, bytes(len(pem)), 0)
    finally:
        os.close(handle)


def peer_of(desk: Desk, der: bytes | None) -> Peer:
    """Who is at the other end of a TLS connection that was accepted. Raises CertificateRefused unless it is a keyholder
    that is registered here, or on a joined host the CA's."""
    gid = _valid_gid(desk, der)
    with desk.store.read() as db:
        known = _is_registered(db, gid) if desk.ca else fact(db, "ca").decode() == gid
    if not known:
        raise CertificateRefused("no keyholder that is known here")
    return Peer(host=gid)


def _is_registered(db: sqlite3.Connection, gid: str) -> bool:
    return db.execute(
        "SELECT 1 FROM identity JOIN peer ON peer.gid = identity.gid WHERE identity.gid = ? AND kind = ? "
        "AND state = 'active'", (gid, Kind.HOST.value),
    ).fetchone() is not None  # fmt: skip


def _valid_gid(desk: Desk, der: bytes | None) -> str:
    if not der:
        raise CertificateRefused("no certificate")
    with desk.store.read() as db:
        chain = desk.chain(db)
    return certificates.validate(der, chain, moment(desk.now())).gid


def send(desk: Desk, gid: str, data: bytes) -> bytes:
    """One request to the keyholder with that GID, and its reply. Raises KeyholderUnavailable."""
    with desk.store.read() as db:
        row = db.execute("SELECT address FROM peer WHERE gid = ?", (gid,)).fetchone()
    if row is None:
        raise KeyholderUnavailable("no address of that keyholder")
    host, _, port = row["address"].rpartition(":")
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_SECONDS) as plain,
            context(desk, server=False).wrap_socket(plain) as stream,
        ):
            if _valid_gid(desk, stream.getpeercert(binary_form=True)) != gid:
                raise KeyholderUnavailable("another keyholder answers at that address")
            stream.sendall(proofs.frame(data))

            def read(size: int) -> bytes:
                stream.settimeout(max(0.001, deadline - time.monotonic()))
                return stream.recv(size)

            return proofs.read_frame(read, proofs.REPLY_BYTES_MAX)
    except OSError as error:
        raise KeyholderUnavailable(f"{type(error).__name__} on the way to another keyholder") from None
    except PortalError as error:
        raise KeyholderUnavailable(f"{error.code} on the way to another keyholder: {error.detail}") from None
