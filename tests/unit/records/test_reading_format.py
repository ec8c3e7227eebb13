"""The sealed form of readings: frozen vectors open, nothing else does; and what a reading may hold."""

import json
from pathlib import Path

import pytest

from myphr.crypto import envelope
from myphr.errors import EnvelopeError
from myphr.records import readings
from myphr.records.reading import FullReading, Reading, as_fields, from_fields, within_limits
from tests.vectors.reading.make import NARRATIVE, PREVIEW, READING

VECTORS = Path(__file__).parents[2] / "vectors" / "reading"


@pytest.fixture(scope="module")
def vector() -> dict:
    return json.loads((VECTORS / "opens-reading.vector").read_text().partition("\n\n")[2])


def opened(label: str, dek: bytes, item: str, sealed: bytes) -> bytes:
    return envelope.unwrap(envelope.derive(dek, label), sealed, context=item.encode())


def test_the_frozen_vector_opens(vector):
    dek, item = bytes.fromhex(vector["dek"]), vector["item"]
    assert readings.open_reading(dek, item, bytes.fromhex(vector["reading"])) == READING
    assert opened("myphr/preview/1", dek, item, bytes.fromhex(vector["preview"])) == PREVIEW
    assert opened("myphr/narrative/1", dek, item, bytes.fromhex(vector["narrative"])).decode() == NARRATIVE


def test_truncated_extended_swapped_empty_or_changed_it_opens_with_nothing(vector):
    dek, item, sealed = bytes.fromhex(vector["dek"]), vector["item"], bytes.fromhex(vector["reading"])
    changed = bytearray(sealed)
    changed[len(sealed) // 2] ^= 1
    preview = bytes.fromhex(vector["preview"])
    for broken in (sealed[:-1], sealed + b"\0", b"", bytes(changed), preview):
        with pytest.raises(EnvelopeError):
            readings.open_reading(dek, item, broken)
    with pytest.raises(EnvelopeError):
        readings.open_reading(dek, item.replace("1", "2"), sealed)


def test_what_a_later_version_adds_is_left_out():
    assert from_fields(as_fields(READING) | {"version": 9, "colour": "blue"}) == READING


@pytest.mark.parametrize("fields", [[], "x", {"title": 3}, {"facts": [1]}, {"facts": [["a"]]}, {"has_preview": "yes"}])
def test_fields_of_another_kind_are_no_reading(fields):
    with pytest.raises(ValueError):
        from_fields(fields)


def test_limits_hold_on_both_sides():
    picture = b"\xff\xd8\xff" + bytes(102_397)
    full = within_limits(FullReading(Reading(title="x" * 300, text="ä" * 40_000), picture, "p" * 524_288))
    assert len(full.reading.title) == 300 and full.reading.has_preview and full.reading.has_narrative
    assert len(full.reading.text.encode()) <= 65_536
    full = within_limits(FullReading(Reading(title="x" * 301), picture + b"\0", "p" * 524_289))
    assert full.reading.title.endswith("…") and not full.reading.has_preview and full.narrative is None


def test_control_and_direction_characters_and_what_is_no_picture_do_not_stay():
    full = within_limits(FullReading(Reading(title="a\x1b[31m\u202eb\x00", text="a\x07b\nc"), b"<svg/>"))
    assert full.reading.title == "a [31m b" and full.reading.text == "a b\nc" and full.preview is None
