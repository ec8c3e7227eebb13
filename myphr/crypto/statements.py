"""What GIDs and authorities declare about themselves, signed: key statements, authority statements, epoch tables,
holdings, orders to destroy. Pure bytes and values; no clock.

Spec: docs/formats/keyholder.md, byte for byte. Called by the keyholder, its client, `people` and `sharing`. Reading
checks form and signature; whose key signs is the caller's to validate (`certificates.validate`).
"""

import dataclasses
import struct
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates
from myphr.crypto.abe.policy import Attribute, uuid_bytes, uuid_text
from myphr.errors import CertificateRefused, PolicyError

STATEMENT_BYTES_MAX = 16_384
EPOCH_ENTRIES_MAX = 4096
EPOCH_TABLE_BYTES_MAX = 1024**2
_TAGS = {
    b"MYPHRKST": b"myphr/key-statement/1",
    b"MYPHRAST": b"myphr/authority-statement/1",
    b"MYPHREPO": b"myphr/epoch-table/1",
    b"MYPHRHLD": b"myphr/holding/1",
    b"MYPHRDES": b"myphr/destroy-order/1",
}


class _Reader:
    """Takes a signed statement apart. Every irregularity is a CertificateRefused."""

    def __init__(self, data: bytes, magic: bytes, key: ec.EllipticCurvePublicKey, limit: int) -> None:
        if len(data) > limit or len(data) < 25 + certificates.SIGNATURE_BYTES or data[:8] != magic or data[8] != 1:
            raise CertificateRefused("statement of another kind, version or size")
        self._data = bytes(data[: -certificates.SIGNATURE_BYTES])
        certificates.verify(key, _TAGS[magic], self._data, bytes(data[-certificates.SIGNATURE_BYTES :]))
        self._at = 9

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise CertificateRefused("statement cut short")
        self._at += size
        return part

    def number(self, form: str) -> int:
        return struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))[0]

    def gid(self) -> str:
        return certificates.check_gid(uuid_text(self.take(16)))

    def sized(self, form: str = "H") -> bytes:
        return self.take(self.number(form))

    def text(self) -> str:
        try:
            return self.sized("B").decode("ascii")
        except UnicodeDecodeError:
            raise CertificateRefused("not a name") from None

    def end(self) -> None:
        if self._at != len(self._data):
            raise CertificateRefused("statement with something behind it")


def _signed(magic: bytes, key: ec.EllipticCurvePrivateKey, *parts: bytes) -> bytes:
    body = b"".join((magic, b"\x01", *parts))
    return body + certificates.sign(key, _TAGS[magic], body)


def _sized(data: bytes, form: str = "H") -> bytes:
    return struct.pack(f">{form}", len(data)) + data


@dataclasses.dataclass(frozen=True)
class KeyStatement:
    """A person's public keys, signed with the key of their certificate: the HPKE key (crypto.envelope), and the public
    values of their own authority (RW15) and key policy (FABEO-KP), either of which may be empty."""

    gid: str
    made_at: int  # seconds since 1970
    hpke: bytes
    authority: bytes = b""
    key_policy: bytes = b""

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return _signed(b"MYPHRKST", key, uuid_bytes(certificates.check_gid(self.gid)), struct.pack(">Q", self.made_at),
                       _sized(self.hpke), _sized(self.authority), _sized(self.key_policy))


def read_key_statement(data: bytes, key: ec.EllipticCurvePublicKey, gid: str) -> KeyStatement:
    """The statement of `gid`, signed by `key`. Raises CertificateRefused. The public values are not looked at."""
    reader = _Reader(data, b"MYPHRKST", key, STATEMENT_BYTES_MAX)
    found = KeyStatement(reader.gid(), reader.number("Q"), reader.sized(), reader.sized(), reader.sized())
    reader.end()
    if found.gid != gid:
        raise CertificateRefused("key statement of another GID")
    return found


@dataclasses.dataclass(frozen=True)
class AuthorityStatement:
    """That the CA knows this authority: its GID, its public value with proof of possession (RW15, abe.md kind 2), and
    the public key (65 bytes) that signs its epoch tables and holdings. Signed by an intermediate of the CA."""

    gid: str
    made_at: int
    public: bytes
    signing_public: bytes

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return _signed(b"MYPHRAST", key, uuid_bytes(certificates.check_gid(self.gid)), struct.pack(">Q", self.made_at),
                       _sized(self.public), _sized(self.signing_public))


