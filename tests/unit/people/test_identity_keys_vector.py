"""Frozen identity keys open for ever, and open to a second reading made from docs/formats/identity.md alone."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from myphr.crypto.envelope import KeyPair
from myphr.errors import EnvelopeError
from myphr.people.identity_keys import unwrap_keys
from myphr.people.keyring import KeyRing

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "identity" / "keys-version2.json").read_text())
FIELDS = ("signing", "authority", "key_policy", "labels")
GID, WRAPPED = VECTOR["gid"], bytes.fromhex(VECTOR["wrapped"])
RING_PRIVATE = bytes.fromhex(VECTOR["ring_private"])


def ring() -> KeyRing:
    return KeyRing(KeyPair.from_private(RING_PRIVATE))


def expand(prk: bytes, info: bytes) -> bytes:
    return hmac.digest(prk, info + b"\x01", "sha256")


def test_frozen_keys_open() -> None:
    keys = unwrap_keys(ring(), GID, WRAPPED)
    assert {name: getattr(keys, name).hex() for name in FIELDS} == {name: VECTOR[name] for name in FIELDS}
    assert keys.authority_secret().authority == GID and keys.patient_secret() and keys.signing_key()


def test_the_page_alone_tells_how_to_open_them() -> None:
    key = expand(hmac.digest(bytes(32), RING_PRIVATE, "sha256"), b"myphr/identity-keys/1\x00")
    context = f"myphr/identity-keys/1|{GID}".encode()
    suite, salt, commitment, sealed = WRAPPED[:1], WRAPPED[1:33], WRAPPED[33:65], WRAPPED[65:]
    bound, prk = hashlib.sha256(suite + salt + context).digest(), hmac.digest(salt, key, "sha256")
    assert suite == b"\x01" and commitment == expand(prk, b"myphr/wrap-commit/1" + bound)
    content = json.loads(AESGCM(expand(prk, b"myphr/wrap/1" + bound)).decrypt(bytes(12), sealed, None))
    assert content.pop("version") == 2
    assert {name: base64.b64decode(text).hex() for name, text in content.items()} == {n: VECTOR[n] for n in FIELDS}


@pytest.mark.parametrize("changed", ["cut", "extended", "empty", "flipped", "another GID"])
def test_anything_else_is_refused(changed: str) -> None:
    gid = GID[:-1] + ("0" if GID[-1] != "0" else "1") if changed == "another GID" else GID
    wrapped = {
        "cut": WRAPPED[:-1], "extended": WRAPPED + b"\x00", "empty": b"", "another GID": WRAPPED,
        "flipped": WRAPPED[:-1] + bytes([WRAPPED[-1] ^ 1]),
    }[changed]  # fmt: skip
    with pytest.raises(EnvelopeError):
        unwrap_keys(ring(), gid, wrapped)
