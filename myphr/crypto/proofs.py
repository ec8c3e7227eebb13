"""Calls to the keyholder as bytes: the request, its proof of who asks, the reply. Pure; no socket, no clock.

Spec: docs/formats/keyholder.md, "Frames" and "Proof". What is signed is what travels, byte for byte, so no two
programs can differ in how they write it. Called by `people.keyholder` (writes) and by the keyholder (reads).
"""

import base64
import binascii
import dataclasses
import json
import re
import secrets
import struct
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates
from myphr.errors import KeyholderProtocolError

VERSION = 1
REQUEST_BYTES_MAX = 256 * 1024
REPLY_BYTES_MAX = 8 * 1024**2
NONCE_BYTES = 16
SKEW_SECONDS_MAX = 60
NESTING_MAX = 32
TAG = b"myphr/keyholder-proof/1"
_PREFIX = struct.Struct(">I")
_BRACKET_OR_STRING = re.compile(rb'[\[\]{}]|"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEP = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
PREFIX_BYTES = _PREFIX.size
_HEAD = struct.Struct(">BBH")  # version, has a proof, bytes of the certificate


@dataclasses.dataclass(frozen=True)
class Request:
    """One call. `certificate` and `signature` are empty when nobody in particular asks.

    `said` is the JSON text that travels and is signed; the other fields are what it says."""

    said: bytes = dataclasses.field(repr=False)
    keyholder: str
    gid: str
    call: str
    time: int
    nonce: bytes = dataclasses.field(repr=False)
    arguments: dict[str, Any] = dataclasses.field(repr=False)
    certificate: bytes = dataclasses.field(default=b"", repr=False)
    signature: bytes = dataclasses.field(default=b"", repr=False)

    @property
    def proven(self) -> bool:
        return bool(self.signature)

    def check_signature(self, key: ec.EllipticCurvePublicKey) -> None:
        """Raises CertificateRefused unless the key of the certificate signed exactly this."""
        certificates.verify(key, TAG, self.said, self.signature)

    def to_bytes(self) -> bytes:
        """Without the length in front. Raises KeyholderProtocolError above REQUEST_BYTES_MAX."""
        head = _HEAD.pack(VERSION, 1 if self.proven else 0, len(self.certificate))
        data = head + self.certificate + self.signature + self.said
        if len(data) > REQUEST_BYTES_MAX:
            raise KeyholderProtocolError("request too large")
        return data


def new_request(
    keyholder: str, call: str, arguments: dict[str, Any], *, now: int,
    key: ec.EllipticCurvePrivateKey | None = None, certificate: bytes = b"",
) -> Request:  # fmt: skip
    """A call to the keyholder with that GID; with `key` and its certificate, proven. bytes in `arguments` travel as
    base64. Raises CertificateRefused for a certificate that cannot be read."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    gid = certificates.read_certificate(certificate).gid if key else ""
    said = dump({"arguments": arguments, "call": call, "gid": gid, "keyholder": keyholder, "nonce": nonce, "time": now})
    signature = certificates.sign(key, TAG, said) if key else b""
    return Request(said, keyholder, gid, call, now, nonce, arguments, certificate if key else b"", signature)


def read_request(data: bytes) -> Request:
    """Raises KeyholderProtocolError for anything that is not exactly a request. The signature is not checked here."""
    if len(data) > REQUEST_BYTES_MAX or len(data) < _HEAD.size:
        raise KeyholderProtocolError("request of a wrong size")
    version, proven, size = _HEAD.unpack_from(data)
    if version != VERSION or proven not in (0, 1) or (not proven and size):
        raise KeyholderProtocolError("request of an unknown version")
    at = _HEAD.size + size
    end = at + (certificates.SIGNATURE_BYTES if proven else 0)
    if end > len(data) or (proven and not 1 <= size <= certificates.CERTIFICATE_BYTES_MAX):
        raise KeyholderProtocolError("request cut short")
    said = data[end:]
    content = load(said)
    if set(content) != {"arguments", "call", "gid", "keyholder", "nonce", "time"}:
        raise KeyholderProtocolError("request with other members")
    call, gid, keyholder, time, arguments = (content[k] for k in ("call", "gid", "keyholder", "time", "arguments"))
    nonce = from_base64(content["nonce"])
    fine = all(isinstance(text, str) for text in (call, gid, keyholder)) and isinstance(arguments, dict)
    fine = fine and type(time) is int and 0 <= time < 2**53 and len(nonce) == NONCE_BYTES
    if not fine or bool(gid) != bool(proven):
        raise KeyholderProtocolError("request of another form")
    return Request(said, keyholder, gid, call, time, nonce, arguments, data[_HEAD.size : at], data[at:end])


def frame(data: bytes) -> bytes:
    """`data` with its length in front, as it travels."""
    return _PREFIX.pack(len(data)) + data


def frame_bytes(prefix: bytes, limit: int) -> int:
    """The length a prefix announces. Raises KeyholderProtocolError for 0 or above `limit`."""
    size = _PREFIX.unpack(prefix)[0]
    if not 1 <= size <= limit:
        raise KeyholderProtocolError("frame of a wrong size")
    return size


def read_frame(read: Callable[[int], bytes], limit: int) -> bytes:
    """The frame that `read` (up to so many bytes, none at the end) gives. Raises ConnectionError when it ends early,
    KeyholderProtocolError for one above `limit` bytes."""

    def whole(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = read(size - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return bytes(data)

    return whole(frame_bytes(whole(PREFIX_BYTES), limit))


def dump(content: Any) -> bytes:
    """JSON (RFC 8259), UTF-8, no blanks, keys sorted; bytes become base64."""
    return json.dumps(content, separators=(",", ":"), sort_keys=True, default=_base64, allow_nan=False).encode()


def load(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises KeyholderProtocolError for anything else, for members named twice, NaN, or deep nesting.

    Nesting is bounded before parsing: the interpreter's own bound is a setting that any library may raise, and beyond
    the C stack there is no error to catch."""
    depth = 0
    for token in _BRACKET_OR_STRING.finditer(data):
        depth += _STEP.get(token[0], 0)
        if depth > NESTING_MAX:
            raise KeyholderProtocolError("nested too deep")
    try:
        content = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise KeyholderProtocolError("not JSON") from None
    if not isinstance(content, dict):
        raise KeyholderProtocolError("not an object")
    return content


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: object) -> bytes:
    """Raises KeyholderProtocolError for anything but canonical base64 with padding."""
    if not isinstance(text, str):
        raise KeyholderProtocolError("not base64")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise KeyholderProtocolError("not base64") from None
    if to_base64(data) != text:
        raise KeyholderProtocolError("not base64")
    return data


def _base64(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return to_base64(bytes(value))
    raise TypeError(f"{type(value).__name__} does not travel")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member twice")
    return found


def _no_constant(_name: str) -> None:
    raise ValueError("not a number")
