"""The desk: takes the bytes of a request, finds out who asks, does what is asked, gives the bytes of the reply.

Knows no socket. Order of checks for a proof: meant for us, time, chain and dates and CRL of the certificate, its GID's
state and key, signature, not seen before. Called by the server in several threads; all state is in the store.
"""

import dataclasses
import logging
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Literal

from myphr.crypto import certificates, proofs
from myphr.crypto.certificates import Certificate, Chain, Kind
from myphr.errors import (
    CertificateRefused,
    ConfigurationError,
    IdentityRevoked,
    KeyholderProtocolError,
    KeyholderUnavailable,
    NotFound,
    PortalError,
    ProofRefused,
)
from myphr.keyholder import arguments
from myphr.keyholder.ca import Clock, OwnCa, moment
from myphr.keyholder.store import Store, fact
from myphr.people.keyholder import read_reply

log = logging.getLogger("keyholder")
NONCES_MAX = 200_000
SEEN_SECONDS = 2 * proofs.SKEW_SECONDS_MAX + 1

Who = Literal["anyone", "portal", "machine", "speaker", "host"]


@dataclasses.dataclass(frozen=True)
class Peer:
    """Who is at the other end. `uid`: of a process on this machine, `host`: GID of another keyholder over mTLS."""

    local: bool = False
    machine: bool = False  # root, or the keyholder's own unix user
    host: str = ""


@dataclasses.dataclass
class Asked:
    """One call on its way through. `arguments` are checked values; `speaker` is set where a proof was demanded."""

    request: proofs.Request
    data: bytes
    peer: Peer
    arguments: dict[str, Any]
    speaker: Certificate | None = None

    @property
    def gid(self) -> str:
        """Who asks. Only for calls that demand a proof."""
        assert self.speaker is not None
        return self.speaker.gid


Reply = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """`run(desk, asked, db)` inside one transaction; with `mode` "own" it makes its own: `run(desk, asked)`."""

    run: Callable[..., Reply]
    who: Who
    schema: arguments.Schema
    mode: Literal["read", "write", "own"] = "read"


