"""Compartments as bytes: each thing opens in its place only."""

import secrets

import pytest

from myphr.crypto import certificates, envelope
from myphr.crypto.envelope import KeyPair
from myphr.database import new_id
from myphr.errors import CertificateRefused, EnvelopeError
from myphr.people.keyring import KeyRing
from myphr.sharing import compartments

ONE, OTHER, OWNER, ITEM = (new_id() for _ in range(4))
CK = secrets.token_bytes(32)


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return envelope.new_key_pair()


def test_the_key_needs_secret_half_and_header() -> None:
    secret, half = secrets.token_bytes(32), secrets.token_bytes(32)
    key = compartments.key_of(secret, half, b"header")
    assert key == compartments.key_of(secret, half, b"header") and len(key) == 32
    others = (
        compartments.key_of(half, secret, b"header"), compartments.key_of(secret, half, b"another"),
        compartments.key_of(secret, bytes(32), b"header"),
    )  # fmt: skip
    assert key not in others
    with pytest.raises(ValueError):
        compartments.key_of(secret, half[:-1], b"header")


@pytest.mark.parametrize("place", [(OTHER, ITEM, 0), (ONE, OTHER, 0), (ONE, ITEM, 1)])
def test_a_files_key_opens_for_its_compartment_item_and_epoch_only(place: tuple[str, str, int]) -> None:
    dek = secrets.token_bytes(32)
    wrapped = compartments.wrap_dek(CK, ONE, ITEM, 0, dek)
    assert compartments.unwrap_dek(CK, ONE, ITEM, 0, wrapped) == dek
    with pytest.raises(EnvelopeError):
        compartments.unwrap_dek(CK, *place, wrapped)


@pytest.mark.parametrize(
    "change", [{"kind": "policy"}, {"compartment_id": OTHER}, {"owner_gid": OTHER}, {"epoch": 1}, {"header": b"x"}]
)
def test_a_signature_holds_for_one_header_in_one_place(change: dict) -> None:
    key = certificates.new_signing_key()
    public = certificates.public_key_bytes(key.public_key())
    place: dict = {"kind": "named", "compartment_id": ONE, "owner_gid": OWNER, "epoch": 0, "header": b"header"}
    signature = compartments.sign_header(key, **place)
    compartments.check_signature(public, **place, signature=signature)
    with pytest.raises(CertificateRefused):
        compartments.check_signature(public, **(place | change), signature=signature)


def test_what_the_owner_keeps_opens_with_their_ring_alone(pair: KeyPair) -> None:
    ring, other = KeyRing(pair), KeyRing(envelope.new_key_pair())
    plan, key = compartments.wrap_plan(ring, ONE, {"a": 1}), compartments.wrap_ck(ring, ONE, 0, CK)
    assert compartments.unwrap_plan(ring, ONE, plan) == {"a": 1} and compartments.unwrap_ck(ring, ONE, 0, key) == CK
    for refused in (
        lambda: compartments.unwrap_plan(other, ONE, plan), lambda: compartments.unwrap_plan(ring, OTHER, plan),
        lambda: compartments.unwrap_ck(other, ONE, 0, key), lambda: compartments.unwrap_ck(ring, ONE, 1, key),
    ):  # fmt: skip
        with pytest.raises(EnvelopeError):
            refused()


def test_the_workers_keys_open_for_their_task_only(pair: KeyPair) -> None:
    keys = {0: CK, 3: secrets.token_bytes(32)}
    sealed = compartments.seal_keys(pair.public, ONE, keys)
    assert compartments.open_keys(pair.private, ONE, sealed) == keys
    with pytest.raises(EnvelopeError):
        compartments.open_keys(pair.private, OTHER, sealed)


def test_a_named_header_lists_its_readers_once_and_in_order() -> None:
    header = compartments.named_header(ONE, OWNER, 7, [OTHER, ITEM, OTHER])
    assert header == compartments.named_header(ONE, OWNER, 7, [ITEM, OTHER]) and len(header) == 47 + 2 * 16
    for gids in ([], [new_id() for _ in range(compartments.READERS_MAX + 1)]):
        with pytest.raises(ValueError):
            compartments.named_header(ONE, OWNER, 7, gids)
