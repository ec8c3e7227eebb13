"""X.509 with a GID and nothing else: what is made is accepted, everything else is refused."""

import datetime as dt
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from myphr.crypto import certificates as c
from myphr.crypto.certificates import Chain, Kind
from myphr.errors import CertificateRefused

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)
HOUR = dt.timedelta(hours=1)


class Ca:
    def __init__(self) -> None:
        self.root = c.new_root(NOW, dt.timedelta(days=3650))
        self.intermediate = c.new_intermediate(self.root, NOW, dt.timedelta(days=365))
        self.key, self.gid = c.new_signing_key(), c.new_gid()
        self.der = self.issue()

    def issue(self, kind: Kind = Kind.PERSON) -> bytes:
        return c.issue(self.intermediate, self.gid, self.key.public_key(), kind, NOW)

    def chain(self, *, revoked=(), root_revoked=(), number: int = 1, now: dt.datetime = NOW) -> Chain:
        crls = (c.issue_crl(self.intermediate, revoked, number=number, now=now, lifetime=2 * HOUR),
                c.issue_crl(self.root, root_revoked, number=1, now=now, lifetime=2000 * HOUR))
        return Chain(self.root.certificate, (self.intermediate.certificate,), crls)


@pytest.fixture(scope="module")
def ca() -> Ca:
    return Ca()


def request_with(key, *, subject=(), names=None, critical: bool = True) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(list(subject)))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def urn(gid: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"urn:uuid:{gid}")


def test_a_new_certificate_says_gid_and_key_and_nothing_of_the_person(ca: Ca) -> None:
    facts = c.validate(ca.der, ca.chain(), NOW)
    assert facts.gid == ca.gid and facts.public_key == ca.key.public_key()
    parsed = x509.load_der_x509_certificate(ca.der)
    assert list(parsed.subject) == []
    assert parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


@pytest.mark.parametrize(("kind", "hours"), [(Kind.PERSON, 24), (Kind.AUTHORITY, 90 * 24), (Kind.HOST, 90 * 24)])
def test_each_kind_lives_as_long_as_it_should(ca: Ca, kind: Kind, hours: int) -> None:
    assert c.read_certificate(ca.issue(kind)).not_after == NOW + hours * HOUR


def test_a_certificate_never_outlives_its_issuer() -> None:
    root = c.new_root(NOW, dt.timedelta(days=3650))
    short = c.new_intermediate(root, NOW, HOUR)
    der = c.issue(short, c.new_gid(), c.new_signing_key().public_key(), Kind.PERSON, NOW)
    assert c.read_certificate(der).not_after == NOW + HOUR


@pytest.mark.parametrize("after", [dt.timedelta(hours=24, seconds=1), dt.timedelta(seconds=-61)])
def test_out_of_its_dates_it_is_refused(ca: Ca, after: dt.timedelta) -> None:
    with pytest.raises(CertificateRefused):
        c.validate(ca.der, ca.chain(now=NOW + after), NOW + after)


def test_a_revoked_certificate_is_refused(ca: Ca) -> None:
    serial = c.read_certificate(ca.der).serial
    with pytest.raises(CertificateRefused, match="revoked"):
        c.validate(ca.der, ca.chain(revoked=[(serial, NOW)]), NOW)


def test_everything_below_a_revoked_intermediate_is_refused(ca: Ca) -> None:
    serial = c.ca_serial(ca.intermediate.certificate)
    with pytest.raises(CertificateRefused, match="revoked"):
        c.validate(ca.der, ca.chain(root_revoked=[(serial, NOW)]), NOW)


def test_a_list_out_of_date_or_from_the_future_lets_nobody_in(ca: Ca) -> None:
    for made in (NOW - 3 * HOUR, NOW + HOUR):
        with pytest.raises(CertificateRefused, match="out of date"):
            c.validate(ca.der, ca.chain(now=made), NOW)


def test_without_a_list_nobody_gets_in(ca: Ca) -> None:
    with pytest.raises(CertificateRefused, match="no CRL"):
        c.validate(ca.der, Chain(ca.root.certificate, (ca.intermediate.certificate,), ()), NOW)


def test_a_list_of_somebody_else_is_refused(ca: Ca) -> None:
    other = Ca()
    crl = c.issue_crl(other.intermediate, [], number=9, now=NOW, lifetime=HOUR)
    with pytest.raises(CertificateRefused, match="unknown issuer"):
        Chain(ca.root.certificate, (ca.intermediate.certificate,), (crl,))


def test_of_two_lists_the_newer_one_counts(ca: Ca) -> None:
    serial = c.read_certificate(ca.der).serial
    old, new = ca.chain(number=1), ca.chain(number=2, revoked=[(serial, NOW)])
    both = Chain(ca.root.certificate, (ca.intermediate.certificate,), (*new.crls, *old.crls))
    with pytest.raises(CertificateRefused, match="revoked"):
        c.validate(ca.der, both, NOW)
    assert both.at_least(old) and not old.at_least(both)


