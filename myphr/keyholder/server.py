"""The keyholder's sockets: frames in, frames out, everything bounded. What a frame means is the desk's affair.

A connection carries one request after the other. Bounds: connections, bytes of a frame, seconds for a frame, requests
at work. A slow or silent peer is cut off; a full house answers "unavailable" at once. Called by the command line.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from myphr.crypto import certificates, proofs
from myphr.errors import CertificateRefused, KeyholderUnavailable, PortalError
from myphr.keyholder import authorities, links
from myphr.keyholder.ca import moment
from myphr.keyholder.desk import Desk, Peer, error_reply
from myphr.keyholder.identities import take_chain
from myphr.keyholder.store import fact, set_fact

log = logging.getLogger("keyholder")
CONNECTIONS_MAX = 256
TLS_CONNECTIONS_MAX = 64
THREADS = 8
AT_WORK_MAX = 128
IDLE_SECONDS = 60
FRAME_SECONDS = 10
HANDSHAKE_SECONDS = 10
ROUND_SECONDS = 60
BACKLOG = 128


def bind(path: Path, *, group: int | None = None) -> socket.socket:
    """The listening unix socket, mode 0600, or 0660 for `group`. A socket that a dead keyholder left is replaced."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(0o660)
    listening.listen(BACKLOG)
    return listening


