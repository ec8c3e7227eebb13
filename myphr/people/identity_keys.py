"""The keys that a person uses under their GID: for signing, for consent, for sharing by kind, for labels. No I/O.

They are wrapped under a key that only the person's key ring gives, so that they can be made and changed without a
password at hand, and a recovery code opens them as a password does. Spec: docs/formats/identity.md.
"""

import base64
import binascii
import dataclasses
import json
import secrets

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates
from myphr.crypto.abe.key_policy import PatientSecret, new_patient
from myphr.crypto.abe.multi_authority import AuthoritySecret, new_authority
from myphr.crypto.envelope import KEY_BYTES, context_for, unwrap, wrap
from myphr.errors import AbeMalformed, CertificateRefused, EnvelopeError, PolicyError
from myphr.people.keyring import KeyRing

KEYS_VERSION = 2  # of the ring and these together: version 1 was the ring alone
_LABEL = "myphr/identity-keys/1"
_FIELDS = ("signing", "authority", "key_policy", "labels")


@dataclasses.dataclass(frozen=True)
class IdentityKeys:
    """`signing`: an ECDSA P-256 private key, 32 bytes. `authority`: the person's own RW15 authority, its UUID being
    the GID. `key_policy`: the person's own FABEO-KP instance. `labels`: 32 bytes, the key of label hashes."""

    gid: str
    signing: bytes = dataclasses.field(repr=False)
    authority: bytes = dataclasses.field(repr=False)
    key_policy: bytes = dataclasses.field(repr=False)
    labels: bytes = dataclasses.field(repr=False)

    def signing_key(self) -> ec.EllipticCurvePrivateKey:
        return certificates.signing_key_from_bytes(self.signing)

    def authority_secret(self) -> AuthoritySecret:
        return AuthoritySecret.from_bytes(self.authority)

    def patient_secret(self) -> PatientSecret:
        return PatientSecret.from_bytes(self.key_policy)


def new_keys(gid: str) -> IdentityKeys:
    """Fresh keys for this GID. Raises CurveUnavailable."""
    return IdentityKeys(
        gid, certificates.signing_key_bytes(certificates.new_signing_key()), new_authority(gid).to_bytes(),
        new_patient().to_bytes(), secrets.token_bytes(KEY_BYTES),
    )  # fmt: skip


def wrap_keys(ring: KeyRing, keys: IdentityKeys) -> bytes:
    """The keys at rest. Not sealed to the ring's public key: whoever can write to the database could do that too, and
    so put keys of their own in place."""
    content: dict[str, object] = {"version": KEYS_VERSION}
    content |= {name: base64.b64encode(getattr(keys, name)).decode() for name in _FIELDS}
    return wrap(ring.derive(_LABEL), json.dumps(content, separators=(",", ":")).encode(), context=_context(keys.gid))


def unwrap_keys(ring: KeyRing, gid: str, wrapped: bytes) -> IdentityKeys:
    """Raises EnvelopeError unless this ring wrapped them for this GID."""
    opened = unwrap(ring.derive(_LABEL), wrapped, context=_context(gid))
    try:
        content = json.loads(opened)
        if content["version"] != KEYS_VERSION:
            raise EnvelopeError("identity keys of an unknown version")
        keys = IdentityKeys(gid, *(base64.b64decode(content[name], validate=True) for name in _FIELDS))
        if keys.authority_secret().authority != gid or len(keys.labels) != KEY_BYTES:
            raise EnvelopeError("identity keys of another GID")
        keys.signing_key()
        keys.patient_secret()
    except (ValueError, KeyError, TypeError, binascii.Error, AbeMalformed, CertificateRefused, PolicyError):
        raise EnvelopeError("identity keys are damaged") from None
    return keys


def _context(gid: str) -> bytes:
    return context_for("identity-keys", gid)
