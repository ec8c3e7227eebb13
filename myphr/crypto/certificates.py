"""X.509 as the project uses it: a GID and a signing key, nothing else. Pure: no clock, no file, no socket.

Spec: docs/formats/keyholder.md, "Certificates" (RFC 5280; requests: RFC 2986). ECDSA P-256 throughout, because the
verifier of `cryptography` takes no Ed25519. Called by the CA, by the keyholder, its client and `people`.
"""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import itertools
import re
import uuid
from collections.abc import Iterator, Sequence
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from myphr.errors import CertificateRefused

CERTIFICATE_BYTES_MAX = 4096
CRL_BYTES_MAX = 4 * 1024**2
SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 65
BACKDATED = dt.timedelta(seconds=60)  # of clocks that differ: valid from a minute before it was made
_ORDER_BYTES = 32
_GID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
_URN = "urn:uuid:"


class Kind(StrEnum):
    """What a GID belongs to. A host also gets the right to be a TLS server."""

    PERSON = "person"
    AUTHORITY = "authority"
    HOST = "host"


LIFETIMES = {
    Kind.PERSON: dt.timedelta(hours=24),
    Kind.AUTHORITY: dt.timedelta(days=90),
    Kind.HOST: dt.timedelta(days=90),
}


def new_gid() -> str:
    """A fresh GID: a random UUID v4 (RFC 9562, 5.4) in canonical text."""
    return str(uuid.uuid4())


def check_gid(text: object) -> str:
    """`text` if it is a UUID v4 in canonical lower-case text. Raises CertificateRefused."""
    if not isinstance(text, str) or not _GID.fullmatch(text):
        raise CertificateRefused("not a GID")
    return text


# -- signing keys -----------------------------------------------------------------------------------
def new_signing_key() -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def signing_key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private number, 32 bytes, big-endian: how key rings keep it."""
    return key.private_numbers().private_value.to_bytes(_ORDER_BYTES, "big")


def signing_key_from_bytes(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises CertificateRefused for what is no P-256 private key."""
    try:
        if len(data) != _ORDER_BYTES:
            raise ValueError
        return ec.derive_private_key(int.from_bytes(data, "big"), ec.SECP256R1())
    except ValueError:
        raise CertificateRefused("not a signing key") from None


def public_key_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """The uncompressed point, 65 bytes (SEC 1, 2.3.3)."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def public_key_from_bytes(data: bytes) -> ec.EllipticCurvePublicKey:
    """Raises CertificateRefused for what is no uncompressed point of P-256."""
    try:
        if len(data) != PUBLIC_KEY_BYTES or data[0] != 4:
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes(data))
    except ValueError:
        raise CertificateRefused("not a public signing key") from None


def sign(key: ec.EllipticCurvePrivateKey, tag: bytes, body: bytes) -> bytes:
    """ECDSA with SHA-256 over tag || 00 || body: r || s, 64 bytes. `tag` names what is signed (`myphr/.../1`)."""
    r, s = decode_dss_signature(key.sign(tag + b"\0" + body, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(_ORDER_BYTES, "big") + s.to_bytes(_ORDER_BYTES, "big")


def verify(key: ec.EllipticCurvePublicKey, tag: bytes, body: bytes, signature: bytes) -> None:
    """Raises CertificateRefused unless `sign` made this signature with the private half."""
    if len(signature) != SIGNATURE_BYTES:
        raise CertificateRefused("signature of another size")
    r, s = (int.from_bytes(part, "big") for part in (signature[:_ORDER_BYTES], signature[_ORDER_BYTES:]))
    try:
        key.verify(encode_dss_signature(r, s), tag + b"\0" + body, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise CertificateRefused("signature does not hold") from None


# -- reading ----------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Certificate:
    """What a certificate of ours says."""

    der: bytes = dataclasses.field(repr=False)
    gid: str
    public_key: ec.EllipticCurvePublicKey = dataclasses.field(repr=False)
    serial: int
    not_before: dt.datetime
    not_after: dt.datetime

    @property
    def serial_hex(self) -> str:
        return f"{self.serial:x}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hex: what a page shows beside it."""
        return hashlib.sha256(self.der).hexdigest()


def read_certificate(der: bytes) -> Certificate:
    """The facts of a user's, authority's or host's certificate, unverified. Raises CertificateRefused for anything that
    is not of our form: another key type, a subject, no critical URI SAN, more than one name."""
    certificate = _load(der)
    with _reading("not a readable certificate"):
        _whole_signature(der, certificate.signature)
        return Certificate(bytes(der), _gid_of(certificate), _p256(certificate.public_key()), certificate.serial_number,
                           certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _load(der: bytes) -> x509.Certificate:
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise CertificateRefused("certificate too large")
    with _reading("not a certificate"):
        return x509.load_der_x509_certificate(bytes(der))


def _whole_signature(der: bytes, signature: bytes) -> None:
    """The one byte that neither is signed nor breaks the signature: the count of unused bits of its bit string, which
    the parser lets be 1 where the last bit is 0. Two encodings of one certificate would have two fingerprints."""
    if not der.endswith(b"\0" + signature):
        raise CertificateRefused("signature with unused bits")


# What the parser raises for versions, names and algorithms it does not know: its own errors have no common parent.
UNREADABLE = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, InvalidSignature, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.ExtensionNotFound, x509.UnsupportedGeneralNameType,
)  # fmt: skip


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """The parser reads parts late: what cannot be read is refused wherever that shows."""
    try:
        yield
    except CertificateRefused:
        raise
    except UNREADABLE:
        raise CertificateRefused(what) from None


