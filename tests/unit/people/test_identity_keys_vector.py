"""What docs/formats/identity.md freezes opens for ever, also to a second implementation made from the page alone."""

import json
from pathlib import Path

import pytest

from myphr.crypto.envelope import KeyPair
from myphr.errors import EnvelopeError
from myphr.people.identity_keys import unwrap_keys
from myphr.people.keyring import KeyRing
from tests.vectors import check

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "identity" / "keys-version2.json").read_text())
FIELDS = ("signing", "authority", "key_policy", "labels")
GID, WRAPPED = VECTOR["gid"], bytes.fromhex(VECTOR["wrapped"])
RING_PRIVATE = bytes.fromhex(VECTOR["ring_private"])


def ring() -> KeyRing:
    return KeyRing(KeyPair.from_private(RING_PRIVATE))


def test_frozen_keys_open() -> None:
    keys = unwrap_keys(ring(), GID, WRAPPED)
    assert {name: getattr(keys, name).hex() for name in FIELDS} == {name: VECTOR[name] for name in FIELDS}
    assert keys.authority_secret().authority == GID and keys.patient_secret() and keys.signing_key()


@pytest.mark.parametrize("one", list(check.identity_checks()), ids=lambda one: one[0])
def test_product_and_page_alone_come_to_the_same(one: check.Check) -> None:
    """Identity keys, pending sign-ins and authenticator apps; every changed byte is refused."""
    one[1]()


@pytest.mark.parametrize("changed", ["cut", "extended", "empty", "flipped", "another GID"])
def test_anything_else_is_refused(changed: str) -> None:
    gid = GID[:-1] + ("0" if GID[-1] != "0" else "1") if changed == "another GID" else GID
    wrapped = {
        "cut": WRAPPED[:-1], "extended": WRAPPED + b"\x00", "empty": b"", "another GID": WRAPPED,
        "flipped": WRAPPED[:-1] + bytes([WRAPPED[-1] ^ 1]),
    }[changed]  # fmt: skip
    with pytest.raises(EnvelopeError):
        unwrap_keys(ring(), gid, wrapped)
