"""Envelopes, wraps and derived keys by docs/formats/envelope.md and RFC 9180, a second time. What is refused is a
ValueError.

Written to be compared with the page, line by line. Used by `make vectors` and by the tests of what is built on them.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SUITE_ID = b"HPKE" + bytes.fromhex("647a00010002")


def context(what: str, *ids: str) -> bytes:
    return ("myphr/" + what + "/1|" + "|".join(ids)).encode("ascii")


def aes_gcm(key: bytes, nonce: bytes, sealed: bytes) -> bytes:
    opener = Cipher(algorithms.AES256(key), modes.GCM(nonce, sealed[-16:])).decryptor()
    try:
        return opener.update(sealed[:-16]) + opener.finalize()
    except InvalidTag:
        raise ValueError("tag") from None


def hkdf_expand(prk: bytes, info: bytes, size: int = 32) -> bytes:
    return hmac.digest(prk, info + b"\x01", "sha256")[:size]  # one block is all we ever need


def derive(secret: bytes, label: str, ctx: bytes = b"") -> bytes:
    return hkdf_expand(hmac.digest(bytes(32), secret, "sha256"), label.encode("ascii") + b"\0" + ctx)


def unwrap(key: bytes, wrapped: bytes, ctx: bytes) -> bytes:
    if len(wrapped) < 81 or wrapped[0] != 1:
        raise ValueError("not a wrap of suite 1")
    salt, commitment, sealed = wrapped[1:33], wrapped[33:65], wrapped[65:]
    bound = hashlib.sha256(b"\x01" + salt + ctx).digest()
    prk = hmac.digest(salt, key, "sha256")
    if hkdf_expand(prk, b"myphr/wrap-commit/1" + bound) != commitment:
        raise ValueError("commitment")
    return aes_gcm(hkdf_expand(prk, b"myphr/wrap/1" + bound), bytes(12), sealed)


def open_envelope(private: bytes, sealed: bytes, info: bytes) -> bytes:
    """HPKE base mode (RFC 9180, 5.1) over the X-Wing KEM, step by step."""
    if len(private) != 97 or private[0] != 1 or len(sealed) < 1137 or sealed[0] != 1:
        raise ValueError("not an envelope of suite 1, or no key for one")

    def extract(salt: bytes, label: bytes, value: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + SUITE_ID + label + value, "sha256")

    def expand(prk: bytes, label: bytes, ctx: bytes, size: int) -> bytes:
        return hkdf_expand(prk, size.to_bytes(2, "big") + b"HPKE-v1" + SUITE_ID + label + ctx, size)

    mlkem = MLKEM768PrivateKey.from_seed_bytes(private[1:65])
    x25519 = X25519PrivateKey.from_private_bytes(private[65:])
    ct_mlkem, ct_x25519, ciphertext = sealed[1:1089], sealed[1089:1121], sealed[1121:]
    shared = hashlib.sha3_256(
        mlkem.decapsulate(ct_mlkem)
        + x25519.exchange(X25519PublicKey.from_public_bytes(ct_x25519))
        + ct_x25519
        + x25519.public_key().public_bytes_raw()
        + b"\\.//^\\"
    ).digest()
    ctx = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return aes_gcm(expand(secret, b"key", ctx, 32), expand(secret, b"base_nonce", ctx, 12), ciphertext)
