"""The key ring under a password (Argon2id, RFC 9106) or under a recovery code. No I/O, no policy, no account.

Spec: docs/formats/envelope.md, sections "Ring under a password" and "Ring under a recovery code". Called by `people`.
A password is right when it opens the ring: there is no hash to steal besides.
"""

import hashlib
import re
import secrets
import struct
import unicodedata

from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw

from myphr.crypto.envelope import WRAP_OVERHEAD_BYTES, derive, unwrap, wrap
from myphr.errors import EnvelopeError, RecoveryFailed

SUITE_ARGON2ID = 1
LANES = 1
# On reading, a hostile blob must not be able to ask for all memory of the machine or for minutes of work.
MEMORY_KIB_MIN = 8
MEMORY_KIB_MAX = 1024 * 1024
PASSES_MAX = 16
PASSWORD_BYTES_MAX = 4096

_PARAMETERS = struct.Struct(">BIBB16s")  # suite, memory in KiB, passes, lanes, salt
_CONTEXT_PASSWORD = b"myphr/ring-password/1|"
_CONTEXT_RECOVERY = b"myphr/ring-recovery/1|"

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE_DATA = 30  # characters of 5 random bits: 150 bits
_CODE_CHECK = 2  # characters of 5 checksum bits: one mistyped code in 1,024 slips through to the real check
_LOOKALIKES = str.maketrans("OIL", "011")


def normal_password(password: str) -> bytes:
    """The password as bytes: NFKC (NIST SP 800-63B-4, 3.1.1.2), so that it opens from any keyboard; UTF-8.

    Raises ValueError if it is no valid Unicode or longer than PASSWORD_BYTES_MAX."""
    if len(password) > PASSWORD_BYTES_MAX:
        raise ValueError("password too long")
    try:
        data = unicodedata.normalize("NFKC", password).encode()
    except UnicodeEncodeError:
        raise ValueError("password is not valid text") from None
    if len(data) > PASSWORD_BYTES_MAX:
        raise ValueError("password too long")
    return data


def wrap_ring(password: str, ring: bytes, *, memory_kib: int, passes: int, context: bytes = b"") -> bytes:
    """`ring` under the password. The parameters travel with it, so they can grow without breaking what exists.

    `context` (the account id) binds it to its owner. Raises ValueError for parameters outside the limits."""
    if not (MEMORY_KIB_MIN <= memory_kib <= MEMORY_KIB_MAX and 1 <= passes <= PASSES_MAX):
        raise ValueError("Argon2id parameters outside the limits")
    start = _PARAMETERS.pack(SUITE_ARGON2ID, memory_kib, passes, LANES, secrets.token_bytes(16))
    return start + wrap(_password_key(password, start), ring, context=_CONTEXT_PASSWORD + start + context)


def unwrap_ring(password: str, wrapped: bytes, *, context: bytes = b"") -> bytes:
    """The ring. Raises EnvelopeError for a wrong password, another account's ring, changed bytes or parameters
    outside the limits."""
    memory_kib, passes = parameters(wrapped)  # checks the limits before any work
    del memory_kib, passes
    start = bytes(wrapped[: _PARAMETERS.size])
    try:
        key = _password_key(password, start)
    except ValueError:
        raise EnvelopeError("no such password can have been set") from None
    return unwrap(key, wrapped[_PARAMETERS.size :], context=_CONTEXT_PASSWORD + start + context)


def parameters(wrapped: bytes) -> tuple[int, int]:
    """(memory in KiB, passes) of a wrapped ring. Raises EnvelopeError if it is none or they exceed the limits."""
    if len(wrapped) < _PARAMETERS.size + WRAP_OVERHEAD_BYTES:
        raise EnvelopeError("wrapped ring is too short")
    suite, memory_kib, passes, lanes, _salt = _PARAMETERS.unpack_from(wrapped)
    if suite != SUITE_ARGON2ID or lanes != LANES:
        raise EnvelopeError("wrapped ring of an unknown suite")
    if not (MEMORY_KIB_MIN <= memory_kib <= MEMORY_KIB_MAX and 1 <= passes <= PASSES_MAX):
        raise EnvelopeError("wrapped ring asks for parameters outside the limits")
    return memory_kib, passes


def _password_key(password: str, start: bytes) -> bytes:
    _suite, memory_kib, passes, lanes, salt = _PARAMETERS.unpack(start)
    try:
        return hash_secret_raw(normal_password(password), salt, time_cost=passes, memory_cost=memory_kib,
                               parallelism=lanes, hash_len=32, type=Type.ID)
    except HashingError as error:  # out of memory
        raise MemoryError("no memory for Argon2id") from error


def new_recovery_code() -> str:
    """A code to write down: 8 groups of 4 letters and digits, 150 random bits and a checksum."""
    data = "".join(secrets.choice(_CROCKFORD) for _ in range(_CODE_DATA))
    code = data + _checksum(data)
    return "-".join(code[start : start + 4] for start in range(0, len(code), 4))


def normal_recovery_code(text: str) -> str:
    """The 32 characters of a code as typed: any case, any spaces or dashes, O for 0, I and L for 1.

    Raises RecoveryFailed if it cannot be a code (length, letters, checksum): a typing mistake, not a wrong guess."""
    if len(text) > 256:
        raise RecoveryFailed("not a recovery code")
    code = re.sub(r"[\s\-_.\u2010-\u2015\u2212]+", "", unicodedata.normalize("NFKC", text))
    code = code.upper().translate(_LOOKALIKES)
    data = code[:_CODE_DATA]
    if len(code) != _CODE_DATA + _CODE_CHECK or set(code) - set(_CROCKFORD) or code[_CODE_DATA:] != _checksum(data):
        raise RecoveryFailed("not a recovery code")
    return code


def wrap_by_recovery(code: str, ring: bytes, *, context: bytes = b"") -> bytes:
    """`ring` under a recovery code. 150 random bits need no slow hash. Raises RecoveryFailed if it is no code."""
    return wrap(_recovery_key(code), ring, context=_CONTEXT_RECOVERY + context)


def unwrap_by_recovery(code: str, wrapped: bytes, *, context: bytes = b"") -> bytes:
    """The ring. Raises RecoveryFailed for what is no code, EnvelopeError for the code of another ring."""
    return unwrap(_recovery_key(code), wrapped, context=_CONTEXT_RECOVERY + context)


def _recovery_key(code: str) -> bytes:
    return derive(normal_recovery_code(code).encode(), "myphr/recovery-code/1")


def _checksum(data: str) -> str:
    bits = int.from_bytes(hashlib.sha256(b"myphr/recovery-check/1|" + data.encode()).digest()[:2], "big") >> 6
    return _CROCKFORD[bits >> 5] + _CROCKFORD[bits & 31]