def _gid_of(thing: x509.Certificate | x509.CertificateSigningRequest) -> str:
    try:
        if len(list(thing.subject)) != 0:
            raise CertificateRefused("a subject where none may be")
        names = thing.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        found = list(names.value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise CertificateRefused("no readable name") from None
    if not names.critical or len(found) != 1 or not isinstance(found[0], x509.UniformResourceIdentifier):
        raise CertificateRefused("the name is not one critical URI")
    if not found[0].value.startswith(_URN):
        raise CertificateRefused("the name is not a GID")
    return check_gid(found[0].value.removeprefix(_URN))


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateRefused("the key is not of P-256")
    return key


# -- requests ---------------------------------------------------------------------------------------
def new_request(key: ec.EllipticCurvePrivateKey, gid: str) -> bytes:
    """A request for a certificate (PKCS #10, DER); its signature proves possession of the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_URN + check_gid(gid))])
    request = builder.add_extension(name, critical=True).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def read_request(der: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
    """(GID, public key) of a request whose signature holds. Raises CertificateRefused."""
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise CertificateRefused("request too large")
    with _reading("not a request"):
        request = x509.load_der_x509_csr(bytes(der))
        gid, key = _gid_of(request), _p256(request.public_key())
        _whole_signature(der, request.signature)
        valid = request.is_signature_valid
    if not valid:
        raise CertificateRefused("the request's signature does not hold")
    return gid, key


# -- issuing ----------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Issuer:
    """A CA certificate (DER) with its private key."""

    certificate: bytes
    key: ec.EllipticCurvePrivateKey = dataclasses.field(repr=False)


def new_root(now: dt.datetime, lifetime: dt.timedelta) -> Issuer:
    """A root: signs intermediates and their CRL, nothing else."""
    key = new_signing_key()
    return Issuer(_authority_certificate("MyPHRMachines root", key.public_key(), None, key, now, lifetime), key)


def new_intermediate(root: Issuer, now: dt.datetime, lifetime: dt.timedelta) -> Issuer:
    """An intermediate below `root`: signs certificates of people, authorities and hosts; no CA below it."""
    key = new_signing_key()
    der = _authority_certificate("MyPHRMachines intermediate", key.public_key(), root, root.key, now, lifetime)
    return Issuer(der, key)


def _authority_certificate(
    name: str, public: ec.EllipticCurvePublicKey, root: Issuer | None, key: ec.EllipticCurvePrivateKey,
    now: dt.datetime, lifetime: dt.timedelta,
) -> bytes:  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = _load(root.certificate).subject if root else subject
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(issuer).public_key(public).serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED).not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if root else 1), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )  # fmt: skip
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _usage(**wanted: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


def issue(issuer: Issuer, gid: str, public: ec.EllipticCurvePublicKey, kind: Kind, now: dt.datetime) -> bytes:
    """A certificate (DER) that binds `gid` to `public` for LIFETIMES[kind], never beyond the issuer's own."""
    above = _load(issuer.certificate)
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_URN + check_gid(gid))])
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if kind is Kind.HOST:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([])).issuer_name(above.subject).public_key(_p256(public))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + LIFETIMES[kind], above.not_valid_after_utc))
        .add_extension(name, critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )  # fmt: skip
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def issue_crl(
    issuer: Issuer, revoked: Sequence[tuple[int, dt.datetime]], *, number: int, now: dt.datetime, lifetime: dt.timedelta
) -> bytes:
    """A CRL (DER): serials with the moment of their revocation. `number` only grows (RFC 5280, 5.2.3)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_load(issuer.certificate).subject).last_update(now).next_update(now + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )  # fmt: skip
    for serial, moment in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


# -- validating -------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Chain:
    """What is trusted: the root, its intermediates, and the newest CRL of each of them (all DER).

    `crls` are read once: keep the object between checks."""

    root: bytes = dataclasses.field(repr=False)
    intermediates: tuple[bytes, ...] = dataclasses.field(repr=False)
    crls: tuple[bytes, ...] = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        """Raises CertificateRefused for what cannot be read or was not signed by one of these."""
        signers = [_load(self.root), *map(_load, self.intermediates)]
        lists: dict[bytes, x509.CertificateRevocationList] = {}
        for der in self.crls:
            crl = _load_crl(der)
            spki = _spki(_signer_of(crl, signers))
            if spki not in lists or _number(crl) > _number(lists[spki]):
                lists[spki] = crl
        object.__setattr__(self, "_signers", signers)
        object.__setattr__(self, "_lists", lists)
        object.__setattr__(self, "_store", verification.Store(signers[:1]))

    def issuer_keys(self) -> list[ec.EllipticCurvePublicKey]:
        """The public keys of the intermediates."""
        return [_p256(signer.public_key()) for signer in self._signers[1:]]  # type: ignore[attr-defined]

    def at_least(self, other: "Chain") -> bool:
        """Whether this is the same root, and no CRL that both know is older here."""
        mine, theirs = self._lists, other._lists  # type: ignore[attr-defined]
        known = {_spki(signer) for signer in self._signers}  # type: ignore[attr-defined]
        newer = all(at in mine and _number(mine[at]) >= _number(crl) for at, crl in theirs.items() if at in known)
        return self.root == other.root and newer

    def crl_number(self) -> int:
        """The highest number among the intermediates' CRLs, -1 without any."""
        lists, signers = self._lists, self._signers  # type: ignore[attr-defined]
        return max((_number(lists[_spki(s)]) for s in signers[1:] if _spki(s) in lists), default=-1)


