"""Envelopes to a public key, symmetric wraps, derived keys: what opens and what must not."""

import hmac
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.crypto import envelope
from myphr.crypto.envelope import KeyPair, Opener, context_for, derive, open_with, seal_to, unwrap, wrap
from myphr.errors import EnvelopeError
from tests.vectors.second import sealed as second

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "envelope"
PAIR, OTHER = envelope.new_key_pair(), envelope.new_key_pair()
KEY = os.urandom(32)


def vector(name: str) -> dict[str, str]:
    return json.loads((VECTORS / f"{name}.json").read_text("utf-8"))


@given(st.binary(max_size=200), st.binary(max_size=80))
@settings(deadline=None, max_examples=25)
def test_what_is_sealed_to_a_key_opens_with_it(secret: bytes, context: bytes) -> None:
    sealed = seal_to(PAIR.public, secret, context=context)
    assert len(sealed) == len(secret) + envelope.SEALED_OVERHEAD_BYTES
    assert open_with(PAIR.private, sealed, context=context) == secret
    assert Opener(PAIR.private).open(sealed, context=context) == secret


def test_another_key_or_context_does_not_open() -> None:
    sealed = seal_to(PAIR.public, b"dek", context=context_for("item-dek", "a"))
    with pytest.raises(EnvelopeError):
        open_with(OTHER.private, sealed, context=context_for("item-dek", "a"))
    for context in (context_for("item-dek", "b"), context_for("study", "a"), b""):
        with pytest.raises(EnvelopeError):
            open_with(PAIR.private, sealed, context=context)


def test_any_changed_missing_or_added_byte_of_an_envelope_is_refused() -> None:
    sealed, opener = seal_to(PAIR.public, b"dek", context=b"c"), Opener(PAIR.private)
    hostile = [sealed[:size] for size in range(0, len(sealed), 7)] + [sealed[:-1], sealed + b"\0"]
    for offset in range(len(sealed)):
        changed = bytearray(sealed)
        changed[offset] ^= 1
        hostile.append(bytes(changed))
    for bad in hostile:
        with pytest.raises(EnvelopeError):
            opener.open(bad, context=b"c")


def test_two_envelopes_of_one_secret_differ() -> None:
    assert seal_to(PAIR.public, b"x", context=b"") != seal_to(PAIR.public, b"x", context=b"")


def test_a_key_pair_is_stored_as_its_private_half() -> None:
    assert KeyPair.from_private(PAIR.private) == PAIR
    assert (len(PAIR.private), len(PAIR.public)) == (envelope.PRIVATE_KEY_BYTES, envelope.PUBLIC_KEY_BYTES)
    assert PAIR.suite == PAIR.private[0] == PAIR.public[0] == 1


def test_printing_a_key_pair_shows_no_private_key() -> None:
    assert PAIR.private.hex() not in repr(PAIR) and repr(PAIR.private) not in repr(PAIR)


@pytest.mark.parametrize("bad", [b"", PAIR.private[:-1], PAIR.private + b"\0", b"\x02" + PAIR.private[1:]],
                         ids=["empty", "short", "long", "suite"])
def test_unusable_private_keys_are_refused(bad: bytes) -> None:
    with pytest.raises(EnvelopeError):
        KeyPair.from_private(bad)
    with pytest.raises(EnvelopeError):
        Opener(bad)


@pytest.mark.parametrize("bad", [b"", PAIR.public[:-1], PAIR.public + b"\0", b"\x02" + PAIR.public[1:],
                                 PAIR.public[:1] + b"\xff" * 1184 + PAIR.public[-32:],
                                 PAIR.public[:-32] + bytes(32)],
                         ids=["empty", "short", "long", "suite", "ml-kem", "low-order"])
def test_unusable_public_keys_are_refused(bad: bytes) -> None:
    with pytest.raises(EnvelopeError):
        seal_to(bad, b"x", context=b"")


def test_limits_of_secret_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "SECRET_BYTES_MAX", 100)
    seal_to(PAIR.public, bytes(100), context=bytes(envelope.CONTEXT_BYTES_MAX))
    wrap(KEY, bytes(100), context=bytes(envelope.CONTEXT_BYTES_MAX))
    for secret, context in ((bytes(101), b""), (b"", bytes(envelope.CONTEXT_BYTES_MAX + 1))):
        with pytest.raises(ValueError):
            seal_to(PAIR.public, secret, context=context)
        with pytest.raises(ValueError):
            wrap(KEY, secret, context=context)