class Server:
    """Serves one desk until `stop` is set."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.stop = asyncio.Event()
        self._pool = ThreadPoolExecutor(THREADS, "desk")
        self._pool_away = ThreadPoolExecutor(THREADS, "away")  # a host that hangs must not hold up what is done here
        self._at_work = {self._pool: 0, self._pool_away: 0}
        self._open = {"unix": 0, "tls": 0}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tls: ssl.SSLContext | None = None

    async def run(
        self, listening: socket.socket, listen_tls: tuple[str, int] | None = None, *,
        ready: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Serves; `ready` is called once everything listens. Raises OSError when the TLS address is taken."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self.round)
        servers = [await asyncio.start_unix_server(self._serve_unix, sock=listening, limit=proofs.REQUEST_BYTES_MAX)]
        if listen_tls:
            self._tls = links.context(self.desk, server=True)
            servers.append(
                await asyncio.start_server(
                    self._serve_tls, *listen_tls, ssl=self._tls, limit=proofs.REQUEST_BYTES_MAX, backlog=BACKLOG,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS, ssl_shutdown_timeout=1,
                )
            )  # fmt: skip
        rounds = asyncio.create_task(self._rounds())
        ready()
        try:
            await self.stop.wait()
        finally:
            rounds.cancel()
            for server in servers:
                server.close()
            for writer in list(self._writers):
                writer.close()
            await asyncio.gather(rounds, return_exceptions=True)
            # What was begun is finished and answered or not; either way it is whole in the store.
            for pool in self._at_work:
                await loop.run_in_executor(None, pool.shutdown)

    # -- connections
    async def _serve_unix(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def who() -> Peer:
            data = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            _, uid, _ = struct.unpack("3i", data)
            return Peer(local=True, machine=uid in (0, os.geteuid()))

        await self._serve(reader, writer, "unix", CONNECTIONS_MAX, who)

    async def _serve_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def who() -> Peer:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return await asyncio.get_running_loop().run_in_executor(self._pool, links.peer_of, self.desk, der)

        await self._serve(reader, writer, "tls", TLS_CONNECTIONS_MAX, who)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, most: int,
        who: Callable[[], Awaitable[Peer]],
    ) -> None:  # fmt: skip
        self._open[way] += 1
        self._writers.add(writer)
        try:
            if self._open[way] > most:
                await self._answer(writer, error_reply(KeyholderUnavailable("too many connections")))
                return
            peer = await who()
            while (data := await self._frame(reader)) is not None:
                await self._answer(writer, await self._work(data, peer))
        except PortalError as error:
            log.info("%s connection refused: %s (%s)", way, error.code, error.detail)
            with contextlib.suppress(OSError, TimeoutError):
                await self._answer(writer, error_reply(error))
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # gone, too slow, or cut off in the middle of a frame: nothing was asked
        finally:
            self._open[way] -= 1
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 2)

    async def _frame(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next request, None at the end. Raises TimeoutError, KeyholderProtocolError."""
        async with asyncio.timeout(IDLE_SECONDS):
            first = await reader.read(1)
        if not first:
            return None
        async with asyncio.timeout(FRAME_SECONDS):
            prefix = first + await reader.readexactly(proofs.PREFIX_BYTES - 1)
            return await reader.readexactly(proofs.frame_bytes(prefix, proofs.REQUEST_BYTES_MAX))

    async def _work(self, data: bytes, peer: Peer) -> bytes:
        # A request names the keyholder it is for. Only a guess at where it will wait; the desk reads it properly.
        here = not peer.local or self.desk.gid.encode() in data or b'"call":"hello"' in data
        pool = self._pool if here else self._pool_away
        if self._at_work[pool] >= AT_WORK_MAX:
            return error_reply(KeyholderUnavailable("too many requests at work"))
        self._at_work[pool] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self.desk.handle, data, peer)
        finally:
            self._at_work[pool] -= 1

    async def _answer(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        writer.write(proofs.frame(reply))
        async with asyncio.timeout(FRAME_SECONDS):
            await writer.drain()

    # -- the round
    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            await asyncio.get_running_loop().run_in_executor(self._pool, self.round)

    def round(self) -> None:
        """Once a minute: CRLs, memberships that end, certificates that end, proofs that may be forgotten; on a joined
        host also what the CA's host tells. Each part stands alone; twice at once does no harm."""
        for part in (self._sweep, self._ask_ca, self._renew_host, lambda: authorities.renew(self.desk)):
            try:
                part()
            except PortalError as error:
                log.warning("round: %s (%s)", error.code, error.detail)
            except Exception as error:
                log.error("round failed: %s", type(error).__name__)

    def _sweep(self) -> None:
        desk, now = self.desk, self.desk.now()
        with desk.store.read() as db:
            work = db.execute(
                "SELECT exists(SELECT 1 FROM nonce WHERE until < ?) "
                "OR exists(SELECT 1 FROM membership WHERE until <= ?)", (now, now),
            ).fetchone()[0]
            old_crl = desk.ca is not None and desk.ca.is_due(db)
        if work:
            with desk.store.write() as db:
                db.execute("DELETE FROM nonce WHERE until < ?", (now,))
                ended = authorities.lapse(desk, db)
            if ended:
                log.info("%d memberships ended by their date", ended)
        if old_crl and desk.ca:
            with desk.store.write() as db:
                desk.ca.refresh(db)

    def _ask_ca(self) -> None:
        desk = self.desk
        if desk.ca:
            return
        with desk.store.read() as db:
            ca = fact(db, "ca").decode()
            members = [row["member"] for row in db.execute("SELECT DISTINCT member FROM membership")]
        chain, crls = desk.ask_host(ca, "ca.chain", {}), desk.ask_host(ca, "ca.crl", {})
        intermediates, lists = (
            tuple(map(proofs.from_base64, part)) for part in (chain["intermediates"], crls["crls"])
        )
        with desk.store.write() as db:
            take_chain(desk, db, intermediates, lists)
        for at in range(0, len(members), 1000):
            revoked = desk.ask_host(ca, "identity.revoked", {"gids": members[at : at + 1000]})["revoked"]
            if revoked:
                with desk.store.write() as db:
                    for gid in revoked:
                        authorities.take_all(desk, db, certificates.check_gid(gid))

    def _renew_host(self) -> None:
        desk, now = self.desk, self.desk.now()
        with desk.store.read() as db:
            own = certificates.read_certificate(fact(db, "certificate"))
            chain = desk.chain(db)
        fresh = own.not_after.timestamp() - now > authorities.RENEW_SECONDS
        if fresh and _is_valid(own.der, chain, now):
            return
        with desk.store.read() as db:
            key = desk.store.master.open("host-key", desk.gid, fact(db, "sealed-host-key"))
            ca = "" if desk.ca else fact(db, "ca").decode()
        request = certificates.new_request(certificates.signing_key_from_bytes(key), desk.gid)
        if desk.ca:
            with desk.store.write() as db:
                set_fact(db, "certificate", desk.ca.issue(db, request, certificates.Kind.HOST))
        else:
            given = proofs.from_base64(desk.ask_host(ca, "host.renew", {"request": request})["certificate"])
            with desk.store.write() as db:
                set_fact(db, "certificate", given)
        if self._tls:
            links.refresh(self._tls, desk)


def _is_valid(der: bytes, chain: certificates.Chain, now: int) -> bool:
    try:
        certificates.validate(der, chain, moment(now))
    except CertificateRefused:
        return False
    return True


def small_stacks() -> None:
    """Threads with stacks of 1 MiB: their memory may be locked."""
    threading.stack_size(1024 * 1024)