class Desk:
    """Everything a call needs: store, CA (or none on a joined host), clock, ways to other keyholders."""

    def __init__(
        self, store: Store, calls: Mapping[str, Call], *, clock: Clock = time.time, own_ca: bool = True,
        send: Callable[[str, bytes], bytes] | None = None,
    ) -> None:  # fmt: skip
        """`send(gid, frame)` carries a request to another keyholder and brings its reply."""
        self.store = store
        self.clock = clock
        self.ca = OwnCa(store.master, clock) if own_ca else None
        self.calls = calls
        self.send = send
        with store.read() as db:
            self.gid = fact(db, "gid").decode()
        self._chain: tuple[tuple[bytes, ...], Chain] | None = None
        self._seen: dict[bytes, int] = {}
        self._seen_lock = threading.Lock()

    def now(self) -> int:
        return int(self.clock())

    def handle(self, data: bytes, peer: Peer) -> bytes:
        """The reply to one request. Never raises: what goes wrong is an error reply, and a line in the log without any
        argument in it."""
        call = "?"
        try:
            request = proofs.read_request(data)
            call = request.call if request.call in self.calls else "unknown"
            if request.keyholder not in ("", self.gid):
                return self._pass_on(request, data, peer)
            reply = proofs.dump({"done": self._run(request, data, peer)})
            if len(reply) > proofs.REPLY_BYTES_MAX:
                raise KeyholderProtocolError("reply too large")
            return reply
        except PortalError as error:
            log.info("%s refused: %s (%s)", call, error.code, error.detail)
            return error_reply(error)
        except Exception as error:
            # The message may hold anything; type and place hold nothing.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s failed: %s at %s:%s", call, type(error).__name__, place.name, place.lineno)
            return error_reply(KeyholderUnavailable("failed"))

    def _run(self, request: proofs.Request, data: bytes, peer: Peer) -> Reply:
        call = self.calls.get(request.call)
        if call is None:
            raise KeyholderProtocolError("no such call")
        if not request.keyholder and request.call != "hello":
            raise ProofRefused("meant for no keyholder")
        if (call.who in ("portal", "machine") and not peer.local) or (call.who == "machine" and not peer.machine):
            raise NotFound
        if call.who == "host" and not peer.host:
            raise NotFound
        asked = Asked(request, data, peer, arguments.check(call.schema, request.arguments))
        if call.who == "speaker":
            asked.speaker = self.check_proof(request)
        if call.mode == "own":
            return call.run(self, asked)
        if call.mode == "read":
            with self.store.read() as db:
                return call.run(self, asked, db)
        with self.store.write() as db:
            if asked.speaker:
                self.spend(db, request)
            return call.run(self, asked, db)

    # -- proofs
    def check_proof(self, request: proofs.Request, *, keyholder: str | None = None) -> Certificate:
        """The certificate of who made this request. Raises ProofRefused, CertificateRefused, IdentityRevoked."""
        now = self.now()
        if not request.proven:
            raise ProofRefused("nobody asks")
        if request.keyholder != (keyholder or self.gid):
            raise ProofRefused("meant for another keyholder")
        if abs(request.time - now) > proofs.SKEW_SECONDS_MAX:
            raise ProofRefused(f"made {now - request.time} s ago by its own clock")
        with self.store.read() as db:
            chain = self.chain(db)
            row = None
            if self.ca:
                gid = certificates.read_certificate(request.certificate).gid
                row = db.execute("SELECT * FROM identity WHERE gid = ?", (gid,)).fetchone()
        if row is not None and row["state"] != "active":
            raise IdentityRevoked("")
        speaker = certificates.validate(request.certificate, chain, moment(now))
        if self.ca and (row is None or row["kind"] != Kind.PERSON.value or bytes(row["public_key"])
                        != certificates.public_key_bytes(speaker.public_key)):  # fmt: skip
            raise CertificateRefused("not the key of this GID, or no person's")
        if speaker.gid != request.gid:
            raise ProofRefused("in another's name")
        try:
            request.check_signature(speaker.public_key)
        except CertificateRefused:
            raise ProofRefused("signature") from None
        self._only_once(request, now)
        return speaker

    def _only_once(self, request: proofs.Request, now: int) -> None:
        key = request.gid.encode() + request.nonce
        with self._seen_lock:
            if key in self._seen:
                raise ProofRefused("seen before")
            if len(self._seen) >= NONCES_MAX:
                self._seen = {one: until for one, until in self._seen.items() if until > now}
                if len(self._seen) >= NONCES_MAX:
                    raise KeyholderUnavailable("too many calls")
            self._seen[key] = now + SEEN_SECONDS

    def spend(self, db: sqlite3.Connection, request: proofs.Request) -> None:
        """Notes a proof in the transaction of what it changes, so that it is spent across a restart too. (A call that
        changes nothing gives away nothing when it is repeated: what it returns is sealed.)"""
        try:
            db.execute("INSERT INTO nonce VALUES (?, ?, ?)", (request.gid, request.nonce, self.now() + SEEN_SECONDS))
        except sqlite3.IntegrityError:
            raise ProofRefused("seen before") from None

    # -- the chain
    def chain(self, db: sqlite3.Connection) -> Chain:
        """What certificates are checked against, read anew only when it changed."""
        root, intermediates, crls = self.chain_parts(db)
        parts = (root, *intermediates, b"", *crls)
        kept = self._chain
        if kept is None or kept[0] != parts:
            kept = (parts, Chain(root, intermediates, crls))
            self._chain = kept
        return kept[1]

    def chain_parts(self, db: sqlite3.Connection) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
        """(root, intermediates, CRLs): our own, or on a joined host as the CA's host last told."""
        if self.ca:
            return *self.ca.chain(db), self.ca.crl(db)
        parts = proofs.load(fact(db, "chain"))
        intermediates, crls = (tuple(map(proofs.from_base64, parts[name])) for name in ("intermediates", "crls"))
        return fact(db, "root"), intermediates, crls

    # -- other keyholders
    def _pass_on(self, request: proofs.Request, data: bytes, peer: Peer) -> bytes:
        if not peer.local or self.send is None or self.ca is None:
            raise ProofRefused("meant for another keyholder")
        with self.store.read() as db:
            if db.execute("SELECT 1 FROM peer WHERE gid = ?", (request.keyholder,)).fetchone() is None:
                raise ProofRefused("meant for a keyholder that is not known here")
        return self.send(request.keyholder, data)

    def ask_host(self, gid: str, call: str, given: dict[str, Any]) -> Reply:
        """A call of our own to another keyholder. Raises what it answers, KeyholderUnavailable when it does not."""
        if self.send is None:
            raise ConfigurationError("no way to other keyholders")
        request = proofs.new_request(gid, call, given, now=self.now())
        return read_reply(self.send(gid, request.to_bytes()))


def error_reply(error: PortalError) -> bytes:
    return proofs.dump({"error": error.code, "detail": error.detail[:200]})
