"""The client of the keyholder: asks for certificates, attribute keys and vault halves. Holds no key of the key side.

Spec: docs/formats/keyholder.md. One short connection a call, over the unix socket. Whoever speaks for a person hands
over a `Speaker` (signing key and certificate, in memory only while that person is signed in); the proof is made here
and checked over there. An authority on another host is reached through the same socket: the keyholder passes on what
is meant for its peers. Called by `people` and `sharing`. Safe to share between threads.
"""

import contextlib
import dataclasses
import datetime as dt
import functools
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from myphr import errors
from myphr.crypto import certificates, proofs, statements
from myphr.crypto.abe.multi_authority import AuthorityPublic, check_public
from myphr.crypto.certificates import Chain
from myphr.crypto.envelope import context_for
from myphr.errors import KeyholderProtocolError, KeyholderUnavailable, PortalError

TIMEOUT_SECONDS = 15
CHAIN_SECONDS_MAX = 60  # how long a process may go on with the CRLs it has
_KEYS_MAX = 512


# -- who asks -----------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Speaker:
    """Somebody on whose behalf the keyholder is asked: their signing key with its certificate (DER), and the signed
    statement of their public keys (`statements.KeyStatement.sign`), needed where something is sealed to them."""

    signing_key: ec.EllipticCurvePrivateKey = dataclasses.field(repr=False)
    certificate: bytes = dataclasses.field(repr=False)
    key_statement: bytes = dataclasses.field(default=b"", repr=False)

    @functools.cached_property
    def gid(self) -> str:
        return certificates.read_certificate(self.certificate).gid


# -- what comes back ------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Hello:
    """`gid`: of this keyholder's host, `ca`: whether it holds the CA, `time`: its clock in seconds since 1970."""

    gid: str
    ca: bool
    time: int


@dataclasses.dataclass(frozen=True)
class AuthorityPapers:
    """What everybody may know of an authority: the CA's statement, its certificate (DER), its epoch table; all signed.

    Check all three before use: `check_papers`."""

    authority: str
    statement: bytes = dataclasses.field(repr=False)
    certificate: bytes = dataclasses.field(repr=False)
    epochs: bytes = dataclasses.field(repr=False)
    closed: bool


@dataclasses.dataclass(frozen=True)
class Membership:
    """That `member` holds name:value. Times in seconds since 1970; `epoch`: the attribute's when it was granted."""

    member: str
    name: str
    value: str
    granted_at: int
    until: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class Sealed:
    """An envelope to the speaker's HPKE key, and the context in which it opens (`KeyRing.open`)."""

    sealed: bytes = dataclasses.field(repr=False)
    context: bytes


@dataclasses.dataclass(frozen=True)
class SealedKeys(Sealed):
    """Attribute keys, one envelope: give what it opens to `unpack_keys`. `holdings`: signed by the authority, one per
    attribute held today, for the vault of another host."""

    holdings: tuple[bytes, ...] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Released(Sealed):
    """A vault half. Of a break-glass compartment also: until when the window is open, and whether this call opened it
    (then the owner is to be told at once)."""

    window_until: int | None = None
    opened_now: bool = False


@dataclasses.dataclass(frozen=True)
class Opening:
    """One break-glass window, as the keyholder recorded it."""

    compartment: str
    member: str
    reason_sha256: bytes
    opened_at: int
    until: int