def _signer_of(crl: x509.CertificateRevocationList, signers: list[x509.Certificate]) -> x509.Certificate:
    with _reading("not a readable CRL"):
        for signer in signers:
            if signer.subject == crl.issuer and crl.is_signature_valid(_p256(signer.public_key())):
                return signer
    raise CertificateRefused("CRL of an unknown issuer")


def _load_crl(der: bytes) -> x509.CertificateRevocationList:
    if len(der) > CRL_BYTES_MAX:
        raise CertificateRefused("CRL too large")
    with _reading("not a CRL"):
        return x509.load_der_x509_crl(bytes(der))


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _number(crl: x509.CertificateRevocationList) -> int:
    with _reading("CRL without a number"):
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def crl_number(der: bytes) -> int:
    """The number of a CRL, unverified. Raises CertificateRefused."""
    return _number(_load_crl(der))


def crl_entries(der: bytes) -> list[tuple[int, dt.datetime]]:
    """(serial, moment) of everything on a CRL, unverified. Raises CertificateRefused."""
    crl = _load_crl(der)
    return [(entry.serial_number, entry.revocation_date_utc) for entry in crl]


def ca_public_key(der: bytes) -> bytes:
    """The 65 bytes of the key in a CA's certificate. Raises CertificateRefused."""
    return public_key_bytes(_p256(_load(der).public_key()))


def ca_serial(der: bytes) -> int:
    """The serial number of a CA's certificate. Raises CertificateRefused."""
    return _load(der).serial_number


def ca_not_after(der: bytes) -> dt.datetime:
    """When a CA's certificate ends. Raises CertificateRefused."""
    return _load(der).not_valid_after_utc


def validate(der: bytes, chain: Chain, now: dt.datetime) -> Certificate:
    """The facts of a certificate that is good at `now`: signatures up to the root, dates, purposes (RFC 5280, 6.1), and
    current CRLs of all issuers, on which neither it nor its intermediate stands. Raises CertificateRefused.

    Whether the GID itself is active is asked elsewhere."""
    facts, above = _validate_path(der, chain, now)
    lists: dict[bytes, x509.CertificateRevocationList] = chain._lists  # type: ignore[attr-defined]
    for subject, issuer in itertools.pairwise(above):
        crl = lists.get(_spki(issuer))
        if crl is None:
            raise CertificateRefused("no CRL of its issuer")
        end = crl.next_update_utc
        if crl.last_update_utc > now + BACKDATED or end is None or end < now:
            raise CertificateRefused("the CRL is out of date")
        _check_unlisted(subject, crl)
    return facts


def validate_then(der: bytes, chain: Chain, at: dt.datetime) -> Certificate:
    """The facts of a certificate under which something was signed at `at`, though it may have run out since: as
    `validate`, with dates as of then, and standing on none of the CRLs there are today. Raises CertificateRefused."""
    facts, above = _validate_path(der, chain, at)
    lists: dict[bytes, x509.CertificateRevocationList] = chain._lists  # type: ignore[attr-defined]
    for subject, issuer in itertools.pairwise(above):
        if (crl := lists.get(_spki(issuer))) is not None:
            _check_unlisted(subject, crl)
    return facts


def _validate_path(der: bytes, chain: Chain, at: dt.datetime) -> tuple[Certificate, list[x509.Certificate]]:
    facts = read_certificate(der)
    store = chain._store  # type: ignore[attr-defined]
    signers: list[x509.Certificate] = chain._signers  # type: ignore[attr-defined]
    builder = verification.PolicyBuilder().store(store).time(at.astimezone(dt.timezone.utc)).max_chain_depth(1)
    try:
        return facts, list(builder.build_client_verifier().verify(_load(der), signers[1:]).chain)
    except verification.VerificationError as error:
        raise CertificateRefused(f"chain: {error}") from None


def _check_unlisted(subject: x509.Certificate, crl: x509.CertificateRevocationList) -> None:
    if crl.get_revoked_certificate_by_serial_number(subject.serial_number) is not None:
        raise CertificateRefused("revoked")
