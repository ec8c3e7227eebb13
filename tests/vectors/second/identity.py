"""Identity keys, pending sign-ins and authenticator apps by docs/formats/identity.md, a second time.

What is refused is a ValueError."""

import base64
import hashlib
import hmac
import json

from tests.vectors.abe_second.schemes import Authority, Patient
from tests.vectors.second.sealed import context, derive, unwrap


def identity_keys(ring_private: bytes, gid: str, wrapped: bytes) -> dict[str, bytes]:
    key = derive(ring_private, "myphr/identity-keys/1")
    content = json.loads(unwrap(key, wrapped, context("identity-keys", gid)))
    if content.pop("version") != 2 or sorted(content) != ["authority", "key_policy", "labels", "signing"]:
        raise ValueError("not version 2")
    found = {name: base64.b64decode(text, validate=True) for name, text in content.items()}
    if Authority.decode(found["authority"]).name.hex() != gid.replace("-", ""):
        raise ValueError("authority of another GID")
    Patient.decode(found["key_policy"])
    if len(found["signing"]) != 32 or len(found["labels"]) != 32:
        raise ValueError("size")
    return found


def ring_of(content: bytes) -> bytes:
    ring = json.loads(content)
    if ring["version"] != 1:
        raise ValueError("version")
    return base64.b64decode(ring["private"], validate=True)


def pending_ring(cookie: str, sealed_ring: bytes, token_sha256: str) -> bytes:
    """The ring's private key, with what the browser brings."""
    row_id, token, ring_key = cookie.split(".")
    token_bytes, key = (base64.urlsafe_b64decode(part + "=") for part in (token, ring_key))
    if hashlib.sha256(token_bytes).hexdigest() != token_sha256:
        raise ValueError("token")
    return ring_of(unwrap(key, sealed_ring, context("pending-ring", row_id)))


def totp_secret(passcode_key: bytes, account: str, sealed_secret: bytes) -> str:
    return unwrap(derive(passcode_key, "myphr/totp-secret/1"), sealed_secret, context("totp", account)).decode("ascii")


def code(secret: str, at: int) -> str:
    """RFC 6238 with SHA-1, six digits, 30 seconds."""
    digest = hmac.digest(base64.b32decode(secret), (at // 30).to_bytes(8, "big"), "sha1")
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start : start + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06}"