# -- what a compartment lets in -------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Held:
    """An attribute without epoch: name:value at an authority."""

    authority: str
    name: str
    value: str = ""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Who gets a compartment's half: its owner always; a person in `people`; whoever holds today all attributes of one
    of `holders`. `window_minutes` above 0: break-glass, each opening needs a reason and is recorded."""

    people: frozenset[str] = frozenset()
    holders: tuple[tuple[Held, ...], ...] = ()
    window_minutes: int = 0

    def to_arguments(self) -> dict[str, Any]:
        holders = [[[a.authority, a.name, a.value] for a in every] for every in self.holders]
        return {"people": sorted(self.people), "holders": holders, "window_minutes": self.window_minutes}


@dataclasses.dataclass(frozen=True)
class Block:
    """What to withhold: one person (`gid`), everybody who is let in through an attribute (`held`) or through an
    authority (`authority`), or with none of these everybody but the owner. Exactly one, or none."""

    gid: str | None = None
    held: Held | None = None
    authority: str | None = None

    def to_arguments(self) -> list[str]:
        """Raises ValueError for more than one."""
        if sum(part is not None for part in (self.gid, self.held, self.authority)) > 1:
            raise ValueError("a block is of one kind")
        if self.gid is not None:
            return ["gid", self.gid]
        if self.held is not None:
            return ["attribute", self.held.authority, self.held.name, self.held.value]
        if self.authority is not None:
            return ["authority", self.authority]
        return ["all"]


class Keyholder:
    """`Keyholder("unix:/path/to/socket")`. Every call raises KeyholderUnavailable when nothing answers in 15 s,
    KeyholderFull when its disk is full, KeyholderProtocolError for arguments it does not take; those with a speaker
    also CertificateRefused, ProofRefused and IdentityRevoked. What you may not see is NotFound."""

    def __init__(self, address: str, *, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigurationError for another form of address. Connects only when called."""
        if not address.startswith("unix:"):
            raise errors.ConfigurationError("the keyholder's address is unix:<path of its socket>")
        self._path = address.removeprefix("unix:")
        self._clock = clock
        self._lock = threading.Lock()
        self._gid: str | None = None
        self._chain: tuple[float, Chain] | None = None
        self._hosts: dict[str, str] = {}

    # -- the keyholder itself
    def hello(self) -> Hello:
        found = self._send(proofs.new_request("", "hello", {}, now=self._now()))
        return Hello(_text(found, "gid"), bool(found.get("ca")), _number(found, "time"))

    def gid(self) -> str:
        """The GID of the keyholder behind the socket, asked once."""
        if self._gid is None:
            self._gid = self.hello().gid
        return self._gid

    def prove(
        self, signing_key: ec.EllipticCurvePrivateKey, certificate: bytes, call: str, arguments: Mapping[str, Any],
        *, keyholder: str | None = None,
    ) -> proofs.Request:  # fmt: skip
        """A call with its proof, good once and for 60 s, for `send`. `keyholder`: GID it is meant for, else ours."""
        return proofs.new_request(keyholder or self.gid(), call, dict(arguments), now=self._now(), key=signing_key,
                                  certificate=certificate)  # fmt: skip

    def send(self, request: proofs.Request) -> dict[str, Any]:
        """The reply to a call made with `prove`. The methods below are the usual way."""
        return self._send(request)

    # -- the CA
    def ca_issue(self, request: bytes) -> bytes:
        """The certificate (DER, 24 h) for a request of `certificates.new_request`. The first one for a GID fixes its
        signing key for good: later ones with another key raise CertificateRefused. A revoked GID: IdentityRevoked."""
        return _bytes(self._ask("ca.issue", {"request": request}), "certificate")

    def ca_revoke(self, serial_hex: str) -> None:
        """Revoke one certificate by its serial number (`Certificate.serial_hex`); the CRL is new at once. The GID stays
        active. NotFound for a serial that was never given. Twice is no harm."""
        self._ask("ca.revoke", {"serial": serial_hex})
        self._forget_chain()

    def ca_crl(self) -> tuple[bytes, ...]:
        """The newest CRLs (DER), of the intermediates and the root."""
        return _many(self._ask("ca.crl", {}), "crls")

    def ca_chain(self) -> tuple[bytes, tuple[bytes, ...]]:
        """(root, intermediates), DER."""
        found = self._ask("ca.chain", {})
        return _bytes(found, "root"), _many(found, "intermediates")

    def chain(self) -> Chain:
        """What `certificates.validate` wants: chain and CRLs, asked again after 60 s or a revocation made here.

        Raises CertificateRefused when the root is another one than before, or a CRL older than the last one seen."""
        with self._lock:
            kept = self._chain
        if kept is not None and 0 <= self._clock() - kept[0] < CHAIN_SECONDS_MAX:
            return kept[1]
        root, intermediates = self.ca_chain()
        found = Chain(root, intermediates, self.ca_crl())
        with self._lock:
            last = self._last_chain
            if last is not None and not found.at_least(last):
                raise errors.CertificateRefused("the CA's chain or CRL goes back")
            self._chain, self._last_chain = (self._clock(), found), found
        return found

    _last_chain: Chain | None = None

    # -- identities
    def identity_revoke(self, speaker: Speaker, gid: str) -> tuple[Held, ...]:
        """No certificate, key or half for `gid` any more, ever, and what it owns is withheld. By an operator, or by
        that person. Returns the attributes it held here, whose epochs were raised. Twice is no harm."""
        found = self._as(speaker, "identity.revoke", {"gid": gid})
        self._forget_chain()
        return tuple(Held(*one) for one in _list(found, "raised"))

    def identities_revoked(self, gids: Sequence[str]) -> frozenset[str]:
        """Which of these (at most 1,000) the keyholder knows as revoked."""
        return frozenset(_list(self._ask("identity.revoked", {"gids": list(gids)}), "revoked"))

    def operator_appoint(self, gid: str) -> None:
        """Make `gid` an operator, also before its first certificate. Taken only from root or the keyholder's own unix
        user; others, and a GID that was revoked: NotFound."""
        self._ask("operator.appoint", {"gid": gid})

    def operator_dismiss(self, gid: str) -> None:
        self._ask("operator.dismiss", {"gid": gid})

    # -- other keyholders (from root or the keyholder's own unix user alone)
    def host_register(self, request: bytes, address: str) -> dict[str, Any]:
        """Makes another keyholder known, which listens at host:port. Returns what it needs to join, ready for JSON."""
        return self._ask("host.register", {"request": request, "address": address})

    def host_forget(self, gid: str) -> None:
        """Revokes another keyholder, and with it all authorities it holds."""
        self._ask("host.forget", {"gid": gid})
        self._forget_chain()

    def crl_update(self, host: str) -> bool:
        """Hands today's CRLs to the keyholder `host`, which else asks once a minute. Returns whether they were news."""
        return bool(self._ask("crl.update", {"crls": list(self.ca_crl())}, host).get("taken"))

    # -- authorities
    def authority_create(
        self, speaker: Speaker, authority: str, officers: Sequence[str], *, host: str | None = None
    ) -> AuthorityPapers:
        """A new authority under a fresh GID (`certificates.new_gid`), by an operator. `host`: GID of another keyholder
        that is to hold it. Again with the same officers: the same papers; with others KeyholderConflict."""
        arguments = {"authority": authority, "officers": sorted(officers)}
        return _papers(authority, self._as(speaker, "authority.create", arguments, keyholder=host))

    def authority_officers(self, speaker: Speaker, authority: str, officers: Sequence[str]) -> None:
        """From now on these officers and no others, by an operator."""
        arguments = {"authority": authority, "officers": sorted(officers)}
        self._as(speaker, "authority.officers", arguments, keyholder=self._host(authority))

    def authority_close(self, speaker: Speaker, authority: str) -> None:
        """No key of this authority any more, its certificate revoked, its master key destroyed; by an operator."""
        self._as(speaker, "authority.close", {"authority": authority}, keyholder=self._host(authority))
        self._forget_chain()

    def authority_statement(self, authority: str) -> AuthorityPapers:
        """For anyone. NotFound for a GID that is no authority."""
        return _papers(authority, self._ask("authority.statement", {"authority": authority}, self._host(authority)))

    # -- attributes
    def attribute_grant(
        self, speaker: Speaker, authority: str, member: str, name: str, value: str, until: int
    ) -> int:  # fmt: skip
        """`member` holds name:value until `until` (seconds since 1970, at most 400 days ahead), by an officer. Again:
        the new end date counts. Returns the attribute's epoch. CertificateRefused for a GID the CA never saw."""
        arguments = {"authority": authority, "member": member, "name": name, "value": value, "until": until}
        return _number(self._as(speaker, "attribute.grant", arguments, keyholder=self._host(authority)), "epoch")

    def attribute_take(self, speaker: Speaker, authority: str, member: str, name: str, value: str) -> int:
        """`member` no longer holds name:value, by an officer. Returns the attribute's epoch, raised by one if there was
        something to take. Twice is no harm."""
        arguments = {"authority": authority, "member": member, "name": name, "value": value}
        return _number(self._as(speaker, "attribute.take", arguments, keyholder=self._host(authority)), "epoch")

    def attribute_members(self, speaker: Speaker, authority: str) -> list[Membership]:
        """Everybody who holds something today, by an officer."""
        found = self._as(speaker, "attribute.members", {"authority": authority}, keyholder=self._host(authority))
        return [Membership(**entry) for entry in _list(found, "members")]

    def attribute_keys(
        self, speaker: Speaker, authority: str, wanted: Sequence[tuple[str, str, int]] | None = None
    ) -> SealedKeys:
        """The speaker's own keys of this authority, sealed to the HPKE key of `speaker.key_statement`: for all that
        they hold, at today's epochs, or just for `wanted` (name, value, epoch), as a header's policy names them. An
        epoch before the grant, in the future, or of something not held today is left out without a word. Nothing
        held: an envelope with no keys."""
        arguments: dict[str, Any] = {"authority": authority, "key_statement": speaker.key_statement}
        if wanted is not None:
            arguments["wanted"] = [list(one) for one in wanted]
        found = self._as(speaker, "attribute.keys", arguments, keyholder=self._host(authority))
        return SealedKeys(_bytes(found, "sealed"), keys_context(authority, speaker.gid), _many(found, "holdings"))

    # -- the vault
    def vault_create(self, speaker: Speaker, compartment: str, epoch: int, rule: Rule) -> Sealed:
        """32 random bytes for one epoch of a compartment (a UUID), sealed to the speaker, its owner from now on. The
        rule is the compartment's, for all its epochs; KeyholderConflict if another is set. Again: the same bytes."""
        arguments = {"compartment": compartment, "epoch": epoch, "rule": rule.to_arguments(),
                     "key_statement": speaker.key_statement}  # fmt: skip
        found = self._as(speaker, "vault.create", arguments)
        return Sealed(_bytes(found, "sealed"), half_context(compartment, epoch, speaker.gid))

    def vault_rule(self, speaker: Speaker, compartment: str, rule: Rule) -> None:
        """Another rule, at once, by the owner."""
        self._as(speaker, "vault.rule", {"compartment": compartment, "rule": rule.to_arguments()})

    def vault_release(
        self, speaker: Speaker, compartment: str, epoch: int, *, reason_sha256: bytes | None = None,
        holdings: Sequence[bytes] = (),
    ) -> Released:  # fmt: skip
        """The half, sealed to the speaker. AccessWithheld when blocked or not let in; ReasonRequired for break-glass
        without an open window; NotFound for a compartment or epoch that is not there or was destroyed. `holdings`: from
        `attribute_keys`, for attributes of an authority on another host."""
        arguments: dict[str, Any] = {"compartment": compartment, "epoch": epoch,
                                     "key_statement": speaker.key_statement}  # fmt: skip
        if reason_sha256 is not None:
            arguments["reason_sha256"] = reason_sha256
        if holdings:
            arguments["holdings"] = list(holdings)
        found = self._as(speaker, "vault.release", arguments)
        until = found.get("window_until")
        return Released(_bytes(found, "sealed"), half_context(compartment, epoch, speaker.gid),
                        until if type(until) is int else None, bool(found.get("opened_now")))  # fmt: skip

    def vault_block(self, speaker: Speaker, block: Block, compartment: str | None = None) -> int:
        """Withhold at once, in one compartment or in all the speaker owns, also those made later. Returns how many
        compartments the speaker owns that it touches. Twice is no harm."""
        arguments = {"block": block.to_arguments(), "compartment": compartment}
        return _number(self._as(speaker, "vault.block", arguments), "compartments")

    def vault_unblock(self, speaker: Speaker, block: Block, compartment: str | None = None) -> int:
        """Take exactly this block away again."""
        arguments = {"block": block.to_arguments(), "compartment": compartment}
        return _number(self._as(speaker, "vault.unblock", arguments), "compartments")

    def vault_destroy(self, speaker: Speaker, compartment: str, epoch: int | None = None) -> int:
        """Destroy the half of one epoch, or of all and the compartment with them, for good. Returns how many halves.
        Twice is no harm."""
        arguments = {"compartment": compartment, "epoch": epoch}
        return _number(self._as(speaker, "vault.destroy", arguments), "halves")

    def vault_destroy_old(self, compartment: str, before: int, order: bytes) -> int:
        """Destroy the halves of the epochs below `before`, with the owner's signed order for exactly that
        (`statements.DestroyOrder`) instead of the owner. Returns how many. Twice is no harm. NotFound, IdentityRevoked,
        CertificateRefused for an order of somebody or something else; KeyholderConflict where no newer half is left."""
        arguments = {"compartment": compartment, "before": before, "order": order}
        return _number(self._ask("vault.destroy_old", arguments), "halves")

    def vault_openings(self, speaker: Speaker, compartment: str | None = None) -> list[Opening]:
        """Break-glass windows of what the speaker owns, newest first, at most 1,000."""
        found = self._as(speaker, "vault.openings", {"compartment": compartment})
        return [
            Opening(e["compartment"], e["member"], proofs.from_base64(e["reason_sha256"]), e["opened_at"], e["until"])
            for e in _list(found, "openings")
        ]

    # -- the way there and back
    def _now(self) -> int:
        return int(self._clock())

    def _forget_chain(self) -> None:
        with self._lock:
            self._chain = None

    def _host(self, authority: str) -> str:
        """GID of the keyholder that holds this authority. It never moves, so it is asked once."""
        if authority not in self._hosts:
            self._hosts[authority] = _text(self._ask("authority.host", {"authority": authority}), "host")
        return self._hosts[authority]

    def _ask(self, call: str, arguments: dict[str, Any], keyholder: str | None = None) -> dict[str, Any]:
        return self._send(proofs.new_request(keyholder or self.gid(), call, arguments, now=self._now()))

    def _as(
        self, speaker: Speaker, call: str, arguments: dict[str, Any], *, keyholder: str | None = None
    ) -> dict[str, Any]:
        return self._send(self.prove(speaker.signing_key, speaker.certificate, call, arguments, keyholder=keyholder))

    def _send(self, request: proofs.Request) -> dict[str, Any]:
        data = proofs.frame(request.to_bytes())
        deadline = time.monotonic() + TIMEOUT_SECONDS
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                stream.settimeout(TIMEOUT_SECONDS)
                stream.connect(self._path)
                stream.sendall(data)

                def read(size: int) -> bytes:
                    stream.settimeout(max(0.001, deadline - time.monotonic()))
                    return stream.recv(size)

                reply = proofs.read_frame(read, proofs.REPLY_BYTES_MAX)
        except OSError as error:
            raise KeyholderUnavailable(type(error).__name__) from error
        return read_reply(reply)


