"""Frozen containers, opened by the product and by a second implementation written from docs/formats/container.md."""

import hashlib
import hmac
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from myphr.crypto import container
from myphr.errors import ContainerError

VECTORS = sorted((Path(__file__).resolve().parents[2] / "vectors" / "container").glob("*.vector"))


def read(path: Path) -> tuple[dict[str, str], bytes]:
    head, _, data = path.read_bytes().partition(b"\n\n")
    return dict(line.split(": ", 1) for line in head.decode().splitlines()), data


def open_by_the_book(dek: bytes, record: bytes, file: bytes, data: bytes) -> bytes:
    """Slow and separate: library HKDF, plain GCM mode, one chunk at a time. Raises ValueError or InvalidTag."""
    if len(data) < 144 or data[:12] != b"MYPHRENC\x01\x01\x10\x00" or any(data[12:16] + data[52:56] + data[120:128]):
        raise ValueError("not a container")
    bound = hashlib.sha256(data[:88]).digest()
    key, commitment = (HKDF(hashes.SHA256(), 32, data[56:88], label + bound).derive(dek)
                       for label in (b"myphr/file/1", b"myphr/commit/1"))
    if not hmac.compare_digest(commitment, data[88:120]) or data[16:32] != record or data[32:48] != file:
        raise ValueError("not this container")
    chunks = [data[at : at + 65_552] for at in range(128, len(data), 65_552)]
    if len(chunks[-1]) < 16 or (len(chunks[-1]) == 16 and len(chunks) > 1):
        raise ValueError("size")
    out = b""
    for number, chunk in enumerate(chunks):
        nonce = bytes(7) + number.to_bytes(4, "big") + bytes([number == len(chunks) - 1])
        opener = Cipher(algorithms.AES256(key), modes.GCM(nonce, chunk[-16:])).decryptor()
        out += opener.update(chunk[:-16]) + opener.finalize()
    return out


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_frozen_container_still_has_its_outcome(path: Path) -> None:
    head, data = read(path)
    dek, record, file = (bytes.fromhex(head[name]) for name in ("dek", "record", "file"))
    if head["expect"] == "refused":
        with pytest.raises(ContainerError):
            container.open_whole(dek, record, file, data)
        with pytest.raises((ValueError, InvalidTag)):
            open_by_the_book(dek, record, file, data)
        return
    opened = container.open_whole(dek, record, file, data)
    assert len(opened) == int(head["plain_bytes"])
    assert hashlib.sha256(opened).hexdigest() == head["plain_sha256"]
    assert open_by_the_book(dek, record, file, data) == opened


@pytest.mark.parametrize("path", [p for p in VECTORS if p.stem.startswith("opens")], ids=lambda path: path.stem)
def test_todays_sealer_makes_the_frozen_bytes(path: Path) -> None:
    head, data = read(path)
    dek, record, file = (bytes.fromhex(head[name]) for name in ("dek", "record", "file"))
    header = container.Header.parse(data[: container.HEADER_BYTES])
    sealer = container.ChunkSealer(dek, record, file, header.file_version, salt=header.salt)
    plaintext = container.open_whole(dek, record, file, data)
    assert sealer.header + sealer.seal_chunks(plaintext, last=True) == data


def test_all_scenarios_are_there() -> None:
    """A vector that went missing would otherwise pass unnoticed."""
    outcomes = [read(path)[0]["expect"] for path in VECTORS]
    assert (outcomes.count("opens"), outcomes.count("refused")) == (7, 22)