# -- symmetric ------------------------------------------------------------------------------------
@given(st.binary(max_size=500), st.binary(max_size=80), st.binary(min_size=32, max_size=32))
@settings(deadline=None)
def test_what_is_wrapped_unwraps(secret: bytes, context: bytes, key: bytes) -> None:
    wrapped = wrap(key, secret, context=context)
    assert len(wrapped) == len(secret) + envelope.WRAP_OVERHEAD_BYTES
    assert unwrap(key, wrapped, context=context) == secret


def test_another_wrapping_key_or_context_does_not_unwrap() -> None:
    wrapped = wrap(KEY, b"json", context=b"a")
    for key, context in ((bytes(32), b"a"), (KEY, b"b"), (KEY, b"")):
        with pytest.raises(EnvelopeError):
            unwrap(key, wrapped, context=context)


def test_any_changed_missing_or_added_byte_of_a_wrap_is_refused() -> None:
    wrapped = wrap(KEY, b"json", context=b"a")
    hostile = [wrapped[:size] for size in range(len(wrapped))] + [wrapped + b"\0"]
    for offset in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[offset] ^= 0x80
        hostile.append(bytes(changed))
    for bad in hostile:
        with pytest.raises(EnvelopeError):
            unwrap(KEY, bad, context=b"a")


def test_a_wrap_commits_to_its_key() -> None:
    """A ciphertext that fits two keys needs two commitments in one field: the tag alone would not stop it."""
    wrapped, other = wrap(KEY, b"json", context=b"a"), os.urandom(32)
    once_key, commitment = envelope._wrap_keys(other, wrapped[1:33], b"a")
    assert commitment != wrapped[33:65]
    forged = wrapped[:65] + AESGCM(once_key).encrypt(bytes(12), b"json", None)
    with pytest.raises(EnvelopeError, match="does not fit the key"):
        unwrap(other, forged, context=b"a")


def test_wrapping_keys_of_another_size_are_refused() -> None:
    for key in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError):
            wrap(key, b"x", context=b"")


def test_derived_keys_differ_by_label_context_and_secret() -> None:
    keys = {derive(KEY, "a"), derive(KEY, "b"), derive(KEY, "a", b"x"), derive(KEY, "a\x01"), derive(bytes(32), "a"),
            derive(KEY, "ax")}
    assert len(keys) == 6 and all(len(key) == 32 for key in keys)


def test_passwords_and_unnamed_uses_are_not_derived_from() -> None:
    for secret, label in ((bytes(15), "a"), (KEY, ""), (KEY, "a\0b")):
        with pytest.raises(ValueError):
            derive(secret, label)


def test_derive_is_hkdf_of_rfc_5869() -> None:
    """A.3 of the RFC has no salt and no info; ours always has a label, so its T(1) is checked by hand."""
    prk = hmac.digest(bytes(32), b"\x0b" * 22, "sha256")
    assert prk.hex() == "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"
    assert derive(b"\x0b" * 22, "label") == hmac.digest(prk, b"label\0\x01", "sha256")


# -- frozen vectors -------------------------------------------------------------------------------
def test_frozen_envelope_opens_in_its_context_only() -> None:
    good, bad = vector("hybrid"), vector("hybrid-other-context")
    values = {name: bytes.fromhex(good[name]) for name in ("private", "public", "context", "sealed", "secret")}
    assert KeyPair.from_private(values["private"]).public == values["public"]
    assert open_with(values["private"], values["sealed"], context=values["context"]) == values["secret"]
    with pytest.raises(EnvelopeError):
        open_with(bytes.fromhex(bad["private"]), bytes.fromhex(bad["sealed"]), context=bytes.fromhex(bad["context"]))


def test_frozen_wrap_and_derived_key_still_fit() -> None:
    frozen, derived = vector("wrap"), vector("derive")
    opened = unwrap(bytes.fromhex(frozen["key"]), bytes.fromhex(frozen["wrapped"]),
                    context=bytes.fromhex(frozen["context"]))
    assert opened.hex() == frozen["secret"]
    assert derive(bytes.fromhex(derived["secret"]), derived["label"]).hex() == derived["key"]


def test_second_implementation_opens_the_frozen_envelope() -> None:
    good = {name: bytes.fromhex(value) for name, value in vector("hybrid").items() if name != "scenario"}
    assert second.open_envelope(good["private"], good["sealed"], good["context"]) == good["secret"]