_CODES: dict[str, type[PortalError]] = {
    kind.code: kind
    for kind in (
        errors.NotFound, errors.KeyholderUnavailable, errors.KeyholderFull, errors.KeyholderProtocolError,
        errors.KeyholderConflict, errors.CertificateRefused, errors.ProofRefused, errors.IdentityRevoked,
        errors.AccessWithheld, errors.ReasonRequired, errors.CurveUnavailable,
    )
}  # fmt: skip


def read_reply(reply: bytes) -> dict[str, Any]:
    """What a reply says was done. Raises the error it tells instead, KeyholderProtocolError for one it cannot tell."""
    content = proofs.load(reply)
    if set(content) == {"done"} and isinstance(content["done"], dict):
        return content["done"]
    kind = _CODES.get(str(content.get("error")))
    if kind is None:
        raise KeyholderProtocolError(f"answered {str(content.get('error'))[:40]!r}")
    raise kind(str(content.get("detail", ""))[:200])


def check_papers(
    papers: AuthorityPapers, chain: Chain, now: dt.datetime, *, last: statements.EpochTable | None = None
) -> tuple[AuthorityPublic, statements.EpochTable]:
    """The authority's public value and epochs, once everything fits together: its certificate is valid at `now`, the CA
    signed the statement, the proof of possession holds, the authority signed the epochs and takes none back that
    `last`, the newest table seen before, had. Raises CertificateRefused, AuthorityRefused, AbeMalformed."""
    certificate = certificates.validate(papers.certificate, chain, now)
    if papers.closed or certificate.gid != papers.authority:
        raise errors.CertificateRefused("certificate of another authority, or closed")
    statement = None
    for key in chain.issuer_keys():
        with contextlib.suppress(errors.CertificateRefused):
            statement = statements.read_authority_statement(papers.statement, key, papers.authority)
    if statement is None or statement.signing_public != certificates.public_key_bytes(certificate.public_key):
        raise errors.CertificateRefused("the authority's statement is not the CA's")
    table = statements.read_epoch_table(papers.epochs, certificate.public_key, papers.authority, last=last)
    return _checked_public(statement.public, papers.authority), table