def read_authority_statement(data: bytes, key: ec.EllipticCurvePublicKey, gid: str) -> AuthorityStatement:
    """The statement about `gid`, signed by `key` (of the CA). Raises CertificateRefused. The caller checks the proof of
    possession with `abe.multi_authority.check_public`."""
    reader = _Reader(data, b"MYPHRAST", key, STATEMENT_BYTES_MAX)
    found = AuthorityStatement(reader.gid(), reader.number("Q"), reader.sized(), reader.sized())
    reader.end()
    if found.gid != gid:
        raise CertificateRefused("authority statement of another GID")
    return found


@dataclasses.dataclass(frozen=True)
class EpochTable:
    """Today's epoch of each attribute (name, value) of an authority; one that is not listed has epoch 0.

    `version` grows with every change; a reader that has seen a higher one, or a higher epoch, refuses (rollback)."""

    gid: str
    version: int
    made_at: int
    epochs: Mapping[tuple[str, str], int]

    def epoch(self, name: str, value: str) -> int:
        return self.epochs.get((name, value), 0)

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        entries = b"".join(
            _sized(name.encode(), "B") + _sized(value.encode(), "B") + struct.pack(">I", epoch)
            for (name, value), epoch in sorted(self.epochs.items())
        )
        return _signed(b"MYPHREPO", key, uuid_bytes(self.gid), struct.pack(">QQI", self.version, self.made_at,
                       len(self.epochs)), entries)  # fmt: skip


def read_epoch_table(
    data: bytes, key: ec.EllipticCurvePublicKey, gid: str, *, last: EpochTable | None = None
) -> EpochTable:
    """The table of `gid`, signed by `key` (of the authority). Raises CertificateRefused, also where it is older than
    `last`, the newest one the caller has seen, or takes an epoch back."""
    reader = _Reader(data, b"MYPHREPO", key, EPOCH_TABLE_BYTES_MAX)
    owner, version, made_at, count = reader.gid(), reader.number("Q"), reader.number("Q"), reader.number("I")
    if count > EPOCH_ENTRIES_MAX:
        raise CertificateRefused("epoch table too long")
    epochs: dict[tuple[str, str], int] = {}
    before: tuple[str, str] | None = None
    for _ in range(count):
        name, value, epoch = reader.text(), reader.text(), reader.number("I")
        try:
            Attribute(owner, name, value, epoch)
        except PolicyError:
            raise CertificateRefused("epoch of no attribute") from None
        if before is not None and (name, value) <= before:
            raise CertificateRefused("epoch table out of order")
        before = (name, value)
        epochs[before] = epoch
    reader.end()
    if owner != gid:
        raise CertificateRefused("epoch table of another GID")
    if last is not None and last.gid == gid:
        backwards = version < last.version or any(epochs.get(at, 0) < epoch for at, epoch in last.epochs.items())
        if backwards or (version == last.version and epochs != dict(last.epochs)):
            raise CertificateRefused("epoch table goes back")
    return EpochTable(owner, version, made_at, epochs)


@dataclasses.dataclass(frozen=True)
class Holding:
    """That `member` held name:value at `authority` at `made_at`: for a vault on another host. Good for 10 minutes."""

    authority: str
    member: str
    name: str
    value: str
    made_at: int

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return _signed(b"MYPHRHLD", key, uuid_bytes(self.authority), uuid_bytes(self.member),
                       struct.pack(">Q", self.made_at), _sized(self.name.encode(), "B"),
                       _sized(self.value.encode(), "B"))  # fmt: skip


def read_holding(data: bytes, key: ec.EllipticCurvePublicKey) -> Holding:
    """A holding signed by `key` (of its authority). Raises CertificateRefused."""
    reader = _Reader(data, b"MYPHRHLD", key, STATEMENT_BYTES_MAX)
    authority, member, made_at = reader.gid(), reader.gid(), reader.number("Q")
    found = Holding(authority, member, reader.text(), reader.text(), made_at)
    reader.end()
    return found


@dataclasses.dataclass(frozen=True)
class DestroyOrder:
    """The owner's word that the vault may destroy the halves of this compartment's epochs below `before`. It has no
    end and can be shown twice: it names what is old already, and nothing else."""

    owner: str
    compartment: str
    before: int

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return _signed(b"MYPHRDES", key, uuid_bytes(certificates.check_gid(self.owner)), uuid_bytes(self.compartment),
                       struct.pack(">I", self.before))  # fmt: skip


def owner_of_order(data: bytes) -> str:
    """Who is said to have signed: to find the key that `read_destroy_order` checks it with."""
    return uuid_text(data[9:25])


def read_destroy_order(data: bytes, key: ec.EllipticCurvePublicKey) -> DestroyOrder:
    """An order signed by `key` (of its owner). Raises CertificateRefused."""
    reader = _Reader(data, b"MYPHRDES", key, STATEMENT_BYTES_MAX)
    found = DestroyOrder(reader.gid(), uuid_text(reader.take(16)), reader.number("I"))
    reader.end()
    return found
