"""The key ring under a password and under a recovery code."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myphr.crypto import passwords
from myphr.crypto.passwords import (
    MEMORY_KIB_MAX,
    PASSES_MAX,
    new_recovery_code,
    normal_recovery_code,
    unwrap_by_recovery,
    unwrap_ring,
    wrap_by_recovery,
    wrap_ring,
)
from myphr.errors import EnvelopeError, RecoveryFailed

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "envelope"
CHEAP = {"memory_kib": 8, "passes": 1}
WRAPPED = wrap_ring("a quiet password", b"ring", **CHEAP, context=b"account")


@given(st.text(max_size=60), st.binary(max_size=200))
@settings(deadline=None, max_examples=30)
def test_any_password_opens_what_it_wrapped(password: str, ring: bytes) -> None:
    assert unwrap_ring(password, wrap_ring(password, ring, **CHEAP)) == ring


def test_another_password_or_account_does_not_open() -> None:
    assert unwrap_ring("a quiet password", WRAPPED, context=b"account") == b"ring"
    for password, context in (("a quiet passwore", b"account"), ("A quiet password", b"account"), ("", b"account"),
                              ("a quiet password", b"another")):
        with pytest.raises(EnvelopeError):
            unwrap_ring(password, WRAPPED, context=context)


def test_one_password_typed_on_two_keyboards_opens() -> None:
    composed, decomposed = "caf\u00e9 \u00c5ngstr\u00f6m", "cafe\u0301 \u212bngstro\u0308m"
    assert composed != decomposed
    assert unwrap_ring(decomposed, wrap_ring(composed, b"ring", **CHEAP)) == b"ring"


def test_any_changed_or_missing_byte_of_a_wrapped_ring_is_refused() -> None:
    for offset in range(len(WRAPPED)):
        if offset in (1, 2, 3):
            continue  # the high bytes of the memory size: a legal but large size would really be worked through
        changed = bytearray(WRAPPED)
        changed[offset] ^= 1
        with pytest.raises(EnvelopeError):
            unwrap_ring("a quiet password", bytes(changed), context=b"account")
    for size in range(len(WRAPPED)):
        with pytest.raises(EnvelopeError):
            unwrap_ring("a quiet password", WRAPPED[:size], context=b"account")


@pytest.mark.parametrize(("memory_kib", "passes"), [(MEMORY_KIB_MAX + 1, 1), (2**32 - 1, 1), (7, 1), (0, 1), (8, 0),
                                                    (8, PASSES_MAX + 1), (8, 255)])
def test_hostile_parameters_are_refused_before_any_work(memory_kib: int, passes: int,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("worked on hostile parameters")

    monkeypatch.setattr(passwords, "hash_secret_raw", never)
    hostile = WRAPPED[:1] + struct.pack(">IB", memory_kib, passes) + WRAPPED[6:]
    with pytest.raises(EnvelopeError, match="limits"):
        unwrap_ring("a quiet password", hostile, context=b"account")
    with pytest.raises(ValueError):
        wrap_ring("a quiet password", b"ring", memory_kib=memory_kib, passes=passes)


def test_parameters_at_the_limits_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "hash_secret_raw", lambda *_, **__: bytes(32))
    for memory_kib, passes in ((MEMORY_KIB_MAX, PASSES_MAX), (passwords.MEMORY_KIB_MIN, 1)):
        wrapped = wrap_ring("x", b"ring", memory_kib=memory_kib, passes=passes)
        assert passwords.parameters(wrapped) == (memory_kib, passes)
        assert unwrap_ring("x", wrapped) == b"ring"


@pytest.mark.parametrize(("offset", "value"), [(0, 2), (0, 0), (6, 2)])
def test_unknown_suite_and_lanes_are_refused(offset: int, value: int) -> None:
    hostile = WRAPPED[:offset] + bytes([value]) + WRAPPED[offset + 1 :]
    with pytest.raises(EnvelopeError, match="suite"):
        unwrap_ring("a quiet password", hostile, context=b"account")


def test_passwords_that_are_no_text_or_too_long_open_nothing() -> None:
    for password in ("\ud800", "x" * (passwords.PASSWORD_BYTES_MAX + 1), "\ufdfa" * 1000):
        with pytest.raises(EnvelopeError):
            unwrap_ring(password, WRAPPED, context=b"account")
        with pytest.raises(ValueError):
            wrap_ring(password, b"ring", **CHEAP)


def test_frozen_ring_opens_with_its_password() -> None:
    frozen = json.loads((VECTORS / "ring-password.json").read_text("utf-8"))
    wrapped, context = bytes.fromhex(frozen["wrapped"]), bytes.fromhex(frozen["context"])
    assert passwords.parameters(wrapped) == (64, 2)
    assert unwrap_ring(frozen["password"], wrapped, context=context).hex() == frozen["ring"]


# -- recovery codes -------------------------------------------------------------------------------
def test_a_recovery_code_is_eight_groups_of_four() -> None:
    code = new_recovery_code()
    assert [len(group) for group in code.split("-")] == [4] * 8
    assert not set(code) & set("ILOU")
    assert new_recovery_code() != code


def test_a_recovery_code_opens_its_ring_however_it_is_typed() -> None:
    code = new_recovery_code()
    wrapped = wrap_by_recovery(code, b"ring", context=b"account")
    sloppy = (code.lower(), code.replace("-", ""), code.replace("-", " \u2013 "), f"  {code}\n",
              code.replace("0", "O").replace("1", "l"), code.replace("1", "i").replace("0", "o"),
              "".join(chr(ord(c) + 0xFEE0) if c != "-" else c for c in code))  # full-width letters of another keyboard
    for typed in sloppy:
        assert unwrap_by_recovery(typed, wrapped, context=b"account") == b"ring"


def test_another_code_or_account_does_not_open() -> None:
    code = new_recovery_code()
    wrapped = wrap_by_recovery(code, b"ring", context=b"account")
    with pytest.raises(EnvelopeError):
        unwrap_by_recovery(new_recovery_code(), wrapped, context=b"account")
    with pytest.raises(EnvelopeError):
        unwrap_by_recovery(code, wrapped, context=b"another")


@pytest.mark.parametrize("typed", ["", "0000", "U" * 32, "A" * 33, "\u00e9" * 32, "A" * 1000, "\u0660" * 32])
def test_what_cannot_be_a_code_is_told_apart_from_a_wrong_code(typed: str) -> None:
    with pytest.raises(RecoveryFailed):
        normal_recovery_code(typed)


def test_the_checksum_finds_one_mistyped_letter() -> None:
    """10 bits of checksum: of 31 x 32 possible single mistakes about one slips through to the real check."""
    code, slipped = normal_recovery_code("0" * 30 + passwords._checksum("0" * 30)), 0
    for position in range(32):
        for letter in "123456789ABCDEFGHJKMNPQRSTVWXYZ":
            typed = code[:position] + letter + code[position + 1 :]
            if typed == code:
                continue
            try:
                normal_recovery_code(typed)
                slipped += 1
            except RecoveryFailed:
                pass
    assert slipped <= 5


def test_frozen_ring_opens_with_its_recovery_code() -> None:
    frozen = json.loads((VECTORS / "ring-recovery.json").read_text("utf-8"))
    wrapped, context = bytes.fromhex(frozen["wrapped"]), bytes.fromhex(frozen["context"])
    opened = unwrap_by_recovery(frozen["code"], wrapped, context=context)
    assert opened.hex() == frozen["ring"]