def test_a_certificate_of_another_ca_is_refused(ca: Ca) -> None:
    with pytest.raises(CertificateRefused):
        c.validate(Ca().der, ca.chain(), NOW)


def test_a_person_is_no_ca(ca: Ca) -> None:
    below = c.issue(c.Issuer(ca.der, ca.key), c.new_gid(), c.new_signing_key().public_key(), Kind.PERSON, NOW)
    chain = ca.chain()
    with pytest.raises(CertificateRefused):
        c.validate(below, Chain(chain.root, (*chain.intermediates, ca.der), chain.crls), NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_changed_byte_of_a_certificate_is_accepted(ca: Ca) -> None:
    chain = ca.chain()
    for at in range(len(ca.der)):
        changed = bytearray(ca.der)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(CertificateRefused):
            c.validate(bytes(changed), chain, NOW)


def test_a_signature_with_unused_bits_is_refused(ca: Ca) -> None:
    signature = x509.load_der_x509_certificate(ca.der).signature
    at = len(ca.der) - len(signature) - 1
    for bits in range(1, 8):
        with pytest.raises(CertificateRefused):
            c.validate(ca.der[:at] + bytes([bits]) + ca.der[at + 1 :], ca.chain(), NOW)


def test_no_changed_byte_of_a_request_is_accepted(ca: Ca) -> None:
    der = c.new_request(ca.key, ca.gid)
    for at in range(len(der)):
        changed = bytearray(der)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(CertificateRefused):
            c.read_request(bytes(changed))


@pytest.mark.parametrize("case", [
    "ed25519", "p384", "subject", "no name", "not critical", "two names", "mail", "uuid v1", "upper case", "other urn",
])  # fmt: skip
def test_a_request_of_another_form_is_refused(case: str) -> None:
    key, gid = ec.generate_private_key(ec.SECP256R1()), c.new_gid()
    der = {
        "ed25519": lambda: request_with(ed25519.Ed25519PrivateKey.generate(), names=[urn(gid)]),
        "p384": lambda: request_with(ec.generate_private_key(ec.SECP384R1()), names=[urn(gid)]),
        "subject": lambda: request_with(
            key, subject=[x509.NameAttribute(x509.NameOID.COMMON_NAME, "Ann")], names=[urn(gid)]),
        "no name": lambda: request_with(key),
        "not critical": lambda: request_with(key, names=[urn(gid)], critical=False),
        "two names": lambda: request_with(key, names=[urn(gid), urn(c.new_gid())]),
        "mail": lambda: request_with(key, names=[x509.RFC822Name("ann@example.org")]),
        "uuid v1": lambda: request_with(key, names=[urn("c232ab00-9414-11ec-b3c8-9f68deced846")]),
        "upper case": lambda: request_with(key, names=[urn(gid.upper())]),
        "other urn": lambda: request_with(key, names=[x509.UniformResourceIdentifier(f"urn:oid:{gid}")]),
    }[case]()  # fmt: skip
    with pytest.raises(CertificateRefused):
        c.read_request(der)


def test_rubbish_is_refused_and_nothing_else_happens() -> None:
    rng = random.Random(7)
    for size in [0, 1, 16, 300, 5000]:
        data = rng.randbytes(size)
        for read in (c.read_certificate, c.read_request, c.crl_number, c.ca_serial):
            with pytest.raises(CertificateRefused):
                read(data)


def test_keys_come_back_from_their_bytes() -> None:
    key = c.new_signing_key()
    assert c.signing_key_from_bytes(c.signing_key_bytes(key)).private_numbers() == key.private_numbers()
    public = key.public_key()
    assert c.public_key_from_bytes(c.public_key_bytes(public)) == public


@pytest.mark.parametrize("data", [b"", bytes(32), b"\xff" * 32, bytes(31), bytes(33)])
def test_what_is_no_private_key_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateRefused):
        c.signing_key_from_bytes(data)


@pytest.mark.parametrize("data", [b"", b"\x04" + bytes(64), b"\x02" + bytes(32), b"\x00", b"\x04" + b"\xff" * 64])
def test_what_is_no_point_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateRefused):
        c.public_key_from_bytes(data)


def test_a_signature_holds_for_its_tag_body_and_key_alone() -> None:
    key, other = c.new_signing_key(), c.new_signing_key()
    signature = c.sign(key, b"tag", b"body")
    c.verify(key.public_key(), b"tag", b"body", signature)
    wrong = [(other.public_key(), b"tag", b"body", signature), (key.public_key(), b"gat", b"body", signature),
             (key.public_key(), b"tag", b"bodY", signature), (key.public_key(), b"ta", b"g\0body", signature),
             (key.public_key(), b"tag", b"body", signature[:-1]), (key.public_key(), b"tag", b"body", bytes(64))]
    for arguments in wrong:
        with pytest.raises(CertificateRefused):
            c.verify(*arguments)
