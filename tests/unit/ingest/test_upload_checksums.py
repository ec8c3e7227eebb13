"""Pieces with a checksum: taken whole or not at all, and sealed under the upload's key only once they fit."""

import hashlib
import random

import pytest
from sqlmodel import select

from myphr.errors import ChecksumMismatch, UploadConflict, UploadRefused
from myphr.ingest.uploads import Checksum, Uploads, Wish
from myphr.records import items, store
from myphr.records.models import Item, Upload
from tests.unit.ingest.bodies import Crash, Pieces

CHUNK = 64 * 1024


def checksum(data):
    return Checksum("sha256", hashlib.sha256(data).digest())


@pytest.fixture
def data():
    return random.Random(4).randbytes(50 * CHUNK + 17)


@pytest.fixture
def taking(portal):
    return Uploads(portal)


@pytest.fixture
def begun(patient, taking, data):
    """An upload of `data` of which three chunks are there."""
    progress, token = taking.create(patient.account.id, Wish(len(data), "x"))
    taking.append(patient.account.id, progress.upload_id, token, 0, Pieces(data[: 3 * CHUNK]))
    return patient.account.id, progress.upload_id, token, 3 * CHUNK


def row_of(portal, begun):
    with portal.database.read() as db:
        return db.get(Upload, begun[1])


def stored(portal):
    return {path.name: path.read_bytes() for path in portal.store.partial_dir.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("body_bytes", [1, CHUNK, 47 * CHUNK + 17])
def test_a_damaged_piece_of_any_size_changes_neither_row_nor_file(portal, taking, begun, data, body_bytes):
    row, files = row_of(portal, begun), stored(portal)
    sent = data[3 * CHUNK : 3 * CHUNK + body_bytes]
    with pytest.raises(ChecksumMismatch):
        taking.append(*begun, Pieces(sent), checksum(sent + b"?"))
    assert row_of(portal, begun) == row and row.state == "receiving"
    assert stored(portal) == files


def test_a_piece_that_fits_makes_the_item_byte_exact(portal, patient, taking, begun, data, seals):
    sent = data[3 * CHUNK :]
    taking.append(*begun, Pieces(sent[:70_000], sent[70_000:]), checksum(sent))
    with portal.database.read() as db:
        [item] = db.exec(select(Item)).all()
    opened = items.open_item(portal.store, item, items.dek_of(patient.login.ring(), item))
    assert opened.read_at(0, opened.plain_bytes) == data
    opened.close()
    assert items.details_of(patient.login.ring(), item)["sha256"] == hashlib.sha256(data).hexdigest()
    assert seals.reused() == []


def test_other_bytes_after_a_damaged_piece_never_meet_a_used_key_and_nonce(portal, taking, begun, data, seals):
    salt = row_of(portal, begun).salt
    for seed in range(3):
        noise = random.Random(seed).randbytes(47 * CHUNK + 17)
        with pytest.raises(ChecksumMismatch):
            taking.append(*begun, Pieces(noise), checksum(b"something else"))
    taking.append(*begun, Pieces(data[3 * CHUNK : 9 * CHUNK]), checksum(data[3 * CHUNK : 9 * CHUNK]))
    assert row_of(portal, begun).salt == salt, "a damaged piece costs no second sealing of what was there"
    assert seals.reused() == []


def test_a_piece_that_breaks_off_is_not_taken_in_part(portal, taking, begun, data):
    row, files = row_of(portal, begun), stored(portal)
    sent = data[3 * CHUNK :]
    with pytest.raises(UploadConflict):
        taking.append(*begun, Pieces(sent[: 20 * CHUNK], length=len(sent)), checksum(sent))
    assert row_of(portal, begun) == row and stored(portal) == files


def test_a_kill_while_a_checked_piece_arrives_leaves_nothing_of_it(portal, taking, begun, data):
    row, files = row_of(portal, begun), stored(portal)
    sent = data[3 * CHUNK :]
    with pytest.raises(Crash):
        taking.append(*begun, Pieces(sent[: 20 * CHUNK], length=len(sent), crash=True), checksum(sent))
    assert row_of(portal, begun) == row and stored(portal) == files


def test_what_waits_for_its_checksum_is_never_in_the_clear(portal, taking, begun, data, monkeypatch):
    """All that is written while a piece waits; the control is that the piece is written at all."""
    written = bytearray()
    original = store.Appender._write

    def noting(appender, sealed):
        written.extend(sealed)
        original(appender, sealed)

    monkeypatch.setattr(store.Appender, "_write", noting)
    sent = data[3 * CHUNK :]
    with pytest.raises(ChecksumMismatch):
        taking.append(*begun, Pieces(sent), checksum(b"something else"))
    assert len(written) > len(sent)
    assert not any(sent[at : at + 32] in written for at in range(0, len(sent), 8192))


def test_a_checked_piece_of_unknown_length_is_refused(taking, begun, data):
    body = Pieces(data[3 * CHUNK :])
    body.length = None
    with pytest.raises(UploadRefused):
        taking.append(*begun, body, checksum(data[3 * CHUNK :]))
