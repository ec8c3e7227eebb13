"""What version 1 signed is read by every later version: frozen bytes, made once by tests/vectors/keyholder/make.py."""

import datetime as dt
import json
from pathlib import Path

import pytest

from myphr.crypto import certificates, proofs, statements
from myphr.crypto.certificates import Chain
from myphr.errors import CertificateRefused
from tests.vectors import check

FILE = Path(__file__).parents[2] / "vectors" / "keyholder" / "version1.json"
V = json.loads(FILE.read_text())
KEY = certificates.public_key_from_bytes(bytes.fromhex(V["public_key"]))
NOW = dt.datetime.fromtimestamp(V["at"], dt.timezone.utc)


def data(name: str) -> bytes:
    return bytes.fromhex(V[name])


def test_statements_of_version_1_are_read() -> None:
    key = statements.read_key_statement(data("key_statement"), KEY, V["gid"])
    assert (key.made_at, key.hpke, key.authority, key.key_policy) == (V["at"], b"hpke" * 10, b"authority" * 5, b"")
    authority = statements.read_authority_statement(data("authority_statement"), KEY, V["gid"])
    assert (authority.public, authority.signing_public) == (b"public" * 20, b"s" * 65)
    table = statements.read_epoch_table(data("epoch_table"), KEY, V["gid"])
    assert table.version == 7 and table.epoch("role", "nurse") == 2**32 - 1 and table.epoch("role", "porter") == 0
    holding = statements.read_holding(data("holding"), KEY)
    assert (holding.authority, holding.member, holding.value) == (V["gid"], V["other"], "cardiologist")


def test_a_request_of_version_1_is_read_and_its_proof_holds() -> None:
    request = proofs.read_request(data("request"))
    assert (request.call, request.keyholder, request.gid) == ("vault.block", V["other"], V["gid"])
    assert request.arguments == {"block": ["gid", V["other"]], "compartment": None}
    assert request.nonce == data("nonce") and request.certificate == data("certificate")
    request.check_signature(KEY)


def test_certificates_and_lists_of_version_1_are_validated() -> None:
    chain = Chain(data("root"), (data("intermediate"),), (data("crl"), data("root_crl")))
    facts = certificates.validate(data("certificate"), chain, NOW)
    assert facts.gid == V["gid"] and certificates.public_key_bytes(facts.public_key) == data("public_key")
    assert chain.crl_number() == 4 and certificates.crl_entries(data("crl")) == [(0xABC, NOW)]
    with pytest.raises(CertificateRefused):
        certificates.validate(data("certificate"), chain, NOW + dt.timedelta(days=1, minutes=5))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("one", list(check.signed_checks()), ids=lambda one: one[0])
def test_product_and_page_alone_come_to_the_same(one: check.Check) -> None:
    one[1]()
