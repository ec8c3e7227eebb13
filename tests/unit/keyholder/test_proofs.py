"""Requests and replies as bytes: what travels is what was signed, and only well-formed frames are read."""

import json
import random
import struct
import sys

import pytest

from myphr.crypto import certificates, proofs
from myphr.crypto.certificates import Kind
from myphr.errors import CertificateRefused, KeyholderProtocolError
from tests.unit.keyholder.test_certificates import NOW, Ca

HOST = certificates.new_gid()


@pytest.fixture(scope="module")
def ca() -> Ca:
    return Ca()


def request_of(ca: Ca, **arguments: object) -> proofs.Request:
    return proofs.new_request(HOST, "vault.block", arguments, now=1_800_000_000, key=ca.key, certificate=ca.der)


def test_a_request_comes_back_as_it_was_made(ca: Ca) -> None:
    made = request_of(ca, half=b"\x00\xff", number=3)
    found = proofs.read_request(made.to_bytes())
    assert (found.call, found.gid, found.keyholder, found.time) == ("vault.block", ca.gid, HOST, 1_800_000_000)
    assert found.arguments == {"half": "AP8=", "number": 3} and found.nonce == made.nonce
    found.check_signature(ca.key.public_key())


def test_a_request_without_proof_names_nobody() -> None:
    found = proofs.read_request(proofs.new_request(HOST, "hello", {}, now=1).to_bytes())
    assert not found.proven and found.gid == "" and found.certificate == b""


def test_no_changed_byte_passes_the_signature(ca: Ca) -> None:
    data = request_of(ca, number=3).to_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises((KeyholderProtocolError, CertificateRefused)):
            found = proofs.read_request(bytes(changed))
            found.check_signature(certificates.read_certificate(found.certificate).public_key)
            if found.certificate != ca.der:
                certificates.validate(found.certificate, ca.chain(), NOW)
            raise AssertionError(f"byte {at} does not matter")


def test_another_person_s_certificate_does_not_fit_the_signature(ca: Ca) -> None:
    made = request_of(ca)
    other = certificates.issue(ca.intermediate, ca.gid, certificates.new_signing_key().public_key(), Kind.PERSON, NOW)
    swapped = proofs.read_request(struct.pack(">BBH", 1, 1, len(other)) + other + made.signature + made.said)
    with pytest.raises(CertificateRefused):
        swapped.check_signature(certificates.read_certificate(swapped.certificate).public_key)


def said(**members: object) -> bytes:
    content = {"arguments": {}, "call": "hello", "gid": "", "keyholder": "", "nonce": "A" * 22 + "==", "time": 5}
    return json.dumps(content | members).encode()


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"a":' * 50_000,
    said(time=1.5), said(time="5"), said(time=-1), said(time=2**60), said(time=True), said(time=None),
    said(nonce="AAAA"), said(nonce=7), said(nonce="A" * 23 + "="), said(nonce="\u00e4" * 24),
    said(nonce="B" * 23 + "=="),
    said(arguments=[]), said(arguments=None), said(call=3), said(keyholder=None), said(gid=4), said(gid="someone"),
    said(more=1), said(time=5)[:-1] + b',"time":6}', said(time=5).replace(b"5", b"NaN"),
    said(time=5).replace(b": 5", b": 1e400"), said(time=5).replace(b": 5", b": " + b"9" * 5000),
], ids=lambda text: f"{len(text)}_bytes")  # fmt: skip
def test_a_frame_that_says_something_else_is_refused(text: bytes) -> None:
    with pytest.raises(KeyholderProtocolError):
        proofs.read_request(struct.pack(">BBH", 1, 0, 0) + text)


def test_nesting_is_bounded_whatever_recursion_the_interpreter_allows() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        for text in (b'{"a":' + b"[" * 100_000, b'{"a":' * 50_000, b'{"a":' * 33 + b"1" + b"}" * 33):
            with pytest.raises(KeyholderProtocolError):
                proofs.load(text)
        assert proofs.load(b'{"a":' * 32 + b"1" + b"}" * 32)
        assert proofs.load(proofs.dump({"brackets": "[{" * 100 + '"\\'}))
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("head", [
    struct.pack(">BBH", 0, 0, 0), struct.pack(">BBH", 2, 0, 0), struct.pack(">BBH", 1, 2, 0),
    struct.pack(">BBH", 1, 0, 5), struct.pack(">BBH", 1, 1, 0), struct.pack(">BBH", 1, 1, 60_000), b"", b"\x01",
])  # fmt: skip
def test_a_frame_with_another_head_is_refused(head: bytes) -> None:
    with pytest.raises(KeyholderProtocolError):
        proofs.read_request(head + said())


def test_the_largest_request_passes_and_one_byte_more_does_not() -> None:
    def of(size: int) -> proofs.Request:
        return proofs.new_request(HOST, "hello", {"x": "y" * size}, now=1)

    room = proofs.REQUEST_BYTES_MAX - len(of(0).to_bytes())
    assert proofs.read_request(of(room).to_bytes()).arguments["x"]
    with pytest.raises(KeyholderProtocolError):
        of(room + 1).to_bytes()
    with pytest.raises(KeyholderProtocolError):
        proofs.read_request(struct.pack(">BBH", 1, 0, 0) + of(room + 1).said)


def test_lengths_are_checked_on_both_sides() -> None:
    assert proofs.frame_bytes(struct.pack(">I", 10), 10) == 10
    for size in (0, 11, 2**32 - 1):
        with pytest.raises(KeyholderProtocolError):
            proofs.frame_bytes(struct.pack(">I", size), 10)


def test_rubbish_never_raises_anything_else(ca: Ca) -> None:
    rng = random.Random(11)
    good = request_of(ca, text="x" * 40).to_bytes()
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            action = rng.randrange(3)
            at = rng.randrange(len(data))
            if action == 0:
                data[at] = rng.randrange(256)
            elif action == 1:
                del data[at : at + rng.randrange(1, 30)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 30))
            if not data:
                break
        try:
            proofs.read_request(bytes(data))
        except KeyholderProtocolError:
            pass
