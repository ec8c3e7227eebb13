"""Signed statements: byte for byte as docs/formats/keyholder.md says, and nothing else is read."""

import random
import struct
import uuid

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from myphr.crypto import certificates, statements
from myphr.crypto.statements import AuthorityStatement, DestroyOrder, EpochTable, Holding, KeyStatement
from myphr.errors import CertificateRefused

KEY = certificates.new_signing_key()
PUBLIC = KEY.public_key()
GID, OTHER = certificates.new_gid(), certificates.new_gid()
EPOCHS = {("role", "cardiologist"): 3, ("owner", ""): 1, ("role", "nurse"): 2**32 - 1}

MADE = {
    "key": (KeyStatement(GID, 1_800_000_000, b"h" * 1217, b"a" * 778, b"k" * 682),
            lambda data: statements.read_key_statement(data, PUBLIC, GID)),
    "authority": (AuthorityStatement(GID, 1_800_000_000, b"p" * 778, b"s" * 65),
                  lambda data: statements.read_authority_statement(data, PUBLIC, GID)),
    "epochs": (EpochTable(GID, 7, 1_800_000_000, EPOCHS), lambda data: statements.read_epoch_table(data, PUBLIC, GID)),
    "holding": (Holding(GID, OTHER, "role", "cardiologist", 1_800_000_000),
                lambda data: statements.read_holding(data, PUBLIC)),
    "order": (DestroyOrder(GID, OTHER, 2**32 - 1), lambda data: statements.read_destroy_order(data, PUBLIC)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MADE)
def test_what_is_signed_is_read(kind: str) -> None:
    statement, read = MADE[kind]
    assert read(statement.sign(KEY)) == statement


@pytest.mark.parametrize("kind", MADE)
def test_every_changed_byte_is_refused(kind: str) -> None:
    statement, read = MADE[kind]
    data = statement.sign(KEY)
    for at in range(0, len(data), 1 if len(data) < 500 else 7):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(CertificateRefused):
            read(bytes(changed))


@pytest.mark.parametrize("kind", MADE)
def test_cut_or_extended_it_is_refused(kind: str) -> None:
    statement, read = MADE[kind]
    data = statement.sign(KEY)
    for wrong in (b"", data[:-1], data[1:], data + b"\0", data[:-64], data * 2, data[: len(data) // 2]):
        with pytest.raises(CertificateRefused):
            read(wrong)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("other", MADE)
def test_no_statement_passes_for_one_of_another_kind(kind: str, other: str) -> None:
    if kind != other:
        with pytest.raises(CertificateRefused):
            MADE[kind][1](MADE[other][0].sign(KEY))


@pytest.mark.parametrize("kind", MADE)
def test_signed_by_somebody_else_it_is_refused(kind: str) -> None:
    with pytest.raises(CertificateRefused):
        MADE[kind][1](MADE[kind][0].sign(certificates.new_signing_key()))


def test_a_statement_of_another_gid_is_refused() -> None:
    with pytest.raises(CertificateRefused):
        statements.read_key_statement(MADE["key"][0].sign(KEY), PUBLIC, OTHER)
    with pytest.raises(CertificateRefused):
        statements.read_authority_statement(MADE["authority"][0].sign(KEY), PUBLIC, OTHER)
    with pytest.raises(CertificateRefused):
        statements.read_epoch_table(MADE["epochs"][0].sign(KEY), PUBLIC, OTHER)


def test_something_behind_the_last_field_is_refused_even_when_signed() -> None:
    body = MADE["holding"][0].sign(KEY)[:-64] + b"x"
    with pytest.raises(CertificateRefused, match="behind"):
        statements.read_holding(body + certificates.sign(KEY, b"myphr/holding/1", body), PUBLIC)


def signed_table(entries: list[tuple[bytes, bytes, int]], count: int | None = None) -> bytes:
    body = b"MYPHREPO\x01" + uuid.UUID(GID).bytes + struct.pack(">QQI", 1, 1, len(entries) if count is None else count)
    for name, value, epoch in entries:
        body += bytes([len(name)]) + name + bytes([len(value)]) + value + struct.pack(">I", epoch)
    return body + certificates.sign(KEY, b"myphr/epoch-table/1", body)


@pytest.mark.parametrize("entries", [
    [(b"role", b"b", 1), (b"role", b"a", 1)],
    [(b"role", b"a", 1), (b"role", b"a", 2)],
    [(b"Role", b"a", 1)],
    [(b"", b"a", 1)],
    [("ä".encode(), b"", 1)],
])  # fmt: skip
def test_a_table_that_could_be_read_in_two_ways_is_refused(entries: list) -> None:
    with pytest.raises(CertificateRefused):
        statements.read_epoch_table(signed_table(entries), PUBLIC, GID)


def test_a_table_that_promises_more_than_it_holds_is_refused() -> None:
    for count in (2, 5000, 2**32 - 1):
        with pytest.raises(CertificateRefused):
            statements.read_epoch_table(signed_table([(b"role", b"a", 1)], count), PUBLIC, GID)


@pytest.mark.parametrize(("version", "epochs", "fine"), [
    (7, EPOCHS, True),
    (8, EPOCHS | {("role", "cardiologist"): 4}, True),
    (8, EPOCHS | {("department", "radiology"): 1}, True),
    (6, EPOCHS, False),
    (8, EPOCHS | {("role", "cardiologist"): 2}, False),
    (8, {}, False),
    (7, EPOCHS | {("role", "cardiologist"): 4}, False),
])  # fmt: skip
def test_epochs_never_go_back(version: int, epochs: dict, fine: bool) -> None:
    last = MADE["epochs"][0]
    data = EpochTable(GID, version, 1_800_000_001, epochs).sign(KEY)
    if fine:
        assert statements.read_epoch_table(data, PUBLIC, GID, last=last).version == version
    else:
        with pytest.raises(CertificateRefused, match="back"):
            statements.read_epoch_table(data, PUBLIC, GID, last=last)


def check_by_the_page(data: bytes, tag: bytes, body: bytes) -> None:
    """The signature as the format page has it, without a line of the product's code."""
    assert data[: len(body)] == body and len(data) == len(body) + 64
    r, s = int.from_bytes(data[-64:-32], "big"), int.from_bytes(data[-32:], "big")
    PUBLIC.verify(encode_dss_signature(r, s), tag + b"\0" + body, ec.ECDSA(hashes.SHA256()))


def test_the_bytes_are_those_of_the_page() -> None:
    gid, other, at = uuid.UUID(GID).bytes, uuid.UUID(OTHER).bytes, struct.pack(">Q", 1_800_000_000)
    key = b"MYPHRKST\x01" + gid + at + struct.pack(">H", 1217) + b"h" * 1217
    key += struct.pack(">H", 778) + b"a" * 778 + struct.pack(">H", 682) + b"k" * 682
    check_by_the_page(MADE["key"][0].sign(KEY), b"myphr/key-statement/1", key)
    authority = b"MYPHRAST\x01" + gid + at + struct.pack(">H", 778) + b"p" * 778 + struct.pack(">H", 65) + b"s" * 65
    check_by_the_page(MADE["authority"][0].sign(KEY), b"myphr/authority-statement/1", authority)
    table = b"MYPHREPO\x01" + gid + struct.pack(">Q", 7) + at + struct.pack(">I", 3)
    for name, value, epoch in ((b"owner", b"", 1), (b"role", b"cardiologist", 3), (b"role", b"nurse", 2**32 - 1)):
        table += bytes([len(name)]) + name + bytes([len(value)]) + value + struct.pack(">I", epoch)
    check_by_the_page(MADE["epochs"][0].sign(KEY), b"myphr/epoch-table/1", table)
    holding = b"MYPHRHLD\x01" + gid + other + at + b"\x04role\x0ccardiologist"
    check_by_the_page(MADE["holding"][0].sign(KEY), b"myphr/holding/1", holding)
    order = b"MYPHRDES\x01" + gid + other + b"\xff" * 4
    check_by_the_page(MADE["order"][0].sign(KEY), b"myphr/destroy-order/1", order)


def test_rubbish_is_refused_and_nothing_else_happens() -> None:
    rng = random.Random(3)
    for magic in (b"MYPHRKST\x01", b"MYPHRAST\x01", b"MYPHREPO\x01", b"MYPHRHLD\x01", b"MYPHRDES\x01", b""):
        for size in (0, 30, 80, 200, 20_000):
            for _, read in MADE.values():
                with pytest.raises(CertificateRefused):
                    read(magic + rng.randbytes(size))


def test_a_well_signed_statement_full_of_rubbish_is_refused() -> None:
    rng = random.Random(4)
    tags = {b"MYPHRKST": (b"myphr/key-statement/1", "key"), b"MYPHRAST": (b"myphr/authority-statement/1", "authority"),
            b"MYPHREPO": (b"myphr/epoch-table/1", "epochs"), b"MYPHRHLD": (b"myphr/holding/1", "holding")}  # fmt: skip
    for magic, (tag, kind) in tags.items():
        for _ in range(50):
            body = magic + b"\x01" + uuid.UUID(GID).bytes + rng.randbytes(rng.randrange(0, 120))
            with pytest.raises(CertificateRefused):
                MADE[kind][1](body + certificates.sign(KEY, tag, body))
