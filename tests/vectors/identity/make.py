"""Makes the frozen vectors of docs/formats/identity.md: `python -m tests.vectors.identity.make`.

What it draws is random, so a file is made once and never written again.
"""

import base64
import hashlib
import json
import secrets
from pathlib import Path

from myphr.crypto import certificates
from myphr.crypto.envelope import context_for, derive, new_key_pair, wrap
from myphr.database import new_id
from myphr.people.identity_keys import new_keys, wrap_keys
from myphr.people.keyring import KeyRing

HERE = Path(__file__).parent


def keys_version2() -> dict[str, object]:
    pair, gid = new_key_pair(), certificates.new_gid()
    keys = new_keys(gid)
    return {
        "scenario": "identity keys, version 2",
        "gid": gid,
        "ring_private": pair.private.hex(),
        "wrapped": wrap_keys(KeyRing(pair), keys).hex(),
        "signing": keys.signing.hex(),
        "authority": keys.authority.hex(),
        "key_policy": keys.key_policy.hex(),
        "labels": keys.labels.hex(),
    }


def pending_ring() -> dict[str, object]:
    row_id, token, ring_key, ring = new_id(), secrets.token_bytes(32), secrets.token_bytes(32), KeyRing(new_key_pair())
    text = [base64.urlsafe_b64encode(one).rstrip(b"=").decode() for one in (token, ring_key)]
    return {
        "scenario": "a pending sign-in and its cookie",
        "cookie": ".".join((row_id, *text)),
        "token_sha256": hashlib.sha256(token).hexdigest(),
        "ring_private": ring.private_key.hex(),
        "sealed_ring": wrap(ring_key, ring.to_bytes(), context=context_for("pending-ring", row_id)).hex(),
    }


def totp() -> dict[str, object]:
    """The secret is that of RFC 6238, appendix B; so are the times, whose codes end in the six digits given there."""
    account, service_key, secret = new_id(), secrets.token_bytes(32), base64.b32encode(b"12345678901234567890")
    sealed = wrap(derive(service_key, "myphr/totp-secret/1"), secret, context=context_for("totp", account))
    codes = {"59": "287082", "1111111109": "081804", "1234567890": "005924", "20000000000": "353130"}
    return {
        "scenario": "an authenticator app's secret",
        "account": account,
        "passcode_key": service_key.hex(),
        "sealed_secret": sealed.hex(),
        "secret": secret.decode(),
        "codes": codes,
    }


def main() -> None:
    for name, make in {"keys-version2": keys_version2, "pending-ring": pending_ring, "totp": totp}.items():
        path = HERE / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