@functools.lru_cache(maxsize=256)  # public values only; the proof takes 1.5 ms
def _checked_public(public: bytes, authority: str) -> AuthorityPublic:
    value = AuthorityPublic.from_bytes(public)
    check_public(value, authority)
    return value


def keys_context(authority: str, gid: str) -> bytes:
    """The context of an envelope of attribute keys."""
    return context_for("attribute-keys", authority, gid)


def half_context(compartment: str, epoch: int, gid: str) -> bytes:
    """The context of an envelope of a vault half."""
    return context_for("vault-half", compartment, str(epoch), gid)


def unpack_keys(opened: bytes) -> list[bytes]:
    """The attribute keys (abe.md kind 3) in what a `SealedKeys` opens to. Raises KeyholderProtocolError."""
    keys: list[bytes] = []
    at = 2
    if len(opened) < 2 or struct.unpack_from(">H", opened)[0] > _KEYS_MAX:
        raise KeyholderProtocolError("not a list of keys")
    for _ in range(struct.unpack_from(">H", opened)[0]):
        if at + 2 > len(opened):
            raise KeyholderProtocolError("list of keys cut short")
        size = struct.unpack_from(">H", opened, at)[0]
        keys.append(opened[at + 2 : at + 2 + size])
        at += 2 + size
    if at != len(opened):
        raise KeyholderProtocolError("not a list of keys")
    return keys


def _papers(authority: str, found: dict[str, Any]) -> AuthorityPapers:
    return AuthorityPapers(authority, _bytes(found, "statement"), _bytes(found, "certificate"),
                           _bytes(found, "epochs"), bool(found.get("closed")))  # fmt: skip


def _bytes(found: dict[str, Any], member: str) -> bytes:
    return proofs.from_base64(found.get(member))


def _many(found: dict[str, Any], member: str) -> tuple[bytes, ...]:
    return tuple(proofs.from_base64(one) for one in _list(found, member))


def _list(found: dict[str, Any], member: str) -> list[Any]:
    value = found.get(member)
    if not isinstance(value, list):
        raise KeyholderProtocolError(f"no {member}")
    return value


def _number(found: dict[str, Any], member: str) -> int:
    value = found.get(member)
    if type(value) is not int:
        raise KeyholderProtocolError(f"no {member}")
    return value


def _text(found: dict[str, Any], member: str) -> str:
    value = found.get(member)
    if not isinstance(value, str):
        raise KeyholderProtocolError(f"no {member}")
    return value
